"""The time, the signals and the connections of a process that serves for long.

The clock process, the worker and the lock read no clock, sleep nowhere and connect nowhere but
through a `Runtime`, so that a simulator can give them one of its own.
"""

from __future__ import annotations

import gc
import select
import signal
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol, Self

from redis import Redis

from rq_clock.settings import Settings
from rq_clock.store.client import connect
from rq_clock.store.server_time import ServerTime

ENDING = {signal.SIGTERM, signal.SIGINT}


class HasFileno(Protocol):
    """A socket, or anything else for select."""

    def fileno(self) -> int: ...


class Signals:
    """SIGTERM and SIGINT as something to wait for.

    The handlers do nothing: Python's C-level handler writes the signal's number to a pipe, and the
    loop reads it. A handler that raised, or set a threading.Event, could run in the middle of
    anything, also of the wait for it. `others` only end a wait.

    Without `handled` no signal is touched, and only `stop` ends the wait: in a thread of a process
    whose signals are not ours.
    """

    def __init__(self, *others: signal.Signals, handled: bool = True) -> None:
        self.stopping = False
        self.ended_child = False
        """A SIGCHLD has come; reset it after looking at the children."""
        self._numbers = {*ENDING, *others} if handled else set()

    def __enter__(self) -> Signals:
        self._pipe, self._end = socket.socketpair()
        self._pipe.setblocking(False)
        self._end.setblocking(False)
        if self._numbers:
            self._wakeup = signal.set_wakeup_fd(self._end.fileno(), warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, lambda *_: None) for s in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        if self._numbers:
            signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.close()

    def stop(self) -> None:
        """End the wait as SIGTERM does. From any thread, also after the block."""
        self.stopping = True
        with suppress(OSError):  # the pipe is full, or closed
            self._end.send(b"\0")

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


def wall_time() -> datetime:
    """Return this host's time of day."""
    return datetime.fromtimestamp(time.time(), UTC)


class Collector:
    """Python's garbage collector. One that is not `owned` is left as it is: in a thread of a
    process that does other things too."""

    def __init__(self, *, owned: bool) -> None:
        self._owned = owned

    def freeze(self) -> None:
        """Leave out what exists now from all later collections."""
        if self._owned:
            gc.freeze()

    def suspend(self) -> None:
        """Collect only on request."""
        if self._owned:
            gc.disable()

    def resume(self) -> None:
        if self._owned:
            gc.enable()

    def collect(self) -> None:
        if self._owned:
            gc.collect()


class Runtime:
    """What the operating system offers. In a `with` block it handles SIGTERM and SIGINT, and wakes
    up on those of `others`. With `in_thread` signals and the garbage collector belong to somebody
    else, and stay as they are."""

    def __init__(self, *others: signal.Signals, in_thread: bool = False) -> None:
        self.signals = Signals(*others, handled=not in_thread)
        self.collector = Collector(owned=not in_thread)
        self.time = ServerTime(self.monotonic, self.wall)

    def __enter__(self) -> Self:
        self.signals.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.signals.__exit__(*error)

    def now(self) -> datetime:
        """Return the server's time, as measured last and reckoned since."""
        return self.time.now()

    def wall(self) -> float:
        """Return this host's time of day, in epoch seconds. Only compared with the server's."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds of a clock that nobody sets."""
        return time.monotonic()

    def wait(self, seconds: float | None, *others: HasFileno) -> set[HasFileno]:
        """Sleep until a signal comes, one of `others` can be read or the time is over. Return those
        that can be read."""
        return self.signals.wait(seconds, *others)

    def connect(self, settings: Settings, *, measured: bool = False) -> Redis:
        """Return a client for the server that the settings name; see `store.client.connect`. With
        `measured`, each new connection first measures the server's time."""
        on_connect = self.time.measure_connection if measured else None
        return connect(settings=settings, on_connect=on_connect)
