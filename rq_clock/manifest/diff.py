"""Plans of `apply`: a manifest's schedules compared with the stored run-time schedules. Pure.

A plan applies only to the state that it was made from. Each step has the entry of its schedule with
the revision.

- A manifest with a schedule that is declared in code is refused.
- A `once` whose instant has passed is not added: it would run each time the manifest is applied.
- A pause that is over counts as none. An item without a pause leaves an existing pause as it is.
- Pruning spares the jobs of `Schedules.once`: no manifest has them.

Not here: texts (document.py), applying a plan (schedules), what a deploy changes (reconcile.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.manifest.definition import Item, Paused, document
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.schedule import Schedule
from rq_clock.model.view import View, doc
from rq_clock.timing.triggers import Once

JOB = "once-"
"""The start of the names of `Schedules.once`."""
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class FieldChange(View):
    """A field of a manifest that changes, with secrets masked; null is an option at its default."""

    path: str = field(metadata=doc(alias="field"))
    old: str | None = field(metadata=doc(alias="from"))
    new: str | None = field(metadata=doc(alias="to"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The change of one schedule from the entry `was` to `item`; None if it is added or removed.
    `pause` is its own present pause."""

    name: str
    item: Item | None = None
    was: Entry | None = None
    pause: Pause | None = None

    @property
    def is_redefined(self) -> bool:
        """Return whether the definition changes."""
        stored = self.was.schedule if self.was else None
        planned = self.item.schedule if self.item else None
        return (stored and stored.definition()) != (planned and planned.definition())

    def new_pause(self, by: str, now: datetime) -> Pause | None:
        """Return its new pause; None if its pause stays as it is.

        A changed pause keeps its start: missed fire times are caught up from there.
        """
        paused = self.item.paused if self.item else None
        if paused is None or (self.pause and Paused.of(self.pause) == paused):
            return None
        since = self.pause.since if self.pause else now
        return Pause(
            reason=paused.reason, by=by, since=since, until=paused.until, missed=paused.missed
        )

    def differences(self) -> list[FieldChange]:
        """Return the values that change; [] for a schedule that is added or removed."""
        if self.item is None or self.was is None:
            return []
        paused = Paused.of(self.pause) if self.pause else None
        return differences(self.was.schedule, self.item.schedule, paused, self.item.paused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The changes, by name. `past` are the items left out because their only instant has passed;
    `unchanged` is the number of schedules that stay."""

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
    """Return the plan that makes all items exist and, with `prune`, no other run-time schedule of
    `entries`; `pauses` are those of single schedules.

    Raises Conflict with every item that is declared in code.
    """
    by_name = {item.schedule.name: item for item in items}
    if len(by_name) < len(items):
        raise ScheduleError("expected each schedule once, got one twice; names are unique")
    if declared := [n for n in by_name if n in entries and entries[n].declared]:
        raise Conflict.join([Conflict(ConflictKind.DECLARED, n) for n in declared])
    steps, past = [], []
    for name, item in by_name.items():
        step = _step(item, entries.get(name), pauses.get(name), now)
        if step is None:
            continue
        one_off = isinstance(item.schedule.trigger, Once)
        if step.was is None and one_off and item.schedule.next_after(now) is None:
            past.append(item)
        else:
            steps.append(step)
    unchanged = len(by_name) - len(steps) - len(past)
    if prune:
        others = [e for name, e in entries.items() if name not in by_name]
        steps += [Step(name=e.name, was=e) for e in others if not (e.declared or is_job(e))]
    steps.sort(key=lambda step: step.name)
    return Plan(steps=tuple(steps), past=tuple(past), unchanged=unchanged)


def _step(item: Item, was: Entry | None, pause: Pause | None, now: datetime) -> Step | None:
    """Return the step that makes a schedule equal its item; None if it is equal."""
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


def is_job(entry: Entry) -> bool:
    """Return whether it is a job of `Schedules.once`."""
    schedule = entry.schedule
    return entry.name.startswith(JOB) and bool(schedule and isinstance(schedule.trigger, Once))


# ---- values -----------------------------------------------------------------------------------


def differences(
    was: Schedule | None,
    schedule: Schedule,
    was_paused: Paused | None = None,
    paused: Paused | None = None,
) -> list[FieldChange]:
    """Return the values that differ. Without a new pause the present one stays."""
    old = _values(was, was_paused) if was else {}
    new = _values(schedule, paused or was_paused)
    found = []
    for path in sorted({*old, *new}):
        if path in old and path in new and _encode(old[path][0]) == _encode(new[path][0]):
            continue
        before, after = _shown(old.get(path)), _shown(new.get(path))
        if after is not None and before == after:
            after += " (another one)"
        found.append(FieldChange(path, before, after))
    return found


def hidden(schedule: Schedule) -> list[str]:
    """Return the paths of the values that a manifest without secrets masks."""
    return [path for path, (value, masked) in _values(schedule).items() if value != masked]


def _shown(value: tuple[Any, Any] | None) -> str | None:
    if value is None:
        return None
    return value[1] if isinstance(value[1], str) else _encode(value[1])


def _values(schedule: Schedule, paused: Paused | None = None) -> dict[str, tuple[Any, Any]]:
    """Return the values of a schedule's entry, exact and masked, by path: "command.env.LANG"."""
    exact, masked = (document(schedule, paused, secrets=secrets) for secrets in (True, False))
    return dict(_leaves(exact, masked, ""))


def _leaves(exact: Any, masked: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(exact, dict) and isinstance(masked, dict) and exact:
        for key, value in exact.items():
            yield from _leaves(value, masked[key], f"{path}.{key}" if path else key)
    else:
        yield path, (exact, masked)
