"""Authorization: bearer tokens with scopes, the browser's cookie, and protection against requests
from other sites. Without RQ_CLOCK_TOKENS every request is refused.

Scopes: `read` sees everything but secrets; `operate` also runs, pauses, skips, backfills, retries;
`admin` also adds, edits and removes; `tasks` only creates tasks.

A token is compared by its SHA-256 with every known token, in constant time. A browser exchanges it
for a signed cookie (HttpOnly, SameSite=Lax) that names the token: removing the token ends the
session. A change with a cookie must come from this site, by the header Sec-Fetch-Site (Origin in
older browsers); without either header it is refused. Failed attempts are counted by address: in
Redis, and in this process while Redis is away.
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from itsdangerous import BadSignature, TimestampSigner, URLSafeSerializer
from redis.exceptions import RedisError
from starlette.requests import Request

from rq_clock.settings import Settings, Token
from rq_clock.store.keys import key_of
from rq_clock.web.problems import Problem

if TYPE_CHECKING:
    from redis import Redis

COOKIE = "rq_clock"
SESSION_SECONDS = 7 * 24 * 3600
ATTEMPTS, ATTEMPTS_SECONDS = 10, 60
"""Failed attempts that an address has within this time."""
SAFE = ("GET", "HEAD", "OPTIONS")


class Access:
    """The tokens of one web process."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._tokens = {_digest(token.value): token for token in settings.tokens}
        secret = settings.cookie_secret or "\n".join(t.value for t in settings.tokens)
        self._secret = sha256(b"rq-clock" + secret.encode()).digest()
        self._signer = TimestampSigner(self._secret, salt="login")
        self._redis = redis
        self._namespace = settings.namespace
        self._failed: dict[str, tuple[int, float]] = {}
        """Address → failed attempts, and when they expire."""

    @property
    def closed(self) -> bool:
        """Return whether no token is set."""
        return not self._tokens

    def token(self, request: Request) -> Token | None:
        """Return the token of a request; None if it has neither token nor cookie. Raises Problem
        for an unknown token, and for a change with a cookie from another site."""
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, value = header.partition(" ")
            return self.check(request, value.strip() if scheme.lower() == "bearer" else "")
        token = self.session(request)
        if token and request.method not in SAFE and not from_here(request):
            raise Problem("forbidden", "expected a request from this site, got one from another")
        return token

    def session(self, request: Request) -> Token | None:
        """Return the token that the cookie names; None without a valid cookie."""
        try:
            signed = request.cookies.get(COOKIE, "")
            name = self._signer.unsign(signed, max_age=SESSION_SECONDS).decode()
        except (BadSignature, UnicodeError):
            return None
        return next((t for t in self._tokens.values() if _cookie_name(t) == name), None)

    def check(self, request: Request, value: str) -> Token:
        """Return the token with this value. Raises Problem for an unknown one, and after too many
        failed attempts."""
        address = request.client.host if request.client else ""
        failures, until = self._failed.get(address, (0, 0.0))
        wait = round(until - monotonic())
        if failures >= ATTEMPTS and wait > 0:
            raise Problem(
                "slow-down",
                f"too many failed attempts from {address}; retry in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        candidate, found = _digest(value), None
        for digest, token in self._tokens.items():
            if hmac.compare_digest(digest, candidate):
                found = token
        if found is None:
            self._count(address)
            raise Problem(
                "unauthorized",
                "expected a token of RQ_CLOCK_TOKENS, got another one",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found

    def cookie(self, token: Token) -> str:
        return self._signer.sign(_cookie_name(token)).decode()

    def serializer(self, purpose: str) -> URLSafeSerializer:
        """Return a signer for other cookies."""
        return URLSafeSerializer(self._secret, salt=purpose)

    def _count(self, address: str) -> None:
        count, until = self._failed.get(address, (0, 0.0))
        count = count + 1 if until > monotonic() else 1
        key = key_of(self._namespace, f"attempts:{address}")
        with suppress(RedisError):
            pipe = self._redis.pipeline()
            pipe.incr(key)
            pipe.expire(key, ATTEMPTS_SECONDS, nx=True)
            count = max(count, pipe.execute()[0])
        if len(self._failed) > 10_000:  # addresses are cheap
            self._failed.clear()
        self._failed[address] = (count, monotonic() + ATTEMPTS_SECONDS)


def from_here(request: Request) -> bool:
    """Return whether a browser reports that the request comes from a page of this site."""
    site = request.headers.get("sec-fetch-site")
    if site:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin", "")
    try:
        return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def _digest(value: str) -> bytes:
    return sha256(value.encode()).digest()


def _cookie_name(token: Token) -> str:
    return f"{token.name}.{_digest(token.value).hex()[:16]}"
