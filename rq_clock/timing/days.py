"""The days that match a trigger, numbered from 1970-01-01, on the calendar that all zones share.

`MonthDays` has the days of a cron expression, `DayInterval` every n-th day or weekdays of every
n-th week. Both find the first matching day from a day on, and the last one up to it. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from datetime import date
from typing import NamedTuple, Protocol, TypeAlias

EPOCH = date(1970, 1, 1).toordinal()
NEVER = date.max.toordinal()
"""As a day number: later than any day that is searched."""
_HORIZON = 50 * 12
"""Months that are searched. The rarest dates, such as a fifth Monday on 29 February, come within
40 years."""


class MonthDay(NamedTuple):
    """A day of the month that its length or its weekdays decide.

    `day` is 1 to 31, 0 for the last day, -3 for the third before it. With `weekday` it is the day
    from Monday to Friday nearest to that one, within the month.
    """

    day: int
    weekday: bool = False

    def find(self, first: int, length: int) -> int | None:
        """Return the day in a month of `length` days whose day 1 is the weekday `first`, Monday
        being 0; None in a month without that day."""
        day = self.day if self.day > 0 else length + self.day
        if not 1 <= day <= length:
            return None
        weekday = (first + day - 1) % 7
        if self.weekday and weekday == 5:
            return day - 1 if day > 1 else 3
        if self.weekday and weekday == 6:
            return day + 1 if day < length else day - 2
        return day


class NthWeekday(NamedTuple):
    """The n-th of a weekday in the month. Sunday is 0, as in cron; `nth` is 1 to 5, 0 for the
    last."""

    weekday: int
    nth: int

    def find(self, first: int, length: int) -> int | None:
        """Return the day as `MonthDay.find` does."""
        day = 1 + (self.weekday - 1 - first) % 7
        if self.nth == 0:
            return day + (length - day) // 7 * 7
        day += 7 * (self.nth - 1)
        return day if day <= length else None


SpecialDay: TypeAlias = MonthDay | NthWeekday


class DaySet(NamedTuple):
    """The days that one field of an expression allows: numbers and special days."""

    values: Collection[int]
    special: Collection[SpecialDay]

    def in_month(self, first: int, length: int, values: Iterable[int]) -> set[int]:
        """Return `values`, which are the numbers as days of this month, with the special days."""
        found = (day.find(first, length) for day in self.special)
        return {*values, *(day for day in found if day)}


class Days(Protocol):
    """Matching days. A day is an integer: days since 1970-01-01."""

    def first(self, day: int) -> int:
        """Return the least matching day >= `day`; NEVER if there is none within 50 years."""

    def last(self, day: int) -> int:
        """Return the greatest matching day <= `day`; -NEVER if there is none within 50 years."""


class MonthDays:
    """The days of a cron expression.

    A day matches both day fields or, with `either`, at least one of them.
    """

    def __init__(self, dom: DaySet, months: Collection[int], dow: DaySet, *, either: bool) -> None:
        self._dom, self._dow, self._either = dom, dow, either
        self._months = frozenset(months)
        self._patterns: dict[tuple[int, int], list[int]] = {}
        full = len(dom.values) == 31, len(dow.values) == 7
        self._every_day = len(self._months) == 12 and (any(full) if either else all(full))

    def first(self, day: int) -> int:
        if self._every_day:
            return day
        if day > NEVER - EPOCH:
            return NEVER
        begin = _month_of(day)
        for month in range(begin, begin + _HORIZON):
            if month % 12 + 1 in self._months and month // 12 <= date.max.year:
                start, days = self._in_month(month)
                index = bisect_left(days, day - start + 1)
                if index < len(days):
                    return start + days[index] - 1
        return NEVER

    def last(self, day: int) -> int:
        if self._every_day:
            return day
        begin = _month_of(day)
        for month in range(begin, max(12, begin - _HORIZON), -1):
            if month % 12 + 1 in self._months:
                start, days = self._in_month(month)
                index = bisect_right(days, day - start + 1)
                if index:
                    return start + days[index - 1] - 1
        return -NEVER

    def _in_month(self, month: int) -> tuple[int, list[int]]:
        """Return the first day of a month, as a day number, and the days of it that match."""
        year, index = divmod(month, 12)
        start = date(year, index + 1, 1).toordinal()
        length = 31 if index == 11 else date(year, index + 2, 1).toordinal() - start
        return start - EPOCH, self._pattern((start - 1) % 7, length)

    def _pattern(self, first: int, length: int) -> list[int]:
        """Return the matching days of a month of this shape; there are 28 shapes."""
        found = self._patterns.get((first, length))
        if found is None:
            month = range(1, length + 1)
            numbers = (day for day in month if day in self._dom.values)
            weekdays = (day for day in month if (first + day) % 7 in self._dow.values)
            dom = self._dom.in_month(first, length, numbers)
            dow = self._dow.in_month(first, length, weekdays)
            found = sorted(dom | dow if self._either else dom & dow)
            self._patterns[first, length] = found
        return found


class DayInterval:
    """The days at `offsets` from `origin` + k * `period`, for every whole k."""

    def __init__(self, origin: int, period: int, offsets: Iterable[int] = (0,)) -> None:
        self._origin, self._period = origin, period
        self._offsets = sorted(offsets)

    def first(self, day: int) -> int:
        periods, rest = divmod(day - self._origin, self._period)
        index = bisect_left(self._offsets, rest)
        if index == len(self._offsets):
            periods, index = periods + 1, 0
        return self._origin + periods * self._period + self._offsets[index]

    def last(self, day: int) -> int:
        periods, rest = divmod(day - self._origin, self._period)
        index = bisect_right(self._offsets, rest) - 1
        if index < 0:
            periods, index = periods - 1, len(self._offsets) - 1
        return self._origin + periods * self._period + self._offsets[index]


def _month_of(day: int) -> int:
    """Return the month of a day, counted from year 0."""
    found = date.fromordinal(day + EPOCH)
    return 12 * found.year + found.month - 1
