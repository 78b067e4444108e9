"""One call over HTTP: to checked addresses only, within one time for all of it.

The name is looked up once, every address that it has is checked (addresses.py), and the connection
goes to one of those; a DNS server that answers differently the second time is not asked a second
time. Certificate and Host are those of the name. Redirects are not followed, proxies not used.

Looking up a name cannot be given a time, and a server that sends a byte a second never exceeds that
of a read. So the call runs in a thread of its own, and who waits for it stops waiting.

`socket.getaddrinfo` is the only way to addresses here; tests put another in its place.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from rq_clock.errors import WebhookFailed
from rq_clock.outbound.addresses import Allowed, refusal
from rq_clock.redaction import masked_url, printable

MARGIN_SECONDS = 1.0
"""How much longer than the call the thread may wait; then it is over there too."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to call. `body` is sent with its length, nothing when None; of the answer's body the
    first `keep` bytes are wanted."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    keep: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    reason: str
    body: bytes
    location: str

    @property
    def words(self) -> str:
        return f"{self.status} {printable(self.reason, 100)}".strip()


class TooSlow(WebhookFailed):
    """The call took longer than it may."""


def call(request: Request, timeout: float, allowed: tuple[Allowed, ...]) -> Answer:
    """Send it and read the answer, whatever its status.

    Raises WebhookFailed when the address is refused or the call breaks off, TooSlow when it is not
    over after `timeout` seconds.
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
        except Exception as error:  # whatever it is, somebody waits for it
            reason = printable(f"{type(error).__name__}: {error}", 200)
            self.result.put(WebhookFailed(f"{where}: {self.stage} failed: {reason}"))
        finally:
            if self._socket:
                self._socket.close()

    def cut(self) -> None:
        """Nobody waits any more: nothing is sent from now on, and a read ends."""
        self._over = True
        if self._socket:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _begin(self, stage: str) -> None:
        """Go on, if anybody still waits: what was given up must not be sent late."""
        if self._over:
            raise TooSlow(f"given up before {stage}")
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
        connection.request(self._request.method, target, self._request.body, headers)
        with connection.getresponse() as response:
            body = response.read(self._request.keep)
            location = response.headers.get("Location", "")
            return Answer(response.status, response.reason, body, location)

    def _connect(self, host: str, port: int) -> socket.socket:
        """A connection to one of the host's addresses, all of which may be called."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if reason := refusal(host, port, str(address[0]), self._allowed):
                raise WebhookFailed(f"{masked_url(self._request.url)}: refused, {reason}")
        for left, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            self._begin(f"connecting to {address[0]}")
            self._socket = sock = socket.socket(family, kind, protocol)
            remaining = max(self._deadline - time.monotonic(), 0)
            # one that does not answer leaves time for the others; of the last, who waits decides
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
