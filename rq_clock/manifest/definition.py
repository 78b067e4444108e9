"""Schedules as entries of a manifest: read and written.

Options of commands, forms, JSON and manifests all become an entry, and `item` reads it. An entry
without a key has the option's default. Durations may be texts such as "15m", `once` and `anchor`
are ISO 8601, and a command, dyno or webhook may be only its line or its URL.

Invariants
- An entry that `document` wrote reads as the same schedule.
- Every fault of an entry is reported at once.
- A masked value stands only for the value that is stored at that place of that schedule. A stored
  secret of a webhook never goes to another host.

Pure. Not here: whole manifests (document.py), texts of options and form fields (fields.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest.fields import kind_of, shown_value, unknown
from rq_clock.model import targets
from rq_clock.model.allowlist import limited
from rq_clock.model.entry import MISSED, Pause
from rq_clock.model.schedule import STORED, Schedule, declare
from rq_clock.model.targets import SHELLS, Command, Dyno, Target, Webhook
from rq_clock.model.validation import reason_faults
from rq_clock.redaction import MASK, masked_json, masked_url
from rq_clock.timing.durations import UNITS, duration_or_none, duration_spec, has_unit
from rq_clock.timing.instants import from_ms, iso
from rq_clock.timing.triggers import Faulty, Trigger, cron, every, once

_MS = UNITS["ms"]
_BOUNDS = ("start", "end", "maxRuns")
_TRIGGERS: Mapping[str, Sequence[str]] = {
    "cron": ("tz", *_BOUNDS), "every": ("at", "on", "tz", "anchor", *_BOUNDS), "once": ()
}  # fmt: skip
_CALLS = {"func": ("args", "kwargs"), "command": (), "dyno": (), "webhook": ()}
"""The triggers and the targets, each with the keys that go with it."""
_TARGETS = {"func": "", "command": "shell", "dyno": "shell", "webhook": "url"}
"""The targets, each with the key that a plain text stands for."""
_DURATIONS = ("timeout", "resultTtl", "failureTtl", "catchUpWindow", "jitter")
_FIRST = ("cron", "every", *_TRIGGERS["every"], "once", "func", "command", "dyno", "webhook")
_OPTIONS = {key: option for key, option in STORED.items() if option != "allowed_targets"}
_KNOWN = {*_FIRST, *_OPTIONS, "paused"}
_SECRETIVE = ("command", "dyno", "webhook", "args", "kwargs", "ping")
"""Keys with values that may be masked."""
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """A pause in a manifest: without an actor and a start."""

    reason: str = ""
    until: datetime | None = None
    missed: str = "skip"

    @classmethod
    def of(cls, pause: Pause) -> Paused:
        return cls(reason=pause.reason, until=pause.until, missed=pause.missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A schedule, and the pause to give it, if any."""

    schedule: Schedule
    paused: Paused | None = None


# ---- from an entry ----------------------------------------------------------------------------


def item(
    name: str, entry: Any, was: Schedule | None, *, masks: bool,
    allowed: Sequence[str] | None = None,
) -> Item:  # fmt: skip
    """Return the schedule of an entry. With `masks`, a masked value stands for the value of the
    stored schedule (`was`). `allowed` are the functions that its author may call, None for any, and
    then commands too. Raises ScheduleError with every fault of the entry."""
    if not isinstance(entry, dict):
        text = f"expected a mapping with the keys of a schedule, got {kind_of(entry)}"
        raise ScheduleError(Fault("", text, schedule=name))
    faults = [unknown(key, _KNOWN) for key in entry if key not in _KNOWN]
    for kind, short in _TARGETS.items():
        if short and isinstance(entry.get(kind), str):
            entry = entry | {kind: {short: entry[kind]}}
    if masks:
        stored, shown = (document(was, secrets=s) if was else {} for s in (True, False))
        if _calls_another_host(entry, shown, was):
            stored, shown = ({**d, "webhook": {}} for d in (stored, shown))
        entry = entry | {
            key: _unmasked(entry[key], _part(stored, key), _part(shown, key), (key,), faults)
            for key in _SECRETIVE
            if key in entry
        }
    try:
        when: Any = trigger(entry)
    except ScheduleError as error:
        when = Faulty(error.faults)  # which `declare` refuses, with the other faults
    target = _target(entry, faults)
    paused = _paused(entry.get("paused"), faults)
    options = {
        option: _in_seconds(key, entry[key], faults) if key in _DURATIONS else entry[key]
        for key, option in _OPTIONS.items()
        if key in entry
    }
    faults = [replace(fault, schedule=name) for fault in faults]
    try:
        schedule = limited(declare(name, when, target, options), was, allowed)
    except ScheduleError as error:
        faults += error.faults
    if faults:
        raise ScheduleError(*faults)
    return Item(schedule=schedule, paused=paused)


def patched(was: Schedule | None, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule's entry after a merge patch (RFC 7396), with its secrets masked. A trigger
    or target in the patch replaces one of another kind."""
    whole = document(was, secrets=False) if was else {}
    for kinds in (_TRIGGERS, _CALLS):
        named = [kind for kind in kinds if patch.get(kind) is not None]
        for kind, others in kinds.items():
            if named and kind not in named and kind in whole:
                whole = {key: v for key, v in whole.items() if key not in (kind, *others)}
    merged: dict[str, Any] = _merged(whole, patch)
    return merged


def put(entry: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path of an entry, such as "webhook.url"; None removes it."""
    head, _, key = path.partition(".")
    at, key = (entry.setdefault(head, {}), key) if key else (entry, head)
    if value is None:
        at.pop(key, None)
    else:
        at[key] = value


def _merged(value: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, part in patch.items():
        if part is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), part)
    return merged


def trigger(entry: Mapping[str, Any]) -> Trigger:
    """Return the trigger of an entry. Raises ScheduleError with every fault."""
    faults: list[Fault] = []
    kind = _only(_TRIGGERS, entry, faults)
    if not kind:
        raise ScheduleError(*faults)
    for key in (key for keys in _TRIGGERS.values() for key in keys if key in entry):
        owners = [other for other, keys in _TRIGGERS.items() if key in keys]
        if kind not in owners:
            faults.append(Fault(key, f"{key} goes with {' or '.join(owners)}"))
    bounds: dict[str, Any] = {
        "start": entry.get("start"),
        "end": entry.get("end"),
        "max_runs": entry.get("maxRuns"),
    }
    more: dict[str, Any] = {key: entry.get(key) for key in ("at", "on", "tz", "anchor")}
    try:
        if kind == "cron":
            found: Trigger = cron(entry["cron"], entry.get("tz", "UTC"), **bounds)
        elif kind == "every":
            found = every(milliseconds=_period(entry["every"]), **more, **bounds)
        else:
            found = once(_instant("once", entry["once"]))
    except ScheduleError as error:
        faults += error.faults
    if faults:
        raise ScheduleError(*dict.fromkeys(faults))
    return found


def _only(kinds: Iterable[str], entry: Mapping[str, Any], faults: list[Fault]) -> str:
    """Return the one of these keys that an entry has; "" after a fault."""
    found = [kind for kind in kinds if kind in entry]
    if len(found) == 1:
        return found[0]
    *names, last = kinds
    text = f"expected one of {', '.join(names)} and {last}, got {' and '.join(found) or 'none'}"
    faults.append(Fault("", text))
    return ""


def _target(entry: Mapping[str, Any], faults: list[Fault]) -> Target:
    """Return the target of an entry; an arbitrary one after a fault."""
    kind = _only(_TARGETS, entry, faults)
    if not kind:
        return "any.thing"
    spec, needed = entry[kind], _TARGETS[kind]
    if isinstance(spec, str):
        return spec
    if not needed:
        text = f"expected func as the dotted name of a function, got {kind_of(spec)}"
    elif not isinstance(spec, dict) or needed not in spec:
        text = f"expected {kind} as a text or as a mapping with {needed}, got {kind_of(spec)}"
    else:
        classes = {"command": Command, "dyno": Dyno, "webhook": Webhook}
        known = [f.name for f in fields(classes[kind])]
        faults += [unknown(key, known, kind) for key in spec if key not in known]
        spec = {key: value for key, value in spec.items() if key in known}
        if "timeout" in spec:
            spec["timeout"] = _in_seconds(f"{kind}.timeout", spec["timeout"], faults)
        return targets.from_spec(kind, spec)
    faults.append(Fault(kind, text))
    return "any.thing"


def _paused(value: Any, faults: list[Fault]) -> Paused | None:
    """Return the pause of an entry; None for null and false."""
    if value is None or value is False:
        return None
    value = {} if value is True else value
    if not isinstance(value, dict):
        text = f"expected paused as a mapping with reason, until, missed, got {kind_of(value)}"
        faults.append(Fault("paused", text))
        return None
    known = [f.name for f in fields(Paused)]
    faults += [unknown(key, known, "paused") for key in value if key not in known]
    reason, missed, until = value.get("reason", ""), value.get("missed", "skip"), value.get("until")
    faults += [Fault("paused.reason", f"paused: {fault.text}") for fault in reason_faults(reason)]
    if missed not in MISSED:
        text = f"paused: expected missed to be skip, latest or all, got {shown_value(missed)}"
        faults.append(Fault("paused.missed", text))
    if until is not None:
        try:
            until = _instant("paused.until", until)
        except ScheduleError as error:
            until, faults[:] = None, [*faults, *error.faults]
    return Paused(reason=reason, until=until, missed=missed)


def _instant(field: str, value: Any) -> datetime:
    """Return an instant in whole milliseconds, rounded up as by `once`. Raises ScheduleError."""
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            t = datetime.fromisoformat(value).astimezone(UTC)
            if datetime.fromisoformat(value).tzinfo:
                return once(t).at
    shown = field.replace(".", ": ")
    text = f"expected {shown} as 2026-03-29T02:30:00Z or with +02:00, got {shown_value(value)}"
    raise ScheduleError(Fault(field, text))


def _period(value: Any) -> int:
    """Return a period in milliseconds. Raises ScheduleError."""
    found = _duration(value)
    if found is not None and not found % _MS:
        return found // _MS
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = f"expected every in milliseconds or as 15m (ms, s, m, h, d, w), got {shown_value(value)}"
    raise ScheduleError(Fault("every", text))


def _in_seconds(field: str, value: Any, faults: list[Fault]) -> Any:
    """Return a duration in seconds, and any other value as it is: the schedule refuses it."""
    found = _duration(value)
    if found is not None:
        value = found / UNITS["s"]
        value = int(value) if value == int(value) else value
    if isinstance(value, int | float) and not -1e10 < value < 1e10:
        text = f"expected {field} in seconds or as 15m, got {shown_value(value)}"
        faults.append(Fault(field, text))
        return None
    return value


def _duration(value: Any) -> timedelta | None:
    return duration_or_none(value) if isinstance(value, str) and has_unit(value) else None


def _calls_another_host(entry: Mapping[str, Any], shown: Any, was: Schedule | None) -> bool:
    """Return whether a webhook moves to another host, which must get no stored secret."""
    call = entry.get("webhook")
    url = call.get("url") if isinstance(call, dict) else None
    if not was or not isinstance(was.target, Webhook) or not isinstance(url, str):
        return False
    if url == shown["webhook"]["url"]:
        return False
    with suppress(ValueError):  # https and http count as two
        return urlsplit(url)[:2] != urlsplit(was.target.url)[:2]
    return True


def _unmasked(
    value: Any, stored: Any, shown: Any, path: tuple[str, ...], faults: list[Fault]
) -> Any:
    """Return the value with each masked part replaced by the stored one, if it is `shown` so."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        found = {
            key: _unmasked(part, _part(stored, key), _part(shown, key), (*path, str(key)), faults)
            for key, part in parts
        }
        return found if isinstance(value, dict) else list(found.values())
    if not isinstance(value, str) or not _is_masked(value, path):
        return value
    if value == shown:
        return stored
    text = (
        f"{'.'.join(path)} is masked, and there is no stored value that it stands for"
        f"{' at this host' if path[0] == 'webhook' else ''}; write the value itself"
    )
    faults.append(Fault(".".join(path[:2] if path[0] in _TARGETS else path[:1]), text))
    return value.replace("…", "")  # which would be a fault of its own


def _is_masked(text: str, path: Sequence[str]) -> bool:
    """Return whether a text is masked. Only a masked URL has an ellipsis."""
    return MASK in text or (path[-1] in ("url", "ping") and "…" in text)


def _part(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(key, _NOTHING)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return _NOTHING


# ---- to an entry ------------------------------------------------------------------------------


def document(
    schedule: Schedule, paused: Paused | None = None, *, secrets: bool = True
) -> dict[str, Any]:
    """Return the entry of a schedule: trigger, target, then the options that are not at their
    default, by name. Without `secrets` it masks them."""
    entry: dict[str, Any] = json.loads(schedule.definition())
    entry.pop("allowedTargets", None)
    if not secrets:  # in the same order
        entry |= json.loads(json.dumps(_masked(schedule), sort_keys=True))
    for kind, first in _TARGETS.items():
        if first and kind in entry:
            entry[kind] = {first: entry[kind][first]} | entry[kind]
    if "every" in entry:
        entry["every"] = duration_spec(entry["every"] * _MS)
    for key in ("anchor", "start", "end", "once"):
        if isinstance(entry.get(key), int):
            entry[key] = iso(from_ms(entry[key]))
    found = {key: entry.pop(key) for key in _FIRST if key in entry} | entry
    if paused:
        found["paused"] = _paused_entry(paused)
    return found


def _masked(schedule: Schedule) -> dict[str, Any]:
    """Return the values that can contain secrets, masked."""
    target = schedule.target
    entry: dict[str, Any] = {}
    if isinstance(target, SHELLS):
        entry[target.kind] = target.shown()
    elif isinstance(target, Webhook):
        entry["webhook"] = target.shown() | {"url": _masked_url(target.url)}
    if schedule.args:
        entry["args"] = masked_json(list(schedule.args))
    if schedule.kwargs:
        entry["kwargs"] = masked_json(dict(schedule.kwargs))
    if schedule.ping:
        entry["ping"] = _masked_url(schedule.ping)
    return entry


def _masked_url(url: str) -> str:
    """Return a URL masked, or unchanged, also in case, if nothing in it is secret."""
    shown = masked_url(url)
    return shown if _is_masked(shown, ["url"]) else url


def _paused_entry(paused: Paused) -> dict[str, Any] | bool:
    entry: dict[str, Any] = {"reason": paused.reason} if paused.reason else {}
    if paused.until:
        entry["until"] = iso(paused.until)
    if paused.missed != "skip":
        entry["missed"] = paused.missed
    return entry or True
