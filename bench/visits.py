"""Visits web processes, and counts what these ask of Redis.

Times are a client's on loopback, from sending a request on a connection that is there until the
last byte of its answer is: of what a web process takes nothing is left out, and about a third of a
millisecond is the client's own.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from random import random
from typing import Self
from urllib.parse import urlsplit

from redis import Redis

from bench.lab import PEERS_PYTHON, Process
from tests.server import free_url

TOKEN = "a-token-of-the-bench"
QUIET = 0.02
"""Seconds after which a client that sends no more is taken to wait."""


@dataclass(frozen=True, slots=True)
class Visit:
    """An answer."""

    seconds: float
    size: int
    body: str


@dataclass(frozen=True, slots=True)
class Web:
    """A web process that answers."""

    process: Process
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def visitor(self) -> Visitor:
        """A client, with a connection of its own."""
        return Visitor(self.port, self.headers)


class Visitor:
    """Asks for one page after the other, on a connection that is kept."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> Visit:
        """Raises RuntimeError, with what it said, for an answer that is none."""
        try:
            return self._get(path)
        except ConnectionError:  # servers end one that has been idle for some seconds
            self._connection.close()
            return self._get(path)

    def _get(self, path: str) -> Visit:
        began = time.perf_counter()
        self._connection.request("GET", path, headers=dict(self._headers))
        answer = self._connection.getresponse()
        raw = answer.read()
        took = time.perf_counter() - began
        body = raw.decode()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:500]}")
        return Visit(took, len(raw), body)


@contextmanager
def ours(redis: Redis, **settings: str) -> Iterator[Web]:
    """`rq-clock web`."""
    port = _free_port()
    settings = {
        "RQ_CLOCK_TOKENS": f"bench:admin:{TOKEN}", "RQ_CLOCK_TOKEN_RATE": "100000"
    } | settings  # fmt: skip
    with Process(redis, "rq_clock", "web", f"--port={port}", **settings) as process:
        web = Web(process, port, {"Authorization": f"Bearer {TOKEN}"})
        _await_answer(web, "/")
        yield web


@contextmanager
def dashboard(redis: Redis, **settings: str) -> Iterator[Web]:
    """rq-dashboard as its own image runs it, under gunicorn; one process as ours is, with threads,
    which gunicorn needs to keep connections."""
    port = _free_port()
    command = ("gunicorn", f"--bind=127.0.0.1:{port}", "--workers=1", "--threads=4")
    app, settings = "rq_dashboard.app:create_app()", {"RQ_DASHBOARD_URL_PREFIX": "/"} | settings
    with Process(redis, *command, app, python=PEERS_PYTHON, **settings) as process:
        web = Web(process, port)
        _await_answer(web, "/")
        yield web


def keep_open(web: Web, pages: int, seconds: float) -> list[int]:
    """Poll a number of open pages as live.js does. Return the statuses."""
    login = HTTPConnection("127.0.0.1", web.port, timeout=60)
    login.request("POST", "/login", f"token={TOKEN}", {"Sec-Fetch-Site": "same-origin"})
    cookie = login.getresponse().headers["Set-Cookie"].partition(";")[0]
    login.close()
    end, statuses = time.monotonic() + seconds, list[int]()

    def stay() -> None:
        connection, etag = HTTPConnection("127.0.0.1", web.port, timeout=60), '""'
        while time.monotonic() + (pause := 2 + 3 * random()) < end:
            time.sleep(pause)
            connection.request("GET", "/", headers={"Cookie": cookie, "If-None-Match": etag})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            etag = answer.headers["ETag"]
            connection.close()
        connection.close()

    threads = [threading.Thread(target=stay) for _ in range(pages)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def throughput(web: Web, paths: Sequence[str], clients: int, seconds: float) -> tuple[int, float]:
    """How often so many clients at once, each on its own connection, get all of `paths` one after
    the other, and in how many seconds."""
    begin = time.perf_counter() + 0.1
    counts, faults = [0] * clients, list[Exception]()

    def visit(n: int) -> None:
        try:
            with web.visitor() as visitor:
                for path in paths:
                    visitor.get(path)  # the connection, and what is only done once
                time.sleep(max(0.0, begin - time.perf_counter()))
                while time.perf_counter() < begin + seconds:
                    for path in paths:
                        visitor.get(path)
                    counts[n] += 1
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return sum(counts), time.perf_counter() - begin


class RoundTrips:
    """A way to a server on which round trips are counted: what a client sends before it waits is
    one. A pipeline may come in several pieces, so each is handed on when nothing has come for a
    while: this is for counting, not for timing."""

    def __init__(self, redis: Redis) -> None:
        at = redis.connection_pool.connection_kwargs
        self._server = at["host"], at["port"]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ended = False
        self._waiting: dict[socket.socket, bytes] = {}
        """Server's end of a connection → what the client has sent."""
        self.count = 0
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _serve(self) -> None:
        while not self._ended:
            ready = self._selector.select(QUIET if self._waiting else 0.2)
            for key, _ in ready:
                key.data()
            if not ready:
                for server, sent in self._waiting.items():
                    self.count += 1
                    server.sendall(sent)
                self._waiting.clear()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._server)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def hold(piece: bytes) -> None:
            self._waiting[server] = self._waiting.get(server, b"") + piece

        for end, other, take in ((client, server, hold), (server, client, client.sendall)):
            self._selector.register(end, selectors.EVENT_READ, self._reader(end, other, take))

    def _reader(
        self, end: socket.socket, other: socket.socket, take: Callable[[bytes], None]
    ) -> Callable[[], None]:
        def read() -> None:
            with suppress(OSError):  # one of the two is gone
                if piece := end.recv(1 << 18):
                    take(piece)
                    return
            for one in (end, other):
                self._waiting.pop(one, None)
                with suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()

        return read


def _free_port() -> int:
    port = urlsplit(free_url()).port
    assert port is not None
    return port


def _await_answer(web: Web, path: str) -> None:
    """Return when it answers; looks every 20 ms."""
    deadline = time.monotonic() + 60
    while True:
        web.process.check()
        try:
            with web.visitor() as visitor:
                visitor.get(path)
            return
        except (OSError, HTTPException, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer after a minute: {error}") from None
        time.sleep(0.02)
