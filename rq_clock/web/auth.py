"""Authorization: bearer tokens with scopes, the browser's cookie, and protection against requests
from other sites. Without RQ_CLOCK_TOKENS every request is refused.

Scopes: `read` sees everything but secrets; `operate` also runs, pauses, skips, backfills, retries;
`admin` also adds, edits and removes; `tasks` is for tasks of callbacks alone.

`commands` lets an admin define shell commands and any function.

A token is compared by its SHA-256 with every known token, in constant time. A browser exchanges it
for a cookie (HttpOnly, SameSite=Lax, sessions.py). A change with a cookie must come from this site,
by the header Sec-Fetch-Site (Origin in older browsers); without either header it is refused. Wrong
tokens and the requests of a token are counted (throttle.py).
"""

from __future__ import annotations

import hmac
from functools import cache
from hashlib import pbkdf2_hmac, sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from itsdangerous import URLSafeSerializer
from starlette.requests import Request

from rq_clock.settings import Settings, Token
from rq_clock.web.problems import Problem
from rq_clock.web.sessions import Sessions
from rq_clock.web.throttle import Attempts, Rates

if TYPE_CHECKING:
    from redis import Redis

COOKIE = "rq_clock"
SAFE = ("GET", "HEAD", "OPTIONS")
KEY_ROUNDS = 600_000
"""As OWASP advises for PBKDF2 with SHA-256; some 0.2 s, once for a process."""


class Access:
    """The tokens of one web process."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._tokens = {_digest(token.value): token for token in settings.tokens}
        self._secret = _key(settings.cookie_secret or "\n".join(t.value for t in settings.tokens))
        self.sessions = Sessions(settings.tokens, self._secret, redis, settings.namespace)
        self._attempts = Attempts(redis, settings.namespace)
        self._rates = Rates(settings.token_rate)

    @property
    def closed(self) -> bool:
        """Return whether no token is set."""
        return not self._tokens

    def token(self, request: Request) -> Token | None:
        """Return the token of a request; None if it has neither token nor cookie. Raises Problem
        for an unknown token, after too many requests of one, and for a change with a cookie from
        another site."""
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, value = header.partition(" ")
            token = self.check(request, value.strip() if scheme.lower() == "bearer" else "")
        else:
            found = self.session(request)
            if found is None:
                return None
            token = found
            if request.method not in SAFE and not from_here(request):
                raise Problem(
                    "forbidden", "expected a request from this site, got one from another"
                )
        self.admit(token)
        return token

    def admit(self, token: Token) -> None:
        """Count a request of a token. Raises Problem when there were too many."""
        self._rates.count(token.name)

    def session(self, request: Request) -> Token | None:
        """Return the token of the session that the cookie names; None without one."""
        cookie = request.cookies.get(COOKIE, "")
        return self.sessions.token(cookie) if cookie else None

    def check(self, request: Request, value: str) -> Token:
        """Return the token with this value. Raises Problem for an unknown one, another one after
        too many of these."""
        candidate, found = _digest(value), None
        for digest, token in self._tokens.items():
            if hmac.compare_digest(digest, candidate):
                found = token
        if found is None:
            self._attempts.count(request.client.host if request.client else "")
            raise Problem(
                "unauthorized",
                "expected a token of RQ_CLOCK_TOKENS, got another one",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found

    def serializer(self, purpose: str) -> URLSafeSerializer:
        """Return a signer for other cookies."""
        return URLSafeSerializer(self._secret, salt=purpose)


def from_here(request: Request) -> bool:
    """Return whether a browser reports that the request comes from a page of this site."""
    site = request.headers.get("sec-fetch-site")
    if site:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin", "")
    try:
        parts = urlsplit(origin)
        return (parts.scheme, parts.netloc) == (request.url.scheme, request.headers.get("host"))
    except ValueError:
        return False


@cache
def _key(secret: str) -> bytes:
    """Return the key that signs cookies. Deriving it takes a while, so that who has a cookie cannot
    try many secrets."""
    return pbkdf2_hmac("sha256", secret.encode(), b"rq-clock", KEY_ROUNDS)


def _digest(value: str) -> bytes:
    return sha256(value.encode()).digest()
