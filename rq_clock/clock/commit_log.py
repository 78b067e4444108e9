"""The log lines, counts and lags of a leader's commits."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from datetime import datetime, timedelta

from rq_clock.log import log_event
from rq_clock.model.decision import is_on_time
from rq_clock.store.commit import CommitResult, Planned
from rq_clock.store.counters import Counters
from rq_clock.store.store import Store


class CommitLog:
    """The commits under one lease."""

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._enqueued = 0
        self._lags: deque[float] = deque(maxlen=1000)
        """Of the newest on-time runs, in ms."""

    def record(self, answer: CommitResult) -> None:
        self._log(answer)
        self._count(answer.planned, answer.kind, answer.at)

    def _log(self, answer: CommitResult) -> None:
        plan = answer.planned
        schedule = plan.entry.schedule
        assert schedule is not None
        for skip in plan.decision.skips:
            log_event("run.skipped", schedule=schedule.name, **asdict(skip))
        for fire_time, job_id in zip(plan.decision.fire_times, plan.job_ids, strict=True):
            if answer.kind == "overlap":
                log_event(
                    "run.skipped",
                    schedule=schedule.name,
                    reason="overlap",
                    fire_time=fire_time,
                    running=answer.detail,
                )
                continue
            late = answer.at - fire_time if answer.kind == "ok" else timedelta(0)
            lag = max(late / timedelta(milliseconds=1), 0.0)
            self._enqueued += 1
            on_time = is_on_time(fire_time, plan.decided_at)
            if on_time:
                self._lags.append(lag)
            log_event(
                "run.enqueued",
                schedule=schedule.name,
                fire_time=fire_time,
                reason="schedule" if on_time else "catch_up",
                queue=schedule.queue,
                lag_ms=f"{lag:.0f}",
                job=job_id,
            )

    def confirm(self, planned: list[Planned]) -> None:
        """Log and count those of these that were committed although no answer came: to be called
        after a lost connection."""
        states, _ = self._store.load([plan.entry.name for plan in planned])
        for plan in planned:
            entry = states.get(plan.entry.name)
            if entry and entry.marker == plan.decision.marker and entry.last_job in plan.job_ids:
                self._count(plan, "stale")
                log_event(
                    "run.confirmed", schedule=entry.name, fire_time=entry.marker, job=entry.last_job
                )

    def facts(self) -> dict[str, str]:
        """Return how many runs were enqueued, and the lag of the newest on-time ones."""
        enqueued = {"enqueued": str(self._enqueued)}
        lags = sorted(self._lags)
        if not lags:
            return enqueued
        p50, p99 = lags[len(lags) // 2], lags[min(len(lags) - 1, len(lags) * 99 // 100)]
        return {
            **enqueued,
            "lag_p50_ms": f"{p50:.0f}",
            "lag_p99_ms": f"{p99:.0f}",
            "lag_max_ms": f"{lags[-1]:.0f}",
        }

    def _count(self, plan: Planned, kind: str, at: datetime | None = None) -> None:
        over = plan.decision.next is None and not plan.entry.declared
        name, at = "" if over else plan.entry.name, at if kind == "ok" else None
        self._counters.decided(name, plan.decision, plan.decided_at, at, overlap=kind == "overlap")
