"""No check while nothing can be due: with REPORTS_ON_DEMAND=1 the next check is arranged for the
minute in which a report is due next.

Each check, and each change of a report, puts one run-time schedule at that instant. If the process
dies before it does, the check that `clock.py` declares, then once an hour, puts it right.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from rq_clock import Schedules, once
from tasks.reports import settings
from tasks.reports.database import reading
from tasks.reports.models import ReportSchedule

NEXT_CHECK = "check-reports-next"
CHECK_TARGET = "tasks.reports.scheduler.check"
PAUSE = timedelta(seconds=60)
"""Least time between two checks, also while a shop that cannot run stays due."""


def arrange_check(*, after_check: bool = False) -> datetime | None:
    """Arrange the next check. Return its instant; None when no report has one, or checks are made
    every few minutes anyway. Raises StoreUnavailable when Redis cannot be used."""
    if not settings.on_demand():
        return None
    soonest = (
        select(func.min(ReportSchedule.next_run_at))
        .where(ReportSchedule.active)
        .where(ReportSchedule.own_schedule.is_(False))
    )
    with reading() as db:
        at = db.scalar(soonest)
    if at is None:
        return None
    at = max(at, datetime.now(UTC) + (PAUSE if after_check else timedelta()))
    Schedules(by="reports").add(
        NEXT_CHECK, once(at), CHECK_TARGET, tags=["reports"], overlap="allow", replace=True
    )
    return at
