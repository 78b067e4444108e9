"""RQ's side: queues, workers, and jobs, also those that no schedule made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from rq_clock.errors import ScheduleError
from rq_clock.jobs.queues import JobFilter
from rq_clock.jobs.records import JobRow, QueueReport, QueueRow, WorkerRow
from rq_clock.store.audit import Actor
from rq_clock.timing.instants import iso
from rq_clock.web.api import requests as taken
from rq_clock.web.api import responses as given
from rq_clock.web.api.routing import (
    Cursor,
    Limit,
    Route,
    act_replies,
    answer,
    located,
    optional,
    page,
    replies,
    tagged,
    wrong,
)
from rq_clock.web.api.runs import JobId, told
from rq_clock.web.context import Context, Operate, Read, Web
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route, tags=["queues"])
Why = Annotated[taken.Why, optional(taken.Why)]
ManyJobs = Annotated[taken.ManyJobs, optional(taken.ManyJobs)]
Kind = Literal["failed", "started", "queued", "scheduled", "deferred", "finished", "canceled"]
QueueName = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f/]+$")]


# ---- queues and workers -----------------------------------------------------------------------


@router.get("/queues", responses=replies(304, model=given.QueueList, headers="ETag"))
def list_queues(request: Request, site: Web, _: Read) -> Response:
    """All queues of the Redis, by name."""
    sight = site.queues.look()
    return page(request, [queue_view(queue) for queue in sight.queues], "")


@router.get("/queues/{name}", responses=replies(304, 404, model=given.OneQueue, headers="ETag"))
def get_queue(request: Request, site: Web, _: Read, name: QueueName) -> Response:
    """One queue, and the workers that serve it."""
    sight = site.queues.look()
    found = next((queue for queue in sight.queues if queue.name == name), None)
    if found is None:
        raise Problem("not-found", f"{name}: there is no such queue; nothing was ever put into it")
    return tagged(request, {**queue_view(found), "servedBy": _serving(sight, name)})


@router.get("/workers", responses=replies(304, model=given.WorkerList, headers="ETag"))
def list_workers(request: Request, site: Web, _: Read) -> Response:
    """All living workers, by name."""
    return page(request, [worker_view(worker) for worker in site.queues.look().workers], "")


def _serving(sight: QueueReport, queue: str) -> list[str]:
    return [worker.name for worker in sight.workers if queue in worker.queues]


# ---- jobs -------------------------------------------------------------------------------------


@router.get("/jobs", responses=replies(304, model=given.JobList, headers="ETag Link"))
def list_jobs(
    request: Request,
    site: Web,
    _: Read,
    kind: Kind = "failed",
    queue: Annotated[str, Query(max_length=200)] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """The jobs of a kind, of one queue or of all; failed and finished ones newest first."""
    try:
        found = site.queues.jobs(kind, queue, most=limit, cursor=cursor)
    except ScheduleError:  # the kind is known here
        raise wrong("cursor", "expected the one of a page of the same kind") from None
    return page(request, [job_view(job) for job in found.jobs], found.cursor, total=found.total)


@router.get("/jobs/{id}", responses=replies(304, 404, model=given.OneRun, headers="ETag"))
def get_job(request: Request, site: Web, _: Read, id: JobId) -> Response:
    """One job. Arguments are told as RQ describes the call."""
    return tagged(request, told(site.queues.job(id)))


@router.post(
    "/jobs/{id}/requeue",
    status_code=202,
    responses=act_replies(404, ok=202, model=given.RunMade, headers="Location"),
)
def requeue(request: Request, site: Web, token: Operate, id: JobId, said: Why) -> Response:
    """Put a job that failed, or was stopped or canceled, at the end of its queue."""
    site.queues.requeue(id, Actor(by=token.name, reason=said.reason))
    return answer({"job": id, "schedule": None}, 202, located(request, f"/jobs/{id}"))


@router.delete("/jobs/{id}", status_code=204, responses=replies(404, 409, ok=204))
def delete_job(site: Web, token: Operate, id: JobId) -> Response:
    """Forget a job that is not running, with all that RQ has of it."""
    site.queues.delete(id, Actor(by=token.name))
    return Response(status_code=204)


@router.post("/jobs:requeue", responses=act_replies(model=given.Swept))
def requeue_many(site: Web, token: Operate, said: ManyJobs) -> Response:
    """Put the failed jobs that fit back into their queues, of the newest thousand."""
    return _sweep(site, token.name, "requeue", said)


@router.post("/jobs:delete", responses=act_replies(model=given.Swept))
def delete_many(site: Web, token: Operate, said: ManyJobs) -> Response:
    """Forget the failed jobs that fit, of the newest thousand."""
    return _sweep(site, token.name, "delete", said)


def _sweep(site: Context, by: str, verb: str, said: taken.ManyJobs) -> Response:
    wanted = said.filter or taken.WantedJobs()
    match = JobFilter(
        queue=wanted.queue or "", schedule=wanted.schedule or "", text=wanted.q or "",
        before=wanted.before,
    )  # fmt: skip
    swept = site.queues.sweep(verb, match, Actor(by=by, reason=said.reason))
    refused = [{"job": job, "detail": why} for job, why in swept.refused.items()]
    return answer({"done": swept.done, "refused": refused, "more": swept.more})


# ---- what is told -----------------------------------------------------------------------------


def queue_view(queue: QueueRow) -> dict[str, Any]:
    """A queue."""
    return {
        "name": queue.name,
        "jobs": dict(queue.jobs),
        "waitingSeconds": queue.waiting.total_seconds() if queue.waiting is not None else None,
        "workers": queue.workers,
        "unserved": queue.unserved,
    }


def worker_view(worker: WorkerRow) -> dict[str, Any]:
    """A worker."""
    return {
        "name": worker.name,
        "state": worker.state,
        "queues": list(worker.queues),
        "job": worker.job or None,
        "jobSince": iso(worker.since) if worker.since else None,
        "lastSign": iso(worker.sign) if worker.sign else None,
        "since": iso(worker.born) if worker.born else None,
        "host": worker.host or None,
        "version": worker.version or None,
        "origin": "rq-clock" if worker.ours else "rq",
    }


def job_view(job: JobRow) -> dict[str, Any]:
    """A job as a list has it."""
    instants = {
        "created": job.created, "enqueued": job.enqueued, "started": job.started,
        "ended": job.ended, "due": job.due,
    }  # fmt: skip
    return {
        "id": job.id,
        "queue": job.queue,
        "status": job.status or None,
        "description": job.description or None,
        "schedule": job.run.schedule if job.run else None,
        "fireTime": iso(job.run.fire_time) if job.run else None,
        **{name: iso(t) if t else None for name, t in instants.items()},
        "worker": job.worker or None,
        "attempt": job.attempt,
        "retriesLeft": job.retries_left,
        "error": job.error or None,
    }
