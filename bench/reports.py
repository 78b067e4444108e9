"""`python -m bench.reports`: what the clock pays for ten thousand shops with a report each, at its
own minute, beside one check every five minutes for all of them.

Each shop's report is hourly, at a minute of its own in one of five zones: 167 are due each minute.
They are the run-time schedules that `tasks.reports` adds. No worker runs, so what is measured is
the clock alone; two whole minutes each. The lag is the server's, from the ledger.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from redis import Redis

from bench.__main__ import machine, table
from bench.clocks import OURS
from bench.lab import Lab, Process, Row, quantile, sleep_until
from rq_clock import every
from rq_clock.model.ledger import Enqueued
from rq_clock.schedules.edits import ScheduleArgs
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from tasks.reports.models import ReportSchedule
from tasks.reports.on_demand import CHECK_TARGET
from tasks.reports.schedules import own_definition, own_name

OWN, CHECK = COLUMNS = ("own minutes", "one check")
_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Sydney")
MINUTE = 60.0


def own_schedules(shops: int) -> Iterator[ScheduleArgs]:
    """Yield the own schedules of so many shops' reports."""
    for number in range(shops):
        report = ReportSchedule(
            id=number, shop=f"shop-{number}.example", cron=f"{number % 60} * * * *",
            tz=_ZONES[number % len(_ZONES)],
        )  # fmt: skip
        options = own_definition(report)
        yield own_name(number), options.pop("trigger"), options.pop("target"), options


def measure(redis: Redis, minutes: int, shops: int) -> dict[str, float | None]:
    """Return the figures of a clock with so many own schedules; none mean the check."""
    url = "redis://{host}:{port}/0".format(**redis.connection_pool.connection_kwargs)
    schedules = Schedules(redis, settings=Settings.from_env({"REDIS_URL": url}))
    before, began = int(redis.info("memory")["used_memory"]), time.monotonic()
    if shops:
        schedules.add_many(own_schedules(shops))
    else:
        schedules.add("check-reports", every(minutes=5), CHECK_TARGET)
    added = time.monotonic() - began
    held = int(redis.info("memory")["used_memory"]) - before
    with Process(redis, "bench.clocks", OURS) as clock:
        start = (int(time.time() + 10) // 60 + 1) * MINUTE - 5
        sleep_until(start)
        cpu = clock.cpu()
        sleep_until(start + minutes * MINUTE)
        spent = clock.cpu() - cpu
        lags = sorted(_lags(redis, start, start + minutes * MINUTE))
        return {
            "added": added, "held": held / 1024 / 1024, "cpu": spent / minutes * 1000,
            "jobs": len(lags) / minutes, "rss": clock.megabytes("VmRSS"),
            "p50": quantile(lags, 0.5) if lags else None,
            "p99": quantile(lags, 0.99) if lags else None,
        }  # fmt: skip


def _lags(redis: Redis, after: float, until: float) -> Iterator[float]:
    """Yield the lag of each job that was enqueued in this span, in milliseconds."""
    store = Store(redis, "default")
    first, last = (datetime.fromtimestamp(t, UTC) for t in (after, until))
    for entry in store.everything():
        for record in store.ledger(entry.name):
            if isinstance(record, Enqueued) and first <= record.fire_time < last and record.lag:
                yield record.lag.total_seconds() * 1000


ROWS = {
    "added": ("adding the schedules", "s"), "held": ("memory of Redis for them", "MB"),
    "jobs": ("jobs enqueued each minute", ""), "cpu": ("CPU of the clock each minute", "ms"),
    "rss": ("memory of the clock", "MB"), "p50": ("lag p50", "ms"), "p99": ("lag p99", "ms"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reports", description=__doc__)
    parser.add_argument("--shops", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=2)
    options = parser.parse_args()
    lab = Lab(binary=None, quick=False, full=False)
    figures = {}
    for column, shops in ((OWN, options.shops), (CHECK, 0)):
        with lab.redis() as redis:
            figures[column] = measure(redis, options.minutes, shops)
    rows = [
        Row(what=what, unit=unit, figures={column: figures[column][key] for column in COLUMNS})
        for key, (what, unit) in ROWS.items()
    ]
    print(f"{options.shops:,} shops, {options.minutes} minutes each; {machine(lab)}\n")
    print(table(COLUMNS, rows))


if __name__ == "__main__":
    main()
