"""Schedules of a crontab as Debian's cron 3.0 and cronie read it: crontab(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from shlex import quote

from rq_clock.errors import ScheduleError
from rq_clock.manifest.importers.result import POLICIES, Imported, lines_of
from rq_clock.model.targets import Command, command
from rq_clock.redaction import MASK, is_secret, masked_text
from rq_clock.timing.cron import MONTHS, WEEKDAYS
from rq_clock.timing.triggers import cron

_SHELLS = frozenset({"/bin/sh", "/usr/bin/sh"})
_MAIL = frozenset({"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"})
_CRONS_OWN = _MAIL | {"CRON_TZ", "RANDOM_DELAY", "LOGNAME"}  # the last one cron itself overrides
_USER = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*\$?)[ \t]+(\S.*)")
_USUAL_USERS = re.compile(  # without names that are programs too, such as `git`
    r"root|www-data|nobody|daemon|postgres|apache|nginx|httpd|deploy|ubuntu|debian|admin|ec2-user"
    r"|vagrant|munin|logcheck|smmsp|list|news|uucp|Debian-exim|opendkim|_chrony"
)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """An entry of a crontab. `rest` is the text after the fields of time: options and the command,
    after the user in a system crontab. `title` is the comment directly above."""

    line: int
    text: str
    when: str
    rest: str
    settings: Mapping[str, str]
    title: str
    unlogged: bool  # a `-` before the minute: cronie does not log the run


def from_crontab(
    text: str, *, system: bool | None = None, tz: str = "UTC", queue: str = "default"
) -> Imported:
    """Return the entries of a crontab as schedules.

    With `system` the sixth field is a user, as in /etc/crontab and /etc/cron.d; None guesses and
    adds a note. `tz` is the zone of the crontab's machine.

    Settings apply to the entries below them. CRON_TZ is the zone of the times. TZ, PATH and other
    variables become the command's environment; HOME is also its directory. Another SHELL than
    /bin/sh is called with the command. RANDOM_DELAY becomes `jitter`. Text after a `%` becomes a
    here-document of the command. LOGNAME is left to the system, as cron does.

    The comment directly above an entry becomes its name, else the program that runs. An expression
    that cron and rq-clock read differently is left out.
    """
    found = Imported(queue)
    entries = list(_entries(text, found))
    with_users = _is_system(text, entries) if system is None else system
    guess = "its sixth field is read as a user; if it is none, pass --user"
    if not with_users:
        guess = "its sixth field is not read as a user; if it is one, pass --system"
    for entry in entries:
        with found.leaving_out(entry.line, entry.text):
            name = _add_entry(found, entry, with_users, tz)
            if system is None:
                found.note(name, guess)
    return found


_NO_LIMIT = "has no time limit, as in cron: set a timeout"
_PLACE = "starts in the worker's directory, with the app's environment; in cron in the user's home"
_SETTINGS_NOTES = {
    "MAILTO": "MAILTO is not carried over: its output is logged and kept, failures are alerts",
    "PATH": "PATH is the crontab's: its programs must be there where the worker runs",
    "HOME": "starts in HOME, which must be there where the worker runs",
    "TZ": "TZ is for the command alone, as in cron; its times are not of that zone",
}


def _is_system(text: str, entries: list[_Entry]) -> bool:
    """Return whether the sixth field looks like a user in every entry. One must be a usual user, or
    the heading of the fields must name the user."""
    users = [_USER.fullmatch(entry.rest) for entry in entries]
    heading = re.search(r"^#.*(\bdow\b|\*)[ \t]+user", text, re.MULTILINE)
    known = any(match and _USUAL_USERS.fullmatch(match[1]) for match in users)
    return bool(entries) and all(users) and (known or heading is not None)


def _add_entry(found: Imported, entry: _Entry, with_users: bool, tz: str) -> str:
    own_zone = entry.settings.get("CRON_TZ")
    try:
        trigger = cron(entry.when, tz if own_zone is None else own_zone.removeprefix(":"))
    except ScheduleError as error:
        reason = "; ".join(fault.text for fault in error.faults)
        raise ScheduleError(_safe_reason(entry, " ".join(entry.when.split()), reason)) from None
    if problem := _unlike_cron(trigger.expression):
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
        return f"fires by the clock of {zone}; if the crontab's machine has another, pass --tz"
    return f"fires by the clock of {zone}, its CRON_TZ, which cronie uses and Debian's cron ignores"


def _safe_reason(entry: _Entry, expression: str, problem: str) -> str:
    """Return the problem, unless it quotes a value that is masked in the line beside it."""
    shown = " ".join(masked_text(entry.text).split())
    return problem if expression in shown else "expected fields of time as in crontab(5)"


def _shown(line: str) -> str:
    name, equals, _ = line.partition("=")
    return f"{name}={MASK}" if equals and is_secret(name.strip(" \t\"'")) else line


def _shell(rest: str, settings: Mapping[str, str]) -> tuple[Command, list[str]]:
    """Return the command that runs as cron's `SHELL -c command` with an input, and its notes."""
    shell = settings.get("SHELL", "/bin/sh")
    line, stdin = _command_and_input(rest)
    if not line.strip():
        raise ScheduleError("expected a command before the first %")
    if not shell.startswith("/"):
        raise ScheduleError(f"expected SHELL with its path, got {shell!r}: cron cannot start it")
    notes = []
    if re.search(r"\\\\", rest.partition("%")[0]):
        notes.append(r"Debian's cron passes \ to the shell for \\, as here; cronie passes \\")
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
        notes.append(f"{', '.join(secrets)} is stored in Redis too: move it to the app's config")
    return command(line, cwd=settings.get("HOME") or None, env=env), notes


def _jitter(settings: Mapping[str, str]) -> tuple[timedelta | None, list[str]]:
    delay = settings.get("RANDOM_DELAY")
    if delay is None:
        return None, []
    minutes = int(delay) if re.fullmatch(r"[0-9]{1,4}", delay) else -1
    if not 0 <= minutes <= 1440:  # cronie also ignores it
        return None, ["RANDOM_DELAY is not carried over: expected 0-1440 minutes"]
    note = "RANDOM_DELAY became jitter: the same part of it each time, derived from the name"
    return (timedelta(minutes=minutes), [note]) if minutes else (None, [])


# ---- the text ---------------------------------------------------------------------------------


def _entries(text: str, found: Imported) -> Iterator[_Entry]:
    """Yield the entries of a crontab, each with the settings above it."""
    settings: dict[str, str] = {}
    title = ""
    for number, line in enumerate(lines_of(text), 1):
        if line.startswith("#") or not line:
            prose = _prose(line)
            title = prose and (title or prose)  # the first line of a block of comments
            continue
        with found.leaving_out(number, _shown(line)):
            if match := _SETTING.fullmatch(line):
                settings |= _setting(match)
            else:
                yield _entry(number, line, dict(settings), title)
        title = ""


def _setting(match: re.Match[str]) -> dict[str, str]:
    name, value = (
        next(v for k in keys if (v := match[k]) is not None)
        for keys in (("n1", "n2", "n3"), ("v1", "v2", "v3"))
    )
    if not _VARIABLE.fullmatch(name):
        raise ScheduleError("expected a variable's name of letters, digits and '_'")
    return {name: value.rstrip() if match["v3"] else value}


def _entry(number: int, line: str, settings: Mapping[str, str], title: str) -> _Entry:
    unlogged = re.match(r"-[\d*@]", line) is not None
    match = _TIMES.fullmatch(line[unlogged:])
    if match is None:
        raise ScheduleError("expected five fields of time and a command, or NAME=value")
    if not (rest := match[2] or "").strip():
        raise ScheduleError("expected a command after the fields of time")
    if rest.startswith("*"):  # cron also treats it as a typing error
        raise ScheduleError("expected a command after five fields of time, got one more field")
    return _Entry(
        line=number, text=line, when=match[1], rest=rest, settings=settings, title=title,
        unlogged=unlogged,
    )  # fmt: skip


def _prose(line: str) -> str:
    """Return a comment that can name the entry below it, else "". A disabled entry or setting, a
    ruler or the heading of the fields cannot."""
    words = line.strip("#=*~-_ \t").removeprefix("Ansible:").strip()
    disabled = _DISABLED.match(line.lstrip("# \t"))
    spoken = words[:1].isalnum() or words[:1] in tuple("\"'([")
    return words if words and spoken and not disabled and not _NO_TITLE.match(words) else ""


def _unlike_cron(expression: str) -> str:
    """Return why cron reads a valid expression differently, else "".

    Debian's cron reads `5#2` as 5 and `22-2` as no hour at all, and refuses `L`, `15W`, `?`, `5/10`
    and `@Daily`.
    """
    if expression.startswith("@"):
        known = expression == expression.lower()
        return "" if known else f"cron knows {expression.lower()} in lower case only"
    for position, field in enumerate(expression.split()):
        for item in field.split(","):
            match = _ITEM.fullmatch(item.lower())
            if match is None:
                return f"crontab(5) has no {item!r}: cron refuses the line or reads it differently"
            first, last = match.group("first", "last")
            if first and _number(first, position) > _number(last, position):
                return f"cron finds no time in {item!r}, which goes backwards; write two ranges"
    return ""


def _number(text: str, position: int) -> int:
    names = MONTHS if position == 3 else WEEKDAYS
    return int(text) if text.isdigit() else names.index(text) + (position == 3)


def _command_and_input(text: str) -> tuple[str, str]:
    r"""Return the command of an entry, and its standard input.

    Measured with Debian's cron: `\%` is `%`. The first other `%` ends the command, and each one
    after it is a newline. In the command `\\` is one backslash, which escapes no `%` after it.
    """
    end = re.compile(r"(?:\\.|[^\\%])*\\?").match(text)
    assert end, "it matches the empty text, too"
    command = re.sub(r"\\([\\%])", r"\1", end[0])
    stdin = re.sub(r"\\?%", lambda m: "%" if len(m[0]) == 2 else "\n", text[end.end() + 1 :])
    return command, stdin if not stdin or stdin.endswith("\n") else stdin + "\n"
