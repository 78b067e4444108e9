"""Views of runs and backfills. Pure.

They need neither RQ nor Redis, so that commands start fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rq_clock.model.decision import Skip
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import RUN_STATES, Invalid, LedgerEntry, Lost, instant_of
from rq_clock.model.view import View, doc
from rq_clock.timing.triggers import MANY

if TYPE_CHECKING:
    from rq_clock.schedules.backfill import Preview
    from rq_clock.store.backfills import Backfill

_MS = timedelta(milliseconds=1)


# ---- runs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView(View):
    """The outcome of a fire time."""

    schedule: str
    fire_time: datetime
    state: str = field(metadata=doc(enum=RUN_STATES))
    reason: str | None = field(default=None, metadata=doc("Why it was enqueued, or skipped."))
    count: int | None = field(default=None, metadata=doc("Fire times that this entry stands for."))
    lag_ms: float | None = None
    attempt: int | None = None
    started: datetime | None = None
    ended: datetime | None = None
    took_ms: float | None = None
    worker: str | None = None
    error: str | None = None
    job: str | None = field(default=None, metadata=doc("The id of its job, when known."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStartedView(View):
    """A run that was enqueued."""

    job: str
    schedule: str | None


def run_view(schedule: str, entry: LedgerEntry, namespace: str, job: str | None = None) -> RunView:
    """Return the outcome of a fire time.

    A ledger has no job id of a manual run or of a backfill; pass it when it is known.
    """
    row: dict[str, Any] = {"schedule": schedule, "fire_time": instant_of(entry)}
    if isinstance(entry, Skip):
        error = entry.error if isinstance(entry, Invalid) else None
        return RunView(**row, state="skipped", reason=entry.reason, count=entry.count, error=error)
    if isinstance(entry, Lost):
        return RunView(**row, state="lost", error="the job vanished", job=entry.job_id)
    if job is None and entry.reason in ("schedule", "catch_up"):
        job = str(JobId(namespace, schedule, entry.fire_time))
    row |= {"reason": entry.reason, "job": job, "lag_ms": milliseconds(entry.lag)}
    if (attempt := entry.attempt) is None:
        return RunView(**row, state="waiting")
    return RunView(
        **row,
        state=attempt.state,
        attempt=attempt.number,
        started=attempt.started,
        ended=attempt.ended,
        took_ms=milliseconds(attempt.ended - attempt.started),
        worker=attempt.worker,
        error=attempt.error or None,
    )


def milliseconds(span: timedelta | None) -> float | None:
    return None if span is None else span / _MS


# ---- backfills --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillView(View):
    """A backfill: past fire times that the clock enqueues."""

    id: str
    schedule: str
    state: str = field(metadata=doc(enum=("running", "done", "canceled")))
    start: datetime = field(metadata=doc(alias="from"))
    end: datetime = field(metadata=doc(alias="to"))
    at_once: int = field(metadata=doc("Concurrent runs."))
    total: int = field(metadata=doc(f"All fire times; from {MANY:,} on there may be more."))
    enqueued: int
    skipped: int
    cursor: datetime | None
    jobs: Sequence[str] = field(metadata=doc("Those that may still run."))
    by: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPreviewView(View):
    """The runs that a backfill would enqueue."""

    schedule: str
    start: datetime = field(metadata=doc(alias="from"))
    end: datetime = field(metadata=doc(alias="to"))
    first: datetime | None
    last: datetime | None
    count: int
    at_least: bool = field(metadata=doc("Whether there are more than were counted."))
    left_out: int = field(metadata=doc("Fire times that ran already."))


def backfill_view(backfill: Backfill) -> BackfillView:
    return BackfillView(**{f.name: getattr(backfill, f.name) for f in fields(BackfillView)})


def backfill_preview_view(schedule: str, preview: Preview) -> BackfillPreviewView:
    return BackfillPreviewView(
        schedule=schedule,
        start=preview.start,
        end=preview.end,
        first=preview.first,
        last=preview.last,
        count=preview.count,
        at_least=preview.count >= MANY,
        left_out=len(preview.left_out),
    )
