"""Requests that act once: a POST with an `Idempotency-Key` can be repeated
(draft-ietf-httpapi-idempotency-key-header).

The script that creates a thing also writes a record, in the same step (audit.lua). The record
`idempotency:<hash of token, route and key>` has a digest of the request and the id of the thing,
and expires after 24 h. A repeated request does not act again: its response is rendered from the id.
No response is stored.

| event                                     | outcome                                              |
|-------------------------------------------|------------------------------------------------------|
| the response is lost                      | the repeated request finds the record                |
| two arrive at once                        | both scripts run; the later one finds the record     |
| the process dies before its script ran    | there is no record: the repeated request acts        |
| it dies after its script ran              | there are a record and a thing                       |
| the script is refused, or Redis is away   | no record, no thing: the repeated request acts       |
| Redis loses its newest writes             | record and thing are lost together                   |
| the request has another path or body      | 422 `idempotency-conflict`                           |
| `schedules:run` stops in the middle       | each schedule has its own record: the rest are run   |
| `jobs:requeue` or `jobs:delete` stops in  | it continues, with the jobs that had failed when the |
| the middle                                | request first arrived                                |
| the thing no longer exists                | 404; for a new schedule, the definition that it had  |

A repeated GET, PUT, PATCH or DELETE leaves the same state, so it needs no key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Any

from fastapi import Request

from rq_clock.errors import Fault
from rq_clock.settings import Token
from rq_clock.store.audit import Repeated, RequestKey
from rq_clock.store.scripts import text
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.web.context import Context, context_of
from rq_clock.web.problems import Problem

KEPT_MS = 24 * 3600 * 1000
LONGEST = 255
"""Limit of the characters of a key."""


def once_of(token: Token, route: str, key: str, request: bytes) -> RequestKey:
    """Return the identity of a request with a key. Raises Problem for an invalid key."""
    if not 0 < len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        expected = f"expected 1-{LONGEST} plain characters, got {len(key)} of any"
        fault = Fault("Idempotency-Key", expected)
        raise Problem("validation", str(fault), errors=[fault])
    return RequestKey(_hash(token.name, route, key), sha256(request).hexdigest())


def made(request: Request, act: Callable[[RequestKey | None], str], part: str = "") -> str:
    """Return the id of the thing that a request creates. A repeated request does not call `act`.

    `act` creates the thing with the record's key, and returns its id. A request that creates
    several things has a record for each `part`.
    """
    once: RequestKey | None = getattr(request.state, "once", None)
    if once is None:
        return act(None)
    once = RequestKey(_hash(once.hash, part), once.digest) if part else once
    context = context_of(request)
    try:
        record = context.redis.get(_key(context, once))
        if record is not None:
            raise Repeated(text(record))
        return act(once)
    except Repeated as repeated:
        _compare(once, repeated)
        request.state.repeated = True
        return repeated.id


def first_arrival(request: Request) -> datetime | None:
    """Return when a request with a key first arrived; None without a key."""
    once: RequestKey | None = getattr(request.state, "once", None)
    if once is None:
        return None
    context = context_of(request)
    now = context.store.now()
    record = f"{once.digest} {to_ms(now)}"
    if context.redis.set(_key(context, once), record, nx=True, px=KEPT_MS):
        return now
    found: Any = context.redis.get(_key(context, once))
    repeated = Repeated(text(found) if found else record)
    _compare(once, repeated)
    request.state.repeated = True
    return from_ms(int(repeated.id))


def _compare(once: RequestKey, repeated: Repeated) -> None:
    if repeated.digest != once.digest:
        raise Problem(
            "idempotency-conflict",
            "Idempotency-Key: expected the request that it was first used for, got another one; "
            "give each request a key of its own",
        )


def _key(context: Context, once: RequestKey) -> str:
    return context.store.key(f"idempotency:{once.hash}")


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()
