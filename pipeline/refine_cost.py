"""The cost of a batch of QM in words, and the refusal of what the budget does not pay for."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.errors import SettingsError
from pipeline.qm.bench import QMBench
from pipeline.schema import QMTask


class _Speaker(Protocol):
    """Who tells people."""

    def say(self, sentence: str) -> None:
        """Tell them a sentence."""


def say_cost(qm: QMBench, watch: _Speaker, tasks: Sequence[QMTask], budget_seconds: float | None) -> None:
    """Say what these calculations will cost; SettingsError when that is more than the budget."""
    spec = qm.spec
    if not tasks:
        watch.say(f"QM at {spec.level}: nothing to compute, all is in the store.")
        return
    seconds = qm.estimate_seconds(tasks)
    programs = {spec.level: spec.program} | {task.spec.level: task.spec.program for task in tasks}
    levels = ", ".join(f"{level} ({program})" for level, program in programs.items())
    n_there, server = qm.elsewhere(tasks)
    parts = [f"{n_there} on {server}"] if n_there else []
    if n_there < len(tasks):
        parts.append(f"{'the others ' if n_there else ''}estimated at {in_words(seconds)}")
    watch.say(f"QM at {levels}: {len(tasks)} calculations, {', '.join(parts)}.")
    if budget_seconds is not None and seconds > budget_seconds:
        fitting = qm.what_would_fit(tasks, budget_seconds)
        raise SettingsError(
            f"the QM is estimated at {in_words(seconds)}, more than the budget of "
            f"{in_words(budget_seconds)}; {fitting or 'nothing of it would fit'}; or raise the budget, "
            "or take a cheaper --spec"
        )


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
