"""The database: SQLite in .data, or Postgres by DATABASE_URL.

    with reading() as db: ...      # no transaction: each statement alone
    with writing() as db: ...      # one transaction, committed at the end of the block

An engine belongs to the process that made it, because a connection survives no fork. SQLite keeps
a write-ahead log, so that pages read while a worker writes, and a writer waits for another one
instead of failing. A SQLite gets its tables from the first process that opens it; a Postgres gets
them in the release phase (migrate.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, event, make_url
from sqlalchemy.orm import Session

from tasks.reports import settings
from tasks.reports.migrate import bring_up_to_date

BUSY_SECONDS = 30
"""How long a writer of SQLite waits for another one."""
CONNECT_SECONDS = 5
"""A Postgres that does not answer within this is away."""


def engine() -> Engine:
    """Return the engine of this process. Connects on first use."""
    return _engine(settings.database_url(), os.getpid())


@lru_cache(maxsize=1)
def _engine(url: str, pid: int) -> Engine:
    if make_url(url).get_backend_name() == "sqlite":
        # A new connection each time costs little, and none is left open in a thread that is over.
        made = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
        bring_up_to_date(made.url.database or "")
        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)
        return made
    # A small plan has 20 connections in all: one for a job's process, a few for the web process.
    return create_engine(
        url, pool_size=1, max_overflow=3, pool_recycle=300, use_native_hstore=False,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )  # fmt: skip


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself
    for pragma in ("journal_mode = wal", "foreign_keys = on", "synchronous = normal"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    """Begin as a writer: a reader that begins to write later would fail when another has written
    meanwhile, without waiting."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def reading() -> Iterator[Session]:
    """Yield a session whose statements are each a transaction of its own. Raises SQLAlchemy's
    errors."""
    bind = engine().execution_options(isolation_level="AUTOCOMMIT")
    with Session(bind, expire_on_commit=False) as db:
        yield db


@contextmanager
def writing() -> Iterator[Session]:
    """Yield a session in one transaction, committed at the end of the block. An exception, or the
    death of the process, leaves nothing written. Raises SQLAlchemy's errors."""
    with Session(engine(), expire_on_commit=False) as db, db.begin():
        yield db
