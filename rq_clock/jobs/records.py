"""RQ's records of queues, workers and jobs, read for people. Pure.

Pickles of RQ are never loaded here. `description` shows the arguments of a job: RQ makes it from
the call, rq-clock from a command or webhook. A job is a run if its id is a run's and its meta is
set. For results see results.py. Secrets in texts are masked.

Not here: reading them from Redis, and operations on them (queues.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from rq_clock.errors import ScheduleError
from rq_clock.jobs.executions import Ended
from rq_clock.jobs.outcomes import one_line
from rq_clock.jobs.results import end_of_trace, trace_of, value_of
from rq_clock.model.job_id import JobId
from rq_clock.model.view import View, doc
from rq_clock.redaction import Secrets, masked_text
from rq_clock.store import cursors
from rq_clock.store.scripts import pairs, readable, text
from rq_clock.timing.instants import from_ms

KINDS = {
    "failed": ("failed", "down"),
    "started": ("wip", "up"),
    "queued": ("queue", "up"),
    "scheduled": ("scheduled", "up"),
    "deferred": ("deferred", "up"),
    "finished": ("finished", "down"),
    "canceled": ("canceled", "down"),
}
"""Kind of job → RQ's registry, and the order of its scores. A failed or finished job has as
its score the time at which RQ forgets it: the newest come first if all are kept equally long."""
COUNTED = ("queued", "started", "scheduled", "deferred", "failed", "finished", "canceled")
WorkerOrigin = Literal["rq-clock", "rq"]
_DIGITS = 15
"""The longest number that rq-clock or RQ writes."""
_PLACE = re.compile(r"[0-9]{1,15}")
_SCORE = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|inf)")
_RESULTS = {"1": "successful", "2": "failed", "3": "stopped", "4": "retried", "5": "failed"}
_FIELDS = ("status", "description", "created_at", "enqueued_at", "started_at", "ended_at",
           "worker_name", "retries_left", "rq_clock_attempt", "meta", "trace")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView(View):
    """A queue of RQ."""

    name: str
    jobs: Mapping[str, int] = field(metadata=doc("Jobs by kind."))
    waiting_seconds: float | None = field(metadata=doc("The age of its first waiting job."))
    workers: int = field(metadata=doc("Living workers that serve it."))
    unserved: bool = field(metadata=doc("Whether it is needed and no worker serves it."))

    @property
    def waiting(self) -> timedelta | None:
        """Return the age of its first waiting job."""
        return None if self.waiting_seconds is None else timedelta(seconds=self.waiting_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView(View):
    """A living worker."""

    name: str
    state: str
    queues: tuple[str, ...]
    job: str | None
    job_since: datetime | None
    last_seen: datetime | None
    since: datetime | None
    host: str | None
    pid: str | None
    version: str | None = field(metadata=doc("The version of RQ."))
    origin: WorkerOrigin = field(metadata=doc("Whether it is rq-clock's, or RQ's own."))


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Queues and workers at one instant of the server's clock."""

    now: datetime
    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView(View):
    """A job of RQ."""

    id: str
    queue: str | None
    status: str | None = field(metadata=doc("RQ's status; null once RQ has forgotten the job."))
    description: str | None = field(metadata=doc("The call, as RQ describes it."))
    schedule: str | None = field(metadata=doc("The schedule, if the job is a run of one."))
    fire_time: datetime | None
    created: datetime | None
    enqueued: datetime | None
    started: datetime | None
    ended: datetime | None
    due: datetime | None = field(metadata=doc("When a scheduled job will be queued."))
    worker: str | None
    attempt: int
    retries_left: int
    error: str | None

    @property
    def run(self) -> JobId | None:
        """Return the parts of its id if it is a run of a schedule."""
        return JobId.parse(self.id) if self.schedule else None


@dataclass(frozen=True, slots=True)
class Jobs:
    """A page of jobs of `total`. `cursor` leads to the next page and is empty at the end."""

    now: datetime
    jobs: tuple[JobView, ...]
    total: int
    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A result. `kind` is successful, failed, stopped or retried. `value` is JSON, or None when it
    cannot be shown."""

    kind: str
    value: str | None
    trace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """A job in detail. `fields` are the plain ones of RQ's hash, none once RQ has forgotten it.
    `expires_in` is None if RQ keeps it."""

    job: JobView
    fields: Mapping[str, str]
    results: tuple[Result, ...]
    attempts: tuple[Ended, ...]
    dependents: tuple[str, ...]
    dependent_count: int
    expires_in: timedelta | None

    @classmethod
    def nothing(cls, id: str) -> JobDetail:
        """Return the detail of a job that RQ has forgotten."""
        return cls(
            job=_job(id, {}, "", JobId.parse(id), "", ""), fields={}, results=(), attempts=(),
            dependents=(), dependent_count=0, expires_in=None,
        )  # fmt: skip

    @property
    def exists(self) -> bool:
        """Return whether RQ still has the job."""
        return bool(self.fields)

    @property
    def trace(self) -> str:
        """Return the newest traceback."""
        return next((result.trace for result in self.results if result.trace), "")


# ---- reading ----------------------------------------------------------------------------------


def server_time(answer: Any) -> datetime:
    """Return the server's time from the first two values of a reply."""
    return datetime.fromtimestamp(int(answer[0]), UTC) + timedelta(microseconds=int(answer[1]))


def _time(text: str) -> datetime | None:
    """Return an instant in RQ's form, or in epoch seconds; None for any other text."""
    with suppress(ValueError, OverflowError, OSError):
        if "T" not in text:
            return datetime.fromtimestamp(float(text), UTC)
        return datetime.fromisoformat(text).astimezone(UTC) if text.endswith("Z") else None
    return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0


def _pairs(flat: Iterable[bytes]) -> dict[str, str]:
    words = [word.decode(errors="replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


def worker_view(row: Sequence[str]) -> WorkerView:
    """Return a worker from the answer of lua/queues.lua."""
    name, state, queues, job, sign, birth, host, pid, version, place, since = row
    micros = place.partition(" ")[0]
    return WorkerView(
        name=name,
        state=state or "unknown",
        queues=tuple(queues.split(",")),
        job=job or None,
        job_since=_time(since) if job else None,
        last_seen=from_ms(int(micros) // 1000) if micros else _time(sign),
        since=_time(birth),
        host=host or None,
        pid=pid or None,
        version=version or None,
        origin="rq-clock" if place else "rq",
    )


def job_view(kind: str, row: Any, secrets: Secrets) -> JobView:
    """Return a job from the answer of lua/browse.lua."""
    score, id, queue, values, _ = row
    texts = (value.decode(errors="replace") for value in values)
    fields = dict(zip(_FIELDS, texts, strict=True))
    origin = JobId.parse(text(id)) if fields["meta"] else None
    due = text(score) if kind == "scheduled" else ""
    trace = secrets.hide_text(end_of_trace(fields["trace"].encode()))
    fields["description"] = secrets.hide_text(fields["description"])
    return _job(text(id), fields, text(queue), origin, due, trace)


def _job(
    id: str, fields: Mapping[str, str], queue: str, run: JobId | None, due: str, trace: str
) -> JobView:
    def time(name: str) -> datetime | None:
        return _time(fields.get(name, ""))

    return JobView(
        id=id,
        queue=queue or None,
        status=fields.get("status") or None,
        description=masked_text(fields.get("description", "")) or None,
        schedule=run.schedule if run else None,
        fire_time=run.fire_time if run else None,
        created=time("created_at"),
        enqueued=time("enqueued_at"),
        started=time("started_at"),
        ended=time("ended_at"),
        due=_time(due),
        worker=fields.get("worker_name") or None,
        attempt=_number(fields.get("rq_clock_attempt", "")),
        retries_left=_number(fields.get("retries_left", "")),
        error=one_line(trace.strip().rpartition("\n")[2]) or None,
    )


def _result(fields: Mapping[str, str], secrets: Secrets) -> Result:
    kind = _RESULTS.get(fields.get("type", ""), "unknown")
    packed = fields.get("return_value")
    value = "null" if kind == "successful" else None  # RQ stores no value for None
    if packed is not None:
        value = value_of(packed.encode())
    return Result(
        kind=kind,
        value=value and secrets.hide_text(value),
        trace=secrets.hide_text(trace_of(fields.get("exc_string", "").encode())),
    )


def queue_view(
    row: Any, now: datetime, workers: Sequence[WorkerView], used: Collection[str]
) -> QueueView:
    """Return a queue from the answer of lua/queues.lua; `used` are the names in schedules."""
    name, *counts, since = (text(word) for word in row)
    began = _time(since)
    jobs = dict(zip(COUNTED, map(int, counts), strict=True))
    serving = sum(name in worker.queues for worker in workers)
    return QueueView(
        name=name,
        jobs=jobs,
        waiting_seconds=max((now - began).total_seconds(), 0.0) if began else None,
        workers=serving,
        unserved=not serving and bool(jobs["queued"] or name in used),
    )


def job_detail(id: str, answer: Any, secrets: Secrets) -> JobDetail | None:
    """Return a job from the answer of lua/inspect.lua; None when it is unknown."""
    flat, results, dependents, count, attempts, due, expires = answer
    fields = _pairs(flat)
    if "description" in fields:
        fields["description"] = secrets.hide_text(fields["description"])
    ended = tuple(readable(Ended.read, ((entry, pairs(raw)) for entry, raw in attempts), "runs"))
    if not fields and not ended:
        return None
    found = tuple(_result(_pairs(raw), secrets) for _, raw in results)
    trace = next((result.trace for result in found if result.trace), "")
    origin = JobId.parse(id) if ended or fields.get("meta") else None
    return JobDetail(
        job=_job(id, fields, fields.get("origin", ""), origin, text(due), trace),
        fields={n: value for n, value in fields.items() if n not in ("meta", "description")},
        results=found,
        attempts=ended,
        dependents=tuple(sorted(text(one) for one in dependents)),
        dependent_count=count,
        expires_in=timedelta(seconds=expires) if expires >= 0 else None,
    )


# ---- cursors ----------------------------------------------------------------------------------


def encode_place(kind: str, place: str, beside: str) -> str:
    """Return the cursor of a place in a list of jobs."""
    return cursors.encode(kind, place, beside)


def decode_place(kind: str, cursor: str) -> list[str]:
    """Return the place of a cursor. Raises ScheduleError."""
    if not cursor:
        return ["", ""]
    with suppress(ScheduleError, UnicodeError):
        known, place, beside = cursors.decode(cursor, str, str, str)
        form = _PLACE if kind == "queued" else _SCORE
        if known == kind and form.fullmatch(place) and beside.encode():
            return [place, beside]
    raise ScheduleError(
        f"cursor: expected the one of a page of {kind} jobs, got {cursor!r}; start again without it"
    )
