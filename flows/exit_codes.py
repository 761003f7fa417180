"""How a command ends: the exit codes that every one of them shares."""

import contextlib
import os
import select
import signal
import sqlite3
import sys
from collections.abc import Iterator

import typer

from pipeline.errors import ParmflowError, UsageError

INTERRUPTED = 130
"""Exit code after Ctrl-C, the shell's convention (128 + SIGINT)."""


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn our errors into one sentence on stderr and an exit code: 2 usage, 1 the batch broke."""
    try:
        yield
    except UsageError as error:
        print(f"parmflow: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except (ParmflowError, OSError, sqlite3.Error) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            raise typer.Exit(1) from error
        print(f"parmflow: the run broke: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        print("parmflow: stopped; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error


def nobody_reads() -> bool:
    """Whether stdout or stderr is a pipe whose reader is gone, as after `| head -1`."""
    pipes = select.poll()
    for descriptor in (1, 2):
        pipes.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in pipes.poll(0))


@contextlib.contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """End as Unix tools do, by SIGPIPE and without a word, where nobody reads what is printed.

    Only here: elsewhere Python ignores that signal, so that a lost socket or child ends no program.
    """
    try:
        yield
    finally:
        if nobody_reads():
            with contextlib.suppress(BrokenPipeError):
                print(end="", flush=True)  # stdout may still have its reader
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)
