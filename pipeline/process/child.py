"""DOOR: run a function in a supervised child process that cannot take the batch down with it.

A segmentation fault, an abort, a hang or a memory leak in a library ends as a ChildError with the signal's
name and the tail of the output. `pipeline.process.child_server` describes the processes behind this door.
Linux only.
"""

import contextlib
import fcntl
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import psutil

from pipeline.errors import ChildError, is_full
from pipeline.process.messages import OUTPUT_NAME, Ending, Job, Reply, receive_frame, send_frame

Result = TypeVar("Result")

_GRACE_SECONDS = 30.0
"""How much later than its limit a job's report may come before it counts as lost."""
_LAST_SECONDS = 1.0
"""for the report of a job that is overdue"""
_TAIL_BYTES = 4000
_NEW, _JOB = "parmflow-new-", "parmflow-job-"
_ABANDONED_SECONDS = 3600.0
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""for the server: a thread that runs, or a pool that waits, is lost in a fork with the locks that it holds"""
_MEMORY_WORDS = ("bad_alloc", "MemoryError", "Cannot allocate memory", "out of memory", "Out of memory")
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from pipeline.process.child_server import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a child process may use."""

    wall_seconds: float
    memory_mb: int
    """address space of each process of the job"""
    stall_seconds: float = 600.0
    """a job that uses no CPU for so long hangs, and is ended"""
    scratch: Path | None = None
    """folder in which the job's own folder is made; None: the system's temporary folder"""


class Isolate(Protocol):
    """Runs a function where it can take nothing else down: in a child process, or a plain call."""

    def __call__(self, function: Callable[..., Result], /, *args: object, limits: Limits) -> Result:
        """Give back what the function returned, or raise what it raised."""


def run_in_child(function: Callable[..., Result], *args: Any, limits: Limits) -> Result:
    """Run `function(*args)` in a process of its own, within limits, and return what it returns.

    The function and its arguments must be picklable; it starts in an empty folder that is removed afterwards.
    Raises what the function raised, with the child's traceback as a note, or ChildError with kind `time`,
    `memory`, `crash` (a signal, an exit), `lost` (it hung, or the supervisor itself vanished) or `disk` (no
    room for its folder).
    """
    with Child(function, *args, limits=limits) as child:
        return child.result()


@dataclass(kw_only=True, eq=False)
class Hand:
    """A worker and its warden, as their parent sees them; it makes one call at a time."""

    connection: socket.socket
    n_left: int
    """calls that the worker may still make"""
    n_made: int = 0

    def is_there(self) -> bool:
        """Whether it waits for a call; it does not when it waited too long, or was killed."""
        self.connection.setblocking(False)
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def dismiss(self) -> None:
        """End the call if one still runs, and the worker; wait until all its processes are gone."""
        try:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)  # the warden takes this as the order to stop
                self.connection.settimeout(_GRACE_SECONDS)
                while self.connection.recv(1 << 16):
                    pass
        finally:
            self.connection.close()


def hire(module: str, n_calls: int = 1) -> Hand:
    """Start a worker for some calls of functions of a module."""
    return Hand(connection=_SERVER.open_warden(module), n_left=n_calls)


class Child(Generic[Result]):
    """A function running in a supervised process: wait on `fileno()`, then take `result()`.

    Leaving the `with` block ends the job and everything it started, and removes its folder; only a hand that
    `stays` is not dismissed. `hire` gives the hand, for the name of the function's module.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        *args: Any,
        limits: Limits,
        hire: Callable[[str], Hand] = hire,
    ) -> None:
        payload = pickle.dumps((function, args))
        self._limits = limits
        self._deadline = time.monotonic() + limits.wall_seconds + _GRACE_SECONDS
        self._lease: int | None
        self._folder, self._lease = _make_folder(limits.scratch or Path(tempfile.gettempdir()))
        self.module = getattr(function, "__module__", None) or ""
        try:
            self.hand = hire(self.module)
        except BaseException:
            self._remove_folder()
            raise
        self.stays = False
        try:
            self._order(payload)
        except BaseException:
            self.close()
            raise

    def _order(self, payload: bytes) -> None:
        self.hand.n_left -= 1
        self.hand.n_made += 1
        job = Job(
            payload=payload,
            wall_seconds=self._limits.wall_seconds,
            stall_seconds=self._limits.stall_seconds,
            memory_mb=self._limits.memory_mb,
            folder=str(self._folder),
            environment=dict(os.environ),
            sys_path=_absolute_sys_path(),
            may_stay=self.hand.n_left > 0,
        )
        self.hand.connection.settimeout(_GRACE_SECONDS)
        # Whoever does not take the order is seen as `lost` by result().
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            send_frame(self.hand.connection, pickle.dumps(job))

    def __enter__(self) -> "Child[Result]":
        """Hand out the running job."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the job."""
        self.close()

    @property
    def is_overdue(self) -> bool:
        """The report should have come long ago: whoever watches the job does not answer."""
        return time.monotonic() > self._deadline

    def fileno(self) -> int:
        """A descriptor that becomes readable when the job has ended."""
        return self.hand.connection.fileno()

    def result(self) -> Result:
        """Wait for the end of the job; return its value or raise its error."""
        return cast(Result, value_of(self.reply()))

    def reply(self) -> Reply:
        """Wait for the end of the job; return what the function returned or raised, or raise ChildError."""
        self.hand.connection.settimeout(max(_LAST_SECONDS, self._deadline - time.monotonic()))
        try:
            frame = receive_frame(self.hand.connection)
        except (TimeoutError, ConnectionResetError):
            frame = None
        if frame is None:
            raise ChildError("the child process and its supervisor vanished", kind="lost")
        ending: Ending = pickle.loads(frame)  # noqa: S301 - from our own child through a socketpair
        self.stays = ending.stays
        return self._reply_of(ending)

    def _reply_of(self, ending: Ending) -> Reply:
        if ending.cause == "time":
            message = f"stopped after its limit of {self._limits.wall_seconds:g} s"
            raise ChildError(self._with_output(message), kind="time")
        if ending.cause == "stalled":
            message = f"hung: it used no CPU for {self._limits.stall_seconds:g} s"
            raise ChildError(self._with_output(message), kind="lost")
        if not ending.reply or os.waitstatus_to_exitcode(ending.status) != 0:
            raise self._death(ending)
        reply: Reply = pickle.loads(ending.reply)  # noqa: S301 - from our own child through a socketpair
        if isinstance(reply.error, MemoryError):
            message = self._with_output("ran out of the memory it was allowed")
            raise ChildError(message, kind="memory") from reply.error
        if isinstance(reply.error, SystemExit | KeyboardInterrupt | GeneratorExit):  # must not end the parent
            raise ChildError(f"ended with {reply.error!r}\n{reply.traceback}") from reply.error
        return reply

    def _death(self, ending: Ending) -> ChildError:
        code = os.waitstatus_to_exitcode(ending.status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        message = self._with_output(f"{how} after {ending.seconds:.1f} s")
        if any(word in message for word in _MEMORY_WORDS):
            return ChildError(message, kind="memory")
        return ChildError(message, kind="crash")

    def _with_output(self, message: str) -> str:
        tail = ""
        with contextlib.suppress(OSError), (self._folder / OUTPUT_NAME).open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = output.read().decode(errors="replace").strip()
        return f"the child process {message}" + (f"; its last output:\n{tail}" if tail else "")

    def close(self) -> None:
        """End the job if it still runs, wait until its processes are gone, remove its folder."""
        try:
            if not self.stays:
                self.hand.dismiss()
        finally:
            self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None


def value_of(reply: Reply) -> Any:
    """What the function returned; raises what it raised, with the child's traceback as a note."""
    if reply.error is None:
        return reply.value
    reply.error.add_note(f"In the child process:\n{reply.traceback}")
    raise reply.error


class _Server:
    """The forking server of this process, started at the first job and again should it die or hang."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leave the server to the process that it belongs to; a fork of that has none, and a free lock."""
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    def open_warden(self, module: str) -> socket.socket:
        """Ask for a warden; return our end of its socket."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            for _ in range(2):
                if self._control is None:
                    self._control = self._start()
                try:
                    socket.send_fds(self._control, [module.encode() or b"-"], [theirs.fileno()])
                    return ours
                except (BrokenPipeError, ConnectionResetError, TimeoutError):
                    self._stop()
        ours.close()
        raise ChildError(f"the server of child processes does not stay alive: {self._said}", kind="lost")

    def _start(self) -> socket.socket:
        # Message boundaries must hold, so that one descriptor comes with one job: SEQPACKET.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_GRACE_SECONDS)
        # Our own stdout and stderr may be pipes, whose reader would wait until the server and its jobs close
        # them too.
        self._output = os.memfd_create("parmflow-child-server")
        arguments = [json.dumps(_absolute_sys_path()), str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C is ours to handle
                env=os.environ | _ONE_THREAD,
            )
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        self._process.kill()
        self._process.wait()
        self._said = os.pread(self._output, _TAIL_BYTES, 0).decode(errors="replace").strip()
        os.close(self._output)


_SERVER = _Server()
os.register_at_fork(after_in_child=_SERVER.forget)
_SWEPT: set[Path] = set()


def _absolute_sys_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path]


def _make_folder(base: Path) -> tuple[Path, int]:
    """Make a job's folder, leased by a lock that the system releases when we die."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        if base not in _SWEPT:
            _SWEPT.add(base)
            sweep(base)
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=base))
        lease = os.open(new / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lease, fcntl.LOCK_EX)
        (new / "work").mkdir()
        # Only a leased folder gets the name that `sweep` looks for.
        folder = new.with_name(new.name.replace(_NEW, _JOB))
        new.rename(folder)
    except OSError as error:
        advice, kind = ("; free space and run again", "disk") if is_full(error) else ("", "lost")
        raise ChildError(f"no scratch folder can be made in {base}: {error}{advice}", kind=kind) from error
    return folder, lease


def sweep(base: Path) -> list[Path]:
    """Remove the job folders in `base` whose owner is dead, and end who works there; return the removed."""
    removed = []
    for folder in [*base.glob(f"{_JOB}*"), *base.glob(f"{_NEW}*")]:
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if folder.stat().st_uid != os.getuid() or not _is_abandoned(folder):
                continue
            _end_strays(folder)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _end_strays(folder: Path) -> None:
    """Kill what still works in an abandoned folder: its supervisors were killed all at once."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                process.kill()


def _is_abandoned(folder: Path) -> bool:
    if folder.name.startswith(_NEW):  # not leased yet, for a moment
        return time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS
    lease = os.open(folder / "lease", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lease)
    return True
