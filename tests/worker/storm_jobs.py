"""What the jobs of the storms do. Imported by their workers, so it imports little."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq import get_current_job


def work(seconds: float) -> str:
    """Wait for so long, and tell Redis of the start and of the end."""
    with _telling() as (_, tell):
        tell("start")
        threading.Event().wait(seconds)
        tell("end")
    return "done"


def work_until_open() -> str:
    """Wait for the key `gate`, and tell Redis of the start and of the end."""
    with _telling() as (redis, tell):
        tell("start")
        while not redis.exists("gate"):
            threading.Event().wait(0.05)
        tell("end")
    return "done"


def note(path: str, seconds: float) -> str:
    """As `work`, but tell a file: for a time without Redis."""
    for word in ("start", "end"):
        with Path(path).open("a") as file:
            file.write(word + "\n")
        if word == "start":
            threading.Event().wait(seconds)
    return "done"


def failed(job: Any, connection: Any, *_: object) -> None:
    """A failure callback."""
    connection.rpush("callbacks", job.id)


@contextmanager
def _telling() -> Iterator[tuple[Redis, Callable[[str], Any]]]:
    """A connection of the job's own, that stands an outage, and the call that tells by it. What
    was told twice because a reply was lost is the same text twice."""
    job = get_current_job()
    assert job
    patient = Retry(ExponentialBackoff(cap=0.2, base=0.05), 200)
    me = f"{os.getpid()} {time.time_ns()}"
    with Redis.from_url(os.environ["STORM_REDIS_URL"], retry=patient) as redis:
        yield redis, lambda word: redis.rpush(f"told:{job.id}", f"{word} {me}")
