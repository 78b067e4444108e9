"""The frame of all pages: rendering, messages, cookies, forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from itsdangerous import BadSignature, URLSafeSerializer
from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from redis.exceptions import RedisError

from rq_clock.model.validation import REASON_LIMIT
from rq_clock.settings import Token
from rq_clock.store.status import Status
from rq_clock.version import __version__
from rq_clock.web.context import Caller, Web, context_of, path_of, root_of
from rq_clock.web.pages import filters
from rq_clock.web.problems import Problem

FLASH = "rq_clock_message"
THEME, THEMES = "rq_clock_theme", ("light", "dark")
NAVIGATION = (
    ("s", "/", "Schedules"),
    ("t", "/timeline", "Timeline"),
    ("r", "/runs", "Runs"),
    ("q", "/queues", "Queues"),
    ("k", "/callbacks", "Callbacks"),
    ("c", "/clock", "Clock"),
    ("a", "/audit", "Audit"),
)
"""Key after "g", path and word of each section."""
FIELDS = 2000
"""Fields of a form; that of a bulk operation has one for each of 1,000 schedules."""
OPEN_FIELDS, OPEN_BYTES = 1000, 64 * 1024
"""Fields and bytes of a form that needs no login."""
_OTHERS = {
    "/schedules": "/", "/new": "/", "/bulk": "/", "/jobs": "/queues", "/bulk-jobs": "/queues",
    "/bulk-callbacks": "/callbacks",
}  # fmt: skip
"""First segment of a path → the section that it belongs to."""
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
_OUTSIDE = re.compile(rf"<textarea.*?</textarea>|<[^>]*>|({_DIRECTION.pattern})", re.DOTALL)
_TEMPLATES = Jinja2Templates(directory=Path(__file__).parent.parent / "templates")
_TEMPLATES.env.trim_blocks = _TEMPLATES.env.lstrip_blocks = True
filters.install(_TEMPLATES.env)
_TEMPLATES.env.globals |= {"REASON_LIMIT": REASON_LIMIT}


@lru_cache
def _environment(templates: Path | None) -> Environment:
    """Return the templates, with those of a section's directory before the others."""
    ours = _TEMPLATES.env
    if templates is None:
        return ours
    assert ours.loader
    loader = ChoiceLoader([FileSystemLoader(templates), ours.loader])
    return ours.overlay(loader=loader)


def page(caller: Caller, template: str, status: Status, /, **values: Any) -> Response:
    """Render a page. `status` fills the strip below the header."""
    return render(caller.request, template, caller.token, status, **values)


def render(
    request: Request, template: str, token: Token | None, status: Status | None, /, **values: Any
) -> Response:
    """Render a page that is shown also while Redis is away (`status` is None), and without a
    login."""
    site, path = context_of(request), path_of(request)
    first = "/" + path[1:].partition("/")[0]
    theme = request.cookies.get(THEME, "")
    opened = request.headers.get("sec-fetch-dest") != "empty"  # not fetched by a page's script
    context: dict[str, Any] = {
        "token": token,
        "scopes": () if site.read_only or not token else token.scopes,
        "read_only": site.read_only,
        "status": status,
        "now": status.now if status else None,
        "namespace": site.settings.namespace,
        "version": __version__,
        "root": root_of(request),
        "path": path,
        "address": _address(request),
        "section": _OTHERS.get(first, first),
        "navigation": (*NAVIGATION, *((s.key, s.path, s.name) for s in site.sections)),
        "theme": theme if theme in THEMES else "",
        "flash": _flashed(request) if opened else "",
        **values,
    }
    code = values.get("status_code", 200)
    section = site.section(path)
    environment = _environment(section.templates if section else None)
    text = in_order(environment.get_template(template).render(context))
    response = HTMLResponse(text.encode(errors="backslashreplace"), code)  # half a surrogate pair
    if problem := values.get("problem"):
        response.headers.update(problem.headers)
    elif code == 200 and (etag := getattr(request.state, "etag", "")):
        response.headers["ETag"] = etag
    if opened and FLASH in request.cookies:
        response.delete_cookie(FLASH, path=context["root"] or "/")
    return response


def unless_same(request: Request, site: Web) -> None:
    """Answer an open page that asks for itself again with 304 while nothing has changed.

    Answers stay `no-store`: the page keeps its ETag itself, and no page is left on a disk. A page
    that a person opens sends no ETag, so it is always rendered."""
    known = request.headers.get("if-none-match")
    token = site.access.session(request) if known else None
    if token is None:
        return
    site.access.admit(token)
    section = site.section(path_of(request))
    if section and not section.version:
        return
    latest = site.changes.latest("" if section else request.path_params.get("id", ""))
    if section and section.version:
        latest += section.version()
    looks = (__version__, request.cookies.get(THEME, ""), site.read_only, site.settings.namespace)
    parts = repr((latest, token.name, sorted(token.scopes), *looks))
    request.state.etag = f'"{sha256(parts.encode()).hexdigest()[:24]}"'
    if known == request.state.etag:
        raise HTTPException(304, headers={"ETag": request.state.etag})


def fragment(caller: Caller, template: str, /, **values: Any) -> Response:
    values["root"] = root_of(caller.request)
    return HTMLResponse(in_order(_TEMPLATES.env.get_template(template).render(values)))


def in_order(page: str) -> str:
    """Return HTML with the marks escaped that change the direction of writing: with one of them a
    text shows something else than it says. Values of forms keep theirs."""
    if not _DIRECTION.search(page):
        return page
    return _OUTSIDE.sub(lambda found: ascii(found[1])[1:-1] if found[1] else found[0], page)


def done(caller: Caller, to: str, message: str) -> Response:
    """Redirect to a path of this site after an action, with a message."""
    request = caller.request
    response = RedirectResponse(root_of(request) + to, 303)
    remember(request, response, FLASH, _signer(request).dumps(message), 60)
    return response


def remember(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    """Set a cookie for the path that the app is mounted under."""
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path=root_of(request) or "/",
    )


def failed(request: Request, problem: Problem) -> Response:
    """Return the page of a problem; without a login, a redirect to the login."""
    site, root = context_of(request), root_of(request)
    if problem.kind == "unauthorized" and request.method == "GET" and not site.access.closed:
        return RedirectResponse(f"{root}/login?next={quote(_address(request))}", 303)
    token, status = site.access.session(request), None
    if token and "read" in token.scopes and problem.status != 503:
        with suppress(RedisError):
            status = site.schedules.status()
    return render(
        request, "problem.html", token, status, problem=problem, status_code=problem.status
    )


async def form_of(request: Request) -> Mapping[str, str]:
    """Return the fields of a form; of a repeated field, the last value."""
    return _last(await lists_of(request))


async def lists_of(request: Request) -> Mapping[str, list[str]]:
    """Return the fields of a form, each with all its values."""
    return _fields(await request.body(), FIELDS)


async def small_form_of(request: Request) -> Mapping[str, str]:
    """Return the fields of a form that anybody may send."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > OPEN_BYTES:
            raise Problem("too-large", f"expected a form of at most {OPEN_BYTES:,} bytes")
    return _last(_fields(bytes(body), OPEN_FIELDS))


def _fields(body: bytes, limit: int) -> Mapping[str, list[str]]:
    try:
        text = body.decode(errors="replace")
        return parse_qs(text, keep_blank_values=True, max_num_fields=limit)
    except ValueError:
        raise Problem("validation", f"expected a form of at most {limit:,} fields") from None


def _last(fields: Mapping[str, list[str]]) -> Mapping[str, str]:
    return {name: values[-1] for name, values in fields.items()}


Fields = Annotated[Mapping[str, str], Depends(form_of)]
Lists = Annotated[Mapping[str, list[str]], Depends(lists_of)]
"""Parameters of routes."""


def here(path: str) -> str:
    """Return the path if it is one of this site, or else "/"."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain else "/"


def _address(request: Request) -> str:
    """Return path and query within the app; of a POST the path alone, which is its form's."""
    raw = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("ascii", "replace").removeprefix(root_of(request))
    query = f"?{request.url.query}" if request.url.query else ""
    return path + query if request.method == "GET" else path


def _signer(request: Request) -> URLSafeSerializer:
    return context_of(request).access.serializer("flash")


def _flashed(request: Request) -> str:
    try:
        return str(_signer(request).loads(request.cookies.get(FLASH, "")))
    except BadSignature:
        return ""
