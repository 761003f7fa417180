"""Workers that make several calls, one after another: a new process for each would cost more than the work.

A call is as safe as in a child of its own: its limits, its folder and its environment are its own, and a
worker that a call leaves in any other state than before ends with it. What an earlier call may have done all
the same is not laid at a later one's door: who fails in a used worker is tried once more, alone.
"""

import os
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

from pipeline.errors import ChildError
from pipeline.process.child import Child, Hand, Limits, hire, run_in_child, value_of
from pipeline.process.messages import Reply

Result = TypeVar("Result")

N_CALLS = 32
"""calls of one worker: beyond some ten, its start costs next to nothing per call"""


class Crew:
    """Workers of this process for any number of threads; leaving the `with` block ends them.

    A worker that is idle for two minutes ends by itself. A fork of this process has workers of its own.
    """

    def __init__(self, n_calls: int = N_CALLS) -> None:
        self._n_calls = n_calls
        self._closed = False
        # No lock, which a fork could find taken: each of these steps on a dict or deque is atomic.
        self._idle: dict[tuple[int, str], deque[Hand]] = {}

    def __enter__(self) -> "Crew":
        """Hand out the crew."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the idle workers; those at work end after their call."""
        self._closed = True
        self._dismiss_idle()

    def run(self, function: Callable[..., Result], /, *args: Any, limits: Limits) -> Result:
        """Do as `run_in_child` does, in a worker that may have made other calls of the function's module.

        Where that one crashes, runs out of memory or vanishes, the answer is that of a child process which
        does nothing else. So the function may be called twice.
        """
        child = Child(function, *args, limits=limits, hire=self._hire)
        try:
            with child:
                reply = _reply_of(child)
        finally:
            self._release(child)
        if reply is None:
            return run_in_child(function, *args, limits=limits)
        return cast(Result, value_of(reply))

    def _hire(self, module: str) -> Hand:
        """Take an idle worker, else start one; each module has its own, forked with it loaded."""
        idle = self._idle_of(module)
        while True:
            try:
                hand = idle.pop()
            except IndexError:
                return hire(module, self._n_calls)
            if hand.is_there():
                return hand
            hand.dismiss()

    def _release(self, child: Child[Any]) -> None:
        if child.stays:
            self._idle_of(child.module).append(child.hand)
        if self._closed:
            self._dismiss_idle()

    def _idle_of(self, module: str) -> deque[Hand]:
        return self._idle.setdefault((os.getpid(), module), deque())

    def _dismiss_idle(self) -> None:
        for (process, _), idle in list(self._idle.items()):
            while process == os.getpid() and idle:
                idle.pop().dismiss()


def _reply_of(child: Child[Any]) -> Reply | None:
    """The reply of a call; raises its ChildError. None when an earlier call of the worker may be to blame."""
    is_used = child.hand.n_made > 1
    try:
        reply = child.reply()
    except ChildError as error:
        if is_used and error.kind != "time":
            return None
        raise
    return None if is_used and reply.cramped else reply
