"""Opaque cursors: the place where the previous page ended. Pure."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from rq_clock.errors import ScheduleError


def encode(*place: object) -> str:
    """Return the cursor of a place: strings and whole numbers."""
    return urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def decode(cursor: str, *kinds: type) -> list[Any]:
    """Return the place of a cursor, or nothing for an empty cursor. Raises ScheduleError unless its
    parts are of these types."""
    if not cursor:
        return []
    try:
        place = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        place = None
    if isinstance(place, list) and [type(part) for part in place] == list(kinds):
        return place
    raise ScheduleError(
        f"cursor: expected the cursor of the previous page, got {cursor!r}; start again without one"
    )
