"""Commands about runs: what became of fire times, and what they printed."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.base import (
    NOT_FOUND,
    complain,
    count_option,
    instant,
    iso,
    json_option,
    not_found,
    now,
    open_store,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from rq_clock.state import LedgerEntry
    from rq_clock.store import Store

STATES = ["ok", "failed", "timed_out", "stopped", "interrupted", "lost", "skipped", "waiting"]
_AGO = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.command()
@click.argument("name", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--since", metavar="INSTANT|AGE", help="ISO 8601, or an age such as 90m, 12h, 7d.")
@count_option
@json_option
def history(
    name: str | None, state: str | None, since: str | None, count: int, as_json: bool
) -> None:
    """What became of fire times, newest first: of the schedule NAME, or of all.

    One schedule's history has every fire time: enqueued, skipped with the reason, and how its
    latest attempt ended. That of all has every attempt that has ended.
    """
    oldest = _since(since) if since else None
    found = open_store()
    rows = _of_schedule(found, name) if name else _of_all(found, count if not state else 1000)
    rows = [
        row
        for row in rows
        if (state in (None, row["state"])) and (oldest is None or row["at"] >= oldest)
    ][:count]
    for row in rows:
        row.pop("at")
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("nothing has ended yet" if not name else f"nothing yet of {name}", err=True)
        return
    cells: list[tuple[str, ...]] = [
        (row["schedule"], row["fireTime"], row["state"], str(row["attempt"] or "-"), _took(row),
         row["error"] or row["reason"] or "")
        for row in rows
    ]  # fmt: skip
    print_table(("SCHEDULE", "FIRE TIME (UTC)", "STATE", "TRY", "TOOK", ""), cells)


@click.command()
@click.argument("run")
def logs(run: str) -> None:
    """What the RUN (a job's id, see `history --json`) has printed: the last 64 kB of a shell
    command's output, also while it runs, or a web call's answer. It is kept for
    RQ_CLOCK_OUTPUT_HOURS."""
    found = open_store()
    output = found.output(run)
    if output is None:
        complain(f"no output of run {run!r} in namespace {found.namespace!r}; only commands and "
                 "web calls leave some, and not for ever")  # fmt: skip
        sys.exit(NOT_FOUND)
    sys.stdout.flush()
    sys.stdout.buffer.write(output)
    sys.stdout.flush()


def _of_schedule(found: Store, name: str) -> list[dict[str, Any]]:
    entries = found.ledger(name)
    if not entries and name not in found.load([name])[0]:
        not_found(found, name)
    return [_row(name, entry, found.namespace) for entry in reversed(entries)]


def _of_all(found: Store, most: int) -> list[dict[str, Any]]:
    from rq_clock.executions import Executions

    executions = Executions(found.redis, found.namespace)
    ended = executions.ended(most)
    return [_row(e.schedule, e.entry, found.namespace) | {"job": e.job_id} for e in ended]


def _row(name: str, entry: LedgerEntry, namespace: str) -> dict[str, Any]:
    """An entry as the API has it; `at` is for the filter."""
    from rq_clock.schedule import Skip
    from rq_clock.state import Lost, to_ms

    row: dict[str, Any] = dict.fromkeys(
        ("schedule", "fireTime", "state", "reason", "count", "lagMs", "attempt", "started",
         "ended", "worker", "error", "job")
    )  # fmt: skip
    row["schedule"] = name
    if isinstance(entry, Skip):
        row |= {"state": "skipped", "reason": entry.reason, "count": entry.count}
        row |= {"fireTime": iso(entry.last), "at": entry.last}
        return row
    if isinstance(entry, Lost):
        row |= {"state": "lost", "error": "the job vanished", "job": entry.job_id}
        row |= {"fireTime": iso(entry.found), "at": entry.found}
        return row
    row |= {"fireTime": iso(entry.fire_time), "at": entry.fire_time, "reason": entry.reason}
    row |= {"state": "waiting", "job": f"{namespace}-{name}-{to_ms(entry.fire_time)}"}
    if entry.lag is not None:
        row["lagMs"] = entry.lag / timedelta(milliseconds=1)
    if entry.attempt:
        attempt = entry.attempt
        row |= {"state": attempt.state, "attempt": attempt.number, "worker": attempt.worker}
        row |= {"started": iso(attempt.started), "ended": iso(attempt.ended)}
        row |= {"error": attempt.error or None}
        row["tookMs"] = (attempt.ended - attempt.started) / timedelta(milliseconds=1)
    return row


def _took(row: dict[str, Any]) -> str:
    if row["state"] == "skipped":
        return f"{row['count']} times" if row["count"] > 1 else "-"
    return f"{row['tookMs'] / 1000:.3f} s" if "tookMs" in row else "-"


def _since(text: str) -> datetime:
    match = _AGO.fullmatch(text)
    if match:
        return now() - timedelta(**{_UNITS[match[2]]: int(match[1])})
    return instant(text, "--since")
