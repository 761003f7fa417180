"""Which calculation runs when, on how many cores: the dearest first, the machine full and never more."""

import heapq
from collections.abc import Sequence

_WORTH_SECONDS = 2.0
"""a shorter job is over before a second core has helped"""
_SPEEDUP_POWER = 0.8
"""n cores make a job n^0.8 times faster: psi4 and pyscf, gradients of 9 to 20 atoms on two cores"""


def cores_for(seconds: float, rest: float, n_free: int, n_cores: int) -> int:
    """Choose the cores of the next job: its share of all the work that waits, at least one.

    `seconds` is the job on one core, `rest` the sum of those that wait behind it. Jobs on a core each take
    half the time of one after the other on two (measured: 22 to 27 s against 50 to 52 s for four DMSO
    gradients), so that a job gets more than one only where it would outlast all others.
    """
    if seconds < _WORTH_SECONDS:
        return 1
    share = n_cores * seconds / (seconds + rest)
    return max(1, min(n_free, round(share)))


def speedup(n_cores: int) -> float:
    """How many times faster a job is on so many cores."""
    return float(n_cores**_SPEEDUP_POWER)


def wall_seconds(jobs: Sequence[float], n_cores: int) -> float:
    """Play the schedule: the time from first start to last end of jobs of these lengths on one core."""
    waiting = sorted(jobs)
    rest, now, n_free = sum(waiting), 0.0, n_cores
    running: list[tuple[float, int]] = []
    while waiting:
        seconds = waiting.pop()
        rest -= seconds
        if n_free == 0:
            now, width = heapq.heappop(running)
            n_free += width
        width = cores_for(seconds, rest, n_free, n_cores)
        heapq.heappush(running, (now + seconds / speedup(width), width))
        n_free -= width
    return max((end for end, _ in running), default=now)
