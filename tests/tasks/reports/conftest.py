"""Fixtures of the reports: a database of each kind, a mailbox, a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tasks.reports import database, execution, scheduler
from tasks.reports.migrate import migrate
from tasks.reports.models import ReportHistory, ReportSchedule
from tasks.reports.schedules import priority_of, set_session
from tests.postgres import Postgres
from tests.tasks.reports.mailbox import Mailbox, mailbox

YEARLY = "0 0 1 1 *"
Add = Callable[..., int]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL with the tables of the reports in the database "template"."""
    with Postgres(tmp_path_factory.mktemp("pg")) as server:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE template")
        migrate(f"postgresql+psycopg://postgres@/template?host={server.data}")
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The DATABASE_URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'reports.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh("template")


@pytest.fixture
def environment(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Set the environment of the reports, here and for processes."""
    env = {
        "DATABASE_URL": database_url, "REDIS_URL": redis_url, "SMTP_URL": "smtp://127.0.0.1:1",
        "REPORTS_SECRET": "0123456789abcdef" * 2,
    }  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(execution, "PAUSES", ())
    scheduler._redis.cache_clear()
    yield env
    database.engine().dispose()
    database._engine.cache_clear()
    scheduler._redis().close()
    scheduler._redis.cache_clear()


@pytest.fixture
def box(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """A mail server that all use."""
    with mailbox() as box:
        environment["SMTP_URL"] = box.url
        monkeypatch.setenv("SMTP_URL", box.url)
        yield box


def add(shop: str = "one.example", name: str = "Weekly sales", **columns: Any) -> int:
    """Add a report that is due since a minute ago, and a session of its shop. Return its id."""
    now = datetime.now(UTC)
    session = columns.pop("session", True)
    values: dict[str, Any] = {
        "shop": shop, "name": name, "kind": "sales", "active": True, "cron": YEARLY, "tz": "UTC",
        "next_run_at": now - timedelta(minutes=1), "recipients": ["ann@example.com"],
        "priority": priority_of("sales", ["a"]), "own_schedule": False, "changed_at": now,
    }  # fmt: skip
    report = ReportSchedule(**(values | columns))
    with database.writing() as db:
        db.add(report)
    if session:
        set_session(shop, f"token of {shop}")
    return report.id


@pytest.fixture(name="add")
def add_fixture(environment: dict[str, str]) -> Add:
    return add


def runs(report: int | None = None) -> list[ReportHistory]:
    """Return the runs of a report, or of all, in the order of their beginning."""
    query = select(ReportHistory).order_by(ReportHistory.id)
    if report is not None:
        query = query.where(ReportHistory.report_id == report)
    with database.reading() as db:
        return [*db.scalars(query)]


def report_of(report: int) -> ReportSchedule:
    with database.reading() as db:
        found = db.get(ReportSchedule, report)
    assert found
    return found


def states() -> list[str]:
    """Return how each run ended, in the order of their beginning."""
    return [run.state for run in runs()]
