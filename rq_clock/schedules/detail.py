"""One schedule as its page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import Enqueued, LedgerEntry, ledger_entry
from rq_clock.schedules.listing import BARS, Row, rows_on
from rq_clock.store.audit import AUDIT, AuditEntry
from rq_clock.store.backfills import Backfill, Backfills
from rq_clock.store.pipeline import execute
from rq_clock.store.scripts import readable, text, texts
from rq_clock.store.status import Status
from rq_clock.store.store import Store

BACKFILLS = 100
"""The newest backfills of all schedules that are searched for those of one."""


@dataclass(frozen=True, slots=True)
class ScheduleDetail:
    """A schedule with its whole ledger, oldest first, and its newest backfills and audit entries,
    newest first."""

    row: Row
    ledger: tuple[LedgerEntry, ...]
    backfills: tuple[Backfill, ...]
    audited: tuple[AuditEntry, ...]
    namespace: str
    days: Mapping[int, tuple[int, int]]
    """Days since 1970 (UTC) → runs that succeeded and failed on that day, of the last 30 days."""

    def actor_of(self, entry: Enqueued) -> str:
        """Return who started a run by hand; empty for other runs and when it is unknown."""
        audited = self._trigger(entry)
        return audited.by if audited else ""

    def job_of(self, entry: Enqueued) -> str:
        """Return the id of a run's job; empty when it is unknown. A run by hand has its id in the
        audit; one of a backfill has the backfill's number in it."""
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
    """Return a schedule; None if it does not exist. Two round trips. Raises redis-py's
    RedisError."""
    pipe: Any = store.redis.pipeline(transaction=False)
    read = rows_on(store, pipe, [name], BARS)
    pipe.hgetall(store.key(f"days:{name}"))
    pipe.lrange(store.key(f"ledger:{name}"), 0, -1)
    pipe.zrevrange(store.key("backfills"), 0, BACKFILLS - 1)
    pipe.xrevrange(store.key("audit"), count=AUDIT)
    replies = execute(pipe)
    rows = read(replies, status)
    if not rows:
        return None
    counts, lines, ids, entries = replies[-4:]
    backfills = Backfills(store).read(list(map(text, ids)))
    audited = (
        (text(id), texts(fields))
        for id, fields in entries
        if name in text(fields.get(b"schedules", b"")).split()
    )
    return ScheduleDetail(
        row=rows[0],
        ledger=tuple(readable(ledger_entry, ([text(line)] for line in lines), "ledger")),
        backfills=tuple(b for b in backfills if b.schedule == name),
        audited=tuple(readable(AuditEntry.read, audited, "audit")),
        namespace=store.namespace,
        days=_days(texts(counts)),
    )


def _days(counts: Mapping[str, str]) -> dict[int, tuple[int, int]]:
    """Return the counts by day. A field that others have written is left out."""
    found: dict[int, tuple[int, int]] = {}
    for field, count in counts.items():
        day, _, kind = field.partition(" ")
        if day.isdigit() and count.isdigit() and kind in ("ok", "failed"):
            ok, failed = found.get(int(day), (0, 0))
            found[int(day)] = (int(count), failed) if kind == "ok" else (ok, int(count))
    return found
