"""rq-dashboard: its pages and JSON show our worker, its job and the queue."""

from __future__ import annotations

from typing import Any

import pytest
from rq import Queue
from rq_dashboard.cli import make_flask_app
from rq_dashboard.web import setup_rq_connection

from tests.ecosystem import jobs
from tests.ecosystem.conftest import WORKER, Start, finish, served
from tests.helpers import wait_until


@pytest.fixture
def dashboard(redis_url: str) -> Any:
    app = make_flask_app(None, None, None, "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = [redis_url]
    setup_rq_connection(app)
    return app.test_client()


def test_pages_and_json_show_worker_queue_and_jobs(
    dashboard: Any, queue: Queue, start: Start
) -> None:
    worker = start("-c", WORKER)
    name = served(worker)
    good, bad = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.fail, 7)
    finish([good, bad], worker)
    running = queue.enqueue(jobs.count, 60)

    def shown(path: str) -> Any:
        answer = dashboard.get(f"/0/data/{path}.json")
        assert answer.status_code == 200, answer.text
        return answer.json

    def row() -> Any:
        (row,) = shown("workers")["workers"]
        return row if row["state"] == "busy" else None

    busy = wait_until(row, "the busy worker")
    assert (busy["name"], busy["queues"], busy["pid"]) == (name, ["default"], worker.pid)
    assert running.id in str(busy["current_job"])
    (line,) = shown("queues")["queues"]
    registries = ("queued", "started", "finished", "failed")
    counts = {registry: line[f"{registry}_job_registry_count"] for registry in registries[1:]}
    assert counts == {"started": 1, "finished": 1, "failed": 1}
    for job, registry in ((running, "started"), (good, "finished"), (bad, "failed")):
        (listed,) = shown(f"jobs/default/{registry}/8/asc/1")["jobs"]
        assert listed["id"] == job.id
        assert dashboard.get(f"/0/view/job/{job.id}").status_code == 200
        assert shown(f"job/{job.id}")["status"] == job.get_status()
    assert "ValueError: job 7" in shown(f"job/{bad.id}")["exc_info"]
    for page in ("queues", "workers", "jobs"):
        assert dashboard.get(f"/0/view/{page}", follow_redirects=True).status_code == 200
