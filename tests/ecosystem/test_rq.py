"""RQ itself: its worker beside ours on one queue, and `rq info`."""

from __future__ import annotations

import re
import signal
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from rq import Queue
from rq.cli.cli import main
from rq.command import send_stop_job_command
from rq.job import Job

from tests.ecosystem import jobs
from tests.ecosystem.conftest import WORKER, Start, finish, served
from tests.helpers import wait_until
from tests.process import Process


@pytest.fixture
def ours(start: Start) -> Process:
    return start("-c", WORKER, RQ_CLOCK_WORKER_SILENCE="5", DYNO="worker.1")


@pytest.fixture
def stock(start: Start) -> Process:
    return start("-m", "rq.cli", "worker", "--name", "stock", "default")


def counts(connection: Redis, key: str) -> Counter[str]:
    found: Any = connection.hgetall(key)
    return Counter({id.decode(): int(times) for id, times in found.items()})


class TestBesideAStockWorker:
    def test_each_of_200_jobs_runs_once_and_both_take_their_share(
        self, queue: Queue, connection: Redis, ours: Process, stock: Process
    ) -> None:
        served(ours)
        wait_until(lambda: "Listening on" in stock.text(), "the stock worker")
        done = [queue.enqueue(jobs.count, 0.01) for _ in range(200)]
        finish(done, ours, stock)
        once = Counter(job.id for job in done)
        assert counts(connection, "started") == once
        assert counts(connection, "ended") == once
        shares = Counter(job.return_value() == "stock" for job in done)
        assert shares[True] > 20
        assert shares[False] > 20

    def test_a_job_of_a_killed_worker_of_ours_runs_again(
        self, queue: Queue, connection: Redis, ours: Process, stock: Process, start: Start
    ) -> None:
        """The reaper is any other worker of ours. The stock one goes on meanwhile."""
        served(ours)
        wait_until(lambda: "Listening on" in stock.text(), "the stock worker")
        done = [queue.enqueue(jobs.count, 0.1) for _ in range(40)]
        wait_until(lambda: counts(connection, "started").total() >= 10, "some jobs")
        ours.signal(signal.SIGKILL)
        finish(done, stock, start("-c", WORKER, RQ_CLOCK_WORKER_SILENCE="5", DYNO="worker.2"))
        assert [job.get_status() for job in done] == ["finished"] * 40
        started = counts(connection, "started")
        assert started.keys() == {job.id for job in done}
        assert started.total() <= 41, "only the job that ran with the killed worker runs again"

    def test_dependents_run_once_whichever_worker_ran_what_they_wait_for(
        self, queue: Queue, connection: Redis, ours: Process, stock: Process
    ) -> None:
        served(ours)
        wait_until(lambda: "Listening on" in stock.text(), "the stock worker")
        done: list[Job] = []
        for _ in range(20):
            first = queue.enqueue(jobs.count, 0.01)
            pair = [queue.enqueue(jobs.count, 0.01, depends_on=first) for _ in range(2)]
            done += [first, *pair, queue.enqueue(jobs.count, 0.01, depends_on=pair)]
        finish(done, ours, stock)
        assert counts(connection, "ended") == Counter(job.id for job in done)


def info(redis_url: str, *switches: str) -> str:
    """Return what `rq info` prints."""
    run = CliRunner().invoke(main, ["info", "--url", redis_url, *switches])
    assert run.exit_code == 0, run
    return run.output


def check_info(redis_url: str, worker: str, address: str, state: str, counts: str) -> None:
    """Wait until `rq info` shows a worker in this state, then hold all its switches to that."""
    line = rf"worker {re.escape(worker)} \({address}\) {state} default\. jobs: {counts}\n"
    raw = ["-W", "-r"]
    wait_until(lambda: re.search(line, info(redis_url, *raw)), f"{line} in `rq info`", timeout=20)
    for switches in (["-W"], ["-R"], ["-R", "-r"], ["-r"], []):
        text = info(redis_url, *switches, "default")
        assert worker in text, switches
        assert "?" not in text, switches
    assert "default" in info(redis_url, "-Q", "default")


def test_rq_info_shows_state_address_queues_and_counts(
    queue: Queue, redis_url: str, ours: Process
) -> None:
    name = served(ours)
    address = rf"\S+ 127\.0\.0\.1:\d+ {ours.pid}"
    check_info(redis_url, name, address, "idle", "0 finished, 0 failed")
    finish([queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.fail, 1)], ours)
    check_info(redis_url, name, address, "idle", "1 finished, 1 failed")
    running = queue.enqueue(jobs.count, 60)
    check_info(redis_url, name, address, "busy", "1 finished, 1 failed")
    send_stop_job_command(queue.connection, running.id)
    finish([running], ours)
    CliRunner().invoke(main, ["suspend", "--url", redis_url])
    check_info(redis_url, name, address, "suspended", "1 finished, 2 failed")
    CliRunner().invoke(main, ["resume", "--url", redis_url])
    check_info(redis_url, name, address, "idle", "1 finished, 2 failed")
    assert ours.end() == 0
    assert name not in info(redis_url)
