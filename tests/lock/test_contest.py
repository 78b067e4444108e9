"""A contest for one lock by processes that are killed and stopped."""

from __future__ import annotations

import random
import signal
import time
from itertools import groupby

import pytest

from tests.clock.storm import Client, chance
from tests.helpers import wait_until
from tests.lock.lab import LOCK, Script, Start, lasts

CONTESTANT = """
luck = random.Random(os.getpid())
say('ready')
while True:
    try:
        with exclusive('it', timeout=1, wait=0.3) as lock:
            for _ in range(luck.choice([1, 2, 2, 3, 3, 5, 5, 10, 400])):
                write(lock, os.getpid())
                pause(luck.uniform(0, 0.005))  # and never checks whether it still may
    except Busy:
        other.incr('busy')
    except LockLost as error:
        other.incr('lost')
"""


class Contest:
    """Eight processes that write under one lock. Its holder is killed, or stopped past the
    timeout and let go on."""

    def __init__(self, redis: Client, start: Start, luck: random.Random) -> None:
        self.redis = redis
        self.luck = luck
        self._start = start
        self._running: dict[int, Script] = {}
        self._asleep: dict[int, float] = {}
        self.kills = self.stops = 0
        for _ in range(8):
            self._begin()
        for script in self._running.values():
            script.wait_for_line("ready")

    def _begin(self) -> None:
        script = self._start(CONTESTANT)
        self._running[script.process.pid] = script

    def holder(self) -> int:
        """Return the process that holds the lock; 0 for none."""
        owner = (self.redis.hget(LOCK, "owner") or b"").decode()
        return int(owner.split(".")[-2]) if owner else 0

    def strike(self) -> bool:
        """Stop or kill the holder, in turn, if there is one and it runs."""
        pid = self.holder()
        if pid not in self._running or pid in self._asleep:
            return False
        if self.kills < self.stops:
            self._running.pop(pid).signal(signal.SIGKILL)
            self.kills += 1
            self._begin()
            return True
        self._running[pid].signal(signal.SIGSTOP)
        if any(self.holder() != pid for _ in range(3)):  # too late; its release was on its way
            self._running[pid].signal(signal.SIGCONT)
            return False
        self._asleep[pid] = time.monotonic() + self.luck.uniform(1.3, 2)
        self.stops += 1
        return True

    def wake(self, *, all: bool = False) -> bool:
        for pid, until in list(self._asleep.items()):
            if all or time.monotonic() > until:
                del self._asleep[pid]
                self._running[pid].signal(signal.SIGCONT)
        return not self._asleep

    def end(self) -> None:
        """Let the last ones wake after their time, and get their errors."""
        wait_until(self.wake, "the stopped ones wake")
        wait_until(lambda: self.number("lost") >= self.stops, "each gets its error")
        for script in self._running.values():
            script.signal(signal.SIGKILL)
            script.ended()

    def number(self, key: str) -> int:
        return int(self.redis.get(key) or 0)

    def writes(self, key: str) -> list[tuple[int, int]]:
        """Token and process of each write, in the order in which they came."""
        return [(int(t), int(pid)) for t, pid in map(bytes.split, self.redis.lrange(key, 0, -1))]


def contest(redis: Client, start: Start, seconds: float) -> None:
    seed, luck = chance()
    it = Contest(redis, start, luck)
    over = lasts(seconds)
    while not over() or len({pid for _, pid in it.writes("accepted")}) < 4:  # on a slow machine
        next_strike = lasts(luck.uniform(0.2, 1.2))
        wait_until(lambda due=next_strike: it.wake() is not None and due(), "the next one")  # type: ignore[misc]
        wait_until(lambda: it.wake() is not None and (it.strike() or over()), "a holder")
    it.end()
    attempts, accepted = it.writes("attempts"), it.writes("accepted")
    refused = len(attempts) - len(accepted)
    turns = [list(turn) for _, turn in groupby(accepted, key=lambda write: write[0])]
    print(
        f"seed={seed} seconds={seconds:g} holders={len(turns)} accepted={len(accepted)} "
        f"refused={refused} kills={it.kills} stops={it.stops} lost={it.number('lost')} "
        f"busy={it.number('busy')}"
    )
    tokens = [turn[0][0] for turn in turns]
    assert tokens == sorted(set(tokens)), "a holder came back between others"
    assert all(len(set(turn)) == 1 for turn in turns), "two holders had one token"
    assert it.kills >= seconds / 6
    assert len({pid for _, pid in accepted}) >= 4


def test_eight_processes_killed_and_stopped_never_write_in_each_others_turn(
    redis: Client, start: Start
) -> None:
    contest(redis, start, seconds=6)


@pytest.mark.soak
def test_eight_processes_killed_and_stopped_for_long_never_write_in_each_others_turn(
    redis: Client, start: Start
) -> None:
    contest(redis, start, seconds=20)
