"""Many calculations: the store first, then the rest, longest first, on children side by side.

Several runners, in one process or many, may work on one store: each task is computed by whoever holds its
lease, and its result is everybody's.
"""

import contextlib
import math
import platform
import selectors
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ChildError, QMError, StoreError
from pipeline.machine import usable_memory_mb
from pipeline.outcome import Failure
from pipeline.process.child import Child, Limits
from pipeline.qm.budget import Budget
from pipeline.qm.cost import Calibration, expected_memory_mb, expected_seconds
from pipeline.qm.door import collect_record, start_task
from pipeline.qm.endings import Ending, OnResult, failure_of, run_through
from pipeline.qm.result import EngineResult
from pipeline.qm.rules import limits_after, rule_of, tries_again
from pipeline.qm.schedule import cores_for, speedup
from pipeline.schema import QMTask
from pipeline.settings import QMSettings
from pipeline.store import SUBMITTED, Attempt, Entry, Lease, QMStore, Refused, Timing, composition_of
from pipeline.store.leases import LEASE_SECONDS, own_name

Start = Callable[[QMTask, Limits, int], Child[EngineResult]]
"""starts a task within limits on so many cores; QMError when it is refused"""

_HEARTBEAT_SECONDS = LEASE_SECONDS / 4
_LOOK_SECONDS = 1.0
"""between two looks at what other runners have done"""
_MEMORY_SHARE = 0.85
"""of the memory that we may use: what all jobs together are expected to need at most"""
_RESERVE_BYTES = 2**28
"""free space of the scratch disk below which nothing is started"""


def run_tasks(
    tasks: Iterable[QMTask], store: QMStore, settings: QMSettings, *, jobs: int, on_result: OnResult
) -> dict[str, Ending]:
    """Give every task's record, or the Failure that it ended with, by task key, in the order of the tasks.

    What the store holds is taken from it and never computed again; each new record is in the store before
    `on_result` hears of it. Ctrl-C ends the children and leaves the store with all that was finished.
    Raises StoreError (kind disk) when store or scratch is full: what ran is kept, the rest is not begun.
    """
    with Batch(store, settings, jobs=jobs) as batch:
        return batch.run(tasks, on_result)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Running:
    task: QMTask
    lease: Lease
    child: Child[EngineResult]
    start: float
    n_cores: int
    memory_mb: int
    """that it is expected to need"""


class Batch:
    """A runner: the children that run now and the tasks that wait. Use it in a `with` block."""

    def __init__(
        self,
        store: QMStore,
        settings: QMSettings,
        *,
        jobs: int,
        start: Start = start_task,
        budget: Budget | None = None,
    ) -> None:
        """Work on a store; `budget` is what other batches have left, None: that of the settings."""
        self._store = store
        self._limits = Limits(wall_seconds=settings.seconds_per_job, memory_mb=settings.memory_mb)
        self._memory_mb = usable_memory_mb()
        self._jobs = max(1, jobs)
        self._budget = budget or Budget(settings.budget_seconds)
        self._start_child = start
        self._calibration = Calibration(store.timings(platform.node()))
        self._first_attempt = store.last_attempt()
        self._runner = own_name()
        self._waiting: deque[QMTask] = deque()
        self._elsewhere: dict[str, QMTask] = {}
        self._running: list[_Running] = []
        self._stopped: QMError | None = None
        self._renewed = self._looked = time.monotonic()

    def __enter__(self) -> "Batch":
        """Hand out the runner."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs and give its leases back."""
        for running in self._running:
            running.child.close()
        with contextlib.suppress(StoreError):
            self._store.release([running.lease for running in self._running])

    def run(self, tasks: Iterable[QMTask], on_result: OnResult) -> dict[str, Ending]:
        """Do as `run_tasks` says."""
        return run_through(self._store, tasks, self._endings, on_result)

    def _endings(self, tasks: Sequence[QMTask]) -> Iterator[tuple[QMTask, Ending]]:
        """Yield each task with its ending, as they end."""
        self._waiting.extend(sorted(tasks, key=self._calibration.seconds, reverse=True))
        while self._waiting or self._running or self._elsewhere:
            yield from self._start_some()
            if self._stopped is not None and not self._running:
                raise StoreError(
                    f"{self._stopped}\nNothing more is started; what was finished is kept. "
                    "Free space and give the same command again.",
                    kind="disk",
                    retryable=True,
                ) from self._stopped
            yield from self._collect_some()
            self._keep_alive()

    # ---- starting ----

    def _start_some(self) -> Iterator[tuple[QMTask, Ending]]:
        while self._waiting and self._stopped is None and (n_free := self._n_free()):
            task = self._waiting[0]
            limits = limits_after(self._limits, self._store.attempts(task.key), self._memory_mb)
            if self._running and self._needed_mb(task, limits) > self._free_mb():
                return  # else the system would kill one of them
            self._waiting.popleft()
            ending: Ending | None = self._over_budget(task) or self._failed_elsewhere(task)
            if ending is None and self._has_room():
                ending = self._claim(task, limits, n_free)
            if ending is not None:
                yield task, ending

    def _n_free(self) -> int:
        return self._jobs - sum(running.n_cores for running in self._running)

    def _free_mb(self) -> int:
        """Memory that no running job is expected to need."""
        needed = sum(running.memory_mb for running in self._running)
        return int(_MEMORY_SHARE * self._memory_mb) - needed

    def _needed_mb(self, task: QMTask, limits: Limits) -> int:
        """Memory that a task is expected to need: its limit where that was raised, since it needed more."""
        was_raised = limits.memory_mb > self._limits.memory_mb
        return limits.memory_mb if was_raised else min(expected_memory_mb(task), limits.memory_mb)

    def _over_budget(self, task: QMTask) -> Failure | None:
        """Say so when a task would not end within the budget."""
        left = self._budget.left()
        if math.isinf(left) or (needed := self._calibration.seconds(task)) <= left:
            return None
        message = (
            f"{task.ligand_key}: not started: about {needed:.0f} s needed, {left:.0f} s left of "
            f"the budget of {self._budget.seconds:.0f} s; repeat the command to go on"
        )
        return failure_of(task, QMError(message, kind="budget"))

    def _failed_elsewhere(self, task: QMTask) -> Failure | None:
        """Take another runner's failure for ours when trying again would not help."""
        attempts = self._store.attempts(task.key, after=self._first_attempt)
        if not attempts or attempts[-1].kind in ("ok", SUBMITTED) or tries_again(attempts[-1].kind, attempts):
            return None
        return failure_of(task, QMError(attempts[-1].message, kind=attempts[-1].kind))

    def _has_room(self) -> bool:
        scratch = self._limits.scratch or Path(tempfile.gettempdir())
        free = shutil.disk_usage(scratch).free
        if free < _RESERVE_BYTES:
            self._stopped = QMError(f"{scratch}: only {free / 2**20:.0f} MB are free", kind="disk")
        return self._stopped is None

    def _claim(self, task: QMTask, limits: Limits, n_free: int) -> Ending | None:
        """Start a task, unless it is done or another runner has it; give its ending when it has one."""
        lease = self._store.claim(task.key, self._runner)
        if lease is Refused.DONE:
            return self._store.get(task.key)
        if lease is Refused.TAKEN:
            self._elsewhere[task.key] = task
            return None
        assert isinstance(lease, Lease)
        memory_mb = self._needed_mb(task, limits)
        rest = sum(self._calibration.seconds(other) for other in self._waiting)
        n_cores = cores_for(self._calibration.seconds(task), rest, n_free, self._jobs)
        # Where memory admits fewer jobs than there are cores, each gets its share of these.
        n_cores = max(n_cores, n_free // max(1, self._free_mb() // max(1, memory_mb)))
        start = time.monotonic()
        try:
            child = self._start_child(task, limits, n_cores)
        except (QMError, ChildError) as error:
            return self._keep_failure(task, lease, error, _Took(start=start, n_cores=n_cores))
        running = _Running(
            task=task, lease=lease, child=child, start=start, n_cores=n_cores, memory_mb=memory_mb
        )
        self._running.append(running)
        return None

    # ---- ending ----

    def _collect_some(self) -> Iterator[tuple[QMTask, Ending]]:
        """Wait until a child has ended, or a moment; take the endings of those that have."""
        for running in self._ended():
            ending = self._collect(running)
            if ending is not None:
                yield running.task, ending

    def _ended(self) -> list[_Running]:
        patience = _LOOK_SECONDS if self._elsewhere else _HEARTBEAT_SECONDS
        if not self._running:
            if self._elsewhere:
                time.sleep(patience)
            return []
        with selectors.DefaultSelector() as selector:
            for running in self._running:
                selector.register(running.child, selectors.EVENT_READ, running)
            ready = [key.data for key, _ in selector.select(patience)]
        return ready + [one for one in self._running if one.child.is_overdue and one not in ready]

    def _collect(self, running: _Running) -> Ending | None:
        """The ending of a child, kept; None when the task has to be tried again, here or elsewhere."""
        task, took = running.task, _Took(start=running.start, n_cores=running.n_cores)
        try:
            record = collect_record(task, running.child)
        except QMError as error:
            return self._keep_failure(task, running.lease, error, took)
        finally:
            self._running.remove(running)
            running.child.close()
        attempt = took.attempt(task, "ok", "", dict(record.provenance))
        if attempt.predicted_seconds:
            # A machine without a history, or busier than its history, is known after its first jobs.
            self._calibration.learn(
                Timing(spec=task.spec, seconds=attempt.seconds, predicted_seconds=attempt.predicted_seconds)
            )
        try:
            entry = Entry(record=record, composition=composition_of(task))
            self._store.finish(running.lease, entry, attempt)
        except StoreError as error:
            if error.kind != "lease":
                raise
            self._elsewhere[task.key] = task  # we were away too long: its result is another's to give
            return None
        return record

    def _keep_failure(
        self, task: QMTask, lease: Lease, error: QMError | ChildError, took: "_Took"
    ) -> Failure | None:
        """Note a failure; give it, or None when its rule says that the task is tried again."""
        self._store.fail(lease, took.attempt(task, error.kind, str(error), {}))
        if rule_of(error.kind).stops:
            self._stopped = QMError(str(error), kind=error.kind)
            return None
        if tries_again(error.kind, self._store.attempts(task.key, after=self._first_attempt)):
            self._waiting.append(task)
            return None
        return failure_of(task, error)

    def _keep_alive(self) -> None:
        """Renew our leases; look from time to time what became of the tasks that others have."""
        now = time.monotonic()
        if self._running and now - self._renewed >= _HEARTBEAT_SECONDS:
            self._store.renew([running.lease for running in self._running])
            self._renewed = now
        if self._elsewhere and now - self._looked >= _LOOK_SECONDS:
            self._waiting.extend(self._elsewhere.values())
            self._elsewhere.clear()
            self._looked = now


@dataclass(frozen=True, kw_only=True)
class _Took:
    """When a try began and on what."""

    start: float
    n_cores: int

    def attempt(self, task: QMTask, kind: str, message: str, facts: Mapping[str, str]) -> Attempt:
        """The try, ended now, for the history."""
        predicted = expected_seconds(task) / speedup(self.n_cores)
        return Attempt(
            task_key=task.key,
            seconds=time.monotonic() - self.start,
            predicted_seconds=predicted or None,
            kind=kind,
            message=message,
            cpu_seconds=float(facts["cpu_seconds"]) if "cpu_seconds" in facts else None,
            n_cores=self.n_cores,
            rung=facts.get("scf_rung", ""),
            host=platform.node(),
        )
