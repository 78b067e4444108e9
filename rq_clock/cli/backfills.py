"""Commands that run past fire times: backfills.

`backfill-cancel` is a separate command: it needs neither a schedule nor a span, and the shell can
complete the id.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import (
    NOT_FOUND,
    complain,
    confirm,
    count_option,
    echo,
    entry_of,
    interactive,
    json_option,
    limited,
    now,
    open_store,
    plural,
    print_json,
    print_rows,
    reason_option,
    schedules_of,
    sign,
    warn_without_leader,
    yes_option,
)
from rq_clock.cli.completion import backfill_ids, schedule_names
from rq_clock.cli.params import Zone, instant, shown
from rq_clock.cli.wait import wait_for_backfill
from rq_clock.errors import ScheduleError
from rq_clock.serializers.runs import BackfillView, backfill_preview_view, backfill_view
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.schedules.backfill import Preview
    from rq_clock.store.backfills import Backfill
    from rq_clock.store.store import Store

CONFIRM_LIMIT, LIMIT = 1000, 10_000
"""Maximum fire times of a backfill: in a script without --yes, and in general."""
LISTED = 10
"""Failed runs that `--wait` lists."""


@click.command()
@click.argument("name", shell_complete=schedule_names)
@click.option("--from", "start", metavar="INSTANT|AGE", required=True, help="Start of the span.")
@click.option("--to", "end", metavar="INSTANT|AGE", required=True, help="End of the span.")
@click.option("--tz", type=Zone(), help="Zone of times without one (default: the schedule's).")
@click.option("--dry-run", is_flag=True, help="Only show what it would enqueue.")
@click.option(
    "--at-once", type=click.IntRange(1), default=1, show_default=True, help="Concurrent runs."
)
@click.option("--again", is_flag=True, help="Include fire times that have run already.")
@click.option("--wait", is_flag=True, help="Wait until all runs have ended.")
@reason_option
@yes_option
@json_option
def backfill(name: str, start: str, end: str, tz: str | None, **options: Any) -> None:
    """Run past fire times of a schedule.

    The span from --from to --to includes both ends; the oldest fire time runs first. A date alone
    is the whole day. On a terminal the command shows what it would enqueue and asks. Scripts must
    pass --yes for more than 1,000 fire times. The limit is 10,000. The leading clock does the work.
    """
    store = open_store()
    schedules = schedules_of(store)
    zone = tz or entry_of(store, name).tz
    first = instant(start, "--from", now(), tz=zone, ages=True)
    last = instant(end, "--to", now(), tz=zone, ages=True, whole_day=True)
    found = schedules.preview_backfill(name, first, last, again=options["again"])
    if options["dry_run"] and options["as_json"]:
        return print_json(backfill_preview_view(name, found))
    if not options["as_json"]:
        _print_preview(name, found, zone, err=not options["dry_run"])
    if options["dry_run"] or not found.count:
        return print_json(None) if options["as_json"] else None
    _confirm(name, found, yes=options["yes"])
    made = schedules.backfill(
        name, found.start, found.end, at_once=options["at_once"], again=options["again"],
        limit=found.count, reason=options["reason"],
    )  # fmt: skip
    warn_without_leader(store, "it begins")
    if not options["as_json"]:
        echo(made.id)
    if options["wait"]:
        return _wait_for(store, made, as_json=options["as_json"])
    if options["as_json"]:
        print_json(backfill_view(made))
    return None


def _confirm(name: str, found: Preview, *, yes: bool) -> None:
    """Ask, or refuse too many fire times."""
    if found.count >= LIMIT:
        raise ScheduleError(
            f"{name}: expected fewer than {LIMIT:,} fire times, got {found.count_text}; "
            "divide the span"
        )
    if found.count > CONFIRM_LIMIT and not (yes or interactive()):
        raise ScheduleError(
            f"{name}: scripts must pass --yes for more than {CONFIRM_LIMIT:,} fire times, got "
            f"{found.count_text}; pass it, or shorten the span"
        )
    confirm(f"Enqueue {plural(found.count, 'run')} of {name}?", yes=yes)


def _print_preview(name: str, found: Preview, tz: str, *, err: bool) -> None:
    left_out = len(found.left_out)
    ran = f"; {left_out:,} ran already (--again includes them)" if left_out else ""
    if not found.count or found.first is None or found.last is None:
        span = f"{shown(found.start, tz)} to {shown(found.end, tz)}"
        echo(f"{name}: nothing to run from {span}{ran}", err=err)
        return
    echo(f"{name}: {found.count_text} run{'s' * (found.count != 1)}{ran}", err=err)
    echo(f"  from {shown(found.first, tz)}\n  to   {shown(found.last, tz)}", err=err)


def _wait_for(store: Store, made: Backfill, *, as_json: bool) -> None:
    found, failed = wait_for_backfill(store, made)
    if as_json and found:
        print_json(backfill_view(found))
    lines = [f"{job_id} failed: {error}" for job_id, error in failed.items()]
    for line in limited(lines, LISTED, f" failed; `rq-clock history {made.schedule}`"):
        complain(line)
    if found is None or found.state != "done":
        complain(f"{made.id} was {found.state if found else 'forgotten'} before it had ended")
    elif not failed:
        echo(f"{plural(found.enqueued, 'run')} ended", err=True)
    if failed or found is None or found.state != "done":
        sys.exit(1)


@click.command()
@count_option
@json_option
def backfills(count: int, as_json: bool) -> None:
    """List the newest backfills.

    Ended backfills are kept for 30 days.
    """
    views = [backfill_view(backfill) for backfill in schedules_of(open_store()).backfills(count)]
    print_rows(views, BACKFILLS, backfill_cells, empty="no backfills", as_json=as_json)


BACKFILLS = ("BACKFILL", "FROM (UTC)", "TO (UTC)", "ENQUEUED", "AT ONCE", "STATE", "BY", "")


def backfill_cells(b: BackfillView) -> tuple[str, ...]:
    """Return a backfill as a row of a table."""
    span, enqueued = (iso(b.start), iso(b.end)), f"{b.enqueued:,} of {b.total:,}"
    return (b.id, *span, enqueued, str(b.at_once), sign(b.state), b.by, b.reason)


@click.command("backfill-cancel")
@click.argument("id", shell_complete=backfill_ids)
@reason_option
def backfill_cancel(id: str, reason: str) -> None:
    """Cancel a backfill.

    It enqueues nothing more. Jobs that it has enqueued still run.
    """
    from rq_clock.store.backfills import Backfills

    store = open_store()
    if Backfills(store).get(id) is None:
        complain(f"no backfill {id!r}; `rq-clock backfills` shows them")
        sys.exit(NOT_FOUND)
    schedules_of(store).cancel_backfill(id, reason=reason)
    echo(f"{id}: {sign('canceled')}")
