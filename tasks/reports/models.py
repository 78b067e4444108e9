"""The tables of the reports.

A report is due when `next_run_at` has come. That instant is also the key of the run that it leads
to: the history has one row for each report and instant, so a run that is repeated after a worker's
death finds the row of the first attempt.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy import DateTime as Timestamp
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

BUILDING, SENDING, SENT, FAILED, UNSURE = "building", "sending", "sent", "failed", "unsure"
"""States of a run. `unsure`: the worker died, or the mail server fell silent, while the mail was
handed over. It may have been sent, so it is not sent again."""


class Instant(TypeDecorator[datetime]):
    """An aware instant, stored in UTC: SQLite keeps no offset."""

    impl = Timestamp(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected an instant with an offset, got {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        found: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return found.astimezone(UTC)


class Base(DeclarativeBase):
    pass


class ReportSchedule(Base):
    """A report of a shop: what, to whom, and when next."""

    __tablename__ = "report_schedules"
    __table_args__ = (Index("report_schedules_due", "active", "next_run_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    shop: Mapped[str] = mapped_column(String(90), index=True)
    name: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(20))
    active: Mapped[bool] = mapped_column(default=True)
    cron: Mapped[str] = mapped_column(String(100))
    tz: Mapped[str] = mapped_column(String(64))
    """The zone of the shop, by whose clock the report is due."""
    next_run_at: Mapped[datetime | None] = mapped_column(Instant)
    """None when it is never due again, or when its trigger cannot be read."""
    recipients: Mapped[list[str]] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(default=0)
    """Higher goes first; see schedules.py."""
    own_schedule: Mapped[bool] = mapped_column(default=False)
    """Whether rq-clock has a run-time schedule for it; the check then only mends."""
    changed_at: Mapped[datetime] = mapped_column(Instant, index=True)

    history: Mapped[list[ReportHistory]] = relationship(
        back_populates="report", cascade="all, delete-orphan", passive_deletes=True
    )


class ShopSession(Base):
    """The offline access token of a shop, encrypted (tokens.py)."""

    __tablename__ = "report_sessions"

    shop: Mapped[str] = mapped_column(String(90), primary_key=True)
    token: Mapped[bytes] = mapped_column(LargeBinary)
    changed_at: Mapped[datetime] = mapped_column(Instant)

    def __repr__(self) -> str:
        return f"ShopSession(shop={self.shop!r})"


class ReportHistory(Base):
    """One run of a report. `attempt` is raised by each worker that takes it up: what an earlier
    one still writes is refused."""

    __tablename__ = "report_history"
    __table_args__ = (UniqueConstraint("report_id", "fire_time"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(
        ForeignKey("report_schedules.id", ondelete="CASCADE"), index=True
    )
    shop: Mapped[str] = mapped_column(String(90), index=True)
    fire_time: Mapped[datetime] = mapped_column(Instant)
    state: Mapped[str] = mapped_column(String(10))
    attempt: Mapped[int] = mapped_column(default=1)
    began_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    rows: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    changed_at: Mapped[datetime] = mapped_column(Instant, index=True)

    report: Mapped[ReportSchedule] = relationship(back_populates="history")


class Order(Base):
    """An order of a shop, which the reports of the example are made of."""

    __tablename__ = "report_orders"
    __table_args__ = (Index("report_orders_of_shop", "shop", "ordered_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    shop: Mapped[str] = mapped_column(String(90))
    ordered_at: Mapped[datetime] = mapped_column(Instant)
    product: Mapped[str] = mapped_column(String(100))
    quantity: Mapped[int]
    cents: Mapped[int]
    """Price of all pieces."""
