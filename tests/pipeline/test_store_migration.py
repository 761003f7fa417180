"""A store of an older version is copied, then brought forward; nothing in it changes."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.schema import QMRecord, QMSpec
from pipeline.store import QMStore
from pipeline.store.database import SCHEMA_VERSION

# Written out as the program of version 1 made them: the test must not change with today's code.
VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE results (
    key TEXT PRIMARY KEY, ligand_key TEXT NOT NULL, spec TEXT NOT NULL, coords BLOB NOT NULL,
    energy BLOB NOT NULL, gradient BLOB, provenance TEXT NOT NULL, content_hash TEXT NOT NULL
);
CREATE INDEX results_by_ligand ON results (ligand_key);
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY, task_key TEXT NOT NULL, started TEXT NOT NULL, seconds REAL NOT NULL,
    predicted_seconds REAL, kind TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX attempts_by_task ON attempts (task_key);
CREATE TRIGGER attempts_stay BEFORE UPDATE ON attempts
    BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END;
CREATE TRIGGER results_stay BEFORE UPDATE ON results
    BEGIN SELECT RAISE(ABORT, 'results are immutable'); END;
INSERT INTO meta VALUES ('schema_version', '1');
INSERT INTO attempts VALUES (1, 'k0', '2026-01-02T03:04:05.678Z', 12.5, 10.0, 'ok', '');
"""
SPEC = (
    '{"basis": "dzvp", "dispersion": "d3bj", "driver": "gradient", "keywords": [], "method": "b3lyp", '
    '"program": "pyscf"}'
)
HASHES = (
    "896bf1524b9f147d5c9ed3666b24059e26fdf14fca8899b7155bf3530295ebf4",
    "9a47ecadb8043201d5cbd01bf40525bc41298ad41f7dc65cd8cd2c25e3884cc4",
)
"""of rows 0 and 1 below, as version 1 computed them"""
PROVENANCE = '[["program", "pyscf"]]'


def row(n: int) -> tuple:
    coords = np.arange(6.0) + n
    gradient = None if n else (coords / 7).tobytes()
    energy = np.array(-100.0 - n / 3).tobytes()
    return (f"k{n}", "water", SPEC, coords.tobytes(), energy, gradient, PROVENANCE)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of version 1 with two whole rows and one whose hash does not match."""
    path = tmp_path / "qm.sqlite"
    with sqlite3.connect(path) as raw:
        raw.executescript(VERSION_1)
        for n, content_hash in enumerate((*HASHES, "0" * 64)):
            raw.execute("INSERT INTO results VALUES (?,?,?,?,?,?,?,?)", (*row(n), content_hash))
    raw.close()
    path.chmod(0o600)
    return path


def test_version_1_comes_forward_whole(old: Path) -> None:
    """Two records read back to the bit, the damaged one stays damaged, the history and a copy are there."""
    before = old.read_bytes()
    with QMStore(old) as store:
        for n in (0, 1):
            record = store.get(f"k{n}")
            assert isinstance(record, QMRecord)
            np.testing.assert_array_equal(record.coords, (np.arange(6.0) + n).reshape(2, 3))
            assert record.energy == -100.0 - n / 3
            assert record.spec == QMSpec()
            assert record.provenance == (("program", "pyscf"),)
            assert (record.gradient is None) == bool(n)
        with pytest.raises(StoreError, match="hash"):
            store.get("k2")
        (attempt,) = store.attempts("k0")
        assert (attempt.started, attempt.seconds, attempt.kind) == ("2026-01-02T03:04:05.678Z", 12.5, "ok")
        assert store.database.rows("PRAGMA foreign_key_check") == []
        ((version,),) = store.database.rows("SELECT value FROM meta")
    assert version == str(SCHEMA_VERSION)
    backup = old.with_name("qm.sqlite.v1.backup")
    with sqlite3.connect(backup) as copy:
        rows = copy.execute("SELECT * FROM results ORDER BY key").fetchall()
        assert [tuple(r[:7]) for r in rows] == [row(0), row(1), row(2)]
    assert backup.stat().st_mode & 0o077 == 0
    assert len(before) == backup.stat().st_size


def test_several_processes_bring_it_forward_once(old: Path) -> None:
    """Four processes that open an old store at once all read its rows, and it is in order afterwards."""
    code = "import sys; from pathlib import Path; from pipeline.store import QMStore\n"
    code += "with QMStore(Path(sys.argv[1])) as store: print(store.get('k0').energy, len(store))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(old)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["-100.0 3\n"] * 4
    assert sorted(path.name for path in old.parent.glob("*.backup*")) == ["qm.sqlite.v1.backup"]


def test_a_move_that_fails_leaves_the_old_store(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A break in mid-move leaves version 1 as it was; the next opening moves it."""

    def broken(row: tuple) -> str:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.store.database.hash_row", broken)
        with pytest.raises(MemoryError):
            QMStore(old)
    with sqlite3.connect(old) as raw:
        assert raw.execute("SELECT value FROM meta").fetchone() == ("1",)
        assert raw.execute("SELECT count(*) FROM results").fetchone() == (3,)
    raw.close()
    with QMStore(old) as store:
        assert store.get("k0") is not None
