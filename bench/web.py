"""`python -m bench.web`: what pages and API of the web process take, and rq-dashboard beside it.

A private server is filled with 10,000 schedules, 100,000 ended runs and some thousand jobs of RQ's,
see history.py; with --million another one with a million schedules. All pages are visited in turns,
so that noise affects all alike; /metrics only once its cached answer has expired, after a second.
Times are a client's on loopback, see visits.py. "CPU" is the web process's own, by the scheduler's
count, and says more on a busy machine. Round trips are counted in a process of its own, each time
after an edit, when what was read before is good no more; "after an edit" is timed like that too.

rq-dashboard lists the same jobs of the same server from an environment of its own, under gunicorn.
A page of ours shows what a browser there loads a page and then JSON for, so a view is both; the
JSON alone, which it then polls, stands beside our API.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from statistics import median
from typing import TypeAlias

from redis import Redis

from bench import history
from bench.__main__ import machine, table
from bench.lab import Lab, Row, quantile
from bench.scale import MILLION
from bench.visits import (
    RoundTrips,
    Visit,
    Visitor,
    Web,
    dashboard,
    keep_open,
    ours,
    throughput,
)
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings

SCHEDULES = 10_000
JOBS = 50
"""That a list of failed jobs has."""
QUEUE = history.QUEUES[1]
Start: TypeAlias = Callable[..., AbstractContextManager[Web]]
OURS, THEIRS = BESIDE = ("rq-clock", "rq-dashboard")
FIGURES = ("p95 ms", "p50 ms", "CPU ms", "round trips", "kB")
BOUND = 250
"""Milliseconds that a page of a million schedules may take: a search looks at a portion of them."""
KEPT = 1.05
"""Seconds after which the cached answer of /metrics has expired."""
_NAME = re.compile(r"\b[a-z]+-\d{6}\b")
_JOB = re.compile(r"\bdefault-[a-z]+-\d{6}-\d{13}\b")
_CURSOR = re.compile(r'[?&;]cursor=([\w-]+)|"nextCursor": ?"([\w-]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Something to visit. `names` is how many schedules its answer names at least; `second`: what
    is visited is the page after it; `edited`: each time after an edit of a schedule; `kept`: only
    once the cached answer has expired."""

    what: str
    path: str
    aim: float | None = None
    names: int = 0
    second: bool = False
    edited: bool = False
    kept: bool = False

    def check(self, visit: Visit) -> Visit:
        """Return the visit, or raise if its answer names too few schedules."""
        names = len(set(_NAME.findall(visit.body)))
        if names < self.names:
            raise RuntimeError(f"{self.path}: {names} schedules named, expected {self.names}")
        return visit


BUSY, EDITED = history.name(10), history.name(1001)
_LIST = Page(what="Schedules", path="/", aim=60, names=50)
_API = Page(what="GET /api/v1/schedules", path="/api/v1/schedules", aim=60, names=50)
_METRICS = Page(what="GET /metrics", path="/metrics", aim=200, names=100, kept=True)
_TIMELINE = Page(what="Timeline", path="/timeline", names=20)
BOUNDED = (
    _LIST,
    replace(_LIST, what="Schedules of a queue", path=f"/?queue={QUEUE}"),
    replace(_LIST, what="Schedules with a text", path="/?q=sync"),
    replace(_LIST, what="one schedule by its name as text", path=f"/?q={BUSY}", names=1),
    replace(_LIST, what="Schedules, second page", second=True),
    Page(what="one schedule", path=f"/schedules/{BUSY}", names=1),
    _TIMELINE,
    _API,
    replace(_API, what=f"{_API.what}, of a queue", path=f"/api/v1/schedules?queue={QUEUE}"),
    _METRICS,
)
"""Whatever the number of schedules is."""
PAGES = (
    *BOUNDED,
    replace(_LIST, what="Schedules with a text, after an edit", path="/?q=sync", edited=True),
    replace(_LIST, what="Schedules by name", path="/?sort=name"),
    replace(_LIST, what="Schedules that are paused", path="/?state=paused"),
    replace(_API, what=f"{_API.what}, second page", second=True),
    Page(what="Runs", path="/runs", names=20),
    Page(what="Queues", path="/queues"),
    Page(what="failed jobs", path=f"/jobs?state=failed&queue={QUEUE}", names=20),
    Page(what="Clock", path="/clock"),
    Page(what="Audit", path="/audit"),
)
VIEWS: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
    (
        f"{JOBS} failed jobs",
        [f"/jobs?state=failed&queue={QUEUE}"],
        [
            f"/0/view/jobs/{QUEUE}/failed/{JOBS}/asc/1",
            f"/0/data/jobs/{QUEUE}/failed/{JOBS}/asc/1.json",
        ],
    ),
    (
        f"{JOBS} failed jobs, JSON",
        [f"/api/v1/jobs?state=failed&queue={QUEUE}&limit={JOBS}"],
        [f"/0/data/jobs/{QUEUE}/failed/{JOBS}/asc/1.json"],
    ),
    ("queues", ["/queues"], ["/", "/0/data/queues.json"]),
    ("queues, JSON", ["/api/v1/queues"], ["/0/data/queues.json"]),
)
"""What is looked at, and what a browser loads for it, of ours and of theirs."""
CLIENTS = 4
VIEWED = (
    ("views a second", ""),
    (f"views a second, {CLIENTS} clients", ""),
    ("CPU a view", "ms"),
    ("size of a view", "kB"),
    ("round trips a view", ""),
)


@dataclass(slots=True)
class Seen:
    """What was measured of a page."""

    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    trips: list[int] = field(default_factory=list)
    size: int = 0
    last: float = 0.0
    """When the last answer was there."""

    def row(self, page: Page, size: int) -> Row:
        """Return the figures as a row of the table."""
        times = sorted(self.times)
        values = (
            quantile(times, 0.95) * 1000,
            median(times) * 1000,
            median(self.cpu) * 1000,
            median(self.trips),
            self.size / 1000,
        )
        figures = dict[str, float | None](zip(FIGURES, values, strict=True))
        if size == SCHEDULES:
            return Row(what=page.what, unit="", figures=figures, aim=page.aim)
        return Row(what=f"of {size:,}: {page.what}", unit="", figures=figures, aim=BOUND)


@dataclass(frozen=True, slots=True)
class Site:
    """A server and its schedules."""

    redis: Redis
    size: int
    schedules: Schedules

    def edit(self) -> None:
        """Change a schedule, so that cached definitions are read again."""
        self.schedules.skip(EDITED, reason="the bench")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.web", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute; for a first look")
    parser.add_argument("--million", action="store_true", help="also with a million schedules")
    parser.add_argument("--server", help="path of another redis-server or valkey-server")
    parser.add_argument("--pages", action="store_true", help="only the cost of open pages")
    options = parser.parse_args()
    lab = Lab(binary=options.server, quick=options.quick, full=False)
    sizes = (SCHEDULES, MILLION) if options.million else (SCHEDULES,)
    if options.pages:
        with _site(lab, SCHEDULES) as site:
            print(table(OPENED, list(opened(lab, site))), end="\n\n")
            print(machine(lab))
        return
    columns, wholes = tuple(f"{size:,}" for size in sizes), list[dict[str, float]]()
    for size in sizes:
        with _site(lab, size) as site:
            rows, whole = pages(lab, site)
            wholes.append(whole)
            print(table(FIGURES, rows), end="\n\n", flush=True)
            if size == SCHEDULES:
                print(table(BESIDE, list(beside(lab, site))), end="\n\n", flush=True)
    print(table(columns, list(_whole(columns, wholes))), end="\n\n")
    peers = (f"{package} {lab.peer(package)}" for package in ("rq-dashboard", "gunicorn"))
    own = (f"{package} {version(package)}" for package in ("fastapi", "uvicorn"))
    print(", ".join([machine(lab), *own, *(peers if lab.peer("rq-dashboard") else ())]))


@contextmanager
def _site(lab: Lab, size: int) -> Iterator[Site]:
    with lab.redis() as redis:
        load, began = os.getloadavg()[0], time.monotonic()
        history.fill(redis, size, SCHEDULES)
        took = f"{time.monotonic() - began:.0f} s, load before {load:.1f}"
        print(f"{size:,} schedules: {took}", file=sys.stderr, flush=True)
        yield Site(redis, size, Schedules(redis, settings=Settings.from_env({})))


# ---- the pages ----------------------------------------------------------------------------------


def pages(lab: Lab, site: Site) -> tuple[list[Row], dict[str, float]]:
    """A row for each page, and what is to be said of the whole process."""
    chosen = PAGES if site.size == SCHEDULES else BOUNDED
    with ours(site.redis) as web, web.visitor() as visitor:
        before = web.process.megabytes("VmRSS")
        paths = _paths(visitor, chosen)
        seen = {page: Seen() for page in paths}
        for _ in range(5 if lab.quick else 60):
            for page, path in paths.items():
                _visit(site, web, visitor, page, path, seen[page])
        after = web.process.megabytes("VmRSS")
    with _counted(site, ours) as (counted, visitor):
        for page, path in paths.items():
            seen[page].trips = list(_trips(site, counted, visitor, page, path))
    whole = {
        "round trips of a page, at most": max(median(one.trips) for one in seen.values()),
        "the process's memory, before": before,
        "the process's memory, after": after,
    }
    return [seen[page].row(page, site.size) for page in paths], whole


def _paths(visitor: Visitor, chosen: Sequence[Page]) -> dict[Page, str]:
    """Where each is; looks at each once, which makes sure that it shows what it is to show."""
    found = {}
    for page in chosen:
        path, body = page.path, page.check(visitor.get(page.path)).body
        if page.second:
            cursor = _CURSOR.search(body)
            assert cursor, f"{path} has no second page"
            path += f"{'&' if '?' in path else '?'}cursor={cursor[1] or cursor[2]}"
            page.check(visitor.get(path))
        found[page] = path
    return found


def _visit(site: Site, web: Web, visitor: Visitor, page: Page, path: str, seen: Seen) -> None:
    if page.edited:
        site.edit()
    if page.kept:
        time.sleep(max(0.0, seen.last + KEPT - time.monotonic()))
    before = web.process.cpu()
    visit = page.check(visitor.get(path))
    seen.last = time.monotonic()
    seen.cpu.append(web.process.cpu() - before)
    seen.times.append(visit.seconds)
    seen.size = visit.size


def _trips(
    site: Site, counted: RoundTrips, visitor: Visitor, page: Page, path: str
) -> Iterator[int]:
    """Round trips, each time after an edit; three, since a busy machine may split one in two."""
    for _ in range(3):
        site.edit()
        time.sleep(KEPT if page.kept else 0)
        before = counted.count
        visitor.get(path)
        yield counted.count - before


def _whole(columns: Sequence[str], wholes: Sequence[dict[str, float]]) -> Iterator[Row]:
    for what in wholes[0]:
        figures: dict[str, float | None] = {
            column: whole[what] for column, whole in zip(columns, wholes, strict=True)
        }
        trips = what.startswith("round trips")
        yield Row(what=what, unit="" if trips else "MB", figures=figures, aim=3 if trips else None)


# ---- open pages ---------------------------------------------------------------------------------

OPEN = 20
OPENED = ("web CPU %", "Redis CPU %", "pages/s", "304/s")


def opened(lab: Lab, site: Site) -> Iterator[Row]:
    """The cost of open pages of the list, while nothing changes and with an edit each second."""
    seconds = 10.0 if lab.quick else 60.0
    for busy in (False, True):
        done = threading.Event()

        def change(done: threading.Event = done) -> None:
            while not done.wait(1):
                site.edit()

        with ours(site.redis) as web:
            editor = threading.Thread(target=change)
            before = web.process.family_cpu(), _redis_cpu(site.redis)
            if busy:
                editor.start()
            statuses = keep_open(web, OPEN, seconds)
            after = web.process.family_cpu(), _redis_cpu(site.redis)
            done.set()
            if busy:
                editor.join()
        spent = [100 * (b - a) / seconds for a, b in zip(before, after, strict=True)]
        rates = [statuses.count(status) / seconds for status in (200, 304)]
        figures = dict[str, float | None](zip(OPENED, [*spent, *rates], strict=True))
        what = f"{OPEN} open pages, {'an edit a second' if busy else 'nothing changes'}"
        yield Row(what=what, unit="", figures=figures)


def _redis_cpu(redis: Redis) -> float:
    used = redis.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


# ---- beside rq-dashboard ------------------------------------------------------------------------


def beside(lab: Lab, site: Site) -> Iterator[Row]:
    """Views a second, and what a view takes."""
    if not lab.peer("rq-dashboard"):
        print("rq-dashboard is not installed; `make bench-web` does that", file=sys.stderr)
        return
    turns, seconds = (1, 0.5) if lab.quick else (3, 2.0)
    with (
        ours(site.redis) as own,
        dashboard(site.redis) as other,
        _counted(site, ours) as own_trips,
        _counted(site, dashboard) as other_trips,
    ):
        for what, *paths in VIEWS:
            sides = list(zip(BESIDE, (own, other), (own_trips, other_trips), paths, strict=True))
            turned = [
                (column, _views(web, some, seconds)) for _ in range(turns)
                for column, web, _, some in sides
            ]  # fmt: skip
            found = {}
            for column, _, trips, some in sides:
                lines = [values for of, values in turned if of == column]
                middle = [median(values) for values in zip(*lines, strict=True)]
                found[column] = [*middle, _trips_of_view(*trips, some)]
            yield from _viewed(what, found)


def _viewed(what: str, found: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    for i, (kind, unit) in enumerate(VIEWED):
        figures: dict[str, float | None] = {column: found[column][i] for column in BESIDE}
        more = "a second" in kind
        aims = {THEIRS: 1.0} if more else {}
        yield Row(what=f"{what}: {kind}", unit=unit, figures=figures, beside=aims, more=more)


def _views(web: Web, paths: Sequence[str], seconds: float) -> list[float]:
    """As VIEWED has it, but for the round trips."""
    with web.visitor() as visitor:
        visits = [visitor.get(path) for path in paths]
    _same_jobs(visits, paths)
    before = web.process.family_cpu()
    views, took = throughput(web, paths, 1, seconds)
    cpu = web.process.family_cpu() - before
    others, longer = throughput(web, paths, CLIENTS, seconds)
    size = sum(visit.size for visit in visits)
    return [views / took, others / longer, cpu / views * 1000, size / 1000]


def _same_jobs(visits: Sequence[Visit], paths: Sequence[str]) -> None:
    """See to it that where jobs are listed there are as many as on the other side."""
    jobs = len(set(_JOB.findall("".join(visit.body for visit in visits))))
    if any("jobs" in path for path in paths) and jobs != JOBS:
        raise RuntimeError(f"{paths}: {jobs} jobs listed, expected {JOBS}")


def _trips_of_view(counted: RoundTrips, visitor: Visitor, paths: Sequence[str]) -> float:
    for _ in range(2):  # the first time its connection is made, too
        before = counted.count
        for path in paths:
            visitor.get(path)
    return counted.count - before


@contextmanager
def _counted(site: Site, start: Start) -> Iterator[tuple[RoundTrips, Visitor]]:
    """A web process whose round trips are counted."""
    with (
        RoundTrips(site.redis) as counted,
        start(site.redis, REDIS_URL=counted.url) as web,
        web.visitor() as visitor,
    ):
        yield counted, visitor


if __name__ == "__main__":
    main()
