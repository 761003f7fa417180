"""The wall time that all QM of a run may take together."""

import math
import time
from collections.abc import Callable


class Budget:
    """Runs from the first look on, over all batches of a run and in whatever thread they are."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Give it so many seconds; None: as many as are needed."""
        self.seconds = math.inf if seconds is None else seconds
        self._clock = clock
        self._begin: float | None = None

    def left(self) -> float:
        """Seconds that are left now, never negative; the first look starts the clock."""
        now = self._clock()
        if self._begin is None:
            self._begin = now
        return max(0.0, self.seconds - (now - self._begin))
