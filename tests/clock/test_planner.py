"""The loop's work, turned by hand through a wall clock of the test's choice. A real server.

`Wall.run` lets time pass and turns the planner as the loop does; the queue then shows the jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from redis import Redis

from rq_clock.clock.commit_log import LINES, CommitLog
from rq_clock.clock.planner import Planner
from rq_clock.clock.reconcile import differing, plan, plan_decided
from rq_clock.clock.reconciler import PORTION, Reconciler
from rq_clock.clock.upcoming import Upcoming
from rq_clock.errors import LeaseLost
from rq_clock.jobs import outcomes
from rq_clock.jobs.executions import Executions
from rq_clock.log import FaultLog
from rq_clock.model.decision import Skip
from rq_clock.model.entry import Entry, Lease
from rq_clock.model.ledger import Enqueued, Invalid
from rq_clock.model.schedule import Schedule, declare
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.backfills import Backfills
from rq_clock.store.commit import WINDOW
from rq_clock.store.counters import Counters
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.timing.triggers import Trigger, cron, every, once
from tests.helpers import Events, pause
from tests.server import Server

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
MEGABYTE = 1024 * 1024


class Wall:
    """A namespace with its leading clock, on a wall clock that the test moves."""

    def __init__(self, redis: Redis, *, memory: int = 16 * MEGABYTE) -> None:
        self.redis = redis
        self.store = Store(redis, "default", history=100_000)
        self.now = MIDNIGHT
        self.memory = memory
        self.lead("clock.1")

    def lead(self, instance: str) -> None:
        lease = Leases(self.store).acquire(instance, ("test", ""), "take-over", self.now)
        assert isinstance(lease, Lease)
        self.lease = lease
        self.planner = Planner(self.store, lease, memory=self.memory)

    def declare(self, *schedules: Schedule) -> Mapping[str, Exception]:
        """Deploy: reconcile, and settle the fire times that the old triggers left undecided. Return
        what could not be changed."""
        declared = {s.name: s for s in schedules}
        stored = self.store.declared()
        log = CommitLog(self.store, Counters())
        difference = plan_decided(self.store, self.lease, declared, stored, self.now, log)
        assert all(self.store.reconcile(self.lease, 0, self.now, difference.changes))
        self.planner.look_again(["*"])
        return difference.invalid

    def run(self, until: datetime, *, late: timedelta = timedelta(0)) -> None:
        """Turn the planner until the wall clock shows `until`; each sleep is `late` too long."""
        while self.now <= until:
            seconds = self.planner.turn(self.now)
            if seconds:
                self.now += max(timedelta(seconds=seconds), timedelta(milliseconds=1)) + late
        self.now = until

    def jump(self, until: datetime) -> None:
        """Let time pass at once, as in an outage."""
        self.now = until - SECOND
        self.run(until)

    def enqueued(self, name: str = "s") -> list[datetime]:
        """Fire times of the schedule's jobs, in the order of the queue."""
        found: Any = self.redis.lrange("rq:queue:default", 0, -1)
        ids = [i.decode() for i in found]
        head = f"default-{name}-"
        return [from_ms(i.removeprefix(head)) for i in ids if i.startswith(head)]

    def skipped(self, name: str = "s") -> list[tuple[str, int]]:
        return [(e.reason, e.count) for e in self.store.ledger(name) if isinstance(e, Skip)]

    def run_of(self, name: str) -> Enqueued:
        """Return the only entry of a ledger, a run."""
        [entry] = self.store.ledger(name)
        assert isinstance(entry, Enqueued)
        return entry

    def entry(self, name: str = "s") -> Entry:
        return self.store.load([name])[0][name]


@pytest.fixture
def wall(connection: Redis) -> Wall:
    return Wall(connection)


def schedule(trigger: Trigger, name: str = "s", **options: Any) -> Schedule:
    return declare(name, trigger, "tasks.demo.heartbeat", {"overlap": "allow"} | options)


def each(start: datetime, step: timedelta, count: int) -> list[datetime]:
    return [start + i * step for i in range(1, count + 1)]


def run_next(wall: Wall) -> None:
    """Take the next job as a worker does, and end it with success."""
    executions = Executions(wall.redis, "default")
    executions.register("a", wall.now)
    execution = executions.take("a", ["default"], wall.now)
    assert execution is not None
    executions.close(execution, outcomes.succeeded(execution, wall.now, None))


class TestEachFireTimeOnce:
    def test_every_fire_time_is_enqueued_once_in_order(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=1)))
        wall.run(MIDNIGHT + 60 * SECOND)
        assert wall.enqueued() == each(MIDNIGHT, SECOND, 60)

    def test_nothing_is_enqueued_before_its_instant(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=5)))
        wall.run(MIDNIGHT + timedelta(seconds=4, milliseconds=999))
        assert wall.enqueued() == []
        wall.run(MIDNIGHT + 5 * SECOND)
        assert wall.enqueued() == [MIDNIGHT + 5 * SECOND]

    def test_oversleeping_moves_no_later_fire_time(self, wall: Wall) -> None:
        """An interval that counts from its last run would drift by 0.4 s a minute here."""
        wall.declare(schedule(every(minutes=1)))
        wall.run(MIDNIGHT + timedelta(minutes=10), late=timedelta(milliseconds=400))
        wall.run(MIDNIGHT + timedelta(minutes=10, seconds=1))
        assert wall.enqueued() == each(MIDNIGHT, timedelta(minutes=1), 10)

    def test_an_interval_and_a_cron_rule_due_together_fire_once_each(self, wall: Wall) -> None:
        """`rq cron` 2.12 reads the clock twice in a pass: at 12:00:59.999 for the marker and at
        12:01:00.002 for what is due, and enqueues the slot of 12:01 again in the next pass."""
        wall.now = MIDNIGHT.replace(hour=12)
        wall.declare(schedule(every(seconds=1), "tick"), schedule(cron("* * * * *"), "minute"))
        wall.run(wall.now + timedelta(seconds=59, milliseconds=999))
        wall.now += timedelta(milliseconds=3)
        wall.run(wall.now + timedelta(milliseconds=5))
        wall.run(MIDNIGHT.replace(hour=12, minute=2, second=30))
        noon = MIDNIGHT.replace(hour=12)
        assert wall.enqueued("minute") == each(noon, timedelta(minutes=1), 2)
        assert wall.enqueued("tick") == each(noon, SECOND, 150)

    def test_a_new_leader_repeats_nothing_and_misses_nothing(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=1), catch_up="all"))
        for number in range(2, 12):
            wall.run(wall.now + timedelta(seconds=2, milliseconds=700))
            wall.lead(f"clock.{number}")
        wall.run(MIDNIGHT + 30 * SECOND)
        assert wall.enqueued() == each(MIDNIGHT, SECOND, 30)

    def test_leading_again_and_again_takes_no_more_connections(self, wall: Wall) -> None:
        """Each outage ends in a new planner; redis-py's pool has an end, 100 connections."""
        wall.declare(schedule(every(seconds=1), catch_up="all"))
        before = len(wall.redis.client_list())  # those of other tests among them
        for number in range(2, 130):
            wall.lead(f"clock.{number}")
            wall.run(wall.now + 2 * SECOND)
        assert wall.enqueued() == each(MIDNIGHT, SECOND, 256)
        assert len(wall.redis.client_list()) <= before + 3

    def test_what_a_deposed_leader_has_staged_is_refused(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10)))
        wall.run(MIDNIGHT + 5 * SECOND)
        old = wall.planner
        wall.lead("clock.2")
        with pytest.raises(LeaseLost):
            old.turn(MIDNIGHT + 10 * SECOND)
        wall.run(MIDNIGHT + 10 * SECOND)
        assert wall.enqueued() == [MIDNIGHT + 10 * SECOND]

    def test_a_crowd_is_enqueued_whole(self, wall: Wall) -> None:
        at = MIDNIGHT + 20 * SECOND
        wall.declare(*(schedule(once(at), f"s{i}") for i in range(1234)))
        wall.run(at)
        assert wall.redis.llen("rq:queue:default") == 1234
        assert wall.store.soonest(1) == []

    def test_of_a_crowd_the_first_have_a_log_line_and_the_others_one_together(
        self, wall: Wall, events: Events
    ) -> None:
        at = MIDNIGHT + 20 * SECOND
        wall.declare(*(schedule(once(at), f"s{i}") for i in range(200)))
        wall.declare(*(schedule(once(at), f"s{i}") for i in range(150)))
        wall.run(at + SECOND)
        assert len(events("run.enqueued")) == LINES
        [others] = events("runs.enqueued")
        assert others["count"] == 150 - LINES
        assert (others["first"], others["last"]) == (at, at)
        assert others["lag_ms"]
        wall.declare(schedule(every(seconds=1), "later"))
        wall.run(at + 10 * SECOND)
        assert len(events("run.enqueued")) == LINES + 9
        assert len(events("runs.enqueued")) == 1

    def test_a_crowd_that_takes_long_to_pack_is_looked_for_earlier(self, wall: Wall) -> None:
        at = MIDNIGHT + 60 * SECOND
        wall.declare(*(schedule(once(at), f"s{i}") for i in range(100)))
        for pace, found in ((1, 0), (500, 100)):
            upcoming = Upcoming(wall.store)
            for _ in range(200):
                upcoming.packed(jobs=1, ms=pace)
            while upcoming.read(to_ms(MIDNIGHT)):
                pass
            assert len(upcoming.take(1000, upcoming.horizon(to_ms(MIDNIGHT)))) == found

    def test_a_crowd_beyond_the_memory_for_it_is_late_not_lost(self, connection: Redis) -> None:
        wall = Wall(connection, memory=64 * 1024)
        at = MIDNIGHT + 20 * SECOND
        wall.declare(*(schedule(once(at), f"s{i}") for i in range(600)))
        wall.run(at - SECOND)
        assert wall.redis.llen("rq:queue:default") == 0
        wall.run(at)
        assert wall.redis.llen("rq:queue:default") == 600

    def test_more_messages_than_fit_on_the_way_all_arrive(self, wall: Wall) -> None:
        at = MIDNIGHT + SECOND
        count = 100 * (3 * WINDOW) + 1
        wall.declare(*(schedule(once(at), f"s{i}") for i in range(count)))
        wall.run(at)
        assert wall.redis.llen("rq:queue:default") == count


class TestTheWallClock:
    def test_going_back_fires_nothing_again(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=1)))
        wall.run(MIDNIGHT + 10 * SECOND)
        wall.now = MIDNIGHT - timedelta(hours=1)
        wall.run(MIDNIGHT + 20 * SECOND)
        assert wall.enqueued() == each(MIDNIGHT, SECOND, 20)

    def test_a_jump_ahead_is_an_outage_for_latest(self, wall: Wall) -> None:
        wall.declare(schedule(every(minutes=1), catch_up="latest"))
        wall.run(MIDNIGHT + timedelta(minutes=2, seconds=50))
        wall.now = MIDNIGHT + timedelta(hours=1, seconds=30)  # suspended with a staged minute
        wall.run(MIDNIGHT + timedelta(hours=1, seconds=40))
        minutes = [t.hour * 60 + t.minute for t in wall.enqueued()]
        assert minutes == [1, 2, 60]
        assert wall.skipped() == [("limit", 57)]

    def test_a_jump_ahead_is_an_outage_for_none(self, wall: Wall) -> None:
        wall.declare(schedule(every(minutes=1), catch_up="none"))
        wall.run(MIDNIGHT + timedelta(minutes=2, seconds=50))
        wall.now = MIDNIGHT + timedelta(hours=1, seconds=30)
        wall.run(MIDNIGHT + timedelta(hours=1, seconds=40))
        assert len(wall.enqueued()) == 2
        assert wall.skipped() == [("window", 58)]

    def test_jumps_back_and_forth_lose_and_double_nothing_for_all(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=1), catch_up="all", catch_up_limit=10_000))
        for jump in (90, -45, 200, -199, 30, -3600, 3700):
            wall.now += timedelta(seconds=jump)
            wall.run(wall.now + 5 * SECOND)
        newest = wall.entry().marker
        assert newest is not None
        assert wall.enqueued() == each(MIDNIGHT, SECOND, (newest - MIDNIGHT) // SECOND)
        assert wall.skipped() == []

    def test_a_fire_time_to_come_is_refused_and_decided_again(
        self, wall: Wall, events: Events
    ) -> None:
        right = wall.store.now()
        wall.now = right + timedelta(hours=1)
        wall.declare(schedule(every(seconds=1)))
        while not wall.planner.early:
            assert wall.planner.turn(wall.now + SECOND) == 0
        assert wall.entry().marker is None
        assert wall.enqueued() == []
        wall.planner.early = False
        assert wall.planner.turn(right) > 1  # it waits for TIME
        assert not wall.planner.early
        assert not events("commit.refused")
        assert not events("run.undecided")

    def test_the_end_of_a_run_is_recorded_by_a_host_ahead_of_the_server(self, wall: Wall) -> None:
        wall.now = wall.store.now() + SECOND
        wall.declare(schedule(once(wall.now + SECOND / 4)))
        wall.run(wall.now + SECOND / 2)
        assert [e.lag for e in wall.store.ledger("s") if isinstance(e, Enqueued)] == [timedelta(0)]
        run_next(wall)
        entry = wall.run_of("s")
        assert entry.attempt is not None
        assert entry.attempt.state == "ok"

    def test_a_lag_below_zero_that_is_stored_hides_no_end(self, wall: Wall) -> None:
        wall.declare(schedule(once(MIDNIGHT + SECOND)))
        wall.run(MIDNIGHT + 2 * SECOND)
        entry = wall.run_of("s")
        wall.redis.lset(wall.store.key("ledger:s"), 0, f"s {to_ms(entry.fire_time)} -5")
        run_next(wall)
        entry = wall.run_of("s")
        assert entry.lag == timedelta(milliseconds=-5)
        assert entry.attempt is not None


class TestOneBadScheduleStopsNothingElse:
    def test_it_is_retried_with_growing_pauses(self, wall: Wall, events: Events) -> None:
        wall.redis.set("rq:queue:broken", "x")
        bad = schedule(every(seconds=1), "bad", queue="broken", catch_up="all")
        wall.declare(schedule(every(seconds=1), "good"), bad)
        wall.run(MIDNIGHT + 20 * SECOND)
        tries = events("run.undecided")
        assert [r["retry_in"] for r in tries] == ["1s", "2s", "4s", "8s", "16s"]
        assert {r["schedule"] for r in tries} == {"bad"}
        assert wall.enqueued("good") == each(MIDNIGHT, SECOND, 20)
        wall.redis.delete("rq:queue:broken")
        wall.run(MIDNIGHT + 40 * SECOND)
        assert wall.redis.llen("rq:queue:broken") == 40
        assert wall.store.ledger("bad")[0].fire_time == MIDNIGHT + SECOND  # type: ignore[union-attr]

    def test_an_unreadable_definition_is_reported(self, wall: Wall, events: Events) -> None:
        wall.declare(schedule(every(seconds=1), "good"), schedule(every(seconds=1), "odd"))
        wall.redis.hset(wall.store.key("definitions"), "odd", '{"every":1000,"later":1}')
        wall.run(MIDNIGHT + 5 * SECOND)
        named = events("schedule.invalid")
        assert [r["schedule"] for r in named] == ["odd"]
        assert len(wall.enqueued("good")) == 5
        assert wall.entry("odd").marker is None

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("definitions", b"\xff"),
            ("definitions", "[" * 100_000),
            ("definitions", '{"every":1000,"func":"a.b","catchUpWindow":1e300}'),
            ("definitions", '{"every":1000,"func":"a.b","jitter":NaN}'),
            ("definitions", '{"every":1000,"func":"a.b","args":["\\ud800"]}'),
            ("definitions", '{"every":1000,"func":"a.b","kwargs":{"n":' + "9" * 5000 + "}}"),
            ("markers", "soon"),
            ("markers", "007 0"),
            ("revisions", b"\xff"),
            ("revisions", ""),
            ("markers", b"\xff 0"),
            ("markers", "9" * 30 + " 0"),
            ("markers", f"- {to_ms(datetime.min.replace(tzinfo=UTC))}"),
            ("pauses", "{"),
            ("pauses", '{"since":1e300}'),
            ("pauses", b"\xff"),
            ("skips", "[]"),
        ],
    )
    def test_a_broken_schedule_blocks_no_other(
        self, wall: Wall, events: Events, key: str, value: str | bytes
    ) -> None:
        bad = schedule(every(seconds=1), "bad", jitter=1)
        wall.declare(schedule(every(seconds=1), "good"), bad)
        wall.redis.hset(wall.store.key(key), "bad", value)
        wall.run(MIDNIGHT + 65 * SECOND)
        assert wall.enqueued("good") == each(MIDNIGHT, SECOND, 65)
        named = events("schedule.invalid")
        assert [r["schedule"] for r in named] == ["bad"]
        assert wall.enqueued("bad") == []
        [entry] = wall.store.ledger("bad")
        assert isinstance(entry, Invalid)
        assert (entry.reason, entry.count) == ("invalid", 1)
        assert entry.error
        wall.lead("clock.2")  # which finds the same error
        wall.run(MIDNIGHT + 70 * SECOND)
        assert wall.store.ledger("bad") == [entry]

    def test_a_removed_schedule_leaves_no_fault(self, wall: Wall) -> None:
        wall.redis.set("rq:queue:broken", "x")
        good = schedule(every(seconds=1), "good")
        wall.declare(good, schedule(every(seconds=1), "bad", queue="broken"))
        wall.run(MIDNIGHT + 5 * SECOND)
        assert "bad" in wall.planner.report().faulty
        wall.declare(good)
        wall.run(MIDNIGHT + 70 * SECOND)
        assert wall.planner.report().faulty == {}

    def test_a_schedule_put_right_fires_at_once(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=1), "bad"))
        wall.redis.hset(wall.store.key("skips"), "bad", "{")
        wall.run(MIDNIGHT + 3 * SECOND)
        wall.redis.hdel(wall.store.key("skips"), "bad")
        wall.planner.look_again(["bad"])
        wall.run(MIDNIGHT + 5 * SECOND)
        assert wall.enqueued("bad") == [MIDNIGHT + s * SECOND for s in (3, 4, 5)]

    @pytest.mark.parametrize("score", ["-inf", "inf", "1e300", "-1e300"])
    def test_a_foreign_due_entry_blocks_no_other(self, wall: Wall, score: str) -> None:
        wall.declare(schedule(every(seconds=1), "good"))
        wall.redis.zadd(wall.store.key("due"), {b"\xff": score, b"odd": score})
        wall.planner.look_again(["odd", "\ufffd"])
        wall.run(MIDNIGHT + 5 * SECOND)
        assert wall.enqueued("good") == each(MIDNIGHT, SECOND, 5)

    @pytest.mark.parametrize(("key", "value"), [("pauses", "{"), ("revisions", b"\xff")])
    def test_a_pause_of_all_that_cannot_be_read_holds_up_nothing(
        self, wall: Wall, key: str, value: str | bytes
    ) -> None:
        wall.declare(schedule(every(seconds=1), "good"))
        wall.redis.hset(wall.store.key(key), "*", value)
        wall.run(MIDNIGHT + 5 * SECOND)
        assert wall.enqueued("good") == each(MIDNIGHT, SECOND, 5)

    def test_a_job_key_of_another_kind_holds_up_nothing(self, wall: Wall) -> None:
        wall.declare(
            schedule(every(seconds=10), "good"), schedule(every(seconds=10), overlap="skip")
        )
        wall.run(MIDNIGHT + 10 * SECOND)
        job = f"rq:job:default-s-{to_ms(MIDNIGHT + 10 * SECOND)}"
        wall.redis.delete(job)
        wall.redis.set(job, "x")
        wall.run(MIDNIGHT + 60 * SECOND)
        wall.planner.overlaps.check(wall.now)
        assert len(wall.enqueued("good")) == 6
        assert wall.enqueued() == each(MIDNIGHT, 10 * SECOND, 2)  # then its second one waits

    def test_a_failed_search_for_a_lost_job_ends_nothing(self, wall: Wall, events: Events) -> None:
        wall.declare(schedule(every(seconds=10), overlap="skip"))
        wall.run(MIDNIGHT + 20 * SECOND)
        wall.redis.set("rq:wip:default", "x")
        for _ in range(20):
            wall.run(wall.now + 10 * SECOND)
            wall.planner.overlaps.check(wall.now)
        failed = events("duty.failed")
        assert [r["schedule"] for r in failed] == ["s"]

    def test_a_declaration_that_raises_leaves_the_others_in_order(self, wall: Wall) -> None:
        good, bad = schedule(every(seconds=1), "good"), schedule(every(seconds=1), "bad")
        bad.kwargs["n"] = 10**5000  # type: ignore[index]  # changed after it was checked
        declared = {"bad": bad, "good": good}
        assert "good" in differing(declared, {})
        found = plan(declared, {}, {}, MIDNIGHT)
        assert found.added == ["good"]
        assert list(found.invalid) == ["bad"]

    def test_a_full_redis_leaves_the_batch_undecided(
        self, fresh_server: Callable[..., Server], events: Events
    ) -> None:
        with Redis.from_url(fresh_server().url) as redis:
            wall = Wall(redis)
            wall.declare(schedule(every(seconds=1), catch_up="all"))
            redis.config_set("maxmemory", "1")
            wall.run(MIDNIGHT + 4 * SECOND)
            assert wall.enqueued() == []
            assert wall.store.ledger("s") == []
            assert not redis.keys("rq:job:*")
            redis.config_set("maxmemory", "0")
            wall.run(MIDNIGHT + 20 * SECOND)
            assert wall.enqueued() == each(MIDNIGHT, SECOND, 20)
            redis.config_set("maxmemory", "1")
            schedules = Schedules(redis, settings=Settings.from_env({"REDIS_URL": "redis://x"}))
            schedules.pause("*", reason="Redis is full")
            assert wall.entry().pause(wall.store.now()) is not None
            schedules.resume("*")
            assert wall.entry().pause(wall.store.now()) is None
        assert len(events("commit.refused")) == 3  # at 1, 2 and 4 s
        assert len(events("commit.accepted")) == 1


class TestNews:
    def test_a_pause_reaches_a_schedule_that_is_staged(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10)))
        wall.run(MIDNIGHT + 5 * SECOND)
        pause(wall.store, "s", wall.now)
        wall.planner.look_again(["s"])
        wall.run(MIDNIGHT + 30 * SECOND)
        assert wall.enqueued() == []
        assert wall.skipped() == [("paused", 3)]

    def test_a_pause_whose_announcement_was_lost_holds_all_the_same(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10)))
        wall.run(MIDNIGHT + 5 * SECOND)
        pause(wall.store, "*", wall.now)
        wall.run(MIDNIGHT + 20 * SECOND)
        pause(wall.store, "*", wall.now, until=wall.now)
        wall.run(MIDNIGHT + 30 * SECOND)
        assert wall.enqueued() == [MIDNIGHT + 30 * SECOND]
        assert wall.skipped() == [("paused", 2)]


class TestDeploy:
    def test_a_changed_trigger_settles_what_was_due_before(self, wall: Wall) -> None:
        """The deploy that swallows the 03:00 job: stopped 02:59:55, back 03:00:10, rule changed."""
        wall.now = MIDNIGHT.replace(hour=2)
        wall.declare(schedule(cron("0 3 * * *")))
        wall.run(MIDNIGHT.replace(hour=2, minute=59, second=55))
        wall.now = MIDNIGHT.replace(hour=3, second=10)
        wall.declare(schedule(cron("30 3 * * *")))
        wall.run(MIDNIGHT.replace(hour=4))
        assert wall.enqueued() == [MIDNIGHT.replace(hour=3, minute=m) for m in (0, 30)]

    def test_a_changed_trigger_adds_no_earlier_fire_times(self, wall: Wall) -> None:
        wall.declare(schedule(cron("0 0 * * *"), catch_up="all"))
        wall.run(MIDNIGHT + timedelta(hours=5))
        wall.declare(schedule(cron("0 * * * *"), catch_up="all"))
        wall.run(MIDNIGHT + timedelta(hours=6))
        assert wall.enqueued() == [MIDNIGHT + timedelta(hours=6)]

    def test_a_changed_option_leaves_time_alone(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10)))
        wall.run(MIDNIGHT + 15 * SECOND)
        known = wall.entry().known_since
        wall.declare(schedule(every(seconds=10), timeout=90))
        wall.run(MIDNIGHT + 30 * SECOND)
        assert wall.enqueued() == each(MIDNIGHT, 10 * SECOND, 3)
        assert wall.entry().known_since == known

    def test_a_rename_neither_loses_nor_doubles(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10), "old"))
        wall.run(MIDNIGHT + 15 * SECOND)
        wall.now += timedelta(seconds=10)  # a fire time passes in the deploy
        wall.declare(schedule(every(seconds=10), "new", renamed_from="old"))
        wall.run(MIDNIGHT + 40 * SECOND)
        assert wall.enqueued("old") == [MIDNIGHT + 10 * SECOND]
        assert wall.enqueued("new") == [MIDNIGHT + s * SECOND for s in (20, 30, 40)]
        wall.declare(schedule(every(seconds=10), "new"))  # the next deploy drops renamed_from
        assert len(wall.store.ledger("new")) == 4

    @pytest.mark.parametrize("minute", [10, 119])
    def test_new_jitter_runs_nothing_twice(self, wall: Wall, minute: int) -> None:
        three = MIDNIGHT.replace(hour=3)
        plain, spread = (schedule(cron("0 3 * * *"), "c", jitter=j) for j in (None, 7200))
        assert spread.offset > timedelta(minutes=10)
        wall.declare(plain)
        wall.jump(three)
        wall.jump(three + timedelta(minutes=minute))
        wall.declare(spread)
        wall.jump(three + timedelta(hours=22))
        assert wall.enqueued("c") == [three]
        wall.jump(three + timedelta(hours=24, minutes=minute))
        wall.declare(plain)  # it may have been to come only after this
        wall.jump(three + timedelta(hours=30))
        assert len(wall.enqueued("c")) == 2

    def test_jitter_longer_than_the_period_loses_nothing_when_it_goes(self, wall: Wall) -> None:
        minutely = cron("* * * * *")
        spread = schedule(minutely, "c", jitter=7200, catch_up="all")
        assert spread.offset > timedelta(hours=1)
        wall.declare(spread)
        wall.jump(MIDNIGHT + timedelta(minutes=2) + spread.offset)
        wall.declare(schedule(minutely, "c", catch_up="all"))
        wall.jump(wall.now + SECOND)
        ran = wall.enqueued("c")
        instants = [t if t.second == 0 else t - spread.offset for t in ran]
        assert instants == each(instants[0] - MINUTE, MINUTE, len(instants))
        assert wall.now - instants[-1] < MINUTE

    def test_a_rename_carries_backfills_and_what_a_pause_owes(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10), "old"))
        pause(wall.store, "old", MIDNIGHT + SECOND, missed="all")
        wall.planner.look_again(["old"])
        wall.run(MIDNIGHT + 35 * SECOND)
        wall.declare(schedule(every(seconds=10), "new", renamed_from="old"))
        pause(wall.store, "new", MIDNIGHT + SECOND, wall.now, missed="all")
        wall.planner.look_again(["new"])
        wall.run(MIDNIGHT + 36 * SECOND)
        wall.declare(schedule(every(seconds=10), "newest", renamed_from="new"))
        [owed] = Backfills(wall.store).running("newest")
        assert (owed.start, owed.end, owed.total) == (
            MIDNIGHT + 10 * SECOND, MIDNIGHT + 30 * SECOND, 3,
        )  # fmt: skip
        wall.run(MIDNIGHT + 40 * SECOND)
        assert wall.enqueued("newest") == [MIDNIGHT + 40 * SECOND]

    def test_one_that_cannot_be_decided_keeps_its_old_trigger(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10), queue="bad"), schedule(every(seconds=10), "t"))
        wall.redis.set("rq:queue:bad", "no list")
        wall.now = MIDNIGHT + 15 * SECOND
        hourly = schedule(every(hours=1), queue="bad"), schedule(every(hours=1), "t")
        assert [*wall.declare(*hourly)] == ["s"]
        wall.redis.delete("rq:queue:bad")
        assert wall.entry().undecided("", wall.now)
        assert not wall.declare(*hourly)
        assert len(wall.store.ledger("s")) == 1

    def test_a_removed_schedule_stops_also_when_it_is_staged(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10), "keep"), schedule(every(seconds=10), "drop"))
        wall.run(MIDNIGHT + 15 * SECOND)
        wall.declare(schedule(every(seconds=10), "keep"))
        wall.run(MIDNIGHT + 30 * SECOND)
        assert len(wall.enqueued("keep")) == 3
        assert len(wall.enqueued("drop")) == 1

    def test_an_unchanged_set_changes_nothing(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10)))
        stored = wall.store.declared()
        declared = {"s": schedule(every(seconds=10))}
        assert differing(declared, stored) == []
        assert not plan(declared, stored, {}, MIDNIGHT)

    def test_a_large_deploy_goes_in_portions_between_which_others_fire(self, wall: Wall) -> None:
        names = [f"s{i}" for i in range(4 * PORTION)]
        old = [schedule(every(hours=1), name) for name in names]
        wall.declare(
            schedule(every(seconds=1), "neighbour"), schedule(cron("@daily"), "gone"), *old
        )
        declared = {n: schedule(every(hours=2), n, timeout=9) for n in names}
        declared["neighbour"] = schedule(every(seconds=1), "neighbour")
        done = []
        for stop in (3, 100):  # the first clock dies after three portions
            reconciler = Reconciler(
                wall.store, wall.lease, Settings.from_env({}), declared, Counters(), FaultLog()
            )
            for changed in islice(
                reconciler.steps(wall.store.declared_names(), lambda: wall.now), stop
            ):
                assert len(changed) <= PORTION
                wall.planner.look_again(changed)
                wall.run(wall.now + SECOND)
            done.append((len(reconciler.done.removed), len(reconciler.done.changed)))
        assert done == [(1, 2 * PORTION), (0, 2 * PORTION)]
        assert wall.enqueued("neighbour") == each(MIDNIGHT, SECOND, len(wall.enqueued("neighbour")))
        assert len(wall.enqueued("neighbour")) >= 8
        assert wall.store.declared() == {n: s.definition() for n, s in declared.items()}

    def test_a_declared_once_that_had_passed_is_a_skip(self, wall: Wall) -> None:
        wall.declare(schedule(once(MIDNIGHT - SECOND)))
        wall.run(MIDNIGHT + 10 * SECOND)
        assert wall.enqueued() == []
        assert wall.skipped() == [("past", 1)]

    def test_what_comes_back_after_a_removal_has_nothing_to_catch_up(self, wall: Wall) -> None:
        mine = schedule(every(seconds=10), catch_up="all")
        wall.declare(mine)
        wall.run(MIDNIGHT + 15 * SECOND)
        wall.declare()
        wall.now += timedelta(hours=1)
        wall.declare(mine)
        wall.run(wall.now + 9 * SECOND)
        assert len(wall.enqueued()) == 2


class TestLostJobs:
    def test_a_job_found_nowhere_twice_stops_blocking(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10), overlap="skip"))
        wall.run(MIDNIGHT + 20 * SECOND)
        assert len(wall.enqueued()) == 1
        wall.redis.delete("rq:queue:default")  # a worker took it and died before it started
        for _ in range(20):
            wall.run(wall.now + 10 * SECOND)
            wall.planner.overlaps.check(wall.now)
        assert [type(e).__name__ for e in wall.store.ledger("s")].count("Lost") == 1
        assert wall.redis.llen("rq:queue:default") == 1

    def test_a_job_that_waits_is_left_alone_however_long(self, wall: Wall) -> None:
        wall.declare(schedule(every(seconds=10), overlap="skip"))
        for _ in range(30):
            wall.run(wall.now + 10 * SECOND)
            wall.planner.overlaps.check(wall.now)
        assert wall.skipped() == [("overlap", 29)]
        assert len(wall.enqueued()) == 1
