"""Servers of the tests of web calls."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

Scripted = Callable[[Callable[[socket.socket], None]], AbstractContextManager[str]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A server on loopback that reads the head of a request, responds by a function and closes."""

    @contextmanager
    def scripted(respond: Callable[[socket.socket], None]) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", f"127.0.0.1:{port}")

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += connection.recv(1)
                    respond(connection)

            thread = threading.Thread(target=answer)
            thread.start()
            yield f"http://127.0.0.1:{port}/"
            thread.join()

    return scripted
