"""The changes of a deploy: the declared schedules compared with the stored ones.

Unchanged schedules cost a comparison of two strings. A changed trigger takes effect from now. The
fire times that the old trigger left undecided (one in the middle of the deploy) are decided first,
by the old trigger and jitter and the new options, so that no fire time falls between two releases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

from rq_clock.clock.commit_log import CommitLog
from rq_clock.errors import ScheduleError
from rq_clock.log import log_event
from rq_clock.model.decision import skip_between
from rq_clock.model.entry import Entry, Lease
from rq_clock.model.schedule import Schedule
from rq_clock.store.operations import settle
from rq_clock.store.store import Change, Store
from rq_clock.timing.triggers import Once

_MS = timedelta(milliseconds=1)


@dataclass(slots=True)
class Plan:
    """The difference, by name, and the steps that remove it."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    unsettled: list[Entry] = field(default_factory=list)
    invalid: dict[str, Exception] = field(default_factory=dict)
    """Declared schedules that raised an error; their stored definitions stay."""

    def __bool__(self) -> bool:
        return bool(self.changes)

    def add(self, other: Plan) -> None:
        """Add what another plan changes."""
        self.added += other.added
        self.changed += other.changed
        self.removed += other.removed
        self.renamed += other.renamed
        self.changes += other.changes
        self.invalid |= other.invalid

    def leave_out(self, name: str, error: Exception) -> None:
        """Drop the change of a stored schedule: it stays as it is until the next start."""
        self.invalid[name] = error
        self.changes = [c for c in self.changes if name not in (c.name, c.renamed_from)]


def differing(declared: Mapping[str, Schedule], stored: Mapping[str, str]) -> list[str]:
    """Return the names, old ones of renames included, whose stored state `plan` needs."""
    names = []
    for name, schedule in declared.items():
        if stored.get(name) != _definition(schedule):
            names.append(name)
            if schedule.renamed_from and name not in stored:
                names.append(schedule.renamed_from)
    names += [name for name in stored if name not in declared]
    return list(dict.fromkeys(names))


def refusal(declared: Mapping[str, Schedule], stored: Collection[str]) -> str:
    """Return why a clock removes nothing without --remove-all, and the remedy: all stored schedules
    would go and no name stays, as when two apps share a namespace. Empty otherwise."""
    if any(s.name in stored or s.renamed_from in stored for s in declared.values()) or not stored:
        return ""
    if not declared:
        return (
            f"no schedules are declared, and {len(stored)} are stored; to remove them all, start "
            "once with --remove-all"
        )
    return (
        f"none of the {len(declared)} declared schedules is among the {len(stored)} stored ones. "
        "If those are another app's, give each app its own RQ_CLOCK_NAMESPACE; if they are old, "
        "name them with renamed_from=, or start once with --remove-all"
    )


def plan(
    declared: Mapping[str, Schedule],
    stored: Mapping[str, str],
    entries: Mapping[str, Entry],
    now: datetime,
) -> Plan:
    """Compare. `stored` holds the definitions that came from code, `entries` the state of the
    names that `differing` returned; code takes over a run-time schedule among those."""
    found = Plan()
    moved: set[str] = set()
    for name, schedule in declared.items():
        try:
            _compare(found, moved, schedule, stored.get(name), entries, now)
        except Exception as error:  # one fault must not stop the others
            found.invalid[name] = error
    found.removed = [name for name in stored if name not in declared and name not in moved]
    found.changes += [removal(name, entries.get(name), now) for name in found.removed]
    return found


def removal(name: str, entry: Entry | None, now: datetime) -> Change:
    """Return the change that removes a schedule, and accounts for what it leaves undecided."""
    return Change("remove", name, skip=entry.undecided("removed", now) if entry else None)


def plan_decided(
    store: Store,
    lease: Lease,
    declared: Mapping[str, Schedule],
    stored: Mapping[str, str],
    now: datetime,
    log: CommitLog,
) -> Plan:
    """Compare as `plan` does, after what the old triggers of changed schedules named until now has
    been decided. A schedule for which that fails keeps its old definition. Unchanged ones cost a
    comparison, and nothing is read when all are."""
    names = differing(declared, stored)
    if not names:
        return Plan()
    declared = {name: declared[name] for name in names if name in declared}
    stored = {name: stored[name] for name in names if name in stored}
    found = plan(declared, stored, store.load(names)[0], now)
    if not found.unsettled:
        return found
    old = {entry.name: entry.schedule for entry in found.unsettled}

    def read(names: Sequence[str]) -> tuple[dict[str, Entry], str]:
        entries, everything = store.load(names)
        return {n: replace(e, schedule=old[n]) for n, e in entries.items()}, everything

    failed = {}
    for result in settle(store, list(old), now, read, lease, closing=True):
        if result.kind == "error":
            failed[result.planned.entry.name] = result.detail
        else:
            log.record(result)
    found = plan(declared, stored, store.load(names)[0], now)
    for name, why in failed.items():
        found.leave_out(name, ScheduleError(f"its due fire times cannot be decided: {why}"))
    return found


def log_difference(difference: Plan, total: int, seconds: float) -> None:
    """Log a plan that was carried out: each schedule if there are few, and their numbers."""
    few = len(difference.changes) <= 20
    for name in difference.added if few else ():
        log_event("schedule.added", schedule=name)
    for name in difference.changed if few else ():
        log_event("schedule.changed", schedule=name)
    for name in difference.removed if few else ():
        log_event("schedule.removed", schedule=name)
    for old, name in difference.renamed if few else ():
        log_event("schedule.renamed", schedule=name, was=old)
    for change in difference.changes:
        if change.skip:
            log_event("run.skipped", schedule=change.name, **asdict(change.skip))
    log_event(
        "reconcile.done", schedules=total, added=len(difference.added),
        changed=len(difference.changed), removed=len(difference.removed),
        renamed=len(difference.renamed), ms=f"{seconds * 1000:.0f}",
    )  # fmt: skip


def _compare(
    found: Plan,
    moved: set[str],
    schedule: Schedule,
    stored: str | None,
    entries: Mapping[str, Entry],
    now: datetime,
) -> None:
    """Add the change that gives one schedule its declared definition."""
    name, definition = schedule.name, schedule.definition()
    definition.encode()
    if stored == definition:
        return
    entry, old = entries.get(name), ""
    if entry is None and schedule.renamed_from and schedule.renamed_from in entries:
        old = schedule.renamed_from
        entry = entries[old]
    change = _put(schedule, definition, entry, old, now)
    if old:
        moved.add(old)
        found.renamed.append((old, name))
    elif entry is None:
        found.added.append(name)
    else:
        found.changed.append(name)
    found.changes.append(change)
    was = entry.schedule if entry else None
    if entry and was and change.since and entry.overdue_before(schedule, now):
        keeps_old_trigger = replace(
            schedule, name=entry.name, renamed_from=None, trigger=was.trigger, jitter=was.jitter
        )
        found.unsettled.append(replace(entry, schedule=keeps_old_trigger))


def _definition(schedule: Schedule) -> str | None:
    try:
        return schedule.definition()
    except Exception:  # `plan` reports it
        return None


def _put(
    schedule: Schedule, definition: str, entry: Entry | None, old: str, now: datetime
) -> Change:
    was = entry.schedule if entry else None
    if entry and was and was.fires_like(schedule):
        following = schedule.next_after(entry.decided)
        return Change("put", schedule.name, definition, following, renamed_from=old)
    since, skip = entry.counts_from(schedule, now) if entry else now, None
    trigger = schedule.trigger
    if isinstance(trigger, Once) and not (was and was.trigger == trigger):
        skip = skip_between(schedule, "past", trigger.at - _MS, now)
    following = schedule.next_after(since)
    forget = entry.base if entry and was and was.trigger == schedule.trigger else ""
    return Change("put", schedule.name, definition, following, since, old, skip, forget)
