"""Scheduled reports of many shops: an app of rq-clock's public API, to keep, copy or delete.

    scheduler.py   which reports are due; one job for each shop; start, stop, status, trigger
    execution.py   the reports of a shop, one after another; history; nothing is sent twice
    schedules.py   add, change and remove a report; its own schedule, if it wants one
    models.py      the tables: reports, sessions of shops, history, orders
    database.py    SQLite in .data, or Postgres by DATABASE_URL
    migrate.py     the tables' changes, by Alembic; for the release phase
    tokens.py      access tokens of shops, encrypted
    rendering.py   a report as CSV and as HTML
    mail.py        the mail, sent by SMTP
    catcher.py     a mail server for development
    sample.py      a shop with orders and two reports, to try it
    web.py         the page "Reports" and /api/scheduler

docs/reports.md is for those who use it.
"""

from __future__ import annotations


def preload() -> None:
    """Import what the jobs need, once for all processes of jobs: RQ_CLOCK_SETUP names it."""
    import tasks.reports.scheduler  # noqa: F401
