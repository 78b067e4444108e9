"""What an edit of a schedule is, and which one somebody means. Pure; changes.py applies them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeAlias

from rq_clock.errors import Fault, ScheduleError
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Target
from rq_clock.store.operations import Edit
from rq_clock.timing.triggers import Once, Trigger

BATCH = 500
"""Schedules in one edit where very many are added: about 5 ms of Redis's time."""
_MS = timedelta(milliseconds=1)
_OPTIONS = [f.name for f in fields(Schedule) if f.name not in ("name", "trigger", "target")]

ScheduleArgs: TypeAlias = (
    tuple[str, Trigger, Target | Callable[..., object]]
    | tuple[str, Trigger, Target | Callable[..., object], dict[str, Any]]
)
"""A schedule as `add_many` takes it: name, trigger, target and, if any, options."""


def edit_to_add(schedule: Schedule, now: datetime, nexts: dict[Trigger, datetime | None]) -> Edit:
    """The edit that adds a schedule; `nexts` remembers what triggers said for this `now`."""
    since = now
    if isinstance(schedule.trigger, Once):
        since = min(now, schedule.trigger.at - _MS)
        following = schedule.next_after(since)
    elif schedule.jitter:
        following = schedule.next_after(since)
    else:
        if schedule.trigger not in nexts:
            nexts[schedule.trigger] = schedule.trigger.next_after(since)
        following = nexts[schedule.trigger]
    return Edit(
        name=schedule.name,
        expected="new",
        definition=schedule.definition(),
        since=since,
        next_fire=following,
    )


def apply_changes(entry: Entry, changes: Mapping[str, Any]) -> Schedule:
    """A schedule with something else of trigger, target and options. Raises ScheduleError."""
    was = entry.schedule
    options = {o: getattr(was, o) for o in _OPTIONS} if was else {}
    if was and was.overlap == ("allow" if was.catch_up == "all" else "skip"):
        del options["overlap"]  # it follows catch_up
    options |= changes
    trigger, target = (
        options.pop(part, None) or (getattr(was, part) if was else None)
        for part in ("trigger", "target")
    )
    return declare(entry.name, trigger, target, options)  # type: ignore[arg-type]  # it says so


def next_batch(given: Iterator[ScheduleArgs]) -> list[Schedule]:
    """The next schedules of `add_many`; none at the end."""
    schedules = [
        declare(name, trigger, target, options[0] if options else {})
        for name, trigger, target, *options in islice(given, BATCH)
    ]
    names = [s.name for s in schedules]
    if len(set(names)) < len(names):
        twins = sorted({n for n in names if names.count(n) > 1})
        text = "given twice; names are unique"
        raise ScheduleError(*(Fault("name", text, schedule=n) for n in twins))
    return schedules


def ended_now(pause: Pause, now: datetime) -> Pause:
    """The same pause, over: it goes on to hold for what came due before."""
    return Pause(reason=pause.reason, by=pause.by, since=pause.since, until=now)
