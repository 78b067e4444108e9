"""Many calls over HTTP at once, on one event loop: to checked addresses only, each with one timeout
for the whole of it. The rules are those of client.py, which makes one call in a thread.

- All addresses of a name are checked when it is looked up, and again the address of each socket
  before it connects: aiohttp looks nothing up where the host is an address itself.
- A call connects only to what its own lookup found. Calls that look up the same name at the same
  time share one lookup, which is kept for KEEP_SECONDS.
- No redirects, proxies, cookies or decompression; `keep` bytes of the answer are read, then the
  connection is closed.

Looking up a name has no timeout, so lookups run in threads of their own: a DNS server that hangs
delays other names by HANG_SECONDS at most, and not the end of the process. Addresses come from
`socket.getaddrinfo` alone; tests replace it.

Not here: how often a call is made, and what an answer means.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from rq_clock.errors import RqClockError, WebhookFailed
from rq_clock.outbound.addresses import Allowed, refusal
from rq_clock.outbound.client import INTERIM_LIMIT, Answer, Refused, Request, TooSlow
from rq_clock.redaction import masked_url, printable

try:
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
    from yarl import URL
except ModuleNotFoundError as error:  # RQ would report an ImportError as an invalid function
    raise RqClockError(
        f'the calls of callbacks need {error.name}: pip install "rq-clock[callbacks]"'
    ) from None

KEEP_SECONDS = 2.0
"""How long the addresses of a name are kept: at hundreds of calls a second to one host, a lookup
for each would flood its DNS server."""
LOOKUPS = 100
"""Names that are looked up at the same time; others wait for their turn."""
HANG_SECONDS = 0.5
"""A lookup that takes longer hangs. It gives its turn to another name, as long as fewer than ASIDE
such lookups run. The next lookup of its name gets one of FEW turns, until one ends in time."""
ASIDE, FEW = 200, 10
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)
_NEVER_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
T = TypeVar("T")
_OWN = {"Accept-Encoding": "identity", "Connection": "close"}


@dataclass(slots=True)
class _Exchange:
    """The call that the current task makes: where to, and how far it is."""

    host: str
    port: int
    stage: str = "looking up the name"


_refusal = lru_cache(maxsize=1000)(refusal)
_exchange: ContextVar[_Exchange] = ContextVar("rq_clock_exchange")


class AsyncClient:
    """Calls from one event loop; an asynchronous context manager. A failed call leaves nothing
    behind that another call could meet."""

    def __init__(self, allowed: tuple[Allowed, ...]) -> None:
        self._allowed = allowed

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(self._allowed),
            use_dns_cache=False,
            socket_factory=self._checked_socket,
            ssl=context,
            force_close=True,
            limit=0,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=4096,
            response_class=_Response,
            skip_auto_headers=_NEVER_ADDED,
            timeout=_NO_TIMEOUT,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, request: Request, timeout: float) -> Answer:
        """Make the call and return the answer, whatever its status.

        Raises Refused for an address that may not be called, TooSlow after `timeout` seconds, and
        WebhookFailed when the call breaks off.
        """
        parts = urlsplit(request.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        exchange = _Exchange(parts.hostname or "", port)
        _exchange.set(exchange)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._call(request, exchange)
        except Refused as error:
            raise Refused(f"{masked_url(request.url)}: refused, {error}") from None
        except Exception as error:
            where = masked_url(request.url)
            if limit.expired():
                text = f"{exchange.stage} took longer than {timeout:g} s"
                raise TooSlow(f"{where}: {text}") from None
            raise WebhookFailed(f"{where}: {_reason(error, exchange.stage)}") from None

    async def _call(self, request: Request, exchange: _Exchange) -> Answer:
        response = await self._session.request(
            request.method,
            URL(request.url, encoded=True),
            data=request.body,
            headers={**request.headers, **_OWN},
            allow_redirects=False,
        )
        try:
            exchange.stage = "the answer"
            body = await _body(response, request.keep)
        finally:
            response.close()
        return Answer(response.status, response.reason or "", body, response.headers)

    def _checked_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Return a socket for an address that the current call may reach. Raises Refused."""
        family, kind, protocol, _, address = info
        exchange = _exchange.get()
        if reason := _refusal(exchange.host, exchange.port, str(address[0]), self._allowed):
            raise Refused(reason)
        exchange.stage = f"connecting to {address[0]}"
        return socket.socket(family, kind, protocol)


class _Response(aiohttp.ClientResponse):
    """A final response, after a limited number of interim ones (1xx): one call must not keep the
    loop busy with them. 101 is final here: nobody asked for another protocol."""

    async def start(self, connection: Any) -> Self:
        _exchange.get().stage = "the answer"
        protocol, read = connection.protocol, connection.protocol.read
        interim = 0

        async def count() -> Any:
            nonlocal interim
            message, payload = await read()
            interim += 100 <= message.code < 200
            if interim > INTERIM_LIMIT:
                raise WebhookFailed(f"more than {INTERIM_LIMIT} interim responses (1xx)")
            return message, payload

        protocol.read = count
        try:
            await super().start(connection)
        finally:
            del protocol.read
        return self


async def _body(response: aiohttp.ClientResponse, keep: int) -> bytes:
    """Return the first `keep` bytes. Of a refusal return what came before the connection broke."""
    body = bytearray()
    try:
        while len(body) < keep and (chunk := await response.content.read(keep - len(body))):
            body += chunk
    except (OSError, aiohttp.ClientError):
        if 200 <= response.status < 300:
            raise
    return bytes(body)


class _Resolver(AbstractResolver):
    """Looks up names, and refuses those of which any address may not be called."""

    def __init__(self, allowed: tuple[Allowed, ...]) -> None:
        self._allowed = allowed
        self._lookups: dict[tuple[str, int], tuple[asyncio.Task[list[Any]], float]] = {}
        """Each with the moment (monotonic) until which it is kept once it is done."""
        self._turns = asyncio.Semaphore(LOOKUPS)
        self._aside, self._few = asyncio.Semaphore(ASIDE), asyncio.Semaphore(FEW)
        self._hung: set[str] = set()
        """The names whose last lookup hung."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of the current call's host. Raises Refused, and OSError when it has
        none."""
        name = _exchange.get().host
        found = await asyncio.shield(self._lookup(name, port))
        for *_, address in found:
            if reason := _refusal(name, port, str(address[0]), self._allowed):
                raise Refused(reason)
        if not found:
            raise OSError(f"{name} has no address")
        return [_result(host, info) for info in found]

    def _lookup(self, name: str, port: int) -> asyncio.Task[list[Any]]:
        now = time.monotonic()
        lookup, until = self._lookups.get((name, port), (None, 0.0))
        if lookup is None or (lookup.done() and (now >= until or lookup.exception())):
            old = [k for k, (task, end) in self._lookups.items() if task.done() and now >= end]
            for key in old:
                del self._lookups[key]
            lookup = asyncio.create_task(self._find(name, port))
            lookup.add_done_callback(_retrieve)
            self._lookups[name, port] = (lookup, now + KEEP_SECONDS)
        return lookup

    async def _find(self, name: str, port: int) -> list[Any]:
        turns = self._few if name in self._hung else self._turns
        await turns.acquire()
        lookup = _in_thread(lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM), name)
        try:
            if (await asyncio.wait([lookup], timeout=HANG_SECONDS))[0]:
                self._hung.discard(name)
            else:
                self._hung.add(name)
                if turns is self._turns and not self._aside.locked():
                    await self._aside.acquire()  # at once
                    turns.release()
                    turns = self._aside
            return await lookup
        finally:
            turns.release()
            lookup.cancel()  # no effect on one that is done

    async def close(self) -> None:
        """Wait for no lookup any more."""
        for lookup, _ in self._lookups.values():
            lookup.cancel()
        self._lookups.clear()


def _in_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Return the result of a function that may hang. Its thread keeps no process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=f"rq-clock-lookup-{name}", daemon=True).start()
    return future


def _retrieve(lookup: asyncio.Task[list[Any]]) -> None:
    """Look at the error of a lookup for which no call waits any more: asyncio would log it."""
    if not lookup.cancelled():
        lookup.exception()


def _result(host: str, info: tuple[Any, ...]) -> ResolveResult:
    """Return an address for aiohttp, with the scope of a link-local one."""
    family, _, protocol, _, (address, port, *more) = info
    scope = f"%{more[1]}" if len(more) > 1 and more[1] and "%" not in address else ""
    return ResolveResult(
        hostname=host, host=address + scope, port=port, family=family, proto=protocol, flags=0
    )


def _reason(error: Exception, stage: str) -> str:
    """Return why a call broke off. Texts of aiohttp's errors hold the whole URL, with its secrets:
    only those of their causes are used."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        error = getattr(error, "certificate_error", None) or error.os_error
    if isinstance(error, ssl.SSLError):
        verify = getattr(error, "verify_message", "")
        return f"TLS failed: {verify or error.reason or type(error).__name__}"
    if isinstance(error, WebhookFailed):
        return f"{stage} failed: {error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return f"{stage} failed: the server closed the connection"
    text = type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        text = f"expected HTTP, got {error.message}"
    elif isinstance(error, aiohttp.ClientOSError):
        text = error.strerror or str(error.__cause__ or text)
    elif isinstance(error, OSError):
        text = f"{text}: {error}"
    return f"{stage} failed: {printable(text, 200)}"
