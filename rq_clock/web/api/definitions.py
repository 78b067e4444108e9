"""Schedules in the body of a request. They have the keys of a manifest's entries; each fault gets
the JSON pointer of its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest.definition import item, trigger
from rq_clock.model.schedule import Schedule
from rq_clock.timing.triggers import Trigger
from rq_clock.web.context import Caller
from rq_clock.web.problems import Problem, escaped


def schedule_from(
    caller: Caller, name: str, body: Mapping[str, Any], was: Schedule | None = None
) -> Schedule:
    """Return the schedule of a caller's definition; masked values stand for those of the stored one
    (`was`). Raises Problem with every fault, also for a target that its token may not define."""
    entry = {key: value for key, value in body.items() if value is not None}
    if "paused" in entry:
        text = "a pause is no part of a definition; pause the schedule when it exists"
        raise Problem("validation", f"paused: {text}", errors=[Fault("/paused", text)])
    try:
        return item(name, entry, was, masks=True, allowed=caller.allowed_targets).schedule
    except ScheduleError as error:
        raise Problem("validation", str(error), errors=pointed(error.faults, entry)) from None


def trigger_from(body: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a definition. Raises Problem."""
    try:
        return trigger(body)
    except ScheduleError as error:
        raise Problem("validation", str(error), errors=pointed(error.faults, body)) from None


def pointed(faults: Iterable[Fault], entry: object) -> list[Fault]:
    """Return the faults of a definition with the JSON pointer of each as its field."""
    return [replace(fault, field=_pointer(fault.field, entry)) for fault in faults]


def _pointer(field: str, entry: object) -> str:
    """Return the JSON pointer of a field. It stops where the entry has no mapping: a webhook may be
    a text."""
    pointer, value = "", entry
    for part in field.split(".") if field else ():
        if not isinstance(value, Mapping):
            break
        pointer += f"/{escaped(part)}"
        value = value.get(part)
    return pointer
