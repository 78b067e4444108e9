"""Servers of the tests of web calls."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

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


class Names:
    """A resolver that has several answers for each name, one after the other."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.queries: list[str] = []

    def __call__(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        self.queries.append(host)
        addresses = self.answers[host].pop(0)
        kind = socket.SOCK_STREAM
        return [
            (socket.AF_INET6, kind, 6, "", (a, port, 0, 0)) if ":" in a
            else (socket.AF_INET, kind, 6, "", (a, port))
            for a in addresses
        ]  # fmt: skip


Resolve = Callable[..., Names]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    def names(**answers: list[list[str]]) -> Names:
        resolver = Names(**answers)
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        return resolver

    return names
