"""Bring the tables of the reports up to date: `python -m tasks.reports.migrate`.

For the release phase. Without DATABASE_URL it does nothing there: a SQLite is brought up to date by
the first process that opens it. Two that begin at once wait for each other. Without REPORTS_SECRET
it does nothing either: the database is then that of an app that has no reports.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from tasks.reports import settings

HEAD = "0001"
"""The newest migration in migrations/versions; a test compares."""
VERSIONS = "report_migrations"
"""The table that holds the version, beside those of an app's own Alembic."""
_LOCK = 4_004_004_004
"""Postgres's advisory lock of a migration."""


def migrate(url: str) -> None:
    """Bring a database up to date, in one transaction: a migration that is killed has changed
    nothing. Raises SQLAlchemy's errors."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    made = create_engine(url, poolclass=NullPool)
    if made.dialect.name == "sqlite":  # its driver would leave changes of tables out
        event.listen(made, "connect", lambda dbapi, _: setattr(dbapi, "isolation_level", None))
        event.listen(made, "begin", lambda found: found.exec_driver_sql("BEGIN IMMEDIATE"))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with made.begin() as connection:
        if made.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def bring_up_to_date(path: str) -> None:
    """Bring the SQLite in a file up to date, unless it is."""
    if _version(path) == HEAD:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it ends with this process
        if _version(path) != HEAD:
            migrate(f"sqlite:///{path}")


def _version(path: str) -> str | None:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute(f"SELECT version_num FROM {VERSIONS}").fetchone()
    except sqlite3.OperationalError:  # no file, or no tables
        return None
    return str(found[0]) if found else None


def main() -> None:
    """Migrate what DATABASE_URL names, if reports are set up. Exits with 1, and one line, when that
    fails."""
    if os.environ.get("DATABASE_URL") and not os.environ.get("REPORTS_SECRET"):
        print("reports: REPORTS_SECRET is not set, so the database is left alone")
        return
    try:
        url = make_url(settings.database_url())
    except SQLAlchemyError:
        sys.exit(
            "error: DATABASE_URL: expected the URL of a Postgres, got another text (not shown)"
        )
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        sys.exit(f"error: DATABASE_URL: expected a Postgres, got {url.get_backend_name()}")
    if url.get_backend_name() == "sqlite":
        print("reports: no DATABASE_URL, so nothing to migrate; SQLite gets its tables when used")
        return
    try:
        migrate(url.render_as_string(hide_password=False))
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        sys.exit(f"error: cannot migrate the reports' database: {reason}")
    print(f"reports: the database is at version {HEAD}")


if __name__ == "__main__":
    main()
