"""Schedules of Cron To Go, from its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.manifest.importers.heroku import _dyno_note
from rq_clock.manifest.importers.parsing import CronToGoJob, ImportRejected, manifest_jobs
from rq_clock.manifest.importers.result import POLICIES, Imported, _Found
from rq_clock.model.targets import command
from rq_clock.redaction import masked_json
from rq_clock.timing.triggers import Trigger, cron, every

_RATE = re.compile(r"(\d{1,9})\s+(minute|hour|day)s?")

_FIRST_DELAY, _LONGEST_DELAY, _RETRY_LIMIT = 10, 3600, 20

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
        if isinstance(job, ImportRejected):
            found.leave(job.line, job.text, job.reason)
            continue
        try:
            _add_job(found, job)
        except ScheduleError as error:
            found.leave(job.number, _shown_job(job), error)
    return found.done()


def _shown_job(job: CronToGoJob) -> str:
    try:
        return json.dumps(masked_json(job.fields), ensure_ascii=False)
    except RecursionError:  # brackets in brackets
        return ""


def _add_job(found: _Found, job: CronToGoJob) -> None:
    fields = job.fields
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
    found.note(name, _dyno_note(_text(fields, "dyno", "size")), POLICIES, *notes)
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
    notes = [f"its rate is elapsed time, counted from {origin}"]
    return every(seconds=period // timedelta(seconds=1), anchor=start), notes


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
