"""What Redis has lost or holds wrong, and what the leader makes of it. A real server."""

from __future__ import annotations

from datetime import timedelta

import pytest
from redis import Redis

from rq_clock.clock.repairer import Repairer
from rq_clock.errors import LeaseLost
from rq_clock.model.decision import Skip
from rq_clock.store.operations import Edit, Operations
from rq_clock.store.repair import WAIT
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every, once
from rq_clock.version import releases
from tests.clock.test_planner import MIDNIGHT, SECOND, Wall, each, schedule
from tests.helpers import Events, pause

HOUR = timedelta(hours=1)


class Repaired(Wall):
    """A namespace whose leader repairs."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.repairer = Repairer(self.store)

    def repair(self) -> int:
        """Walk through all schedules. Return how many were wrong."""
        self.repairer.start()
        total = 0
        while (
            found := self.repairer.look(self.lease, self.now, self.planner.suspects)
        ) is not None:
            total += found
        self.planner.look_again(["*"])
        return total


@pytest.fixture
def wall(connection: Redis) -> Repaired:
    return Repaired(connection)


def index(wall: Wall) -> dict[str, int]:
    return wall.store.fire_times(["s", "other", "third"])


@pytest.mark.parametrize("key", ["due", "markers", "revisions"])
def test_a_deleted_key_costs_no_fire_time(wall: Repaired, key: str) -> None:
    """From the ledgers is known up to where all was decided."""
    wall.declare(*(schedule(every(seconds=10), n, catch_up="all") for n in ("s", "other")))
    wall.run(MIDNIGHT + 35 * SECOND)
    wall.redis.delete(wall.store.key(key))
    wall.run(MIDNIGHT + 65 * SECOND)
    wall.repair()
    wall.run(MIDNIGHT + 95 * SECOND)
    for name in ("s", "other"):
        assert wall.enqueued(name) == each(MIDNIGHT, 10 * SECOND, 9)


def test_a_right_namespace_is_left_as_it_is(wall: Repaired) -> None:
    wall.declare(schedule(every(seconds=10)), schedule(once(MIDNIGHT + SECOND), "other"))
    wall.run(MIDNIGHT + 35 * SECOND)
    before = wall.redis.hgetall(wall.store.key("markers"))
    assert wall.repair() == 0
    assert wall.redis.hgetall(wall.store.key("markers")) == before


def test_a_schedule_without_marker_is_shown_and_taken_in_anew(
    wall: Repaired, events: Events
) -> None:
    wall.declare(schedule(every(seconds=10)), schedule(every(seconds=10), "other"))
    wall.redis.hdel(wall.store.key("markers"), "s")
    wall.run(MIDNIGHT + 25 * SECOND)
    assert wall.entry().states(wall.now) == ("invalid",)
    assert "marker is lost" in wall.entry().fault
    assert wall.planner.suspects == {"s"}
    assert wall.repairer.look(wall.lease, wall.now, wall.planner.suspects) == 1
    wall.planner.look_again(["*"])
    wall.run(MIDNIGHT + 45 * SECOND)
    assert wall.enqueued() == [MIDNIGHT + 30 * SECOND, MIDNIGHT + 40 * SECOND]
    assert len(wall.enqueued("other")) == 4
    assert [e["schedule"] for e in events("marker.lost")] == ["s"]


def test_a_one_off_job_without_marker_runs_once(wall: Repaired) -> None:
    added = schedule(once(MIDNIGHT + 10 * SECOND))
    edit = Edit(
        name="s", expected="new", definition=added.definition(), since=MIDNIGHT,
        next_fire=MIDNIGHT + 10 * SECOND,
    )  # fmt: skip
    Operations(wall.store).edit([edit], MIDNIGHT)
    wall.redis.hdel(wall.store.key("markers"), "s")
    wall.run(MIDNIGHT + 20 * SECOND)
    assert wall.repair() == 1
    wall.run(MIDNIGHT + 30 * SECOND)
    assert wall.enqueued() == [MIDNIGHT + 10 * SECOND]


def test_what_cannot_be_read_is_left_alone(wall: Repaired) -> None:
    wall.declare(schedule(every(seconds=10)))
    wall.redis.hset(wall.store.key("definitions"), "other", "{")
    wall.redis.zadd(wall.store.key("due"), {"other": 5})
    assert wall.repair() == 0
    assert index(wall)["other"] == 5
    assert wall.store.load(["other"])[0]["other"].states(wall.now) == ("invalid",)


def test_an_entry_of_the_index_without_a_schedule_is_removed_when_it_is_due(
    wall: Repaired,
) -> None:
    wall.declare(schedule(every(seconds=10)))
    wall.redis.zadd(wall.store.key("due"), {"other": to_ms(MIDNIGHT + SECOND)})
    wall.run(MIDNIGHT + 5 * SECOND)
    assert wall.repairer.look(wall.lease, wall.now, wall.planner.suspects) == 1
    assert index(wall) == {"s": to_ms(MIDNIGHT + 10 * SECOND)}


# ---- the time ---------------------------------------------------------------------------------


def test_a_marker_up_to_three_hours_ahead_waits(wall: Repaired) -> None:
    wall.declare(schedule(every(seconds=10)))
    wall.now = MIDNIGHT + WAIT - HOUR
    wall.run(wall.now + 25 * SECOND)
    newest = wall.entry().decided
    wall.now = MIDNIGHT
    assert wall.repair() == 0
    wall.run(MIDNIGHT + HOUR)
    assert wall.entry().decided == newest


def test_a_marker_further_ahead_is_set_to_now_with_an_entry(wall: Repaired, events: Events) -> None:
    wall.declare(schedule(every(minutes=1)), schedule(cron("0 0 1 1 *"), "other"))
    wall.now = MIDNIGHT + timedelta(days=1)
    wall.run(wall.now + SECOND)
    assert wall.entry().decided == MIDNIGHT + timedelta(days=1)
    wall.now = MIDNIGHT + SECOND
    assert wall.repair() == 1
    minute = timedelta(minutes=1)
    last = MIDNIGHT + timedelta(days=1)
    assert wall.store.ledger("s")[-1] == Skip("time", MIDNIGHT + minute, last, 24 * 60)
    wall.run(MIDNIGHT + 3 * minute)
    assert wall.enqueued()[1:] == each(MIDNIGHT, minute, 3)
    assert [e["schedule"] for e in events("marker.ahead")] == ["s"]


# ---- zone data --------------------------------------------------------------------------------


def test_newer_zone_data_move_the_index_and_are_noted(wall: Repaired, events: Events) -> None:
    wall.declare(schedule(cron("0 3 * * *", tz="America/Vancouver")))
    right = index(wall)["s"]
    wall.redis.zincrby(wall.store.key("due"), 3_600_000, "s")  # as older data had it
    wall.redis.hset(wall.store.key("meta"), "tzdata", "2026a")
    assert wall.repair() == 1
    assert index(wall)["s"] == right
    [moved] = events("schedule.moved")
    assert moved["zone_data"] == f"2026a to {releases()['tzdata']}"
    assert wall.redis.hget(wall.store.key("meta"), "tzdata") == releases()["tzdata"].encode()


def test_a_deposed_leader_repairs_nothing(wall: Repaired) -> None:
    wall.declare(schedule(every(seconds=10)))
    before, lease = index(wall), wall.lease
    wall.redis.zincrby(wall.store.key("due"), 1000, "s")
    wall.lead("clock.2")
    with pytest.raises(LeaseLost):
        wall.repairer.look(lease, wall.now, set())
    assert index(wall) != before


def test_a_pause_that_was_set_at_a_wrong_time_holds(wall: Repaired) -> None:
    wall.declare(schedule(every(seconds=10)))
    pause(wall.store, "s", MIDNIGHT + timedelta(days=365))
    wall.run(MIDNIGHT + 25 * SECOND)
    assert wall.enqueued() == []
    assert wall.skipped() == [("paused", 2)]


def test_a_backfill_that_was_planned_at_a_wrong_time_goes_on(wall: Repaired) -> None:
    duties, far = wall.store.key("duties"), to_ms(MIDNIGHT + timedelta(days=365))
    wall.redis.zadd(duties, {"backfill:x": far, "other:x": far})
    wall.repair()
    assert wall.redis.zscore(duties, "backfill:x") == to_ms(MIDNIGHT)
    assert wall.redis.zscore(duties, "other:x") == far
