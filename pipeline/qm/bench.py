"""What the campaign needs of QM: a contract, so that a test can put a fake in its place."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pipeline.outcome import Failure
from pipeline.schema import QMRecord, QMSpec, QMTask


class QMBench(Protocol):
    """Where reference calculations are made and kept: engines and store at one level of theory."""

    @property
    def spec(self) -> QMSpec:
        """The level of theory."""

    def find(self, keys: Iterable[str]) -> Mapping[str, QMRecord]:
        """Results by task key; keys that the store lacks are absent."""

    def elsewhere(self, tasks: Sequence[QMTask]) -> tuple[int, str]:
        """How many of these tasks a server computes, and which one, in words."""

    def estimate_seconds(self, tasks: Sequence[QMTask]) -> float:
        """Wall time that those computed here will take."""

    def what_would_fit(self, tasks: Sequence[QMTask], budget_seconds: float) -> str:
        """What of these tasks could be done within a budget, in words; empty when nothing."""

    def compute(
        self, tasks: Sequence[QMTask], on_result: Callable[[QMTask, QMRecord | Failure], None]
    ) -> None:
        """Compute what the store lacks and put it there; what it holds is heard of too."""
