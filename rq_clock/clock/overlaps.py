"""Schedules whose last fire time was skipped because a job of theirs still waits or runs (overlap):
does that job still exist? One that is found nowhere would block its schedule for ever.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from rq_clock.log import FaultLog, log_warning
from rq_clock.model.entry import Lease
from rq_clock.store.client import is_outage
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms

LOOK_MS = 60_000
"""How often the jobs that block a schedule are looked for."""
LOOK_LIMIT = 20
"""Schedules in one look."""


class Overlaps:
    """The blocked schedules of one namespace, under one lease."""

    def __init__(self, store: Store, lease: Lease, faults: FaultLog) -> None:
        self._store = store
        self._lease = lease
        self._faults = faults
        self._blocked: dict[str, tuple[int, list[str]]] = {}
        """Schedule → when to look (ms) for the jobs that block it."""
        self._missing: set[str] = set()
        """Jobs that were found nowhere in the look before."""
        self.lost: deque[tuple[str, str]] = deque(maxlen=1000)
        """Schedules and those of their jobs that were found nowhere twice."""

    def block(self, name: str, jobs: list[str], now_ms: int) -> None:
        """A fire time of the schedule was skipped because of these jobs."""
        look = self._blocked.get(name, (now_ms + LOOK_MS, []))[0]
        self._blocked[name] = (look, jobs)

    def free(self, name: str) -> None:
        """A fire time of the schedule was enqueued."""
        self._blocked.pop(name, None)

    def check(self, now: datetime) -> None:
        """Check, once a minute for each schedule, whether the job that blocks it still exists. One
        that is found nowhere twice is lost: a worker died between taking and starting it."""
        now_ms = to_ms(now)
        for name, (look, jobs) in list(self._blocked.items())[:LOOK_LIMIT]:
            if look > now_ms:
                continue
            del self._blocked[name]  # until a fire time is skipped for it again
            try:
                missing = self._find_lost(name, jobs, now)
            except Exception as error:
                if is_outage(error):
                    raise
                self._faults.report("duty.failed", error, duty="overlap", schedule=name)
                continue
            if missing:
                self._blocked[name] = (now_ms + LOOK_MS, jobs)  # at the end: all get their turn

    def _find_lost(self, name: str, jobs: list[str], now: datetime) -> bool:
        """Return whether a job was missing for the first time, and has to be looked for again."""
        gone = self._store.vanished(jobs)
        for job_id in self._missing.intersection(gone):
            if self._store.job_lost(self._lease, name, job_id, now):
                log_warning("run.lost", schedule=name, job=job_id)
                self.lost.append((name, job_id))
        again = not self._missing.issuperset(gone)
        self._missing.difference_update(jobs)
        self._missing.update(gone)
        return again
