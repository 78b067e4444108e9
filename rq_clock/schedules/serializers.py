"""What is told of schedules and runs: what `--json` prints, and what an API gives. Pure.

Keys are camelCase, instants ISO 8601 in UTC, durations of options seconds as in the stored
definition, others say their unit (`lagMs`). What has no value is null; no key comes and goes but
`command` and `webhook`, one of which stands beside `func` where it is meant, and `jitterOffsetMs`.
Secrets in arguments, environment, headers and addresses are masked.

Not here: how it looks on a terminal or a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rq_clock.model.decision import Skip
from rq_clock.model.entry import Entry
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import LedgerEntry, Lost
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import shown_target
from rq_clock.redaction import masked_json, masked_url
from rq_clock.schedules.listing import Row
from rq_clock.schedules.upcoming import Density
from rq_clock.timing.describe import Fire, words
from rq_clock.timing.instants import iso
from rq_clock.timing.zones import zone

if TYPE_CHECKING:
    from rq_clock.manifest.diff import Difference, Plan, Step
    from rq_clock.model.entry import Pause, SkipRequest
    from rq_clock.store.audit import AuditEntry
    from rq_clock.store.backfills import Backfill

_MS = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)


# ---- schedules --------------------------------------------------------------------------------


def schedule_view(
    entry: Entry,
    now: datetime,
    *,
    last: dict[str, Any] | None = None,
    states: Sequence[str] = (),
) -> dict[str, Any]:
    """A schedule; `last` is its latest run and `states` are its states, if they were read."""
    states = states or entry.states(now)
    schedule, fire = entry.schedule, entry.next_fire
    pause = entry.pause(now)
    skipping = entry.skipping if entry.skipping and entry.skipping.until > now else None
    view = {
        "name": entry.name,
        "state": states[0],
        "states": list(states),
        "origin": "declared" if entry.declared else "run-time",
        "revision": entry.revision,
        "words": words(schedule.trigger) if schedule else None,
        "trigger": schedule.trigger.spec() if schedule else None,
        "zone": schedule.trigger.tz if schedule else None,
        **(shown_target(schedule.target) if schedule else {"func": None, "runs": None}),
        **_options(schedule),
        "nextFireTime": iso(fire) if fire else None,
        "nextLocal": _local(fire, entry.tz) if fire and schedule else None,
        "marker": iso(entry.marker) if entry.marker else None,
        "knownSince": iso(entry.known_since),
        "pause": pause_view(pause) if pause else None,
        "skipping": _skipping(skipping) if skipping else None,
        "fault": entry.fault or None,
        "last": last,
    }
    if schedule and schedule.jitter:
        view["jitterOffsetMs"] = schedule.offset // _MS
    return view


def row_view(row: Row, now: datetime, namespace: str) -> dict[str, Any]:
    """Return a schedule with the state of its runs."""
    ran = next((e for e in reversed(row.tail) if not isinstance(e, Skip)), None)
    last = run_view(row.entry.name, ran, namespace) if ran else None
    return {
        **schedule_view(row.entry, now, last=last, states=row.states),
        "failingSince": iso(row.failing) if row.failing else None,
        "running": row.running or None,
    }


def _options(s: Schedule | None) -> dict[str, Any]:
    return {
        "args": masked_json(list(s.args)) if s else None,
        "kwargs": masked_json(dict(s.kwargs)) if s else None,
        "queue": s.queue if s else None,
        "timeout": s.timeout if s else None,
        "retries": (list(s.retries) if isinstance(s.retries, tuple) else s.retries) if s else None,
        "resultTtl": s.result_ttl if s else None,
        "failureTtl": s.failure_ttl if s else None,
        "catchUp": s.catch_up if s else None,
        "catchUpWindow": _seconds(s.catch_up_window) if s else None,
        "catchUpLimit": s.catch_up_limit if s else None,
        "overlap": s.overlap if s else None,
        "group": s.group if s else None,
        "groupLimit": s.group_limit if s else None,
        "jitter": _seconds(s.jitter) if s else None,
        "tags": list(s.tags) if s else None,
        "ping": masked_url(s.ping) if s and s.ping else None,
    }


def pause_view(pause: Pause) -> dict[str, Any]:
    """An operator's pause."""
    return {
        "reason": pause.reason,
        "by": pause.by,
        "since": iso(pause.since),
        "until": iso(pause.until) if pause.until else None,
        "missed": pause.missed,
    }


def _skipping(skipping: SkipRequest) -> dict[str, Any]:
    return {
        "reason": skipping.reason,
        "by": skipping.by,
        "since": iso(skipping.since),
        "until": iso(skipping.until),
        "count": skipping.count,
    }


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span / _SECOND


def _local(t: datetime, tz: str) -> str:
    return t.astimezone(zone(tz).info).isoformat()


# ---- fire times -------------------------------------------------------------------------------


def fire_view(fire: Fire) -> dict[str, Any]:
    """A fire time to come; `skipped` says for what reason it will not be enqueued, as things stand
    (paused, requested)."""
    view = {
        "fireTime": iso(fire.fire_time),
        "local": fire.local.isoformat(),
        "zone": getattr(fire.local.tzinfo, "key", None) or "UTC",
        "notes": list(fire.notes),
        "skipped": fire.blocked_by or None,
    }
    return view | ({"jitterOffsetMs": fire.offset // _MS} if fire.offset else {})


# ---- runs -------------------------------------------------------------------------------------


def run_view(
    schedule: str, entry: LedgerEntry, namespace: str, job: str | None = None
) -> dict[str, Any]:
    """What became of a fire time. `job` is its job's id where that is known; that of a run by hand
    or of a backfill has a number which the ledger does not tell."""
    row: dict[str, Any] = dict.fromkeys(
        ("schedule", "fireTime", "state", "reason", "count", "lagMs", "attempt", "started",
         "ended", "tookMs", "worker", "error", "job")
    )  # fmt: skip
    row |= {"schedule": schedule, "fireTime": iso(instant_of(entry))}
    if isinstance(entry, Skip):
        return row | {"state": "skipped", "reason": entry.reason, "count": entry.count}
    if isinstance(entry, Lost):
        return row | {"state": "lost", "error": "the job vanished", "job": entry.job_id}
    row |= {"reason": entry.reason, "state": "waiting", "job": job}
    if job is None and entry.reason in ("schedule", "catch_up"):
        row["job"] = str(JobId(namespace, schedule, entry.fire_time))
    if entry.lag is not None:
        row["lagMs"] = entry.lag / _MS
    if entry.attempt:
        attempt = entry.attempt
        row |= {"state": attempt.state, "attempt": attempt.number, "worker": attempt.worker}
        row |= {"started": iso(attempt.started), "ended": iso(attempt.ended)}
        row |= {"error": attempt.error or None, "tookMs": (attempt.ended - attempt.started) / _MS}
    return row


def instant_of(entry: LedgerEntry) -> datetime:
    """The fire time of a ledger's entry: the last of those that were skipped, and for a job that
    vanished when that was found."""
    if isinstance(entry, Skip):
        return entry.last
    return entry.found if isinstance(entry, Lost) else entry.fire_time


def backfill_view(backfill: Backfill) -> dict[str, Any]:
    """A backfill: `total` fire times, of which `enqueued` are, and the `jobs` that may still run.
    From triggers.MANY on, `total` means "at least"."""
    return {
        "id": backfill.id,
        "schedule": backfill.schedule,
        "state": backfill.state,
        "from": iso(backfill.start),
        "to": iso(backfill.end),
        "atOnce": backfill.at_once,
        "total": backfill.total,
        "enqueued": backfill.enqueued,
        "skipped": backfill.skipped,
        "cursor": iso(backfill.cursor) if backfill.cursor else None,
        "jobs": list(backfill.jobs),
        "by": backfill.by,
        "reason": backfill.reason,
        "since": iso(backfill.since),
    }


def audit_view(audited: AuditEntry) -> dict[str, Any]:
    """An entry of the audit; `schedules` are the first few of `count`."""
    return {
        "id": audited.id,
        "at": iso(audited.at),
        "by": audited.by,
        "verb": audited.verb,
        "schedules": list(audited.schedules),
        "count": audited.count,
        "reason": audited.reason,
        "detail": masked_json(dict(audited.detail)),
    }


# ---- differences ------------------------------------------------------------------------------

CHANGES = ("added", "changed", "removed", "renamed")


def plan_view(plan: Plan, namespace: str) -> dict[str, Any]:
    """What a plan would change. `past` are those that are not added since they are over."""
    return changes_view(
        namespace,
        added=[_added(step) for step in plan.added],
        changed=[{"name": s.name, "fields": fields_view(s.differences())} for s in plan.changed],
        removed=[{"name": step.name, **what_view(step.was.schedule if step.was else None)}
                 for step in plan.removed],
        past=[item.schedule.name for item in plan.past],
        unchanged=plan.unchanged,
    )  # fmt: skip


def changes_view(namespace: str, **said: Any) -> dict[str, Any]:
    """Changes of a namespace: what is not said is empty, `equal` whether there are none."""
    lists = (*CHANGES, "past", "caughtUp", "notes")
    view = {"namespace": namespace, "equal": True} | {name: [] for name in lists} | said
    return view | {"equal": not any(view[kind] for kind in CHANGES)}


def what_view(schedule: Schedule | None) -> dict[str, Any]:
    """What a schedule is, in short; nothing of one that cannot be read."""
    if schedule is None:
        return {"words": None, "runs": None, "queue": None}
    runs = shown_target(schedule.target)["runs"]
    return {"words": words(schedule.trigger), "runs": runs, "queue": schedule.queue}


def fields_view(found: Iterable[Difference]) -> list[dict[str, Any]]:
    """What changes of a schedule; null is an option at its default."""
    return [{"field": d.path, "from": d.old, "to": d.new} for d in found]


def _added(step: Step) -> dict[str, Any]:
    assert step.item
    paused = step.item.paused is not None
    return {"name": step.name, **what_view(step.item.schedule), "paused": paused}


# ---- density ----------------------------------------------------------------------------------


def density_view(found: Density) -> dict[str, Any]:
    """Return the fire times per bucket, and the most crowded cells."""
    return {
        "from": iso(found.start),
        "to": iso(found.end),
        "bucketSeconds": found.bucket / _SECOND,
        "buckets": [{"from": iso(t), "fires": count} for t, count in found.buckets],
        "herdSeconds": found.cell / _SECOND,
        "herds": [{"from": iso(t), "fires": count} for t, count in found.herds],
    }
