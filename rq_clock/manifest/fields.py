"""Values of a definition: as typed in options and forms, and as shown in messages. Pure.

The functions that read a text return the value as in a manifest, and raise ScheduleError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from rq_clock.errors import Fault, ScheduleError
from rq_clock.redaction import printable
from rq_clock.similar import similar
from rq_clock.timing.durations import read_duration

_DIGITS = 15


def seconds(text: str) -> float:
    """Return a duration in seconds, -1 for no limit."""
    found = -1.0 if text.strip() == "-1" else read_duration(text) / timedelta(seconds=1)
    return int(found) if found == int(found) else found


def interval(text: str) -> str:
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
        hint = "; put text in quotes, as '\"text\"'" if "Expecting value" in str(error) else ""
        raise ScheduleError(f"expected JSON ({error}){hint}") from None


# ---- in messages ------------------------------------------------------------------------------


def key_shown(key: str) -> str:
    return printable(repr(key), 100)


def kind_of(value: Any) -> str:
    """Return the kind of a value, for a message that must not show the value."""
    kinds = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false"}
    return "nothing" if value is None else kinds.get(type(value), "a number")


def unknown(key: str, known: Iterable[str], part: str = "") -> Fault:
    """Return the fault of an unknown key of an entry, or of the mapping under its key `part`."""
    near = similar(key, known)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
    text = f"unknown {key_shown(key)}; {hint}"
    path = [part] if part else []
    path += [] if "." in key else [key]
    return Fault(".".join(path), f"{part}: {text}" if part else text)


def shown_value(value: Any) -> str:
    return kind_of(value) if isinstance(value, dict | list) else printable(repr(value), 60)
