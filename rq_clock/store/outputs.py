"""The outputs of runs: each the last 64 kB, all of a namespace together no more than a limit."""

from __future__ import annotations

from redis import Redis

from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script


class Outputs:
    """Writes outputs. They expire after `hours`, and the oldest go when all are above `limit`
    bytes."""

    def __init__(self, redis: Redis, *, hours: int, limit: int) -> None:
        self._script = load_script(redis, "output")
        self._seconds, self._limit = hours * 3600, limit

    def write(self, namespace: str, job_id: str, output: bytes) -> None:
        """Store the output of a run in place of the stored one."""
        keys = [key_of(namespace, "outputs"), key_of(namespace, f"output:{job_id}")]
        self._script(keys, [job_id, output, self._seconds, self._limit])
