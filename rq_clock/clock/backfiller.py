"""Backfills, which the leader enqueues step by step beside the tick: those that operators start,
and those with the fire times that a pause owed. A pause holds them.

The sorted set `duties` holds each with the instant of the next look at it. A step of a backfill
is a script that compares the fencing token and the cursor of the step before. So each is done
once, however often it is tried, and a clock that dies in the middle leaves it to the next one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rq_clock.log import FaultLog, log_event
from rq_clock.model.entry import Lease
from rq_clock.schedules.backfill import LONGEST_LOOK, SHORTEST_LOOK, step
from rq_clock.store.audit import Actor
from rq_clock.store.backfills import Backfills
from rq_clock.store.client import is_outage
from rq_clock.store.store import Store

BACKFILLS_CHANGED = ":duties"
"""The message that announces work for the backfiller; no schedule can have this name."""
HELD_LOOK = timedelta(minutes=1)
"""How soon a backfill that a pause holds is looked at again, should an announcement be lost."""
BURST = 4
"""Steps in one look: a hundred backfills must not delay the tick."""
UNKNOWN_PAUSE = timedelta(minutes=1)
"""From one look to the next at a duty whose kind this release does not know."""


class Backfiller:
    """The backfills of one namespace, for its leader."""

    def __init__(self, store: Store) -> None:
        self._backfills = Backfills(store)
        self._store = store
        self._faults = FaultLog()
        self._pauses: dict[str, timedelta] = {}
        """Backfill → time until the next look at it."""

    def look(self, lease: Lease, now: datetime) -> datetime | None:
        """Do the steps that are due. Return when the next one is. Raises LeaseLost and redis-py's
        errors."""
        ready, following = self._backfills.duties(now)
        for item, when in list(ready.items())[:BURST]:
            kind, _, name = item.partition(":")
            try:
                if kind == "backfill":
                    self._step(lease, name, when, now)
                else:  # of a later release, which may come back
                    self._faults.report("duty.unknown", "its kind is not known here", item=item)
                    self._backfills.postpone(item, now + UNKNOWN_PAUSE)
                    continue
                self._faults.clear("backfill.failed", item=item)
            except Exception as error:
                if is_outage(error):
                    raise
                self._faults.report("backfill.failed", error, item=item)
                self._backfills.postpone(item, now + LONGEST_LOOK * 10)
        if ready:
            left, following = self._backfills.duties(now)
            return now if left else following
        return following

    def _step(self, lease: Lease, id: str, when: int, now: datetime) -> None:
        backfill = self._backfills.get(id)
        if backfill is None or backfill.state != "running":
            self._backfills.finish(f"backfill:{id}", when)
            return
        entries, everything = self._store.load([backfill.schedule])
        entry = entries.get(backfill.schedule)
        if entry is None or entry.schedule is None:
            self._backfills.cancel(id, now, Actor(by="clock", reason="no such schedule"))
            return
        if pause := entry.pause(now):  # its end makes this due at once
            look = now + HELD_LOOK
            self._backfills.postpone(f"backfill:{id}", min(pause.until or look, look))
            return
        living = self._backfills.living(backfill.jobs)
        ended = len(living) < len(backfill.jobs)
        longer = self._pauses.get(id, SHORTEST_LOOK) * 2
        self._pauses[id] = SHORTEST_LOOK if ended else min(longer, LONGEST_LOOK)
        next_step = step(backfill, entry.schedule, living, now, now + self._pauses[id])
        revisions = entry.revision, everything
        if not self._backfills.step(lease, backfill, next_step, now, revisions):
            return
        for fire_time in next_step.fire_times:
            log_event(
                "run.backfilled", schedule=backfill.schedule, fire_time=fire_time, backfill=id
            )
        if next_step.over:
            self._pauses.pop(id, None)
            log_event("backfill.done", backfill=id, schedule=backfill.schedule)
