"""Commands that operate on schedules: run, pause, resume, skip, audit.

They work on declared and run-time schedules alike, also while no clock runs. A command with several
names changes all of these schedules or none.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import (
    TIMED_OUT,
    complain,
    count_option,
    echo,
    json_option,
    limited,
    now,
    open_store,
    print_json,
    print_rows,
    reason_option,
    schedules_of,
    sign,
)
from rq_clock.cli.completion import schedule_names
from rq_clock.cli.params import Duration, Zone, instant, shown
from rq_clock.cli.wait import Follower, Outcome, wait_for_job
from rq_clock.model.entry import MISSED, Entry
from rq_clock.model.ledger import Enqueued
from rq_clock.schedules.upcoming import upcoming
from rq_clock.serializers.runs import RunView, run_view
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import from_ms, iso

if TYPE_CHECKING:
    from rq_clock.store.audit import AuditEntry
    from rq_clock.store.store import Store

AUDIT = ("AT (UTC)", "BY", "WHAT", "SCHEDULES", "REASON", "")
name_argument = click.argument("name", shell_complete=schedule_names)
names_argument = click.argument("names", nargs=-1, shell_complete=schedule_names)


# ---- run --------------------------------------------------------------------------------------


@click.command()
@name_argument
@click.option("--force", is_flag=True, help="Run even if the previous run is still going.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended, retries included.")
@click.option("--follow", is_flag=True, help="Wait, and print the output as it comes.")
@click.option("--timeout", type=Duration(), help="Maximum time to wait.")
@reason_option
@json_option
def run(name: str, wait: bool, follow: bool, as_json: bool, **options: Any) -> None:
    """Run a schedule now.

    It prints the job's id. Paused schedules run too, and the next fire time stays the same. With
    --wait it exits with 0 if the run succeeded, 1 if it failed, 6 if it is still going after
    --timeout. A run that is still going then, or after Ctrl-C, continues.
    """
    if as_json and follow:
        raise click.UsageError("expected one of --json and --follow, got both")
    timeout = options["timeout"]
    if timeout is not None and not (wait or follow):
        raise click.UsageError("--timeout goes with --wait or --follow")
    store = open_store()
    job_id = schedules_of(store).trigger(name, force=options["force"], reason=options["reason"])
    if not as_json:
        echo(job_id, err=follow)
    outcome = _waited(store, job_id, timeout, follow=follow) if wait or follow else None
    if as_json:
        print_json(_run_view(store, name, job_id, outcome))
    elif outcome:
        _print_outcome(outcome, job_id)
    if outcome and outcome.state != "ok":
        sys.exit(1)


def _waited(store: Store, job_id: str, timeout: timedelta | None, *, follow: bool) -> Outcome:
    follower = Follower(lambda: store.output(job_id))
    seconds = None if timeout is None else timeout.total_seconds()
    look = follower.look if follow else lambda: None
    outcome = wait_for_job(store, job_id, seconds, look, spinner=not follow)
    if outcome is None:
        complain(f"still going after {seconds:g} s; follow it: rq-clock logs -f {job_id}")
        sys.exit(TIMED_OUT)
    return outcome


def _run_view(store: Store, name: str, job_id: str, outcome: Outcome | None) -> RunView:
    if outcome and outcome.ended:
        return run_view(name, outcome.ended.entry, store.namespace, job_id)
    fire_time = from_ms(job_id.split("-")[-2])
    view = run_view(name, Enqueued(fire_time, "manual", None), store.namespace, job_id)
    return replace(view, state=outcome.state, error=outcome.error or None) if outcome else view


def _print_outcome(outcome: Outcome, job_id: str) -> None:
    if outcome.state == "gone":
        complain(f"{job_id} is gone; its outcome is unknown")
        return
    attempt = outcome.ended and getattr(outcome.ended.entry, "attempt", None)
    took = f" after {duration_text(attempt.ended - attempt.started)}" if attempt else ""
    tries = f", attempt {attempt.number}" if attempt and attempt.number > 1 else ""
    error = f": {outcome.error}" if outcome.error else ""
    echo(f"{outcome.state}{took}{tries}{error}", err=True)


# ---- pause, resume, skip ----------------------------------------------------------------------


@click.command()
@names_argument
@click.option("--all", "everything", is_flag=True, help="All schedules, future ones too.")
@click.option("--for", "span", type=Duration(), help="Duration of the pause, such as 2h.")
@click.option("--until", metavar="INSTANT", help="End of the pause, such as 'tomorrow 09:00'.")
@click.option("--tz", type=Zone(), default="UTC", show_default=True, help="Zone of --until.")
@click.option(
    "--missed", type=click.Choice(MISSED), default="skip", show_default=True,
    help="Missed fire times to run when the pause ends: none, the latest, or all.",
)  # fmt: skip
@reason_option
def pause(names: tuple[str, ...], everything: bool, until: str | None, **options: Any) -> None:
    """Pause schedules.

    Their fire times are recorded as skipped until you resume them, or until the pause ends. One-off
    jobs wait. A pause survives deploys.
    """
    span, tz = options["span"], options["tz"]
    if span is not None and until is not None:
        raise click.UsageError("expected one of --for and --until, got both")
    end = instant(until, "--until", now(), tz=tz) if until else None
    if span is not None:
        end = (now() + span + timedelta(seconds=1)).replace(microsecond=0)
    chosen = _chosen(names, everything)
    store = open_store()
    schedules_of(store).pause(chosen, reason=options["reason"], until=end, missed=options["missed"])
    how_long = f"until {shown(end, tz)}" if end else "until it is resumed"
    for name in names or ["all schedules"]:
        echo(f"{name}: {sign('paused')} {how_long}")


@click.command()
@names_argument
@click.option("--all", "everything", is_flag=True, help="End the pause of all schedules.")
@click.option(
    "--missed",
    type=click.Choice(MISSED),
    help="Missed fire times to run (default: the choice of `pause`).",
)
def resume(names: tuple[str, ...], everything: bool, missed: str | None) -> None:
    """Resume paused schedules."""
    chosen = _chosen(names, everything)
    store = open_store()
    before, _ = store.load(names)
    whole = store.pauses(["*"])
    schedules_of(store).resume(chosen, missed=missed)
    after, _ = store.load(names)
    for name in names:
        _print_resumed(name, before.get(name), after.get(name))
    if everything:
        paused = any(pause.at(now()) for pause in whole.values())
        echo(f"all schedules: {'resumed' if paused else 'were not paused'}", err=not paused)
        _print_own_pauses(store)


def _chosen(names: tuple[str, ...], everything: bool) -> list[str]:
    if bool(names) == everything:
        raise click.UsageError("expected names of schedules, or --all")
    return ["*"] if everything else list(names)


def _print_resumed(name: str, before: Entry | None, after: Entry | None) -> None:
    t = now()
    if after and after.pause(t):
        complain(f"{name}: all schedules are paused; `rq-clock resume --all` resumes them")
    elif before and not before.pause(t):
        echo(f"{name}: was not paused", err=True)
    else:
        zone = after.tz if after else "UTC"
        fire = after.next_fire if after else None
        echo(f"{name}: resumed" + (f", next {shown(fire, zone)}" if fire else ""))


def _print_own_pauses(store: Store) -> None:
    own = schedules_of(store).find(state="paused", limit=10).entries
    if own:
        listed = ", ".join(sorted(entry.name for entry in own)[:10])
        complain(f"still paused one by one: {listed}{', …' if len(own) > 10 else ''}")


@click.command()
@name_argument
@click.option(
    "-n", "--count", type=click.IntRange(1, 1000), help="Fire times to skip (default: 1)."
)
@click.option("--undo", is_flag=True, help="Remove the skip.")
@reason_option
def skip(name: str, count: int | None, undo: bool, reason: str) -> None:
    """Skip the next fire times of a schedule.

    A later `skip` replaces an earlier one.
    """
    if undo and count is not None:
        raise click.UsageError("--undo removes every skip; omit -n")
    store = open_store()
    last = schedules_of(store).skip(name, 0 if undo else count or 1, reason=reason)
    entry = store.load([name])[0].get(name)
    if undo:
        echo(f"{name}: skips nothing")
    elif entry and entry.schedule:
        skipped = upcoming(entry, now(), count or 1, last)
        lines = [f"skips {shown(fire.fire_time, entry.tz)}" for fire in skipped]
        for line in limited(lines, 10, f", up to {shown(last, entry.tz)}"):
            echo(f"{name}: {line}")


# ---- the audit --------------------------------------------------------------------------------


@click.command()
@count_option
@json_option
def audit(count: int, as_json: bool) -> None:
    """Show who changed what, when and why."""
    from rq_clock.serializers.clock import audit_view

    rows = [audit_view(entry) for entry in schedules_of(open_store()).audit(count)]
    print_rows(rows, AUDIT, _audit_cells, empty="no changes by hand yet", as_json=as_json)


def _audit_cells(entry: AuditEntry) -> tuple[str, ...]:
    names = ["all" if name == "*" else name for name in entry.schedules]
    more = entry.count - len(names)
    listed = ", ".join(names) + (f" and {more:,} more" if names and more > 0 else "")
    detail = " ".join(f"{key}={value}" for key, value in entry.detail.items())
    return iso(entry.at), entry.by, entry.verb, listed, entry.reason or "-", detail
