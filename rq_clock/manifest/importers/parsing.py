"""Reads the files of other schedulers into records; their modules turn these into schedules.

- A crontab as Debian's cron 3.0 and cronie read it: crontab(5).
- The table of Heroku Scheduler's dashboard, as it is pasted from a browser.
- The jobs of Cron To Go: its manifest, and what its API and its command line give as JSON.

Pure; no text makes anything here raise. Nothing is dropped: a line that holds a schedule comes out
as a record or as `ImportRejected`, with its number and the reason. Nothing is masked either: mask a
record before showing it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.manifest import reader as plain
from rq_clock.timing.cron import MONTHS, WEEKDAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRejected:
    """A line, row or job that cannot be read. `text` is as it came, secrets and all."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CrontabEntry:
    """An entry of a crontab. `rest` is what follows the fields of time: a user, if the crontab is
    the system's, options and the command. `title` is the comment directly above."""

    line: int
    text: str
    when: str
    rest: str
    settings: Mapping[str, str]
    title: str
    unlogged: bool  # a `-` before the minute: cronie is not to log the run


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerRow:
    """A job of Heroku Scheduler."""

    line: int
    text: str
    command: str
    frequency: str
    size: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronToGoJob:
    """A job of Cron To Go, what its `Target` holds beside the rest. Names are in lower case and
    without `_`: `StartDate` and `start_date` are `startdate`."""

    number: int
    fields: Mapping[str, Any]


# Crontabs.

_TIMES = re.compile(r"(@[^ \t]*|(?:[^ \t]+[ \t]+){4}[^ \t]+)(?:[ \t]+(.*))?")
_SETTING = re.compile(
    r"""(?:"(?P<n1>[^"=]*)"|'(?P<n2>[^'=]*)'|(?P<n3>(?!["'])[^\s=]*))\s*=\s*"""
    r"""(?:"(?P<v1>[^"]*)"|'(?P<v2>[^']*)'|(?P<v3>(?:[^\s"'].*)?))\s*"""
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DISABLED = re.compile(
    r"@[a-z]+\s+\S|[\d*][\d*/,-]*(\s+([\d*/,-]+|[a-z]{3}([,-][a-z]{3})*)){4}(\s|$)|\w+\s*=",
    re.IGNORECASE,
)
_NO_TITLE = re.compile(  # headings, and what `crontab -l` and other programs write above
    r"m(in(ute)?)?\s+h(our)?\b|(begin|end) whenever\b|do not edit\b|\(/tmp/|\(cron version\b",
    re.IGNORECASE,
)
_VALUE = r"(?:\d+|[a-z]{3})"
_ITEM = re.compile(rf"{_VALUE}|(?:\*|(?P<first>{_VALUE})-(?P<last>{_VALUE}))(?:/\d+)?")


def crontab_lines(text: str) -> list[CrontabEntry | ImportRejected]:
    """Return the entries of a crontab, each with the settings above it."""
    found: list[CrontabEntry | ImportRejected] = []
    settings: dict[str, str] = {}
    title = ""
    for number, line in enumerate(_lines(text), 1):
        if line.startswith("#") or not line:
            prose = _prose(line)
            title = prose and (title or prose)  # the first line of what stands together
            continue
        if match := _SETTING.fullmatch(line):
            name, value = (
                next(v for k in keys if (v := match[k]) is not None)
                for keys in (("n1", "n2", "n3"), ("v1", "v2", "v3"))
            )
            if _VARIABLE.fullmatch(name):
                settings[name] = value.rstrip() if match["v3"] else value
            else:
                reason = "expected a variable's name of letters, digits and '_'"
                found.append(ImportRejected(line=number, text=line, reason=reason))
        else:
            found.append(_entry(number, line, dict(settings), title))
        title = ""
    return found


def _lines(text: str) -> list[str]:
    """Return the lines as cron counts them: Unicode has more line breaks."""
    lines = text.removeprefix("\ufeff").split("\n")
    return [line.removesuffix("\r").lstrip(" \t") for line in lines]


def _entry(
    number: int, line: str, settings: Mapping[str, str], title: str
) -> CrontabEntry | ImportRejected:
    unlogged = re.match(r"-[\d*@]", line) is not None
    match = _TIMES.fullmatch(line[unlogged:])
    if match is None:
        reason = "expected five fields of time and a command, or NAME=value"
        return ImportRejected(line=number, text=line, reason=reason)
    if not (rest := match[2] or "").strip():
        return ImportRejected(
            line=number, text=line, reason="expected a command after the fields of time"
        )
    if rest.startswith("*"):  # cron, too, takes it for a typing error
        reason = "expected a command after five fields of time, got one more field"
        return ImportRejected(line=number, text=line, reason=reason)
    return CrontabEntry(
        line=number, text=line, when=match[1], rest=rest, settings=settings, title=title,
        unlogged=unlogged,
    )  # fmt: skip


def _prose(line: str) -> str:
    """Return a comment that may name the entry below it: not a disabled entry or setting, a ruler,
    or the heading of the fields."""
    words = line.strip("#=*~-_ \t").removeprefix("Ansible:").strip()
    disabled = _DISABLED.match(line.lstrip("# \t"))
    spoken = words[:1].isalnum() or words[:1] in tuple("\"'([")
    return words if words and spoken and not disabled and not _NO_TITLE.match(words) else ""


def unlike_cron(expression: str) -> str:
    """Return why cron reads a valid expression differently; empty when it does not.

    Debian's cron takes `5#2` for 5 and `22-2` for no hour at all, and refuses `L`, `15W`, `?`,
    `5/10` and `@Daily`; none of them has run as it would here.
    """
    if expression.startswith("@"):
        known = expression == expression.lower()
        return "" if known else f"cron knows {expression.lower()} in lower case only"
    for position, field in enumerate(expression.split()):
        for item in field.split(","):
            match = _ITEM.fullmatch(item.lower())
            if match is None:
                return f"crontab(5) has no {item!r}: cron refuses the line or reads it otherwise"
            first, last = match.group("first", "last")
            if first and _number(first, position) > _number(last, position):
                return f"cron finds no time in {item!r}, which goes backwards; write two ranges"
    return ""


def _number(text: str, position: int) -> int:
    names = MONTHS if position == 3 else WEEKDAYS
    return int(text) if text.isdigit() else names.index(text) + (position == 3)


def command_and_input(text: str) -> tuple[str, str]:
    r"""Return the command of an entry, and its standard input.

    Measured with Debian's cron: `\%` is `%`, the first other `%` ends the command, and in what
    follows each is a newline. In the command `\\` is one backslash, and no `\` for the `%` after.
    """
    end = re.compile(r"(?:\\.|[^\\%])*\\?").match(text)
    assert end, "it matches the empty text, too"
    command = re.sub(r"\\([\\%])", r"\1", end[0])
    stdin = re.sub(r"\\?%", lambda m: "%" if len(m[0]) == 2 else "\n", text[end.end() + 1 :])
    return command, stdin if not stdin or stdin.endswith("\n") else stdin + "\n"


# Heroku Scheduler.

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


def scheduler_rows(text: str) -> list[SchedulerRow | ImportRejected]:
    """Return the jobs of the table: a line each, with cells in any order between tabs or two
    spaces; or each cell on its own line, command first, as some browsers paste it."""
    found: list[SchedulerRow | ImportRejected] = []
    begun: tuple[int, str, str] | None = None  # line, text and command that await a frequency
    size = ""

    def refuse_begun() -> None:
        if begun:
            found.append(
                ImportRejected(line=begun[0], text=begun[1], reason="found no frequency for it")
            )

    for number, line in enumerate(_lines(text), 1):
        commands, frequencies, sizes = _cells(line)
        if commands:
            refuse_begun()
            begun, size = (number, line, commands[0]), ""
        size = sizes[0] if sizes else size
        if len(commands) > 1 or len(frequencies) > 1:
            reason = "expected one command and one frequency, with tabs or two spaces between"
            found.append(ImportRejected(line=number, text=line, reason=reason))
            begun = None
        elif frequencies and begun:
            at, whole, command = begun
            row = SchedulerRow(
                line=at, text=whole, command=command, frequency=frequencies[0], size=size
            )
            found.append(row)
            begun = None
        elif frequencies:
            found.append(ImportRejected(line=number, text=line, reason="found no command for it"))
    refuse_begun()
    return found


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


# Cron To Go.


def manifest_jobs(text: str) -> list[CronToGoJob | ImportRejected]:
    """Return the jobs of a manifest in YAML or JSON: a list of jobs, {"jobs": [...]}, or one job.
    The `line` of a rejected job is its number."""
    try:
        jobs = plain.read(text).value
    except ScheduleError as error:
        line = error.faults[0].line or 1
        shown = text.split("\n")[line - 1] if line <= text.count("\n") + 1 else ""
        return [ImportRejected(line=line, text=shown, reason=f"cannot read the manifest: {error}")]
    if isinstance(jobs, dict):
        named = {_key(name): value for name, value in jobs.items()}
        if "jobs" in named:
            jobs = named["jobs"]
        elif not {"command", "target"} & named.keys():
            reason = "expected the list of a manifest, 'jobs:', or a job"
            return [ImportRejected(line=1, text=text.partition("\n")[0], reason=reason)]
    listed = jobs if isinstance(jobs, list) else [] if jobs is None else [jobs]
    return [_job(i, job) for i, job in enumerate(listed, 1)]


def _job(number: int, job: Any) -> CronToGoJob | ImportRejected:
    if isinstance(job, dict):
        fields = {_key(name): value for name, value in job.items()}
        if isinstance(fields.get("target"), dict):
            fields |= {_key(name): value for name, value in fields.pop("target").items()}
        return CronToGoJob(number=number, fields=fields)
    return ImportRejected(
        line=number, text=json.dumps(job), reason="expected a job with named fields"
    )


def _key(name: str) -> str:
    return name.lower().replace("_", "")


# Names.

_LONGEST_NAME = 60
_FILLERS = re.compile(  # commands that only prepare the one that counts
    r"cd|test|\[|\[\[|sleep|set|unset|export|umask|ulimit|source|\.|if|while|for|case|true|false|:"
    r"|type|which|exit|echo|printf|mkdir|touch|eval|trap|wait"
)
_WRAPPERS = re.compile(  # programs whose arguments say what runs
    r"sudo|su|runuser|env|nice|ionice|nohup|time|timeout|flock|exec|chronic|setsid|command|bundle"
    r"|poetry|pipenv|uv|npx|run|then|else|do|!|(python|ruby|perl|php|node|bash|sh|dash|zsh)[\d.]*"
)
_RUNNERS = re.compile(  # programs that need their first argument to be told apart
    r"manage\.py|rake|artisan|make|npm|yarn|rails|run-parts|django-admin|flask|console"
)


def slug(text: str) -> str:
    """Return a text in the letters of a name; empty when it has none of them."""
    plain = unicodedata.normalize("NFKD", text.replace("'", "")).encode("ascii", "ignore")
    words = re.findall(r"[a-z0-9_]+", plain.decode().lower())
    name = words[0][:_LONGEST_NAME] if words else ""
    for word in words[1:]:
        if len(name) + 1 + len(word) > _LONGEST_NAME:
            break
        name += f"-{word}"
    return name


def program_of(line: str) -> str:
    """Return a name for a command without one: the program, or the script that an interpreter runs.
    It is a guess from its words, never an argument that could be a secret."""
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
