"""A schedule as a form has it: read with every fault at its field, and written for an edit. Pure.

A form is brought into the words of a manifest and read as one, so what is wrong is the project's
own word; here it only finds its field. Secrets are masked in the form, and a value that comes back
masked is the one that is stored.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.manifest import document as manifest
from rq_clock.model.schedule import Schedule
from rq_clock.model.validation import NAME, name_fault
from rq_clock.timing.durations import duration_spec, read_duration
from rq_clock.timing.instants import iso, read_instant
from rq_clock.timing.triggers import Trigger
from rq_clock.timing.zones import zone_faults
from rq_clock.web.pages.form_times import field_value

WHEN = ("when", "cron", "every", "at", "tz", "name", "jitter")
"""The fields that say when a schedule fires."""
EMPTY = {
    "what": "func", "when": "cron", "tz": "UTC", "queue": "default", "method": "POST",
    "catch_up": "latest", "retries": "0",
}  # fmt: skip
"""A form before anything was entered."""
_FIELDS = {
    "once": "at", "command.shell": "command", "command.cwd": "cwd", "command.env": "env",
    "command.timeout": "timeout", "webhook.url": "url", "webhook.method": "method",
    "webhook.headers": "headers", "webhook.json": "body", "webhook.timeout": "timeout",
    "catchUp": "catch_up", "catchUpWindow": "catch_up_window", "catchUpLimit": "catch_up_limit",
}  # fmt: skip
"""The field of a form that has another name than the one of a manifest."""
_SHOWN = (
    "name", "cron", "tz", "every", "func", "args", "kwargs", "queue", "timeout", "retries",
    "overlap", "jitter", "tags", *_FIELDS.values(),
)  # fmt: skip
_KINDS = {"cron": "cron", "every": "every", "once": "at"}
_KEPT = ("anchor", "resultTtl", "failureTtl", "group", "groupLimit", "ping")
"""What an edit leaves alone."""
_NAMELESS = "unnamed"
_DIGITS = 15
"""Of a number."""
_MS = timedelta(milliseconds=1)


@dataclass(slots=True)
class Draft:
    """What was entered, what is wrong with it by field ("" for what belongs to none), and the rule
    of time and the schedule that it means, as far as nothing is wrong."""

    values: Mapping[str, str]
    faults: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    trigger: Trigger | None = None
    schedule: Schedule | None = None

    @classmethod
    def read(cls, values: Mapping[str, str], was: Schedule | None = None) -> Draft:
        """Read a form; `was` is what is edited."""
        draft = cls({**EMPTY, **{name: value for name, value in values.items() if value}})
        before = manifest.document(was, secrets=False) if was else {}
        when = draft._when()
        entry = {key: before[key] for key in _KEPT if key in before and key != "anchor"}
        entry |= when | draft._what(before) | draft._how()
        if "anchor" in before and "every" in when:
            entry["anchor"] = before["anchor"]
        if not draft.faults[_KINDS.get(draft.say("when"), "cron")]:
            draft.trigger = manifest.trigger(entry, [])
        draft._understand(entry, was)
        draft.faults = defaultdict(list, {n: told for n, told in draft.faults.items() if told})
        return draft

    def say(self, name: str) -> str:
        """What a field has."""
        return self.values.get(name, "").strip()

    @property
    def options(self) -> dict[str, Any]:
        """What `Schedules.add` and `update` take beside name, rule and target."""
        unmeant = ("name", "trigger", "target", "renamed_from")
        return {
            f.name: getattr(self.schedule, f.name)
            for f in fields(Schedule)
            if f.name not in unmeant
        }

    def _understand(self, entry: Mapping[str, Any], was: Schedule | None) -> None:
        name = self.say("name") or _NAMELESS
        if not self.say("name") or not NAME.match(name):
            shown = repr(name) if self.say("name") else ""
            self.faults["name"].append(name_fault(shown).text)
            name = _NAMELESS
        try:
            found = manifest.item(name, entry, was, masks=bool(was)).schedule
        except ScheduleError as error:
            for fault in error.faults:
                field = _FIELDS.get(fault.field, fault.field)
                self.faults[field if field in _SHOWN else ""].append(fault.text)
            return
        if not any(self.faults.values()):
            self.schedule = found

    # ---- the words of a manifest --------------------------------------------------------------

    def _when(self) -> dict[str, Any]:
        tz = self.say("tz")
        match self.say("when"):
            case "every":
                period = self._take("every", read_duration)
                return {"every": 1000 if period is None else period // _MS}
            case "once":
                if found := zone_faults(tz):
                    self.faults["tz"] += found
                at = self._take("at", lambda text: read_instant(text, "UTC" if found else tz))
                return {"once": iso(at or datetime.fromisoformat("2000-01-01T00:00Z"))}
        return {"cron": self.say("cron"), "tz": tz}

    def _what(self, before: Mapping[str, Any]) -> dict[str, Any]:
        match self.say("what"):
            case "command":
                kept = {"timeout": t} if (t := before.get("command", {}).get("timeout")) else {}
                shell: dict[str, Any] = {"shell": self.say("command"), **kept}
                shell |= {"cwd": self.say("cwd")} if self.say("cwd") else {}
                return {"command": shell | {"env": self._pairs("env", "=")}}
            case "url":
                call: dict[str, Any] = {"url": self.say("url"), "method": self.say("method")}
                call |= {"headers": self._pairs("headers", ":")}
                seconds = self._take("timeout", _in_seconds)
                call |= {"timeout": seconds} if seconds else {}
                body = self._take("body", _json)
                return {"webhook": call if body is None else call | {"json": body}}
        given = {name: self._take(name, _json) for name in ("args", "kwargs")}
        return {"func": self.say("func")} | {n: v for n, v in given.items() if v is not None}

    def _how(self) -> dict[str, Any]:
        given = {
            "timeout": None if self.say("what") == "url" else self._take("timeout", _in_seconds),
            "retries": self._take("retries", _retries),
            "catchUp": self.say("catch_up"),
            "catchUpWindow": self._take("catch_up_window", _in_seconds),
            "catchUpLimit": self._take("catch_up_limit", _number),
            "overlap": self.say("overlap") or None,
            "jitter": self._take("jitter", _in_seconds),
            "queue": self.say("queue"),
            "tags": self.say("tags").replace(",", " ").split() or None,
        }
        return {key: value for key, value in given.items() if value is not None}

    def _take(self, name: str, read: Callable[[str], Any]) -> Any:
        """What a field means, None when it is empty; a fault is told there."""
        try:
            return read(self.say(name)) if self.say(name) or name in _KINDS.values() else None
        except ScheduleError as error:
            self.faults[name].append(str(error).removeprefix(f"{name}: "))
            return None

    def _pairs(self, name: str, separator: str) -> dict[str, str]:
        """Lines of NAME=value."""
        found = {}
        for line in filter(None, map(str.strip, self.values.get(name, "").splitlines())):
            key, there, value = line.partition(separator)
            if there:
                found[key.strip()] = value.strip()
            else:
                fault = f"expected NAME{separator}value in each line, got {line!r}"
                self.faults[name].append(fault)
        return found


def _in_seconds(text: str) -> float:
    seconds = -1.0 if text == "-1" else read_duration(text) / timedelta(seconds=1)
    return int(seconds) if seconds == int(seconds) else seconds


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > _DIGITS:
        raise ScheduleError(f"expected a whole number, got {text!r}")
    return int(text)


def _retries(text: str) -> int | list[float]:
    return _number(text) if text.isdecimal() else [_in_seconds(part) for part in text.split(",")]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "; text stands in double quotes" if "Expecting value" in str(error) else ""
        raise ScheduleError(f"expected JSON ({error}){hint}") from None


# ---- a schedule as the form shows it ----------------------------------------------------------


def values_of(schedule: Schedule) -> dict[str, str]:
    """The form of a schedule, with its secrets masked."""
    said = manifest.document(schedule, secrets=False)
    shell, call = said.get("command", {}), said.get("webhook", {})
    kind = next(kind for kind in _KINDS if kind in said)
    what = "command" if shell else "url" if call else "func"
    retries = said.get("retries", 0)
    return {
        **EMPTY,
        "name": schedule.name,
        "when": kind,
        "cron": said.get("cron", ""),
        "tz": said.get("tz", "UTC"),
        "every": str(said.get("every", "")),
        "at": field_value(read_instant(said["once"]), "UTC") if kind == "once" else "",
        "what": what,
        "func": said.get("func", ""),
        "args": _text(said.get("args")),
        "kwargs": _text(said.get("kwargs")),
        "command": shell.get("shell", ""),
        "cwd": shell.get("cwd", ""),
        "env": "\n".join(f"{name}={value}" for name, value in shell.get("env", {}).items()),
        "url": call.get("url", ""),
        "method": call.get("method", "POST"),
        "headers": "\n".join(f"{n}: {value}" for n, value in call.get("headers", {}).items()),
        "body": _text(call.get("json")),
        "queue": schedule.queue,
        "timeout": _span(call.get("timeout") or said.get("timeout")),
        "retries": ",".join(map(_span, retries)) if isinstance(retries, list) else str(retries),
        "catch_up": schedule.catch_up,
        "catch_up_window": _span(said.get("catchUpWindow")),
        "catch_up_limit": str(said.get("catchUpLimit", "")),
        "overlap": said.get("overlap", ""),
        "jitter": _span(said.get("jitter")),
        "tags": " ".join(schedule.tags),
    }


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _span(seconds: float | None) -> str:
    if seconds is None or seconds == -1:
        return "" if seconds is None else "-1"
    return duration_spec(timedelta(seconds=seconds))
