"""The ASGI app: routes, middleware and error handlers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from redis import Redis
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import Scope

from rq_clock.errors import Fault, RqClockError
from rq_clock.settings import Settings
from rq_clock.version import __version__
from rq_clock.web import api, health, metrics, pages
from rq_clock.web.auth import SAFE
from rq_clock.web.context import Context, Needs, context_of, path_of
from rq_clock.web.middleware import Middleware
from rq_clock.web.problems import FAULTS, MEDIA_TYPE, Problem, escaped, problem_of
from rq_clock.web.sections import Section, check_sections

_STATIC = Path(__file__).parent / "static"


def create_app(
    settings: Settings | None = None, *, redis: Redis | None = None, read_only: bool = False,
    extra: Sequence[Section] = (),
) -> FastAPI:  # fmt: skip
    """Return the web process as an ASGI app, which can be mounted under a path. `extra` are the
    app's own pages and API routes. Connects on first use. Raises RqClockError for a wrong setting,
    and for an extra route that names no scope."""
    settings = settings or Settings.from_env()
    app = FastAPI(
        title="rq-clock",
        version=__version__,
        summary="Schedules for RQ that survive restarts",
        openapi_url=None,  # needs a token, see api/openapi.py
    )
    app.state.web = Context.of(settings, redis, read_only=read_only, sections=tuple(extra))
    app.add_middleware(Middleware, late=_late, broken=_broken, behind_proxy=settings.behind_proxy)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.router.routes.extend(_routes(settings.metrics_public))
    check_sections(app, extra)
    for section in extra:
        _include(app, section)
    app.openapi = partial(api.document, app)  # type: ignore[method-assign]  # as FastAPI documents
    for kind in (RqClockError, RedisError, Problem):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    return app


@cache
def _routes(metrics_public: bool) -> list[BaseRoute]:
    """Return the routes of every app of this process. FastAPI works out what it needs of a route
    once for each router that includes it, which takes it 150 ms of CPU for ours."""
    ours = APIRouter()
    for router in (pages.router, api.router, api.docs, health.router):
        ours.include_router(router)
    closed = () if metrics_public else (Depends(Needs("read")),)
    ours.include_router(metrics.router, dependencies=closed)
    return ours.routes


def _include(app: FastAPI, section: Section) -> None:
    """Add the routes of a section. A page without a trailing slash is the same page."""
    unchanged = [Depends(pages.unless_same)]
    app.include_router(
        section.pages, prefix=section.path, include_in_schema=False, dependencies=unchanged
    )
    if section.api:
        app.include_router(section.api, tags=[section.path[1:]], responses=api.COMMON)


def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error, context_of(request).settings.redis_url)
    if not _is_api(request):
        return pages.failed(request, problem)
    return problem.answer(request.state.request_id)


def _late(scope: Scope) -> Response:
    request = Request(scope)
    kind, slow = "store-unavailable", "Redis"
    if context_of(request).is_of_section(path_of(request)):
        kind, slow = "unavailable", "what this route needs (such as a database), Redis"
    unknown = "" if request.method in SAFE else "; check whether it was done before you repeat it"
    detail = f"no answer in time: {slow}, this process or the client is too slow{unknown}"
    return _answer(request, Problem(kind, detail, headers={"Retry-After": "2"}))


def _broken(scope: Scope) -> Response:
    """Answer a request whose route raised an exception of no known kind, which is logged."""
    detail = "the process that answers has a fault; its log shows which"
    return _answer(Request(scope), Problem("internal", detail))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:FAULTS]
    faults = [
        Fault(_place(fault["loc"]), str(fault["msg"]).removeprefix("Value error, "))
        for fault in found
    ]
    detail = "; ".join(f"{fault.field.strip('/') or 'body'}: {fault.text}" for fault in faults)
    return _answer(request, Problem("validation", detail, errors=faults))


def _place(path: Sequence[object]) -> str:
    """Return the name of a parameter, or a JSON pointer into the body."""
    kind, *parts = map(str, path)
    if kind != "body":
        return "/".join(parts)
    return "".join(f"/{escaped(part)}" for part in parts)


def _plain(request: Request, error: Exception) -> Response:
    """Answer a request that the framework refuses, such as one for an unknown path."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _answer(request, Problem("not-found", f"nothing at {path_of(request)}"))
    if error.status_code == 304:
        return Response(status_code=304, headers=error.headers)
    if not _is_api(request):
        return Response(error.detail, error.status_code, error.headers)
    document = {"type": "about:blank", "title": error.detail, "status": error.status_code}
    return JSONResponse(document, error.status_code, error.headers, media_type=MEDIA_TYPE)


def _disconnected(request: Request, error: Exception) -> Response:
    """Answer a client that disconnected in the middle of its request, without a log line."""
    return Response(status_code=400)


def _is_api(request: Request) -> bool:
    """Return whether the response is JSON rather than a page."""
    path = path_of(request)
    return path.startswith("/api/") or path == "/metrics"
