"""Triggers: the fire times of a schedule.

`Cron`, `CalendarInterval`, `Every` and `Once` have the same methods: the next fire time after an
instant, the latest at an instant, and the number between two. The results are pure functions of
the trigger, the instant and the zone data. No clock is read and nothing is remembered, so a
restart, a second clock or an outage cannot change them.

Invariants:
- The docstrings of `Recurring` hold for all.
- Fire times are aware UTC datetimes in whole milliseconds, up to the year 9899. Those on the clock
  of a zone lie in the years 1970 to 9899 and in whole minutes of that clock.
- Constructing raises ScheduleError with every fault. After that no method raises.

Not here: what users write (`cron`, `every` and `once` in triggers.py), the meaning of cron
expressions (cron.py), catch-up, jitter, and the current time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from rq_clock.errors import Fault, ScheduleError
from rq_clock.redaction import masked_repr
from rq_clock.timing.cron import WEEKDAYS, Expression, fault_text
from rq_clock.timing.days import EPOCH, DayInterval
from rq_clock.timing.instants import iso, moment, to_ms_up
from rq_clock.timing.wall import MANY, WallRule
from rq_clock.timing.zone_hints import zone_warnings
from rq_clock.timing.zones import zone, zone_faults

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MS = timedelta(milliseconds=1)
DAY_MS = 86_400_000
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime(9899, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
"""No fire time is later, so that a duration can be added to each."""
_REACH = timedelta(days=100 * 365)
"""How far from the start the last of `max_runs` may be: finding it takes 1 ms a year at most."""
SHORTEST, LONGEST = 10, 50 * 366 * DAY_MS
"""Bounds of a period in milliseconds. Deciding and committing takes about one, and the duties of
the clock need time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurring(ABC):
    """A trigger that fires again and again, from `start` to `end`, both included.

    With `max_runs` it ends at its n-th fire time from `start` on. That counts fire times and not
    runs: one that is skipped or was missed in an outage counts too.
    """

    start: datetime | None = None
    end: datetime | None = None
    max_runs: int | None = None

    def next_after(self, t: datetime) -> datetime | None:
        """Return the least fire time > `t`."""
        if self.start is not None and t < self.start:
            t = self.start - _MS
        found = self._next(t)
        return found if found is not None and found <= self._last else None

    def latest_at(self, t: datetime) -> datetime | None:
        """Return the greatest fire time <= `t`. Its cost does not grow with what lies between."""
        found = self._latest(min(t, self._last))
        beyond = found is None or (self.start is not None and found < self.start)
        return None if beyond else found

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many fire times lie in (`after`, `until`], or MANY when there are more."""
        if self.start is not None:
            after = max(after, self.start - _MS)
        until = min(until, self._last)
        return self._count(after, until) if after < until else 0

    def __repr__(self) -> str:
        values = ((field, getattr(self, field.name)) for field in fields(self))
        shown = (f"{field.name}={value!r}" for field, value in values if value != field.default)
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def ends_at(self) -> datetime | None:
        """Return the instant after which it never fires; None if it has no end."""
        return self._last if self.end or self.max_runs else None

    @property
    def shortest_gap(self) -> timedelta:
        """Return a duration that two fire times are never nearer to each other than."""
        return 60 * _SECOND

    @property
    def _last(self) -> datetime:
        """Return an instant after which it never fires."""
        end = _LAST if self.end is None else min(self.end, _LAST)
        return end if self.max_runs is None else min(end, _nth(self, self.max_runs) or end)

    @abstractmethod
    def _next(self, t: datetime) -> datetime | None:
        """Return the least fire time > `t` without bounds."""

    @abstractmethod
    def _latest(self, t: datetime) -> datetime | None:
        """Return the greatest fire time <= `t` without bounds."""

    @abstractmethod
    def _count(self, after: datetime, until: datetime) -> int:
        """Return the number of fire times in (`after`, `until`] without bounds, up to MANY."""

    def _bounds(self) -> dict[str, Any]:
        """Return the bounds for a spec."""
        found: dict[str, Any] = {}
        for key, at in (("start", self.start), ("end", self.end)):
            found |= {key: to_ms_up(at)} if at else {}
        return found | ({"maxRuns": self.max_runs} if self.max_runs else {})

    def _refuse(self, faults: list[Fault]) -> None:
        """Raise ScheduleError with these faults and those of the bounds."""
        if not (faults or self.start or self.end or self.max_runs is not None):
            return
        for field, at in (("start", self.start), ("end", self.end)):
            if at is not None and not _EPOCH <= at <= _LAST:
                text = fault_text(f"{field} in the years 1970 to {_LAST.year}", at.isoformat())
                faults.append(Fault(field, text))
        if self.max_runs is not None and not 1 <= self.max_runs <= MANY:
            text = fault_text(f"max_runs of 1 to {MANY:,}", masked_repr(self.max_runs))
            faults.append(Fault("maxRuns", text))
        if self.max_runs is not None and self.start is None:
            text = "max_runs counts fire times from start=, which is missing"
            faults.append(Fault("start", text))
        if not faults and self.max_runs and _nth(self, self.max_runs) is None:
            expected = f"the last of max_runs within {_REACH.days // 365} years of start"
            text = fault_text(expected, str(self.max_runs), "leave it out, or give end=")
            faults.append(Fault("maxRuns", text))
        if not faults and (self.start or self.end) and self.next_after(_FIRST) is None:
            span = f"from {iso(self.start or _FIRST)} to {iso(self._last)}"
            faults.append(Fault("end", fault_text(f"a fire time {span}", "none")))
        if faults:
            raise ScheduleError(*faults)


class _OnTheClock(Recurring):
    """A trigger that follows the clock of a zone."""

    __slots__ = ()
    tz: str

    @property
    @abstractmethod
    def rule(self) -> WallRule:
        """Return its rule, one object for all triggers that differ in their bounds alone."""

    def _next(self, t: datetime) -> datetime | None:
        return moment(self.rule.next_after(_seconds(t)), 1000)

    def _latest(self, t: datetime) -> datetime | None:
        return moment(self.rule.latest_at(_seconds(t)), 1000)

    def _count(self, after: datetime, until: datetime) -> int:
        return self.rule.count(_seconds(after), _seconds(until))


@dataclass(frozen=True, slots=True, repr=False)
class Cron(_OnTheClock):
    """Fires when the clock of a zone shows a time that matches; built by `cron`."""

    kind: ClassVar[str] = "cron"
    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        self._refuse(cron_faults(self.expression, self.tz))

    def warnings(self) -> list[str]:
        """Return what is valid but may surprise its author, one line each."""
        return [*self.parsed.warnings, *zone_warnings(self.tz)]

    @property
    def parsed(self) -> Expression:
        return _expression(self.expression)

    @property
    def rule(self) -> WallRule:
        return _cron_rule(self.expression, self.tz)

    def spec(self) -> dict[str, Any]:
        """Return the form to store, as JSON; `from_spec` reads it."""
        return {"cron": self.expression, "tz": self.tz} | self._bounds()


@dataclass(frozen=True, slots=True, repr=False)
class CalendarInterval(_OnTheClock):
    """Fires every `days` days when the clock of a zone first shows `at`; built by `every`.

    Days count from `anchor`, by default 1970-01-01. With `on`, weekdays with Sunday as 0, it fires
    on these in every n-th week, Monday to Sunday, counted from the week of the anchor; the period
    then is of whole weeks. `at` is the minute of the day. When clocks change it does as a cron
    expression with a fixed time does.
    """

    kind: ClassVar[str] = "every"
    days: int
    at: int
    tz: str = "UTC"
    on: tuple[int, ...] = ()
    anchor: date | None = None

    def __post_init__(self) -> None:
        faults = [Fault("tz", text) for text in zone_faults(self.tz)]
        if not 0 <= self.at < 24 * 60:
            faults.append(Fault("at", f"expected a minute of the day, got {masked_repr(self.at)}"))
        if not 0 < self.days <= LONGEST // DAY_MS:
            text = fault_text("a period of 1 day to 50 years", f"{masked_repr(self.days)} days")
            faults.append(Fault("every", text))
        elif self.on and self.days % 7:
            text = "on= goes with whole weeks"
            faults.append(Fault("on", fault_text(text, f"{self.days} days", "write weeks=")))
        elif self.days % 7 == 0 and not self.on and self.anchor is None:
            text = 'expected on="mon", or anchor= as the date of one run: on which weekday?'
            faults.append(Fault("on", text))
        elif self.days > 7 and self.on and self.anchor is None:
            text = 'expected anchor= as a date, such as "2026-01-05": in which weeks?'
            faults.append(Fault("anchor", text))
        self._refuse(faults)

    def warnings(self) -> list[str]:
        return zone_warnings(self.tz)

    @property
    def rule(self) -> WallRule:
        return _interval_rule(self.days, self.at, self.tz, self.on, self.anchor)

    def spec(self) -> dict[str, Any]:
        at = f"{self.at // 60:02}:{self.at % 60:02}"
        found = {"every": self.days * DAY_MS, "at": at, "tz": self.tz}
        if self.on:
            found["on"] = ",".join(WEEKDAYS[day] for day in self.on)
        return found | ({"anchor": str(self.anchor)} if self.anchor else {}) | self._bounds()


@dataclass(frozen=True, slots=True, repr=False)
class Every(Recurring):
    """Fires at `anchor` + k * `period`, both in milliseconds, for every whole k; built by `every`.

    Never "last run + period": lateness does not add up, and a restart keeps the phase.
    """

    kind: ClassVar[str] = "every"
    tz: ClassVar[str] = "UTC"
    period: int
    anchor: int = 0

    def __post_init__(self) -> None:
        faults = []
        if not SHORTEST <= self.period <= LONGEST:
            got = f"{self.period} ms" if abs(self.period) < 10**20 else "one far beyond"
            hint = "let one run do the work of several" if 0 < self.period < SHORTEST else ""
            text = fault_text(f"a period of {SHORTEST} ms to 50 years", got, hint)
            faults.append(Fault("every", text))
        self._refuse(faults)

    def warnings(self) -> list[str]:
        return []

    def spec(self) -> dict[str, Any]:
        usual = to_ms_up(self.start) if self.start else 0
        anchor = {"anchor": self.anchor} if self.anchor != usual else {}
        return {"every": self.period} | anchor | self._bounds()

    @property
    def shortest_gap(self) -> timedelta:
        return self.period * _MS

    def _next(self, t: datetime) -> datetime | None:
        return moment(self.anchor + (self._number(t) + 1) * self.period)

    def _latest(self, t: datetime) -> datetime | None:
        return moment(self.anchor + self._number(t) * self.period)

    def _count(self, after: datetime, until: datetime) -> int:
        return min(MANY, max(0, self._number(until) - self._number(after)))

    def _number(self, t: datetime) -> int:
        return ((t - _EPOCH) // _MS - self.anchor) // self.period


@dataclass(frozen=True, slots=True)
class Once:
    """Fires at one instant, an aware UTC datetime in whole milliseconds; built by `once`."""

    kind: ClassVar[str] = "once"
    tz: ClassVar[str] = "UTC"
    shortest_gap: ClassVar[timedelta] = 60 * _SECOND
    at: datetime

    def __post_init__(self) -> None:
        faults = datetime_faults("once", self.at)
        if not faults and not _FIRST <= self.at <= _LAST:
            text = fault_text(f"an instant up to the year {_LAST.year}", self.at.isoformat())
            faults.append(Fault("once", text))
        if faults:
            raise ScheduleError(*faults)

    def warnings(self) -> list[str]:
        return []

    @property
    def ends_at(self) -> datetime:
        return self.at

    def next_after(self, t: datetime) -> datetime | None:
        return self.at if self.at > t else None

    def latest_at(self, t: datetime) -> datetime | None:
        return self.at if self.at <= t else None

    def count(self, after: datetime, until: datetime) -> int:
        return int(after < self.at <= until)

    def spec(self) -> dict[str, Any]:
        return {"once": to_ms_up(self.at)}


Trigger: TypeAlias = Cron | CalendarInterval | Every | Once


@dataclass(frozen=True, slots=True)
class Faulty:
    """Stands for a trigger with faults while an app is checked, so that all of them are found."""

    faults: tuple[Fault, ...]


# ---- faults and numbers -------------------------------------------------------------------------


def cron_faults(expression: str, tz: str) -> list[Fault]:
    """Return everything that is wrong with an expression and a zone."""
    found = [Fault("tz", text) for text in zone_faults(tz)]
    return [*_expression(expression).faults, *found]


def datetime_faults(field: str, at: object, role: str = "") -> list[Fault]:
    expected = f"an aware datetime{role}"
    if not isinstance(at, datetime):
        return [Fault(field, fault_text(expected, masked_repr(at)))]
    if at.utcoffset() is None:
        hint = "give it a zone, such as tzinfo=timezone.utc"
        return [Fault(field, fault_text(expected, at.isoformat(), hint))]
    return []


def _seconds(t: datetime) -> int:
    return (t - _EPOCH) // _SECOND


@lru_cache(maxsize=2048)
def _expression(text: str) -> Expression:
    return Expression(text)


@lru_cache(maxsize=2048)
def _cron_rule(expression: str, tz: str) -> WallRule:
    found = _expression(expression)
    return WallRule(found.times, found.days, zone(tz), wildcard=found.wildcard)


@lru_cache(maxsize=2048)
def _interval_rule(
    days: int, at: int, tz: str, on: tuple[int, ...], anchor: date | None
) -> WallRule:
    origin = anchor.toordinal() - EPOCH if anchor else 0
    offsets = [0]
    if on:
        origin -= (origin + 3) % 7  # to Monday; day 0 was a Thursday
        offsets = [(day - 1) % 7 for day in on]
    return WallRule([at], DayInterval(origin, days, offsets), zone(tz), wildcard=False)


@lru_cache(maxsize=2048)
def _nth(trigger: Recurring, n: int) -> datetime | None:
    """Return the n-th fire time from the start of a trigger on; None if it comes too late.

    It counts spans that double until one contains it, then halves that one, so that it steps over
    no fire times one by one.
    """
    assert trigger.start is not None
    low, span, grows = trigger.start - _MS, 60 * _SECOND, True
    end = min(_LAST, low + _REACH) if low < _LAST - _REACH else _LAST
    while low < end:
        high = low + min(span, end - low)
        count = trigger._count(low, high)
        if count >= n and n == 1:
            return trigger._next(low)
        if count >= n:
            span, grows = span // 2, False
        else:
            n, low = n - count, high
            span = 2 * span if grows else span
    return None
