"""Adding a schedule, and editing one that was added at run time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from rq_clock.errors import Conflict, ScheduleError
from rq_clock.settings import Token
from rq_clock.timing.describe import dst_remarks, fires
from rq_clock.timing.triggers import Once
from rq_clock.timing.zones import zone_names
from rq_clock.web.context import Admin, Context, Read, Web, schedules_for
from rq_clock.web.pages.layout import Fields, done, fragment, page
from rq_clock.web.pages.schedule_detail import existing
from rq_clock.web.pages.schedule_form import EMPTY, WHEN, Draft, values_of
from rq_clock.web.pages.schedule_row import sentence
from rq_clock.web.pages.snippets import as_cli
from rq_clock.web.problems import Problem

router = APIRouter()
NEXT = 5
"""Fire times that a preview tells."""
METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD")
CRONS = (
    ("*/5 * * * *", "every 5 minutes"),
    ("0 * * * *", "every hour"),
    ("0 3 * * *", "every day at 3:00"),
    ("0 9 * * 1-5", "on weekdays at 9:00"),
    ("0 6 1 * *", "on the first of the month"),
    ("0 6 L * *", "on the last of the month"),
)


@router.get("/new")
def new_page(request: Request, site: Web, token: Admin) -> Response:
    """An empty form."""
    return _form(request, site, token, Draft(EMPTY))


@router.post("/new")
def new(request: Request, site: Web, token: Admin, form: Fields) -> Response:
    """Say what it means or, if so wanted and nothing is wrong, add it."""
    draft = Draft.read(form)
    if draft.schedule is None or form.get("do") != "save":
        return _form(request, site, token, draft, told=True)
    name, schedule = draft.schedule.name, draft.schedule
    try:
        schedules_for(site, token).add(name, schedule.trigger, schedule.target, **draft.options)
    except Conflict:
        draft.faults["name"].append("exists already; choose another name, or edit that one")
        return _form(request, site, token, draft, told=True)
    except ScheduleError as error:
        draft.faults[""].append(str(error))
        return _form(request, site, token, draft, told=True)
    return done(request, f"/schedules/{name}", f"Added {name}.")


@router.get("/new/preview")
def preview(request: Request, site: Web, token: Read) -> Response:
    """When a schedule would fire: a part of a page, for those who type."""
    said = {name: request.query_params.get(name, "") for name in WHEN}
    draft = Draft.read({**said, "what": "func", "func": "some.function"})
    now = site.overview.pulse().now
    return fragment(request, "_preview.html", now=now, **_meaning(draft, now))


@router.get("/schedules/{name}/edit")
def edit_page(request: Request, site: Web, token: Admin, name: str) -> Response:
    """A form with what there is."""
    _, found = existing(site, name)
    entry = found.row.entry
    if entry.declared:
        raise Problem("declared-in-code", f"{name} is declared in code; change it there and deploy")
    values = values_of(entry.schedule) if entry.schedule else {**EMPTY, "name": name}
    draft = Draft({**values, "revision": entry.revision})
    if not entry.schedule:
        draft.faults[""].append(f"{entry.fault}; what is saved here takes its place")
    return _form(request, site, token, draft, name=name)


@router.post("/schedules/{name}/edit")
def edit(request: Request, site: Web, token: Admin, name: str, form: Fields) -> Response:
    """Say what it means or, if so wanted and nothing is wrong, change it."""
    _, found = existing(site, name)
    draft = Draft.read({**form, "name": name}, found.row.entry.schedule)
    if draft.schedule is None or form.get("do") != "save":
        return _form(request, site, token, draft, name=name, told=True)
    try:
        schedules_for(site, token).update(
            name, revision=form.get("revision") or None,
            trigger=draft.schedule.trigger, target=draft.schedule.target, **draft.options,
        )  # fmt: skip
    except ScheduleError as error:
        draft.faults[""].append(str(error))
        return _form(request, site, token, draft, name=name, told=True)
    return done(request, f"/schedules/{name}", f"Changed {name}.")


def _form(
    request: Request,
    site: Context,
    token: Token,
    draft: Draft,
    *,
    name: str = "",
    told: bool = False,
) -> Response:
    pulse = site.overview.pulse()
    meaning = _meaning(draft if told or not name else Draft.read(draft.values), pulse.now)
    return page(
        request, "edit.html", token, pulse, name=name, form=draft.values, faults=dict(draft.faults),
        zones=sorted(zone_names()), methods=METHODS, crons=CRONS, fields=" ".join(WHEN),
        cli=as_cli(draft.schedule.name, draft.schedule) if draft.schedule else "",
        status=422 if told and draft.faults else 200, **meaning,
    )  # fmt: skip


def _meaning(draft: Draft, now: datetime) -> Mapping[str, Any]:
    """What a form says of when: in words, the next fire times and what to beware of; or what is
    wrong with it."""
    faults = {name: told for name, told in draft.faults.items() if name in WHEN and name != "name"}
    trigger = draft.trigger
    if trigger is None or trigger.faults() or faults:
        empty = not draft.say("cron") and draft.say("when") in ("", "cron")
        return {
            "sentence": "",
            "when_faults": {} if empty else faults,
            "coming": [],
            "warnings": [],
        }
    offset = draft.schedule.offset if draft.schedule else timedelta(0)
    found = fires(trigger, now, NEXT, offset)
    warnings = list(trigger.warnings())
    if not found:
        late = isinstance(trigger, Once)
        warnings.append("that has passed: it is due at once" if late else "it never fires")
    return {
        "sentence": sentence(trigger), "when_faults": {}, "coming": found, "warnings": warnings,
        "remarks": dst_remarks(trigger, now), "tz": trigger.tz,
    }  # fmt: skip
