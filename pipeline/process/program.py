"""DOOR: run another program in a folder, within a time limit; nothing it started outlives the call."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import which

from pipeline.errors import ChildError, VerificationError

_TAIL = 2000
"""characters of the output that a message quotes"""

_SILENCING = {
    "OMP_NUM_THREADS": "1",
    "GMX_MAXBACKUP": "-1",
    # An MPI program started without mpirun need not look for a cluster: half its start-up time.
    "OMPI_MCA_ess_singleton_isolated": "1",
    "OMPI_MCA_btl": "self",
    "OMPI_MCA_pml": "ob1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def is_installed(program: str) -> bool:
    """Whether the program is on the search path."""
    return which(program) is not None


def run_program(command: Sequence[str], folder: Path, *, seconds: float, answers: str = "") -> str:
    """Run a command in `folder` with `answers` on its standard input; return what it printed.

    Raises ChildError of kind `missing`, `time`, `crash` (a signal) or `status` (it said no, not worth another
    try), the last two with the end of the output.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Open MPI's programs tread on each other's session folders in a shared TMPDIR.
            env=os.environ | _SILENCING | {"TMPDIR": str(folder)},
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        message = f"{command[0]} is not installed; install it, or check without it"
        raise ChildError(message, kind="missing", retryable=False) from error
    except OSError as error:  # may not be executed, or is no program
        message = f"{command[0]} cannot be run: {error.strerror or error}"
        raise ChildError(message, kind="missing", retryable=False) from error
    try:
        output, _ = process.communicate(answers, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        message = f"{command[0]} was stopped after its limit of {seconds:g} s"
        raise ChildError(message, kind="time") from error
    finally:
        _end(process)
    if process.returncode < 0:
        how = f"was killed by {signal.Signals(-process.returncode).name}"
        raise ChildError(f"{command[0]} {how}; its last output:\n{output[-_TAIL:]}")
    if process.returncode > 0:
        message = f"{command[0]} ended with status {process.returncode}; its last output:\n{output[-_TAIL:]}"
        raise ChildError(message, kind="status", retryable=False)
    return output


@contextlib.contextmanager
def refusal_is_a_difference(file: str) -> Iterator[None]:
    """Turn a program's refusal of a delivered file into the VerificationError that it is."""
    try:
        yield
    except ChildError as error:
        if error.kind != "status":
            raise
        raise VerificationError(f"{file}: {error}") from error


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the program's whole group; it is dead already unless something went wrong."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
