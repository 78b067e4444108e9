"""The `rq-clock` command.

Data goes to standard output, talk to standard error. Every command that reads has `--json`: one
document, camelCase, the objects that an API would give. Exit codes:

    0 done   1 failed   2 usage   3 no such schedule   4 Redis cannot be used   5 a check says no
    130 interrupted

What a command needs is imported inside it, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from rq_clock.errors import RqClockError, ScheduleError, StoreUnavailable
from rq_clock.version import __version__

if TYPE_CHECKING:
    from rq_clock.state import Entry
    from rq_clock.store import Store
    from rq_clock.triggers import Trigger

NOT_FOUND, UNREACHABLE, CHECK_FAILED = 3, 4, 5


class _Group(click.Group):
    """Turns the project's errors into a line each and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        elif os.environ.get("FORCE_COLOR"):
            ctx.color = True
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            _complain(str(error))
            ctx.exit(UNREACHABLE)
        except RqClockError as error:
            _complain(str(error))
            ctx.exit(1)


def _complain(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"rq-clock: {line}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rq-clock")
def main() -> None:
    """Schedules for RQ that survive restarts.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no such schedule, 4 Redis cannot be used,
    5 a check says no.
    """


_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
_count_option = click.option(
    "-n", "--count", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many."
)


@main.command()
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
        click.echo(f"{_plural(len(faults), 'fault')} in {settings.app}", err=True)
        sys.exit(1)
    click.echo(f"{_plural(len(clock.schedules), 'schedule')} in {settings.app}, all good")


@main.command()
@click.argument("expression")
@click.option("--tz", default="UTC", show_default=True, help="Zone of the clock on the wall.")
@click.option("--from", "start", metavar="INSTANT", help="Start here (ISO 8601) instead of now.")
@_count_option
@_json_option
def explain(expression: str, tz: str, start: str | None, count: int, as_json: bool) -> None:
    """Say in words when a cron EXPRESSION fires, and when next.

    What a change of the clocks does to a fire time is noted beside it.
    """
    from rq_clock.triggers import cron

    trigger = cron(expression, tz)
    faults = trigger.faults()
    if faults:
        raise ScheduleError("\n".join(faults))
    after = _instant(start) if start else datetime.now(UTC)
    _explain(trigger, after, count, as_json=as_json)


def _explain(trigger: Trigger, after: datetime, count: int, *, as_json: bool) -> None:
    from rq_clock.explain import dst_remarks, fires, words

    found, remarks = fires(trigger, after, count), dst_remarks(trigger, after)
    if as_json:
        rows = [_fire(f.fire_time, f.local, f.notes) for f in found]
        _print_json(
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


@main.command("next")
@click.argument("name", required=False)
@_count_option
@_json_option
def next_(name: str | None, count: int, as_json: bool) -> None:
    """The next fire times: of one schedule, or of all, soonest first."""
    from rq_clock.explain import fires

    store = _store()
    names = [name] if name else [n for n, _ in store.soonest(count)]
    entries, _ = store.load(names)
    if name and name not in entries:
        _not_found(store, name)
    found = []
    for entry in entries.values():
        if entry.schedule and not entry.paused:
            offset = entry.schedule.offset
            upcoming = fires(entry.schedule.trigger, _now() - offset, count)
            found += [
                (f.fire_time + offset, f.local + offset, entry.name, f.notes) for f in upcoming
            ]
    found = sorted(found, key=lambda row: (row[0], row[2]))[:count]
    if as_json:
        _print_json([{"name": n, **_fire(t, local, notes)} for t, local, n, notes in found])
        return
    width = max((len(row[2]) for row in found), default=0)
    for fire_time, local, schedule, notes in found:
        click.echo(f"{schedule:<{width}}  {_fire_line(local, fire_time, notes)}")


@main.command("list")
@_json_option
def list_(as_json: bool) -> None:
    """All schedules that run, declared and run-time, with their next fire time."""
    store = _store()
    rows = [_describe(entry, fire, _now()) for entry, fire in store.everything()]
    if as_json:
        _print_json(rows)
        return
    if not rows:
        click.echo("no schedules; start the clock (`python clock.py`) to declare them", err=True)
        return
    cells: list[tuple[str, ...]] = [
        tuple(r[key] or "-" for key in ("name", "words", "runs", "nextFireTime", "state", "queue"))
        for r in rows
    ]
    _print_table(("SCHEDULE", "WHEN", "RUNS", "NEXT (UTC)", "STATE", "QUEUE"), cells)


@main.command()
@_json_option
def status(as_json: bool) -> None:
    """Whether the clock works: who leads, how late it is. Exit 5 when something is wrong."""
    store = _store()
    report = _health(store, _now())
    if as_json:
        _print_json(report)
    else:
        leader = report["leader"]
        if leader:
            lag = leader["lag"]
            click.echo(
                f"leader     {leader['instance']} since {leader['since']} (token {leader['token']})"
            )
            click.echo(f"last tick  {leader['lastTick'] or '-'}")
            if lag:
                click.echo(
                    f"lag (ms)   p50 {lag['p50Ms']:g}, p99 {lag['p99Ms']:g}, max {lag['maxMs']:g}"
                )
        click.echo(f"schedules  {report['schedules']}")
        for row in report["late"]:
            click.echo(
                f"late       {row['name']} by {row['lateSeconds']:.0f} s (due {row['fireTime']})"
            )
        for problem in report["problems"]:
            click.echo(click.style("problem", fg="red") + f"    {problem}")
        if report["healthy"]:
            click.echo(click.style("healthy", fg="green"))
    if not report["healthy"]:
        sys.exit(CHECK_FAILED)


@main.command()
@click.option("--data", default=".data", show_default=True, help="Where the server keeps its data.")
def redis(data: str) -> None:
    """Run an embedded Valkey for development, at REDIS_URL or on port 6399."""
    from pathlib import Path

    from rq_clock.embedded import serve
    from rq_clock.settings import DEVELOPMENT_REDIS, Settings

    sys.exit(serve(Settings.from_env().redis_url or DEVELOPMENT_REDIS, Path(data)))


# ---- what the commands share ------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


def _store() -> Store:
    """The namespace's state, after making sure that Redis answers. Raises StoreUnavailable."""
    from redis.exceptions import RedisError

    from rq_clock.connection import connect, diagnose
    from rq_clock.settings import Settings
    from rq_clock.store import Store

    settings = Settings.from_env()
    store = Store(connect(settings=settings), settings.namespace, history=settings.history)
    try:
        for warning in store.check_server():
            click.echo(f"warning: {warning}", err=True)
    except RedisError as error:
        raise StoreUnavailable(diagnose(error, settings.redis_url)) from None
    return store


def _not_found(store: Store, name: str) -> None:
    from difflib import get_close_matches

    near = get_close_matches(name, store.all_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `rq-clock list` shows them all"
    _complain(f"no schedule {name!r} in namespace {store.namespace!r}{hint}")
    sys.exit(NOT_FOUND)


def _health(store: Store, now: datetime) -> dict[str, Any]:
    leader = store.leader()
    late = store.late(now)
    problems = []
    if not leader:
        problems.append("no clock leads; start one (`heroku ps:scale clock=1`, `python clock.py`)")
    if late:
        problems.append(f"{_plural(len(late), 'schedule')} late")
    return {
        "healthy": not problems,
        "problems": problems,
        "namespace": store.namespace,
        "leader": _leader(leader) if leader else None,
        "schedules": store.size(),
        "late": [
            {"name": n, "fireTime": _iso(t), "lateSeconds": (now - t).total_seconds()}
            for n, t in late
        ],
    }


def _leader(facts: dict[str, str]) -> dict[str, Any]:
    from rq_clock.state import from_ms

    tick = facts.get("tick")
    lag = {
        f"{k}Ms": float(facts[f"lag_{k}_ms"])
        for k in ("p50", "p99", "max")
        if f"lag_{k}_ms" in facts
    }
    return {
        "instance": facts["instance"],
        "owner": facts["owner"],
        "since": _iso(from_ms(facts["since"])),
        "token": int(facts["token"].partition(".")[0]),
        "lastTick": _iso(from_ms(tick)) if tick else None,
        "version": facts.get("version"),
        "enqueued": int(facts.get("enqueued", 0)),
        "lag": lag or None,
    }


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
        "nextFireTime": _iso(fire) if fire else None,
        "marker": _iso(entry.marker) if entry.marker else None,
        "knownSince": _iso(entry.known_since),
    }


def _instant(text: str) -> datetime:
    try:
        t = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"expected an instant such as 2026-03-29T00:00Z, got {text!r}", param_hint="--from"
        ) from None
    return t if t.tzinfo else t.replace(tzinfo=UTC)


def _iso(t: datetime) -> str:
    from rq_clock.logs import iso

    return iso(t)


def _fire(fire_time: datetime, local: datetime, notes: tuple[str, ...]) -> dict[str, Any]:
    return {"fireTime": _iso(fire_time), "local": local.isoformat(), "notes": list(notes)}


def _fire_line(local: datetime, fire_time: datetime, notes: tuple[str, ...]) -> str:
    zone = getattr(local.tzinfo, "key", None) or "UTC"
    line = f"{local:%a %Y-%m-%d %H:%M:%S} {zone}"
    if local.utcoffset():
        line += f"  ({_iso(fire_time)})"
    return line + "".join(f"\n    {note}" for note in notes)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
