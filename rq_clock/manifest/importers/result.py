"""The result of an import: schedules, rejected lines, and notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.manifest.importers.parsing import program_of, slug
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Command
from rq_clock.redaction import masked_text, printable
from rq_clock.timing.triggers import Trigger

LONGEST_SHOWN, LONGEST_NOTE = 200, 400
"""Characters of a line, a job or a reason that are shown; of a note."""

NAMED = 5
"""Schedules that a note names; the rest are counted."""

POLICIES = (
    "skips a run while the one before goes on (overlap) and catches up the newest one missed in an "
    "outage (catch_up), neither of which was done there"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A line that was not imported. `line` counts from 1; in a manifest it is the number of the
    job. `text` has its secrets masked."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The result of an import. `paused` has the names of the `schedules` that were paused."""

    schedules: tuple[Schedule, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    paused: tuple[str, ...] = ()


class _Found:
    """Collects the result of an import."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.schedules: dict[str, Schedule] = {}
        self.numbers: dict[str, int] = {}  # the last suffix of a name that came again
        self.left_out: list[LeftOut] = []
        self.paused: list[str] = []
        self.notes: dict[str, list[str]] = {}

    def add(self, title: str, trigger: Trigger, target: Command, **options: Any) -> str:
        """Add a schedule and return its name. Raises ScheduleError."""
        name = self._unused(slug(masked_text(title)) or program_of(masked_text(target.shell)))
        try:
            schedule = declare(name, trigger, target, {"queue": self.queue, **options})
        except ScheduleError as error:
            raise ScheduleError("; ".join(fault.text for fault in error.faults)) from None
        self.schedules[name] = schedule
        return name

    def _unused(self, base: str) -> str:
        name = base
        while name in self.schedules:
            self.numbers[base] = self.numbers.get(base, 1) + 1
            name = f"{base}-{self.numbers[base]}"
        return name

    def leave(self, line: int, text: str, reason: object) -> None:
        shown, why = (
            printable(_masked(part.strip()), LONGEST_SHOWN) for part in (text, str(reason))
        )
        self.left_out.append(LeftOut(line=line, text=shown, reason=why))

    def note(self, name: str, *texts: str) -> None:
        """Add notes about a schedule. Schedules with the same note share it."""
        for text in texts:
            shown = printable(masked_text(text), LONGEST_NOTE)
            self.notes.setdefault(shown, []).append(name)

    def done(self) -> Imported:
        return Imported(
            schedules=tuple(self.schedules.values()),
            left_out=tuple(sorted(self.left_out, key=lambda left: left.line)),
            notes=tuple(self._named(names) + text for text, names in self.notes.items()),
            paused=tuple(self.paused),
        )

    def _named(self, names: list[str]) -> str:
        if len(names) == len(self.schedules) > 1:
            return f"all {len(names)} schedules: "
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{', '.join(names[:NAMED])}{more}: "


def _masked(text: str) -> str:
    """Return a text with its secrets masked. A rejected line may have an open quote, behind which
    nothing would be masked."""
    open_quotes = "".join(mark for mark in "\"'" if text.count(mark) % 2)
    return masked_text(text + open_quotes).removesuffix(open_quotes)
