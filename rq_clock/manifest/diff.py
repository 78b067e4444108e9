"""What applying a manifest would change: its schedules compared with the run-time ones that are
stored. Pure.

A plan holds what it was made from, so that it can be carried out only while that still holds: each
step knows the entry, and with it the revision, that the schedule was found in.

- Schedules that code declares are never among the steps: one in a manifest is refused.
- A `once` whose instant has passed is not added: a manifest that is applied again and again would
  run it each time.
- A pause that is over is none, and where an item has none, a pause is left as it is.
- Pruning spares the jobs of `Schedules.once`: nobody writes them down.

Not here: texts (manifest.py), carrying it out (schedules.py), what a deploy changes (reconcile.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.manifest.definition import Item, Paused, document
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.schedule import Schedule
from rq_clock.timing.triggers import Once

JOB = "once-"
"""How the names begin that `Schedules.once` gives."""
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an entry: `exact` tells it from any other, `shown` is how it may be shown."""

    exact: str
    shown: str | None


_NOTHING = Value("", None)


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that changes, by its path in a manifest, and as it may be shown. None stands for no
    value: an option at its default."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The change of one schedule. `was` is what it was found as, None when it is new; `item` what
    it is to be, None when it is removed; `pause` the pause of its own that holds."""

    name: str
    item: Item | None = None
    was: Entry | None = None
    pause: Pause | None = None

    @property
    def is_redefined(self) -> bool:
        """Whether it is to be another schedule than it is, its pause apart."""
        stored = self.was.schedule if self.was else None
        wanted = self.item.schedule if self.item else None
        return (stored and stored.definition()) != (wanted and wanted.definition())

    def new_pause(self, by: str, now: datetime) -> Pause | None:
        """The pause that it is to be given; None when its pause stays as it is. One that goes on
        in other words keeps its beginning, from which on missed fire times are made up for."""
        paused = self.item.paused if self.item else None
        if paused is None or (self.pause and Paused.of(self.pause) == paused):
            return None
        since = self.pause.since if self.pause else now
        return Pause(
            reason=paused.reason, by=by, since=since, until=paused.until, missed=paused.missed
        )

    def differences(self) -> list[Difference]:
        """What changes; nothing for one that is added or removed."""
        if self.item is None or self.was is None:
            return []
        paused = Paused.of(self.pause) if self.pause else None
        return differences(self.was.schedule, self.item.schedule, paused, self.item.paused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be changed, in the order of the names; `past` are items that are left out because
    their only instant has passed, `unchanged` how many are as they are to be."""

    steps: tuple[Step, ...]
    past: tuple[Item, ...] = ()
    unchanged: int = 0

    @property
    def added(self) -> list[Step]:
        return [step for step in self.steps if step.was is None]

    @property
    def changed(self) -> list[Step]:
        return [step for step in self.steps if step.was and step.item]

    @property
    def removed(self) -> list[Step]:
        return [step for step in self.steps if step.item is None]


# ---- schedules --------------------------------------------------------------------------------


def compare(
    items: Sequence[Item],
    entries: Mapping[str, Entry],
    pauses: Mapping[str, Pause],
    now: datetime,
    *,
    prune: bool = False,
) -> Plan:
    """The plan after which all items are there and, with `prune`, no other run-time schedule of
    `entries`; `pauses` are those of single schedules.

    Raises Conflict with every item that is declared in code.
    """
    wanted = {item.schedule.name: item for item in items}
    if len(wanted) < len(items):
        raise ScheduleError("expected each schedule once, got one twice; names are unique")
    if declared := [n for n in wanted if n in entries and entries[n].declared]:
        raise Conflict.join([Conflict(ConflictKind.DECLARED, n) for n in declared])
    steps, past = [], []
    for name, item in wanted.items():
        step = _step(item, entries.get(name), pauses.get(name), now)
        if step is None:
            continue
        if step.was is None and _is_past(item.schedule, now):
            past.append(item)
        else:
            steps.append(step)
    unchanged = len(wanted) - len(steps) - len(past)
    if prune:
        others = [e for name, e in entries.items() if name not in wanted]
        steps += [Step(name=e.name, was=e) for e in others if not (e.declared or is_job(e))]
    steps.sort(key=lambda step: step.name)
    return Plan(steps=tuple(steps), past=tuple(past), unchanged=unchanged)


def _step(item: Item, was: Entry | None, pause: Pause | None, now: datetime) -> Step | None:
    """What makes a schedule as its item has it; None when it is."""
    schedule, paused = item.schedule, item.paused
    if paused and paused.until and paused.until <= now:
        paused = None
    step = Step(
        name=schedule.name,
        item=Item(schedule=schedule, paused=paused),
        was=was,
        pause=pause if pause and pause.at(now) else None,
    )
    return step if step.is_redefined or step.new_pause("", now) else None


def _is_past(schedule: Schedule, now: datetime) -> bool:
    return isinstance(schedule.trigger, Once) and schedule.next_after(now) is None


def is_job(entry: Entry) -> bool:
    """Whether an app asked for it with `Schedules.once`."""
    schedule = entry.schedule
    return entry.name.startswith(JOB) and bool(schedule and isinstance(schedule.trigger, Once))


# ---- values -----------------------------------------------------------------------------------


def differences(
    was: Schedule | None,
    schedule: Schedule,
    was_paused: Paused | None = None,
    paused: Paused | None = None,
) -> list[Difference]:
    """What differs between two schedules; without a pause it keeps the one that it has."""
    old = values(was, was_paused) if was else {}
    new = values(schedule, paused or was_paused)
    found = []
    for path in sorted({*old, *new}):
        before, after = old.get(path, _NOTHING), new.get(path, _NOTHING)
        if before.exact == after.exact:
            continue
        told = after.shown
        if told is not None and before.shown == told:
            told += " (another one)"
        found.append(Difference(path, before.shown, told))
    return found


def values(schedule: Schedule, paused: Paused | None = None) -> dict[str, Value]:
    """The values of a schedule's entry by their path: "command.env.LANG"."""
    exact, shown = (document(schedule, paused, secrets=secrets) for secrets in (True, False))
    return {
        path: Value(_encode(value), text if isinstance(text, str) else _encode(text))
        for path, value, text in _leaves(exact, shown, "")
    }


def hidden(schedule: Schedule) -> list[str]:
    """The paths of the values that are masked in a manifest without secrets."""
    exact, shown = (document(schedule, secrets=secrets) for secrets in (True, False))
    return [path for path, value, text in _leaves(exact, shown, "") if value != text]


def _leaves(exact: Any, shown: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(exact, dict) and isinstance(shown, dict) and exact:
        for key, value in exact.items():
            yield from _leaves(value, shown[key], f"{path}.{key}" if path else key)
    else:
        yield path, exact, shown
