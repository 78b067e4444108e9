"""Run the reports of a shop, one after another.

The job of a shop belongs to the group `shop:<shop>`, so it runs alone, on whatever worker. It takes
what is due when it runs, not what was due when it was enqueued.

A run is a row of the history, keyed by the report and the instant at which it was due. What happens
when the worker dies:

| dies                                     | the next attempt                                      |
|------------------------------------------|-------------------------------------------------------|
| before the row is written                | begins                                                |
| while the report is built (`building`)   | takes the row over, builds and sends                  |
| from the hand-over of the mail on, until | does not send: the run is `unsure`, shown on the page |
| its end is stored (`sending`)            |                                                       |
| after its end is stored                  | finds it ended, and the next run already set          |

A worker that was only frozen, and wakes after another one has taken its row over, is refused at its
next write, which stands before the hand-over: so two never send. A run that was begun ATTEMPTS
times without an end has failed.

The end of a run and the next run of its report are written in one transaction, also of a failure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

from rq.timeouts import BaseTimeoutException
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from rq_clock import Interrupted, ScheduleError, cron, current_run, stopping
from tasks.reports import log
from tasks.reports.database import reading, writing
from tasks.reports.mail import NotSentError, UnsureError, compose, send
from tasks.reports.models import (
    BUILDING,
    FAILED,
    SENDING,
    SENT,
    UNSURE,
    ReportHistory,
    ReportSchedule,
    ShopSession,
)
from tasks.reports.rendering import Period, render
from tasks.reports.scheduler import enqueue_shops
from tasks.reports.settings import SettingError
from tasks.reports.tokens import NoSession, decrypt

PER_TURN = 20
"""Reports that a shop runs before other shops have their turn."""
ATTEMPTS = 4
"""Times that one run is begun before it counts as failed."""
ERROR = 500
"""Characters of an error that the history keeps."""
PAUSES = (0.5, 1, 2, 4)
"""Seconds between attempts to store the end of a run."""


class TakenOver(Exception):
    """Another worker has taken this run over: this one was counted as dead."""


class Removed(Exception):
    """Somebody has removed the report."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this worker has taken up. `begin` is False when an earlier attempt has left it in
    a state that this one must not repeat."""

    history_id: int
    attempt: int
    state: str


def run_shop(shop: str) -> None:
    """Run the reports of a shop that are due; the job of rq-clock's worker.

    A failed report stops no other one. Without a usable session none runs, and they stay due. After
    PER_TURN reports the shop is enqueued again, behind the others. Raises SQLAlchemy's errors when
    the database cannot be used; then the job has failed, and the next check begins again.
    """
    now = _now()
    with reading() as db:
        stored = db.scalar(select(ShopSession.token).where(ShopSession.shop == shop))
        due = _due(db, shop, now)
    if not due:
        return
    try:
        token = decrypt(stored)
    except (NoSession, SettingError) as error:
        log.warning("reports.no_session", shop=shop, reason=error, reports=len(due))
        return
    turn, rest = due[:PER_TURN], due[PER_TURN:]
    log.event("reports.executing", shop=shop, reports=len(turn))
    states = []
    for report in turn:
        if stopping():  # now rather than while a mail is handed over
            raise Interrupted
        states.append(run_report(report, token))
    sent = states.count(SENT)
    log.event("reports.completed", shop=shop, succeeded=sent, failed=len(states) - sent)
    if rest:
        enqueue_shops([shop])


def _now() -> datetime:
    """Return the time, and no earlier than the fire time of this run: Redis's clock, by which a
    schedule fires, may be ahead of this machine's."""
    now, run = datetime.now(UTC), current_run()
    return max(now, run.fire_time) if run else now


def _due(db: Session, shop: str, now: datetime) -> Sequence[ReportSchedule]:
    """Return the reports of a shop that are due, the most urgent first, one more than a turn."""
    return db.scalars(
        select(ReportSchedule)
        .where(ReportSchedule.shop == shop, ReportSchedule.active)
        .where(ReportSchedule.next_run_at <= now)
        .order_by(ReportSchedule.priority.desc(), ReportSchedule.next_run_at, ReportSchedule.id)
        .limit(PER_TURN + 1)
    ).all()


def run_report(report: ReportSchedule, token: str) -> str:
    """Run a report that is due. Return how the run ended: sent, failed, unsure or removed.

    Raises TakenOver when this worker was counted as dead, and SQLAlchemy's errors when the database
    cannot be used.
    """
    fire_time = report.next_run_at
    assert fire_time
    log.event("reports.running", report=report.name, id=report.id, shop=report.shop)
    try:
        claim = _claim(report, fire_time)
        if claim.state == SENDING:
            error = "the worker died while the mail was handed over; it may have been sent"
            return _end(report, fire_time, claim, UNSURE, error)
        if claim.state != BUILDING:
            return claim.state
        if claim.attempt > ATTEMPTS:
            error = f"the worker died or lost its database {ATTEMPTS} times"
            return _end(report, fire_time, claim, FAILED, error)
        return _build_and_send(report, fire_time, claim, token)
    except Removed:
        log.event("reports.removed", report=report.name, id=report.id, shop=report.shop)
        return "removed"


def _build_and_send(report: ReportSchedule, fire_time: datetime, claim: Claim, token: str) -> str:
    key = f"report-{report.id}-{int(fire_time.timestamp() * 1000)}"
    try:
        with reading() as db:
            document = render(db, report, token, _period(db, report, fire_time))
        mail = compose(document, report.recipients, key, fire_time)
    except Interrupted:  # the worker has to end; the next one takes the run over
        raise
    except Exception as error:
        state = _end(report, fire_time, claim, FAILED, _text(error, token))
        if isinstance(error, BaseTimeoutException):  # that of the whole job
            raise
        return state
    with writing() as db:
        _change(db, claim, (BUILDING,), {"state": SENDING, "rows": document.rows})
    state, shown = _send(mail)
    return _end(report, fire_time, claim, state, shown)


def _send(mail: EmailMessage) -> tuple[str, str | None]:
    """Send a mail. Return the state of its run, and an error or None."""
    try:
        refused = send(mail)
    except UnsureError as error:
        return UNSURE, str(error)
    except (NotSentError, SettingError) as error:
        return FAILED, str(error)
    return SENT, f"refused: {', '.join(refused)}" if refused else None


# ---- the history ------------------------------------------------------------------------------


def _claim(report: ReportSchedule, fire_time: datetime) -> Claim:
    """Take up a run: write its row, or take over the row of an attempt that did not end."""
    now = datetime.now(UTC)
    with writing() as db:
        # Locks the report, so that two workers take turns here.
        db.execute(
            select(ReportSchedule.id).where(ReportSchedule.id == report.id).with_for_update()
        )
        key = ReportHistory.report_id == report.id, ReportHistory.fire_time == fire_time
        row = db.scalar(select(ReportHistory).where(*key))
        if row is None:
            row = ReportHistory(
                report_id=report.id, shop=report.shop, fire_time=fire_time, state=BUILDING,
                attempt=1, began_at=now, changed_at=now,
            )  # fmt: skip
            db.add(row)
            db.flush()
        elif row.state in (BUILDING, SENDING):
            row.attempt += 1
            row.changed_at = now
        else:  # only a person can have made the report due again at that very instant
            _set_next(db, report, fire_time, now)
        return Claim(row.id, row.attempt, row.state)


def _change(db: Session, claim: Claim, states: Sequence[str], values: Mapping[str, Any]) -> None:
    """Change the row of a run. Raises TakenOver when it is in another state, or not this worker's
    any more, and Removed when it is gone."""
    mine = (
        update(ReportHistory)
        .where(ReportHistory.id == claim.history_id, ReportHistory.attempt == claim.attempt)
        .where(ReportHistory.state.in_(states))
        .values(**values, changed_at=datetime.now(UTC))
        .returning(ReportHistory.id)
    )
    if db.scalar(mine) is None:
        exists = db.scalar(select(ReportHistory.id).where(ReportHistory.id == claim.history_id))
        raise TakenOver if exists else Removed


def _end(
    report: ReportSchedule, fire_time: datetime, claim: Claim, state: str, error: str | None
) -> str:
    """Store how a run ended, and the next run of its report, in one transaction. A database that
    is away for some seconds is waited for: a mail that was sent would else be `unsure`."""
    shown = error[:ERROR] if error else None
    for seconds in (*PAUSES, None):
        try:
            now = datetime.now(UTC)
            ended = {"state": state, "ended_at": now, "error": shown}
            with writing() as db:
                _change(db, claim, (BUILDING, SENDING), ended)
                _set_next(db, report, fire_time, now)
            break
        except OperationalError:
            if seconds is None:
                raise
            time.sleep(seconds)
    if state != SENT:
        log.warning(
            f"reports.{state}", report=report.name, id=report.id, shop=report.shop, error=shown
        )
    return state


def _set_next(db: Session, report: ReportSchedule, fire_time: datetime, now: datetime) -> None:
    """Set the next run of a report, unless somebody has changed it meanwhile. Several that an
    outage missed are one run."""
    try:
        following = cron(report.cron, tz=report.tz).next_after(max(now, fire_time))
    except ScheduleError as error:
        following = None
        log.warning("reports.invalid", report=report.name, id=report.id, error=error)
    db.execute(
        update(ReportSchedule)
        .where(ReportSchedule.id == report.id, ReportSchedule.next_run_at == fire_time)
        .values(next_run_at=following, changed_at=now)
    )


def _period(db: Session, report: ReportSchedule, fire_time: datetime) -> Period:
    """Return what a run covers: from the last report that was sent, so that the rows of a failed
    one are in the next; for the first one, from the fire time before this."""
    last = db.scalar(
        select(ReportHistory.fire_time)
        .where(ReportHistory.report_id == report.id, ReportHistory.state == SENT)
        .order_by(ReportHistory.fire_time.desc())
        .limit(1)
    )
    if last is None:
        before = cron(report.cron, tz=report.tz).latest_at(fire_time - timedelta(milliseconds=1))
        last = before or fire_time - timedelta(days=1)
    return Period(after=last, until=fire_time, tz=report.tz)


def _text(error: Exception, token: str) -> str:
    """Return an error for the history and the log, without the shop's token."""
    return " ".join(f"{type(error).__name__}: {error}".replace(token, "***").split())
