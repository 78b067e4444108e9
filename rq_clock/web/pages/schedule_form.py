"""Adding and editing schedules with a form.

A form becomes a manifest entry, which the manifest's reader checks. Each fault is shown at its
field. Secrets are masked; a value that comes back masked keeps the stored one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from rq_clock.errors import Conflict, ScheduleError
from rq_clock.manifest import definition as manifest
from rq_clock.manifest.fields import count, interval, json_value, retries, seconds
from rq_clock.model.schedule import Schedule
from rq_clock.timing.describe import dst_remarks, fires
from rq_clock.timing.durations import duration_spec
from rq_clock.timing.instants import iso, read_instant
from rq_clock.timing.triggers import Once, Trigger
from rq_clock.timing.zones import zone_faults, zone_names
from rq_clock.web.context import Admin, Caller, Read
from rq_clock.web.pages.layout import Fields, done, fragment, page
from rq_clock.web.pages.schedule_detail import existing
from rq_clock.web.pages.schedule_row import sentence
from rq_clock.web.pages.snippets import as_cli
from rq_clock.web.problems import Problem

router = APIRouter()
NEXT = 5
"""Fire times in a preview."""
METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD")
CRONS = (
    ("*/5 * * * *", "every 5 minutes"),
    ("0 * * * *", "every hour"),
    ("0 3 * * *", "every day at 3:00"),
    ("0 9 * * 1-5", "on weekdays at 9:00"),
    ("0 6 1 * *", "on the first of the month"),
    ("0 6 L * *", "on the last of the month"),
)
WHEN = (
    "when", "cron", "every", "time", "on", "anchor", "at", "tz", "start", "end", "max_runs", "name",
    "jitter",
)  # fmt: skip
"""The fields of a preview."""
EMPTY = {
    "what": "func", "when": "cron", "tz": "UTC", "queue": "default", "method": "POST",
    "catch_up": "latest", "retries": "0",
}  # fmt: skip
"""The values of an empty form."""


# ---- fields -----------------------------------------------------------------------------------


def _pairs(separator: str, text: str) -> dict[str, str]:
    """Return lines of NAME=value as a dict."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    form = f"expected NAME{separator}value in each line"
    if faults := [f"{form}, got {line!r}" for line in lines if separator not in line]:
        raise ScheduleError(*faults)
    pairs = (line.partition(separator) for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _lines(separator: str, pairs: Mapping[str, str]) -> str:
    return "\n".join(f"{name}{separator}{value}" for name, value in pairs.items())


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _duration(value: float) -> str:
    return "-1" if value == -1 else duration_spec(timedelta(seconds=value))


def _retries(value: int | list[float]) -> str:
    return ",".join(map(_duration, value)) if isinstance(value, list) else str(value)


_json = partial(json.dumps, ensure_ascii=False)
_FIELDS: dict[str, tuple[str, Callable[[str], Any], Callable[[Any], str]]] = {
    "cron": ("cron", str, str),
    "tz": ("tz", str, str),
    "every": ("every", interval, str),
    "time": ("at", str, str),
    "on": ("on", str, str),
    "anchor": ("anchor", str, str),
    "start": ("start", str, str),
    "end": ("end", str, str),
    "max_runs": ("maxRuns", count, str),
    "at": ("once", str, lambda text: text.removesuffix("Z")),
    "func": ("func", str, str),
    "args": ("args", json_value, _json),
    "kwargs": ("kwargs", json_value, _json),
    "command": ("command.shell", str, str),
    "cwd": ("command.cwd", str, str),
    "env": ("command.env", partial(_pairs, "="), partial(_lines, "=")),
    "dyno": ("dyno.shell", str, str),
    "size": ("dyno.size", str, str),
    "dyno_env": ("dyno.env", partial(_pairs, "="), partial(_lines, "=")),
    "url": ("webhook.url", str, str),
    "method": ("webhook.method", str, str),
    "headers": ("webhook.headers", partial(_pairs, ":"), partial(_lines, ": ")),
    "body": ("webhook.json", json_value, _json),
    "call_timeout": ("webhook.timeout", seconds, _duration),
    "timeout": ("timeout", seconds, _duration),
    "retries": ("retries", retries, _retries),
    "catch_up": ("catchUp", str, str),
    "catch_up_window": ("catchUpWindow", seconds, _duration),
    "catch_up_limit": ("catchUpLimit", count, str),
    "overlap": ("overlap", str, str),
    "jitter": ("jitter", seconds, _duration),
    "queue": ("queue", str, str),
    "tags": ("tags", _words, " ".join),
}
"""Field → its path in a manifest, the reader of its text, and the writer of its value."""
_OF_PATH = {path: name for name, (path, _, _) in _FIELDS.items()} | {"webhook.timeout": "timeout"}
_BOUNDS = ("start", "end", "max_runs")
_WHEN_KINDS = {
    "cron": ("cron", "tz", *_BOUNDS),
    "every": ("every", "time", "on", "anchor", "tz", *_BOUNDS),
    "once": ("at",),
}
_WHAT_KINDS = {
    "func": ("func", "args", "kwargs"),
    "command": ("command", "cwd", "env"),
    "dyno": ("dyno", "size", "dyno_env"),
    "url": ("url", "method", "headers", "body", "call_timeout"),
}
_REQUIRED = ("cron", "every", "at", "func", "command", "dyno", "url")


@dataclass(slots=True)
class Draft:
    """A form: its values, its faults by field ("" for those of no field), and its trigger and its
    schedule, each None while it has faults."""

    values: Mapping[str, str]
    faults: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    trigger: Trigger | None = None
    schedule: Schedule | None = None

    @classmethod
    def read(
        cls, values: Mapping[str, str], was: Schedule | None = None,
        allowed: Sequence[str] | None = None,
    ) -> Draft:  # fmt: skip
        """Read a form; `was` is the schedule to edit, `allowed` as in `manifest.item`."""
        draft = cls({**EMPTY, **{name: value for name, value in values.items() if value}})
        entry = draft._entry(was)
        unread = set(draft.faults)
        with suppress(ScheduleError):  # which the schedule repeats
            draft.trigger = manifest.trigger(entry)
        try:
            draft.schedule = manifest.item(
                draft.text("name"), entry, was, masks=True, allowed=allowed
            ).schedule
        except ScheduleError as error:
            for fault in error.faults:
                name = _OF_PATH.get(fault.field, fault.field if fault.field == "name" else "")
                if name not in unread:
                    draft.faults[name].append(fault.text)
        if draft.faults:
            draft.schedule = None
        return draft

    def text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def _entry(self, was: Schedule | None) -> dict[str, Any]:
        """Return the manifest entry; a text that cannot be read stays as it is."""
        when, what = self.text("when"), self.text("what")
        when = when if when in _WHEN_KINDS else "cron"
        what = what if what in _WHAT_KINDS else "func"
        kind = "webhook" if what == "url" else what
        entry = manifest.patched(was, {when: "", kind: "" if kind == "func" else {}})
        others = {
            name for kinds in (_WHEN_KINDS, _WHAT_KINDS) for k in kinds.values() for name in k
        }
        shown = {*_WHEN_KINDS[when], *_WHAT_KINDS[what]} | (_FIELDS.keys() - others)
        if what == "url":  # the field is the call's; the timeout of the job stays as stored
            shown.discard("timeout")
        if when == "every" and not self.text("time"):  # elapsed time has no zone
            entry = {key: value for key, value in entry.items() if key not in ("tz", "on")}
            shown -= {"tz"}
        for name, (path, read, _) in _FIELDS.items():
            if name in shown:
                manifest.put(entry, path, self._value(name, read))
        return entry

    def _value(self, name: str, read: Callable[[str], Any]) -> Any:
        """Return the value of a field, None when it is empty."""
        shown = "timeout" if name == "call_timeout" else name
        text = self.text(shown)
        if not text and name not in _REQUIRED:
            return None
        try:
            return iso(read_instant(text, self._zone())) if name == "at" else read(text)
        except ScheduleError as error:
            self.faults[shown] += [fault.text for fault in error.faults]
            return text

    def _zone(self) -> str:
        """Return the zone of an instant, UTC for an unknown one."""
        faults = zone_faults(self.text("tz"))
        if faults:
            self.faults["tz"] += faults
        return "UTC" if faults else self.text("tz")


def values_of(schedule: Schedule) -> dict[str, str]:
    """Return the form of a schedule, with its secrets masked."""
    entry = manifest.document(schedule, secrets=False)
    when = next(kind for kind in _WHEN_KINDS if kind in entry)
    what = next((kind for kind in ("func", "command", "dyno") if kind in entry), "url")
    values = {**EMPTY, "name": schedule.name, "when": when, "what": what}
    for name, (path, _, show) in _FIELDS.items():
        head, _, key = path.partition(".")
        value = entry.get(head, {}).get(key) if key else entry.get(head)
        if value is not None:
            values[name] = show(value)
    if what == "url":
        values["timeout"] = values.pop("call_timeout", "")
    return values


# ---- pages ------------------------------------------------------------------------------------


@router.get("/new")
def new_page(caller: Admin) -> Response:
    return _form(caller, Draft(EMPTY))


@router.post("/new")
def new(caller: Admin, form: Fields) -> Response:
    """Add a new schedule, or preview it."""
    draft = Draft.read(form, allowed=caller.allowed_targets)
    if draft.schedule is None or form.get("do") != "save":
        return _form(caller, draft, checked=True)
    name, schedule = draft.schedule.name, draft.schedule
    try:
        caller.service.add(name, **schedule.parts())
    except Conflict:
        draft.faults["name"].append("exists already; choose another name, or edit that one")
        return _form(caller, draft, checked=True)
    except ScheduleError as error:
        draft.faults[""].append(str(error))
        return _form(caller, draft, checked=True)
    return done(caller, f"/schedules/{name}", f"Added {name}.")


@router.get("/new/preview")
def preview(caller: Read) -> Response:
    """Return the part of the page that previews a trigger, loaded again while somebody types."""
    values = {name: caller.request.query_params.get(name, "") for name in WHEN}
    draft = Draft.read({**values, "what": "func", "func": "some.function"})
    now = caller.context.schedules.status().now
    return fragment(caller, "_preview.html", now=now, **_meaning(draft, now))


@router.get("/schedules/{name}/edit")
def edit_page(caller: Admin, name: str) -> Response:
    _, found = existing(caller, name)
    entry = found.row.entry
    if entry.declared:
        raise Problem("declared-in-code", f"{name} is declared in code; change it there and deploy")
    values = values_of(entry.schedule) if entry.schedule else {**EMPTY, "name": name}
    draft = Draft({**values, "revision": entry.revision})
    if not entry.schedule:
        draft.faults[""].append(f"{entry.fault}; saving this form replaces it")
    return _form(caller, draft, name=name)


@router.post("/schedules/{name}/edit")
def edit(caller: Admin, name: str, form: Fields) -> Response:
    """Save a change, or preview it."""
    _, found = existing(caller, name)
    was = found.row.entry.schedule
    draft = Draft.read({**form, "name": name}, was, caller.allowed_targets)
    if draft.schedule is None or form.get("do") != "save":
        return _form(caller, draft, name=name, checked=True)
    try:
        revision = form.get("revision") or None
        caller.service.update(name, revision=revision, **draft.schedule.parts())
    except ScheduleError as error:
        draft.faults[""].append(str(error))
        return _form(caller, draft, name=name, checked=True)
    return done(caller, f"/schedules/{name}", f"Changed {name}.")


def _form(caller: Caller, draft: Draft, *, name: str = "", checked: bool = False) -> Response:
    status = caller.context.schedules.status()
    meaning = _meaning(draft if checked or not name else Draft.read(draft.values), status.now)
    return page(
        caller, "edit.html", status, name=name, form=draft.values,
        faults=dict(draft.faults), zones=sorted(zone_names()), methods=METHODS, crons=CRONS,
        fields=" ".join(WHEN),
        limits=_limits(caller),
        cli=as_cli(draft.schedule.name, draft.schedule) if draft.schedule else "",
        status_code=422 if checked and draft.faults else 200, **meaning,
    )  # fmt: skip


def _limits(caller: Caller) -> str:
    """Return what the caller's token may define; "" for everything."""
    allowed = caller.allowed_targets
    if allowed is None:
        return ""
    functions = f"functions of {', '.join(allowed)} and " if allowed else ""
    return (
        f"Your token may define {functions}web calls; commands and dynos take one with the scope "
        "commands."
    )


def _meaning(draft: Draft, now: datetime) -> Mapping[str, Any]:
    """Return the preview of a form: its trigger in words, next fire times and warnings; or the
    faults of its trigger."""
    faults = {k: texts for k, texts in draft.faults.items() if k in WHEN and k != "name"}
    trigger = draft.trigger
    if trigger is None or faults:
        empty = not draft.text("cron") and draft.text("when") in ("", "cron")
        return {"sentence": "", "when_faults": {} if empty else faults}
    offset = draft.schedule.offset if draft.schedule else timedelta(0)
    found = fires(trigger, now, NEXT, offset)
    warnings = list(trigger.warnings())
    if not found:
        late = isinstance(trigger, Once)
        warnings.append(
            "that has passed: it is due at once" if late else "its last fire time has passed"
        )
    return {
        "sentence": sentence(trigger), "when_faults": {}, "coming": found, "warnings": warnings,
        "remarks": dst_remarks(trigger, now), "tz": trigger.tz,
    }  # fmt: skip
