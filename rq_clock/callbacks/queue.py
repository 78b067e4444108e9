"""The queue of the jobs that call tasks (dispatcher.py).

The clock puts them there, and a dispatcher its successor.
"""

from __future__ import annotations

from secrets import token_hex

from redis import Redis
from rq import Queue

from rq_clock.store.scripts import text

QUEUE = "callbacks"
DISPATCHER = "rq_clock.callbacks.dispatcher"
"""The module of the job's function."""
JOB_TIMEOUT = 420
"""Seconds: beyond the slice, the longest call and a minute, so that RQ's alarm never raises in the
middle of the loop."""
FAILURE_TTL = 3600
LOOKED_AT = 200
"""Jobs at the head of the queue among which dispatchers are looked for."""


def enqueue_dispatcher(redis: Redis, namespace: str, predecessor: str = "") -> str:
    """Put a job at the back of the queue and return its id. It takes over the place of the
    `predecessor`. One too many does no harm: it ends at once when the places of dispatchers are in
    use."""
    queue = Queue(QUEUE, connection=redis)
    job = queue.enqueue_call(
        f"{DISPATCHER}.dispatch",
        args=(namespace, predecessor),
        timeout=JOB_TIMEOUT,
        result_ttl=0,
        failure_ttl=FAILURE_TTL,
        job_id=_prefix(namespace) + token_hex(6),
    )
    return job.id


def queued_dispatchers(redis: Redis, namespace: str) -> int:
    """Return how many such jobs wait in the queue."""
    jobs: list[bytes] = redis.lrange(f"rq:queue:{QUEUE}", 0, LOOKED_AT - 1)  # type: ignore[assignment]
    return sum(text(job).startswith(_prefix(namespace)) for job in jobs)


def _prefix(namespace: str) -> str:
    return f"dispatcher-{namespace}-x"
