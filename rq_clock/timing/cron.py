"""Cron expressions: reads the text, and says what is wrong with it.

The fields and the days are those of crontab(5) on Debian, with the additions that `triggers.cron`
lists. What else is written for other crons gets a fault with the remedy (cron_hints.py).

Not here: which days match (days.py), fire times (wall.py).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from rq_clock.errors import Fault
from rq_clock.timing import cron_hints
from rq_clock.timing.days import NEVER, DaySet, MonthDay, MonthDays, NthWeekday, SpecialDay

_LONGEST = 256  # characters of text
_SHORTEST_NAME = 3


class _Kind(NamedTuple):
    """The values that one of the five fields can have."""

    name: str
    low: int
    high: int
    top: int  # where `*` and `a/n` end: Sunday is 0 and also 7, but comes once a week
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.top - self.low + 1

    def number(self, text: str) -> int | None:
        """Return the value of a number, or of a lower-case name of three letters or more; None
        when it is out of range."""
        if text.isdigit():
            return int(text) if self.low <= int(text) <= self.high else None
        if len(text) < _SHORTEST_NAME:
            return None
        names = enumerate(self.names, self.low)
        return next((n for n, name in names if name.startswith(text)), None)

    def __str__(self) -> str:
        names = f" or {self.names[0][:3]}-{self.names[-1][:3]}" if self.names else ""
        return f"{self.name} {self.low}-{self.high}{names}"


_MONTH_NAMES = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_WEEKDAY_NAMES = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MONTHS = tuple(name[:3] for name in _MONTH_NAMES)
WEEKDAYS = tuple(name[:3] for name in _WEEKDAY_NAMES)
_KINDS = (
    _Kind("minute", 0, 59, 59),
    _Kind("hour", 0, 23, 23),
    _Kind("day-of-month", 1, 31, 31),
    _Kind("month", 1, 12, 12, _MONTH_NAMES),
    _Kind("day-of-week", 0, 7, 6, _WEEKDAY_NAMES),
)
_ROUNDS = {  # after which a step starts again, and the trigger that has equal steps
    "minute": ("hour", "every(minutes={})"),
    "hour": ("day", "every(hours={})"),
    "day-of-month": ("month", 'every(days={}, at="09:00")'),
    "month": ("year", ""),
    "day-of-week": ("week", 'every(days={}, at="09:00")'),
}
_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_NO_TIMES = {
    "@reboot": "a restart is not a time; enqueue the job where the app starts",
    "@every": "write every(minutes=5)",
}
_ITEM = re.compile(r"(?:(?P<star>[*?])|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")
_FROM_END = re.compile(r"l(?:-(?P<before>\d+))?(?P<weekday>w)?")


class Field(NamedTuple):
    """One field of an expression. `special` are days that are not numbers."""

    text: str
    values: tuple[int, ...]
    special: tuple[SpecialDay, ...]
    is_all: bool

    @property
    def starred(self) -> bool:
        """Return whether it starts with `*`: the test of crontab(5)."""
        return self.text.startswith(("*", "?"))

    @property
    def days(self) -> DaySet:
        return DaySet(frozenset(self.values), self.special)


def fault_text(expected: str, got: str, hint: str = "") -> str:
    return f"expected {expected}, got {got}" + (f": {hint}" if hint else "")


class Expression:
    """A parsed cron expression. With faults, nothing else is set."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.faults: list[Fault] = []
        self.warnings: list[str] = []
        self.fields: list[Field] = []
        self._uneven: list[tuple[_Kind, str, int]] = []
        column = 1
        for kind, part in zip(_KINDS, self._split(), strict=False):
            self.fields.append(self._field(kind, part, column))
            column += len(part) + 1
        if self.faults:
            return
        minute, hour, dom, month, dow = self.fields
        self.wildcard = minute.starred or hour.starred
        self.either_day = not (dom.starred or dow.starred)
        self.times = array("H", (60 * h + m for h in hour.values for m in minute.values))
        self.days = MonthDays(dom.days, month.values, dow.days, either=self.either_day)
        self._warn_of_uneven_steps()
        if self.days.first(0) == NEVER:
            expected = "a day that comes within 50 years"
            self.faults.append(Fault("cron", fault_text(expected, repr(text), "it never fires")))

    def _split(self) -> list[str]:
        """Return the texts of the five fields; none, with a fault, when their number differs."""
        expected, got, hint = "", repr(self.text), ""
        texts = _SHORTHANDS.get(self.text.lower(), self.text).split(" ")
        if len(self.text) > _LONGEST:
            expected, got = f"at most {_LONGEST} characters", str(len(self.text))
        elif not self.text.isascii():
            expected = "ASCII characters"
        elif texts[0].startswith("@"):
            expected, hint = ", ".join(_SHORTHANDS), _NO_TIMES.get(texts[0].lower(), "")
        elif len(texts) != len(_KINDS):
            names = " ".join(kind.name for kind in _KINDS)
            expected, got = f"5 fields, {names}", f"{len(texts)} in {self.text!r}"
            hint = cron_hints.of_text(texts, lambda text: not Expression(text).faults)
        if expected:
            self.faults.append(Fault("cron", fault_text(expected, got, hint)))
            return []
        return texts

    def _field(self, kind: _Kind, text: str, column: int) -> Field:
        values: set[int] = set()
        special: dict[SpecialDay, None] = {}  # an ordered set
        for item in text.split(","):
            if day := _special(kind, item.lower()):
                special[day] = None
            else:
                values.update(self._numbers(kind, item, column))
            column += len(item) + 1
        return Field(text, tuple(sorted(values)), tuple(special), len(values) == kind.size)

    def _fault(self, expected: object, item: str, column: int, hint: str = "") -> tuple[int, ...]:
        text = fault_text(str(expected), f"{item!r} in {self.text!r}", hint)
        self.faults.append(Fault("cron", text, column=column))
        return ()

    def _numbers(self, kind: _Kind, item: str, column: int) -> Iterable[int]:
        """Return the values that an item of a list names; none and a fault if wrong."""
        match = _ITEM.fullmatch(item.lower())
        first, last, step = match.group("first", "last", "step") if match else ("", "", "")
        low = kind.number(first) if first else kind.low
        high = kind.number(last or first) if last or (first and not step) else kind.top
        misplaced = item.startswith("?") and not kind.name.startswith("day")
        if match is None or misplaced or low is None or high is None:
            return self._fault(kind, item, column, cron_hints.of_item(kind.name, item.lower()))
        if step and not 1 <= int(step) <= kind.size:
            hint = cron_hints.of_step(kind.name, int(step), self.text)
            return self._fault(f"{kind.name} step 1-{kind.size}", item, column, hint)
        if high < low and (high == 0 or not last) and kind.high > kind.top:
            high = kind.high  # SAT-SUN and 7/1: here Sunday is the last day of the week
        if low <= high:
            if step and not last and low == kind.low and kind.size % int(step):
                self._uneven.append((kind, item, int(step)))
            return (n if n <= kind.top else 0 for n in range(low, high + 1, int(step or 1)))
        if step:
            return self._fault("a range with a step to go upwards", item, column)
        parts = [*range(low, kind.top + 1), *range(kind.low, high + 1)]
        listed = ",".join(map(str, parts))
        self.warnings.append(f"{item!r} in {self.text!r} wraps around: it means {listed}")
        return parts

    def _warn_of_uneven_steps(self) -> None:
        """Warn of steps that do not divide their field, unless a minute's stays in one hour."""
        for kind, item, step in self._uneven:
            unit, even = _ROUNDS[kind.name]
            if kind.name == "minute" and len(self.fields[1].values) == 1:
                continue
            remedy = f"; {even.format(step)} has equal steps" if even else ""
            text = f"{item!r} in {self.text!r} starts again with each {unit}"
            self.warnings.append(f"{text}, after a step shorter than {step}{remedy}")


def _special(kind: _Kind, item: str) -> SpecialDay | None:
    """Return a day that an item names other than by number."""
    if kind.name == "day-of-month":
        if match := _FROM_END.fullmatch(item):
            before = int(match["before"] or 0)
            return MonthDay(-before, bool(match["weekday"])) if before < kind.top else None
        if (match := re.fullmatch(r"(\d+)w", item)) and 1 <= int(match[1]) <= kind.top:
            return MonthDay(int(match[1]), weekday=True)
    elif kind.name == "day-of-week":
        nth = re.fullmatch(r"(\w+)#([1-5l])", item)
        if nth and (day := kind.number(nth[1])) is not None:
            return NthWeekday(day % 7, 0 if nth[2] == "l" else int(nth[2]))
        last = re.fullmatch(r"l(\w+)|(\w+)l", item)
        if last and (day := kind.number(last[1] or last[2])) is not None:
            return NthWeekday(day % 7, 0)
    return None


def read_weekdays(text: str) -> frozenset[int] | None:
    """Return the weekdays of a list such as "mon,thu" or "mon-fri", Sunday being 0; None for any
    other text."""
    expression = Expression(f"0 0 * * {text}")
    if expression.faults or expression.fields[4].special:
        return None
    return frozenset(expression.fields[4].values)
