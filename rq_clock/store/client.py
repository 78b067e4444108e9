"""Connections to Redis or Valkey: every client of rq-clock is made here.

- `rediss://` verifies certificate and host name. On a Heroku dyno it does not, because Heroku's
  certificates are self-signed; `?ssl_cert_reqs=none` in the URL switches it off elsewhere.
- No command is repeated without the caller's knowledge. redis-py would retry whole transactions
  when a reply is lost, which enqueues twice; callers that can repeat safely do so themselves.
- A client has the process's name, so that `CLIENT LIST` shows which dyno it belongs to. A server
  that refuses names is served without.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from redis import (
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import DataError, OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from rq_clock.errors import RqClockError, ScheduleError, StoreUnavailable
from rq_clock.settings import DEVELOPMENT_REDIS, Settings
from rq_clock.store.address import Address, parse_address, redacted

REPLY_SECONDS = 3.0
"""A server that is silent this long counts as gone; the clock must notice a signal in time."""
TURN_SECONDS = 5.0
"""How long a thread waits for one of a limited number of connections."""
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


def is_full(error: Exception) -> bool:
    """Return whether the server has no memory left for a write. Redis 6 says so in the middle of a
    script's error."""
    return isinstance(error, OutOfMemoryError) or "-OOM " in str(error)


def connect(
    url: str | None = None,
    *,
    settings: Settings | None = None,
    seconds: float = REPLY_SECONDS,
    pool_size: int = 0,
    on_connect: Callable[[Any], None] | None = None,
) -> Redis:
    """Return a client for `url`, or for the environment's REDIS_URL, without connecting. A server
    that is silent for `seconds` counts as gone. With a `pool_size` it has so many connections
    at most, and threads take turns. `on_connect` is called with each new connection.

    Raises StoreUnavailable for no URL and for one that address.py cannot read.
    """
    settings = settings or Settings.from_env()
    url = url or settings.redis_url
    if not url:
        raise StoreUnavailable(
            "expected REDIS_URL to name a Redis or Valkey, got nothing; on a laptop start one with "
            f"`rq-clock redis` and set REDIS_URL={DEVELOPMENT_REDIS}"
        )
    try:
        address = parse_address(url)
    except ValueError as error:
        reason = f"cannot understand the Redis URL {redacted(url)}: {error}"
        raise StoreUnavailable(reason) from None
    name = f"rq-clock:{settings.instance}"
    options: dict[str, Any] = {
        "health_check_interval": 30,
        "protocol": 2,
        "redis_connect_func": partial(_connect, name=name, then=on_connect),
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": seconds,
        "socket_timeout": seconds,
    }
    if address.tls:
        chosen = address.options.get("ssl_cert_reqs")
        verify = chosen != "none" if chosen else settings.tls_verify
        options["ssl_cert_reqs"] = "required" if verify else "none"
        options["ssl_check_hostname"] = verify
        if address.sentinel:
            options["ssl"] = True
    if address.scheme != "unix":
        options["socket_keepalive"] = True
    return _client(address, options, pool_size)


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


def _connect(connection: Any, *, name: str, then: Callable[[Any], None] | None) -> None:
    """Do what redis-py does with a new connection, and name it where the server has names."""
    connection.on_connect_check_health(check_health=False)
    try:
        connection.send_command("CLIENT", "SETNAME", name, check_health=False)
        connection.read_response()
    except ResponseError:  # without the command, or without the permission
        pass
    if then:
        then(connection)


def _client(address: Address, options: dict[str, Any], pool_size: int) -> Redis:
    options = {**options, **address.options}
    if not address.sentinel:
        kinds = {"unix": UnixDomainSocketConnection, "rediss": SSLConnection}
        kind = kinds.get(address.scheme, Connection)
        if not pool_size:
            return Redis.from_pool(ConnectionPool(connection_class=kind, **options))
        limits = {"max_connections": pool_size, "timeout": TURN_SECONDS}
        limited: Any = BlockingConnectionPool
        return Redis.from_pool(limited(connection_class=kind, **limits, **options))
    own = ("redis_connect_func", "db", "username", "password")
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]  # redis-py
        address.hosts,
        sentinel_kwargs={
            **{name: value for name, value in options.items() if name not in own},
            **address.sentinel_options,
        },
    )
    client: Redis = sentinels.master_for(address.service, **options)
    return client


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
