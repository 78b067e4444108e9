"""The list of schedules, and what can be done to many of them, or to all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from rq_clock.errors import ScheduleError
from rq_clock.model.filters import Filter
from rq_clock.model.job_id import jobs_by_schedule
from rq_clock.schedules.listing import TROUBLED, Listing
from rq_clock.schedules.service import ALL, Schedules
from rq_clock.settings import Token
from rq_clock.store.operations import BATCH_LIMIT
from rq_clock.timing.instants import read_instant
from rq_clock.web.context import Context, Operate, Read, Web, root_of, schedules_for
from rq_clock.web.pages.form_times import NINE, until_of
from rq_clock.web.pages.layout import Fields, Lists, done, here, page
from rq_clock.web.pages.schedule_row import line
from rq_clock.web.problems import Problem

router = APIRouter()
SIZES = (25, 50, 100, 200)
TABS = ("", "late", "failing", "running", "paused", "ended", "invalid")
"""States to choose from, "" for all."""
RUN_MOST = 200
"""Schedules that are run by hand at once: each takes three round trips."""
VERBS = ("pause", "resume", "run")


@router.get("/")
def list_page(  # noqa: PLR0913 - one a filter
    request: Request,
    site: Web,
    token: Read,
    state: str = "",
    queue: str = "",
    tag: str = "",
    q: str = "",
    origin: str = "",
    sort: str = "trouble",
    size: int = 50,
    cursor: str = "",
    at: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """Schedules that fit, those in trouble first. `at` is how many were shown before."""
    said = {"state": state, "queue": queue, "tag": tag, "q": q.strip(), "origin": origin}
    if size not in SIZES:
        raise Problem("validation", f"size: expected one of {SIZES}, got {size}")
    listing = site.overview.page(_wanted(said), sort=sort, most=size, cursor=cursor)
    kept = {**said, "sort": "" if sort == "trouble" else sort, "size": "" if size == 50 else size}
    following = {**kept, "cursor": listing.cursor, "at": at + len(listing.rows)}
    return page(
        request, "schedules.html", token, listing.pulse,
        listing=listing, lines=[line(row, listing.pulse.now) for row in listing.rows],
        said=said, kept=kept, following=following if listing.cursor else None,
        tabs=_tabs(listing, said, site.settings.namespace), filtered=any(said.values()),
        sizes=SIZES, size=size, at=at, most=BATCH_LIMIT,
    )  # fmt: skip


def _wanted(said: Mapping[str, str]) -> Filter:
    return Filter(
        state=said.get("state") or None,
        queue=said.get("queue") or None,
        tag=said.get("tag") or None,
        text=said.get("q") or None,
        origin=said.get("origin") or None,
    )


def _tabs(listing: Listing, said: Mapping[str, str], namespace: str) -> list[tuple[str, str]]:
    """States and how many there are of each, as far as that is known: under another filter only
    of the one that is shown."""
    pulse, total = listing.pulse, listing.total
    counts: dict[str, str] = {}
    if not any(value for name, value in said.items() if name != "state"):
        late = f"{pulse.late:,}" + ("+" if pulse.late > TROUBLED else "")
        counts = {"": f"{pulse.size:,}", "late": late, "failing": f"{pulse.failing:,}"}
        counts["running"] = f"{len(jobs_by_schedule(namespace, pulse.running)):,}"
    if total is not None:
        counts[said["state"]] = f"{total:,}"
    shown = [*TABS, *([said["state"]] if said["state"] not in TABS else [])]
    return [(tab, counts.get(tab, "")) for tab in shown]


# ---- many at once -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """Schedules that somebody wants to do something to, and where they were chosen."""

    verb: str
    names: tuple[str, ...]
    back: str

    @classmethod
    def read(cls, form: Mapping[str, list[str]], site: Context) -> Chosen:
        """Those that were ticked or, if so wanted, all that fit the list's filters. Raises Problem
        when there are none, or too many."""
        one = {name: values[-1] for name, values in form.items()}
        verb, back = one.get("verb", ""), here(one.get("back", "/"))
        names = form.get("name", [])
        if one.get("all"):
            names = site.overview.names(_wanted(one), BATCH_LIMIT + 1)
        if verb not in VERBS or not names:
            raise Problem("validation", "expected some schedules to be chosen, got none")
        most = RUN_MOST if verb == "run" else BATCH_LIMIT
        if len(names) > most:
            raise Problem(
                "validation",
                f"expected at most {most:,} schedules at once, got more; narrow the filter",
            )
        return cls(verb, tuple(dict.fromkeys(names)), back)


@router.get("/pause")
def pause_all_page(request: Request, site: Web, token: Operate) -> Response:
    """Asks before all schedules are paused."""
    return _ask(request, site, token, Chosen("pause", (ALL,), "/"))


@router.get("/resume")
def resume_all_page(request: Request, site: Web, token: Operate) -> Response:
    """Asks before the pause of all schedules ends."""
    return _ask(request, site, token, Chosen("resume", (ALL,), "/"))


@router.get("/bulk")
@router.get("/bulk/{verb}")
def begin_again(request: Request, token: Read) -> Response:
    """Where a page that asks was loaded anew: what was chosen is in the form that led there."""
    return RedirectResponse(f"{root_of(request)}/", 303)


@router.post("/bulk")
def choose(request: Request, site: Web, token: Operate, form: Lists) -> Response:
    """Asks before something is done to those that were chosen."""
    return _ask(request, site, token, Chosen.read(form, site))


@router.post("/bulk/{verb}")
def act(request: Request, site: Web, token: Operate, verb: str, form: Fields) -> Response:
    """Does it. Those that were shown are meant, whatever fits the filters by now."""
    names = tuple(form.get("names", "").split())
    chosen = Chosen(verb, names, here(form.get("back", "/")))
    if verb not in VERBS or not names:
        raise Problem("validation", "expected some schedules to be chosen, got none")
    try:
        said = _act(schedules_for(site, token), chosen, form, site)
    except ScheduleError as error:
        return _ask(request, site, token, chosen, form=form, error=str(error), status=409)
    return done(request, chosen.back, said)


def _ask(request: Request, site: Context, token: Token, chosen: Chosen, **values: Any) -> Response:
    pulse = site.overview.pulse()
    return page(
        request, "bulk.html", token, pulse, chosen=chosen, everything=chosen.names == (ALL,),
        tomorrow=read_instant(NINE, "UTC", now=pulse.now), tz="UTC", **{"form": {}, **values},
    )  # fmt: skip


def _act(schedules: Schedules, chosen: Chosen, form: Mapping[str, str], site: Context) -> str:
    """Do it; what was done, in words. Raises ScheduleError."""
    names, reason = chosen.names, form.get("reason", "").strip()
    what = "all schedules" if names == (ALL,) else _counted(len(names))
    if chosen.verb == "pause":
        until = until_of(form, "UTC", site.overview.pulse().now)
        missed = form.get("missed", "skip")
        schedules.pause(names, reason=reason, until=until, missed=missed)
        return f"Paused {what}."
    if chosen.verb == "resume":
        schedules.resume(names, missed=form.get("missed") or None)
        return f"Resumed {what}."
    return _run(schedules, names, reason)


def _run(schedules: Schedules, names: tuple[str, ...], reason: str) -> str:
    """Run each; what became of them. One that cannot run keeps no other from it."""
    if len(names) > RUN_MOST or ALL in names:
        raise ScheduleError(f"expected at most {RUN_MOST} schedules to run at once")
    ran, refused = 0, []
    for name in names:
        try:
            schedules.trigger(name, reason=reason)
            ran += 1
        except ScheduleError as error:
            refused.append(str(error))
    told = [f"Enqueued a run of {_counted(ran)}."] if ran else []
    if refused:
        told.append(f"{_counted(len(refused))} did not run:")
        told += refused[:10]
    return "\n".join(told)


def _counted(number: int) -> str:
    return "1 schedule" if number == 1 else f"{number:,} schedules"
