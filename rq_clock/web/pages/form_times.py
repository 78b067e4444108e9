"""Instants and lengths of time as forms give them: an instant is on the clock of a zone, as a
browser's date field writes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta

from rq_clock.errors import ScheduleError
from rq_clock.timing.durations import UNITS, read_span
from rq_clock.timing.zones import zone

UNTIL = ("never", "hour", "tomorrow", "date")
"""When a pause ends: when it is resumed, in an hour, tomorrow at 9:00, or at an instant."""
_NINE = time(9)


def instant(text: str, tz: str, field: str) -> datetime:
    """The instant (UTC) that a field has. Raises ScheduleError naming the field."""
    try:
        local = datetime.fromisoformat(text.strip())
        if local.tzinfo is None:
            local = local.replace(tzinfo=zone(tz).info)
        return local.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ScheduleError(
            f"{field}: expected a date and a time such as 2026-03-29T02:30, got {text!r}"
        ) from None


def on_the_clock(t: datetime, tz: str) -> str:
    """An instant as such a field has it; to the second only if need be."""
    local = t.astimezone(zone(tz).info).replace(tzinfo=None)
    return local.isoformat(timespec="seconds" if local.second else "minutes")


def tomorrow_at_nine(now: datetime, tz: str) -> datetime:
    """On the clock of a zone."""
    local = now.astimezone(zone(tz).info)
    day = local.date() + timedelta(days=1)
    return datetime.combine(day, _NINE, local.tzinfo).astimezone(UTC)


def until_of(form: Mapping[str, str], tz: str, now: datetime) -> datetime | None:
    """When a pause is to end; None for never. Raises ScheduleError."""
    match form.get("until", "never"):
        case "never":
            return None
        case "hour":
            return now + timedelta(hours=1)
        case "tomorrow":
            return tomorrow_at_nine(now, tz)
        case _:
            return instant(form.get("date", ""), tz, "until")


def span_of(text: str) -> timedelta:
    """The length of time that a field has: 90s, 15m, 1h30m, 2d, or just seconds. Raises
    ScheduleError."""
    text = text.replace(" ", "")
    try:
        span = read_span(text)
        return timedelta(seconds=float(text)) if span is None else span
    except (ValueError, OverflowError):
        raise ScheduleError(
            f"expected a length of time such as 90s, 15m, 1h30m or 2d, got {text!r}"
        ) from None


def span_text(length: timedelta) -> str:
    """A length of time as such a field has it, in the largest unit that makes it whole."""
    length -= length % UNITS["ms"]
    if length % UNITS["s"]:
        return f"{length // UNITS['ms']}ms"
    unit = next((unit for unit in ("d", "h", "m") if length and not length % UNITS[unit]), "s")
    return f"{length // UNITS[unit]}{unit}"
