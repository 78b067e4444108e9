"""Triggers: the fire times of a schedule.

The three triggers `cron`, `every` and `once` have the same methods: the next fire time after an
instant, the latest at an instant, and the number between two. The results are pure functions of
the trigger, the instant and the zone data. No clock is read and nothing is remembered, so a
restart, a second clock or an outage cannot change them.

Invariants:
- The docstrings of `Cron` hold for all three.
- Fire times are aware UTC datetimes in whole milliseconds. Those of a cron expression lie in the
  years 1970 to 9899 and in whole minutes of its zone's clock.
- Constructing never raises. `faults()` returns everything that is wrong, so that the faults of all
  schedules can be reported at once. Every other method of a faulty trigger raises `ScheduleError`.

Not here: the meaning of cron expressions (cron.py), catch-up, jitter, and the current time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from rq_clock.errors import Fault, ScheduleError
from rq_clock.redaction import masked_repr
from rq_clock.timing.cron import MANY, CronRule, Expression, fault_text
from rq_clock.timing.zones import zone, zone_faults

__all__ = ["MANY", "Cron", "Every", "Once", "Trigger", "cron", "every", "from_spec", "once"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_UNITS = {
    "weeks": 604_800_000,
    "days": 86_400_000,
    "hours": 3_600_000,
    "minutes": 60_000,
    "seconds": 1_000,
    "milliseconds": 1,
}
_LAST_YEAR = 9899
"""No fire time is later, so that a duration can be added to each."""
_SHORTEST_PERIOD, _LONGEST_PERIOD = 10, 50 * 366 * _UNITS["days"]
"""Milliseconds. Deciding and committing takes about one, and the duties of the clock need time."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Fires when the clock of a zone shows a time that matches; built by `cron`."""

    expression: str
    tz: str = "UTC"

    def faults(self) -> list[Fault]:
        """Return everything that is wrong; nothing when the trigger can be used."""
        found = _text_faults("cron", "a cron expression", self.expression)
        found = found or _expression(self.expression).faults.copy()
        tz = _text_faults("tz", "a time zone", self.tz)
        return found + (tz or [Fault("tz", text) for text in zone_faults(self.tz)])

    def warnings(self) -> list[str]:
        """Return what is valid but may surprise its author, one line each."""
        return [] if self.faults() else _expression(self.expression).warnings.copy()

    @property
    def rule(self) -> CronRule:
        """Return the parsed expression in its zone, one object for all triggers of a text."""
        _refuse_faulty(self)
        return _rule(self.expression, self.tz)

    def next_after(self, t: datetime) -> datetime | None:
        """Return the least fire time > `t`. Raises ScheduleError when faulty."""
        return _moment(self.rule.next_after(_seconds(t)), 1000)

    def latest_at(self, t: datetime) -> datetime | None:
        """Return the greatest fire time <= `t`. Its cost does not grow with what lies between."""
        return _moment(self.rule.latest_at(_seconds(t)), 1000)

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many fire times lie in (`after`, `until`], or MANY when there are more."""
        return self.rule.count(_seconds(after), _seconds(until))

    def spec(self) -> dict[str, Any]:
        """Return the form to store, as JSON; `from_spec` reads it."""
        return {"cron": self.expression, "tz": self.tz}


class _Elapsed:
    """A trigger that no clock of a zone touches: it is never ambiguous."""

    __slots__ = ()
    tz: ClassVar[str] = "UTC"

    def warnings(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class Every(_Elapsed):
    """Fires at `anchor` + k * `period`, both in milliseconds, for every whole k; built by `every`.

    Never "last run + period": lateness does not add up, and a restart keeps the phase.
    """

    period: int
    anchor: int = 0
    problems: tuple[Fault, ...] = ()  # of arguments of `every` that make no period

    def faults(self) -> list[Fault]:
        if self.problems or _SHORTEST_PERIOD <= self.period <= _LONGEST_PERIOD:
            return list(self.problems)
        hint = f"give at least one of {', '.join(_UNITS)}" if self.period == 0 else ""
        if 0 < self.period < _SHORTEST_PERIOD:
            hint = "let one run do the work of several"
        got = f"{self.period} ms" if abs(self.period) < 10**20 else "one far beyond"
        return [Fault("every", fault_text("a period of 10 ms to 50 years", got, hint))]

    def next_after(self, t: datetime) -> datetime | None:
        return _moment(self.anchor + (self._number(t) + 1) * self.period)

    def latest_at(self, t: datetime) -> datetime | None:
        return _moment(self.anchor + self._number(t) * self.period)

    def count(self, after: datetime, until: datetime) -> int:
        return min(MANY, max(0, self._number(until) - self._number(after)))

    def spec(self) -> dict[str, Any]:
        return {"every": self.period} | ({"anchor": self.anchor} if self.anchor else {})

    def _number(self, t: datetime) -> int:
        _refuse_faulty(self)
        return ((t - _EPOCH) // _MILLISECOND - self.anchor) // self.period


@dataclass(frozen=True, slots=True)
class Once(_Elapsed):
    """Fires at one instant, an aware UTC datetime in whole milliseconds; built by `once`."""

    at: datetime

    def faults(self) -> list[Fault]:
        faults = _datetime_faults("once", self.at)
        if not faults and self.at.year > _LAST_YEAR:
            text = fault_text(f"an instant up to the year {_LAST_YEAR}", self.at.isoformat())
            faults.append(Fault("once", text))
        return faults

    def next_after(self, t: datetime) -> datetime | None:
        _refuse_faulty(self)
        return self.at if self.at > t else None

    def latest_at(self, t: datetime) -> datetime | None:
        _refuse_faulty(self)
        return self.at if self.at <= t else None

    def count(self, after: datetime, until: datetime) -> int:
        _refuse_faulty(self)
        return int(after < self.at <= until)

    def spec(self) -> dict[str, Any]:
        _refuse_faulty(self)
        return {"once": _milliseconds(self.at)}


Trigger: TypeAlias = Cron | Every | Once


def cron(expression: str, tz: str = "UTC") -> Cron:
    """Fire when a zone's clock matches a cron expression, by the rules of Debian's cron.

    Five fields, minute hour day-of-month month day-of-week, or @hourly, @daily, @midnight,
    @weekly, @monthly, @yearly, @annually. A field is a list of `*`, `a`, `a-b`, `*/n`, `a-b/n`,
    `a/n`; months and weekdays have three-letter names, Sunday is 0 or 7, `?` is `*` in the day
    fields. Beyond crontab(5): `L` (last day of the month), `15W` (the weekday nearest to the
    15th), `5#2` (second Friday), `5L` (last Friday).

    From crontab(5): a day must match both day fields when one of them starts with `*`, otherwise
    either. From cron(8): when clocks change, a job whose minute and hour do not start with `*`
    runs once for each nominal time: the first time where clocks go back, and at the end of a gap
    of up to three hours where they go forward. Other jobs run whenever the clock shows a match.
    """
    if isinstance(expression, str):
        expression = " ".join(re.findall(r"[^ \t]+", expression))
    return Cron(expression, tz)


def every(  # noqa: PLR0913 - one keyword a unit, as timedelta has them
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    milliseconds: float = 0,
    anchor: datetime | None = None,
) -> Every:
    """Fire each time a period has passed, counted from `anchor`, by default the Unix epoch.

    The anchor gives the phase and is not a start. Elapsed time, which no clock change touches:
    `days=1` is 86,400 s, so for a time of the local day use `cron`.
    """
    amounts = (weeks, days, hours, minutes, seconds, milliseconds)
    period, problems = 0, []
    for (unit, size), amount in zip(_UNITS.items(), amounts, strict=True):
        if type(amount) is int:  # nearly always, and thirty times as fast as a Fraction
            period += amount * size
            continue
        try:
            if isinstance(amount, bool) or not isinstance(amount, int | float):
                raise ValueError
            part = Fraction(str(amount)) * size  # by its text, so that 0.1 is a tenth
        except ValueError:
            problems.append(Fault("every", fault_text(f"{unit} as a number", masked_repr(amount))))
            continue
        if part.denominator != 1:
            expected = f"{unit} that make whole milliseconds"
            problems.append(Fault("every", fault_text(expected, masked_repr(amount))))
        period += int(part)
    if anchor is not None:
        problems += _datetime_faults("anchor", anchor, " as anchor")
    if problems:
        return Every(0, 0, tuple(problems))
    return Every(period, 0 if anchor is None else _milliseconds(anchor))


def once(at: datetime) -> Once:
    """Fire at one instant, never early: it is rounded up to the next whole millisecond."""
    if not _datetime_faults("once", at):
        at = _moment(_milliseconds(at)) or at
    return Once(at)


def from_spec(spec: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a spec. Raises ScheduleError for any other shape.

    A spec of the right shape may still name a faulty trigger.
    """
    whole = all(type(value) is int for value in spec.values())
    if "cron" in spec and spec.keys() <= {"cron", "tz"}:
        return cron(spec["cron"], spec.get("tz", "UTC"))
    if whole and "every" in spec and spec.keys() <= {"every", "anchor"}:
        return Every(spec["every"], spec.get("anchor", 0))
    if whole and spec.keys() == {"once"} and (at := _moment(spec["once"])):
        return Once(at)
    shapes = '{"cron": text, "tz": zone}, {"every": milliseconds} or {"once": epoch milliseconds}'
    raise ScheduleError(fault_text(shapes, masked_repr(spec)))


def _refuse_faulty(trigger: Trigger) -> None:
    if faults := trigger.faults():
        raise ScheduleError(*faults)


def _text_faults(field: str, expected: str, value: object) -> list[Fault]:
    if isinstance(value, str):
        return []
    return [Fault(field, fault_text(f"{expected} as text", masked_repr(value)))]


def _datetime_faults(field: str, at: object, role: str = "") -> list[Fault]:
    expected = f"an aware datetime{role}"
    if not isinstance(at, datetime):
        return [Fault(field, fault_text(expected, masked_repr(at)))]
    if at.utcoffset() is None:
        hint = "give it a zone, such as tzinfo=timezone.utc"
        return [Fault(field, fault_text(expected, at.isoformat(), hint))]
    return []


def _seconds(t: datetime) -> int:
    return (t - _EPOCH) // _SECOND


def _milliseconds(t: datetime) -> int:
    return -((_EPOCH - t) // _MILLISECOND)  # rounded up


def _moment(count: int | None, unit: int = 1) -> datetime | None:
    """Return the datetime of an epoch count of `unit` milliseconds; None if datetime overflows."""
    with suppress(OverflowError):
        return None if count is None else _EPOCH + timedelta(milliseconds=count * unit)
    return None


@lru_cache(maxsize=2048)
def _expression(text: str) -> Expression:
    return Expression(text)


@lru_cache(maxsize=2048)
def _rule(expression: str, tz: str) -> CronRule:
    return CronRule(_expression(expression), zone(tz))
