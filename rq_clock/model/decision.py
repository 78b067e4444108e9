"""Decisions: the fire times to enqueue and to skip, with the reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from rq_clock.model.schedule import Schedule
from rq_clock.timing.triggers import MANY, Every, Once

_MS = timedelta(milliseconds=1)

ON_TIME = timedelta(seconds=10)
"""How late a fire time may be decided and still be on time rather than caught up: longer than a
restart takes, shorter than an age at which a run is stale."""

DECISION_LIMIT = 100
"""Fire times in one decision. More stay due and follow at once, so that a commit takes about a
millisecond of Redis's time."""

FOR_EVER = datetime.max.replace(tzinfo=UTC)

LOOK_AGAIN = timedelta(minutes=1)
"""How soon a one-off job that came due during a pause of unknown length is looked at again."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Neighbouring fire times that were not enqueued, for one reason.

    `count` is exact below triggers.MANY; from there on it means "at least".
    """

    reason: str
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Block:
    """An operator's order to skip fire times up to `until`: `reason` is paused or requested (to
    skip the next ones)."""

    reason: str
    until: datetime = FOR_EVER


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of `due`. `marker` is the newest decided fire time, unchanged when nothing is
    due; `next` is the first fire time after it."""

    fire_times: tuple[datetime, ...]
    skips: tuple[Skip, ...]
    marker: datetime
    next: datetime | None


def due(
    schedule: Schedule, marker: datetime, now: datetime, blocks: Iterable[Block] = ()
) -> Decision:
    """Decide the fire times in (marker, now]. A block skips those up to its end; a one-off job
    waits for the end of a pause instead.

    `marker` is the instant up to which all is decided: the newest decided fire time, or known
    since for a schedule that never fired. At most DECISION_LIMIT fire times come back, oldest
    first; the others are due at once (`next` <= now). Nothing is due for a `now` before the marker,
    as when the wall clock went back.
    """
    first = schedule.next_after(marker)
    if first is None or first > now:
        return Decision((), (), marker, first)
    for block in blocks:
        if isinstance(schedule.trigger, Once) and block.reason == "paused" and now < block.until:
            return Decision((), (), marker, min(block.until, now + LOOK_AGAIN))
        blocked = _Span(schedule).skip(block.reason, marker, min(now, block.until))
        if blocked is not None:
            rest = due(schedule, blocked.last, now, blocks)
            return replace(rest, skips=(blocked, *rest.skips))
    upcoming = schedule.next_after(first)
    if upcoming is not None and upcoming <= now:
        return _after_outage(schedule, marker, now)
    cutoff = _cutoff(schedule, now)
    if cutoff is not None and first < cutoff:
        return Decision((), (Skip("window", first, first, 1),), first, upcoming)
    return Decision((first,), (), first, upcoming)


def is_on_time(fire_time: datetime, now: datetime) -> bool:
    """Return whether a fire time decided now runs as scheduled, rather than being caught up."""
    return now - fire_time <= ON_TIME


def _after_outage(schedule: Schedule, marker: datetime, now: datetime) -> Decision:
    """Return the decision when several fire times have passed. The newest are found by looking back
    and the rest only counted, so the cost does not grow with their number."""
    span = _Span(schedule)
    cutoff = _cutoff(schedule, now)
    start = marker if cutoff is None else max(marker, cutoff - _MS)
    kept = span.newest(start, now, _limit(schedule))
    floor = (kept[0] if kept else now + _MS) - _MS
    skips = [span.skip("window", marker, min(start, floor)), span.skip("limit", start, floor)]
    chosen = tuple(kept)
    last = chosen[-1] if chosen else floor
    decided = chosen[-1] if chosen else max(s.last for s in skips if s)
    return Decision(chosen, tuple(s for s in skips if s), decided, schedule.next_after(last))


class _Span:
    """Finds fire times of a schedule backwards from an instant, jitter included."""

    def __init__(self, schedule: Schedule) -> None:
        self._trigger = schedule.trigger
        self._offset = schedule.offset

    def latest_at(self, t: datetime) -> datetime | None:
        found = self._trigger.latest_at(t - self._offset)
        return found and found + self._offset

    def next_after(self, t: datetime) -> datetime | None:
        found = self._trigger.next_after(t - self._offset)
        return found and found + self._offset

    def newest(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest `limit` fire times in (after, until], oldest first, and of these the
        first DECISION_LIMIT. While all can be within the limit they are found forwards, so that
        many decisions about a long time cost no more than its fire times."""
        gap = self._trigger.shortest_gap
        many = (until - after) // gap >= limit
        if many and isinstance(self._trigger, Every) and (last := self.latest_at(until)):
            after, many = max(after, last - limit * gap), False
        found: list[datetime] = []
        t = self.latest_at(until) if many else self.next_after(after)
        while t is not None and after < t <= until and len(found) < limit:
            found.append(t)
            if not many and len(found) == DECISION_LIMIT:
                break
            t = self.latest_at(t - _MS) if many else self.next_after(t)
        return found[:: -1 if many else 1][:DECISION_LIMIT]

    def skip(self, reason: str, after: datetime, until: datetime) -> Skip | None:
        """Return the fire times in (after, until] as one entry, or None when there are none."""
        if until <= after:
            return None
        first = self._trigger.next_after(after - self._offset)
        last = self._trigger.latest_at(until - self._offset)
        if first is None or last is None or last < first:
            return None
        count = self._trigger.count(after - self._offset, until - self._offset)
        return Skip(reason, first + self._offset, last + self._offset, min(count, MANY))


def _cutoff(schedule: Schedule, now: datetime) -> datetime | None:
    """Return the oldest instant that is still caught up; None when no age is too great."""
    if schedule.catch_up == "none":
        return now - ON_TIME
    return None if schedule.catch_up_window is None else now - schedule.catch_up_window


def _limit(schedule: Schedule) -> int:
    return (schedule.catch_up_limit or 100) if schedule.catch_up == "all" else 1
