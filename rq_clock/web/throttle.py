"""Limits of one caller: wrong tokens by network, requests by token.

Wrong tokens are counted in Redis for all processes, and in this one while Redis is away. A right
token is never counted and never refused for the wrong ones of its neighbours: one of 16 characters
cannot be guessed, and whoever knows the address of a script must not be able to stop it.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network
from time import monotonic
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rq_clock.store.keys import key_of
from rq_clock.web.problems import Problem

if TYPE_CHECKING:
    from redis import Redis

ATTEMPTS, ATTEMPTS_SECONDS = 10, 60
"""Wrong tokens that a network has within this time."""
NETWORKS = 10_000
"""Networks that are counted here."""
BURST_SECONDS = 10
"""A token may make the requests of this time at once."""


class Attempts:
    """The wrong tokens of each network."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._redis = redis
        self._namespace = namespace
        self._failed: dict[str, tuple[int, float]] = {}
        """Network → wrong tokens, and when they expire (monotonic)."""

    def count(self, address: str) -> None:
        """Count a wrong token. Raises Problem when there were too many."""
        network = network_of(address)
        count, until = self._failed.get(network, (0, 0.0))
        wait = round(until - monotonic())
        if count >= ATTEMPTS and wait > 0:
            raise Problem(
                "slow-down",
                f"too many wrong tokens from {network}; retry in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        count = count + 1 if until > monotonic() else 1
        key = key_of(self._namespace, f"attempts:{network}")
        with suppress(RedisError):
            pipe = self._redis.pipeline()
            pipe.set(key, 0, ex=ATTEMPTS_SECONDS, nx=True)
            pipe.incr(key)
            count = max(count, pipe.execute()[1])
        if len(self._failed) > NETWORKS:  # addresses are cheap
            self._failed.clear()
        self._failed[network] = (count, monotonic() + ATTEMPTS_SECONDS)


class Rates:
    """The requests of each token, at most `rate` a second on average."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._left: dict[str, tuple[float, float]] = {}
        """Token's name → requests that it may make at once, as of an instant (monotonic)."""

    def count(self, name: str) -> None:
        """Count a request. Raises Problem when there were too many."""
        now, burst = monotonic(), float(self._rate * BURST_SECONDS)
        left, at = self._left.get(name, (burst, now))
        left = min(left + (now - at) * self._rate, burst) - 1
        if left < 0:
            raise Problem(
                "slow-down",
                f"expected at most {self._rate} requests a second of the token {name!r}; wait, or "
                "raise RQ_CLOCK_TOKEN_RATE",
                headers={"Retry-After": "1"},
            )
        self._left[name] = left, now


def network_of(address: str) -> str:
    """Return the network of a caller: for IPv6 its /64, of which anybody has all addresses."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)
