"""What runs below a process, seen from outside: each look may come too late for some of it."""

import contextlib

import psutil


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
