"""The command that lists schedules: filtered, sorted, redrawn, or as a histogram of fire times."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rq_clock.cli.common import (
    echo,
    json_option,
    now,
    open_store,
    plural,
    print_json,
    print_rows,
    sign,
    table,
)
from rq_clock.cli.completion import queue_names
from rq_clock.cli.params import shown_jitter
from rq_clock.errors import StoreUnavailable
from rq_clock.model.verdict import STATES
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.schedules.listing import Row
    from rq_clock.serializers.schedules import ScheduleView
    from rq_clock.store.store import Store

REDRAW_SECONDS = 2.0
TAIL = 5
"""Newest ledger entries that are searched for the last run."""
HEAD = ("SCHEDULE", "STATE", "LAST", "NEXT (UTC)", "QUEUE", "WHEN", "RUNS", "")
SPANS = {
    "hour": (timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)),
    "day": (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)),
}
"""Spans of --density: the whole, a bucket, and the short time in which a herd fires."""


class States(click.ParamType):  # type: ignore[type-arg]  # not generic in older ones
    """States of schedules, separated by commas."""

    name = "state,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        states = tuple(value.split(","))
        if wrong := [state for state in states if state not in STATES]:
            self.fail(f"expected some of {','.join(STATES)}, got {wrong[0]!r}")
        return states

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Any:

        return [CompletionItem(state) for state in STATES if state.startswith(incomplete)]


@click.command("list")
@click.option("--state", type=States(), help="Show only these states, such as failing,late.")
@click.option("--queue", shell_complete=queue_names, help="Show only this queue.")
@click.option("--tag", help="Show only this tag.")
@click.option(
    "--origin",
    type=click.Choice(["declared", "run-time"]),
    help="Show only declared or only run-time schedules.",
)
@click.option("--text", help="Show only names and targets that contain this.")
@click.option(
    "--sort", type=click.Choice(["name", "next", "state"]), default="name", show_default=True,
    help="Order; by state is worst first.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Redraw every 2 s until Ctrl-C.")
@click.option(
    "--density", is_flag=False, flag_value="hour", type=click.Choice(list(SPANS)),
    help="Show the fire times per minute of the next hour, or per hour of the next day, instead.",
)  # fmt: skip
@json_option
def list_(watch: bool, density: str | None, as_json: bool, **options: Any) -> None:
    """List schedules with their states and next fire times.

    The column after the state is the last result.

    States, worst first: invalid, late, stuck, failing, paused, running, ended, scheduled.
    """
    if watch and (as_json or density or not sys.stdout.isatty()):
        raise click.UsageError("--watch needs a terminal, and neither --json nor --density")
    store = open_store()
    if watch:
        _watch(store, options)
    elif density:
        _density(_found(store, **options), density, as_json=as_json)
    else:
        views = _views(store, options)
        empty = "no matching schedules"
        if not views and not store.size():
            empty = "no schedules; start the clock (`python clock.py`) to declare them"
        print_rows(views, HEAD, _cells, empty=empty, as_json=as_json)


def _views(store: Store, options: dict[str, Any]) -> list[ScheduleView]:
    from rq_clock.serializers.schedules import schedule_view

    return [schedule_view(row, now(), store.namespace) for row in _found(store, **options)]


def _found(
    store: Store, *, state: tuple[str, ...] | None, sort: str, **conditions: Any
) -> list[Row]:
    from rq_clock.model.filters import Filter
    from rq_clock.schedules.listing import ScheduleList

    matching = Filter(states=state or (), **conditions)
    return list(ScheduleList(store).all_rows(matching, sort=sort, tail=TAIL))


def _cells(view: ScheduleView) -> tuple[str, ...]:
    fire = iso(view.next_fire_time) if view.next_fire_time else "-"
    if view.jitter_offset_ms and view.next_fire_time:
        fire += f" {shown_jitter(timedelta(milliseconds=view.jitter_offset_ms))}"
    return (
        view.name,
        sign(view.state),
        sign(view.last.state) if view.last else "-",
        fire,
        view.queue or "-",
        view.words or "-",
        view.runs or "-",
        _note(view),
    )


def _note(view: ScheduleView) -> str:
    """Return the reason of the state, in a few words."""
    if view.state == "invalid":
        return str(view.fault)
    if view.state == "failing" and view.last:
        return view.last.error or ""
    if view.state == "late" and view.next_fire_time:
        return f"by {duration_text(now() - view.next_fire_time)}"
    if pause := view.pause:
        until = f"until {iso(pause.until)} " if pause.until else ""
        held = f", holds {plural(view.held.count, 'fire time')}" if view.held else ""
        return f"{until}by {pause.by}{held}" + (f": {pause.reason}" if pause.reason else "")
    if skipping := view.skipping:
        return f"skips {skipping.count:,} until {iso(skipping.until)}"
    return ""


# ---- watching ---------------------------------------------------------------------------------


def _watch(store: Store, options: dict[str, Any]) -> None:
    """Redraw until Ctrl-C. While Redis is away, show why and try again."""
    from redis.exceptions import RedisError

    from rq_clock.settings import Settings
    from rq_clock.store.diagnosis import diagnose

    url = Settings.from_env().redis_url
    click.echo("\x1b[2J", nl=False, color=True)
    while True:
        try:
            views = _views(store, options)
            lines, summary = table(HEAD, map(_cells, views)), plural(len(views), "schedule")
        except (RedisError, StoreUnavailable) as error:
            lines = []
            summary = diagnose(error, url) if isinstance(error, RedisError) else str(error)
        columns, rows = shutil.get_terminal_size()
        head = f"{now():%Y-%m-%d %H:%M:%S} UTC  {summary}  every {REDRAW_SECONDS:g} s, Ctrl-C ends"
        shown = [head[:columns], "", *_cut(lines, columns, rows - 3)]
        click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J", nl=False)
        time.sleep(REDRAW_SECONDS)


def _cut(lines: list[str], columns: int, rows: int) -> Iterator[str]:
    """Yield the lines that fit the terminal, and the number of the others."""
    for line in lines[:rows]:
        yield _clipped(line, columns) if len(click.unstyle(line)) > columns else line
    if len(lines) > rows:
        yield f"… and {plural(len(lines) - rows, 'more line')}"


def _clipped(line: str, columns: int) -> str:
    """Return the start of a long line, with its colors."""
    clipped, room = "", columns - 1
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        piece = part if part.startswith("\x1b") else part[:room]
        room -= 0 if part.startswith("\x1b") else len(piece)
        clipped += piece
    return clipped + "…"


# ---- density ----------------------------------------------------------------------------------


def _density(rows: list[Row], name: str, *, as_json: bool) -> None:
    from rq_clock.schedules.upcoming import density

    found = density([row.entry for row in rows], now(), *SPANS[name])
    if as_json:
        return print_json(found)
    highest = max(bucket.fires for bucket in found.buckets)
    echo(f"fire times in each {'minute' if name == 'hour' else 'hour'} (UTC)")
    width = max(10, shutil.get_terminal_size().columns - 40)
    for bucket in found.buckets:
        length = max(1, round(bucket.fires / highest * width)) if bucket.fires else 0
        echo(f"{iso(bucket.start)}  {bucket.fires:>9,}  {'█' * length}".rstrip())
    if found.herds:
        unit = "second" if name == "hour" else "minute"
        echo(f"herds in one {unit} (`jitter` spreads them)")
    for herd in found.herds:
        echo(f"{iso(herd.start)}  {herd.fires:>9,}")
    return None
