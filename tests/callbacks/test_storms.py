"""Workers, clocks and Redis are killed while tasks are called: none is lost, each repeat has its
reason, and what has never failed goes first. The account is drawn up from the receiver's own log.

The seed of every chance is printed; STORM_SEED=… repeats it.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from rq_clock.model.task import TaskAttempt
from tests.beside import beside_others
from tests.callbacks.lab import Lab
from tests.callbacks.receiver import Call
from tests.clock.storm import chance

pytestmark = pytest.mark.process
EXPLAINED = 10.0
"""Seconds after a call within which a disaster may have kept its result from being stored."""
SIDE_BY_SIDE = 2.0
"""Seconds by which calls of one moment may arrive in another order, on a busy machine."""


class Storm:
    """The lab, and the disasters that befall it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.disasters: list[float] = []
        self.added: dict[str, float] = {}
        """Task → when it was added."""
        seed, self.luck = chance()
        print(f"STORM_SEED={seed}")

    def kill_worker(self) -> None:
        place = self.luck.randrange(len(self.lab.dynos))
        self.disasters.append(time.time())
        self.lab.dynos[place].kill_all()
        self.lab.dynos[place] = self.lab.start_worker()

    def kill_clock(self) -> None:
        self.lab.clock.kill()
        self.lab.clock = self.lab.start_clock()

    def restart_redis(self) -> None:
        self.disasters.append(time.time())
        self.lab.server.kill()
        self.lab.server.start()
        self.disasters.append(time.time())

    def rage(self, kinds: list[Callable[[], None]], tasks: int) -> None:
        """Let disasters of these kinds happen in any order, each in the middle of its part of the
        tasks, of which one in ten fails at first."""
        self.luck.shuffle(kinds)
        part = tasks // (len(kinds) + 1)
        for disaster in kinds:
            before = len(self.lab.receiver.calls())
            self._add(part)
            self.lab.receiver.wait_for(before + self.luck.randrange(1, part))
            disaster()
        self._add(tasks - len(self.added))

    def _add(self, count: int) -> None:
        ids = self.lab.add(count, "/20/10")
        self.added.update(dict.fromkeys(ids, time.time()))


def storm(path: Path, *, tasks: int, workers: int, clocks: int, restarts: int) -> str:
    """Call tasks under these disasters."""
    began = time.monotonic()
    with Lab(path, workers=2, appendonly="yes", appendfsync="always") as lab:
        lab.callbacks.configure({
            "mode": "steady", "baseIntervalMs": 500, "selectSize": 100, "retryDelays": [0],
            "keepDone": 1_000_000,
        })  # fmt: skip
        storm = Storm(lab)
        kinds = [storm.kill_worker] * workers + [storm.kill_clock] * clocks
        kinds += [storm.restart_redis] * restarts
        storm.rage(kinds, tasks)
        lab.wait_for(tasks)
        calls = lab.receiver.calls()
        status = lab.callbacks.status()
        failed = {call.id for call in calls if call.status != 200}
        stored = {id: lab.callbacks.get(id).attempts for id in failed}
    found = _account(list(storm.added), calls, storm.disasters)
    _check_order(calls, stored, storm.added)
    took = time.monotonic() - began
    return f"{found} lost by workers={status.counters.get('called lost', 0)} in {took:.0f} s"


def _account(ids: list[str], calls: list[Call], disasters: list[float]) -> str:
    """Check the receiver's log, and return its figures."""
    answered: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.status == 200:
            answered[call.id].append(call)
    lost = [id for id in ids if not answered[id]]
    repeats = [pair for some in answered.values() for pair in pairwise(some)]
    unexplained = [
        pair for pair in repeats
        if not any(-1 <= at - pair[0].at <= EXPLAINED for at in disasters)
    ]  # fmt: skip
    same = [pair for pair in repeats if pair[0].attempt >= pair[1].attempt]
    figures = (
        f"tasks={len(ids)} calls={len(calls)} lost={len(lost)} repeats={len(repeats)} "
        f"unexplained={len(unexplained)} disasters={len(disasters)}"
    )
    assert not lost, (figures, lost[:3])
    assert not unexplained, (figures, unexplained[:3])
    assert not same, (figures, same[:3])
    return figures


def _check_order(
    calls: list[Call], stored: dict[str, tuple[TaskAttempt, ...]], added: dict[str, float]
) -> None:
    """Check that no task was called again after a failure while another had never been called. A
    failure whose worker died before it was stored is none: that task goes first again."""
    failed_at = {
        id: next((one.attempt for one in attempts if one.result == "status"), None)
        for id, attempts in stored.items()
    }
    retries = sorted(c.at for c in calls if (at := failed_at.get(c.id)) and c.attempt > at)
    assert retries
    for call in (call for call in calls if call.attempt == 1):
        place = bisect(retries, added[call.id] + SIDE_BY_SIDE)
        overtaken = place < len(retries) and retries[place] < call.at - SIDE_BY_SIDE
        assert not overtaken, (call, retries[place])


@beside_others
def test_no_task_is_lost_while_workers_clocks_and_redis_are_killed(path: Path) -> str:
    return storm(path, tasks=600, workers=3, clocks=2, restarts=1)


@pytest.mark.soak
@beside_others
def test_no_task_of_ten_thousand_is_lost_in_forty_three_disasters(path: Path) -> str:
    return storm(path, tasks=10_000, workers=20, clocks=20, restarts=3)
