"""The one-off dynos of jobs: what a worker and the dyno know of each other. They meet only here.

A worker stores the intent before it asks the platform for a dyno. The dyno stores its beginning,
its output and its end. So whichever of them dies, the other one, or the next worker, knows how far
it came. A record is kept for two days; no dyno lives as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, text, texts

KEEP_SECONDS = 2 * 86_400
PIECES = 64
"""Pieces of output that are kept: a worker that reads reads on."""
ABANDONED = {"stopped", "canceled", "failed"}
"""States of a job that nobody waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynoRecord:
    """What is known of a dyno. Instants are epoch milliseconds; 0 or "" for what has not happened.
    `now` is the server's time of reading."""

    name: str
    began: int
    ended: int
    code: int
    because: str
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some output. `number` counts from 0; a missing one was dropped."""

    id: str
    number: int
    stream: str
    data: bytes


class Dynos:
    """The records of one namespace. Methods raise redis-py's RedisError."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._redis = redis
        self._namespace = namespace
        self._begin = load_script(redis, "dyno_begin")

    def intend(self, run: str, job_id: str) -> None:
        """Store that a dyno for this run of a job will be requested; again, it changes nothing."""
        key = self._key(run)
        with self._redis.pipeline() as pipe:
            pipe.hsetnx(key, "job", job_id)
            pipe.expire(key, KEEP_SECONDS)
            pipe.execute()

    def created(self, run: str, name: str) -> None:
        """Store the name of the dyno."""
        self._redis.hset(self._key(run), "name", name)

    def read(self, run: str) -> DynoRecord:
        """Return what is known."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key(run))
            pipe.time()
            raw, (seconds, micros) = pipe.execute()
        found = texts(raw)
        return DynoRecord(
            name=found.get("name", ""),
            began=int(found.get("began", 0)),
            ended=int(found.get("ended", 0)),
            code=int(found.get("code", 0)),
            because=found.get("because", ""),
            now=seconds * 1000 + micros // 1000,
        )

    def output_after(self, run: str, last: str, wait_ms: int) -> list[Piece]:
        """Return the pieces behind the one with the id `last`. Wait for one, if there is none."""
        answer: Any = self._redis.xread({self._output(run): last}, block=wait_ms)
        found = []
        for id, fields in answer[0][1] if answer else ():
            number, stream, data = (fields[name] for name in (b"n", b"stream", b"data"))
            piece = Piece(id=text(id), number=int(number), stream=text(stream), data=data)
            found.append(piece)
        return found

    # ---- from the dyno ------------------------------------------------------------------------

    def begin(self, run: str, owner: str) -> str:
        """Return "begun", once for a run; "taken" or "unknown" for a dyno that must not run it."""
        return text(self._begin([self._key(run)], [owner, KEEP_SECONDS]))

    def print(self, run: str, pieces: Sequence[tuple[int, str, bytes]]) -> bool:
        """Store some output. Return whether the job still waits for the dyno."""
        output = self._output(run)
        with self._redis.pipeline(transaction=False) as pipe:
            for number, stream, data in pieces:
                fields: Any = {"n": number, "stream": stream, "data": data}
                pipe.xadd(output, fields, maxlen=PIECES, approximate=False)
            pipe.expire(output, KEEP_SECONDS)
            pipe.hget(self._key(run), "job")
            job_id = pipe.execute()[-1]
        status = self._redis.hget(f"rq:job:{text(job_id or '')}", "status")
        return text(status or "") not in ABANDONED

    def end(self, run: str, code: int, because: str) -> None:
        """Store the end of the command; again, it stores the same."""
        seconds, micros = self._redis.time()
        ended: Any = {"ended": seconds * 1000 + micros // 1000, "code": code, "because": because}
        with self._redis.pipeline() as pipe:
            pipe.hset(self._key(run), mapping=ended)
            pipe.expire(self._key(run), KEEP_SECONDS)
            pipe.execute()

    def _key(self, run: str) -> str:
        return key_of(self._namespace, f"dyno:{run}")

    def _output(self, run: str) -> str:
        return key_of(self._namespace, f"dyno-output:{run}")
