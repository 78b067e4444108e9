"""What `make screenshots` shows of callbacks and reports, at an instant that never changes."""

from __future__ import annotations

import os
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from redis import Redis

from rq_clock.callbacks import Callbacks, NewTask, service
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron
from tasks.reports import database, web
from tasks.reports.models import ReportHistory, ReportSchedule
from tasks.reports.schedules import set_session

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
CALLS = [
    ("hooks.partners.example/orders", "ok", 200, ""),
    ("hooks.partners.example/refunds", "ok", 204, ""),
    ("old.example.com/hook", "gone", 410, "410 Gone"),
    ("erp.example.com/prices", "status", 503, "503 Service Unavailable"),
    ("erp.example.com/stock", "status", 503, "503 Service Unavailable"),
]
"""URL, kind of result, status and error of the calls that were made."""
WAITING = ("shop.example.com/carts/4711/remind", "shop.example.com/trials/12/end")
REPORTS = [
    ("tea.example", "Monthly sales", "0 6 1 * *", "unsure",
     "the worker died while it handed the mail over"),
    ("bikes.example", "Weekly sales", "0 9 * * mon", "sent", None),
    ("bikes.example", "Returns", "0 15 * * *", "sent", None),
    ("coffee.example", "Daily sales", "30 7 * * *", "failed",
     "ConnectionError: mail.example.com refused the connection"),
]  # fmt: skip
"""Shop, name, cron, and state and error of the newest run. The returns are due."""


def write_callbacks(redis: Redis, settings: Settings, now: datetime) -> str:
    """Write tasks in several states. Return the id of one that is called again."""
    service._ids._last = to_ms(now) << 80 | 0x5EED << 60  # the next ones follow it
    random.seed(1)  # the jitter of pauses
    tasks = Callbacks(redis, by="shop", settings=settings)
    dispatch = Dispatch(Store(redis, "default"), "d1")
    assert dispatch.enter()
    redis.sadd("rq:workers:callbacks", "rq:worker:worker.1.2")
    redis.hset("rq:worker:worker.1.2", "queues", "default,callbacks")
    again = ""
    for url, result, status, error in CALLS:
        tasks.enqueue(NewTask(url=f"https://{url}", tags=("eu",), payload={"order": 4711}))
        [claimed] = dispatch.claim(1).tasks
        ended = CallResult(
            id=claimed.id, attempt=1, result=result, status=status, seconds=0.412, error=error,
            answer='{"error": "maintenance until 15:00"}' if error else "",
        )  # fmt: skip
        dispatch.finish([ended])
        again = claimed.id
    for days, url in enumerate(WAITING, 1):
        at = now + days * DAY
        tasks.enqueue(NewTask(url=f"https://{url}", execute_at=at, tags=("mail",)))
    return again


def write_reports(path: Path, redis_url: str, now: datetime) -> None:
    """Write reports and their history into a SQLite in `path`, and let the page show `now`."""

    class Still(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return now

    web.datetime = Still  # type: ignore[attr-defined]
    os.environ |= {
        "DATABASE_URL": f"sqlite:///{path / 'reports.db'}", "REDIS_URL": redis_url,
        "REPORTS_SECRET": "0123456789abcdef" * 2,
    }  # fmt: skip
    for shop, name, text, state, error in REPORTS:
        trigger, due = cron(text, tz="Europe/Berlin"), name == "Returns"
        last = trigger.latest_at(now - DAY if due else now)
        assert last
        with database.writing() as db:
            report = ReportSchedule(
                shop=shop, name=name, kind="sales", active=True, cron=text, tz="Europe/Berlin",
                next_run_at=trigger.next_after(last), recipients=["ann@example.com"], priority=1,
                own_schedule=name == "Daily sales", changed_at=now,
            )  # fmt: skip
            db.add(report)
            db.flush()
            run = ReportHistory(
                report_id=report.id, shop=shop, fire_time=last, state=state, error=error,
                rows=None if error else 31, began_at=last, ended_at=last + MINUTE, changed_at=last,
            )  # fmt: skip
            db.add(run)
        if shop != "tea.example":
            set_session(shop, "an offline token")
