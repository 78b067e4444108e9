"""What several tests need and pytest does not have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import pytest
from redis.connection import AbstractConnection

from rq_clock.model.entry import Pause
from rq_clock.store.operations import Edit, Operations
from rq_clock.store.store import Store

T = TypeVar("T")
Events = Callable[[str], list[dict[str, Any]]]


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """The predicate's first true value. Fails with `what` was awaited after `timeout` seconds.

    The only sleep of the suite: a test waits for something, never for a while.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
    return value


@contextmanager
def round_trips() -> Iterator[list[Any]]:
    """What this process sends to any Redis in the block, one entry a round trip."""
    sent: list[Any] = []
    send: Any = AbstractConnection.send_packed_command

    def spy(self: AbstractConnection, command: Any, check_health: bool = True) -> None:
        sent.append(command)
        send(self, command, check_health)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", spy)
        yield sent


def pause(store: Store, name: str, now: datetime, until: datetime | None = None) -> None:
    """Pause a schedule, or all with "*", at an instant of the test's own."""
    pause = Pause(reason="maintenance", by="ops", since=now, until=until)
    Operations(store).edit([Edit(name=name, pause=pause)], now)
