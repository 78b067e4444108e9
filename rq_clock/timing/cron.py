"""Cron expressions and their fire times on the clock of a time zone, in integers.

`Expression` reads the text, `Zone` has the jumps of a zone's clock, `CronRule` finds the fire times
of the two. An instant is an integer of epoch seconds. A *wall* time
is what a zone's clock shows at an instant, counted in seconds as if it were UTC.

The rule is that of Debian's cron: crontab(5) for the fields and the days, cron(8) for the jumps.
A *wildcard* rule, whose minute or hour field starts with `*`, fires whenever the clock shows a
match: a gap has none, an overlap has each twice. A *fixed* rule fires once for each nominal time,
when the clock first shows it or, where a jump of up to three hours leaves it out, at that jump.
Both are one walk over the stretches between jumps; they differ only in how a stretch begins.

croniter finds the days that match, on a calendar without zones. It never reads the user's text and
never chooses between "both day fields" and "either": it reads `5-5` as `*`, takes a sixth field for
seconds, and loses the 8th and 9th from `0 0 8-9 * 0#2`.

Not here: datetimes in or out, and triggers that are not cron expressions.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import product
from threading import Lock
from typing import NamedTuple

from croniter import CroniterBadDateError, croniter

from rq_clock.errors import Fault
from rq_clock.timing.zones import Zone

MANY = 10_000
"""`count` is exact below this, and a lower bound from here on."""

MINUTE, DAY = 60, 86_400
CATCH_UP = 3 * 3_600
"""cron(8): a greater jump forward is a correction of the clock, whose times are not caught up."""

_START = 0
_END = int(datetime(9900, 1, 1, tzinfo=UTC).timestamp())
_MIDNIGHT = datetime(1970, 1, 1)  # noqa: DTZ001 - of day 0; what croniter sees has no zone
_NEVER = _END  # as a day number: later than any day that is searched
_LONGEST = 256  # characters of text


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
        """Return the value of a number or lower-case name; None when it is out of range."""
        if text in self.names:
            return self.low + self.names.index(text)
        return int(text) if text.isdigit() and self.low <= int(text) <= self.high else None

    def __str__(self) -> str:
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.name} {self.low}-{self.high}{names}"


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_KINDS = (
    _Kind("minute", 0, 59, 59),
    _Kind("hour", 0, 23, 23),
    _Kind("day-of-month", 1, 31, 31),
    _Kind("month", 1, 12, 12, MONTHS),
    _Kind("day-of-week", 0, 7, 6, WEEKDAYS),
)
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
_HINTS = (  # what other crons accept, and what to write here
    (r"[hr]([(/].*)?", "hashed and random times are not supported; jitter= spreads the load"),
    (r"lw|wl|l-\d+", "of the month's end only L, its last day, is supported"),
    (r"\d+w", "the nearest weekday is supported from 1W to 28W"),
    (r"\w+#.*", "the n-th weekday of a month is written FRI#1 to FRI#5"),
    (r"l", "the last Friday of a month is written 5L"),
    (r"[a-z]{4,}", "names have three letters"),
    (r"-.*|.*\d+-\d+-.*", "a range is written as first-last"),
)


class Field(NamedTuple):
    """One field of an expression.

    `special` are days that are not numbers, in croniter's spelling: of the month `l`, the last,
    and `15w`, the weekday nearest to the 15th; of the week `5#2`, the second Friday, and `l5`,
    the last.
    """

    text: str
    values: tuple[int, ...]
    special: tuple[str, ...]
    is_all: bool

    @property
    def starred(self) -> bool:
        """Return whether it starts with `*`: the test of crontab(5)."""
        return self.text.startswith(("*", "?"))

    def alternatives(self) -> list[str]:
        """Return the field as texts for croniter, which cannot mix these in one. Days match any."""
        if self.is_all:
            return ["*"]
        plain = ",".join(map(str, self.values))
        nearest = [day for day in self.special if day.endswith("w")]
        others = ",".join(day for day in self.special if not day.endswith("w"))
        return [text for text in (plain, others, *nearest) if text]


def fault_text(expected: str, got: str, hint: str = "") -> str:
    return f"expected {expected}, got {got}" + (f": {hint}" if hint else "")


class Expression:
    """A parsed cron expression. With faults, only its warnings are set."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.faults: list[Fault] = []
        self.warnings: list[str] = []
        self.fields: list[Field] = []
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
        self.days = Days(dom, month, dow, either=self.either_day)
        if self.days.first(0) == _NEVER:
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
            hint = "for seconds use every(seconds=)" if len(texts) == 6 else ""
        if expected:
            self.faults.append(Fault("cron", fault_text(expected, got, hint)))
            return []
        return texts

    def _field(self, kind: _Kind, text: str, column: int) -> Field:
        values: set[int] = set()
        special: dict[str, None] = {}  # an ordered set
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
            hints = (hint for pattern, hint in _HINTS if re.fullmatch(pattern, item.lower()))
            return self._fault(kind, item, column, next(hints, ""))
        if step and not 1 <= int(step) <= kind.size:
            hint = f"step {step} is wider than {kind}" if int(step) else ""
            return self._fault(f"{kind.name} step 1-{kind.size}", item, column, hint)
        if high < low and (high == 0 or not last) and kind.high > kind.top:
            high = kind.high  # SAT-SUN and 7/1: here Sunday is the last day of the week
        if low <= high:
            return (n if n <= kind.top else 0 for n in range(low, high + 1, int(step or 1)))
        if step:
            return self._fault("a range with a step to go upwards", item, column)
        parts = [*range(low, kind.top + 1), *range(kind.low, high + 1)]
        listed = ",".join(map(str, parts))
        self.warnings.append(f"{item!r} in {self.text!r} wraps around: it means {listed}")
        return parts


def _special(kind: _Kind, item: str) -> str | None:
    """Return a day that an item names other than by number, as croniter spells it."""
    if kind.name == "day-of-month":
        if item == "l":
            return item
        if (match := re.fullmatch(r"(\d+)w", item)) and 1 <= int(match[1]) <= 28:
            return f"{int(match[1])}w"  # up to 28, which every month has
    elif kind.name == "day-of-week":
        nth = re.fullmatch(r"(\w+)#([1-5])", item)
        if nth and (day := kind.number(nth[1])) is not None:
            return f"{day % 7}#{nth[2]}"
        last = re.fullmatch(r"l(\w+)|(\w+)l", item)
        if last and (day := kind.number(last[1] or last[2])) is not None:
            return f"l{day % 7}"
    return None


class Days:
    """The days that match, numbered from 1970-01-01, on the calendar that all zones share."""

    def __init__(self, dom: Field, month: Field, dow: Field, *, either: bool) -> None:
        pairs = list(product(dom.alternatives(), dow.alternatives()))
        if either:
            pairs = [*product(dom.alternatives(), "*"), *product("*", dow.alternatives())]
        pieces = [f"0 0 {d} {month.alternatives()[0]} {w}" for d, w in pairs]
        self._every_day = "0 0 * * *" in pieces
        self._pieces = [
            croniter(piece, _MIDNIGHT, day_or=False, max_years_between_matches=50)
            for piece in (pieces if not self._every_day else [])
        ]
        self._lock = Lock()  # croniter keeps its position in the object that all threads share
        # The last results, as (query, found): valid for every day between the two. One
        # assignment writes a pair, so a race of threads loses at worst the time saved.
        self._ahead = self._behind = (1, 0)

    def first(self, day: int) -> int:
        """Return the least matching day >= `day`; _NEVER if there is none within 50 years."""
        if self._every_day:
            return day
        query, found = self._ahead
        if not query <= day <= found:
            start = _MIDNIGHT + timedelta(days=day, seconds=-1)
            found = min(self._ask(croniter.get_next, start), default=_NEVER)
            self._ahead = (day, found)
        return found

    def last(self, day: int) -> int:
        """Return the greatest matching day <= `day`; -_NEVER if there is none in 50 years."""
        if self._every_day:
            return day
        query, found = self._behind
        if not found <= day <= query:
            start = _MIDNIGHT + timedelta(days=day, seconds=1)
            found = max(self._ask(croniter.get_prev, start), default=-_NEVER)
            self._behind = (day, found)
        return found

    def _ask(self, step: Callable[..., datetime], start: datetime) -> list[int]:
        found = []
        with self._lock:
            for piece in self._pieces:
                with suppress(CroniterBadDateError):
                    found.append((step(piece, datetime, start) - _MIDNIGHT).days)
        return found


class CronRule:
    """When an expression fires in a zone. Instants are epoch seconds."""

    def __init__(self, expression: Expression, zone: Zone) -> None:
        self.expression = expression
        self.zone = zone
        self._times = expression.times
        self._days = expression.days
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
            jumps = self.zone.jumps(start, fire)
            if not jumps:
                return fire if fire < _END else None
            start = jumps[0]
        return None

    def latest_at(self, t: int) -> int | None:
        """Return the greatest fire time <= `t`, from one stretch to the one before."""
        end = min(t, _END - 1)
        while end >= _START:
            offset = self.zone.offset(end)
            wall = self.last_match(end + offset)
            fire = max(wall - offset, _START - 1)
            jumps = self.zone.jumps(fire - DAY, end)
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
        for end in [jump - 1 for jump in self.zone.jumps(start, until)] + [until]:
            if start <= end and total < MANY:
                low, at_once = self._opening(start)
                total += at_once + self.matches(low, end + self.zone.offset(start))
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
        if self.expression.wildcard:
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
