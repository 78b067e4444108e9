"""Counters of workers, of clocks, and of clients beside them. A real server, real outcomes, real
processes to kill."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue

from rq_clock import Schedules
from rq_clock.clock.backfiller import Backfiller
from rq_clock.clock.overlaps import LOOK_MS
from rq_clock.clock.planner import Planner
from rq_clock.errors import LeaseLost
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.outcomes import Execution
from rq_clock.jobs.reaper import SILENCE, Reaper
from rq_clock.model.schedule import Schedule, declare
from rq_clock.settings import Settings
from rq_clock.store.counters import LATE, PORTION, Counters, CounterSnapshot, bucket
from rq_clock.store.lease import Leases
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every, once
from rq_clock.worker.worker import Worker
from tests.clock.storm import ClockProcess, add, client
from tests.clock.test_planner import MIDNIGHT, SECOND, Wall
from tests.helpers import pause, wait_until
from tests.jobs.endings import Ending, fails, interrupted, ok, stopped
from tests.server import Server

PREFIX = "rq-clock:default:"
HOUR = timedelta(hours=1)


class Clock(Wall):
    """A clock, turned by hand, whose counts are written when a test says so; and its workers."""

    tally = Counters()

    def lead(self, instance: str) -> None:
        super().lead(instance)
        self.tally = Counters()
        self.planner = Planner(self.store, self.lease, memory=self.memory, counters=self.tally)

    @property
    def executions(self) -> Executions:
        return Executions(self.redis, "default")

    def fire(self, target: str = "tests.worker.jobs.add", **options: Any) -> Schedule:
        """Declare the schedule "s" and let its next hour come."""
        schedule = declare("s", cron("0 * * * *"), target, {"overlap": "allow", **options})
        self.declare(schedule)
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        self.run(hour + HOUR + timedelta(minutes=1))
        return schedule

    def take(self, worker: str = "a") -> Execution:
        self.executions.register(worker, self.now)
        execution = self.executions.take(worker, ["default"], self.now)
        assert execution
        return execution

    def end(self, how: Ending, seconds: float = 2) -> datetime:
        """Take the next job and end it so; when that was."""
        execution = self.take()
        self.now += timedelta(seconds=seconds)
        self.executions.close(execution, how(execution, self.now))
        return self.now

    def flush(self) -> None:
        number = 0
        while self.tally.waiting:
            number += 1
            self.store.count(self.lease, f"clock {number}", self.tally.portion())
            self.tally.written()

    def counts(self, name: str = "") -> CounterSnapshot:
        raw: Any = self.redis.hgetall(PREFIX + (f"counters:{name}" if name else "counters"))
        return CounterSnapshot.read(raw)

    def outcome(self, name: str = "s") -> list[str]:
        found: Any = self.redis.hget(PREFIX + "outcomes", name)
        return found.decode().split(" ") if found else []

    def failing(self) -> dict[str, float]:
        found: Any = self.redis.zrange(PREFIX + "failing", 0, -1, withscores=True)
        return {name.decode(): score for name, score in found}

    def kept(self, name: str = "s") -> list[str]:
        """What there is of a schedule's runs, beside its ledger."""
        places = [
            key for key in ("outcomes", "succeeded") if self.redis.hexists(PREFIX + key, name)
        ]
        places += ["failing"] if name in self.failing() else []
        return places + (["counters"] if self.redis.exists(f"{PREFIX}counters:{name}") else [])


@pytest.fixture
def clock(connection: Redis) -> Clock:
    return Clock(connection)


class TestOutcomes:
    def test_the_latest_one_stands_beside_the_newest_success_and_failure(
        self, clock: Clock
    ) -> None:
        clock.fire()
        first = clock.end(ok)
        fire = to_ms(MIDNIGHT + HOUR)
        started, ended = to_ms(first) - 2000, to_ms(first)
        assert clock.outcome() == ["ok", *map(str, (fire, started, ended, ended)), "-", "0"]
        clock.fire()
        second = clock.end(fails)
        assert clock.outcome()[0] == "failed"
        assert clock.outcome()[4:] == [str(to_ms(first)), str(to_ms(second)), "1"]
        clock.fire()
        third = clock.end(ok)
        assert clock.outcome()[0] == "ok"
        assert clock.outcome()[4:] == [str(to_ms(third)), str(to_ms(second)), "0"]

    def test_a_schedule_fails_from_its_failure_to_its_next_success(self, clock: Clock) -> None:
        for how in (fails, fails):
            clock.fire()
            ended = clock.end(how)
            assert clock.failing() == {"s": to_ms(ended)}
        clock.fire()
        clock.end(ok)
        assert clock.failing() == {}

    @pytest.mark.parametrize("before", [ok, fails])
    def test_a_run_that_an_operator_stops_is_neither(self, clock: Clock, before: Ending) -> None:
        clock.fire()
        clock.end(before)
        failing, newest = clock.failing(), clock.outcome()[4:]
        clock.fire()
        clock.end(stopped)
        assert clock.outcome()[0] == "stopped"
        assert (clock.failing(), clock.outcome()[4:]) == (failing, newest)

    @pytest.mark.parametrize("how", [interrupted, fails])
    def test_an_attempt_after_which_the_job_goes_on_is_no_outcome(
        self, clock: Clock, how: Ending
    ) -> None:
        clock.fire(retries=1)
        clock.end(how)
        assert clock.outcome() == []
        assert clock.failing() == {}
        assert clock.counts("s").runs == {}
        assert sum(clock.counts("s").again.values()) == 1

    def test_the_last_of_too_many_interruptions_is_a_failure(self, clock: Clock) -> None:
        clock.fire()
        clock.end(interrupted)
        ended = clock.end(interrupted)
        assert clock.outcome()[0] == "interrupted"
        assert clock.failing() == {"s": to_ms(ended)}

    def test_a_job_of_no_schedule_leaves_nothing(self, clock: Clock) -> None:
        clock.fire()
        clock.end(ok)
        before = clock.redis.hgetall(PREFIX + "counters")
        Queue("default", connection=clock.redis).enqueue("tests.worker.jobs.add", 1, 2)
        clock.end(fails)
        assert clock.redis.hgetall(PREFIX + "counters") == before
        assert clock.failing() == {}


class TestRuns:
    def test_a_worker_counts_the_runs_it_ends(self, clock: Clock, redis_url: str) -> None:
        targets = {"good": "add", "bad": "fail", "deadly": "die"}
        arguments: dict[str, Any] = {"good": [1, 2], "bad": [], "deadly": ["SIGKILL"]}
        for name, target in targets.items():
            options = {"args": arguments[name], "overlap": "allow", "retries": int(name == "bad")}
            trigger, path = cron("0 * * * *"), f"tests.worker.jobs.{target}"
            clock.declare(declare(name, trigger, path, options))
            clock.run(clock.now.replace(minute=0) + HOUR)
        settings = Settings.from_env({"REDIS_URL": redis_url})
        Worker(["default"], connection=clock.redis, settings=settings).work(
            burst=True, logging_level="CRITICAL"
        )
        # each declaration is the whole of one: those before it were removed
        assert clock.counts().runs == {"ok": 1, "failed": 2}
        assert clock.counts().again == {"failed": 1}
        assert clock.counts("deadly").runs == {"failed": 1}
        assert clock.kept("good") == clock.kept("bad") == []
        took, waited = clock.counts().took, clock.counts().waited
        assert took.cumulative[-1] == waited.cumulative[-1] == 3
        assert 0 < took.seconds < 30

    def test_what_runs_took_and_waited_is_counted_by_buckets(self, clock: Clock) -> None:
        for took, waited in ((0.1, 0), (0.11, 3), (3, 3), (20_000, 4000)):
            clock.fire()
            clock.now += timedelta(seconds=waited) - timedelta(minutes=1)
            clock.end(ok, took)
        for counts in (clock.counts(), clock.counts("s")):
            assert counts.took.cumulative == (1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4)
            assert counts.took.seconds == pytest.approx(20_003.21)
            assert counts.waited.cumulative == (1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 4)
            assert counts.waited.seconds == pytest.approx(4006)

    def test_a_job_that_says_nothing_true_of_its_queueing_ends_all_the_same(
        self, clock: Clock
    ) -> None:
        clock.fire()
        clock.redis.hset(f"rq:job:default-s-{to_ms(MIDNIGHT + HOUR)}", "enqueued_at", "noon")
        clock.end(ok)
        assert clock.counts().runs == {"ok": 1}
        assert clock.counts().waited.cumulative[-1] == 0

    def test_a_reaped_run_is_counted_once_and_is_a_failure_at_last(self, clock: Clock) -> None:
        clock.fire()
        for number in range(2):
            clock.take(f"w{number}")
            for reaper in (
                Reaper(clock.executions, max_deaths=2),
                Reaper(clock.executions, max_deaths=2),
            ):
                for moment in range(0, int(SILENCE) + 3, 2):
                    reaper.look(float(moment), clock.now)
        assert clock.counts("s").again == clock.counts().again == {"lost": 1}
        assert clock.counts("s").runs == clock.counts().runs == {"lost": 1}
        assert clock.outcome()[0] == "lost"
        assert list(clock.failing()) == ["s"]

    def test_a_vanished_job_is_a_lost_run_of_unknown_length(self, clock: Clock) -> None:
        clock.declare(declare("s", every(minutes=1), "tasks.nothing", {"overlap": "skip"}))
        clock.run(MIDNIGHT + 61 * SECOND)
        clock.redis.delete("rq:queue:default")
        clock.run(MIDNIGHT + timedelta(minutes=3))
        for _ in range(3):
            clock.now += timedelta(milliseconds=LOOK_MS)
            clock.planner.overlaps.check(clock.now)
        assert clock.counts("s").runs == clock.counts().runs == {"lost": 1}
        assert clock.counts("s").took.cumulative[-1] == 0
        state, fire, started, ended, success, failure, failures = clock.outcome()
        assert (state, fire) == ("lost", str(to_ms(MIDNIGHT + 60 * SECOND)))
        assert (success, failures) == ("-", "1")
        assert started == ended == failure == str(int(clock.failing()["s"]))

    def test_counts_that_cannot_be_kept_hold_up_no_end(self, clock: Clock) -> None:
        for key in ("counters", "counters:s", "days:s", "outcomes", "failing"):
            clock.redis.set(PREFIX + key, "not ours")
        clock.fire()
        clock.end(fails)
        clock.flush()
        assert clock.redis.hget(f"rq:job:default-s-{to_ms(MIDNIGHT + HOUR)}", "status") == b"failed"
        [line] = clock.store.ledger("s")
        assert line.attempt.state == "failed"  # type: ignore[union-attr]


class TestWhatIsRemoved:
    @pytest.fixture
    def ran(self, clock: Clock) -> Clock:
        """Everything there is to keep of "s", which fails after a success."""
        for how in (ok, fails):
            clock.fire()
            clock.end(how)
        clock.flush()
        assert clock.kept() == ["outcomes", "succeeded", "failing", "counters"]
        return clock

    def test_a_removed_declaration_takes_its_own_along(self, ran: Clock) -> None:
        ran.declare()
        assert ran.kept() == []
        assert ran.counts().runs == {"ok": 1, "failed": 1}

    def test_a_rename_carries_it_over(self, ran: Clock) -> None:
        fires, runs = ran.counts("s").fires, ran.counts("s").runs
        outcome, failing = ran.outcome(), ran.failing()
        ran.declare(
            declare("new", cron("0 * * * *"), "tests.worker.jobs.add", {"renamed_from": "s"})
        )
        assert ran.kept() == []
        assert ran.outcome("new") == outcome
        assert ran.failing() == {"new": failing["s"]}
        assert ran.redis.llen(PREFIX + "failed:new") == 1
        assert sorted(ran.redis.hvals(PREFIX + "days:new")) == [b"1", b"1"]
        assert not ran.redis.exists(PREFIX + "failed:s", PREFIX + "days:s")
        assert (ran.counts("new").fires, ran.counts("new").runs) == (fires, runs)

    def test_a_removal_at_run_time_too(self, clock: Clock) -> None:
        schedules = Schedules(clock.redis, by="test")
        schedules.add("s", every(hours=1), "tests.worker.jobs.add")
        for how in (ok, fails):
            schedules.trigger("s", force=True)
            clock.end(how)
        assert clock.kept() == ["outcomes", "succeeded", "failing", "counters"]
        assert clock.redis.exists(PREFIX + "days:s")
        schedules.remove("s")
        assert clock.kept() == []
        assert not clock.redis.exists(PREFIX + "days:s")

    def test_a_day_is_kept_for_thirty_days(self, clock: Clock) -> None:
        clock.redis.hset(PREFIX + "days:s", mapping={"1 ok": 5, "1 failed": 5})
        clock.fire()
        clock.end(ok)
        days: Any = clock.redis.hkeys(PREFIX + "days:s")
        assert [day.split()[1] for day in days] == [b"ok"]

    def test_a_run_that_outlives_its_schedule_is_counted_but_leaves_nothing_of_its_own(
        self, clock: Clock
    ) -> None:
        clock.fire()
        execution = clock.take()
        clock.declare()
        clock.executions.close(execution, fails(execution, clock.now))
        clock.flush()
        assert clock.kept() == []
        assert clock.counts().runs == {"failed": 1}
        assert clock.counts().fires == {("enqueued", "schedule"): 1}

    @pytest.mark.usefixtures("ahead")
    def test_a_one_off_job_is_counted_with_all_and_leaves_nothing_of_its_own(
        self, clock: Clock
    ) -> None:
        schedules, soon = Schedules(clock.redis, by="test"), datetime.now(UTC) + HOUR
        schedules.add("once", once(soon), "tests.worker.jobs.add")
        schedules.trigger("once", force=True)
        clock.end(fails)
        assert clock.kept("once") == ["outcomes", "failing", "counters"]
        clock.now = soon - SECOND
        clock.planner.look_again(["*"])
        clock.run(soon + SECOND)
        assert clock.kept("once") == []
        clock.end(ok)
        clock.flush()
        assert clock.kept("once") == []
        assert clock.counts().runs == {"failed": 1, "ok": 1}
        assert clock.counts().fires == {("enqueued", "manual"): 1, ("enqueued", "schedule"): 1}


class TestFires:
    def test_what_was_decided_is_counted_as_the_ledger_has_it(self, clock: Clock) -> None:
        clock.declare(declare("s", every(minutes=1), "tasks.nothing", {"catch_up": "latest"}))
        clock.run(MIDNIGHT + timedelta(minutes=2, seconds=1))
        clock.redis.delete("rq:queue:default", f"rq:job:default-s-{to_ms(MIDNIGHT + 60 * SECOND)}")
        clock.now += timedelta(minutes=10, seconds=30)
        clock.run(clock.now + 5 * SECOND)
        pause(clock.store, "s", clock.now)
        clock.planner.look_again(["s"])
        clock.run(clock.now + timedelta(minutes=1))
        assert clock.counts().fires == {}  # in memory until then
        clock.flush()
        ledger: Counter[tuple[str, str]] = Counter()
        for entry in clock.store.ledger("s"):
            result = "enqueued" if hasattr(entry, "fire_time") else "skipped"
            ledger[result, entry.reason] += getattr(entry, "count", 1)  # type: ignore[union-attr]
        assert set(ledger) >= {
            ("enqueued", "schedule"),
            ("enqueued", "catch_up"),
            ("skipped", "overlap"),
            ("skipped", "paused"),
        }
        assert clock.counts("s").fires == clock.counts().fires == ledger
        enqueued = sum(n for (result, _), n in ledger.items() if result == "enqueued")
        assert clock.counts().late.cumulative[-1] == enqueued
        assert clock.counts("s").late.cumulative[-1] == 0  # of all, not of each

    def test_lateness_is_what_the_ledger_calls_lag(self, clock: Clock) -> None:
        clock.declare(declare("s", every(hours=1), "tasks.nothing", {}))
        clock.run(MIDNIGHT + HOUR)
        clock.flush()
        [entry] = clock.store.ledger("s")
        lag = entry.lag.total_seconds()  # type: ignore[union-attr]
        late = clock.counts().late
        assert late.seconds == pytest.approx(lag)
        assert late.cumulative == (0,) * len(LATE) + (1,)  # the test's wall is not the server's

    def test_what_cannot_be_written_is_an_error_each_time(self, clock: Clock) -> None:
        clock.redis.set("rq:queue:default", "in the way")
        clock.declare(declare("s", every(minutes=1), "tasks.nothing", {}))
        clock.run(MIDNIGHT + 64 * SECOND)
        clock.flush()
        assert clock.counts("s").fires[("error", "write")] >= 2

    def test_runs_by_hand_backfills_and_decisions_beside_the_clock_are_counted(
        self, clock: Clock
    ) -> None:
        now = datetime.now(UTC)
        schedules = Schedules(clock.redis, by="test")
        schedules.add("s", cron("* * * * *"), "tests.worker.jobs.add", overlap="allow")
        schedules.trigger("s")
        assert clock.counts("s").fires == {("enqueued", "manual"): 1}
        schedules.backfill("s", now - 3 * HOUR, now - 2 * HOUR, at_once=100)
        Backfiller(clock.store).look(clock.lease, datetime.now(UTC))
        assert clock.counts("s").fires[("enqueued", "backfill")] == 60
        assert clock.counts().fires == clock.counts("s").fires


class TestTally:
    def test_a_portion_is_the_same_until_it_is_written(self) -> None:
        tally = Counters()
        for number in range(PORTION):
            tally.add(f"fire skipped {number}", schedule="s")
        first = tally.portion()
        assert (len(first), tally.number) == (PORTION, 1)
        tally.add("fire skipped 0", schedule="s")
        assert (tally.portion(), tally.number) == (first, 1)
        written: Counter[tuple[str, str]] = Counter()
        while tally.waiting:
            for schedule, field, by in tally.portion():
                written[schedule, field] += by
            tally.written()
        assert written.total() == 2 * PORTION + 2
        assert written["s", "fire skipped 0"] == written["", "fire skipped 0"] == 2

    def test_a_bound_belongs_to_its_bucket(self) -> None:
        assert [bucket(s, LATE) for s in (0, 0.05, 0.051, 300, 301)] == [
            "0.05", "0.05", "0.1", "300", "+Inf",
        ]  # fmt: skip

    def test_sent_again_after_a_lost_reply_it_is_counted_once(self, clock: Clock) -> None:
        for _ in range(2):
            clock.store.count(clock.lease, "clock 1", [("", "fire skipped overlap", 3)])
        assert clock.counts().fires == {("skipped", "overlap"): 3}
        clock.store.count(clock.lease, "clock 2", [("", "fire skipped overlap", 3)])
        assert clock.counts().fires == {("skipped", "overlap"): 6}

    def test_a_deposed_clock_counts_nothing(self, clock: Clock) -> None:
        old = clock.lease
        clock.lead("clock.2")
        with pytest.raises(LeaseLost):
            clock.store.count(old, "clock 1", [("", "fire skipped overlap", 3)])
        assert clock.counts().fires == {}

    def test_of_a_schedule_that_is_gone_nothing_is_kept(self, clock: Clock) -> None:
        clock.store.count(clock.lease, "clock 1", [("gone", "fire skipped overlap", 3)])
        assert clock.kept("gone") == []

    def test_the_grants_of_the_lease_are_counted_by_how(self, clock: Clock) -> None:
        clock.lead("clock.2")
        Leases(clock.store).release(clock.lease)
        Leases(clock.store).acquire("clock.3", ("test", ""), "waiting", clock.now)
        assert clock.counts().leaders == {"free": 2, "taken-over": 1}


class TestProcesses:
    @pytest.fixture
    def server(self, fresh_server: Callable[..., Server]) -> Iterator[tuple[str, Any]]:
        url = fresh_server().url
        with client(url) as redis:
            yield url, redis

    def enqueued(self, redis: Any, name: str = "") -> int:
        raw = redis.hgetall(PREFIX + (f"counters:{name}" if name else "counters"))
        fires = CounterSnapshot.read(raw).fires
        return sum(n for (result, _), n in fires.items() if result == "enqueued")

    def test_a_clock_that_ends_by_sigterm_leaves_no_count_behind(
        self, server: tuple[str, Any], tmp_path: Path
    ) -> None:
        url, redis = server
        with ClockProcess(tmp_path, url, add("a", "b")) as clock:
            clock.wait_for("run.enqueued", times=5)
            assert clock.terminate() == 0
        for name in ("a", "b"):
            assert self.enqueued(redis, name) == redis.llen(f"{PREFIX}ledger:{name}")
        counts = CounterSnapshot.read(redis.hgetall(PREFIX + "counters"))
        assert self.enqueued(redis) == sum(redis.llen(f"{PREFIX}ledger:{n}") for n in "ab")
        assert counts.late.cumulative[-1] == self.enqueued(redis)
        assert counts.leaders == {"free": 1}
        assert counts.ticked.cumulative[-1] > 5

    def test_a_killed_clock_loses_seconds_of_counts_and_no_run(
        self, server: tuple[str, Any], tmp_path: Path
    ) -> None:
        url, redis = server
        with ClockProcess(tmp_path, url, add("a")) as clock:
            wait_until(lambda: self.enqueued(redis, "a") >= 4, "counts while it runs")
            clock.signal(signal.SIGKILL)
        recorded = redis.llen(f"{PREFIX}ledger:a")
        assert (
            recorded - 6 <= self.enqueued(redis, "a") <= recorded == redis.llen("rq:queue:default")
        )

    def test_a_server_without_room_for_counts_holds_up_no_clock(
        self, server: tuple[str, Any], tmp_path: Path
    ) -> None:
        url, redis = server
        redis.set(PREFIX + "counters", "not ours")
        with ClockProcess(tmp_path, url, add("a")) as clock:
            clock.wait_for("run.enqueued", times=6)
            assert "clock.leading" in clock.words()
            assert not {"redis.lost", "clock.deposed"} & set(clock.words())
            assert clock.terminate() == 0
