"""The suite's tiers and fixtures: real servers, and an environment in which nothing is set.

Each test has one tier, alone runnable with `-m`:

    unit         the rest; opens no socket and starts no process, which a guard enforces
    integration  has a fixture that starts a server, or the mark
    process      has a fixture that starts a process of ours or a browser, or the mark

RQ_CLOCK_EXAMPLES sets the number of examples of a property (50), and makes them random: without it
the same ones are tried each time, so that a run tells of the change it tests.
RQ_CLOCK_TEST_SERVER names the binary of another Redis or Valkey to test on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from redis import Redis
from rq import Queue

from rq_clock.log import logger
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store import commit
from rq_clock.store.store import Store
from rq_clock.worker.worker import Worker
from tests.beside import BODIES, STORMS
from tests.helpers import Events
from tests.server import Server, free_url, longest_shown

EXAMPLES = os.environ.get("RQ_CLOCK_EXAMPLES", "")
settings.register_profile(
    "rq-clock", max_examples=int(EXAMPLES or 50), derandomize=not EXAMPLES, deadline=None
)
settings.load_profile("rq-clock")

collect_ignore = ["ecosystem"]  # `make ecosystem` runs it, where the neighbours are installed
TIERS = ("process", "integration", "unit")
STARTS_PROCESS = {"chromium", "process", "running", "start", "wheel"}
STARTS_SERVER = {"fresh_server", "postgres", "server"}


def tier_of(item: pytest.Item) -> str:
    """Return the tier that an item is marked with, or else the one that its fixtures give it."""
    for tier in TIERS:
        if item.get_closest_marker(tier):
            return tier
    fixtures = set(getattr(item, "fixturenames", ()))
    if fixtures & STARTS_PROCESS:
        return "process"
    return "integration" if fixtures & STARTS_SERVER else "unit"


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = tier_of(item)
        if not item.get_closest_marker(tier):
            item.add_marker(tier)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the storms, report the longest scripts of all servers of this process."""
    if terminalreporter.config.option.markexpr == "soak":
        terminalreporter.write_line(f"longest scripts: {longest_shown()}")


@pytest.fixture(autouse=True)
def unit_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a unit test that opens a socket or starts a process."""
    if not request.node.get_closest_marker("unit"):
        return

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("expected no socket and no process in a unit test; mark it integration")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(os, "fork", refuse)


@pytest.fixture(autouse=True)
def signals_guard() -> Iterator[None]:
    """Fail a test that leaves signals blocked or ignored: every process of a later test would begin
    so, and Ctrl-C would do nothing there."""
    before = _held()
    yield
    after = _held()
    signal.pthread_sigmask(signal.SIG_SETMASK, before[0])
    assert after == before


def _held() -> tuple[set[int], set[signal.Signals]]:
    ignored = {n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ())), ignored


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees what the machine, a platform, a person's shell or a .env file here has set."""
    monkeypatch.chdir(tmp_path)
    foreign = ("REDIS_", "RQ_", "WORKER_", "DYNO", "HEROKU_", "RENDER", "FLY_", "HONCHO_",
               "DATABASE_URL", "REPORTS_", "SMTP_", "MAIL_FROM")  # fmt: skip
    for name in os.environ:
        if name.startswith(foreign):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that all tests share. Who stops, pauses or reconfigures one takes a fresh one."""
    path = tmp_path_factory.mktemp("server")
    with Server(path, free_url(), appendonly="no") as server:
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
            return servers.enter_context(Server(path, free_url(), **directives))

        yield start


@pytest.fixture
def store(connection: Redis) -> Store:
    return Store(connection, "default")


@pytest.fixture
def schedules(connection: Redis, redis_url: str) -> Schedules:
    settings = Settings.from_env({"REDIS_URL": redis_url})
    return Schedules(connection, by="ana", settings=settings)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a clock that the test drives commit fire times that are still to come."""
    monkeypatch.setattr(commit, "EARLY_MS", 10**12)


@pytest.fixture
def queue(connection: Redis) -> Queue:
    return Queue("default", connection=connection)


@pytest.fixture
def horse_jobs() -> str:
    """Jobs that one process of `work` runs: to fork this process, with all the tests, is dear."""
    return "100"


@pytest.fixture
def work(connection: Redis, redis_url: str, horse_jobs: str) -> Callable[..., bool]:
    """Run a worker in this process until its queues are empty: `work(RQ_CLOCK_HORSE_JOBS="1")`."""

    def work(*queues: str, max_jobs: int | None = None, **env: str) -> bool:
        env = {"REDIS_URL": redis_url, "RQ_CLOCK_HORSE_JOBS": horse_jobs, **env}
        settings = Settings.from_env(env)
        worker = Worker(list(queues) or ["default"], connection=connection, settings=settings)
        return worker.work(burst=True, logging_level="CRITICAL", max_jobs=max_jobs)

    return work


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Events:
    """Return the fields of every log event of a name: `events("run.enqueued")`."""
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    caplog.set_level("INFO", logger="rq_clock")

    def events(name: str) -> list[dict[str, Any]]:
        found: list[Any] = [r for r in caplog.records if getattr(r, "event", "") == name]
        return [record.fields for record in found]

    return events


@pytest.fixture(scope="module")
def under_way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """Start the bodies of all chosen tests of a module, AT_ONCE of them at a time."""
    chosen = [
        item.name
        for item in request.session.items
        if item.path == request.path and item.name in BODIES
    ]
    at_once = getattr(request.module, "AT_ONCE", len(chosen))
    with ThreadPoolExecutor(2) as storms, ThreadPoolExecutor(at_once) as others:
        yield {
            name: (storms if name in STORMS else others).submit(
                BODIES[name], tmp_path_factory.mktemp("beside")
            )
            for name in chosen
        }
