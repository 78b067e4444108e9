"""The leader's part in callbacks: when a task is due and nobody calls, it enqueues a dispatcher.

It costs nothing while nothing is due: when the next task is due is known from the start of the
lease, from the message that an earlier one was added, and from the one with which a dispatcher
leaves. While dispatchers live they are looked at now and then, since one that is killed leaves no
message.

A job too many does no harm (it finds no place and ends), so this needs no fencing token. If the
clock dies here, the next one looks at the start of its lease.
"""

from __future__ import annotations

from rq_clock.callbacks.queue import enqueue_dispatcher, queued_dispatchers
from rq_clock.log import log_event
from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.store.store import Store
from rq_clock.store.task_claims import places
from rq_clock.store.tasks import Tasks

CALLBACKS_CHANGED = ":callbacks"
"""The message that a task is due earlier than the others; no schedule can have this name."""
LOOK_SECONDS = 5.0
"""From one look to the next while dispatchers live, or wait for a worker."""
LONGEST_PAUSE = 3600.0
"""Until the next look while tasks are due later: the time may be set meanwhile."""


class Dispatching:
    """The dispatchers of one namespace, for its leader."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks = Tasks(store)
        self._active = False
        """Whether a dispatcher lived, or a task was due, at the last look."""
        self._status: CallbacksStatus | None = None

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
        queued = queued_dispatchers(self._store.redis, self._store.namespace)
        if found.alive + queued < found.limit:
            job = enqueue_dispatcher(self._store.redis, self._store.namespace)
            log_event("dispatcher.enqueued", job=job, alive=found.alive)
        return LOOK_SECONDS
