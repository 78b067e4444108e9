"""The page "Reports" of the dashboard, and /api/scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy import and_, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from rq_clock import RqClockError
from rq_clock.web import Fields, Operate, Problem, Read, Section, done, page
from tasks.reports import scheduler, schedules
from tasks.reports.database import reading
from tasks.reports.models import ReportHistory, ReportSchedule, ShopSession

ROWS = 50
"""Rows of each table on the page."""
PILLS = {
    "building": ("running", "building"), "sending": ("running", "sending"), "sent": ("ok", "sent"),
    "failed": ("failed", "failed"), "unsure": ("late", "unsure"),
}  # fmt: skip
"""State of a run → the pill of the dashboard, and its word."""
pages, api = APIRouter(), APIRouter()
After = Annotated[int, Query(ge=0, lt=2**31)]


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers at the head of the page."""

    reports: int
    due: int
    due_shops: int
    oldest_due: datetime | None
    own: int


@contextmanager
def _database() -> Iterator[Session]:
    """Yield a session. Its errors become the page, or the JSON, of a database that is away."""
    try:
        with reading() as db:
            yield db
    except SQLAlchemyError as error:
        raise _away(error) from None


def _away(error: SQLAlchemyError) -> Problem:
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return Problem("unavailable", f"the database of the reports cannot be used: {reason}")


# ---- the page ---------------------------------------------------------------------------------


@pages.get("/")
def reports_page(caller: Read, shop: str = "", after: After = 0) -> Response:
    """Return the page: what is due and what runs, the reports of all shops or of one, the newest
    runs."""
    now, shop = datetime.now(UTC), shop.strip()
    with _database() as db:
        totals = _totals(db, now)
        rows = _reports(db, shop, after)
        history = _history(db, shop)
    following = rows[ROWS - 1][0].id if len(rows) > ROWS else 0
    return page(
        caller, "reports.html", totals=totals, rows=rows[:ROWS], history=history, shop=shop,
        after=after, following=following, running=scheduler.running_shops(), at=now,
        is_running=scheduler.is_running(), pills=PILLS,
    )  # fmt: skip


def _totals(db: Session, now: datetime) -> Totals:
    report = ReportSchedule
    due = and_(report.active, report.next_run_at <= now)
    count, own = db.execute(
        select(func.count(), func.count().filter(report.own_schedule, report.active))
        .select_from(report)
    ).one()  # fmt: skip
    waiting, shops, oldest = db.execute(
        select(func.count(), func.count(func.distinct(report.shop)), func.min(report.next_run_at))
        .select_from(report)
        .where(due)
    ).one()
    return Totals(count, waiting, shops, oldest, own)


def _reports(
    db: Session, shop: str, after: int
) -> Sequence[tuple[ReportSchedule, ReportHistory | None, bool]]:
    """Return reports with their newest run, and whether their shop has a session."""
    newest = (
        select(func.max(ReportHistory.id))
        .where(ReportHistory.report_id == ReportSchedule.id)
        .correlate(ReportSchedule)
        .scalar_subquery()
    )
    query = (
        select(ReportSchedule, ReportHistory, ShopSession.shop.is_not(None))
        .outerjoin(ReportHistory, ReportHistory.id == newest)
        .outerjoin(ShopSession, ShopSession.shop == ReportSchedule.shop)
        .where(ReportSchedule.id > after)
        .order_by(ReportSchedule.id)
        .limit(ROWS + 1)
    )
    if shop:
        query = query.where(ReportSchedule.shop == shop)
    return [(report, run, bool(session)) for report, run, session in db.execute(query)]


def _history(db: Session, shop: str) -> Sequence[tuple[ReportHistory, str, str]]:
    """Return the newest runs, each with the name and the zone of its report."""
    query = (
        select(ReportHistory, ReportSchedule.name, ReportSchedule.tz)
        .join(ReportSchedule, ReportSchedule.id == ReportHistory.report_id)
        .order_by(ReportHistory.id.desc())
        .limit(ROWS)
    )
    if shop:
        query = query.where(ReportHistory.shop == shop)
    return [(run, name, tz) for run, name, tz in db.execute(query)]


def version() -> str:
    """Return a text that changes when the page does."""
    with _database() as db:
        tables = ReportHistory, ReportSchedule
        changed = [db.scalar(select(func.max(table.changed_at))) for table in tables]
    return f"{changed} {datetime.now(UTC):%H:%M} {scheduler.running_shops()}"


# ---- its buttons ------------------------------------------------------------------------------


@contextmanager
def _reported() -> Iterator[None]:
    """Report a wrong report as 409, and a database that is away as 503."""
    try:
        yield
    except schedules.ReportError as error:
        raise Problem("conflict", str(error)) from None
    except SQLAlchemyError as error:
        raise _away(error) from None


@pages.post("/run")
def run_now(caller: Operate, form: Fields) -> Response:
    """Make a report due now, and enqueue the job of its shop."""
    with _reported():
        shop = schedules.run_soon(_id_in(form))
        if shop not in scheduler.busy_shops():
            scheduler.enqueue_shops([shop])
    return done(caller, "/reports/", f"Enqueued the report of {shop}.")


@pages.post("/active")
def set_active(caller: Operate, form: Fields) -> Response:
    """Activate a report, or deactivate it."""
    active = form.get("active") == "1"
    with _reported():
        schedules.set_active(_id_in(form), active)
    return done(caller, "/reports/", "Activated." if active else "Deactivated.")


@pages.post("/own")
def set_own(caller: Operate, form: Fields) -> Response:
    """Give a report a schedule of its own, or leave it to the check."""
    own = form.get("own") == "1"
    with _reported():
        schedules.use_own_schedule(_id_in(form), own)
    message = "It has a schedule of its own." if own else "The check finds it."
    return done(caller, "/reports/", message)


@pages.post("/check")
def check_now(caller: Operate) -> Response:
    """Make a check now."""
    return _operated(caller, scheduler.trigger_scheduler_check, "Enqueued a check.")


@pages.post("/start")
def start(caller: Operate) -> Response:
    """Make checks again."""
    return _operated(caller, scheduler.start_scheduler, "Started.")


@pages.post("/stop")
def stop(caller: Operate) -> Response:
    """Make no more checks."""
    return _operated(caller, scheduler.stop_scheduler, "Stopped. Jobs that wait or run go on.")


def _operated(caller: Operate, act: Callable[..., None], message: str) -> Response:
    act(by=caller.token.name)
    return done(caller, "/reports/", message)


def _id_in(form: Fields) -> int:
    """Return the report that a form names. Raises ReportError."""
    text = form.get("id", "")
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise schedules.ReportError(f"expected the id of a report, got {text[:50]!r}")
    return int(text)


# ---- the API ----------------------------------------------------------------------------------


@api.get("/api/scheduler")
def scheduler_status(caller: Read) -> dict[str, Any]:
    """Get whether checks are made, and the shops whose reports run now."""
    return {"success": True, "scheduler": scheduler.get_scheduler_status()}


@api.post("/api/scheduler/trigger")
def trigger(caller: Operate) -> dict[str, Any]:
    """Make a check now. It never starts a second run of a shop."""
    try:
        scheduler.trigger_scheduler_check(by=caller.token.name)
    except RqClockError as error:
        raise Problem("conflict", str(error)) from None
    return {"success": True, "message": "Scheduler check triggered"}


reports = Section(
    name="Reports", path="/reports", pages=pages, api=api, key="p", version=version,
    templates=Path(__file__).parent / "templates",
)  # fmt: skip
