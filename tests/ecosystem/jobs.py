"""Jobs of the tests."""

from __future__ import annotations

import os
import threading

from redis import Redis
from rq import get_current_job


def add(a: int, b: int) -> int:
    return a + b


def fail(number: int) -> None:
    raise ValueError(f"job {number}")


def count(seconds: float = 0.0) -> str:
    """Count a start and, `seconds` later, an end. Return the worker's name."""
    job = get_current_job()
    assert job
    with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        redis.hincrby("started", job.id)
        threading.Event().wait(seconds)
        redis.hincrby("ended", job.id)
    return str(job.worker_name)
