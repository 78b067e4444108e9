"""Connections to Redis or Valkey: every client of rq-clock is made here.

- `rediss://` verifies certificate and host name. On a Heroku dyno it does not, because Heroku's
  certificates are self-signed; `?ssl_cert_reqs=none` in the URL switches it off elsewhere.
- No command is repeated without the caller's knowledge. redis-py would retry whole transactions
  when a reply is lost, which enqueues twice; callers that can repeat safely do so themselves.
- A client has the process's name, so that `CLIENT LIST` shows which dyno it belongs to.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    DataError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from rq_clock.errors import RqClockError, ScheduleError, StoreUnavailable
from rq_clock.log import log_event, log_warning
from rq_clock.settings import DEVELOPMENT_REDIS, Settings

REPLY_SECONDS = 3.0
"""A server that is silent this long counts as gone; the clock must notice a signal in time."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to reach a server; each pause doubles the one before."""
LOG_FROM = 0.8
"""The pause from which a server that never answered is reported: where all processes start at once,
it may only be slower to start."""
_OF_AN_ITEM = re.compile(
    r"WRONGTYPE|is not an integer|not a valid float|would overflow|out of range"
    r"|user_script:\d+: (attempt to|bad argument)"
)
"""The server's error when a value is of another kind than a command or script needs."""


def is_outage(error: Exception) -> bool:
    """Return whether an error comes from the server, the network or a lost lease. Any other comes
    from one item: what is stored of it cannot be read, or it cannot be written."""
    if isinstance(error, DataError):
        return False
    if isinstance(error, ResponseError) and _OF_AN_ITEM.search(str(error)):
        return False
    if isinstance(error, RqClockError):
        return not isinstance(error, ScheduleError)
    return isinstance(error, RedisError | OSError)


def connect(
    url: str | None = None,
    *,
    settings: Settings | None = None,
    seconds: float = REPLY_SECONDS,
    on_connect: Callable[[Any], None] | None = None,
) -> Redis:
    """Return a client for `url`, or for the environment's REDIS_URL, without connecting. A server
    that is silent for `seconds` counts as gone. `on_connect` is called with each new connection
    instead of its own method of that name.

    Reads redis://, rediss://, unix:// and redis+sentinel://host:port,host:port/service/db. Raises
    StoreUnavailable for no URL or any other.
    """
    settings = settings or Settings.from_env()
    url = url or settings.redis_url
    if not url:
        raise StoreUnavailable(
            "expected REDIS_URL to name a Redis or Valkey, got nothing; on a laptop start one with "
            f"`rq-clock redis` and set REDIS_URL={DEVELOPMENT_REDIS}"
        )
    options: dict[str, Any] = {
        "client_name": f"rq-clock:{settings.instance}",
        "health_check_interval": 30,
        "protocol": 2,
        "redis_connect_func": on_connect,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": seconds,
        "socket_timeout": seconds,
    }
    if url.startswith("rediss://"):
        chosen = parse_qs(urlsplit(url).query).get("ssl_cert_reqs")
        verify = chosen[-1] != "none" if chosen else settings.tls_verify
        options["ssl_cert_reqs"] = "required" if verify else "none"
        options["ssl_check_hostname"] = verify
    if not url.startswith("unix://"):
        options["socket_keepalive"] = True
    try:
        if url.startswith("redis+sentinel://"):
            return _through_sentinel(url, options)
        return Redis.from_url(url, **options)
    except ValueError as error:
        reason = f"cannot understand the Redis URL {redacted(url)}: {error}"
        raise StoreUnavailable(reason) from None


def with_timeouts(redis: Redis, seconds: float = REPLY_SECONDS) -> Redis:
    """Return a client for the same server that counts as gone when it is silent for `seconds`;
    `redis` itself if it has a limit already, or has no plain pool."""
    pool: Any = redis.connection_pool
    options = pool.connection_kwargs
    if options.get("socket_timeout") or type(pool) is not ConnectionPool:
        return redis
    options = options | {"retry": Retry(NoBackoff(), 0), "socket_timeout": seconds}
    if "path" not in options:
        options["socket_connect_timeout"] = seconds
    kind = pool.connection_class
    return Redis(connection_pool=ConnectionPool(connection_class=kind, **options))


def _through_sentinel(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    service, _, db = parts.path.strip("/").partition("/")
    nodes = []
    for host in hosts:
        name, _, port = host.rpartition(":")
        nodes.append((name or port, int(port) if name else 26379))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    options |= {"db": int(db or 0), "username": user or None, "password": password or None}
    watchers: Any = Sentinel(nodes, socket_timeout=REPLY_SECONDS)  # type: ignore[no-untyped-call]  # redis-py
    client: Redis = watchers.master_for(service or "mymaster", **options)
    return client


def redacted(url: str) -> str:
    """Return a URL without user, password and query, to show it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def diagnose(error: BaseException, url: str | None) -> str:
    """Return one line for an operator: the problem with the server and its remedy."""
    place = redacted(url or "")
    if isinstance(error, AuthenticationError | NoPermissionError):
        return f"{place} refuses the user or password ({error}); check REDIS_URL"
    if isinstance(error, BusyLoadingError):
        return f"{place} is still loading its data; it will answer when it is done"
    if isinstance(error, TimeoutError):
        tls = "; if it does not speak TLS, use redis://" if place.startswith("rediss") else ""
        return f"{place} does not answer in time{tls}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            f"{place} shows a certificate that cannot be verified ({error}); name its authority's "
            "file in SSL_CERT_FILE, or add ?ssl_cert_reqs=none to the URL to accept any certificate"
        )
    if "WRONG_VERSION_NUMBER" in str(error) or "record layer" in str(error):
        return f"{place} does not speak TLS; use redis:// instead of rediss://"
    if isinstance(error, ConnectionError) and place.startswith("redis://127.0.0.1"):
        return f"no Redis at {place} ({error}); start one with `rq-clock redis`"
    if isinstance(error, ConnectionError):
        return f"no connection to {place} ({error}); check REDIS_URL (TLS needs rediss://)"
    return f"{place}: {error}"


class Reconnect:
    """Retries of a long-running process while the server does not answer: one log line, and pauses
    that grow."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._answered = False
        self._logged = False
        self._pause = SHORTEST_PAUSE

    def try_again(self, error: BaseException) -> float:
        """Return the seconds to wait before the next attempt.

        Raises StoreUnavailable when waiting will not help: a server refuses this process and never
        let it in.
        """
        reason = diagnose(error, self._url)
        if not self._answered and isinstance(error, AuthenticationError | NoPermissionError):
            raise StoreUnavailable(reason) from None
        if not self._logged and (self._answered or self._pause >= LOG_FROM):
            self._logged = True
            log_warning("store.waiting", reason=reason)
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause

    def answered(self) -> None:
        self._answered = True
        if self._logged:
            self._logged = False
            log_event("store.back")

    def succeeded(self) -> None:
        """Note that an attempt is complete, and reset the pause. `answered` alone does not: an
        attempt that then fails would fail again at once."""
        self._pause = SHORTEST_PAUSE


def socket_of(connection: Any) -> socket.socket | None:
    """Return the socket of a redis-py connection, to wait on several at once.

    redis-py has no public name for it; without it the clock would need a thread for its news.
    """
    sock: socket.socket | None = getattr(connection, "_sock", None)
    return sock


def idle_sockets_of(client: Redis) -> list[socket.socket]:
    """Return the sockets of a client's connections that are not in use, for a forked process to
    close: the client itself connects anew there."""
    connections: Any = getattr(client.connection_pool, "_available_connections", ())
    return [sock for connection in connections if (sock := socket_of(connection))]
