"""Schedules of Cron To Go, from its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.manifest import reader
from rq_clock.manifest.importers.heroku import dyno_notes, shell_of
from rq_clock.manifest.importers.result import POLICIES, Imported
from rq_clock.redaction import masked_json
from rq_clock.timing.triggers import Trigger, cron, every

_RATE = re.compile(r"(\d{1,9})\s+(minute|hour|day)s?")
_FIRST_DELAY, _LONGEST_DELAY, _RETRY_LIMIT = 10, 3600, 20
_DEFAULT_SECONDS = 1800  # the default of its own import
_KNOWN = re.compile(
    r"alias|nickname|name|schedule(expression|type)?|startdate|timezone|command|target|dyno|size"
    r"|type|timeout|timetolive|retries|jitter|state"
    r"|id|createdat|updatedat|lastattempt|nextrun|jobexecutionscount"  # its own records
)


def from_cron_to_go(text: str, *, queue: str = "default", dynos: bool = False) -> Imported:
    """Return the jobs of Cron To Go: the manifest of `heroku cron:jobs:export` (YAML), or the JSON
    of `heroku cron:jobs --json` and of its API. The `line` of a rejected job is its number.

    It reads these fields, in the spelling of either: `nickname`/`Alias`,
    `schedule`/`ScheduleExpression` (cron or a rate, "3 hours") with `ScheduleType`,
    `start_date`/`StartDate`, `timezone`, `command`/`Target.Command`,
    `timeout`/`Target.TimeToLive` (s, 1800 when missing), `retries`, `jitter` (min), `state`
    (enabled, paused), `dyno`/`Target.Size`. Jobs become commands, or with `dynos` one-off dynos.
    """
    found = Imported(queue)
    for number, job in enumerate(_jobs(text, found), 1):
        if not isinstance(job, dict):
            found.leave_out(number, json.dumps(job), "expected a job with named fields")
            continue
        fields = _fields(job)
        if isinstance(fields.get("target"), dict):
            fields |= _fields(fields.pop("target"))
        with found.leaving_out(number, _shown_job(fields)):
            _add_job(found, fields, dynos=dynos)
    return found


def _jobs(text: str, found: Imported) -> Iterable[Any]:
    """Return the jobs of a manifest: of a list of jobs, {"jobs": [...]}, or one job."""
    try:
        jobs = reader.read(text).value
    except ScheduleError as error:
        line = error.faults[0].line or 1
        shown = text.split("\n")[line - 1] if line <= text.count("\n") + 1 else ""
        found.leave_out(line, shown, f"cannot read the manifest: {error}")
        return []
    if isinstance(jobs, dict):
        fields = _fields(jobs)
        if "jobs" in fields:
            jobs = fields["jobs"]
        elif not {"command", "target"} & fields.keys():
            reason = "expected the list of a manifest, 'jobs:', or a job"
            found.leave_out(1, text.partition("\n")[0], reason)
            return []
    return jobs if isinstance(jobs, list) else [] if jobs is None else [jobs]


def _fields(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields by their names in lower case and without `_`: `StartDate` and `start_date` are
    `startdate`."""
    return {name.lower().replace("_", ""): value for name, value in job.items()}


def _shown_job(fields: Mapping[str, Any]) -> str:
    try:
        return json.dumps(masked_json(fields), ensure_ascii=False)
    except RecursionError:  # brackets in brackets
        return ""


def _add_job(found: Imported, fields: Mapping[str, Any], *, dynos: bool) -> None:
    if (kind := _text(fields, "type") or "dyno") != "dyno":
        raise ScheduleError(f"expected the target type 'dyno', got {kind!r}")
    line = _text(fields, "command", "target")
    if not line:
        raise ScheduleError("expected a command")
    if (state := _text(fields, "state") or "enabled") not in ("enabled", "paused"):
        raise ScheduleError(f"expected state 'enabled' or 'paused', got {state!r}")
    jitter, retries = _whole(fields, "jitter") or 0, _whole(fields, "retries") or 0
    if retries > _RETRY_LIMIT:
        raise ScheduleError(f"expected at most {_RETRY_LIMIT} retries, got {retries}")
    trigger, notes = _trigger(fields)
    seconds, size = _whole(fields, "timeout", "timetolive"), _text(fields, "dyno", "size")
    target = shell_of(line, _DEFAULT_SECONDS if seconds is None else seconds, size, dynos=dynos)
    name = found.add(
        _text(fields, "nickname", "alias", "name"),
        trigger,
        target,
        jitter=timedelta(minutes=jitter) if jitter else None,
        retries=tuple(min(_FIRST_DELAY * 2**k, _LONGEST_DELAY) for k in range(retries)) or 0,
    )
    if state == "paused":
        found.paused.append(name)
    found.note(name, *dyno_notes(size, dynos=dynos), POLICIES, *notes)
    if jitter:
        found.note(name, "its jitter is the same delay each time, derived from its name")
    if retries:
        found.note(name, "is retried after 10 s, 20 s, … 1 h; Cron To Go documents no delays")
    if re.fullmatch(r"[a-z][\w-]*", line):
        found.note(name, f"if {line!r} is a process of the Procfile, use its command")
    if others := [field for field in fields if not _KNOWN.fullmatch(field)]:
        found.note(name, f"unknown and not carried over: {', '.join(others)}")


def _trigger(fields: Mapping[str, Any]) -> tuple[Trigger, list[str]]:
    expression, zone = _text(fields, "schedule", "scheduleexpression"), _text(fields, "timezone")
    start, rate = _start(fields), _RATE.fullmatch(expression)
    kind = _text(fields, "scheduletype") or ("rate" if rate else "cron")
    if kind not in ("cron", "rate"):
        raise ScheduleError(f"expected ScheduleType 'cron' or 'rate', got {kind!r}")
    if kind == "cron":
        trigger = cron(expression, zone or "UTC", start=start)
        _, _, day, _, weekday = (*trigger.expression.split(), "", "", "", "", "")[:5]
        both = "*/" in (day + weekday) and "*" not in (day, weekday)
        note = "runs on days that match both its day fields; Cron To Go may need only one"
        return trigger, [note] if both else []
    if rate is None:
        raise ScheduleError(f"expected a rate such as '3 hours', got {expression!r}")
    period = timedelta(**{f"{rate[2]}s": int(rate[1])})
    origin = "its start date" if start else "1970-01-01 UTC"
    notes = [f"its rate is elapsed time, counted from {origin}"]
    return every(period, start=start), notes


def _start(fields: Mapping[str, Any]) -> datetime | None:
    value = fields.get("startdate")
    if value is None or value == "":
        return None
    try:
        at = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise ScheduleError(f"expected start_date as ISO 8601, got {value!r}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)  # as its own import does


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
