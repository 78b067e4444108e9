"""The web process: serve the app until a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from rq_clock.errors import RqClockError
from rq_clock.log import log_event, set_up
from rq_clock.redaction import escaped
from rq_clock.settings import Settings, tokens_from
from rq_clock.web.app import create_app
from rq_clock.web.connections import Connection, connection_limit
from rq_clock.web.sections import Section

GRACE_SECONDS = 5
"""Time for running requests to finish after a signal."""
CLIENT_SECONDS = 0.3
"""Time for a client to send its request, or to read its response, after a signal."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run_web(*, extra: Sequence[Section] = ()) -> None:
    """Serve the web process with an app's own pages and API routes until SIGTERM or SIGINT. The
    last line of web.py.

    Command-line switches of the script: those of `rq-clock web` (see --help). Exits with 1 for a
    wrong setting, an address that cannot be used, and an extra route that names no scope.
    """
    options = _arguments()
    try:
        settings = Settings.from_env()
        serve(
            settings, host=options.host, read_only=options.read_only, extra=extra,
            port=settings.port if options.port is None else options.port,
            token_file=options.dev_token,
        )  # fmt: skip
    except RqClockError as error:
        sys.exit(f"error: {escaped(str(error))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the web process of this app.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 on a platform"
    )
    parser.add_argument("--port", type=int, help="port to listen on (default: PORT, or 8000)")
    parser.add_argument(
        "--read-only", action="store_true", help="refuse every change, whatever the token"
    )
    parser.add_argument(
        "--dev-token", type=Path, metavar="FILE",
        help="for development: accept and print the token in FILE, created if missing",
    )  # fmt: skip
    return parser.parse_args()


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    read_only: bool,
    token_file: Path | None = None,
    extra: Sequence[Section] = (),
) -> None:
    """Serve until SIGTERM or SIGINT. The token of a `token_file` is valid and logged, on a loopback
    address only; a missing file is created with a new token. Raises RqClockError for a wrong
    setting, and for an address that cannot be used."""
    set_up(stamp=settings.stamped_logs)
    if token_file:
        if host not in LOOPBACK:
            raise RqClockError(
                f"--dev-token is for a laptop: expected --host 127.0.0.1, got {host}"
            )
        token = _token_in(token_file)
        settings = replace(
            settings, tokens=(*settings.tokens, *tokens_from(f"dev:admin+commands:{token}"))
        )
    elif not settings.tokens:
        log_event("web.closed", reason="RQ_CLOCK_TOKENS is not set: every request is refused")
    app = create_app(settings, read_only=read_only, extra=extra)
    with listening(host, port) as listener:
        address = "http://{}:{}".format(*listener.getsockname()[:2])
        if token_file:
            log_event("web.listening", address=address, token=token)
        else:
            log_event("web.listening", address=address)
        app.openapi()  # takes a third of a second, which no request shall wait for
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        server_of(app, connection_limit()).run([listener])


def server_of(app: ASGIApp, limit: int) -> uvicorn.Server:
    """Return a server of an app with this many connections."""
    config = uvicorn.Config(
        app,
        http=type("Connection", (Connection,), {"limit": limit}),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # middleware.py reads them, more strictly
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return _Server(config)


def _token_in(path: Path) -> str:
    """Return the token in a private file; create a missing file with a new one."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token := token_hex(16))
        return token


def listening(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises RqClockError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
        # Connections inherit it. asyncio does not set it on these, and a body that is sent after
        # its head would wait 40 ms for the client's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise RqClockError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port or PORT"
        ) from None


class _Server(uvicorn.Server):
    """A server that disconnects stalled clients at its end; uvicorn may wait for them forever. The
    process exits with 0; uvicorn's dies of the signal."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(CLIENT_SECONDS, self._disconnect_stalled)
        await super().shutdown(sockets)

    def _disconnect_stalled(self) -> None:
        """Abort the connections that only wait for their client."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection) and connection.stalled:
                connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
