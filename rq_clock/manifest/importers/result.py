"""The result of an import: schedules with their names, rejected lines, and notes."""

from __future__ import annotations

import re
import unicodedata
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Command, Dyno
from rq_clock.redaction import masked_text, printable
from rq_clock.timing.triggers import Trigger

LONGEST_SHOWN, LONGEST_NOTE = 200, 400
"""Maximum characters of a shown line, job or reason, and of a note."""

NAMED = 5
"""Schedules that a note names; it counts the rest."""

POLICIES = (
    "skips a run while the previous one is still going (overlap) and catches up the newest one "
    "missed in an outage (catch_up); neither was done there"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A line that was not imported. `line` counts from 1; in a manifest it is the number of the
    job. `text` has its secrets masked."""

    line: int
    text: str
    reason: str


@dataclass(slots=True)
class Imported:
    """The result of an import, which grows while a text is read. `paused` has the names of the
    schedules that were paused there."""

    queue: str
    left_out: list[LeftOut] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    _schedules: dict[str, Schedule] = field(default_factory=dict)
    _suffixes: dict[str, int] = field(default_factory=dict)  # the last one of a repeated name
    _notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def schedules(self) -> list[Schedule]:
        return list(self._schedules.values())

    @property
    def notes(self) -> list[str]:
        """Return the notes, each behind the names of its schedules."""
        return [self._named(names) + text for text, names in self._notes.items()]

    def add(self, title: str, trigger: Trigger, target: Command | Dyno, **options: Any) -> str:
        """Add a schedule and return its name. Raises ScheduleError."""
        name = self._unused(slug(masked_text(title)) or program_of(masked_text(target.shell)))
        try:
            schedule = declare(name, trigger, target, {"queue": self.queue, **options})
        except ScheduleError as error:
            raise ScheduleError("; ".join(fault.text for fault in error.faults)) from None
        self._schedules[name] = schedule
        return name

    def _unused(self, base: str) -> str:
        name = base
        while name in self._schedules:
            self._suffixes[base] = self._suffixes.get(base, 1) + 1
            name = f"{base}-{self._suffixes[base]}"
        return name

    def leave_out(self, line: int, text: str, reason: object) -> None:
        shown, why = (
            printable(_masked(part.strip()), LONGEST_SHOWN) for part in (text, str(reason))
        )
        left = LeftOut(line=line, text=shown, reason=why)
        insort(self.left_out, left, key=lambda left: left.line)

    @contextmanager
    def leaving_out(self, line: int, text: str) -> Iterator[None]:
        """Leave a line out if this block raises ScheduleError, and continue."""
        try:
            yield
        except ScheduleError as error:
            self.leave_out(line, text, error)

    def note(self, name: str, *texts: str) -> None:
        """Add notes about a schedule. Schedules with the same note share it."""
        for text in texts:
            shown = printable(masked_text(text), LONGEST_NOTE)
            self._notes.setdefault(shown, []).append(name)

    def _named(self, names: list[str]) -> str:
        if len(names) == len(self._schedules) > 1:
            return f"all {len(names)} schedules: "
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{', '.join(names[:NAMED])}{more}: "


def _masked(text: str) -> str:
    """Return a text with its secrets masked, also after an open quote."""
    open_quotes = "".join(mark for mark in "\"'" if text.count(mark) % 2)
    return masked_text(text + open_quotes).removesuffix(open_quotes)


def lines_of(text: str) -> list[str]:
    """Return the lines as cron counts them: Unicode has more line breaks."""
    lines = text.removeprefix("\ufeff").split("\n")
    return [line.removesuffix("\r").lstrip(" \t") for line in lines]


# ---- names -------------------------------------------------------------------------------------

_LONGEST_NAME = 60
_FILLERS = re.compile(  # commands that only prepare the main one
    r"cd|test|\[|\[\[|sleep|set|unset|export|umask|ulimit|source|\.|if|while|for|case|true|false|:"
    r"|type|which|exit|echo|printf|mkdir|touch|eval|trap|wait"
)
_WRAPPERS = re.compile(  # programs that run their argument
    r"sudo|su|runuser|env|nice|ionice|nohup|time|timeout|flock|exec|chronic|setsid|command|bundle"
    r"|poetry|pipenv|uv|npx|run|then|else|do|!|(python|ruby|perl|php|node|bash|sh|dash|zsh)[\d.]*"
)
_RUNNERS = re.compile(  # programs whose first argument names the task
    r"manage\.py|rake|artisan|make|npm|yarn|rails|run-parts|django-admin|flask|console"
)


def slug(text: str) -> str:
    """Return a text as a name in lower case and dashes; "" if no letter is left."""
    plain = unicodedata.normalize("NFKD", text.replace("'", "")).encode("ascii", "ignore")
    words = re.findall(r"[a-z0-9_]+", plain.decode().lower())
    name = words[0][:_LONGEST_NAME] if words else ""
    for word in words[1:]:
        if len(name) + 1 + len(word) > _LONGEST_NAME:
            break
        name += f"-{word}"
    return name


def program_of(line: str) -> str:
    """Return a name for a command: its program, or the script that an interpreter runs.

    It is a guess, and never an argument, which could be a secret.
    """
    line = re.sub(r"\s-[er]\s+('[^']*'|\"[^\"]*\")", " ", line.partition("\n")[0][:1000])
    line = re.sub(r"\b(sudo|runuser)((?:\s+-\w+)*?)\s+-[ug]\s+\S+", r"\1\2", line)
    line = re.sub(r"\bsu\s[^;&|]*?\s-c\s", " ", line)
    fallback = "job"
    for part in re.split(r"&&|\|\|?|[;&(){}`]", line):
        words = [word.strip("'\"") for word in part.split()]
        words = [w for w in words if w and not re.match(r"-|[\d<>]|\w+=|\*+$", w)]
        while words:
            program = words.pop(0).rpartition("/")[2]
            if _FILLERS.fullmatch(program):
                break
            if not _WRAPPERS.fullmatch(program):
                more = words[0].rpartition("/")[2] if _RUNNERS.fullmatch(program) and words else ""
                stem = re.sub(r"\.(py|sh|rb|pl|php|js)\Z", "", program)
                return slug(f"{stem} {more}") or fallback
            fallback = slug(program) or fallback
            if program == "flock" and words:
                words.pop(0)
    return fallback
