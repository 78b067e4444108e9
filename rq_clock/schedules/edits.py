"""Compose the edits of schedules, and write them with store/operations.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from datetime import datetime, timedelta
from itertools import islice
from secrets import randbits
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rq_clock.errors import Conflict, ConflictKind, Fault, ScheduleError
from rq_clock.model.entry import MISSED, Entry, Pause, SkipRequest, is_once
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Target, Webhook
from rq_clock.model.variables import names_in
from rq_clock.similar import similar
from rq_clock.store.audit import Actor, RequestKey
from rq_clock.store.operations import BATCH_LIMIT, Edit, Operations
from rq_clock.store.store import portions
from rq_clock.timing.instants import read_instant
from rq_clock.timing.triggers import Once, Trigger

if TYPE_CHECKING:
    from rq_clock.manifest.diff import Step

ALL = "*"
"""The name of all schedules in `pause` and `resume`."""
BATCH = 200
"""Schedules in one edit of `add_many`: about 1 ms of Redis's time."""
TRIES = 20
"""Attempts at a change while other changes come first."""
_CLOCK_SECONDS = 60.0
_MS = timedelta(milliseconds=1)
_OPTIONS = [f.name for f in fields(Schedule) if f.name not in ("name", "trigger", "target")]
T = TypeVar("T")

ScheduleArgs: TypeAlias = (
    tuple[str, Trigger, Target | Callable[..., object]]
    | tuple[str, Trigger, Target | Callable[..., object], dict[str, Any]]
)
"""A schedule for `add_many`: name, trigger, target and, if any, options."""


class Editor:
    """The edits of one actor. Its methods raise Conflict."""

    def __init__(
        self, operations: Operations, by: str, request_key: RequestKey | None = None, *,
        variables: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.operations = operations
        self.store = operations.store
        self._by = by
        self._request_key = request_key
        self._variables = variables
        self._server_time: tuple[float, datetime] | None = None

    def now(self) -> datetime:
        """Return the server's time, read once a minute."""
        read = monotonic()
        if self._server_time is None or read - self._server_time[0] > _CLOCK_SECONDS:
            self._server_time = (read, self.store.now())
        since, then = self._server_time
        return then + timedelta(seconds=read - since)

    def actor(self, reason: str = "") -> Actor:
        return Actor(by=self._by, reason=reason, request_key=self._request_key)

    def find(self, name: str) -> Entry:
        """Return a schedule; the conflict of a missing one names a similar schedule."""
        entry = self.store.load([name])[0].get(name)
        if entry is None:
            raise Conflict(ConflictKind.MISSING, name, self._near(name))
        return entry

    def load(self, names: Sequence[str]) -> tuple[dict[str, Entry], dict[str, Pause]]:
        """Return these schedules and their own pauses."""
        entries: dict[str, Entry] = {}
        pauses: dict[str, Pause] = {}
        for chunk in portions(names):
            entries |= self.store.load(chunk)[0]  # first: a later pause makes the entry stale
            pauses |= self.store.pauses(chunk)
        return entries, pauses

    def add(
        self, schedules: Sequence[Schedule], *, replace: bool = False, audit: bool = True
    ) -> list[str]:
        """Add schedules, or `replace` existing ones. Return their revisions."""
        for schedule in schedules:
            self._refuse_variables(schedule)
        now = self.now()
        existing = self.store.load([s.name for s in schedules])[0] if replace else {}
        nexts: dict[Trigger, datetime | None] = {}
        edits = [
            self.to_replace(entry, schedule, now)
            if (entry := existing.get(schedule.name))
            else edit_to_add(schedule, now, nexts)
            for schedule in schedules
        ]
        return self.operations.edit(edits, now, "add", self.actor() if audit else None)

    def add_many(
        self,
        schedules: Iterable[ScheduleArgs],
        *,
        replace: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Add schedules in batches; each is built while the one before is sent."""
        count, rest = 0, iter(schedules)
        with ThreadPoolExecutor(1) as sender:
            try:
                batch = next_batch(rest)
                while batch:
                    sent = sender.submit(self.add, batch, replace=replace, audit=False)
                    try:
                        batch = next_batch(rest)
                    finally:
                        count += len(sent.result())
                        if progress:
                            progress(count)
                return count
            finally:
                if count:
                    self.operations.audit.note("add-many", count, self.actor())

    def write(
        self, edits: Sequence[Edit], verb: str, names: Sequence[str], reason: str = "",
        **detail: Any,
    ) -> list[str]:  # fmt: skip
        """Write all of these edits or none. Return the new revisions."""
        if len(edits) > BATCH_LIMIT:
            raise ScheduleError(
                f"expected at most {BATCH_LIMIT:,} schedules at once, got {len(edits):,}"
            )
        try:
            return self.operations.edit(edits, self.now(), verb, self.actor(reason), **detail)
        except Conflict as conflict:
            raise self._with_near_name(conflict) from None

    def to_change(self, entry: Entry, changes: Mapping[str, Any]) -> Edit:
        """Return the edit that changes trigger, target or options of a run-time schedule."""
        if entry.declared:
            raise Conflict(ConflictKind.DECLARED, entry.name)
        return self.to_replace(entry, apply_changes(entry, changes), self.store.now())

    def to_replace(self, entry: Entry, schedule: Schedule, now: datetime) -> Edit:
        """Return the edit that replaces the definition of a schedule.

        If trigger or jitter change, what the old ones named until now is decided first. A one-off
        job that waits is moved instead.
        """
        self._refuse_variables(schedule)
        was, definition = entry.schedule, schedule.definition()
        if was and was.fires_like(schedule):
            return Edit(name=entry.name, expected=entry.revision, definition=definition)
        expected = entry.revision
        if was and entry.overdue_before(schedule, now):
            settled = self.operations.settle(entry.name, now, closing=True)
            if settled is None or settled.revision != expected:
                revision = settled.revision if settled else ""
                raise Conflict(ConflictKind.STALE, entry.name, revision)
            entry = settled
        edit = edit_to_add(schedule, now, {})
        anew = is_once(schedule)
        if was and not anew:
            since = entry.counts_from(schedule, now)
            edit = replace(edit, since=since, next_fire=schedule.next_after(since))
            if was.trigger == schedule.trigger:  # its marker has the old jitter
                anew, expected = True, f"{expected} {entry.base}"
        return replace(edit, name=entry.name, expected=expected, anew=anew)

    def _refuse_variables(self, schedule: Schedule) -> None:
        """Raise ScheduleError for a web call with a variable that RQ_CLOCK_WEBHOOK_ENV does not
        list: only code may name others."""
        target = schedule.target
        if not isinstance(target, Webhook):
            return
        faults = [
            Fault(
                f"webhook.{part}",
                f"expected a variable that RQ_CLOCK_WEBHOOK_ENV lists, got {name}; add it there, "
                "or declare the schedule in code",
                schedule=schedule.name,
            )
            for part in ("url", "headers", "json")
            for name in dict.fromkeys(names_in(getattr(target, part)))
            if name not in self._variables
        ]
        if faults:
            raise ScheduleError(*faults)

    def to_apply(self, steps: Sequence[Step]) -> list[Edit]:
        """Return the edits of the steps of a plan."""
        now = self.now()
        nexts: dict[Trigger, datetime | None] = {}
        edits = []
        for step in steps:
            if step.item is None:
                revision = step.was.revision if step.was else ""
                edits.append(edit_to_remove(step.name, step.was, now, revision))
                continue
            if step.was is None:
                self._refuse_variables(step.item.schedule)
                edit = edit_to_add(step.item.schedule, now, nexts)
            else:
                edit = self.to_replace(step.was, step.item.schedule, now)
            edits.append(replace(edit, pause=step.new_pause(self._by, now)))
        return edits

    def to_pause(
        self, names: Sequence[str], reason: str, until: datetime | None, missed: str
    ) -> list[Edit]:
        """Return the edits that pause schedules; a paused one keeps the start of its pause."""
        now = self.store.now()
        if until is not None and read_instant(until, field="until") <= now:
            raise ScheduleError(f"expected until in the future, got {until.isoformat()}")
        known, everything = self.store.load([n for n in names if n != ALL])
        revisions = {ALL: everything} | {n: entry.revision for n, entry in known.items()}
        pauses = self.store.pauses(names)  # last: if one ends now, its revision is stale
        since = {n: p.since for n, p in pauses.items() if p.at(now)}
        self._settle([n for n in pauses if n not in since], now)
        pause = Pause(reason=reason, by=self._by, since=now, until=until, missed=missed)
        return [
            Edit(
                name=name,
                expected=revisions.get(name, "there") if name in since else "there",
                pause=replace(pause, since=since.get(name, now)),
                # what is held until another end
                next_fire=_due_from(known.get(name), now) if name in since else None,
            )
            for name in names
        ]

    def to_resume(self, names: Sequence[str], missed: str | None) -> list[Edit]:
        """Return the edits that end the pauses in force, so that what they hold is due now."""
        now = self.store.now()
        known, everything = self.store.load([n for n in names if n != ALL])
        if missing := [n for n in names if n != ALL and n not in known]:
            conflicts = [Conflict(ConflictKind.MISSING, n) for n in missing]
            raise self._with_near_name(Conflict.join(conflicts))
        revisions = {ALL: everything} | {n: entry.revision for n, entry in known.items()}
        pauses = self.store.pauses(names)  # last: a later pause makes its revision stale
        return [
            Edit(
                name=name,
                expected=revisions[name],
                pause=replace(pause, until=now, missed=missed or pause.missed),
                next_fire=_due_from(known.get(name), now),
            )
            for name, pause in pauses.items()
            if pause.at(now)
        ]

    def to_skip(self, name: str, count: int, reason: str) -> tuple[Edit, datetime]:
        """Return the edit that skips the next `count` fire times, and the last of them."""
        now = self.store.now()
        entry = self.find(name)
        if entry.schedule is None:
            raise ScheduleError(f"{name}: it has no fire times: {entry.fault}")
        last = max(now - _MS, entry.decided)  # one that is due right now is skipped as well
        for _ in range(count):
            following = entry.schedule.next_after(last)
            if following is None:
                raise ScheduleError(f"{name}: expected {count} more fire times, got fewer")
            last = following
        if not count:
            return Edit(name=name, unskip=True), last
        skip = SkipRequest(count=count, reason=reason, by=self._by, since=now)
        expected = f"{entry.revision} {entry.base}"  # none of them may have run meanwhile
        return Edit(name=name, expected=expected, skipping=skip), last

    def trigger(self, name: str, reason: str, *, force: bool, fire_time: datetime | None) -> str:
        """Enqueue a run by hand. Return the job's id."""
        entry = self.find(name)
        if entry.schedule is None:
            raise ScheduleError(f"{name}: it cannot run: {entry.fault}")
        now, number = self.store.now(), randbits(32)
        if fire_time is not None:
            fire_time = read_instant(fire_time, field="fire_time")
            if fire_time >= now:
                got = fire_time.isoformat()
                raise ScheduleError(f"{name}: expected fire_time in the past, got {got}")
        job_id, running = self.operations.trigger(
            entry, now, str(number), self.actor(reason), force=force, fire_time=fire_time
        )
        if running:
            raise Conflict(ConflictKind.RUNNING, name, running[0])
        return job_id

    def _settle(self, names: Sequence[str], now: datetime) -> None:
        """Decide what ended pauses have held, before new ones replace them."""
        for chunk in portions([name for name in names if name != ALL]):
            for entry in self.store.load(chunk)[0].values():
                with suppress(ScheduleError):  # a schedule that cannot run can still be paused
                    if entry.overdue(now):
                        self.operations.settle(entry.name, now, closing=True)

    def _with_near_name(self, conflict: Conflict) -> Conflict:
        """Return the conflict with a similar name for the first schedule that does not exist."""
        found = conflict.all
        for index, one in enumerate(found):
            if one.kind is ConflictKind.MISSING:
                found[index] = Conflict(one.kind, one.name, self._near(one.name))
                break
        return Conflict.join(found)

    def _near(self, name: str) -> str:
        """Return the most similar of the first 10,000 names, or ""."""
        return similar(name, self.store.some_names(10_000))


def retry_stale(change: Callable[[], T]) -> T:
    """Make a change, and repeat it while another change or the clock comes first."""
    for _ in range(TRIES - 1):
        try:
            return change()
        except Conflict as conflict:
            if not any(c.kind is ConflictKind.STALE for c in conflict.all):
                raise
    return change()


def edit_to_add(schedule: Schedule, now: datetime, nexts: dict[Trigger, datetime | None]) -> Edit:
    """Return the edit that adds a schedule; `nexts` caches the next fire times of triggers."""
    since = now
    if isinstance(schedule.trigger, Once):
        since = min(now, schedule.trigger.at - _MS)
        following = schedule.next_after(since)
    elif schedule.jitter:
        following = schedule.next_after(since)
    else:
        if schedule.trigger not in nexts:
            nexts[schedule.trigger] = schedule.trigger.next_after(since)
        following = nexts[schedule.trigger]
    return Edit(
        name=schedule.name,
        expected="new",
        definition=schedule.definition(),
        since=since,
        next_fire=following,
    )


def edit_to_remove(name: str, entry: Entry | None, now: datetime, revision: str = "") -> Edit:
    """Return the edit that removes a schedule. Nothing that it leaves undecided may be decided
    meanwhile."""
    expected = revision or "there"
    undecided = entry.undecided("removed", now) if entry else None
    if entry and undecided:
        expected = f"{revision or entry.revision} {entry.base}"
    return Edit(name=name, expected=expected, definition="", undecided=undecided)


def _due_from(entry: Entry | None, now: datetime) -> datetime | None:
    """Return when the clock has to look at a schedule whose pause ends now, or gets another end."""
    if entry is None or entry.schedule is None:
        return None
    following = entry.schedule.next_after(entry.decided)
    return following and max(following, now)


def apply_changes(entry: Entry, changes: Mapping[str, Any]) -> Schedule:
    """Return a schedule with another trigger, target or options. Raises ScheduleError."""
    was = entry.schedule
    options = {o: getattr(was, o) for o in _OPTIONS} if was else {}
    if was and was.overlap == ("allow" if was.catch_up == "all" else "skip"):
        del options["overlap"]  # the default depends on catch_up
    if {"target", "args", "kwargs"} & changes.keys():
        options["allowed_targets"] = None  # whoever changes the call answers for it
    options |= changes
    trigger, target = (
        options.pop(part, None) or (getattr(was, part) if was else None)
        for part in ("trigger", "target")
    )
    return declare(entry.name, trigger, target, options)  # type: ignore[arg-type]  # it refuses None


def next_batch(schedules: Iterator[ScheduleArgs]) -> list[Schedule]:
    """Return the next schedules of `add_many`; none at the end."""
    batch = [
        declare(name, trigger, target, options[0] if options else {})
        for name, trigger, target, *options in islice(schedules, BATCH)
    ]
    names = [s.name for s in batch]
    if len(set(names)) < len(names):
        twins = sorted({n for n in names if names.count(n) > 1})
        text = "the name appears twice; names are unique"
        raise ScheduleError(*(Fault("name", text, schedule=n) for n in twins))
    return batch


def refuse_missed(names: Sequence[str], missed: str) -> None:
    """Raise ScheduleError for an unknown `missed`, or one that does not work for all schedules."""
    if missed not in MISSED:
        raise ScheduleError(f"expected missed to be skip, latest or all, got {missed!r}")
    if ALL in names and missed != "skip":
        raise ScheduleError(
            f"missed={missed!r} does not go with a pause of all schedules; name the schedules "
            "whose fire times are to be caught up, or backfill them"
        )
