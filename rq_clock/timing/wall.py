"""The fire times of a rule on the clock of a time zone, in integers.

An instant is an integer of epoch seconds. A *wall* time is what a zone's clock shows at an instant,
counted in seconds as if it were UTC.

The rule for jumps of the clock is that of Debian's cron(8). A *wildcard* rule fires whenever the
clock shows a match: a gap has none, an overlap has each twice. A *fixed* rule fires once for each
nominal time, when the clock first shows it or, where a jump of up to three hours leaves it out, at
that jump. Both are one walk over the stretches between jumps; they differ only in how a stretch
begins.

Not here: datetimes in or out, and which days match (days.py).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain

from rq_clock.timing.days import Days
from rq_clock.timing.zones import Zone

MANY = 10_000
"""`count` is exact below this, and a lower bound from here on."""

MINUTE, DAY = 60, 86_400
CATCH_UP = 3 * 3_600
"""cron(8): a greater jump forward is a correction of the clock, whose times are not caught up."""

_START = 0
_END = int(datetime(9900, 1, 1, tzinfo=UTC).timestamp())


class WallRule:
    """Fires at `times`, ascending minutes of the day, on matching days. Instants are epoch
    seconds."""

    def __init__(self, times: Sequence[int], days: Days, zone: Zone, *, wildcard: bool) -> None:
        self.zone = zone
        self.wildcard = wildcard
        self._times = times
        self._days = days
        self._recent: tuple[tuple[int, int], ...] = ()

    def next_after(self, t: int) -> int | None:
        """Return the least fire time > `t`.

        Thousands of schedules that share a rule need the same result at one tick, so the last
        results are kept, as (query, found): each is valid for all instants between the two.
        """
        for query, found in self._recent:
            if query <= t < found:
                return found
        fire = self._search(max(t + 1, _START))
        if fire is not None:
            self._recent = ((t, fire), *self._recent[:3])
        return fire

    def _search(self, start: int) -> int | None:
        """Return the least fire time >= `start`, going from stretch to stretch between jumps."""
        while start < _END:
            wall, at_once = self._opening(start)
            if at_once:
                return start
            fire = min(self.first_match(wall) - self.zone.offset(start), _END)
            jump = next(self.zone.jumps(start, fire), None)
            if jump is None:
                return fire if fire < _END else None
            start = jump
        return None

    def latest_at(self, t: int) -> int | None:
        """Return the greatest fire time <= `t`, from one stretch to the one before."""
        end = min(t, _END - 1)
        while end >= _START:
            offset = self.zone.offset(end)
            wall = self.last_match(end + offset)
            fire = max(wall - offset, _START - 1)
            jumps = list(self.zone.jumps(fire - DAY, end))
            low, at_once = self._opening(jumps[-1]) if jumps else (wall, False)
            if wall >= low:
                return fire if fire >= _START else None
            if at_once:
                return jumps[-1]
            end = jumps[-1] - 1
        return None

    def count(self, after: int, until: int) -> int:
        """Return how many fire times lie in (`after`, `until`], or MANY when there are more."""
        start, until = max(after + 1, _START), min(until, _END - 1)
        total = 0
        for end in chain((jump - 1 for jump in self.zone.jumps(start, until)), [until]):
            if start <= end:
                low, at_once = self._opening(start)
                total += at_once + self.matches(low, end + self.zone.offset(start))
            if total >= MANY:
                break
            start = end + 1
        return min(total, MANY)

    def _opening(self, start: int) -> tuple[int, bool]:
        """Return the wall time from which matching continues, and whether it fires at once.

        All differences between wildcard and fixed rules are here. The clock shows `wall`; a
        fixed rule has fired for all times before `due`. In an overlap `due` is later: times that
        the clock shows again are over. After a jump forward it is earlier, and the times left out
        fire at once, together with the time now shown.
        """
        wall = start + self.zone.offset(start)
        if self.wildcard:
            return wall, False
        due = self.zone.reached(start - 1) + 1
        if due < wall <= due + CATCH_UP and self.first_match(due) < wall:
            return wall + 1, True
        return max(due, wall), False

    def first_match(self, wall: int) -> int:
        """Return the least matching wall time >= `wall`."""
        day, second = divmod(wall, DAY)
        index = bisect_left(self._times, -(-second // MINUTE))
        if index == len(self._times) or self._days.first(day) != day:
            day, index = self._days.first(day + 1), 0
        return day * DAY + self._times[index] * MINUTE

    def last_match(self, wall: int) -> int:
        """Return the greatest matching wall time <= `wall`."""
        day, second = divmod(wall, DAY)
        index = bisect_right(self._times, second // MINUTE) - 1
        if index < 0 or self._days.last(day) != day:
            day, index = self._days.last(day - 1), -1
        return day * DAY + self._times[index] * MINUTE

    def matches(self, low: int, high: int) -> int:
        """Return how many wall times from `low` to `high` match, counting days and not minutes."""
        total, day = 0, self._days.first(low // DAY)
        while day * DAY <= high and total < MANY:
            first = bisect_left(self._times, -((day * DAY - low) // MINUTE))
            beyond = bisect_right(self._times, (high - day * DAY) // MINUTE)
            total += max(0, beyond - first)
            day = self._days.first(day + 1)
        return total
