"""The other side of `pipeline.process.child`: a small server that forks a warden, and that a worker.

    parent ── control socket ──> server ── fork ──> warden ── fork ──> worker (makes the calls)
       └────────── socket of one warden ─────────┘     └── orders ──┘

The server has one thread and imports little, so forking it is cheap and safe, whatever threads the parent
runs. A worker makes one call, or some, one after another. The warden owns it: it holds the clock of every
call, and at the worker's end kills all that it left behind; it does the same when the parent dies or closes
the socket. Warden and worker adopt every process that is orphaned below them (they are subreapers): a worker
without children has nothing left running, and a warden without children has cleared up, which its exit
status tells. Should the warden itself be killed, the server adopts and kills what it leaves.

A closed socket alone does not tell that the parent is dead: a process that it forked may hold a copy. So
server and wardens also hold a pidfd of the parent, which turns readable at its death, and wait for nothing
without watching it. None of them holds the parent's output, so nobody waits for them to close a pipe.
"""

import contextlib
import gc
import importlib
import os
import selectors
import socket
import time

import psutil

from pipeline.process.linux import adopt_orphans, has_children
from pipeline.process.warden import oversee

_CLEARING_SECONDS = 10.0


def serve(control_fd: int, parent_pid: int) -> None:
    """Fork one warden per message on the control socket until the parent is gone."""
    adopt_orphans()
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
                _bury(wardens.pop(ended), set(wardens.values()))
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
            oversee(socket.socket(fileno=fds[0]), parent)
        finally:
            os._exit(has_children())
    os.close(fds[0])
    return warden


def _bury(warden: int, others: set[int]) -> None:
    """Reap an ended warden; unless it says that it left nobody, kill whom it left: our own children now."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(warden, 0)[1] == 0:
            return
    give_up = time.monotonic() + _CLEARING_SECONDS
    while has_children() and time.monotonic() < give_up:
        strays = [child for child in psutil.Process().children() if child.pid not in others]
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
