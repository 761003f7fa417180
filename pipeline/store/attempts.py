"""The history of a store: every try at a task, however it ended, append-only."""

import sqlite3
from dataclasses import dataclass

from pipeline.schema import QMSpec
from pipeline.store.rows import spec_of


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a task, however it ended."""

    task_key: str
    seconds: float
    """wall-clock"""
    predicted_seconds: float | None
    """wall-clock, what the cost model said before, uncalibrated"""
    kind: str
    """ok, or the kind of the QMError"""
    message: str = ""
    cpu_seconds: float | None = None
    """of all processes of the job; None where it did not live to tell"""
    n_cores: int | None = None
    rung: str = ""
    """of the SCF ladder: the one that converged"""
    host: str = ""
    started: str = ""
    """UTC, ISO 8601; stamped by the store"""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A finished calculation's time beside its prediction."""

    spec: QMSpec
    seconds: float
    predicted_seconds: float


_COLUMNS = "task_key, started, seconds, predicted_seconds, kind, message, cpu_seconds, n_cores, rung, host"


def add(connection: sqlite3.Connection, attempt: Attempt) -> None:
    """Append one try."""
    statement = (
        f"INSERT INTO attempts ({_COLUMNS}) "
        "VALUES (?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?), ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    row = (
        attempt.task_key,
        f"-{attempt.seconds:.3f} seconds",
        attempt.seconds,
        attempt.predicted_seconds,
        attempt.kind,
        attempt.message,
        attempt.cpu_seconds,
        attempt.n_cores,
        attempt.rung,
        attempt.host,
    )
    connection.execute(statement, row)


def read(connection: sqlite3.Connection, task_key: str | None, after: int = 0) -> tuple[Attempt, ...]:
    """List the tries of one task, or of all, oldest first; those after a number."""
    which = "" if task_key is None else "AND task_key = ?"
    values = (after,) if task_key is None else (after, task_key)
    query = f"SELECT {_COLUMNS} FROM attempts WHERE number > ? {which} ORDER BY number"
    return tuple(
        Attempt(
            task_key=row[0],
            started=row[1],
            seconds=row[2],
            predicted_seconds=row[3],
            kind=row[4],
            message=row[5],
            cpu_seconds=row[6],
            n_cores=row[7],
            rung=row[8],
            host=row[9],
        )
        for row in connection.execute(query, values)
    )


def last_number(connection: sqlite3.Connection) -> int:
    """Number of the latest try; 0 before the first."""
    return int(connection.execute("SELECT coalesce(max(number), 0) FROM attempts").fetchone()[0])


def timings(connection: sqlite3.Connection, host: str, n_latest: int) -> tuple[Timing, ...]:
    """The latest successful tries on a machine that had a prediction; tries of before version 2 name none."""
    query = (
        "SELECT document, seconds, predicted_seconds FROM attempts "
        "JOIN results ON key = task_key JOIN specs ON specs.id = results.spec "
        "WHERE kind = 'ok' AND predicted_seconds > 0 AND host IN (?, '') "
        "ORDER BY attempts.number DESC LIMIT ?"
    )
    return tuple(
        Timing(spec=spec_of(document), seconds=seconds, predicted_seconds=predicted)
        for document, seconds, predicted in connection.execute(query, (host, n_latest))
    )
