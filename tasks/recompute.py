"""Recompute the counts of an app, as a script for a scheduler should be written.

    python -m tasks.recompute app.db

It logs its beginning, its end and its duration, and its exit code says whether it succeeded: 0, 1
after an error, 2 when it is called wrongly, 143 after SIGTERM. Importing it runs nothing, so tests
call `recompute_counts`, and a schedule can run that function without a process of its own. An
example to keep, to copy or to delete; docs/commands.md explains it.
"""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from types import FrameType


def recompute_counts(database: str) -> int:
    """Store in each thread how many comments it has, in one transaction. Return the number of
    threads whose count was wrong.

    The tables are threads (id, comment_count) and comments (thread_id) of an SQLite file. Raises
    sqlite3.Error; nothing is changed then.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as app, app:
        return app.execute(
            "UPDATE threads SET comment_count = found FROM ("
            "  SELECT threads.id AS thread, count(comments.thread_id) AS found"
            "  FROM threads LEFT JOIN comments ON comments.thread_id = threads.id"
            "  GROUP BY threads.id"
            ") WHERE threads.id = thread AND comment_count IS NOT found"
        ).rowcount


def main(arguments: Sequence[str]) -> int:
    """Run the script and return its exit code."""
    if len(arguments) != 1:
        print("expected the path of a database: python -m tasks.recompute app.db", file=sys.stderr)
        return 2
    started, code, how = time.monotonic(), 1, "failed"
    try:
        signal.signal(signal.SIGTERM, _end)
        print("recompute: started", flush=True)
        changed = recompute_counts(arguments[0])
        code, how = 0, f"completed, {changed} counts were wrong,"
    except SystemExit as error:
        code, how = int(str(error)), "was stopped"
    except Exception:
        traceback.print_exc()
    print(f"recompute: {how} after {time.monotonic() - started:.3f} s", flush=True)
    return code


def _end(number: int, frame: FrameType | None) -> None:
    """Leave at once, and let `main` log it."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
