"""Backfills in Redis, and the duties of the leader beside its tick.

`duties` holds each duty with the instant at which it is due: the next step of a backfill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from redis.exceptions import ResponseError

from rq_clock.errors import Conflict, ConflictKind, LeaseLost, ScheduleError
from rq_clock.log import log_warning
from rq_clock.model.entry import Lease
from rq_clock.model.schedule import Schedule
from rq_clock.store.audit import AUDIT, Actor, audit_words
from rq_clock.store.job_commands import JobBuilder, command_words
from rq_clock.store.scripts import load_script, readable, text, texts
from rq_clock.store.store import KEEP_REMOVED_MS, Store
from rq_clock.timing.instants import from_ms, from_score, score_ms, to_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """Past fire times to enqueue, oldest first. `rule` is the schedule's trigger when it was
    created."""

    id: str
    schedule: str
    start: datetime
    end: datetime
    at_once: int
    total: int
    by: str
    reason: str
    since: datetime
    rule: str
    left_out: frozenset[int] = field(default_factory=frozenset)
    cursor: datetime | None = None
    enqueued: int = 0
    skipped: int = 0
    jobs: tuple[str, ...] = ()
    state: str = "running"

    @property
    def number(self) -> str:
        """Return the number in its jobs' ids."""
        return self.id.rpartition("-")[2]

    @classmethod
    def read(cls, id: str, fields: Mapping[str, str]) -> Backfill:
        try:
            return cls._read(id, fields)
        except (ArithmeticError, LookupError) as error:
            raise ValueError(f"{id}: cannot read {error}") from None

    @classmethod
    def _read(cls, id: str, fields: Mapping[str, str]) -> Backfill:
        return cls(
            id=id,
            schedule=fields["schedule"],
            start=from_ms(fields["start"]),
            end=from_ms(fields["end"]),
            at_once=int(fields["at_once"]),
            total=int(fields["total"]),
            by=fields["by"],
            reason=fields["reason"],
            since=from_ms(fields["since"]),
            rule=fields["rule"],
            left_out=frozenset(map(int, fields["left_out"].split())),
            cursor=from_ms(fields["cursor"]) if fields.get("cursor") else None,
            enqueued=int(fields.get("enqueued", 0)),
            skipped=int(fields.get("skipped", 0)),
            jobs=tuple(fields.get("jobs", "").split()),
            state=fields["state"],
        )

    def fields(self) -> dict[str, Any]:
        """Return the hash of a new backfill."""
        return {
            "schedule": self.schedule,
            "start": to_ms(self.start),
            "end": to_ms(self.end),
            "at_once": self.at_once,
            "total": self.total,
            "by": self.by,
            "reason": self.reason,
            "since": to_ms(self.since),
            "rule": self.rule,
            "left_out": " ".join(map(str, sorted(self.left_out))),
            "state": "running",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next step of a backfill: `fire_times` to enqueue beside its `living` jobs; `skipped`, the
    number that ran already; `cursor`, its progress afterwards."""

    schedule: Schedule
    fire_times: tuple[datetime, ...]
    living: tuple[str, ...]
    cursor: datetime | None
    skipped: int
    over: bool
    look: datetime


def backfill_id(schedule: str, at: datetime) -> str:
    """Return the id of a backfill that is created at an instant."""
    return f"{schedule}-{to_ms(at)}"


class Backfills:
    """The backfills and duties of one namespace. Methods raise redis-py's RedisError when the
    server cannot be used; nothing is half-written then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redis = store.redis
        self._edit = load_script(store.redis, "backfill_edit")
        self._step = load_script(store.redis, "backfill_step")

    def count(self) -> int:
        return int(self._redis.zcard(self._store.key("backfills")))

    def create(self, backfill: Backfill, actor: Actor, count: int | None = None) -> bool:
        """Leave a backfill for the leader; False when there is one with this id already. Raises
        Conflict unless there are as many as when it was planned (`count`)."""
        detail = {"id": backfill.id, "fireTimes": backfill.total, "atOnce": backfill.at_once}
        audited = audit_words("backfill", [backfill.schedule], actor, detail)
        head = ["create", backfill.id, to_ms(backfill.since), AUDIT, "" if count is None else count]
        fields = (word for pair in backfill.fields().items() for word in pair)
        args = [*head, len(audited), *audited, *fields]
        answer = actor.call(self._edit, self._store.keys("backfills"), args, backfill.id)
        if answer < 0:
            raise Conflict(ConflictKind.STALE, backfill.schedule)
        return bool(answer)

    def cancel(self, id: str, now: datetime, actor: Actor) -> bool:
        """Stop a backfill from enqueueing more; what it has enqueued runs. False when it has
        ended."""
        found = self.get(id)
        if found is None:
            return False
        audited = audit_words("cancel-backfill", [found.schedule], actor, {"id": id})
        args = ["cancel", id, to_ms(now), AUDIT, KEEP_REMOVED_MS, len(audited), *audited]
        return bool(actor.call(self._edit, self._store.keys("backfills"), args))

    def get(self, id: str) -> Backfill | None:
        """Return a backfill; None when there is none, or it has expired. Raises ValueError when it
        cannot be read."""
        raw: Any = self._redis.hgetall(self._store.key(f"backfill:{id}"))
        return Backfill.read(id, texts(raw)) if raw else None

    def newest(self, limit: int = 100) -> list[Backfill]:
        ids: Any = self._redis.zrevrange(self._store.key("backfills"), 0, limit - 1)
        return self.read(list(map(text, ids)))

    def running(self, name: str) -> list[Backfill]:
        """Return the backfills of a schedule that go on."""
        duties: Any = self._redis.zrange(self._store.key("duties"), 0, -1)
        ids = [id for kind, _, id in (text(d).partition(":") for d in duties) if kind == "backfill"]
        return [b for b in self.read(ids) if b.schedule == name and b.state == "running"]

    def read(self, ids: Sequence[str]) -> list[Backfill]:
        """Return those of these backfills that are still kept and can be read. One round trip, or
        none."""
        if not ids:
            return []
        pipe: Any = self._redis.pipeline(transaction=False)
        for id in ids:
            pipe.hgetall(self._store.key(f"backfill:{id}"))
        rows = zip(ids, pipe.execute(raise_on_error=False), strict=True)
        kept = ((id, texts(raw)) for id, raw in rows if raw and not isinstance(raw, ResponseError))
        return readable(Backfill.read, kept, "backfills")

    # ---- for the leader -----------------------------------------------------------------------

    def step(
        self, lease: Lease, backfill: Backfill, step: Step, now: datetime,
        revisions: tuple[str, str],
    ) -> bool:  # fmt: skip
        """Go on with a backfill. False when it was canceled meanwhile, or has gone on already, or
        the `revisions` of its schedule and of all have changed.

        Raises LeaseLost, and ScheduleError when its jobs cannot be enqueued.
        """
        builder = JobBuilder(self._store)
        queue = builder.queue(step.schedule.queue).key
        cursors = ("" if t is None else to_ms(t) for t in (backfill.cursor, step.cursor))
        words: list[Any] = [lease.token, backfill.id, *cursors]
        words += [step.skipped, "done" if step.over else "running", to_ms(step.look)]
        words += [self._store.history, to_ms(now), " ".join(step.living), KEEP_REMOVED_MS]
        words += revisions
        words.append(len(step.fire_times))
        for fire_time in step.fire_times:
            job = builder.build(step.schedule, fire_time, now, kind="b", number=backfill.number)
            words += [job.id, to_ms(fire_time), *command_words(job.commands(queue))]
        keys = [*self._store.keys("lease", f"backfill:{backfill.id}"), queue]
        answer = self._step(keys, words)
        if answer == b"lost":
            raise LeaseLost
        if answer not in (b"ok", b"stale"):
            raise ScheduleError(f"{backfill.id}: it cannot go on: {text(answer)}")
        return bool(answer == b"ok")

    def living(self, jobs: Sequence[str]) -> list[str]:
        """Return those of these jobs that are queued, running or waiting."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id in jobs:
            pipe.hget(f"rq:job:{job_id}", "status")
        alive = (b"queued", b"started", b"scheduled", b"deferred")
        return [id for id, status in zip(jobs, pipe.execute(), strict=True) if status in alive]

    def duties(self, now: datetime, limit: int = 100) -> tuple[dict[str, int], datetime | None]:
        """Return the duties that are due, each with the instant (ms) from which on, and when the
        next one is."""
        key = self._store.key("duties")
        found: Any = self._redis.zrange(key, 0, limit, withscores=True)
        strange = [duty for duty, _ in found if not duty.isascii()]
        if strange:  # none of ours, and nothing that could be done
            self._redis.zrem(key, *strange)
            log_warning("duty.removed", duties=len(strange), reason="not the name of a duty")
        known = [(text(duty), score) for duty, score in found if duty not in strange]
        ready = {duty: score_ms(score) for duty, score in known if score <= to_ms(now)}
        following = [score for _, score in known if score > to_ms(now)]
        return ready, from_score(following[0]) if following else None

    def postpone(self, duty: str, when: datetime) -> None:
        """Make a duty due at another time."""
        self._redis.zadd(self._store.key("duties"), {duty: to_ms(when)}, xx=True)

    def bring_forward(self, beyond: datetime, now: datetime) -> None:
        """Make the next steps due now that would be due only after `beyond`: they were planned when
        the time was wrong."""
        key, first = self._store.key("duties"), f"({to_ms(beyond)}"
        found: Any = self._redis.zrangebyscore(key, first, "+inf", start=0, num=1000)
        for duty in map(text, found):
            if duty.startswith("backfill:"):
                self.postpone(duty, now)

    def finish(self, duty: str, when: int) -> None:
        """Remove a duty, unless it was created again: then it is due at another instant (ms)."""
        self._edit(self._store.keys("backfills"), ["finish", duty, when, ""])
