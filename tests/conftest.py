"""The suite's fixtures: real servers, and an environment in which nothing is set.

RQ_CLOCK_EXAMPLES sets the number of examples of a property (300); RQ_CLOCK_TEST_SERVER runs the
suite on another Redis or Valkey than the embedded one, named by its binary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis

from rq_clock.devserver import Server, free_url

BINARY = os.environ.get("RQ_CLOCK_TEST_SERVER")

settings.register_profile(
    "rq-clock", max_examples=int(os.environ.get("RQ_CLOCK_EXAMPLES", "300")), deadline=None
)
settings.load_profile("rq-clock")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees what the machine, a platform, a person's shell or a .env file here has set."""
    monkeypatch.chdir(tmp_path)
    foreign = ("REDIS_", "RQ_", "WORKER_", "DYNO", "HEROKU_", "RENDER", "FLY_", "HONCHO_")
    for name in os.environ:
        if name.startswith(foreign):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that all tests share. Who stops, pauses or reconfigures one takes a fresh one."""
    path = tmp_path_factory.mktemp("server")
    with Server(path, free_url(), binary=BINARY, appendonly="no") as server:
        yield server


@pytest.fixture
def redis_url(server: Server) -> str:
    """The URL of the shared server, emptied."""
    with Redis.from_url(server.url) as redis:
        redis.flushall()
    return server.url


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    """A plain client of the shared server, emptied: it answers in bytes and retries nothing."""
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own: `fresh_server(maxmemory="2mb")`."""
    with ExitStack() as servers:

        def start(**directives: str) -> Server:
            path = tmp_path_factory.mktemp("server")
            return servers.enter_context(Server(path, free_url(), binary=BINARY, **directives))

        yield start
