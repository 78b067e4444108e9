"""Reads the arguments of `cron` and `every`. Pure.

Each method returns the value in the form of trigger_types.py. After a fault, which it adds to
`faults`, it returns a harmless one, so that the faults of the other arguments are found as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from fractions import Fraction
from typing import Any, TypeVar

from rq_clock.errors import Fault, ScheduleError
from rq_clock.redaction import masked_repr
from rq_clock.timing.cron import fault_text, read_weekdays
from rq_clock.timing.durations import duration_or_none, has_unit
from rq_clock.timing.instants import END_OF_DAY, moment, to_ms_up
from rq_clock.timing.trigger_types import DAY_MS, datetime_faults
from rq_clock.timing.zones import zone, zone_faults

UNITS = {
    "weeks": 604_800_000,
    "days": DAY_MS,
    "hours": 3_600_000,
    "minutes": 60_000,
    "seconds": 1_000,
    "milliseconds": 1,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
T = TypeVar("T")


class Arguments:
    """The arguments of one trigger, and their faults so far."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def made(self, make: Callable[[], T]) -> T:
        """Return the trigger. Raises ScheduleError with the faults of its arguments and its own."""
        try:
            found = make()
        except ScheduleError as error:
            raise ScheduleError(*error.faults, *self.faults) from None
        if self.faults:
            raise ScheduleError(*self.faults)
        return found

    def fault(self, field: str, expected: str, got: object, hint: str = "") -> None:
        self.faults.append(Fault(field, fault_text(expected, masked_repr(got), hint)))

    def expression(self, value: object) -> str:
        """Return a cron expression with one space between its fields."""
        if isinstance(value, str):
            return " ".join(value.split())
        self.fault("cron", "a cron expression as text", value)
        return "* * * * *"

    def zone(self, tz: object) -> str:
        """Return the name of a zone, which may be a ZoneInfo."""
        name = tz if isinstance(tz, str) else getattr(tz, "key", None) or getattr(tz, "zone", None)
        if isinstance(tz, timezone) and not name:
            name = str(tz)  # timezone.utc is "UTC", timezone(timedelta(hours=2)) is "UTC+02:00"
        if not isinstance(name, str):
            self.fault("tz", "a time zone as text or ZoneInfo", tz)
            return "UTC"
        faults = zone_faults(name)
        self.faults += [Fault("tz", text) for text in faults]
        return "UTC" if faults else name

    def bounds(self, tz: str, start: object, end: object, max_runs: object) -> dict[str, Any]:
        """Return the bounds by name. Texts without an offset are on the clock of a zone."""
        if start is end is max_runs is None:
            return {}
        before = len(self.faults)
        found: dict[str, Any] = {
            "start": self._instant("start", start, tz), "end": self._instant("end", end, tz),
            "max_runs": max_runs,
        }  # fmt: skip
        if max_runs is not None and (isinstance(max_runs, bool) or not isinstance(max_runs, int)):
            self.fault("maxRuns", "max_runs as a whole number", max_runs)
        return found if len(self.faults) == before else {}

    def _instant(self, field: str, value: object, tz: str) -> datetime | None:
        """Return an instant (UTC) in whole milliseconds: an end rounded down, any other up. A text
        without an offset is on the clock of a zone; a date as the end is its last millisecond."""
        if value is None:
            return None
        if type(value) is date:
            value = value.isoformat()
        if isinstance(value, datetime):
            found: datetime | None = value
            if faults := datetime_faults(field, value, f" as {field}"):
                self.faults += faults
                return None
        else:
            found = _read_instant(value, tz, end=field == "end")
        with suppress(OverflowError):
            if found and field == "end":
                return found.astimezone(UTC) - (found - _EPOCH) % _MS
            if found:
                return moment(to_ms_up(found))
        forms = "2026-03-01, 2026-03-01T09:00 or 2026-03-01T09:00Z"
        self.fault(field, f"{field} as {forms}", value)
        return None

    def period(self, period: object, amounts: tuple[float, ...]) -> int:
        """Return a period in milliseconds: of a duration, or of an amount of each of UNITS."""
        before = len(self.faults)
        ms = sum(map(self._amount, UNITS, amounts))
        if period is not None:
            if any(amounts):
                self.fault("every", "a duration or units, not both", period)
            ms = self._duration(period)
        elif ms == 0 and before == len(self.faults):
            hint = f'give a duration such as "5m", or at least one of {", ".join(UNITS)}'
            expected = "a period of 10 ms to 50 years"
            self.faults.append(Fault("every", fault_text(expected, "0 ms", hint)))
        return DAY_MS if len(self.faults) > before else ms

    def _amount(self, unit: str, amount: object) -> int:
        if type(amount) is int:  # nearly always, and thirty times as fast as a Fraction
            return amount * UNITS[unit]
        try:
            if isinstance(amount, bool) or not isinstance(amount, int | float):
                raise ValueError
            ms = Fraction(str(amount)) * UNITS[unit]  # by its text, so that 0.1 is a tenth
        except ValueError:
            hint = f'or every("{amount}")' if isinstance(amount, str) and has_unit(amount) else ""
            self.fault("every", f"{unit} as a number", amount, hint)
            return 0
        if ms.denominator != 1:
            self.fault("every", f"{unit} that make whole milliseconds", amount)
        return int(ms)

    def _duration(self, period: object) -> int:
        found = period if isinstance(period, timedelta) else None
        if isinstance(period, str):
            text = period.replace(" ", "")
            found = duration_or_none(text) if has_unit(text) else None
        if found is None or found % _MS:
            number = re.fullmatch(r"\d{1,9}", masked_repr(period).strip("'"))
            hint = f'write every(seconds={number[0]}) or every("{number[0]}s")' if number else ""
            expected = "a duration in whole milliseconds, such as 90s, 15m, 1h30m or 2d"
            self.fault("every", expected, period, hint)
            return 0
        return found // _MS

    def time(self, at: object) -> int:
        """Return the minute of the day that a text or a `time` means."""
        if isinstance(at, time) and at.tzinfo is None and at.replace(hour=0, minute=0) == time():
            return 60 * at.hour + at.minute
        match = _TIME.fullmatch(at.strip()) if isinstance(at, str) else None
        if match is None:
            self.fault("at", 'a local time such as "09:00"', at, _time_hint(at))
            return 0
        return 60 * int(match[1]) + int(match[2])

    def weekdays(self, on: object) -> tuple[int, ...]:
        """Return the weekdays of a list, Monday first; Sunday is 0."""
        if on is None:
            return ()
        found = read_weekdays(on) if isinstance(on, str) else None
        if found is None:
            self.fault("on", "weekdays such as mon,thu or mon-fri", on)
        return tuple(sorted(found or {1}, key=lambda day: (day - 1) % 7))

    def anchor(self, anchor: object, start: datetime | None) -> int:
        """Return the instant from which a period counts, in milliseconds."""
        found = self._instant("anchor", anchor, "UTC") or start
        return to_ms_up(found) if found else 0

    def date(self, anchor: object, start: datetime | None, tz: str) -> date | None:
        """Return the date from which days count: of an instant its date in the zone."""
        if isinstance(anchor, date) and not isinstance(anchor, datetime):
            return anchor
        if isinstance(anchor, str):
            with suppress(ValueError):  # of an instant
                return date.fromisoformat(anchor.strip())
        found = self._instant("anchor", anchor, tz) or start
        if not found:
            return None
        try:
            return found.astimezone(zone(tz).info).date()
        except OverflowError:  # the calendar's first or last day, which the zone has not
            return found.date()


def _read_instant(value: object, tz: str, *, end: bool) -> datetime | None:
    with suppress(ValueError, OverflowError):
        text = value.strip() if isinstance(value, str) else ""
        found = datetime.fromisoformat(text)
        if end and re.fullmatch(r"[\dW-]+", text):
            found = datetime.combine(found, END_OF_DAY)
        found = found if found.tzinfo else found.replace(tzinfo=zone(tz).info)
        return found.astimezone(UTC)
    return None


def _time_hint(at: object) -> str:
    if isinstance(at, str) and re.search(r"\d\s*[ap]m", at.lower()):
        return "hours count from 0 to 23"
    if isinstance(at, str) and "," in at:
        return "one time; add a schedule for each"
    return ""
