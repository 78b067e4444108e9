"""Fixtures of the page tests: an app with three tokens, and browsers that are logged in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.settings import Settings
from rq_clock.web import create_app
from tests.web.client import ADMIN, PAGE_TOKENS


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": PAGE_TOKENS})


@pytest.fixture
def site(settings: Settings, connection: Redis) -> Callable[..., TestClient]:
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
def browser(site: Callable[..., TestClient]) -> TestClient:
    return site()
