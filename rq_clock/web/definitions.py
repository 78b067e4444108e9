"""Definitions of schedules as callers and forms give them, in the words of a manifest: read by its
reader, judged by `declare`, and each fault told at the field that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.manifest.document import document, item, trigger
from rq_clock.manifest.reader import key_shown
from rq_clock.model.schedule import Schedule
from rq_clock.timing.triggers import Cron, Trigger
from rq_clock.web.problems import Problem

_WHEN = {"cron": ("cron", "tz"), "every": ("every", "anchor"), "once": ("once",)}
_WHAT = {"func": ("func", "args", "kwargs"), "command": ("command",), "webhook": ("webhook",)}
_OPTIONS = (
    "args", "kwargs", "queue", "timeout", "retries", "result_ttl", "failure_ttl", "catch_up",
    "catch_up_window", "catch_up_limit", "overlap", "group", "group_limit", "jitter", "tags",
    "ping",
)  # fmt: skip
_PARTS = {
    "user and password": "webhook",
    "shell": "command", "cwd": "command", "env": "command", "command line": "command",
    "url": "webhook", "URL": "webhook", "method": "webhook", "headers": "webhook",
    "header": "webhook", "json": "webhook",
}  # fmt: skip
"""Words about a part of a target, and which target that is."""
_ALIASES = {"command line": "shell", "URL": "url", "user and password": "url", "header": "headers"}
_FUNC = ("dotted name", "function", "script", "workers")


def schedule_from(name: str, given: Mapping[str, Any], was: Schedule | None = None) -> Schedule:
    """The schedule that a definition means; masked values stand for those of the one that `was`.

    Raises Problem with every fault, at its field.
    """
    entry = {key: value for key, value in given.items() if value is not None}
    if "paused" in entry:
        message = "a pause is no part of a definition; pause it when it is there"
        raise Problem("validation", f"paused: {message}", errors=[("/paused", message)])
    try:
        return item(name, entry, was, masks=True).schedule
    except ScheduleError as error:
        raise Problem("validation", str(error), errors=faults_at(name, entry, str(error))) from None


def trigger_from(given: Mapping[str, Any]) -> Trigger:
    """The rule of time of a definition. Raises Problem."""
    faults: list[str] = []
    found = trigger(given, faults)
    faults += found.faults()
    if faults:
        text = "\n".join(faults)
        raise Problem("validation", text, errors=faults_at("", given, text))
    return found


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
    """Everything of a schedule but its name, as `Schedules.update` takes it."""
    parts = ("trigger", "target", *_OPTIONS)
    return {part: getattr(schedule, part) for part in parts}


def faults_at(name: str, entry: Mapping[str, Any], text: str) -> list[tuple[str, str]]:
    """The faults in a text, one a line, each with the JSON pointer of the field it is about; ""
    is the whole."""
    when = trigger(entry, [])
    of_trigger = when.faults()
    found = []
    for line in text.splitlines():
        fault = line.removeprefix(f"{name}: ").removeprefix(f"{key_shown(name)}: ")
        if fault in of_trigger:
            found.append((_of_trigger(when, entry, fault), fault))
        else:
            found.append((_pointer(entry, fault), fault))
    return found


def _of_trigger(when: Trigger, entry: Mapping[str, Any], fault: str) -> str:
    if isinstance(when, Cron):
        return "/tz" if "a time zone" in fault else "/cron"
    return next((f"/{kind}" for kind in _WHEN if kind in entry), "")


def _pointer(entry: Mapping[str, Any], fault: str) -> str:
    if match := re.match(r"(?:(\w+): )?unknown '([\w-]+)'", fault):
        return "".join(f"/{part}" for part in match.groups() if part)
    if fault.startswith("expected one of "):
        return ""
    if fault.startswith("expected a name"):
        return "/name"
    match = _WORDS.search(fault)
    if match is None:
        return ""
    word = match[0]
    if word in _FUNC:
        return "/func"
    if word not in _PARTS:
        return f"/{_camel(word)}"
    target = entry.get(_PARTS[word])
    part = _ALIASES.get(word, word)
    return f"/{_PARTS[word]}" + (f"/{part}" if isinstance(target, dict) else "")


def _camel(word: str) -> str:
    return re.sub(r"_(.)", lambda match: match[1].upper(), word)


_KNOWN = {*_OPTIONS, *map(_camel, _OPTIONS), *_WHEN, *_WHAT, "tz", "anchor", *_PARTS, *_FUNC}
_WORDS = re.compile(rf"\b(?:{'|'.join(sorted(_KNOWN, key=len, reverse=True))})\b")


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
