"""Fixtures of the command-line tests."""

from __future__ import annotations

import sys

import pytest

from tests.cli.terminal import Run


@pytest.fixture
def run(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `rq-clock` in an empty directory against the shared server, as the user ana."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # commands add the app's directory
    return Run(redis_url, RQ_CLOCK_USER="ana")
