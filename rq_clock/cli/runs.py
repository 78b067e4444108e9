"""Commands that show runs: their outcomes and their output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rq_clock.cli.common import (
    NOT_FOUND,
    complain,
    count_option,
    echo,
    json_option,
    not_found,
    now,
    open_store,
    print_rows,
    schedules_of,
)
from rq_clock.cli.completion import schedule_names
from rq_clock.cli.params import instant
from rq_clock.cli.wait import Follower, wait_for_job
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import RUN_STATES, Enqueued
from rq_clock.serializers.runs import RunView, run_view
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.store.store import Store

HEAD = ("SCHEDULE", "FIRE TIME (UTC)", "STATE", "TRY", "TOOK", "")


@click.command()
@click.argument("name", required=False, shell_complete=schedule_names)
@click.option("--state", type=click.Choice(RUN_STATES), help="Show only this state.")
@click.option(
    "--since",
    metavar="INSTANT|AGE",
    help="Show only runs since then: ISO 8601, or an age such as 12h.",
)
@count_option
@json_option
def history(
    name: str | None, state: str | None, since: str | None, count: int, as_json: bool
) -> None:
    """Show past runs and their outcomes.

    With NAME: every fire time of that schedule, newest first, enqueued or skipped, with the reason
    and the outcome of the latest attempt. Without: every attempt that has ended.
    """
    oldest = instant(since, "--since", now(), ages=True) if since else None
    found = open_store()
    rows = rows_of(found, name) if name else _rows_of_all(found, count if not state else 1000)
    rows = [
        row for row in rows
        if state in (None, row.state) and (oldest is None or row.fire_time >= oldest)
    ][:count]  # fmt: skip
    empty = f"no runs of {name} yet" if name else "no runs have ended yet"
    print_rows(rows, HEAD, cells, empty=empty, as_json=as_json)


@click.command()
@click.argument("run", metavar="RUN|NAME", shell_complete=schedule_names)
@click.option("-f", "--follow", is_flag=True, help="Print new output until the run has ended.")
def logs(run: str, follow: bool) -> None:
    """Print the output of a run, or its traceback.

    A failed run prints both.

    RUN is a job's id, as `history --json` prints it; NAME means the schedule's latest run. The
    output is the last 64 kB that the job printed or logged, also while it runs, or the response
    of a web call. It is kept for RQ_CLOCK_OUTPUT_HOURS.
    """
    found = open_store()
    job_id = _job(found, run)
    follower = Follower(lambda: found.output(job_id))
    printed = follower.look()
    if follow and wait_for_job(found, job_id, None, follower.look, spinner=False):
        printed = follower.look()
    if trace := _traceback(found, job_id):
        echo(trace)
    if not printed and not trace:
        complain(
            f"no output of run {job_id!r} in namespace {found.namespace!r}; it printed nothing, "
            "its worker was not rq-clock's, or its output has expired"
        )
        sys.exit(NOT_FOUND)


def _traceback(store: Store, job_id: str) -> str:
    """Return the newest traceback of a job; "" without one."""
    from rq_clock.jobs.queues import NoJob, Queues
    from rq_clock.redaction import printable
    from rq_clock.settings import environment, known_secrets

    try:
        lines = Queues(store, secrets=known_secrets(environment())).job(job_id).trace.splitlines()
    except NoJob:
        return ""
    return "\n".join(printable(line, 1000) for line in lines)


# ---- the latest run of a schedule -------------------------------------------------------------


def _job(store: Store, run: str) -> str:
    """Return the id of a job: `run` itself, or of the latest run of the schedule with that name. A
    text in the form of an id may be a job that has expired."""
    from rq.job import Job

    if store.output(run) is not None or Job.exists(run, connection=store.redis):
        return run
    entries = store.ledger(run)
    if not entries and run not in store.load([run])[0]:
        if run.startswith(f"{store.namespace}-"):
            return run
        not_found(store, run)
    job_id = _latest(store, run)
    if job_id is None:
        complain(f"{run}: no run with a known job")
        sys.exit(NOT_FOUND)
    return job_id


def _latest(store: Store, name: str) -> str | None:
    """Return the job of a schedule's latest run, if known. The ledger lacks the ids of manual runs;
    the audit has them, and the stream of runs has the ended ones."""

    entry = next((e for e in reversed(store.ledger(name)) if isinstance(e, Enqueued)), None)
    if entry is None:
        return None
    job = run_view(name, entry, store.namespace).job
    if job is None:
        run = JobId(store.namespace, name, entry.fire_time)
        known = [row.job for row in _rows_of_all(store, 1000) if row.job]
        known += [str(entry.detail.get("job")) for entry in schedules_of(store).audit(1000)]
        known += [id for one in schedules_of(store).backfills() for id in one.jobs]
        ids = ((text, JobId.parse(text)) for text in known)
        job = next((text for text, id in ids if id and id.kind and id.same_fire_time(run)), None)
    return job


# ---- rows -------------------------------------------------------------------------------------


def rows_of(found: Store, name: str) -> list[RunView]:
    """Return the runs of a schedule, newest first; also of one that was removed."""
    entries = found.ledger(name)
    if not entries and name not in found.load([name])[0]:
        not_found(found, name)
    return [run_view(name, entry, found.namespace) for entry in reversed(entries)]


def _rows_of_all(found: Store, limit: int) -> list[RunView]:
    from rq_clock.jobs.executions import Executions

    ended = Executions(found.redis, found.namespace).ended(limit)
    return [run_view(e.schedule, e.entry, found.namespace, e.job_id) for e in ended]


def cells(row: RunView) -> tuple[str, ...]:
    """Return a run as a row of a table."""
    note = row.error or row.reason or ""
    attempt = str(row.attempt or "-")
    return row.schedule, iso(row.fire_time), row.state, attempt, _took(row), note


def _took(row: RunView) -> str:
    if row.count is not None:
        return f"{row.count} times" if row.count > 1 else "-"
    return f"{row.took_ms / 1000:.3f} s" if row.took_ms is not None else "-"
