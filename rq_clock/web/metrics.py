"""GET /metrics: the metrics in Prometheus's text format, or in OpenMetrics on request.

The counters live in Redis, so every web process reports the same numbers: scrape one of them. Only
`rq_clock_http_requests_total` counts for each process. docs/metrics.md lists the metrics.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from functools import cache
from threading import Lock
from time import monotonic
from typing import TypeAlias, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rq_clock.settings import Settings
from rq_clock.store.counters import LATE, TICKED, TOOK, WAITED, Bounds, Histogram
from rq_clock.store.store import Store
from rq_clock.version import releases
from rq_clock.web.metrics_query import MetricsSnapshot, read

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
        """Yield all families, read now."""
        snapshot = read(self._store, self._settings.metrics_schedules)
        yield from _clock(snapshot)
        yield from _totals(snapshot)
        yield from _schedules(snapshot, self._settings.alert_grace)
        yield from _queues(snapshot)
        yield from _own.collect()


# ---- families ---------------------------------------------------------------------------------


def _clock(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    yield _family("rq_clock_build_info", "Versions of this web process.", [(_build(), 1)])
    instance, led = snapshot.status.leader.get("instance"), snapshot.status.led
    yield _family(
        "rq_clock_leader_info",
        "The clock that leads; absent when none does.",
        [({"clock": instance}, 1)] if instance else [],
    )
    yield _family(
        "rq_clock_last_tick_timestamp_seconds",
        "When a clock led last.",
        [({}, led.timestamp())] if led else [],
    )
    counts = snapshot.counts
    yield _family(
        "rq_clock_leader_changes_total",
        "Grants of the lease: nobody led, a living clock was deposed, or taken over by order.",
        (({"reason": how}, counts.leaders.get(how, 0)) for how in _HOW),
    )
    yield _histogram(
        "rq_clock_tick_duration_seconds",
        "Work of the leading clock between two waits.",
        TICKED,
        [({}, counts.ticked)],
    )


def _totals(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    counts = snapshot.counts
    yield _family(
        "rq_clock_schedules",
        "Schedules by their worst state.",
        (({"state": state}, number) for state, number in snapshot.states.items()),
    )
    yield _family(
        "rq_clock_schedules_failing",
        "Schedules whose newest runs failed.",
        [({}, snapshot.status.failing_count)],
    )
    fires = {**_FIRES, **counts.fires}
    yield _family(
        "rq_clock_fires_total",
        "Fire times that were enqueued, skipped, or could not be written, with the reason.",
        (({"result": result, "reason": why}, n) for (result, why), n in fires.items()),
    )
    yield _histogram(
        "rq_clock_fire_lateness_seconds",
        "From a fire time to its job in the queue.",
        LATE,
        [({}, counts.late)],
    )
    yield _family(
        "rq_clock_runs_total",
        "Runs that ended for good.",
        (({"status": state}, counts.runs.get(state, 0)) for state in _STATES),
    )
    yield _family(
        "rq_clock_attempts_repeated_total",
        "Attempts whose job went on: it is retried, or its worker was stopped or died.",
        (({"status": state}, counts.again.get(state, 0)) for state in _STATES[1:]),
    )
    yield _histogram(
        "rq_clock_run_duration_seconds", "Last attempts of runs.", TOOK, [({}, counts.took)]
    )
    yield _histogram(
        "rq_clock_run_wait_seconds",
        "Time in the queue before the last attempt.",
        WAITED,
        [({}, counts.waited)],
    )


def _schedules(snapshot: MetricsSnapshot, grace: int) -> Iterator[Metric]:
    singles, now = snapshot.singles, snapshot.status.now.timestamp()
    rows = [({"schedule": single.name}, single) for single in singles]
    yield _family(
        "rq_clock_schedule_info",
        "A schedule: its kind of trigger, queue, zone, and whether it is declared in code.",
        ((single.labels, 1) for single in singles if single.labels),
    )

    def gauge(name: str, text: str, values: Iterable[float | None]) -> Metric:
        pairs = zip(rows, values, strict=True)
        samples = ((row[0], value) for row, value in pairs if value is not None)
        return _family(f"rq_clock_schedule_{name}", text, samples)

    yield gauge("next_run_timestamp_seconds", "Next fire time.", (s.next_run for s in singles))
    yield gauge("last_slot_timestamp_seconds", "Newest decided fire time.",
                (s.last_slot for s in singles))  # fmt: skip
    yield gauge("last_success_timestamp_seconds", "End of the newest success.",
                (s.last_success for s in singles))  # fmt: skip
    yield gauge("last_failure_timestamp_seconds", "End of the newest failure.",
                (s.last_failure for s in singles))  # fmt: skip
    overdue = (max(0.0, now - s.next_run) if s.next_run else 0.0 for s in singles)
    yield gauge("overdue_seconds", "How long its fire time is undecided.", overdue)
    yield gauge("grace_seconds", "How long that is no alert.", [grace] * len(singles))
    yield gauge("paused", "Whether it is paused.", ("paused" in s.states for s in singles))
    yield gauge("failing", "Whether its newest runs failed.",
                ("failing" in s.states for s in singles))  # fmt: skip
    yield _family(
        "rq_clock_schedule_fires_total",
        "As rq_clock_fires_total.",
        (
            ({**row, "result": result, "reason": why}, number)
            for row, single in rows
            for (result, why), number in single.counts.fires.items()
        ),
    )
    yield _family(
        "rq_clock_schedule_runs_total",
        "As rq_clock_runs_total.",
        (
            ({**row, "status": state}, single.counts.runs.get(state, 0))
            for row, single in rows
            for state in _STATES
        ),
    )
    ran = [(row, single.counts) for row, single in rows if single.counts.runs]
    took, waited = ((row, c.took) for row, c in ran), ((row, c.waited) for row, c in ran)
    yield _histogram("rq_clock_schedule_run_duration_seconds",
                     "As rq_clock_run_duration_seconds.", TOOK, took)  # fmt: skip
    yield _histogram("rq_clock_schedule_run_wait_seconds",
                     "As rq_clock_run_wait_seconds.", WAITED, waited)  # fmt: skip


def _queues(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    yield _family(
        "rq_jobs",
        "RQ's jobs by queue and status.",
        (({"queue": q, "status": status}, n) for (q, status), n in snapshot.jobs.items()),
    )
    yield _family(
        "rq_workers",
        "Living workers by state and queues.",
        (({"state": state, "queues": qs}, n) for (state, qs), n in snapshot.workers.items()),
    )
    yield _family(
        "rq_queue_workers",
        "Living workers that serve a queue.",
        (({"queue": queue}, n) for queue, n in snapshot.served.items()),
    )
    yield _family(
        "rq_queue_oldest_job_age_seconds",
        "How long the first job of a queue has waited; 0 when it is empty.",
        (({"queue": queue}, seconds) for queue, seconds in snapshot.waiting.items()),
    )


_HOW = ("free", "deposed", "taken-over")
_STATES = ("ok", "failed", "timed_out", "stopped", "interrupted", "lost")
_FIRES = {("enqueued", "schedule"): 0, ("enqueued", "catch_up"): 0, ("error", "write"): 0}
"""Reported from the start at 0: to Prometheus, a series that appears with 1 has not increased."""


def _family(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a counter if the name ends in "_total", otherwise a gauge."""
    stem = name.removesuffix("_total")
    family = Metric(stem, text, "gauge" if stem == name else "counter")
    for labels, value in samples:
        family.add_sample(name, labels, value)
    return family


def _histogram(
    name: str, text: str, bounds: Bounds, samples: Iterable[tuple[Labels, Histogram]]
) -> Metric:
    family = Metric(name, text, "histogram")
    ends = [str(float(bound)) for bound in bounds] + ["+Inf"]
    for labels, histogram in samples:
        for end, number in zip(ends, histogram.cumulative, strict=True):
            family.add_sample(f"{name}_bucket", {**labels, "le": end}, number)
        family.add_sample(f"{name}_sum", labels, histogram.seconds)
        family.add_sample(f"{name}_count", labels, histogram.cumulative[-1])
    return family


@cache
def _build() -> Labels:
    versions = releases()
    own = {name: versions[name] for name in ("version", "rq", "tzdata")}
    return own | {"python": platform.python_version()}
