"""Runs: outcomes of fire times, one run in full, its output, retry and stop."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query
from starlette.responses import Response

from rq_clock.errors import Conflict, ConflictKind
from rq_clock.jobs.records import JobDetail
from rq_clock.model.decision import Skip
from rq_clock.model.ledger import LedgerEntry, Lost, RunState, instant_of
from rq_clock.model.view import Page
from rq_clock.serializers.jobs import JobDetailView, job_detail_view
from rq_clock.serializers.runs import RunStartedView, RunView, run_view
from rq_clock.store import cursors
from rq_clock.timing.instants import to_ms
from rq_clock.web.api import requests
from rq_clock.web.api.routing import (
    ACCEPTED,
    NOT_FOUND,
    PAGED,
    TAGGED,
    Cursor,
    Limit,
    Name,
    Route,
    answer,
    instant_at,
    located,
    optional,
    place_of,
    problem,
    reported,
    tagged,
    wrong,
)
from rq_clock.web.context import Caller, Operate, Read
from rq_clock.web.ended_runs import RunFilter, ended_runs, is_cursor
from rq_clock.web.idempotency import made
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route, tags=["runs"])
RetryOptions = Annotated[requests.RetryOptions, optional(requests.RetryOptions)]
ReasonOptions = Annotated[requests.ReasonOptions, optional(requests.ReasonOptions)]
JobId = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9_-]{1,300}$", examples=["default-report-42-1774746000000"]),
]
Time = Annotated[str | None, Query(max_length=40, description="Instant with a zone.")]


def _filter(
    state: RunState | None = None,
    reason: Annotated[str | None, Query(max_length=100)] = None,
    since: Time = None,
    until: Time = None,
) -> RunFilter:
    return RunFilter(
        state=state or "",
        reason=reason or "",
        since=instant_at("since", since) if since else None,
        until=instant_at("until", until) if until else None,
    )


Matching = Annotated[RunFilter, Depends(_filter)]


# ---- lists ------------------------------------------------------------------------------------


@router.get("/schedules/{name}/runs", response_model=Page[RunView], responses=PAGED | NOT_FOUND)
def runs_of(
    caller: Read, name: Name, matching: Matching, limit: Limit = 50, cursor: Cursor = ""
) -> Response:
    """List the outcomes of a schedule's fire times, newest first.

    A fire time was enqueued, or skipped for a reason. The outcomes of a removed schedule are kept
    for 30 days.
    """
    return _ledger(caller, name, matching, limit, cursor)


@router.get("/runs", response_model=Page[RunView], responses=PAGED | NOT_FOUND)
def list_runs(
    caller: Read,
    matching: Matching,
    schedule: Annotated[str | None, Query(pattern=requests.NAME)] = None,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """List ended attempts, newest first.

    With `schedule`, list all its fire times, also those that wait or were skipped. `since` and
    `until` limit the end of an attempt.
    """
    if schedule is not None:
        return _ledger(caller, schedule, matching, limit, cursor)
    [before] = place_of(cursor, str) or [""]
    if not is_cursor(before):
        raise wrong("cursor", "expected the one of the previous page; start again without it")
    found = ended_runs(caller.context, matching, limit, before, {})
    more = cursors.encode(found.following) if found.following else None
    rows = [run for _, run in found.runs]
    return tagged(caller, Page(data=rows, next_cursor=more, searched=found.searched))


def _ledger(caller: Caller, name: str, matching: RunFilter, limit: int, cursor: str) -> Response:
    place = place_of(cursor, str, int)
    store = caller.context.store
    entries = store.ledger(name)
    if not entries and name not in store.load([name])[0]:
        raise Conflict(ConflictKind.MISSING, name)
    entries.reverse()
    start = 0
    if place:  # the last entry of the previous page; if it is gone, so is all behind it
        found = [n for n, entry in enumerate(entries) if _place(entry) == place]
        start = found[0] + 1 if found else len(entries)
    rows: list[RunView] = []
    following = ""
    for entry in entries[start:]:
        row = run_view(name, entry, caller.namespace)
        if not matching.matches(row, instant_of(entry)):
            continue
        if len(rows) == limit:
            break
        rows.append(row)
        following = cursors.encode(*_place(entry))
    else:
        following = ""
    return tagged(caller, Page(data=rows, next_cursor=following or None))


def _place(entry: LedgerEntry) -> list[Any]:
    """Return the place of an entry in a ledger; it stays when an outcome is added."""
    if isinstance(entry, Skip):
        return ["-", to_ms(entry.first)]
    if isinstance(entry, Lost):
        return ["x", to_ms(entry.found)]
    return [entry.reason, to_ms(entry.fire_time)]


# ---- one --------------------------------------------------------------------------------------


@router.get("/runs/{id}", response_model=JobDetailView, responses=TAGGED | NOT_FOUND)
def get_run(caller: Read, id: JobId) -> Response:
    """Get a run with its instants, its attempts and its error. `id` is the id of its job."""
    return tagged(caller, job_detail_view(_run(caller, id)))


@router.get(
    "/runs/{id}/output",
    responses=NOT_FOUND
    | {
        200: {"description": "The output.", "content": {"text/plain": {}}},
        206: {"description": "A part of the output.", "content": {"text/plain": {}}},
        416: problem("Range not satisfiable."),
    },
)
def get_output(
    caller: Read,
    id: JobId,
    offset: Annotated[int, Query(ge=0, le=1 << 31, description="Bytes to leave out.")] = 0,
    span: Annotated[
        str | None, Header(alias="Range", max_length=100, description="bytes=first-last")
    ] = None,
) -> Response:
    """Get the output of a run, the last 64 kB that it printed; of a web call the response.

    It grows during the run.
    """
    data = caller.context.store.output(id)
    if data is None:
        raise Problem(
            "not-found",
            f"{id}: no output; it printed nothing, or too long ago",
        )
    headers = {"Accept-Ranges": "bytes"}
    start, end = _range(span, len(data)) if span else (offset, len(data))
    status = 200
    if span and (start, end) != (0, len(data)):
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        status = 206
    return Response(data[start:end], status, headers, media_type="text/plain")


def _range(span: str, size: int) -> tuple[int, int]:
    """Return the start and end of a Range header. An invalid header means all bytes (RFC 9110).
    Raises Problem when there is no such byte."""
    match = re.fullmatch(r"bytes=(\d{0,12})-(\d{0,12})", span.strip())
    if not match or not any(match.groups()):
        return 0, size
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if last and first and int(last) < int(first):
        return 0, size
    if start >= size or start >= end:
        raise Problem(
            "range",
            f"expected a range within {size} bytes, got {span}",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


# ---- operations -------------------------------------------------------------------------------


@router.post(
    "/runs/{id}/retry",
    status_code=202,
    response_model=RunStartedView,
    responses=ACCEPTED | NOT_FOUND,
)
def retry(caller: Operate, id: JobId, body: RetryOptions) -> Response:
    """Requeue the job of a run that failed or was stopped.

    With `again`, make a new run for the same fire time by today's definition, whatever the
    outcome.
    """
    run = _run(caller, id)

    def act(once: Caller) -> str:
        if not body.again:
            caller.context.queues.requeue(id, once.actor(body.reason))
            return id
        with reported():
            return once.service.rerun(id, force=body.force, reason=body.reason)

    job = made(caller, act) or id
    return answer(_started(run, job), 202, located(caller, f"/runs/{job}"))


@router.post("/runs/{id}/stop", status_code=202, response_model=RunStartedView, responses=NOT_FOUND)
def stop(caller: Operate, id: JobId, body: ReasonOptions) -> Response:
    """Stop a running job. It is not retried."""
    run = _run(caller, id)
    made(caller, lambda once: caller.context.queues.stop(id, once.actor(body.reason)))
    return answer(_started(run, id), 202)


def _run(caller: Caller, id: str) -> JobDetail:
    """Return the job of a run. Raises Problem for another job."""
    found = caller.context.queues.job(id)
    run = found.job.run
    if run is None or run.namespace != caller.namespace:
        raise Problem("not-found", f"{id}: this job is not a run of a schedule; see /jobs/{id}")
    return found


def _started(found: JobDetail, job: str) -> RunStartedView:
    return RunStartedView(job=job, schedule=found.job.run.schedule if found.job.run else None)
