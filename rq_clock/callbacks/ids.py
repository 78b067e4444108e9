"""Ids of tasks, like ULIDs: 48 bits of milliseconds and 80 random bits in Crockford's base 32.

They sort by creation. Those of one process grow also within a millisecond. A caller makes them
before it writes, so that the same call, sent again after a lost reply, is the same task.
"""

from __future__ import annotations

import os
import secrets
import threading
from datetime import datetime

from rq_clock.model.task import PREFIX
from rq_clock.timing.instants import from_ms, to_ms

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80


class Ids:
    """Makes ids; may be shared by threads. A forked process starts with another random part."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._restart)

    def _restart(self) -> None:
        self._last, self._lock = 0, threading.Lock()

    def next(self, now: datetime) -> str:
        """Return an id of this instant, or of the last one if that was later."""
        with self._lock:
            number = to_ms(now) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            if number >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                number = self._last + 1
            self._last = number
        return PREFIX + "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


def made_at(id: str) -> datetime:
    """Return the instant at which an id was made, to the millisecond."""
    ms = 0
    for digit in id.removeprefix(PREFIX)[:10]:
        ms = ms << 5 | _DIGITS.index(digit)
    return from_ms(ms)
