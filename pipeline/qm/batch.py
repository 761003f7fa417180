"""Many calculations: the store first, then the rest, longest first, on single-core children side by side."""

import contextlib
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.child import Child, Limits
from pipeline.errors import ChildError, QMError
from pipeline.outcome import Failure, failure_from_exception
from pipeline.qm.cost import estimate_seconds, machine_ratio, predicted_seconds
from pipeline.qm.door import collect_record, start_task
from pipeline.qm.levels import spec_by_name
from pipeline.qm.result import EngineResult
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.settings import QMSettings, Settings
from pipeline.store import Attempt, QMStore

Ending = QMRecord | Failure
OnResult = Callable[[QMTask, Ending], None]

_TRIES = 2
"""A crash may be the machine's; a second one is the job's. Other failures would only repeat themselves."""


def run_tasks(
    tasks: Iterable[QMTask], store: QMStore, settings: QMSettings, *, jobs: int, on_result: OnResult
) -> dict[str, Ending]:
    """Give every task's record, or the Failure that it ended with, by task key, in the order of the tasks.

    What the store holds is taken from it and never computed again; each new record is in the store before
    `on_result` hears of it. Ctrl-C ends the children and leaves the store with all that was finished.
    Raises StoreError when the store cannot be written.
    """
    wanted = {task.key: task for task in tasks}
    endings: dict[str, Ending] = dict(store.get_many(wanted))
    for key, record in endings.items():
        on_result(wanted[key], record)
    todo = [task for key, task in wanted.items() if key not in endings]
    batch = _Batch(store, settings, jobs=jobs)
    try:
        for task, ending in batch.run(todo):
            endings[task.key] = ending
            on_result(task, ending)
    finally:
        batch.close()
    return {key: endings[key] for key in wanted}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Running:
    task: QMTask
    n_try: int
    child: Child[EngineResult]
    start: float


class _Batch:
    """The children that run now and the tasks that wait."""

    def __init__(self, store: QMStore, settings: QMSettings, *, jobs: int) -> None:
        self._store = store
        self._limits = Limits(wall_seconds=settings.seconds_per_job, memory_mb=settings.memory_mb)
        self._jobs = max(1, jobs)
        self._budget = settings.budget_seconds
        self._ratios: dict[str, float] = {}
        self._begin = time.monotonic()
        self._running: list[_Running] = []

    def run(self, tasks: Sequence[QMTask]) -> Iterator[tuple[QMTask, Ending]]:
        """Yield each task with its ending, as they end."""
        longest_first = sorted(tasks, key=_expected, reverse=True)
        # Two jobs on a core each take half the time of one after the other on both (measured: 22-27 s against
        # 50-52 s for four DMSO gradients): cores are shared out only when there are fewer tasks than cores.
        n_cores = max(1, self._jobs // max(1, len(tasks)))
        waiting = deque((task, 1) for task in longest_first)
        while waiting or self._running:
            while waiting and len(self._running) < self._jobs:
                task, n_try = waiting.popleft()
                refusal = self._start(task, n_try, n_cores)
                if refusal is not None:
                    yield task, refusal
            for running in self._wait():
                ending = self._collect(running)
                if _try_again(ending, running.n_try):
                    waiting.append((running.task, running.n_try + 1))
                else:
                    yield running.task, ending

    def _start(self, task: QMTask, n_try: int, n_cores: int) -> Failure | None:
        start = time.monotonic()
        if over := self._over_budget(task):
            return failure_from_exception(over, ligand=task.ligand_key, stage="qm")
        try:
            child = start_task(task, self._limits, n_cores)
        except (QMError, ChildError) as error:
            return self._keep_failure(task, error, start)
        self._running.append(_Running(task=task, n_try=n_try, child=child, start=start))
        return None

    def _over_budget(self, task: QMTask) -> QMError | None:
        """Say so when a task would not end within the budget."""
        if self._budget is None:
            return None
        program = task.spec.program
        if program not in self._ratios:
            self._ratios[program] = machine_ratio(self._store, program)
        needed = _expected(task) * self._ratios[program]
        left = self._budget - (time.monotonic() - self._begin)
        if needed <= left:
            return None
        message = (
            f"{task.ligand_key}: not started: about {needed:.0f} s needed, {max(left, 0.0):.0f} s left of "
            f"the budget of {self._budget:.0f} s; repeat the command to go on"
        )
        return QMError(message, kind="budget", retryable=True)

    def _wait(self) -> list[_Running]:
        """Wait until at least one child has ended."""
        if not self._running:
            return []
        with selectors.DefaultSelector() as selector:
            for running in self._running:
                selector.register(running.child, selectors.EVENT_READ, running)
            return [key.data for key, _ in selector.select(self._limits.wall_seconds)] or self._running[:1]

    def _collect(self, running: _Running) -> Ending:
        task = running.task
        try:
            record = collect_record(task, running.child)
        except QMError as error:
            return self._keep_failure(task, error, running.start)
        else:
            self._store.put(record)
            self._keep_attempt(task, running.start, "ok", "")
            return record
        finally:
            self._running.remove(running)
            running.child.close()

    def _keep_failure(self, task: QMTask, error: QMError | ChildError, start: float) -> Failure:
        self._keep_attempt(task, start, error.kind, str(error))
        return failure_from_exception(error, ligand=task.ligand_key, stage="qm")

    def _keep_attempt(self, task: QMTask, start: float, kind: str, message: str) -> None:
        self._store.add_attempt(
            Attempt(
                task_key=task.key,
                seconds=time.monotonic() - start,
                predicted_seconds=_expected(task) or None,
                kind=kind,
                message=message,
            )
        )

    def close(self) -> None:
        """End what still runs."""
        for running in self._running:
            running.child.close()


def _try_again(ending: Ending, n_try: int) -> bool:
    return isinstance(ending, Failure) and ending.kind == "crash" and n_try < _TRIES


def _expected(task: QMTask) -> float:
    """Predict a task's seconds; 0 for one that will be refused."""
    try:
        return predicted_seconds(task)
    except QMError:
        return 0.0


class StoredQM:
    """The engines and a store at one level of theory: what `refine` needs of QM."""

    def __init__(self, store: QMStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._jobs = settings.jobs or psutil.cpu_count(logical=True) or 1
        self.spec: QMSpec = spec_by_name(settings.qm.spec, settings.qm.program)

    def find(self, keys: Iterable[str]) -> Mapping[str, QMRecord]:
        """Results by task key; keys that the store lacks are absent."""
        return self._store.get_many(keys)

    def estimate_seconds(self, tasks: Sequence[QMTask]) -> float:
        """Wall time that tasks will take here, by this machine's own history where there is one."""
        return estimate_seconds(tasks, self._jobs, machine_ratio(self._store, self.spec.program))

    def compute(self, tasks: Sequence[QMTask], on_result: OnResult) -> None:
        """Compute what the store lacks and put it there."""
        run_tasks(tasks, self._store, self._settings.qm, jobs=self._jobs, on_result=on_result)


@contextlib.contextmanager
def open_qm(path: Path, settings: Settings) -> Iterator[StoredQM]:
    """Open the store at `path` for the QM of these settings; StoreError, or QMError for a wrong level."""
    with QMStore(path) as store:
        yield StoredQM(store, settings)
