"""Batches of calculations, with a real engine: GFN2-xTB, and HF where a job must last."""

import contextlib
import platform
import threading
import time
from pathlib import Path
from shutil import which

import numpy as np
import psutil
import pytest

from pipeline.outcome import Failure
from pipeline.process.child import Limits
from pipeline.qm.batch import Batch, run_tasks
from pipeline.qm.budget import Budget
from pipeline.qm.cost import Calibration
from pipeline.qm.door import run_task
from pipeline.qm.levels import spec_by_name
from pipeline.qm.stored import open_qm
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.settings import QMSettings, Settings
from pipeline.store import QMStore
from tests.process_tree import children_of

SETTINGS = QMSettings(seconds_per_job=120, memory_mb=2048)
WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]])
CHAIN = np.array([[0.0, 0.0, 2.6 * n] for n in range(8)])


def water(stretch: float, *, spec: QMSpec | None = None, charge: int = 0) -> QMTask:
    return QMTask(
        ligand_key=f"water {stretch}",
        atomic_numbers=np.array([8, 1, 1]),
        coords=WATER * stretch,
        total_charge=charge,
        spec=spec or spec_by_name("fast"),
    )


def helium(n_atoms: int) -> QMTask:
    return QMTask(
        ligand_key=f"helium {n_atoms}",
        atomic_numbers=np.full(n_atoms, 2),
        coords=CHAIN[:n_atoms],
        total_charge=0,
        spec=spec_by_name("fast"),
    )


def nothing(task: QMTask, ending: QMRecord | Failure) -> None:
    """Hear of a result and do nothing."""


def test_each_computed_once_failures_kept(tmp_path: Path) -> None:
    """Every task has its ending, a refused one a Failure; what is stored equals the door's own answer and is
    never computed again."""
    tasks = [water(1.0), water(1.01, charge=1), water(1.02), water(1.0), water(1.03)]
    heard = []
    with QMStore(tmp_path / "s") as store:
        endings = run_tasks(tasks, store, SETTINGS, jobs=2, on_result=lambda task, _: heard.append(task.key))
        assert list(endings) == [task.key for task in (tasks[0], tasks[1], tasks[2], tasks[4])]
        assert sorted(heard) == sorted(endings)
        failure = endings[tasks[1].key]
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.stage, failure.ligand) == ("input", "qm", "water 1.01")
        assert len(store) == 3
        first = endings[tasks[0].key]
        assert isinstance(first, QMRecord)
        alone = run_task(tasks[0], Limits(wall_seconds=60, memory_mb=2048))
        # The same program on the same geometry on one core: equal to rounding.
        assert alone.energy == pytest.approx(first.energy, abs=1e-9)
        n_attempts = len(store.attempts())
        again = run_tasks(tasks, store, SETTINGS, jobs=2, on_result=nothing)
        assert again.keys() == endings.keys()
        ran = store.attempts()[n_attempts:]
        assert [attempt.kind for attempt in ran] == ["input"]  # only the refused one was tried


def test_longest_first(tmp_path: Path) -> None:
    """On one child the jobs run in the order of their predicted cost, dearest first."""
    order: list[str] = []
    with QMStore(tmp_path / "s") as store:
        tasks = [helium(n) for n in (2, 8, 4, 6)]
        run_tasks(tasks, store, SETTINGS, jobs=1, on_result=lambda task, _: order.append(task.ligand_key))
    assert order == ["helium 8", "helium 6", "helium 4", "helium 2"]


def test_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    """Ctrl-C after two results leaves those in the store and no child; the same call then goes on."""
    tasks = [water(1.0 + 0.01 * n) for n in range(6)]
    heard = []

    def stop_after_two(task: QMTask, ending: QMRecord | Failure) -> None:
        heard.append(task.key)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with QMStore(tmp_path / "s") as store:
        with pytest.raises(KeyboardInterrupt):
            run_tasks(tasks, store, SETTINGS, jobs=2, on_result=stop_after_two)
        done = store.get_many(task.key for task in tasks)
        assert set(heard) <= set(done)
        assert _workers() == []
        endings = run_tasks(tasks, store, SETTINGS, jobs=2, on_result=nothing)
        assert all(isinstance(ending, QMRecord) for ending in endings.values())
        assert sum(attempt.kind == "ok" for attempt in store.attempts()) == len(tasks)


def _workers() -> list[psutil.Process]:
    """Processes that run a job: children of wardens, which are children of the server, our child."""
    return children_of(children_of(psutil.Process().children()))


def _kill_one_worker(stop: threading.Event) -> None:
    while not stop.is_set():
        for worker in _workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
                return
        time.sleep(0.005)


@pytest.mark.pyscf
def test_a_crash_is_tried_again(tmp_path: Path) -> None:
    """A job whose process is killed from outside is a crash in the history and succeeds the second time."""
    task = water(1.0, spec=QMSpec(program="pyscf", method="hf", dispersion=None, driver="energy"))
    stop = threading.Event()
    killer = threading.Thread(target=_kill_one_worker, args=(stop,))
    killer.start()
    try:
        with QMStore(tmp_path / "s") as store:
            endings = run_tasks([task], store, SETTINGS, jobs=1, on_result=nothing)
            assert isinstance(endings[task.key], QMRecord)
            assert [attempt.kind for attempt in store.attempts(task.key)] == ["crash", "ok"]
    finally:
        stop.set()
        killer.join()


def test_budget_is_kept(tmp_path: Path) -> None:
    """What would not end within the budget is not started, and says so as something to repeat."""
    with QMStore(tmp_path / "s") as store:
        settings = SETTINGS.model_copy(update={"budget_seconds": 1e-6})
        (ending,) = run_tasks([water(1.0)], store, settings, jobs=1, on_result=nothing).values()
        assert isinstance(ending, Failure)
        assert (ending.kind, ending.retryable) == ("budget", True)
        assert store.attempts() == ()


def test_a_budget_is_for_all_batches(tmp_path: Path) -> None:
    """The clock starts with the first calculation; a hundred seconds later the next batch begins nothing."""
    now = [5.0]
    with open_qm(tmp_path / "s", Settings(qm=QMSettings(spec="fast"), jobs=1)) as qm:
        qm.budget = Budget(100.0, lambda: now[0])
        endings: list[QMRecord | Failure] = []
        for _ in range(2):
            qm.compute([water(1.0 + 0.01 * len(endings))], lambda _, ending: endings.append(ending))
            now[0] += 100.0
    assert isinstance(endings[0], QMRecord)
    assert isinstance(endings[1], Failure)
    assert "0 s left of the budget of 100 s" in endings[1].message


def test_a_batch_learns_from_its_own_jobs(tmp_path: Path) -> None:
    """After three jobs the estimate is what another run would make of the history, not the probe's guess."""
    tasks = [water(1.0 + 0.01 * n) for n in range(4)]
    with QMStore(tmp_path / "s") as store, Batch(store, SETTINGS, jobs=1) as batch:
        before = batch._calibration.seconds(tasks[3])
        batch.run(tasks[:3], nothing)
        history = Calibration(store.timings(platform.node()))
        assert batch._calibration.seconds(tasks[3]) == pytest.approx(history.seconds(tasks[3]), rel=1e-9)
        assert batch._calibration.seconds(tasks[3]) != before


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("fast", "gfn2-xtb"),
        ("gfn1-xtb", "gfn1-xtb"),
        pytest.param(
            "am1",
            "am1",
            marks=pytest.mark.skipif(which("mopac") is None, reason="mopac is not installed"),
        ),
    ],
)
def test_refines_door(tmp_path: Path, name: str, level: str) -> None:
    """The bench that refine uses finds what it computed, at the level that the settings name."""
    settings = Settings(qm=QMSettings(spec=name), jobs=1)
    with open_qm(tmp_path / "s", settings) as qm:
        assert qm.spec.level == level
        tasks = [water(1.0, spec=qm.spec)]
        assert qm.estimate_seconds(tasks) > 0
        assert qm.find([tasks[0].key]) == {}
        qm.compute(tasks, nothing)
        assert set(qm.find([tasks[0].key])) == {tasks[0].key}
