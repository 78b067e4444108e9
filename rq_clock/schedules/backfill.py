"""Backfills: preview one, create one, and compute its next step.

A backfill is created with its span and the fire times in it that have run. The leader takes one
step after another (clock/backfiller.py), each from the cursor of the step before
(lua/backfill_step.lua).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rq_clock.errors import ScheduleError
from rq_clock.model.decision import DECISION_LIMIT, Skip
from rq_clock.model.entry import Entry
from rq_clock.model.ledger import Enqueued, LedgerEntry, instant_of
from rq_clock.model.schedule import Schedule
from rq_clock.store.audit import Actor
from rq_clock.store.backfills import Backfill, Step, backfill_id
from rq_clock.store.operations import Operations
from rq_clock.timing.instants import from_ms, iso, read_instant, to_ms
from rq_clock.timing.triggers import MANY

BACKFILL_LIMIT = 1000
"""Fire times of a backfill at most, unless the caller sets a limit."""
SEARCHED = 1000
"""Fire times that one step examines."""
SHORTEST_LOOK, LONGEST_LOOK = timedelta(milliseconds=200), timedelta(seconds=2)
"""Time to the next step of a running backfill: short after progress, longer while its jobs run."""
_MS = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The fire times that a backfill would enqueue: `count`, from `first` to `last`.

    Those in `left_out` (ms) have run, or will run in another backfill. A count of MANY or more
    means "at least". `rule` is the trigger as JSON.
    """

    start: datetime
    end: datetime
    count: int
    first: datetime | None
    last: datetime | None
    left_out: frozenset[int]
    rule: str

    @property
    def count_text(self) -> str:
        return f"at least {self.count:,}" if self.count >= MANY else f"{self.count:,}"


def missed_in(
    entry: Entry,
    start: datetime,
    end: datetime,
    ran: Iterable[LedgerEntry],
    running: Iterable[Backfill] = (),
) -> Preview:
    """Return the decided fire times of any span."""
    schedule, end = entry.schedule, min(end, entry.decided)
    assert schedule is not None
    start, end = (
        from_ms(to_ms(start + _MS - _MICROSECOND)),
        from_ms(to_ms(end)),
    )  # as stored: whole ms
    trigger, offset = schedule.trigger, schedule.offset
    last = trigger.latest_at(end - offset)
    first = trigger.next_after(start - _MS - offset)
    nothing = Preview(
        start=start, end=end, count=0, first=None, last=None, left_out=frozenset(),
        rule=schedule.rule(),
    )  # fmt: skip
    if first is None or last is None or last < first:
        return nothing
    done = {e.fire_time for e in ran if isinstance(e, Enqueued) and e.reason != "manual"}
    done.update(*(_to_come(backfill, schedule, start, end) for backfill in running))
    left_out = frozenset(
        to_ms(t) for t in done if start <= t <= end and schedule.next_after(t - _MS) == t
    )  # a trigger that was replaced has other fire times
    count = trigger.count(start - _MS - offset, end - offset)
    return replace(
        nothing,
        count=count if count >= MANY else max(0, count - len(left_out)),
        first=first + offset,
        last=last + offset,
        left_out=left_out,
    )


def step(
    backfill: Backfill, schedule: Schedule, living: Sequence[str], now: datetime, look: datetime
) -> Step:
    """Return the next step of a backfill, while the jobs in `living` still run."""
    schedule = schedule.under(backfill.rule)
    free = backfill.at_once - len(living)
    cursor = backfill.cursor or backfill.start - _MS
    chosen: list[datetime] = []
    skipped, over = 0, False
    for _ in range(SEARCHED):
        following = schedule.next_after(cursor)
        if following is None or following > backfill.end:
            over = True
            break
        if to_ms(following) in backfill.left_out:
            skipped += 1
        elif len(chosen) < min(free, DECISION_LIMIT):
            chosen.append(following)
        else:
            break
        cursor = following
    return Step(
        schedule=schedule,
        fire_times=tuple(chosen),
        living=tuple(living),
        cursor=cursor,
        skipped=skipped,
        over=over and not living and not chosen,
        look=now if skipped and not chosen and not over else look,
    )


def _to_come(
    backfill: Backfill, schedule: Schedule, start: datetime, end: datetime
) -> Iterator[datetime]:
    """Yield the fire times from `start` to `end` that a backfill has yet to enqueue."""
    schedule = schedule.under(backfill.rule)
    t = max(backfill.cursor or backfill.start - _MS, start - _MS)
    while (following := schedule.next_after(t)) and following <= min(end, backfill.end):
        if to_ms(following) not in backfill.left_out:
            yield following
        t = following


# ---- creating one -----------------------------------------------------------------------------


def preview(
    operations: Operations, name: str, start: datetime, end: datetime, *, again: bool
) -> Preview:
    """Decide the fire times that are due now. Return those from `start` to `end`, both inclusive,
    that a backfill would enqueue. Raises ScheduleError, also for an impossible span."""
    entry = operations.settle(name, operations.store.now())
    if entry is None or entry.schedule is None:
        raise ScheduleError(f"{name}: it has no fire times: {entry.fault if entry else 'gone'}")
    start, end = (
        read_instant(value, entry.schedule.trigger.tz, field=field)
        for value, field in ((start, "start"), (end, "end"))
    )
    if end < start:
        raise ScheduleError(
            f"{name}: expected the end of the span after its start, got {start.isoformat()} to "
            f"{end.isoformat()}"
        )
    if start > entry.decided:
        raise ScheduleError(
            f"{name}: expected a span of the past, got one from {start.isoformat()}; the clock "
            "enqueues later fire times"
        )
    if again:
        return missed_in(entry, start, end, ())
    running = operations.backfills.running(name)
    ledger = operations.store.ledger(name)
    _refuse_forgotten(entry, start, ledger, running, operations.store.history)
    return missed_in(entry, start, end, ledger, running)


def _refuse_forgotten(
    entry: Entry,
    start: datetime,
    ledger: Sequence[LedgerEntry],
    running: Sequence[Backfill],
    cap: int,
) -> None:
    """Raise ScheduleError where the ledger does not reach back to `start`: nobody knows what ran
    before its first entry. It keeps the newest `cap` entries."""
    assert entry.schedule is not None
    reach = next((_begin(e) for e in ledger if _is_clocks(e)), None)
    full = len(ledger) >= cap
    before = start - _MS if full else max(start - _MS, entry.known_since)
    unknown = entry.schedule.next_after(before)
    ran = {e.fire_time for e in ledger if isinstance(e, Enqueued)}
    while unknown and (unknown in ran or any(b.start <= unknown <= b.end for b in running)):
        unknown = entry.schedule.next_after(unknown)  # a backfill has it
    if unknown is None or unknown > entry.decided or (reach and unknown >= reach):
        return
    since = f"goes back to {iso(reach)}" if reach else "is gone"
    raise ScheduleError(
        f"{entry.name}: expected a span that its history covers, which {since}, got one from "
        f"{iso(start)}; begin later, or run all of it whether it ran or not, with again=True or "
        "--again"
    )


def _is_clocks(entry: LedgerEntry) -> bool:
    """Return whether the clock wrote it at its fire time, so that the entries come in order."""
    if isinstance(entry, Enqueued):
        return entry.reason in ("schedule", "catch_up")
    return isinstance(entry, Skip)


def _begin(entry: LedgerEntry) -> datetime:
    return entry.first if isinstance(entry, Skip) else instant_of(entry)


def create_backfill(  # noqa: PLR0913 - each a choice of its own
    operations: Operations,
    name: str,
    span: tuple[datetime, datetime],
    actor: Actor,
    *,
    at_once: int,
    again: bool,
    limit: int,
) -> Backfill:
    """Create a backfill. Raises ScheduleError."""
    others = (
        None if again else operations.backfills.count()
    )  # first: another one may be created meanwhile
    found = preview(operations, name, *span, again=again)
    if found.count > limit:
        raise ScheduleError(
            f"{name}: expected at most {limit:,} fire times, got {found.count_text}; "
            f"narrow the span, or allow them with limit={found.count}"
        )
    now = operations.store.now()
    backfill = _backfill(backfill_id(name, now), name, found, actor, now, at_once)
    if not operations.backfills.create(backfill, actor, others):
        raise ScheduleError(f"{name}: another backfill has this id; repeat the call")
    return backfill


def _backfill(
    id: str, name: str, found: Preview, actor: Actor, now: datetime, at_once: int = 1
) -> Backfill:
    return Backfill(
        id=id,
        schedule=name,
        start=found.start,
        end=found.end,
        at_once=at_once,
        total=found.count,
        by=actor.by,
        reason=actor.reason,
        since=now,
        rule=found.rule,
        left_out=found.left_out,
    )
