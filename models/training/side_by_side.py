"""Pieces of work done by several processes, each piece by one of them, with its result left in its folder."""

import contextlib
import fcntl
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")


def side_by_side(work: Callable[[int], T], folders: Sequence[Path], processes: int) -> list[T]:
    """Results of work(number) for every folder, in order, that many at a time, each behind its folder's lock.

    `work` leaves what it made in its folder; called once more it only reads that. So a run that was killed,
    or a second one beside this, goes on where the first stands. What the caller holds is shared by a fork:
    torch runs one thread here, so none is lost in it.
    """

    def take_free(wait: bool = False) -> dict[int, T]:
        done = {}
        for number, folder in enumerate(folders):
            with claimed(folder, wait=wait) as is_ours:
                if is_ours:
                    done[number] = work(number)
        return done

    others = [_FORK.Process(target=take_free) for _ in range(min(processes, len(folders)) - 1)]
    for process in others:
        process.start()
    take_free()
    for process in others:
        process.join()
    done = take_free(wait=True)  # those that are done are only read
    return [done[number] for number in range(len(folders))]


@contextlib.contextmanager
def claimed(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder's lock, which the system drops when we die; False when another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
