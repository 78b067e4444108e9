"""The sessions of browsers: signed cookies that name a token and a session.

Nothing about a living session is stored. Logout stores its id until the cookie expires; each
process reads these ids at most once in KEPT_SECONDS, so elsewhere a session ends that much later.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from math import inf
from secrets import token_hex
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, TimestampSigner
from redis.exceptions import RedisError

from rq_clock.settings import Token
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import text

if TYPE_CHECKING:
    from redis import Redis

SESSION_SECONDS = 7 * 24 * 3600
ENDED_LIMIT = 10_000
"""Ended sessions that are stored, the newest."""
KEPT_SECONDS, AWAY_SECONDS = 1.0, 5.0
"""Seconds between two reads of the ended sessions, and after one that failed."""


class Sessions:
    """The sessions of some tokens. Removing a token ends its sessions."""

    def __init__(
        self, tokens: Iterable[Token], secret: bytes, redis: Redis, namespace: str
    ) -> None:
        self._secret = secret
        self._tokens = {self._name(token): token for token in tokens}
        self._signer = TimestampSigner(secret, salt="login")
        self._redis = redis
        self._key = key_of(namespace, "logouts")
        self._lock = Lock()
        self._ended: set[str] = set()
        self._read_at = -inf

    def begin(self, token: Token) -> str:
        """Return the cookie of a new session."""
        return self._signer.sign(f"{self._name(token)}.{token_hex(8)}").decode()

    def token(self, cookie: str) -> Token | None:
        """Return the token of a session; None if it has ended, or was never begun."""
        name, id = self._parts(cookie)
        token = self._tokens.get(name)
        return None if token is None or self._has_ended(id) else token

    def end(self, cookie: str) -> None:
        """End a session, in all processes. Raises redis-py's RedisError."""
        name, id = self._parts(cookie)
        if name not in self._tokens:
            return
        now = self._now()
        pipe = self._redis.pipeline()
        pipe.zadd(self._key, {id: now + SESSION_SECONDS})
        pipe.zremrangebyscore(self._key, "-inf", now)
        pipe.zremrangebyrank(self._key, 0, -ENDED_LIMIT - 1)
        pipe.expire(self._key, SESSION_SECONDS)
        pipe.execute()
        with self._lock:
            self._ended.add(id)

    def _parts(self, cookie: str) -> tuple[str, str]:
        try:
            signed = self._signer.unsign(cookie, max_age=SESSION_SECONDS).decode()
        except (BadSignature, UnicodeError):
            return "", ""
        name, _, id = signed.rpartition(".")
        return name, id

    def _has_ended(self, id: str) -> bool:
        with self._lock:
            if monotonic() >= self._read_at:
                try:
                    self._ended = {text(one) for one in self._redis.zrange(self._key, 0, -1)}
                    self._read_at = monotonic() + KEPT_SECONDS
                except RedisError:  # pages say that Redis is away
                    self._read_at = monotonic() + AWAY_SECONDS
            return id in self._ended

    def _now(self) -> int:
        seconds: int = self._redis.time()[0]
        return int(seconds)

    def _name(self, token: Token) -> str:
        """Return what a cookie says of a token: its name, and what changes with its value."""
        mark = hmac.new(self._secret, token.value.encode(), "sha256").hexdigest()[:16]
        return f"{token.name}.{mark}"
