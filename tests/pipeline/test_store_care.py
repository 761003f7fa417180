"""Looking after a store: damage is found and removed, what is whole stays, space comes back."""

import dataclasses
from pathlib import Path

import pytest

from pipeline.database import Place
from pipeline.qm.batch import Batch
from pipeline.store import Attempt, QMStore
from pipeline.store.care import clean, count, verify
from pipeline.store.leases import own_name
from tests.damaged_store import damage
from tests.scripted_engine import SETTINGS, Scripted, make_task

TASKS = [make_task("water", n) for n in range(6)]


@pytest.fixture
def filled(place: Place) -> Place:
    """A store with six results, each with one attempt, and a seventh that crashed twice."""
    tasks = [*TASKS, make_task("bad", 9)]
    with QMStore(place) as store, Batch(store, SETTINGS, jobs=2, start=Scripted({"bad": ["segv"]})) as batch:
        batch.run(tasks, lambda *_: None)
    return place


def test_whole_is_whole(filled: Place) -> None:
    """A store that nobody touched has nothing to complain about."""
    with QMStore(filled) as store:
        found = verify(store)
    assert (found.n_results, found.damaged, found.complaints, found.is_whole) == (6, (), (), True)


def test_damage_is_listed_removed_and_computed_again(filled: Place) -> None:
    """A changed energy, and a row moved under another's key with a hash that fits: both are named; `clean`
    removes exactly them; a batch computes exactly them again; the history keeps all attempts.
    """
    changed, stolen = TASKS[1].key, TASKS[2].key
    with QMStore(filled) as store:
        entry = dict(store.entries([stolen]))[stolen]
        n_attempts = len(store.attempts())
    damage(filled, "UPDATE results SET energy = energy + 0.001 WHERE key = :key", key=changed)
    damage(filled, "DELETE FROM results WHERE key = :key", key=stolen)
    with QMStore(filled) as store:
        store.flag(changed, "outlier", "because of the damage")
        moved = dataclasses.replace(entry.record, coords=entry.record.coords + 0.5)
        store.put(moved, entry.composition)
        wrong = dict(verify(store).damaged)
        assert wrong == {changed: "does not match its hash", stolen: "is not the result of its key"}
        cleaned = clean(store)
        assert cleaned.n_damaged == 2
        assert count(store).n_flagged == 0
        assert verify(store).is_whole
        assert len(store) == 4
        engine = Scripted({})
        with Batch(store, SETTINGS, jobs=2, start=engine) as batch:
            batch.run(TASKS, lambda *_: None)
        assert sum(engine.tries.values()) == 2
        assert len(store.attempts()) == n_attempts + 2


def test_leases_of_the_dead_go(filled: Place) -> None:
    """A lease of a process that is no more is removed, a living runner's stays."""
    host, _, _ = own_name().rsplit(" ", 2)
    with QMStore(filled) as store:
        store.claim("dead", f"{host} 999999999 1.0")
        store.claim("alive", own_name())
        assert clean(store).n_dead_leases == 1
        assert count(store).n_leases == 1


def test_unfinished_copies_go(tmp_path: Path) -> None:
    """A half-made copy is removed; the copy of an older version stays until it is asked to go."""
    path = tmp_path / "qm.sqlite"
    copy, half = path.with_name("qm.sqlite.v1.backup"), path.with_name("qm.sqlite.v1.backup.77.tmp")
    copy.touch()
    half.touch()
    with QMStore(path) as store:
        assert clean(store).n_files == 1
        assert (copy.exists(), half.exists()) == (True, False)
        assert clean(store, keep_backups=False).n_files == 1
    assert not copy.exists()


def test_counts(filled: Place) -> None:
    """Results by level, attempts by ending, rungs: as the batch made them."""
    with QMStore(filled) as store:
        store.flag(TASKS[0].key, "outlier", "by hand")
        store.add_attempt(Attempt(task_key="k", seconds=7200.0, predicted_seconds=None, kind="time"))
        found = count(store)
    assert (found.n_results, found.n_molecules, found.n_flagged) == (6, 1, 1)
    (level,) = found.levels
    assert (level.level, level.driver, level.n_results, level.n_molecules) == ("gfn2-xtb", "energy", 6, 1)
    assert [(kind, n) for kind, n, _ in found.attempts] == [("ok", 6), ("crash", 2), ("time", 1)]
    assert found.attempts[-1][2] == 2.0
    assert found.rungs == (("default", 6),)
    assert found.bytes > 10_000
