"""The leader's walk through all schedules, after its start and after the time went back: what Redis
has lost or holds wrong is repaired, portion by portion, while nothing is due. See store/repair.py.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from rq_clock.log import log_event, log_warning
from rq_clock.model.entry import Lease
from rq_clock.store.backfills import Backfills
from rq_clock.store.repair import WAIT, Repair, Repairs
from rq_clock.store.store import Store
from rq_clock.version import releases

PORTION = 50
"""Schedules in one look: about 5 ms."""
LISTED = 20
"""Repairs of a kind that are logged one by one."""
EVENTS = {
    "index": "schedule.moved",
    "marker": "marker.lost",
    "time": "marker.ahead",
    "stray": "index.stray",
}


class Repairer:
    """The repairs of one namespace, for its leader."""

    def __init__(self, store: Store) -> None:
        self._repairs = Repairs(store)
        self._backfills = Backfills(store)
        self._counts: Counter[str] = Counter()
        self._zone_data = ""
        """That of the walk before."""
        self.start()

    def start(self) -> None:
        """Walk through all schedules again."""
        self._cursor: int | None = 0
        self._counts.clear()

    def look(self, lease: Lease, now: datetime, suspects: set[str]) -> int | None:
        """Repair a portion: the suspects first, which are removed. Return how many schedules were
        wrong; None when the walk has ended. Raises LeaseLost and redis-py's errors."""
        names = [suspects.pop() for _ in range(min(len(suspects), PORTION))]
        if not names and self._cursor is None:
            return None
        walking = not names
        if walking:
            if self._cursor == 0:
                self._zone_data = self._repairs.zone_data()
            self._cursor, names = self._repairs.page(self._cursor or 0, PORTION)
        done = self._repairs.repair(names, now, lease.token)
        for repair in done:
            self._log(repair)
        if walking and self._cursor == 0:
            self._backfills.bring_forward(now + WAIT, now)
            self._end(lease)
        return len(done)

    def _end(self, lease: Lease) -> None:
        self._cursor = None
        if self._zone_data != releases()["tzdata"]:
            self._repairs.note_zone_data(releases()["tzdata"], lease.token)
        if self._counts:
            log_warning("repair.done", **self._counts)

    def _log(self, repair: Repair) -> None:
        self._counts[repair.kind] += 1
        if self._counts[repair.kind] > LISTED:
            return
        log = log_event if repair.kind in ("index", "stray") else log_warning
        fields: dict[str, Any] = {"schedule": repair.name}
        if repair.kind != "stray":
            fields |= {"was": repair.was or "none", "next": repair.next or "none"}
        if repair.kind == "index" and self._zone_data not in ("", releases()["tzdata"]):
            fields["zone_data"] = f"{self._zone_data} to {releases()['tzdata']}"
        log(EVENTS[repair.kind], **fields)
