"""Many calculations on a QCFractal server: submitted together, looked at now and then, kept as they come.

The number of each submitted record is in the store's history, so a run that was killed finds its records
again; where it was killed in between, the server itself gives the record that it has of the same question.
While we wait we hold the tasks' leases: no other runner on this store computes them meanwhile.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import QMError, StoreError
from pipeline.qm.budget import Budget
from pipeline.qm.endings import Ending, OnResult, failure_of, run_through
from pipeline.qm.faults import error_from_text
from pipeline.qm.levels import check_question
from pipeline.qm.record import to_record
from pipeline.qm.remote import Server, result_of, status_of
from pipeline.qm.rules import rule_of, tries_again
from pipeline.schema import QMTask
from pipeline.store import SUBMITTED, Attempt, Entry, Lease, QMStore, Refused, composition_of
from pipeline.store.leases import LEASE_SECONDS, own_name

_FIRST_LOOK = 1.0
"""seconds; each later look waits half as long again, up to what the settings say"""
_UNFINISHED = ("waiting", "running")
_RECORD = "record "
"""before the number, in the message of the attempt that submitted it"""


@dataclass(frozen=True, kw_only=True)
class _Sent:
    task: QMTask
    lease: Lease
    number: int
    is_old: bool
    """whether the record is older than this request, so that an error in it may be mended by now"""
    start: float


class RemoteBatch:
    """A runner whose calculations are made elsewhere. Use it in a `with` block."""

    def __init__(
        self,
        store: QMStore,
        server: Server,
        *,
        budget: Budget,
        look_seconds: float,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look for results every `look_seconds`; what is unfinished when the budget ends stays there."""
        self._store = store
        self._server = server
        self._budget = budget
        self._look_seconds = look_seconds
        self._wait = wait
        self._runner = own_name()
        self._first_attempt = store.last_attempt()
        self._waiting: list[QMTask] = []
        self._sent: dict[str, _Sent] = {}

    def __enter__(self) -> "RemoteBatch":
        """Hand out the runner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the leases back; what was submitted stays on the server."""
        with contextlib.suppress(StoreError):
            self._store.release([sent.lease for sent in self._sent.values()])

    def run(self, tasks: Iterable[QMTask], on_result: OnResult) -> dict[str, Ending]:
        """Do as `pipeline.qm.batch.run_tasks` does; QMError (kind server) when the server stays away."""
        return run_through(self._store, tasks, self._endings, on_result)

    def _endings(self, tasks: Sequence[QMTask]) -> Iterator[tuple[QMTask, Ending]]:
        self._waiting, patience = list(tasks), _FIRST_LOOK
        while True:
            yield from self._send()
            yield from self._look()
            if not self._waiting and not self._sent:
                return
            if self._budget.left() <= 0:
                yield from self._leave()
                return
            self._rest(min(patience, self._look_seconds, self._budget.left()))
            patience *= 1.5

    def _rest(self, seconds: float) -> None:
        """Wait, and keep the leases alive meanwhile."""
        while seconds > 0:
            nap = min(seconds, LEASE_SECONDS / 4)
            self._wait(nap)
            seconds -= nap
            self._store.renew([sent.lease for sent in self._sent.values()])

    # ---- asking ----

    def _send(self) -> Iterator[tuple[QMTask, Ending]]:
        """Claim what waits and submit it; give the endings of what is refused, or done meanwhile."""
        waiting, claimed = self._waiting, []
        self._waiting = []
        for task in waiting:
            try:
                check_question(task)
            except QMError as error:
                yield task, failure_of(task, error)
                continue
            lease = self._store.claim(task.key, self._runner)
            if isinstance(lease, Lease):
                claimed.append((task, lease))
            elif lease is Refused.DONE and (record := self._store.get(task.key)):
                yield task, record
            else:
                self._waiting.append(task)  # another runner has it
        known = {task.key: number for task, _ in claimed if (number := self._submitted(task)) is not None}
        try:
            answer = self._server.submit([task for task, _ in claimed if task.key not in known])
        except QMError:
            self._store.release([lease for _, lease in claimed])
            raise
        for task, lease in claimed:
            number, is_old = (known[task.key], True) if task.key in known else answer[task.key]
            sent = _Sent(task=task, lease=lease, number=number, is_old=is_old, start=time.monotonic())
            self._sent[task.key] = sent
            if task.key not in known:
                self._store.add_attempt(self._attempt(sent, SUBMITTED, f"{_RECORD}{number}"))

    def _submitted(self, task: QMTask) -> int | None:
        """The number of the record that was last asked for, by whomever on this store."""
        numbers = [
            int(attempt.message.removeprefix(_RECORD))
            for attempt in self._store.attempts(task.key)
            if attempt.kind == SUBMITTED and attempt.host == self._server.address
        ]
        return numbers[-1] if numbers else None

    # ---- looking ----

    def _look(self) -> Iterator[tuple[QMTask, Ending]]:
        """Take the endings of those that have ended."""
        found = self._server.look(sorted({sent.number for sent in self._sent.values()}))
        for sent in list(self._sent.values()):
            record = found[sent.number]
            if record is None:
                self._forget(sent)
            elif status_of(record) not in _UNFINISHED:
                ending = self._collect(sent, record)
                if ending is not None:
                    yield sent.task, ending

    def _forget(self, sent: _Sent) -> None:
        """The server has lost the record: ask again, as if it had never been asked."""
        (answer,) = self._server.submit([sent.task]).values()
        again = dataclasses.replace(sent, number=answer[0], is_old=answer[1])
        self._sent[sent.task.key] = again
        self._store.add_attempt(self._attempt(again, SUBMITTED, f"{_RECORD}{answer[0]}"))

    def _collect(self, sent: _Sent, record: Any) -> Ending | None:
        """The ending of a finished record, kept; None when the task goes on, here or elsewhere."""
        task = sent.task
        try:
            if status_of(record) != "complete":
                where = f"record {sent.number} on {self._server.address}"
                who = f"{task.ligand_key}: {where}: {task.spec.program}"
                raise error_from_text(self._server.complaint_of(record), who=who)
            result = to_record(task, result_of(task, record))
        except QMError as error:
            return self._keep_failure(sent, record, error)
        del self._sent[task.key]
        try:
            entry = Entry(record=result, composition=composition_of(task))
            self._store.finish(sent.lease, entry, self._attempt(sent, "ok", ""))
        except StoreError as error:
            if error.kind != "lease":
                raise
            self._waiting.append(task)  # we were away too long: its result may be another's to give
            return None
        return result

    def _keep_failure(self, sent: _Sent, record: Any, error: QMError) -> Ending | None:
        """Note a failure and give it; None where the record is computed again: an old one, or by its rule."""
        task = sent.task
        can_reset = status_of(record) == "error" and rule_of(error.kind).later
        if sent.is_old and can_reset:
            self._server.reset([sent.number])
            self._sent[task.key] = dataclasses.replace(sent, is_old=False)
            return None
        del self._sent[task.key]
        self._store.fail(sent.lease, self._attempt(sent, error.kind, str(error)))
        if can_reset and tries_again(error.kind, self._store.attempts(task.key, after=self._first_attempt)):
            self._waiting.append(task)  # as an old one, which is then reset
            return None
        return failure_of(task, error)

    def _leave(self) -> Iterator[tuple[QMTask, Ending]]:
        """Say of what is unfinished that it can be collected another time."""
        for task in self._waiting:
            message = f"{task.ligand_key}: another runner has it; repeat the command to go on"
            yield task, failure_of(task, QMError(message, kind="budget"))
        for sent in list(self._sent.values()):
            message = (
                f"{sent.task.ligand_key}: record {sent.number} on {self._server.address} is unfinished at "
                f"the end of the budget of {self._budget.seconds:.0f} s; repeat the command to collect it"
            )
            yield sent.task, failure_of(sent.task, QMError(message, kind="budget"))

    def _attempt(self, sent: _Sent, kind: str, message: str) -> Attempt:
        return Attempt(
            task_key=sent.task.key,
            seconds=time.monotonic() - sent.start,
            predicted_seconds=None,
            kind=kind,
            message=message,
            host=self._server.address,
        )
