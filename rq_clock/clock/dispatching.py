"""The leader's part in callbacks: when a task is due and nobody calls, it enqueues a dispatcher.

It costs nothing while nothing is due: when the next task is due is known from the start of the
lease, from the message that an earlier one was added, and from the one with which a dispatcher
leaves. While dispatchers live they are looked at now and then, since one that is killed leaves no
message.

A job too many does no harm (it finds no place and ends), so this needs no fencing token. If the
clock dies here, the next one looks at the start of its lease.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rq_clock.callbacks.queue import enqueue_dispatcher, queued_dispatchers
from rq_clock.log import log_event
from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.store.store import Store
from rq_clock.store.task_claims import Places, places
from rq_clock.store.tasks import Tasks

CALLBACKS_CHANGED = ":callbacks"
"""The message that a task is due earlier than the others; no schedule can have this name."""
LOOK_SECONDS = 5.0
"""From one look to the next while dispatchers live, or wait for a worker."""
LONGEST_BACKOFF = 300.0
"""From one job to the next while none of them makes a call."""
LONGEST_PAUSE = 3600.0
"""Until the next look while tasks are due later: the time may be set meanwhile."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Dispatching:
    """The dispatchers of one namespace, for its leader."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks = Tasks(store)
        self._active = False
        """Whether a dispatcher lived, or a task was due, at the last look."""
        self._status: CallbacksStatus | None = None
        self._calls = 0
        """Calls that had ended at the last look."""
        self._backoff = LOOK_SECONDS
        self._not_before = _LONG_AGO

    def take_status(self) -> CallbacksStatus | None:
        """Return how callbacks are for the alerts, once after each look at which there was
        something to see."""
        status, self._status = self._status, None
        return status

    def look(self) -> float:
        """Enqueue a dispatcher if one is missing. Return the seconds until the next look. Raises
        redis-py's errors."""
        found = places(self._store)
        was_active, due = self._active, found.next_due
        self._active = found.alive > 0 or (due is not None and due <= found.now)
        if self._active or was_active:
            self._status = self._tasks.status()
        if found.next_due is None:
            return LOOK_SECONDS if found.alive else float("inf")
        wait = (found.next_due - found.now).total_seconds()
        if wait > 0:
            return min(wait, LOOK_SECONDS if found.alive else LONGEST_PAUSE)
        self._note_progress(found)
        queued = queued_dispatchers(self._store.redis, self._store.namespace)
        if found.alive + queued >= found.limit:
            return LOOK_SECONDS
        wait = (self._not_before - found.now).total_seconds()
        if 0 < wait <= LONGEST_BACKOFF:
            return wait
        job = enqueue_dispatcher(self._store.redis, self._store.namespace)
        log_event("dispatcher.enqueued", job=job, alive=found.alive)
        self._not_before = found.now + timedelta(seconds=self._backoff)
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)
        return LOOK_SECONDS

    def _note_progress(self, found: Places) -> None:
        """Enqueue without a pause while jobs do their work. Where each fails at once, as on a
        worker without aiohttp, the next one comes later and later."""
        counters = self._status.counters.items() if self._status else ()
        calls = sum(number for name, number in counters if name.startswith("called "))
        if found.alive or calls != self._calls:
            self._backoff, self._not_before = LOOK_SECONDS, _LONG_AGO
        self._calls = calls
