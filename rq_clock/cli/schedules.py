"""Commands that show schedules: explain, next, show."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.backfills import BACKFILLS, backfill_cells
from rq_clock.cli.common import (
    colored_sign,
    complain,
    count_option,
    echo,
    entry_of,
    json_option,
    not_found,
    now,
    open_store,
    plural,
    print_json,
    row_of,
    schedules_of,
    table,
)
from rq_clock.cli.completion import schedule_names
from rq_clock.cli.params import Zone, instant, shown, shown_jitter, shown_local
from rq_clock.cli.runs import HEAD, cells, rows_of
from rq_clock.manifest import definition
from rq_clock.manifest.fields import interval
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.view import shallow
from rq_clock.redaction import escaped, printable
from rq_clock.schedules.upcoming import upcoming
from rq_clock.serializers.runs import backfill_view
from rq_clock.serializers.schedules import (
    ScheduleView,
    SkippingView,
    explanation_view,
    fire_time_view,
    named_fire_time_view,
    schedule_detail_view,
)
from rq_clock.timing.describe import Fire, dst_remarks, fires, words
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.store.store import Store

LIMIT = 1000
"""Maximum fire times of --until."""


# ---- fire times ----------------------------------------------------------------------------------


@click.command()
@click.argument("expression", required=False)
@click.option("--every", metavar="DURATION", help="Explain this interval instead.")
@click.option("--at", metavar="TIME", help="Local time of an interval of days or weeks.")
@click.option("--on", metavar="WEEKDAYS", help="Weekdays of an interval of weeks.")
@click.option("--anchor", metavar="INSTANT|DATE", help="Where the interval counts from.")
@click.option("--tz", type=Zone(), help="Zone of the times (default: UTC).")
@click.option("--start", metavar="INSTANT|DATE", help="First instant.")
@click.option("--end", metavar="INSTANT|DATE", help="Last instant.")
@click.option("--max-runs", "maxRuns", type=int, help="Fire times from --start on.")
@click.option("--from", "begin", metavar="INSTANT", help="Start of the list (default: now).")
@count_option
@json_option
def explain(
    expression: str | None, begin: str | None, count: int, as_json: bool, **entry: Any
) -> None:
    """Explain when an expression or interval fires.

    It prints the trigger in words and the next fire times, with the effects of clock changes.
    """
    if not expression and not entry["every"]:
        raise click.UsageError("expected an EXPRESSION, or an interval (--every)")
    entry |= {"cron": expression, "every": interval(entry["every"]) if entry["every"] else None}
    trigger = definition.trigger({key: value for key, value in entry.items() if value is not None})
    after = instant(begin, "--from", now(), tz=trigger.tz) if begin else now()
    found = fires(trigger, after, count)
    if as_json:
        return print_json(explanation_view(trigger, after, found))
    echo(words(trigger))
    for warning in trigger.warnings():
        echo(f"warning: {warning}", err=True)
    for fire in found:
        echo(_fire_line(fire))
    if remarks := dst_remarks(trigger, after):
        echo("when clocks change within a year:")
    for remark in remarks:
        echo(f"    {remark}")
    return None


@click.command("next")
@click.argument("name", required=False, shell_complete=schedule_names)
@click.option("--from", "start", metavar="INSTANT", help="Start of the list (default: now).")
@click.option("--until", metavar="INSTANT", help="End of the list; shows up to 1,000.")
@click.option(
    "--tz", type=Zone(), help="Zone of times without one (default: the schedule's, else UTC)."
)
@click.option(
    "-n", "--count", type=click.IntRange(1, LIMIT), help="Fire times to show (default: 10)."
)
@json_option
def next_(name: str | None, start: str | None, until: str | None, **options: Any) -> None:
    """Show the next fire times of one or all schedules.

    The soonest comes first. Paused schedules appear only if you name them.
    """
    store, tz = open_store(), options["tz"]
    entry = entry_of(store, name) if name else None
    if tz is None:
        tz = entry.tz if entry else "UTC"
    after = instant(start, "--from", now(), tz=tz) if start else now()
    last = instant(until, "--until", now(), tz=tz, whole_day=True) if until else None
    if last is not None and last <= after:
        raise click.BadParameter(
            f"expected an instant after {shown(after, tz)}, got {shown(last, tz)}",
            param_hint="--until",
        )
    limit = options["count"] or (LIMIT if until else 10)
    entries = [entry] if entry else _soonest(store, limit, everything=start is not None)
    found = _merged(entries, after, limit, last)
    if options["as_json"]:
        print_json([named_fire_time_view(n, fire) for n, fire in found])
        return
    if entry and entry.fault:
        complain(f"{name}: {entry.fault}")
    width = max((len(n) for n, _ in found), default=0)
    for n, fire in found:
        echo(f"{n:<{width}}  {_fire_line(fire)}")
    if not found:
        echo("no upcoming fire times", err=True)


def _soonest(store: Store, limit: int, *, everything: bool) -> list[Entry]:
    """Return the schedules that fire first, without paused ones."""
    total = store.size()
    count = total if everything else limit
    while True:
        names = [name for name, _ in store.soonest(max(count, 1))]
        free = [e for e in store.load(names)[0].values() if e.schedule and not e.pause(now())]
        if len(free) >= limit or len(names) < count or count >= total:
            return free
        count *= 4


def _merged(
    entries: list[Entry], after: datetime, limit: int, last: datetime | None
) -> list[tuple[str, Fire]]:
    found = [(e.name, fire) for e in entries for fire in upcoming(e, after, limit, last)]
    return sorted(found, key=lambda pair: (pair[1].fire_time, pair[0]))[:limit]


def _fire_line(fire: Fire) -> str:
    line = shown_local(fire.local)
    if fire.offset:
        line += f"  {shown_jitter(fire.offset)}"
    reasons = {"paused": "paused: it will be skipped", "requested": "it will be skipped on request"}
    notes = [*fire.notes, *([reasons[fire.blocked_by]] if fire.blocked_by else [])]
    return line + "".join(f"\n    {note}" for note in notes)


# ---- one schedule ----------------------------------------------------------------------------


@click.command()
@click.argument("name", shell_complete=schedule_names)
@click.option(
    "-n", "--count", default=5, show_default=True, type=click.IntRange(1, 100),
    help="Upcoming fire times and past runs to show.",
)  # fmt: skip
@json_option
def show(name: str, count: int, as_json: bool) -> None:
    """Show everything about one schedule.

    Its trigger in words, upcoming fire times, past runs, pause, backfills and definition.
    """
    store = open_store()
    row = row_of(store, name) or not_found(store, name)
    runs = rows_of(store, name)
    view = schedule_detail_view(row, now(), store.namespace)
    fires = upcoming(row.entry, now(), count)
    newest = schedules_of(store).backfills(100)
    backfills = [backfill_view(b) for b in newest if b.schedule == name]
    if as_json:
        parts = {"next": [fire_time_view(fire) for fire in fires], "runs": runs[:count]}
        return print_json(shallow(view) | parts | {"backfills": backfills})
    _show_head(view)
    _section("next", [_fire_line(fire) for fire in fires])
    if runs:
        _section("runs", table(HEAD[1:], [cells(run)[1:] for run in runs[:count]]))
    if row.failing:
        echo(f"\n`rq-clock logs {name}` shows the traceback of the last run")
    if backfills:
        _section("backfills", table(BACKFILLS, map(backfill_cells, backfills[:count])))
    return None


def _show_head(view: ScheduleView) -> None:
    """Print the schedule itself: its fields with a value, named like their options."""
    echo("  ".join([escaped(view.name), *map(colored_sign, view.states)]), styled=True)
    echo(view.words or printable(view.fault or "", 400))
    if pause := view.pause:
        echo(_block("paused", pause))
    if held := view.held:
        echo(f"holds {plural(held.count, 'fire time')}: {iso(held.first)} to {iso(held.last)}")
    if skipping := view.skipping:
        echo(_block(f"skips the next {skipping.count}", skipping))
    echo()
    zone = view.zone or "UTC"
    options = {name: getattr(view, name) for name in _OPTIONS}
    facts = {
        "runs": view.runs,
        "cron": (view.trigger or {}).get("cron"),
        "origin": view.origin,
        "revision": view.revision,
        **{
            name.replace("_", "-"): value
            for name, value in options.items()
            if value not in (None, (), [], {}, 0)
        },
        "next": shown(view.next_fire_time, zone) if view.next_fire_time else None,
        "decided up to": shown(view.marker, zone) if view.marker else None,
        "known since": shown(view.known_since, zone),
    }
    if offset := view.jitter_offset_ms:
        facts["jitter"] = f"{view.jitter:g} s, +{offset / 1000:.1f} s for this schedule"
    if view.group is None:
        facts.pop("group-limit", None)
    width = max(len(key) for key, value in facts.items() if value is not None)
    for key, value in facts.items():
        if value is not None:
            echo(f"{key:<{width}}  {printable(_plain(value), 400)}")


_OPTIONS = (
    "command", "webhook", "args", "kwargs", "queue", "timeout", "retries", "result_ttl",
    "failure_ttl", "catch_up", "catch_up_window", "catch_up_limit", "overlap", "group",
    "group_limit", "jitter", "tags", "ping",
)  # fmt: skip


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _block(state: str, block: Pause | SkippingView) -> str:
    text = state + (f" until {iso(block.until)}" if block.until else " until it is resumed")
    text += f", by {block.by} since {iso(block.since)}"
    text += f": {block.reason}" if block.reason else ""
    missed = getattr(block, "missed", "skip")
    text += f" (missed fire times to run then: {missed})" if missed != "skip" else ""
    return printable(text, 400)


def _section(title: str, lines: list[str]) -> None:
    if lines:
        echo(f"\n{title}")
        for line in "\n".join(lines).splitlines():
            echo(f"  {line}", styled=True)
