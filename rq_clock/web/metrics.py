"""GET /metrics: the metrics in Prometheus's text format, or in OpenMetrics on request.

The counters live in Redis, so every web process reports the same numbers: scrape one of them. Only
`rq_clock_http_requests_total` counts for each process. docs/metrics.md lists the metrics.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import accumulate
from threading import Lock
from time import monotonic
from typing import TypeAlias, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.model.task import RESULTS, STATES
from rq_clock.settings import Settings
from rq_clock.store.counters import LATE, TICKED, TOOK, WAITED, Bounds, Histogram
from rq_clock.store.store import Store
from rq_clock.store.tasks import LATE_MS
from rq_clock.version import releases
from rq_clock.web.metrics_query import MetricsSnapshot, Single, read

CACHE_SECONDS = 1.0
"""How long one snapshot serves every client."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Labels: TypeAlias = dict[str, str]

router = APIRouter(include_in_schema=False)
_own = CollectorRegistry()
_requests = Counter(
    "rq_clock_http_requests_total",
    "Requests that this web process has answered.",
    ("route", "method", "code"),
    registry=_own,
)


def count_request(route: str, method: str, code: int) -> None:
    """Count an answered request. `route` is the template of its path, empty when it has none. No
    other text from a client becomes a label."""
    method = method if method in METHODS else "other"
    _requests.labels(route or "none", method, str(code)).inc()


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Return the metrics. 503 when Redis cannot be used: a gap is better than old numbers."""
    state = request.app.state
    if not hasattr(state, "metrics"):
        state.metrics = Metrics(state.web.store, state.web.settings)
    accept = request.headers.get("accept", "")
    body, media_type = cast(Metrics, state.metrics).text(accept)
    return Response(body, headers={"content-type": media_type})


class Metrics(Collector):
    """The metrics of a namespace, read and written at most once a second."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._lock = Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their media type. Raises redis-py's RedisError."""
        encode, media_type = choose_encoder(accept)
        with self._lock:
            made, text = self._kept.get(media_type, (float("-inf"), b""))
            if monotonic() - made >= CACHE_SECONDS:
                text = encode(cast(CollectorRegistry, self))
                self._kept[media_type] = monotonic(), text
        return text, media_type

    def collect(self) -> Iterator[Metric]:
        snapshot = read(self._store, self._settings.metrics_schedules)
        yield from _clock(snapshot)
        yield from _totals(snapshot)
        yield from _schedules(snapshot, self._settings.alert_grace)
        yield from _queues(snapshot)
        yield from _callbacks(snapshot.callbacks)
        yield from _own.collect()


# ---- families ---------------------------------------------------------------------------------


def _clock(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    counts, led = snapshot.counts, snapshot.status.led
    instance = snapshot.status.leader.get("instance")
    yield _family("build_info", [(_build(), 1)])
    yield _family("leader_info", [({"clock": instance}, 1)] if instance else [])
    yield _family("last_tick_timestamp_seconds", [({}, led.timestamp())] if led else [])
    yield _family(
        "leader_changes_total", (({"reason": how}, counts.leaders.get(how, 0)) for how in _HOW)
    )
    yield _histogram("tick_duration_seconds", TICKED, [({}, counts.ticked)])
    used = snapshot.memory
    yield _family("redis_memory_used_ratio", [] if used is None else [({}, used)])


def _totals(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    counts, states = snapshot.counts, snapshot.states
    yield _family("schedules", (({"state": state}, n) for state, n in states.items()))
    yield _family("schedules_failing", [({}, snapshot.status.failing_count)])
    fires = {**_FIRES, **counts.fires}
    yield _family(
        "fires_total",
        (({"result": result, "reason": why}, n) for (result, why), n in fires.items()),
    )
    yield _histogram("fire_lateness_seconds", LATE, [({}, counts.late)])
    yield _family(
        "runs_total", (({"status": state}, counts.runs.get(state, 0)) for state in _STATES)
    )
    yield _family(
        "attempts_repeated_total",
        (({"status": state}, counts.again.get(state, 0)) for state in _STATES[1:]),
    )
    yield _histogram("run_duration_seconds", TOOK, [({}, counts.took)])
    yield _histogram("run_wait_seconds", WAITED, [({}, counts.waited)])


def _schedules(snapshot: MetricsSnapshot, grace: int) -> Iterator[Metric]:
    singles, now = snapshot.singles, snapshot.status.now.timestamp()
    rows = [({"schedule": single.name}, single) for single in singles]
    yield _family("schedule_info", ((single.labels, 1) for single in singles if single.labels))

    def gauge(name: str, value: Callable[[Single], float | None]) -> Metric:
        values = ((row, value(single)) for row, single in rows)
        return _family(f"schedule_{name}", ((row, v) for row, v in values if v is not None))

    yield gauge("next_run_timestamp_seconds", lambda s: s.next_run)
    yield gauge("last_slot_timestamp_seconds", lambda s: s.last_slot)
    yield gauge("last_success_timestamp_seconds", lambda s: s.last_success)
    yield gauge("last_failure_timestamp_seconds", lambda s: s.last_failure)
    yield gauge("overdue_seconds", lambda s: max(0.0, now - s.next_run) if s.next_run else 0.0)
    yield gauge("grace_seconds", lambda s: grace)
    yield gauge("paused", lambda s: "paused" in s.states)
    yield gauge("failing", lambda s: "failing" in s.states)
    yield _family(
        "schedule_fires_total",
        (
            ({**row, "result": result, "reason": why}, number)
            for row, single in rows
            for (result, why), number in single.counts.fires.items()
        ),
    )
    yield _family(
        "schedule_runs_total",
        (
            ({**row, "status": state}, single.counts.runs.get(state, 0))
            for row, single in rows
            for state in _STATES
        ),
    )
    ran = [(row, single.counts) for row, single in rows if single.counts.runs]
    yield _histogram("schedule_run_duration_seconds", TOOK, ((row, c.took) for row, c in ran))
    yield _histogram("schedule_run_wait_seconds", WAITED, ((row, c.waited) for row, c in ran))


def _queues(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    jobs, workers = snapshot.jobs.items(), snapshot.workers.items()
    yield _family("rq_jobs", (({"queue": q, "status": status}, n) for (q, status), n in jobs))
    yield _family("rq_workers", (({"state": s, "queues": qs}, n) for (s, qs), n in workers))
    yield _family("rq_queue_workers", (({"queue": q}, n) for q, n in snapshot.served.items()))
    yield _family(
        "rq_queue_oldest_job_age_seconds",
        (({"queue": queue}, seconds) for queue, seconds in snapshot.waiting.items()),
    )


def _callbacks(status: CallbacksStatus) -> Iterator[Metric]:
    counters = status.counters
    yield _family("tasks", (({"status": s}, getattr(status, s)) for s in STATES))
    yield _family("tasks_due", [({}, status.due)])
    yield _family("task_oldest_due_age_seconds", [({}, status.oldest_due_seconds)])
    yield _family("task_dispatchers", [({}, status.dispatchers)])
    yield _family("task_hosts_failing", [({}, len(status.failing_hosts))])
    yield _family("tasks_added_total", [({}, counters.get("added", 0))])
    yield _family("tasks_stale_total", [({}, counters.get("stale", 0))])
    yield _family(
        "task_calls_total",
        (({"result": result}, counters.get(f"called {result}", 0)) for result in RESULTS),
    )
    numbers = [counters.get(f"late {end}", 0) for end in (*LATE_MS, "+Inf")]
    late = Histogram(tuple(accumulate(numbers)), counters.get("late ms", 0) / 1000)
    bounds = tuple(end / 1000 for end in LATE_MS)
    yield _histogram("task_lateness_seconds", bounds, [({}, late)])


_HELP = {
    "rq_clock_build_info": "Versions of this web process.",
    "rq_clock_leader_info": "The clock that leads; absent when none does.",
    "rq_clock_last_tick_timestamp_seconds": "When a clock led last.",
    "rq_clock_leader_changes_total": "Grants of the lease: nobody led, a living "
    "clock was deposed, or taken over by order.",
    "rq_clock_tick_duration_seconds": "Work of the leading clock between two waits.",
    "rq_clock_redis_memory_used_ratio": "The part of Redis's memory that is used; absent when it "
    "has no limit.",
    "rq_clock_schedules": "Schedules by their worst state.",
    "rq_clock_schedules_failing": "Schedules whose newest runs failed.",
    "rq_clock_fires_total": "Fire times that were enqueued, skipped, or could not be "
    "written, with the reason.",
    "rq_clock_fire_lateness_seconds": "From a fire time to its job in the queue.",
    "rq_clock_runs_total": "Runs that ended for good.",
    "rq_clock_attempts_repeated_total": "Attempts whose job went on: it is retried, or its "
    "worker was stopped or died.",
    "rq_clock_run_duration_seconds": "Last attempts of runs.",
    "rq_clock_run_wait_seconds": "Time in the queue before the last attempt.",
    "rq_clock_schedule_info": "A schedule: its kind of trigger, queue, zone, and whether it is "
    "declared in code.",
    "rq_clock_schedule_next_run_timestamp_seconds": "Next fire time.",
    "rq_clock_schedule_last_slot_timestamp_seconds": "Newest decided fire time.",
    "rq_clock_schedule_last_success_timestamp_seconds": "End of the newest success.",
    "rq_clock_schedule_last_failure_timestamp_seconds": "End of the newest failure.",
    "rq_clock_schedule_overdue_seconds": "How long its fire time is undecided.",
    "rq_clock_schedule_grace_seconds": "How long that is no alert.",
    "rq_clock_schedule_paused": "Whether it is paused.",
    "rq_clock_schedule_failing": "Whether its newest runs failed.",
    "rq_clock_schedule_fires_total": "As rq_clock_fires_total.",
    "rq_clock_schedule_runs_total": "As rq_clock_runs_total.",
    "rq_clock_schedule_run_duration_seconds": "As rq_clock_run_duration_seconds.",
    "rq_clock_schedule_run_wait_seconds": "As rq_clock_run_wait_seconds.",
    "rq_clock_tasks": "Tasks of callbacks by status.",
    "rq_clock_tasks_due": "Tasks that are due and not called yet.",
    "rq_clock_task_oldest_due_age_seconds": "How long the task has been due that waits longest; 0 "
    "when none is due.",
    "rq_clock_task_dispatchers": "Living jobs that call tasks.",
    "rq_clock_task_hosts_failing": "Hosts of which the newest call failed.",
    "rq_clock_tasks_added_total": "Tasks that were added.",
    "rq_clock_tasks_stale_total": "Tasks that failed for good.",
    "rq_clock_task_calls_total": "Calls of tasks by result.",
    "rq_clock_task_lateness_seconds": "From a task's instant to its first call.",
    "rq_jobs": "RQ's jobs by queue and status.",
    "rq_workers": "Living workers by state and queues.",
    "rq_queue_workers": "Living workers that serve a queue.",
    "rq_queue_oldest_job_age_seconds": "How long the first job of a queue has waited; 0 when it is "
    "empty.",
}
"""Metric → its help. Above, names are without rq_clock_."""
_HOW = _HOW = ("free", "deposed", "taken-over")
_STATES = ("ok", "failed", "timed_out", "stopped", "interrupted", "lost")
_FIRES = {("enqueued", "schedule"): 0, ("enqueued", "catch_up"): 0, ("error", "write"): 0}
"""Reported from the start at 0: to Prometheus, a series that appears with 1 has not increased."""


def _metric(name: str, kind: str) -> tuple[str, Metric]:
    """Return the full name of a metric, and the metric without samples."""
    full = name if name.startswith("rq_") else f"rq_clock_{name}"
    return full, Metric(full.removesuffix("_total"), _HELP[full], kind)


def _family(name: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a counter if the name ends in "_total", otherwise a gauge."""
    full, family = _metric(name, "counter" if name.endswith("_total") else "gauge")
    for labels, value in samples:
        family.add_sample(full, labels, value)
    return family


def _histogram(name: str, bounds: Bounds, samples: Iterable[tuple[Labels, Histogram]]) -> Metric:
    full, family = _metric(name, "histogram")
    ends = [str(float(bound)) for bound in bounds] + ["+Inf"]
    for labels, histogram in samples:
        for end, number in zip(ends, histogram.cumulative, strict=True):
            family.add_sample(f"{full}_bucket", {**labels, "le": end}, number)
        family.add_sample(f"{full}_sum", labels, histogram.seconds)
        family.add_sample(f"{full}_count", labels, histogram.cumulative[-1])
    return family


@cache
def _build() -> Labels:
    versions = releases()
    own = {name: versions[name] for name in ("version", "rq", "tzdata")}
    return own | {"python": platform.python_version()}
