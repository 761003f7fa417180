"""The history of a store: every try at a task, however it ended, append-only."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime

from pipeline.database import Database, without_nul
from pipeline.schema import QMSpec
from pipeline.store.rows import spec_of

SUBMITTED = "submitted"
"""kind of a try that was given to a server; its message names the server's record"""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a task, however it ended."""

    task_key: str
    seconds: float
    """wall-clock"""
    predicted_seconds: float | None
    """wall-clock, what the cost model said before, uncalibrated"""
    kind: str
    """ok, submitted, or the kind of the QMError"""
    message: str = ""
    cpu_seconds: float | None = None
    """of all processes of the job; None where it did not live to tell"""
    n_cores: int | None = None
    rung: str = ""
    """of the SCF ladder: the one that converged"""
    host: str = ""
    """the machine, or the address of the server that was asked"""
    started: str = ""
    """UTC, ISO 8601; stamped by the store"""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A finished calculation's time beside its prediction."""

    spec: QMSpec
    seconds: float
    predicted_seconds: float


_NAMES = tuple(field.name for field in fields(Attempt))
_ADD = f"INSERT INTO attempts ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)})"


def add(database: Database, attempt: Attempt) -> None:
    """Append one try that ends now."""
    started = datetime.fromtimestamp(database.now() - attempt.seconds, UTC)
    values = vars(attempt) | {
        "started": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "message": without_nul(attempt.message),
    }
    database.execute(_ADD, **values)


def read(database: Database, task_key: str | None, after: int = 0) -> tuple[Attempt, ...]:
    """List the tries of one task, or of all, oldest first; those after a number."""
    which = "" if task_key is None else "AND task_key = :task_key"
    values = {} if task_key is None else {"task_key": task_key}
    query = f"SELECT {', '.join(_NAMES)} FROM attempts WHERE number > :after {which} ORDER BY number"
    rows = database.rows(query, after=after, **values)
    return tuple(Attempt(**dict(zip(_NAMES, row, strict=True))) for row in rows)


def last_number(database: Database) -> int:
    """Number of the latest try; 0 before the first."""
    return database.number("SELECT coalesce(max(number), 0) FROM attempts")


def timings(database: Database, host: str, n_latest: int) -> tuple[Timing, ...]:
    """The latest successful tries on a machine that had a prediction; tries of before version 2 name none."""
    rows = database.rows(
        "SELECT document, seconds, predicted_seconds FROM attempts "
        "JOIN results ON key = task_key JOIN specs ON specs.id = results.spec "
        "WHERE kind = 'ok' AND predicted_seconds > 0 AND host IN (:host, '') "
        "ORDER BY attempts.number DESC LIMIT :n_latest",
        host=host,
        n_latest=n_latest,
    )
    return tuple(
        Timing(spec=spec_of(document), seconds=seconds, predicted_seconds=predicted)
        for document, seconds, predicted in rows
    )
