"""Death at every step: a clock dies at each point of its talk with Redis, and the next finishes.

Many points at once, each in a namespace of its own: what takes time is the lease of a clock that
died in its first pass, and for that they can wait together. At most AT_ONCE clocks, so that on two
cores each still leads in time.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from redis import Redis

from rq_clock.clock.process import RENEW_SECONDS
from rq_clock.clock.reconcile import plan
from rq_clock.model.entry import Lease
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store, portions
from tests.clock import deaths
from tests.clock.storm import Account, Client, Jobs, account, decided, fire_times, marker_of
from tests.helpers import PATIENCE, wait_until
from tests.server import Server

pytestmark = pytest.mark.process

BEHIND = timedelta(seconds=3)
EACH_SECOND = {"every": 1000}
AT_ONCE = 150
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "tests.clock.deaths"])


class Nursery:
    """Namespaces in which clocks of the new release meet what the old one left behind."""

    def __init__(self, url: str, path: Path) -> None:
        self.redis: Client = Redis.from_url(url)
        self._env = {"REDIS_URL": url, "RQ_CLOCK_HISTORY": "1000000"}
        self._path = path
        self._since: dict[str, int] = {}

    def prepare(self, namespace: str) -> None:
        """The schedules of the old release, undecided for three seconds."""
        now = datetime.now(UTC) - BEHIND
        store = Store(self.redis, namespace)
        lease = Leases(store).acquire("old", ("local", ""), "starting", now)
        assert isinstance(lease, Lease)
        changes = plan(deaths.old_release().declared, {}, {}, now).changes
        assert list(store.reconcile(lease, 0, now, changes)) == [True]
        Leases(store).release(lease)
        self._since[namespace] = marker_of(self.redis, "steady", namespace)[1]

    def run(self, plans: dict[str, str | None], name: str) -> dict[str, int | None]:
        """Run a clock in each namespace until it is dead, or has done all that a clock does and
        heard SIGTERM. Their exit codes."""
        began = time.time()
        clocks = {namespace: self._start(namespace, name, plans[namespace]) for namespace in plans}
        for namespace, clock in clocks.items():
            self._wait_for(clock, namespace, began)
        for clock in clocks.values():
            clock.terminate()
        for clock in clocks.values():
            clock.join(PATIENCE)
        return {namespace: clock.exitcode for namespace, clock in clocks.items()}

    def _start(self, namespace: str, name: str, death: str | None) -> ForkServerProcess:
        path = self._path / f"{namespace}-{name}"
        env = {**self._env, "RQ_CLOCK_NAMESPACE": namespace}
        process = CONTEXT.Process(target=deaths.run, args=(path, env, death), daemon=True)
        process.start()
        return process

    def _wait_for(self, clock: ForkServerProcess, namespace: str, began: float) -> None:
        def done() -> bool:
            if not clock.is_alive():
                return True
            since = self.redis.hget(f"rq-clock:{namespace}:lease", "since")
            led_for = time.time() - int(since) / 1000 if since else 0
            names = deaths.new_release().declared
            return led_for > RENEW_SECONDS + 1 and decided(self.redis, names, began, namespace)

        wait_until(done, f"the clock of {namespace}")

    def points(self, namespace: str, name: str) -> list[str]:
        """The points that an orderly life went through."""
        points: list[str] = json.loads((self._path / f"{namespace}-{name}.json").read_text())
        return points

    def account(self, namespace: str, jobs: Jobs) -> Account:
        """What became of it in the end."""
        also = {}
        for name in ("changed", "is"):  # what was pending under the old rule, and nothing later
            changed_at = marker_of(self.redis, name, namespace)[1]
            also[name] = fire_times(EACH_SECOND, self._since[namespace], changed_at)
            assert len(also[name]) >= BEHIND.seconds, "the old rule had something pending"
        names = deaths.new_release().declared
        formerly = {"after": "before", "is": "was"}
        return account(self.redis, names, namespace, formerly=formerly, also=also, jobs=jobs)

    def check_declared(self, namespace: str) -> None:
        """Fails unless Redis holds what the new release declares, no more and no less."""
        wanted = {n.encode(): s.definition() for n, s in deaths.new_release().declared.items()}
        prefix = f"rq-clock:{namespace}:"
        stored = self.redis.hgetall(f"{prefix}definitions")
        assert {name: text.decode() for name, text in stored.items()} == wanted
        assert self.redis.smembers(f"{prefix}declared") == wanted.keys()
        for key in ("markers", "revisions"):
            assert set(self.redis.hkeys(prefix + key)) == wanted.keys()
        assert set(self.redis.zrange(f"{prefix}due", 0, -1)) == wanted.keys()


def died(plans: dict[str, str | None], ended: dict[str, int | None]) -> Counter[str]:
    """How many died at each kind of point, "sent EVALSHA commit"."""
    points: Iterable[str] = (plans[namespace] or "" for namespace, code in ended.items() if code)
    return Counter(point.rpartition(" ")[0] for point in points)


def some_of(points: list[str], most: int) -> list[str]:
    """Return `most` points of each script, spread evenly, and half as many of other commands."""
    kinds: dict[str, list[str]] = {}
    for point in points:
        kinds.setdefault(point.rpartition(" ")[0], []).append(point)
    chosen: list[str] = []
    for name, kind in kinds.items():
        count = min(most if "EVALSHA" in name else most // 2, len(kind))
        chosen += (kind[n * (len(kind) - 1) // max(count - 1, 1)] for n in range(count))
    return chosen


def die(server: Server, path: Path, most: int) -> None:
    nursery = Nursery(server.url, path)
    for text in deaths.TEXTS.values():
        nursery.redis.script_load(text)
    nursery.prepare("rehearsal")
    assert nursery.run({"rehearsal": None}, "whole") == {"rehearsal": 0}
    points = some_of(nursery.points("rehearsal", "whole"), most)

    expected, deaths_at = 0, Counter[str]()
    for group in portions(enumerate(points), AT_ONCE):
        plans: dict[str, str | None] = {f"p{number:03}": point for number, point in group}
        for namespace in plans:
            nursery.prepare(namespace)
        ended = nursery.run(plans, "dies")
        deaths_at += died(plans, ended)
        assert set(ended.values()) <= {0, -9}
        assert set(nursery.run(dict.fromkeys(plans), "next").values()) == {0}
        jobs = Jobs(nursery.redis)
        for namespace in plans:
            found = nursery.account(namespace, jobs)
            expected += found.expected
            found.check()
            nursery.check_declared(namespace)
    print(f"{deaths_at.total()} deaths at {len(points)} points, expected={expected} all exact")
    for script in ("acquire", "reconcile", "commit", "renew", "release"):
        assert all(deaths_at[f"{when} EVALSHA {script}"] for when in deaths.POINTS), deaths_at
    # the other lives were over before they came to their point: how often a clock asks differs
    assert deaths_at.total() > len(points) * 0.8


def test_a_death_at_any_step_loses_nothing(
    fresh_server: Callable[..., Server], tmp_path: Path
) -> None:
    die(fresh_server(appendonly="no"), tmp_path, most=2)


@pytest.mark.soak
def test_a_death_at_every_point_loses_nothing(
    fresh_server: Callable[..., Server], tmp_path: Path
) -> None:
    die(fresh_server(appendonly="no"), tmp_path, most=1000)
