"""Parameter types for durations and zones, and how commands read and print instants."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click
from click.shell_completion import CompletionItem

from rq_clock.errors import ScheduleError
from rq_clock.timing.durations import duration_text, read_duration
from rq_clock.timing.instants import iso, read_instant
from rq_clock.timing.zones import zone, zone_faults, zone_names


class Duration(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """A timedelta, written as 90s, 15m, 1h30m, 2d or 500ms; a bare number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        try:
            return read_duration(value)
        except ScheduleError as error:
            self.fail(str(error))


class Zone(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """The name of a time zone."""

    name = "zone"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:

        if faults := zone_faults(value):
            self.fail(faults[0])
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Any:

        near = sorted(n for n in zone_names() if n.lower().startswith(incomplete.lower()))
        return [CompletionItem(name) for name in near]


def instant(text: str, option: str, now: datetime, *, tz: str = "UTC", **forms: Any) -> datetime:
    """Return the instant (UTC) of an option's text; `forms` are those of `read_instant`.

    Raises click's BadParameter naming the option.
    """
    try:
        return read_instant(text, tz, now=now, **forms)
    except ScheduleError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


# ---- output -----------------------------------------------------------------------------------


def shown(t: datetime, tz: str = "UTC") -> str:
    """Return an instant for people: "Sun 2026-03-29 03:00:00 Europe/Berlin  (…Z)"."""
    return shown_local(t.astimezone(zone(tz).info))


def shown_local(local: datetime) -> str:
    """Return the same for an instant in its own zone."""
    name = getattr(local.tzinfo, "key", None) or "UTC"
    fraction = f".{local.microsecond // 1000:03}" if local.microsecond else ""
    line = f"{local:%a %Y-%m-%d %H:%M:%S}{fraction} {name}"
    return f"{line}  ({iso(local)})" if local.utcoffset() else line


def shown_jitter(offset: timedelta) -> str:
    """Return the delay that jitter adds to a fire time: "+12 s jitter", or ""."""
    return f"+{duration_text(offset)} jitter" if offset else ""
