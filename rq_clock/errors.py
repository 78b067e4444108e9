"""The exceptions of rq-clock.

    RqClockError
    ├── ScheduleError      a declaration is wrong; the text lists every fault of it
    ├── LeaseLost          another clock holds a newer fencing token; nothing was written
    └── StoreUnavailable   Redis cannot be used: unreachable, wrong password, newer data, …

Each text says what was expected, what came instead and what to do about it.
"""

from __future__ import annotations


class RqClockError(Exception):
    """Anything that rq-clock raises on purpose."""


class ScheduleError(RqClockError):
    """A schedule, trigger or target is declared wrongly. Raised before anything starts."""


class LeaseLost(RqClockError):
    """This clock no longer holds the lease; the refused write changed nothing."""


class StoreUnavailable(RqClockError):
    """Redis cannot be reached or cannot be used; the text says why and what to do."""
