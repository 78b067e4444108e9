"""The page "Reports" and /api/scheduler."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from starlette.testclient import TestClient

from rq_clock import Schedules, every
from rq_clock.settings import Settings
from rq_clock.web import create_app, middleware
from tasks.reports import database
from tasks.reports.execution import run_shop
from tasks.reports.scheduler import CHECK, check
from tasks.reports.schedules import own_name
from tasks.reports.web import ROWS, reports
from tests.helpers import wait_until
from tests.postgres import Postgres
from tests.tasks.reports.conftest import Add, report_of, states
from tests.tasks.reports.mailbox import Mailbox
from tests.web.client import ADMIN, OPERATOR, PAGE_TOKENS, READER

pytestmark = pytest.mark.usefixtures("environment")
HERE = {"Sec-Fetch-Site": "same-origin"}
HTML = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no response time out: the machine may be busy."""
    monkeypatch.setattr(middleware, "LOOK_SECONDS", 60)
    monkeypatch.setattr(middleware, "CHANGE_SECONDS", 60)


@pytest.fixture
def web(connection: Redis, redis_url: str) -> Iterator[TestClient]:
    settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": PAGE_TOKENS})
    with TestClient(create_app(settings, redis=connection, extra=[reports])) as client:
        client.headers |= HERE
        yield client


@pytest.fixture
def declared(schedules: Schedules) -> Schedules:
    schedules.add(CHECK, every(minutes=5), "tasks.reports.scheduler.check")
    return schedules


def logged_in(web: TestClient, token: str = OPERATOR) -> TestClient:
    web.post("/login", data={"token": token})
    return web


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


class TestThePage:
    def test_shows_what_is_due_and_what_was(
        self, web: TestClient, add: Add, box: Mailbox, declared: Schedules
    ) -> None:
        add("one.example", "Weekly sales")
        run_shop("one.example")
        add("two.example", "Broken", kind="nothing")
        run_shop("two.example")
        assert "0 reports of 0 shops" in text_of(logged_in(web).get("/reports").text)
        add("two.example", "Waiting", session=True)
        assert "1 report of 1 shop, the oldest due 1 min ago" in text_of(web.get("/reports").text)
        add("three.example", "Lost", session=False)
        shown = text_of(logged_in(web).get("/reports").text)
        assert "2 reports of 2 shops, the oldest due" in shown
        assert "no session" in shown
        assert "KeyError: &#39;nothing&#39;" in shown
        assert "✓ sent" in shown
        assert "✕ failed" in shown
        one = text_of(web.get("/reports/?shop=one.example").text)
        assert "Weekly sales" in one
        assert "Waiting" not in one

    def test_shows_the_shops_that_run(
        self, web: TestClient, add: Add, queue: Queue, connection: Redis, declared: Schedules
    ) -> None:
        add("one.example")
        check()
        [job] = queue.job_ids
        connection.zadd(queue.started_job_registry.key, {f"{job}:x": 2**33})
        page = logged_in(web).get("/reports").text
        assert "data-running" in page
        status = web.get("/api/scheduler").json()["scheduler"]
        assert (status["runningJobs"], status["jobCount"]) == (["one.example"], 1)

    def test_is_empty_at_first_and_says_what_to_do(self, web: TestClient) -> None:
        shown = logged_in(web).get("/reports").text
        assert "python -m tasks.reports.sample" in shown
        assert "stopped" in shown

    def test_pages_through_many_reports(self, web: TestClient, add: Add) -> None:
        for number in range(ROWS + 2):
            add("one.example", f"Report {number}", session=number == 0)
        first = logged_in(web).get("/reports").text
        assert f"Report {ROWS - 1}<" in first
        assert f"Report {ROWS}<" not in first
        [following] = re.findall(r'rel="next" href="([^"]+)"', first)
        assert f"Report {ROWS + 1}<" in web.get(following.replace("&amp;", "&")).text

    def test_no_text_becomes_markup(self, web: TestClient, add: Add, box: Mailbox) -> None:
        add(HTML, HTML, kind=HTML[:20], cron=HTML, recipients=[HTML], session=False)
        add("one.example", HTML, kind=HTML[:20])
        run_shop("one.example")
        for query in ({}, {"shop": HTML}):
            assert "<script>alert" not in logged_in(web).get("/reports/", params=query).text

    @pytest.mark.parametrize("query", ["after=x", "after=99999999999999999999999999"])
    def test_a_wrong_query_is_no_failure_of_the_page(self, web: TestClient, query: str) -> None:
        assert logged_in(web).get(f"/reports/?{query}").status_code == 422

    def test_is_rendered_again_when_a_report_changes(
        self, web: TestClient, add: Add, box: Mailbox
    ) -> None:
        add()
        tag = logged_in(web).get("/reports/", headers={"If-None-Match": '""'}).headers["etag"]
        run_shop("one.example")
        assert web.get("/reports/", headers={"If-None-Match": tag}).status_code == 200

    def test_says_that_the_database_is_away(
        self, web: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logged_in(web)
        with monkeypatch.context() as patch:
            patch.setenv("DATABASE_URL", "postgres://u:pa55w0rd@127.0.0.1:1/none")
            shown = web.get("/reports/")
        assert shown.status_code == 503
        assert "the database of the reports cannot be used" in shown.text
        assert "pa55w0rd" not in shown.text

    @pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
    def test_says_that_a_database_may_be_too_slow(
        self, web: TestClient, add: Add, postgres: Postgres, environment: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        add()
        logged_in(web)
        monkeypatch.setattr(middleware, "LOOK_SECONDS", 0.1)
        name = environment["DATABASE_URL"].partition("@/")[2].partition("?")[0]
        with postgres.connect(name) as other, other.transaction():
            other.execute("LOCK TABLE report_schedules")
            shown = web.get("/reports/")
        pool: Any = database.engine().pool
        wait_until(lambda: not pool.checkedout(), "the end of the late page")
        assert shown.status_code == 503
        assert "Not available now" in shown.text
        assert "what this route needs (such as a database)" in shown.text
        assert "Redis cannot be used" not in shown.text


class TestItsButtons:
    def test_run_now_makes_a_report_due_and_enqueues_its_shop(
        self, web: TestClient, add: Add, box: Mailbox, queue: Queue, work: Callable[..., bool]
    ) -> None:
        report = add(next_run_at=datetime.now(UTC) + timedelta(days=1))
        for _ in range(2):
            shown = logged_in(web).post("/reports/run", data={"id": report})
            assert "Enqueued the report of one.example." in shown.text
        assert len(queue) == 1
        work()
        assert states() == ["sent"]

    def test_a_report_gets_and_loses_a_schedule_of_its_own(
        self, web: TestClient, add: Add, schedules: Schedules
    ) -> None:
        report = add()
        logged_in(web)
        web.post("/reports/own", data={"id": report, "own": "1"})
        assert schedules.get(own_name(report))
        assert "own schedule" in web.get("/reports").text
        web.post("/reports/active", data={"id": report, "active": "0"})
        assert schedules.get(own_name(report)) is None
        assert "not active" in web.get("/reports").text
        web.post("/reports/active", data={"id": report, "active": "1"})
        assert schedules.get(own_name(report))
        web.post("/reports/own", data={"id": report, "own": "0"})
        assert schedules.get(own_name(report)) is None
        assert not report_of(report).own_schedule

    def test_checks_are_stopped_started_and_made_at_once(
        self, web: TestClient, declared: Schedules, queue: Queue
    ) -> None:
        logged_in(web)
        assert "Stopped." in web.post("/reports/stop").text
        entry = declared.get(CHECK)
        assert entry
        assert entry.pause(datetime.now(UTC))
        assert "Enqueued a check." in web.post("/reports/check").text
        assert len(queue) == 1
        assert "Started." in web.post("/reports/start").text
        assert {entry.by for entry in declared.audit()[:3]} == {"oli"}

    @pytest.mark.parametrize("id", ["", "x", "-1", "1e3", "9" * 40, "٣"])
    def test_a_wrong_id_is_one_error(self, web: TestClient, id: str) -> None:
        for path in ("run", "own", "active"):
            shown = logged_in(web).post(f"/reports/{path}", data={"id": id})
            assert shown.status_code == 409
            assert "expected the id of a report" in shown.text

    def test_a_reader_has_none(self, web: TestClient, add: Add) -> None:
        report = add()
        assert "Run now" not in logged_in(web, READER).get("/reports").text
        for path in ("run", "own", "active", "check", "start", "stop"):
            assert web.post(f"/reports/{path}", data={"id": report}).status_code == 403


class TestTheApi:
    def test_the_status_is_that_of_the_document(self, web: TestClient) -> None:
        bearer = {"Authorization": f"Bearer {READER}"}
        assert web.get("/api/scheduler", headers=bearer).json() == {
            "success": True,
            "scheduler": {"isRunning": False, "runningJobs": [], "jobCount": 0},
        }

    def test_a_check_is_triggered(
        self, web: TestClient, declared: Schedules, add: Add, box: Mailbox,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        add()
        bearer = {"Authorization": f"Bearer {ADMIN}"}
        for _ in range(2):
            answer = web.post("/api/scheduler/trigger", headers=bearer)
            assert answer.json() == {"success": True, "message": "Scheduler check triggered"}
        work()
        assert states() == ["sent"]

    def test_it_is_closed(self, web: TestClient) -> None:
        assert web.get("/api/scheduler").status_code == 401
        assert web.post("/api/scheduler/trigger").status_code == 401
        reader = {"Authorization": f"Bearer {READER}"}
        assert web.post("/api/scheduler/trigger", headers=reader).status_code == 403

    def test_without_the_schedule_it_says_what_to_do(self, web: TestClient) -> None:
        bearer = {"Authorization": f"Bearer {ADMIN}"}
        answer = web.post("/api/scheduler/trigger", headers=bearer)
        assert answer.status_code == 409
        assert "run the clock" in answer.json()["detail"]
