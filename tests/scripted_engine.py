"""An engine that does what a script says, in real child processes: for the rules about failures.

    python -m tests.scripted_engine URL SCHEMA MARK N_TASKS SEED     a runner of N_TASKS tasks, to be killed

A task's script is the list of what its first, second, ... try does; the last entry is repeated.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.database import Place
from pipeline.errors import QMError
from pipeline.process.child import Child, Limits
from pipeline.qm.batch import Batch
from pipeline.qm.door import in_own_frame
from pipeline.qm.result import EngineResult
from pipeline.schema import QMSpec, QMTask
from pipeline.settings import QMSettings
from pipeline.store import QMStore

WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]])
SPEC = QMSpec(program="tblite", method="gfn2-xtb", basis=None, dispersion=None, driver="energy")
SETTINGS = QMSettings(seconds_per_job=60, memory_mb=1024)


def make_task(name: str, n: int = 0) -> QMTask:
    """Water, a little longer for each n."""
    return QMTask(
        ligand_key=name,
        atomic_numbers=np.array([8, 1, 1]),
        coords=WATER * (1.0 + 0.001 * n),
        total_charge=0,
        spec=SPEC,
    )


def answer(task: QMTask, **changes: object) -> EngineResult:
    """The right answer, or one with something wrong: the energy is a function of the geometry."""
    values = {
        "energy": -1.0 - float(np.linalg.norm(task.coords[1] - task.coords[0])),
        "gradient": None,
        "coords": task.coords,
        "provenance": {"program": "scripted", "scf_rung": "default"},
    }
    return EngineResult(**(values | changes))


def play(task: QMTask, act: str) -> EngineResult:
    """Do one act of a script, in the child."""
    word, _, number = act.partition(" ")
    if word in _FAULTS:
        _FAULTS[word]()
    if word == "qm-error":
        raise QMError(f"said {number}", kind=number)
    if word == "segv-once" and not Path(number).exists():
        Path(number).touch()
        _FAULTS["segv"]()
    if word == "sleep":
        time.sleep(float(number))
    if word == "complain":
        raise RuntimeError(number)
    if word == "moved":
        return answer(task, coords=task.coords + 0.01)
    if word == "ion":
        return answer(task, electrons=(5, 4))
    if word == "nan":
        return answer(task, energy=float("nan"))
    if word == "energy":
        return answer(task, energy=float(number))
    return answer(task)


def _fill_disk() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    with Path("scratch").open("wb") as file:
        file.write(b"x" * 100_000)


def _hide() -> None:
    """Leave a grandchild in a session of its own that would sleep for ever."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    time.sleep(0.05)


def _eat_memory() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(2**24))


_FAULTS: Mapping[str, Callable[[], object]] = {
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "memory": _eat_memory,
    "disk": _fill_disk,
    "hide": _hide,
    "lose-warden": lambda: os.kill(os.getppid(), signal.SIGKILL),
}


class Scripted:
    """A way to start tasks that plays scripts, by the tasks' ligand keys, and remembers the tries."""

    def __init__(self, scripts: Mapping[str, Sequence[str]], wall_seconds: float | None = None) -> None:
        self._scripts = scripts
        self._wall_seconds = wall_seconds
        self.tries: Counter[str] = Counter()
        self.limits: dict[str, list[Limits]] = {}

    def __call__(self, task: QMTask, limits: Limits, _n_cores: int) -> Child[EngineResult]:
        script = self._scripts.get(task.ligand_key, ["ok"])
        act = script[min(self.tries[task.ligand_key], len(script) - 1)]
        self.tries[task.ligand_key] += 1
        self.limits.setdefault(task.ligand_key, []).append(limits)
        return Child(play, in_own_frame(task), act, limits=limits)


def main() -> None:
    """Run tasks of which each takes some milliseconds and some crash on their first try."""
    place, mark = Place(url=sys.argv[1], schema=sys.argv[2]), sys.argv[3]
    n_tasks, seed = int(sys.argv[4]), int(sys.argv[5])
    chance = random.Random(seed)
    tasks = [make_task(f"task {n}", n) for n in range(n_tasks)]
    scripts = {
        task.ligand_key: [f"segv-once {mark}.{n}" if n % 7 == 3 else f"sleep {chance.uniform(0.0, 0.05):.3f}"]
        for n, task in enumerate(tasks)
    }
    with QMStore(place) as store, Batch(store, SETTINGS, jobs=2, start=Scripted(scripts)) as batch:
        batch.run(tasks, lambda task, _: print(task.ligand_key, flush=True))


def start_runner(place: Place, mark: Path, n_tasks: int, seed: int = 0) -> subprocess.Popen[str]:
    """Start `main` in a process of its own; it names each finished task on a line.

    `mark` is a path of the store's own: files beside it remember which tasks have crashed once.
    """
    words = (place.url, place.schema, str(mark), str(n_tasks), str(seed))
    command = [sys.executable, "-m", "tests.scripted_engine", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def final_state(place: Place) -> dict[str, tuple]:
    """What a store holds, times left out: bytes of coordinates, energy, atoms."""
    with QMStore(place) as store:
        return {
            key: (entry.record.coords.tobytes(), entry.record.energy, entry.record.spec, entry.record.flags)
            for key, entry in store.entries()
        }


def successes(place: Place) -> Counter[str]:
    """How often each task was finished."""
    with QMStore(place) as store:
        return Counter(attempt.task_key for attempt in store.attempts() if attempt.kind == "ok")


if __name__ == "__main__":
    from tests import scripted_engine  # what a child is to run must not be called `__main__`

    scripted_engine.main()
