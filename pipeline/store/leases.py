"""Who computes what: a lease per task, with a token that fences off a runner that has lost it.

A runner claims a task before it computes it and renews its leases while it lives. A lease ends when it is
given back, when nobody renewed it for LEASE_SECONDS, or at once when its runner is a process of this machine
that is no longer there; in another container nobody can tell. The next claim draws a larger token; the store
takes a result only with the token of the lease that stands. So a runner that slept through its lease can
write nothing.
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from pathlib import Path

import psutil

from pipeline.database import Database

LEASE_SECONDS = 60.0
_SAME_START = 1.0
"""second; a process started at another time is another process with the same number"""


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
    """Name this process as a runner: where it is, process number, and when it was started."""
    return f"{_here()} {os.getpid()} {_own_start(os.getpid()):.2f}"


def _here() -> str:
    """This machine and its numbering of processes: a container has its own, and perhaps our host's name."""
    return f"{platform.node()}:{Path('/proc/self/ns/pid').stat().st_ino}"


@cache
def _own_start(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def is_dead(runner: str) -> bool:
    """Tell whether a runner is a process that we would see here, and do not."""
    where, pid, start = runner.rsplit(" ", 2)
    if where != _here():
        return False
    try:
        process = psutil.Process(int(pid))
        gone = process.status() == psutil.STATUS_ZOMBIE
        return gone or abs(process.create_time() - float(start)) > _SAME_START
    except psutil.NoSuchProcess:
        return True


def claim(database: Database, task_key: str, runner: str) -> Lease | Refused:
    """Take the lease of a task; call it inside a transaction."""
    if database.row("SELECT 1 FROM results WHERE key = :key", key=task_key):
        return Refused.DONE
    now = database.now()
    row = database.row("SELECT runner, expires FROM leases WHERE task_key = :key", key=task_key)
    if row is not None:
        if row[1] > now and not is_dead(row[0]):
            return Refused.TAKEN
        database.execute("DELETE FROM leases WHERE task_key = :key", key=task_key)
    database.execute(
        "INSERT INTO leases (task_key, runner, expires) VALUES (:key, :runner, :expires)",
        key=task_key,
        runner=runner,
        expires=now + LEASE_SECONDS,
    )
    token = database.number("SELECT token FROM leases WHERE task_key = :key", key=task_key)
    return Lease(task_key=task_key, token=token)


def renew(database: Database, leases: Iterable[Lease]) -> None:
    """Push the end of leases away; those that somebody else took meanwhile stay lost."""
    expires = database.now() + LEASE_SECONDS
    database.execute_many(
        "UPDATE leases SET expires = :expires WHERE token = :token",
        ({"expires": expires, "token": lease.token} for lease in leases),
    )


def end(database: Database, lease: Lease) -> bool:
    """Give a lease back; False when it is no longer ours. Call it inside a transaction."""
    return database.execute("DELETE FROM leases WHERE token = :token", token=lease.token) == 1


def remove_dead(database: Database) -> int:
    """Remove the leases that have ended; call it inside a transaction."""
    now = database.now()
    rows = database.rows("SELECT token, runner, expires FROM leases")
    dead = [{"token": token} for token, runner, expires in rows if expires <= now or is_dead(runner)]
    return database.execute_many("DELETE FROM leases WHERE token = :token", dead)


def count(database: Database) -> int:
    """Number of leases that have not run out."""
    return database.number("SELECT count(*) FROM leases WHERE expires > :now", now=database.now())
