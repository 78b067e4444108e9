"""Definitions of schedules in the body of a request, in the words of a manifest: read by its
reader, and each fault at the JSON pointer of its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest.document import document, item, trigger
from rq_clock.model.schedule import Schedule
from rq_clock.timing.triggers import Trigger
from rq_clock.web.problems import Problem

_WHEN = {"cron": ("cron", "tz"), "every": ("every", "anchor"), "once": ("once",)}
_WHAT = {"func": ("func", "args", "kwargs"), "command": ("command",), "webhook": ("webhook",)}
_OPTIONS = (
    "args", "kwargs", "queue", "timeout", "retries", "result_ttl", "failure_ttl", "catch_up",
    "catch_up_window", "catch_up_limit", "overlap", "group", "group_limit", "jitter", "tags",
    "ping",
)  # fmt: skip


def schedule_from(name: str, given: Mapping[str, Any], was: Schedule | None = None) -> Schedule:
    """Return the schedule of a definition; masked values stand for those of the one that `was`.

    Raises Problem with every fault, at its field.
    """
    entry = {key: value for key, value in given.items() if value is not None}
    if "paused" in entry:
        text = "a pause is no part of a definition; pause the schedule when it exists"
        raise Problem("validation", f"paused: {text}", errors=[Fault("/paused", text)])
    try:
        return item(name, entry, was, masks=True).schedule
    except ScheduleError as error:
        raise Problem("validation", str(error), errors=pointed(error.faults, entry)) from None


def trigger_from(given: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a definition. Raises Problem."""
    faults: list[Fault] = []
    found = trigger(given, faults)
    faults += found.faults()
    if faults:
        text = "\n".join(map(str, faults))
        raise Problem("validation", text, errors=pointed(faults, given))
    return found


def pointed(faults: Iterable[Fault], entry: object) -> list[Fault]:
    """Return the faults of a definition with the JSON pointer of each as its field."""
    return [replace(fault, field=_pointer(fault.field, entry)) for fault in faults]


def _pointer(field: str, entry: object) -> str:
    """Return the JSON pointer of a field, as deep as the entry goes: a webhook may be a text."""
    pointer, value = "", entry
    for part in field.split(".") if field else ():
        if not isinstance(value, Mapping):
            break
        pointer += "/" + part.replace("~", "~0").replace("/", "~1")
        value = value.get(part)
    return pointer


def patched(was: Schedule, patch: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's definition after a merge patch (RFC 7396). A rule of time, or what runs, that
    the patch names takes the place of another kind of it."""
    whole = document(was)
    for kinds in (_WHEN, _WHAT):
        named = [kind for kind in kinds if patch.get(kind) is not None]
        for kind, words in kinds.items():
            if named and kind not in named:
                whole = {k: v for k, v in whole.items() if k not in words}
    merged: dict[str, Any] = _merged(whole, patch)
    return merged


def options_of(schedule: Schedule) -> dict[str, Any]:
    """Return everything of a schedule but its name, as `Schedules.update` expects it."""
    parts = ("trigger", "target", *_OPTIONS)
    return {part: getattr(schedule, part) for part in parts}


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, part in patch.items():
        if part is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), part)
    return merged
