"""How calculations end, and what is the same wherever they are made: the store is asked first."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.errors import ChildError, QMError
from pipeline.outcome import Failure, failure_from_exception
from pipeline.qm.outliers import flag_outliers
from pipeline.qm.rules import rule_of
from pipeline.schema import QMRecord, QMTask
from pipeline.store import QMStore

Ending = QMRecord | Failure
OnResult = Callable[[QMTask, Ending], None]
Work = Callable[[Sequence[QMTask]], Iterator[tuple[QMTask, Ending]]]
"""tasks that the store lacks -> each with its ending, as they end"""


def run_through(
    store: QMStore, tasks: Iterable[QMTask], work: Work, on_result: OnResult
) -> dict[str, Ending]:
    """Give every task's record, or the Failure that it ended with, by task key, in the order of the tasks.

    What the store holds is taken from it; `work` is given the rest and keeps each new record in the store
    before `on_result` hears of it.
    """
    wanted = {task.key: task for task in tasks}
    endings: dict[str, Ending] = dict(store.get_many(wanted))
    for key, record in endings.items():
        on_result(wanted[key], record)
    todo = [task for key, task in wanted.items() if key not in endings]
    for task, ending in work(todo):
        endings[task.key] = ending
        on_result(task, ending)
    flag_outliers(store, [ending for ending in endings.values() if isinstance(ending, QMRecord)])
    return {key: endings[key] for key in wanted}


def failure_of(task: QMTask, error: QMError | ChildError) -> Failure:
    """A task's failure; its kind's rule decides whether trying again later can help."""
    failure = failure_from_exception(error, ligand=task.ligand_key, stage="qm")
    return dataclasses.replace(failure, retryable=rule_of(error.kind).later)
