"""The time, the signals and the connections of a process that serves for long.

The clock process, the worker and the lock read no clock, sleep nowhere and connect nowhere but
through a `Runtime`, so that a simulator can give them one of its own.
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from typing import Self

from redis import Redis

from rq_clock.settings import Settings
from rq_clock.signals import HasFileno, Signals
from rq_clock.store.client import connect


class Runtime:
    """What the operating system offers. In a `with` block it handles SIGTERM and SIGINT, and wakes
    up on those of `others`."""

    def __init__(self, *others: signal.Signals) -> None:
        self.signals = Signals(*others)

    def __enter__(self) -> Self:
        self.signals.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.signals.__exit__(*error)

    def wall(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the seconds of a clock that nobody sets."""
        return time.monotonic()

    def wait(self, seconds: float | None, *others: HasFileno) -> set[HasFileno]:
        """Sleep until a signal comes, one of `others` can be read or the time is over. Return those
        that can be read."""
        return self.signals.wait(seconds, *others)

    def connect(self, settings: Settings) -> Redis:
        """Return a client for the server that the settings name; see `store.client.connect`."""
        return connect(settings=settings)
