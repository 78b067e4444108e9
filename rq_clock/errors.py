"""The exceptions of rq-clock.

    RqClockError
    ├── ScheduleError      a declaration is wrong; `faults` has all of its faults
    │   └── Conflict       a change at run time conflicts with the current state
    ├── LeaseLost          another clock holds a newer fencing token; nothing was written
    ├── Busy               someone else works under a lock, or has done the work already
    ├── LockLost           a block no longer holds its lock
    ├── StoreUnavailable   Redis cannot be used: unreachable, wrong password, newer data, …
    ├── CommandFailed      a shell command ended with anything but 0, or took too long
    ├── WebhookFailed      a web call was refused, broke off or was not answered with 2xx
    ├── TargetRefused      a token has defined a run whose function tokens may not call
    └── Interrupted        raised by a task that leaves because its worker is to end

Each text says what was expected, what came instead and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class RqClockError(Exception):
    """Anything that rq-clock raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `field` is the path of the option, spelled as in a manifest: "cron",
    "webhook.url", "catchUp"; "" for the whole. `schedule` is the name of the schedule, `line` the
    line of the manifest or of the app's `file`, `column` the first character of a wrong item in a
    cron expression."""

    field: str
    text: str
    schedule: str = ""
    line: int | None = None
    column: int | None = None
    file: str = ""

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        if self.file:
            line = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        name = self.schedule[:100]
        schedule = f"{name if name.isprintable() else ascii(name)}: " if name else ""
        return f"{line}{schedule}{self.text}"


class ScheduleError(RqClockError):
    """A schedule, trigger or target is declared wrongly. Raised before anything starts.

    A fault may be a plain text: it is about the whole then.
    """

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(f if isinstance(f, Fault) else Fault("", f) for f in faults)
        super().__init__(*self.faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class ConflictKind(StrEnum):
    """Why a change was refused."""

    EXISTS = "exists"
    MISSING = "missing"
    DECLARED = "declared"
    STALE = "stale"
    RUNNING = "running"
    NO_TASK = "no-task"
    TASK_STATUS = "task-status"


_CONFLICTS = {
    ConflictKind.EXISTS: "exists already with another definition; update it, or add it with "
    "replace=True",
    ConflictKind.MISSING: "there is no such schedule",
    ConflictKind.DECLARED: "is declared in code; change it there and deploy (it can be paused, "
    "resumed, skipped, triggered and backfilled here)",
    ConflictKind.STALE: "was changed by someone else meanwhile; read it again and repeat the "
    "change",
    ConflictKind.RUNNING: "expected no run in progress, got {}; wait for it, or force it",
    ConflictKind.NO_TASK: "there is no such task, or none any more",
    ConflictKind.TASK_STATUS: "expected {}",
}


class Conflict(ScheduleError):
    """A change conflicts with the current state of the schedule `name`, or of the task of that id
    (NO_TASK, TASK_STATUS); nothing was changed.

    `detail` is the id of the running job (RUNNING), the present revision (STALE), a similar name
    (MISSING), or what was expected of a task (TASK_STATUS). When a change of several schedules
    conflicts with several of them, this is the first, and `all` has each of them.
    """

    def __init__(
        self, kind: ConflictKind, name: str, detail: str = "", *, more: Sequence[Conflict] = ()
    ) -> None:
        text = _CONFLICTS[kind].format(detail)
        if kind is ConflictKind.MISSING and detail:
            text += f"; did you mean {detail!r}?"
        super().__init__(
            Fault("", text, schedule=name), *(fault for other in more for fault in other.faults)
        )
        self.kind = kind
        self.name = name
        self.detail = detail
        self.more = tuple(more)

    @property
    def all(self) -> list[Conflict]:
        """Return one conflict for each schedule."""
        return [Conflict(self.kind, self.name, self.detail), *self.more]

    @classmethod
    def join(cls, conflicts: Sequence[Conflict]) -> Conflict:
        """Return one conflict for all of these, at least one."""
        first, *more = conflicts
        return cls(first.kind, first.name, first.detail, more=more)


class LeaseLost(RqClockError):
    """This clock no longer holds the lease; the refused write changed nothing."""

    def __init__(self) -> None:
        super().__init__("another clock leads, or the lease ran out")


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
    """A shell command did not end with exit code 0; the text says how it ended, and its last line
    on standard error."""


class WebhookFailed(RqClockError):
    """A web call came to nothing: refused, broken off, too slow, or not answered with 2xx."""


class TargetRefused(RqClockError):
    """The worker did not begin a run that a token has defined without the scope `commands`: it is a
    command, or a function outside RQ_CLOCK_TARGETS."""
