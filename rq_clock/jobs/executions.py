"""Executions: the jobs that workers run, and the scripts that keep this state.

RQ's structures are kept as RQ's worker keeps them (started registry, execution, job and worker
hashes, results), so its tools, dashboards and job API see nothing unusual. Two differences carry
the promises. One script takes a job from its queue and begins it, so a job is always in one place,
and RQ's intermediate list stays empty. One script ends an execution and first checks that the
worker still has it, so a worker that was counted as dead and comes back is refused.

Workers that serve the same queues must have the same namespace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import randrange
from typing import Any, cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import NoScriptError
from rq.utils import utcformat

from rq_clock.errors import RqClockError
from rq_clock.jobs.meta import group_of
from rq_clock.jobs.outcomes import (
    DEPENDENT_FIELDS,
    OK,
    Command,
    Dependent,
    Execution,
    Outcome,
    dependencies_key,
)
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.model.ledger import LedgerEntry, ledger_entry
from rq_clock.settings import Settings
from rq_clock.store.client import is_outage
from rq_clock.store.job_commands import command_words
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, newest, pairs, text
from rq_clock.timing.instants import from_ms, from_score, to_ms

ABANDONED = 180
"""Seconds of silence after which RQ's own tools call a running job abandoned: far more than the
reaper takes, and more than a failover of the server lasts."""
SCANNED, WATCHED = 1000, 2000
"""Queues looked at in one step of a walk through all: about a millisecond."""
REAP_MS = 3_000
REAP = ":reap"
"""The message that announces a scheduled job; no schedule can have this name."""

_Call = tuple[str, list[str], list[Any]]
"""A script's name, keys and arguments."""


class Evicted(RqClockError):
    """This worker was counted as dead, and its job went to another one."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An ended attempt, an entry of `runs`. `again` is where the job goes on: "front", "queue",
    "later", or "" when it has ended for good."""

    id: str
    schedule: str
    job_id: str
    entry: LedgerEntry
    again: str = ""

    @classmethod
    def read(cls, id: bytes, fields: Mapping[bytes, bytes]) -> Ended:
        """Return an entry of the stream."""
        words = {name.decode(): value.decode() for name, value in fields.items()}
        entry, again = ledger_entry(words["entry"]), words.get("again", "")
        return cls(id.decode(), words["schedule"], words["job"], entry, again)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the leading clock watches beside its tick, at one moment."""

    overdue: dict[str, datetime]
    """Schedule → its next fire time, which has passed without a decision."""
    attempt: str
    """The entry of `runs` to continue after."""
    ended: list[tuple[Ended, str]]
    """Attempts of schedules that still exist, oldest first, each with the revision of its
    schedule."""
    live: set[str]
    """Those of the watched jobs that wait or run."""
    unserved: set[str] | None
    """Queues with waiting jobs and no living worker; None until all have been looked at."""


@dataclass(slots=True)
class _Walk:
    """A walk through all queues, of which each step looks at some: what it found."""

    cursor: str = "0"
    found: set[str] = field(default_factory=set)
    last: set[str] | None = None
    """What the whole walk before has found; None in the first one."""

    def go_on(self, cursor: str, found: Iterable[str]) -> set[str] | None:
        """Add a step. Return what the last whole walk has found."""
        self.cursor = cursor
        self.found.update(found)
        if cursor == "0":
            self.last, self.found = self.found, set()
        return self.last


@dataclass(frozen=True, slots=True)
class Slot:
    """A worker's value in `workers`, as it was read."""

    worker: str
    value: str

    @property
    def job(self) -> tuple[str, str, str] | None:
        """The execution, job id and queue of its job, if it has one."""
        words = self.value.split(" ", 3)
        return (words[1], words[2], words[3]) if len(words) == 4 else None


class Executions:
    """The executions of one namespace. Methods raise redis-py's RedisError when the server cannot
    be used; each may be called again then, also when only the reply was lost."""

    def __init__(
        self, redis: Redis, namespace: str, *, runs: int = 1000, failed_jobs: int = 20
    ) -> None:
        """`runs` ended attempts are kept in all, and `failed_jobs` failed jobs of each schedule."""
        self.redis = redis
        self.namespace = namespace
        self.suspended = False
        """Whether RQ's tools had suspended all work at the last `take`."""
        self._runs, self._failed_jobs = runs, failed_jobs
        self._faults = FaultLog()
        self._signs: set[str] = set()
        """What `register` has sent: the reply may have been lost."""
        self._scanned, self._watched = _Walk(), _Walk()
        names = ("beat", "close", "scan", "take", "watch")
        self._scripts = {name: load_script(redis, name) for name in names}

    @classmethod
    def from_settings(cls, redis: Redis, settings: Settings) -> Executions:
        """Return those of the namespace that the settings name, with its limits."""
        limits = {"runs": settings.runs, "failed_jobs": settings.failed_jobs}
        return cls(redis, settings.namespace, **limits)

    def _key(self, name: str, namespace: str = "") -> str:
        return key_of(namespace or self.namespace, name)

    # ---- a worker's own -----------------------------------------------------------------------

    def register(self, worker: str, now: datetime) -> str:
        """Add a worker to the living. Return the last sign of life of another one that has this
        name already, if any; that one is left alone."""
        mine = str(to_ms(now) * 1000 + randrange(1000))  # no other worker's, whenever it began
        self._signs.add(mine)
        pipe: Any = self.redis.pipeline(transaction=False)
        pipe.hsetnx(self._key("workers"), worker, mine)
        pipe.hget(self._key("workers"), worker)
        _, found = pipe.execute()
        sign = text(found or b"")
        return "" if sign in self._signs else sign

    def unregister(self, worker: str) -> None:
        """Remove a worker; its job must have ended."""
        self.redis.hdel(self._key("workers"), worker)

    def take(self, worker: str, queues: Sequence[str], now: datetime) -> Execution | None:
        """Take the next job of the first queue that has one. Raises Evicted."""
        answer = self._run(*self._take(worker, queues, now))
        while self._has_more(answer):
            answer = self._run(*self._take(worker, queues, now))
        return self._execution_from(worker, now, answer)

    def beat(self, worker: str, ttl: int, now: datetime) -> bool:
        """Give a sign of life. Return whether the worker has to reap the dead. Raises Evicted."""
        keys = [self._key("workers"), self._key("lease"), self._key("reaper")]
        times = [now.timestamp(), utcformat(now), ABANDONED, ttl, REAP_MS]
        answer = self._run("beat", keys, [worker, *times])
        if answer == b"gone":
            raise Evicted(f"{worker} was counted as dead")
        return bool(answer == b"reap")

    def close(self, execution: Execution, outcome: Outcome) -> None:
        """End an execution. Raises Evicted when the worker was counted as dead: then nothing was
        written, and the caller drops the result."""
        self._close(["own", execution.id], execution, outcome)

    def close_and_take(
        self, execution: Execution, outcome: Outcome, queues: Sequence[str], now: datetime
    ) -> Execution | None:
        """`close` and `take` in one round trip."""
        own, worker = ["own", execution.id], execution.worker
        closing = self._closing(own, execution, outcome, _Dependents())
        closed, begun = self._run_all([closing, self._take(worker, queues, now)])
        if not _ended(execution, closed):
            self._close(own, execution, outcome)
            return self.take(worker, queues, now)
        if self._has_more(begun):
            return self.take(worker, queues, now)
        return self._execution_from(worker, now, begun)

    def living(self, silence: float) -> int:
        """Return how many workers gave a sign of life in the last `silence` seconds."""
        pipe: Any = self.redis.pipeline(transaction=False)
        pipe.time()
        pipe.hvals(self._key("workers"))
        (seconds, micros), places = pipe.execute()
        oldest = seconds * 1_000_000 + micros - silence * 1_000_000
        signs = (place.partition(b" ")[0] for place in places)
        return sum(s.isdigit() and len(s) < 20 and int(s) >= oldest for s in signs)

    # ---- ended attempts -----------------------------------------------------------------------

    def ended(self, limit: int, before: str = "+", since: datetime | None = None) -> list[Ended]:
        """Return the newest ended attempts, newest first, back to `since`; `before` is the id of
        the last one that was read."""
        first = str(max(to_ms(since), 0)) if since else "-"
        return newest(self.redis, self._key("runs"), Ended.read, limit, before, first)

    def snapshot(self, before: datetime, attempt: str, jobs: Iterable[str], limit: int) -> Snapshot:
        """Return the undecided fire times before `before`, the attempts that ended after the entry
        `attempt` (none for "", which finds the newest entry), those of `jobs` that wait or run, and
        the queues without a worker. At most `limit` of each; one command."""
        keys = [self._key("due"), "rq:queues"]
        cursor, walk = self._watched.cursor, WATCHED
        answer = self._run("watch", keys, [to_ms(before), attempt, limit, cursor, walk, *jobs])
        overdue, last, ended, live, unserved, cursor = answer
        fires = pairs(overdue).items()
        return Snapshot(
            overdue={text(name): from_score(float(score)) for name, score in fires},
            attempt=text(last),
            ended=[found for each in ended if (found := self._read_ended(*each))],
            live={text(job_id) for job_id in live},
            unserved=self._watched.go_on(text(cursor), map(text, unserved)),
        )

    def _read_ended(
        self, id: bytes, flat: list[bytes], revision: bytes
    ) -> tuple[Ended, str] | None:
        try:
            return Ended.read(id, pairs(flat)), text(revision)
        except Exception as error:  # whatever others have written
            self._faults.report("run.unreadable", error, entry=text(id))
            return None

    def foreign(self, queues: Iterable[str]) -> dict[str, list[str]]:
        """Return the workers of another make that serve any of these queues, with those queues."""
        client: Any = self.redis
        ours = {text(name) for name in client.hkeys(self._key("workers"))}
        found: dict[str, list[str]] = {}
        for queue in queues:
            for key in client.smembers(f"rq:workers:{queue}"):
                name = text(key).removeprefix("rq:worker:")
                if name not in ours:
                    found.setdefault(name, []).append(queue)
        return found

    # ---- the dead -----------------------------------------------------------------------------

    def scan(self, now: datetime, limit: int = 100) -> tuple[list[Slot], datetime | None, int]:
        """Queue the jobs that RQ has scheduled for now or before, in the next queues. Return
        every worker's slot, when to scan again and how many jobs were queued."""
        keys, args = [self._key("workers"), "rq:queues"], [now.timestamp(), utcformat(now), limit]
        answer = self._run("scan", keys, [*args, self._scanned.cursor, SCANNED])
        flat, soonest, cursor, *moved = answer
        slots = [Slot(text(name), text(value)) for name, value in pairs(flat).items()]
        for job_id in moved:
            log_event("job.promoted", job=text(job_id))
        soon = self._scanned.go_on(text(cursor), [text(soonest)] if soonest else [])
        if self._scanned.cursor != "0":
            return slots, now, len(moved)  # there are more queues
        due = from_score(min(map(float, soon)) * 1000) if soon else None
        return slots, due, len(moved)

    def execution_of(self, slot: Slot) -> Execution | None:
        """Return the execution of a silent worker; None when it has none, or a deleted job."""
        if slot.job is None:
            return None
        id, job_id, queue = slot.job
        pipe = self.redis.pipeline(transaction=False)
        pipe.hgetall(f"rq:job:{job_id}")
        pipe.hget(f"rq:execution:{job_id}:{id}", "created_at")
        fields, began = pipe.execute()
        started = datetime.fromtimestamp(0, UTC)
        with suppress(ValueError, OverflowError, OSError):  # what others have written is no time
            started = datetime.fromtimestamp(float(began or 0), UTC)
        return Execution(id, job_id, queue, slot.worker, started, fields) if fields else None

    def reap(self, slot: Slot, execution: Execution | None, outcome: Outcome | None) -> bool:
        """Forget a dead worker and end its execution. Return False when it has shown a sign of
        life since `slot` was read."""
        if execution is None or outcome is None:
            keys = [self._key("workers"), self._key("runs")]
            answer = self._run("close", keys, [slot.worker, "dead", slot.value])
            return bool(answer[0] != b"gone")
        try:
            self._close(["dead", slot.value], execution, outcome)
        except Evicted:
            return False
        return True

    # ---- scripts ------------------------------------------------------------------------------

    def _take(self, worker: str, queues: Sequence[str], now: datetime) -> _Call:
        keys = [self._key("workers"), "rq:suspended"]
        keys += [f"rq:queue:{queue}" for queue in queues]
        times = [now.timestamp(), utcformat(now), ABANDONED]
        return "take", keys, [worker, uuid4().hex, *times]

    def _has_more(self, answer: Any) -> bool:
        """Return whether to take again, after what the script's answer needs."""
        kind = answer[0]
        if kind == b"undeclared":
            self._declare(answer[1])
        elif kind == b"unreadable":
            expected = "letters, digits, _ and - in a job's id"
            log_warning("job.unreadable", job=text(answer[1]), expected=expected)
        return kind in (b"undeclared", b"unreadable", b"more")

    def _declare(self, job_id: bytes) -> None:
        """Copy the group that a job's meta names to a field that scripts can read: a schedule's job
        has it already."""
        key: Any = b"rq:job:" + job_id
        stored: Any = self.redis.hget(key, "meta")
        if stored is None:  # deleted since
            return
        group, limit = group_of(stored)
        fields: dict[Any, Any] = {"rq_clock_group": group}
        if limit > 1:
            fields["rq_clock_group_limit"] = limit
        self.redis.hset(key, mapping=fields)

    def _execution_from(self, worker: str, now: datetime, answer: Any) -> Execution | None:
        kind, *rest = answer
        if kind == b"gone":
            raise Evicted(f"{worker} was counted as dead")
        self.suspended = kind == b"suspended"
        if kind != b"job":
            return None
        id, job_id, queue, previous, flat = rest
        before = from_ms(previous) if previous else None
        return Execution(text(id), text(job_id), text(queue), worker, now, pairs(flat), before)

    def _close(self, claim: list[str], execution: Execution, outcome: Outcome) -> None:
        found = _Dependents()
        while not _ended(execution, self._run(*self._closing(claim, execution, outcome, found))):
            found = self._dependents(execution, outcome)
        if found.unreadable:
            unreadable = " ".join(found.unreadable)
            log_warning("dependents.unreadable", job=execution.job_id, dependents=unreadable)

    def _closing(
        self, claim: list[str], execution: Execution, outcome: Outcome, dependents: _Dependents
    ) -> _Call:
        origin = execution.origin
        args: list[Any] = [execution.worker, *claim]
        args += [-1] if outcome.again else [len(dependents.ids), *dependents.ids]
        run = (origin.schedule, to_ms(origin.fire_time), origin.ledger_codes) if origin else None
        args += run or [""] * 3
        args += [outcome.entry(execution), int(outcome.state == OK), self._runs]
        unbounded = outcome.state == OK or outcome.again or execution.fields.get(b"failure_ttl")
        args += [0 if unbounded else self._failed_jobs, outcome.again]
        counts = outcome.counts(execution) if origin else []
        args += [len(counts), *(word for count in counts for word in count)]
        commands = [*outcome.commands, *dependents.commands]
        if outcome.again == "later":  # the clock is to look when that will be
            commands.append(("PUBLISH", self._key("news"), REAP))
        runs = self._key("runs", origin.namespace if origin else "")
        return "close", [self._key("workers"), runs], [*args, *command_words(commands)]

    def _dependents(self, execution: Execution, outcome: Outcome) -> _Dependents:
        """Return the jobs that depend on one that ends, and the commands that queue those that can
        run now. Only fields of their hashes are read; unreadable jobs stay deferred."""
        parent = f"rq:job:{execution.job_id}".encode()
        ids: list[bytes] = sorted(cast(Any, self.redis.smembers(parent + b":dependents")))
        pipe: Any = self.redis.pipeline(transaction=False)
        for id in ids:
            pipe.hmget(b"rq:job:" + id, DEPENDENT_FIELDS)
            pipe.exists(b"rq:job:" + id)
            pipe.smembers(dependencies_key(id))
        answers = _answers(pipe)
        queued: list[bytes] = []
        unreadable: list[str] = []
        commands: list[Command] = []
        for id, fields, exists, needed in zip(ids, *(answers[i::3] for i in range(3)), strict=True):
            if not exists:
                continue
            try:
                dependent = Dependent.read(id, fields)
                others = self._statuses(set(needed) - {execution.job_id.encode()})
            except (ValueError, TypeError):
                unreadable.append(text(id))
                continue
            if dependent.can_run(outcome.state, others):
                queued.append(id)
                commands += dependent.commands(outcome.ended)
        if queued:
            commands.append(("SREM", parent + b":dependents", *queued))
        return _Dependents(tuple(ids), tuple(commands), tuple(unreadable))

    def _statuses(self, job_ids: Collection[bytes]) -> list[str]:
        """Return the statuses of those of these jobs that exist."""
        if not job_ids:
            return []
        pipe: Any = self.redis.pipeline(transaction=False)
        for id in job_ids:
            pipe.hget(b"rq:job:" + id, "status")
        return [text(status) for status in _answers(pipe) if status]

    def _run(self, script: str, keys: list[str], args: list[Any]) -> Any:
        return self._scripts[script](keys, args)

    def _run_all(self, calls: Sequence[_Call]) -> list[Any]:
        """Run several scripts in one round trip; redis-py would check first that each is known."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for script, keys, args in calls:
            pipe.execute_command("EVALSHA", self._scripts[script].sha, len(keys), *keys, *args)
        answers = pipe.execute(raise_on_error=False)
        for i, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):  # those behind it rely on it
                return [*answers[:i], *(self._run(*call) for call in calls[i:])]
            if isinstance(answer, Exception):
                raise answer
        return list(answers)


@dataclass(frozen=True, slots=True)
class _Dependents:
    ids: tuple[bytes, ...] = ()
    commands: tuple[Command, ...] = ()
    unreadable: tuple[str, ...] = ()


def _answers(pipe: Any) -> list[Any]:
    """Return a pipeline's answers, with the errors that come from one key in their places."""
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and is_outage(answer):
            raise answer
    return answers


def _ended(execution: Execution, answer: Any) -> bool:
    """Return whether the execution has ended; False when dependents came that must be handled."""
    if answer[0] == b"gone":
        raise Evicted(f"another worker has the job {execution.job_id} now")
    if answer[0] == b"refused":
        reason = "deleted, or canceled, while it ran"
        log_warning("run.discarded", job=execution.job_id, reason=reason)
    if answer[0] == b"error":
        log_warning("run.incomplete", job=execution.job_id, error=text(answer[1]))
    return bool(answer[0] != b"dependents")
