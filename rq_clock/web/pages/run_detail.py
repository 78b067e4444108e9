"""The page of one run: its milestones, attempts, outcome and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rq_clock.jobs.queues import NoJob
from rq_clock.jobs.records import JobDetail
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import LEDGER_CODES, Attempt, Enqueued, ledger_entry
from rq_clock.runners.output import shown
from rq_clock.store.pipeline import NamedPipeline
from rq_clock.store.scripts import readable, text
from rq_clock.store.status import Status, read_status
from rq_clock.timing.durations import duration_text
from rq_clock.web.context import Context
from rq_clock.web.pages.job_display import actions, traceback_lines

_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class Milestone:
    """One of a run's instants; `gap` describes the time since the one before."""

    name: str
    at: datetime | None
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """A run. `entry` is its ledger entry; `last` its latest ended attempt; `exists`, whether its
    schedule still does. `output` is None when none is kept; `cut` counts the bytes before it."""

    detail: JobDetail
    entry: Enqueued | None
    last: Attempt | None
    exists: bool
    milestones: Sequence[Milestone]
    output: str | None
    cut: int
    trace: Sequence[tuple[str, bool]]
    place: str

    @property
    def state(self) -> str:
        """Return how its latest attempt ended, or its status in RQ."""
        status = self.detail.job.status or ""
        if status == "started":
            return "running"
        if status in ("queued", "scheduled", "deferred", "canceled"):
            return status
        return self.last.state if self.last else status

    @property
    def attempts(self) -> list[tuple[Attempt, str]]:
        """Return the ended attempts, newest first, and where the job went after each."""
        return [
            (ended.entry.attempt, ended.again)
            for ended in reversed(self.detail.attempts)
            if isinstance(ended.entry, Enqueued) and ended.entry.attempt
        ]

    def verbs(self, namespace: str) -> list[tuple[str, str]]:
        found = actions(self.detail.job, namespace)
        return [(verb, word) for verb, word in found if verb != "again" or self.exists]


def read_run(site: Context, id: str) -> tuple[Status, RunDetail]:
    """Return the status and a run, in one round trip more than `read_status`. Raises NoJob when
    nothing is known of the run."""
    store, origin = site.store, JobId.parse(id)
    pipe = NamedPipeline(store)
    pipe.add("output", "get", f"output:{id}")
    if origin and origin.namespace == store.namespace:
        pipe.add("ledger", "lrange", f"ledger:{origin.schedule}", 0, -1)
        pipe.add("exists", "hexists", "definitions", origin.schedule)
    status, kept = read_status(store, pipe), pipe["output"]
    entry = _entry([text(line) for line in pipe.get("ledger", ())], origin) if origin else None
    try:
        detail = site.queues.job(id)
    except NoJob:
        if not kept and not entry:
            raise
        detail = JobDetail.nothing(id)
    attempts = [e.entry.attempt for e in detail.attempts if isinstance(e.entry, Enqueued)]
    last = (attempts[-1] if attempts else None) or (entry.attempt if entry else None)
    cut, output = shown(kept) if kept is not None else (0, None)
    trace, place = traceback_lines(detail.trace)
    return status, RunDetail(
        detail=detail, entry=entry, last=last, exists=bool(pipe.get("exists")),
        milestones=_milestones(detail, entry, last, status.now), output=output, cut=cut,
        trace=trace, place=place,
    )  # fmt: skip


def _entry(lines: Sequence[str], origin: JobId) -> Enqueued | None:
    for entry in readable(ledger_entry, ([line] for line in reversed(lines)), "ledger"):
        if isinstance(entry, Enqueued) and entry.fire_time == origin.fire_time:
            code = next(code for code, reason in LEDGER_CODES.items() if reason == entry.reason)
            if code in origin.ledger_codes:
                return entry
    return None


# ---- the milestones ----------------------------------------------------------------------------


def _milestones(
    detail: JobDetail, entry: Enqueued | None, last: Attempt | None, now: datetime
) -> list[Milestone]:
    job = detail.job
    fire = job.run.fire_time if job.run else None
    enqueued = _enqueued(detail, entry, last)
    live = job.status in ("queued", "scheduled", "deferred", "started")
    started = job.started if live or not last else last.started
    ended = None if live else last.ended if last else job.ended
    found = [Milestone("Fire time", fire, "")] if fire else []
    found.append(Milestone("Enqueued", enqueued, _late(fire, enqueued, entry)))
    if started:
        found.append(Milestone("Started", started, _span("waited", enqueued, started)))
    elif live:
        waits = _span("waiting for", enqueued, now) or "waiting"
        found.append(Milestone("Started", None, f"{waits}, {job.status}"))
    if ended:
        found.append(Milestone("Ended", ended, _span("took", started, ended)))
    elif started:
        found.append(Milestone("Ended", None, _span("running for", started, now)))
    return found


def _span(word: str, start: datetime | None, end: datetime) -> str:
    return f"{word} {duration_text(max(end - start, _NO_TIME))}" if start else ""


def _enqueued(detail: JobDetail, entry: Enqueued | None, last: Attempt | None) -> datetime | None:
    """Return when the latest attempt was enqueued: the first by the ledger, later ones by RQ."""
    first = entry.fire_time + entry.lag if entry and entry.lag is not None else None
    number = max(detail.job.attempt, last.number if last else 0)
    if first and (number <= 1 or detail.job.enqueued is None):
        return first
    return detail.job.enqueued or first or detail.job.created


def _late(fire: datetime | None, enqueued: datetime | None, entry: Enqueued | None) -> str:
    if fire is None or enqueued is None:
        return ""
    gap = max(enqueued - fire, _NO_TIME)
    if entry and entry.reason in ("manual", "backfill"):
        return f"{duration_text(gap)} after it" if gap else "manual"
    return f"{duration_text(gap)} late"
