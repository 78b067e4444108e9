"""Reads the specs of triggers: the form, as JSON, in which they are stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.redaction import masked_repr
from rq_clock.timing.cron import WEEKDAYS, fault_text
from rq_clock.timing.instants import moment
from rq_clock.timing.trigger_types import (
    DAY_MS,
    CalendarInterval,
    Cron,
    Every,
    Once,
    Trigger,
)

_BOUNDS = {"start", "end", "maxRuns"}
_SHAPES = (
    '{"cron": text, "tz": zone}, {"every": milliseconds}, {"every": milliseconds, "at": "09:00", '
    '"tz": zone} or {"once": epoch milliseconds}'
)


def from_spec(spec: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a spec. Raises ScheduleError for any other shape, and with every fault
    of the trigger."""
    with suppress(KeyError, TypeError, ValueError):
        bounds = _read_bounds(spec)
        kind = spec.keys() - _BOUNDS
        if {"cron"} <= kind <= {"cron", "tz"}:
            return Cron(_text(spec, "cron"), _text(spec, "tz", "UTC"), **bounds)
        if {"every", "at"} <= kind <= {"every", "at", "tz", "on", "anchor"}:
            return _interval(spec, bounds)
        if {"every"} <= kind <= {"every", "anchor"}:
            usual = spec.get("start", 0)
            return Every(_whole(spec, "every"), _whole(spec, "anchor", usual), **bounds)
        if kind == {"once"} and not bounds and (at := moment(_whole(spec, "once"))):
            return Once(at)
    raise ScheduleError(fault_text(_SHAPES, masked_repr(spec)))


def _interval(spec: Mapping[str, Any], bounds: dict[str, Any]) -> CalendarInterval:
    period, rest = divmod(_whole(spec, "every"), DAY_MS)
    hour, minute = map(int, _text(spec, "at").split(":"))
    if rest:
        raise ValueError
    return CalendarInterval(
        period,
        60 * hour + minute,
        _text(spec, "tz", "UTC"),
        tuple(map(WEEKDAYS.index, _text(spec, "on").split(","))) if "on" in spec else (),
        date.fromisoformat(spec["anchor"]) if "anchor" in spec else None,
        **bounds,
    )


def _read_bounds(spec: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("start", "end"):
        if key in spec:
            found[key] = moment(_whole(spec, key))
            if found[key] is None:
                raise ValueError
    return found | ({"max_runs": _whole(spec, "maxRuns")} if "maxRuns" in spec else {})


def _whole(spec: Mapping[str, Any], key: str, usual: int | None = None) -> int:
    value = spec[key] if usual is None else spec.get(key, usual)
    if type(value) is not int:
        raise TypeError
    return value


def _text(spec: Mapping[str, Any], key: str, usual: str | None = None) -> str:
    value = spec[key] if usual is None else spec.get(key, usual)
    if not isinstance(value, str):
        raise TypeError
    return value
