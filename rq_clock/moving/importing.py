"""The schedules of other tools as run-time schedules of rq-clock: text in, `Imported` out.

    from_crontab           a user's crontab or the system's, of Debian's cron or cronie
    from_heroku_scheduler  the table of its dashboard, pasted
    from_cron_to_go        its manifest, or the JSON of its command line and API

Pure: nothing is read, run or written. No text makes it raise: what cannot be carried over is in
`left_out` with the reason, and what means something a little different here is in `notes`. A
schedule fires when the other tool would have run it, or it is left out. Neither `left_out` nor
`notes` shows a secret; the schedules hold what was in the text, as they must.

Every target is a `command`; overlap and catch-up are left at rq-clock's defaults.

Not here: how the texts are built up (foreign.py), and who adds the schedules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from shlex import quote
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.masks import MASK, is_secret, masked_json, masked_text, printable
from rq_clock.moving.foreign import (
    Entry,
    Job,
    Refused,
    Row,
    command_and_input,
    crontab_lines,
    manifest_jobs,
    program_of,
    scheduler_rows,
    slug,
    unlike_cron,
)
from rq_clock.schedule import Schedule, declare
from rq_clock.targets import Command, command
from rq_clock.triggers import Trigger, cron, every

LONGEST_SHOWN, LONGEST_NOTE = 200, 400
"""Characters of a line, a job or a reason that are shown; of a note."""
NAMED = 5
"""Schedules that a note names; of more it says how many."""
POLICIES = (
    "skips a run while the one before goes on (overlap) and catches up the newest one missed in an "
    "outage (catch_up), neither of which was done there"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What was not carried over. `line` counts from 1; of a manifest it is the number of the job.
    `text` is how it may be shown."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a text came to. `paused` are the names of those schedules that were paused there; they
    are among `schedules`, which know no pauses."""

    schedules: tuple[Schedule, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    paused: tuple[str, ...] = ()


class _Found:
    """What has been found so far."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.schedules: dict[str, Schedule] = {}
        self.numbers: dict[str, int] = {}  # the last one given to a name that came again
        self.left_out: list[LeftOut] = []
        self.paused: list[str] = []
        self.notes: dict[str, list[str]] = {}

    def add(self, title: str, trigger: Trigger, target: Command, **options: Any) -> str:
        """The name that the schedule got. Raises ScheduleError with the faults alone."""
        name = self._unused(slug(masked_text(title)) or program_of(masked_text(target.shell)))
        try:
            schedule = declare(name, trigger, target, {"queue": self.queue, **options})
        except ScheduleError as error:
            faults = [line.removeprefix(f"{name}: ") for line in str(error).splitlines()]
            raise ScheduleError("; ".join(faults)) from None
        self.schedules[name] = schedule
        return name

    def _unused(self, base: str) -> str:
        name = base
        while name in self.schedules:
            self.numbers[base] = self.numbers.get(base, 1) + 1
            name = f"{base}-{self.numbers[base]}"
        return name

    def leave(self, line: int, text: str, reason: object) -> None:
        shown, told = (
            printable(_masked(part.strip()), LONGEST_SHOWN) for part in (text, str(reason))
        )
        self.left_out.append(LeftOut(line=line, text=shown, reason=told))

    def note(self, name: str, *texts: str) -> None:
        """Say something of a schedule. What is said of several is said once."""
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
    """A text without its secrets. What is left out may have a quote that is not closed, and would
    hide nothing behind it."""
    open_quotes = "".join(mark for mark in "\"'" if text.count(mark) % 2)
    return masked_text(text + open_quotes).removesuffix(open_quotes)


# Crontabs.

_SHELLS = frozenset({"/bin/sh", "/usr/bin/sh"})
_MAIL = frozenset({"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"})
_CRONS_OWN = _MAIL | {"CRON_TZ", "RANDOM_DELAY", "LOGNAME"}  # the last one cron itself overrides
_USER = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*\$?)[ \t]+(\S.*)")
_USUAL_USERS = re.compile(  # who are no programs, too, as `git` and `backup` are
    r"root|www-data|nobody|daemon|postgres|apache|nginx|httpd|deploy|ubuntu|debian|admin|ec2-user"
    r"|vagrant|munin|logcheck|smmsp|list|news|uucp|Debian-exim|opendkim|_chrony"
)


def from_crontab(
    text: str, *, system: bool | None = None, tz: str = "UTC", queue: str = "default"
) -> Imported:
    """The entries of a crontab as schedules.

    `system` says whether the sixth field is a user, as in /etc/crontab and /etc/cron.d; None
    guesses, and a note says what. `tz` is the zone of the machine that the crontab is from.

    Settings count for the entries below them. CRON_TZ is the zone of the times; TZ, PATH and what
    else there is are the command's environment, HOME also its directory; another SHELL than
    /bin/sh is called with the command; RANDOM_DELAY becomes `jitter`. What follows a `%` is given
    to the command as a here-document. LOGNAME is left to the system, as cron does.

    A name is made of the comment directly above the entry, else of the program that runs. What
    cron takes and `cron` does not, or the other way round, is left out: it is not the same rule.
    """
    found = _Found(queue)
    lines = crontab_lines(text)
    entries = [line for line in lines if isinstance(line, Entry)]
    with_users = _is_system(text, entries) if system is None else system
    for line in lines:
        if isinstance(line, Refused):
            found.leave(line.line, _shown(line), line.reason)
            continue
        try:
            name = _add_entry(found, line, with_users, tz)
        except ScheduleError as error:
            found.leave(line.line, line.text, error)
            continue
        if system is None and with_users:
            found.note(name, "its sixth field was taken for a user; if it is none, system=False")
        elif system is None:
            found.note(name, "its sixth field was not taken for a user; if it is, system=True")
    return found.done()


_NO_LIMIT = "has no time limit, as in cron: give it a timeout"
_PLACE = "starts in the worker's directory, with the app's environment; in cron in the user's home"
_SETTINGS_NOTES = {
    "MAILTO": "MAILTO is not carried over: what it prints is logged and kept, failures are alerts",
    "PATH": "PATH is the crontab's: its programs must be there where the worker runs",
    "HOME": "starts in HOME, which must be there where the worker runs",
    "TZ": "TZ is for the command alone, as in cron; its times are not of that zone",
}


def _is_system(text: str, entries: list[Entry]) -> bool:
    """Whether the sixth field looks like a user in every entry: known in one of them, or said to
    be one by the heading of the fields."""
    users = [_USER.fullmatch(entry.rest) for entry in entries]
    heading = re.search(r"^#.*(\bdow\b|\*)[ \t]+user", text, re.MULTILINE)
    known = any(match and _USUAL_USERS.fullmatch(match[1]) for match in users)
    return bool(entries) and all(users) and (known or heading is not None)


def _add_entry(found: _Found, entry: Entry, with_users: bool, tz: str) -> str:
    own_zone = entry.settings.get("CRON_TZ")
    trigger = cron(entry.when, tz if own_zone is None else own_zone.removeprefix(":"))
    if problems := trigger.faults():
        raise ScheduleError(_told(entry, trigger.expression, "; ".join(problems)))
    if problem := unlike_cron(trigger.expression):
        raise ScheduleError(_told(entry, trigger.expression, problem))
    said = [_zone_note(trigger.tz, own_zone), POLICIES, _NO_LIMIT]
    said += [] if "HOME" in entry.settings else [_PLACE]
    said += [_SETTINGS_NOTES[k] for k in _SETTINGS_NOTES if k in entry.settings]
    rest = entry.rest
    if with_users:
        match = _USER.fullmatch(rest)
        if match is None:
            raise ScheduleError("expected a user and a command after the fields of time")
        rest = match[2]
        said.append(f"was run as the user {match[1]}; here as the worker's")
    if options := re.match(r"(-[nqs][ \t]+)+", rest):  # of cronie and OpenBSD's cron
        rest = rest[options.end() :]
        said.append(f"the option {options[0].strip()} is not carried over")
    if entry.unlogged:
        said.append("the '-' before it is not carried over: runs are logged and recorded")
    target, more = _shell(rest, entry.settings)
    jitter, delayed = _jitter(entry.settings)
    name = found.add(entry.title, trigger, target, timeout=-1, jitter=jitter)
    found.note(name, *said, *more, *delayed)
    return name


def _zone_note(zone: str, own: str | None) -> str:
    if own is None:
        return f"fires by the clock of {zone}; if the machine of the crontab had another, give tz="
    return (
        f"fires by the clock of {zone}, its CRON_TZ, which cronie heeds and Debian's cron does not"
    )


def _told(entry: Entry, expression: str, problem: str) -> str:
    """The problem, unless it quotes what is masked in the line that is shown with it."""
    shown = " ".join(masked_text(entry.text).split())
    return problem if expression in shown else "expected fields of time as in crontab(5)"


def _shown(line: Refused) -> str:
    name, equals, _ = line.text.partition("=")
    return f"{name}={MASK}" if equals and is_secret(name.strip(" \t\"'")) else line.text


def _shell(rest: str, settings: Mapping[str, str]) -> tuple[Command, list[str]]:
    """What cron runs, `SHELL -c command` with an input, as a command; and what to say of it."""
    shell = settings.get("SHELL", "/bin/sh")
    line, given = command_and_input(rest)
    if not line.strip():
        raise ScheduleError("expected a command before the first %")
    if not shell.startswith("/"):
        raise ScheduleError(f"expected SHELL with its path, got {shell!r}: cron cannot start it")
    notes = []
    if re.search(r"\\\\", rest.partition("%")[0]):
        notes.append(r"Debian's cron gives the shell \ for \\, and so does this; cronie gives \\")
    if shell not in _SHELLS:
        notes.append(f"is run by {shell}, which must be there where the worker runs")
    if given or shell not in _SHELLS:
        line = f"exec {quote(shell)} -c {quote(line)}"
    if given:
        end = "INPUT"
        while end in given.split("\n"):
            end += "_"
        line += f" <<'{end}'\n{given}{end}\n"
    env = {name: value for name, value in settings.items() if name not in _CRONS_OWN}
    if secrets := [n for n, value in env.items() if is_secret(n) or masked_text(value) != value]:
        notes.append(f"{', '.join(secrets)} is stored in Redis with it: better in the app's config")
    return command(line, cwd=settings.get("HOME") or None, env=env), notes


def _jitter(settings: Mapping[str, str]) -> tuple[timedelta | None, list[str]]:
    delay = settings.get("RANDOM_DELAY")
    if delay is None:
        return None, []
    minutes = int(delay) if re.fullmatch(r"[0-9]{1,4}", delay) else -1
    if not 0 <= minutes <= 1440:  # cronie ignores it, too
        return None, ["RANDOM_DELAY is not carried over: expected 0-1440 minutes"]
    note = "RANDOM_DELAY became jitter: each time the same part of it, chosen by the name"
    return (timedelta(minutes=minutes), [note]) if minutes else (None, [])


# Heroku Scheduler.

_DAILY = re.compile(
    r"(?:daily|every day) at (\d{1,2}):([0-5]\d)(?: ?([ap]m))?(?: (?:utc|gmt))?", re.IGNORECASE
)
_HOURLY = re.compile(r"(?:hourly|every hour) at :?([0-5]?\d)", re.IGNORECASE)
_TEN = re.compile(r"every (?:10|ten) minutes", re.IGNORECASE)


def from_heroku_scheduler(text: str, *, queue: str = "default") -> Imported:
    """The jobs of Heroku Scheduler, from the table of its dashboard (it has no other export).

    Command and frequency count, a size makes a note, the last run and the next do not matter. Its
    times are UTC. It ends a job after its interval (10 minutes, an hour, a day): so much time the
    command has here.
    """
    found = _Found(queue)
    for row in scheduler_rows(text):
        if isinstance(row, Refused):
            found.leave(row.line, row.text, row.reason)
            continue
        try:
            _add_row(found, row)
        except ScheduleError as error:
            found.leave(row.line, row.text, error)
    return found.done()


def _add_row(found: _Found, row: Row) -> None:
    expression, seconds = _frequency(row.frequency)
    name = found.add("", cron(expression), command(row.command, timeout=seconds))
    found.note(name, _dyno_note(row.size), POLICIES)
    if seconds == 600:
        found.note(name, "runs at minute 0, 10, 20, …; Heroku does not say when")


def _dyno_note(size: str) -> str:
    kind = f"a one-off dyno of size {size}" if size else "a one-off dyno"
    return f"ran in {kind}; here it runs in a worker, which must be as large"


def _frequency(text: str) -> tuple[str, int]:
    """The cron expression, and the seconds that a job may take."""
    if _TEN.fullmatch(text):
        return "*/10 * * * *", 600
    if match := _HOURLY.fullmatch(text):
        return f"{int(match[1])} * * * *", 3600
    if match := _DAILY.fullmatch(text):
        hour, half = int(match[1]), (match[3] or "").lower()
        if (1 <= hour <= 12) if half else hour <= 23:
            hour = hour % 12 + 12 * (half == "pm") if half else hour
            return f"{int(match[2])} {hour} * * *", 86_400
    raise ScheduleError(
        "expected the frequency as 'Every 10 minutes', 'Hourly at :10' or 'Daily at 3:30 AM UTC', "
        f"got {text!r}"
    )


# Cron To Go.

_RATE = re.compile(r"(\d{1,9})\s+(minute|hour|day)s?")
_FIRST_DELAY, _LONGEST_DELAY, _MOST_RETRIES = 10, 3600, 20
_DEFAULT_SECONDS = 1800  # what its own import takes when a job says nothing
_KNOWN = re.compile(
    r"alias|nickname|name|schedule(expression|type)?|startdate|timezone|command|target|dyno|size"
    r"|type|timeout|timetolive|retries|jitter|state"
    r"|id|createdat|updatedat|lastattempt|nextrun|jobexecutionscount"  # what it keeps for itself
)


def from_cron_to_go(text: str, *, queue: str = "default") -> Imported:
    """The jobs of Cron To Go: the manifest of `heroku cron:jobs:export` (YAML), or the JSON of
    `heroku cron:jobs --json` and of its API.

    Understood are, in the spelling of either: `nickname`/`Alias`, `schedule`/`ScheduleExpression`
    (cron or a rate, "3 hours") with `ScheduleType`, `start_date`/`StartDate` (the phase of a
    rate), `timezone`, `command`/`Target.Command`, `timeout`/`Target.TimeToLive` (s, 1800 when
    missing), `retries`, `jitter` (min), `state` (enabled, paused), `dyno`/`Target.Size` (a note).
    """
    found = _Found(queue)
    for job in manifest_jobs(text):
        if isinstance(job, Refused):
            found.leave(job.line, job.text, job.reason)
            continue
        try:
            _add_job(found, job)
        except ScheduleError as error:
            found.leave(job.number, _shown_job(job), error)
    return found.done()


def _shown_job(job: Job) -> str:
    try:
        return json.dumps(masked_json(job.fields), ensure_ascii=False)
    except RecursionError:  # brackets in brackets
        return ""


def _add_job(found: _Found, job: Job) -> None:
    fields = job.fields
    if (kind := _text(fields, "type") or "dyno") != "dyno":
        raise ScheduleError(f"expected the target type 'dyno', got {kind!r}")
    line = _text(fields, "command", "target")
    if not line:
        raise ScheduleError("expected a command")
    if (state := _text(fields, "state") or "enabled") not in ("enabled", "paused"):
        raise ScheduleError(f"expected state 'enabled' or 'paused', got {state!r}")
    jitter, retries = _whole(fields, "jitter") or 0, _whole(fields, "retries") or 0
    if retries > _MOST_RETRIES:
        raise ScheduleError(f"expected at most {_MOST_RETRIES} retries, got {retries}")
    trigger, said = _trigger(fields)
    seconds = _whole(fields, "timeout", "timetolive")
    name = found.add(
        _text(fields, "nickname", "alias", "name"),
        trigger,
        command(line, timeout=_DEFAULT_SECONDS if seconds is None else seconds),
        jitter=timedelta(minutes=jitter) if jitter else None,
        retries=tuple(min(_FIRST_DELAY * 2**k, _LONGEST_DELAY) for k in range(retries)) or 0,
    )
    if state == "paused":
        found.paused.append(name)
    found.note(name, _dyno_note(_text(fields, "dyno", "size")), POLICIES, *said)
    if jitter:
        found.note(name, "its jitter is the same part each time, chosen by its name")
    if retries:
        found.note(name, "is tried again after 10 s, 20 s, … 1 h; Cron To Go names no delays")
    if re.fullmatch(r"[a-z][\w-]*", line):
        found.note(name, f"if {line!r} is a process of the Procfile, give it that one's command")
    if others := [field for field in fields if not _KNOWN.fullmatch(field)]:
        found.note(name, f"not understood and not carried over: {', '.join(others)}")


def _trigger(fields: Mapping[str, Any]) -> tuple[Trigger, list[str]]:
    expression, zone = _text(fields, "schedule", "scheduleexpression"), _text(fields, "timezone")
    start, rate = _start(fields), _RATE.fullmatch(expression)
    kind = _text(fields, "scheduletype") or ("rate" if rate else "cron")
    if kind not in ("cron", "rate"):
        raise ScheduleError(f"expected ScheduleType 'cron' or 'rate', got {kind!r}")
    if kind == "cron":
        late = ["does not wait for its start date"] if start else []
        trigger = cron(expression, zone or "UTC")
        _, _, day, _, weekday = (*trigger.expression.split(), "", "", "", "", "")[:5]
        if "*/" in (day + weekday) and "*" not in (day, weekday):
            late.append("runs on days that match both its day fields; Cron To Go may take either")
        return trigger, late
    if rate is None:
        raise ScheduleError(f"expected a rate such as '3 hours', got {expression!r}")
    period = timedelta(**{f"{rate[2]}s": int(rate[1])})
    origin = "its start date, which it does not wait for" if start else "1970-01-01 UTC"
    said = [f"its rate is elapsed time, counted from {origin}"]
    return every(seconds=period // timedelta(seconds=1), anchor=start), said


def _start(fields: Mapping[str, Any]) -> datetime | None:
    value = fields.get("startdate")
    if value is None or value == "":
        return None
    try:
        at = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise ScheduleError(f"expected start_date as ISO 8601, got {value!r}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)  # so does its own import


def _text(fields: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        if value is not None:
            raise ScheduleError(f"expected {name} as text, got {type(value).__name__}")
    return ""


def _whole(fields: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
            return value
        if value is not None:
            raise ScheduleError(f"expected {name} as a whole number, got {value!r}")
    return None
