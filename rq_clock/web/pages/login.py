"""Login, logout and the theme."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from rq_clock.web.auth import COOKIE, SESSION_SECONDS, from_here
from rq_clock.web.context import Web, root_of
from rq_clock.web.pages.layout import THEME, THEMES, form_of, here, remember, render
from rq_clock.web.problems import Problem

router = APIRouter()
_YEAR = 365 * 24 * 3600


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """Return the form for a token."""
    return render(request, "login.html", None, None, next=next)


@router.post("/login")
async def login(request: Request, site: Web) -> Response:
    """Trade a token for a cookie."""
    if not from_here(request):
        raise Problem("forbidden", "expected a login from this site, got one from another")
    form = await form_of(request)
    try:
        token = await run_in_threadpool(site.access.check, request, form.get("token", ""))
    except Problem as problem:
        return render(
            request, "login.html", None, None,
            next=form.get("next", "/"), problem=problem, status_code=problem.status,
        )  # fmt: skip
    response = RedirectResponse(root_of(request) + here(form.get("next", "/")), 303)
    remember(request, response, COOKIE, site.access.cookie(token), SESSION_SECONDS)
    return response


@router.post("/logout")
def logout(request: Request) -> Response:
    """Remove the cookie."""
    if not from_here(request):
        raise Problem("forbidden", "expected a request from this site, got one from another")
    root = root_of(request)
    response = RedirectResponse(root + "/login", 303)
    response.delete_cookie(COOKIE, path=root or "/")
    return response


@router.post("/theme")
async def theme(request: Request) -> Response:
    """Choose light or dark; anything else follows the system."""
    form = await form_of(request)
    response = RedirectResponse(root_of(request) + here(form.get("next", "/")), 303)
    if form.get("theme") in THEMES:
        remember(request, response, THEME, form["theme"], _YEAR)
    else:
        response.delete_cookie(THEME, path=root_of(request) or "/")
    return response
