"""Views of jobs, queues and workers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from rq_clock.jobs.records import JobView, QueueView
from rq_clock.model.ledger import RUN_STATES, Enqueued
from rq_clock.model.view import View, doc
from rq_clock.serializers.runs import milliseconds

if TYPE_CHECKING:
    from rq_clock.jobs.executions import Ended
    from rq_clock.jobs.records import JobDetail, WorkerView

_REASONS = {"m": "manual", "b": "backfill"}


# ---- jobs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView(View):
    """An ended attempt."""

    number: int | None
    state: str = field(metadata=doc(enum=RUN_STATES))
    started: datetime | None
    ended: datetime | None
    took_ms: float | None
    worker: str | None
    error: str | None
    again: Literal["front", "queue", "later"] | None = field(
        metadata=doc("Where its job went: to the front or the end of its queue, or to a retry.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetailView(JobView):
    """A run, or any other job, with its attempts and its result."""

    reason: str | None
    lag_ms: float | None
    attempts: list[AttemptView]
    traceback: str | None
    result: str | None = field(metadata=doc("As JSON; null when there is none that can be shown."))
    dependents: Sequence[str]
    forgotten_in_seconds: float | None = field(metadata=doc("Null when RQ keeps it."))


def job_detail_view(found: JobDetail) -> JobDetailView:
    """Return all that is known of a job."""
    run, attempts = found.job.run, [_attempt(ended) for ended in found.attempts]
    entries = [e.entry for e in found.attempts if isinstance(e.entry, Enqueued)]
    first = entries[0] if entries else None
    errors = [attempt.error for attempt in attempts if attempt.error]
    return JobDetailView(**_fields(found.job) | {
        "error": found.job.error or (errors[-1] if errors else None),
        "reason": first.reason if first else _REASONS.get(run.kind) if run else None,
        "lag_ms": milliseconds(first.lag) if first else None,
        "attempts": attempts,
        "traceback": found.trace or None,
        "result": next((result.value for result in found.results if result.value), None),
        "dependents": found.dependents,
        "forgotten_in_seconds": found.expires_in.total_seconds() if found.expires_in else None,
    })  # fmt: skip


def _attempt(ended: Ended) -> AttemptView:
    attempt = ended.entry.attempt if isinstance(ended.entry, Enqueued) else None
    return AttemptView(
        number=attempt.number if attempt else None,
        state=attempt.state if attempt else "lost",
        started=attempt.started if attempt else None,
        ended=attempt.ended if attempt else None,
        took_ms=milliseconds(attempt.ended - attempt.started) if attempt else None,
        worker=attempt.worker if attempt else None,
        error=(attempt.error or None) if attempt else None,
        again=cast(Any, ended.again or None),
    )


# ---- queues and workers -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDetailView(QueueView):
    """A queue and the workers that serve it."""

    served_by: list[str]


def queue_detail_view(queue: QueueView, workers: Sequence[WorkerView]) -> QueueDetailView:
    """Return a queue with those of the workers that serve it."""
    serving = [worker.name for worker in workers if queue.name in worker.queues]
    return QueueDetailView(**_fields(queue), served_by=serving)


def _fields(view: JobView | QueueView) -> dict[str, Any]:
    return {f.name: getattr(view, f.name) for f in fields(view)}
