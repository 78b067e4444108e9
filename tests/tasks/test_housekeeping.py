"""The example of jobs under cluster locks: its users, real workers, and a worker that is killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from rq_clock import Interrupted, exclusive
from rq_clock.model.ledger import Enqueued
from rq_clock.run import Run, obey, running
from rq_clock.schedules.service import Schedules
from rq_clock.store.store import Store
from rq_clock.timing.triggers import every
from tasks import housekeeping
from tests.clock.storm import catch_up, chance
from tests.helpers import wait_until
from tests.process import Process

NOW = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
RUN = Run("housekeeping", NOW, "schedule")
DELETE = "rq-clock:default:locks:housekeeping:delete-old-users"


@pytest.fixture(autouse=True)
def _environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.fixture
def database(tmp_path: Path) -> str:
    """1,200 users: number n has logged in n days ago."""
    path = tmp_path / "users.db"
    with closing(sqlite3.connect(path)) as users, users:
        users.execute(
            "CREATE TABLE users "
            "(id INTEGER PRIMARY KEY, email TEXT, last_login TEXT, reminded TEXT)"
        )
        rows = [(f"u{n}@example.com", (NOW - timedelta(n)).isoformat()) for n in range(1200)]
        users.executemany("INSERT INTO users (email, last_login) VALUES (?, ?)", rows)
    return str(path)


def count(database: str, where: str = "1") -> int:
    with closing(sqlite3.connect(database)) as users:
        return int(users.execute(f"SELECT count(*) FROM users WHERE {where}").fetchone()[0])


def test_users_are_old_by_the_fire_time(database: str) -> None:
    with running(RUN):
        assert housekeeping.delete_old_users(database) == 834
        assert housekeeping.delete_old_users(database) == 0
    assert count(database) == 366


def test_who_is_second_returns_early_and_deletes_nothing(database: str) -> None:
    with exclusive("housekeeping:delete-old-users"), running(RUN):
        assert housekeeping.delete_old_users(database) is None
    assert count(database) == 1200


def test_a_shutdown_leaves_between_two_portions_and_frees_the_lock(
    database: str, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rq_clock.run._stopping", lambda: False)
    obey(lambda: True)
    with running(RUN), pytest.raises(Interrupted):
        housekeeping.delete_old_users(database)
    assert count(database) == 700
    assert not connection.exists(DELETE)
    obey(lambda: False)
    with running(RUN):
        assert housekeeping.delete_old_users(database) == 334


def test_after_success_nobody_does_it_again_for_longer(database: str, connection: Redis) -> None:
    with running(RUN):
        assert housekeeping.remind_idle_users(database) == 869
        assert housekeeping.remind_idle_users(database) == -1
    left = connection.pttl("rq-clock:default:locks:housekeeping:remind-idle-users")
    assert timedelta(hours=19) < timedelta(milliseconds=left) <= timedelta(hours=20)


def test_a_failure_holds_nobody_off(tmp_path: Path, database: str) -> None:
    with running(RUN):
        with pytest.raises(sqlite3.OperationalError):
            housekeeping.remind_idle_users(str(tmp_path / "empty.db"))
        assert housekeeping.remind_idle_users(database) == 869


def test_a_frozen_holder_that_wakes_writes_nothing(database: str) -> None:
    with running(RUN):
        housekeeping.remind_idle_users(database)
    users = sqlite3.connect(database)
    with pytest.raises(RuntimeError, match="newest holder"), housekeeping._fenced(users, 1):
        pytest.fail("the block of an old token ran")
    users.close()
    assert count(database) == 1200


def test_the_job_as_a_class_runs_once_an_hour(
    database: str, schedules: Schedules, store: Store, work: Callable[..., bool]
) -> None:
    schedules.add(
        "vacuum", every(hours=1), "tasks.housekeeping.Vacuum.run", kwargs={"database": database}
    )
    for _ in range(2):
        schedules.trigger("vacuum")
        work()
    runs = store.ledger("vacuum")
    assert [r.attempt.state for r in runs if isinstance(r, Enqueued) and r.attempt] == ["ok", "ok"]
    left = store.redis.pttl("rq-clock:default:locks:housekeeping:vacuum")
    assert 0 < left <= 50 * 60 * 1000


APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from rq_clock import Clock, every
clock = Clock()
users = {"database": "users.db", "days": 0}
clock.add("old", every(seconds=1), "tasks.housekeeping.delete_old_users", kwargs=users,
          overlap="allow", catch_up="all")

@asynccontextmanager
async def lifespan(app):
    with clock.start():
        yield

app = FastAPI(lifespan=lifespan)
"""


@pytest.mark.process
def test_end_to_end_with_kills_the_work_is_done_under_one_lock_at_a_time(
    database: str, tmp_path: Path, redis_url: str, store: Store
) -> None:
    """Two web processes with a clock in each, and two workers; whoever leads or works is killed."""
    (tmp_path / "app.py").write_text(APP)
    env = {"REDIS_URL": redis_url, "RQ_CLOCK_MAX_DEATHS": "100", "RQ_CLOCK_WORKER_SILENCE": "2"}
    seed, luck = chance()
    with ExitStack() as stack:

        def start(*words: str) -> Process:
            log = tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log"
            return stack.enter_context(Process(log, "-m", *words, env=env))

        def web() -> Process:
            return start("uvicorn", "app:app", "--port", "0")

        processes = [web(), web(), start("rq_clock", "worker"), start("rq_clock", "worker")]
        for _ in range(4):
            victim = luck.randrange(4)
            processes[victim].live(luck.uniform(2, 4))
            processes[victim].kill()
            words = ("rq_clock", "worker")
            processes[victim] = web() if victim < 2 else start(*words)
        wait_until(lambda: not count(database), f"all users to be deleted, seed={seed}")
        catch_up(store.redis, ["old"])
        for process in processes[:2]:
            assert process.end() in (0, -15)

        def done() -> bool:
            runs = [e for e in store.ledger("old") if isinstance(e, Enqueued)]
            return all(run.attempt and run.attempt.state == "ok" for run in runs)

        wait_until(done, f"all runs to end, seed={seed}")
    assert not store.redis.exists(DELETE)


WORK = """
import os
from tasks import housekeeping
connect = housekeeping.sqlite3.connect
def slowly(path):
    print("inside", flush=True)
    if os.environ.get("HANG"):
        import threading
        threading.Event().wait()
    return connect(path)
housekeeping.sqlite3.connect = slowly
housekeeping.LOCK_SECONDS = 60
print("deleted", housekeeping.delete_old_users("users.db", 0), flush=True)
"""


@pytest.mark.process
def test_a_killed_holder_blocks_nobody_for_longer_than_the_locks_timeout(
    database: str, tmp_path: Path, redis_url: str, connection: Redis
) -> None:
    (tmp_path / "work.py").write_text(WORK)
    env = {"REDIS_URL": redis_url}
    with Process(tmp_path / "first.log", "work.py", env=env | {"HANG": "1"}) as first:
        first.wait_for_line("inside")
        with Process(tmp_path / "second.log", "work.py", env=env) as second:
            second.wait_for_line("deleted None")
        first.kill()
    assert 0 < connection.pttl(DELETE) <= 60_000
    connection.pexpire(DELETE, 300)
    wait_until(lambda: not connection.exists(DELETE), "the lock of a dead process to end")
    with Process(tmp_path / "third.log", "work.py", env=env) as third:
        third.wait_for_line("deleted 1200")
