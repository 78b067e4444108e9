"""Values of a definition as people type them, in options of commands and fields of forms. Pure.

Each function returns the value as a manifest has it. Raises ScheduleError for any other text.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.timing.durations import read_duration

_DIGITS = 15


def seconds(text: str) -> float:
    """Return a duration in seconds, -1 for no end."""
    found = -1.0 if text.strip() == "-1" else read_duration(text) / timedelta(seconds=1)
    return int(found) if found == int(found) else found


def interval(text: str) -> str:
    """Return the period of an interval."""
    return f"{seconds(text)}s"


def count(text: str) -> int:
    """Return a whole number."""
    if not text.isdecimal() or len(text) > _DIGITS:
        raise ScheduleError(f"expected a whole number, got {text!r}")
    return int(text)


def retries(text: str) -> int | list[float]:
    """Return a count, or the delay before each retry: "3", "10s,1m,10m"."""
    return count(text) if text.isdecimal() else [seconds(part) for part in text.split(",")]


def json_value(text: str) -> Any:
    """Return a value written as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "; text stands in quotes, as '\"text\"'" if "Expecting value" in str(error) else ""
        raise ScheduleError(f"expected JSON ({error}){hint}") from None
