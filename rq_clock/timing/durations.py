"""Lengths of time as people write them: 90s, 15m, 1h30m, 500ms; a bare number is seconds. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta

UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_NUMBER = re.compile(r"\d+(\.\d+)?")


def has_unit(text: str) -> bool:
    """Whether it is a length of time that says its units."""
    return bool(_SPAN.fullmatch(text))


def read_span(text: str) -> timedelta | None:
    """The length of time that a text means; None when it means none."""
    with suppress(ValueError, OverflowError):
        if has_unit(text):
            return sum((float(n) * UNITS[unit] for n, unit in _PART.findall(text)), timedelta(0))
        if _NUMBER.fullmatch(text):
            return timedelta(seconds=float(text))
    return None
