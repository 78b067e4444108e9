"""Heavy loads of our own clock: catching up with a long time, and a deploy that changes everything.
`rq cron` does neither. What counts is the neighbours: 20 schedules that are due each second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from redis import Redis

from bench.clocks import BEHIND, OURS, THEIRS, options, schedules
from bench.lab import Lab, Process, Row, quantile, sleep_until, whole_second
from rq_clock.clock.reconcile import plan
from rq_clock.model.entry import Lease
from rq_clock.model.ledger import Enqueued
from rq_clock.model.schedule import declare
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store

NEIGHBOURS = [f"second-{i}" for i in range(20)]
WEEK, DAY = 7 * 86_400, 86_400
CHANGED = 100_000


def catch_up(lab: Lab) -> Iterator[Row]:
    """A schedule of every second that was away for two days (--full: a week) catches up."""
    away = WEEK if lab.full else 2 * DAY  # in one day too few seconds pass to see others
    work = ("--each-second=20", "--behind=1")
    with lab.redis() as redis:
        store = _declared_before(redis, timedelta(seconds=away), *work)
        with Process(redis, "bench.clocks", OURS, *work) as process:
            while not redis.llen(f"rq:queue:{BEHIND}"):
                process.check()
                time.sleep(0.01)
            began = time.time()
            while redis.llen(f"rq:queue:{BEHIND}") < away:
                process.check()
                time.sleep(0.05)
            ended = time.time()
            sleep_until(whole_second(12))
            beside = _lags(store, began + 1, ended)
            alone = _lags(store, ended + 1, time.time() - 1)
    what = f"catching up with {away // 3600} hours of every second"
    yield _row(f"{what}: runs a second", "", away / (ended - began), least=1000)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        aim = max(1.1 * quantile(alone, part), quantile(alone, part) + 5)
        yield _row(f"{what}: lag {name} of others", "ms", quantile(beside, part), aim=aim)


def deploy(lab: Lab) -> Iterator[Row]:
    """100,000 declared schedules, all of which this deploy changes."""
    size = CHANGED // 2 if lab.quick else CHANGED
    base = f"--base={time.time()}"
    work = ("--each-second=20", f"--idle={size}", base)
    with lab.redis() as redis:
        store = _declared_before(redis, timedelta(0), *work)
        with Process(redis, "bench.clocks", OURS, *work, "--timeout=99") as process:
            while Leases(store).leader().get("token") is None:
                process.check()
                time.sleep(0.01)
            began = time.time()
            last = f"idle-{size - 1}"
            while '"timeout":99' not in (store.definitions([last])[0] or ""):
                process.check()
                time.sleep(0.05)
            ended = time.time()
            sleep_until(whole_second(3))
            lags = _lags(store, began + 2, ended + 1)
    what = f"a deploy changes {size:,}"
    yield _row(f"{what}: done", "s", ended - began)
    yield _row(f"{what}: others enqueued meanwhile, of 100", "", 100 * len(lags) / (
        len(NEIGHBOURS) * max(1, int(ended + 1) - int(began + 2))), least=100)  # fmt: skip
    yield _row(f"{what}: longest lag of others", "ms", lags[-1])


def _declared_before(redis: Redis, ago: timedelta, *work: str) -> Store:
    """Declare the work of a clock process as if that had been then; nothing leads afterwards."""
    settings = Settings.from_env({})
    store, then = Store(redis, settings.namespace), datetime.now(UTC) - ago
    leases = Leases(store)
    rows = schedules(options(OURS, *work))
    declared = {name: declare(name, t, target, o) for name, t, target, o in rows}
    changes = plan(declared, {}, {}, then).changes
    lease = leases.acquire("bench", (settings.owner, ""), "starting", then)
    assert isinstance(lease, Lease), "nobody else leads here"
    for _ in store.reconcile(lease, 0, then, changes):
        leases.renew(lease)
    leases.release(lease)
    return store


def _lags(store: Store, begin: float, end: float) -> list[float]:
    """Return the lags of the neighbours' fire times in a time, sorted, in ms."""
    return sorted(
        entry.lag / timedelta(milliseconds=1)
        for name in NEIGHBOURS
        for entry in store.ledger(name)
        if isinstance(entry, Enqueued)
        and entry.lag is not None
        and begin <= entry.fire_time.timestamp() < end
    )


def _row(
    what: str, unit: str, ours: float, *, aim: float | None = None, least: float | None = None
) -> Row:
    figures: dict[str, float | None] = {OURS: ours, THEIRS: None}
    return Row(what=what, unit=unit, figures=figures, aim=aim, least=least)
