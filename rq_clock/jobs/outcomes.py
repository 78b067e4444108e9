"""The outcomes of executions as the commands that RQ would send. Pure.

RQ rewrites a job's whole hash at its end, with its own copy of `meta`. Here only the fields that
change are written, so data that a task has saved stays as it is, and the reaper of a dead worker's
job needs to understand neither its arguments nor its result.

The commands are sent by lua/close.lua, together with the end of the execution itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rq.defaults import DEFAULT_FAILURE_TTL, DEFAULT_RESULT_TTL
from rq.job import JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.utils import utcformat

from rq_clock.model.job_id import JobId
from rq_clock.redaction import masked_text
from rq_clock.store import counters
from rq_clock.timing.instants import to_ms

DEFAULT_TIMEOUT = Queue.DEFAULT_TIMEOUT
LONGEST = 10**10
"""Seconds, three centuries: neither Redis nor a datetime can add much more to now."""
Command = tuple[str | bytes | int | float, ...]
OK, FAILED, TIMED_OUT, STOPPED = "ok", "failed", "timed_out", "stopped"
INTERRUPTED, LOST = "interrupted", "lost"
INTERRUPTIONS, DEATHS = "rq_clock_interruptions", "rq_clock_deaths"
"""Fields of RQ's job hash that count how often the job was put back because its worker had to end,
and because its worker died; RQ keeps fields that it does not know."""
ENDS = "rq_clock_ends"
"""Field that counts how often the job has ended for good without success. When it runs again,
somebody has requeued it."""
DEPENDENT_FIELDS = (
    "created_at", "status", "origin", "allow_dependency_failures", "enqueue_at_front", "timeout",
    "ttl",
)  # fmt: skip
"""Fields of RQ's job hash from which a Dependent is read."""


def dependencies_key(job_id: bytes) -> bytes:
    """Return the key of the set of jobs that a job depends on; RQ spells it with two colons."""
    return b"rq:job::" + job_id + b":dependencies"


@dataclass(frozen=True, slots=True)
class Execution:
    """One attempt at a job, as its worker took it. `fields` is the job's hash at that moment,
    `previous` the newest fire time of its schedule that had succeeded by then. `offset` is that of
    the server's time from the monotonic clock, in seconds, which the work horse has no better."""

    id: str
    job_id: str
    queue: str
    worker: str
    started: datetime
    fields: Mapping[bytes, bytes]
    previous: datetime | None = None
    offset: float = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it without a look at the fields, which takes the process of a job long."""
        return Execution, (
            self.id, self.job_id, self.queue, self.worker, self.started, self.fields,
            self.previous, self.offset,
        )  # fmt: skip

    @property
    def attempt(self) -> int:
        """Return 1 for the first execution of the job, and one more for each later one."""
        return self.number("rq_clock_attempt", 1)

    @property
    def interruptions(self) -> int:
        """Return how often the job was put back because its worker had to end."""
        return self.number(INTERRUPTIONS, 0)

    @property
    def deaths(self) -> int:
        """Return how many workers have died while they ran the job."""
        return self.number(DEATHS, 0)

    @property
    def ends(self) -> int:
        """Return how often the job has failed for good, or was stopped, before this execution."""
        return self.number(ENDS, 0)

    @property
    def timeout(self) -> int:
        """Return the longest run time in seconds; -1 for no limit."""
        return self.number("timeout", -1)

    def number(self, field: str, default: int) -> int:
        """Return a number of the job's hash; the default where it is missing or unreadable, the
        nearest that can be used where it is beyond LONGEST."""
        with suppress(ValueError):
            return min(max(int(self.fields.get(field.encode()) or default), -LONGEST), LONGEST)
        return default

    def intervals(self, field: str) -> list[float]:
        """Return the seconds between attempts that the job's hash lists; 0 where it lists none."""
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            listed = json.loads(self.fields.get(field.encode()) or b"[0]")
            return [min(max(0.0, float(n)), LONGEST) for n in listed] or [0]
        return [0]

    @property
    def origin(self) -> JobId | None:
        """Return the id of a run with its schedule and fire time; None for a job of no schedule."""
        return JobId.parse(self.job_id) if b"fire_time" in self.fields.get(b"meta", b"") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """A job that depends on one that ends."""

    id: bytes
    queue: str
    status: JobStatus
    allow_failure: bool
    at_front: bool
    timeout: str
    ttl: int

    @classmethod
    def read(cls, id: bytes, fields: Sequence[bytes | None]) -> Dependent:
        """Return the job from the DEPENDENT_FIELDS of its hash. Raises ValueError or TypeError
        when this RQ could not run such a job."""
        created, status, origin, allow, front, timeout, ttl = (f and f.decode() for f in fields)
        if not created or not origin:
            raise ValueError("expected a job, got parts of one")
        return cls(
            id=id,
            queue=origin,
            status=JobStatus(status or "created"),
            allow_failure=bool(int(allow or 0)),
            at_front=bool(int(front or 0)),
            timeout=timeout or str(DEFAULT_TIMEOUT),
            ttl=int(ttl or 0),
        )

    def can_run(self, state: str, others: Iterable[str]) -> bool:
        """Return whether it can run when one job it depends on has ended in this state, and the
        others have these statuses."""
        allowed = ("finished", "failed") if self.allow_failure else ("finished",)
        if state == STOPPED or self.status == JobStatus.CANCELED:
            return False
        return (state == OK or self.allow_failure) and all(other in allowed for other in others)

    def commands(self, now: datetime) -> list[Command]:
        """Return the commands that queue it."""
        job, queue = b"rq:job:" + self.id, f"rq:queue:{self.queue}"
        changed = ("status", "queued", "enqueued_at", utcformat(now), "timeout", self.timeout)
        commands: list[Command] = [
            ("ZREM", f"rq:deferred:{self.queue}", self.id),
            ("HSET", job, *changed),
            ("SADD", "rq:queues", queue),
            ("LPUSH" if self.at_front else "RPUSH", queue, self.id),
        ]
        if self.ttl > 0:
            keys = (job, job + b":dependents", dependencies_key(self.id))
            commands += [("EXPIRE", key, self.ttl) for key in keys]
        return commands


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an execution: a state, one line about the error (for logs, ledgers and alerts,
    with plain secrets masked), and RQ's commands."""

    state: str
    error: str
    ended: datetime
    commands: list[Command]
    again: str = ""
    """Where the job goes on: "front", "queue", "later", or "" when this was the end of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as an execution is."""
        return Outcome, (self.state, self.error, self.ended, self.commands, self.again)

    def entry(self, execution: Execution) -> str:
        """Return the outcome as the ledger has it."""
        times = f"{to_ms(execution.started)} {to_ms(self.ended)}"
        words = f"{self.state} {execution.attempt} {times} {execution.worker} {self.error}"
        return words.strip()

    def counts(self, execution: Execution) -> list[counters.Count]:
        """Return the counts of an ended run."""
        waited = None
        with suppress(ValueError):  # others may have written it: no count may prevent an end
            queued = datetime.fromisoformat(execution.fields.get(b"enqueued_at", b"").decode())
            since = execution.started - queued.replace(tzinfo=UTC)  # RQ's times are
            waited = max(since.total_seconds(), 0.0)
        took = max((self.ended - execution.started).total_seconds(), 0.0)
        return counters.ended(self.state, self.again, took, waited)


def succeeded(
    execution: Execution, ended: datetime, value: Any, *, ttl: int = DEFAULT_RESULT_TTL,
    serializer: Any = None,
) -> Outcome:  # fmt: skip
    """Return the outcome of a job whose function returned `value`, which is kept `ttl` seconds if
    the job does not say. A value that cannot be serialized is replaced by a note, as in RQ; the job
    has succeeded."""
    ttl = execution.number("result_ttl", ttl)
    job = _job(execution)
    commands: list[Command] = list(_counted(execution, ended, "successful_job_count"))
    if ttl != 0:
        finished = _expiry(ended, ttl)
        commands += [
            ("HSET", job, "status", "finished", "ended_at", utcformat(ended)),
            *_result(
                execution,
                ended,
                Result.Type.SUCCESSFUL,
                ttl,
                return_value=value,
                serializer=serializer,
            ),
            ("ZADD", f"rq:finished:{execution.queue}", finished, execution.job_id),
        ]
    repeats = execution.number("repeats_left", 0)
    if repeats > 0:
        intervals = execution.intervals("repeat_intervals")
        pause = intervals[min(repeats - 1, len(intervals) - 1)]
        commands.append(("HSET", job, "repeats_left", repeats - 1))
        return _go_on(Outcome(OK, "", ended, commands), execution, pause, front=False)
    return Outcome(OK, "", ended, [*commands, *_kept_for(execution, ttl)])


def stored_elsewhere(ended: datetime) -> Outcome:
    """Return the outcome of a job whose end was stored by the app's own code."""
    return Outcome(OK, "", ended, [])


def failed(
    execution: Execution, ended: datetime, trace: str, *, state: str = FAILED, error: str = "",
    kept: bool = True,
) -> Outcome:  # fmt: skip
    """Return the outcome of a job that raised, ran out of time, was stopped or lost its process. It
    is retried as in RQ, but not after a stop, or goes into RQ's registry of failed jobs, unless
    `kept` is false (RQ's --disable-default-exception-handler)."""
    job, ttl = _job(execution), execution.number("failure_ttl", DEFAULT_FAILURE_TTL)
    trace = encodable(trace)
    commands: list[Command] = list(_counted(execution, ended, "failed_job_count"))
    line = masked_text(one_line(error or trace.strip().rpartition("\n")[2]))
    retries = execution.number("retries_left", 0)
    if retries > 0 and state != STOPPED:
        intervals = execution.intervals("retry_intervals")
        pause = intervals[max(len(intervals) - retries, 0)]
        commands.append(("HSET", job, "retries_left", retries - 1))
        front = execution.number("enqueue_at_front_on_retry", 0) == 1
        return _go_on(Outcome(state, line, ended, commands), execution, pause, front=front)
    status = "stopped" if state == STOPPED else "failed"
    commands.append(_end(execution, status, ended))
    if kept:
        commands += [
            *_result(execution, ended, Result.Type.FAILED, ttl, exc_string=trace),
            ("ZADD", f"rq:failed:{execution.queue}", _expiry(ended, ttl), execution.job_id),
            *_kept_for(execution, ttl),
        ]
    return Outcome(state, line, ended, commands)


def retry_requested(
    execution: Execution, ended: datetime, retry: Any, *, serializer: Any = None
) -> Outcome:
    """Return the outcome of a job whose function returned RQ's Retry. One that asks too often has
    failed."""
    count = execution.number("number_of_retries", 0)
    ttl = execution.number("failure_ttl", DEFAULT_FAILURE_TTL)
    value = {"return_value": retry, "serializer": serializer}
    if count >= retry.max:
        kind = Result.Type.MAX_RETRIES_EXCEEDED
        commands: list[Command] = [
            *_counted(execution, ended, "failed_job_count"),
            _end(execution, "failed", ended),
            *_result(execution, ended, kind, ttl, **value),
            ("ZADD", f"rq:failed:{execution.queue}", _expiry(ended, ttl), execution.job_id),
            *_kept_for(execution, ttl),
        ]
        error = f"the job requested a retry after {count} of {retry.max}"
        return Outcome(FAILED, error, ended, commands)
    commands = [
        *_counted(execution, ended, "failed_job_count"),
        *_result(execution, ended, Result.Type.RETRIED, ttl, **value),
        ("HSET", _job(execution), "number_of_retries", count + 1),
    ]
    pause = retry.get_interval(count, retry.intervals)
    outcome = Outcome(FAILED, "requested a retry", ended, commands)
    return _go_on(outcome, execution, pause, front=retry.enqueue_at_front)


def interrupted(
    execution: Execution, ended: datetime, limit: int, *, state: str = INTERRUPTED, error: str = ""
) -> Outcome:
    """Return the outcome of a job whose process the platform ended, or whose worker died (LOST): it
    goes back to the front of its queue with its retries, unless that has happened `limit` times
    before. The two are counted apart."""
    field, before = INTERRUPTIONS, execution.interruptions
    if state == LOST:
        field, before = DEATHS, execution.deaths
    if before >= limit:
        trace = f"{error or state}, {before} times before"
        return failed(execution, ended, trace, state=state)
    count: Command = ("HINCRBY", _job(execution), field, 1)
    outcome = Outcome(state, masked_text(one_line(error)), ended, [count])
    return _go_on(outcome, execution, 0, front=True)


def _go_on(outcome: Outcome, execution: Execution, pause: float, *, front: bool) -> Outcome:
    """Return the outcome of a job that is queued again, after `pause` seconds."""
    job, queue = _job(execution), f"rq:queue:{execution.queue}"
    cleared: Command = ("started_at", "", "worker_name", "")
    if outcome.state not in (INTERRUPTED, LOST):  # RQ knows by it that the next one is a retry
        cleared += ("ended_at", utcformat(outcome.ended))
    known: Command = ("SADD", "rq:queues", queue)
    commands: list[Command]
    if pause:
        due = (outcome.ended + timedelta(seconds=pause)).timestamp()
        again = "later"
        commands = [
            ("HSET", job, "status", "scheduled", *cleared),
            known,
            ("ZADD", f"rq:scheduled:{execution.queue}", due, execution.job_id),
        ]
    else:
        again = "front" if front else "queue"
        commands = [
            ("HSET", job, "status", "queued", "enqueued_at", utcformat(outcome.ended), *cleared),
            known,
            ("LREM", queue, 0, execution.job_id),
            ("LPUSH" if front else "RPUSH", queue, execution.job_id),
        ]
    return Outcome(outcome.state, outcome.error, outcome.ended, outcome.commands + commands, again)


def _job(execution: Execution) -> str:
    return f"rq:job:{execution.job_id}"


def _end(execution: Execution, status: str, ended: datetime) -> Command:
    """Return the command that ends a job for good, without success."""
    fields = ("status", status, "ended_at", utcformat(ended), ENDS, execution.ends + 1)
    return ("HSET", _job(execution), *fields)


def _kept_for(execution: Execution, ttl: int) -> list[Command]:
    """Return the commands that keep an ended job `ttl` seconds, not at all for 0, for ever when
    negative."""
    job = _job(execution)
    keys = (job, f"{job}:dependents", dependencies_key(execution.job_id.encode()))
    if ttl == 0:  # also what earlier attempts left
        return [("DEL", *keys, f"rq:results:{execution.job_id}")]
    return [("EXPIRE", key, ttl) for key in keys] if ttl > 0 else []


def _expiry(ended: datetime, ttl: int) -> float:
    """Return the score of a job in RQ's registries of ended jobs: when they forget it."""
    return ended.timestamp() + ttl if ttl >= 0 else -1


def _counted(execution: Execution, ended: datetime, counter: str) -> tuple[Command, Command]:
    worker = f"rq:worker:{execution.worker}"
    seconds = f"{(ended - execution.started).total_seconds():.6f}"
    return ("HINCRBY", worker, counter, 1), ("HINCRBYFLOAT", worker, "total_working_time", seconds)


def _result(
    execution: Execution, ended: datetime, kind: Result.Type, ttl: int, **fields: Any
) -> list[Command]:
    """Return the commands that add an entry to RQ's stream of results."""
    nowhere: Any = None
    fields |= {"execution_started_at": execution.started, "execution_ended_at": ended}
    fields |= {"worker_name": execution.worker, "execution_id": execution.id}
    result = Result(execution.job_id, kind, nowhere, **fields)
    key = f"rq:results:{execution.job_id}"
    words = [word for pair in result.serialize().items() for word in pair]
    keep: Command = ("PERSIST", key) if ttl == -1 else ("EXPIRE", key, ttl)
    return [("XADD", key, "MAXLEN", "~", 10, "*", *words), keep]


def encodable(text: str) -> str:
    """Return the text with an escape for each character that UTF-8 cannot encode: a file name
    that is not UTF-8 comes into an error's text as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str, limit: int = 200) -> str:
    """Return a text as one line of a log or a ledger."""
    line = " ".join(encodable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
