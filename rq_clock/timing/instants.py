"""Instants: epoch milliseconds, ISO 8601 and relative texts. Pure.

Texts that `read_instant` reads: 2026-03-29T02:30:00Z; in a zone 2026-03-29T02:30 and 2026-03-29;
with `now` also now, now-2h, now+1d12h, today, tomorrow 09:00, 18:00.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta

from rq_clock.errors import Fault, ScheduleError
from rq_clock.timing.durations import duration_or_none, has_unit
from rq_clock.timing.zones import zone

FIRST, LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9899, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The bounds of `read_instant`: a duration could not be added to a later instant."""
LONGEST = 40
"""Characters of an instant."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_FIRST_MS, _LAST_MS = 0, 253_402_300_799_000
END_OF_DAY = time(23, 59, 59, 999_000)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NOW = re.compile(r"now(?:\s*([+-])\s*(\S+))?")
_DAY = re.compile(r"(?:(yesterday|today|tomorrow)\b\s*)?(\d\d?:\d\d(?::\d\d)?)?")
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1, None: 0}


def to_ms(t: datetime) -> int:
    """Return the whole milliseconds since the epoch, rounded down: nothing may look due early."""
    return (t - _EPOCH) // _MS


def to_ms_up(t: datetime) -> int:
    """Return the whole milliseconds since the epoch, rounded up: nothing may fire early."""
    return -((_EPOCH - t) // _MS)


def moment(count: int | None, unit: int = 1) -> datetime | None:
    """Return the datetime of an epoch count of `unit` milliseconds; None if datetime overflows."""
    with suppress(OverflowError):
        return None if count is None else _EPOCH + timedelta(milliseconds=count * unit)
    return None


def from_ms(ms: int | str | bytes) -> datetime:
    """Return the instant (UTC) of an epoch time in milliseconds."""
    return _EPOCH + int(ms) * _MS


def score_ms(score: float) -> int:
    """Return a sorted set's score as an instant that datetime can hold."""
    return int(min(max(score, _FIRST_MS), _LAST_MS))


def from_score(score: float) -> datetime:
    """Return the instant (UTC) of a sorted set's score."""
    return from_ms(score_ms(score))


def iso(t: datetime) -> str:
    """Return an instant as text in UTC, to the second unless it has a fraction of one."""
    spec = "milliseconds" if t.microsecond else "seconds"
    return t.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def read_instant(
    value: object,
    tz: str | None = None,
    *,
    now: datetime | None = None,
    ages: bool = False,
    whole_day: bool = False,
    field: str = "",
) -> datetime:
    """Return the instant (UTC) that a text or a datetime means.

    Without `tz` it must name its zone. `now` allows relative texts, and `ages` besides "2h", for
    two hours ago. `whole_day`: a bare date means the last millisecond of that day. Raises
    ScheduleError, naming the `field`, also for an instant outside FIRST to LAST.
    """
    text = value.strip() if isinstance(value, str) else value
    found = None
    with suppress(ValueError, OverflowError):
        if isinstance(text, datetime):
            found = text
        elif isinstance(text, str) and 0 < len(text) <= LONGEST:
            found = _relative(text, now, ages=ages) if now else None
            found = found or _on_the_clock(text, now, tz or "UTC", whole_day=whole_day)
        if found and found.tzinfo is None and tz:
            found = found.replace(tzinfo=zone(tz).info)
        if found and found.utcoffset() is not None and FIRST <= found.astimezone(UTC) <= LAST:
            return found.astimezone(UTC)
    forms = ["2026-03-29T02:30:00Z"]
    forms += [f"2026-03-29T02:30 ({tz})"] if tz else []
    forms += ["now-2h, 'tomorrow 09:00'"] if now else []
    forms += ["2h (an age)"] if ages else []
    got = repr(text)[: LONGEST + 10] if isinstance(text, str) else _shown(value)
    expected = f"{field} as a date and time" if field else "a date and time"
    message = f"expected {expected} such as {' or '.join(forms)}, in 1970-9899, got {got}"
    raise ScheduleError(Fault(field, message))


def _relative(text: str, now: datetime, *, ages: bool) -> datetime | None:
    if match := _NOW.fullmatch(text):
        sign, span = match.groups()
        by = duration_or_none(span) if span else timedelta(0)
        if by is None:
            raise ValueError
        return now - by if sign == "-" else now + by
    age = duration_or_none(text) if ages and has_unit(text) else None
    return None if age is None else now - age


def _on_the_clock(text: str, now: datetime | None, tz: str, *, whole_day: bool) -> datetime:
    """Return a day and time by the clock of a zone, or ISO 8601, which may name another zone."""
    match = _DAY.fullmatch(text)
    if match and now:
        day, clock = match.groups()
        local = now.astimezone(zone(tz).info)
        date = local.date() + timedelta(days=_DAYS[day])
        if clock is None and whole_day:
            return datetime.combine(date, END_OF_DAY, local.tzinfo)
        at = time.fromisoformat(clock.zfill(3 * clock.count(":") + 2)) if clock else time()
        return datetime.combine(date, at, local.tzinfo)
    found = datetime.fromisoformat(text)
    return datetime.combine(found, END_OF_DAY) if whole_day and _DATE.fullmatch(text) else found


def _shown(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else type(value).__name__
