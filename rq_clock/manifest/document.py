"""Run-time schedules as a text: to keep with the code, to edit, to copy to another Redis.

    version: 1
    schedules:
      report-42:
        cron: 0 6 * * *
        tz: Asia/Tokyo
        func: tasks.reports.send
        args: [42]
        paused: {reason: on holiday, until: 2026-04-01T00:00:00Z, missed: latest}

YAML, or JSON with the same keys. Without `paused` an operator's pause stays. A text with
`secrets: included` has no masks. The same schedules always make the same text.

Pure. Not here: entries (definition.py), YAML and JSON (reader.py), changes to make (diff.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import yaml

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest import reader as plain
from rq_clock.manifest.definition import Item, Paused, document, item
from rq_clock.manifest.diff import is_job
from rq_clock.manifest.fields import kind_of, shown_value, unknown
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.schedule import Schedule

VERSION = 1
FAULT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed text, with raw entries."""

    entries: Mapping[str, Any]
    lines: Mapping[str, int]
    faults: tuple[Fault, ...]
    masks: bool

    def items(
        self, stored: Mapping[str, Schedule], allowed: Sequence[str] | None = None
    ) -> list[Item]:
        """Return the schedules of the entries. Masked values come from the `stored` schedules;
        `allowed` are the functions that the author may call, None for any, and commands too.

        Raises ScheduleError with the faults of the text, about the first FAULT_LIMIT.
        """
        faults, found = list(self.faults), []
        for name, entry in self.entries.items():
            if len(faults) >= FAULT_LIMIT:
                faults[FAULT_LIMIT:] = [Fault("", f"and more; these are the first {FAULT_LIMIT}")]
                break
            was = stored.get(name)
            try:
                found.append(item(name, entry, was, masks=self.masks, allowed=allowed))
            except ScheduleError as error:
                faults += [replace(fault, line=self.lines.get(name)) for fault in error.faults]
        if faults:
            raise ScheduleError(*faults)
        return found


# ---- from a text ------------------------------------------------------------------------------


def parse(text: str) -> list[Item]:
    """Return the schedules of a manifest without masked values. Raises ScheduleError."""
    return read(text).items({})


def read(text: str) -> Manifest:
    """Read a manifest: JSON if it begins with a brace, else YAML.

    Raises ScheduleError for any other text; `Manifest.items` reports the faults of entries.
    """
    found = plain.read(text)
    whole, faults = found.value, list(found.twice)
    if not isinstance(whole, dict):
        got = kind_of(whole)
        raise ScheduleError(f"expected a manifest with version and schedules, got {got}")
    version, entries = whole.get("version"), whole.get("schedules")
    if version != VERSION or version is True:
        text = f"expected 'version: {VERSION}', got {shown_value(version)}"
        faults.append(Fault("version", text))
    if not isinstance(entries, dict):
        got = kind_of(entries)
        text = f"expected schedules as a mapping of names, or {{}} for none, got {got}"
        faults.append(Fault("schedules", text))
        entries = {}
    secrets = whole.get("secrets", "masked")
    if secrets not in ("masked", "included"):
        text = f"expected secrets to be masked or included, got {shown_value(secrets)}"
        faults.append(Fault("secrets", text))
    known = ("version", "secrets", "schedules")
    faults += [unknown(key, known) for key in whole if key not in known]
    lines = {path[1]: line for path, line in found.lines.items() if path[:-1] == ("schedules",)}
    return Manifest(entries, lines, tuple(faults), masks=secrets != "included")


# ---- the schedules of an export --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """The schedules to write, the number of left out one-off jobs, and the faults of unreadable
    entries."""

    schedules: tuple[Schedule, ...]
    jobs: int
    faults: tuple[str, ...]

    def items(self, pauses: Mapping[str, Pause], now: datetime) -> list[Item]:
        """Return the schedules with the pauses in force; `pauses` are those of single schedules."""
        paused = {name: Paused.of(pause) for name, pause in pauses.items() if pause.at(now)}
        return [Item(schedule=s, paused=paused.get(s.name)) for s in self.schedules]


def choose(entries: Iterable[Entry], tags: Collection[str] = ()) -> Chosen:
    """Return the run-time schedules of these entries, without the jobs of `Schedules.once`; with
    `tags`, those that have one of them."""
    found, jobs, faults = [], 0, []
    for entry in entries:
        if entry.declared:
            continue
        if entry.schedule is None:
            faults.append(entry.fault)
        elif is_job(entry):
            jobs += 1
        elif not tags or set(tags) & set(entry.schedule.tags):
            found.append(entry.schedule)
    return Chosen(tuple(found), jobs, tuple(faults))


# ---- to a text --------------------------------------------------------------------------------


def dump(items: Iterable[Item], *, form: str = "yaml", secrets: bool = False) -> str:
    """Return a manifest of the schedules, by name, as `form` (yaml or json). Without `secrets` it
    masks them. Raises ScheduleError for a text that is not Unicode."""
    by_name = {item.schedule.name: item for item in items}
    entries = {
        name: document(item.schedule, item.paused, secrets=secrets)
        for name, item in sorted(by_name.items())
    }
    for name, entry in entries.items():
        try:
            json.dumps(entry, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            fault = "expected Unicode, got half of a surrogate pair in a text; change it"
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


_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[misc]  # one of the two
    """Writes texts of several lines as blocks, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_lines(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_lines)
