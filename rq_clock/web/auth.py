"""Authorization: bearer tokens with scopes, the browser's cookie, and its protection against other
sites. Closed by default: without RQ_CLOCK_TOKENS nobody gets in.

Scopes: `read` sees everything but secrets; `operate` also runs, pauses, skips, backfills, retries;
`admin` also adds, edits and removes; `tasks` is for callers that only leave tasks.

A token is compared by its SHA-256, with all that there are, in constant time. A browser trades one
for a cookie that is signed, HttpOnly and SameSite=Lax, and names the token: taking that away ends
the session. A request that changes something and comes with the cookie must come from
this site: browsers say so (Sec-Fetch-Site, or Origin in older ones), and a request without
either is refused. Failed attempts are counted by address, in Redis as long as that can be used.
"""

from __future__ import annotations

import hmac
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
"""Failed attempts of one address within a time, after which it has to wait."""
SAFE = ("GET", "HEAD", "OPTIONS")


class Access:
    """The tokens of a process."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._tokens = {_digest(token.value): token for token in settings.tokens}
        secret = settings.cookie_secret or "\n".join(t.value for t in settings.tokens)
        self._secret = sha256(b"rq-clock" + secret.encode()).digest()
        self._signer = TimestampSigner(self._secret, salt="login")
        self._redis = redis
        self._namespace = settings.namespace
        self._failed: dict[str, tuple[int, float]] = {}
        """Address → failed attempts, and when they are forgotten; while Redis is away."""

    @property
    def closed(self) -> bool:
        """Whether there is no token at all."""
        return not self._tokens

    def token(self, request: Request) -> Token | None:
        """Return the token of a request; None without a token or cookie. Raises Problem for an
        unknown token, and for a cookie that another site may be using."""
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, value = header.partition(" ")
            return self.check(request, value.strip() if scheme.lower() == "bearer" else "")
        token = self.session(request)
        if token and request.method not in SAFE and not from_here(request):
            raise Problem("forbidden", "expected a request from this site, got one from another")
        return token

    def session(self, request: Request) -> Token | None:
        """Return the token that the cookie names."""
        try:
            signed = request.cookies.get(COOKIE, "")
            mark = self._signer.unsign(signed, max_age=SESSION_SECONDS).decode()
        except (BadSignature, UnicodeError):
            return None
        return next((t for t in self._tokens.values() if _mark(t) == mark), None)

    def check(self, request: Request, value: str) -> Token:
        """Return the token of a value. Raises Problem, also after too many wrong ones."""
        address = request.client.host if request.client else ""
        wait = self._wait(address)
        if wait > 0:
            raise Problem(
                "slow-down",
                f"too many failed attempts from {address}; come back in {wait} s",
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
        """Return the cookie of a token."""
        return self._signer.sign(_mark(token)).decode()

    def serializer(self, purpose: str) -> URLSafeSerializer:
        """Return a signer for other cookies."""
        return URLSafeSerializer(self._secret, salt=purpose)

    # ---- failed attempts ----------------------------------------------------------------------

    def _key(self, address: str) -> str:
        return key_of(self._namespace, f"attempts:{address}")

    def _wait(self, address: str) -> int:
        """Return the seconds that an address has to wait."""
        count, until = self._failed.get(address, (0, 0.0))
        if count < ATTEMPTS:
            return 0
        return max(0, round(until - monotonic()))

    def _count(self, address: str) -> None:
        count, until = self._failed.get(address, (0, 0.0))
        count = count + 1 if until > monotonic() else 1
        try:
            pipe = self._redis.pipeline()
            pipe.incr(self._key(address))
            pipe.expire(self._key(address), ATTEMPTS_SECONDS, nx=True)
            count = max(count, pipe.execute()[0])
        except RedisError:
            pass
        if len(self._failed) > 10_000:  # addresses are cheap
            self._failed.clear()
        self._failed[address] = (count, monotonic() + ATTEMPTS_SECONDS)


def from_here(request: Request) -> bool:
    """Whether the request comes from a page of this site, as its browser reports."""
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


def _mark(token: Token) -> str:
    return f"{token.name}.{_digest(token.value).hex()[:16]}"
