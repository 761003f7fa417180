"""How a command ends: the exit codes that every one of them shares."""

import contextlib
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
        print(f"parmflow: the run broke: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        print("parmflow: stopped; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error
