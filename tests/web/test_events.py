"""Streams of what changes: who listens hears of it soon and once, and holds nobody up."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from redis import Redis
from rq import Queue

from rq_clock.devserver import Server
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.timing.triggers import every
from rq_clock.web.events import Live
from rq_clock.web.server import GRACE_SECONDS
from tests.clock.storm import LEASHED, ROOT
from tests.helpers import round_trips, wait_until
from tests.web.test_server import PATIENCE, TOKEN, WebProcess

pytestmark = pytest.mark.process


class Listener:
    """A client of a stream that notes what it hears. Where it is `deaf`, it reads nothing."""

    def __init__(
        self, place: tuple[str, int], path: str = "/events", *, deaf: bool = False
    ) -> None:
        self._socket = socket.socket()
        if deaf:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(place)
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        self._socket.sendall(head.encode())
        self.text = ""
        self.ended = 0.0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        if not deaf:
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while data := self._socket.recv(65536):
                self.text += data.decode()
        self.ended = time.monotonic()

    def events(self, kind: str) -> list[str]:
        """The data of the events of a kind."""
        return re.findall(rf"event: {kind}\r?\ndata: (.*)\r?\n", self.text)

    def hears(self, kind: str, *words: str, seconds: float = PATIENCE) -> None:
        """Fails unless an event comes that has all these words."""
        wait_until(
            lambda: any(set(words) <= set(data.split()) for data in self.events(kind)),
            seconds,
            f"{kind} {words}; heard was {self.text!r}",
        )

    def regions(self) -> set[str]:
        return {word for data in self.events("changed") for word in data.split()}


@pytest.fixture
def web(tmp_path: Path, redis_url: str) -> Iterator[WebProcess]:
    with WebProcess(tmp_path, redis_url) as web:
        yield web


@pytest.fixture
def schedules(connection: Redis, redis_url: str) -> Schedules:
    settings = Settings.from_env({"REDIS_URL": redis_url})
    return Schedules(connection, settings=settings)


class TestWhatIsTold:
    def test_each_change_is_told_by_the_names_of_its_regions(
        self, web: WebProcess, schedules: Schedules, connection: Redis
    ) -> None:
        with Listener(web.place) as one, Listener(web.place, "/api/v1/events") as other:
            for listener in (one, other):
                listener.hears("store", "up")
                assert "content-type: text/event-stream" in listener.text
            schedules.add("nightly-secret-name", every(hours=1), "tasks.x", args=["secret-word"])
            for listener in (one, other):
                listener.hears("changed", "schedules", "audit")
                assert not listener.regions() & {"queues", "output"}
            Queue("reports", connection=connection).enqueue("tasks.x")
            one.hears("changed", "queues")
            connection.hset("rq-clock:default:lease", "token", "1.x")
            one.hears("changed", "clock")
            assert "secret" not in one.text + other.text

    def test_output_is_told_while_its_job_runs_and_no_longer(
        self, web: WebProcess, connection: Redis
    ) -> None:
        output = "rq-clock:default:output:job-1"
        connection.hset("rq-clock:default:workers", "w", "1 execution job-1 default")
        with Listener(web.place) as listener:
            listener.hears("store", "up")
            connection.hset("rq-clock:default:workers", "w", "2 execution job-1 default")
            connection.set(output, "line 1\n")
            connection.append(output, "line 2\n")
            wait_until(lambda: connection.append(output, "x") and "output" in listener.regions(),
                       PATIENCE, "output")  # fmt: skip
            assert listener.regions() == {"output"}  # a sign of life is no change

    def test_what_becomes_late_is_told_though_nothing_was_written(
        self, web: WebProcess, connection: Redis
    ) -> None:
        seconds: Any = connection.time()
        connection.zadd("rq-clock:default:due", {"x": (seconds[0] - 60 + 2) * 1000})
        with Listener(web.place) as listener:
            listener.hears("changed", "schedules", "clock")

    def test_a_redis_that_goes_and_comes_is_told(
        self, tmp_path: Path, fresh_server: Callable[..., Server]
    ) -> None:
        server = fresh_server()
        with WebProcess(tmp_path, server.url) as web, Listener(web.place) as early:
            early.hears("store", "up")
            server.stop()
            early.hears("store", "down")
            with Listener(web.place) as late:
                late.hears("store", "down")
                server.start()
                late.hears("store", "up")
            early.hears("store", "up")
            assert early.events("store") == ["up", "down", "up"]
            with Redis.from_url(server.url) as redis:
                redis.incr("rq-clock:default:revision")
            early.hears("changed", "schedules")

    def test_nobody_hears_without_a_token(self, web: WebProcess) -> None:
        assert web.get("/api/v1/events", "wrong-0123456789abcdef")[0] == 401


class TestCost:
    def test_all_listeners_together_cost_one_round_trip_a_look(
        self, connection: Redis, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rq_clock.web.events.LOOK_SECONDS", 0.05)
        monkeypatch.setattr("rq_clock.web.events.PING_SECONDS", 0.1)
        for i in range(200):
            schedules.add(f"s{i}", every(hours=1), "tasks.x")

        async def listen(live: Live) -> list[str]:
            heard = []
            async for event in live.tell():
                heard.append(event)
                if len(heard) == 5:
                    break
            return heard

        async def many() -> tuple[list[list[str]], float]:
            live = Live(Store(connection, "default"), asyncio.Event())
            began = time.monotonic()
            heard = await asyncio.gather(*(listen(live) for _ in range(50)))
            took = time.monotonic() - began
            if others := asyncio.all_tasks() - {asyncio.current_task()}:
                _, looking = await asyncio.wait(others, timeout=PATIENCE)
                assert not looking, "nobody listens any more"
            return heard, took

        with round_trips() as sent:
            heard, took = asyncio.run(many())
            assert {h[0].partition("\n\n")[2] for h in heard} == {"event: store\ndata: up\n\n"}
            assert 2 <= len(sent) <= took / 0.05 + 2
            assert max(len(b"".join(parts)) for parts in sent) < 2000

    def test_who_is_slow_is_told_once_of_what_happened_often(self, connection: Redis) -> None:
        async def slow() -> str:
            live = Live(Store(connection, "default"), asyncio.Event())
            stream = live.tell()
            await anext(stream)
            for _ in range(4):
                connection.incr("rq-clock:default:revision")
                await live._look()
            return await anext(stream)

        assert asyncio.run(slow()) == "event: changed\ndata: schedules clock\n\n"


class TestTheEnd:
    def test_sigterm_ends_it_within_a_second_whoever_listens(
        self, tmp_path: Path, redis_url: str
    ) -> None:
        with WebProcess(tmp_path, redis_url) as web, ExitStack() as stack:
            listeners = [stack.enter_context(Listener(web.place)) for _ in range(10)]
            for listener in listeners:
                listener.hears("store", "up")
            stack.enter_context(Listener(web.place, deaf=True))
            login = b"POST /login HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n"
            body = b"Content-Length: 100\r\n\r\ntoken=x"
            for half in (b"", b"GET / HTTP/1.1\r\nHo", login, login + body):
                stack.enter_context(socket.create_connection(web.place)).sendall(half)
            if sys.platform == "linux":
                stack.enter_context(stalled(web.place))
            assert web.get("/")[0] == 200
            began = time.monotonic()
            web.process.send_signal(signal.SIGTERM)
            assert web.process.wait(PATIENCE) == 0, web.text()
            assert time.monotonic() - began < GRACE_SECONDS / 2  # alone it takes 0.5 s
            assert "Traceback" not in web.text()
            assert "level=error" not in web.text()
            for listener in listeners:
                wait_until(lambda: listener.ended, 1, "the stream's end")  # noqa: B023
                assert listener.text.endswith("0\r\n\r\n"), "cut off instead of ended"

    def test_it_ends_within_a_second_also_while_redis_is_frozen(
        self, tmp_path: Path, fresh_server: Callable[..., Server]
    ) -> None:
        server = fresh_server()
        with WebProcess(tmp_path, server.url) as web, Listener(web.place) as listener:
            listener.hears("store", "up")
            server.pause()
            listener.hears("store", "down")
            began = time.monotonic()
            web.process.send_signal(signal.SIGTERM)
            assert web.process.wait(PATIENCE) == 0
            assert time.monotonic() - began < GRACE_SECONDS / 2  # alone it takes 0.5 s
            server.resume()

    def test_in_an_app_of_somebody_else_a_stream_is_brief(
        self, tmp_path: Path, redis_url: str
    ) -> None:
        """uvicorn waits for streams to end, for ever, and tells nobody that it does."""
        (tmp_path / "mine.py").write_text(
            "from fastapi import FastAPI\n"
            "from rq_clock.web import create_app, live\n"
            "live.BRIEF_SECONDS = 2\n"
            "app = FastAPI()\n"
            "app.mount('/clock', create_app())\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "--port", str(port), "mine:app"]
        env = {"PYTHONPATH": str(ROOT), "REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": TOKEN}
        process = subprocess.Popen(
            LEASHED + command if sys.platform == "linux" else command,
            cwd=tmp_path, env=env, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with process:
            place = ("127.0.0.1", port)
            wait_until(lambda: answers(place), PATIENCE, "the server")
            with Listener(place, "/clock/events") as listener:
                listener.hears("store", "up")
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)
                assert listener.text.endswith("0\r\n\r\n")

    def test_a_fault_ends_the_streams_and_the_next_listener_starts_anew(
        self, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rq_clock.web.events.LOOK_SECONDS", 0.05)

        async def both() -> tuple[list[str], str]:
            live = Live(Store(connection, "default"), asyncio.Event())
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            stream = live.tell()
            first = [await anext(stream)]
            with monkeypatch.context() as broken:
                broken.setattr("rq_clock.web.events.changed", None)
                first += [event async for event in stream]
            return first, await anext(live.tell())

        before, after = asyncio.run(asyncio.wait_for(both(), PATIENCE))
        assert len(before) == 2
        assert after.endswith("event: store\ndata: up\n\n")


def answers(place: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(place) == 0


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

        wait_until(still, PATIENCE, "the server's buffers to be full")
        yield


def backlog(server: int, client: int) -> int:
    """Bytes that the kernel holds for a client, by the ports of both."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if [int(end.split(":")[1], 16) for end in words[1:3]] == [server, client]:
            return int(words[4].split(":")[0], 16)
    return 0
