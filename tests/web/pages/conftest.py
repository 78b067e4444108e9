"""Fixtures of the page tests: an app with three tokens, logged-in browsers, schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import once
from rq_clock.web import create_app
from tests.web.client import ADMIN, PAGE_TOKENS
from tests.web.pages.reading import DAILY, DAY, HOUR, Site, key, ran, remember


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": PAGE_TOKENS})


@pytest.fixture
def site(settings: Settings, connection: Redis) -> Site:
    """Log a browser in with a token; `under` mounts the app below that path of another app."""

    def browser(token: str = ADMIN, *, under: str = "", **options: Any) -> TestClient:
        app = create_app(settings, redis=connection, **options)
        if under:
            outer = FastAPI()
            outer.mount(under, app)
            app = outer
        client = TestClient(app, headers={"Sec-Fetch-Site": "same-origin"})
        client.post(f"{under}/login", data={"token": token}, follow_redirects=False)
        return client

    return browser


@pytest.fixture
def browser(site: Site) -> TestClient:
    return site()


@pytest.fixture
def now(connection: Redis) -> datetime:
    """The server's time, in whole seconds."""
    return datetime.fromtimestamp(int(connection.time()[0]), UTC)


@pytest.fixture
def one(schedules: Schedules) -> None:
    schedules.add("one", DAILY, "tasks.one", queue="mail")


@pytest.fixture
def several(connection: Redis, schedules: Schedules, now: datetime) -> None:
    """A schedule in each state."""
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("fine", "tasks.fine", {"queue": "mail", "tags": ["growth"]}),
        ("fresh", "tasks.fresh", {}),
        ("fails", "tasks.fails", {}),
        ("waits", "tasks.waits", {}),
        ("rests", "tasks.rests", {}),
        ("works", "tasks.works", {}),
    ]
    for name, target, options in rows:
        schedules.add(name, DAILY, target, **options)
    schedules.add("over", once(now + DAY), "tasks.over")
    connection.zrem(key("due"), "over")
    connection.zadd(key("due"), {"waits": to_ms(now - HOUR)})
    connection.zadd(key("failing"), {"fails": to_ms(now - HOUR)})
    connection.hset(key("definitions"), "newer", '{"cron":"0 0 * * *","func":"a.b","shards":7}')
    connection.hset(key("markers"), "newer", f"- {to_ms(now)}")
    connection.hset(
        key("workers"), "w1", f"{to_ms(now) * 1000} e1 default-works-{to_ms(now)} default"
    )
    connection.sadd(key("declared"), "fine", "works")
    remember(connection, "fine", ran(now - DAY), ran(now - HOUR, "failed"), ran(now - HOUR / 2))
    schedules.pause("rests", reason="holiday")
