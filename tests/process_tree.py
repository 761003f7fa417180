"""What runs below a process, seen from outside: each look may come too late for some of it."""

import contextlib
import time
from pathlib import Path

import psutil

SOON = 5.0
"""seconds within which a killed process must be gone"""


def children_of(processes: list[psutil.Process], *, recursive: bool = False) -> list[psutil.Process]:
    """Children of those that still exist."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += process.children(recursive=recursive)
    return found


def runs(process: psutil.Process) -> bool:
    """False once it is gone, or waits only to be reaped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def runs_pid(pid: int) -> bool:
    """As `runs`, for a number that may belong to nobody."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return runs(psutil.Process(pid))
    return False


def is_gone(pid: int) -> bool:
    """Whether it ends soon."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if not runs_pid(pid):
            return True
        time.sleep(0.02)
    return False


def read_pid(note: Path) -> int:
    """The number that a process writes into a file, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if note.exists() and (text := note.read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError(f"{note} was not written")
