"""What a backfill enqueues, and how it goes on. Pure.

A backfill is asked for once, with its span and what in it ran already; the leader takes one step
after another (chores.py), each based on the cursor that the last one left (lua/backfill.lua).
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
from rq_clock.store.backfills import Backfill, Step
from rq_clock.store.operations import Operations
from rq_clock.timing.instants import from_ms, read_instant, to_ms
from rq_clock.timing.triggers import MANY, from_spec

SEARCHED = 1000
"""Fire times that a step looks at, at most: those that ran already cost nothing else."""
SHORTEST_LOOK, LONGEST_LOOK = timedelta(milliseconds=200), timedelta(seconds=2)
"""How soon a running backfill is looked after again: soon after its last step, less and less often
while its jobs run."""
_MS = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a backfill would enqueue: `count` fire times by `rule`, from `first` to `last`;
    `left_out` (ms) ran already, or will by a backfill that goes on. From MANY on, a count means
    "at least"."""

    start: datetime
    end: datetime
    count: int
    first: datetime | None
    last: datetime | None
    left_out: frozenset[int]
    rule: str

    @property
    def told(self) -> str:
        """The count in words."""
        return f"at least {self.count:,}" if self.count >= MANY else f"{self.count:,}"


def preview(
    entry: Entry,
    start: datetime,
    end: datetime,
    ran: Iterable[LedgerEntry],
    running: Iterable[Backfill] = (),
) -> Preview:
    """The fire times from `start` to `end`, both inclusive, as far as they are decided: what is to
    come is the clock's. Raises ScheduleError for a span that cannot be."""
    schedule = entry.schedule
    assert schedule is not None
    start, end = (read_instant(t, schedule.trigger.tz, field=entry.name) for t in (start, end))
    if end < start:
        raise ScheduleError(
            f"{entry.name}: expected the end of the span after its start, got "
            f"{start.isoformat()} to {end.isoformat()}"
        )
    if start > entry.decided:
        raise ScheduleError(
            f"{entry.name}: expected a span of the past, got one from {start.isoformat()}; what is "
            "to come is enqueued by the clock"
        )
    return missed_in(entry, start, end, ran, running)


def missed_in(
    entry: Entry,
    start: datetime,
    end: datetime,
    ran: Iterable[LedgerEntry],
    running: Iterable[Backfill] = (),
    *,
    newest: bool = False,
) -> Preview:
    """The same for a span that is none of the caller's choice; with `newest` only the last one."""
    schedule, end = entry.schedule, min(end, entry.decided)
    assert schedule is not None
    start, end = from_ms(to_ms(start + _MS - _MICROSECOND)), from_ms(to_ms(end))  # as it is kept
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
    )  # an older rule has other fire times
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
    """What comes next, as `living` of its jobs still run."""
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
    """The fire times from `start` to `end` that a backfill has still to enqueue."""
    schedule = _under(backfill.rule, schedule)
    t = max(backfill.cursor or backfill.start - _MS, start - _MS)
    while (following := schedule.next_after(t)) and following <= min(end, backfill.end):
        if to_ms(following) not in backfill.left_out:
            yield following
        t = following


def _rule(schedule: Schedule) -> str:
    """The rule of time of a schedule. A backfill keeps to the one that it was asked for by."""
    jitter = {"jitter": schedule.jitter // _MS} if schedule.jitter else {}
    return json.dumps(schedule.trigger.spec() | jitter)


def _under(rule: str, schedule: Schedule) -> Schedule:
    """The schedule as it is, under the rule that it had."""
    spec = json.loads(rule)
    jitter = spec.pop("jitter", None)
    return replace(schedule, trigger=from_spec(spec), jitter=jitter and jitter * _MS)


CLOCK = Actor(by="clock")


def catch_up_backfill(changes: Operations, name: str, now: datetime) -> None:
    """Ask for what a pause that is over has skipped, unless it is to be lost. Fire times of an
    older rule are not asked for."""
    there = changes.store.load([name])[0].get(name)
    for pause in there.pauses if there else ():
        if pause.until is None or pause.missed == "skip":
            continue
        if pause.until > now:  # another one by now
            changes.backfills.postpone(f"pause:{name}", pause.until)
            continue
        asked = changes.backfills.count()
        entry = changes.settle(name, pause.until)
        if entry is None or entry.schedule is None:
            return
        running = changes.backfills.running(name)
        found = missed_in(
            entry,
            max(pause.since, entry.known_since + _MS),
            pause.until,
            changes.store.ledger(name),
            running,
            newest=pause.missed == "latest",
        )
        if not found.count:
            continue
        backfill = Backfill(
            # the same for whoever asks again, and none of theirs
            id=f"{name}-0{to_ms(pause.until)}",
            schedule=name,
            start=found.start,
            end=found.end,
            at_once=1,
            total=found.count,
            by=pause.by,
            reason="missed in a pause",
            since=now,
            rule=found.rule,
            left_out=found.left_out,
        )
        try:
            changes.backfills.create(backfill, CLOCK, asked)
        except Conflict:  # another one was asked for meanwhile
            catch_up_backfill(changes, name, now)
