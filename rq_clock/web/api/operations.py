"""What is done to schedules: run, pause, resume, skip, backfill; to one, and to many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from rq_clock.errors import Conflict, ConflictKind, Fault, RqClockError, ScheduleError
from rq_clock.model.filters import Filter
from rq_clock.schedules.backfill import Preview, RequestId
from rq_clock.schedules.serializers import backfill_view
from rq_clock.schedules.service import Schedules
from rq_clock.schedules.upcoming import upcoming
from rq_clock.store.backfills import Backfills
from rq_clock.timing.instants import iso, read_instant
from rq_clock.timing.triggers import MANY
from rq_clock.web.api import requests as taken
from rq_clock.web.api import responses as given
from rq_clock.web.api.routing import (
    Name,
    Route,
    act_replies,
    answer,
    body_replies,
    claim_of,
    located,
    optional,
    page,
    replies,
    wrong,
)
from rq_clock.web.api.schedules import full_view
from rq_clock.web.context import Admin, Context, Operate, Read, Web, schedules_for
from rq_clock.web.problems import Problem, problem_of

router = APIRouter(route_class=Route, tags=["operations"])
RunNow = Annotated[taken.RunNow, optional(taken.RunNow)]
PauseNow = Annotated[taken.PauseNow, optional(taken.PauseNow)]
ResumeNow = Annotated[taken.ResumeNow, optional(taken.ResumeNow)]
SkipNext = Annotated[taken.SkipNext, optional(taken.SkipNext)]
MOST = 1000
"""Schedules of one operation on many; of those that are to run, a fifth."""
TOLD = 100
BackfillId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,100}-[0-9]{1,15}$")]


# ---- run --------------------------------------------------------------------------------------


@router.post(
    "/schedules/{name}/runs",
    status_code=202,
    responses=act_replies(404, ok=202, model=given.RunMade, headers="Location"),
)
def run(
    request: Request,
    site: Web,
    token: Operate,
    name: Name,
    said: RunNow,
) -> Response:
    """Run a schedule now, also a paused one. It is not moved. 409 `overlap` while its previous run
    goes on and it skips overlaps, unless with `force`."""
    schedules = schedules_for(site, token)
    with _fits():
        job = schedules.trigger(
            name, force=said.force, reason=said.reason, request_id=asked_by(request)
        )
    where = located(request, f"/runs/{job}")
    return answer({"job": job, "schedule": name}, 202, where)


def asked_by(request: Request) -> RequestId | None:
    """What tells a request from others, if it carries a key."""
    claim = claim_of(request)
    return (claim.began, claim.number) if claim else None


# ---- pause, resume, skip ----------------------------------------------------------------------


@router.post("/schedules/{name}/pause", responses=act_replies(404, model=given.FullSchedule))
def pause(site: Web, token: Operate, name: Name, said: PauseNow) -> Response:
    """Enqueue nothing until it is resumed, or until an instant. Fire times are recorded as skipped;
    a one-off job waits. It survives deploys, and holds for declared schedules too."""
    _pause(schedules_for(site, token), [name], said)
    return answer(full_view(site, name))


def _pause(schedules: Schedules, names: Sequence[str], said: taken.PauseNow) -> None:
    try:
        schedules.pause(names, reason=said.reason, until=said.until, missed=said.missed)
    except Conflict:
        raise
    except ScheduleError as error:
        raise wrong("/until", str(error)) from None


@router.post("/schedules/{name}/resume", responses=act_replies(404, model=given.FullSchedule))
def resume(site: Web, token: Operate, name: Name, said: ResumeNow) -> Response:
    """Go on with a paused schedule from now; nothing changes for one that is not paused."""
    schedules_for(site, token).resume(name, missed=said.missed)
    return answer(full_view(site, name))


@router.post("/schedules/{name}/skip", responses=act_replies(404, model=given.Skipped))
def skip(site: Web, token: Operate, name: Name, said: SkipNext) -> Response:
    """Skip the next fire times, instead of an earlier word."""
    with _fits():
        last = schedules_for(site, token).skip(name, said.count, reason=said.reason)
    entry = site.store.load([name])[0].get(name)
    fires: list[datetime] = []
    if entry is not None:
        most = min(said.count, TOLD)
        fires = [fire.fire_time for fire in upcoming(entry, entry.decided, most, last)]
    return answer({"skipping": [iso(t) for t in fires], "count": said.count, "until": iso(last)})


@router.delete("/schedules/{name}/skip", responses=replies(404, 409, model=given.Skipped))
def skip_nothing(site: Web, token: Operate, name: Name) -> Response:
    """Skip no fire time any more."""
    with _fits():
        schedules_for(site, token).skip(name, 0)
    return answer({"skipping": [], "count": 0, "until": None})


# ---- backfills --------------------------------------------------------------------------------


@router.post(
    "/schedules/{name}/backfills",
    status_code=202,
    responses=act_replies(404, ok=202, model=given.Backfill, headers="Location")
    | {200: {"model": given.Preview, "description": "What it would enqueue (`dryRun`)."}},
)
def backfill(
    request: Request, site: Web, token: Operate, name: Name, said: taken.BackfillAsked
) -> Response:
    """Run the fire times of the past of a span, oldest first. The leading clock does it, each once,
    and leaves out what ran already, unless `again`."""
    schedules = schedules_for(site, token)
    start, end = _span(site, name, said)
    with _fits("/most", invalid="validation"):
        if said.dry_run:
            found = schedules.preview_backfill(name, start, end, again=said.again)
            return answer(preview_view(name, found))
        made = schedules.backfill(
            name, start, end, at_once=said.at_once, again=said.again, limit=said.most,
            reason=said.reason, request_id=asked_by(request),
        )  # fmt: skip
    return answer(backfill_view(made), 202, located(request, f"/backfills/{made.id}"))


def _span(site: Context, name: str, said: taken.BackfillAsked) -> tuple[datetime, datetime]:
    """The instants that a span's words mean. Raises Problem, also for a schedule without any fire
    times."""
    entry = site.store.load([name])[0].get(name)
    if entry is None:
        raise Conflict(ConflictKind.MISSING, name)
    if entry.schedule is None:
        raise Problem("conflict", f"{name}: it has no fire times: {entry.fault}")
    tz, found = entry.tz, []
    for pointer, value in (("/from", said.start), ("/to", said.end)):
        try:
            found.append(read_instant(value, tz, whole_day=pointer == "/to"))
        except ScheduleError as error:
            raise wrong(pointer, str(error)) from None
    start, end = found
    if end < start:
        raise wrong("/to", f"expected an instant after {iso(start)}, got {iso(end)}")
    if start > entry.decided:
        raise wrong(
            "/from",
            f"expected a span of the past, got one from {iso(start)}; what is to come is "
            "enqueued by the clock",
        )
    return start, end


def preview_view(name: str, found: Preview) -> dict[str, Any]:
    """What a backfill would enqueue."""
    ends = {"from": found.start, "to": found.end, "first": found.first, "last": found.last}
    told = {key: iso(t) if t else None for key, t in ends.items()}
    counts = {"count": found.count, "atLeast": found.count >= MANY}
    return {"schedule": name, **told, **counts, "leftOut": len(found.left_out)}


@router.get("/schedules/{name}/backfills", responses=replies(304, model=given.BackfillList))
def backfills_of(request: Request, site: Web, token: Read, name: Name) -> Response:
    """The newest backfills of a schedule, of the newest hundred of all."""
    found = [b for b in schedules_for(site, token).backfills() if b.schedule == name]
    return page(request, [backfill_view(b) for b in found], "")


@router.get("/backfills", responses=replies(304, model=given.BackfillList))
def list_backfills(request: Request, site: Web, token: Read) -> Response:
    """The newest hundred backfills, newest first; those that ended are kept for 30 days."""
    found = schedules_for(site, token).backfills()
    return page(request, [backfill_view(b) for b in found], "")


@router.get("/backfills/{id}", responses=replies(404, model=given.Backfill))
def get_backfill(site: Web, _: Read, id: BackfillId) -> Response:
    """One backfill, how far it has come."""
    found = Backfills(site.store).get(id)
    if found is None:
        raise Problem("not-found", f"{id}: there is no such backfill, or none any more")
    return answer(backfill_view(found))


@router.delete("/backfills/{id}", status_code=204, responses=replies(404, 409, ok=204))
def cancel_backfill(site: Web, token: Operate, id: BackfillId) -> Response:
    """Let a backfill enqueue no more; what it has enqueued runs."""
    if Backfills(site.store).get(id) is None:
        raise Problem("not-found", f"{id}: there is no such backfill, or none any more")
    with _fits():
        schedules_for(site, token).cancel_backfill(id)
    return Response(status_code=204)


# ---- many -------------------------------------------------------------------------------------

_MANY = body_replies(409, model=given.DoneMany)


@router.post("/schedules:pause", responses=_MANY)
def pause_many(site: Web, token: Operate, said: taken.ManyPaused) -> Response:
    """Pause each of these."""
    schedules = schedules_for(site, token)
    return _done(site, said, lambda names: _pause(schedules, names, said))


@router.post("/schedules:resume", responses=_MANY)
def resume_many(site: Web, token: Operate, said: taken.ManyResumed) -> Response:
    """Go on with each of these."""
    schedules = schedules_for(site, token)
    return _done(site, said, lambda names: schedules.resume(names, missed=said.missed))


@router.post("/schedules:delete", responses=_MANY)
def remove_many(site: Web, token: Admin, said: taken.Many) -> Response:
    """Remove each of these that was added at run time."""
    schedules = schedules_for(site, token)
    return _done(site, said, schedules.remove)


@router.post("/schedules:run", responses=_MANY)
def run_many(request: Request, site: Web, token: Operate, said: taken.ManyRun) -> Response:
    """Run each of these now."""
    schedules, asked = schedules_for(site, token), asked_by(request)
    results = []
    for name in _names(site, said, MOST // 5):
        try:
            job = schedules.trigger(name, force=said.force, reason=said.reason, request_id=asked)
            results.append(_result(site, name, None, job))
        except ScheduleError as error:
            results.append(_result(site, name, error))
    return _results(results)


def _done(site: Context, said: taken.Many, act: Callable[[list[str]], None]) -> Response:
    """Act on all that fit together: those that do not are told, and left out the next time."""
    names = _names(site, said, MOST)
    faults: dict[str, RqClockError] = {}
    for _ in range(5):
        left = [name for name in names if name not in faults]
        try:
            if left:
                act(left)
            break
        except Conflict as conflict:
            faults |= {one.name: one for one in conflict.all}
    else:  # somebody is always faster
        faults |= {name: Conflict(ConflictKind.STALE, name) for name in names if name not in faults}
    return _results([_result(site, name, faults.get(name)) for name in names])


def _names(site: Context, said: taken.Many, most: int) -> list[str]:
    """Which schedules are meant. Raises Problem for more than `most`."""
    if said.names is not None:
        names, at = list(dict.fromkeys(said.names)), "/names"
    else:
        wanted = said.filter or taken.Wanted()
        fits = Filter(
            states=(wanted.state,) if wanted.state else (),
            queue=wanted.queue or None, tag=wanted.tag or None,
            text=wanted.q or None, origin=wanted.origin,
        )  # fmt: skip
        names, at = site.overview.names(fits, most + 1), "/filter"
    if len(names) > most:
        raise wrong(at, f"expected at most {most:,} schedules at once, got more; narrow it")
    return names


def _result(
    site: Context, name: str, error: RqClockError | None, job: str | None = None
) -> dict[str, Any]:
    problem = None
    if error is not None:
        problem = problem_of(error, site.settings.redis_url).document()
    return {"name": name, "ok": error is None, "job": job, "problem": problem}


def _results(rows: list[dict[str, Any]]) -> Response:
    done = sum(row["ok"] for row in rows)
    return answer({"data": rows, "done": done, "failed": len(rows) - done})


# ---- what does not fit ------------------------------------------------------------------------


@contextmanager
def _fits(at: str = "", *, invalid: str = "conflict") -> Iterator[None]:
    """What does not fit what there is, rather than being wrong in itself: a conflict, unless it is
    said what else."""
    try:
        yield
    except Conflict:
        raise
    except ScheduleError as error:
        raise Problem(invalid, str(error), errors=[Fault(at, str(error))] if at else ()) from None
