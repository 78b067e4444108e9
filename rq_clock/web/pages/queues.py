"""Queues, workers and RQ jobs, and the actions on jobs: each a confirmation page with a form."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.jobs.queues import SWEEP, JobFilter, NoJob
from rq_clock.jobs.records import KINDS, Jobs
from rq_clock.timing.instants import iso, read_instant
from rq_clock.web.context import Caller, Operate, Read
from rq_clock.web.pages.filters import path_with
from rq_clock.web.pages.job_display import VERBS, actions, look
from rq_clock.web.pages.layout import Fields, done, here, page
from rq_clock.web.problems import Problem

router = APIRouter()
ROWS = 50
SHOWN = 200
"""Matching failed jobs on one page."""
_BULK_VERBS = {"requeue": "Requeue", "delete": "Delete"}


@router.get("/queues")
def queues_page(caller: Read) -> Response:
    """Return all queues and workers."""
    site = caller.context
    status = site.schedules.status()
    named = site.schedules.queues(status)
    report = site.queues.look(set(named.values()) if named else ())
    totals = {kind: sum(queue.jobs[kind] for queue in report.queues) for kind in KINDS}
    return page(
        caller, "queues.html", status, report=report, totals=totals,
        unserved=[queue for queue in report.queues if queue.unserved], unread=named is None,
    )  # fmt: skip


@router.get("/queues/{name:path}")
def queue_page(caller: Read, name: str, kind: str = "", cursor: str = "", at: int = 0) -> Response:
    """Return one queue, its jobs of a kind, and its workers."""
    site = caller.context
    status = site.schedules.status()
    report = site.queues.look([name])
    queue = next((queue for queue in report.queues if queue.name == name), None)
    if queue is None:
        raise Problem("not-found", f"no queue {name!r} is among the first {len(report.queues)}")
    kind = kind or ("queued" if queue.jobs["queued"] or not queue.jobs["failed"] else "failed")
    jobs = site.queues.jobs(kind, name, limit=ROWS, cursor=cursor)
    return page(
        caller, "queue.html", status, queue=queue, kind=kind, at=at, look=look,
        serving=[worker for worker in report.workers if name in worker.queues],
        **_rows(caller, jobs),
    )  # fmt: skip


@router.get("/jobs")
def jobs_page(  # noqa: PLR0913 - one a filter
    caller: Read, kind: str = "failed", queue: str = "", schedule: str = "", q: str = "",
    cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Return the jobs of a kind in all queues. Failed ones can be filtered by schedule and text."""
    site = caller.context
    status = site.schedules.status()
    match = JobFilter(queue=queue.strip(), schedule=schedule.strip(), text=q.strip())
    searched = None
    if kind == "failed" and (match.schedule or match.text):
        fits, more = site.queues.matching(match)
        searched = SWEEP if more else None
        jobs = Jobs(status.now, tuple(fits[:SHOWN]), len(fits), "")
    else:
        jobs = site.queues.jobs(kind, match.queue, limit=ROWS, cursor=cursor)
    return page(
        caller, "jobs.html", status, kind=kind, kinds=KINDS, filter=match, at=at,
        look=look, searched=searched, **_rows(caller, jobs),
    )  # fmt: skip


def _rows(caller: Caller, jobs: Jobs) -> dict[str, object]:
    may = caller.may_operate
    rows = [(job, actions(job, caller.namespace) if may else []) for job in jobs.jobs]
    return {"jobs": jobs, "rows": rows}


# ---- one job ----------------------------------------------------------------------------------


@router.get("/jobs/{id}/{verb}")
def job_action_page(caller: Operate, id: str, verb: str, back: str = "") -> Response:
    """Confirm an action on a job."""
    return _confirm(caller, id, verb, {"back": back})


@router.post("/jobs/{id}/{verb}")
def job_action(caller: Operate, id: str, verb: str, form: Fields) -> Response:
    """Act and go back with a message, or show the refusal above the form."""
    try:
        message, job = _act(caller, id, verb, form)
    except NoJob:
        raise
    except (ScheduleError, RqClockError) as error:
        return _confirm(caller, id, verb, form, str(error))
    page_of_job = "/jobs" if verb == "delete" else f"/runs/{quote(job, safe='')}"
    return done(caller, here(form.get("back") or page_of_job), message)


def _act(caller: Caller, id: str, verb: str, form: Mapping[str, str]) -> tuple[str, str]:
    """Act, and return a message and the job to show."""
    reason, queues = form.get("reason", "").strip(), caller.context.queues
    actor = caller.actor(reason)
    match verb:
        case "requeue":
            return f"Put {id} at the end of the queue {queues.requeue(id, actor)}.", id
        case "cancel":
            return f"Took {id} out of the queue {queues.cancel(id, actor)}.", id
        case "delete":
            queues.delete(id, actor)
            return f"Deleted {id}.", id
        case "stop":
            return f"Asked the worker {queues.stop(id, actor)} to stop it.", id
        case "again":
            force = form.get("force") == "1"
            job = caller.service.rerun(id, force=force, reason=reason)
            return f"Enqueued {job} for the same fire time.", job
        case _:
            raise _unknown(verb, VERBS)


def _confirm(
    caller: Caller, id: str, verb: str, form: Mapping[str, str], error: str = ""
) -> Response:
    if verb not in VERBS:
        raise _unknown(verb, VERBS)
    site = caller.context
    status, detail = site.schedules.status(), site.queues.job(id)
    back = here(form.get("back") or f"/runs/{quote(id, safe='')}")
    return page(
        caller, "job_action.html", status, detail=detail, job=detail.job, verb=verb,
        word=VERBS[verb], back=back, form=form, error=error, look=look,
        status_code=409 if error else 200,
    )  # fmt: skip


# ---- many jobs --------------------------------------------------------------------------------


@router.get("/bulk-jobs/{verb}")
def bulk_jobs_page(
    caller: Operate, verb: str, queue: str = "", schedule: str = "", q: str = ""
) -> Response:
    """Confirm an action on all matching failed jobs."""
    if verb not in _BULK_VERBS:
        raise _unknown(verb, _BULK_VERBS)
    status = caller.context.schedules.status()
    match = JobFilter(
        queue=queue.strip(), schedule=schedule.strip(), text=q.strip(), before=status.now
    )
    matching, more = caller.context.queues.matching(match)
    return page(
        caller, "bulk_jobs.html", status, verb=verb, word=_BULK_VERBS[verb], filter=match,
        matching=matching, more=more, before=iso(status.now), limit=SWEEP, back=_list(match),
        section="/queues",
    )  # fmt: skip


@router.post("/bulk-jobs/{verb}")
def bulk_jobs(caller: Operate, verb: str, form: Fields) -> Response:
    """Act on the jobs that had failed when the confirmation was shown."""
    if verb not in _BULK_VERBS:
        raise _unknown(verb, _BULK_VERBS)
    match = JobFilter(
        queue=form.get("queue", ""), schedule=form.get("schedule", ""), text=form.get("q", ""),
        before=read_instant(form.get("before", ""), field="before"),
    )  # fmt: skip
    actor = caller.actor(form.get("reason", "").strip())
    result = caller.context.queues.sweep(verb, match, actor)
    jobs = f"{result.done:,} job{'' if result.done == 1 else 's'}"
    message = f"{_BULK_VERBS[verb]}d {jobs}."
    if result.refused:
        first = result.refused[0].detail
        message += f" {len(result.refused):,} were refused, such as: {first}."
    if result.more:
        message += " More jobs may match: repeat the action for them."
    return done(caller, _list(match), message)


def _list(match: JobFilter) -> str:
    return path_with("/jobs", queue=match.queue, schedule=match.schedule, q=match.text)


def _unknown(verb: str, known: Mapping[str, str]) -> Problem:
    return Problem("not-found", f"expected one of {', '.join(known)}, got {verb!r}")
