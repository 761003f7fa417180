"""Every kind of failure has its rule: how often a job is tried, with what limits, and what is kept."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.errors import StoreError
from pipeline.outcome import Failure
from pipeline.process.child import Child, Limits
from pipeline.qm.batch import Batch, Ending
from pipeline.qm.result import EngineResult
from pipeline.qm.rules import RULES, limits_after
from pipeline.schema import QMRecord, QMTask
from pipeline.settings import QMSettings
from pipeline.store import Attempt, QMStore
from tests.process_tree import children_of
from tests.scripted_engine import SETTINGS, Scripted, make_task


def nothing(task: QMTask, ending: Ending) -> None:
    """Hear of a result and do nothing."""


def run(
    store: QMStore, engine: Scripted, tasks: list[QMTask], settings: QMSettings = SETTINGS
) -> list[Ending]:
    with Batch(store, settings, jobs=2, start=engine) as batch:
        return list(batch.run(tasks, nothing).values())


@pytest.mark.parametrize(
    ("script", "kinds", "kind", "retryable"),
    [
        (["ok"], ["ok"], None, None),
        (["qm-error input"], ["input"], "input", False),
        (["qm-error scf"], ["scf"], "scf", False),
        (["qm-error geometry"], ["geometry"], "geometry", False),
        (["qm-error connectivity"], ["connectivity"], "connectivity", False),
        (["qm-error linear"], ["linear"], "linear", False),
        (["complain nobody has seen this"], ["engine"], "engine", True),
        (["complain SCF not converged in 250 cycles"], ["scf"], "scf", False),
        (["moved"], ["geometry"], "geometry", False),
        (["nan"], ["engine"], "engine", True),
        (["ion"], ["engine"], "engine", True),
        (["energy 1.0"], ["engine"], "engine", True),
        (["segv"], ["crash", "crash"], "crash", True),
        (["segv", "ok"], ["crash", "ok"], None, None),
        (["exit"], ["crash", "crash"], "crash", True),
        (["lose-warden"], ["lost", "lost", "lost"], "lost", True),
        (["lose-warden", "lose-warden", "ok"], ["lost", "lost", "ok"], None, None),
        (["segv", "lose-warden", "ok"], ["crash", "lost", "ok"], None, None),
        (["memory"], ["memory", "memory"], "memory", True),
        (["memory", "ok"], ["memory", "ok"], None, None),
        (["hide"], ["ok"], None, None),
    ],
    ids=lambda value: " then ".join(value) if isinstance(value, list) else str(value),
)
def test_each_kind_follows_its_rule(
    tmp_path: Path, script: list[str], kinds: list[str], kind: str | None, retryable: bool | None
) -> None:
    """The history holds a try after the other; the job ends as a record or as a failure of its kind; nothing
    of a failed one is stored; a healthy job beside it is not disturbed.
    """
    bad, good = make_task("bad"), make_task("good", 1)
    with QMStore(tmp_path / "s") as store:
        ending, beside = run(store, Scripted({"bad": script}), [bad, good])
        assert [attempt.kind for attempt in store.attempts(bad.key)] == kinds
        assert isinstance(beside, QMRecord)
        assert (store.get(bad.key) is not None) == (kind is None)
        if kind is None:
            assert isinstance(ending, QMRecord)
        else:
            assert isinstance(ending, Failure)
            assert (ending.kind, ending.retryable, ending.stage) == (kind, retryable, "qm")
    assert _jobs() == []


def _jobs() -> list[psutil.Process]:
    """Our servers' descendants other than themselves; those being killed have a moment."""
    deadline = time.monotonic() + 5.0
    while True:
        left = children_of(psutil.Process().children(), recursive=True)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def test_memory_grows_at_once(tmp_path: Path) -> None:
    """After `memory` the second try of the batch has twice the memory."""
    engine = Scripted({"greedy": ["memory", "ok"]})
    with QMStore(tmp_path / "s") as store:
        (greedy,) = run(store, engine, [make_task("greedy")], SETTINGS.model_copy(update={"memory_mb": 512}))
        assert isinstance(greedy, QMRecord)
    assert [limits.memory_mb for limits in engine.limits["greedy"]] == [512, 1024]


def test_time_grows_the_next_time(tmp_path: Path) -> None:
    """After `time` the batch gives up; each later batch gives twice the time."""
    settings = SETTINGS.model_copy(update={"seconds_per_job": 1.0})
    engine = Scripted({"slow": ["sleep 600", "sleep 600", "ok"]})
    with QMStore(tmp_path / "s") as store:
        for _ in range(2):
            (slow,) = run(store, engine, [make_task("slow")], settings)
            assert isinstance(slow, Failure)
            assert (slow.kind, slow.retryable) == ("time", True)
        (last,) = run(store, engine, [make_task("slow")], settings)
        assert isinstance(last, QMRecord)
    assert [limits.wall_seconds for limits in engine.limits["slow"]] == [1.0, 2.0, 4.0]


def test_growth_has_an_end() -> None:
    """Ten time-outs do not give a job a thousand times its limit, nor memory that the machine lacks."""
    died = [
        Attempt(task_key="k", seconds=1.0, predicted_seconds=None, kind=kind) for kind in ("time", "memory")
    ] * 10
    limits = limits_after(Limits(wall_seconds=10, memory_mb=1000), died, memory_mb=3000)
    assert (limits.wall_seconds, limits.memory_mb) == (80.0, 3000)
    assert limits_after(Limits(wall_seconds=10, memory_mb=4000), died, memory_mb=3000).memory_mb == 4000


def test_a_full_disk_stops_the_batch_and_it_goes_on_later(tmp_path: Path) -> None:
    """RLIMIT_FSIZE as a full scratch disk: the batch says so, keeps what ran, starts nothing more, and the
    same batch on a mended disk computes only the rest.
    """
    tasks = [make_task(f"t{n}", n) for n in range(6)]
    engine = Scripted({"t5": ["disk", "ok"]})
    with QMStore(tmp_path / "s") as store:
        with (
            pytest.raises(StoreError, match="Free space and give the same command again") as caught,
            Batch(store, SETTINGS, jobs=1, start=engine) as batch,
        ):
            batch.run(list(reversed(tasks)), nothing)
        assert (caught.value.kind, caught.value.retryable) == ("disk", True)
        assert sum(engine.tries.values()) == 1
        endings = run(store, engine, tasks)
        assert all(isinstance(ending, QMRecord) for ending in endings)
        assert sum(engine.tries.values()) == 7
    assert RULES["disk"].stops


def test_no_room_for_scratch_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less than the reserve free on the scratch disk no job is started."""
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr("pipeline.qm.batch._RESERVE_BYTES", 2 * free)
    engine = Scripted({})
    with QMStore(tmp_path / "s") as store, pytest.raises(StoreError, match="MB are free") as caught:
        run(store, engine, [make_task("a")])
    assert caught.value.kind == "disk"
    assert not engine.tries


def test_an_outlier_is_flagged(tmp_path: Path) -> None:
    """Five geometries of one molecule agree, one is 100 hartree off: it is kept, flagged, and only it."""
    tasks = [make_task("same", n) for n in range(5)] + [make_task("same", 9)]
    with QMStore(tmp_path / "s") as store:
        run(store, Scripted({"same": ["ok"] * 5 + ["energy -100.0"]}), tasks)
        flags = {task.key: record.flags for task in tasks if (record := store.get(task.key))}
    assert sorted(flags.values()) == [()] * 5 + [("outlier",)]


# ---- memory ----


class Watched(Scripted):
    """Remembers beside how many others, and on how many cores, each was started."""

    def __init__(self, scripts: Mapping[str, Sequence[str]]) -> None:
        super().__init__(scripts)
        self.others: dict[str, list[int]] = {}
        self.n_cores: list[int] = []
        self._children: list[Child[EngineResult]] = []

    def __call__(self, task: QMTask, limits: Limits, n_cores: int) -> Child[EngineResult]:
        n_open = sum(is_open(child) for child in self._children)
        self.others.setdefault(task.ligand_key, []).append(n_open)
        self.n_cores.append(n_cores)
        child = super().__call__(task, limits, n_cores)
        self._children.append(child)
        return child


def is_open(child: Child[EngineResult]) -> bool:
    """Whether the batch has not closed it yet."""
    return child.hand.connection.fileno() >= 0


def test_no_more_run_side_by_side_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, memory for two: two at a time, on half of the cores each."""
    monkeypatch.setattr("pipeline.qm.batch.usable_memory_mb", lambda: 1000)
    monkeypatch.setattr("pipeline.qm.batch.expected_memory_mb", lambda _: 300)
    tasks = [make_task(f"task {n}", n) for n in range(5)]
    engine = Watched({task.ligand_key: ["sleep 0.3"] for task in tasks})
    with QMStore(tmp_path / "s") as store, Batch(store, SETTINGS, jobs=8, start=engine) as batch:
        endings = batch.run(tasks, nothing)
    assert all(isinstance(ending, QMRecord) for ending in endings.values())
    assert max(n for counts in engine.others.values() for n in counts) == 1
    assert engine.n_cores == [4] * 5


def test_one_that_needed_more_than_expected_is_given_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died at its limit beside others; with twice that limit, which leaves no room, it runs alone."""
    monkeypatch.setattr("pipeline.qm.batch.usable_memory_mb", lambda: 2000)
    monkeypatch.setattr("pipeline.qm.batch.expected_memory_mb", lambda _: 300)
    tasks = [make_task(name, n) for n, name in enumerate(("greedy", "one", "two", "three"))]
    scripts = {"greedy": ["qm-error memory", "ok"], "one": ["sleep 1"], "two": ["sleep 1"]}
    settings = SETTINGS.model_copy(update={"memory_mb": 800})
    with QMStore(tmp_path / "s") as store:
        engine = Watched(scripts)
        with Batch(store, settings, jobs=8, start=engine) as batch:
            endings = batch.run(tasks, nothing)
    assert all(isinstance(ending, QMRecord) for ending in endings.values())
    assert [limits.memory_mb for limits in engine.limits["greedy"]] == [800, 1600]
    assert engine.others["greedy"][1] == 0
    assert max(engine.others["two"] + engine.others["three"]) > 0
