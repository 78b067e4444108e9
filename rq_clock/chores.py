"""What the leader does beside the tick, at operators' request: backfills, and fire times that are
to be made up for when a pause has ended.

Each chore stands in `chores` with the instant at which to look at it. A step of a backfill is a
script that names the fencing token and what it is based on; a pause is made up for by a backfill
whose id is that of the pause. So each is done once, whoever does it and however often, and a clock
that dies in the middle leaves it to the next one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rq_clock.backfills import LONGEST_LOOK, SHORTEST_LOOK, missed_in, step
from rq_clock.changes import Backfill, Changes, Who
from rq_clock.connection import is_outage
from rq_clock.errors import Conflict
from rq_clock.logs import FaultLog, say
from rq_clock.state import Lease, to_ms
from rq_clock.store import Store

NEWS = ":chores"
"""What the news say when there is something to do; no schedule can be called that."""
BURST = 20
"""Chores done in one look: a hundred backfills must not hold up the tick."""
CLOCK = Who(by="clock")
_MS = timedelta(milliseconds=1)


class Chores:
    """The chores of one namespace, for its leader."""

    def __init__(self, store: Store) -> None:
        self._changes = Changes(store)
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
                    make_up(self._changes, name, now)
                    self._changes.done(chore, when)
                self._faults.clear("chore.failed", chore=chore)
            except Exception as error:
                if is_outage(error):
                    raise
                self._faults.warn("chore.failed", error, chore=chore)
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
            self._changes.cancel_backfill(id, now, Who(by="clock", reason="no such schedule"))
            return
        living = self._changes.living(backfill.jobs)
        ended = len(living) < len(backfill.jobs)
        pause = self._pauses.get(id, SHORTEST_LOOK) * 2
        self._pauses[id] = SHORTEST_LOOK if ended else min(pause, LONGEST_LOOK)
        todo = step(backfill, entry.schedule, living, now, now + self._pauses[id])
        if not self._changes.advance(lease, backfill, todo, now):
            return
        for fire_time in todo.fire_times:
            say("run.backfilled", schedule=backfill.schedule, fire_time=fire_time, backfill=id)
        if todo.over:
            self._pauses.pop(id, None)
            say("backfill.done", backfill=id, schedule=backfill.schedule)


def make_up(changes: Changes, name: str, now: datetime) -> None:
    """Ask for what a pause that is over has skipped, unless it is to be lost. Fire times of an
    older rule are not asked for."""
    there = changes.store.load([name])[0].get(name)
    for pause in there.pauses if there else ():
        if pause.until is None or pause.missed == "skip":
            continue
        if pause.until > now:  # another one by now
            changes.later(f"pause:{name}", pause.until)
            continue
        asked = changes.asked()
        entry = changes.settle(name, pause.until)
        if entry is None or entry.schedule is None:
            return
        running = changes.running(name)
        found = missed_in(
            entry,
            max(pause.since, entry.known_since + _MS),
            pause.until,
            changes.store.ledger(name),
            running,
            newest=pause.missed == "latest",
        )
        if not found.count:
            continue
        backfill = Backfill(
            # the same for whoever asks again, and none of theirs
            id=f"{name}-0{to_ms(pause.until)}",
            schedule=name,
            start=found.start,
            end=found.end,
            at_once=1,
            total=found.count,
            by=pause.by,
            reason="missed in a pause",
            since=now,
            rule=found.rule,
            left_out=found.left_out,
        )
        try:
            changes.ask_backfill(backfill, CLOCK, asked)
        except Conflict:  # another one was asked for meanwhile
            make_up(changes, name, now)
