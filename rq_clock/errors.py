"""The exceptions of rq-clock.

    RqClockError
    ├── ScheduleError      a declaration is wrong; the text lists every fault of it
    │   └── Conflict       a change at run time does not fit what there is
    ├── LeaseLost          another clock holds a newer fencing token; nothing was written
    ├── Busy               someone else works under a lock, or has done the work already
    ├── LockLost           a block no longer holds its lock
    ├── StoreUnavailable   Redis cannot be used: unreachable, wrong password, newer data, …
    ├── CommandFailed      a shell command ended with anything but 0, or took too long
    ├── WebhookFailed      a web call was refused, broke off or was not answered with 2xx
    └── Interrupted        raised by a task that leaves because its worker is to end

Each text says what was expected, what came instead and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta


class RqClockError(Exception):
    """Anything that rq-clock raises on purpose."""


class ScheduleError(RqClockError):
    """A schedule, trigger or target is declared wrongly. Raised before anything starts."""


class Conflict(ScheduleError):
    """A change that does not fit what there is; nothing was changed. `faults` are pairs of a
    schedule and why: exists, missing, declared, stale and the revision that it has now, or running
    and the job in its way."""

    def __init__(self, faults: Sequence[tuple[str, str]], near: str = "") -> None:
        told = [(name, *why.partition(" ")) for name, why in faults]
        lines = [f"{name}: {_CONFLICTS[why].format(more)}" for name, why, _, more in told]
        super().__init__("\n".join(lines) + (f"; did you mean {near!r}?" if near else ""))
        self.faults = tuple(faults)


_CONFLICTS = {
    "exists": "exists already with another definition; update it, or add it with replace=True",
    "missing": "there is no such schedule",
    "declared": "is declared in code; change it there and deploy (it can be paused, resumed, "
    "skipped, triggered and backfilled here)",
    "stale": "was changed by someone else meanwhile; read it again and repeat the change",
    "running": "expected no run in progress, got {}; wait for it, or force it",
}


class LeaseLost(RqClockError):
    """This clock no longer holds the lease; the refused write changed nothing."""


class Busy(RqClockError):
    """The lock called `lock` is not free, and the block under it has not begun.

    `holder` works under it for `seconds`; `free_in` is how many seconds it takes until the lock is
    free should nothing be heard of the holder any more. When `done`, the holder has ended with
    success `seconds` ago, and the lock is kept from everyone for another `free_in` seconds.
    """

    def __init__(
        self, lock: str, holder: str, seconds: float, free_in: float, done: bool = False
    ) -> None:
        super().__init__(lock, holder, seconds, free_in, done)
        self.lock = lock
        self.holder = holder
        self.seconds = seconds
        self.free_in = free_in
        self.done = done

    def __str__(self) -> str:
        since, left = (timedelta(seconds=round(s)) for s in (self.seconds, self.free_in))
        if self.done:
            return f"{self.lock}: done {since} ago by {self.holder}, nobody may again for {left}"
        return (
            f"{self.lock}: expected a free lock, got one held by {self.holder} for {since}; come "
            "back later, or wait for it with wait=seconds"
        )


class LockLost(RqClockError):
    """The block no longer holds its lock: it was silent for too long, or Redis was. Another one
    may work already; a resource that compares fencing tokens refuses what this one still writes."""


class StoreUnavailable(RqClockError):
    """Redis cannot be reached or cannot be used; the text says why and what to do."""


class Interrupted(RqClockError):
    """Raised by a task that leaves early because its worker is to end (`current_run().stopping`):
    its job goes back to the front of the queue, and that is no failure."""


class CommandFailed(RqClockError):
    """A shell command did not end with exit code 0; the text says how it ended, and its last words
    on standard error."""


class WebhookFailed(RqClockError):
    """A web call came to nothing: refused, broken off, too slow, or not answered with 2xx."""
