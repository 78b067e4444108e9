"""Routes of the API: authorization, bodies, idempotency keys, answers.

A body is read only after the caller is authorized. Without the scope, the answer is 401 or 403.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Body, Header, Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rq_clock.errors import Conflict, Fault, ScheduleError
from rq_clock.manifest import reader as plain
from rq_clock.manifest.fields import kind_of
from rq_clock.model.view import encode
from rq_clock.store import cursors
from rq_clock.timing.instants import read_instant
from rq_clock.web.context import API, Caller, Needs, root_of
from rq_clock.web.idempotency import once_of
from rq_clock.web.problems import MEDIA_TYPE, Problem

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
PAGE_LIMIT = 200

Name = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9_-]{1,100}$", description="Name of a schedule.", examples=["report-42"]
    ),
]
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="Entries of a page.")]
Cursor = Annotated[
    str, Query(max_length=500, description="`nextCursor` of the previous page.", examples=[""])
]
IfMatch = Annotated[
    str | None,
    Header(description='Apply only to this revision, such as `"12"`.', max_length=200),
]


class Route(APIRoute):
    """A route of the API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        act = super().get_route_handler()
        [needs] = [d.call for d in self.dependant.dependencies if isinstance(d.call, Needs)]
        content = (self.openapi_extra or {}).get("requestBody", {}).get("content", {JSON: {}})

        async def handle(request: Request) -> Response:
            if request.method in ("GET", "DELETE"):
                return await act(request)
            caller = await run_in_threadpool(needs, request, None)
            await _read(request, content)
            key = request.headers.get("idempotency-key")
            if key is not None and request.method == "POST" and needs.scope != "read":
                target = f"{request.url.path}?{request.url.query}\n".encode()
                whole = target + await request.body()
                request.state.once = once_of(caller.token, self.path_format, key, whole)
            response = await act(request)
            if getattr(request.state, "repeated", False):
                response.headers["Idempotency-Replayed"] = "true"
            return response

        return handle


# ---- bodies -----------------------------------------------------------------------------------


async def _read(request: Request, content: Mapping[str, Any]) -> None:
    """Read the body. Raises Problem for another media type, or for invalid JSON."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return
    if kind not in content:
        raise Problem(
            "media-type", f"expected a body of {' or '.join(content)}, got {kind or 'none named'}"
        )
    if kind in (JSON, MERGE_PATCH):
        whole = read_json(text_of(body))
        if not isinstance(whole, dict):
            raise Problem("validation", f"expected a JSON object, got {kind_of(whole)}")


def text_of(body: bytes) -> str:
    """Return a body as text. Raises Problem."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem("validation", f"expected UTF-8: {error.reason}") from None


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Raises Problem, also for a key that occurs twice and for
    text that UTF-8 cannot encode."""
    try:
        if text.lstrip()[:1] != "{":
            return json.loads(text)
        found = plain.read(text)
        json.dumps(found.value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Problem("validation", "expected Unicode, got half of a surrogate pair") from None
    except (ValueError, RecursionError, ScheduleError) as error:
        fault = str(error) if isinstance(error, ScheduleError) else f"expected JSON: {error}"
        raise Problem("validation", fault) from None
    if found.twice:
        raise Problem("validation", "; ".join(map(str, found.twice)))
    return found.value


def optional(model: type[BaseModel]) -> Any:
    """Return the body of a route that may be called without one."""
    return Body(default_factory=model)


# ---- answers ----------------------------------------------------------------------------------


def answer(view: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a view as JSON, without validation: tests compare it with the document."""
    return Response(_json(view), status, dict(headers or {}), media_type=JSON)


def tagged(caller: Caller, view: Any) -> Response:
    """Return a view with an ETag of its content, and the link to the next page if there is one.
    Return 304 when the caller has it already."""
    body = _json(view)
    tag = f'"{sha256(body).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if cursor := getattr(view, "next_cursor", None):
        url = caller.request.url.include_query_params(cursor=cursor)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    known = caller.request.headers.get("if-none-match", "")
    if known == "*" or tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type=JSON)


def located(caller: Caller, path: str) -> dict[str, str]:
    """Return the header with the address of a new resource."""
    return {"Location": f"{root_of(caller.request)}{API}{path}"}


def _json(view: Any) -> bytes:
    # JSON has an escape for half of a surrogate pair, UTF-8 has none.
    return encode(view).encode(errors="backslashreplace")


# ---- cursors, revisions, instants, faults -----------------------------------------------------


def place_of(cursor: str, *kinds: type) -> list[Any]:
    """Return the place of a cursor, or nothing for an empty cursor. Raises Problem."""
    try:
        return cursors.decode(cursor, *kinds)
    except ScheduleError as error:
        raise wrong("cursor", str(error).removeprefix("cursor: ")) from None


def expected_revision(if_match: str | None) -> str | None:
    """Return the revision in If-Match; None for any. Raises Problem."""
    revision = (if_match or "*").strip()
    if revision == "*":
        return None
    if len(revision) < 2 or revision[0] != '"' or revision[-1] != '"':
        raise wrong("If-Match", f"expected an ETag in quotes, got {revision[:50]!r}")
    return revision[1:-1]


def instant_at(at: str, value: str, tz: str | None = None, *, whole_day: bool = False) -> datetime:
    """Return the instant in a field or parameter. Raises Problem."""
    try:
        return read_instant(value, tz, whole_day=whole_day)
    except ScheduleError as error:
        raise wrong(at, str(error)) from None


@contextmanager
def reported(kind: str = "conflict", at: str = "") -> Iterator[None]:
    """Report a ScheduleError as a problem of a kind, at a field."""
    try:
        yield
    except Conflict:
        raise
    except ScheduleError as error:
        raise Problem(kind, str(error), errors=[Fault(at, str(error))] if at else ()) from None


def wrong(at: str, message: str) -> Problem:
    """Return the problem of a fault at a JSON pointer, or in a parameter."""
    return Problem("validation", f"{at.lstrip('/')}: {message}", errors=[Fault(at, message)])


# ---- documented responses ---------------------------------------------------------------------

Responses = dict[int | str, dict[str, Any]]


def problem(description: str) -> dict[str, Any]:
    """Return the documentation of an error."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def with_headers(*names: str, status: int = 200) -> Responses:
    """Return the documentation of the headers of a successful response."""
    schema = {"type": "string"}
    headers = {name: {"description": _HEADERS[name], "schema": schema} for name in names}
    return {status: {"headers": headers}}


_HEADERS = {
    "ETag": "For If-Match and If-None-Match.",
    "Link": "The next page.",
    "Location": "The address of the new resource.",
}
_UNCHANGED: Responses = {304: {"description": "Not modified."}}
COMMON: Responses = {
    401: problem("No token, or an unknown one."),
    403: problem("The token lacks the scope, the request is cross-site, or this is read-only."),
    422: problem("Invalid request, or an Idempotency-Key that another request has used."),
    429: problem("Too many failed attempts."),
    503: problem("Redis is unavailable."),
}
"""Responses of every route."""
BODY: Responses = {
    413: problem("The body is larger than 1 MB."),
    415: problem("Unsupported media type."),
}
"""Responses of every route with a body."""
CONFLICT: Responses = {409: problem("Conflict with the current state.")}
NOT_FOUND: Responses = {404: problem("Not found.")}
STALE: Responses = {412: problem("Changed by someone else.")}
TAGGED: Responses = _UNCHANGED | with_headers("ETag")
PAGED: Responses = _UNCHANGED | with_headers("ETag", "Link")
REVISION: Responses = with_headers("ETag")
ACCEPTED: Responses = with_headers("Location", status=202)
