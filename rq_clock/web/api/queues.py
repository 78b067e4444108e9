"""RQ's queues, workers and jobs, also those without a schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from rq_clock.errors import ScheduleError
from rq_clock.jobs.queues import BulkJobsResult, JobFilter
from rq_clock.jobs.records import JobView, QueueView, WorkerView
from rq_clock.model.view import Page
from rq_clock.serializers.jobs import (
    JobDetailView,
    QueueDetailView,
    job_detail_view,
    queue_detail_view,
)
from rq_clock.serializers.runs import RunStartedView
from rq_clock.web.api import requests
from rq_clock.web.api.routing import (
    ACCEPTED,
    CONFLICT,
    NOT_FOUND,
    PAGED,
    TAGGED,
    Cursor,
    Limit,
    Route,
    answer,
    located,
    optional,
    tagged,
    wrong,
)
from rq_clock.web.api.runs import JobId, ReasonOptions
from rq_clock.web.context import Caller, Operate, Read
from rq_clock.web.idempotency import first_arrival, made
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route, tags=["queues"])
BulkJobs = Annotated[requests.BulkJobsRequest, optional(requests.BulkJobsRequest)]
Kind = Literal["failed", "started", "queued", "scheduled", "deferred", "finished", "canceled"]
QueueName = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f/]+$")]


# ---- queues and workers -----------------------------------------------------------------------


@router.get("/queues", response_model=Page[QueueView], responses=TAGGED)
def list_queues(caller: Read) -> Response:
    """List all queues of the Redis, by name."""
    return tagged(caller, Page(data=caller.context.queues.look().queues, next_cursor=None))


@router.get("/queues/{name}", response_model=QueueDetailView, responses=TAGGED | NOT_FOUND)
def get_queue(caller: Read, name: QueueName) -> Response:
    """Get a queue and the workers that serve it."""
    report = caller.context.queues.look()
    found = next((queue for queue in report.queues if queue.name == name), None)
    if found is None:
        raise Problem("not-found", f"{name}: there is no such queue; no job was ever put into it")
    return tagged(caller, queue_detail_view(found, report.workers))


@router.get("/workers", response_model=Page[WorkerView], responses=TAGGED)
def list_workers(caller: Read) -> Response:
    """List all living workers, by name."""
    return tagged(caller, Page(data=caller.context.queues.look().workers, next_cursor=None))


# ---- jobs -------------------------------------------------------------------------------------


@router.get("/jobs", response_model=Page[JobView], responses=PAGED)
def list_jobs(
    caller: Read,
    kind: Kind = "failed",
    queue: Annotated[str, Query(max_length=200)] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """List the jobs of a kind, of one queue or of all. Failed and finished jobs: newest first."""
    try:
        found = caller.context.queues.jobs(kind, queue, limit=limit, cursor=cursor)
    except ScheduleError:  # the kind is known here
        raise wrong("cursor", "expected the one of a page of the same kind") from None
    page = Page(data=found.jobs, next_cursor=found.cursor or None, total=found.total)
    return tagged(caller, page)


@router.get("/jobs/{id}", response_model=JobDetailView, responses=TAGGED | NOT_FOUND)
def get_job(caller: Read, id: JobId) -> Response:
    """Get a job. Its arguments are shown as RQ describes the call."""
    return tagged(caller, job_detail_view(caller.context.queues.job(id)))


@router.post(
    "/jobs/{id}/requeue",
    status_code=202,
    response_model=RunStartedView,
    responses=ACCEPTED | NOT_FOUND,
)
def requeue(caller: Operate, id: JobId, body: ReasonOptions) -> Response:
    """Requeue a job that failed, was stopped or was canceled."""
    made(caller, lambda once: caller.context.queues.requeue(id, once.actor(body.reason)))
    return answer(RunStartedView(job=id, schedule=None), 202, located(caller, f"/jobs/{id}"))


@router.delete("/jobs/{id}", status_code=204, responses=NOT_FOUND | CONFLICT)
def delete_job(caller: Operate, id: JobId) -> Response:
    """Delete a job that is not running."""
    caller.context.queues.delete(id, caller.actor())
    return Response(status_code=204)


@router.post("/jobs:requeue", response_model=BulkJobsResult)
def requeue_many(caller: Operate, body: BulkJobs) -> Response:
    """Requeue failed jobs among the newest thousand."""
    return _sweep(caller, "requeue", body)


@router.post("/jobs:delete", response_model=BulkJobsResult)
def delete_many(caller: Operate, body: BulkJobs) -> Response:
    """Delete failed jobs among the newest thousand."""
    return _sweep(caller, "delete", body)


def _sweep(caller: Caller, verb: str, body: requests.BulkJobsRequest) -> Response:
    arrived = first_arrival(caller)
    only = body.filter or requests.FailedJobFilter()
    match = JobFilter(
        queue=only.queue or "", schedule=only.schedule or "", text=only.q or "",
        before=min(filter(None, (only.before, arrived)), default=None),
    )  # fmt: skip
    return answer(caller.context.queues.sweep(verb, match, caller.actor(body.reason)))
