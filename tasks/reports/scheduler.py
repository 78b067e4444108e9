"""Find the reports that are due, and enqueue one job for each of their shops.

`clock.py` declares the check, every five minutes. A check costs one query, whatever is due. The job
of a shop runs all that is due there (execution.py); a shop whose job runs or waits is skipped.

    start_scheduler()            # check again, after a stop
    stop_scheduler()             # check no more; it survives restarts and deploys
    get_scheduler_status()       # {"isRunning": …, "runningJobs": […], "jobCount": …}
    trigger_scheduler_check()    # check now

They work from any process, and while no clock or worker runs: what they change is in Redis.

If the check dies in the middle, its worker's successor makes it again: shops that are enqueued
already are skipped, and a job that finds nothing due does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from re import sub
from secrets import token_hex
from typing import Any

from redis import Redis
from rq import Queue
from sqlalchemy import and_, func, or_, select

from rq_clock import ScheduleError, Schedules, connect, every
from tasks.reports import log
from tasks.reports.database import reading
from tasks.reports.models import ReportSchedule, ShopSession
from tasks.reports.on_demand import CHECK_TARGET, arrange_check
from tasks.reports.schedules import RUN_SHOP, URGENT, mend_own, meta_of

CHECK = "check-reports"
"""The name of the schedule in clock.py."""
EVERY = every(minutes=5)
QUEUE = "default"
"""The queue of the shops' jobs. Give them one of their own if other jobs must not wait for them."""
SHOP_SECONDS = 3600
"""The longest that one job of a shop may take."""
GRACE = timedelta(minutes=5)
"""A report with a schedule of its own is overdue after this: then the check runs it."""
BATCH = 500
_PREFIX = "report-shop-"


@dataclass(frozen=True, slots=True)
class DueShop:
    """A shop with reports that are due."""

    shop: str
    reports: int
    priority: int
    oldest: datetime
    has_session: bool
    overdue_own: bool
    """Whether the own schedule of one of its reports did not fire."""


# ---- the check --------------------------------------------------------------------------------


def check() -> None:
    """Enqueue the job of every shop with a report that is due. Raises SQLAlchemy's errors when the
    database cannot be used, and redis-py's: the job has failed, and the next check begins again."""
    log.event("reports.checking")
    try:
        found = due_shops(datetime.now(UTC))
        if found:
            _enqueue_due(found)
        else:
            log.event("reports.none_due")
        arrange_check(after_check=True)
    except Exception as error:
        log.warning("reports.check_failed", error=" ".join(str(error).split())[:300])
        raise


def due_shops(now: datetime) -> list[DueShop]:
    """Return the shops with reports that are due, in one query, the most urgent first."""
    report = ReportSchedule
    overdue = and_(report.own_schedule, report.next_run_at <= now - GRACE)
    due = and_(report.active, report.next_run_at <= now)
    oldest = func.min(report.next_run_at)
    query = (
        select(
            report.shop, func.count(), func.max(report.priority), oldest,
            func.max(ShopSession.shop).is_not(None),
            func.max(report.id).filter(report.own_schedule).is_not(None),
        )
        .outerjoin(ShopSession, ShopSession.shop == report.shop)
        .where(due, or_(report.own_schedule.is_(False), overdue))
        .group_by(report.shop)
        .order_by(func.max(report.priority).desc(), oldest, report.shop)
    )  # fmt: skip
    with reading() as db:
        return [
            DueShop(shop, count, priority, at or now, bool(session), bool(own))
            for shop, count, priority, at, session, own in db.execute(query)
        ]


def _enqueue_due(found: Sequence[DueShop]) -> None:
    reports = sum(shop.reports for shop in found)
    log.event("reports.found", reports=reports, shops=len(found))
    if late := [due.shop for due in found if due.overdue_own]:
        mend_own(late)
    busy = busy_shops()
    urgent: list[str] = []
    others: list[str] = []
    for due in found:
        if due.shop in busy:
            log.event("reports.skipped", shop=due.shop, reason="already running")
        elif not due.has_session:
            log.warning("reports.no_session", shop=due.shop, reports=due.reports)
        else:
            (urgent if due.priority >= URGENT else others).append(due.shop)
    enqueue_shops(urgent, at_front=True)
    enqueue_shops(others)


# ---- the jobs of shops ------------------------------------------------------------------------


def enqueue_shops(shops: Sequence[str], *, at_front: bool = False) -> None:
    """Enqueue the job of each of these shops, in this order; with `at_front`, before all that
    wait. Raises redis-py's errors; a batch is enqueued whole or not at all."""
    queue = _queue()
    if at_front:
        shops = shops[::-1]  # each is put before the ones already there
    for start in range(0, len(shops), BATCH):
        queue.enqueue_many(
            Queue.prepare_data(
                RUN_SHOP, args=(shop,), job_id=f"{_PREFIX}{_encoded(shop)}-{token_hex(6)}",
                meta=meta_of(shop), timeout=SHOP_SECONDS, result_ttl=0, at_front=at_front,
                description=f"reports of {shop}",
            )
            for shop in shops[start : start + BATCH]
        )  # fmt: skip


def busy_shops() -> set[str]:
    """Return the shops whose job waits or runs."""
    queue = _queue()
    return {*_shops_of(queue.get_job_ids()), *running_shops()}


def running_shops() -> list[str]:
    """Return the shops whose job runs."""
    return sorted({*_shops_of(_queue().started_job_registry.get_job_ids(cleanup=False))})


def _shops_of(job_ids: Iterable[str]) -> Iterable[str]:
    for job_id in job_ids:
        if job_id.startswith(_PREFIX):
            yield _decoded(job_id.removeprefix(_PREFIX).rpartition("-")[0])


def _encoded(shop: str) -> str:
    """Return a shop as a part of a job's id, which may have no dots."""
    return sub(r"[^a-z0-9-]", lambda found: f"_{ord(found[0]):02x}_", shop)


def _decoded(word: str) -> str:
    return sub(r"_([0-9a-f]+)_", lambda found: chr(int(found[1], 16)), word)


def _queue() -> Queue:
    return Queue(QUEUE, connection=_redis())


@lru_cache(maxsize=1)
def _redis() -> Redis:
    return connect(pool_size=4)


# ---- in code ----------------------------------------------------------------------------------


def start_scheduler(*, by: str = "app") -> None:
    """Let the check be made every five minutes. Changes nothing if it is already. Raises
    StoreUnavailable when Redis cannot be used."""
    schedules = Schedules(by=by)
    log.event("reports.starting")
    entry = schedules.get(CHECK)
    if entry is None:  # clock.py does not declare it
        schedules.add(CHECK, EVERY, CHECK_TARGET, tags=["reports"])
    elif entry.pause(schedules.status().now):
        schedules.resume(CHECK)
    log.event("reports.started", trigger="every 5 minutes")


def stop_scheduler(*, by: str = "app") -> None:
    """Let no check be made until `start_scheduler`. Jobs of shops that wait or run go on. Raises
    StoreUnavailable when Redis cannot be used."""
    schedules = Schedules(by=by)
    log.event("reports.stopping")
    entry = schedules.get(CHECK)
    if entry and not entry.pause(schedules.status().now):
        schedules.pause(CHECK, reason="the scheduler of reports was stopped")
    log.event("reports.stopped")


def get_scheduler_status() -> dict[str, Any]:
    """Return whether checks are made (`isRunning`: a clock leads, and nobody has stopped them), and
    the shops whose job runs now."""
    running = running_shops()
    return {"isRunning": is_running(), "runningJobs": running, "jobCount": len(running)}


def is_running() -> bool:
    """Return whether checks are made."""
    schedules = Schedules(by="reports")
    entry, status = schedules.get(CHECK), schedules.status()
    return bool(entry and status.leader and not status.pause and not entry.pause(status.now))


def trigger_scheduler_check(*, by: str = "app") -> None:
    """Let a check be made now, also after `stop_scheduler`. Returns when it is enqueued: a worker
    makes it. Raises ScheduleError while the schedule does not exist, because no clock has run."""
    log.event("reports.triggered")
    schedules = Schedules(by=by)
    if schedules.get(CHECK) is None:
        raise ScheduleError(
            f"{CHECK}: expected this schedule, got none; run the clock, or call start_scheduler()"
        )
    schedules.trigger(CHECK, force=True)
