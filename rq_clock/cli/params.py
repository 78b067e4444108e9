"""Times as people write and read them on the command line.

Read are ISO 8601 ("2026-03-29T02:30", "2026-03-29"), "now", "now-2h", "now+1d12h", "today",
"tomorrow 09:00", "18:00" and, where an age makes sense, "2h" for two hours ago. A time without a
zone is on the clock of the zone that the command takes it to be in; what is printed names it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any

import click

from rq_clock.cli.common import iso
from rq_clock.timing.durations import has_unit, read_span

_NOW = re.compile(r"now(?:\s*([+-])\s*(\S+))?")
_DAY = re.compile(r"(?:(yesterday|today|tomorrow)\b\s*)?(\d\d?:\d\d(?::\d\d)?)?")
_END_OF_DAY = time(23, 59, 59, 999_000)
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1, None: 0}


class Duration(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """A timedelta, written as 90s, 15m, 1h30m, 2d or 500ms; a bare number is seconds. With `none`
    the word "none" is taken too, and means that there is to be none."""

    name = "duration"

    def __init__(self, *, none: bool = False) -> None:
        self._none = none

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, timedelta) or (self._none and value == "none"):
            return value
        span = read_span(value)
        if span is None:
            also = ", or none" if self._none else ""
            self.fail(f"expected a time such as 90s, 15m, 1h30m or 2d{also}, got {value!r}")
        return span


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


def instant(
    text: str,
    option: str,
    now: datetime,
    *,
    tz: str = "UTC",
    ages: bool = False,
    whole_day: bool = False,
) -> datetime:
    """The instant (UTC) that a text means. `ages`: a bare duration is that long ago. `whole_day`: a
    bare date is the last millisecond of that day, as in "from … to …".

    Raises click's BadParameter naming the option.
    """
    from rq_clock.timing.zones import zone

    text = text.strip()
    with suppress(ValueError, OverflowError):
        found = _relative(text, now, ages=ages)
        if found is None:
            found = _on_the_clock(text, now.astimezone(zone(tz).info), whole_day=whole_day)
        return found.astimezone(UTC)
    also = ", or an age such as 2h" if ages else ""
    raise click.BadParameter(
        f"expected an instant such as 2026-03-29T02:30, 2026-03-29T00:00Z, now-2h or "
        f"'tomorrow 09:00'{also}, got {text!r}",
        param_hint=option,
    )


def _relative(text: str, now: datetime, *, ages: bool) -> datetime | None:
    if match := _NOW.fullmatch(text):
        sign, span = match.groups()
        by = read_span(span) if span else timedelta(0)
        if by is None:
            raise ValueError
        return now - by if sign == "-" else now + by
    age = read_span(text) if ages and has_unit(text) else None
    return None if age is None else now - age


def _on_the_clock(text: str, local_now: datetime, *, whole_day: bool) -> datetime:
    """A day and time on the clock of a zone, or ISO 8601, which may name another zone."""
    match = _DAY.fullmatch(text)
    if match and text:
        day, clock = match.groups()
        date = local_now.date() + timedelta(days=_DAYS[day])
        if clock is None and whole_day:
            return datetime.combine(date, _END_OF_DAY, local_now.tzinfo)
        at = time.fromisoformat(clock.zfill(3 * clock.count(":") + 2)) if clock else time()
        return datetime.combine(date, at, local_now.tzinfo)
    t = datetime.fromisoformat(text)
    if whole_day and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        t = datetime.combine(t, _END_OF_DAY)
    return t if t.tzinfo else t.replace(tzinfo=local_now.tzinfo)


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


def shown_span(span: timedelta) -> str:
    """A length of time, roughly: "12 s", "37 min", "14 h", "3 d"."""
    seconds = abs(span) / timedelta(seconds=1)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def shown_jitter(offset: timedelta) -> str:
    """What jitter adds to a fire time: "+12.3 s jitter", or nothing."""
    if not offset:
        return ""
    seconds = offset / timedelta(seconds=1)
    return f"+{seconds:.1f} s jitter" if seconds >= 0.1 else f"+{seconds * 1000:.0f} ms jitter"
