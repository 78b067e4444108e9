"""Times as people write and read them on the command line.

Read are ISO 8601 ("2026-03-29T02:30", "2026-03-29"), "now", "now-2h", "now+1d12h", "today",
"tomorrow 09:00", "18:00" and, where an age makes sense, "2h" for two hours ago. A time without a
zone is on the clock of the zone that the command takes it to be in; what is printed names it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from rq_clock.cli.common import iso
from rq_clock.errors import ScheduleError
from rq_clock.timing.durations import duration_text, read_duration


class Duration(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """A timedelta, written as 90s, 15m, 1h30m, 2d or 500ms; a bare number is seconds. With `none`
    the word "none" is taken too, and means that there is to be none."""

    name = "duration"

    def __init__(self, *, none: bool = False) -> None:
        self._none = none

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, timedelta) or (self._none and value == "none"):
            return value
        try:
            return read_duration(value)
        except ScheduleError as error:
            self.fail(str(error).replace(", got", ", or none, got") if self._none else str(error))


class Zone(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """The name of a time zone."""

    name = "zone"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        from rq_clock.timing.zones import zone_faults

        if faults := zone_faults(value):
            self.fail(faults[0])
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        from rq_clock.timing.zones import zone_names

        near = sorted(n for n in zone_names() if n.lower().startswith(incomplete.lower()))
        return [CompletionItem(name) for name in near]


def instant(text: str, option: str, now: datetime, *, tz: str = "UTC", **forms: Any) -> datetime:
    """Return the instant (UTC) that an option's text means; `forms` are those of `read_instant`.

    Raises click's BadParameter naming the option.
    """
    from rq_clock.timing.instants import read_instant

    try:
        return read_instant(text, tz, now=now, **forms)
    except ScheduleError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


# ---- as they are shown ------------------------------------------------------------------------


def shown(t: datetime, tz: str = "UTC") -> str:
    """An instant for people: "Sun 2026-03-29 03:00:00 Europe/Berlin  (2026-03-29T01:00:00Z)"."""
    from rq_clock.timing.zones import zone

    return shown_local(t.astimezone(zone(tz).info))


def shown_local(local: datetime) -> str:
    """The same of an instant that is on the clock of its zone already."""
    name = getattr(local.tzinfo, "key", None) or "UTC"
    fraction = f".{local.microsecond // 1000:03}" if local.microsecond else ""
    line = f"{local:%a %Y-%m-%d %H:%M:%S}{fraction} {name}"
    return f"{line}  ({iso(local)})" if local.utcoffset() else line


def shown_jitter(offset: timedelta) -> str:
    """Return what jitter adds to a fire time: "+12 s jitter", or nothing."""
    return f"+{duration_text(offset)} jitter" if offset else ""
