"""Fixtures of the runner tests."""

from __future__ import annotations

import pytest

from rq_clock import run
from rq_clock.runners import shell
from tests.helpers import Events


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, events: Events) -> None:
    """Kill stubborn processes soon, and capture the log."""
    monkeypatch.setattr(shell, "GRACE_SECONDS", 0.4)
    monkeypatch.setattr(run, "_stopping", lambda: False)
