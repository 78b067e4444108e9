"""Wrong clocks: each machine's time of day is shifted alone, at start and while its processes run.

Redis's TIME is the reference. The account is that of test_process.py; ledgers show each run's end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from rq_clock.model.decision import Skip
from rq_clock.model.ledger import Enqueued
from rq_clock.store.store import Store
from tests.beside import beside_others
from tests.clock.storm import ClockProcess, add, client, marker_of
from tests.helpers import wait_until
from tests.process import ROOT, Process
from tests.server import Server, free_url
from tests.timeshift import Shift

pytestmark = pytest.mark.process

HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
RIGHT = timedelta(0)
SECONDS = ("a", "b")
"""Schedules of every second."""
EVERY_SECOND = add(*SECONDS).replace("tasks.nothing", "time.monotonic")


class World:
    """A Redis, a clock and a worker, each on a machine of its own; `url` is how they reach it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.redis, self.clock, self.worker = (
            Shift(path / name) for name in ("redis", "clock", "worker")
        )
        self._stack = ExitStack()
        self.url = free_url()

    def __enter__(self) -> Self:
        binary = self.redis.server()
        self._stack.enter_context(Server(self.path / "data", self.url, binary=binary))
        self.client = self._stack.enter_context(client(self.url))
        self.store = Store(self.client, "default")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, script: str = EVERY_SECOND, url: str = "") -> ClockProcess:
        """Start a worker and a clock."""
        env = {"REDIS_URL": url or self.url} | self.worker.env
        log = self.path / "worker.txt"
        self.worker_process = Process(log, str(ROOT / "worker.py"), env=env)
        self._stack.enter_context(self.worker_process)
        clock = ClockProcess(self.path, url or self.url, script, **self.clock.env)
        return self._stack.enter_context(clock)

    def newest(self) -> int:
        """Return the oldest of the schedules' markers in ms."""
        return min(marker_of(self.client, name)[0] for name in SECONDS)

    def fires(self, count: int = 2) -> None:
        """Wait until each schedule has fired `count` times more."""
        before = {n: len(self.store.ledger(n)) for n in SECONDS}
        wait_until(
            lambda: all(len(self.store.ledger(n)) >= before[n] + count for n in SECONDS),
            "every schedule fires",
            timeout=60,
        )

    def enqueued(self, name: str) -> list[Enqueued]:
        return [entry for entry in self.store.ledger(name) if isinstance(entry, Enqueued)]

    def check(self, *, steady: bool = False) -> str:
        """Fail unless each second became one run and every run has its end; none began before it
        came if the time of Redis was `steady`. Return the figures."""
        runs = 0
        for name in SECONDS:
            wait_until(lambda n=name: all(e.attempt for e in self.enqueued(n)), "all runs end")  # type: ignore[misc]
            entries = self.enqueued(name)
            fired = [round(entry.fire_time.timestamp()) for entry in entries]
            assert fired == list(range(fired[0], fired[0] + len(fired)))
            for entry in entries:
                attempt = entry.attempt
                assert attempt
                assert attempt.state == "ok", attempt
                assert attempt.started <= attempt.ended
                assert not steady or attempt.started >= entry.fire_time - timedelta(seconds=2)
            runs += len(fired)
        return f"runs={runs}"


def stepped(path: Path, *shifts: timedelta) -> str:
    """Shift clock's and worker's machines, in opposite order, at start and while they run."""
    with World(path) as world:
        world.clock.set(shifts[0])
        world.worker.set(shifts[-1])
        clock = world.start()
        for own, other in zip(shifts, reversed(shifts), strict=True):
            world.clock.set(own)
            world.worker.set(other)
            world.fires()
        skew = int(world.client.hget("rq-clock:default:lease", "skew_ms"))
        assert skew / 1000 in [pytest.approx(s.total_seconds(), abs=0.5) for s in shifts]
        assert not clock.events("commit.refused")
        assert not clock.events("time.doubtful")
        assert world.worker_process.events("time.skewed")
        assert clock.terminate() == 0, clock.text()
        return world.check(steady=True)


@beside_others
def test_wrong_clocks_of_hosts_change_nothing(path: Path) -> str:
    return stepped(path, timedelta(milliseconds=5), YEAR, -DAY)


def redis_steps(path: Path, by: timedelta, then: Callable[[World, ClockProcess], None]) -> str:
    """Let Redis's time step while all is right, and back after `then`."""
    with World(path) as world:
        clock = world.start()
        world.fires()
        world.redis.set(by)
        then(world, clock)
        world.redis.set(RIGHT)
        world.fires()
        assert clock.terminate() == 0, clock.text()
        return world.check()


@beside_others
def test_runs_wait_while_the_time_of_redis_is_an_hour_back(path: Path) -> str:
    def nothing_runs(world: World, clock: ClockProcess) -> None:
        clock.wait_for("time.back")
        before = world.newest()
        clock.live(2)
        assert world.newest() == before

    return redis_steps(path, -HOUR, nothing_runs)


@beside_others
def test_nothing_is_decided_while_the_time_of_redis_is_an_hour_ahead(path: Path) -> str:
    def nothing_runs(world: World, clock: ClockProcess) -> None:
        clock.wait_for("time.doubtful")
        before = world.newest()
        clock.live(2)
        assert world.newest() == before

    return redis_steps(path, HOUR, nothing_runs)


@beside_others
def test_after_a_year_ahead_and_back_every_schedule_fires_again(path: Path) -> str:
    with World(path) as world:
        world.redis.set(YEAR)
        clock = world.start()
        world.fires()
        world.redis.set(RIGHT)
        clock.wait_for("marker.ahead")
        world.fires()
        right = world.store.now()
        for name in SECONDS:
            skips = [e for e in world.store.ledger(name) if isinstance(e, Skip)]
            assert [skip.reason for skip in skips] == ["time"]
            fresh = [e for e in world.enqueued(name) if e.fire_time <= right]
            fired = [round(e.fire_time.timestamp()) for e in fresh]
            assert fired == list(range(fired[0], fired[0] + len(fired)))
            wait_until(lambda n=name: all(e.attempt for e in world.enqueued(n)), "all runs end")  # type: ignore[misc]
        assert clock.terminate() == 0, clock.text()
        return f"{clock.events('time.back')[0].fields}"
