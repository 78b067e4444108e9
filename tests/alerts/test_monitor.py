"""The monitor of a leading clock, driven by hand through a wall clock of the test's choice, with a
real server, real outcomes of runs, and a real receiver of the reports.

`Leader` is a clock process without its process: it leads, turns its stage and looks as the session
does. A second one on the same server is what a restart or a hand-over is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from rq_clock.alerts.monitor import LOOK_SECONDS, REPORTS, RUNS, Monitor
from rq_clock.alerts.rules import DIGEST
from rq_clock.clock.planner import Planner
from rq_clock.clock.reconcile import differing, plan
from rq_clock.errors import LeaseLost, ScheduleError
from rq_clock.jobs.executions import Executions
from rq_clock.model.entry import Lease
from rq_clock.model.schedule import Schedule, declare, from_definition
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.triggers import Trigger, every, once
from tests.alerts.test_channels import Hub, arrived, hub
from tests.clock.storm import ClockProcess, account, add, catch_up, ledger
from tests.helpers import Events, pause, wait_until
from tests.jobs.endings import Ending, fails, interrupted, ok, stopped
from tests.server import Server

__all__ = ["hub"]  # fixtures

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
ALERTS = "rq-clock:default:alerts"


class Leader:
    """A clock that leads, by hand."""

    def __init__(
        self, redis: Redis, events: Events, *, store: type[Store] = Store, **env: str
    ) -> None:
        self.redis: Any = redis
        self.events = events
        self.store = store(redis, "default", history=1000)
        settings = {f"RQ_CLOCK_{name.upper()}": value for name, value in env.items()}
        self.watch = Monitor(self.store, Settings.from_env(settings))
        self.executions = Executions(redis, "default")
        self.now = self.look_at = NOON
        self.declared: dict[str, Schedule] = {}
        self.lead()

    def lead(self) -> None:
        lease = Leases(self.store).acquire(f"clock.{id(self)}", ("test", ""), "take-over", self.now)
        assert isinstance(lease, Lease)
        self.lease = lease
        self.watch.forget()
        self.stage = Planner(self.store, lease, memory=16 * 1024 * 1024, witness=self.watch.witness)

    def declare(self, *schedules: Schedule) -> None:
        """What a deploy does."""
        self.declared = {s.name: s for s in schedules}
        stored = self.store.declared()
        entries, _ = self.store.load(differing(self.declared, stored))
        changes = plan(self.declared, stored, entries, self.now).changes
        assert all(self.store.reconcile(self.lease, 0, self.now, changes))
        self.stage.look_again(["*"])

    def run(self, until: datetime) -> None:
        """Turn and look as the session does, until the wall clock shows `until`."""
        while self.now <= until:
            Leases(self.store).renew(self.lease)
            seconds = self.stage.turn(self.now)
            if seconds and self.now >= self.look_at:
                self.look()
            elif seconds:
                nap = max(timedelta(seconds=seconds), timedelta(milliseconds=1))
                self.now += min(nap, max(self.look_at - self.now, timedelta(milliseconds=1)))
        self.now = until

    def look(self) -> None:
        moment = (self.now - NOON).total_seconds()
        again = self.watch.look(moment, self.now, self.stage.report(), self.lease)
        self.stage.overlaps.lost.clear()
        self.look_at = self.now + timedelta(seconds=again)

    def lose(self, what: str) -> None:
        """Look, and lose the connection when alerts are stored: the request or the reply."""
        assert isinstance(self.store, Unsure)
        self.store.loses = what
        with pytest.raises(ConnectionError):
            self.look()
        self.store.loses = ""

    def go_on(self, span: timedelta) -> None:
        self.run(self.now + span)

    def turn(self) -> None:
        """Decide all that is due, without a look."""
        while self.stage.turn(self.now) == 0:
            pass

    def outage(self, length: timedelta) -> None:
        """Time in which nothing is done."""
        self.now += length

    def fall_behind(self) -> None:
        """Lead for half a minute, and then do nothing for five."""
        self.run(NOON + 30 * SECOND)
        self.outage(5 * MINUTE)

    def serve(self, queue: str = "default") -> None:
        """A worker lives."""
        self.redis.sadd(f"rq:workers:{queue}", "rq:worker:a")
        self.redis.hset("rq:worker:a", "birth", "x")
        self.executions.register("a", self.now)

    def end(self, how: Ending) -> str:
        """Take the next job and end it like this. Return its id."""
        self.serve()
        execution = self.executions.take("a", ["default"], self.now)
        assert execution
        self.executions.close(execution, how(execution, self.now))
        return execution.job_id

    def alerts(self, kind: str) -> list[dict[str, Any]]:
        return self.events(f"alert.{kind}")

    def kept(self) -> dict[str, Any]:
        """The open alerts in Redis."""
        found = {f.decode(): v.decode() for f, v in self.redis.hgetall(ALERTS).items()}
        return {field: json.loads(v) for field, v in found.items() if field != RUNS}


Lead = Callable[..., Leader]


@pytest.fixture
def lead(connection: Redis, events: Events) -> Iterator[Lead]:
    """Return a leader that has declared some schedules: `lead(schedule(), alert_failures="2")`."""
    with ExitStack() as stack:

        def lead(*schedules: Schedule, redis: Redis = connection, **options: Any) -> Leader:
            leader = Leader(redis, events, **options)
            stack.callback(leader.watch.close)
            leader.serve()
            if schedules:
                leader.declare(*schedules)
            return leader

        yield lead


def schedule(name: str = "s", trigger: Trigger | None = None, **options: Any) -> Schedule:
    return declare(name, trigger or every(minutes=1), "tasks.nothing", options)


def bodies(server: Hub) -> list[dict[str, Any]]:
    return [json.loads(call["body"]) for call in server.seen if call["body"]]


class TestLate:
    def test_lateness_after_an_outage_is_reported_and_so_is_its_end(self, lead: Lead) -> None:
        leader = lead(schedule(overlap="allow"))
        leader.run(NOON + 90 * SECOND)
        leader.outage(5 * MINUTE)
        leader.run(NOON + 6 * MINUTE + 40 * SECOND)
        [late] = leader.alerts("late")
        assert late["schedule"] == "s"
        assert late["since"] == "2026-03-01T12:02:00Z"
        assert late["detail"] == "was enqueued 270 s late"
        assert list(leader.kept()) == ["late:s"]
        leader.run(NOON + 9 * MINUTE)
        [over] = leader.alerts("recovered")
        assert (over["kind"], over["schedule"]) == ("late", "s")
        assert len(leader.alerts("late")) == 1
        assert leader.kept() == {}

    def test_a_restart_of_seconds_is_not_reported(self, lead: Lead) -> None:
        leader = lead(schedule(overlap="allow"))
        leader.run(NOON + 50 * SECOND)
        leader.outage(65 * SECOND)
        leader.run(NOON + 3 * MINUTE)
        assert leader.events("run.enqueued")
        assert leader.alerts("late") == []
        assert leader.kept() == {}

    def test_a_fire_time_too_late_to_run_is_reported(self, lead: Lead) -> None:
        leader = lead(schedule(catch_up="none"), schedule("t", catch_up_window=30))
        leader.run(NOON + 30 * SECOND)
        leader.outage(3 * MINUTE)
        leader.run(NOON + 3 * MINUTE + 45 * SECOND)
        details = {late["schedule"]: late["detail"] for late in leader.alerts("late")}
        assert details == {
            "s": "came too late to run, 150 s late", "t": "was enqueued 150 s late",
        }  # fmt: skip

    def test_a_fire_time_that_cannot_be_written_is_reported_after_the_grace(
        self, lead: Lead, connection: Redis
    ) -> None:
        connection.set("rq:queue:broken", "x")
        leader = lead(
            schedule(queue="broken", overlap="allow"), schedule("fine"), alert_grace_seconds="20"
        )
        leader.run(NOON + 75 * SECOND)
        assert leader.alerts("late") == []
        leader.run(NOON + 2 * MINUTE)
        [late] = leader.alerts("late")
        assert (late["schedule"], late["since"]) == ("s", "2026-03-01T12:01:00Z")
        assert "run.undecided" in late["detail"]
        connection.delete("rq:queue:broken")
        leader.run(NOON + 5 * MINUTE)
        assert [over["schedule"] for over in leader.alerts("recovered")] == ["s"]

    def test_an_unreadable_definition_is_the_reason(self, lead: Lead, connection: Redis) -> None:
        leader = lead(schedule())
        connection.hset(
            "rq-clock:default:definitions", "s", '{"every":60000,"func":"tasks.x","later":1}'
        )
        leader.run(NOON + 3 * MINUTE)
        [late] = leader.alerts("late")
        assert "unknown option 'later'" in late["detail"]

    def test_a_pause_is_not_late_and_ends_what_was(self, lead: Lead) -> None:
        leader = lead(schedule(overlap="allow"), schedule("other", overlap="allow"))
        leader.run(NOON + 30 * SECOND)
        pause(leader.store, "s", leader.now)
        leader.outage(5 * MINUTE)
        leader.go_on(10 * SECOND)
        assert [late["schedule"] for late in leader.alerts("late")] == ["other"]
        pause(leader.store, "*", leader.now)
        leader.go_on(2 * MINUTE)
        assert leader.kept() == {}
        assert leader.alerts("recovered") == []

    def test_a_late_one_off_job_is_reported_and_then_over(self, lead: Lead) -> None:
        leader = lead(schedule("launch", once(NOON + MINUTE)))
        leader.outage(10 * MINUTE)
        leader.go_on(2 * MINUTE)
        assert [late["schedule"] for late in leader.alerts("late")] == ["launch"]
        assert leader.kept() == {}

    def test_a_removed_schedule_keeps_no_alert(self, lead: Lead) -> None:
        leader = lead(schedule(overlap="allow"), schedule("other"))
        leader.fall_behind()
        leader.go_on(5 * SECOND)
        assert len(leader.kept()) == 2
        leader.declare(schedule("other"))
        leader.go_on(2 * MINUTE)
        assert "late:s" not in leader.kept()


class TestFailing:
    def test_an_attempt_that_goes_on_is_no_failure_and_one_that_does_not_is(
        self, lead: Lead
    ) -> None:
        leader = lead(schedule(retries=1, catch_up="all"))
        leader.run(NOON + 70 * SECOND)
        for how in (interrupted, fails):  # back to the front; retried
            leader.end(how)
        leader.go_on(10 * SECOND)
        assert [e.again for e in leader.executions.ended(10)] == ["queue", "front"]
        assert leader.alerts("failing") == []
        leader.end(fails)
        leader.go_on(10 * SECOND)
        [failing] = leader.alerts("failing")
        assert (failing["schedule"], failing["count"]) == ("s", 1)
        assert failing["detail"] == "ValueError: password=****"
        leader.run(NOON + 130 * SECOND)
        leader.end(ok)
        leader.go_on(10 * SECOND)
        assert [over["schedule"] for over in leader.alerts("recovered")] == ["s"]

    def test_one_that_is_interrupted_too_often_has_failed(self, lead: Lead) -> None:
        leader = lead(schedule(catch_up="all"))
        leader.run(NOON + 70 * SECOND)
        leader.end(interrupted)
        leader.end(interrupted)
        leader.go_on(10 * SECOND)
        assert [e.again for e in leader.executions.ended(10)] == ["", "front"]
        assert len(leader.alerts("failing")) == 1

    def test_what_an_operator_stops_neither_fails_nor_succeeds(self, lead: Lead) -> None:
        leader = lead(schedule(catch_up="all"), alert_failures="2")
        leader.run(NOON + 4 * MINUTE)
        for how in (fails, stopped, fails):
            leader.end(how)
        leader.go_on(10 * SECOND)
        assert [failing["count"] for failing in leader.alerts("failing")] == [2]

    def test_runs_that_ended_before_the_first_look_are_not_reported(self, lead: Lead) -> None:
        leader = lead(schedule(catch_up="all"))
        while not leader.events("run.enqueued"):  # no look until there is something to have missed
            leader.stage.turn(leader.now)
            leader.now += SECOND
        leader.end(fails)
        leader.look()
        leader.look()
        assert leader.alerts("failing") == []

    def test_a_job_that_vanished_has_failed(self, lead: Lead, connection: Redis) -> None:
        leader = lead(schedule())
        leader.run(NOON + 2 * MINUTE)
        connection.delete("rq:queue:default")  # the first job is in no queue any more
        for minute in range(3, 7):
            leader.run(NOON + minute * MINUTE)
            leader.stage.overlaps.check(leader.now)
        leader.look()
        assert len(leader.events("run.lost")) == 1
        [failing] = leader.alerts("failing")
        assert "has vanished" in failing["detail"]

    def test_more_than_one_look_takes_in_follow_at_once_and_none_is_passed_over(
        self, lead: Lead, connection: Redis
    ) -> None:
        leader = lead(schedule(catch_up="all"))
        leader.run(NOON + 70 * SECOND)
        job_id = leader.end(fails)
        [attempt] = leader.executions.ended(1)
        [(_, fields)] = leader.redis.xrange("rq-clock:default:runs")
        for _ in range(499):
            leader.redis.xadd("rq-clock:default:runs", fields)
        leader.go_on(10 * SECOND)
        assert attempt.job_id == job_id
        assert leader.kept()["failing:s"]["count"] == 500
        assert len(leader.alerts("failing")) == 1


class TestStuckAndUnserved:
    def test_a_job_that_blocks_its_schedule_for_an_hour_is_reported_until_it_ends(
        self, lead: Lead
    ) -> None:
        leader = lead(schedule("s", every(minutes=10)))
        leader.run(NOON + 75 * MINUTE)
        assert leader.alerts("stuck") == []
        assert list(leader.kept()) == ["stuck:s"]
        leader.run(NOON + 85 * MINUTE)
        [stuck] = leader.alerts("stuck")
        assert stuck["since"] == "2026-03-01T12:20:00Z"
        assert stuck["detail"] == leader.end(ok)
        leader.go_on(10 * SECOND)
        assert [over["kind"] for over in leader.alerts("recovered")] == ["stuck"]
        assert leader.kept() == {}

    def test_a_queue_without_a_worker_is_reported_until_one_lives(
        self, lead: Lead, connection: Redis
    ) -> None:
        leader = lead(schedule("s", every(minutes=10), queue="reports"))
        leader.run(NOON + 10 * MINUTE + 50 * SECOND)
        assert leader.alerts("no-worker") == []
        leader.run(NOON + 11 * MINUTE + 10 * SECOND)
        [waiting] = leader.alerts("no-worker")
        assert waiting["queue"] == "reports"
        connection.sadd("rq:workers:reports", "rq:worker:dead")  # no hash: it is gone
        leader.go_on(MINUTE)
        assert leader.alerts("recovered") == []
        leader.serve("reports")
        leader.go_on(10 * SECOND)
        assert [over["queue"] for over in leader.alerts("recovered")] == ["reports"]


class TestMemory:
    def test_a_server_that_fills_is_reported_once_with_its_failed_jobs_until_there_is_room(
        self, lead: Lead, fresh_server: Callable[..., Server]
    ) -> None:
        with Redis.from_url(fresh_server().url) as redis:
            leader = lead(redis=redis)
            leader.go_on(5 * MINUTE)
            assert leader.kept() == {}
            redis.sadd("rq:queues", "rq:queue:mail", "rq:queue:default")
            redis.zadd("rq:failed:mail", {f"job-{number}": 1 for number in range(300)})
            redis.zadd("rq:failed:default", {"job": 1})
            fill(redis, 0.85)
            leader.go_on(3 * MINUTE)
            [full] = leader.alerts("memory")
            assert full["server"] == "redis"
            assert "301 failed jobs, 300 of them of queue mail" in full["detail"]
            assert "RQ_CLOCK_FAILED_JOBS" in full["detail"]
            fill(redis, 0.5)
            leader.go_on(2 * MINUTE)
            assert [over["kind"] for over in leader.alerts("recovered")] == ["memory"]
            assert leader.kept() == {}

    def test_a_limit_that_is_lifted_ends_it(
        self, lead: Lead, fresh_server: Callable[..., Server]
    ) -> None:
        with Redis.from_url(fresh_server().url) as redis:
            leader = lead(redis=redis)
            fill(redis, 0.9)
            leader.go_on(2 * MINUTE)
            redis.config_set("maxmemory", 0)
            leader.go_on(2 * MINUTE)
            assert [over["kind"] for over in leader.alerts("recovered")] == ["memory"]

    def test_a_server_that_refuses_info_has_no_such_alert(
        self, lead: Lead, fresh_server: Callable[..., Server]
    ) -> None:
        with Redis.from_url(fresh_server().url) as redis:
            leader = lead(redis=redis)
            fill(redis, 0.9)
            redis.acl_setuser("default", enabled=True, nopass=True, commands=["-info"])
            leader.go_on(3 * MINUTE)
            assert leader.alerts("memory") == []

    def test_the_server_is_asked_at_most_once_a_minute(self, lead: Lead, connection: Any) -> None:
        leader = lead()
        connection.config_resetstat()
        leader.go_on(10 * MINUTE)
        assert 9 <= connection.info("commandstats")["cmdstat_info"]["calls"] <= 11


def fill(redis: Redis, used: float) -> None:
    """Set the server's limit so that this part of it is used."""
    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] / used))


class Unsure(Store):
    """Loses the connection around the write, if `loses` says so."""

    loses = ""

    def keep_alerts(self, lease: Lease, changes: Mapping[str, str]) -> None:
        if self.loses == "request":
            raise ConnectionError("it never came there")
        super().keep_alerts(lease, changes)
        if self.loses == "reply":
            raise ConnectionError("it was done, but the reply was lost")


class TestKeeping:
    def test_a_restarted_clock_repeats_no_report_and_reports_the_end(self, lead: Lead) -> None:
        first = lead(schedule(overlap="allow"))
        first.fall_behind()
        first.turn()
        first.look()
        first.end(fails)
        first.go_on(10 * SECOND)
        assert (len(first.alerts("late")), len(first.alerts("failing"))) == (1, 1)
        second = lead()
        second.now = second.look_at = first.now
        second.go_on(20 * SECOND)
        assert (len(first.alerts("late")), len(first.alerts("failing"))) == (1, 1)
        second.go_on(2 * MINUTE)
        second.end(ok)
        second.go_on(10 * SECOND)
        assert {over["kind"] for over in first.alerts("recovered")} == {"late", "failing"}
        assert second.kept() == {}

    def test_a_deposed_clock_reports_nothing(self, lead: Lead) -> None:
        deposed = lead(schedule(overlap="allow"))
        deposed.fall_behind()
        deposed.turn()
        newer = lead()
        with pytest.raises(LeaseLost):
            deposed.look()
        assert deposed.alerts("late") == []
        assert newer.kept() == {}

    def test_an_alert_that_was_stored_although_the_reply_was_lost_is_reported_once(
        self, lead: Lead
    ) -> None:
        leader = lead(schedule(overlap="allow"), store=Unsure)
        leader.fall_behind()
        leader.turn()
        leader.lose("reply")
        assert leader.alerts("late") == []
        assert list(leader.kept()) == ["late:s"]
        for _ in range(2):
            leader.lead()
            leader.look()
        assert len(leader.alerts("late")) == 1

    def test_what_was_not_kept_is_found_out_again(self, lead: Lead) -> None:
        leader = lead(schedule(overlap="allow"), store=Unsure)
        leader.fall_behind()
        leader.turn()
        leader.end(fails)
        leader.lose("request")
        assert (leader.alerts("late"), leader.kept()) == ([], {})
        leader.lead()
        leader.look()
        assert (len(leader.alerts("late")), len(leader.alerts("failing"))) == (1, 1)

    def test_a_look_at_nothing_is_one_command_and_writes_nothing(
        self, lead: Lead, connection: Any
    ) -> None:
        leader = lead(schedule("s", every(hours=1)))
        leader.look()

        def calls() -> dict[str, int]:
            stats = connection.info("commandstats")
            return {name.removeprefix("cmdstat_"): s["calls"] for name, s in stats.items()}

        before = calls()
        for _ in range(10):
            leader.look()
        spent = {n: c - before.get(n, 0) for n, c in calls().items() if c != before.get(n, 0)}
        assert spent.pop("info") == 1
        assert spent == {"evalsha": 10, "zrangebyscore": 10, "xrange": 10, "sscan": 10}
        assert 60 / LOOK_SECONDS <= 15

    def test_a_full_server_stores_alerts_and_stops_the_ping(
        self, lead: Lead, fresh_server: Callable[..., Server], hub: Hub
    ) -> None:
        server = fresh_server()
        with Redis.from_url(server.url) as redis:
            leader = lead(
                schedule(overlap="allow"),
                redis=redis,
                ping_url=f"{hub.url}/alive",
                alert_url=f"{hub.url}/alert",
            )
            leader.run(NOON + 30 * SECOND)
            arrived(hub)
            redis.config_set("maxmemory", 1)
            leader.run(NOON + 3 * MINUTE)
            assert leader.events("commit.refused")
            assert sorted(leader.kept()) == ["late:s", "memory:redis"]
            arrived(hub, 2)
            redis.config_set("maxmemory", 0)
            leader.run(NOON + 6 * MINUTE)
            arrived(hub, 4)
        assert len(leader.alerts("late")) == len(leader.alerts("memory")) == 1
        assert {over["kind"] for over in leader.alerts("recovered")} == {"late", "memory"}
        assert sorted(hub.paths()[:2]) == ["/alert", "/alive"]


class TestReports:
    def test_many_at_once_are_one_line_and_one_report(self, lead: Lead, hub: Hub) -> None:
        leader = lead(alert_url=f"{hub.url}/in")
        names = [f"s{i:02}" for i in range(DIGEST + 1)]
        leader.declare(*(schedule(name, overlap="allow") for name in names))
        leader.fall_behind()
        leader.go_on(10 * SECOND)
        arrived(hub)
        [digest] = leader.alerts("digest")
        assert (digest["late"], leader.alerts("late")) == (11, [])
        [body] = bodies(hub)
        assert (body["kind"], body["count"]) == ("digest", 11)
        assert sorted(alert["schedule"] for alert in body["alerts"]) == names
        assert body["text"].startswith("[default] 11 late\n")

    def test_few_at_once_are_reports_of_their_own(self, lead: Lead, hub: Hub) -> None:
        leader = lead(schedule("a"), schedule("b"), alert_url=f"{hub.url}/in")
        leader.fall_behind()
        leader.go_on(10 * SECOND)
        arrived(hub, 2)
        assert sorted(body["schedule"] for body in bodies(hub)) == ["a", "b"]

    def test_what_fails_look_after_look_is_gathered_after_ten_reports_a_minute(
        self, lead: Lead, hub: Hub
    ) -> None:
        leader = lead(
            *(schedule(f"s{i:02}", every(hours=1)) for i in range(30)), alert_url=f"{hub.url}/in"
        )
        leader.run(NOON + HOUR + SECOND)
        for _ in range(30):
            leader.end(fails)
            leader.look()
        assert len(leader.alerts("failing")) == 30
        arrived(hub, REPORTS)
        leader.now += MINUTE
        leader.look()
        arrived(hub, REPORTS + 1)
        leader.watch.close()
        counts = [body["count"] for body in bodies(hub)]
        assert counts == [1] * REPORTS + [20]

    def test_pending_reports_are_sent_at_the_end(self, lead: Lead, hub: Hub) -> None:
        leader = lead(
            *(schedule(f"s{i:02}", every(hours=1)) for i in range(12)), alert_url=f"{hub.url}/in"
        )
        leader.run(NOON + HOUR + SECOND)
        for _ in range(12):
            leader.end(fails)
            leader.look()
        leader.watch.close()
        arrived(hub, REPORTS + 2)
        assert len(bodies(hub)) == REPORTS + 2


class TestPings:
    def test_a_run_is_pinged_when_it_is_enqueued_and_when_it_ends(
        self, lead: Lead, hub: Hub
    ) -> None:
        leader = lead(webhook_allow="127.0.0.1")
        leader.declare(
            schedule("s", every(minutes=10), ping=f"{hub.url}/uuid", retries=1, overlap="allow"),
            schedule("silent", every(minutes=10), queue="other"),
        )
        leader.run(NOON + 10 * MINUTE + 10 * SECOND)
        arrived(hub, 1)
        leader.end(fails)  # it is retried: not yet the end
        leader.go_on(10 * SECOND)
        leader.end(ok)
        leader.run(NOON + 20 * MINUTE + 10 * SECOND)
        arrived(hub, 3)
        leader.end(fails)
        leader.end(fails)
        leader.go_on(10 * SECOND)
        arrived(hub, 4)
        assert hub.paths() == ["/uuid/start", "/uuid", "/uuid/start", "/uuid/fail"]
        ids = [call["path"].partition("?rid=")[2] for call in hub.seen]
        assert ids[0] == ids[1] != ids[2] == ids[3]

    def test_a_skipped_fire_time_starts_nothing(self, lead: Lead, hub: Hub) -> None:
        leader = lead(
            schedule("s", every(minutes=10), ping=f"{hub.url}/uuid"), webhook_allow="127.0.0.1"
        )
        leader.run(NOON + 35 * MINUTE)
        assert len(leader.events("run.skipped")) == 2
        leader.watch.close()
        assert hub.paths() == ["/uuid/start"]

    def test_a_clock_pings_once_a_minute_and_not_while_it_is_late(
        self, lead: Lead, hub: Hub
    ) -> None:
        leader = lead(schedule(overlap="allow"), ping_url=f"{hub.url}/alive")
        leader.run(NOON + 150 * SECOND)
        arrived(hub, 3)
        leader.outage(5 * MINUTE)
        leader.look()  # before the stage could turn: it is all still undecided
        leader.turn()
        leader.look()  # decided, but late
        leader.watch.close()
        assert hub.paths() == ["/alive"] * 3

    def test_one_faulty_schedule_does_not_silence_the_clock(
        self, lead: Lead, hub: Hub, connection: Redis
    ) -> None:
        connection.set("rq:queue:broken", "x")
        leader = lead(schedule(queue="broken"), ping_url=f"{hub.url}/alive")
        leader.run(NOON + 5 * MINUTE + 30 * SECOND)
        assert leader.alerts("late")
        arrived(hub, 6)


class TestOption:
    def test_an_address_is_stored_read_back_and_a_change(self) -> None:
        with_ping = schedule(ping="https://hc-ping.com/uuid")
        assert from_definition("s", with_ping.definition()) == with_ping
        assert with_ping.definition() != schedule().definition()
        assert "ping" not in schedule().definition()

    @pytest.mark.parametrize(
        "address", ["hc-ping.com/x", "ftp://hc-ping.com/x", "https://me:hunter22@hc-ping.com/", 5]
    )
    def test_what_is_no_address_is_a_fault(self, address: Any) -> None:
        with pytest.raises(ScheduleError, match="s: ping: expected") as caught:
            schedule(ping=address)
        assert "hunter22" not in str(caught.value)

    def test_an_address_is_not_shown_with_a_definition_that_cannot_be_read(self) -> None:
        with pytest.raises(ScheduleError) as caught:
            from_definition("s", '{"every":"x","func":"tasks.x","ping":"https://h/hunter22"}')
        assert "hunter22" not in str(caught.value)


def test_servers_that_hang_delay_no_tick_and_the_end_of_no_clock(
    redis_url: str, connection: Any, hub: Hub, tmp_path: Path
) -> None:
    """A clock process whose every channel leads to a server that never answers."""
    names = ("a", "b")
    options = f"catch_up='all', ping='{hub.url}/hang/run'"
    env = {
        "RQ_CLOCK_ALERT_URL": f"{hub.url}/hang/alert?key=hunter22",
        "RQ_CLOCK_ALERT_SECRET": "hunter22",
        "RQ_CLOCK_ALERT_URLS": f"json://127.0.0.1:{hub.server_port}/hang/apprise?:key=hunter22",
        "RQ_CLOCK_PING_URL": f"{hub.url}/hang/alive",
        "RQ_CLOCK_WEBHOOK_ALLOW": "127.0.0.1",
    }
    with ClockProcess(tmp_path, redis_url, add(*names, options=options), **env) as clock:
        wait_until(lambda: connection.hexists(ALERTS, RUNS), "the first look")
        for name in names:
            entry = "s 1772366400000 2 failed 1 1772366400000 1772366401000 w ValueError: no"
            fields = {"schedule": name, "job": f"default-{name}-1", "entry": entry, "again": ""}
            connection.xadd("rq-clock:default:runs", fields)
        clock.wait_for("alert.failing", times=2)
        awaited = {"/hang/alert", "/hang/apprise", "/hang/alive", "/hang/run/start"}
        wait_until(lambda: awaited <= set(hub.paths()), f"{awaited} to hang")
        clock.live(6)
        catch_up(connection, names)
        assert clock.terminate(seconds=5) == 0
        text = clock.text()
    found = account(connection, names)
    assert found.expected >= 2 * 6
    found.check()
    assert max(ledger(connection, names).values()) < 4000, text
    assert "hunter22" not in text
