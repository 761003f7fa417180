"""How a run shows itself: bars on a terminal, plain lines elsewhere, nothing on stdout."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.campaign import Watch


class Bars:
    """One bar per stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def begin(self, stage: str, total: int) -> None:
        """Add a bar; a stage without work gets none."""
        if total:
            self._tasks[stage] = self._progress.add_task(stage, total=total)

    def advance(self, stage: str) -> None:
        """Move the bar by one."""
        if stage in self._tasks:
            self._progress.advance(self._tasks[stage])

    def say(self, sentence: str) -> None:
        """Print above the bars."""
        self._progress.console.print(sentence, markup=False, highlight=False)


class Lines:
    """A line at the beginning of a stage and one at every tenth of it."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._stages: dict[str, tuple[int, int, float]] = {}

    def begin(self, stage: str, total: int) -> None:
        """Say how much there is to do, where there is any."""
        if total:
            self._stages[stage] = (0, total, self._clock())
            self._write(f"{stage}: {total} to do")

    def advance(self, stage: str) -> None:
        """Count; say so at every tenth. A stage that was not begun says nothing, as with the bars."""
        if stage not in self._stages:
            return
        done, total, start = self._stages[stage]
        self._stages[stage] = (done + 1, total, start)
        if (done + 1) * 10 // total > done * 10 // total:
            self._write(f"{stage}: {done + 1} of {total}, {self._clock() - start:.0f} s")

    def say(self, sentence: str) -> None:
        """Write it."""
        self._write(sentence)


def lines_on_stderr() -> Lines:
    """Plain lines, where others write to the terminal too."""
    return Lines(lambda text: print(text, file=sys.stderr, flush=True))


@contextlib.contextmanager
def watch_on_stderr() -> Iterator[Watch]:
    """Bars when a person watches, lines when a file does."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines_on_stderr()
        return
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
