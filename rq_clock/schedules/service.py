"""Schedules at run time: an app, an operator or a page adds, changes and operates them.

    schedules = Schedules()                    # or clock.schedules
    schedules.add("report-42", cron("0 6 * * *", tz="Asia/Tokyo"), "tasks.reports.send", args=[42])
    schedules.pause("report-42", reason="customer is on holiday", until=monday)

All state is in Redis: the clock sees a change at once, and changes work while no clock runs.
Schedules declared in code can be paused, run or backfilled here. To change one, edit the code and
deploy.

Every method raises StoreUnavailable when Redis cannot be used, and ScheduleError with every fault
(Conflict when the change conflicts with the current state); then it has changed nothing. If the
process dies in the middle, the change is whole or not made. After a lost reply, repeat the call.

Not here: the clock's response to a change (clock/), how it is stored (store/operations.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import RedisError

from rq_clock.errors import Conflict, ConflictKind, ScheduleError, StoreUnavailable
from rq_clock.model.entry import Entry
from rq_clock.model.filters import Filter
from rq_clock.model.job_id import JobId
from rq_clock.model.schedule import declare
from rq_clock.model.targets import Target
from rq_clock.schedules.backfill import BACKFILL_LIMIT, Preview, create_backfill, preview
from rq_clock.schedules.edits import (
    Editor,
    ScheduleArgs,
    edit_to_remove,
    refuse_missed,
    retry_stale,
)
from rq_clock.schedules.listing import Listing, ScheduleList
from rq_clock.settings import Settings
from rq_clock.store.audit import AuditEntry, RequestKey
from rq_clock.store.backfills import Backfill
from rq_clock.store.client import connect
from rq_clock.store.diagnosis import diagnose
from rq_clock.store.operations import BATCH_LIMIT, Operations
from rq_clock.store.status import Status, read_status
from rq_clock.store.store import Store
from rq_clock.timing.triggers import Trigger, once

if TYPE_CHECKING:
    from rq_clock.manifest.definition import Item
    from rq_clock.manifest.diff import Plan
    from rq_clock.manifest.document import Manifest


class Schedules:
    """The schedules of a namespace. `by` is the actor in the audit. With the key of a request, the
    same change is made once; later calls raise Repeated.

    It connects on first use. Keep one for the life of a process, for one thread at a time.
    """

    def __init__(
        self, redis: Redis | None = None, *, by: str = "app", settings: Settings | None = None,
        request_key: RequestKey | None = None,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._by = by
        self._request_key = request_key
        self._settings = settings
        self._made: Editor | None = None
        self._list: ScheduleList | None = None

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
        """Add a schedule, with the options of `Clock.add`. Return its revision.

        Earlier fire times are never due, except that of `once`: a past one is due immediately, and
        the schedule is removed when it has fired. Adding the same again changes nothing. With
        `replace` an existing schedule gets this definition, and keeps its marker, pause and
        history.
        """
        schedule = declare(name, trigger, target, options)
        with self._editor() as editor:
            return editor.add([schedule], replace=replace)[0]

    def add_many(
        self,
        schedules: Iterable[ScheduleArgs],
        *,
        replace: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Add very many schedules. Return their number.

        They are read as they are added, in batches of 200; each batch is added whole or not at all.
        `progress` gets the count after each batch. After an error the batches before it are stored:
        call again with `replace`, or with the rest.
        """
        with self._editor() as editor:
            return editor.add_many(schedules, replace=replace, progress=progress)

    def once(
        self,
        at: datetime | str,
        target: Target | Callable[..., object],
        *,
        key: str | None = None,
        **options: Any,
    ) -> str:
        """Enqueue `target` once, at or after an instant. Return the name of its schedule.

        The schedule is removed when it has fired. With a `key` (letters, digits, '_', '-') at most
        one waits at a time: meanwhile, another call with that key changes nothing.
        """
        name = f"once-{key or token_hex(8)}"
        schedule = declare(name, once(at), target, options)
        with self._editor() as editor:
            try:
                editor.add([schedule], audit=False)
            except Conflict as conflict:
                if key is None or conflict.kind is not ConflictKind.EXISTS:
                    raise
        return name

    def update(self, name: str, *, revision: str | None = None, **changes: Any) -> str:
        """Change trigger, target or options of a run-time schedule. Return the new revision.

        A new trigger takes effect now, after the old one's overdue fire times are decided. With a
        `revision` (`Entry.revision`) the update is refused if the schedule has changed since.
        """

        def update() -> str:
            with self._editor() as editor:
                entry = editor.find(name)
                if revision is not None and revision != entry.revision:
                    raise Conflict(ConflictKind.STALE, name, entry.revision)
                return editor.write([editor.to_change(entry, changes)], "update", [name])[0]

        return retry_stale(update) if revision is None else update()

    def remove(self, names: str | Iterable[str], *, revision: str | None = None) -> None:
        """Remove run-time schedules: all of these or, if one cannot be removed, none.

        Enqueued jobs stay. The ledger stays readable for 30 days. All are removed in one step of
        Redis, about 5 ms for each 1,000: where others must not wait so long, make several calls.
        """
        names = _listed(names)

        def remove() -> None:
            with self._editor() as editor:
                now, entries = editor.now(), editor.load(names)[0]
                edits = [edit_to_remove(n, entries.get(n), now, revision or "") for n in names]
                editor.write(edits, "remove", names)

        retry_stale(remove) if revision is None else remove()

    def plan(
        self, items: Sequence[Item] | Manifest, *, prune: bool = False,
        allowed: Sequence[str] | None = None,
    ) -> Plan:  # fmt: skip
        """Return the changes that `apply` makes so that all of these exist.

        `prune` removes every other run-time schedule, except those of `once`. `allowed` limits the
        functions that a manifest may name, and then it may name no command. Raises Conflict for
        schedules declared in code, and ScheduleError with every fault of a manifest.
        """
        from rq_clock.manifest.diff import compare
        from rq_clock.manifest.document import Manifest

        if isinstance(items, Manifest):
            names = set(items.entries)
        else:
            names = {item.schedule.name for item in items}
        with self._editor() as editor:
            names |= set(editor.store.all_names()) if prune else set()
            entries, pauses = editor.load(sorted(names))
            if isinstance(items, Manifest):
                stored = {n: e.schedule for n, e in entries.items() if e.schedule}
                items = items.items(stored, allowed)
            return compare(items, entries, pauses, editor.now(), prune=prune)

    def apply(
        self, plan: Plan, *, reason: str = "", progress: Callable[[int], None] | None = None
    ) -> None:
        """Make the changes of a plan: all, or none if one of its schedules has changed since.

        More than BATCH_LIMIT changes are made in batches, each whole or not at all, in one step of
        Redis; `progress` gets the count after each batch.
        """
        for start in range(0, len(plan.steps), BATCH_LIMIT):
            batch = plan.steps[start : start + BATCH_LIMIT]
            with self._editor() as editor:
                edits = editor.to_apply(batch)
                editor.write(edits, "apply", [step.name for step in batch], reason)
            if progress:
                progress(start + len(batch))

    def get(self, name: str) -> Entry | None:
        """Return a schedule, declared or not; None if it does not exist."""
        with self._editor() as editor:
            return editor.store.load([name])[0].get(name)

    def find(  # noqa: PLR0913 - one keyword a filter
        self,
        *,
        state: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        origin: str | None = None,
        cursor: str = "",
        limit: int = 100,
    ) -> Listing:
        """Return the first `limit` schedules that match all filters, those in trouble first.

        Filters: state (see model/verdict.py), queue, tag, text (in name or target), origin
        (declared, run-time). `cursor` continues after an earlier page. A page of more than 20,000
        schedules may be short before the end.
        """
        states = (state,) if state else ()
        matching = Filter(states=states, queue=queue, tag=tag, text=text, origin=origin)
        with self._editor() as editor:
            self._list = self._list or ScheduleList(editor.store)
            return self._list.search(matching, limit=limit, cursor=cursor)

    def status(self) -> Status:
        """Return the leading clock, the schedules in trouble and the server's time, in one round
        trip or two."""
        with self._editor() as editor:
            return read_status(editor.store)

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over all schedules, by name."""
        with self._editor() as editor:
            yield from editor.store.everything()

    # ---- operations ---------------------------------------------------------------------------

    def trigger(
        self, name: str, *, force: bool = False, reason: str = "",
        fire_time: datetime | None = None,
    ) -> str:  # fmt: skip
        """Run a schedule now, even a paused one. Return the job's id.

        The next fire time stays the same. With a past `fire_time` the schedule runs again for that
        instant, with its present definition. Raises Conflict while a run of that fire time is
        going. Without `force`, also raises it while the previous run is going and the schedule
        skips overlaps.
        """
        with self._editor() as editor:
            return editor.trigger(name, reason, force=force, fire_time=fire_time)

    def rerun(self, job_id: str, *, force: bool = False, reason: str = "") -> str:
        """Run a schedule again for the fire time of one of its runs, with its present definition,
        whatever the outcome. Return the new job's id.

        `current_run()` has that fire time and the reason "manual"; the ledger keeps both runs.
        Raises as `trigger`, and ScheduleError for a job that is no run of this namespace. A
        repeated call is refused while the first run is going.
        """
        with self._editor() as editor:
            namespace = editor.store.namespace
        origin = JobId.parse(job_id)
        if origin is None or origin.namespace != namespace:
            raise ScheduleError(
                f"{job_id}: expected a run of the namespace {namespace!r}, whose id contains its "
                "fire time; any other job can be requeued after it failed"
            )
        return self.trigger(origin.schedule, force=force, reason=reason, fire_time=origin.fire_time)

    def pause(
        self,
        names: str | Iterable[str],
        *,
        reason: str = "",
        until: datetime | None = None,
        missed: str = "skip",
    ) -> None:
        """Pause schedules (ALL: every schedule) until `resume`, or until an instant.

        Their fire times are recorded as skipped; one-off jobs wait. `missed` names the skipped fire
        times that run when the pause ends: skip (none), latest, or all. A paused schedule keeps the
        start of its pause. Pauses survive deploys.
        """
        names = _listed(names)
        refuse_missed(names, missed)

        def pause() -> None:
            with self._editor() as editor:
                edits = editor.to_pause(names, reason, until, missed)
                detail = {"until": until and until.isoformat(), "missed": missed}
                editor.write(edits, "pause", names, reason, **detail)

        retry_stale(pause)

    def resume(self, names: str | Iterable[str], *, missed: str | None = None) -> None:
        """Resume paused schedules. `missed` replaces that of the pause.

        Schedules that are not paused stay as they are. The leader then catches up.
        """
        names = _listed(names)
        refuse_missed(names, missed or "skip")

        def resume() -> None:
            with self._editor() as editor:
                edits = editor.to_resume(names, missed)
                if edits:
                    names_in_force = [edit.name for edit in edits if edit.pause]
                    editor.write(edits, "resume", names_in_force, missed=missed)

        retry_stale(resume)

    def skip(self, name: str, count: int = 1, *, reason: str = "") -> datetime:
        """Skip the next `count` fire times. Return the last of them.

        This replaces an earlier skip; a count of 0 only removes it.
        """

        def skip() -> datetime:
            with self._editor() as editor:
                edit, last = editor.to_skip(name, count, reason)
                editor.write([edit], "skip", [name], reason, count=count)
                return last

        return retry_stale(skip)

    # ---- backfills ----------------------------------------------------------------------------

    def preview_backfill(
        self, name: str, start: datetime, end: datetime, *, again: bool = False
    ) -> Preview:
        """Return the fire times that a backfill would enqueue, from `start` to `end`, inclusive.

        A naive datetime is in the schedule's zone. Fire times that have run are left out, unless
        `again`.
        """
        with self._editor() as editor:
            editor.find(name)
            return preview(editor.operations, name, start, end, again=again)

    def backfill(  # noqa: PLR0913 - each a choice of its own
        self,
        name: str,
        start: datetime,
        end: datetime,
        *,
        at_once: int = 1,
        again: bool = False,
        limit: int = BACKFILL_LIMIT,
        reason: str = "",
    ) -> Backfill:
        """Enqueue the past fire times from `start` to `end`, oldest first.

        At most `at_once` of them run at a time. The leading clock enqueues each exactly once; the
        next leader continues where a dead clock stopped. Raises ScheduleError for more than `limit`
        fire times.
        """
        if at_once < 1:
            raise ScheduleError(f"{name}: expected at_once to be at least 1, got {at_once}")

        def create() -> Backfill:
            with self._editor() as editor:
                editor.find(name)
                return create_backfill(
                    editor.operations, name, (start, end), editor.actor(reason),
                    at_once=at_once, again=again, limit=limit,
                )  # fmt: skip

        return retry_stale(create)

    def cancel_backfill(self, id: str, *, reason: str = "") -> None:
        """Cancel a backfill: it enqueues nothing more. Fire times that later backfills left to it
        do not run either.

        Raises ScheduleError if it has ended or never existed.
        """
        with self._editor() as editor:
            now = editor.store.now()
            if not editor.operations.backfills.cancel(id, now, editor.actor(reason)):
                raise ScheduleError(f"{id}: expected a backfill that is running, got none")

    def backfills(self, limit: int = 100) -> list[Backfill]:
        """Return the newest backfills, newest first; ended ones are kept for 30 days."""
        with self._editor() as editor:
            return editor.operations.backfills.newest(limit)

    def audit(self, limit: int = 100, before: str = "+") -> list[AuditEntry]:
        """Return the newest audit entries, newest first; `before` is the id of an entry."""
        with self._editor() as editor:
            return editor.operations.audit.newest(limit, before)

    @contextmanager
    def _editor(self) -> Iterator[Editor]:
        """Yield the editor; inside the block, Redis's errors become StoreUnavailable."""
        settings = self._settings = self._settings or Settings.from_env()
        if self._made is None:
            redis = self._redis or connect(settings=settings)
            operations = Operations(Store.from_settings(redis, settings))
            self._made = Editor(
                operations, self._by, self._request_key, variables=settings.webhook_env
            )
        try:
            yield self._made
        except RedisError as error:
            raise StoreUnavailable(diagnose(error, settings.redis_url)) from None


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))
