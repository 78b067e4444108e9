"""One call over HTTP: to checked addresses only, with one timeout for the whole call.

The name is resolved once and all its addresses are checked (addresses.py). The connection goes to
one of those, so a DNS server cannot answer differently later. Certificate and Host are those of the
name. Redirects are not followed, proxies not used.

Resolving a name has no timeout, and a server that sends a byte a second never exceeds that of a
read. So the call runs in its own thread, and the caller stops waiting for it.

Addresses come from `socket.getaddrinfo` alone; tests replace it.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
import time
from calendar import timegm
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

from rq_clock.errors import WebhookFailed
from rq_clock.outbound.addresses import Allowed, refusal
from rq_clock.redaction import masked_url, printable

MARGIN_SECONDS = 1.0
"""Seconds after the call's timeout at which the thread ends, too."""
INTERIM_LIMIT = 100
"""Interim responses before the final one: a server may send one every few seconds to keep a slow
call alive."""
LONGEST_PAUSE = 3600
"""Seconds of a Retry-After that count."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call to make. `body` is sent with its length, nothing when None; `keep` is the number of
    bytes to read of the answer's body."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    keep: int


class Headers(Protocol):
    """The headers of an answer, by names of any case."""

    def get(self, name: str, default: str, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call."""

    status: int
    reason: str
    body: bytes
    headers: Headers

    @property
    def words(self) -> str:
        return f"{self.status} {printable(self.reason, 100)}".strip()


class TooSlow(WebhookFailed):
    """The call took longer than its timeout."""


class Refused(WebhookFailed):
    """The call was not made: its host has an address that may not be called."""


def call(request: Request, timeout: float, allowed: tuple[Allowed, ...]) -> Answer:
    """Make the call and return the answer, whatever its status.

    Raises Refused for an address that may not be called, TooSlow after `timeout` seconds, and
    WebhookFailed when the call breaks off.
    """
    exchange = _Exchange(request, timeout, allowed)
    threading.Thread(target=exchange.run, name="rq-clock-webhook", daemon=True).start()
    try:
        answer = exchange.result.get(timeout=timeout)
    except queue.Empty:
        where = masked_url(request.url)
        raise TooSlow(f"{where}: {exchange.stage} took longer than {timeout:g} s") from None
    finally:
        exchange.cut()
    if isinstance(answer, WebhookFailed):
        raise answer
    return answer


def retry_after(answer: Answer) -> int:
    """Return how many seconds a refused call should wait, at most an hour: what a 429 or 503 asks
    for, else 0."""
    refused = answer.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    return retry_after_header(answer.headers) if refused else 0


def retry_after_header(headers: Headers) -> int:
    """Return the seconds of a Retry-After header, at most an hour; 0 without one. It may be a date,
    which is that of the server's clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), LONGEST_PAUSE)
    try:
        until, at = parsedate(text), parsedate(headers.get("Date", ""))
        return min(max(timegm(until) - timegm(at), 0), LONGEST_PAUSE) if until and at else 0
    except (ValueError, OverflowError):
        return 0


class _Exchange:
    """One call, in its thread."""

    def __init__(self, request: Request, timeout: float, allowed: tuple[Allowed, ...]) -> None:
        self.result: queue.SimpleQueue[Answer | WebhookFailed] = queue.SimpleQueue()
        self.stage = "looking up the name"
        self._request = request
        self._allowed = allowed
        self._deadline = time.monotonic() + timeout
        self._socket: socket.socket | None = None
        self._over = False

    def run(self) -> None:
        where = masked_url(self._request.url)
        try:
            self.result.put(self._call())
        except WebhookFailed as error:
            self.result.put(error)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            self.result.put(WebhookFailed(f"{where}: TLS failed: {reason}"))
        except Exception as error:  # the caller waits for any result
            reason = printable(f"{type(error).__name__}: {error}", 200)
            self.result.put(WebhookFailed(f"{where}: {self.stage} failed: {reason}"))
        finally:
            if self._socket:
                self._socket.close()

    def cut(self) -> None:
        """Send nothing any more and end a read: the caller does not wait any more."""
        self._over = True
        if self._socket:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _begin(self, stage: str) -> None:
        """Begin a stage, unless the caller stopped waiting: nothing may be sent late."""
        if self._over:
            raise TooSlow(f"stopped before {stage}")
        self.stage = stage

    def _call(self) -> Answer:
        parts = urlsplit(self._request.url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        self._socket = self._connect(host, port)
        if secure:
            self._begin("agreeing on TLS")
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            self._socket = context.wrap_socket(
                self._socket, server_hostname=host, do_handshake_on_connect=False
            )
            self._socket.do_handshake()
        self._begin("the answer")
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self._socket
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {**self._request.headers, "Host": parts.netloc, "Connection": "close"}
        connection.response_class = _Response
        unsent: OSError | None = None
        try:
            connection.request(self._request.method, target, self._request.body, headers)
        except OSError as error:  # a server may answer before it has read all, and close
            unsent = error
        try:
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise unsent or error from None
        with response:
            body = _body(response, self._request.keep)
            return Answer(response.status, response.reason, body, response.headers)

    def _connect(self, host: str, port: int) -> socket.socket:
        """Return a connection to one of the host's addresses, if all of them may be called."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if reason := refusal(host, port, str(address[0]), self._allowed):
                raise Refused(f"{masked_url(self._request.url)}: refused, {reason}")
        for left, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            self._begin(f"connecting to {address[0]}")
            self._socket = sock = socket.socket(family, kind, protocol)
            remaining = max(self._deadline - time.monotonic(), 0)
            # a silent address leaves time for the others; the last one gets all that is left
            sock.settimeout(remaining / left if left > 1 else remaining + MARGIN_SECONDS)
            try:
                sock.connect(address)
            except OSError:
                sock.close()
                if left == 1:
                    raise
            else:
                sock.settimeout(max(self._deadline - time.monotonic(), 0) + MARGIN_SECONDS)
                return sock
        raise WebhookFailed(f"{masked_url(self._request.url)}: {host} has no address")


class _Response(http.client.HTTPResponse):
    """A final response. Interim ones (1xx) may come before it, also unasked (RFC 9110, 15.2). 101
    is final here: nobody asked for another protocol."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(INTERIM_LIMIT):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {INTERIM_LIMIT} interim responses (1xx)")


def _body(response: http.client.HTTPResponse, keep: int) -> bytes:
    """Return the first `keep` bytes. Of a refusal return what came before the connection broke: a
    server that closes it without reading the request resets it."""
    body = bytearray()
    try:
        while len(body) < keep and (chunk := response.read1(keep - len(body))):
            body += chunk
    except (OSError, http.client.HTTPException):
        if 200 <= response.status < 300:
            raise
    return bytes(body)
