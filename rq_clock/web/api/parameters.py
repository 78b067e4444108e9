"""Instants as callers give them: ISO 8601, within the years that a schedule can live in. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, time
from typing import Any

from rq_clock.timing.zones import zone

FIRST, LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9899, 12, 31, tzinfo=UTC)
LONGEST = 40
"""Characters of an instant."""
_END_OF_DAY = time(23, 59, 59, 999_000)
_EXPECTED = "expected an instant of the years 1970-9899 such as 2026-03-29T02:30:00Z"


def aware(value: Any) -> datetime:
    """An instant that says its zone. Raises ValueError."""
    found = read(value)
    if found is None:
        raise ValueError(f"{_EXPECTED}, got {_shown(value)}")
    return found


def on_the_clock(value: str, tz: str, *, whole_day: bool = False) -> datetime:
    """An instant that is on the clock of a zone unless it says another; `whole_day`: a date alone
    is the last millisecond of that day. Raises ValueError."""
    found = read(value, tz, whole_day=whole_day)
    if found is None:
        raise ValueError(f"{_EXPECTED} or, in {tz}, 2026-03-29T02:30, got {_shown(value)}")
    return found


def read(value: Any, tz: str | None = None, *, whole_day: bool = False) -> datetime | None:
    """The instant (UTC) that a text means; None when it means none."""
    if not isinstance(value, str) or len(value) > LONGEST:
        return None
    with suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(value)
        if whole_day and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            found = datetime.combine(found, _END_OF_DAY)
        if found.tzinfo is None and tz is not None:
            found = found.replace(tzinfo=zone(tz).info)
        if found.tzinfo is not None and FIRST <= (found := found.astimezone(UTC)) <= LAST:
            return found
    return None


def _shown(value: Any) -> str:
    return repr(value)[: LONGEST + 10] if isinstance(value, str) else type(value).__name__
