"""The document of the API (OpenAPI 3.1): what the routes say of themselves, with what is the same
for all of them; and the page that shows it to people, which loads nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from rq_clock.version import __version__
from rq_clock.web.api import requests as taken
from rq_clock.web.api import schemas as models
from rq_clock.web.api.routing import API, REFUSED
from rq_clock.web.context import Read, Web
from rq_clock.web.idempotency import LONGEST
from rq_clock.web.pages.layout import page

docs = APIRouter(include_in_schema=False)
_made: dict[str, Any] = {}
_TAGS = {
    "schedules": "What there is, and what is to come.",
    "operations": "What is done to schedules. All of it works with the clock down.",
    "runs": "What became of fire times.",
    "queues": "RQ's queues, workers and jobs.",
    "explain": "Rules of time in words.",
    "manifest": "Run-time schedules as a text.",
    "clock": "The clock, what changes as it happens, the audit, this document.",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Of the caller's choice; the same request with the same key acts once, and is "
    "answered alike for 24 hours (`Idempotency-Replayed: true`).",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": "^[ -~]+$"},
}
_KNOWN = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETag of the answer that the caller has: 304 if it is still the same.",
    "schema": {"type": "string"},
}
_DESCRIPTION = """Schedules for RQ. Instants are ISO 8601, keys camelCase, errors problem details
(RFC 9457) whose `type` says what to do about them. Every path needs a token of RQ_CLOCK_TOKENS:
reading the scope `read`, operating `operate`, defining `admin`."""


def described(app: FastAPI) -> dict[str, Any]:
    """The document. It takes a third of a second, and is the same for all apps of a process."""
    if not _made:
        document = get_openapi(
            title=app.title,
            version=__version__,
            summary=app.summary,
            description=_DESCRIPTION,
            routes=app.routes,
            tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (models.Problem, taken.Definition, taken.Manifest):
            _add(schemas, model)
        for path in document["paths"].values():
            for method, operation in path.items():
                operation["operationId"] = _short(operation["operationId"])
                for status, refusal in REFUSED.items():  # also of routes that have not said so
                    operation["responses"].setdefault(status, refusal)
                more = [_KEY] if method == "post" else []
                more += [_KNOWN] if "304" in operation["responses"] else []
                operation["parameters"] = [*operation.get("parameters", []), *more]
        _made.update(document)
    return _made


def _add(schemas: dict[str, Any], model: type[models.Model]) -> None:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema


def _short(operation: str) -> str:
    """`get_schedule` of `get_schedule_api_v1_schedules__name__get`."""
    return operation.partition("_api_v1_")[0]


# ---- for people -------------------------------------------------------------------------------


@docs.get("/docs")
def docs_page(request: Request, site: Web, token: Read) -> Response:
    """The document as a page."""
    document = request.app.openapi()
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in _TAGS}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            group = operation.get("tags", ["clock"])[0]
            groups.setdefault(group, []).append(_told(document, path, method, operation))
    pulse = site.overview.pulse()
    shown = [(name, _TAGS.get(name, ""), rows) for name, rows in groups.items() if rows]
    schemas = {
        name: _fields(schema) for name, schema in sorted(document["components"]["schemas"].items())
    }
    return page(
        request, "docs.html", token, pulse, groups=shown, schemas=schemas, api=API,
        description=_DESCRIPTION,
    )  # fmt: skip


def _told(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "text": operation.get("description", ""),
        "parameters": [
            {
                "name": p["name"],
                "place": p["in"],
                "required": p.get("required", False),
                "kind": _kind(p.get("schema", {})),
                "text": p.get("description") or p.get("schema", {}).get("description", ""),
            }
            for p in operation.get("parameters", [])
        ],
        "bodies": [(kind, _kind(said.get("schema", {}))) for kind, said in content.items()],
        "answers": [
            (status, said["description"], [_kind(c.get("schema", {})) for c in _contents(said)])
            for status, said in operation["responses"].items()
        ],
    }


def _contents(said: dict[str, Any]) -> list[dict[str, Any]]:
    return list(said.get("content", {}).values())


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    required = schema.get("required", [])
    return {
        "text": schema.get("description", ""),
        "examples": schema.get("examples", []),
        "fields": [
            (name, _kind(said), name in required, said.get("description", ""))
            for name, said in schema.get("properties", {}).items()
        ],
    }


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
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
