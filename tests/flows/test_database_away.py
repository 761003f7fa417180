"""A run whose ledger is in a PostgreSQL server that is restarted under it, or that refuses us."""

import contextlib
import dataclasses

import pytest
from typer.testing import CliRunner

from flows import batch
from flows.cli import app
from flows.doctor import check_store
from flows.progress import Lines
from flows.request import Request, chosen_store, settings_from


class Restarting(Lines):
    """Restarts the server after every record."""

    def __init__(self, server):
        super().__init__([].append)
        self._server = server
        self.n_restarts = 0

    def advance(self, stage):
        super().advance(stage)
        self._server.restart()
        self.n_restarts += 1


def test_a_run_outlives_restarts_of_its_database(tmp_path, library, model_folder, own_postgres):
    """After each of four records the server is away for a moment: files and rows of an undisturbed run."""

    def request_for(out, ledger=""):
        return Request(
            command="assign",
            libraries=(library,),
            out=tmp_path / out,
            store=str(tmp_path / "store"),
            ledger=ledger,
            settings=settings_from(None, {"model": str(model_folder), "export.formats": ("openmm",)}),
        )

    restarted, calm = request_for("restarted", own_postgres.url), request_for("calm")
    watch = Restarting(own_postgres)
    counts = batch.run(restarted, watch)
    assert watch.n_restarts == 4
    assert counts == batch.run(calm, Lines([].append))
    assert outcomes_in(restarted.out) == outcomes_in(calm.out)
    assert parameters_in(restarted.out) == parameters_in(calm.out)


def outcomes_in(folder):
    with contextlib.closing(batch.existing_ledger(folder)) as ledger:
        return [dataclasses.replace(outcome, seconds=0.0) for outcome in ledger.outcomes()]


def parameters_in(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("ligands/*/*/parameters.json")}


@pytest.fixture
def nosuch(own_postgres):
    """Address of a database that its server does not have."""
    own_postgres.wait_until_back()
    return own_postgres.url.replace("/postgres", "/nosuch")


def parmflow(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["qm", "store stats", "store import"])
def test_a_store_that_is_refused_is_a_mistake(library, nosuch, command):
    """A database of no such name: exit 2 and one sentence that says what to change."""
    file = library.with_suffix(".jsonl")
    file.write_text("")
    arguments = {"qm": [library], "store stats": [], "store import": [file]}[command]
    ended = parmflow(*command.split(), *arguments, "--store", nosuch)
    assert ended.exit_code == 2, ended.output
    assert "createdb" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert check_store(chosen_store(nosuch)).state == "wrong"


def test_a_ledger_that_is_refused_can_be_named_anew(tmp_path, library, model_folder, own_postgres, nosuch):
    """A mistyped database: exit 2; the same command with the right one runs, in the same folder."""
    out = tmp_path / "out"
    out.mkdir()
    command = ("assign", library, "--out", out, "--model", model_folder, "--formats", "amber", "--ledger")
    refused = parmflow(*command, nosuch)
    assert refused.exit_code == 2, refused.output
    assert "createdb" in refused.stderr
    mended = parmflow(*command, own_postgres.url)
    assert mended.exit_code == 3, mended.output
