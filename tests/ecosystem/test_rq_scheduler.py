"""rq-scheduler, the package: what it enqueues, our worker runs."""

from __future__ import annotations

from datetime import timedelta

from redis import Redis
from rq_scheduler import Scheduler

from tests.ecosystem import jobs
from tests.ecosystem.conftest import WORKER, Start, finish, served
from tests.helpers import wait_until


def test_its_jobs_run_once_or_repeated_as_it_says(connection: Redis, start: Start) -> None:
    worker = start("-c", WORKER)
    served(worker)
    scheduler = Scheduler(connection=connection)
    once = scheduler.enqueue_in(timedelta(milliseconds=100), jobs.count)
    repeated = scheduler.schedule(once.created_at, jobs.count, interval=1, repeat=2)
    process = start("-m", "rq_scheduler.scripts.rqscheduler", "--interval", "0.2")
    finish([once], worker, process)

    def runs() -> int:
        return int(connection.hget("ended", repeated.id) or 0)

    wait_until(lambda: runs() == 2, "the run and its repetition")
    assert connection.hgetall("ended")[once.id.encode()] == b"1"
    assert repeated not in scheduler
