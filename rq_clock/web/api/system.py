"""What is about all schedules: rules of time explained, manifests, the clock, the audit, and the
document of the API itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from rq_clock.doctor.facts import Code, gather
from rq_clock.doctor.schedule_checks import findings, healthy
from rq_clock.errors import Conflict, Fault, ScheduleError
from rq_clock.manifest.document import dump
from rq_clock.manifest.document import read as read_manifest
from rq_clock.manifest.export import choose
from rq_clock.model.entry import Pause
from rq_clock.model.schedule import Schedule
from rq_clock.schedules.serializers import audit_view, fire_view, pause_view, plan_view
from rq_clock.store.operations import BATCH_LIMIT as MOST_AT_ONCE
from rq_clock.store.status import Status
from rq_clock.timing.describe import dst_remarks, fires, words
from rq_clock.timing.instants import from_ms, iso
from rq_clock.web.api import requests as taken
from rq_clock.web.api import responses as given
from rq_clock.web.api.routing import (
    JSON,
    Limit,
    Route,
    answer,
    body_replies,
    page,
    read_json,
    replies,
    text_of,
    wrong,
)
from rq_clock.web.context import Admin, Context, Read, Web, root_of, schedules_for
from rq_clock.web.definitions import escaped, pointed, trigger_from
from rq_clock.web.problems import Problem

router = APIRouter(route_class=Route)
YAML = ("application/yaml", "application/x-yaml", "text/yaml")
BATCH_LIMIT = 20_000
"""Schedules of an exported manifest; `rq-clock export` writes more."""
_CHUNK = 500
_TEXT = {"schema": {"type": "string"}}
_MANIFEST = {"schema": {"$ref": "#/components/schemas/Manifest"}}


# ---- explain ----------------------------------------------------------------------------------


@router.post("/explain", tags=["explain"], responses=body_replies(409, model=given.Explained))
def explain(site: Web, _: Read, given: taken.Explain) -> Response:
    """When a rule of time fires, in words, and when next; what may be meant otherwise is warned
    of. Nothing is stored."""
    fields = given.model_dump(exclude_none=True, exclude={"n"})
    trigger = trigger_from(fields)
    now = site.store.now()
    return answer(
        {
            "words": words(trigger),
            "warnings": trigger.warnings(),
            "next": [fire_view(fire) for fire in fires(trigger, now, given.n)],
            "clockChanges": dst_remarks(trigger, now),
        }
    )


# ---- manifest ---------------------------------------------------------------------------------


async def _text(request: Request) -> str:
    """The body. JSON was looked at when it came (base.py)."""
    return text_of(await request.body())


@router.get(
    "/manifest",
    tags=["manifest"],
    responses=replies(409)
    | {
        200: {
            "description": "The manifest.",
            "content": {JSON: _MANIFEST, YAML[0]: _MANIFEST},
        }
    },
)
def export(
    site: Web,
    _: Read,
    form: Annotated[Literal["yaml", "json"], Query(alias="format")] = "yaml",
    tag: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The schedules that were added at run time, with the pauses that hold, as `PUT` takes them.
    Secrets are masked; where they are put back, the stored ones stay."""
    size = site.store.size()
    if size > BATCH_LIMIT:
        raise Problem(
            "conflict",
            f"expected at most {BATCH_LIMIT:,} schedules, got {size:,}; "
            "`rq-clock export` writes them all",
        )
    chosen = choose(site.store.everything(), [tag] if tag else ())
    pauses: dict[str, Pause] = {}
    for start in range(0, len(chosen.schedules), _CHUNK):
        names = [schedule.name for schedule in chosen.schedules[start : start + _CHUNK]]
        pauses |= site.store.pauses(names)
    try:
        text = dump(chosen.items(pauses, site.store.now()), form=form)
    except ScheduleError as error:
        raise Problem("conflict", str(error)) from None
    return Response(text, media_type=JSON if form == "json" else YAML[0])


@router.put(
    "/manifest",
    tags=["manifest"],
    responses=body_replies(409, 412, model=given.Planned),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {JSON: _MANIFEST} | dict.fromkeys(YAML, _TEXT),
        }
    },
)
def apply(
    request: Request,
    site: Web,
    token: Admin,
    text: Annotated[str, Depends(_text)],
    dry_run: Annotated[bool, Query(alias="dryRun", description="Only say what changes.")] = False,
    prune: Annotated[bool, Query(description="Remove what the manifest does not have.")] = False,
) -> Response:
    """Make the schedules what a manifest says: all of it or, when someone else has changed one of
    them meanwhile, nothing. Those that it does not have stay, but with `prune`."""
    if not text.strip():
        raise wrong("", "expected a manifest with version and schedules, got nothing")
    if request.headers["content-type"].startswith(JSON):
        read_json(text)
    entries: Mapping[str, Any] = {}
    try:
        manifest = read_manifest(text)
        entries = manifest.entries
        items = manifest.items(_stored(site, list(manifest.entries)))
        schedules = schedules_for(site, token)
        plan = schedules.plan(items, prune=prune)
    except Conflict:
        raise
    except ScheduleError as error:
        raise Problem("validation", str(error), errors=_faults(error.faults, entries)) from None
    if len(plan.steps) > MOST_AT_ONCE:
        raise wrong("/schedules", f"expected at most {MOST_AT_ONCE:,} changes at once; divide it")
    if not dry_run and plan.steps:
        schedules.apply(plan, reason="manifest")
    return answer({**plan_view(plan, site.settings.namespace), "dryRun": dry_run})


def _faults(faults: Iterable[Fault], entries: Mapping[str, Any]) -> list[Fault]:
    """Return the faults of a manifest, each at its JSON pointer."""
    found = []
    for fault in faults:
        name = fault.schedule
        if name:
            [fault] = pointed([replace(fault, schedule="")], entries.get(name, {}))
            fault = replace(fault, field=f"/schedules/{escaped(name)}{fault.field}")
        else:
            [fault] = pointed([fault], {})
        found.append(replace(fault, text=str(fault)))
    return found


def _stored(site: Context, names: list[str]) -> dict[str, Schedule]:
    found: dict[str, Schedule] = {}
    for start in range(0, len(names), _CHUNK):
        entries = site.store.load(names[start : start + _CHUNK])[0]
        found |= {name: e.schedule for name, e in entries.items() if e.schedule}
    return found


# ---- the clock and the audit ------------------------------------------------------------------


@router.get("/clock", tags=["clock"], responses=replies(model=given.Clock))
def clock(
    site: Web,
    _: Read,
    checks: Annotated[bool, Query(description="Also what the doctor finds; costs more.")] = False,
) -> Response:
    """How the whole is: which clock leads, how late it is, how many schedules are in trouble."""
    view = clock_view(site.settings.namespace, site.overview.pulse())
    if checks:
        owner = (site.settings.owner, site.settings.former_owner)
        now = site.store.now()
        found = findings(gather(site.store, site.executions, owner, Code()), now)
        told = [asdict(finding) for finding in found]
        view |= {"healthy": healthy(found), "checks": told}
    return answer(view)


def clock_view(namespace: str, pulse: Status) -> dict[str, Any]:
    """How the whole is; `healthy` and `checks` are null, nobody has looked."""
    leader = pulse.leader
    lags = {word: leader.get(f"lag_{word}_ms") for word in ("p50", "p99", "max")}
    told = {
        "instance": leader.get("instance"),
        "owner": leader.get("owner"),
        "since": _instant(leader.get("since")),
        "token": _number(leader.get("token", "").partition(".")[0]),
        "lastTick": _instant(leader.get("tick")),
        **{f"lag{word.capitalize()}Ms": lag and float(lag) for word, lag in lags.items()},
        "version": leader.get("version"),
    }
    return {
        "namespace": namespace,
        "now": iso(pulse.now),
        "leader": told if leader else None,
        "led": iso(pulse.led) if pulse.led else None,
        "schedules": pulse.size,
        "late": pulse.late_count,
        "stuck": len(pulse.stuck),
        "failing": pulse.failing_count,
        "running": len(pulse.running),
        "workers": pulse.workers,
        "pause": pause_view(pulse.pause) if pulse.pause else None,
        "healthy": None,
        "checks": None,
    }


def _instant(ms: str | None) -> str | None:
    return iso(from_ms(ms)) if ms and ms.isdecimal() else None


def _number(word: str) -> int | None:
    return int(word) if word.isdecimal() else None


@router.get(
    "/audit", tags=["clock"], responses=replies(304, model=given.AuditList, headers="ETag Link")
)
def audit(
    request: Request,
    site: Web,
    token: Read,
    limit: Limit = 50,
    cursor: Annotated[str, Query(pattern=r"^([0-9]{1,15}-[0-9]{1,15})?$")] = "",
) -> Response:
    """Who changed what, when and why, newest first."""
    found = schedules_for(site, token).audit(limit, cursor or "+")
    more = found[-1].id if len(found) == limit else ""
    return page(request, [audit_view(one) for one in found], more)


# ---- the document -----------------------------------------------------------------------------


@router.get(
    "/openapi.json",
    tags=["clock"],
    responses=replies() | {200: {"description": "OpenAPI 3.1.", "content": {JSON: {}}}},
)
def document(request: Request, _: Read) -> Response:
    """This document."""
    whole = dict(request.app.openapi())
    return answer(whole | {"servers": [{"url": root_of(request) or "/"}]})
