"""What open pages depend on, as one word.

An open page asks for itself again every few seconds with the ETag of the answer before, and gets
304 until it would show something else (live.js, pages/layout.py). The ETag holds a hash of a few
keys that change with whatever pages show; changes.lua reads them in one round trip. It is read
before the page is made, so it may be older than the page but never newer: no change is missed. It
changes by itself every OLD_SECONDS, because pages say how long ago things were.

However many pages are open, a process looks once in KEPT_SECONDS. Only the page of a run, which
shows output as it is printed, has a look of its own.
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
    """The looks of one process. Makes no connection before it is used."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._script = load_script(store.redis, "changes")
        self._lock = Lock()
        self._latest: tuple[float, str | RedisError] = (-inf, "")
        """When it was read, and the answer."""

    def latest(self, job: str = "") -> str:
        """Return a word that is the same until pages change; with a job, until its output does too.
        Raises redis-py's RedisError."""
        if job:
            return self._look(job)
        with self._lock:
            read, found = self._latest
            if monotonic() - read >= KEPT_SECONDS:
                try:
                    found = self._look("")
                except RedisError as error:  # pages that wait here must not each wait for Redis
                    found = error
                self._latest = monotonic(), found
        if isinstance(found, RedisError):
            raise found.with_traceback(None)
        return found

    def _look(self, job: str) -> str:
        keys = self._store.keys(
            "revision", "due", "failing", "duties", "lease", "alerts", "workers",
            f"output:{job}", "handovers", "runs", "audit",
        )  # fmt: skip
        return text(self._script(keys, [int(ON_TIME.total_seconds() * 1000), OLD_SECONDS]))
