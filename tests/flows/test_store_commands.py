"""`parmflow store`: every command on a small store, its exit codes, and one sentence per mistake."""

import json

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.doctor import check_store
from flows.request import chosen_store, store_place
from pipeline.schema import QMRecord
from pipeline.store import QMStore, composition_of
from tests.damaged_store import damage
from tests.scripted_engine import make_task


def parmflow(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(where):
    """A store of three results."""
    with QMStore(store_place(chosen_store(where))) as store:
        for n in range(3):
            task = make_task("water", n)
            record = QMRecord(
                task_key=task.key,
                ligand_key="water",
                spec=task.spec,
                coords=task.coords,
                energy=-1.0 - n,
                gradient=None,
            )
            store.put(record, composition_of(task))
    return where


def test_a_store_is_carried_to_another_machine(tmp_path, folder):
    """Export as Parquet, import elsewhere: the same three results; verify is content; stats counts them."""
    file, other = tmp_path / "all.parquet", tmp_path / "other"
    assert "3 results written" in parmflow("store", "export", file, "--store", folder).stdout
    assert "3 results read, 3 new, 0 refused" in parmflow("store", "import", file, "--store", other).stdout
    assert parmflow("store", "verify", "--store", other).exit_code == 0
    answer = json.loads(parmflow("store", "stats", "--store", other, "--json").stdout)
    assert answer["n_results"] == 3
    assert answer["levels"][0]["level"] == "gfn2-xtb"
    text = parmflow("store", "stats", "--store", other).stdout
    assert "3 results of 1 molecules" in text
    lines = tmp_path / "all.jsonl"
    assert "3 results written" in parmflow("store", "export", lines, "--store", folder).stdout
    assert len(lines.read_text().splitlines()) == 3


def test_damage_is_exit_one_and_gc_mends_it(folder):
    """A changed byte: verify lists the key and exits 1; gc removes it; verify is content again."""
    damage(store_place(chosen_store(folder)), "UPDATE results SET energy = 0.5 WHERE number = 2")
    found = parmflow("store", "verify", "--store", folder)
    assert found.exit_code == 1
    assert "3 results, 1 damaged" in found.stdout
    assert "1 damaged results" in parmflow("store", "gc", "--store", folder).stdout
    assert parmflow("store", "verify", "--store", folder).exit_code == 0


def test_what_cannot_be_used_is_exit_three(tmp_path, folder):
    """One good document beside one that failed: one comes in, the other is named."""
    lines = tmp_path / "some.jsonl"
    parmflow("store", "export", lines, "--store", folder)
    lines.write_text(lines.read_text().splitlines()[0] + '\n{"success": false}\n')
    done = parmflow("store", "import", lines, "--store", tmp_path / "other")
    assert done.exit_code == 3
    assert "1 results read, 1 new, 1 refused" in done.stdout
    assert "document 2" in done.stdout


def test_no_store_is_said_and_none_is_made(where):
    """Counting what is not there is exit 2 in one line, and leaves it so."""
    for _ in range(2):
        result = parmflow("store", "stats", "--store", where)
        assert result.exit_code == 2, result.output
        assert "no QM store here" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_doctor_looks_at_the_store(where):
    """A store that can be used is well, also before its first use; a database that is not there is wrong."""
    assert check_store(chosen_store(where)).state == "ok"
    with QMStore(store_place(chosen_store(where))):
        assert check_store(chosen_store(where)).state == "ok"
    away = check_store(chosen_store("postgresql://me@127.0.0.1:1/db"))
    assert (away.state, "does not answer" in away.detail) == ("wrong", True)


def test_mistakes_are_one_sentence(tmp_path, folder):
    """A password, no file, an unknown suffix: exit 2, one line, nothing made."""
    cases = {
        "pgpass": ("store", "stats", "--store", "postgresql://me:secret@host/db"),
        "no such file": ("store", "import", tmp_path / "none.parquet", "--store", tmp_path / "new"),
        "is no KIND:NAME": ("store", "import", "--qcarchive", "torsion:X", "--store", tmp_path / "new"),
        "no KIND:NAME of": ("store", "import", "--qcarchive", "singlepoint:", "--store", tmp_path / "new"),
        "nothing to import": ("store", "import", "--store", tmp_path / "new"),
        "must end with": ("store", "export", tmp_path / "x.csv", "--store", folder),
    }
    for cause, arguments in cases.items():
        result = parmflow(*arguments)
        assert result.exit_code == 2, result.output
        assert cause in result.stderr
        assert "secret" not in result.output
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()
