"""Servers and namespaces for the doctor to examine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis import Redis

from tests.doctor.namespace import Fresh, Namespace, StartServer
from tests.server import Server, free_url


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps its data, as a healthy one does; the suite's shared one does not."""
    path = tmp_path_factory.mktemp("lasting")
    with Server(path, free_url()) as server:
        yield server


@pytest.fixture
def connection(lasting: Server) -> Iterator[Redis]:
    with Redis.from_url(lasting.url) as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def bare(connection: Redis) -> Namespace:
    """A namespace in which there is nothing yet."""
    return Namespace(connection)


@pytest.fixture
def ns(bare: Namespace) -> Namespace:
    """A healthy namespace."""
    return bare.fill()


@pytest.fixture
def fresh(fresh_server: StartServer) -> Iterator[Fresh]:
    """Start a server with a healthy namespace: `fresh(maxclients="20")`."""
    with ExitStack() as clients:

        def start(**directives: str) -> Namespace:
            url = fresh_server(**directives).url
            return Namespace(clients.enter_context(Redis.from_url(url))).fill()

        yield start
