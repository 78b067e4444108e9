"""Operations on schedules: run, pause, resume, skip, backfill; on one, and on many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from rq_clock.errors import Conflict, ConflictKind, RqClockError, ScheduleError
from rq_clock.model.filters import Filter
from rq_clock.model.view import Page
from rq_clock.schedules.service import Schedules
from rq_clock.schedules.upcoming import upcoming
from rq_clock.serializers.runs import (
    BackfillPreviewView,
    BackfillView,
    RunStartedView,
    backfill_preview_view,
    backfill_view,
)
from rq_clock.serializers.schedules import ScheduleDetailView, SkippedView
from rq_clock.store.backfills import Backfill, Backfills
from rq_clock.timing.instants import iso
from rq_clock.web.api import requests
from rq_clock.web.api.routing import (
    ACCEPTED,
    CONFLICT,
    NOT_FOUND,
    TAGGED,
    Name,
    Route,
    answer,
    instant_at,
    located,
    optional,
    reported,
    tagged,
    wrong,
)
from rq_clock.web.api.schedules import detail_view
from rq_clock.web.api.schemas import BulkItem, BulkResult
from rq_clock.web.api.schemas import Problem as ProblemView
from rq_clock.web.context import Admin, Caller, Context, Operate, Read
from rq_clock.web.idempotency import first_arrival, made
from rq_clock.web.problems import Problem, problem_of

router = APIRouter(route_class=Route, tags=["operations"])
RunOptions = Annotated[requests.RunOptions, optional(requests.RunOptions)]
PauseOptions = Annotated[requests.PauseOptions, optional(requests.PauseOptions)]
ResumeOptions = Annotated[requests.ResumeOptions, optional(requests.ResumeOptions)]
SkipOptions = Annotated[requests.SkipOptions, optional(requests.SkipOptions)]
BULK_LIMIT, BULK_RUN_LIMIT = 1000, 200
"""Schedules of one bulk operation."""
SKIPPED_LIMIT = 100
"""Fire times that the answer to a skip lists."""
BackfillId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,100}-[0-9]{1,15}$")]


# ---- run --------------------------------------------------------------------------------------


@router.post(
    "/schedules/{name}/runs",
    status_code=202,
    response_model=RunStartedView,
    responses=ACCEPTED | NOT_FOUND,
)
def run(caller: Operate, name: Name, body: RunOptions) -> Response:
    """Run a schedule now.

    Its fire times stay. A paused schedule runs too. 409 `overlap` while its last run has not ended,
    unless it allows overlaps or `force` is set.
    """
    with reported():
        job = made(caller, lambda once: _trigger(once, name, body))
    started = RunStartedView(job=job, schedule=name)
    return answer(started, 202, located(caller, f"/runs/{job}"))


def _trigger(caller: Caller, name: str, body: requests.RunOptions) -> str:
    return caller.service.trigger(name, force=body.force, reason=body.reason)


# ---- pause, resume, skip ----------------------------------------------------------------------


@router.post("/schedules/{name}/pause", response_model=ScheduleDetailView, responses=NOT_FOUND)
def pause(caller: Operate, name: Name, body: PauseOptions) -> Response:
    """Pause a schedule, until an instant or until it is resumed.

    Fire times are recorded as skipped; a one-off job waits. A pause survives deploys. It works for
    declared schedules too.
    """
    made(caller, lambda once: _pause(once.service, [name], body))
    return answer(detail_view(caller, name))


def _pause(schedules: Schedules, names: Sequence[str], body: requests.PauseOptions) -> None:
    try:
        schedules.pause(names, reason=body.reason, until=body.until, missed=body.missed)
    except Conflict:
        raise
    except ScheduleError as error:
        raise wrong("/until", str(error)) from None


@router.post("/schedules/{name}/resume", response_model=ScheduleDetailView, responses=NOT_FOUND)
def resume(caller: Operate, name: Name, body: ResumeOptions) -> Response:
    """Resume a schedule. Does nothing if it is not paused."""
    made(caller, lambda once: once.service.resume(name, missed=body.missed))
    return answer(detail_view(caller, name))


@router.post("/schedules/{name}/skip", response_model=SkippedView, responses=NOT_FOUND)
def skip(caller: Operate, name: Name, body: SkipOptions) -> Response:
    """Skip the next fire times of a schedule. Replaces an earlier skip."""
    with reported():
        made(caller, lambda once: once.service.skip(name, body.count, reason=body.reason))
    entry = caller.context.store.load([name])[0].get(name)
    fires: list[datetime] = []
    last = entry.last_skipped() if entry else None
    if entry and last:
        limit = min(body.count, SKIPPED_LIMIT)
        fires = [fire.fire_time for fire in upcoming(entry, entry.decided, limit, last)]
    return answer(SkippedView(skipping=fires, count=body.count, until=last))


@router.delete("/schedules/{name}/skip", response_model=SkippedView, responses=NOT_FOUND | CONFLICT)
def skip_nothing(caller: Operate, name: Name) -> Response:
    """Cancel a skip."""
    with reported():
        caller.service.skip(name, 0)
    return answer(SkippedView(skipping=[], count=0, until=None))


# ---- backfills --------------------------------------------------------------------------------


@router.post(
    "/schedules/{name}/backfills",
    status_code=202,
    response_model=BackfillView,
    responses=ACCEPTED | NOT_FOUND
    | {200: {"model": BackfillPreviewView, "description": "The answer to a dry run."}},
)  # fmt: skip
def backfill(caller: Operate, name: Name, body: requests.BackfillRequest) -> Response:
    """Run the past fire times of a span, oldest first.

    The leading clock enqueues them. It leaves out fire times that ran already, unless `again` is
    set.
    """

    def act(once: Caller) -> str:
        start, end = _span(caller.context, name, body)
        return once.service.backfill(
            name, start, end, at_once=body.at_once, again=body.again, limit=body.limit,
            reason=body.reason,
        ).id  # fmt: skip

    with reported("validation", "/limit"):
        if body.dry_run:
            start, end = _span(caller.context, name, body)
            preview = caller.service.preview_backfill(name, start, end, again=body.again)
            return answer(backfill_preview_view(name, preview))
        id = made(caller, act)
    made_now = _existing(caller.context, id)
    return answer(backfill_view(made_now), 202, located(caller, f"/backfills/{id}"))


def _span(context: Context, name: str, body: requests.BackfillRequest) -> tuple[datetime, datetime]:
    """Return the start and end of a backfill. Raises Problem, also for an invalid schedule."""
    entry = context.store.load([name])[0].get(name)
    if entry is None:
        raise Conflict(ConflictKind.MISSING, name)
    if entry.schedule is None:
        raise Problem("conflict", f"{name} has no fire times: {entry.fault}")
    start = instant_at("/from", body.start, entry.tz)
    end = instant_at("/to", body.end, entry.tz, whole_day=True)
    if end < start:
        raise wrong("/to", f"expected an instant after {iso(start)}, got {iso(end)}")
    if start > entry.decided:
        raise wrong(
            "/from",
            f"expected a span of the past, got one from {iso(start)}; the clock enqueues "
            "later fire times",
        )
    return start, end


@router.get("/schedules/{name}/backfills", response_model=Page[BackfillView], responses=TAGGED)
def backfills_of(caller: Read, name: Name) -> Response:
    """List the backfills of a schedule among the newest hundred."""
    return _backfills(caller, name)


@router.get("/backfills", response_model=Page[BackfillView], responses=TAGGED)
def list_backfills(caller: Read) -> Response:
    """List the newest hundred backfills. Ended ones are kept for 30 days."""
    return _backfills(caller)


def _backfills(caller: Caller, name: str = "") -> Response:
    found = [backfill_view(b) for b in caller.service.backfills() if name in ("", b.schedule)]
    return tagged(caller, Page(data=found, next_cursor=None))


@router.get("/backfills/{id}", response_model=BackfillView, responses=NOT_FOUND)
def get_backfill(caller: Read, id: BackfillId) -> Response:
    """Get a backfill and its progress."""
    return answer(backfill_view(_existing(caller.context, id)))


@router.delete("/backfills/{id}", status_code=204, responses=NOT_FOUND | CONFLICT)
def cancel_backfill(caller: Operate, id: BackfillId) -> Response:
    """Cancel a backfill. Enqueued jobs run."""
    _existing(caller.context, id)
    with reported():
        caller.service.cancel_backfill(id)
    return Response(status_code=204)


def _existing(context: Context, id: str) -> Backfill:
    found = Backfills(context.store).get(id)
    if found is None:
        raise Problem("not-found", f"{id}: there is no such backfill, or none any more")
    return found


# ---- many -------------------------------------------------------------------------------------


@router.post("/schedules:pause", response_model=BulkResult)
def pause_many(caller: Operate, body: requests.BulkPauseRequest) -> Response:
    """Pause many schedules."""
    return _each(caller, body, lambda schedules, names: _pause(schedules, names, body))


@router.post("/schedules:resume", response_model=BulkResult)
def resume_many(caller: Operate, body: requests.BulkResumeRequest) -> Response:
    """Resume many schedules."""
    return _each(caller, body, lambda schedules, names: schedules.resume(names, missed=body.missed))


@router.post("/schedules:delete", response_model=BulkResult)
def remove_many(caller: Admin, body: requests.BulkRequest) -> Response:
    """Remove many run-time schedules."""
    return _each(caller, body, Schedules.remove)


@router.post("/schedules:run", response_model=BulkResult)
def run_many(caller: Operate, body: requests.BulkRunRequest) -> Response:
    """Run many schedules now."""
    first_arrival(caller)
    items = []
    for name in _names(caller.context, body, BULK_RUN_LIMIT):
        try:
            job = made(caller, partial(_trigger, name=name, body=body), part=name)
            items.append(_item(caller.context, name, None, job))
        except ScheduleError as error:
            items.append(_item(caller.context, name, error))
    return _result(items)


def _each(
    caller: Caller, body: requests.BulkRequest, act: Callable[[Schedules, list[str]], object]
) -> Response:
    """Change all schedules in one step, without those that conflict. The answer to a repeated
    request has only the counts."""
    names = _names(caller.context, body, BULK_LIMIT)
    faults: dict[str, RqClockError] = {}

    def change(caller: Caller) -> None:
        for _ in range(5):
            left = [name for name in names if name not in faults]
            once = caller.once and replace(caller.once, made=f"{len(left)} {len(faults)}")
            try:
                if left:
                    act(replace(caller, once=once).service, left)
                return
            except Conflict as conflict:
                faults.update({one.name: one for one in conflict.all})
        for name in names:  # someone else is always faster
            faults.setdefault(name, Conflict(ConflictKind.STALE, name))

    if counts := made(caller, change):
        done, failed = map(int, counts.split())
        return answer(BulkResult(data=[], done=done, failed=failed))
    return _result([_item(caller.context, name, faults.get(name)) for name in names])


def _names(context: Context, body: requests.BulkRequest, limit: int) -> list[str]:
    """Return the names of the schedules. Raises Problem for more than `limit`."""
    if body.names is not None:
        names, at = list(dict.fromkeys(body.names)), "/names"
    else:
        only = body.filter or requests.ScheduleFilter()
        states = (only.state,) if only.state else ()
        matching = Filter(
            states=states, queue=only.queue, tag=only.tag, text=only.q, origin=only.origin
        )
        names, at = context.schedules.names(matching, limit + 1), "/filter"
    if len(names) > limit:
        raise wrong(at, f"expected at most {limit:,} schedules at once, got more; narrow it")
    return names


def _item(
    context: Context, name: str, error: RqClockError | None, job: str | None = None
) -> BulkItem:
    problem = None
    if error is not None:
        problem = ProblemView(**problem_of(error, context.settings.redis_url).document())
    return BulkItem(name=name, ok=error is None, job=job, problem=problem)


def _result(items: list[BulkItem]) -> Response:
    done = sum(item.ok for item in items)
    return answer(BulkResult(data=items, done=done, failed=len(items) - done))
