"""Sentry's SDK with its RQ integration: every event and trace arrives, through restarts too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
from rq import Queue

from tests.ecosystem import jobs
from tests.ecosystem.conftest import Start, run_through_restarts, served
from tests.helpers import wait_until
from tests.process import Process
from tests.recorder import Recorder

WORKER = """
import os
import sentry_sdk
from sentry_sdk.integrations.rq import RqIntegration
from rq_clock import run_worker

sentry_sdk.init(
    os.environ["DSN"], integrations=[RqIntegration()],
    traces_sample_rate=float(os.environ.get("TRACES", "0")),
)
run_worker(max_jobs=int(os.environ.get("MAX_JOBS", "0")) or None)
"""
MODES = pytest.mark.parametrize("horse_jobs", ["1", "100"], ids=["isolated", "shared"])


@pytest.fixture
def worker(start: Start, receiver: Recorder, horse_jobs: str) -> Callable[..., Process]:
    dsn = receiver.url.replace("//", "//key@") + "/1"

    def worker(**env: str) -> Process:
        return start("-c", WORKER, DSN=dsn, RQ_CLOCK_HORSE_JOBS=horse_jobs, **env)

    return worker


def received(receiver: Recorder, kind: str) -> Counter[str]:
    """Count what has arrived of an item's kind, by the id of the job."""
    found = Counter[str]()
    for request in list(receiver.seen):
        lines = request["body"].splitlines()[1:]  # the first is of the envelope
        for head, body in zip(lines[::2], lines[1::2], strict=True):
            if json.loads(head)["type"] == kind:
                found[json.loads(body)["extra"]["rq-job"]["job_id"]] += 1
    return found


@pytest.mark.parametrize("horse_jobs", ["1"])  # a job that fails ends its process anyway
def test_each_of_100_failures_is_reported_once_through_restarts(
    queue: Queue, receiver: Recorder, worker: Callable[..., Process]
) -> None:
    ids = run_through_restarts(worker, lambda n: queue.enqueue(jobs.fail, n))
    assert received(receiver, "event") == ids


@MODES
def test_each_of_100_traces_arrives_once_through_restarts(
    queue: Queue, receiver: Recorder, worker: Callable[..., Process]
) -> None:
    ids = run_through_restarts(lambda: worker(TRACES="1"), lambda n: queue.enqueue(jobs.add, n, 1))
    assert received(receiver, "transaction") == ids


@MODES
def test_the_last_job_of_a_worker_is_reported(
    queue: Queue, receiver: Recorder, worker: Callable[..., Process]
) -> None:
    one = queue.enqueue(jobs.fail, 1)
    assert worker(MAX_JOBS="1").ended() == 0
    assert received(receiver, "event") == Counter([one.id])
    process = worker()
    served(process)
    last = queue.enqueue(jobs.fail, 2)
    wait_until(lambda: last.get_status() == "failed", "the last job")
    assert process.end() == 0
    assert received(receiver, "event") == Counter([one.id, last.id])
