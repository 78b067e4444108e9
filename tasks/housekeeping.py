"""Jobs under cluster locks: whatever starts them, and however often, one process at a time works.

An example to keep, to copy or to delete; docs/locks.md explains it. The users are in an SQLite
file, so that it runs everywhere:

    CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, last_login TEXT, reminded TEXT)

with ISO 8601 times in UTC.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

from rq_clock import Busy, Interrupted, current_run, exclusive

LOCK_SECONDS = 60
"""A worker that is killed blocks the next one for this long. Refreshed every third of it."""
AT_ONCE = 500
"""Users in one transaction."""


@exclusive("housekeeping:delete-old-users", timeout=LOCK_SECONDS, skip=True)
def delete_old_users(database: str, days: int = 365) -> int:
    """Delete users who have not logged in for `days`. Return how many.

    Somebody else does it already: it returns at once, and the lock is logged (lock.skipped). A
    worker that shuts down leaves between two portions, and the job goes on elsewhere.
    """
    run, deleted = current_run(), 0
    before = (_now() - timedelta(days=days)).isoformat()
    with closing(sqlite3.connect(database)) as users:
        while True:
            with users:
                gone = users.execute(
                    "DELETE FROM users WHERE id IN "
                    "(SELECT id FROM users WHERE last_login < ? ORDER BY id LIMIT ?)",
                    (before, AT_ONCE),
                ).rowcount
            deleted += gone
            if gone < AT_ONCE:
                print(f"housekeeping: {deleted} old users deleted")
                return deleted
            if run and run.stopping:
                raise Interrupted


def remind_idle_users(database: str, days: int = 330) -> int:
    """Remind users who have not logged in for `days`. Return how many; -1 for nothing to do.

    After success nobody does it again for 20 hours, not even by hand. The database refuses what a
    process would write that was frozen, lost the lock, and wakes up: a fencing token.
    """
    try:
        with exclusive("housekeeping:remind-idle-users", timeout=LOCK_SECONDS) as lock:
            before = (_now() - timedelta(days=days)).isoformat()
            with closing(sqlite3.connect(database)) as users, _fenced(users, lock.token):
                reminded = users.execute(
                    "UPDATE users SET reminded = ? WHERE last_login < ? AND reminded IS NULL",
                    (_now().isoformat(), before),
                ).rowcount
            lock.hold(hours=20)
    except Busy as busy:
        print(f"housekeeping: {busy}")
        return -1
    print(f"housekeeping: {reminded} idle users reminded")
    return reminded


class Vacuum:
    """A job as a class: its dotted name ends with a static method."""

    @staticmethod
    @exclusive("housekeeping:vacuum", skip=True, hold=timedelta(minutes=50))
    def run(database: str) -> None:
        """Give the space of deleted users back to the disk, once an hour at most."""
        with closing(sqlite3.connect(database)) as users:
            users.execute("VACUUM")


@contextmanager
def _fenced(users: sqlite3.Connection, token: int) -> Iterator[None]:
    """A transaction that a later holder of the lock has not overtaken: the highest token that the
    database has seen stands in a table of its own."""
    with users:
        users.execute("CREATE TABLE IF NOT EXISTS fence (one INTEGER PRIMARY KEY, token INTEGER)")
        users.execute("INSERT OR IGNORE INTO fence VALUES (1, 0)")
        if not users.execute("UPDATE fence SET token = ?1 WHERE token <= ?1", (token,)).rowcount:
            raise RuntimeError(f"expected the newest holder of the lock, got token {token}")
        yield


def _now() -> datetime:
    """Return the fire time of this run, so that a late or repeated one decides alike."""
    run = current_run()
    return run.fire_time if run else datetime.now(UTC)
