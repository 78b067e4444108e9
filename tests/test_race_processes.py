"""Editors and clocks as processes, each killed at random: what an answered call promised is there,
once; what broke off is there or not.

Nobody runs the jobs, so each one that was ever enqueued is on the queue at the end.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rq_clock.embedded import Server, free_url
from rq_clock.schedules import ALL, Schedules
from rq_clock.settings import Settings
from rq_clock.state import Enqueued, to_ms
from rq_clock.store import Store
from rq_clock.triggers import every
from tests.helpers import wait_until
from tests.storm import LEASHED, PATIENCE, ROOT, ClockProcess, account, catch_up, chance

STEADY = [f"steady-{i}" for i in range(10)]
EDITED = [f"edited-{i}" for i in range(30)]
EDITOR = """
import json, os, random, sys, time
from datetime import datetime, timedelta, UTC
from rq_clock.errors import RqClockError
from rq_clock.schedules import Schedules
from rq_clock.targets import command
from rq_clock.triggers import every

edited, own, seed = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
told = open(sys.argv[4], "a")
luck, schedules = random.Random(seed), Schedules(by=own)
everything = {"catch_up": "all", "catch_up_limit": 1_000_000}

def tell(*said):
    print(json.dumps(said), file=told, flush=True)

for n in range(10**9):
    name, deed = luck.choice(edited), luck.randrange(10)
    period = every(milliseconds=luck.choice([100, 200, 500, 1000]))
    now = datetime.now(UTC)
    try:
        if deed == 0:
            schedules.update(name, trigger=period)
        elif deed == 1:
            schedules.update(name, tags=[str(n)])
        elif deed == 2:
            until = luck.choice([None, now + timedelta(seconds=luck.uniform(0.1, 2))])
            schedules.pause(name, until=until, missed=luck.choice(["skip", "latest", "all"]))
        elif deed == 3:
            schedules.resume(name)
        elif deed == 4:
            schedules.skip(name, luck.randrange(3))
        elif deed == 5:
            tell("triggered", schedules.trigger(name, force=True))
        elif deed == 6 and n % 4 == 0:
            start = now - timedelta(seconds=luck.uniform(1, 3))
            found = schedules.backfill(name, start, now, at_once=1000)
            tell("backfill", found.id, found.total)
        elif deed == 7 and n % 3 == 0:
            schedules.remove(name)
        elif deed == 8:
            schedules.add(name, period, "tasks.nothing", **everything)
        else:
            key, at = f"{own}-{seed}-{n}", now + timedelta(seconds=luck.uniform(-1, 2))
            tell("asked", f"once-{key}")
            tell("promised", schedules.once(at, "tasks.nothing", key=key))
    except RqClockError:
        pass
"""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), free_url(), appendonly="no") as server:
        yield server


class Editor:
    """A process that changes one thing after the other."""

    def __init__(self, path: Path, url: str, own: str, seed: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.told = path / f"{own}-{seed}.told"
        words = [json.dumps(EDITED), own, str(seed), str(self.told)]
        command = [sys.executable, "-c", EDITOR, *words]
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "REDIS_URL": url}
        with (path / f"{own}-{seed}.log").open("wb") as log:
            self.process = subprocess.Popen(
                LEASHED + command if sys.platform == "linux" else command,
                env=env | {"RQ_CLOCK_HISTORY": "1000000"}, cwd=path, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        assert self.process.poll() is None, "the editor ended by itself"
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def race(path: Path, server: Server, seconds: float) -> str:
    """Two clocks and three editors, of which one is killed and begun again every half second."""
    seed, luck = chance()
    redis: Any = Redis.from_url(server.url)
    settings = Settings.from_env({"REDIS_URL": server.url})
    schedules = Schedules(redis, settings=settings)
    options = {"catch_up": "all", "catch_up_limit": 1_000_000}
    schedules.add_many(
        (name, every(milliseconds=500), "tasks.nothing", options) for name in STEADY + EDITED
    )
    kills, began = Counter[str](), time.monotonic()
    with ExitStack() as stack:
        clocks = [stack.enter_context(ClockProcess(path, server.url, "")) for _ in range(2)]
        editors = [Editor(path, server.url, f"e{i}", seed + i) for i in range(3)]
        stack.callback(lambda: list(map(Editor.end, editors)))
        while time.monotonic() - began < seconds:
            due = time.monotonic() + luck.uniform(0.2, 0.8)
            wait_until(lambda due=due: time.monotonic() > due, PATIENCE, "time")  # type: ignore[misc]
            if luck.random() < 0.5:
                i = luck.randrange(2)
                clocks[i].kill()
                clocks[i] = stack.enter_context(ClockProcess(path, server.url, ""))
                kills["clocks"] += 1
            else:
                i = luck.randrange(3)
                editors[i].kill()
                editors[i] = Editor(path, server.url, f"e{i}", luck.randrange(1_000_000))
                kills["editors"] += 1
        for editor in editors:
            editor.kill()
        schedules.resume(ALL)
        schedules.resume([entry.name for entry in schedules])
        catch_up(redis, STEADY)
        wait_until(lambda: settled(redis), PATIENCE, "all that was asked for")
        for clock in clocks:
            clock.signal(signal.SIGKILL)
    steady = account(redis, STEADY)
    told = [json.loads(line) for file in path.glob("*.told") for line in whole_lines(file)]
    found = books(redis, schedules, told)
    return steady.check(f"seed={seed} kills={dict(kills)} {found}; never edited:")


def settled(redis: Any) -> bool:
    """Whether no backfill and no one-off job waits. Ends the jobs of backfills, but leaves them on
    their queue: the next ones wait for that."""
    waiting = False
    for id in redis.zrange("rq-clock:default:backfills", 0, -1):
        said = redis.hgetall(b"rq-clock:default:backfill:" + id)
        waiting = waiting or said[b"state"] == b"running"
        for job in said.get(b"jobs", b"").split():
            redis.hset(b"rq:job:" + job, "status", "finished")
    names = redis.hkeys("rq-clock:default:definitions")
    return not waiting and not any(name.startswith(b"once-") for name in names)


def whole_lines(file: Path) -> list[str]:
    """Those that were written to their end."""
    return file.read_text().split("\n")[:-1]


def books(redis: Any, schedules: Schedules, told: list[Any]) -> str:
    """Compare queue, hashes and ledgers with each other and with what editors were told."""
    queued = Counter(id.decode() for id in redis.lrange("rq:queue:default", 0, -1))
    assert not [id for id, count in queued.items() if count > 1]
    assert {
        key.decode().removeprefix("rq:job:") for key in redis.scan_iter("rq:job:*", 10_000)
    } == (set(queued))
    store = Store(redis, "default")
    entered: Counter[str] = Counter()
    for key in redis.scan_iter("rq-clock:default:ledger:*", 10_000):
        name = key.decode().removeprefix("rq-clock:default:ledger:")
        for line in store.ledger(name):
            if isinstance(line, Enqueued):
                manner = {"manual": "m", "backfill": "b"}.get(line.reason, "")
                entered[f"default-{name}-{to_ms(line.fire_time)}{manner and '-' + manner}"] += 1
    jobs = Counter(
        id.rstrip("0123456789") if id.rpartition("-")[2][0] in "mb" else id for id in queued
    )
    assert entered == jobs
    promised = [name for kind, name, *_ in told if kind == "promised"]
    ran = Counter(id.removeprefix("default-").rpartition("-")[0] for id in queued)
    assert not [name for name in promised if ran[name] != 1]
    assert not [name for kind, name, *_ in told if kind == "asked" and ran[name] > 1]
    triggered = [id for kind, id, *_ in told if kind == "triggered"]
    assert not [id for id in triggered if not queued[id]]
    backfills = {b.id: b for b in schedules.backfills(100_000)}
    asked = [(id, total) for kind, id, *rest in told if kind == "backfill" for total in rest]
    whole = [backfills[id] for id, _ in asked if backfills[id].state != "canceled"]
    assert not [b for b in whole if b.enqueued != b.total]
    return (
        f"jobs={len(queued)} promised={len(promised)} triggered={len(triggered)} "
        f"backfills={len(asked)} of which whole={len(whole)}"
    )


def test_editors_and_clocks_that_are_killed_lose_and_double_nothing(
    tmp_path: Path, server: Server
) -> None:
    print(race(tmp_path / "race", server, 15))


@pytest.mark.soak
def test_editors_and_clocks_that_are_killed_for_two_minutes(tmp_path: Path, server: Server) -> None:
    print(race(tmp_path / "race", server, 120))


def test_what_is_added_for_50_ms_ahead_runs_then(tmp_path: Path, server: Server) -> None:
    """By another process than the clock's, twenty times."""
    redis: Any = Redis.from_url(server.url)
    schedules = Schedules(redis, settings=Settings.from_env({"REDIS_URL": server.url}))
    with ClockProcess(tmp_path / "clock", server.url, "") as clock:
        clock.said("reconcile.done")
        lags = []
        for n in range(20):
            at = datetime.now(UTC) + timedelta(milliseconds=50)
            name = schedules.once(at, "tasks.nothing", key=str(n))
            [line] = wait_until(
                lambda name=name: Store(redis, "default").ledger(name),  # type: ignore[misc]
                PATIENCE,
                "its run",
            )
            assert isinstance(line, Enqueued)
            assert line.lag is not None
            lags.append(line.lag / timedelta(milliseconds=1))
    print(f"lag in ms: {sorted(lags)}")
    assert min(lags) >= 0
    assert sorted(lags)[10] < 500  # the index alone is read every 10 s
