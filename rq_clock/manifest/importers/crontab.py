"""Schedules of a crontab; and how every import of another tool works: text in, `Imported` out.

    from_crontab           a user's crontab or the system's, of Debian's cron or cronie
    from_heroku_scheduler  the table of its dashboard, pasted
    from_cron_to_go        its manifest, or the JSON of its command line and API

Pure: nothing is read, run or written. No text makes it raise: what cannot be carried over is in
`left_out` with the reason, and what means something a little different here is in `notes`. A
schedule fires when the other tool would have run it, or it is left out. Neither `left_out` nor
`notes` shows a secret; the schedules hold what was in the text, as they must.

Every target is a `command`; overlap and catch-up are left at rq-clock's defaults.

Not here: the syntax of the texts (parsing.py), and adding the schedules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from shlex import quote

from rq_clock.errors import ScheduleError
from rq_clock.manifest.importers.parsing import (
    CrontabEntry,
    ImportRejected,
    command_and_input,
    crontab_lines,
    unlike_cron,
)
from rq_clock.manifest.importers.result import POLICIES, Imported, _Found
from rq_clock.model.targets import Command, command
from rq_clock.redaction import MASK, is_secret, masked_text
from rq_clock.timing.triggers import cron

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
    entries = [line for line in lines if isinstance(line, CrontabEntry)]
    with_users = _is_system(text, entries) if system is None else system
    for line in lines:
        if isinstance(line, ImportRejected):
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


def _is_system(text: str, entries: list[CrontabEntry]) -> bool:
    """Whether the sixth field looks like a user in every entry: known in one of them, or said to
    be one by the heading of the fields."""
    users = [_USER.fullmatch(entry.rest) for entry in entries]
    heading = re.search(r"^#.*(\bdow\b|\*)[ \t]+user", text, re.MULTILINE)
    known = any(match and _USUAL_USERS.fullmatch(match[1]) for match in users)
    return bool(entries) and all(users) and (known or heading is not None)


def _add_entry(found: _Found, entry: CrontabEntry, with_users: bool, tz: str) -> str:
    own_zone = entry.settings.get("CRON_TZ")
    trigger = cron(entry.when, tz if own_zone is None else own_zone.removeprefix(":"))
    if problems := trigger.faults():
        raise ScheduleError(
            _safe_reason(entry, trigger.expression, "; ".join(fault.text for fault in problems))
        )
    if problem := unlike_cron(trigger.expression):
        raise ScheduleError(_safe_reason(entry, trigger.expression, problem))
    notes = [_zone_note(trigger.tz, own_zone), POLICIES, _NO_LIMIT]
    notes += [] if "HOME" in entry.settings else [_PLACE]
    notes += [_SETTINGS_NOTES[k] for k in _SETTINGS_NOTES if k in entry.settings]
    rest = entry.rest
    if with_users:
        match = _USER.fullmatch(rest)
        if match is None:
            raise ScheduleError("expected a user and a command after the fields of time")
        rest = match[2]
        notes.append(f"was run as the user {match[1]}; here as the worker's")
    if options := re.match(r"(-[nqs][ \t]+)+", rest):  # of cronie and OpenBSD's cron
        rest = rest[options.end() :]
        notes.append(f"the option {options[0].strip()} is not carried over")
    if entry.unlogged:
        notes.append("the '-' before it is not carried over: runs are logged and recorded")
    target, more = _shell(rest, entry.settings)
    jitter, delayed = _jitter(entry.settings)
    name = found.add(entry.title, trigger, target, timeout=-1, jitter=jitter)
    found.note(name, *notes, *more, *delayed)
    return name


def _zone_note(zone: str, own: str | None) -> str:
    if own is None:
        return f"fires by the clock of {zone}; if the machine of the crontab had another, give tz="
    return (
        f"fires by the clock of {zone}, its CRON_TZ, which cronie heeds and Debian's cron does not"
    )


def _safe_reason(entry: CrontabEntry, expression: str, problem: str) -> str:
    """The problem, unless it quotes what is masked in the line that is shown with it."""
    shown = " ".join(masked_text(entry.text).split())
    return problem if expression in shown else "expected fields of time as in crontab(5)"


def _shown(line: ImportRejected) -> str:
    name, equals, _ = line.text.partition("=")
    return f"{name}={MASK}" if equals and is_secret(name.strip(" \t\"'")) else line.text


def _shell(rest: str, settings: Mapping[str, str]) -> tuple[Command, list[str]]:
    """What cron runs, `SHELL -c command` with an input, as a command; and what to say of it."""
    shell = settings.get("SHELL", "/bin/sh")
    line, stdin = command_and_input(rest)
    if not line.strip():
        raise ScheduleError("expected a command before the first %")
    if not shell.startswith("/"):
        raise ScheduleError(f"expected SHELL with its path, got {shell!r}: cron cannot start it")
    notes = []
    if re.search(r"\\\\", rest.partition("%")[0]):
        notes.append(r"Debian's cron gives the shell \ for \\, and so does this; cronie gives \\")
    if shell not in _SHELLS:
        notes.append(f"is run by {shell}, which must be there where the worker runs")
    if stdin or shell not in _SHELLS:
        line = f"exec {quote(shell)} -c {quote(line)}"
    if stdin:
        end = "INPUT"
        while end in stdin.split("\n"):
            end += "_"
        line += f" <<'{end}'\n{stdin}{end}\n"
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
