"""What parent, warden and worker say to each other, as frames on a socket.

The pickles here travel only between these processes, never through a file.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Any

OUTPUT_NAME = "output"
"""File in the call's folder that takes the worker's stdout and stderr."""

LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parent asks for: one call."""

    payload: bytes
    """pickled (function, args); opened only in the worker"""
    wall_seconds: float
    stall_seconds: float
    memory_mb: int
    folder: str
    """the call's own folder, made and removed by the parent; the worker goes to its `work`"""
    environment: dict[str, str]
    sys_path: list[str]
    may_stay: bool
    """whether the worker may wait for another call afterwards"""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the call ended, as the warden saw it."""

    cause: str
    """ended (by itself), time (limit reached), stalled (no CPU used) or cancelled (by the parent)"""
    status: int
    """wait status of the worker, as of os.waitpid; 0 when it stays"""
    seconds: float
    reply: bytes
    """pickled Reply; empty when the worker died before it could answer"""
    stays: bool
    """the worker is as it was before, alone, and waits for another call"""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the function returned or raised."""

    value: Any = None
    error: BaseException | None = None
    traceback: str = ""
    cramped: bool = False
    """it raised, and the worker had held nearly all the memory it was allowed"""


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send one message with its length in front."""
    connection.sendall(LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(connection: socket.socket) -> bytes | None:
    """Read one message; None when the other side is gone."""
    head = _receive_exactly(connection, LENGTH.size)
    return None if head is None else _receive_exactly(connection, LENGTH.unpack(head)[0])


def _receive_exactly(connection: socket.socket, n_bytes: int) -> bytes | None:
    data = bytearray()
    while len(data) < n_bytes:
        chunk = connection.recv(min(n_bytes - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
