"""A schedule to copy: as a command line and as a request, with secrets masked. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import timedelta

from rq_clock.manifest.definition import document
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import SHELLS, Webhook
from rq_clock.redaction import masked_json, masked_url
from rq_clock.timing.durations import duration_spec
from rq_clock.timing.instants import iso
from rq_clock.timing.triggers import Cron, Once

_encode = json.JSONEncoder(ensure_ascii=False).encode
_OF_SECONDS = ("timeout", "result_ttl", "failure_ttl", "catch_up_window", "jitter")
_PLAIN = ("queue", "retries", "catch_up", "catch_up_limit", "overlap", "group", "group_limit")


def as_cli(name: str, schedule: Schedule) -> str:
    """Return the command that adds it."""
    options = *_trigger(schedule), *_target(schedule), *_options(schedule)
    return shlex.join(["rq-clock", "add", name, *options])


def as_curl(name: str, schedule: Schedule, base: str) -> str:
    """Return the request that adds or replaces it."""
    body = _encode(document(schedule, secrets=False))
    return (
        f"curl -X PUT {shlex.quote(f'{base}api/v1/schedules/{name}')} \\\n"
        "  -H \"Authorization: Bearer $RQ_CLOCK_TOKEN\" -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def _trigger(schedule: Schedule) -> Iterator[str]:
    trigger = schedule.trigger
    if isinstance(trigger, Cron):
        yield from ("--cron", trigger.expression)
        if trigger.tz != "UTC":
            yield from ("--tz", trigger.tz)
    elif not isinstance(trigger, Once):
        entry = document(schedule)
        yield from ("--every", entry["every"])
        for key in ("at", "on", "tz", "anchor"):
            if key in entry:
                yield from (f"--{key}", entry[key])
    else:
        yield from ("--at", iso(trigger.at))
    if not isinstance(trigger, Once):
        for option, at in (("--start", trigger.start), ("--end", trigger.end)):
            if at:
                yield from (option, iso(at))
        if trigger.max_runs:
            yield from ("--max-runs", str(trigger.max_runs))


def _target(schedule: Schedule) -> Iterator[str]:
    target = schedule.target
    if isinstance(target, SHELLS):
        shown = target.shown()
        yield from (f"--{target.kind}", shown["shell"])
        for option in ("cwd", "size"):
            if shown.get(option):
                yield from (f"--{option}", shown[option])
        yield from _each("--env", shown.get("env", {}), "{}={}")
    elif isinstance(target, Webhook):
        shown = target.shown()
        yield from ("--url", shown["url"])
        if target.method != "POST":
            yield from ("--method", target.method)
        yield from _each("--header", shown.get("headers", {}), "{}: {}")
        if target.json is not None:
            yield from ("--body", _encode(shown["json"]))
    else:
        yield from ("--func", target)
        for value in masked_json(list(schedule.args)):
            yield from ("--arg", _encode(value))
        kwargs = masked_json(dict(schedule.kwargs))
        yield from _each("--kwarg", {k: _encode(v) for k, v in kwargs.items()}, "{}={}")


def _each(option: str, values: Mapping[str, str], form: str) -> Iterator[str]:
    for pair in values.items():
        yield from (option, form.format(*pair))


def _options(schedule: Schedule) -> Iterator[str]:
    """Yield the options that differ from their default."""
    defaults = Schedule.__dataclass_fields__
    usual = "allow" if schedule.catch_up == "all" else "skip"
    for option in (*_PLAIN, *_OF_SECONDS):
        value = getattr(schedule, option)
        if value == (usual if option == "overlap" else defaults[option].default):
            continue
        if isinstance(value, timedelta):
            value = duration_spec(value)
        elif isinstance(value, tuple):
            value = ",".join(f"{delay}s" for delay in value)
        elif option in _OF_SECONDS and value != -1:
            value = f"{value}s"
        yield from (f"--{option.replace('_', '-')}", str(value))
    for tag in schedule.tags:
        yield from ("--tag", tag)
    if schedule.ping:
        yield from ("--ping", masked_url(schedule.ping))
