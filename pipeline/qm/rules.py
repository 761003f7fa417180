"""What is done after a failed calculation: one rule per kind of failure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.process.child import Limits
from pipeline.store import Attempt


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is done after a failure of one kind."""

    tries: int = 1
    """in one batch, the first included"""
    later: bool = False
    """whether trying again another time, as `parmflow retry` does, can help"""
    memory_factor: float = 1.0
    """of each try after such a failure, in this batch or a later one"""
    seconds_factor: float = 1.0
    """likewise, of the limit on wall time"""
    stops: bool = False
    """the machine's fault: no other calculation is started, and all can go on when it is mended"""


RULES = {
    "input": Rule(),  # the same question gets the same answer
    "engine": Rule(later=True),  # not understood; a program that was not installed may be by then
    "scf": Rule(),  # the ladder was climbed to its end inside the engine
    "geometry": Rule(),
    "connectivity": Rule(),
    "linear": Rule(),
    "memory": Rule(tries=2, memory_factor=2.0, later=True),
    "time": Rule(seconds_factor=2.0, later=True),
    "crash": Rule(tries=2, later=True),  # may be the machine's; a second one is the job's
    "lost": Rule(tries=3, later=True),  # whoever watched the job was killed: not the job's fault
    "disk": Rule(later=True, stops=True),
    "budget": Rule(later=True),
}
_MOST_GROWTH = 8.0
"""a job that needs more than so many times its limits is not helped by raising them again"""


def rule_of(kind: str) -> Rule:
    """The rule for a kind of failure; one without a rule is treated as one not understood."""
    return RULES.get(kind, RULES["engine"])


def tries_again(kind: str, attempts: Iterable[Attempt]) -> bool:
    """Tell whether a batch tries a task again after a failure of this kind, from its attempts of today."""
    return sum(attempt.kind == kind for attempt in attempts) < rule_of(kind).tries


def limits_after(limits: Limits, attempts: Iterable[Attempt], memory_mb: int) -> Limits:
    """Raise a job's limits by what its earlier attempts died of; never beyond the machine's memory."""
    died = Counter(attempt.kind for attempt in attempts)
    memory = min(_MOST_GROWTH, RULES["memory"].memory_factor ** died["memory"])
    seconds = min(_MOST_GROWTH, RULES["time"].seconds_factor ** died["time"])
    return replace(
        limits,
        memory_mb=max(limits.memory_mb, min(int(limits.memory_mb * memory), memory_mb)),
        wall_seconds=limits.wall_seconds * seconds,
    )
