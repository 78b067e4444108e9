"""Commands that define schedules at run time: add, update, remove.

Options become an entry of a manifest, and the manifest's reader checks it. Schedules that are
declared in code are refused: their code would undo the change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import (
    confirm,
    echo,
    entry_of,
    json_option,
    now,
    open_store,
    plural,
    print_json,
    refuse_unknown,
    row_of,
    schedules_of,
    warn_without_leader,
    yes_option,
)
from rq_clock.cli.completion import queue_names, schedule_names
from rq_clock.cli.params import Zone, instant, shown, shown_jitter
from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.manifest.definition import item, patched, put
from rq_clock.manifest.fields import count, interval, json_value, retries, seconds
from rq_clock.model.schedule import Schedule
from rq_clock.serializers.schedules import schedule_detail_view
from rq_clock.settings import Settings
from rq_clock.timing.describe import words
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.store.store import Store

NONE = "none"
_TIME = re.compile(r"\d\d?:\d\d")
REMOVE: Any = object()
"""The value of an option that is set to "none"."""


class Value(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """A text that `read` converts; "none" removes the option."""

    def __init__(self, name: str, read: Callable[[str], Any] = str) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return REMOVE if value == NONE else self._read(value)
        except ScheduleError as error:
            self.fail(str(error), param, ctx)


_SECONDS, _JSON = Value("duration", seconds), Value("json", json_value)
_WHEN = (
    click.option(
        "--cron", metavar="EXPRESSION", help="Fire when the clock matches this expression."
    ),
    click.option(
        "--every", type=Value("duration", interval),
        help="Fire at this interval, counted from --anchor.",
    ),
    click.option(
        "--at", type=Value("instant|time"),
        help="Fire once; then the schedule is removed. With --every: at this local time, 09:00.",
    ),
    click.option(
        "--on", type=Value("weekdays"), help="Weekdays of an --every of weeks with --at: mon,thu."
    ),
    click.option(
        "--anchor", type=Value("instant|date"),
        help="Instant or date from which --every counts (default: --start, else 1970-01-01).",
    ),
    click.option("--tz", type=Zone(), help="Zone of the times (default: UTC)."),
    click.option("--start", type=Value("instant|date"), help="Do not fire before this."),
    click.option("--end", type=Value("instant|date"), help="Do not fire after this."),
    click.option(
        "--max-runs", type=Value("number", count),
        help="End after this many fire times from --start on, skipped ones included.",
    ),
)  # fmt: skip
_WHAT = (
    click.option("--func", metavar="MODULE.FUNCTION", help="Python function to run."),
    click.option(
        "--arg", "args", type=_JSON, multiple=True, help="Positional argument; repeatable."
    ),
    click.option(
        "--kwarg", "kwargs", metavar="NAME=JSON", multiple=True,
        help="Keyword argument; repeatable.",
    ),
    click.option("--command", metavar="TEXT", help="Shell command to run."),
    click.option("--dyno", metavar="TEXT", help="Shell command to run in a one-off dyno."),
    click.option("--size", type=Value("word"), help="Size of the dyno, such as standard-2x."),
    click.option("--cwd", type=Value("path"), help="Working directory of the command."),
    click.option(
        "--env", metavar="NAME=TEXT", multiple=True,
        help="Environment variable of the command or dyno; repeatable.",
    ),
    click.option("--url", metavar="URL", help="URL to call."),
    click.option(
        "--method", type=Value("word", str.upper), help="HTTP method of the call (default: POST)."
    ),
    click.option(
        "--header", "headers", metavar="NAME:TEXT", multiple=True,
        help="Header of the call; repeatable.",
    ),
    click.option(
        "--body", type=Value("json", lambda text: (json_value(text),)),
        help="JSON body of the call.",
    ),
)  # fmt: skip
_HOW = (
    click.option(
        "--queue", metavar="NAME", shell_complete=queue_names, help="RQ queue (default: default)."
    ),
    click.option("--timeout", type=_SECONDS, help="Maximum run time, such as 10m; -1 for none."),
    click.option(
        "--retries", type=Value("number|duration,…", retries),
        help="Retries of a failed run: 3, or delays 10s,1m.",
    ),
    click.option("--result-ttl", type=_SECONDS, help="Time that RQ keeps a result."),
    click.option("--failure-ttl", type=_SECONDS, help="Time that RQ keeps a failed job."),
    click.option(
        "--catch-up", type=click.Choice(["latest", "all", "none"]),
        help="Fire times to run that passed while no clock ran (default: latest).",
    ),
    click.option(
        "--catch-up-window", type=_SECONDS, help="Maximum age of a fire time to catch up."
    ),
    click.option(
        "--catch-up-limit", type=Value("number", count),
        help="Maximum number to catch up, with --catch-up all.",
    ),
    click.option(
        "--overlap", type=click.Choice(["skip", "allow"]),
        help="If the previous run is still going: skip the fire time, or allow it (default: skip).",
    ),
    click.option("--group", type=Value("name"), help="Group whose runs take turns, in order."),
    click.option(
        "--group-limit", type=click.IntRange(1),
        help="Concurrent runs allowed in the group (default: 1).",
    ),
    click.option(
        "--jitter", type=_SECONDS,
        help="Delay every fire time by a fixed part of this, derived from the name.",
    ),
    click.option(
        "--tag", "tags", type=Value("word"), multiple=True, help="Label to filter by; repeatable."
    ),
    click.option("--ping", type=Value("url"), help="URL to call when a run starts and ends."),
)  # fmt: skip
_PATHS = {
    "at": "once", "command": "command.shell", "cwd": "command.cwd", "dyno": "dyno.shell",
    "size": "dyno.size", "url": "webhook.url",
    "method": "webhook.method", "result_ttl": "resultTtl", "failure_ttl": "failureTtl",
    "catch_up": "catchUp", "catch_up_window": "catchUpWindow", "catch_up_limit": "catchUpLimit",
    "group_limit": "groupLimit", "max_runs": "maxRuns",
}  # fmt: skip
"""The path in a manifest of the options whose path differs from their name."""
_PARTS = {
    "cwd": ("command",), "size": ("dyno",), "env": ("command", "dyno"), "method": ("url",),
    "headers": ("url",), "body": ("url",),
}  # fmt: skip
"""The options that only some targets have, and the options of those targets."""


_TARGETS = ("func", "command", "dyno", "url")


def _definition(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that define a schedule."""
    for option in reversed((*_WHEN, *_WHAT, *_HOW)):
        command = option(command)
    return command


@click.command()
@click.argument("name")
@_definition
@click.option("--replace", is_flag=True, help="Replace an existing schedule; its history stays.")
@json_option
def add(name: str, replace: bool, as_json: bool, **options: Any) -> None:
    """Add a schedule.

    --cron, --every or --at sets the time; --func, --command, --dyno or --url sets the target.
    Values of --arg, --kwarg and --body are JSON: 42, true, '"text"'. Leave secrets in the app's
    environment.
    """
    timed = options["cron"] or options["every"] or options["at"]
    if not timed or not _named(options, *_TARGETS):
        raise click.UsageError(
            "expected a time (--cron, --every or --at) and a target (--func, --command, "
            "--dyno or --url)"
        )
    schedule = item(name, _entry(options, None), None, masks=True).schedule
    store = open_store()
    try:
        schedules_of(store).add(name, **schedule.parts(), replace=replace)
    except Conflict as conflict:
        if conflict.kind is not ConflictKind.EXISTS:
            raise
        raise ScheduleError(
            f"{name}: exists already with another definition; `rq-clock update` it, or pass "
            "--replace"
        ) from None
    _show(store, name, "added", as_json=as_json, check=options["func"])


@click.command()
@click.argument("name", shell_complete=schedule_names)
@_definition
@click.option("--revision", help="Change only this revision, as `show` prints it.")
@json_option
def update(name: str, revision: str | None, as_json: bool, **options: Any) -> None:
    """Change a schedule.

    Only the options that you pass change. The word none removes an option: --jitter none.
    --kwarg k=1 sets one argument, and --kwarg k removes it; --env and --header work the same.
    --arg and --tag replace all arguments and tags.
    """
    if all(value in (None, ()) for value in options.values()):
        raise click.UsageError("expected an option to change; --help lists them")
    store = open_store()
    entry = entry_of(store, name)
    was = entry.schedule
    schedule = item(name, _entry(options, was), was, masks=True).schedule
    # The definition is based on this revision, so it must not replace another one.
    changes = schedule.parts()
    schedules_of(store).update(name, revision=revision or entry.revision, **changes)
    called = options["func"] or options["args"] or options["kwargs"]
    _show(store, name, "changed", as_json=as_json, check=called)


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
    subject = listed[0] if len(listed) == 1 else plural(len(listed), "schedule")
    confirm(f"Remove {subject}?", yes=yes)
    schedules_of(store).remove(listed)
    for name in listed:
        echo(f"{name}: removed")


def _show(store: Store, name: str, verb: str, *, as_json: bool, check: object) -> None:
    """Print the schedule after a change. With `check`, warn when its function, as far as the
    working directory has it, does not exist or does not take the arguments."""
    row = row_of(store, name)
    entry = row.entry if row else None
    if as_json:
        print_json(schedule_detail_view(row, now(), store.namespace) if row else None)
    elif entry is None or entry.schedule is None:  # a due `once` is gone already
        echo(f"{name}: {verb}")
    else:
        when = words(entry.schedule.trigger)
        echo(f"{name}: {verb}, revision {entry.revision}: {when}")
        if entry.next_fire:
            jitter = shown_jitter(entry.schedule.offset)
            echo(f"next {shown(entry.next_fire, entry.tz)}  {jitter}".rstrip())
    if entry and entry.schedule:
        for warning in entry.schedule.trigger.warnings():
            echo(f"warning: {name}: {warning}", err=True)
        if check:
            from rq_clock.loader import function_warnings

            for fault in function_warnings(entry.schedule, Settings.from_env().setup):
                echo(f"warning: {fault}", err=True)
    warn_without_leader(store, "it fires")


# ---- from options to a definition -------------------------------------------------------------


def _entry(options: Mapping[str, Any], was: Schedule | None) -> dict[str, Any]:
    """Return the entry of a manifest after the options changed the schedule `was`."""
    kind = _target_option(options, was)
    patch: dict[str, Any] = {}
    calendar = _is_calendar(options, was)
    for option, value in options.items():
        if value in (None, ()) or option in ("kwargs", "env", "headers", "body"):
            continue
        path = "at" if option == "at" and calendar else _PATHS.get(option, option)
        if option == "timeout" and kind == "url" and value is not REMOVE and value > 0:
            path = "webhook.timeout"  # the timeout of its job follows it
        part, _, key = path.rpartition(".")
        (patch.setdefault(part, {}) if part else patch)[key] = _plain(option, value, options, was)
    if "once" in patch:
        patch.pop("tz", None)
    if options["at"] is REMOVE:  # elapsed time has no zone
        patch |= {"tz": None, "on": None}
    entry = patched(was, patch)
    # A merge patch would merge these with the present value; they replace it.
    if options["kwargs"]:
        entry["kwargs"] = _pairs("--kwarg", options["kwargs"], "=", entry.get("kwargs", {}))
    if options["env"]:
        shell = entry[kind]
        shell["env"] = _pairs("--env", options["env"], "=", shell.get("env", {}))
    if options["headers"]:
        call = entry["webhook"]
        call["headers"] = _pairs("--header", options["headers"], ":", call.get("headers", {}))
    if options["body"] is not None:
        put(entry, "webhook.json", None if options["body"] is REMOVE else options["body"][0])
    return entry


def _plain(option: str, value: Any, options: Mapping[str, Any], was: Schedule | None) -> Any:
    """Return the value of an option in the form of a manifest."""
    if value is REMOVE or (isinstance(value, tuple) and REMOVE in value):
        return None
    if option in ("start", "end") or (option == "at" and not _is_calendar(options, was)):
        tz = options["tz"] or (was.trigger.tz if was else "UTC")
        return iso(instant(value, f"--{option}", now(), tz=tz, whole_day=option == "end"))
    return list(value) if isinstance(value, tuple) else value


def _is_calendar(options: Mapping[str, Any], was: Schedule | None) -> bool:
    """Return whether --at is the local time of an interval, and not an instant."""
    if options["every"] is not None:
        return True
    interval = was is not None and was.trigger.kind == "every" and not options["cron"]
    return interval and (
        options["at"] is REMOVE or _TIME.fullmatch(options["at"] or "") is not None
    )


def _target_option(options: Mapping[str, Any], was: Schedule | None) -> str:
    """Return the option of the schedule's future target. Raises UsageError for an option of another
    target."""
    [named] = _named(options, *_TARGETS) or [""]
    _named(options, "cron", "every" if options["every"] else "at")
    _named(options, "cron", "every")
    if not named and was and not isinstance(was.target, str):
        named = {"webhook": "url"}.get(was.target.kind, was.target.kind)
    for option, targets in _PARTS.items():
        if options[option] not in (None, ()) and named not in targets:
            listed = " or ".join(f"--{target}" for target in targets)
            raise click.UsageError(f"--{option.removesuffix('s')} goes with {listed}")
    zoned = was is not None and "tz" in was.trigger.spec()
    if options["tz"] and not (options["cron"] or options["at"] or zoned):
        raise click.UsageError("--tz goes with --cron or --at; an interval has no zone")
    return named


def _named(options: Mapping[str, Any], *names: str) -> list[str]:
    """Return the one of these options that is set, if any."""
    found = [name for name in names if options[name] is not None]
    if len(found) > 1:
        listed = ", ".join(f"--{name}" for name in found)
        raise click.UsageError(f"expected one of {listed}, got {len(found)} of them")
    return found


def _pairs(
    option: str, texts: tuple[str, ...], separator: str, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the pairs after these changes: NAME=VALUE sets one, NAME alone removes it, none
    removes all. The names of headers match in any case."""
    if texts == (NONE,):
        return {}
    found = dict(before)
    for text in texts:
        name, is_set, value = text.partition(separator)
        same = [n for n in found if n == name or (separator == ":" and n.lower() == name.lower())]
        if not is_set and not same:
            raise click.BadParameter(
                f"expected NAME{separator}VALUE, or the name of one that exists to remove it, "
                f"got {text!r}",
                param_hint=option,
            )
        for other in same:
            del found[other]
        if is_set:
            found[name] = value.strip() if separator == ":" else value
            if option == "--kwarg":
                try:
                    found[name] = json_value(value)
                except ScheduleError as error:
                    raise click.BadParameter(str(error), param_hint=option) from None
    return found
