"""Chooses the schedules of a manifest: those added at run time, with their present pauses. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from rq_clock.manifest.definition import Item, Paused
from rq_clock.manifest.diff import is_job
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Chosen:
    """The schedules to write, the number of one-off jobs left out, and the entries that cannot be
    written."""

    schedules: tuple[Schedule, ...]
    jobs: int
    faults: tuple[str, ...]

    def items(self, pauses: Mapping[str, Pause], now: datetime) -> list[Item]:
        """Return the items of the manifest; `pauses` are those of single schedules."""
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
