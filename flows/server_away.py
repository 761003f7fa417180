"""Tell Prefect's server what happens; where it does not answer, the work goes on without it.

The ledger is the truth and the server only shows it: a server that goes away in mid-run must cost no ligand.
Prefect's client tries each request again for about a minute; who restarts a server in that time sees no gap.
"""

import sys
import time
from collections.abc import Callable

import httpx
from prefect import get_run_logger

from flows.doctor import ask_health
from pipeline.errors import SettingsError

QUIET_SECONDS = 600.0
"""Each question to a server that is away costs a minute of tries, so we do not ask it more often."""

_PAUSE_SECONDS = 0.5


def wait_for_server(url: str, patience: float) -> None:
    """Return when the server answers; who starts it together with us must not lose the race.

    Raises SettingsError when it does not within `patience` seconds, at once where the URL is no web address.
    """
    give_up = time.monotonic() + patience
    told = False
    while True:
        try:
            ask_health(url)
        except OSError as error:
            if time.monotonic() > give_up:
                raise SettingsError(f"no Prefect server answers at PREFECT_API_URL {url}: {error}") from error
            if not told:
                print(f"parmflow: waiting for the Prefect server at {url}", file=sys.stderr, flush=True)
                told = True
            time.sleep(_PAUSE_SECONDS)
        else:
            return


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
