"""The schedules: list, add, change, remove, and what is to come of one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.manifest.definition import document, patched
from rq_clock.model.entry import Entry
from rq_clock.model.filters import Filter
from rq_clock.model.schedule import Schedule
from rq_clock.schedules.listing import Row
from rq_clock.schedules.serializers import fire_view, row_view
from rq_clock.schedules.upcoming import upcoming
from rq_clock.store.status import Status
from rq_clock.timing.instants import LONGEST, read_instant
from rq_clock.web.api import requests as taken
from rq_clock.web.api import responses as given
from rq_clock.web.api.routing import (
    JSON,
    MERGE_PATCH,
    Cursor,
    IfMatch,
    Limit,
    Name,
    Route,
    act_replies,
    answer,
    body_replies,
    claim_of,
    expected_revision,
    located,
    page,
    replies,
    wrong,
)
from rq_clock.web.context import Admin, Context, Read, Web, schedules_for
from rq_clock.web.definitions import schedule_from
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route, tags=["schedules"])
TRIES = 20
"""How often a patch is made anew that somebody, or the clock, got ahead of."""
State = Literal["invalid", "late", "stuck", "failing", "paused", "running", "ended", "scheduled"]
Word = Annotated[str | None, Query(max_length=200)]
_SCHEMA = {"schema": {"$ref": "#/components/schemas/Definition"}}


@router.get("/schedules", responses=replies(304, model=given.ScheduleList, headers="ETag Link"))
def list_schedules(  # noqa: PLR0913 - one a filter
    request: Request,
    site: Web,
    _: Read,
    state: State | None = None,
    queue: Word = None,
    tag: Word = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of name or target.")] = None,
    origin: Literal["declared", "run-time"] | None = None,
    sort: Literal["trouble", "next", "last", "name"] = "trouble",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """The schedules that fit, those in trouble first. Of more than 20,000 not every order can be
    had (`order` says which it is), and what has to be searched for may come in short pages."""
    wanted = Filter(
        states=(state,) if state else (),
        queue=queue or None,
        tag=tag or None,
        text=q or None,
        origin=origin,
    )
    try:
        found = site.overview.page(wanted, sort=sort, most=limit, cursor=cursor)
    except ScheduleError:  # state and sort are known here
        raise wrong(
            "cursor", "expected the one of a page in the same order; begin again without one"
        ) from None
    rows = [row_view(row, found.pulse.now, site.settings.namespace) for row in found.rows]
    said = {"total": found.total, "order": found.order, "searched": found.searched}
    return page(request, rows, found.cursor, **said)


@router.post(
    "/schedules",
    status_code=201,
    responses=act_replies(ok=201, model=given.FullSchedule, headers="ETag Location"),
)
def add_schedule(request: Request, site: Web, token: Admin, given: taken.NewSchedule) -> Response:
    """Add a schedule. It is known since now: nothing before that is due, but for a `once`, which
    is due at once when its instant has passed."""
    fields: dict[str, Any] = dict(given)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise wrong("/name", "expected a name of 1-100 letters, digits, '_' or '-'")
    schedule = schedule_from(name, fields)
    entry, _ = _stored(site, name)
    claim = claim_of(request)
    try:
        if entry is not None and not (claim and claim.again):
            raise Conflict(ConflictKind.EXISTS, name)
        schedules_for(site, token).add(name, **schedule.parts())
    except Conflict as conflict:
        if conflict.kind is not ConflictKind.EXISTS:
            raise
        said = f"{name}: exists already; change it with PATCH, or replace it with PUT"
        raise Problem("exists", said) from None
    return _told(request, site, schedule, 201)


@router.get("/schedules/{name}", responses=replies(404, model=given.FullSchedule, headers="ETag"))
def get_schedule(site: Web, _: Read, name: Name) -> Response:
    """One schedule, with its definition. Its ETag is its revision, for If-Match; its state and
    its runs change without it."""
    view = full_view(site, name)
    return answer(view, headers={"ETag": f'"{view["revision"]}"'})


@router.put(
    "/schedules/{name}",
    responses=body_replies(409, 412, model=given.FullSchedule, headers="ETag")
    | {201: {"model": given.FullSchedule, "description": "It is new."}},
)
def put_schedule(
    request: Request,
    site: Web,
    token: Admin,
    name: Name,
    given: taken.Definition,
    if_match: IfMatch = None,
) -> Response:
    """Make a schedule what is said, whether it is there or not. What it has of marker, history and
    pause stays; what is not said is at its default."""
    entry, was = _stored(site, name)
    if if_match is not None and entry is None:
        raise Problem("stale-revision", f"{name}: there is no such schedule")
    schedule = schedule_from(name, dict(given), was)
    schedules, revision = schedules_for(site, token), expected_revision(if_match)
    if revision is None:
        schedules.add(name, replace=True, **schedule.parts())
    else:
        schedules.update(name, revision=revision, **schedule.parts())
    return _told(request, site, schedule, 200 if entry else 201)


@router.patch(
    "/schedules/{name}",
    responses=body_replies(404, 409, 412, model=given.FullSchedule, headers="ETag"),
    openapi_extra={"requestBody": {"content": {MERGE_PATCH: _SCHEMA, JSON: _SCHEMA}}},
)
def patch_schedule(
    request: Request,
    site: Web,
    token: Admin,
    name: Name,
    given: taken.Definition,
    if_match: IfMatch = None,
) -> Response:
    """Change what is named, and nothing else (RFC 7396): null takes an option away. A new rule of
    time, or a new target, takes the place of the old one."""
    revision = expected_revision(if_match)
    for tries_left in reversed(range(TRIES)):
        entry, was = _stored(site, name)
        if entry is None:
            raise Conflict(ConflictKind.MISSING, name)
        if entry.declared:
            raise Conflict(ConflictKind.DECLARED, name)
        if was is None:
            raise Problem("conflict", f"{entry.fault}; replace it with PUT")
        schedule = schedule_from(name, patched(was, dict(given)), was)
        try:
            schedules_for(site, token).update(
                name, revision=revision or entry.revision, **schedule.parts()
            )
            break
        except Conflict as conflict:
            if revision or not tries_left or conflict.kind is not ConflictKind.STALE:
                raise
    return _told(request, site, schedule, 200)


@router.delete("/schedules/{name}", status_code=204, responses=replies(404, 409, 412, ok=204))
def remove_schedule(site: Web, token: Admin, name: Name, if_match: IfMatch = None) -> Response:
    """Remove a schedule. Jobs that are enqueued stay; its history stays readable for 30 days."""
    schedules_for(site, token).remove(name, revision=expected_revision(if_match))
    return Response(status_code=204)


@router.get("/schedules/{name}/next", responses=replies(404, model=given.FireTimes))
def next_fire_times(
    site: Web,
    _: Read,
    name: Name,
    n: Annotated[int, Query(ge=1, le=100, description="How many.")] = 10,
    start: Annotated[
        str | None,
        Query(alias="from", max_length=LONGEST, description="Start here instead of now."),
    ] = None,
    until: Annotated[str | None, Query(max_length=LONGEST, description="The last.")] = None,
) -> Response:
    """The next fire times, with what changes of the clocks do to them, and whether they will be
    skipped as things stand. An instant without a zone is on the clock of the schedule's."""
    pulse = site.overview.pulse()
    entry = _existing(site, name, pulse).entry
    tz = entry.tz
    after, last = pulse.now, None
    for parameter, value in (("from", start), ("until", until)):
        try:
            found = read_instant(value, tz, whole_day=parameter == "until") if value else None
        except ScheduleError as error:
            raise wrong(parameter, str(error)) from None
        after, last = (found or after, last) if parameter == "from" else (after, found)
    return answer({"data": [fire_view(fire) for fire in upcoming(entry, after, n, last)]})


# ---- what is told -----------------------------------------------------------------------------


def full_view(site: Context, name: str) -> dict[str, Any]:
    """A schedule with its definition. Raises Conflict when there is no such schedule."""
    pulse = site.overview.pulse()
    return _full(site, _existing(site, name, pulse), pulse)


def _full(site: Context, row: Row, pulse: Status) -> dict[str, Any]:
    schedule = row.entry.schedule
    definition = document(schedule, secrets=False) if schedule else None
    return {**row_view(row, pulse.now, site.settings.namespace), "definition": definition}


def _existing(site: Context, name: str, pulse: Status) -> Row:
    """Raises Conflict when there is no such schedule."""
    rows = site.overview.rows([name], pulse)
    if not rows:
        raise Conflict(ConflictKind.MISSING, name)
    return rows[0]


def _stored(site: Context, name: str) -> tuple[Entry | None, Schedule | None]:
    entry = site.store.load([name])[0].get(name)
    return entry, entry.schedule if entry else None


def _told(request: Request, site: Context, schedule: Schedule, status: int) -> Response:
    """A schedule that was written, as it is now. A `once` that was due may be gone already."""
    name, pulse = schedule.name, site.overview.pulse()
    rows = site.overview.rows([name], pulse)
    entry = Entry(
        name=name, schedule=schedule, fault="", marker=None, known_since=pulse.now, revision="0",
        last_job="", declared=False,
    )  # fmt: skip
    row = rows[0] if rows else Row(entry, (), None, "", ("ended",))
    headers = _tag(row.entry) | (located(request, f"/schedules/{name}") if status == 201 else {})
    return answer(_full(site, row, pulse), status, headers)


def _tag(entry: Entry) -> dict[str, str]:
    return {"ETag": f'"{entry.revision}"'}
