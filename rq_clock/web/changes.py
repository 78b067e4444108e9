"""A version of the data that open pages show.

An open page requests itself every few seconds with its ETag, and gets 304 until its content has
changed (live.js, pages/layout.py). The ETag includes a hash of a few keys that change with all that
pages show; changes.lua reads them in one round trip. The hash is read before the page is rendered,
so it may be older than the page but never newer: no change is missed. It also changes every
OLD_SECONDS, because pages show how long ago events were.

A process reads the hash once in KEPT_SECONDS for all open pages. Only the page of a run, which
shows output as it is printed, reads it for each request.
"""

from __future__ import annotations

from math import inf
from threading import Lock
from time import monotonic

from redis.exceptions import RedisError

from rq_clock.model.decision import ON_TIME
from rq_clock.store.scripts import load_script, text
from rq_clock.store.store import Store

KEPT_SECONDS = 1.0
OLD_SECONDS = 15


class Changes:
    """The version, read at most once in KEPT_SECONDS. Connects on first use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._script = load_script(store.redis, "changes")
        self._lock = Lock()
        self._latest: tuple[float, str | RedisError] = (-inf, "")
        """When it was read, and the result."""

    def latest(self, job: str = "") -> str:
        """Return a text that changes when pages do; with a job, also when its output does. Raises
        redis-py's RedisError."""
        if job:
            return self._read(job)
        with self._lock:
            since, found = self._latest
            if monotonic() - since >= KEPT_SECONDS:
                try:
                    found = self._read("")
                except RedisError as error:  # waiting pages must not each wait for Redis
                    found = error
                self._latest = monotonic(), found
        if isinstance(found, RedisError):
            raise found.with_traceback(None)
        return found

    def _read(self, job: str) -> str:
        keys = self._store.keys(
            "revision", "due", "failing", "duties", "lease", "alerts", "workers",
            f"output:{job}", "handovers", "runs", "audit", "task-counters", "task-claims",
        )  # fmt: skip
        return text(self._script(keys, [int(ON_TIME.total_seconds() * 1000), OLD_SECONDS]))
