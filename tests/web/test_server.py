"""The web process as a process: how it starts and ends, and what it says of a Redis that is away,
frozen or slow. Every answer comes within two seconds."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every
from rq_clock.web import create_app
from rq_clock.web.server import GRACE_SECONDS, listening
from tests.helpers import PATIENCE, Pace, wait_until
from tests.process import Process
from tests.proxy import Proxy
from tests.server import Server, free_url

pytestmark = pytest.mark.process

TOKEN = "0123456789abcdef0123"
WITHIN = 2.0
"""Seconds in which every page answers."""


class WebProcess(Process):
    """`rq-clock web` in a process of its own, on a free port."""

    def __init__(self, path: Path, url: str, *switches: str, **env: str) -> None:
        words = ("-m", "rq_clock", "web", "--port", "0", *switches)
        env = {"REDIS_URL": url, "RQ_CLOCK_TOKENS": TOKEN, **env}
        (path / "web.log").unlink(missing_ok=True)  # an earlier process had another port
        super().__init__(path / "web.log", *words, env=env)

    def __enter__(self) -> Self:
        wait_until(
            lambda: "web.listening" in self.text() or self.process.poll() is not None,
            "the web process to listen",
        )
        return self

    @property
    def place(self) -> tuple[str, int]:
        found = re.search(r"web.listening address=http://([\d.]+):(\d+)", self.text())
        assert found, self.text()
        return found[1], int(found[2])

    def get(self, path: str, token: str = TOKEN) -> tuple[int, str, float]:
        """Status, body, and seconds it took."""
        connection = http.client.HTTPConnection(*self.place, timeout=PATIENCE)
        began = time.monotonic()
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body, time.monotonic() - began

    def answers(self, status: int, path: str = "/", token: str = TOKEN) -> None:
        """Wait for an answer; on a busy machine Redis's may come too late for the first ones."""
        wait_until(lambda: self.get(path, token)[0] == status, f"{status} for {path}")

    def all_pages(self) -> list[tuple[str, tuple[int, str, float]]]:
        """Return the responses to all paths without parameters, a few at a time."""
        paths = pages()
        with ThreadPoolExecutor(8) as pool:
            return list(zip(paths, pool.map(self.get, paths), strict=True))


def ends_within(web: WebProcess, number: signal.Signals, seconds: float) -> None:
    """Fail unless a signal ends the process well within `seconds`."""
    with Pace() as pace:
        began = time.monotonic()
        web.process.send_signal(number)
        assert web.process.wait(PATIENCE) == 0, web.text()
        took = time.monotonic() - began
    assert took < pace.allows(seconds)


def pages() -> list[str]:
    """Return the paths of pages and API lists that have no parameters."""
    app = create_app(Settings.from_env({"REDIS_URL": free_url(), "RQ_CLOCK_TOKENS": TOKEN}))
    found = []
    for route in iter_route_contexts(app.routes):
        path = str(route.path)
        if "GET" in (getattr(route, "methods", None) or ()) and "{" not in path:
            found.append(path)
    return sorted(set(found))


def needs_redis(path: str) -> bool:
    still = {"/login", "/healthz", "/livez", "/docs", "/api/v1/openapi.json", "/new", "/bulk"}
    return path not in still and not path.endswith("/preview")


class TestLife:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_at_once(
        self, tmp_path: Path, redis_url: str, number: signal.Signals
    ) -> None:
        with WebProcess(tmp_path, redis_url) as web:
            web.answers(200)
            ends_within(web, number, GRACE_SECONDS / 2)
            assert "Traceback" not in web.text()

    def test_sigterm_ends_it_despite_open_requests(self, tmp_path: Path, redis_url: str) -> None:
        with WebProcess(tmp_path, redis_url) as web, ExitStack() as stack:
            login = b"POST /login HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n"
            body = b"Content-Length: 100\r\n\r\ntoken=x"
            for half in (b"", b"GET / HTTP/1.1\r\nHo", login, login + body):
                stack.enter_context(socket.create_connection(web.place)).sendall(half)
            if sys.platform == "linux":
                stack.enter_context(stalled(web.place))
            web.answers(200)
            ends_within(web, signal.SIGTERM, GRACE_SECONDS / 2)
            assert "Traceback" not in web.text()
            assert "level=error" not in web.text()

    def test_a_dev_token_is_made_once_and_lets_in(self, tmp_path: Path, redis_url: str) -> None:
        file = tmp_path / "data" / "token"
        for _ in range(2):
            with WebProcess(
                tmp_path, redis_url, "--dev-token", str(file), RQ_CLOCK_TOKENS=""
            ) as web:
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                token = file.read_text()
                assert f"token={token}" in web.text()
                web.answers(200, token=token)
                web.answers(401, "/api/v1/schedules", "x" * 32)

    def test_a_dev_token_is_for_this_machine(self, tmp_path: Path, redis_url: str) -> None:
        switches = ("--dev-token", "token", "--host", "0.0.0.0")
        with WebProcess(tmp_path, redis_url, *switches) as web:
            assert web.process.wait(PATIENCE) == 1
            assert "is for a laptop: expected --host 127.0.0.1" in web.text()
            assert not (tmp_path / "token").exists()

    def test_without_tokens_it_refuses_requests(self, tmp_path: Path, redis_url: str) -> None:
        with WebProcess(tmp_path, redis_url, RQ_CLOCK_TOKENS="") as web:
            assert "web.closed" in web.text()
            assert web.get("/")[0] == 401
            assert web.get("/healthz")[0] == 200

    def test_tokens_are_in_no_log(self, tmp_path: Path, redis_url: str) -> None:
        with WebProcess(tmp_path, redis_url) as web:
            web.get("/")
            web.get("/", "wrong-0123456789abcdef")
            assert TOKEN not in web.text()
            assert "wrong-" not in web.text()

    def test_a_port_in_use_is_one_line(self, tmp_path: Path, redis_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            with WebProcess(tmp_path, redis_url, "--port", port) as web:
                assert web.process.wait(PATIENCE) == 1
                assert f"cannot listen on 127.0.0.1:{port}" in web.text()
                assert "Traceback" not in web.text()


def test_no_answer_waits_for_the_clients_acknowledgement() -> None:
    """As a body would that is sent behind its head, 40 ms on a connection that is kept."""
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def every_page_reports_the_outage(web: WebProcess) -> None:
    with Pace() as pace:
        found = web.all_pages()
    for path, (status, body, took) in found:
        assert took < pace.allows(WITHIN), path
        if needs_redis(path):
            assert (path, status) == (path, 503)
            assert "redis" in body.lower(), path


class TestRedis:
    @pytest.fixture
    def server(self, fresh_server: Callable[..., Server]) -> Server:
        return fresh_server()

    def test_it_recovers_from_an_outage(self, tmp_path: Path, server: Server) -> None:
        with WebProcess(tmp_path, server.url) as web:
            web.answers(200)
            server.stop()
            every_page_reports_the_outage(web)
            server.start()
            web.answers(200)

    def test_every_page_reports_a_frozen_redis(self, tmp_path: Path, server: Server) -> None:
        with WebProcess(tmp_path, server.url) as web, ExitStack() as stack:
            web.answers(200)
            server.pause()
            stack.callback(server.resume)
            every_page_reports_the_outage(web)
            server.resume()
            web.answers(200)

    def test_sigterm_ends_it_while_redis_is_frozen(self, tmp_path: Path, server: Server) -> None:
        with WebProcess(tmp_path, server.url) as web, ExitStack() as stack:
            web.answers(200)
            server.pause()
            stack.callback(server.resume)
            assert web.get("/")[0] == 503
            ends_within(web, signal.SIGTERM, GRACE_SECONDS / 2)

    @pytest.mark.parametrize("seconds", [0.2, 0.5])
    def test_a_slow_redis_delays_no_page(
        self, tmp_path: Path, server: Server, seconds: float
    ) -> None:
        with Redis.from_url(server.url) as redis:
            settings = Settings.from_env({"REDIS_URL": server.url})
            Schedules(redis, settings=settings).add("slow", every(minutes=5), "tasks.x")
        with Proxy(server.url, delay=seconds) as slow, WebProcess(tmp_path, slow.url) as web:
            with Pace() as pace:
                found = web.all_pages()
            for path, (status, body, took) in found:
                assert took < pace.allows(WITHIN), f"{path}: {took:.1f} s"
                assert status < 500 or (status == 503 and "redis" in body.lower()), path
            if seconds < 0.3:
                wait_until(lambda: "slow" in web.get("/")[1], "the schedule")


@contextmanager
def stalled(place: tuple[str, int]) -> Iterator[None]:
    """A connection of somebody who asks for much and reads none of it, until the server cannot
    send any more."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(place)
        client.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(2000):
                client.send(b"GET /static/app.css HTTP/1.1\r\nHost: x\r\n\r\n")
        unsent = [-1]

        def still() -> bool:
            unsent.append(backlog(place[1], client.getsockname()[1]))
            return unsent[-1] > 100_000 and len(set(unsent[-30:])) == 1

        wait_until(still, "the server's buffers to be full")
        yield


def backlog(server: int, client: int) -> int:
    """Bytes that the kernel holds for a client, by the ports of both."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if [int(end.split(":")[1], 16) for end in words[1:3]] == [server, client]:
            return int(words[4].split(":")[0], 16)
    return 0


class TestMounted:
    @pytest.fixture
    def mounted(self, redis_url: str) -> Iterator[TestClient]:
        settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": TOKEN})
        app = FastAPI()
        app.mount("/clock", create_app(settings))
        with TestClient(app, follow_redirects=False) as client:
            yield client

    def test_its_links_stay_under_its_path(self, mounted: TestClient) -> None:
        answer = mounted.get("/clock/")
        assert answer.headers["location"].startswith("/clock/login?next=/")
        headers = {"Sec-Fetch-Site": "same-origin"}
        answer = mounted.post("/clock/login", data={"token": TOKEN}, headers=headers)
        assert answer.headers["location"] == "/clock/"
        assert "Path=/clock" in answer.headers["set-cookie"]
        for path in pages():
            page = mounted.get("/clock" + path)
            assert page.status_code < 400, path
            for link in re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text):
                assert link.startswith("/clock/"), (path, link)
