"""The facts of its run for a task: `current_run()`.

Imported by workers, so it imports nothing of the clock. The facts travel in the job's meta, where
the stock RQ worker and RQ's own tools see them too:

    job.meta["rq_clock"] = {"schedule": …, "fire_time": ISO 8601 UTC, "reason": …}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """One fire time's run. `fire_time` is the nominal instant (aware, UTC) that the trigger
    named; with the schedule's name it makes an idempotency key, since RQ runs a job at least
    once. `reason` is schedule, catch_up, manual or backfill.

    From rq-clock's worker also: `attempt`, 1 for the first execution of the job and one more for
    each after an interruption, a retry or a worker's death; `previous`, the newest fire time of
    the schedule that had succeeded when this attempt began, None when none has: this run
    processes the data of (previous, fire_time]; `requeued`, how often somebody has requeued the
    job after it had failed, was stopped or canceled.
    """

    schedule: str
    fire_time: datetime
    reason: str
    attempt: int = 1
    previous: datetime | None = None
    requeued: int = 0

    @property
    def stopping(self) -> bool:
        """Whether the worker has to end. A task that checks it now and then can leave early by
        raising `Interrupted`; another one gets RQ_CLOCK_GRACE_SECONDS to finish."""
        return stopping()


_running: ContextVar[Run | None] = ContextVar("rq_clock_run", default=None)
_in_worker: ContextVar[bool] = ContextVar("rq_clock_in_worker", default=False)


def _never() -> bool:
    return False


_stopping: Callable[[], bool] = _never


def current_run() -> Run | None:
    """Return the run that this code is part of; None outside of one (a job that no schedule
    made)."""
    run = _running.get()
    if run is not None:
        return run
    from rq import get_current_job

    job = get_current_job()
    return from_meta(job.meta) if job else None


def from_meta(meta: Mapping[str, Any]) -> Run | None:
    """Return the run that a job's meta describes; None for a job that no schedule made, which may
    still name a group there."""
    facts = meta.get("rq_clock") or {}
    if "schedule" not in facts:
        return None
    return Run(facts["schedule"], datetime.fromisoformat(facts["fire_time"]), facts["reason"])


def allowed_targets(meta: Mapping[str, Any]) -> list[str] | None:
    """Return the functions that a run may call, as patterns; None for any."""
    facts = meta.get("rq_clock")
    allowed = facts.get("allowed_targets") if isinstance(facts, dict) else None
    return None if allowed is None else [str(pattern) for pattern in allowed]


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """Within this block the code is part of `run`; for tests of tasks, and for the worker."""
    token = _running.set(run)
    try:
        with worker_code():
            yield
    finally:
        _running.reset(token)


@contextmanager
def worker_code() -> Iterator[None]:
    """Within this block the app's code runs in a worker, which starts no clock beside its jobs."""
    token = _in_worker.set(True)
    try:
        yield
    finally:
        _in_worker.reset(token)


def in_worker() -> bool:
    """Return whether this code is a job, or prepares a worker for its jobs."""
    return _in_worker.get()


def stopping() -> bool:
    """Return whether this process has to end; for code that may not be part of a run."""
    return _stopping()


def obey(decide: Callable[[], bool]) -> None:
    """Let `stopping` return what `decide` returns; for a work horse, whose worker decides it."""
    global _stopping
    _stopping = decide


def stop() -> None:
    """Let `stopping` be true from now on; for tests of tasks."""
    obey(lambda: True)
