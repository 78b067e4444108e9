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
from rq_clock.store.scripts import text
from rq_clock.store.status import Status, read_status
from rq_clock.timing.durations import duration_text
from rq_clock.web.context import Context
from rq_clock.web.pages.job_display import TracebackLine, pairs, traceback_lines, verbs_of

_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class Milestone:
    """One of a run's instants; `gap` is what lies between it and the one before, in words."""

    name: str
    at: datetime | None
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """A run. `entry` is its ledger's; `output` is None when it has printed nothing, or nothing is
    kept; `cut`, how many bytes came before that."""

    detail: JobDetail
    entry: Enqueued | None
    exists: bool
    """Whether there still is its schedule."""
    milestones: Sequence[Milestone]
    output: str | None
    cut: int
    trace: Sequence[TracebackLine]
    place: str

    @property
    def state(self) -> str:
        """How its latest attempt ended, or what RQ says of it."""
        status = self.detail.job.status or ""
        if status == "started":
            return "running"
        if status in ("queued", "scheduled", "deferred", "canceled"):
            return status
        last = self.last
        return last.state if last else status

    @property
    def last(self) -> Attempt | None:
        """Its latest attempt that has ended."""
        return _last(self.detail, self.entry)

    @property
    def attempts(self) -> list[tuple[Attempt, str]]:
        """Those that have ended, newest first, and where the job went on then."""
        return [
            (ended.entry.attempt, ended.again)
            for ended in reversed(self.detail.attempts)
            if isinstance(ended.entry, Enqueued) and ended.entry.attempt
        ]

    def verbs(self, namespace: str) -> list[tuple[str, str]]:
        """What may be done to it."""
        found = verbs_of(self.detail.job, namespace)
        return pairs([verb for verb in found if verb != "again" or self.exists])


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
    detail = _detail(site, id, known=bool(kept or entry))
    cut, output = shown(kept) if kept is not None else (0, None)
    trace, place = traceback_lines(detail.trace)
    return status, RunDetail(
        detail=detail, entry=entry, exists=bool(pipe.get("exists")),
        milestones=_milestones(detail, entry, status.now), output=output, cut=cut, trace=trace,
        place=place,
    )  # fmt: skip


def _detail(site: Context, id: str, *, known: bool) -> JobDetail:
    """What RQ has of it, or nothing if at least something else is known of it."""
    try:
        return site.queues.job(id)
    except NoJob:
        if not known:
            raise
        return JobDetail.nothing(id)


def _entry(lines: Sequence[str], origin: JobId) -> Enqueued | None:
    """The entry of a run in its schedule's ledger."""
    for line in reversed(lines):
        entry = ledger_entry(line)
        if isinstance(entry, Enqueued) and entry.fire_time == origin.fire_time:
            mark = next(mark for mark, reason in LEDGER_CODES.items() if reason == entry.reason)
            if mark in origin.ledger_codes:
                return entry
    return None


def _last(detail: JobDetail, entry: Enqueued | None) -> Attempt | None:
    found = [e.entry.attempt for e in detail.attempts if isinstance(e.entry, Enqueued)]
    return (found[-1] if found else None) or (entry.attempt if entry else None)


# ---- the milestones ----------------------------------------------------------------------------


def _milestones(detail: JobDetail, entry: Enqueued | None, now: datetime) -> list[Milestone]:
    job, last = detail.job, _last(detail, entry)
    fire = job.run.fire_time if job.run else None
    enqueued = _enqueued(detail, entry, last)
    live = job.status in ("queued", "scheduled", "deferred", "started")
    started = job.started if live or not last else last.started
    ended = None if live else last.ended if last else job.ended
    found = [Milestone("Fire time", fire, "")] if fire else []
    found.append(Milestone("Enqueued", enqueued, _late(fire, enqueued, entry)))
    if started:
        waited = f"waited {duration_text(max(started - enqueued, _NO_TIME))}" if enqueued else ""
        found.append(Milestone("Started", started, waited))
    elif live:
        since = f"waits for {duration_text(max(now - enqueued, _NO_TIME))}" if enqueued else "waits"
        found.append(Milestone("Started", None, f"{since}, {job.status}"))
    if ended:
        found.append(
            Milestone("Ended", ended, f"took {duration_text(ended - started)}" if started else "")
        )
    elif started:
        found.append(
            Milestone("Ended", None, f"runs for {duration_text(max(now - started, _NO_TIME))}")
        )
    return found


def _enqueued(detail: JobDetail, entry: Enqueued | None, last: Attempt | None) -> datetime | None:
    """When the latest attempt was: of the first one the ledger knows it, of others RQ."""
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
