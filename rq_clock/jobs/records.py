"""Queues, workers and jobs as RQ's books have them, read for people. Pure.

Nothing that RQ has pickled is unpickled here: the arguments of a job are told by its `description`,
which RQ makes of the call and rq-clock of a command or webhook; a run is known by its id and by
whether the text of its meta names a fire time; of results see results.py. What is plainly a secret
in a text is masked.

Not here: how they are asked for, and what can be done to them (queues.py).
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.jobs.executions import Ended
from rq_clock.jobs.outcomes import one_line
from rq_clock.jobs.results import end_of_trace, trace_of, value_of
from rq_clock.model.job_id import JobId
from rq_clock.redaction import masked_text
from rq_clock.store.scripts import text
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
"""What jobs can be listed by: where RQ has these, and in which order of its scores. Those of failed
and finished jobs are when RQ forgets them, which puts the newest first as far as all are kept for
equally long."""
COUNTED = ("queued", "started", "scheduled", "deferred", "failed", "finished", "canceled")
_DIGITS = 15
"""Of a number that is one of ours, or RQ's."""
_PLACE = re.compile(r"[0-9]{1,15}")
_SCORE = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|inf)")
_RESULTS = {"1": "successful", "2": "failed", "3": "stopped", "4": "retried", "5": "failed"}
_FIELDS = ("status", "description", "created_at", "enqueued_at", "started_at", "ended_at",
           "worker_name", "retries_left", "rq_clock_attempt", "meta", "trace")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A queue. `waiting` is for how long its first job has waited; `workers` are the living ones
    that serve it; `used`, whether a schedule names it, None when nobody has looked."""

    name: str
    jobs: Mapping[str, int]
    """By kind, as in KINDS."""
    waiting: timedelta | None
    workers: int
    used: bool | None

    @property
    def unserved(self) -> bool:
        """Whether somebody counts on it and nobody listens."""
        return not self.workers and bool(self.used or self.jobs["queued"])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A living worker; `ours`, whether it is rq-clock's of this namespace, or else RQ's own."""

    name: str
    state: str
    queues: tuple[str, ...]
    job: str
    since: datetime | None
    """When its job has started."""
    sign: datetime | None
    """Its last sign of life."""
    born: datetime | None
    host: str
    pid: str
    version: str
    ours: bool


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Queues and workers at one instant of the server's clock."""

    now: datetime
    queues: tuple[QueueRow, ...]
    workers: tuple[WorkerRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as a list has it; `run` tells the schedule and fire time of one that a schedule made,
    `due` when a scheduled one is queued."""

    id: str
    queue: str
    status: str
    description: str
    run: JobId | None
    created: datetime | None
    enqueued: datetime | None
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    worker: str
    attempt: int
    retries_left: int
    error: str


@dataclass(frozen=True, slots=True)
class Jobs:
    """A page of jobs; `total` is how many there are, `cursor` leads on and is empty at the end."""

    now: datetime
    jobs: tuple[JobRow, ...]
    total: int
    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """A result as RQ keeps it: `kind` is successful, failed, stopped or retried; `value` is None
    when it cannot be shown."""

    at: datetime
    kind: str
    value: str | None
    trace: str
    worker: str
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """All of one job. `fields` are the plain ones of RQ's hash, none when there is none any more;
    `expires_in` is None for one that is kept."""

    job: JobRow
    fields: Mapping[str, str]
    results: tuple[ResultView, ...]
    attempts: tuple[Ended, ...]
    dependents: tuple[str, ...]
    dependent_count: int
    expires_in: timedelta | None

    @classmethod
    def nothing(cls, id: str) -> JobDetail:
        """A job of which nothing is left here."""
        return cls(
            job=_seen(id, {}, "", JobId.parse(id), "", ""), fields={}, results=(), attempts=(),
            dependents=(), dependent_count=0, expires_in=None,
        )  # fmt: skip

    @property
    def exists(self) -> bool:
        """Whether RQ still has it."""
        return bool(self.fields)

    @property
    def trace(self) -> str:
        """The newest traceback."""
        return next((told.trace for told in self.results if told.trace), "")


# ---- what was read ----------------------------------------------------------------------------


def instant_of(answer: Any) -> datetime:
    """The server's time, with which an answer begins."""
    return datetime.fromtimestamp(int(answer[0]), UTC) + timedelta(microseconds=int(answer[1]))


def _time(said: str) -> datetime | None:
    """An instant as RQ writes it, or as epoch seconds; None for what is none."""
    with suppress(ValueError, OverflowError, OSError):
        if "T" not in said:
            return datetime.fromtimestamp(float(said), UTC)
        return datetime.fromisoformat(said).astimezone(UTC) if said.endswith("Z") else None
    return None


def _number(said: str) -> int:
    return int(said) if said.isdecimal() and len(said) <= _DIGITS else 0


def _pairs(flat: Iterable[bytes]) -> dict[str, str]:
    words = [word.decode(errors="replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


def worker_of(row: Sequence[str]) -> WorkerRow:
    """A worker from what lua/queues.lua tells of it."""
    name, state, queues, job, sign, birth, host, pid, version, place, since = row
    micros = place.partition(" ")[0]
    return WorkerRow(
        name=name,
        state=state or "unknown",
        queues=tuple(queues.split(",")),
        job=job,
        since=_time(since) if job else None,
        sign=from_ms(int(micros) // 1000) if micros else _time(sign),
        born=_time(birth),
        host=host,
        pid=pid,
        version=version,
        ours=bool(place),
    )


def listed(kind: str, row: Any) -> JobRow:
    """A job from what lua/browse.lua tells of it."""
    score, id, queue, values, _ = row
    said = (value.decode(errors="replace") for value in values)
    fields = dict(zip(_FIELDS, said, strict=True))
    origin = JobId.parse(text(id)) if fields["meta"] else None
    due = text(score) if kind == "scheduled" else ""
    trace = end_of_trace(fields["trace"].encode())
    return _seen(text(id), fields, text(queue), origin, due, trace)


def _seen(
    id: str, fields: Mapping[str, str], queue: str, run: JobId | None, due: str, trace: str
) -> JobRow:
    def time(name: str) -> datetime | None:
        return _time(fields.get(name, ""))

    return JobRow(
        id=id,
        queue=queue,
        status=fields.get("status", ""),
        description=masked_text(fields.get("description", "")),
        run=run,
        created=time("created_at"),
        enqueued=time("enqueued_at"),
        started=time("started_at"),
        ended=time("ended_at"),
        due=_time(due),
        worker=fields.get("worker_name", ""),
        attempt=_number(fields.get("rq_clock_attempt", "")),
        retries_left=_number(fields.get("retries_left", "")),
        error=one_line(trace.strip().rpartition("\n")[2]),
    )


def _result_of(entry: str, said: Mapping[str, str]) -> ResultView:
    return ResultView(
        at=from_ms(entry.partition("-")[0]),
        kind=_RESULTS.get(said.get("type", ""), "unknown"),
        value=value_of(said.get("return_value", "").encode()),
        trace=trace_of(said.get("exc_string", "").encode()),
        worker=said.get("worker_name", ""),
        started=_time(said.get("execution_started_at", "")),
        ended=_time(said.get("execution_ended_at", "")),
    )


def queue_of(row: Any, now: datetime, workers: Iterable[WorkerRow], used: Any) -> QueueRow:
    """A queue from what lua/queues.lua tells of it; `used`, the names that schedules name."""
    name, *counts, since = (text(word) for word in row)
    began = _time(since)
    return QueueRow(
        name=name,
        jobs=dict(zip(COUNTED, map(int, counts), strict=True)),
        waiting=max(now - began, timedelta(0)) if began else None,
        workers=sum(name in worker.queues for worker in workers),
        used=None if used is None else name in used,
    )


def result_view(id: str, answer: Any) -> JobDetail | None:
    """A job from what lua/inspect.lua tells of it; None when nobody knows it."""
    flat, results, dependents, count, attempts, due, expires = answer
    fields = _pairs(flat)
    ended = tuple(
        Ended.read(entry, dict(zip(said[::2], said[1::2], strict=True))) for entry, said in attempts
    )
    if not fields and not ended:
        return None
    told = tuple(_result_of(text(entry), _pairs(said)) for entry, said in results)
    trace = next((t.trace for t in told if t.trace), "")
    origin = JobId.parse(id) if ended or fields.get("meta") else None
    return JobDetail(
        job=_seen(id, fields, fields.get("origin", ""), origin, text(due), trace),
        fields={n: value for n, value in fields.items() if n not in ("meta", "description")},
        results=told,
        attempts=ended,
        dependents=tuple(sorted(text(one) for one in dependents)),
        dependent_count=count,
        expires_in=timedelta(seconds=expires) if expires >= 0 else None,
    )


# ---- cursors ----------------------------------------------------------------------------------


def cursor_of(kind: str, place: str, beside: str) -> str:
    """What leads on from a place."""
    return urlsafe_b64encode(json.dumps([kind, place, beside]).encode()).decode().rstrip("=")


def place_of(kind: str, cursor: str) -> list[str]:
    """The place that a cursor leads to. Raises ScheduleError for what is none."""
    if not cursor:
        return ["", ""]
    with suppress(ValueError, TypeError, RecursionError):
        known, place, beside = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        form = _PLACE if kind == "queued" else _SCORE
        if known == kind and isinstance(beside, str) and form.fullmatch(place) and beside.encode():
            return [place, beside]
    raise ScheduleError(
        f"cursor: expected the one of a page of {kind} jobs, got {cursor!r}; begin again without it"
    )
