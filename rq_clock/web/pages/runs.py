"""Runs in progress, ended runs, and the page of one run or job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from rq_clock.jobs.records import JobView
from rq_clock.model.decision import Skip
from rq_clock.model.ledger import LEDGER_CODES, RUN_STATES, Enqueued, LedgerEntry, instant_of
from rq_clock.schedules.detail import ScheduleDetail, detail
from rq_clock.serializers.runs import RunView, run_view
from rq_clock.store.status import Status
from rq_clock.timing.instants import read_instant
from rq_clock.timing.triggers import MANY
from rq_clock.web.context import Context, Read
from rq_clock.web.ended_runs import RunFilter, ended_runs, is_cursor
from rq_clock.web.pages.job_display import look
from rq_clock.web.pages.layout import page
from rq_clock.web.pages.run_detail import read_run
from rq_clock.web.problems import Problem

router = APIRouter()
ROWS, RUNNING = 50, 50
REASONS = {reason: reason.replace("_", "-") for reason in LEDGER_CODES.values()}
"""Reason of a run → its word on pages."""
_TONES = {"failed": "bad", "timed_out": "bad", "lost": "bad", "missed": "warn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """An attempt, or the outcome of a fire time, as a row. `first` is the first of several fire
    times that were skipped together."""

    schedule: str
    at: datetime
    state: str
    reason: str
    job: str
    attempt: int = 0
    late: timedelta | None = None
    waited: timedelta | None = None
    took: timedelta | None = None
    ended: datetime | None = None
    text: str = ""
    first: datetime | None = None

    @property
    def tone(self) -> str:
        """Return the tone of the row, "" for a plain one."""
        return _TONES.get(self.state, "")


@router.get("/runs")
def runs_page(  # noqa: PLR0913 - one a filter
    caller: Read, state: str = "", schedule: str = "", queue: str = "", reason: str = "",
    q: str = "", since: str = "", until: str = "", cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Return the running jobs, then the ended attempts, newest first; or all fire times of one
    schedule, skipped ones too."""
    query = {"state": state, "schedule": schedule, "queue": queue, "reason": reason, "q": q,
            "since": since, "until": until}  # fmt: skip
    query = {name: value.strip() for name, value in query.items()}
    match = RunFilter(
        state=query["state"], schedule=query["schedule"], queue=query["queue"],
        reason=query["reason"], text=query["q"].lower(),
        since=_instant(query["since"], "from"), until=_instant(query["until"], "to"),
    )  # fmt: skip
    site = caller.context
    status = site.schedules.status()
    running: Sequence[JobView] = ()
    if match.schedule and (found := detail(site.store, match.schedule, status)):
        lines, following, searched = _of_schedule(found, match), "", None
    else:
        lines, following, searched = _ended(site, status, match, cursor)
        if not cursor and not any(query.values()):
            running = site.queues.jobs("started", limit=RUNNING).jobs
    return page(
        caller, "runs.html", status, lines=lines, running=running, query=query, look=look,
        filtered=any(query.values()), following=following, at=at, states=RUN_STATES,
        reasons=REASONS, searched=searched, of_one=bool(match.schedule), known=status.running,
    )  # fmt: skip


@router.get("/runs/{id}")
@router.get("/jobs/{id}")
def run_page(caller: Read, id: str) -> Response:
    """Return the page of a run, or of any other RQ job."""
    status, run = read_run(caller.context, id)
    return page(
        caller, "run.html", status, run=run, detail=run.detail, job=run.detail.job,
        look=look, verbs=run.verbs(caller.namespace) if caller.may_operate else [], reasons=REASONS,
        section="/runs" if run.detail.job.run else "/queues",
    )  # fmt: skip


# ---- rows -------------------------------------------------------------------------------------


def _ended(
    site: Context, status: Status, match: RunFilter, cursor: str
) -> tuple[list[RunLine], str, int | None]:
    """Return the matching attempts, the cursor of the next page, and, when there may be more, how
    many were searched."""
    if not is_cursor(cursor):
        raise Problem("validation", f"cursor: expected the one of a page of runs, got {cursor!r}")
    queues = site.schedules.queues(status) if match.queue else {}
    if queues is None:
        raise Problem("validation", "queue: too many schedules to filter runs by queue")
    found = ended_runs(site, match, ROWS, cursor, queues)
    return [line_of(e.entry, run) for e, run in found.runs], found.following, found.searched


def _of_schedule(found: ScheduleDetail, match: RunFilter) -> list[RunLine]:
    """Return the matching fire times of one schedule, newest first."""
    queue = found.row.entry.schedule.queue if found.row.entry.schedule else ""
    runs = ((entry, _run_in(found, entry)) for entry in reversed(found.ledger))
    return [
        line_of(entry, run) for entry, run in runs if match.matches(run, instant_of(entry), queue)
    ]


def line_of(entry: LedgerEntry, run: RunView) -> RunLine:
    line: dict[str, Any] = {
        "schedule": run.schedule, "at": instant_of(entry), "state": run.state, "job": run.job or "",
        "reason": run.reason or "", "text": run.error or "",
    }  # fmt: skip
    if isinstance(entry, Skip) and entry.count > 1:
        line["text"] = f"{'at least ' if entry.count >= MANY else ''}{entry.count:,} times"
        line["first"] = entry.first
    if isinstance(entry, Enqueued):
        line["late"] = entry.lag
        if attempt := entry.attempt:
            line |= {"attempt": attempt.number, "took": attempt.ended - attempt.started}
            line["ended"] = attempt.ended
            if attempt.number == 1 and entry.lag is not None:
                line["waited"] = max(attempt.started - entry.fire_time - entry.lag, timedelta(0))
    return RunLine(**line)


def line_in(found: ScheduleDetail, entry: LedgerEntry) -> RunLine:
    """Return an entry of a schedule's ledger as a row."""
    return line_of(entry, _run_in(found, entry))


def _run_in(found: ScheduleDetail, entry: LedgerEntry) -> RunView:
    job = found.job_of(entry) if isinstance(entry, Enqueued) else None
    return run_view(found.row.entry.name, entry, found.namespace, job)


def _instant(value: str, field: str) -> datetime | None:
    return read_instant(value, "UTC", field=field) if value else None
