"""What clients that do not finish a request keep from others: nothing."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from redis import Redis

from rq_clock.settings import Settings
from rq_clock.web import connections, create_app
from rq_clock.web.server import listening, server_of
from tests.helpers import PATIENCE, wait_until
from tests.server import free_url

pytestmark = pytest.mark.integration
LIMIT = 5
Place = tuple[str, int]


@contextmanager
def serving(limit: int) -> Iterator[Place]:
    """Serve in a thread; yields the address."""
    url = free_url()
    app = create_app(Settings.from_env({"REDIS_URL": url}), redis=Redis.from_url(url))
    with listening("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as threads:
        server = server_of(app, limit)
        ended = threads.submit(server.run, [listener])
        wait_until(lambda: server.started or ended.done(), "the server")
        try:
            yield listener.getsockname()[:2]
        finally:
            server.should_exit = True


def half_sent(stack: ExitStack, place: Place) -> socket.socket:
    client = stack.enter_context(socket.create_connection(place, timeout=PATIENCE))
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    return client


def is_closed(client: socket.socket) -> bool:
    try:
        return not client.recv(1)
    except ConnectionResetError:
        return True


def answers(place: Place) -> bool:
    connection = http.client.HTTPConnection(*place, timeout=PATIENCE)
    connection.request("GET", "/healthz")
    answer = connection.getresponse().status == 200
    connection.close()
    return answer


def test_above_the_limit_the_head_that_is_longest_under_way_goes() -> None:
    with serving(LIMIT) as place, ExitStack() as stack:
        clients = [half_sent(stack, place) for _ in range(LIMIT)]
        assert answers(place)
        assert is_closed(clients[0])
        clients[-1].sendall(b"\r\n")
        assert clients[-1].recv(12) == b"HTTP/1.1 200"


def test_a_head_has_a_deadline_also_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with serving(LIMIT) as place, ExitStack() as stack:
        first, second = half_sent(stack, place), half_sent(stack, place)
        second.sendall(b"\r\n")
        assert second.recv(12) == b"HTTP/1.1 200"
        second.sendall(b"GET /")
        assert is_closed(first)
        while second.recv(4096):
            pass


@pytest.mark.parametrize(("files", "limit"), [(200, 100), (1024, 924), (100_000, 1000), (64, 16)])
def test_descriptors_are_left_for_the_rest(
    files: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (files, files))
    assert connections.connection_limit() == limit
