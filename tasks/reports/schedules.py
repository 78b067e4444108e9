"""Add, change and remove the reports of shops.

A report is due by a cron expression on the clock of the shop's zone. Usually the check finds it
(scheduler.py). With `own_schedule` rq-clock also gets a run-time schedule for it, which fires at
the report's own minute; the database stays the truth. If the process dies between the two, or
Redis loses the schedule, the check finds the report overdue, runs it and mends its schedule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from rq_clock import ScheduleError, Schedules, cron, in_group
from tasks.reports.database import reading, writing
from tasks.reports.models import ReportSchedule, ShopSession
from tasks.reports.on_demand import arrange_check
from tasks.reports.rendering import KINDS
from tasks.reports.tokens import encrypt

RUN_SHOP = "tasks.reports.execution.run_shop"
SHOP = re.compile(r"[a-z0-9][a-z0-9.-]{0,88}")
_MAIL = re.compile(r"[^@\s<>,;:\"]{1,64}@[^@\s<>,;:\"]{1,200}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
BATCH = 500
RECIPIENTS = 50
"""Recipients of a report at most."""
URGENT = 100
"""The priority from which a shop goes before all that wait."""
_WEIGHT = {"sales": 20, "orders": 10}
"""Type → its share of the priority; each recipient adds one."""


class ReportError(Exception):
    """A report is wrong; the text names every fault."""


def priority_of(kind: str, recipients: Sequence[str]) -> int:
    """Return how urgent a report is: by its type, and by the number of its recipients."""
    return _WEIGHT.get(kind, 0) + len(recipients)


def now() -> datetime:
    return datetime.now(UTC)


def faults_of(
    shop: object, name: object, kind: object, cron_text: str, tz: str, recipients: Sequence[object]
) -> list[str]:
    """Return what is wrong with a report, each with its field."""
    found = []
    if not isinstance(shop, str) or not SHOP.fullmatch(shop):
        found.append(f"shop: expected up to 89 of a-z, 0-9, '.' and '-', got {shop!r}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        found.append(f"name: expected 1-100 characters on one line, got {name!r}")
    if kind not in KINDS:
        found.append(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    try:
        cron(cron_text, tz=tz)
    except ScheduleError as error:
        found.append(f"cron: {error}")
    if not 1 <= len(recipients) <= RECIPIENTS:
        found.append(f"recipients: expected 1 to {RECIPIENTS} addresses, got {len(recipients)}")
    found += [
        f"recipients: expected an address such as ann@example.com, got {address!r}"
        for address in recipients
        if not isinstance(address, str) or not _MAIL.fullmatch(address)
    ]
    return found


def add_report(  # noqa: PLR0913 - one keyword a column
    *,
    shop: str,
    name: str,
    kind: str,
    cron_text: str,
    tz: str,
    recipients: Sequence[str],
    own_schedule: bool = False,
    priority: int | None = None,
) -> int:
    """Add a report, first due at its next minute by its trigger. Return its id.

    Raises ReportError with every fault; then nothing is stored.
    """
    if faults := faults_of(shop, name, kind, cron_text, tz, recipients):
        raise ReportError("; ".join(faults))
    at = now()
    report = ReportSchedule(
        shop=shop, name=name, kind=kind, active=True, cron=cron_text, tz=tz,
        next_run_at=cron(cron_text, tz=tz).next_after(at), recipients=list(recipients),
        priority=priority_of(kind, recipients) if priority is None else priority,
        own_schedule=own_schedule, changed_at=at,
    )  # fmt: skip
    with writing() as db:
        db.add(report)
    _announce_changed(report)
    return report.id


def set_active(report_id: int, active: bool) -> None:
    """Let a report run, from its next minute on, or run no more. Raises ReportError if there is
    none."""
    with writing() as db:
        report = _found(db, report_id)
        report.active, report.changed_at = active, now()
        if active:
            report.next_run_at = cron(report.cron, tz=report.tz).next_after(report.changed_at)
    _announce_changed(report)


def run_soon(report_id: int) -> str:
    """Make a report due now, whatever its trigger. Return its shop, whose job runs it. Raises
    ReportError if there is none, or if it is not active."""
    with writing() as db:
        report = _found(db, report_id)
        if not report.active:
            raise ReportError(f"{report.name}: expected an active report; activate it first")
        report.next_run_at = report.changed_at = now()
    arrange_check()
    return report.shop


def remove_report(report_id: int) -> None:
    """Remove a report with its history. Raises ReportError if there is none."""
    with writing() as db:
        report = _found(db, report_id)
        db.execute(delete(ReportSchedule).where(ReportSchedule.id == report_id))
    report.active = False
    _announce_changed(report)


def set_session(shop: str, token: str) -> None:
    """Store the access token of a shop, encrypted, in place of an earlier one. Raises ReportError,
    which does not show the token, and SettingError without a secret."""
    if not SHOP.fullmatch(shop) or not token.isprintable() or not 1 <= len(token) <= 4000:
        raise ReportError("expected a shop and a token of 1-4,000 printable characters")
    values = {"shop": shop, "token": encrypt(token), "changed_at": now()}
    with writing() as db:
        insert: Any = sqlite_insert if db.get_bind().dialect.name == "sqlite" else postgres_insert
        statement = insert(ShopSession).values(values)
        changed = {name: statement.excluded[name] for name in ("token", "changed_at")}
        db.execute(statement.on_conflict_do_update(index_elements=["shop"], set_=changed))


def remove_session(shop: str) -> None:
    """Remove the token of a shop: its reports are skipped from then on."""
    with writing() as db:
        db.execute(delete(ShopSession).where(ShopSession.shop == shop))


# ---- schedules of their own -------------------------------------------------------------------


def use_own_schedule(report_id: int, own: bool) -> None:
    """Let a report have a run-time schedule of its own, or leave it to the check."""
    with writing() as db:
        changed = {"own_schedule": own, "changed_at": now()}
        db.execute(update(ReportSchedule).where(ReportSchedule.id == report_id).values(changed))
        report = _found(db, report_id)
    announce([report])


def own_name(report_id: int) -> str:
    """Return the name of a report's own schedule."""
    return f"report-{report_id}"


def _announce_changed(report: ReportSchedule) -> None:
    if report.own_schedule:
        announce([report])
    arrange_check()


def announce(reports: Iterable[ReportSchedule]) -> None:
    """Let rq-clock have a schedule for each of these that wants its own, and none for the others.

    Raises StoreUnavailable when Redis cannot be used: the database is changed already, and the
    check mends what is missing.
    """
    schedules = Schedules(by="reports")
    for report in reports:
        name = own_name(report.id)
        if report.own_schedule and report.active:
            schedules.add(name, **own_definition(report), replace=True)
        elif schedules.get(name):
            schedules.remove(name)


def own_definition(report: ReportSchedule) -> dict[str, Any]:
    """Return the definition of a report's own schedule, as keywords of `Schedules.add`. The job is
    that of its shop, so it also runs what else is due there."""
    return {
        "trigger": cron(report.cron, tz=report.tz),
        "target": RUN_SHOP,
        "args": [report.shop],
        "tags": ["reports"],
        "group": group_of(report.shop),
    }


def group_of(shop: str) -> str:
    """Return the group in which the jobs of a shop run one after another."""
    return f"shop:{shop}"


def meta_of(shop: str) -> dict[str, Any]:
    """Return the meta of a shop's job, which puts it into the shop's group."""
    return in_group(group_of(shop))


def mend_own(shops: Sequence[str]) -> None:
    """Add the reports' own schedules of these shops again: one was overdue, so it did not fire."""
    for start in range(0, len(shops), BATCH):
        own = select(ReportSchedule).where(
            ReportSchedule.shop.in_(shops[start : start + BATCH]),
            ReportSchedule.active,
            ReportSchedule.own_schedule,
        )
        with reading() as db:
            found = db.scalars(own).all()
        add_own(found)


def add_own(reports: Iterable[ReportSchedule]) -> int:
    """Add the own schedules of very many reports, which replace those that there are. Return their
    number."""
    rows = []
    for report in reports:
        options = own_definition(report)
        trigger, target = options.pop("trigger"), options.pop("target")
        rows.append((own_name(report.id), trigger, target, options))
    return Schedules(by="reports").add_many(rows, replace=True)


def _found(db: Session, report_id: int) -> ReportSchedule:
    report = db.get(ReportSchedule, report_id)
    if report is None:
        raise ReportError(f"expected the id of a report, got {report_id}")
    return report
