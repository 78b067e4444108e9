"""Waiting for signals, sockets and time at once, without a thread."""

from __future__ import annotations

import select
import signal
import socket
from typing import Protocol

ENDING = {signal.SIGTERM, signal.SIGINT}


class HasFileno(Protocol):
    """A socket, or anything else for select."""

    def fileno(self) -> int: ...


class Signals:
    """SIGTERM and SIGINT as something to wait for.

    The handlers do nothing: Python's C-level handler writes the signal's number to a pipe, and the
    loop reads it. A handler that raised, or set a threading.Event, could run in the middle of
    anything, also of the wait for it. `others` only end a wait.
    """

    def __init__(self, *others: signal.Signals) -> None:
        self.stopping = False
        self.ended_child = False
        """A SIGCHLD has come; reset it after looking at the children."""
        self._numbers = {*ENDING, *others}

    def __enter__(self) -> Signals:
        self._pipe, self._end = socket.socketpair()
        self._pipe.setblocking(False)
        self._end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._end.fileno(), warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, lambda *_: None) for s in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.close()

    def close(self) -> None:
        """Close the pipe. For a child that was forked inside the block."""
        self._pipe.close()
        self._end.close()

    def wait(self, seconds: float | None, *others: HasFileno) -> set[HasFileno]:
        """Sleep until a signal, until one of `others` can be read, or for `seconds`; precise to a
        fraction of a millisecond. Return those of `others` that can be read."""
        if seconds is not None:
            seconds = max(seconds, 0.0)
        readable, _, _ = select.select([self._pipe, *others], [], [], seconds)
        if self._pipe in readable:
            numbers = self._pipe.recv(4096)
            self.stopping |= any(number in ENDING for number in numbers)
            self.ended_child |= signal.SIGCHLD in numbers
        return set(readable).intersection(others)
