"""What a worker and the process of its jobs tell each other, so that neither waits for the other.

Small messages of a fixed size go over a pair of sockets. What may be large, a job and how it ended,
lies in a file in memory that both have open. So a job with megabytes of arguments does not keep the
worker from its heartbeats while the process is still busy with the one before.

The head of the file holds what either side may read at any time: until when the process may go on
by itself, whether the worker has to end, and whether the job's output is recorded.

What a job prints comes over pipes (pipes.py).
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import tempfile
from contextlib import suppress
from typing import Any, NamedTuple

from rq_clock.worker.pipes import Pipes

_MESSAGE = struct.Struct("<cQ")
_DEADLINE = struct.Struct("<d")
_STOPPING, _RECORDED, _BODY = _DEADLINE.size, _DEADLINE.size + 1, 16
"""Offsets in the file."""
_KEPT = 1024 * 1024
"""A file that has grown beyond this many bytes is cut again after reading."""
JOB, STORED, NO_MORE, ENDED, REUSABLE = b"j", b"s", b"n", b"e", b"r"


class Message(NamedTuple):
    """A message. The worker sends JOB, STORED when the end of a job is stored, and NO_MORE instead
    of a job: that its end is closed would be noticed late where others have inherited it. ENDED and
    REUSABLE both bring how a job ended; after REUSABLE the process takes another job."""

    kind: bytes
    content: Any


class Channel:
    """One end; `other` is to be the end of the forked process."""

    def __init__(self) -> None:
        self.pipes = Pipes()
        self._socket, self._far = socket.socketpair()
        self._file = _memory()

    def become_other(self) -> None:
        """Be the other end: in the forked process."""
        self._socket.close()
        self._socket = self._far
        self.pipes.become_other()

    def close_other(self) -> None:
        """Close the other end: in the process that forked."""
        self._far.close()
        self.pipes.close_other()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, kind: bytes, content: Any = None) -> None:
        """Send a message. Raises OSError when the other end is gone, or this one is closed."""
        if self._socket.fileno() < 0:
            raise OSError("the channel is closed")
        packed = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
        written = 0
        while written < len(packed):
            written += os.pwrite(self._file, packed[written:], _BODY + written)
        self._socket.sendall(_MESSAGE.pack(kind, len(packed)))

    def receive(self) -> Message:
        """Wait for a message. Raises EOFError when the other end is closed, OSError when this one
        is."""
        head = self._socket.recv(_MESSAGE.size, socket.MSG_WAITALL)
        if len(head) < _MESSAGE.size:
            raise EOFError
        kind, size = _MESSAGE.unpack(head)
        packed = os.pread(self._file, size, _BODY)
        if size > _KEPT:
            os.ftruncate(self._file, _BODY)
        return Message(kind, pickle.loads(packed))

    def poll(self) -> Message | None:
        """Return the message that has come, if any. Raises as `receive`."""
        try:
            if not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise EOFError
        except BlockingIOError:
            return None
        return self.receive()

    @property
    def deadline(self) -> float:
        """Until when (monotonic seconds) the job may go on; 0 before it has begun."""
        packed = os.pread(self._file, _DEADLINE.size, 0)
        return float(_DEADLINE.unpack(packed)[0]) if len(packed) == _DEADLINE.size else 0.0

    @deadline.setter
    def deadline(self, moment: float) -> None:
        os.pwrite(self._file, _DEADLINE.pack(moment), 0)

    @property
    def stopping(self) -> bool:
        """Whether the worker has to end."""
        return os.pread(self._file, 1, _STOPPING) == b"\1"

    def announce_stop(self) -> None:
        """Let `stopping` be true from now on."""
        os.pwrite(self._file, b"\1", _STOPPING)

    @property
    def recorded(self) -> bool:
        """Whether the job's output is kept also where that of functions is not."""
        return os.pread(self._file, 1, _RECORDED) == b"\1"

    @recorded.setter
    def recorded(self, choice: bool) -> None:
        os.pwrite(self._file, b"\1" if choice else b"\0", _RECORDED)

    def close(self) -> None:
        """Close this end, once or again: the other one reads the end of its messages."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            self.pipes.close()
            with suppress(OSError):  # the job has closed it
                os.close(self._file)


def _memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rq-clock-job")
    with tempfile.TemporaryFile() as file:  # elsewhere than on Linux
        return os.dup(file.fileno())
