"""Wrong clocks: each machine's time of day is shifted alone, at start and while its processes run.

Redis's TIME is the reference. The account is that of test_process.py; ledgers show each run's end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from rq_clock.model.decision import Skip
from rq_clock.model.ledger import Enqueued
from rq_clock.store.store import Store
from rq_clock.timing.instants import read_instant
from tests.beside import beside_others
from tests.clock.storm import ClockProcess, add, chance, client, marker_of
from tests.helpers import wait_until
from tests.process import ROOT, Process
from tests.proxy import Proxy
from tests.server import Server, free_url
from tests.timeshift import Shift
from tests.web.client import API, TOKENS, VALUES

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's"),
]

HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
RIGHT = timedelta(0)
SECONDS = ("a", "b")
"""Schedules of every second."""
EVERY_SECOND = add(*SECONDS).replace("tasks.nothing", "time.monotonic")
LATEST = add(*SECONDS, options="catch_up='latest'").replace("tasks.nothing", "time.monotonic")
SHIFTS = [
    sign * shift
    for shift in (timedelta(milliseconds=5), timedelta(milliseconds=50), HOUR, 4 * HOUR, DAY, YEAR)
    for sign in (1, -1)
]
AT_ONCE = 4


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
        return self.start_clock(script, url)

    def start_clock(self, script: str = EVERY_SECOND, url: str = "") -> ClockProcess:
        clock = ClockProcess(self.path, url or self.url, script, **self.clock.env)
        return self._stack.enter_context(clock)

    def closing(self, connection: HTTPConnection) -> HTTPConnection:
        self._stack.callback(connection.close)
        return connection

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

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

    def stands(self, clock: ClockProcess, seconds: float = 3) -> None:
        """Fail if a schedule fires in so many seconds."""
        before = self.newest()
        clock.live(seconds)
        assert self.newest() == before

    def all_end(self) -> None:
        """Wait until each run has ended well."""
        for name in SECONDS:
            wait_until(lambda n=name: all(e.attempt for e in self.enqueued(n)), "all runs end")  # type: ignore[misc]
            for entry in self.enqueued(name):
                assert entry.attempt
                assert entry.attempt.state == "ok", entry
                assert entry.attempt.started <= entry.attempt.ended

    def check(self, *, steady: bool = False) -> str:
        """Fail unless each second became one run and every run has its end; none began before it
        came if the time of Redis was `steady`. Return the figures."""
        runs = 0
        self.all_end()
        for name in SECONDS:
            entries = self.enqueued(name)
            fired = [round(entry.fire_time.timestamp()) for entry in entries]
            assert fired == list(range(fired[0], fired[0] + len(fired)))
            for entry in entries if steady else ():
                assert entry.attempt
                assert entry.attempt.started >= entry.fire_time - timedelta(seconds=2)
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


@pytest.mark.soak
@beside_others
def test_no_step_of_a_hosts_clock_changes_anything(path: Path) -> str:
    return stepped(path, *SHIFTS)


@pytest.mark.soak
@beside_others
def test_no_wrong_clock_at_the_start_of_a_clock_changes_anything(path: Path) -> str:
    with World(path) as world:
        clock = world.start()
        for shift in SHIFTS:
            world.clock.set(shift)
            clock.kill()
            clock = world.start_clock()
            world.fires()
        assert clock.terminate() == 0, clock.text()
        return world.check(steady=True)


@pytest.mark.soak
@beside_others
def test_slow_round_trips_and_wrong_clocks_cost_lateness_only(path: Path) -> str:
    """Replies come 300 +- 200 ms late, so TIME is known no better than to 250 ms."""
    _, luck = chance()
    with World(path) as world, Proxy(world.url, luck, delay=0.3, jitter=0.2) as proxy:
        proxy.calm = True
        clock = world.start(url=proxy.url)
        for shift in (RIGHT, YEAR, -HOUR):
            world.clock.set(shift)
            world.fires(10)
        assert clock.terminate() == 0, clock.text()
        note = world.check(steady=True)
        lags = [e.lag.total_seconds() for n in SECONDS for e in world.enqueued(n)[5:] if e.lag]
        return f"{note} longest lag={max(lags):.1f} s"


@pytest.mark.soak
@beside_others
def test_pages_and_api_of_a_web_process_show_the_time_of_redis(path: Path) -> str:
    web_machine = Shift(path / "web", YEAR)
    with World(path) as world:
        world.start()
        world.fires()
        port = urlsplit(free_url()).port or 0
        env = {"REDIS_URL": world.url, "RQ_CLOCK_TOKENS": TOKENS, "PORT": str(port)}
        with Process(path / "web.txt", "-m", "rq_clock", "web", env=env | web_machine.env):
            connection = world.closing(HTTPConnection("127.0.0.1", port, timeout=30))

            def ask(method: str, path: str) -> Any:
                headers = {
                    "Authorization": f"Bearer {VALUES['admin']}",
                    "Content-Type": "application/json",
                }
                try:
                    connection.request(method, f"{API}{path}", "{}", headers)
                    return json.loads(connection.getresponse().read())
                except OSError:
                    connection.close()
                    return None

            shown = wait_until(lambda: ask("GET", "/clock"), "an answer")
            assert shown["healthy"]
            assert abs(read_instant(shown["now"]) - world.store.now()) < timedelta(seconds=30)
            ask("POST", "/schedules/a/runs")
            manual = [e for e in world.enqueued("a") if e.reason == "manual"]
            assert len(manual) == 1
            assert abs(manual[0].fire_time - world.store.now()) < timedelta(seconds=30)
    return "as Redis has it"


# ---- the time of Redis ------------------------------------------------------------------------


def redis_steps(path: Path, by: timedelta, then: Callable[[World, ClockProcess], None]) -> str:
    """Let Redis's time step while all is right, and back after `then`. Nothing is lost."""
    with World(path) as world:
        clock = world.start()
        world.fires()
        world.redis.set(by)
        then(world, clock)
        world.redis.set(RIGHT)
        world.fires()
        assert clock.terminate() == 0, clock.text()
        return world.check()


def waits(world: World, clock: ClockProcess) -> None:
    clock.wait_for("time.back")
    world.stands(clock)


def doubts(world: World, clock: ClockProcess) -> None:
    clock.wait_for("time.doubtful")
    world.stands(clock)


@beside_others
def test_runs_wait_while_the_time_of_redis_is_an_hour_back(path: Path) -> str:
    return redis_steps(path, -HOUR, waits)


@beside_others
def test_nothing_is_decided_while_the_time_of_redis_is_an_hour_ahead(path: Path) -> str:
    return redis_steps(path, HOUR, doubts)


@pytest.mark.soak
@beside_others
def test_nothing_is_decided_while_the_time_of_redis_is_hours_or_a_year_ahead(path: Path) -> str:
    return " ".join(redis_steps(path / str(by.days), by, doubts) for by in (4 * HOUR, YEAR))


@pytest.mark.soak
@beside_others
def test_small_steps_of_redis_lose_and_double_nothing(path: Path) -> str:
    def goes_on(world: World, clock: ClockProcess) -> None:
        for ms in (5, -5, 50, -50):
            world.redis.set(timedelta(milliseconds=ms))
            world.fires()

    return redis_steps(path, timedelta(milliseconds=5), goes_on)


def corrected(path: Path, wrong: timedelta, *, restarted: bool = False) -> str:
    """Let Redis's time be wrong at the start and become right while all runs, or between two
    clocks: every schedule fires again, and no fire time has two jobs."""
    with World(path) as world:
        world.redis.set(wrong)
        clock = world.start(LATEST)
        world.fires()
        if restarted:
            assert clock.terminate() == 0, clock.text()
        world.redis.set(RIGHT)
        if restarted:
            clock = world.start_clock(LATEST)
        world.fires()
        right = world.store.now()
        assert clock.terminate() == 0, clock.text()
        world.all_end()
        skips = set()
        for name in SECONDS:
            fired = [e.fire_time for e in world.enqueued(name)]
            assert len(fired) == len(set(fired))
            assert fired[-1] <= right + timedelta(seconds=5)
            skips |= {e.reason for e in world.store.ledger(name) if isinstance(e, Skip)}
        assert skips - {"overlap"} == ({"time"} if wrong > 3 * HOUR else {"limit"})
        return f"back={[e.fields for e in clock.events('time.back')]}"


@beside_others
def test_after_a_year_ahead_and_back_every_schedule_fires_again(path: Path) -> str:
    return corrected(path, YEAR)


@pytest.mark.soak
@beside_others
def test_after_any_wrong_time_of_redis_every_schedule_fires_again(path: Path) -> str:
    return " ".join(
        corrected(path / f"{by.days}-{by.seconds}-{restarted}", by, restarted=restarted)
        for by in (4 * HOUR, YEAR, -HOUR, -4 * HOUR, -DAY)
        for restarted in (False, True)
    )


@pytest.mark.soak
@beside_others
def test_an_hour_ahead_at_the_start_waits_until_it_is_reached(path: Path) -> str:
    with World(path) as world:
        world.redis.set(HOUR)
        clock = world.start()
        world.fires()
        world.redis.set(RIGHT)
        waits(world, clock)
        world.redis.set(HOUR)
        world.clock.set(HOUR)  # an hour has passed for all
        world.fires()
        assert clock.terminate() == 0, clock.text()
        return world.check()


def failover(path: Path, by: timedelta, then: Callable[[World, ClockProcess], None]) -> str:
    """Fail over to a replica whose time is wrong, and then right it."""
    replica, url = Shift(path / "replica", by), free_url()
    with World(path) as world, Proxy(world.url) as proxy:
        clock = world.start(url=proxy.url)
        world.fires()
        with Server(path / "copy", url, binary=replica.server()), client(url) as copy:
            copy.replicaof(*world.address)
            wait_until(lambda: copy.info()["master_link_status"] == "up", "it is in step")
            proxy.lead_to(url)
            copy.replicaof("no", "one")
            proxy.strike(1)
            world.client, world.store = copy, Store(copy, "default")
            then(world, clock)
            replica.set(RIGHT)
            world.fires()
            assert clock.terminate() == 0, clock.text()
            return world.check()


@pytest.mark.soak
@beside_others
def test_a_failover_to_a_replica_an_hour_ahead_decides_nothing(path: Path) -> str:
    return failover(path, HOUR, doubts)


@pytest.mark.soak
@beside_others
def test_a_failover_to_a_replica_an_hour_behind_waits(path: Path) -> str:
    return failover(path, -HOUR, waits)
