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
| the thing no longer exists                | 404; for a new schedule, the definition that it had; |
|                                           | for tasks, the ids and the fields of the request     |

A repeated GET, PUT, PATCH or DELETE leaves the same state, so it needs no key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from rq_clock.errors import Fault
from rq_clock.settings import Token
from rq_clock.store.audit import Repeated, RequestKey
from rq_clock.store.scripts import text
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.web.context import Caller
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


def made(caller: Caller, act: Callable[[Caller], object], part: str = "") -> str:
    """Return the id of the thing that a request creates. A repeated request does not call `act`.

    `act` creates the thing for a caller with the record's key, and returns its id, if it has one. A
    request that creates several things has a record for each `part`.
    """
    once = _once(caller)
    if once and part:
        once = RequestKey(_hash(once.hash, part), once.digest)
    try:
        record = caller.context.redis.get(_key(caller, once)) if once else None
        if record is not None:
            raise Repeated(text(record))
        created = act(replace(caller, once=once))
        return created if isinstance(created, str) else ""
    except Repeated as repeated:
        return _repeated(caller, once, repeated)


def first_arrival(caller: Caller) -> datetime | None:
    """Return when a request with a key first arrived; None without a key."""
    once = _once(caller)
    if once is None:
        return None
    now = caller.context.store.now()
    record = f"{once.digest} {to_ms(now)}"
    if caller.context.redis.set(_key(caller, once), record, nx=True, px=KEPT_MS):
        return now
    found: Any = caller.context.redis.get(_key(caller, once))
    return from_ms(_repeated(caller, once, Repeated(text(found) if found else record)))


def _once(caller: Caller) -> RequestKey | None:
    """Return the key of a request, which the route has read (api/routing.py)."""
    once: RequestKey | None = getattr(caller.request.state, "once", None)
    return once


def _repeated(caller: Caller, once: RequestKey | None, repeated: Repeated) -> str:
    """Return the id in the record of an earlier request. Raises Problem if that was another one."""
    if once is None or repeated.digest != once.digest:
        raise Problem(
            "idempotency-conflict",
            "Idempotency-Key: expected the request that it was first used for, got another one; "
            "give each request a key of its own",
        )
    caller.request.state.repeated = True
    return repeated.id


def _key(caller: Caller, once: RequestKey) -> str:
    return caller.context.store.key(f"idempotency:{once.hash}")


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()
