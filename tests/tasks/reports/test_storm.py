"""The whole on real parts: clock, workers, Redis, database and mail server, with clock and workers
killed in the middle. Nothing is lost, nothing is doubled, and no shop has two jobs at once."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import func, insert, select

from tasks.reports import database
from tasks.reports.models import SENT, UNSURE, ReportHistory, ReportSchedule, ShopSession
from tasks.reports.scheduler import due_shops
from tasks.reports.tokens import encrypt
from tests.helpers import wait_until
from tests.process import ROOT, Process
from tests.tasks.reports.conftest import YEARLY
from tests.tasks.reports.mailbox import Mailbox

pytestmark = pytest.mark.process
CLOCK = """
from rq_clock import Clock, every

clock = Clock()
clock.add("check-reports", every(seconds=2), "tasks.reports.scheduler.check")
clock.run()
"""


@dataclass(frozen=True)
class Size:
    shops: int
    reports: int
    workers: int
    kills: int

    @property
    def total(self) -> int:
        return self.shops * self.reports


class Fleet:
    """The clock and the workers of an app, one of which is killed now and then."""

    def __init__(self, path: Path, env: dict[str, str], workers: int) -> None:
        self._env = env | {
            "RQ_CLOCK_SETUP": "tests.tasks.reports.probe:install", "RQ_CLOCK_HORSE_JOBS": "100",
        }  # fmt: skip
        self._path = path
        (path / "clock.py").write_text(CLOCK)
        self.clock = self._start_clock()
        self.workers = [self._start_worker() for _ in range(workers)]
        self.killed_workers = 0

    def _start_clock(self) -> Process:
        return Process(self._path / "clock.log", "clock.py", env=self._env)

    def _start_worker(self) -> Process:
        return Process(self._path / "worker.log", str(ROOT / "worker.py"), env=self._env)

    def kill_a_worker(self) -> None:
        victim = random.randrange(len(self.workers))
        self.workers[victim].kill()
        self.workers[victim] = self._start_worker()
        self.killed_workers += 1

    def kill_the_clock(self) -> None:
        self.clock.kill()
        self.clock = self._start_clock()

    def end(self) -> None:
        for process in (self.clock, *self.workers):
            process.kill()


def add_all(size: Size) -> None:
    """Add every shop with its session and its reports, all due."""
    now = datetime.now(UTC)
    shops = [f"shop-{number}.example" for number in range(size.shops)]
    row: dict[str, Any] = {
        "kind": "probe", "active": True, "cron": YEARLY, "tz": "UTC", "priority": 0,
        "next_run_at": now - timedelta(minutes=1), "recipients": ["ann@example.com"],
        "own_schedule": False, "changed_at": now,
    }  # fmt: skip
    with database.writing() as db:
        sessions = [{"shop": s, "token": encrypt(s), "changed_at": now} for s in shops]
        db.execute(insert(ShopSession), sessions)
        reports = [row | {"shop": s, "name": f"R{n}"} for s in shops for n in range(size.reports)]
        db.execute(insert(ReportSchedule), reports)


class Ended:
    """The number of ended runs, asked for once in a while: the machine is for the workers."""

    SECONDS = 0.5

    def __init__(self) -> None:
        self._number, self._next = 0, 0.0

    def __call__(self) -> int:
        if time.monotonic() >= self._next:
            with database.reading() as db:
                ended = select(func.count()).where(ReportHistory.ended_at.is_not(None))
                self._number = db.scalar(ended) or 0
            self._next = time.monotonic() + self.SECONDS
        return self._number


def storm(size: Size, fleet: Fleet, box: Mailbox, redis: Redis) -> str:
    """Let the fleet run all reports, with kills. Return the figures."""
    began, ended = time.monotonic(), Ended()
    try:
        for number in range(size.kills):
            share = size.total * (number + 1) // (size.kills + 2)
            wait_until(lambda share=share: ended() >= share, f"{share} reports", timeout=1800)  # type: ignore[misc]
            fleet.kill_the_clock() if number % 3 == 2 else fleet.kill_a_worker()
        wait_until(lambda: ended() == size.total, f"all {size.total} reports", timeout=1800)
        seconds = time.monotonic() - began
    finally:
        fleet.end()
    with database.reading() as db:
        rows = [*db.scalars(select(ReportHistory))]
        due = due_shops(datetime.now(UTC))
    how = Counter(row.state for row in rows)
    assert redis.lrange("violations", 0, -1) == []
    assert box.together == []
    assert len({row.report_id for row in rows}) == len(rows) == size.total
    assert how.keys() <= {SENT, UNSURE}
    assert how[UNSURE] <= fleet.killed_workers
    mails = Counter(box.ids())
    assert max(mails.values()) == 1
    for row in rows:
        key = f"<report-{row.report_id}-{int(row.fire_time.timestamp() * 1000)}@localhost>"
        assert key in mails or row.state == UNSURE
    assert due == []
    again = sum(row.attempt > 1 for row in rows)
    return (
        f"{size}: {size.total / seconds:.0f} reports/s, {dict(how)}, built again {again}, "
        f"mails {len(box.kept)}, two of one shop at once 0, doubled 0"
    )


def test_killed_workers_and_clocks_lose_and_double_no_report(
    environment: dict[str, str], box: Mailbox, connection: Redis, tmp_path: Path
) -> None:
    size = Size(shops=40, reports=5, workers=3, kills=3)
    add_all(size)
    print(storm(size, Fleet(tmp_path, environment, size.workers), box, connection))


@pytest.mark.soak
def test_two_thousand_shops_are_served_by_four_workers_that_are_killed(
    environment: dict[str, str], box: Mailbox, connection: Redis, tmp_path: Path
) -> None:
    size = Size(shops=2000, reports=5, workers=4, kills=12)
    add_all(size)
    print(storm(size, Fleet(tmp_path, environment, size.workers), box, connection))
