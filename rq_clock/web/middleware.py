"""The middleware around every route: limits of the body's size and of the time to answer, the
client behind a proxy, and security headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rq_clock.web.auth import SAFE
from rq_clock.web.metrics import count_request
from rq_clock.web.problems import Problem

BODY_LIMIT = 1024 * 1024
LOOK_SECONDS, CHANGE_SECONDS = 1.5, 25.0
"""Time limits of a read and of a change, which are then answered with 503. The outcome of the
change is unknown. A platform's router waits for 30 s."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every response, unless a route sets them itself."""


class Middleware:
    """The middleware. `late` answers a request that takes too long; the app's own response is then
    dropped. `broken` answers one whose route raised; the server logs the exception. `behind_proxy`
    trusts X-Forwarded-* headers, and of several addresses only the last one: the nearest proxy has
    added it, while any client can send the others."""

    def __init__(
        self, app: ASGIApp, *, late: Callable[[Scope], ASGIApp],
        broken: Callable[[Scope], ASGIApp], behind_proxy: bool,
    ) -> None:  # fmt: skip
        self._app = app
        self._late = late
        self._broken = broken
        self._behind_proxy = behind_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._behind_proxy:
            scope = _forwarded(scope)
        scope.setdefault("state", {})["request_id"] = token_hex(8)
        answer = _Answer(scope, send)
        if problem := _fault_of_length(dict(scope["headers"])):
            refusal = Problem(*problem, headers={"Connection": "close"})
            await refusal.answer(answer.request_id)(scope, receive, answer.send)
            return
        seconds = LOOK_SECONDS if scope["method"] in SAFE else CHANGE_SECONDS
        task = asyncio.ensure_future(self._app(scope, _measured(receive), answer.send))
        try:
            await asyncio.wait([task], timeout=seconds)
            if not task.done() and not answer.status:
                answer.closed = True
                await self._late(scope)(scope, receive, _Answer(scope, send).send)
                task.add_done_callback(_drop)
                return
            await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        except Exception:
            if not answer.status:
                await self._broken(scope)(scope, receive, answer.send)
            raise
        finally:
            route = getattr(scope.get("route"), "path", "")
            count_request(route, scope["method"], answer.status or 503)


class _Answer:
    """Sends a response with the headers of every response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id: str = scope["state"]["request_id"]
        self._secure = scope["scheme"] == "https"
        self.status = 0
        """0 until the response has started."""
        self.closed = False
        """Whether the client has received another response."""
        self._send = send

    async def send(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = list(message.get("headers", []))
            there = {name.lower() for name, _ in headers}
            own = {**HEADERS, "X-Request-Id": self.request_id}
            if self._secure:
                own["Strict-Transport-Security"] = f"max-age={365 * 24 * 3600}"
            for name, value in own.items():
                if name.lower().encode() not in there:
                    headers.append((name.lower().encode(), value.encode()))
        await self._send(message)


def _measured(receive: Receive) -> Receive:
    """Return `receive` with a limit on the size of the body."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > BODY_LIMIT:
            raise Problem(*_TOO_LARGE)
        return message

    return limited


def _fault_of_length(headers: Mapping[bytes, bytes]) -> tuple[str, str] | None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        return "validation", "expected Content-Length in bytes, got no whole number"
    if len(length) > 15 or int(length) > BODY_LIMIT:
        return _TOO_LARGE
    if b"content-length" in headers and b"transfer-encoding" in headers:
        # A router may read the body to another end, and the rest as another request.
        return "validation", "expected a body with Content-Length or in chunks, got one with both"
    return None


def _drop(task: asyncio.Future[None]) -> None:
    """Drop the error of a task whose request was answered."""
    if not task.cancelled():
        task.exception()


_TOO_LARGE = "too-large", f"expected a body of at most {BODY_LIMIT:,} bytes"


def _forwarded(scope: Scope) -> Scope:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    changed: dict[str, Any] = {}
    if address := _last(headers, b"x-forwarded-for"):
        changed["client"] = (address, 0)
    if _last(headers, b"x-forwarded-proto") in ("http", "https"):
        changed["scheme"] = _last(headers, b"x-forwarded-proto")
    if host := _last(headers, b"x-forwarded-host"):
        kept = [(n, v) for n, v in scope["headers"] if n != b"host"]
        changed["headers"] = [*kept, (b"host", host.encode("latin-1"))]
    return {**scope, **changed}


def _last(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").rpartition(",")[2].strip()
