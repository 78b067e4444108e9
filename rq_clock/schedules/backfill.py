"""Backfills: preview one, create one, and compute its next step.

A backfill is created with its span and the fire times in it that have run. The leader takes one
step after another (clock/backfiller.py), each from the cursor of the step before
(lua/backfill_step.lua).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rq_clock.errors import Conflict, ScheduleError
from rq_clock.model.decision import DECISION_LIMIT
from rq_clock.model.entry import Entry
from rq_clock.model.ledger import Enqueued, LedgerEntry
from rq_clock.model.schedule import Schedule
from rq_clock.store.audit import Actor
from rq_clock.store.backfills import Backfill, Step, backfill_id
from rq_clock.store.operations import Operations
from rq_clock.timing.instants import from_ms, read_instant, to_ms
from rq_clock.timing.triggers import MANY, from_spec

BACKFILL_LIMIT = 1000
"""Fire times of a backfill at most, unless the caller sets a limit."""
SEARCHED = 1000
"""Fire times that one step examines."""
SHORTEST_LOOK, LONGEST_LOOK = timedelta(milliseconds=200), timedelta(seconds=2)
"""Time to the next step of a running backfill: short after progress, longer while its jobs run."""
_MS = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_CLOCK = Actor(by="clock")


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
    *,
    newest: bool = False,
) -> Preview:
    """Return the decided fire times of any span; with `newest` only the last one."""
    schedule, end = entry.schedule, min(end, entry.decided)
    assert schedule is not None
    start, end = (
        from_ms(to_ms(start + _MS - _MICROSECOND)),
        from_ms(to_ms(end)),
    )  # as stored: whole ms
    trigger, offset = schedule.trigger, schedule.offset
    last = trigger.latest_at(end - offset)
    if newest and last is not None and last + offset >= start:
        start = last + offset
    first = trigger.next_after(start - _MS - offset)
    nothing = Preview(
        start=start, end=end, count=0, first=None, last=None, left_out=frozenset(),
        rule=_rule(schedule),
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
    schedule = _under(backfill.rule, schedule)
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
    schedule = _under(backfill.rule, schedule)
    t = max(backfill.cursor or backfill.start - _MS, start - _MS)
    while (following := schedule.next_after(t)) and following <= min(end, backfill.end):
        if to_ms(following) not in backfill.left_out:
            yield following
        t = following


def _rule(schedule: Schedule) -> str:
    """Return the trigger of a schedule as JSON. A backfill keeps the one it was created with."""
    jitter = {"jitter": schedule.jitter // _MS} if schedule.jitter else {}
    return json.dumps(schedule.trigger.spec() | jitter)


def _under(rule: str, schedule: Schedule) -> Schedule:
    """Return the schedule with the trigger of a backfill's `rule`."""
    spec = json.loads(rule)
    jitter = spec.pop("jitter", None)
    return replace(schedule, trigger=from_spec(spec), jitter=jitter and jitter * _MS)


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
    return missed_in(entry, start, end, operations.store.ledger(name), running)


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


def catch_up_backfill(operations: Operations, name: str, now: datetime) -> None:
    """Create a backfill of the fire times that an ended pause has skipped, if its `missed` is not
    skip. It covers the fire times of the present trigger only."""
    found = operations.store.load([name])[0].get(name)
    for pause in found.pauses if found else ():
        if pause.until is None or pause.missed == "skip":
            continue
        if pause.until > now:  # a newer pause
            operations.backfills.postpone(f"pause:{name}", pause.until)
            continue
        others = operations.backfills.count()
        entry = operations.settle(name, pause.until)
        if entry is None or entry.schedule is None:
            return
        missed = missed_in(
            entry,
            max(pause.since, entry.known_since + _MS),
            pause.until,
            operations.store.ledger(name),
            operations.backfills.running(name),
            newest=pause.missed == "latest",
        )
        if not missed.count:
            continue
        # every process makes the same id, and no other backfill has it
        id = f"{name}-0{to_ms(pause.until)}"
        owner = Actor(by=pause.by, reason="missed in a pause")
        try:
            operations.backfills.create(_backfill(id, name, missed, owner, now), _CLOCK, others)
        except Conflict:  # another one was created meanwhile
            catch_up_backfill(operations, name, now)
