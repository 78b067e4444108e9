"""Schedules at run time: what an app, an operator or a page can do to them while all runs.

    schedules = Schedules()                    # or clock.schedules
    schedules.add("report-42", cron("0 6 * * *", tz="Asia/Tokyo"), "tasks.reports.send", args=[42])
    schedules.pause("report-42", reason="customer is on holiday", until=monday)

All of it is data in Redis. The clock sees it at once, and it works as well while no clock runs.
Schedules that are declared in code can be operated on here, not edited: their code would undo it.

Every method raises StoreUnavailable when Redis cannot be used, ScheduleError (Conflict when the
change does not fit what there is) with every fault, and has changed nothing then. Whoever dies in
the middle leaves a whole change or none; one whose answer was lost can be asked for again.

Not here: what the clock makes of it (stage.py, chores.py), how it is stored (changes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from secrets import randbits, token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from rq_clock.errors import Conflict, ConflictKind, ScheduleError, StoreUnavailable
from rq_clock.model.entry import Entry, Pause, SkipRequest
from rq_clock.model.filters import Filter
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import Enqueued, LedgerEntry
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Target
from rq_clock.schedules.backfill import Preview, catch_up_backfill, preview
from rq_clock.schedules.edits import (
    BATCH,
    ScheduleArgs,
    apply_changes,
    edit_to_add,
    ended_now,
    next_batch,
)
from rq_clock.schedules.listing import Listing, ScheduleList
from rq_clock.settings import Settings
from rq_clock.store.audit import Actor, AuditEntry
from rq_clock.store.backfills import Backfill, backfill_id
from rq_clock.store.client import connect, diagnose
from rq_clock.store.operations import BATCH_LIMIT, Edit, Operations
from rq_clock.store.store import Store
from rq_clock.timing.instants import read_instant
from rq_clock.timing.triggers import Trigger, once

if TYPE_CHECKING:
    from rq_clock.manifest.diff import Plan, Step
    from rq_clock.manifest.document import Item

ALL = "*"
"""Stands for all schedules, in `pause` and `resume`."""
MISSED = ("skip", "latest", "all")
BACKFILL_LIMIT = 1000
"""Fire times that a backfill takes without being told how many it may be."""
TRIES = 20
"""How often a change is made anew that something got ahead of."""
T = TypeVar("T")
RequestId: TypeAlias = tuple[datetime, int]
"""When a caller has first asked for something, and a number by which it knows it."""
_CLOCK_SECONDS = 60.0
_MS = timedelta(milliseconds=1)


class Schedules:
    """The schedules of a namespace. `by` is who the audit names. Makes no connection before it is
    used; safe to keep for the life of a process, for one thread at a time."""

    def __init__(
        self, redis: Redis | None = None, *, by: str = "app", settings: Settings | None = None
    ) -> None:
        self._given = redis
        self._by = by
        self._settings = settings
        self._made: Operations | None = None
        self._list: ScheduleList | None = None
        self._server_time: tuple[float, datetime] | None = None

    # ---- definitions --------------------------------------------------------------------------

    def add(
        self,
        name: str,
        trigger: Trigger,
        target: Target | Callable[..., object],
        *,
        replace: bool = False,
        **options: Any,
    ) -> str:
        """Add a schedule, with the options of `Clock.add`; its revision.

        It is known since now: nothing before that is ever due, but for a `once`, which is due at
        once when its instant has passed, and is removed after it has fired. Adding the same again
        changes nothing. With `replace` one that exists is given this definition, and keeps
        marker, pause and history.
        """
        [revision] = self._add([declare(name, trigger, target, options)], replace=replace)
        return revision

    def add_many(
        self,
        given: Iterable[ScheduleArgs],
        *,
        replace: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Add very many; how many there were. `given` is read as it goes, in portions of 500, each
        of which is whole or nothing; `progress` is told how many are in. After an error those
        before the portion are in: call it again with `replace`, or with the rest."""
        count, portions, fault = 0, iter(given), None
        under_way: Future[list[str]] | None = None
        with self._audited_as("add-many") as tell, ThreadPoolExecutor(1) as sender:
            while True:  # a portion is made while the one before is on its way
                try:
                    schedules = next_batch(portions)
                except ScheduleError as error:
                    schedules, fault = [], error
                if under_way:
                    count += len(under_way.result())
                    tell(count)
                    if progress:
                        progress(count)
                if fault:
                    raise fault
                if not schedules:
                    return count
                under_way = sender.submit(self._add, schedules, replace=replace, audit=False)

    def once(
        self,
        at: datetime,
        target: Target | Callable[..., object],
        *,
        key: str | None = None,
        **options: Any,
    ) -> str:
        """Enqueue `target` once, at or after an instant; the name it waits under. Then only its
        run is left. With a `key` (letters, digits, '_', '-') there is one at a time: while one
        waits, asking again changes nothing."""
        name = f"once-{key or token_hex(8)}"
        try:
            self._add([declare(name, once(at), target, options)], replace=False, audit=False)
        except Conflict as conflict:
            if key is None or conflict.kind is not ConflictKind.EXISTS:
                raise
        return name

    def update(self, name: str, *, revision: str | None = None, **changes: Any) -> str:
        """Change what is named of a run-time schedule: trigger, target, any option; the new
        revision. A changed rule of time takes effect now; what the old one left undecided is
        decided first. With a `revision` (`Entry.revision`) it is refused when someone else has
        changed the schedule since."""
        while True:
            entry = self._existing(name)
            if revision is not None and revision != entry.revision:
                raise Conflict(ConflictKind.STALE, name, entry.revision)
            try:
                return self._edit([self._changed(entry, dict(changes))], "update", [name])[0]
            except Conflict as conflict:
                if revision is not None or conflict.kind is not ConflictKind.STALE:
                    raise

    def remove(self, names: str | Iterable[str], *, revision: str | None = None) -> None:
        """Remove run-time schedules: all of these or, when one does not fit, none. Jobs that are
        enqueued stay; the ledger stays readable for 30 days."""
        names = _listed(names)
        self._edit(
            [Edit(name=n, expected=revision or "there", definition="") for n in names],
            "remove",
            names,
        )

    def plan(self, items: Sequence[Item], *, prune: bool = False) -> Plan:
        """What `apply` would change so that all of these are there and, with `prune`, no other
        run-time schedules but those of `once`. Raises Conflict for what is declared in code."""
        from rq_clock.manifest.diff import compare

        names = [item.schedule.name for item in items]
        with self._redis() as changes:
            store = changes.store
            names = sorted({*names, *(store.all_names() if prune else ())})
            entries: dict[str, Entry] = {}
            pauses: dict[str, Pause] = {}
            for start in range(0, len(names), BATCH):
                chunk = names[start : start + BATCH]
                entries |= store.load(chunk)[0]  # first: a pause from now on makes it stale
                pauses |= store.pauses(chunk)
            return compare(items, entries, pauses, self._now(changes), prune=prune)

    def apply(
        self, plan: Plan, *, reason: str = "", progress: Callable[[int], None] | None = None
    ) -> None:
        """Change what a plan says: all or, when someone has changed one of its schedules since,
        nothing. More than MOST are changed in portions of so many, each of which is whole;
        `progress` is told how many are changed."""
        for start in range(0, len(plan.steps), BATCH_LIMIT):
            next_batch = plan.steps[start : start + BATCH_LIMIT]
            with self._redis() as changes:
                now = self._now(changes)
            nexts: dict[Trigger, datetime | None] = {}
            edits = [self._stepped(step, now, nexts) for step in next_batch]
            self._edit(edits, "apply", [step.name for step in next_batch], reason)
            if progress:
                progress(start + len(next_batch))

    def get(self, name: str) -> Entry | None:
        """One schedule, declared or not."""
        with self._redis() as changes:
            return changes.store.load([name])[0].get(name)

    def find(  # noqa: PLR0913 - one keyword a filter
        self,
        *,
        state: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        origin: str | None = None,
        cursor: str = "",
        most: int = 100,
    ) -> Listing:
        """Return the first `most` schedules that match all filters, after `cursor`, those in
        trouble first: state (see model/verdict.py), queue, tag, text (in name or target), origin
        (declared, run-time). A page of more than 20,000 schedules may be short before the end."""
        states = (state,) if state else ()
        wanted = Filter(states=states, queue=queue, tag=tag, text=text, origin=origin)
        with self._redis() as changes:
            self._list = self._list or ScheduleList(changes.store)
            return self._list.search(wanted, most=most, cursor=cursor)

    def __iter__(self) -> Iterator[Entry]:
        """All schedules, by name."""
        with self._redis() as changes:
            yield from changes.store.everything()

    # ---- operations ---------------------------------------------------------------------------

    def trigger(
        self, name: str, *, force: bool = False, reason: str = "",
        fire_time: datetime | None = None, asked: RequestId | None = None,
    ) -> str:  # fmt: skip
        """Run a schedule now, also a paused one; the id of the job. The schedule is not moved.
        With a `fire_time` it runs again for that instant of the past, by today's definition.
        What is asked for twice under one `asked` is one run.

        Raises ScheduleError when its previous run is still queued or running and it skips
        overlaps, unless with `force`; and when one of that very fire time is.
        """
        if fire_time is not None:
            fire_time = read_instant(fire_time, field="fire_time")
        with self._redis() as changes:
            entry = self._existing(name)
            if entry.schedule is None:
                raise ScheduleError(f"{name}: it cannot run: {entry.fault}")
            now, number = asked or (changes.store.now(), randbits(32))
            if asked and not fire_time and _has_run(changes.store.ledger(name), now):
                return str(JobId(changes.store.namespace, name, now, "m", str(number)))
            if fire_time is not None and fire_time >= now:
                raise ScheduleError(
                    f"{name}: expected fire_time in the past, got {fire_time.isoformat()}"
                )
            job_id, running = changes.trigger(
                entry, now, str(number), self._who(reason), force=force, fire_time=fire_time
            )
        if running:
            raise Conflict(ConflictKind.RUNNING, name, running[0])
        return job_id

    def rerun(
        self, job_id: str, *, force: bool = False, reason: str = "",
        asked: RequestId | None = None,
    ) -> str:  # fmt: skip
        """Run a schedule again for the fire time of one of its runs, whatever its outcome, by
        today's definition. Return the new job's id.

        `current_run()` has that fire time and the reason "manual"; the ledger keeps both runs.
        Raises ScheduleError for a job that is no run of this namespace, and as `trigger`. Repeated
        after a lost reply, or by two callers at once, it is refused while the first run goes on.
        """
        with self._redis() as changes:
            namespace = changes.store.namespace
        origin = JobId.parse(job_id)
        if origin is None or origin.namespace != namespace:
            raise ScheduleError(
                f"{job_id}: expected a run of the namespace {namespace!r}, whose id contains its "
                "fire time; any other job can be requeued after it failed"
            )
        fire_time = origin.fire_time
        return self.trigger(
            origin.schedule, force=force, reason=reason, fire_time=fire_time, asked=asked
        )

    def pause(
        self,
        names: str | Iterable[str],
        *,
        reason: str = "",
        until: datetime | None = None,
        missed: str = "skip",
    ) -> None:
        """Enqueue nothing of these schedules (ALL: of any) until they are resumed, or until an
        instant. Their fire times are recorded as skipped; a one-off job waits instead. `missed`
        says what becomes of those at the end: skip, latest (the newest is enqueued then) or all.
        Those that are paused already stay so since then. Survives deploys."""
        names = _listed(names)
        self._refuse_missed(names, missed)
        with self._redis() as changes:
            now = changes.store.now()
            if until is not None and read_instant(until, field="until") <= now:
                raise ScheduleError(f"expected until in the future, got {until.isoformat()}")
            before = {n: p.since for n, p in changes.store.pauses(names).items() if p.at(now)}
            pause = Pause(reason=reason, by=self._by, since=now, until=until, missed=missed)
        detail = {"until": until and until.isoformat(), "missed": missed}
        edits = [
            Edit(name=name, pause=replace(pause, since=before.get(name, now))) for name in names
        ]
        self._edit(edits, "pause", names, reason, **detail)

    def resume(self, names: str | Iterable[str], *, missed: str | None = None) -> None:
        """Go on with paused schedules from now; `missed` overrules what was said at the pause. Of
        those that are not paused nothing changes."""
        names = _listed(names)
        self._refuse_missed(names, missed or "skip")

        def resume() -> None:
            with self._redis() as changes:
                now = changes.store.now()
                edits = [
                    Edit(
                        name=name,
                        expected=revision,
                        pause=replace(ended_now(pause, now), missed=missed or pause.missed),
                    )
                    for name, pause, revision in self._pauses(changes, names, now)
                ]  # the leader makes up for what was missed
            if edits:
                self._edit(edits, "resume", [edit.name for edit in edits], missed=missed)

        self._insist(resume)

    def skip(self, name: str, count: int = 1, *, reason: str = "") -> datetime:
        """Skip the next `count` fire times, from now on and instead of an earlier word; the last
        one of them. With a count of 0 none is skipped any more."""

        def skip() -> datetime:
            with self._redis() as changes:
                now = changes.store.now()
                entry = changes.settle(self._existing(name).name, now)  # what is due is not next
            if entry is None:
                raise Conflict(ConflictKind.MISSING, name)
            if entry.schedule is None:
                raise ScheduleError(f"{name}: it has no fire times: {entry.fault}")
            last = max(now, entry.decided)
            for _ in range(count):
                following = entry.schedule.next_after(last)
                if following is None:
                    raise ScheduleError(f"{name}: expected {count} fire times to come, got fewer")
                last = following
            edit = Edit(name=name, unskip=True)
            if count:  # none of them may have run by now
                word = SkipRequest(count=count, until=last, reason=reason, by=self._by, since=now)
                edit = Edit(name=name, expected=f"{entry.revision} {entry.base}", skipping=word)
            self._edit([edit], "skip", [name], reason, count=count)
            return last

        return self._insist(skip)

    # ---- backfills ----------------------------------------------------------------------------

    def preview_backfill(
        self, name: str, start: datetime, end: datetime, *, again: bool = False
    ) -> Preview:
        """What a backfill would enqueue: the fire times from `start` to `end`, both inclusive.
        Without a zone they are on the clock of the schedule's. What ran already is left out,
        unless `again`."""
        with self._redis() as changes:
            return self._preview(changes, name, start, end, again=again)

    def backfill(  # noqa: PLR0913 - each a choice of its own
        self,
        name: str,
        start: datetime,
        end: datetime,
        *,
        at_once: int = 1,
        again: bool = False,
        most: int = BACKFILL_LIMIT,
        reason: str = "",
        asked: RequestId | None = None,
    ) -> Backfill:
        """Enqueue the fire times of the past from `start` to `end`, oldest first, at most
        `at_once` running at a time. The leading clock does it, each exactly once, and goes on
        where a clock that died has left off. What is asked for twice under one `asked` is one
        backfill. Raises ScheduleError for more than `most`."""
        if at_once < 1:
            raise ScheduleError(f"{name}: expected at_once to be at least 1, got {at_once}")

        def ask() -> Backfill:
            with self._redis() as changes:
                if asked and (made := changes.backfills.get(backfill_id(name, asked[0]))):
                    return made
                others = None if again else changes.backfills.count()  # first: others may be faster
                found = self._preview(changes, name, start, end, again=again)
                if found.count > most:
                    raise ScheduleError(
                        f"{name}: expected at most {most:,} fire times, got {found.told}; "
                        f"narrow the span, or allow them with most={found.count}"
                    )
                now = asked[0] if asked else changes.store.now()
                backfill = self._backfill(name, found, now, at_once, reason)
                if not changes.backfills.create(backfill, self._who(reason), others):
                    raise ScheduleError(
                        f"{name}: a backfill was asked for in this millisecond; ask again"
                    )
                return backfill

        return self._insist(ask)

    def cancel_backfill(self, id: str, *, reason: str = "") -> None:
        """Let a backfill enqueue no more, also what later ones have left to it. Raises
        ScheduleError when it has ended or never was."""
        with self._redis() as changes:
            if not changes.backfills.cancel(id, changes.store.now(), self._who(reason)):
                raise ScheduleError(f"{id}: expected a backfill that is running, got none")

    def backfills(self, most: int = 100) -> list[Backfill]:
        """The newest backfills, newest first; those that ended are kept for 30 days."""
        with self._redis() as changes:
            return changes.backfills.newest(most)

    def audit(self, most: int = 100, before: str = "+") -> list[AuditEntry]:
        """Who changed what, newest first; `before` is the id of one that was told."""
        with self._redis() as changes:
            return changes.audit.newest(most, before)

    # ---- within -------------------------------------------------------------------------------

    @contextmanager
    def _redis(self) -> Iterator[Operations]:
        """What speaks with Redis; its errors are ours in this block."""
        settings = self._settings = self._settings or Settings.from_env()
        if self._made is None:
            redis = self._given or connect(settings=settings)
            self._made = Operations(Store.from_settings(redis, settings))
        try:
            yield self._made
        except RedisError as error:
            raise StoreUnavailable(diagnose(error, settings.redis_url)) from None

    def _now(self, changes: Operations) -> datetime:
        """The server's time, asked for once a minute."""
        read = monotonic()
        if self._server_time is None or read - self._server_time[0] > _CLOCK_SECONDS:
            self._server_time = (read, changes.store.now())
        since, then = self._server_time
        return then + timedelta(seconds=read - since)

    def _who(self, reason: str) -> Actor:
        return Actor(by=self._by, reason=reason)

    def _edit(
        self, edits: Sequence[Edit], verb: str, names: Sequence[str], reason: str = "",
        **detail: Any,
    ) -> list[str]:  # fmt: skip
        if len(edits) > BATCH_LIMIT:
            raise ScheduleError(
                f"expected at most {BATCH_LIMIT:,} schedules at once, got {len(edits):,}"
            )
        with self._redis() as changes:
            self._make_up(changes, [edit.name for edit in edits if edit.pause])
            try:
                now = self._now(changes)
                return changes.edit(edits, now, verb, self._who(reason), **detail)
            except Conflict as conflict:
                raise self._with_near_name(changes, conflict) from None

    def _insist(self, change: Callable[[], T]) -> T:
        """Make a change anew as often as someone else, or the clock, gets ahead of it."""
        for _ in range(TRIES - 1):
            try:
                return change()
            except Conflict as conflict:
                if not any(c.kind is ConflictKind.STALE for c in conflict.all):
                    raise
        return change()

    def _make_up(self, changes: Operations, names: Sequence[str]) -> None:
        """See to it that no pause is written over which has ended and was not made up for."""
        if not names:
            return
        now = changes.store.now()
        for name in changes.backfills.unfinished_pauses(names, now):
            with suppress(ScheduleError):  # what cannot run must not keep from pausing it
                catch_up_backfill(changes, name, now)

    def _with_near_name(self, changes: Operations, conflict: Conflict) -> Conflict:
        """Return the conflict with a similar name for the first schedule that does not exist."""
        found = conflict.all
        for index, one in enumerate(found):
            if one.kind is ConflictKind.MISSING:
                found[index] = Conflict(one.kind, one.name, _near(changes.store, one.name))
                break
        return Conflict.join(found)

    def _existing(self, name: str) -> Entry:
        with self._redis() as changes:
            entry = changes.store.load([name])[0].get(name)
            if entry is None:
                raise Conflict(ConflictKind.MISSING, name, _near(changes.store, name))
            return entry

    def _add(
        self, schedules: Sequence[Schedule], *, replace: bool, audit: bool = True
    ) -> list[str]:
        with self._redis() as changes:
            now = self._now(changes)
            there: dict[str, Entry] = {}
            if replace:
                there, _ = changes.store.load([s.name for s in schedules])
            nexts: dict[Trigger, datetime | None] = {}
            edits = []
            for schedule in schedules:
                if entry := there.get(schedule.name):
                    edits.append(self._replaced(entry, schedule, now))
                else:
                    edits.append(edit_to_add(schedule, now, nexts))
            who = self._who("") if audit else None
            return changes.edit(edits, now, "add", who)

    def _changed(self, entry: Entry, changes: dict[str, Any]) -> Edit:
        """The edit that an update is."""
        if entry.declared:
            raise Conflict(ConflictKind.DECLARED, entry.name)
        schedule = apply_changes(entry, changes)
        with self._redis() as redis:
            return self._replaced(entry, schedule, redis.store.now())

    def _replaced(self, entry: Entry, schedule: Schedule, now: datetime) -> Edit:
        """The edit that gives a schedule another definition. When the rule of time is another one,
        what the old one left undecided is decided before."""
        was, definition = entry.schedule, schedule.definition()
        if was and (was.trigger, was.offset) == (schedule.trigger, schedule.offset):
            return Edit(name=entry.name, expected=entry.revision, definition=definition)
        if was and entry.next_fire and entry.next_fire <= now:
            with self._redis() as changes:
                settled = changes.settle(entry.name, now)
            if settled is None or settled.revision != entry.revision:
                revision = settled.revision if settled else ""
                raise Conflict(ConflictKind.STALE, entry.name, revision)
        edit = edit_to_add(schedule, now, {})
        return Edit(
            name=entry.name,
            expected=entry.revision,
            definition=definition,
            since=edit.since,
            next_fire=edit.next_fire,
        )

    def _stepped(self, step: Step, now: datetime, nexts: dict[Trigger, datetime | None]) -> Edit:
        """The edit that a step of a plan is."""
        if step.item is None:
            expected = step.was.revision if step.was else "there"
            return Edit(name=step.name, expected=expected, definition="")
        if step.was is None:
            edit = edit_to_add(step.item.schedule, now, nexts)
        else:
            edit = self._replaced(step.was, step.item.schedule, now)
        return replace(edit, pause=step.new_pause(self._by, now))

    def _pauses(
        self, changes: Operations, names: Sequence[str], now: datetime
    ) -> list[tuple[str, Pause, str]]:
        """Names, the pauses of their own that hold now, and the revisions they were found in."""
        known, everything = changes.store.load([n for n in names if n != ALL])
        if unknown := [n for n in names if n != ALL and n not in known]:
            raise self._with_near_name(
                changes, Conflict.join([Conflict(ConflictKind.MISSING, n) for n in unknown])
            )
        revisions = {ALL: everything} | {n: entry.revision for n, entry in known.items()}
        found = changes.store.pauses(names)  # last: one from now on makes its revision stale
        return [(n, pause, revisions[n]) for n, pause in found.items() if pause.at(now)]

    def _refuse_missed(self, names: Sequence[str], missed: str) -> None:
        if missed not in MISSED:
            raise ScheduleError(f"expected missed to be skip, latest or all, got {missed!r}")
        if ALL in names and missed != "skip":
            raise ScheduleError(
                f"missed={missed!r} does not go with a pause of all schedules; name those whose "
                "fire times are to be made up for, or backfill them"
            )

    def _preview(
        self, changes: Operations, name: str, start: datetime, end: datetime, *, again: bool
    ) -> Preview:
        self._existing(name)
        entry = changes.settle(name, changes.store.now())
        if entry is None or entry.schedule is None:
            raise ScheduleError(f"{name}: it has no fire times: {entry.fault if entry else 'gone'}")
        if again:
            return preview(entry, start, end, ())
        running = changes.backfills.running(name)
        return preview(entry, start, end, changes.store.ledger(name), running)

    def _backfill(
        self, name: str, found: Preview, now: datetime, at_once: int, reason: str
    ) -> Backfill:
        return Backfill(
            id=backfill_id(name, now),
            schedule=name,
            start=found.start,
            end=found.end,
            at_once=at_once,
            total=found.count,
            by=self._by,
            reason=reason,
            since=now,
            rule=found.rule,
            left_out=found.left_out,
        )

    @contextmanager
    def _audited_as(self, verb: str) -> Iterator[Callable[[int], None]]:
        """One entry in the audit for what takes many steps, also when it breaks off."""
        count = 0

        def tell(so_far: int) -> None:
            nonlocal count
            count = so_far

        try:
            yield tell
        finally:
            if count:
                with self._redis() as changes:
                    changes.audit.note(verb, count, self._who(""))


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _has_run(ledger: Iterable[LedgerEntry], t: datetime) -> bool:
    """Whether a run by hand was asked for at this instant; its job may be forgotten already."""
    return any(isinstance(e, Enqueued) and (e.reason, e.fire_time) == ("manual", t) for e in ledger)


def _near(store: Store, name: str) -> str:
    """The name that may have been meant, among the first 10,000."""
    near = get_close_matches(name, store.some_names(10_000), n=1)
    return near[0] if near else ""
