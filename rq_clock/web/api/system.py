"""The namespace as a whole: explained triggers, manifests, the clock, the audit, OpenAPI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from rq_clock.doctor.facts import Code, gather
from rq_clock.doctor.schedule_checks import findings
from rq_clock.errors import Conflict, Fault, ScheduleError
from rq_clock.manifest.document import choose, dump
from rq_clock.manifest.document import read as read_manifest
from rq_clock.model.view import Page
from rq_clock.serializers.clock import ClockView, audit_view, clock_view
from rq_clock.serializers.schedules import (
    ChangesView,
    ExplanationView,
    explanation_view,
    plan_view,
)
from rq_clock.store.audit import AuditEntry
from rq_clock.store.operations import BATCH_LIMIT
from rq_clock.timing.describe import fires
from rq_clock.web.api import requests
from rq_clock.web.api.definitions import pointed, trigger_from
from rq_clock.web.api.routing import (
    CONFLICT,
    JSON,
    PAGED,
    STALE,
    Limit,
    Route,
    answer,
    read_json,
    tagged,
    text_of,
    wrong,
)
from rq_clock.web.context import Admin, Read, root_of
from rq_clock.web.problems import Problem, escaped

router = APIRouter(route_class=Route)
YAML = ("application/yaml", "application/x-yaml", "text/yaml")
EXPORT_LIMIT = 20_000
"""Schedules of an exported manifest; `rq-clock export` writes more."""
_TEXT = {"schema": {"type": "string"}}
_MANIFEST = {"schema": {"$ref": "#/components/schemas/Manifest"}}


# ---- explain ----------------------------------------------------------------------------------


@router.post("/explain", tags=["explain"], response_model=ExplanationView)
def explain(caller: Read, body: requests.ExplainRequest) -> Response:
    """Explain a trigger in words, with warnings and its next fire times. Stores nothing."""
    trigger = trigger_from(body.model_dump(by_alias=True, exclude_none=True, exclude={"n"}))
    now = caller.context.store.now()
    return answer(explanation_view(trigger, now, fires(trigger, now, body.n)))


# ---- manifest ---------------------------------------------------------------------------------


async def _text(request: Request) -> str:
    return text_of(await request.body())


@router.get(
    "/manifest",
    tags=["manifest"],
    responses=CONFLICT
    | {
        200: {
            "description": "The manifest.",
            "content": {JSON: _MANIFEST, YAML[0]: _MANIFEST},
        }
    },
)
def export(
    caller: Read,
    form: Annotated[Literal["yaml", "json"], Query(alias="format")] = "yaml",
    tag: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Export the run-time schedules and their pauses as a manifest.

    Secrets are masked. A masked value in a `PUT` keeps the stored one.
    """
    store = caller.context.store
    size = store.size()
    if size > EXPORT_LIMIT:
        raise Problem(
            "conflict",
            f"expected at most {EXPORT_LIMIT:,} schedules, got {size:,}; "
            "`rq-clock export` writes them all",
        )
    chosen = choose(store.everything(), [tag] if tag else ())
    pauses = store.pauses([schedule.name for schedule in chosen.schedules])
    try:
        text = dump(chosen.items(pauses, store.now()), form=form)
    except ScheduleError as error:
        raise Problem("conflict", str(error)) from None
    return Response(text, media_type=JSON if form == "json" else YAML[0])


@router.put(
    "/manifest",
    tags=["manifest"],
    response_model=ChangesView,
    responses=CONFLICT | STALE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {JSON: _MANIFEST} | dict.fromkeys(YAML, _TEXT),
        }
    },
)
def apply(
    caller: Admin,
    text: Annotated[str, Depends(_text)],
    dry_run: Annotated[bool, Query(alias="dryRun", description="Only return the changes.")] = False,
    prune: Annotated[bool, Query(description="Remove schedules that it does not have.")] = False,
) -> Response:
    """Apply a manifest to the run-time schedules.

    All of it, or nothing if someone else changes one of them meanwhile. Schedules that it does not
    have stay, unless `prune` is set.
    """
    if not text.strip():
        raise wrong("", "expected a manifest with version and schedules, got nothing")
    if caller.request.headers["content-type"].startswith(JSON):
        read_json(text)
    entries: Mapping[str, Any] = {}
    try:
        manifest = read_manifest(text)
        entries = manifest.entries
        plan = caller.service.plan(manifest, prune=prune, allowed=caller.allowed_targets)
    except Conflict:
        raise
    except ScheduleError as error:
        raise Problem("validation", str(error), errors=_faults(error.faults, entries)) from None
    if len(plan.steps) > BATCH_LIMIT:
        raise wrong("/schedules", f"expected at most {BATCH_LIMIT:,} changes at once; divide it")
    if not dry_run and plan.steps:
        caller.service.apply(plan, reason="manifest")
    return answer(plan_view(plan, caller.namespace, dry_run=dry_run))


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


# ---- the clock and the audit ------------------------------------------------------------------


@router.get("/clock", tags=["clock"], response_model=ClockView)
def clock(
    caller: Read,
    checks: Annotated[bool, Query(description="Include the doctor's findings (slower).")] = False,
) -> Response:
    """Get the status of the namespace: the leading clock, its lag, schedules in trouble."""
    context, found = caller.context, None
    status = context.schedules.status()
    if checks:
        owner = (context.settings.owner, context.settings.former_owner)
        now = context.store.now()
        found = findings(gather(context.store, context.executions, owner, Code()), now)
    return answer(clock_view(caller.namespace, status, found))


@router.get("/audit", tags=["clock"], response_model=Page[AuditEntry], responses=PAGED)
def audit(
    caller: Read,
    limit: Limit = 50,
    cursor: Annotated[str, Query(pattern=r"^([0-9]{1,15}-[0-9]{1,15})?$")] = "",
) -> Response:
    """List who changed which schedules and why, newest first."""
    found = [audit_view(entry) for entry in caller.service.audit(limit, cursor or "+")]
    more = found[-1].id if len(found) == limit else None
    return tagged(caller, Page(data=found, next_cursor=more))


# ---- the document -----------------------------------------------------------------------------


@router.get(
    "/openapi.json",
    tags=["clock"],
    responses={200: {"description": "OpenAPI 3.1.", "content": {JSON: {}}}},
)
def document(caller: Read) -> Response:
    """Get this document."""
    return answer(
        caller.request.app.openapi() | {"servers": [{"url": root_of(caller.request) or "/"}]}
    )
