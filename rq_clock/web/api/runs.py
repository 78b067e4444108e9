"""What became of fire times: of one schedule its whole ledger, of all every attempt that ended; one
run with its instants and its output, and what can be done to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.jobs.executions import Ended
from rq_clock.jobs.records import JobDetail
from rq_clock.model.decision import Skip
from rq_clock.model.ledger import Attempt, Enqueued, LedgerEntry, Lost
from rq_clock.schedules.serializers import instant_of, run_view
from rq_clock.store.audit import Actor
from rq_clock.timing.instants import iso, read_instant, to_ms
from rq_clock.web.api import requests as taken
from rq_clock.web.api import responses as given
from rq_clock.web.api import schemas as models
from rq_clock.web.api.operations import asked_by
from rq_clock.web.api.routing import (
    Cursor,
    Limit,
    Name,
    Route,
    act_replies,
    answer,
    cursor_of,
    located,
    optional,
    page,
    place_of,
    replies,
    tagged,
    wrong,
)
from rq_clock.web.context import Context, Operate, Read, Web, schedules_for
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route, tags=["runs"])
Retry = Annotated[taken.Retry, optional(taken.Retry)]
Why = Annotated[taken.Why, optional(taken.Why)]
PORTION, PORTIONS = 1000, 2
"""Ended attempts that one page looks at, at most: so many at a time, so often."""
JobId = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9_-]{1,300}$", examples=["default-report-42-1774746000000"]),
]
Since = Annotated[str | None, Query(max_length=40, description="Instant with a zone.")]
_MS = timedelta(milliseconds=1)
_MANNERS = {"m": "manual", "b": "backfill"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs."""

    state: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fits(self, row: dict[str, Any], at: datetime) -> bool:
        """Whether a run is one of them; `at` is its instant."""
        if (self.state and row["state"] != self.state) or (
            self.reason and row["reason"] != self.reason
        ):
            return False
        return (not self.since or at >= self.since) and (not self.until or at <= self.until)


# ---- lists ------------------------------------------------------------------------------------


@router.get(
    "/schedules/{name}/runs", responses=replies(304, 404, model=given.RunList, headers="ETag Link")
)
def runs_of(  # noqa: PLR0913 - one a filter
    request: Request,
    site: Web,
    _: Read,
    name: Name,
    state: models.RunState | None = None,
    reason: Annotated[str | None, Query(max_length=100)] = None,
    since: Since = None,
    until: Since = None,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """What became of each fire time of a schedule, newest decision first: enqueued, and how that
    ended, or skipped, and why. Also of one that was removed, for 30 days."""
    wanted = _wanted(state, reason, since, until)
    return _ledger(request, site, name, wanted, limit, cursor)


@router.get("/runs", responses=replies(304, 404, model=given.RunList, headers="ETag Link"))
def list_runs(  # noqa: PLR0913 - one a filter
    request: Request,
    site: Web,
    _: Read,
    schedule: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,100}$", description="Its ledger.")
    ] = None,
    state: models.RunState | None = None,
    reason: Annotated[str | None, Query(max_length=100)] = None,
    since: Since = None,
    until: Since = None,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """Every attempt that has ended, newest first; of one schedule its ledger, which has what is to
    end and what was skipped, too. `since` and `until` are about the end of an attempt."""
    wanted = _wanted(state, reason, since, until)
    if schedule is not None:
        return _ledger(request, site, schedule, wanted, limit, cursor)
    rows: list[dict[str, Any]] = []
    searched, following = 0, ""
    for ended in _ended(site, wanted, cursor):
        if len(rows) == limit:
            break
        searched, following = searched + 1, ended.id
        row = run_view(ended.schedule, ended.entry, site.settings.namespace, ended.job_id)
        attempt = _attempt_of(ended.entry)
        if wanted.fits(row, attempt.ended if attempt else instant_of(ended.entry)):
            rows.append(row)
    else:
        following = following if searched == PORTION * PORTIONS else ""
    more = cursor_of(following) if following else ""
    return page(request, rows, more, searched=searched if len(rows) < limit and more else None)


def _ended(site: Context, wanted: Wanted, cursor: str) -> Iterator[Ended]:
    """Ended attempts, newest first, from a cursor or the last instant that is wanted."""
    [before] = place_of(cursor, str) or [""]
    if before and not re.fullmatch(r"[0-9]{1,15}-[0-9]{1,15}", before):
        raise wrong("cursor", "expected the one of the page before; begin again without one")
    if not before:
        before = f"{to_ms(wanted.until) + 1}-0" if wanted.until else "+"
    for _ in range(PORTIONS):
        found = site.executions.ended(PORTION, before)
        for ended in found:
            if wanted.since and int(ended.id.partition("-")[0]) < to_ms(wanted.since):
                return
            yield ended
        if len(found) < PORTION:
            return
        before = found[-1].id


def _ledger(
    request: Request, site: Context, name: str, wanted: Wanted, limit: int, cursor: str
) -> Response:
    place = place_of(cursor, str, int)
    entries = site.store.ledger(name)
    if not entries and name not in site.store.load([name])[0]:
        raise Conflict(ConflictKind.MISSING, name)
    entries.reverse()
    start = 0
    if place:  # what was told last; when it is gone, so is all behind it
        found = [n for n, entry in enumerate(entries) if _place(entry) == place]
        start = found[0] + 1 if found else len(entries)
    rows: list[dict[str, Any]] = []
    following = ""
    for entry in entries[start:]:
        row = run_view(name, entry, site.settings.namespace)
        if not wanted.fits(row, instant_of(entry)):
            continue
        if len(rows) == limit:
            break
        rows.append(row)
        following = cursor_of(*_place(entry))
    else:
        following = ""
    return page(request, rows, following, searched=None)


def _place(entry: LedgerEntry) -> list[Any]:
    """What tells an entry of a ledger from the others, also when it is told more of later."""
    if isinstance(entry, Skip):
        return ["-", to_ms(entry.first)]
    if isinstance(entry, Lost):
        return ["x", to_ms(entry.found)]
    return [entry.reason, to_ms(entry.fire_time)]


def _wanted(state: str | None, reason: str | None, since: Any, until: Any) -> Wanted:
    found: dict[str, datetime | None] = {}
    for parameter, value in (("since", since), ("until", until)):
        try:
            found[parameter] = read_instant(value) if value else None
        except ScheduleError as error:
            raise wrong(parameter, str(error)) from None
    return Wanted(state=state, reason=reason or None, **found)


# ---- one --------------------------------------------------------------------------------------


@router.get("/runs/{id}", responses=replies(304, 404, model=given.OneRun, headers="ETag"))
def get_run(request: Request, site: Web, _: Read, id: JobId) -> Response:
    """One run: its four instants, its attempts, and what went wrong. `id` is its job's."""
    return tagged(request, told(_run(site, id)))


@router.get(
    "/runs/{id}/output",
    responses=replies(404, 416, headers="")
    | {
        200: {"description": "What there is.", "content": {"text/plain": {}}},
        206: {"description": "The part that was asked for.", "content": {"text/plain": {}}},
    },
)
def get_output(
    site: Web,
    _: Read,
    id: JobId,
    offset: Annotated[int, Query(ge=0, le=1 << 31, description="Leave out so many bytes.")] = 0,
    wanted: Annotated[
        str | None, Header(alias="Range", max_length=100, description="bytes=first-last")
    ] = None,
) -> Response:
    """What a command has printed until now, the last 64 kB of it, or what a web call was answered.
    It grows while the run goes on."""
    data = site.store.output(id)
    if data is None:
        raise Problem(
            "not-found",
            f"{id}: no output; only commands and web calls leave some, and not for ever",
        )
    headers = {"Accept-Ranges": "bytes"}
    start, end = _range(wanted, len(data)) if wanted else (offset, len(data))
    status = 200
    if wanted and (start, end) != (0, len(data)):
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        status = 206
    return Response(data[start:end], status, headers, media_type="text/plain")


def _range(wanted: str, size: int) -> tuple[int, int]:
    """The first byte that is wanted and the one behind the last: all of them for words that are
    none (RFC 9110). Raises Problem when there is no such byte."""
    match = re.fullmatch(r"bytes=(\d{0,12})-(\d{0,12})", wanted.strip())
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
            f"expected a range within {size} bytes, got {wanted}",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


# ---- what is done to one ----------------------------------------------------------------------


@router.post(
    "/runs/{id}/retry",
    status_code=202,
    responses=act_replies(404, ok=202, model=given.RunMade, headers="Location"),
)
def retry(
    request: Request,
    site: Web,
    token: Operate,
    id: JobId,
    said: Retry,
) -> Response:
    """Put the job of a run that failed, or was stopped, back into its queue. With `again`, whatever
    became of it: run its schedule once more for the same fire time, as it is defined today."""
    run, job = _run(site, id), id
    if said.again:
        try:
            job = schedules_for(site, token).rerun(
                id, force=said.force, reason=said.reason,
                request_id=asked_by(request),
            )  # fmt: skip
        except Conflict:
            raise
        except ScheduleError as error:
            raise Problem("conflict", str(error)) from None
    else:
        site.queues.requeue(id, Actor(by=token.name, reason=said.reason))
    schedule = run.job.run.schedule if run.job.run else None
    return answer({"job": job, "schedule": schedule}, 202, located(request, f"/runs/{job}"))


@router.post(
    "/runs/{id}/stop", status_code=202, responses=act_replies(404, ok=202, model=given.RunMade)
)
def stop(site: Web, token: Operate, id: JobId, said: Why) -> Response:
    """Tell the worker of a running job to end it; it is not retried."""
    run = _run(site, id)
    site.queues.stop(id, Actor(by=token.name, reason=said.reason))
    schedule = run.job.run.schedule if run.job.run else None
    return answer({"job": id, "schedule": schedule}, 202)


# ---- what is told -----------------------------------------------------------------------------


def _run(site: Context, id: str) -> JobDetail:
    found = site.queues.job(id)
    origin = found.job.run
    if origin is None or origin.namespace != site.settings.namespace:
        raise Problem("not-found", f"{id}: it is a job, and no run of a schedule; see /jobs/{id}")
    return found


def _attempt_of(entry: LedgerEntry) -> Attempt | None:
    return entry.attempt if isinstance(entry, Enqueued) else None


def told(found: JobDetail) -> dict[str, Any]:
    """A job with everything that is known of it."""
    job, origin = found.job, found.job.run
    attempts = [_attempt(ended) for ended in found.attempts]
    entries = [e.entry for e in found.attempts if isinstance(e.entry, Enqueued)]
    first = entries[0] if entries else None
    lag = first.lag if first else None
    reason = first.reason if first else _MANNERS.get(origin.kind) if origin else None
    return {
        "id": job.id,
        "schedule": origin.schedule if origin else None,
        "fireTime": iso(origin.fire_time) if origin else None,
        "reason": reason,
        "description": job.description or None,
        "queue": job.queue or None,
        "status": job.status or None,
        "created": _iso(job.created),
        "enqueued": _iso(job.enqueued),
        "started": _iso(job.started),
        "ended": _iso(job.ended),
        "due": _iso(job.due),
        "lagMs": None if lag is None else lag / _MS,
        "worker": job.worker or None,
        "attempt": job.attempt,
        "retriesLeft": job.retries_left,
        "attempts": attempts,
        "error": job.error or next((a["error"] for a in reversed(attempts) if a["error"]), None),
        "traceback": found.trace or None,
        "result": next((told.value for told in found.results if told.value), None),
        "dependents": list(found.dependents),
        "forgottenIn": found.expires_in.total_seconds() if found.expires_in else None,
    }


def _attempt(ended: Ended) -> dict[str, Any]:
    attempt = _attempt_of(ended.entry)
    return {
        "number": attempt.number if attempt else None,
        "state": attempt.state if attempt else "lost",
        "started": _iso(attempt.started) if attempt else None,
        "ended": _iso(attempt.ended) if attempt else None,
        "tookMs": (attempt.ended - attempt.started) / _MS if attempt else None,
        "worker": attempt.worker if attempt else None,
        "error": attempt.error or None if attempt else None,
        "again": ended.again or None,
    }


def _iso(t: datetime | None) -> str | None:
    return iso(t) if t else None
