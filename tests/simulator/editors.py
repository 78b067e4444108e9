"""Editors to kill: processes that do to some forty schedules what people and apps do, as fast as
they can, until somebody ends them.

Runs in a fork of a process that has everything imported, so that one can be killed several times a
second. What an editor must not forget (its one-off jobs) it writes down in Redis before it requests
them.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from redis import Redis

from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every

TASK = "tasks.nothing"
EVERY_ONE: dict[str, Any] = {"catch_up": "all", "catch_up_limit": 1_000_000}
STEADY = tuple(f"steady{i:02}" for i in range(20))
"""Schedules whose trigger nobody changes, and that nobody removes."""
LOOSE = tuple(f"loose{i:02}" for i in range(20))
REQUESTED, ANSWERED = "editors:requested", "editors:answered"
"""One-off jobs (a hash, key → ms) that were requested, and those (a set) whose answer came."""


def period(number: int) -> int:
    """Of the n-th schedule, in ms: 100 to 1000."""
    return 100 + number * 47 % 901


def set_up(schedules: Schedules) -> None:
    for names in (STEADY, LOOSE):
        for number, name in enumerate(names):
            schedules.add(name, every(milliseconds=period(number)), TASK, **EVERY_ONE)


class Editor:
    """One of several editors, by its number. Backfills and pauses are anybody's."""

    def __init__(self, redis: Any, env: dict[str, str], number: int, luck: random.Random) -> None:
        self.redis = redis
        self.luck = luck
        self.number = number
        self.schedules = Schedules(redis, by=f"editor{number}", settings=Settings.from_env(env))
        self.actions: list[Callable[[str], object]] = [
            *[self.once] * 6,
            *[self.pause, self.resume] * 3,
            *[self.skip, self.unskip, self.trigger, self.tag] * 2,
            *[self.backfill] * 2,
            self.cancel,
            self.add,
            self.rule,
            self.remove,
            self.everything,
        ]

    def run(self) -> None:
        self.request_again()
        while True:
            self.act()

    def act(self) -> None:
        """Do one thing, to one schedule; also what is refused."""
        action = self.luck.choice(self.actions)
        with suppress(ScheduleError):
            action(self.luck.choice(STEADY + LOOSE))

    def soon(self, least: float, most: float) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.luck.uniform(least, most))

    # ---- one-off jobs -------------------------------------------------------------------------

    def once(self, _: str) -> None:
        number = self.redis.incr("editors:number")
        key = f"{self.number}-{number}"
        at = int(self.soon(-0.5, 2).timestamp() * 1000)
        self.redis.hset(REQUESTED, key, at)
        self.request(key, at)

    def request(self, key: str, at: int) -> None:
        when = datetime.fromtimestamp(at // 1000, UTC) + timedelta(milliseconds=at % 1000)
        self.schedules.once(when, TASK, key=key)
        self.redis.sadd(ANSWERED, key)

    def request_again(self) -> None:
        """Its predecessor was killed before the answer came."""
        answered = self.redis.smembers(ANSWERED)
        for key, at in self.redis.hgetall(REQUESTED).items():
            if key.startswith(b"%d-" % self.number) and key not in answered:
                self.request(key.decode(), int(at))

    # ---- operations ---------------------------------------------------------------------------

    def pause(self, name: str) -> None:
        until = self.luck.choice([None, self.soon(0.05, 1)])
        missed = self.luck.choice(["skip", "latest", "all"])
        self.schedules.pause(name, until=until, missed=missed)

    def resume(self, name: str) -> None:
        self.schedules.resume([name, *self.luck.sample(STEADY, 3)])

    def everything(self, _: str) -> None:
        if self.luck.random() < 0.2:
            self.schedules.pause(ALL, until=self.soon(0.05, 0.3))
        self.schedules.resume(ALL)

    def skip(self, name: str) -> None:
        self.schedules.skip(name, self.luck.randint(1, 3))

    def unskip(self, name: str) -> None:
        self.schedules.skip(name, 0)

    def trigger(self, name: str) -> None:
        self.schedules.trigger(name)

    def tag(self, name: str) -> None:
        self.schedules.update(name, tags=[str(self.luck.randrange(100))])

    def backfill(self, name: str) -> None:
        start = self.soon(-5, -1)
        end = start + timedelta(seconds=self.luck.uniform(0, 2))
        self.schedules.backfill(name, start, end, at_once=self.luck.randint(1, 5))

    def cancel(self, _: str) -> None:
        running = [b.id for b in self.schedules.backfills(20) if b.state == "running"]
        if running:
            self.schedules.cancel_backfill(self.luck.choice(running))

    # ---- definitions --------------------------------------------------------------------------

    def add(self, _: str) -> None:
        replace = self.luck.random() < 0.5
        rule = every(milliseconds=self.luck.randint(100, 1000))
        self.schedules.add(self.luck.choice(LOOSE), rule, TASK, replace=replace, **EVERY_ONE)

    def rule(self, _: str) -> None:
        rule = every(milliseconds=self.luck.randint(100, 1000))
        self.schedules.update(self.luck.choice(LOOSE), trigger=rule)

    def remove(self, _: str) -> None:
        self.schedules.remove(self.luck.choice(LOOSE))


def run(path: Path, env: dict[str, str], number: int, seed: int) -> None:
    """Be an editor, in this process, until it is killed; `path` gets what goes wrong."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the test
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    with Redis.from_url(env["REDIS_URL"]) as redis:
        try:
            Editor(redis, env, number, random.Random(seed)).run()
        except RqClockError as error:
            print(f"editor {number}: {error!r}", flush=True)
            raise
