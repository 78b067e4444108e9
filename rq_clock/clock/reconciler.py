"""The reconcile of a deploy: Redis is made to hold what the code declares, portion by portion.

Between two portions the caller renews its lease and decides what is due, so neither the number of
schedules nor that of changes matters to others. What is removed comes first, so that it stops. A
portion is read, compared and written at one moment of the process; a clock that dies in between
leaves the rest to the next one, to which what is done compares equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from rq_clock.clock.commit_log import CommitLog
from rq_clock.clock.reconcile import Plan, plan_decided, refusal, removal
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.model.entry import Lease
from rq_clock.model.schedule import Schedule
from rq_clock.settings import Settings
from rq_clock.store.counters import Counters
from rq_clock.store.store import Store, portions

PORTION = 200
"""Schedules compared, or changed, at once: about 10 ms."""


class Reconciler:
    """One reconcile, under one lease."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        settings: Settings,
        declared: Mapping[str, Schedule],
        counters: Counters,
        faults: FaultLog,
    ) -> None:
        self._store = store
        self._lease = lease
        self._settings = settings
        self._declared = declared
        self._counters = counters
        self._faults = faults
        self.done = Plan()
        """What was changed so far."""
        self.older = False
        """Whether a later release has written here: nothing more is changed."""

    def is_refused(self, stored: set[str], *, remove_all: bool) -> bool:
        """Return whether nothing may be changed, for a reason that is logged: a later release has
        written here, or all of `stored` would go without an order to `remove_all`."""
        release = self._settings.release
        if release and self._store.released() > release:
            self._note_later_release()
        elif (reason := refusal(self._declared, stored)) and not remove_all:
            counts = {"declared": len(self._declared), "stored": len(stored)}
            log_warning("reconcile.refused", **counts, reason=reason)
            return True
        return self.older

    def _note_later_release(self) -> None:
        self.older = True
        log_event(
            "reconcile.older",
            release=self._settings.release,
            effect="keeps the schedules that a later release declared",
        )

    def steps(self, stored: set[str], now: Callable[[], datetime]) -> Iterator[list[str]]:
        """Carry it out; `stored` are the declared schedules that Redis has. Yields the names that
        each portion changed. Raises LeaseLost and redis-py's errors."""
        moved = {
            s.renamed_from: name
            for name, s in self._declared.items()
            if s.renamed_from in stored
            and name not in stored
            and s.renamed_from not in self._declared
        }
        gone = [name for name in sorted(stored) if name not in self._declared]
        yield from self._remove([name for name in gone if name not in moved], now)
        for names in portions(self._declared, PORTION):
            if self.older:
                return
            yield self._portion(names, stored, now())
        renamed = {old for old, _ in self.done.renamed}
        invalid = self.done.invalid
        left = [old for old, name in moved.items() if old not in renamed and name not in invalid]
        yield from self._remove(left, now)

    def _remove(self, names: list[str], now: Callable[[], datetime]) -> Iterator[list[str]]:
        for portion in portions(names, PORTION):
            instant, entries = now(), self._store.load(portion)[0]
            changes = [removal(name, entries.get(name), instant) for name in portion]
            if self._apply(Plan(removed=portion, changes=changes), instant):
                yield portion

    def _portion(self, names: list[str], stored: set[str], now: datetime) -> list[str]:
        """Compare and change some of the declared schedules. Return the names of the changed."""
        known = [name for name in names if name in stored]
        definitions = zip(known, self._store.definitions(known), strict=True)
        before = {n: d for n, d in definitions if d is not None}
        declared = {name: self._declared[name] for name in names}
        log = CommitLog(self._store, self._counters)
        found = plan_decided(self._store, self._lease, declared, before, now, log)
        for name, error in found.invalid.items():
            self._faults.report("schedule.invalid", error, schedule=name)
        self._apply(found, now)
        return [change.name for change in found.changes]

    def _apply(self, found: Plan, now: datetime) -> bool:
        """Write changes. Return whether they were written."""
        release = self._settings.release
        if self.older:
            return False
        if not all(self._store.reconcile(self._lease, release, now, found.changes)):
            self._note_later_release()
            return False
        for change in found.changes:
            if skip := change.skip:
                self._counters.add(f"fire skipped {skip.reason}", skip.count, change.name)
        self.done.add(found)
        return True
