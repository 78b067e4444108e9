"""rq-exporter: its metrics count our worker and its jobs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from redis import Redis
from rq import Queue
from rq_exporter.collector import RQCollector

from tests.ecosystem import jobs
from tests.ecosystem.conftest import WORKER, Start, finish, metrics, served
from tests.helpers import wait_until


def test_metrics_count_worker_and_jobs(connection: Redis, queue: Queue, start: Start) -> None:
    worker = start("-c", WORKER)
    name = served(worker)
    registry = CollectorRegistry()
    registry.register(RQCollector(connection))
    finish([*(queue.enqueue(jobs.add, n, 1) for n in range(3)), queue.enqueue(jobs.fail, 1)])
    queue.enqueue(jobs.count, 60)

    def page() -> dict[str, float]:
        return metrics(generate_latest(registry).decode())

    state = f'rq_workers{{name="{name}",queues="default",state="busy"}}'
    wait_until(lambda: page().get(state) == 1.0, "the busy worker")
    found, labels = page(), f'{{name="{name}",queues="default"}}'
    assert found[f"rq_workers_success_total{labels}"] == 3
    assert found[f"rq_workers_failed_total{labels}"] == 1
    assert found[f"rq_workers_working_time_total{labels}"] > 0
    for status, count in (("finished", 3), ("failed", 1), ("started", 1), ("queued", 0)):
        assert found[f'rq_jobs{{queue="default",status="{status}"}}'] == count
