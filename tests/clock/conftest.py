"""A client for the clock's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clock.storm import Client, client
from tests.server import Server


@pytest.fixture
def redis(server: Server) -> Iterator[Client]:
    """A client of the server that the test's file has."""
    with client(server.url) as redis:
        yield redis
