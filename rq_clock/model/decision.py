"""Decisions: the fire times to enqueue and to skip, with the reasons. Pure."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring fire times. `count` is exact below triggers.MANY; from there on it means "at
    least"."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Neighbouring fire times that were not enqueued, for one reason; `count` as that of a Span."""

    reason: str
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Block:
    """Why the fire times in [since, until) are not enqueued. `reason` is paused, or requested: to
    skip the next `count`. A pause can owe runs: its `latest` fire time, or `all`."""

    reason: str
    since: datetime
    until: datetime = FOR_EVER
    owes: str = ""
    count: int = 0
    whole: bool = False
    """Whether it is the pause of all schedules."""

    def at(self, t: datetime) -> bool:
        return self.since <= t < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The result of `due`. `marker` is the newest decided fire time, unchanged when nothing is
    decided; `next` is when to decide again, None for never."""

    marker: datetime
    next: datetime | None
    fire_times: tuple[datetime, ...] = ()
    skips: tuple[Skip, ...] = ()
    backfill: Span | None = None
    """Fire times that run one after another: those that a pause owed."""
    held: Span | None = None
    """Fire times that wait for the end of a pause. Without a `next` its end makes them due."""
    held_by_all: bool = False
    """Whether that is the pause of all schedules."""

    @property
    def decides(self) -> bool:
        """Return whether it moves the marker."""
        return bool(self.fire_times or self.skips or self.backfill)

    @property
    def over(self) -> bool:
        """Return whether the schedule is never due again."""
        return self.next is None and self.held is None

    @property
    def requested(self) -> int:
        """Return how many fire times are skipped on request."""
        return sum(skip.count for skip in self.skips if skip.reason == "requested")


def due(
    schedule: Schedule,
    marker: datetime,
    now: datetime,
    blocks: Sequence[Block] = (),
    *,
    closing: bool = False,
) -> Decision:
    """Decide the first of the fire times in (marker, now]: at most DECISION_LIMIT, oldest first,
    and none beyond the start or the end of a block. The others are due at once (`next` <= now).

    Outside of a block the schedule's policy for missed fire times applies. The first of `blocks`
    counts where several overlap. Nothing is enqueued while a pause is in force: what would be is
    held until it ends. With `closing` the trigger is about to be replaced, so what would be held
    becomes a backfill.

    `marker` is the instant up to which all is decided: the newest decided fire time, or known
    since for a schedule that never fired. Nothing is due for a `now` before it, as when the clock
    went back.
    """
    first = schedule.next_after(marker)
    if first is None or first > now:
        return Decision(marker=marker, next=first)
    span, block, end = _Span(schedule), None, now
    for one in blocks:
        if one.at(first):
            block, end = one, min(end, one.until - _MS)
            break
        if one.since > first:
            end = min(end, one.since - _MS)
    if block is None:
        found = span.by_policy(first, marker, end, now)
    elif block.reason == "requested":
        found = span.requested(marker, end, block.count)
    else:
        owes = "latest" if isinstance(schedule.trigger, Once) else block.owes
        found = span.paused(marker, end, owes, min(block.until, now))
    if found.fire_times or found.backfill:
        pauses = [b for b in blocks if b.reason == "paused" and now < b.until]
        if pauses and closing:
            waiting = found.backfill or _span(found.fire_times)
            return replace(found, fire_times=(), backfill=waiting)
        if pauses:
            held, by_all = span.span(marker, end), pauses[0].whole
            until = None if by_all or pauses[0].until == FOR_EVER else pauses[0].until
            return Decision(marker=marker, next=until, held=held, held_by_all=by_all)
    return found


def is_on_time(fire_time: datetime, now: datetime) -> bool:
    """Return whether a fire time decided now runs as scheduled, rather than being caught up."""
    return now - fire_time <= ON_TIME


def skip_between(schedule: Schedule, reason: str, after: datetime, until: datetime) -> Skip | None:
    """Return the fire times in (after, until] as one entry of the ledger; None for none."""
    return _Span(schedule).skip(reason, after, until)


def _span(fire_times: Sequence[datetime]) -> Span:
    return Span(fire_times[0], fire_times[-1], len(fire_times))


class _Span:
    """Decides the fire times of a part of the past, found backwards from its end, jitter included:
    the cost does not grow with their number."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._trigger = schedule.trigger
        self._offset = schedule.offset
        self._limit = schedule.catch_up_limit or 100

    def by_policy(
        self, first: datetime, after: datetime, until: datetime, now: datetime
    ) -> Decision:
        """Decide those in (after, until] as the schedule's options say; `first` is the first."""
        schedule = self._schedule
        window = ON_TIME if schedule.catch_up == "none" else schedule.catch_up_window
        limit = self._limit if schedule.catch_up == "all" else 1
        cutoff = None if window is None else now - window
        following = schedule.next_after(first)
        alone = following is None or following > until
        if alone and (cutoff is None or first >= cutoff):  # as it usually is
            return Decision(marker=first, next=following, fire_times=(first,))
        return self._choose(after, until, cutoff, limit, "limit")

    def paused(self, after: datetime, until: datetime, owes: str, end: datetime) -> Decision:
        """Decide those in (after, until] of a pause that ends at `end`."""
        if not owes:
            return self._decided(until, self.skip("paused", after, until))
        window = self._schedule.catch_up_window
        cutoff = None if window is None else end - window
        if owes == "latest":
            return self._choose(after, until, cutoff, 1, "paused")
        found = self._choose(after, until, cutoff, self._limit, "limit", at_once=self._limit)
        if not found.fire_times:
            return found
        return replace(found, fire_times=(), backfill=_span(found.fire_times))

    def requested(self, after: datetime, until: datetime, count: int) -> Decision:
        """Skip the first `count` of those in (after, until]."""
        last = after
        for _ in range(count):
            following = self._schedule.next_after(last)
            if following is None or following > until:
                break
            last = following
        return self._decided(last, self.skip("requested", after, last))

    def _newest(self, after: datetime, until: datetime, limit: int, at_once: int) -> list[datetime]:
        """Return the newest `limit` fire times in (after, until], oldest first, and of these the
        first `at_once`. While all can be within the limit they are found forwards, so that many
        decisions about a long time cost no more than its fire times."""
        gap, following = self._trigger.shortest_gap, self._schedule.next_after
        many = (until - after) // gap >= limit
        if many and isinstance(self._trigger, Every) and (last := self._latest_at(until)):
            after, many = max(after, last - limit * gap), False
        found: list[datetime] = []
        t = self._latest_at(until) if many else following(after)
        while t is not None and after < t <= until and len(found) < limit:
            found.append(t)
            if not many and len(found) == at_once:
                break
            t = self._latest_at(t - _MS) if many else following(t)
        return found[:: -1 if many else 1][:at_once]

    def skip(self, reason: str, after: datetime, until: datetime) -> Skip | None:
        """Return the fire times in (after, until] as one entry, or None when there are none."""
        found = self.span(after, until)
        return None if found is None else Skip(reason, found.first, found.last, found.count)

    def span(self, after: datetime, until: datetime) -> Span | None:
        """Return the fire times in (after, until], or None when there are none."""
        if until <= after:
            return None
        after, until = after - self._offset, until - self._offset
        first, last = self._trigger.next_after(after), self._trigger.latest_at(until)
        if first is None or last is None or last < first:
            return None
        count = min(self._trigger.count(after, until), MANY)
        return Span(first + self._offset, last + self._offset, count)

    def _choose(
        self,
        after: datetime,
        until: datetime,
        cutoff: datetime | None,
        limit: int,
        reason: str,
        at_once: int = DECISION_LIMIT,
    ) -> Decision:
        """Enqueue the newest `limit` of those from `cutoff` on, the oldest `at_once` of them now.
        Skip what is older by `window`, and what is too many for `reason`."""
        start = after if cutoff is None else max(after, cutoff - _MS)
        chosen = tuple(self._newest(start, until, limit, at_once))
        floor = chosen[0] - _MS if chosen else until
        skips = (
            self.skip("window", after, min(start, floor)),
            self.skip(reason, start, floor),
        )
        return self._decided(chosen[-1] if chosen else until, *skips, fire_times=chosen)

    def _decided(
        self, until: datetime, *skips: Skip | None, fire_times: tuple[datetime, ...] = ()
    ) -> Decision:
        """Return a decision about all fire times up to `until`."""
        left_out = tuple(skip for skip in skips if skip)
        marker = max([*fire_times[-1:], *(skip.last for skip in left_out)])
        following = self._schedule.next_after(until)
        return Decision(marker=marker, next=following, fire_times=fire_times, skips=left_out)

    def _latest_at(self, t: datetime) -> datetime | None:
        found = self._trigger.latest_at(t - self._offset)
        return found and found + self._offset
