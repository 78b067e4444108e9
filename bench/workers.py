"""The workers under measure: `python -m bench.workers WORKER serve|fill|send …`, a process each.

    rq-clock       as it is set up: a process for each job
    sharing        rq-clock with RQ_CLOCK_HORSE_JOBS=100: a process for a hundred jobs
    Worker         RQ's default, with a process for each job too
    SimpleWorker   RQ's that runs the jobs itself; what kills one kills it
    Celery         its prefork pool with one child; Redis is broker and result backend, the rest as
                   it comes. It counts a task as done before it runs: one that kills is lost

All store each job's result. What differs, always in favour of the others: they log warnings only,
where rq-clock writes its usual line for each job.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench

WORKERS = ("rq-clock", "sharing", "Worker", "SimpleWorker", "Celery")
OURS, SHARING, STOCK, SIMPLE, CELERY = WORKERS
QUEUE = "bench"
Enqueue = Callable[..., object]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("worker", choices=WORKERS)
    parser.add_argument("what", choices=("serve", "fill", "send", "heavy"))
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where the jobs that say something do")
    work = parser.parse_args()
    url = os.environ["REDIS_URL"]
    if work.what == "serve":
        (celery_worker if work.worker == CELERY else rq_worker)(url, work.worker)
    elif work.what == "heavy":
        fill(rq_queue(url), work.jobs, work.directory, "bench.heavy.task")
    else:
        enqueue = (celery_queue if work.worker == CELERY else rq_queue)(url)
        (fill if work.what == "fill" else send)(enqueue, work.jobs, work.directory)


def fill(enqueue: Enqueue, jobs: int, directory: Path, task: Any = bench.task) -> None:
    """A job that holds the worker, `jobs` that do nothing, and one that holds it again."""
    enqueue(bench.hold, str(directory / "first"))
    for _ in range(jobs):
        enqueue(task)
    enqueue(bench.hold, str(directory / "last"))


def send(enqueue: Enqueue, jobs: int, directory: Path) -> None:
    """One job at a time, each to a worker that is idle again; each says when it began."""
    starts = directory / "starts"
    starts.touch()
    for _ in range(jobs):
        size = starts.stat().st_size
        enqueue(bench.stamp, str(starts), time.time())
        while starts.stat().st_size == size:
            time.sleep(0.001)
        time.sleep(random.uniform(0.03, 0.06))


def rq_worker(url: str, kind: str) -> None:
    if kind in (OURS, SHARING):
        from rq_clock import run_worker

        return run_worker([QUEUE], setup=import_heavy if "BENCH_HEAVY" in os.environ else None)
    import rq
    from redis import Redis

    worker = {STOCK: rq.Worker, SIMPLE: rq.SimpleWorker}[kind]
    worker([QUEUE], connection=Redis.from_url(url)).work(logging_level="WARNING")


def import_heavy() -> None:
    """Import once, before anything is forked, what jobs need."""
    import bench.heavy  # noqa: F401


def rq_queue(url: str) -> Enqueue:
    from redis import Redis
    from rq import Queue

    return Queue(QUEUE, connection=Redis.from_url(url)).enqueue


def celery_app(url: str) -> Any:
    from celery import Celery

    app = Celery("bench", broker=url, backend=url)
    app.conf.task_default_queue = QUEUE
    for task in (bench.task, bench.hold, bench.stamp):
        app.task(name=task.__name__)(task)
    return app


def celery_worker(url: str, kind: str) -> None:
    options = ["--pool=prefork", "--concurrency=1", "--loglevel=WARNING"]
    celery_app(url).worker_main(["worker", *options])


def celery_queue(url: str) -> Enqueue:
    app = celery_app(url)

    def enqueue(task: Callable[..., object], *args: object) -> None:
        app.tasks[task.__name__].delay(*args)

    return enqueue


if __name__ == "__main__":
    main()
