"""The other side of `pipeline.process.child`: a small server that forks one warden and one worker per job.

    parent ── control socket ──> server ── fork ──> warden ── fork ──> worker (runs the function)
       └────────── job socket, one per job ───────────┘

The server has one thread and imports little, so forking it is cheap and safe, whatever threads the parent
runs. The warden owns the worker: it holds the clock, adopts every process that the worker leaves behind (it
is their subreaper), kills all of them at the end, and does the same when the parent dies or closes the job
socket. Should the warden itself be killed, the server adopts and kills what it leaves.

A closed socket alone does not tell that the parent is dead: a process that it forked may hold a copy. So
server and wardens also hold a pidfd of the parent, which turns readable at its death, and wait for nothing
without watching it. None of them holds the parent's output, so nobody waits for them to close a pipe. The
pickles here travel only between these four processes, never through a file.
"""

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import resource
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pipeline.errors import ChildError

OUTPUT_NAME = "output"
"""File in the job's folder that takes the worker's stdout and stderr."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_LENGTH = struct.Struct("!Q")
_CRAMPED = 0.9
"""share of the allowed memory beyond which a refused request may be behind any error"""
_CLEARING_SECONDS = 10.0
_ORDER_SECONDS = 120.0
"""for the parent's order to arrive; it is sent at once, however large"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parent asks for."""

    payload: bytes
    """pickled (function, args); opened only in the worker"""
    wall_seconds: float
    stall_seconds: float
    memory_mb: int
    folder: str
    """the job's own folder, made and removed by the parent; the worker starts in its `work`"""
    environment: dict[str, str]
    sys_path: list[str]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the worker ended, as the warden saw it."""

    cause: str
    """ended (by itself), time (limit reached), stalled (no CPU used) or cancelled (by the parent)"""
    status: int
    """wait status, as of os.waitpid"""
    seconds: float
    reply: bytes
    """pickled Reply; empty when the worker died before it could answer"""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the function returned or raised."""

    value: Any = None
    error: BaseException | None = None
    traceback: str = ""
    cramped: bool = False
    """it raised, and had held nearly all the memory it was allowed"""


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send one message with its length in front."""
    connection.sendall(_LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(connection: socket.socket) -> bytes | None:
    """Read one message; None when the other side is gone."""
    head = _receive_exactly(connection, _LENGTH.size)
    return None if head is None else _receive_exactly(connection, _LENGTH.unpack(head)[0])


def _receive_exactly(connection: socket.socket, n_bytes: int) -> bytes | None:
    data = bytearray()
    while len(data) < n_bytes:
        chunk = connection.recv(min(n_bytes - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def serve(control_fd: int, parent_pid: int) -> None:
    """Fork one warden per message on the control socket until the parent is gone."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.pidfd_open(parent_pid)
    if os.getppid() != parent_pid:  # it died before the line above
        return
    control = socket.socket(fileno=control_fd)
    wardens: dict[int, int] = {}
    # A poll, unlike an epoll, is no object of the kernel's that a fork would share.
    with selectors.PollSelector() as selector:
        selector.register(parent, selectors.EVENT_READ)
        selector.register(control, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if parent in ready:
                return
            for ended in wardens.keys() & ready:
                selector.unregister(ended)
                os.close(ended)
                del wardens[ended]
                _bury(set(wardens.values()))
            if control in ready:
                warden = _start_warden(control, parent)
                if warden is None:
                    return
                descriptor = os.pidfd_open(warden)
                wardens[descriptor] = warden
                selector.register(descriptor, selectors.EVENT_READ)


def _start_warden(control: socket.socket, parent: int) -> int | None:
    """Take one message and fork its warden; None when the parent has closed its end."""
    header, fds, _, _ = socket.recv_fds(control, 4096, 1)
    if not fds:
        return None
    _preload(header.decode())
    warden = os.fork()
    if warden == 0:
        control.close()
        try:
            _oversee(socket.socket(fileno=fds[0]), parent)
        finally:
            os._exit(0)
    os.close(fds[0])
    return warden


def _bury(wardens: set[int]) -> None:
    """Reap ended wardens; kill what a killed one left behind: it is now our own child."""
    give_up = time.monotonic() + _CLEARING_SECONDS
    while time.monotonic() < give_up:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        strays = [child for child in psutil.Process().children() if child.pid not in wardens]
        if not strays:
            return
        for stray in strays:
            for process in [*stray.children(recursive=True), stray]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(0.002)


_PRELOADED: set[str] = set()


def _nothing() -> None:
    """Warm nothing up."""


def _preload(module: str) -> None:
    """Import our own module once in the server, so that each worker finds it loaded, and warm it up where it
    has a `warm_up`: it does in the server what would else be done first in every worker.
    """
    if module.startswith("pipeline.") and module not in _PRELOADED:
        _PRELOADED.add(module)
        with contextlib.suppress(ImportError):  # shows up in the worker, where it is reported
            getattr(importlib.import_module(module), "warm_up", _nothing)()
    gc.freeze()  # else a worker's collector would visit, and so copy, the pages of all that is loaded


def _oversee(connection: socket.socket, parent: int) -> None:
    """Be the warden of one job: start the worker, watch it, clear everything it leaves, report."""
    connection.set_inheritable(False)
    os.setsid()
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    connection.settimeout(_ORDER_SECONDS)
    try:
        frame = receive_frame(connection)
    except OSError:  # the parent is stopped, or dead while a fork of it holds the socket
        return
    if frame is None:
        return
    job: Job = pickle.loads(frame)  # noqa: S301 - from our own parent through a socketpair
    start = time.monotonic()
    read_end, write_end = os.pipe()
    warden = os.getpid()
    worker = os.fork()
    if worker == 0:
        connection.close()
        os.close(read_end)
        try:
            _work(job, write_end, warden)
        finally:
            os._exit(1)
    os.close(write_end)
    clock = _Clock(worker, start + job.wall_seconds, job.stall_seconds)
    cause, reply = _watch(clock, read_end, (connection, parent))
    status = _clear(worker)
    if cause == "cancelled":  # the parent may be dead
        shutil.rmtree(job.folder, ignore_errors=True)
    ending = Ending(cause=cause, status=status, seconds=time.monotonic() - start, reply=reply)
    _send_ending(connection, parent, ending)


def _send_ending(connection: socket.socket, parent: int, ending: Ending) -> None:
    """Send the ending, however late the parent reads it, unless it is dead."""
    data = pickle.dumps(ending)
    view = memoryview(_LENGTH.pack(len(data)) + data)
    connection.setblocking(False)
    with selectors.PollSelector() as selector, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        selector.register(parent, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_WRITE)
        while view and parent not in {key.fileobj for key, _ in selector.select()}:
            with contextlib.suppress(BlockingIOError):
                view = view[connection.send(view) :]


class _Clock:
    """How long a worker may go on: until a deadline, and while it and what it started use any CPU.

    A library that hangs in a lock, as one may after a fork, uses none for ever.
    """

    def __init__(self, worker: int, deadline: float, stall_seconds: float) -> None:
        self.worker = worker
        self._deadline, self._stall_seconds = deadline, stall_seconds
        self._cpu_seconds, self._last_change = 0.0, time.monotonic()

    def left(self) -> float:
        """Seconds after which to look again."""
        return min(self._deadline - time.monotonic(), self._stall_seconds / 4)

    def over(self) -> str | None:
        """`time` or `stalled` when the worker must end."""
        now, used = time.monotonic(), self._used()
        if now >= self._deadline:
            return "time"
        if used != self._cpu_seconds:
            self._cpu_seconds, self._last_change = used, now
        return "stalled" if now - self._last_change > self._stall_seconds else None

    def _used(self) -> float:
        seconds = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(self.worker)
            for process in [worker, *worker.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    seconds += sum(process.cpu_times()[:4])
        return seconds


def _watch(clock: _Clock, read_end: int, owners: tuple[socket.socket, int]) -> tuple[str, bytes]:
    """Collect the worker's reply until it ends, its time is over, or its owner lets go or dies."""
    os.set_blocking(read_end, False)
    reply = bytearray()
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(clock.worker)
        for source in (ended, read_end, *owners):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select(max(0.0, clock.left()))}
            if not ready and (cause := clock.over()):
                return cause, bytes(reply)
            if read_end in ready and not _drain(read_end, reply):
                selector.unregister(read_end)
            if ready.intersection(owners):  # nothing more is ever sent: readable means closed
                return "cancelled", b""
            if ended in ready:
                _drain(read_end, reply)
                return "ended", bytes(reply)


def _drain(read_end: int, reply: bytearray) -> bool:
    """Read what is there; False when the pipe is closed."""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(read_end, 1 << 16):
            reply += chunk
        return False
    return True


def _clear(worker: int) -> int:
    """Kill the worker's group and every descendant, also those that hid; return the worker's wait status."""
    worker_status = 0
    give_up = time.monotonic() + _CLEARING_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    while time.monotonic() < give_up:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # nobody left
            return worker_status
        if pid == worker:
            worker_status = status
        elif pid == 0:
            # Orphans become our own children (we are their subreaper), so rounds of this reach everybody.
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.002)
    return worker_status


def _work(job: Job, write_end: int, warden: int) -> None:
    """Run the function under its limits and send the reply to the warden."""
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != warden:  # it died before the line above
        os._exit(1)
    folder = Path(job.folder)
    _redirect_output(folder / OUTPUT_NAME)
    os.chdir(folder / "work")
    os.environ.clear()
    os.environ.update(job.environment)
    os.environ["TMPDIR"] = str(folder / "work")
    sys.path[:] = job.sys_path
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (job.memory_mb * 2**20, before[1]))
    report = _Report()
    with report:
        function, args = pickle.loads(job.payload)  # noqa: S301 - from our own parent through a socketpair
        report.reply = Reply(value=function(*args))
    resource.setrlimit(resource.RLIMIT_AS, before)  # a MemoryError must still find room to be reported
    if report.reply.error is not None and _peak_bytes() > _CRAMPED * job.memory_mb * 2**20:
        report.reply = replace(report.reply, cramped=True)
    view = memoryview(_packed(report.reply))
    while view:
        view = view[os.write(write_end, view) :]
    sys.stdout.flush()
    os._exit(0)


def _peak_bytes() -> int:
    """Return the largest address space that this process ever had; that is what RLIMIT_AS limits."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak:")) * 1024


def _redirect_output(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
    faulthandler.enable()


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
