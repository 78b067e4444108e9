"""Commands about schedules: what is declared, when it fires, what is stored."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.base import (
    count_option,
    instant,
    iso,
    json_option,
    not_found,
    now,
    open_store,
    plural,
    print_json,
    print_table,
)
from rq_clock.errors import ScheduleError

if TYPE_CHECKING:
    from rq_clock.state import Entry
    from rq_clock.triggers import Trigger


@click.command()
def check() -> None:
    """Check the declared schedules: for the release phase and CI.

    Every fault is listed; exit 1 when there is one. Targets are imported, as a worker would.
    """
    from rq_clock import app
    from rq_clock.settings import Settings

    settings = Settings.from_env()
    clock, faults = app.load(settings.app)
    for schedule in clock.schedules.values():
        faults += app.target_faults(schedule)
        for warning in schedule.trigger.warnings():
            click.echo(f"warning: {schedule.name}: {warning}", err=True)
    for fault in faults:
        click.echo(f"error: {fault}", err=True)
    if faults:
        click.echo(f"{plural(len(faults), 'fault')} in {settings.app}", err=True)
        sys.exit(1)
    click.echo(f"{plural(len(clock.schedules), 'schedule')} in {settings.app}, all good")


@click.command()
@click.argument("expression")
@click.option("--tz", default="UTC", show_default=True, help="Zone of the clock on the wall.")
@click.option("--from", "start", metavar="INSTANT", help="Start here (ISO 8601) instead of now.")
@count_option
@json_option
def explain(expression: str, tz: str, start: str | None, count: int, as_json: bool) -> None:
    """Say in words when a cron EXPRESSION fires, and when next.

    What a change of the clocks does to a fire time is noted beside it.
    """
    from rq_clock.triggers import cron

    trigger = cron(expression, tz)
    faults = trigger.faults()
    if faults:
        raise ScheduleError("\n".join(faults))
    after = instant(start) if start else datetime.now(UTC)
    _explain(trigger, after, count, as_json=as_json)


def _explain(trigger: Trigger, after: datetime, count: int, *, as_json: bool) -> None:
    from rq_clock.explain import dst_remarks, fires, words

    found, remarks = fires(trigger, after, count), dst_remarks(trigger, after)
    if as_json:
        rows = [_fire(f.fire_time, f.local, f.notes) for f in found]
        print_json(
            {
                "words": words(trigger),
                "warnings": trigger.warnings(),
                "next": rows,
                "clockChanges": remarks,
            }
        )
        return
    click.echo(words(trigger))
    for warning in trigger.warnings():
        click.echo(f"warning: {warning}", err=True)
    for fire in found:
        click.echo(_fire_line(fire.local, fire.fire_time, fire.notes))
    if remarks:
        click.echo("when clocks change within a year:")
    for remark in remarks:
        click.echo(f"    {remark}")


@click.command("next")
@click.argument("name", required=False)
@count_option
@json_option
def next_(name: str | None, count: int, as_json: bool) -> None:
    """The next fire times: of one schedule, or of all, soonest first."""
    from rq_clock.explain import fires

    store = open_store()
    names = [name] if name else [n for n, _ in store.soonest(count)]
    entries, _ = store.load(names)
    if name and name not in entries:
        not_found(store, name)
    found = []
    for entry in entries.values():
        if entry.schedule and not entry.paused:
            offset = entry.schedule.offset
            upcoming = fires(entry.schedule.trigger, now() - offset, count)
            found += [
                (f.fire_time + offset, f.local + offset, entry.name, f.notes) for f in upcoming
            ]
    found = sorted(found, key=lambda row: (row[0], row[2]))[:count]
    if as_json:
        print_json([{"name": n, **_fire(t, local, notes)} for t, local, n, notes in found])
        return
    width = max((len(row[2]) for row in found), default=0)
    for fire_time, local, schedule, notes in found:
        click.echo(f"{schedule:<{width}}  {_fire_line(local, fire_time, notes)}")


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All schedules that run, declared and run-time, with their next fire time."""
    store = open_store()
    rows = [_describe(entry, fire, now()) for entry, fire in store.everything()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no schedules; start the clock (`python clock.py`) to declare them", err=True)
        return
    cells: list[tuple[str, ...]] = [
        tuple(r[key] or "-" for key in ("name", "words", "runs", "nextFireTime", "state", "queue"))
        for r in rows
    ]
    print_table(("SCHEDULE", "WHEN", "RUNS", "NEXT (UTC)", "STATE", "QUEUE"), cells)


def _describe(entry: Entry, fire: datetime | None, now: datetime) -> dict[str, Any]:
    from rq_clock.explain import words
    from rq_clock.schedule import ON_TIME
    from rq_clock.targets import shown_target

    schedule = entry.schedule
    if schedule is None:
        state = "invalid"
    elif entry.paused:
        state = "paused"
    elif fire is None:
        state = "ended"
    else:
        state = "late" if now - fire > ON_TIME else "scheduled"
    return {
        "name": entry.name,
        "state": state,
        "origin": "declared" if entry.declared else "run-time",
        "words": words(schedule.trigger) if schedule else entry.fault,
        "trigger": schedule.trigger.spec() if schedule else None,
        **(shown_target(schedule.target) if schedule else {"func": None, "runs": None}),
        "queue": schedule.queue if schedule else None,
        "catchUp": schedule.catch_up if schedule else None,
        "overlap": schedule.overlap if schedule else None,
        "nextFireTime": iso(fire) if fire else None,
        "marker": iso(entry.marker) if entry.marker else None,
        "knownSince": iso(entry.known_since),
    }


def _fire(fire_time: datetime, local: datetime, notes: tuple[str, ...]) -> dict[str, Any]:
    return {"fireTime": iso(fire_time), "local": local.isoformat(), "notes": list(notes)}


def _fire_line(local: datetime, fire_time: datetime, notes: tuple[str, ...]) -> str:
    zone = getattr(local.tzinfo, "key", None) or "UTC"
    line = f"{local:%a %Y-%m-%d %H:%M:%S} {zone}"
    if local.utcoffset():
        line += f"  ({iso(fire_time)})"
    return line + "".join(f"\n    {note}" for note in notes)
