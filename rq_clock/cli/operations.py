"""Commands that operate on schedules: run, pause, resume, skip, and who did what.

They work on declared and run-time schedules alike, and with the clock down. What takes many names
is done for all of them or for none.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import (
    TIMED_OUT,
    complain,
    count_option,
    json_option,
    now,
    open_store,
    print_json,
    print_table,
    reason_option,
    schedules_of,
    sign,
)
from rq_clock.cli.completion import schedule_names
from rq_clock.cli.params import Duration, Zone, instant, shown
from rq_clock.timing.durations import duration_text

if TYPE_CHECKING:
    from rq_clock.cli.wait import Outcome
    from rq_clock.model.entry import Entry
    from rq_clock.store.store import Store

MISSED = click.Choice(["skip", "latest", "all"])
name_argument = click.argument("name", shell_complete=schedule_names)
names_argument = click.argument("names", nargs=-1, shell_complete=schedule_names)


# ---- run --------------------------------------------------------------------------------------


@click.command(short_help="Run a schedule now; wait for it, follow its output.")
@name_argument
@click.option("--force", is_flag=True, help="Also while its previous run goes on.")
@click.option("--wait", is_flag=True, help="Until it has ended for good.")
@click.option("--follow", is_flag=True, help="Print its output as it comes; waits, too.")
@click.option("--timeout", type=Duration(), help="Wait no longer than this.")
@reason_option
@json_option
def run(name: str, wait: bool, follow: bool, as_json: bool, **said: Any) -> None:
    """Run the schedule NAME now, also a paused one, and print its job's id.

    The schedule is not moved. With --wait: exit 0 when the run was ok, 1 when it failed, 6 when it
    has not ended within --timeout; it goes on then, as it does after Ctrl-C.
    """
    if as_json and follow:
        raise click.UsageError("--follow prints what the run prints, which is no JSON")
    timeout = said["timeout"]
    if timeout is not None and not (wait or follow):
        raise click.UsageError("--timeout goes with --wait or --follow")
    store = open_store()
    job_id = schedules_of(store).trigger(name, force=said["force"], reason=said["reason"])
    if not as_json:
        click.echo(job_id, err=follow)
    outcome = _waited(store, job_id, timeout, follow=follow) if wait or follow else None
    if as_json:
        print_json(_run_view(store, name, job_id, outcome))
    elif outcome:
        _tell(outcome, job_id)
    if outcome and outcome.state != "ok":
        sys.exit(1)


def _waited(store: Store, job_id: str, timeout: timedelta | None, *, follow: bool) -> Outcome:
    from rq_clock.cli.wait import Follower, wait_for_job

    follower = Follower(lambda: store.output(job_id))
    seconds = None if timeout is None else timeout.total_seconds()
    look = follower.look if follow else lambda: None
    outcome = wait_for_job(store, job_id, seconds, look, spinner=not follow)
    if outcome is None:
        complain(f"not ended within {seconds:g} s; it goes on: rq-clock logs -f {job_id}")
        sys.exit(TIMED_OUT)
    return outcome


def _run_view(store: Store, name: str, job_id: str, outcome: Outcome | None) -> dict[str, Any]:
    from rq_clock.model.ledger import Enqueued
    from rq_clock.schedules.serializers import run_view
    from rq_clock.timing.instants import from_ms

    if outcome and outcome.ended:
        return run_view(name, outcome.ended.entry, store.namespace, job_id)
    fire_time = from_ms(job_id.split("-")[-2])
    view = run_view(name, Enqueued(fire_time, "manual", None), store.namespace, job_id)
    return view | ({"state": outcome.state, "error": outcome.error or None} if outcome else {})


def _tell(outcome: Outcome, job_id: str) -> None:
    if outcome.state == "gone":
        complain(f"{job_id} is gone, and nothing says how it ended")
        return
    attempt = outcome.ended and getattr(outcome.ended.entry, "attempt", None)
    took = f" after {duration_text(attempt.ended - attempt.started)}" if attempt else ""
    tries = f", attempt {attempt.number}" if attempt and attempt.number > 1 else ""
    error = f": {outcome.error}" if outcome.error else ""
    click.echo(f"{outcome.state}{took}{tries}{error}", err=True)


# ---- pause, resume, skip ----------------------------------------------------------------------


@click.command(short_help="Enqueue nothing of schedules for a time.")
@names_argument
@click.option("--all", "everything", is_flag=True, help="All schedules, also those to come.")
@click.option("--for", "span", type=Duration(), help="So long, such as 2h.")
@click.option("--until", metavar="INSTANT", help="Until then, such as 'tomorrow 09:00'.")
@click.option("--tz", type=Zone(), default="UTC", show_default=True, help="Zone of --until.")
@click.option(
    "--missed", type=MISSED, default="skip", show_default=True,
    help="At the end, of the fire times that were missed: none, the latest, or all are run.",
)  # fmt: skip
@reason_option
def pause(names: tuple[str, ...], everything: bool, until: str | None, **said: Any) -> None:
    """Enqueue nothing of the schedules NAMES until they are resumed, or for a time.

    Their fire times are recorded as skipped; a one-off job waits. It survives deploys.
    """
    span, tz = said["span"], said["tz"]
    if span is not None and until is not None:
        raise click.UsageError("--for and --until say the same; give one of them")
    end = instant(until, "--until", now(), tz=tz) if until else None
    if span is not None:
        end = (now() + span + timedelta(seconds=1)).replace(microsecond=0)
    chosen = _chosen(names, everything)
    store = open_store()
    schedules_of(store).pause(chosen, reason=said["reason"], until=end, missed=said["missed"])
    how_long = f"until {shown(end, tz)}" if end else "until it is resumed"
    for name in names or ["all schedules"]:
        click.echo(f"{name}: {sign('paused')} {how_long}")


@click.command(short_help="Go on with paused schedules.")
@names_argument
@click.option("--all", "everything", is_flag=True, help="End the pause of all schedules.")
@click.option(
    "--missed", type=MISSED, help="Overrules what the pause said about missed fire times."
)
def resume(names: tuple[str, ...], everything: bool, missed: str | None) -> None:
    """Go on with the paused schedules NAMES, from now."""
    chosen = _chosen(names, everything)
    store = open_store()
    before, _ = store.load(names)
    whole = store.pauses(["*"])
    schedules_of(store).resume(chosen, missed=missed)
    after, _ = store.load(names)
    for name in names:
        _tell_resumed(name, before.get(name), after.get(name))
    if everything and not any(pause.at(now()) for pause in whole.values()):
        click.echo("all schedules: were not paused", err=True)
    elif everything:
        click.echo("all schedules: resumed")
    if everything:
        _tell_own_pauses(store)


def _chosen(names: tuple[str, ...], everything: bool) -> list[str]:
    if bool(names) == everything:
        raise click.UsageError("name the schedules, or give --all")
    return ["*"] if everything else list(names)


def _tell_resumed(name: str, before: Entry | None, after: Entry | None) -> None:
    t = now()
    if after and after.pause(t):
        complain(f"{name}: still paused, as all schedules are; `rq-clock resume --all` ends that")
    elif before and not before.pause(t):
        click.echo(f"{name}: was not paused", err=True)
    else:
        zone = after.tz if after else "UTC"
        fire = after.next_fire if after else None
        click.echo(f"{name}: resumed" + (f", next {shown(fire, zone)}" if fire else ""))


def _tell_own_pauses(store: Store) -> None:
    own = schedules_of(store).find(state="paused", most=10).entries
    if own:
        listed = ", ".join(sorted(entry.name for entry in own)[:10])
        complain(f"still paused by themselves: {listed}{', …' if len(own) > 10 else ''}")


@click.command(short_help="Skip the next fire times of a schedule.")
@name_argument
@click.option("-n", "--count", type=click.IntRange(1, 1000), help="How many; 1 if not said.")
@click.option("--undo", is_flag=True, help="Skip none any more.")
@reason_option
def skip(name: str, count: int | None, undo: bool, reason: str) -> None:
    """Skip the next fire time of the schedule NAME, or the next few. Said again, it holds instead
    of what was said before."""
    from rq_clock.schedules.upcoming import upcoming

    if undo and count is not None:
        raise click.UsageError("--undo takes all of it back; leave -n out")
    store = open_store()
    last = schedules_of(store).skip(name, 0 if undo else count or 1, reason=reason)
    entry = store.load([name])[0].get(name)
    if undo:
        click.echo(f"{name}: skips nothing any more")
    elif entry and entry.schedule:
        skipped = upcoming(entry, now(), count or 1, last)
        tz = entry.tz
        for fire in skipped[:10]:
            click.echo(f"{name}: skips {shown(fire.fire_time, tz)}")
        if len(skipped) > 10:
            click.echo(f"{name}: and {len(skipped) - 10} more, up to {shown(last, tz)}")


# ---- the audit --------------------------------------------------------------------------------


@click.command(short_help="Who changed what, when and why.")
@count_option
@json_option
def audit(count: int, as_json: bool) -> None:
    """Who changed what, when and why, newest first."""
    from rq_clock.schedules.serializers import audit_view

    rows = [audit_view(one) for one in schedules_of(open_store()).audit(count)]
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("nothing was changed by hand yet", err=True)
    else:
        head = ("AT (UTC)", "BY", "WHAT", "SCHEDULES", "REASON", "")
        print_table(head, [_audit_row(row) for row in rows])


def _audit_row(row: dict[str, Any]) -> tuple[str, ...]:
    names = ["all" if name == "*" else name for name in row["schedules"]]
    more = row["count"] - len(names)
    told = ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
    detail = " ".join(f"{key}={value}" for key, value in row["detail"].items())
    return row["at"], row["by"], row["verb"], told, row["reason"] or "-", detail
