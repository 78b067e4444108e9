"""A client, and processes that take locks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock.storm import Client
from tests.lock.lab import Script, Start


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Start a script; what still runs at the end of the test is killed."""
    scripts: list[Script] = []

    def begin(body: str) -> Script:
        scripts.append(Script(tmp_path, redis_url, body))
        return scripts[-1]

    yield begin
    for script in scripts:
        script.__exit__()


@pytest.fixture
def redis(connection: Client) -> Client:
    return connection
