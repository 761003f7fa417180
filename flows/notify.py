"""Tell somebody: a command of the user's is run when a run is complete, or when too much of it fails.

The command gets the facts as JSON on its standard input, and its last argument is the event, `completed` or
`many-failures`; it runs once per event and state of the run. What it does wrong is said, and stops nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.campaign import Watch
from pipeline.errors import ChildError
from pipeline.ledger import Ledger
from pipeline.process.program import run_program
from pipeline.settings import NotifySettings

SECONDS = 60.0
"""that the command may take"""
MIN_SETTLED = 20
"""records; a failed fraction of fewer says nothing"""
_ASK_EVERY = 20


class Herald:
    """A watch that passes on what it is told, and calls the user's command when the time has come."""

    def __init__(self, watch: Watch, ledger: Ledger, folder: Path, settings: NotifySettings) -> None:
        self._watch, self._ledger, self._folder, self._settings = watch, ledger, folder, settings
        self._n_advanced = 0

    def begin(self, stage: str, total: int) -> None:
        """Pass it on."""
        self._watch.begin(stage, total)

    def say(self, sentence: str) -> None:
        """Pass it on."""
        self._watch.say(sentence)

    def advance(self, stage: str) -> None:
        """Pass it on, and look at the failed fraction every now and then."""
        self._watch.advance(stage)
        self._n_advanced += 1
        limit = self._settings.failed_fraction
        if limit is not None and self._n_advanced % _ASK_EVERY == 0:
            n_settled, n_failed = self._ledger.n_outcomes(), self._ledger.n_outcomes(status="failed")
            if n_settled >= MIN_SETTLED and n_failed > limit * n_settled:
                self._tell("many-failures", f"more than {limit:g} of the records failed")

    def complete(self) -> None:
        """The run has its tables."""
        state = (
            f"{self._ledger.n_outcomes(status='ok')} ok, {self._ledger.n_outcomes(status='failed')} failed"
        )
        self._tell("completed", state)

    def _tell(self, event: str, state: str) -> None:
        command = self._settings.command
        if not command or self._ledger.recall(f"told {event}") == state:
            return
        self._ledger.remember(f"told {event}", state)
        try:
            run_program(
                [*command, event],
                self._folder,
                seconds=SECONDS,
                answers=json.dumps(self._facts(event, state)),
            )
        except ChildError as error:
            self._watch.say(f"the notification command failed: {error}")

    def _facts(self, event: str, state: str) -> dict[str, object]:
        names: Sequence[str] = ("stage", "kind", "n_records", "n_retryable")
        return {
            "event": event,
            "state": state,
            "folder": str(self._folder),
            "n_records": self._ledger.n_records(),
            "n_ok": self._ledger.n_outcomes(status="ok"),
            "n_failed": self._ledger.n_outcomes(status="failed"),
            "failures": [dict(zip(names, row, strict=True)) for row in self._ledger.failures_by_class()],
        }
