"""Sections: the pages and API routes of an app, beside those of rq-clock.

    pages, api = APIRouter(), APIRouter()

    @pages.get("/")
    def show(caller: Read) -> Response:                     # who may call it: read, operate, admin
        return page(caller, "stock.html", rows=rows())

    @api.get("/api/stock")
    def stock(caller: Read) -> dict[str, int]: ...

    stock = Section(name="Stock", path="/stock", pages=pages, api=api, templates=HERE / "templates")
    create_app(extra=[stock])

A section gets the login, the scopes, the protection against other sites, the navigation, the theme,
the security headers and the error pages of the rest. Its templates extend `base.html` and may
import `_macros.html`. A route without a scope is refused when the app is created.

Not here: a plug-in system. An app names its sections in its own web.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts

from rq_clock.errors import RqClockError
from rq_clock.web.auth import SAFE
from rq_clock.web.context import API, Caller, Needs
from rq_clock.web.pages import layout

_PATH = re.compile(r"/[a-z][a-z0-9-]{0,39}")
_KEY = re.compile(r"[a-z]?")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Section:
    """Pages under a path of their own, with a place in the navigation, and routes of the API.

    `path` is one segment, such as "/reports"; the routes of `pages` are relative to it, and "/" or
    "" is the page that the navigation leads to. Routes of `api` have whole paths below /api.
    `templates` is the directory of its templates. `key` opens it after "g". `version` returns a
    text that changes when a page of the section does: an open page is rendered again only then.
    Without it, an open page is rendered every few seconds.
    """

    name: str
    path: str
    pages: APIRouter
    api: APIRouter | None = None
    templates: Path | None = None
    key: str = ""
    version: Callable[[], str] | None = None

    def faults(self) -> Iterator[str]:
        """Return what is wrong with this section alone."""
        if not self.name.strip() or len(self.name) > 40:
            yield f"name: expected 1-40 characters, got {self.name!r}"
        if not _PATH.fullmatch(self.path):
            yield f"path: expected one segment such as '/reports', got {self.path!r}"
        if not _KEY.fullmatch(self.key):
            yield f"key: expected one letter, got {self.key!r}"
        if self.templates and not self.templates.is_dir():
            yield f"templates: expected a directory, got {str(self.templates)!r}"
        yield from _route_faults("pages", self.pages)
        if self.api:
            yield from _route_faults("api", self.api)
            for route in iter_route_contexts(self.api.routes):
                path = str(route.path)
                if not path.startswith("/api/") or f"{path}/".startswith(f"{API}/"):
                    yield f"api: expected paths below /api, and not below {API}, got {path!r}"


def _route_faults(field: str, router: APIRouter) -> Iterator[str]:
    """Return the routes that anybody could call, and those that change something with the scope
    `read`, which a read-only process would serve."""
    for route in iter_route_contexts(router.routes):
        scopes = set(_scopes_of(route.dependant))
        methods = ", ".join(sorted(route.methods or ()))
        if not scopes:
            yield (
                f"{field}: expected {methods} {route.path} to take its caller as Read, Operate or "
                "Admin, got a route for everybody"
            )
        elif scopes == {"read"} and not set(route.methods or ()) <= set(SAFE):
            yield (
                f"{field}: expected {methods} {route.path} to take its caller as Operate or Admin, "
                "got Read"
            )


def _scopes_of(dependant: Any) -> Iterator[str]:
    if isinstance(dependant.call, Needs):
        yield dependant.call.scope
    for part in dependant.dependencies:
        yield from _scopes_of(part)


def check_sections(app: FastAPI, sections: Sequence[Section]) -> None:
    """Raise RqClockError with every fault of the sections, alone and beside the routes of the app,
    which has none of theirs yet."""
    paths = {f"/{str(route.path).split('/')[1]}" for route in iter_route_contexts(app.routes)}
    keys = {key for key, _, _ in layout.NAVIGATION}
    faults: list[str] = []
    for section in sections:
        found = [*section.faults()]
        if section.path in paths:
            found.append(f"path: expected a free path, got {section.path!r}")
        if section.key in keys:
            found.append(f"key: expected a free key, got {section.key!r}")
        paths.add(section.path)
        keys |= {section.key} if section.key else set()
        faults += [f"section {section.name}: {fault}" for fault in found]
    if faults:
        raise RqClockError("; ".join(faults))


def page(caller: Caller, template: str, /, **values: Any) -> Response:
    """Render a template of the caller's section, with the header and the strip of all pages."""
    return layout.page(caller, template, caller.context.schedules.status(), **values)
