"""`python -m bench.scale`: a million run-time schedules beside a thousand.

Two private servers, one with each number of schedules that are not due for days, and for each a
clock that declares nothing. What is due comes on top, as much on both and in the same minutes: it
is to cost the same, because a clock's costs follow what is due, not what exists. So most aims are
the other column. A ratio of 0.8 counts as the same; noise makes that much, and more of the worst
of a few dozen instants, which is what p99 is here. What does grow is Redis's own part of a commit:
what is due lies scattered among the rest, where the processor's caches do not reach.

An app of a million tenants is imitated. Each has a schedule with a name and arguments of its own,
half of them `every`, half of them `cron` by 250 expressions in five zones.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, TypeAlias

from redis import Redis

from bench.__main__ import machine, table
from bench.clocks import OURS, QUEUE
from bench.lab import (
    Lab,
    Monitor,
    Process,
    Row,
    await_length,
    quantile,
    sleep_until,
    whole_second,
)
from bench.measures import QUEUE_KEY
from rq_clock import cron, every, once
from rq_clock.model.ledger import Enqueued
from rq_clock.schedules.edits import ScheduleArgs
from rq_clock.schedules.listing import Listing
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.triggers import Trigger

MILLION, THOUSAND = 1_000_000, 1_000
ALIKE = 0.8
"""A ratio from which on two figures count as the same."""
TARGET = "bench.task"
EACH_SECOND, HERD = 100, 10_000
PHASE = 0.5
"""Seconds from what is due on one server to what is due on the other, so that the two clocks work
in turns."""
TAG, ONE_IN = "gold", 100
_EXPRESSIONS = 250
_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Sydney")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Start a server for a number of schedules that are not due."""

    size: int
    redis: Redis
    schedules: Schedules
    store: Store

    @property
    def column(self) -> str:
        return f"{self.size:,}"


Pair: TypeAlias = tuple[Site, Site]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000; for a first look")
    parser.add_argument("--server", help="path of another redis-server or valkey-server")
    options = parser.parse_args()
    lab = Lab(binary=options.server, quick=options.quick, full=False)
    rows: list[Row] = []
    with ExitStack() as stack:
        sizes = (MILLION // 10 if lab.quick else MILLION, THOUSAND)
        many, few = (_site(stack.enter_context(lab.redis()), size) for size in sizes)
        try:
            for measure in MEASURES:
                load, began = os.getloadavg()[0], time.monotonic()
                rows += measure(lab, (many, few))
                took = f"{time.monotonic() - began:.0f} s, load before {load:.1f}"
                print(f"{measure.__name__}: {took}", file=sys.stderr, flush=True)
        finally:  # what was measured before something went wrong took minutes
            if rows:
                print(table((many.column, few.column), rows), end="\n\n", flush=True)
    print(machine(lab))


# ---- the schedules themselves -------------------------------------------------------------------


def add(_lab: Lab, pair: Pair) -> Iterator[Row]:
    """Add them all, while no clock runs."""
    many, few = pair
    few.schedules.add_many(_tenants(few.size))
    yield from _adding(many, _tenants(many.size), 15_000, pair)


def one_offs(lab: Lab, pair: Pair) -> Iterator[Row]:
    """Jobs for one instant each, on a server of their own: many at a time, then one by one."""
    count, calls = (20_000, 1_000) if lab.quick else (200_000, 5_000)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    given: Iterator[ScheduleArgs] = (
        (f"job-{i:06}", once(tomorrow + timedelta(seconds=i)), TARGET, _options(i))
        for i in range(count)
    )
    with lab.redis() as redis:
        site = _site(redis, count)
        yield from _adding(site, given, 10_000, pair, "one-offs: ")
        began = time.perf_counter()
        for i in range(calls):
            site.schedules.once(tomorrow + timedelta(seconds=i), TARGET, **_options(i))
        took = time.perf_counter() - began
        what = f"one-offs: {calls:,} calls of once, {calls / took:,.0f} a second"
        yield _only(what, "s", took, pair)


def _adding(
    site: Site, given: Iterator[ScheduleArgs], a_second: int, pair: Pair, of: str = ""
) -> Iterator[Row]:
    """What `add_many` takes. On a busy machine the processors' time says more than the clock's;
    the app's has in it what makes the triggers."""
    memory, server, app = _used(site.redis), _cpu(site.redis), time.process_time()
    began = time.perf_counter()
    site.schedules.add_many(given)
    took, app = time.perf_counter() - began, time.process_time() - app
    server, memory = _cpu(site.redis) - server, _used(site.redis) - memory
    what = f"{of}add_many of {site.column}, {site.size / took:,.0f} a second"
    yield _only(what, "s", took, pair, aim=round(site.size / a_second, 1))
    yield _only(f"{of}the app's CPU for each", "µs", app / site.size * 1e6, pair)
    yield _only(f"{of}Redis's CPU for each", "µs", server / site.size * 1e6, pair)
    yield _only(f"{of}memory in Redis for each", "bytes", memory / site.size, pair, aim=500)


def find(_lab: Lab, pair: Pair) -> Iterator[Row]:
    """Look for some among all. Of a thousand there is no page of 100 to fill."""
    many, _ = pair
    first: dict[str, Callable[[], Listing]] = {
        f"by tag, 1 in {ONE_IN}": lambda: many.schedules.find(tag=TAG),
        f"by text, 1 in {ONE_IN}": lambda: many.schedules.find(text="tenant-42"),
    }
    for kind, ask in first.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            page = ask()
            times.append(time.perf_counter() - began)
            assert len(page.entries) >= 100, f"{len(page.entries)} found {kind}"
        yield _only(f"find {kind}: the first 100", "ms", median(times) * 1000, pair)
    yield _only("find one by its name as text: all pages", "ms", _find_one(many) * 1000, pair)
    yield _alike("get", "ms", pair, [_get(site) * 1000 for site in pair])


def _find_one(site: Site) -> float:
    """Seconds to look through all."""
    began, cursor, found = time.perf_counter(), "", 0
    while True:
        page = site.schedules.find(text=_name(site.size // 3, site.size), cursor=cursor)
        cursor, found = page.cursor, found + len(page.entries)
        if not cursor:
            assert found == 1, f"{found} found, one has this name"
            return time.perf_counter() - began


def _get(site: Site) -> float:
    """Seconds, the median of 200."""
    times = []
    for i in range(0, site.size, site.size // 200):
        began = time.perf_counter()
        entry = site.schedules.get(_name(i, site.size))
        times.append(time.perf_counter() - began)
        assert entry is not None, f"{i} is not there"
    return median(times)


# ---- the clock among them -----------------------------------------------------------------------


def start(lab: Lab, pair: Pair) -> Iterator[Row]:
    """From the start of the process until it leads, and until it is through its first pass."""
    leading: dict[str, list[float]] = {site.column: [] for site in pair}
    proven: dict[str, list[float]] = {site.column: [] for site in pair}
    for _ in range(2 if lab.quick else 5):  # in turns, so that noise meets both
        for site in pair:
            with _clock(site) as process:
                leading[site.column].append(_await_fact(site, "token", process))
                proven[site.column].append(_await_fact(site, "proven", process))
    for what, found in {"it leads": leading, "its first pass is done": proven}.items():
        figures: dict[str, float | None] = {c: median(times) for c, times in found.items()}
        beside = median(found[pair[1].column])
        yield Row(what=f"start until {what}", unit="s", figures=figures, aim=round(beside + 1, 2))


def idle(lab: Lab, pair: Pair) -> Iterator[Row]:
    """None is due: what does waiting cost? Both at once."""
    seconds = 20 if lab.quick else 40  # what a clock does when idle recurs within 20 s
    with _clocks(pair) as clocks, ExitStack() as watch:
        time.sleep(5)  # past the start, and its first looks around
        monitors = [watch.enter_context(Monitor(site.redis, QUEUE_KEY)) for site in pair]
        before = [clock.cpu() for clock in clocks]
        time.sleep(seconds)
        used = [clock.cpu() - cpu for clock, cpu in zip(clocks, before, strict=True)]
        for clock in clocks:
            clock.check()
        memory = [clock.megabytes("VmRSS") for clock in clocks]
    a_minute = 60 / seconds
    found = {
        ("CPU a minute", "s"): [cpu * a_minute for cpu in used],
        ("requests a minute", ""): [monitor.requests * a_minute for monitor in monitors],
        ("with commands in scripts", ""): [monitor.commands * a_minute for monitor in monitors],
        ("the clock's memory", "MB"): memory,
    }
    for (what, unit), values in found.items():
        yield _alike(f"idle: {what}", unit, pair, values)


def lag(lab: Lab, pair: Pair) -> Iterator[Row]:
    """100 more that are due each second: how late are they enqueued?

    By the ledger, in whole milliseconds; nobody watches meanwhile. The 100 come in one batch, so
    there is one lag a second, that of the script that enqueues them all."""
    seconds = 10 if lab.quick else 30
    names = [f"second-{i}" for i in range(EACH_SECOND)]
    with _clocks(pair) as clocks:
        for site, clock, phase in zip(pair, clocks, (0, PHASE), strict=True):
            trigger = every(seconds=1, anchor=datetime.fromtimestamp(phase, UTC))
            options = {"queue": QUEUE, "overlap": "allow"}  # no worker takes the jobs away
            site.redis.delete(QUEUE_KEY)
            site.schedules.add_many((name, trigger, TARGET, options) for name in names)
            await_length(site.redis, QUEUE_KEY, EACH_SECOND, clock)
        begin = whole_second(2)
        sleep_until(begin + seconds + 2)
        lags = [_lags(site.store, names, begin, seconds) for site in pair]
        for site in pair:
            site.schedules.remove(names)
    for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
        many, few = (quantile(found, part) for found in lags)
        figures: dict[str, float | None] = {pair[0].column: many, pair[1].column: few}
        aim = few + 2  # a ratio of so small whole numbers says nothing
        yield Row(what=f"lag {name}, {EACH_SECOND} a second", unit="ms", figures=figures, aim=aim)


def _lags(store: Store, names: list[str], begin: float, seconds: int) -> list[float]:
    """Return the lags of all fire times within some seconds, sorted, in ms."""
    found: list[float] = []
    for name in names:
        inside = [
            entry.lag / timedelta(milliseconds=1)
            for entry in store.ledger(name)
            if isinstance(entry, Enqueued)
            and entry.lag is not None
            and 0 <= entry.fire_time.timestamp() - begin < seconds
        ]
        if len(inside) != seconds:
            raise RuntimeError(f"{name}: {len(inside)} fire times of {seconds} were enqueued")
        found += inside
    return sorted(found)


def herd(lab: Lab, pair: Pair) -> Iterator[Row]:
    """10,000 more that are due at one instant, once: when is the last on the queue?"""
    times: dict[str, list[float]] = {site.column: [] for site in pair}
    with _clocks(pair) as clocks:
        for turn in range(1 if lab.quick else 3):
            first = whole_second(12)  # time to add all, and to stage them
            runners = list(zip(pair, clocks, strict=True))[:: -1 if turn % 2 else 1]
            for i, (site, _) in enumerate(runners):
                site.redis.delete(QUEUE_KEY)
                at = once(datetime.fromtimestamp(first + 3 * i, UTC))
                site.schedules.add_many(
                    (f"herd-{turn}-{n}", at, TARGET, {"queue": QUEUE}) for n in range(HERD)
                )
            for i, (site, clock) in enumerate(runners):
                sleep_until(first + 3 * i)
                await_length(site.redis, QUEUE_KEY, HERD, clock)
                times[site.column].append(time.time() - first - 3 * i)
        peaks = [clock.megabytes("VmHWM") for clock in clocks]
    values = [median(times[site.column]) for site in pair]
    yield _alike(f"{HERD:,} at one instant: last", "s", pair, values)
    yield _alike(f"{HERD:,} at one instant: the clock's peak memory", "MB", pair, peaks)


# ---- what they share ----------------------------------------------------------------------------


def _site(redis: Redis, size: int) -> Site:
    settings = Settings.from_env({})  # as for the clocks, which are given none
    return Site(
        size=size,
        redis=redis,
        schedules=Schedules(redis, settings=settings),
        store=Store(redis, settings.namespace),
    )


def _tenants(size: int) -> Iterator[ScheduleArgs]:
    """So many schedules, none of which is due within a day."""
    now = datetime.now(UTC)
    near = {(now + timedelta(days=n)).day for n in (-1, 0, 1, 2)}
    days = [day for day in range(1, 29) if day not in near]
    for i in range(size):
        if i % 2:
            n = i // 2 % _EXPRESSIONS
            when = f"{n * 7 % 60} {n % 24} {days[n % len(days)]} * *"
            trigger: Trigger = cron(when, tz=_ZONES[n % len(_ZONES)])
        else:
            trigger = every(days=30, anchor=now + timedelta(days=2, minutes=i % 1000 * 40))
        yield _name(i, size), trigger, TARGET, _options(i)


def _name(i: int, size: int) -> str:
    """Fewer have names from the same span."""
    return f"tenant-{i * MILLION // size:06}"


def _options(i: int) -> dict[str, Any]:
    tags = {"tags": [TAG]} if i % ONE_IN == 0 else {}
    return {"args": [i], "queue": QUEUE} | tags


def _clock(site: Site) -> Process:
    return Process(site.redis, "bench.clocks", OURS)


@contextmanager
def _clocks(pair: Pair) -> Iterator[tuple[Process, ...]]:
    """A clock for each, that leads and is through its first pass."""
    with ExitStack() as stack:
        clocks = tuple(stack.enter_context(_clock(site)) for site in pair)
        for site, clock in zip(pair, clocks, strict=True):
            _await_fact(site, "proven", clock)
        yield clocks


def _await_fact(site: Site, fact: str, process: Process) -> float:
    """Seconds from the start of a clock until its lease says this; looks every 2 ms."""
    while fact not in Leases(site.store).leader():
        process.check()
        if time.monotonic() > process.started + 60:
            raise RuntimeError(f"{site.column}: the lease has no {fact!r} after a minute")
        time.sleep(0.002)
    return time.monotonic() - process.started


def _used(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def _cpu(redis: Redis) -> float:
    """Seconds that the server has used."""
    info = redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def _only(what: str, unit: str, value: float, pair: Pair, *, aim: float | None = None) -> Row:
    """Measured among many alone."""
    many, few = pair
    return Row(what=what, unit=unit, figures={many.column: value, few.column: None}, aim=aim)


def _alike(what: str, unit: str, pair: Pair, values: list[float]) -> Row:
    """Both were measured, and are to be the same."""
    many, few = pair
    figures: dict[str, float | None] = {many.column: values[0], few.column: values[1]}
    return Row(what=what, unit=unit, figures=figures, beside={few.column: ALIKE})


MEASURES: tuple[Callable[[Lab, Pair], Iterator[Row]], ...] = (
    add, one_offs, find, start, idle, lag, herd
)  # fmt: skip

if __name__ == "__main__":
    main()
