"""Groups on many workers that are killed: the jobs themselves watch that they are alone.

The order of single events is in test_executions.py.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue

from rq_clock import in_group
from tests.helpers import wait_until
from tests.process import ROOT, Process
from tests.server import Server

pytestmark = pytest.mark.process


def alone(url: str, group: str, number: int, seconds: float) -> None:
    """Say that this job of the group runs, and complain if another one does."""
    with Redis.from_url(url) as redis:
        here: Any = redis.set(f"running:{group}", number, nx=True)
        other: Any = redis.get(f"running:{group}")
        if not here and int(other) != number:  # our own, left by a process that was killed, may be
            redis.rpush("violations", f"{group}: {number} beside {other.decode()}")
        threading.Event().wait(seconds)
        redis.rpush(f"order:{group}", number)
        redis.delete(f"running:{group}")


class Fleet:
    """Worker processes, each with one worker."""

    def __init__(self, url: str, count: int, log: Path) -> None:
        self.url, self.log = url, log
        self.processes = [self._start() for _ in range(count)]
        self.kills = 0

    def _start(self) -> Process:
        return Process(
            self.log,
            str(ROOT / "worker.py"),
            env={"REDIS_URL": self.url, "RQ_CLOCK_HORSE_JOBS": "100"},
        )

    def kill_one(self) -> None:
        """Kill one, its horse dies with it, and start another in its place."""
        victim = random.randrange(len(self.processes))
        self.processes[victim].kill()
        self.processes[victim] = self._start()
        self.kills += 1

    def end(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGTERM)
        for process in self.processes:
            assert process.ended() == 0


@dataclass(frozen=True)
class Size:
    groups: int
    jobs: int
    workers: int
    kills: int

    @property
    def total(self) -> int:
        return self.groups * self.jobs


def enqueue(redis: Redis, url: str, size: Size, *, grouped: bool) -> None:
    queue = Queue(connection=redis)
    for number in range(size.jobs):
        for group in range(size.groups):
            meta = in_group(f"g{group}") if grouped else {}
            name = f"g{group}" if grouped else f"g{group}-{number}"
            queue.enqueue(alone, url, name, number, 0.01, meta=meta, job_timeout=60)


def serve(redis: Redis, fleet: Fleet, total: int, kills: int) -> float:
    """Let the fleet do all jobs, killing now and then; jobs a second."""
    began = time.monotonic()

    def done(share: int) -> bool:
        return int(redis.zcard("rq:finished:default")) >= share

    try:
        for n in range(kills):
            share = total * (n + 1) // (kills + 2)
            wait_until(partial(done, share), f"{share} jobs done")
            fleet.kill_one()
        wait_until(partial(done, total), f"all {total} jobs done")
        return total / (time.monotonic() - began)
    finally:
        fleet.end()


def run(server: Server, log: Path, size: Size, *, grouped: bool = True) -> float:
    """Let all jobs run, killing workers when they are grouped; jobs a second."""
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        enqueue(redis, server.url, size, grouped=grouped)
        fleet = Fleet(server.url, size.workers, log)
        rate = serve(redis, fleet, size.total, size.kills if grouped else 0)
        if not grouped:
            return rate
        assert redis.lrange("violations", 0, -1) == []
        doubled = 0
        for group in range(size.groups):
            order = [int(n) for n in redis.lrange(f"order:g{group}", 0, -1)]
            assert sorted(set(order)) == list(range(size.jobs)), f"g{group}: {order}"
            assert order == sorted(order), f"g{group}: {order}"
            doubled += len(order) - size.jobs
        assert redis.zcard("rq:deferred:default") == 0
        assert redis.keys("rq-clock:default:turns*") + redis.keys("rq-clock:default:wait*") == []
    print(f"{size} violations=0, order kept, run again={doubled}, jobs/s {rate:.0f}")
    return rate


def test_no_two_jobs_of_a_group_run_at_once_and_their_order_is_kept(
    fresh_server: Callable[..., Server], tmp_path: Path
) -> None:
    run(fresh_server(), tmp_path / "log", Size(groups=30, jobs=8, workers=4, kills=3))


@pytest.mark.soak
def test_no_two_of_two_hundred_groups_run_at_once_on_eight_workers(
    fresh_server: Callable[..., Server], tmp_path: Path
) -> None:
    server, size = fresh_server(), Size(groups=200, jobs=20, workers=8, kills=12)
    free = run(server, tmp_path / "log", size, grouped=False)
    print(f"without groups and kills {free:.0f} jobs/s")
    run(server, tmp_path / "log", size)
