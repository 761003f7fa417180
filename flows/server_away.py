"""Tell Prefect's server what happens; where it does not answer, the work goes on without it.

The ledger is the truth and the server only shows it: a server that goes away in mid-run must cost no ligand.
Prefect's client tries each request again for about a minute; who restarts a server in that time sees no gap.
"""

import time
from collections.abc import Callable

import httpx
from prefect import get_run_logger

QUIET_SECONDS = 600.0
"""Each question to a server that is away costs a minute of tries, so we do not ask it more often."""


def is_away(error: BaseException | None) -> bool:
    """Whether an error says that nobody answers at the server's address; Prefect wraps it in others."""
    while error is not None:
        if isinstance(error, httpx.TransportError):
            return True
        error = error.__cause__
    return False


class Teller:
    """Tells the server, and leaves it in peace for a while after it did not answer."""

    def __init__(self) -> None:
        self._quiet_until = float("-inf")

    def tell(self, what: Callable[[], object]) -> None:
        """Do something that only people at the server's UI miss where it is away."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            what()
        except (httpx.TransportError, RuntimeError) as error:
            if not is_away(error):
                raise
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            get_run_logger().warning("Prefect's server does not answer; the work goes on without it")
