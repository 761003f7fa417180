"""The worker: a process that makes one call after another, each as if it were its first.

It goes on only while a call leaves it as it was. What shows that one did not - a child, a thread, an open
file, another umask, a used random seed, much memory - makes it end with that call.
"""

import faulthandler
import gc
import locale
import os
import pickle
import random
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pipeline.errors import ChildError, ParmflowError
from pipeline.process.linux import adopt_orphans, die_with, flush_c_output, has_children
from pipeline.process.messages import OUTPUT_NAME, Job, Reply, receive_frame, send_frame

STAYS, GOES = b"s", b"g"
"""first byte of an answer; the pickled reply follows"""

_CRAMPED = 0.9
"""share of the allowed memory beyond which a refused request may be behind any error"""
_WORN = 0.5
"""share of the memory that was left at its start beyond which a worker takes no further call"""
_LITTER = 200_000
"""objects a worker with calls to come leaves unsearched for cycles; ParmEd leaves 14,000, 3 MB, per ligand"""
_LOOKS, _LOOK_SECONDS = 10, 0.005
"""at what a call left behind, before it counts"""
_STATUS_MARKS = ("Umask:", "Threads:", "SigBlk:", "SigIgn:", "Cpus_allowed:")
_SIGNALS_OF_GLIBC = 0b11 << 31
"""signals 32 and 33: caught from the first thread of a process on, also when that has ended"""
_RESOURCES = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})


def work(orders: socket.socket, warden: int) -> None:
    """Make the calls that the warden passes on, until there are no more or one leaves marks; then exit."""
    os.setsid()
    die_with(warden)
    adopt_orphans()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker, unmarked, start = os.getpid(), _marks(), _peak_bytes()
    stays = True
    while stays and (frame := receive_frame(orders)) is not None:
        job: Job = pickle.loads(frame)  # noqa: S301 - from our own parent through a socketpair
        if job.may_stay:
            gc.set_threshold(_LITTER)
        reply = _call(job)
        if os.getpid() != worker:  # a fork that the function let return
            os._exit(1)
        stays = (
            job.may_stay
            and (reply.error is None or isinstance(reply.error, ParmflowError))
            and _peak_bytes() - start <= _WORN * (job.memory_mb * 2**20 - start)
            and _leaves(unmarked)
            and not has_children()  # asked last: without threads, nobody can start one afterwards
        )
        send_frame(orders, (STAYS if stays else GOES) + _packed(reply))
        del reply
    os._exit(0)


def _call(job: Job) -> Reply:
    """Call the function under its limits, in its folder, environment and import path."""
    folder = Path(job.folder)
    _redirect_output(folder / OUTPUT_NAME)
    os.chdir(folder / "work")
    os.environ.clear()
    os.environ.update(job.environment)
    os.environ["TMPDIR"] = str(folder / "work")
    tempfile.tempdir = None  # found anew, there
    sys.path[:] = job.sys_path
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (job.memory_mb * 2**20, before[1]))
    report = _Report()
    with report:
        function, args = pickle.loads(job.payload)  # noqa: S301 - from our own parent through a socketpair
        report.reply = Reply(value=function(*args))
    resource.setrlimit(resource.RLIMIT_AS, before)  # a MemoryError must still find room to be reported
    sys.stdout.flush()
    flush_c_output()
    if report.reply.error is not None and _peak_bytes() > _CRAMPED * job.memory_mb * 2**20:
        return replace(report.reply, cramped=True)
    return report.reply


def _leaves(unmarked: tuple[object, ...]) -> bool:
    """Whether the process is as it was; a thread that was joined is counted for some milliseconds more."""
    for _ in range(_LOOKS):
        if _marks() == unmarked:
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _marks() -> tuple[object, ...]:
    """What a call can leave behind in its process and nothing restores before the next."""
    numpy_random = sys.modules.get("numpy.random")
    seed = None if numpy_random is None else numpy_random.get_state()
    status = _status_lines()
    caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
    return (
        [line for line in status if line.startswith(_STATUS_MARKS)],
        caught & ~_SIGNALS_OF_GLIBC,
        [resource.getrlimit(number) for number in _RESOURCES],
        [signal.getsignal(number) for number in signal.valid_signals()],
        signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        sorted(entry.name for entry in Path("/proc/self/fd").iterdir()),
        random.getstate(),
        seed and (seed[1].tobytes(), seed[2:]),
        locale.setlocale(locale.LC_ALL),
        (sys.stdin, sys.stdout, sys.stderr),
    )


def _peak_bytes() -> int:
    """Return the largest address space that this process ever had; that is what RLIMIT_AS limits."""
    return next(int(line.split()[1]) for line in _status_lines() if line.startswith("VmPeak:")) * 1024


def _status_lines() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


def _redirect_output(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


class _Report:
    """Keeps what the block returned or raised, to be raised again in the parent."""

    reply = Reply()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            text = "".join(traceback.format_exception(kind, error, trace))
            self.reply = Reply(error=error, traceback=text)
        return True


def _packed(reply: Reply) -> bytes:
    """Pickle a reply; one that cannot travel becomes a ChildError that says so."""
    try:
        packed = pickle.dumps(reply)
        if reply.error is not None:
            pickle.loads(packed)  # noqa: S301 - made one line above: some exceptions pickle and do not unpickle
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        what = reply.error if reply.error is not None else reply.value
        message = f"{type(what).__name__} cannot be sent to the parent process: {str(what)[:500]} ({error})"
        return pickle.dumps(Reply(error=ChildError(message, retryable=False), traceback=reply.traceback))
    return packed
