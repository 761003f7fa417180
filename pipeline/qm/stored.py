"""What `refine` needs of QM: the engines here or on a server, and a store, at one level of theory."""

import contextlib
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.database import Place
from pipeline.machine import usable_cores
from pipeline.qm.batch import Batch
from pipeline.qm.budget import Budget
from pipeline.qm.cost import Calibration, what_would_fit
from pipeline.qm.endings import OnResult
from pipeline.qm.levels import spec_by_name
from pipeline.qm.remote import DRIVERS, Server
from pipeline.qm.remote_batch import RemoteBatch
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.settings import Settings
from pipeline.store import QMStore


class StoredQM:
    """The engines and a store at one level of theory."""

    def __init__(self, store: QMStore, settings: Settings, server: Server | None = None) -> None:
        """Compute here, or, single points at the level of the references, on a server."""
        self._store = store
        self._settings = settings
        self._server = server
        self.budget = Budget(settings.qm.budget_seconds)
        self._jobs = settings.jobs or usable_cores()
        self.spec: QMSpec = spec_by_name(settings.qm.spec, settings.qm.program)

    def find(self, keys: Iterable[str]) -> Mapping[str, QMRecord]:
        """Results by task key; keys that the store lacks are absent."""
        return self._store.get_many(keys)

    def elsewhere(self, tasks: Sequence[QMTask]) -> tuple[int, str]:
        """How many of these tasks a server computes, and which one, in words; none without a server."""
        if self._server is None:
            return 0, ""
        return sum(map(self._goes_there, tasks)), self._server.in_words(self.spec.program)

    def estimate_seconds(self, tasks: Sequence[QMTask]) -> float:
        """Wall time that tasks will take here, by this machine's own history where there is one."""
        here = [task for task in tasks if not self._goes_there(task)]
        return Calibration(self._store.timings(platform.node())).batch_seconds(here, self._jobs)

    def what_would_fit(self, tasks: Sequence[QMTask], budget_seconds: float) -> str:
        """Say what of these tasks could be done within a budget; empty when nothing."""
        return what_would_fit(tasks, budget_seconds, self.estimate_seconds)

    def compute(self, tasks: Sequence[QMTask], on_result: OnResult) -> None:
        """Compute what the store lacks and put it there, first what is computed here."""
        there = [task for task in tasks if self._goes_there(task)]
        here = [task for task in tasks if not self._goes_there(task)]
        qm = self._settings.qm
        if here:
            with Batch(self._store, qm, jobs=self._jobs, budget=self.budget) as batch:
                batch.run(here, on_result)
        if self._server is not None and there:
            look_seconds = qm.server.look_seconds
            with RemoteBatch(
                self._store, self._server, budget=self.budget, look_seconds=look_seconds
            ) as some:
                some.run(there, on_result)

    def _goes_there(self, task: QMTask) -> bool:
        return (
            self._server is not None
            and task.spec.driver in DRIVERS
            and (task.spec.program, task.spec.level) == (self.spec.program, self.spec.level)
        )


@contextlib.contextmanager
def open_qm(place: Place | Path, settings: Settings, server: Server | None = None) -> Iterator[StoredQM]:
    """Open the store at `place` for the QM of these settings; StoreError, or QMError for a wrong level."""
    with QMStore(place) as store:
        yield StoredQM(store, settings, server)
