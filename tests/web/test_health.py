"""/healthz and /readyz, and `rq-clock healthcheck` where there is no HTTP. Real servers, also one
that is stopped, frozen, or holds the data of a later release."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from redis import Redis

from rq_clock.settings import Settings
from rq_clock.store.store import DATA_VERSION
from rq_clock.web import health
from rq_clock.web.context import Context
from tests.cli.terminal import Run, fill, leading, serving
from tests.helpers import PATIENCE, Pace, wait_until
from tests.server import Server


def web(url: str) -> TestClient:
    app = FastAPI()
    app.state.web = Context.of(Settings.from_env({"REDIS_URL": url}), None, read_only=False)
    app.include_router(health.router)
    return TestClient(app)


def checks(answer: Any) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in answer.json().get("checks", [])}


class TestHealth:
    @pytest.mark.parametrize("path", ["/healthz", "/livez"])
    def test_a_process_that_answers_is_alive_whatever_redis_does(self, path: str) -> None:
        answer = web("redis://127.0.0.1:1").get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    def test_it_is_ready_without_a_clock_unless_clock_is_required(self, redis_url: str) -> None:
        site = web(redis_url)
        ready = site.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ok"})
        without = site.get("/readyz?clock=1")
        assert without.status_code == 503
        assert checks(without) == {"redis": True, "data": True, "clock": False}
        with Redis.from_url(redis_url) as redis:
            fill(redis)
        assert site.get("/readyz?clock=1").status_code == 200

    @pytest.mark.parametrize("flag", ["verbose", "verbose=1"])
    def test_verbose_lists_the_checks(self, redis_url: str, flag: str) -> None:
        answer = web(redis_url).get(f"/readyz?{flag}")
        assert answer.status_code == 200
        assert checks(answer) == {"redis": True, "data": True}

    @pytest.mark.integration
    def test_it_is_not_ready_without_redis_and_names_no_address(self) -> None:
        answer = web("redis://:secret@127.0.0.1:1").get("/readyz")
        assert (answer.status_code, checks(answer)) == (503, {"redis": False})
        assert "127.0.0.1" not in answer.text
        assert "secret" not in answer.text

    def test_data_of_a_later_release_is_not_served(self, redis_url: str, connection: Redis) -> None:
        connection.hset("rq-clock:default:meta", "version", str(DATA_VERSION + 1))
        answer = web(redis_url).get("/readyz")
        assert (answer.status_code, checks(answer)) == (503, {"redis": True, "data": False})

    def test_a_hanging_redis_fails_the_check(self, fresh_server: Callable[..., Server]) -> None:
        server = fresh_server()
        site = web(server.url)
        assert site.get("/readyz").status_code == 200
        server.pause()
        with Pace() as pace:
            answer = site.get("/readyz")
        server.resume()
        assert (answer.status_code, checks(answer)) == (503, {"redis": False})
        assert answer.elapsed.total_seconds() < pace.allows(2)


class TestHealthcheck:
    @pytest.fixture
    def run(self, redis_url: str) -> Run:
        return Run(redis_url)

    def test_a_clock_that_leads(self, run: Run, redis_url: str, tmp_path: Path) -> None:
        with leading(redis_url, tmp_path):
            assert run("healthcheck", "clock").exit_code == 0

    def test_no_clock_is_one_line_and_a_remedy(self, run: Run) -> None:
        result = run("healthcheck", "clock")
        assert result.exit_code == 5
        assert result.stdout == ""
        [line] = result.stderr.splitlines()
        assert line.startswith("no clock leads; start one")

    def test_a_worker_needs_heartbeats(self, run: Run, redis_url: str, connection: Redis) -> None:
        with serving(redis_url, "default"):
            assert run("healthcheck", "worker").exit_code == 0
        connection.hset("rq-clock:default:workers", "gone", "1700000000000000")
        result = run("healthcheck", "worker")
        assert result.exit_code == 5
        assert result.stderr.startswith("no worker has sent a heartbeat for 10 s")

    def test_a_web_process_is_checked_on_its_port(self, run: Run, redis_url: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = str(listener.getsockname()[1])
        result = run("healthcheck", "web", PORT=port)
        assert result.exit_code == 5
        assert result.stderr.startswith(f"nothing answers on 127.0.0.1:{port}")
        app = cast(FastAPI, web(redis_url).app)
        server = uvicorn.Server(uvicorn.Config(app, port=int(port), log_config=None))
        thread = Thread(target=server.run)
        thread.start()
        wait_until(lambda: server.started, "the web process")
        assert run("healthcheck", "web", PORT=port).exit_code == 0
        server.should_exit = True
        thread.join(PATIENCE)

    def test_without_redis_it_is_not_well_either(self, run: Run) -> None:
        assert run("healthcheck", "clock", REDIS_URL="redis://127.0.0.1:1").exit_code == 4
