"""The OpenAPI 3.1 document, and its page, which loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.responses import Response

from rq_clock.version import __version__
from rq_clock.web.api import requests
from rq_clock.web.api.routing import BODY, COMMON, CONFLICT
from rq_clock.web.api.schemas import Problem
from rq_clock.web.context import API, Read, context_of
from rq_clock.web.idempotency import LONGEST
from rq_clock.web.pages.layout import page

if TYPE_CHECKING:
    from rq_clock.web.sections import Section

docs = APIRouter(include_in_schema=False)
_documents: dict[tuple[Section, ...], dict[str, Any]] = {}
_TAGS = {
    "schedules": "Schedules and their next fire times.",
    "operations": "Run, pause, resume, skip, backfill. They work while no clock runs.",
    "runs": "Outcomes of fire times.",
    "queues": "RQ's queues, workers and jobs.",
    "tasks": "URLs that are called at or after an instant.",
    "explain": "Triggers in words.",
    "manifest": "Run-time schedules as YAML or JSON.",
    "clock": "The clock, events, the audit, this document.",
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A key of the caller's choice. A request that is repeated with its key within "
    "24 hours acts once; the answer has `Idempotency-Replayed: true`.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": "^[ -~]+$"},
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETag of an earlier response; 304 if it is still the same.",
    "schema": {"type": "string"},
}
_DESCRIPTION = """Schedules for RQ. Instants are ISO 8601, keys camelCase, errors problem details
(RFC 9457) whose `type` names the kind of error. Every path needs a token of RQ_CLOCK_TOKENS with
a scope: `read` to read, `operate` to operate, `admin` to define schedules, `tasks` for tasks."""


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once per process and set of sections: that takes a third of a
    second."""
    sections: tuple[Section, ...] = app.state.web.sections
    if sections not in _documents:
        made = get_openapi(
            title=app.title,
            version=__version__,
            summary=app.summary,
            description=_DESCRIPTION,
            routes=app.routes,
            tags=[{"name": name, "description": text} for name, text in _tags(sections).items()],
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for kind in (
            Problem, requests.Definition, requests.Manifest, requests.NewTask, requests.TaskBatch,
            requests.ConfigurationPatch,
        ):  # fmt: skip
            schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                _complete(method, operation, ours=path.startswith(API))
        _documents[sections] = _plain_names(made)
    return _documents[sections]


def _tags(sections: tuple[Section, ...]) -> dict[str, str]:
    """Return the groups of operations with their descriptions."""
    return _TAGS | {s.path[1:]: f"{s.name}, of this app." for s in sections if s.api}


def _plain_names(made: dict[str, Any]) -> dict[str, Any]:
    """Return the document with names for client developers: RunView is Run, a page of them
    RunPage."""
    text = json.dumps(made)
    text = re.sub(r'"(#/components/schemas/)?Page_(\w+?)(?:View)?_"', r'"\1\2Page"', text)
    text = re.sub(r'"(#/components/schemas/)?(\w+)View"', r'"\1\2"', text)
    named: dict[str, Any] = json.loads(text)
    for name, schema in named["components"]["schemas"].items():
        schema["title"] = name
    return named


def _complete(method: str, operation: dict[str, Any], *, ours: bool) -> None:
    """Add the responses and parameters that follow from the method and the body. Only our routes
    take idempotency keys."""
    operation["operationId"] = operation["operationId"].partition("_api_")[0]
    responses, parameters = COMMON, []
    if "requestBody" in operation:
        responses = responses | BODY
    if method == "post":
        responses = responses | CONFLICT
        if ours:
            parameters.append(_IDEMPOTENCY_KEY)
    if "304" in operation["responses"]:
        parameters.append(_IF_NONE_MATCH)
    for status, response in responses.items():
        operation["responses"].setdefault(str(status), response)
    operation["parameters"] = [*operation.get("parameters", []), *parameters]


# ---- the page ---------------------------------------------------------------------------------


@docs.get("/docs")
def docs_page(caller: Read) -> Response:
    """Show the document as a page."""
    document = caller.request.app.openapi()
    tags = _tags(context_of(caller.request).sections)
    groups: dict[str, list[Any]] = {name: [] for name in tags}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups[operation["tags"][0]].append((method.upper(), path, operation))
    return page(
        caller, "docs.html", caller.context.schedules.status(), groups=groups, tags=tags,
        schemas=dict(sorted(document["components"]["schemas"].items())), kind_of=_kind, api=API,
        description=_DESCRIPTION,
    )  # fmt: skip


def _kind(schema: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")
