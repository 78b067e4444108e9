"""Sections: an app's own pages and API routes are as closed, and look, as the others."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.errors import RqClockError
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every
from rq_clock.web import Fields, Operate, Problem, Read, Section, create_app, done, middleware, page
from rq_clock.web.middleware import HEADERS
from tests.helpers import PATIENCE
from tests.process import ROOT, Process
from tests.web.client import ADMIN, OPERATOR, PAGE_TOKENS, READER

HERE = {"Sec-Fetch-Site": "same-origin"}
TEMPLATES = Path(__file__).parent / "section_templates"
versions = {"stock": "1"}
answered = threading.Event()
"""Whether the client of the slow routes has its answer."""


def section(**changes: Any) -> Section:
    pages, api = APIRouter(), APIRouter()

    @pages.get("/")
    def show(caller: Read) -> Response:
        return page(caller, "stock.html", stock="<b>7</b>")

    @pages.get("/away")
    def away(caller: Read) -> Response:
        raise Problem("unavailable", "the database cannot be used: it is full")

    @pages.get("/slow")
    @api.get("/api/stock/slow")
    def slow(caller: Read) -> None:
        answered.wait(PATIENCE)

    @pages.get("/broken")
    def broken(caller: Read) -> Response:
        raise ZeroDivisionError("secret-4711")

    @pages.post("/count")
    def count(caller: Operate, form: Fields) -> Response:
        return done(caller, "/stock/", f"Counted by {caller.token.name}, {form.get('note')}.")

    @api.get("/api/stock")
    def stock(caller: Read) -> dict[str, int]:
        """Get the stock."""
        return {"stock": 7}

    @api.post("/api/stock/count")
    def api_count(caller: Operate) -> dict[str, bool]:
        """Count it."""
        return {"success": True}

    made = Section(
        name="Stock", path="/stock", pages=pages, api=api, templates=TEMPLATES, key="i",
        version=lambda: versions["stock"],
    )  # fmt: skip
    return replace(made, **changes)


def app_with(redis: Redis, redis_url: str, *sections: Section, read_only: bool = False) -> FastAPI:
    settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": PAGE_TOKENS})
    return create_app(settings, redis=redis, read_only=read_only, extra=sections)


@pytest.fixture
def app(connection: Redis, redis_url: str) -> FastAPI:
    return app_with(connection, redis_url, section())


@pytest.fixture
def web(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


def logged_in(web: TestClient, token: str = ADMIN) -> TestClient:
    assert web.post("/login", data={"token": token}, headers=HERE).status_code == 303
    return web


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_page_stands_in_the_navigation_of_all_pages(web: TestClient) -> None:
    logged_in(web)
    assert '<a href="/stock" data-go="i">Stock</a>' in web.get("/queues").text
    shown = web.get("/stock/")
    assert '<a href="/stock" data-go="i" aria-current="page">Stock</a>' in shown.text
    assert "no clock leads" in shown.text
    assert "&lt;b&gt;7&lt;/b&gt;" in shown.text
    assert "Count</button>" in shown.text
    assert "<dt><kbd>g</kbd> <kbd>i</kbd></dt><dd>Stock</dd>" in shown.text


def test_the_link_of_the_navigation_leads_to_the_page(web: TestClient) -> None:
    logged_in(web)
    assert web.get("/stock", follow_redirects=True).status_code == 200


def test_a_page_has_the_security_headers_and_the_theme_of_all(web: TestClient) -> None:
    logged_in(web)
    web.post("/theme", data={"theme": "dark", "next": "/stock/"}, headers=HERE)
    shown = web.get("/stock/")
    assert 'data-theme="dark"' in shown.text
    for name, value in HEADERS.items():
        assert shown.headers[name] == value, name


def test_nobody_gets_in_without_a_token(web: TestClient) -> None:
    assert web.get("/stock/").headers["location"] == "/login?next=/stock/"
    assert web.post("/stock/count", headers=HERE).status_code == 401
    assert web.get("/api/stock").status_code == 401
    assert web.post("/api/stock/count").status_code == 401


def test_a_reader_changes_nothing(web: TestClient) -> None:
    logged_in(web, READER)
    assert "Count</button>" not in web.get("/stock/").text
    assert web.post("/stock/count", headers=HERE).status_code == 403
    assert web.get("/api/stock", headers=bearer(READER)).json() == {"stock": 7}
    refused = web.post("/api/stock/count", headers=bearer(READER))
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_change_comes_from_this_site_and_shows_its_message(web: TestClient) -> None:
    logged_in(web, OPERATOR)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert web.post("/stock/count", headers=elsewhere).status_code == 403
    answer = web.post("/stock/count", data={"note": "twice"}, headers=HERE)
    assert answer.headers["location"] == "/stock/"
    assert "Counted by oli, twice." in web.get("/stock/").text
    assert web.post("/api/stock/count", headers=bearer(OPERATOR)).json() == {"success": True}


def test_a_read_only_process_refuses_its_changes(connection: Redis, redis_url: str) -> None:
    app = app_with(connection, redis_url, section(), read_only=True)
    with TestClient(app) as web:
        assert web.post("/api/stock/count", headers=bearer(ADMIN)).status_code == 403
        assert web.get("/api/stock", headers=bearer(ADMIN)).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "shown"),
    [
        ("/stock/none", 404, "nothing at /stock/none"),
        ("/stock/away", 503, "the database cannot be used: it is full"),
        ("/stock/broken", 500, "Something went wrong"),
    ],
)
def test_a_failure_has_the_page_of_all_failures(
    web: TestClient, path: str, status: int, shown: str
) -> None:
    answer = logged_in(web).get(path)
    assert answer.status_code == status
    assert shown in answer.text
    assert "secret-4711" not in answer.text
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/stock/slow", "/api/stock/slow"])
def test_a_slow_route_does_not_blame_redis_alone(
    web: TestClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    logged_in(web)
    answered.clear()
    monkeypatch.setattr(middleware, "LOOK_SECONDS", 0.1)
    answer = web.get(path)
    answered.set()
    assert answer.status_code == 503
    assert "what this route needs (such as a database), Redis, this process or the" in answer.text
    assert "Not available now" in answer.text
    assert "Redis cannot be used" not in answer.text
    assert answer.headers["Retry-After"] == "2"


def test_an_open_page_is_rendered_again_when_its_version_changes(web: TestClient) -> None:
    tag = logged_in(web).get("/stock/", headers={"If-None-Match": '""'}).headers["etag"]
    assert web.get("/stock/", headers={"If-None-Match": tag}).status_code == 304
    versions["stock"] += "1"
    assert web.get("/stock/", headers={"If-None-Match": tag}).status_code == 200


def test_a_page_without_a_version_is_always_rendered(connection: Redis, redis_url: str) -> None:
    app = app_with(connection, redis_url, section(version=None))
    with TestClient(app, follow_redirects=False) as web:
        logged_in(web)
        shown = web.get("/stock/", headers={"If-None-Match": '""'})
        assert shown.status_code == 200
        assert "etag" not in shown.headers


def test_its_api_is_in_the_document_and_on_the_page_of_the_api(
    web: TestClient, app: FastAPI, connection: Redis, redis_url: str
) -> None:
    paths = app.openapi()["paths"]
    assert paths["/api/stock"]["get"]["description"] == "Get the stock."
    assert "403" in paths["/api/stock/count"]["post"]["responses"]
    assert "/api/v1/schedules" in paths
    assert "/api/stock" in logged_in(web).get("/docs").text
    assert "/api/stock" not in app_with(connection, redis_url).openapi()["paths"]


def test_it_can_be_mounted(connection: Redis, redis_url: str) -> None:
    outer = FastAPI()
    outer.mount("/clock", app_with(connection, redis_url, section()))
    with TestClient(outer) as web:
        web.post("/clock/login", data={"token": ADMIN}, headers=HERE)
        shown = web.get("/clock/stock/").text
        assert 'href="/clock/stock"' in shown
        assert 'action="/clock/stock/count"' in shown


def test_a_route_for_everybody_is_refused(connection: Redis, redis_url: str) -> None:
    open_pages = APIRouter()
    open_pages.add_api_route("/", lambda: "hello", methods=["GET"])
    with pytest.raises(RqClockError, match=r"section Stock: pages: expected GET / to take its cal"):
        app_with(connection, redis_url, section(pages=open_pages))


def test_a_change_by_readers_is_refused(connection: Redis, redis_url: str) -> None:
    def change(caller: Read) -> str:
        return ""

    pages = APIRouter()
    pages.add_api_route("/x", change, methods=["POST"])
    with pytest.raises(RqClockError, match=r"POST /x to take its caller as Operate or Admin"):
        app_with(connection, redis_url, section(pages=pages))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"path": "/queues"}, "path: expected a free path, got '/queues'"),
        ({"path": "/a/b"}, "path: expected one segment"),
        ({"key": "s"}, "key: expected a free key, got 's'"),
        ({"name": " "}, "name: expected 1-40 characters"),
        ({"templates": Path("/nowhere")}, "templates: expected a directory"),
    ],
)
def test_each_fault_of_a_section_is_reported(
    connection: Redis, redis_url: str, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(RqClockError) as failure:
        app_with(connection, redis_url, section(**changes))
    assert fault in str(failure.value)


def test_two_sections_share_no_path(connection: Redis, redis_url: str) -> None:
    with pytest.raises(RqClockError, match="expected a free path, got '/stock'"):
        app_with(connection, redis_url, section(), section(key=""))


def test_an_api_of_our_version_is_refused(connection: Redis, redis_url: str) -> None:
    def read(caller: Read) -> str:
        return ""

    api = APIRouter()
    api.add_api_route("/api/v1/stock", read, methods=["GET"])
    with pytest.raises(RqClockError, match="expected paths below /api, and not below /api/v1"):
        app_with(connection, redis_url, section(api=api))


def test_the_example_of_the_page_on_the_web_process_works(
    connection: Redis, redis_url: str, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "web.md").read_text().partition("## Pages of your own")[2]
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [template] = re.findall(r"```html\n(.*?)```", text, re.DOTALL)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "stock.html").write_text(template)
    names: dict[str, Any] = {"__name__": "web"}
    exec(compile(code, "web.md", "exec"), names)
    settings = Settings.from_env({"REDIS_URL": redis_url})
    Schedules(connection, settings=settings).add("count-stock", every("1h"), "tasks.count")
    with TestClient(app_with(connection, redis_url, names["section"])) as web:
        web.post("/login", data={"token": ADMIN}, headers=HERE)
        assert "<li>plums</li>" in web.get("/stock").text
        assert "Counting." in web.post("/stock/count", headers=HERE).text
        assert web.get("/api/stock", headers=bearer(ADMIN)).json() == {"items": ["pears", "plums"]}
    assert Schedules(connection, settings=settings).audit()[0].by == "ana"


@pytest.mark.process
def test_the_apps_web_process_serves_and_ends(redis_url: str, tmp_path: Path) -> None:
    env = {"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": PAGE_TOKENS}
    with Process(tmp_path / "web.log", str(ROOT / "web.py"), "--port", "0", env=env) as web:
        address = web.wait_for("web.listening").fields["address"]
        with urlopen(f"{address}/livez") as answer:  # its handlers of signals are in place
            assert answer.status == 200
        assert web.end(signal.SIGTERM) == 0


@pytest.mark.process
def test_the_apps_web_process_reports_a_wrong_setting_in_one_line(tmp_path: Path) -> None:
    env = {"REDIS_URL": "redis://127.0.0.1:1/0", "RQ_CLOCK_TOKENS": "short"}
    with Process(tmp_path / "web.log", str(ROOT / "web.py"), "--port", "0", env=env) as web:
        assert web.ended() == 1
        assert web.lines()[0].startswith("error: RQ_CLOCK_TOKENS: expected")
        assert len(web.lines()) == 1
