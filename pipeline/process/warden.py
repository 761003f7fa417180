"""The warden: owns one worker, passes calls on to it one at a time, and sees to it that each ends."""

import contextlib
import os
import pickle
import selectors
import shutil
import signal
import socket
import time

import psutil

from pipeline.process.linux import adopt_orphans
from pipeline.process.messages import LENGTH, Ending, Job, receive_frame, send_frame
from pipeline.process.worker import STAYS, work

_CLEARING_SECONDS = 10.0
_ORDER_SECONDS = 120.0
"""how long to wait for the parent's next order; the first is sent at once, however large"""
_PASSING_SECONDS = 30.0
"""for a worker to take its order"""


def oversee(connection: socket.socket, parent: int) -> None:
    """Start a worker, pass orders on to it, report how each ended; clear everything at the end.

    It ends with its worker, when the parent (a pidfd) dies or closes the connection, and when no order came
    for a while.
    """
    connection.set_inheritable(False)
    os.setsid()
    adopt_orphans()
    orders, theirs = socket.socketpair()
    warden = os.getpid()
    worker = os.fork()
    if worker == 0:
        connection.close()
        orders.close()
        try:
            work(theirs, warden)
        finally:
            os._exit(1)
    theirs.close()
    served: Job | None = None
    desk = _Desk(worker, orders, (connection, parent))
    while (order := desk.next_order(is_first=served is None)) is not None:
        job: Job = pickle.loads(order)  # noqa: S301 - from our own parent through a socketpair
        start = time.monotonic()
        cause, answer = desk.pass_on(order, _Clock(worker, start + job.wall_seconds, job.stall_seconds))
        stays = cause == "ended" and answer[:1] == STAYS
        status = 0 if stays else _clear(worker)
        if cause == "cancelled":
            _remove_folder(job)
        seconds = time.monotonic() - start
        ending = Ending(cause=cause, status=status, seconds=seconds, reply=answer[1:], stays=stays)
        _send_ending(connection, parent, ending)
        if not stays:
            return
        served = job
    _clear(worker)
    if served is not None:
        _remove_folder(served)


def _remove_folder(job: Job) -> None:
    """Do the parent's work: it may be dead."""
    shutil.rmtree(job.folder, ignore_errors=True)


class _Desk:
    """Between owners and worker: where orders come from and answers come back."""

    def __init__(self, worker: int, orders: socket.socket, owners: tuple[socket.socket, int]) -> None:
        self._worker, self._orders, self._owners = worker, orders, owners
        self._ended = os.pidfd_open(worker)

    def next_order(self, *, is_first: bool) -> bytes | None:
        """Wait for an order; None when nobody will give one, or nobody is there to take it.

        The first is on its way, and taken even where the worker was killed before: its end is what to tell.
        """
        connection, _ = self._owners
        connection.settimeout(_ORDER_SECONDS)
        sources = self._owners if is_first else (self._ended, *self._owners)
        with _selector(*sources) as selector, contextlib.suppress(OSError):
            ready = {key.fileobj for key, _ in selector.select(_ORDER_SECONDS)}
            if ready == {connection}:
                # OSError: the parent is stopped, or dead while a fork of it holds the socket
                return receive_frame(connection)
        return None

    def pass_on(self, order: bytes, clock: "_Clock") -> tuple[str, bytes]:
        """Have an order done: the cause of its end, and the answer, empty when the worker gave none.

        An answer counts when the worker stays for the next order, or has ended.
        """
        self._orders.settimeout(_PASSING_SECONDS)
        try:
            send_frame(self._orders, order)
        except OSError:  # dead, or stopped
            os.kill(self._worker, signal.SIGKILL)
        self._orders.setblocking(False)
        received = bytearray()
        with _selector(self._ended, self._orders, *self._owners) as selector:
            while True:
                ready = {key.fileobj for key, _ in selector.select(max(0.0, clock.left()))}
                if not ready and (cause := clock.over()):
                    return cause, b""
                if self._orders in ready and not _drain(self._orders, received):
                    selector.unregister(self._orders)
                if ready.intersection(self._owners):  # they wait for us: readable means closed
                    return "cancelled", b""
                if self._ended in ready:
                    _drain(self._orders, received)
                    return "ended", _frame_in(received)
                if _frame_in(received)[:1] == STAYS:
                    return "ended", _frame_in(received)


def _selector(*sources: "socket.socket | int") -> selectors.PollSelector:
    selector = selectors.PollSelector()
    for source in sources:
        selector.register(source, selectors.EVENT_READ)
    return selector


def _drain(connection: socket.socket, received: bytearray) -> bool:
    """Read what is there; False when the other side is closed."""
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        while chunk := connection.recv(1 << 16):
            received += chunk
        return False
    return True


def _frame_in(received: bytearray) -> bytes:
    """The frame that came, when all of it is there; else nothing."""
    if len(received) < LENGTH.size:
        return b""
    (n_bytes,) = LENGTH.unpack_from(received)
    return bytes(received[LENGTH.size :]) if len(received) == LENGTH.size + n_bytes else b""


def _send_ending(connection: socket.socket, parent: int, ending: Ending) -> None:
    """Send the ending, however late the parent reads it, unless it is dead."""
    data = pickle.dumps(ending)
    view = memoryview(LENGTH.pack(len(data)) + data)
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
