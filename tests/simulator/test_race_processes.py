"""Editors and clocks in processes of their own, killed at any instant: the records are right.

A leader, a standby, and editors (editors.py) that change what they can. No worker runs the jobs, so
the queue keeps every one there ever was. The seed is printed; STORM_SEED=… repeats it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.backfills import Backfills
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every
from tests.clock.storm import Client, ClockProcess, catch_up, chance, client, marker_of
from tests.helpers import wait_until
from tests.server import Server
from tests.simulator import editors
from tests.simulator.editors import ANSWERED, LOOSE, REQUESTED, STEADY, TASK
from tests.simulator.records import OWED, PREFIX, Ledger, Times, jobs_of

pytestmark = pytest.mark.process

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "tests.simulator.editors"])
EDITORS = 3


class Storm:
    """Two clocks and three editors, until they are let alone."""

    def __init__(self, url: str, path: Path, redis: Client, stack: ExitStack) -> None:
        self.seed, self.luck = chance()
        self.redis = redis
        self.env = {"REDIS_URL": url, "RQ_CLOCK_HISTORY": "1000000"}
        self.path = path
        self.stack = stack
        self.killed: Counter[str] = Counter()
        self.schedules = Schedules(redis, settings=Settings.from_env(self.env))
        editors.set_up(self.schedules)
        self.clocks = [self.clock() for _ in range(2)]
        self.editors = [self.editor(number) for number in range(EDITORS)]
        self.seen = 0
        """Jobs in the queue that a worker has looked at."""

    def clock(self) -> ClockProcess:
        url = self.env["REDIS_URL"]
        return self.stack.enter_context(ClockProcess(self.path, url, ""))

    def editor(self, number: int) -> ForkServerProcess:
        args = (self.log(number), self.env, number, self.luck.randrange(1 << 32))
        editor = CONTEXT.Process(target=editors.run, args=args, daemon=True)
        editor.start()
        self.stack.callback(editor.kill)
        return editor

    def log(self, number: int) -> Path:
        return self.path / f"editor{number}.out"

    def rage(self, seconds: float) -> None:
        """Kill an editor again and again, and a clock now and then."""
        began = time.monotonic()
        strikes = 0
        while time.monotonic() - began < seconds:
            self.clocks[-1].live(self.luck.uniform(0.05, 0.5))
            self.work()
            number = self.luck.randrange(EDITORS)
            self.kill(number)
            self.editors[number] = self.editor(number)
            strikes += 1
            if strikes % 8 == 0:
                victim = self.clocks.pop(self.luck.randrange(2))
                victim.kill()
                self.killed["clocks"] += 1
                self.clocks.append(self.clock())

    def kill(self, number: int) -> None:
        editor = self.editors[number]
        output = self.log(number).read_text() if self.log(number).exists() else ""
        assert editor.is_alive(), f"editor {number} ended by itself:\n{output}"
        editor.kill()
        editor.join()
        self.killed["editors"] += 1

    def work(self) -> None:
        """What was backfilled is done, as workers would say."""
        jobs = self.redis.lrange("rq:queue:default", self.seen, -1)
        self.seen += len(jobs)
        for job in jobs:
            if b"-b" in job:
                self.redis.hset(b"rq:job:" + job, "status", "finished")

    def settle(self) -> None:
        """No editor any more: the clock does what is left to do."""
        for number in range(EDITORS):
            self.kill(number)
        for number in range(EDITORS):  # what was not answered, its successor requests again
            successor = editors.Editor(self.redis, self.env, number, self.luck)
            successor.request_again()
        self.schedules.resume(ALL)
        there = [entry.name for entry in self.schedules]  # but a one-off job may go meanwhile
        self.schedules.resume([name for name in there if name in STEADY + LOOSE])

        def done() -> bool:
            self.work()
            waiting = [n for n in self.redis.hkeys(PREFIX + "definitions") if n[:5] == b"once-"]
            return not (waiting or self.redis.zcard(PREFIX + "duties"))

        wait_until(done, "the end of all backfills and one-off jobs")
        catch_up(self.redis, STEADY)
        for clock in self.clocks:
            assert clock.terminate() == 0, clock.text()[-4000:]

    # ---- the account --------------------------------------------------------------------------

    def check(self) -> str:
        """Fails when anything was lost or doubled; else the figures."""
        queued = [job.decode() for job in self.redis.lrange("rq:queue:default", 0, -1)]
        assert max(Counter(queued).values()) == 1
        fates: Counter[str] = Counter()
        owed = self.owed()
        for name in STEADY + LOOSE:
            ledger = Ledger.read(self.redis.lrange(f"{PREFIX}ledger:{name}", 0, -1))
            assert jobs_of(name, queued) == ledger.jobs, name
            assert max((ledger.runs + ledger.backfilled).values(), default=1) == 1, name
            if name in STEADY:
                marker, since = marker_of(self.redis, name)
                times = Times(editors.period(STEADY.index(name))).between(since, marker)
                fates.update(ledger.fates(list(times), owed[name], name).values())
            fates["by hand"] += ledger.by_hand.total()
            fates["backfilled"] += ledger.backfilled.total()
        assert fates.keys() <= {"run", "backfill", "paused", "requested", "by hand", "backfilled"}
        fates["one-off"] = self.check_one_offs(queued)
        fates["backfills"] = self.check_backfills(queued)
        figures = " ".join(f"{word}={n}" for word, n in sorted((self.killed + fates).items()))
        return f"seed={self.seed} {figures}"

    def owed(self) -> dict[str, set[int]]:
        """Return the fire times of steady schedules that pauses left to backfills."""
        found: dict[str, set[int]] = {name: set() for name in STEADY}
        for backfill in Backfills(Store(self.redis, "default")).newest(1_000_000):
            if backfill.reason == OWED and backfill.schedule in STEADY:
                times = Times(editors.period(STEADY.index(backfill.schedule)))
                span = times.between(to_ms(backfill.start) - 1, to_ms(backfill.end))
                assert not found[backfill.schedule] & {*span}, backfill
                found[backfill.schedule] |= {*span}
        return found

    def check_one_offs(self, queued: list[str]) -> int:
        requested = self.redis.hgetall(REQUESTED)
        assert self.redis.smembers(ANSWERED) == requested.keys()
        for key, at in requested.items():
            name = f"once-{key.decode()}"
            runs = Ledger.read(self.redis.lrange(f"{PREFIX}ledger:{name}", 0, -1)).runs
            assert runs == {int(at): 1}, (name, runs)
            assert jobs_of(name, queued)[""] == runs
        return len(requested)

    def check_backfills(self, queued: list[str]) -> int:
        found = Backfills(Store(self.redis, "default")).newest(1_000_000)
        for backfill in found:
            assert backfill.state in ("done", "canceled"), backfill
            mine = [job for job in queued if job.endswith(f"-b{backfill.number}")]
            mine = [job for job in mine if job.startswith(f"default-{backfill.schedule}-")]
            assert len(mine) == backfill.enqueued, backfill
            assert backfill.enqueued <= backfill.total
            if backfill.state == "done":
                assert backfill.enqueued == backfill.total, backfill
                assert backfill.skipped == len(backfill.left_out), backfill
        return len(found)


def storm(server: Server, path: Path, seconds: float) -> str:
    with client(server.url) as redis, ExitStack() as stack:
        storm = Storm(server.url, path, redis, stack)
        wait_until(  # whichever started first: the other one stands by
            lambda: any(clock.events("clock.leading") for clock in storm.clocks),
            "a clock to lead",
        )
        storm.rage(seconds)
        storm.settle()
        return storm.check()


def test_editors_and_clocks_that_are_killed_lose_and_double_nothing(
    fresh_server: Callable[..., Server], tmp_path: Path
) -> None:
    print(storm(fresh_server(), tmp_path, seconds=15))


@pytest.mark.soak
def test_editors_and_clocks_that_are_killed_for_long_lose_and_double_nothing(
    fresh_server: Callable[..., Server], tmp_path: Path
) -> None:
    print(storm(fresh_server(), tmp_path, seconds=120))


@pytest.fixture
def clock(redis_url: str, tmp_path: Path) -> Iterator[ClockProcess]:
    with ClockProcess(tmp_path, redis_url, "") as clock:
        clock.wait_for("clock.leading")
        yield clock


def test_what_is_added_for_a_moment_ahead_fires_on_time(
    clock: ClockProcess, redis_url: str
) -> None:
    """Each time the clock has nothing to do for longer, and is asleep."""
    lags: list[int] = []
    with client(redis_url) as redis:
        schedules = Schedules(redis, settings=Settings.from_env({"REDIS_URL": redis_url}))
        for number in range(20):
            at = Store(redis, "default").now() + timedelta(milliseconds=50)
            if number % 2:
                name = schedules.once(at, TASK, key=str(number))
            else:
                name = f"yearly{number}"
                schedules.add(name, every(weeks=52, anchor=at), TASK)
            entries = partial(redis.lrange, f"{PREFIX}ledger:{name}", 0, -1)
            ledger: Any = wait_until(entries, name)
            mark, _, lag = ledger[0].decode().split(" ")
            assert mark == "s"
            lags.append(int(lag))
    print(f"lag of 20 added 50 ms ahead: {sorted(lags)[10]} ms, at most {max(lags)} ms")
    assert 0 <= min(lags) <= max(lags) < 500
    assert clock.terminate() == 0
