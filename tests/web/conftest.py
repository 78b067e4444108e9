"""Fixtures of the web tests."""

from __future__ import annotations

import pytest

from rq_clock.web import middleware
from tests.web.client import Caller, app_on


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no response time out: the machine may be busy."""
    monkeypatch.setattr(middleware, "LOOK_SECONDS", 60)
    monkeypatch.setattr(middleware, "CHANGE_SECONDS", 60)


@pytest.fixture
def api(redis_url: str) -> Caller:
    return Caller(app_on(redis_url))
