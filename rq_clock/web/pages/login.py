"""Login, logout and the theme."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from rq_clock.web.auth import COOKIE, from_here
from rq_clock.web.context import Web, context_of, root_of
from rq_clock.web.pages.layout import THEME, THEMES, here, remember, render, small_form_of
from rq_clock.web.problems import Problem
from rq_clock.web.sessions import SESSION_SECONDS

router = APIRouter()
_YEAR = 365 * 24 * 3600


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """Return the form for a token; without tokens, what to run."""
    return _login(request, next=next)


@router.post("/login")
async def login(request: Request, site: Web) -> Response:
    """Trade a token for a cookie."""
    if not from_here(request):
        raise Problem("forbidden", "expected a login from this site, got one from another")
    form = await small_form_of(request)
    try:
        token = await run_in_threadpool(site.access.check, request, form.get("token", ""))
    except Problem as problem:
        target = form.get("next", "/")
        return _login(request, next=target, problem=problem, status_code=problem.status)
    response = RedirectResponse(root_of(request) + here(form.get("next", "/")), 303)
    remember(request, response, COOKIE, site.access.sessions.begin(token), SESSION_SECONDS)
    return response


@router.post("/logout")
def logout(request: Request, site: Web) -> Response:
    """End the session, and remove its cookie."""
    if not from_here(request):
        raise Problem("forbidden", "expected a request from this site, got one from another")
    site.access.sessions.end(request.cookies.get(COOKIE, ""))
    root = root_of(request)
    response = RedirectResponse(root + "/login", 303)
    response.delete_cookie(COOKIE, path=root or "/")
    return response


@router.post("/theme")
async def theme(request: Request) -> Response:
    """Choose light or dark; anything else follows the system."""
    form = await small_form_of(request)
    response = RedirectResponse(root_of(request) + here(form.get("next", "/")), 303)
    if form.get("theme") in THEMES:
        remember(request, response, THEME, form["theme"], _YEAR)
    else:
        response.delete_cookie(THEME, path=root_of(request) or "/")
    return response


def _login(request: Request, **values: Any) -> Response:
    closed = context_of(request).access.closed
    return render(request, "login.html", None, None, closed=closed, **values)
