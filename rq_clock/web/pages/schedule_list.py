"""The list of schedules, and bulk actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response

from rq_clock.errors import ScheduleError
from rq_clock.model.filters import Filter
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.listing import Listing
from rq_clock.schedules.service import Schedules
from rq_clock.store.operations import BATCH_LIMIT
from rq_clock.timing.instants import read_instant
from rq_clock.web.context import Caller, Context, Operate, Read, root_of
from rq_clock.web.pages.layout import Fields, Lists, done, here, page
from rq_clock.web.pages.schedule_actions import NINE, until_of
from rq_clock.web.pages.schedule_row import schedule_row
from rq_clock.web.problems import Problem

router = APIRouter()
SIZES = (25, 50, 100, 200)
TABS = ("", "late", "stuck", "failing", "running", "paused", "ended", "invalid")
"""States to filter by; "" is all."""
RUN_LIMIT = 200
"""Schedules of one bulk run: each takes three round trips."""
VERBS = ("pause", "resume", "run")


@router.get("/")
def list_page(  # noqa: PLR0913 - one a filter
    caller: Read, state: str = "", queue: str = "", tag: str = "", q: str = "", origin: str = "",
    sort: str = "trouble", size: int = 50, cursor: str = "", at: Annotated[int, Query(ge=0)] = 0,
) -> Response:  # fmt: skip
    """Return matching schedules, those in trouble first. `at` counts those on earlier pages."""
    query = {"state": state, "queue": queue, "tag": tag, "q": q.strip(), "origin": origin}
    if size not in SIZES:
        raise Problem("validation", f"size: expected one of {SIZES}, got {size}")
    listing = caller.context.schedules.page(_filter(query), sort=sort, limit=size, cursor=cursor)
    kept = {**query, "sort": "" if sort == "trouble" else sort, "size": "" if size == 50 else size}
    following = {**kept, "cursor": listing.cursor, "at": at + len(listing.rows)}
    return page(
        caller, "schedules.html", listing.status,
        listing=listing, rows=[schedule_row(row, listing.status.now) for row in listing.rows],
        query=query, kept=kept, following=following if listing.cursor else None,
        tabs=_tabs(listing, query), filtered=any(query.values()),
        sizes=SIZES, size=size, at=at, limit=BATCH_LIMIT,
    )  # fmt: skip


def _filter(query: Mapping[str, str]) -> Filter:
    state, queue, tag, text, origin = map(query.get, ("state", "queue", "tag", "q", "origin"))
    states = (state,) if state else ()
    return Filter(states=states, queue=queue, tag=tag, text=text, origin=origin)


def _tabs(listing: Listing, query: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the states with their counts. With another filter only the shown state has one."""
    status, total = listing.status, listing.total
    counts: dict[str, str] = {}
    if not any(value for name, value in query.items() if name != "state"):
        counts = {
            "": f"{status.size:,}",
            "late": f"{status.late_count:,}",
            "stuck": f"{len(status.stuck):,}",
            "failing": f"{status.failing_count:,}",
            "running": f"{len(status.running_jobs):,}",
        }
    if total is not None:
        counts[query["state"]] = f"{total:,}"
    shown = [*TABS, *([query["state"]] if query["state"] not in TABS else [])]
    return [(tab, counts.get(tab, "")) for tab in shown]


# ---- bulk actions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """The schedules and the verb of a bulk action, and the list that they were selected on."""

    verb: str
    names: tuple[str, ...]
    back: str

    @classmethod
    def read(cls, form: Mapping[str, list[str]], site: Context) -> Selection:
        """Return the selected schedules or, with `all`, those that match the filters of the list.
        Raises Problem when there are none, or too many."""
        one = {name: values[-1] for name, values in form.items()}
        verb, back = one.get("verb", ""), here(one.get("back", "/"))
        names = form.get("name", [])
        if one.get("all"):
            names = site.schedules.names(_filter(one), BATCH_LIMIT + 1)
        if verb not in VERBS or not names:
            raise Problem("validation", "expected some schedules to be selected, got none")
        limit = RUN_LIMIT if verb == "run" else BATCH_LIMIT
        if len(names) > limit:
            detail = f"expected at most {limit:,} schedules at once, got more; narrow the filter"
            raise Problem("validation", detail)
        return cls(verb, tuple(dict.fromkeys(names)), back)


@router.get("/pause")
def pause_all_page(caller: Operate) -> Response:
    """Confirm a pause of all schedules."""
    return _confirm(caller, Selection("pause", (ALL,), "/"))


@router.get("/resume")
def resume_all_page(caller: Operate) -> Response:
    """Confirm the end of the pause of all schedules."""
    return _confirm(caller, Selection("resume", (ALL,), "/"))


@router.get("/bulk")
@router.get("/bulk/{verb}")
def reloaded(caller: Read) -> Response:
    """Redirect a reloaded confirmation to the list: its selection was in the form."""
    return RedirectResponse(f"{root_of(caller.request)}/", 303)


@router.post("/bulk")
def bulk_page(caller: Operate, form: Lists) -> Response:
    return _confirm(caller, Selection.read(form, caller.context))


@router.post("/bulk/{verb}")
def bulk_action(caller: Operate, verb: str, form: Fields) -> Response:
    """Act on the schedules that the confirmation named, whatever matches by now."""
    names = tuple(form.get("names", "").split())
    selection = Selection(verb, names, here(form.get("back", "/")))
    if verb not in VERBS or not names:
        raise Problem("validation", "expected some schedules to be selected, got none")
    try:
        message = _act(caller, selection, form)
    except ScheduleError as error:
        return _confirm(caller, selection, form=form, error=str(error), status_code=409)
    return done(caller, selection.back, message)


def _confirm(caller: Caller, selection: Selection, **values: Any) -> Response:
    status = caller.context.schedules.status()
    return page(
        caller, "bulk.html", status, selection=selection,
        everything=selection.names == (ALL,),
        tomorrow=read_instant(NINE, "UTC", now=status.now), tz="UTC", **{"form": {}, **values},
    )  # fmt: skip


def _act(caller: Caller, selection: Selection, form: Mapping[str, str]) -> str:
    """Act, and return a message. Raises ScheduleError."""
    schedules = caller.service
    names, reason = selection.names, form.get("reason", "").strip()
    what = "all schedules" if names == (ALL,) else _counted(len(names))
    if selection.verb == "pause":
        until = until_of(form, "UTC", caller.context.schedules.status().now)
        missed = form.get("missed", "skip")
        schedules.pause(names, reason=reason, until=until, missed=missed)
        return f"Paused {what}."
    if selection.verb == "resume":
        schedules.resume(names, missed=form.get("missed") or None)
        return f"Resumed {what}."
    return _run(schedules, names, reason)


def _run(schedules: Schedules, names: tuple[str, ...], reason: str) -> str:
    """Run each, and return a message. One that cannot run does not stop the others."""
    if len(names) > RUN_LIMIT or ALL in names:
        raise ScheduleError(f"expected at most {RUN_LIMIT} schedules to run at once")
    ran, refused = 0, []
    for name in names:
        try:
            schedules.trigger(name, reason=reason)
            ran += 1
        except ScheduleError as error:
            refused.append(str(error))
    lines = [f"Enqueued a run of {_counted(ran)}."] if ran else []
    if refused:
        lines.append(f"{_counted(len(refused))} did not run:")
        lines += refused[:10]
    return "\n".join(lines)


def _counted(number: int) -> str:
    return "1 schedule" if number == 1 else f"{number:,} schedules"
