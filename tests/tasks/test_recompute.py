"""The example of a script for a scheduler: imported, and as a process."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tasks.recompute import main, recompute_counts
from tests.process import Process


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as app, app:
        app.execute("CREATE TABLE threads (id INTEGER PRIMARY KEY, comment_count INTEGER)")
        app.execute("CREATE TABLE comments (id INTEGER PRIMARY KEY, thread_id INTEGER)")
        app.executemany("INSERT INTO threads VALUES (?, ?)", [(1, 2), (2, 7), (3, None)])
        app.executemany("INSERT INTO comments (thread_id) VALUES (?)", [(1,), (1,), (2,)])
    return str(path)


def counts(database: str) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(database)) as app:
        return app.execute("SELECT id, comment_count FROM threads ORDER BY id").fetchall()


def test_it_can_be_imported_and_tested(database: str) -> None:
    assert recompute_counts(database) == 2
    assert counts(database) == [(1, 2), (2, 1), (3, 0)]
    assert recompute_counts(database) == 0


def test_an_error_changes_nothing_and_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        recompute_counts(str(tmp_path / "none.db"))
    assert not list(tmp_path.iterdir())


def test_it_needs_one_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "expected the path of a database" in capsys.readouterr().err


def script(path: Path, database: str) -> Process:
    return Process(path / "script.log", "-m", "tasks.recompute", database, env={})


@pytest.mark.process
def test_success_logs_start_end_and_duration_and_exits_with_0(
    tmp_path: Path, database: str
) -> None:
    with script(tmp_path, database) as process:
        assert process.ended() == 0
    start, end = process.lines()
    assert start == "recompute: started"
    assert re.fullmatch(r"recompute: completed, 2 counts were wrong, after \d+\.\d{3} s", end)


@pytest.mark.process
def test_an_error_is_logged_with_its_traceback_and_exits_with_1(tmp_path: Path) -> None:
    with script(tmp_path, "none.db") as process:
        assert process.ended() == 1
    first, *_, last = process.lines()
    assert first == "recompute: started"
    assert "sqlite3.OperationalError: unable to open database file" in process.text()
    assert re.fullmatch(r"recompute: failed after \d+\.\d{3} s", last)


@pytest.mark.process
def test_a_stop_is_logged_and_exits_with_143(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, threading\nfrom tasks import recompute\n"
        "recompute.recompute_counts = lambda _: threading.Event().wait(60)\n"
        "sys.exit(recompute.main(['x']))\n"
    )
    with Process(tmp_path / "script.log", "slow.py", env={}) as process:
        process.wait_for_line("recompute: started")
        os.kill(process.pid, signal.SIGTERM)
        assert process.ended() == 143
    assert "recompute: was stopped after" in process.text()
