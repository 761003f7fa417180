"""Pieces of work done by several processes, each by one of them; its result is left in a folder, or sent."""

import contextlib
import fcntl
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")
_SENT_TOGETHER = 50


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


def sent_back(work: Callable[[int], T], n: int, processes: int) -> list[T]:
    """Results of work(number) for numbers below n, in order, each sent back by the process that made it.

    For what is quickly made again: nothing is left on disk. Forks, as above.
    """
    if processes < 2:
        return [work(number) for number in range(n)]
    parts = [range(start, min(start + _SENT_TOGETHER, n)) for start in range(0, n, _SENT_TOGETHER)]
    results: list[T] = []
    with ProcessPoolExecutor(processes, _FORK, initializer=_Piece.take_up, initargs=(work,)) as pool:
        for part in pool.map(_Piece.do, parts):
            results += pickle.loads(part)  # noqa: S301 - from our own fork
    return results


class _Piece:
    """What a fork of `sent_back` does; the work came with the fork."""

    work: Callable[[int], object]

    @classmethod
    def take_up(cls, work: Callable[[int], object]) -> None:
        cls.work = staticmethod(work)

    @classmethod
    def do(cls, numbers: range) -> bytes:
        """Pickled here: torch would send each tensor through a file of its own."""
        return pickle.dumps([cls.work(number) for number in numbers])


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
