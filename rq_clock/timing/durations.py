"""Durations, read and printed: 90s, 15m, 1h30m, 500ms; a bare number is in seconds. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta

from rq_clock.errors import ScheduleError

UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+", re.ASCII)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


def has_unit(text: str) -> bool:
    """Return whether a text is a duration that names its units."""
    return bool(_DURATION.fullmatch(text))


def duration_or_none(text: str) -> timedelta | None:
    """Return the duration that a text means, or None."""
    with suppress(ValueError, OverflowError):
        if has_unit(text):
            return sum((float(n) * UNITS[unit] for n, unit in _PART.findall(text)), timedelta(0))
        if _NUMBER.fullmatch(text):
            return timedelta(seconds=float(text))
    return None


def read_duration(text: str) -> timedelta:
    """Return the duration that a text means. Raises ScheduleError."""
    found = duration_or_none(text.replace(" ", ""))
    if found is None:
        raise ScheduleError(f"expected a duration such as 90s, 15m, 1h30m or 2d, got {text!r}")
    return found


def duration_spec(duration: timedelta) -> str:
    """Return a duration in whole milliseconds, in the largest unit that fits: "90m", "1500ms"."""
    duration -= duration % UNITS["ms"]
    if duration % UNITS["s"]:
        return f"{duration // UNITS['ms']}ms"
    units = ("d", "h", "m") if duration else ()
    unit = next((unit for unit in units if not duration % UNITS[unit]), "s")
    return f"{duration // UNITS[unit]}{unit}"


def duration_text(duration: timedelta) -> str:
    """Return a duration for people, in two units at most: "14 ms", "4.7 s", "2 h 5 min"."""
    seconds = abs(duration) / UNITS["s"]
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest and minutes < 10 else "")
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {minutes} min" if minutes and hours < 10 else "")
    days, hours = divmod(hours, 24)
    return f"{days} d" + (f" {hours} h" if hours and days < 10 else "")
