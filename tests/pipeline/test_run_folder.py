"""A run's folder and its ledger in PostgreSQL: wherever it is opened from, it is one ledger of one folder."""

import contextlib
import json
import os
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pipeline.database import Place
from pipeline.errors import OutputFolderError
from pipeline.ledger import Ledger
from pipeline.library import Record
from pipeline.run_folder import PLACE_FILE, STATE_FOLDER, check_folder, discard, ledger_place, open_ledger

RECORD = Record(number=1, name="ethanol", source="a.smi:1", form="smiles", text="CCO")


@pytest.fixture
def out(tmp_path, postgres):
    """A folder whose ledger in PostgreSQL holds one record."""
    folder = tmp_path / "out"
    with contextlib.closing(open_ledger(folder, postgres)) as ledger:
        ledger.take_in([("x", RECORD)])
    return folder


def n_records(folder, address):
    with contextlib.closing(open_ledger(folder, address)) as ledger:
        return ledger.n_records()


def schemas(address):
    with psycopg.connect(address.replace("+psycopg", "")) as server:
        rows = server.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'parmflow_%'").fetchall()
    return {row[0] for row in rows}


def test_a_run_goes_on_from_another_machine(out, postgres, monkeypatch):
    """Under another host's name the folder has the ledger that it had."""
    facts = namedtuple("facts", "nodename")
    monkeypatch.setattr(os, "uname", lambda: facts("another"))
    assert n_records(out, postgres) == 1


def test_a_folder_may_be_moved(out, tmp_path, postgres):
    """Renamed, it has its ledger; a new run under the old name has one of its own; both go on."""
    moved = out.rename(tmp_path / "moved")
    assert n_records(moved, postgres) == 1
    assert n_records(out, postgres) == 0
    assert n_records(moved, postgres) == 1


def test_a_folder_that_was_removed_leaves_nothing_to_a_new_one(out, postgres):
    """The same name again: nothing is done yet there."""
    shutil.rmtree(out)
    assert n_records(out, postgres) == 0


def test_a_copy_is_refused_while_the_original_is_there(out, tmp_path, postgres):
    """Both would write into one ledger; the original goes on, also by a link, and the copy once alone."""
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(out, copy)
    link.symlink_to(out)
    with pytest.raises(OutputFolderError, match=r"copy is a copy of .*out"):
        open_ledger(copy, postgres)
    assert n_records(link, postgres) == n_records(out, postgres) == 1
    shutil.rmtree(out)
    assert n_records(copy, postgres) == 1


def test_commands_that_begin_a_run_at_once_share_one_ledger(tmp_path, postgres):
    """Eight open a new folder together: one place, and no schema is left of the others."""
    before, folder = schemas(postgres), tmp_path / "out"

    def open_and_close(_):
        open_ledger(folder, postgres).close()
        return ledger_place(folder)

    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(open_and_close, range(8)))
    assert {place.schema for place in places} == schemas(postgres) - before
    assert len(places) == 1
    assert [path.name for path in (folder / ".parmflow").iterdir()] == ["ledger.json"]


@pytest.mark.parametrize("n_asked_before", range(2))
def test_a_folder_in_which_a_run_begins_meanwhile_is_taken(tmp_path, monkeypatch, n_asked_before):
    """The other's first entry comes after any of the questions about the folder."""
    is_dir, asked = Path.is_dir, []

    def answer_then_begin(path):
        answer = is_dir(path)
        asked.append(path)
        if len(asked) == n_asked_before + 1:
            (tmp_path / STATE_FOLDER).mkdir()
        return answer

    monkeypatch.setattr(Path, "is_dir", answer_then_begin)
    check_folder(tmp_path)
    assert asked[0] == tmp_path
    assert list(tmp_path.iterdir()) == [tmp_path / STATE_FOLDER]


def test_a_ledger_that_is_gone_is_not_begun_anew(out, postgres):
    """As with another server under the same address: said in a sentence, and nothing is made there."""
    place = ledger_place(out)
    Ledger(place).remove()
    for again in (lambda: open_ledger(out, postgres), lambda: Ledger(place, read_only=True)):
        with pytest.raises(OutputFolderError, match="holds no ledger any more"):
            again()
    assert place.schema not in schemas(postgres)


def test_another_ledger_than_the_runs_is_refused_with_what_to_give(out, tmp_path, postgres):
    """None or another for a run in PostgreSQL, one in PostgreSQL for a run with a file."""
    for address in ("", f"{postgres}_too"):
        with pytest.raises(OutputFolderError, match=rf"give --ledger {postgres.replace('+', '.')}$"):
            open_ledger(out, address)
    beside = tmp_path / "beside"
    open_ledger(beside).close()
    with pytest.raises(OutputFolderError, match="leave --ledger out"):
        open_ledger(beside, postgres)
    assert ledger_place(beside) == Place.of_file(beside / ".parmflow" / "ledger.sqlite")


def test_a_discarded_run_leaves_neither_folder_nor_ledger(out, postgres, monkeypatch):
    """While it is open, as of a request that is refused; without a server its folder goes alone."""
    before = schemas(postgres)
    with contextlib.closing(open_ledger(out, postgres)) as ledger:
        assert ledger.n_records() == 1
        discard(out)
    assert not out.exists()
    assert len(before - schemas(postgres)) == 1
    (out / STATE_FOLDER).mkdir(parents=True)
    away = {"url": "postgresql+psycopg://nobody@127.0.0.1:1/none", "schema": "parmflow_gone"}
    (out / STATE_FOLDER / PLACE_FILE).write_text(json.dumps(away))
    monkeypatch.setattr("pipeline.database.BUSY_SECONDS", 0.5)
    discard(out)
    assert not out.exists()
