"""What several tests need and pytest does not have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """The predicate's first true value. Fails with `what` was awaited after `timeout` seconds.

    The only sleep of the suite: a test waits for something, never for a while.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
    return value
