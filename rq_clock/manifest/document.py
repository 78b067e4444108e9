"""Run-time schedules as a text: to keep beside the code, to edit, to carry to another Redis.

    version: 1
    schedules:
      report-42:
        cron: 0 6 * * *
        tz: Asia/Tokyo
        func: tasks.reports.send
        args: [42]
        paused: {reason: on holiday, until: 2026-04-01T00:00:00Z, missed: latest}

YAML, or JSON with the same words: those of `Schedule.definition`, in which `every` and any other
duration may be a text such as "15m", `once` and `anchor` are ISO 8601, and a command or webhook
may be no more than its line or its URL. Without `paused` an operator's pause is left as it is.

Invariants
- What was dumped is read as it was, and the same schedules are dumped as the same text.
- Every fault of every entry is told at once.
- A value that was masked when it was dumped stands for the value that is stored at that place of
  that schedule, and for no other; a text that says `secrets: included` has no masks.

Pure. Not here: YAML and JSON (plain.py), what applying one would change (moves.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

import yaml

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest import reader as plain
from rq_clock.manifest.reader import key_shown, kind_of
from rq_clock.model import targets
from rq_clock.model.entry import Pause
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Command, Target, Webhook
from rq_clock.redaction import MASK, masked_json, masked_url, printable
from rq_clock.timing.durations import UNITS, duration_or_none, duration_spec, has_unit
from rq_clock.timing.instants import from_ms, iso, to_ms
from rq_clock.timing.triggers import Every, Trigger, cron, once

VERSION = 1
MISSED = ("skip", "latest", "all")

_MS = UNITS["ms"]
_TRIGGERS = {"cron": ("tz",), "every": ("anchor",), "once": ()}
_CALLS = {"func": ("args", "kwargs"), "command": (), "webhook": ()}
"""The triggers and the targets, and the keys that go with one alone."""
_TARGETS = {"func": "", "command": "shell", "webhook": "url"}
"""The targets, and what one stands for that is given as a text alone."""
_OPTIONS = {
    re.sub(r"_(.)", lambda match: match[1].upper(), f.name): f.name
    for f in fields(Schedule)
    if f.name not in ("name", "trigger", "target", "renamed_from")
}
_DURATIONS = ("timeout", "resultTtl", "failureTtl", "catchUpWindow", "jitter")
_FIRST = ("cron", "tz", "every", "anchor", "once", "func", "command", "webhook")
_KNOWN = {*_FIRST, *_OPTIONS, "paused"}
_SECRETIVE = ("command", "webhook", "args", "kwargs", "ping")
"""Where a value may be masked."""
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """A pause as a manifest has it: not yet anybody's, and with no beginning."""

    reason: str = ""
    until: datetime | None = None
    missed: str = "skip"

    @classmethod
    def of(cls, pause: Pause) -> Paused:
        return cls(reason=pause.reason, until=pause.until, missed=pause.missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A schedule as it is to be, and its pause if it is to have one."""

    schedule: Schedule
    paused: Paused | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A text that has been read, but not what its entries say."""

    entries: Mapping[str, Any]
    lines: Mapping[str, int]
    faults: tuple[Fault, ...]
    masks: bool

    def items(self, stored: Mapping[str, Schedule]) -> list[Item]:
        """What the entries say; `stored` are the schedules that masked values stand for values of.

        Raises ScheduleError with every fault of the text.
        """
        faults, found = list(self.faults), []
        for name, entry in self.entries.items():
            was = stored.get(name)
            try:
                found.append(item(name, entry, was, masks=self.masks))
            except ScheduleError as error:
                faults += [replace(fault, line=self.lines.get(name)) for fault in error.faults]
        if faults:
            raise ScheduleError(*faults)
        return found


# ---- from a text ------------------------------------------------------------------------------


def parse(text: str) -> list[Item]:
    """The schedules of a manifest in which nothing is masked. Raises ScheduleError."""
    return read(text).items({})


def read(text: str) -> Manifest:
    """A manifest, as YAML or, when it begins with a brace, as JSON.

    Raises ScheduleError when it is none; faults of single entries are left to `Manifest.items`.
    """
    found = plain.read(text)
    whole, faults = found.value, list(found.twice)
    if not isinstance(whole, dict):
        got = kind_of(whole)
        raise ScheduleError(f"expected a manifest with version and schedules, got {got}")
    version, entries = whole.get("version"), whole.get("schedules")
    if version != VERSION or version is True:
        text = f"expected 'version: {VERSION}', got {_shown(version)}"
        faults.append(Fault("version", text))
    if not isinstance(entries, dict):
        got = kind_of(entries)
        text = f"expected schedules as a mapping of names, or {{}} for none, got {got}"
        faults.append(Fault("schedules", text))
        entries = {}
    secrets = whole.get("secrets", "masked")
    if secrets not in ("masked", "included"):
        text = f"expected secrets to be masked or included, got {_shown(secrets)}"
        faults.append(Fault("secrets", text))
    known = ("version", "secrets", "schedules")
    faults += [_unknown(key, known) for key in whole if key not in known]
    lines = {path[1]: line for path, line in found.lines.items() if path[:-1] == ("schedules",)}
    return Manifest(entries, lines, tuple(faults), masks=secrets != "included")


# ---- what an entry says -----------------------------------------------------------------------


def item(name: str, entry: Any, was: Schedule | None, *, masks: bool) -> Item:
    """What an entry says; with `masks`, a masked value stands for that of the schedule as it `was`.

    Raises ScheduleError with every fault of the entry.
    """
    if not isinstance(entry, dict):
        text = f"expected a schedule's words and values, got {kind_of(entry)}"
        raise ScheduleError(Fault("", text, schedule=name))
    faults = [_unknown(key, _KNOWN) for key in entry if key not in _KNOWN]
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
    when = trigger(entry, faults)
    target = _target(entry, faults)
    paused = _paused(entry.get("paused"), faults)
    options = {
        option: _in_seconds(key, entry[key], faults) if key in _DURATIONS else entry[key]
        for key, option in _OPTIONS.items()
        if key in entry
    }
    faults = [replace(fault, schedule=name) for fault in faults]
    try:
        schedule = declare(name, when, target, options)
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
            if named and kind not in named:
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


def trigger(entry: Mapping[str, Any], faults: list[Fault]) -> Trigger:
    """The rule of time of an entry; its faults are added to `faults`, and then it is any rule, so
    that others are found as well."""
    kinds = [kind for kind in _TRIGGERS if kind in entry]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none"
        faults.append(Fault("", f"expected one of cron, every and once, got {got}"))
        return Every(1000)
    [kind] = kinds
    for other, words in _TRIGGERS.items():
        misplaced = [word for word in words if word in entry and other != kind]
        faults += [Fault(word, f"{word} goes with {other}") for word in misplaced]
    if kind == "cron":
        return cron(entry["cron"], entry.get("tz", "UTC"))
    if kind == "once":
        at = _instant("once", entry["once"], faults)
        return once(at) if at else Every(1000)
    period, anchor = _period(entry["every"], faults), 0
    if "anchor" in entry:
        start = _instant("anchor", entry["anchor"], faults)
        anchor = to_ms(start) if start else 0
    return Every(period, anchor)


def _target(entry: Mapping[str, Any], faults: list[Fault]) -> Target:
    """What runs; anything when there is a fault."""
    kinds = [kind for kind in _TARGETS if kind in entry]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none"
        faults.append(Fault("", f"expected one of func, command and webhook, got {got}"))
        return "any.thing"
    [kind] = kinds
    spec = entry[kind]
    if kind == "func":
        if isinstance(spec, str):
            return spec
        text = f"expected func as the dotted name of a function, got {kind_of(spec)}"
        faults.append(Fault("func", text))
        return "any.thing"
    needed = _TARGETS[kind]
    if not isinstance(spec, dict) or needed not in spec:
        text = f"expected {kind} as a text or as a mapping with {needed}, got {kind_of(spec)}"
        faults.append(Fault(kind, text))
        return "any.thing"
    known = [f.name for f in fields(Command if kind == "command" else Webhook)]
    faults += [_unknown(key, known, kind) for key in spec if key not in known]
    given = {key: value for key, value in spec.items() if key in known}
    if "timeout" in given:
        given["timeout"] = _in_seconds(f"{kind}.timeout", given["timeout"], faults)
    return targets.from_spec(kind, given)


def _paused(value: Any, faults: list[Fault]) -> Paused | None:
    if value is None or value is False:
        return None
    if value is True:
        value = {}
    if not isinstance(value, dict):
        text = f"expected paused as a mapping with reason, until, missed, got {kind_of(value)}"
        faults.append(Fault("paused", text))
        return None
    known = [f.name for f in fields(Paused)]
    faults += [_unknown(key, known, "paused") for key in value if key not in known]
    reason, missed = value.get("reason", ""), value.get("missed", "skip")
    if not isinstance(reason, str):
        text = f"paused: expected reason as text, got {kind_of(reason)}"
        faults.append(Fault("paused.reason", text))
    if missed not in MISSED:
        text = f"paused: expected missed to be skip, latest or all, got {_shown(missed)}"
        faults.append(Fault("paused.missed", text))
    until = value.get("until")
    if until is not None:
        until = _instant("paused.until", until, faults)
    return Paused(reason=reason, until=until, missed=missed)


def _instant(field: str, value: Any, faults: list[Fault]) -> datetime | None:
    """An instant in whole milliseconds, rounded up as `once` does."""
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            t = datetime.fromisoformat(value).astimezone(UTC)
            if datetime.fromisoformat(value).tzinfo:
                return once(t).at
    shown = field.replace(".", ": ")
    text = f"expected {shown} as 2026-03-29T02:30:00Z or with +02:00, got {_shown(value)}"
    faults.append(Fault(field, text))
    return None


def _period(value: Any, faults: list[Fault]) -> int:
    """A period in milliseconds."""
    found = _duration(value)
    if found is not None and not found % _MS:
        return found // _MS
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = f"expected every in milliseconds or as 15m (ms, s, m, h, d, w), got {_shown(value)}"
    faults.append(Fault("every", text))
    return 1000


def _in_seconds(field: str, value: Any, faults: list[Fault]) -> Any:
    """What a duration means in seconds; what is none is left to the schedule to refuse."""
    found = _duration(value)
    if found is not None:
        value = found / UNITS["s"]
        value = int(value) if value == int(value) else value
    if isinstance(value, int | float) and not -1e10 < value < 1e10:
        faults.append(Fault(field, f"expected {field} in seconds or as 15m, got {_shown(value)}"))
        return None
    return value


def _duration(value: Any) -> timedelta | None:
    return duration_or_none(value) if isinstance(value, str) and has_unit(value) else None


def _calls_another_host(entry: Mapping[str, Any], shown: Any, was: Schedule | None) -> bool:
    """Whether a webhook is to call another host than before: stored secrets are not sent there."""
    call = entry.get("webhook")
    url = call.get("url") if isinstance(call, dict) else None
    if not was or not isinstance(was.target, Webhook) or not isinstance(url, str):
        return False
    if url == shown["webhook"]["url"]:
        return False
    with suppress(ValueError):
        return urlsplit(url).netloc != urlsplit(was.target.url).netloc
    return True


def _unmasked(
    given: Any, stored: Any, shown: Any, path: tuple[str, ...], faults: list[Fault]
) -> Any:
    """What is given, with the stored value for each that is masked as that one is shown."""
    if isinstance(given, dict):
        return {
            key: _unmasked(value, _part(stored, key), _part(shown, key), (*path, key), faults)
            for key, value in given.items()
        }
    if isinstance(given, list):
        return [
            _unmasked(value, _part(stored, i), _part(shown, i), (*path, str(i)), faults)
            for i, value in enumerate(given)
        ]
    if not isinstance(given, str) or not _is_masked(given, path):
        return given
    if given == shown:
        return stored
    text = (
        f"{'.'.join(path)} is masked, and there is no stored value that it stands for"
        f"{' at this host' if path[0] == 'webhook' else ''}; write the value itself"
    )
    faults.append(Fault(".".join(path[:2] if path[0] in _TARGETS else path[:1]), text))
    return given.replace("…", "")  # which would be a fault of its own


def _is_masked(text: str, path: Sequence[str]) -> bool:
    """No URL has an ellipsis in it; a masked one may."""
    return MASK in text or (path[-1] in ("url", "ping") and "…" in text)


def _part(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(key, _NOTHING)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return _NOTHING


def _unknown(key: str, known: Iterable[str], part: str = "") -> Fault:
    """Return the fault of an unknown key; `part` is the key that its mapping stands under."""
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    text = f"unknown {key_shown(key)}; {hint}"
    path = [part] if part else []
    path += [] if "." in key else [key]
    return Fault(".".join(path), f"{part}: {text}" if part else text)


def _shown(value: Any) -> str:
    return kind_of(value) if isinstance(value, dict | list) else printable(repr(value), 60)


# ---- to a text --------------------------------------------------------------------------------


def document(
    schedule: Schedule, paused: Paused | None = None, *, secrets: bool = True
) -> dict[str, Any]:
    """A schedule as an entry of a manifest: the rule of time first, then what runs, then options
    that are not at their default, by name. Without `secrets` these are masked."""
    words: dict[str, Any] = json.loads(schedule.definition())
    if not secrets:  # in the same order
        words |= json.loads(json.dumps(_masked(schedule), sort_keys=True))
    for kind, first in _TARGETS.items():
        if first and kind in words:
            words[kind] = {first: words[kind][first]} | words[kind]
    if "every" in words:
        words["every"] = duration_spec(words["every"] * _MS)
    words |= {key: iso(from_ms(words[key])) for key in ("anchor", "once") if key in words}
    found = {key: words.pop(key) for key in _FIRST if key in words} | words
    if paused:
        found["paused"] = _paused_words(paused)
    return found


def dump(items: Iterable[Item], *, form: str = "yaml", secrets: bool = False) -> str:
    """A manifest of the schedules, by name: the same text for the same schedules. Without
    `secrets` these are masked. `form` is yaml or json. Raises ScheduleError for a text that is no
    Unicode."""
    by_name = {item.schedule.name: item for item in items}
    entries = {
        name: document(item.schedule, item.paused, secrets=secrets)
        for name, item in sorted(by_name.items())
    }
    for name, entry in entries.items():
        try:
            json.dumps(entry, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            fault = (
                "expected Unicode, got half of a surrogate pair in a text, which no manifest can "
                "hold; change it"
            )
            raise ScheduleError(Fault("", fault, schedule=name)) from None
    whole: dict[str, Any] = {"version": VERSION}
    whole |= {"secrets": "included"} if secrets else {}
    whole["schedules"] = entries
    if form == "json":
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.dump(
        whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000
    )
    return text


def _masked(schedule: Schedule) -> dict[str, Any]:
    """The words of a schedule that may hold secrets, as they may be shown."""
    target = schedule.target
    words: dict[str, Any] = {}
    if isinstance(target, Command):
        words["command"] = target.shown()
    elif isinstance(target, Webhook):
        words["webhook"] = target.shown() | {"url": _masked_url(target.url)}
    if schedule.args:
        words["args"] = masked_json(list(schedule.args))
    if schedule.kwargs:
        words["kwargs"] = masked_json(dict(schedule.kwargs))
    if schedule.ping:
        words["ping"] = _masked_url(schedule.ping)
    return words


def _masked_url(url: str) -> str:
    """The URL itself when nothing in it is masked, and not in other letters."""
    shown = masked_url(url)
    return shown if _is_masked(shown, ["url"]) else url


def _paused_words(paused: Paused) -> dict[str, Any] | bool:
    words: dict[str, Any] = {"reason": paused.reason} if paused.reason else {}
    if paused.until:
        words["until"] = iso(paused.until)
    if paused.missed != "skip":
        words["missed"] = paused.missed
    return words or True


_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[misc]  # one of the two
    """Writes the lines of a text as lines, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_lines(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_lines)
