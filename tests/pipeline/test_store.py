"""The store: what is put is there to the last bit, for good, whoever is killed meanwhile."""

import dataclasses
import io
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.database import Place, use_wal
from pipeline.errors import OutputFolderError, StoreError
from pipeline.schema import QMRecord, QMSpec
from pipeline.store import Attempt, Composition, QMStore
from tests.damaged_store import damage

WRITER = """
import sys
import numpy as np
from pipeline.database import Place
from pipeline.schema import QMRecord, QMSpec
from pipeline.store import QMStore
first, last = int(sys.argv[3]), int(sys.argv[4])
with QMStore(Place(url=sys.argv[1], schema=sys.argv[2])) as store:
    for n in range(first, last):
        coords = np.random.default_rng(n).normal(size=(20, 3))
        store.put(QMRecord(task_key=f"key{n}", ligand_key="w", spec=QMSpec(), coords=coords, energy=-float(n),
                           gradient=2 * coords))
        print(n, flush=True)
"""


def make_record(key: str = "k", *, seed: int = 0) -> QMRecord:
    rng = np.random.default_rng(seed)
    return QMRecord(
        task_key=key,
        ligand_key="ligand",
        spec=QMSpec(keywords=(("maxiter", 60),)),
        coords=rng.normal(size=(5, 3)),
        energy=-1.0 / 3.0,
        gradient=rng.normal(size=(5, 3)),
        provenance=(("program", "pyscf"), ("version", "2")),
    )


def test_round_trip_is_exact(place: Place) -> None:
    """A record comes back equal to the last bit, also from a file opened again, also without gradient."""
    record = make_record()
    energy_only = dataclasses.replace(make_record("e", seed=1), gradient=None)
    with QMStore(place) as store:
        assert store.put(record)
        assert store.put(energy_only)
    with QMStore(place) as store:
        back = store.get("k")
        assert back is not None
        assert (back.energy, back.spec, back.provenance) == (record.energy, record.spec, record.provenance)
        np.testing.assert_array_equal(back.coords, record.coords)
        np.testing.assert_array_equal(back.gradient, record.gradient)
        other = store.get("e")
        assert other is not None
        assert other.gradient is None
        assert store.get("absent") is None
        assert set(store.get_many(["k", "absent", "e"])) == {"k", "e"}
        assert len(store) == 2


def test_optional_arrays_atoms_and_flags_round_trip(place: Place) -> None:
    """Hessian, dipole, bond orders, ESP, atoms and mapped SMILES come back to the bit; a flag joins the
    record's own.
    """
    rng = np.random.default_rng(3)
    record = dataclasses.replace(
        make_record(),
        hessian=rng.normal(size=(15, 15)),
        dipole=rng.normal(size=3),
        bond_orders=rng.normal(size=(5, 5)),
        esp=rng.normal(size=(11, 4)),
        provenance=(("flags", "connectivity"), ("program", "pyscf")),
    )
    atoms = Composition(
        atomic_numbers=np.array([6, 1, 1, 1, 1]),
        total_charge=0,
        mapped_smiles="[C:1]([H:2])([H:3])([H:4])[H:5]",
    )
    with QMStore(place) as store:
        assert store.put(record, atoms)
        store.flag("k", "outlier", "200 kcal/mol above its conformers")
        store.flag("k", "outlier", "said again")
    with QMStore(place) as store:
        ((key, entry),) = store.entries()
    assert key == "k"
    assert entry.record.flags == ("connectivity", "outlier")
    for name in ("hessian", "dipole", "bond_orders", "esp", "coords", "gradient"):
        np.testing.assert_array_equal(getattr(entry.record, name), getattr(record, name))
    assert entry.composition is not None
    assert entry.composition.atomic_numbers.tolist() == [6, 1, 1, 1, 1]
    assert (entry.composition.total_charge, entry.composition.mapped_smiles) == (0, atoms.mapped_smiles)


def test_first_result_stays(place: Place) -> None:
    """A second result of the same task changes nothing, and no statement can change or rewrite a row."""
    with QMStore(place) as store:
        assert store.put(make_record())
        assert not store.put(dataclasses.replace(make_record(), energy=-99.0))
        back = store.get("k")
        assert back is not None
        assert back.energy == -1.0 / 3.0
        store.add_attempt(Attempt(task_key="k", seconds=1.0, predicted_seconds=None, kind="ok"))
        for statement in (
            "UPDATE results SET energy = 0",
            "UPDATE attempts SET kind = 'ok'",
            "DELETE FROM attempts",
        ):
            with pytest.raises(StoreError, match=r"immutable|append-only"):
                store.database.execute(statement)


def test_damaged_row_is_found(place: Place) -> None:
    """One flipped byte in a blob is a StoreError of kind corrupt, not a wrong number."""
    with QMStore(place) as store:
        store.put(make_record())
        ((blob,),) = store.database.rows("SELECT gradient FROM results")
    flipped = bytearray(blob)
    flipped[17] ^= 1
    damage(place, "UPDATE results SET gradient = :blob", blob=bytes(flipped))
    with QMStore(place) as store, pytest.raises(StoreError, match="hash") as caught:
        store.get("k")
    assert caught.value.kind == "corrupt"


def test_refuses_a_newer_one(place: Place) -> None:
    """The store of a program of tomorrow is refused in words, and left as it is."""
    with QMStore(place) as store:
        store.database.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    for _ in range(2):
        with pytest.raises(StoreError, match="version 99 is newer"):
            QMStore(place)


def test_refuses_foreign_and_shared(tmp_path: Path) -> None:
    """A file that is no store, a folder, a file that all may write: each is refused in words."""
    (tmp_path / "text").write_text("not a database, but long enough to look like a page of one" * 20)
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    for name, words in (
        ("text", "not a readable"),
        ("open", "every user"),
    ):
        with pytest.raises(StoreError, match=words):
            QMStore(tmp_path / name)
    for name in ("", "text", "text/below"):  # a folder, and below a file: the user's --store
        with pytest.raises(OutputFolderError, match="give another --store"):
            QMStore(tmp_path / name / "s" if name else tmp_path)


def test_private(tmp_path: Path) -> None:
    """Other users can neither read nor write the store's folder and file."""
    with QMStore(tmp_path / "deep" / "store") as store:
        store.put(make_record())
        for path in [tmp_path / "deep", *(tmp_path / "deep").iterdir()]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_attempts_are_a_history(place: Place) -> None:
    """Attempts come back in order, stamped; the ratio counts only successful ones of the program."""
    with QMStore(place) as store:
        store.put(make_record())
        for seconds, kind in ((5.0, "crash"), (30.0, "ok")):
            store.add_attempt(Attempt(task_key="k", seconds=seconds, predicted_seconds=10.0, kind=kind))
        assert [(a.kind, a.seconds) for a in store.attempts("k")] == [("crash", 5.0), ("ok", 30.0)]
        assert all(a.started.endswith("Z") for a in store.attempts())
        (timing,) = store.timings(host="")
        assert (timing.spec, timing.seconds, timing.predicted_seconds) == (make_record().spec, 30.0, 10.0)


def test_killed_writer_leaves_nothing_half(place: Place) -> None:
    """Ten writers killed at random moments: every reported row is there, every row reads back whole."""
    rng, reported = random.Random(5), set()
    for start in range(0, 100_000, 10_000):
        command = [sys.executable, "-c", WRITER, place.url, place.schema, str(start), str(start + 10_000)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        # The last line may have been cut short by the kill.
        lines = (first + writer.stdout.read()).split("\n")[:-1]
        writer.wait()
        reported |= {int(line) for line in lines}
    with QMStore(place) as store:
        found = store.get_many([f"key{n}" for n in range(100_000)])
        assert {f"key{n}" for n in reported} <= set(found)
        assert len(found) == len(store)
        for key, record in found.items():
            coords = np.random.default_rng(int(key[3:])).normal(size=(20, 3))
            np.testing.assert_array_equal(record.coords, coords)


def test_several_processes(place: Place) -> None:
    """Four processes that make the file and write the same keys at once leave each key once."""
    command = [sys.executable, "-c", WRITER, place.url, place.schema, "0", "100"]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    with QMStore(place) as store:
        assert len(store) == 100


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """No room is kind disk; the store works again afterwards."""
    with QMStore(tmp_path / "s") as store:
        store.put(make_record())
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            with pytest.raises(StoreError) as caught:
                store.put(make_record("k2"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)
        assert caught.value.kind == "disk"
        assert store.put(make_record("k2"))


def test_a_lock_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's lock is kind locked; the store works again afterwards."""
    monkeypatch.setattr("pipeline.database.BUSY_SECONDS", 0.1)
    with QMStore(place) as store, QMStore(place) as other:
        with other.database.transaction(), pytest.raises(StoreError) as caught:
            store.put(make_record())
        assert (caught.value.kind, caught.value.retryable) == ("locked", True)
        assert store.put(make_record())


def test_a_locked_switch_to_wal_is_tried_again_and_another_error_is_not():
    """SQLite says `locked` at once to one of two that switch a new file: asked again, it works."""
    answers = [sqlite3.OperationalError("database is locked")] * 2

    def execute(statement):
        asked.append(statement)
        if answers:
            raise answers.pop()
        return io.BytesIO()  # has nothing to say, and can be closed

    asked = []
    use_wal(execute)
    assert asked == ["PRAGMA journal_mode=WAL"] * 3
    answers.append(sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        use_wal(execute)
    assert len(asked) == 4
