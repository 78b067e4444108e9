"""What all pages share: rendering, the strip that says how the clock is, messages, forms."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from itsdangerous import BadSignature, URLSafeSerializer
from redis.exceptions import RedisError

from rq_clock.schedules.listing import TROUBLED, Status
from rq_clock.settings import Token
from rq_clock.timing.durations import duration_text
from rq_clock.version import __version__
from rq_clock.web.context import Web, path_of, root_of, site_of
from rq_clock.web.pages import filters
from rq_clock.web.problems import Problem

FLASH = "rq_clock_said"
THEME, THEMES = "rq_clock_theme", ("light", "dark")
NAVIGATION = (
    ("s", "/", "Schedules"),
    ("t", "/timeline", "Timeline"),
    ("r", "/runs", "Runs"),
    ("q", "/queues", "Queues"),
    ("c", "/clock", "Clock"),
    ("a", "/audit", "Audit"),
)
"""Key behind "g", path and word of each part."""
_OTHERS = {"/schedules": "/", "/new": "/", "/bulk": "/", "/jobs": "/queues"}
"""First parts of paths that belong to a part of another path."""
_TEMPLATES = Jinja2Templates(directory=Path(__file__).parent.parent / "templates")
_TEMPLATES.env.trim_blocks = _TEMPLATES.env.lstrip_blocks = True
filters.install(_TEMPLATES.env)
_TEMPLATES.env.globals["NAVIGATION"] = NAVIGATION


def page(
    request: Request, template: str, token: Token | None, pulse: Status | None, /, **values: Any
) -> Response:
    """A page. `pulse` is how the clock is, for the strip under the head; None when that is not
    known (Redis is away) or not to be told (nobody is logged in)."""
    site, path = site_of(request), path_of(request)
    first = "/" + path[1:].partition("/")[0]
    theme = request.cookies.get(THEME, "")
    opened = request.headers.get("sec-fetch-dest") != "empty"  # not fetched by a page's script
    context: dict[str, Any] = {
        "token": token,
        "scopes": () if site.read_only or not token else token.scopes,
        "read_only": site.read_only,
        "pulse": pulse,
        "clock": _clock(pulse) if pulse else None,
        "now": pulse.now if pulse else None,
        "namespace": site.settings.namespace,
        "version": __version__,
        "root": root_of(request),
        "path": path,
        "address": _address(request),
        "section": _OTHERS.get(first, first),
        "theme": theme if theme in THEMES else "",
        "flash": _flashed(request) if opened else "",
        **values,
    }
    status = values.get("status", 200)
    text = _TEMPLATES.get_template(template).render(context)
    response = HTMLResponse(text.encode(errors="backslashreplace"), status)  # half a surrogate pair
    if problem := values.get("problem"):
        response.headers.update(problem.headers)
    elif status == 200 and (etag := getattr(request.state, "etag", "")):
        response.headers["ETag"] = etag
    if opened and FLASH in request.cookies:
        response.delete_cookie(FLASH, path=context["root"] or "/")
    return response


def unless_same(request: Request, site: Web) -> None:
    """Answer a page that asks for itself again with 304 if it would be made the same.

    Answers stay `no-store`: the page keeps its ETag itself, and no page is left on a disk. A page
    that a person opens sends no ETag, so it is always made anew."""
    known = request.headers.get("if-none-match")
    token = site.access.session(request) if known else None
    if token is None:
        return
    latest = site.changes.latest(request.path_params.get("id", ""))
    looks = (__version__, request.cookies.get(THEME, ""), site.read_only, site.settings.namespace)
    parts = repr((latest, token.name, sorted(token.scopes), *looks))
    request.state.etag = f'"{sha256(parts.encode()).hexdigest()[:24]}"'
    if known == request.state.etag:
        raise HTTPException(304, headers={"ETag": request.state.etag})


def fragment(request: Request, template: str, /, **values: Any) -> Response:
    """A part of a page."""
    return _TEMPLATES.TemplateResponse(request, template, {"root": root_of(request), **values})


def done(request: Request, to: str, message: str) -> Response:
    """After an action: to this path of ours, with a word on what was done."""
    root = root_of(request)
    response = RedirectResponse(root + to, 303)
    remember(request, response, FLASH, _signer(request).dumps(message), 60)
    return response


def remember(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    """Let the browser keep something for us, where the app is mounted and nowhere else."""
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
    """A page that says what went wrong; who is not logged in comes to the login."""
    site, root = site_of(request), root_of(request)
    if problem.kind == "unauthorized" and request.method == "GET" and not site.access.closed:
        return RedirectResponse(f"{root}/login?next={quote(_address(request))}", 303)
    token, pulse = site.access.session(request), None
    if token and "read" in token.scopes and problem.status != 503:
        with suppress(RedisError):
            pulse = site.overview.pulse()
    return page(request, "problem.html", token, pulse, problem=problem, status=problem.status)


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form; of one that is there several times, the last."""
    return {name: values[-1] for name, values in (await lists_of(request)).items()}


async def lists_of(request: Request) -> Mapping[str, list[str]]:
    """The fields of a form, each with all its values."""
    body = (await request.body()).decode(errors="replace")
    return parse_qs(body, keep_blank_values=True)


Fields = Annotated[Mapping[str, str], Depends(form_of)]
Lists = Annotated[Mapping[str, list[str]], Depends(lists_of)]
"""What a plain function takes a form as."""


def here(path: str) -> str:
    """A path of this site, whatever was asked for."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain else "/"


def _address(request: Request) -> str:
    """Path and query within the app, as they were asked for; of what was no GET, where its form
    stands."""
    raw = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("ascii", "replace").removeprefix(root_of(request))
    query = f"?{request.url.query}" if request.url.query else ""
    return path + query if request.method == "GET" else path


def _clock(pulse: Status) -> Mapping[str, str]:
    """What the strip says of the clock, in words."""
    leader = pulse.leader
    lag, most = (leader.get(name, "") for name in ("lag_p50_ms", "lag_p99_ms"))
    return {
        "name": leader.get("instance", ""),
        "lag": duration_text(timedelta(milliseconds=int(lag))) if lag else "",
        "lag_most": duration_text(timedelta(milliseconds=int(most))) if most else "",
        "late": f"{pulse.late:,}" + ("+" if pulse.late > TROUBLED else ""),
        "silent": duration_text(pulse.now - pulse.led) if pulse.led else "",
    }


def _signer(request: Request) -> URLSafeSerializer:
    return site_of(request).access.serializer("flash")


def _flashed(request: Request) -> str:
    try:
        return str(_signer(request).loads(request.cookies.get(FLASH, "")))
    except BadSignature:
        return ""
