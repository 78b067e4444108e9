"""A web server that keeps the requests it gets, for the tests of webhooks and alerts."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from tests.helpers import make_certificate

S = TypeVar("S", bound="Recorder")


class Handler(BaseHTTPRequestHandler):
    """Records a request, then responds; `seen` of the server has the requests."""

    server: Any

    def record(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.seen.append({
            "method": self.command, "path": self.path, "headers": dict(self.headers),
            "body": self.rfile.read(length), "at": time.monotonic(),
        })  # fmt: skip
        self.respond()

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = record  # noqa: N815

    def respond(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass


class Recorder(ThreadingHTTPServer):
    """A server on a free port of loopback. `over` ends the responses that hang."""

    block_on_close = False
    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.seen: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Ignore a client that does not wait: some tests are about those."""


@contextmanager
def serving(server: S) -> Iterator[S]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def certified(host: str, path: Path) -> ssl.SSLContext:
    """Return the TLS context of a server at `host`, whose clients have to trust `cert.pem`."""
    certificate = make_certificate(path, f"DNS:{host}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, path / "key.pem")
    return context
