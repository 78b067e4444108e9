"""All that is known of one schedule: what its page shows, read in three round trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import Enqueued, LedgerEntry, ledger_entry
from rq_clock.schedules.listing import BARS, Row, ask_rows
from rq_clock.store.audit import AUDIT, AuditEntry
from rq_clock.store.backfills import Backfill, Backfills, schedule_of
from rq_clock.store.scripts import text, texts
from rq_clock.store.status import Status
from rq_clock.store.store import Store

BACKFILLS = 100
"""The newest backfills of all, among which those of the schedule are looked for."""


@dataclass(frozen=True, slots=True)
class ScheduleDetail:
    """A schedule as its page shows it. `ledger` is all of it, oldest first; `audited` and
    `backfills` are the newest, newest first."""

    row: Row
    ledger: tuple[LedgerEntry, ...]
    backfills: tuple[Backfill, ...]
    audited: tuple[AuditEntry, ...]
    namespace: str

    def actor_of(self, entry: Enqueued) -> str:
        """Return who started a run by hand; empty when that is unknown or the clock did."""
        audited = self._trigger(entry)
        return audited.by if audited else ""

    def job_of(self, entry: Enqueued) -> str:
        """Return the id of a run's job; empty when it is unknown. For a run by hand the audit has
        the number in the id; for a backfill it is the backfill's."""
        job_id = JobId(self.namespace, self.row.entry.name, entry.fire_time)
        if entry.reason in ("schedule", "catch_up"):
            return str(job_id)
        if entry.reason == "manual":
            audited = self._trigger(entry)
            return str(audited.detail["job"]) if audited else ""
        spans = [b for b in self.backfills if b.start <= entry.fire_time <= b.end]
        return str(replace(job_id, kind="b", number=spans[0].number)) if len(spans) == 1 else ""

    def _trigger(self, entry: Enqueued) -> AuditEntry | None:
        if entry.reason != "manual":
            return None
        run = JobId(self.namespace, self.row.entry.name, entry.fire_time)
        jobs = ((audited, JobId.parse(str(audited.detail.get("job")))) for audited in self.audited)
        return next((a for a, id in jobs if id and id.kind == "m" and id.same_fire_time(run)), None)


def detail(store: Store, name: str, status: Status) -> ScheduleDetail | None:
    """One schedule; None when there is none of this name. Two round trips. Raises redis-py's
    RedisError."""
    pipe: Any = store.redis.pipeline(transaction=False)
    read = ask_rows(store, pipe, [name], BARS)
    pipe.lrange(store.key(f"ledger:{name}"), 0, -1)
    pipe.zrevrange(store.key("backfills"), 0, BACKFILLS - 1)
    pipe.xrevrange(store.key("audit"), count=AUDIT)
    replies = pipe.execute()
    rows = read(replies, status)
    if not rows:
        return None
    lines, ids, entries = replies[-3:]
    ledger = tuple(ledger_entry(text(line)) for line in lines)
    mine = [id for id in map(text, ids) if schedule_of(id) == name]
    return ScheduleDetail(
        row=rows[0],
        ledger=ledger,
        backfills=tuple(Backfills(store).read(mine)),
        audited=_audited(name, entries),
        namespace=store.namespace,
    )


def _audited(name: str, entries: Sequence[tuple[Any, Mapping[Any, Any]]]) -> tuple[AuditEntry, ...]:
    """Those entries that speak of this schedule."""
    found = ((id, texts(raw)) for id, raw in entries)
    return tuple(
        AuditEntry.read(text(id), said) for id, said in found if name in said["schedules"].split()
    )
