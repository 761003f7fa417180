"""Who computes what: a lease per task, with a token that fences off a runner that has lost it.

A runner claims a task before it computes it and renews its leases while it lives. A lease ends when it is
given back, when nobody renewed it for LEASE_SECONDS, or at once when its runner is a process of this machine
that is no longer there. The next claim draws a larger token; the store takes a result only with the token of
the lease that stands. So a runner that slept through its lease can write nothing.
"""

import os
import platform
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache

import psutil

from pipeline.errors import StoreError

LEASE_SECONDS = 60.0
_SAME_START = 1.0
"""second; a process started at another time is another process with the same number"""
NOW = "(julianday('now') - 2440587.5) * 86400.0"
"""the clock of all leases, seconds since 1970, UTC"""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to write one task's result."""

    task_key: str
    token: int


class Refused(Enum):
    """Why a task cannot be claimed."""

    DONE = auto()
    """its result is in the store"""
    TAKEN = auto()
    """another runner computes it"""


def own_name() -> str:
    """Name this process as a runner: machine, process number, and when it was started."""
    return f"{platform.node()} {os.getpid()} {_own_start(os.getpid()):.2f}"


@cache
def _own_start(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def is_dead(runner: str) -> bool:
    """Tell whether a runner is a process of this machine that is no longer there."""
    host, pid, start = runner.rsplit(" ", 2)
    if host != platform.node():
        return False
    try:
        process = psutil.Process(int(pid))
        gone = process.status() == psutil.STATUS_ZOMBIE
        return gone or abs(process.create_time() - float(start)) > _SAME_START
    except psutil.NoSuchProcess:
        return True


def claim(connection: sqlite3.Connection, task_key: str, runner: str) -> Lease | Refused:
    """Take the lease of a task; call it inside a transaction."""
    if connection.execute("SELECT 1 FROM results WHERE key = ?", (task_key,)).fetchone():
        return Refused.DONE
    query = f"SELECT runner, expires > {NOW} FROM leases WHERE task_key = ?"
    row = connection.execute(query, (task_key,)).fetchone()
    if row is not None and row[1] and not is_dead(row[0]):
        return Refused.TAKEN
    statement = f"INSERT OR REPLACE INTO leases (task_key, runner, expires) VALUES (?, ?, {NOW} + ?)"
    token = connection.execute(statement, (task_key, runner, LEASE_SECONDS)).lastrowid
    assert token is not None
    return Lease(task_key=task_key, token=token)


def renew(connection: sqlite3.Connection, leases: Iterable[Lease]) -> None:
    """Push the end of leases away; those that somebody else took meanwhile stay lost."""
    connection.executemany(
        f"UPDATE leases SET expires = {NOW} + ? WHERE token = ?",
        [(LEASE_SECONDS, lease.token) for lease in leases],
    )


def end(connection: sqlite3.Connection, lease: Lease) -> None:
    """Give a lease back; StoreError (kind lease) when it is no longer ours. Call it inside a transaction."""
    deleted = connection.execute("DELETE FROM leases WHERE token = ?", (lease.token,)).rowcount
    if deleted != 1:
        raise StoreError(
            f"the lease of task {lease.task_key[:12]} was lost to another runner: nothing was written",
            kind="lease",
            retryable=True,
        )


def remove_dead(connection: sqlite3.Connection) -> int:
    """Remove the leases that have ended; call it inside a transaction."""
    query = f"SELECT token, runner, expires > {NOW} FROM leases"
    dead = [token for token, runner, alive in connection.execute(query) if not alive or is_dead(runner)]
    connection.executemany("DELETE FROM leases WHERE token = ?", [(token,) for token in dead])
    return len(dead)
