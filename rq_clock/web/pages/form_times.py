"""Instants in forms, by the clock of a zone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from rq_clock.timing.instants import read_instant
from rq_clock.timing.zones import zone

NINE = "tomorrow 09:00"
_UNTIL = {"hour": "now+1h", "tomorrow": NINE}


def until_of(form: Mapping[str, str], tz: str, now: datetime) -> datetime | None:
    """Return when a pause ends; None for one without an end. Raises ScheduleError."""
    until = form.get("until", "never")
    if until == "never":
        return None
    return read_instant(_UNTIL.get(until, form.get("date")), tz, now=now, field="until")


def field_value(t: datetime, tz: str) -> str:
    """Return an instant as a browser's date field has it; to the second only if need be."""
    local = t.astimezone(zone(tz).info).replace(tzinfo=None)
    return local.isoformat(timespec="seconds" if local.second else "minutes")
