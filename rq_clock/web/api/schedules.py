"""Schedules: list, add, change, remove, next fire times."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.manifest.definition import patched
from rq_clock.model.entry import Entry
from rq_clock.model.filters import Filter
from rq_clock.model.schedule import Schedule
from rq_clock.model.verdict import State
from rq_clock.model.view import Page
from rq_clock.schedules.edits import retry_stale
from rq_clock.schedules.listing import Row
from rq_clock.schedules.upcoming import upcoming
from rq_clock.serializers.schedules import (
    FireTimeView,
    ScheduleDetailView,
    SchedulePageView,
    fire_time_view,
    schedule_detail_view,
    schedule_page_view,
)
from rq_clock.store.status import Status
from rq_clock.timing.instants import LONGEST
from rq_clock.web.api import requests
from rq_clock.web.api.definitions import schedule_from
from rq_clock.web.api.routing import (
    CONFLICT,
    JSON,
    MERGE_PATCH,
    NOT_FOUND,
    PAGED,
    REVISION,
    STALE,
    Cursor,
    IfMatch,
    Limit,
    Name,
    Route,
    answer,
    expected_revision,
    instant_at,
    located,
    tagged,
    with_headers,
    wrong,
)
from rq_clock.web.context import Admin, Caller, Read
from rq_clock.web.idempotency import made
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route, tags=["schedules"])
Text = Annotated[str | None, Query(max_length=200)]
Time = Annotated[str | None, Query(max_length=LONGEST)]
_SCHEMA = {"schema": {"$ref": "#/components/schemas/Definition"}}


@router.get("/schedules", response_model=SchedulePageView, responses=PAGED)
def list_schedules(  # noqa: PLR0913 - one a filter
    caller: Read,
    state: State | None = None,
    queue: Text = None,
    tag: Text = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of name or target.")] = None,
    origin: Literal["declared", "run-time"] | None = None,
    sort: Literal["trouble", "next", "last", "name"] = "trouble",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """List schedules, those in trouble first.

    Above 20,000 schedules only some orders are available (`order` names the one used), and a
    search may return short pages.
    """
    states = (state,) if state else ()
    matching = Filter(states=states, queue=queue, tag=tag, text=q, origin=origin)
    try:
        found = caller.context.schedules.page(matching, sort=sort, limit=limit, cursor=cursor)
    except ScheduleError:  # state and sort are known here
        raise wrong(
            "cursor", "expected the one of a page in the same order; start again without it"
        ) from None
    return tagged(caller, schedule_page_view(found, caller.namespace))


@router.post(
    "/schedules",
    status_code=201,
    response_model=ScheduleDetailView,
    responses=with_headers("ETag", "Location", status=201),
)
def add_schedule(caller: Admin, body: requests.NewSchedule) -> Response:
    """Add a schedule.

    Its fire times count from now on. Only a `once` whose instant has passed is due at once.
    """
    fields: dict[str, Any] = dict(body)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise wrong("/name", "expected a name of 1-100 letters, digits, '_' or '-'")
    schedule = schedule_from(caller, name, fields)

    def act(once: Caller) -> None:
        if _stored(caller, name)[0] is not None:
            raise Conflict(ConflictKind.EXISTS, name)
        once.service.add(name, **schedule.parts())

    try:
        made(caller, act)
    except Conflict as conflict:
        if conflict.kind is not ConflictKind.EXISTS:
            raise
        text = f"{name}: exists already; change it with PATCH, or replace it with PUT"
        raise Problem("exists", text) from None
    return _written(caller, schedule, 201)


@router.get("/schedules/{name}", response_model=ScheduleDetailView, responses=REVISION | NOT_FOUND)
def get_schedule(caller: Read, name: Name) -> Response:
    """Get a schedule with its definition.

    The ETag is its revision, for If-Match; the state and the runs change without it.
    """
    view = detail_view(caller, name)
    return answer(view, headers={"ETag": f'"{view.revision}"'})


@router.put(
    "/schedules/{name}",
    response_model=ScheduleDetailView,
    responses=REVISION
    | CONFLICT
    | STALE
    | {201: {"model": ScheduleDetailView, "description": "Created."}},
)
def put_schedule(
    caller: Admin, name: Name, body: requests.Definition, if_match: IfMatch = None
) -> Response:
    """Create or replace a schedule.

    Fields that are left out get their defaults. The marker, the history and a pause stay.
    """
    entry, was = _stored(caller, name)
    if if_match is not None and entry is None:
        raise Problem("stale-revision", f"{name}: there is no such schedule")
    schedule = schedule_from(caller, name, dict(body), was)
    revision = expected_revision(if_match)
    if revision is None:
        caller.service.add(name, replace=True, **schedule.parts())
    else:
        caller.service.update(name, revision=revision, **schedule.parts())
    return _written(caller, schedule, 200 if entry else 201)


@router.patch(
    "/schedules/{name}",
    response_model=ScheduleDetailView,
    responses=REVISION | NOT_FOUND | CONFLICT | STALE,
    openapi_extra={"requestBody": {"content": {MERGE_PATCH: _SCHEMA, JSON: _SCHEMA}}},
)
def patch_schedule(
    caller: Admin, name: Name, body: requests.Definition, if_match: IfMatch = None
) -> Response:
    """Change some fields of a schedule (RFC 7396).

    null resets an option. A new trigger or target replaces the old one.
    """
    revision = expected_revision(if_match)

    def patch() -> Schedule:
        entry, was = _stored(caller, name)
        if entry is None:
            raise Conflict(ConflictKind.MISSING, name)
        if entry.declared:
            raise Conflict(ConflictKind.DECLARED, name)
        if was is None:
            raise Problem("conflict", f"{entry.fault}; replace it with PUT")
        schedule = schedule_from(caller, name, patched(was, dict(body)), was)
        caller.service.update(name, revision=revision or entry.revision, **schedule.parts())
        return schedule

    return _written(caller, patch() if revision else retry_stale(patch), 200)


@router.delete("/schedules/{name}", status_code=204, responses=NOT_FOUND | CONFLICT | STALE)
def remove_schedule(caller: Admin, name: Name, if_match: IfMatch = None) -> Response:
    """Remove a schedule.

    Enqueued jobs stay. Its history stays readable for 30 days.
    """
    caller.service.remove(name, revision=expected_revision(if_match))
    return Response(status_code=204)


@router.get("/schedules/{name}/next", response_model=Page[FireTimeView], responses=NOT_FOUND)
def next_fire_times(
    caller: Read,
    name: Name,
    n: Annotated[int, Query(ge=1, le=100, description="Fire times to return.")] = 10,
    start: Annotated[Time, Query(alias="from", description="First instant (default now).")] = None,
    until: Annotated[Time, Query(description="Last instant.")] = None,
) -> Response:
    """List the next fire times of a schedule.

    Each has the effect of clock changes, and the reason if it will be skipped. An instant without
    a zone is in the zone of the schedule.
    """
    row, status = _existing(caller, name)
    entry = row.entry
    after = instant_at("from", start, entry.tz) if start else status.now
    last = instant_at("until", until, entry.tz, whole_day=True) if until else None
    coming = upcoming(entry, after, n, last)
    return answer(Page(data=[fire_time_view(fire) for fire in coming], next_cursor=None))


# ---- views ------------------------------------------------------------------------------------


def detail_view(caller: Caller, name: str) -> ScheduleDetailView:
    """Return a schedule with its definition. Raises Conflict when it does not exist."""
    row, status = _existing(caller, name)
    return schedule_detail_view(row, status.now, caller.namespace)


def _existing(caller: Caller, name: str) -> tuple[Row, Status]:
    """Return a row of the list. Raises Conflict when there is no such schedule."""
    status = caller.context.schedules.status()
    rows = caller.context.schedules.rows([name], status)
    if not rows:
        raise Conflict(ConflictKind.MISSING, name)
    return rows[0], status


def _stored(caller: Caller, name: str) -> tuple[Entry | None, Schedule | None]:
    entry = caller.context.store.load([name])[0].get(name)
    return entry, entry.schedule if entry else None


def _written(caller: Caller, schedule: Schedule, code: int) -> Response:
    """Return a schedule after a change. A `once` that was due may be gone already."""
    name, status = schedule.name, caller.context.schedules.status()
    rows = caller.context.schedules.rows([name], status)
    entry = Entry(
        name=name, schedule=schedule, fault="", marker=None, known_since=status.now, revision="0",
        last_job="", declared=False,
    )  # fmt: skip
    row = rows[0] if rows else Row(entry, (), None, "", ("ended",))
    view = schedule_detail_view(row, status.now, caller.namespace)
    headers = located(caller, f"/schedules/{name}") if code == 201 else {}
    return answer(view, code, headers | {"ETag": f'"{view.revision}"'})
