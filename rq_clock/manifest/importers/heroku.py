"""Schedules of Heroku Scheduler, from its table as copied from the dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rq_clock.errors import ScheduleError
from rq_clock.manifest.importers.result import POLICIES, Imported, lines_of
from rq_clock.model.targets import Command, Dyno, command, dyno
from rq_clock.timing.cron import MONTHS, WEEKDAYS
from rq_clock.timing.triggers import cron

_HEADING = re.compile(
    r"jobs?|command|task|(dyno )?size|frequency|schedule|last run|next (due|run)|edit|remove|delete"
    r"|actions|(add|create)( new)? job",
    re.IGNORECASE,
)
_SIZE = re.compile(
    r"free|hobby|eco|basic|[12]x|px|(standard|performance|private|shield)-[\w-]+", re.IGNORECASE
)
_FREQUENCY = re.compile(r"(daily|hourly|weekly|monthly)( at\b.*)?|every\b.*", re.IGNORECASE)
_MONTH = rf"({'|'.join(MONTHS)})[a-z]*\.?"
_MOMENT = re.compile(  # of the last run and the next
    r"never|none|n/?a|[-–—]|just now|in (less than |about )?(an?|\d+) \w+"
    r"|((about|over|almost|less than) )?(an?|\d+) \w+ ago|\d{4}-\d\d-\d\d\b.*|\d+/\d+/\d+\b.*"
    rf"|(({'|'.join(WEEKDAYS)})[a-z]*,? )?({_MONTH} \d+|\d+ {_MONTH})\b.*"
    r"|(today|tomorrow|yesterday)\b.*|\d+:\d\d( [ap]m)?( utc)?",
    re.IGNORECASE,
)
_DAILY = re.compile(
    r"(?:daily|every day) at (\d{1,2}):([0-5]\d)(?: ?([ap]m))?(?: (?:utc|gmt))?", re.IGNORECASE
)
_HOURLY = re.compile(r"(?:hourly|every hour) at :?([0-5]?\d)", re.IGNORECASE)
_TEN = re.compile(r"every (?:10|ten) minutes", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A job of the table; `frequency` is empty if the table has none for it."""

    line: int
    text: str
    command: str
    frequency: str = ""
    size: str = ""


def from_heroku_scheduler(text: str, *, queue: str = "default", dynos: bool = False) -> Imported:
    """Return the jobs of Heroku Scheduler, from the table of its dashboard: as commands, or with
    `dynos` as one-off dynos of their sizes.

    It reads the command, the frequency and the size. The times are UTC. Heroku ends a job after its
    interval (10 minutes, an hour, a day), which becomes the timeout.
    """
    found = Imported(queue)
    for job in _jobs(text, found):
        with found.leaving_out(job.line, job.text):
            expression, seconds = _frequency(job.frequency)
            target = shell_of(job.command, seconds, job.size, dynos=dynos)
            name = found.add("", cron(expression), target)
            found.note(name, *dyno_notes(job.size, dynos=dynos), POLICIES)
            if seconds == 600:
                found.note(name, "runs at minute 0, 10, 20, …; Heroku does not document when")
    return found


def shell_of(line: str, seconds: int, size: str, *, dynos: bool) -> Command | Dyno:
    """Return the target of a job."""
    if dynos:
        return dyno(line, timeout=seconds, size=size.lower() or None)
    return command(line, timeout=seconds)


def dyno_notes(size: str, *, dynos: bool) -> list[str]:
    """Return the note about the dyno that ran a job, if it becomes a command."""
    kind = f"a one-off dyno of size {size}" if size else "a one-off dyno"
    note = f"ran in {kind}; here it runs in a worker, which must be as large"
    return [] if dynos else [f"{note} (--dynos keeps it in dynos)"]


def _frequency(text: str) -> tuple[str, int]:
    """Return the cron expression, and the maximum run time in seconds."""
    if _TEN.fullmatch(text):
        return "*/10 * * * *", 600
    if match := _HOURLY.fullmatch(text):
        return f"{int(match[1])} * * * *", 3600
    if match := _DAILY.fullmatch(text):
        hour, half = int(match[1]), (match[3] or "").lower()
        if (1 <= hour <= 12) if half else hour <= 23:
            hour = hour % 12 + 12 * (half == "pm") if half else hour
            return f"{int(match[2])} {hour} * * *", 86_400
    if not text:
        raise ScheduleError("found no frequency for it")
    raise ScheduleError(
        "expected the frequency as 'Every 10 minutes', 'Hourly at :10' or 'Daily at 3:30 AM UTC', "
        f"got {text!r}"
    )


def _jobs(text: str, found: Imported) -> Iterator[_Job]:
    """Yield the jobs of the table: a line each, with cells in any order between tabs or two
    spaces; or each cell on its own line, command first, as some browsers paste it."""
    begun: _Job | None = None
    for number, line in enumerate(lines_of(text), 1):
        commands, frequencies, sizes = _cells(line)
        if commands:
            if begun:
                yield begun
            begun = _Job(line=number, text=line, command=commands[0])
        if begun and sizes:
            begun = replace(begun, size=sizes[0])
        if len(commands) > 1 or len(frequencies) > 1:
            reason = "expected one command and one frequency, with tabs or two spaces between"
            found.leave_out(number, line, reason)
            begun = None
        elif frequencies and begun:
            yield replace(begun, frequency=frequencies[0])
            begun = None
        elif frequencies:
            found.leave_out(number, line, "found no command for it")
    if begun:
        yield begun


def _cells(line: str) -> tuple[list[str], list[str], list[str]]:
    """Return the commands, frequencies and sizes in a line, without headings and times."""
    commands, frequencies, sizes = [], [], []
    for cell in map(str.strip, re.split(r"\t+" if "\t" in line.strip() else r" {2,}", line)):
        if cell.startswith("$ ") or cell == "$":
            commands.append(cell[1:].strip())
        elif _FREQUENCY.fullmatch(cell):
            frequencies.append(cell)
        elif _SIZE.fullmatch(cell):
            sizes.append(cell)
        elif cell and not _HEADING.fullmatch(cell) and not _MOMENT.fullmatch(cell):
            commands.append(cell)
    return commands, frequencies, sizes
