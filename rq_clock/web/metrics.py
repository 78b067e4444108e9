"""GET /metrics: the figures in Prometheus's text format, or in OpenMetrics for who prefers that.

What is counted lives in Redis, so every web process tells the same numbers: scrape one of them.
Only `rq_clock_http_requests_total` is of this very process. docs/metrics.md says what each is.

The text of what comes from Redis is made here and not by prometheus-client: for 500 schedules,
20,000 lines, that takes it 0.1 s, most of it for names and labels that are the same over and over.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from threading import Lock
from time import monotonic
from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

from rq_clock.settings import Settings
from rq_clock.store.counters import LATE, TICKED, TOOK, WAITED, Bounds, Histogram
from rq_clock.store.store import Store
from rq_clock.version import releases
from rq_clock.web.metrics_query import MetricsSnapshot, Single, read

CACHE_SECONDS = 1.0
"""For so long one reading serves all who ask."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Labels = Mapping[str, str]
Sample = tuple[str, float]
"""Labels as they are written, and a value."""

router = APIRouter(include_in_schema=False)
_own = CollectorRegistry()
_requests = Counter(
    "rq_clock_http_requests_total",
    "Requests that this web process has answered.",
    ("route", "method", "code"),
    registry=_own,
)


def count_request(route: str, method: str, code: int) -> None:
    """Count an answered request. `route` is the template of its path, empty when it has none; what
    callers make up becomes no label."""
    method = method if method in METHODS else "other"
    _requests.labels(route or "none", method, str(code)).inc()


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """The metrics. 503 when Redis cannot be used: a gap says more than old numbers."""
    state = request.app.state
    if not hasattr(state, "metrics"):
        state.metrics = Metrics(state.web.store, state.web.settings)
    accept = request.headers.get("accept", "")
    body, media_type = cast(Metrics, state.metrics).told(accept)
    return Response(body, headers={"content-type": media_type})


class Metrics:
    """The metrics of a namespace, read at most once a second."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._lock = Lock()
        self._kept: dict[bool, tuple[float, bytes]] = {}

    def told(self, accept: str) -> tuple[bytes, str]:
        """All there is, and its media type. Raises redis-py's RedisError."""
        encode, media_type = choose_encoder(accept)
        openmetrics = media_type.startswith("application/openmetrics-text")
        with self._lock:
            made, text = self._kept.get(openmetrics, (float("-inf"), b""))
            if monotonic() - made >= CACHE_SECONDS:
                text = collect(self._store, self._settings, openmetrics=openmetrics)
                self._kept[openmetrics] = monotonic(), text
        return text + encode(_own), media_type  # the last one also writes OpenMetrics's end


def collect(store: Store, settings: Settings, *, openmetrics: bool = False) -> bytes:
    """What comes from Redis, as text. Three round trips. Raises redis-py's RedisError."""
    figures = read(store, settings.metrics_schedules)
    page = _Page(openmetrics=openmetrics)
    _tell_clock(page, figures)
    _tell_all(page, figures)
    _tell_singles(page, figures, settings.alert_grace)
    _tell_queues(page, figures)
    return page.text.encode()


# ---- what is told -----------------------------------------------------------------------------


def _tell_clock(page: _Page, figures: MetricsSnapshot) -> None:
    page.gauge("rq_clock_build_info", "Versions of this web process.", [(_build(), 1)])
    leader = [(_labels(clock=figures.leader), 1.0)] if figures.leader else []
    page.gauge("rq_clock_leader_info", "The clock that leads; absent when none does.", leader)
    page.gauge(
        "rq_clock_last_tick_timestamp_seconds",
        "When a leading clock was heard of last.",
        [] if figures.led is None else [("", figures.led)],
    )
    counts = figures.counts
    page.counter(
        "rq_clock_leader_changes_total",
        "Grants of the lease: nobody led, a living clock was deposed, or taken over by order.",
        ((_labels(reason=how), counts.leaders.get(how, 0)) for how in _HOW),
    )
    page.histogram(
        "rq_clock_tick_duration_seconds",
        "What the leading clock had to do between two waits.",
        TICKED,
        [("", counts.ticked)],
    )


def _tell_all(page: _Page, figures: MetricsSnapshot) -> None:
    counts = figures.counts
    page.gauge(
        "rq_clock_schedules",
        "Schedules by state.",
        ((_labels(state=state), number) for state, number in figures.states.items()),
    )
    page.gauge(
        "rq_clock_schedules_failing",
        "Schedules whose newest runs failed.",
        [("", figures.failing)],
    )
    page.counter(
        "rq_clock_fires_total",
        "Fire times that were enqueued, skipped, or could not be written; and why.",
        ((_labels(result=r, reason=why), n) for (r, why), n in {**_FIRES, **counts.fires}.items()),
    )
    page.histogram(
        "rq_clock_fire_lateness_seconds",
        "From a fire time to its job in the queue.",
        LATE,
        [("", counts.late)],
    )
    page.counter(
        "rq_clock_runs_total",
        "Runs that ended for good.",
        ((_labels(status=state), counts.runs.get(state, 0)) for state in _STATES),
    )
    page.counter(
        "rq_clock_attempts_repeated_total",
        "Attempts whose job went on: it is retried, or its worker was stopped or died.",
        ((_labels(status=state), counts.again.get(state, 0)) for state in _STATES[1:]),
    )
    page.histogram(
        "rq_clock_run_duration_seconds", "What runs took: their last attempt.", TOOK,
        [("", counts.took)],
    )  # fmt: skip
    page.histogram(
        "rq_clock_run_wait_seconds", "What runs waited for a worker before that.", WAITED,
        [("", counts.waited)],
    )  # fmt: skip


def _tell_singles(page: _Page, figures: MetricsSnapshot, grace: int) -> None:
    rows = [(f'schedule="{single.name}"', single) for single in figures.singles]
    page.gauge(
        "rq_clock_schedule_info",
        "A schedule: its rule of time, queue, zone, and whether it comes from code.",
        ((_described(single), 1) for _, single in rows if single.described),
    )

    def gauge(name: str, text: str, values: Iterable[float | None]) -> None:
        pairs = zip(rows, values, strict=True)
        page.gauge(
            f"rq_clock_schedule_{name}", text, ((row[0], v) for row, v in pairs if v is not None)
        )

    now = figures.now
    told = figures.singles
    gauge("next_run_timestamp_seconds", "Its next fire time.", [s.next_run for s in told])
    gauge("last_slot_timestamp_seconds", "Its newest decided one.", [s.last_slot for s in told])
    gauge("last_success_timestamp_seconds", "Its newest one's end.", [s.last_success for s in told])
    gauge("last_failure_timestamp_seconds", "Its newest one's end.", [s.last_failure for s in told])
    gauge(
        "overdue_seconds",
        "For how long its fire time has passed without a decision.",
        [max(0.0, now - s.next_run) if s.next_run else 0.0 for s in told],
    )
    gauge("grace_seconds", "For how long that is no alert.", [grace] * len(told))
    gauge("paused", "Whether it is paused.", [int("paused" in s.states) for s in told])
    gauge("failing", "Whether its newest runs failed.", [int("failing" in s.states) for s in told])
    page.counter(
        "rq_clock_schedule_fires_total",
        "As rq_clock_fires_total.",
        (
            (f'{row},result="{result}",reason="{why}"', number)
            for row, single in rows
            for (result, why), number in single.counts.fires.items()
        ),
    )
    page.counter(
        "rq_clock_schedule_runs_total",
        "As rq_clock_runs_total.",
        (
            (f'{row},status="{state}"', single.counts.runs.get(state, 0))
            for row, single in rows
            for state in _STATES
        ),
    )
    ran = [(row, single.counts) for row, single in rows if single.counts.runs]
    page.histogram(
        "rq_clock_schedule_run_duration_seconds", "As rq_clock_run_duration_seconds.", TOOK,
        ((row, counts.took) for row, counts in ran),
    )  # fmt: skip
    page.histogram(
        "rq_clock_schedule_run_wait_seconds", "As rq_clock_run_wait_seconds.", WAITED,
        ((row, counts.waited) for row, counts in ran),
    )  # fmt: skip


def _tell_queues(page: _Page, figures: MetricsSnapshot) -> None:
    page.gauge(
        "rq_jobs",
        "RQ's jobs by queue and status.",
        ((_labels(queue=q, status=status), n) for (q, status), n in figures.jobs.items()),
    )
    page.gauge(
        "rq_workers",
        "Living workers by state and queues.",
        ((_labels(state=state, queues=qs), n) for (state, qs), n in figures.workers.items()),
    )
    page.gauge(
        "rq_queue_workers",
        "Living workers that serve a queue.",
        ((_labels(queue=queue), n) for queue, n in figures.served.items()),
    )
    page.gauge(
        "rq_queue_oldest_job_age_seconds",
        "For how long the first job of a queue has waited; 0 when it is empty.",
        ((_labels(queue=queue), seconds) for queue, seconds in figures.waiting.items()),
    )


_HOW = ("free", "deposed", "taken-over")
_STATES = ("ok", "failed", "timed_out", "stopped", "interrupted", "lost")
_FIRES = {("enqueued", "schedule"): 0, ("enqueued", "catch_up"): 0, ("error", "write"): 0}
"""Told from the start, at 0: what appears with a count of 1 is no increase to Prometheus."""


# ---- how it is written ------------------------------------------------------------------------


class _Page:
    """The text of one exposition."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def gauge(self, name: str, text: str, samples: Iterable[Sample]) -> None:
        self._head(name, "gauge", text)
        self._write(name, samples)

    def counter(self, name: str, text: str, samples: Iterable[Sample]) -> None:
        family = name.removesuffix("_total") if self._openmetrics else name
        self._head(family, "counter", text)
        self._write(name, samples)

    def histogram(
        self, name: str, text: str, bounds: Bounds, samples: Iterable[tuple[str, Histogram]]
    ) -> None:
        self._head(name, "histogram", text)
        ends = [f'le="{float(bound)}"}} ' for bound in bounds] + ['le="+Inf"} ']
        lines = self._lines
        for labels, histogram in samples:
            start = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
            pairs = zip(ends, histogram.cumulative, strict=True)
            lines += [f"{start}{end}{number}\n" for end, number in pairs]
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{name}_sum{braced} {histogram.seconds}\n")
            lines.append(f"{name}_count{braced} {histogram.cumulative[-1]}\n")

    def _head(self, name: str, kind: str, text: str) -> None:
        self._lines.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")

    def _write(self, name: str, samples: Iterable[Sample]) -> None:
        self._lines += [
            f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"
            for labels, value in samples
        ]


def _labels(**values: str) -> str:
    """Labels as both formats write them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _described(single: Single) -> str:
    said = single.described
    assert said
    return _labels(
        schedule=single.name,
        kind=said.kind,
        queue=said.queue,
        timezone=said.zone,
        origin="declared" if single.declared else "run-time",
    )


@cache
def _build() -> str:
    said = releases()
    return _labels(
        version=said["version"],
        python=platform.python_version(),
        rq=said["rq"],
        tzdata=said["tzdata"],
    )
