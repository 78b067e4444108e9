"""Requests that may be sent again: a POST with an `Idempotency-Key` acts once, however often it
arrives (draft-ietf-httpapi-idempotency-key-header).

A record is kept for 24 h under the hash of token and key: request (hash of method, path, query and
body), began (ms), who works on it until when (ms), answer.

The same request is given the first answer again, another one under the same key is refused, and
one that comes while the first is at work is told to come back. What a run or a backfill is told
apart by, its instant and its number, comes from the record (`Claim.began`, `Claim.number`), so
whoever carries a broken-off request out once more asks for the same run.

| what happens                              | then                                              |
|-------------------------------------------|---------------------------------------------------|
| two arrive at once                        | one claims the key, the other gets 409, come back |
| the reply is lost on its way to the caller | asked again: the first answer                    |
| the process dies before it acts           | 409 for 30 s, then whoever asks again acts        |
| it dies after it acted, before it has     | 409 for 30 s, then it is carried out again under  |
| stored the answer                         | the first one's instant and number: the same run  |
|                                           | or backfill; what else a POST does makes the same |
|                                           | state again, or says that it is there             |
| Redis answers the act with an error, or   | 503; whoever asks again acts at once, as above    |
| not at all                                |                                                   |
| it takes so long that it is answered with | it goes on and stores its answer; asked again     |
| 503 before it is done (guard.py)          | meanwhile: 409, come back                         |
| the request itself is wrong               | nothing was done and nothing is kept              |
| one is frozen for longer than 30 s, and   | both act under one instant and number; the answer |
| another carries it out meanwhile          | of the later claim is kept                        |

A GET, PUT, PATCH or DELETE needs no key: carried out twice it makes the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from secrets import token_hex
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError

from rq_clock.errors import Fault
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, text
from rq_clock.timing.instants import from_ms
from rq_clock.web.problems import Problem

KEPT_MS = 24 * 3600 * 1000
BROKEN_OFF_MS = 30_000
"""A request that has said nothing for so long is not at work any more."""
LONGEST = 255
"""Characters of a key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry out a request. `began` is when it was first asked for, `number` its own;
    `again`: one that asked before has broken off, and may have acted."""

    record: str
    who: str
    began: datetime
    number: int
    again: bool


class Idempotency:
    """The keys that one namespace's callers have sent. Makes no connection before it is used;
    methods raise redis-py's RedisError, and each may be called again after one."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._namespace = namespace
        self._script = load_script(redis, "idempotency")

    def claim(self, token: str, key: str, request: bytes) -> Claim | Answer:
        """What a request is to do: to act, or to repeat an answer. Raises Problem when it may do
        neither, and for a key that is none."""
        if not 0 < len(key) <= LONGEST or not key.isascii() or not key.isprintable():
            expected = f"expected 1-{LONGEST} plain characters, got {len(key)} of any"
            raise Problem(
                "validation",
                f"Idempotency-Key: {expected}",
                errors=[Fault("Idempotency-Key", expected)],
            )
        mark = sha256(f"{token}\n{key}".encode()).hexdigest()
        record, who = self._key(f"idempotency:{mark}"), token_hex(8)
        asked = ["claim", who, sha256(request).hexdigest(), KEPT_MS, BROKEN_OFF_MS]
        try:
            kind, *rest = self._script([record], asked)
        except ConnectionError:  # it may have been granted
            kind, *rest = self._script([record], asked)
        if kind == b"other":
            raise Problem(
                "idempotency-conflict",
                f"expected the request that {key!r} was first used for, got another one; give "
                "each request a key of its own",
            )
        if kind == b"running":
            seconds = -(-int(rest[0]) // 1000)
            raise Problem(
                "conflict",
                f"the first request with the key {key!r} is still at work; come back for its "
                "answer",
                headers={"Retry-After": str(min(seconds, 2))},
            )
        if kind == b"answered":
            said: dict[str, Any] = json.loads(rest[0])
            return Answer(said["status"], said["headers"], said["body"])
        return Claim(record, who, from_ms(text(rest[0])), int(mark[:8], 16), kind == b"again")

    def _key(self, name: str) -> str:
        return key_of(self._namespace, name)

    def answer(self, claim: Claim, answer: Answer) -> None:
        """Keep what was answered."""
        said = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}
        self._script([claim.record], ["answer", claim.who, json.dumps(said)])

    def give_up(self, claim: Claim) -> None:
        """It is not known what came of it: whoever asks again goes on at once."""
        self._script([claim.record], ["yield", claim.who])

    def drop(self, claim: Claim) -> None:
        """Nothing was done: forget the key, unless an earlier request may have acted."""
        self._script([claim.record], ["yield" if claim.again else "drop", claim.who])
