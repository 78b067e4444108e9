"""What the leader does beside the tick, at operators' request: backfills, and fire times that are
to be made up for when a pause has ended.

Each chore stands in `chores` with the instant at which to look at it. A step of a backfill is a
script that names the fencing token and what it is based on; a pause is made up for by a backfill
whose id is that of the pause. So each is done once, whoever does it and however often, and a clock
that dies in the middle leaves it to the next one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rq_clock.log import FaultLog, log_event
from rq_clock.model.entry import Lease
from rq_clock.schedules.backfill import LONGEST_LOOK, SHORTEST_LOOK, catch_up_backfill, step
from rq_clock.store.audit import Actor
from rq_clock.store.client import is_outage
from rq_clock.store.operations import Operations
from rq_clock.store.store import Store

NEWS = ":chores"
"""What the news say when there is something to do; no schedule can be called that."""
BURST = 20
"""Chores done in one look: a hundred backfills must not hold up the tick."""
_MS = timedelta(milliseconds=1)


class Backfiller:
    """The chores of one namespace, for its leader."""

    def __init__(self, store: Store) -> None:
        self._changes = Operations(store)
        self._store = store
        self._faults = FaultLog()
        self._pauses: dict[str, timedelta] = {}
        """Backfill → time until the next look at it."""

    def look(self, lease: Lease, now: datetime) -> datetime | None:
        """Do what is to be done by now; when there is more. Raises LeaseLost and redis-py's
        errors."""
        ready, following = self._changes.chores(now)
        for chore, when in list(ready.items())[:BURST]:
            kind, _, name = chore.partition(":")
            try:
                if kind == "backfill":
                    self._go_on(lease, name, when, now)
                else:
                    catch_up_backfill(self._changes, name, now)
                    self._changes.done(chore, when)
                self._faults.clear("chore.failed", chore=chore)
            except Exception as error:
                if is_outage(error):
                    raise
                self._faults.report("chore.failed", error, chore=chore)
                self._changes.later(chore, now + LONGEST_LOOK * 10)
        if ready:
            left, following = self._changes.chores(now)
            return now if left else following
        return following

    def _go_on(self, lease: Lease, id: str, when: int, now: datetime) -> None:
        backfill = self._changes.backfill(id)
        if backfill is None or backfill.state != "running":
            self._changes.done(f"backfill:{id}", when)
            return
        entry = self._store.load([backfill.schedule])[0].get(backfill.schedule)
        if entry is None or entry.schedule is None:
            self._changes.cancel_backfill(id, now, Actor(by="clock", reason="no such schedule"))
            return
        living = self._changes.living(backfill.jobs)
        ended = len(living) < len(backfill.jobs)
        pause = self._pauses.get(id, SHORTEST_LOOK) * 2
        self._pauses[id] = SHORTEST_LOOK if ended else min(pause, LONGEST_LOOK)
        todo = step(backfill, entry.schedule, living, now, now + self._pauses[id])
        if not self._changes.step_backfill(lease, backfill, todo, now):
            return
        for fire_time in todo.fire_times:
            log_event(
                "run.backfilled", schedule=backfill.schedule, fire_time=fire_time, backfill=id
            )
        if todo.over:
            self._pauses.pop(id, None)
            log_event("backfill.done", backfill=id, schedule=backfill.schedule)
