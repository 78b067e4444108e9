"""The log lines, counts and lags of a leader's commits.

Each run has a line of its own, unless many come together: of a burst, the commits between two waits
of the clock, the first LINES have one, and the others are summed up in a line for each reason.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from rq_clock.log import log_event
from rq_clock.model.decision import is_on_time
from rq_clock.store.commit import CommitResult, Planned
from rq_clock.store.counters import Counters
from rq_clock.store.store import Store

LINES = 30
"""Runs, or skips, of one burst that have a line each."""
BURST_SECONDS = 10.0
"""A burst that goes on is summed up this often."""
_MS = timedelta(milliseconds=1)


@dataclass(slots=True)
class _Sum:
    """What has no line of its own, of one event and reason."""

    first: datetime
    last: datetime
    count: int = 0
    least_lag: float = float("inf")
    greatest_lag: float = 0.0


class CommitLog:
    """The commits under one lease."""

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._enqueued = 0
        self._lags: deque[float] = deque(maxlen=1000)
        """Of the newest on-time runs, in ms."""
        self._lines = 0
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._summed_at: datetime | None = None

    def record(self, answer: CommitResult) -> None:
        self._log(answer)
        self._count(answer.planned, answer.kind, answer.at)

    def _log(self, answer: CommitResult) -> None:
        plan = answer.planned
        schedule = plan.entry.schedule
        assert schedule is not None
        for skip in plan.decision.skips:
            if self._has_line():
                log_event("run.skipped", schedule=schedule.name, **asdict(skip))
            else:
                self._sum("runs.skipped", skip.reason, skip.first, skip.last, skip.count)
        for fire_time, job_id in zip(plan.decision.fire_times, plan.job_ids, strict=True):
            if answer.kind == "overlap":
                if self._has_line():
                    log_event(
                        "run.skipped",
                        schedule=schedule.name,
                        reason="overlap",
                        fire_time=fire_time,
                        running=answer.detail,
                    )
                else:
                    self._sum("runs.skipped", "overlap", fire_time, fire_time)
                continue
            late = answer.at - fire_time if answer.kind == "ok" else timedelta(0)
            lag = max(late / _MS, 0.0)
            self._enqueued += 1
            on_time = is_on_time(fire_time, plan.decided_at)
            if on_time:
                self._lags.append(lag)
            reason = "schedule" if on_time else "catch_up"
            if self._has_line():
                log_event(
                    "run.enqueued",
                    schedule=schedule.name,
                    fire_time=fire_time,
                    reason=reason,
                    queue=schedule.queue,
                    lag_ms=f"{lag:.0f}",
                    job=job_id,
                )
            else:
                self._sum("runs.enqueued", reason, fire_time, fire_time, lag=lag)

    def _has_line(self) -> bool:
        """Return whether the next of a burst has a line of its own."""
        self._lines += 1
        return self._lines <= LINES

    def _sum(
        self, event: str, reason: str, first: datetime, last: datetime, count: int = 1,
        *, lag: float = 0.0,
    ) -> None:  # fmt: skip
        """Add to the sum of an event and reason."""
        found = self._sums.get((event, reason))
        if found is None:
            found = self._sums[event, reason] = _Sum(first, last)
        found.first, found.last = min(found.first, first), max(found.last, last)
        found.count += count
        found.least_lag = min(found.least_lag, lag)
        found.greatest_lag = max(found.greatest_lag, lag)

    def sum_up(self, now: datetime, *, over: bool) -> None:
        """Log the sums of a burst, when it is over or has gone on for BURST_SECONDS."""
        if over:
            self._lines = 0
        if not self._sums:
            return
        self._summed_at = self._summed_at or now
        if not over and timedelta(0) <= now - self._summed_at < timedelta(seconds=BURST_SECONDS):
            return
        for (event, reason), found in self._sums.items():
            fields: dict[str, Any] = {
                "count": found.count,
                "first": found.first,
                "last": found.last,
            }
            if event == "runs.enqueued":
                fields["lag_ms"] = f"{found.least_lag:.0f}-{found.greatest_lag:.0f}"
            log_event(event, reason=reason, **fields)
        self._sums, self._summed_at = {}, None

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
        over = plan.decision.over and not plan.entry.declared
        name, at = "" if over else plan.entry.name, at if kind == "ok" else None
        self._counters.decided(name, plan.decision, plan.decided_at, at, overlap=kind == "overlap")
