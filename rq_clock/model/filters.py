"""Which schedules somebody asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rq_clock.model.decision import ON_TIME
from rq_clock.model.entry import Entry
from rq_clock.model.schedule import Schedule

STATES = ("scheduled", "late", "paused", "ended", "invalid")


def state_of(entry: Entry, now: datetime) -> str:
    """What a schedule is: one of STATES. `late`: its fire time has passed undecided; `ended`: it
    has none any more."""
    if entry.schedule is None:
        return "invalid"
    if entry.pause(now):
        return "paused"
    if entry.next_fire is None:
        return "ended"
    return "late" if now - entry.next_fire > ON_TIME else "scheduled"


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the schedules that were asked for; `cursor` leads to more, and is 0 at the end."""

    entries: tuple[Entry, ...]
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a schedule has to be; what is None does not matter. `text` is part of its name or
    target, in any case."""

    state: str | None = None
    queue: str | None = None
    tag: str | None = None
    text: str | None = None
    origin: str | None = None

    @property
    def reads(self) -> bool:
        """Whether it takes a look at definitions."""
        return bool(self.queue or self.tag or self.text) or self.state in ("ended", "invalid")

    def may_fit(self, name: str, definition: str) -> bool:
        """A look at the stored text before it is read: most of very many do not fit."""
        named = self.text and '"func"' in definition  # what is no function is not shown as stored
        if named and str(self.text).lower() not in f"{name} {definition}".lower():
            return False
        if self.tag and self.tag not in definition:
            return False
        return self.queue in (None, "default") or str(self.queue) in definition

    def describes(self, schedule: Schedule | None, words: str) -> bool:
        """Whether queue, tag and text fit; `words` are `searched(…)` of it."""
        if self.queue and (schedule is None or schedule.queue != self.queue):
            return False
        if self.tag and (schedule is None or self.tag not in schedule.tags):
            return False
        return not self.text or self.text.lower() in words

    def fits(self, entry: Entry, now: datetime) -> bool:
        """Whether a schedule is asked for."""
        if self.state and state_of(entry, now) != self.state:
            return False
        if self.origin and self.origin != ("declared" if entry.declared else "run-time"):
            return False
        return self.describes(entry.schedule, searched(entry.name, entry.schedule))


def searched(name: str, schedule: Schedule | None) -> str:
    """What a text is looked for in, in lower case."""
    target = schedule and schedule.target
    shown = target if isinstance(target, str) else target.describe() if target else ""
    return f"{name} {shown}".lower()
