"""Commands that define schedules at run time: add, update, remove.

`update` changes what is named and nothing else; the word "none" takes an option away. Schedules
that are declared in code are refused: their code would undo it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from rq_clock.cli.common import (
    confirm,
    interactive,
    json_option,
    not_found,
    now,
    open_store,
    plural,
    print_json,
    refuse_unknown,
    schedules_of,
    tell_if_nobody_leads,
    yes_option,
)
from rq_clock.cli.completion import queue_names, schedule_names
from rq_clock.cli.params import Duration, Zone, instant, shown, shown_jitter
from rq_clock.errors import Conflict, ConflictKind, ScheduleError

if TYPE_CHECKING:
    from rq_clock.model.schedule import Schedule
    from rq_clock.model.targets import Target
    from rq_clock.store.store import Store
    from rq_clock.timing.triggers import Trigger

NONE = "none"


class Count(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """A whole number, or "none"."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, int) or value == NONE:
            return value
        if not value.removeprefix("-").isdigit():
            self.fail(f"expected a whole number, or none, got {value!r}")
        return int(value)


class Seconds(Duration):
    """A duration in whole seconds, -1 for no end, or "none"."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "-1":
            return -1
        span = super().convert(value, param, ctx)
        if isinstance(span, timedelta) and span % timedelta(seconds=1):
            self.fail(f"expected whole seconds, got {value!r}")
        return span


class Retries(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """How often, or the delays before each retry: 3, or 10s,1m,10m."""

    name = "number|duration,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.isdigit():
            return int(value)
        spans = [Duration().convert(part, param, ctx) for part in value.split(",")]
        return [int(span.total_seconds()) for span in spans]


_WHEN = (
    click.option(
        "--cron", metavar="EXPRESSION", help="Fire when the clock matches this expression."
    ),
    click.option("--every", type=Duration(), help="Fire at this interval, counted from the epoch."),
    click.option("--at", metavar="INSTANT", help="Fire once; then the schedule is removed."),
    click.option("--tz", type=Zone(), help="Zone of --cron and --at (default: UTC)."),
)
_WHAT = (
    click.option("--func", metavar="MODULE.FUNCTION", help="Python function to run."),
    click.option(
        "--arg", "args", metavar="JSON", multiple=True, help="Positional argument; repeatable."
    ),
    click.option(
        "--kwarg",
        "kwargs",
        metavar="NAME=JSON",
        multiple=True,
        help="Keyword argument; repeatable.",
    ),
    click.option("--command", metavar="TEXT", help="Shell command to run."),
    click.option("--cwd", metavar="PATH", help="Working directory of the command."),
    click.option(
        "--env",
        metavar="NAME=TEXT",
        multiple=True,
        help="Environment variable of the command; repeatable.",
    ),
    click.option("--url", metavar="URL", help="URL to call."),
    click.option("--method", metavar="WORD", help="HTTP method of the call (default: POST)."),
    click.option(
        "--header",
        "headers",
        metavar="NAME:TEXT",
        multiple=True,
        help="Header of the call; repeatable.",
    ),
    click.option("--body", metavar="JSON", help="JSON body of the call."),
)
_HOW = (
    click.option(
        "--queue", metavar="NAME", shell_complete=queue_names, help="RQ queue (default: default)."
    ),
    click.option(
        "--timeout", type=Seconds(none=True), help="Maximum run time, such as 10m; -1 for none."
    ),
    click.option("--retries", type=Retries(), help="Retries of a failed run: 3, or delays 10s,1m."),
    click.option("--result-ttl", type=Seconds(none=True), help="Time that RQ keeps a result."),
    click.option("--failure-ttl", type=Seconds(none=True), help="Time that RQ keeps a failed job."),
    click.option(
        "--catch-up",
        type=click.Choice(["latest", "all", "none"]),
        help="Fire times to run that passed while no clock ran (default: latest).",
    ),
    click.option(
        "--catch-up-window",
        type=Duration(none=True),
        help="Maximum age of a fire time to catch up.",
    ),
    click.option(
        "--catch-up-limit", type=Count(), help="Maximum number to catch up, with --catch-up all."
    ),
    click.option(
        "--overlap",
        type=click.Choice(["skip", "allow"]),
        help="If the previous run is still going: skip the fire time, or allow it (default: skip).",
    ),
    click.option("--group", metavar="NAME", help="Group whose runs take turns, in order."),
    click.option(
        "--group-limit",
        type=click.IntRange(1),
        help="Concurrent runs allowed in the group (default: 1).",
    ),
    click.option(
        "--jitter",
        type=Duration(none=True),
        help="Delay every fire time by a fixed part of this, derived from the name.",
    ),
    click.option(
        "--tag", "tags", metavar="WORD", multiple=True, help="Label to filter by; repeatable."
    ),
    click.option("--ping", metavar="URL", help="URL to call when a run starts and ends."),
)
_OPTIONS = (
    "queue", "timeout", "retries", "result_ttl", "failure_ttl", "catch_up", "catch_up_window",
    "catch_up_limit", "overlap", "group", "group_limit", "jitter", "ping",
)  # fmt: skip


def _definition(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that define a schedule."""
    for option in reversed((*_WHEN, *_WHAT, *_HOW)):
        command = option(command)
    return command


@click.command()
@click.argument("name")
@_definition
@click.option(
    "--replace", "again", is_flag=True, help="Replace an existing schedule; its history stays."
)
@json_option
def add(name: str, again: bool, as_json: bool, **said: Any) -> None:
    """Add a schedule.

    --cron, --every or --at is when it fires; --func, --command or --url is what it runs.
    Values of --arg, --kwarg and --body are JSON: 42, true, '"text"'. Leave secrets in the app's
    environment.
    """
    trigger, target, options = _trigger(said), _target(said), _options(said)
    if trigger is None or target is None:
        raise click.UsageError(
            "say when (--cron, --every or --at) and what (--func, --command or --url)"
        )
    target = _timed(target, options) or target
    store = open_store()
    try:
        schedules_of(store).add(name, trigger, target, replace=again, **options)
    except Conflict as conflict:
        if conflict.kind is not ConflictKind.EXISTS:
            raise
        raise ScheduleError(
            f"{name}: exists already with another definition; `rq-clock update` it, or give "
            "--replace"
        ) from None
    _tell_defined(store, name, "added", as_json=as_json)


@click.command()
@click.argument("name", shell_complete=schedule_names)
@_definition
@click.option("--revision", help="Change only this revision, as `show` prints it.")
@json_option
def update(name: str, revision: str | None, as_json: bool, **said: Any) -> None:
    """Change a schedule.

    Only the options that you pass change. The word none removes an option: --jitter none.
    --kwarg k=1 sets one argument, and --kwarg k removes it; --env and --header work the same.
    --arg and --tag replace all arguments and tags.
    """
    store = open_store()
    entry = store.load([name])[0].get(name) or not_found(store, name)
    trigger, target = _trigger(said, entry.schedule), _target(said, entry.schedule)
    changes = _options(said, entry.schedule)
    was = entry.schedule.target if entry.schedule else None
    target = _timed(target or was, changes) or target
    changes |= {"trigger": trigger} if trigger else {}
    changes |= {"target": target} if target else {}
    if not changes:
        raise click.UsageError("say what is to change; --help lists it")
    # Some of it is based on what was just read, so it holds for that revision only.
    schedules_of(store).update(name, revision=revision or entry.revision, **changes)
    _tell_defined(store, name, "changed", as_json=as_json)


@click.command()
@click.argument("names", nargs=-1, required=True, shell_complete=schedule_names)
@yes_option
def remove(names: tuple[str, ...], yes: bool) -> None:
    """Remove schedules.

    Only run-time schedules can be removed. If one of NAMES cannot be removed, none is. Enqueued
    jobs stay. The history stays readable for 30 days.
    """
    store = open_store()
    refuse_unknown(store, names)
    listed = list(dict.fromkeys(names))
    if not yes and interactive():
        what = listed[0] if len(listed) == 1 else plural(len(listed), "schedule")
        confirm(f"Remove {what}?")
    schedules_of(store).remove(listed)
    for name in listed:
        click.echo(f"{name}: removed")


def _tell_defined(store: Store, name: str, verb: str, *, as_json: bool) -> None:
    from rq_clock.schedules.serializers import schedule_view

    entry = store.load([name])[0].get(name)
    if as_json:
        print_json(schedule_view(entry, now()) if entry else None)
    elif entry is None or entry.schedule is None:  # a `once` that was due is gone already
        click.echo(f"{name}: {verb}")
    else:
        view = schedule_view(entry, now())
        click.echo(f"{name}: {verb}, revision {entry.revision}: {view['words']}")
        if entry.next_fire:
            jitter = shown_jitter(entry.schedule.offset)
            line = f"next {shown(entry.next_fire, entry.tz)}  {jitter}"
            click.echo(line.rstrip())
    if entry and entry.schedule:
        for warning in entry.schedule.trigger.warnings():
            click.echo(f"warning: {name}: {warning}", err=True)
    tell_if_nobody_leads(store, "it fires")


# ---- when -------------------------------------------------------------------------------------


def _trigger(said: dict[str, Any], was: Schedule | None = None) -> Trigger | None:
    """The rule of time that is named; None when none is. What of it is not, stays as it `was`."""
    from rq_clock.timing.triggers import Cron, Every, cron, every, once

    before = was.trigger if was else None
    _one_of(said, "cron", "every", "at")
    zone = said["tz"] or (before.tz if isinstance(before, Cron) else "UTC")
    if said["cron"] is not None:
        return cron(said["cron"], zone)
    if said["at"] is not None:
        return once(instant(said["at"], "--at", now(), tz=zone))
    if said["tz"] and isinstance(before, Cron):
        return cron(before.expression, zone)
    if said["tz"]:
        raise click.UsageError("--tz goes with --cron or --at; an interval has no zone")
    if said["every"] is None:
        return None
    found = every(seconds=said["every"].total_seconds())
    return replace(found, anchor=before.anchor) if isinstance(before, Every) else found


def _one_of(said: dict[str, Any], *names: str) -> None:
    given = [f"--{name}" for name in names if said[name] is not None]
    if len(given) > 1:
        raise click.UsageError(f"expected one of {', '.join(given)}, got {len(given)} of them")


# ---- what -------------------------------------------------------------------------------------


def _target(said: dict[str, Any], was: Schedule | None = None) -> Target | None:
    """What is named to run; None when nothing is. What of it is not, stays as it `was`."""
    from rq_clock.model.targets import Command, Webhook

    _one_of(said, "func", "command", "url")
    before = was.target if was else None
    of_command, of_url = (
        [f"--{name.rstrip('s')}" for name in names if said[name] not in (None, ())]
        for names in (("cwd", "env"), ("method", "headers", "body"))
    )
    if said["command"] is not None or (of_command and isinstance(before, Command)):
        return _command(said, before, of_url)
    if said["url"] is not None or (of_url and isinstance(before, Webhook)):
        return _webhook(said, before, of_command)
    if of_command or of_url:
        kind = "--command" if of_command else "--url"
        raise click.UsageError(f"{(of_command + of_url)[0]} goes with {kind}")
    return said["func"]  # type: ignore[no-any-return]


def _command(said: dict[str, Any], before: Target | None, foreign: list[str]) -> Target:
    from rq_clock.model.targets import Command, command

    if foreign:
        raise click.UsageError(f"{foreign[0]} goes with --url")
    found = before if isinstance(before, Command) else command("")
    if said["command"] is not None:
        found = replace(found, shell=said["command"])
    if said["cwd"] is not None:
        found = replace(found, cwd=None if said["cwd"] == NONE else said["cwd"])
    return replace(found, env=_pairs("--env", said["env"], "=", found.env))


def _webhook(said: dict[str, Any], before: Target | None, foreign: list[str]) -> Target:
    from rq_clock.model.targets import Webhook, webhook
    from rq_clock.redaction import is_secret

    if foreign:
        raise click.UsageError(f"{foreign[0]} goes with --command")
    found = before if isinstance(before, Webhook) else webhook("")
    headers = _pairs("--header", said["headers"], ":", found.headers)
    if said["url"] is not None:
        named = {text.partition(":")[0].lower() for text in said["headers"]}
        kept = [name for name in headers if is_secret(name) and name.lower() not in named]
        if kept and urlsplit(found.url).netloc != urlsplit(said["url"]).netloc:
            raise ScheduleError(
                f"the header {kept[0]!r} would go to another host now; give it again, or take it "
                f"away with --header {kept[0]}"
            )
        found = replace(found, url=said["url"])
    if said["method"] is not None:
        found = replace(found, method=said["method"].upper())
    if said["body"] is not None:
        body = None if said["body"] == NONE else _json("--body", said["body"])
        found = replace(found, json=body)
    return replace(found, headers=headers)


# ---- how --------------------------------------------------------------------------------------


def _options(said: dict[str, Any], was: Schedule | None = None) -> dict[str, Any]:
    """The options that are named, as `Schedules` takes them."""
    found = {name: said[name] for name in _OPTIONS if said[name] is not None}
    for name, value in found.items():
        if value == NONE and name not in ("catch_up", "queue"):
            found[name] = None
    if said["args"]:
        gone = said["args"] == (NONE,)
        found["args"] = [] if gone else [_json("--arg", text) for text in said["args"]]
    if said["tags"]:
        found["tags"] = [] if said["tags"] == (NONE,) else list(said["tags"])
    if said["kwargs"]:
        before = was.kwargs if was else {}
        read = partial(_json, "--kwarg")
        found["kwargs"] = _pairs("--kwarg", said["kwargs"], "=", before, read)
    return found


def _timed(target: Target | None, options: dict[str, Any]) -> Target | None:
    """A web call that may take as long as --timeout says: its own time is shorter than that of its
    job, which follows it. None when it stays as it is."""
    from rq_clock.model.targets import Webhook

    if isinstance(target, Webhook) and isinstance(options.get("timeout"), timedelta):
        return replace(target, timeout=options.pop("timeout").total_seconds())
    return None


def _pairs(
    option: str,
    given: tuple[str, ...],
    separator: str,
    before: Mapping[str, Any],
    read: Callable[[str], Any] = str,
) -> dict[str, Any]:
    """`before` with what is given: NAME=VALUE sets one, NAME alone takes it away, none all."""
    found = {} if given == (NONE,) else dict(before)
    for text in given if given != (NONE,) else ():
        name, given_one, value = text.partition(separator)
        same = [n for n in found if n == name or (separator == ":" and n.lower() == name.lower())]
        if not given_one and not same:
            raise click.BadParameter(
                f"expected NAME{separator}VALUE, or the name of one that is there to take it away, "
                f"got {text!r}",
                param_hint=option,
            )
        for one in same:
            del found[one]
        if given_one:
            found[name] = read(value.strip() if separator == ":" else value)
    return found


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(
            f"expected JSON ({error}); text stands in quotes, as '\"text\"'", param_hint=option
        ) from None
