"""The doctor: each ailment is brought about on a real server, and found; the healthy have none."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.doctor.facts import Code
from rq_clock.doctor.rebuild import rebuild
from rq_clock.doctor.schedule_checks import findings, healthy
from rq_clock.model.entry import Pause, to_json
from rq_clock.settings import Settings
from rq_clock.store.task_claims import CallResult, Dispatch
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every, once
from tests.doctor.namespace import HOUR, Fresh, Namespace, StartServer, daily, schedule
from tests.helpers import wait_until
from tests.server import Server

pytestmark = pytest.mark.integration


def test_a_healthy_namespace_has_nothing_to_mend(ns: Namespace) -> None:
    ns.tick()
    assert ns.found() == {}


def test_a_clock_that_has_just_caught_up_leaves_nothing_to_mend(bare: Namespace) -> None:
    lease = bare.lead()
    bare.put(
        schedule("minutely", every(minutes=1)),
        schedule("all", cron("*/10 * * * *"), catch_up="all"),
        schedule("spread", every(minutes=5), jitter=60),
        schedule("once", once(bare.now - HOUR)),
        known=3 * HOUR,
    )
    bare.serve("default")
    bare.leases.renew(lease, proven=1)
    for minutes in (150, 60, 0):
        bare.tick(timedelta(minutes=minutes))
    assert bare.store.load(["minutely"])[0]["minutely"].marker
    assert bare.found() == {}


def test_the_worst_comes_first(ns: Namespace) -> None:
    ns.put(schedule("berlin", cron("30 2 * * *", tz="Europe/Berlin")))
    ns.redis.hset(ns.key("revisions"), "nobody", 7)
    ns.leases.release(ns.lease)
    levels = [finding.level for finding in ns.found().values()]
    assert levels == ["error", "warning", "info"]
    assert not healthy(ns.found().values())


class TestServer:
    @pytest.mark.parametrize(
        ("policy", "level"), [("allkeys-lru", "error"), ("volatile-ttl", "warning")]
    )
    def test_a_server_that_evicts_is_reported(self, ns: Namespace, policy: str, level: str) -> None:
        ns.redis.config_set("maxmemory-policy", policy)
        try:
            ns.only("evicting", level)
        finally:
            ns.redis.config_set("maxmemory-policy", "noeviction")

    def test_tls_without_verification_is_worth_knowing(self, ns: Namespace) -> None:
        found = findings(replace(ns.facts(), unverified=True), ns.now)
        assert ("info", "tls-unverified") in [(f.level, f.code) for f in found]

    def test_a_server_that_keeps_nothing_on_disk_is_reported(self, fresh: Fresh) -> None:
        ns = fresh(appendonly="no")
        ns.only("persistence-off", "warning")
        ns.redis.config_set("save", "900 1")  # snapshots will do
        assert ns.found() == {}

    def test_a_server_that_is_nearly_full_is_reported(self, fresh: Fresh) -> None:
        ns = fresh()
        ns.redis.sadd("rq:queues", "rq:queue:default")
        ns.redis.zadd("rq:failed:default", {"a": 1, "b": 1})
        used = ns.redis.info("memory")["used_memory"]
        ns.redis.config_set("maxmemory", used * 10 // 9)
        found = ns.only("memory", "warning")
        assert "2 failed jobs, 2 of them of queue default" in found.text
        assert "RQ_CLOCK_FAILED_JOBS" in found.remedy
        ns.redis.config_set("maxmemory", used * 2)
        assert ns.found() == {}

    def test_connections_that_a_deploy_would_exhaust_are_reported(self, fresh: Fresh) -> None:
        ns = fresh(maxclients="20")
        assert ns.found() == {}
        with ExitStack() as others:
            for _ in range(11):
                others.enter_context(Redis.from_url(ns.url)).ping()
            finding = ns.found()["connections"]
        assert finding.level == "warning"
        assert "of 20 connections are in use" in finding.text

    @pytest.mark.parametrize(
        ("user", "forbidden", "code"),
        [
            ("hosted", ["-config"], "persistence-unknown"),
            ("mute", ["-config", "-info"], "redis-unknown"),
        ],
    )
    def test_a_hosted_server_that_refuses_its_settings_is_no_error(
        self, fresh: Fresh, user: str, forbidden: list[str], code: str
    ) -> None:
        ns = fresh(appendonly="no")
        ns.redis.acl_setuser(
            user, enabled=True, nopass=True, categories=["+@all"], commands=forbidden,
            keys=["*"], channels=["*"],
        )  # fmt: skip
        with Redis.from_url(ns.url, username=user, password="x") as redis:
            Namespace(redis, ns.now).only(code, "info")

    def test_an_unknown_limit_of_connections_is_no_error(self, ns: Namespace) -> None:
        facts = ns.facts()
        info = {name: value for name, value in facts.info.items() if name != "maxclients"}
        [finding] = findings(replace(facts, info=info, config={}), ns.now)
        assert (finding.level, finding.code) == ("info", "connections-unknown")
        assert findings(replace(facts, info=info, config={"maxclients": "10000"}), ns.now) == []

    @pytest.mark.parametrize(
        ("version", "old"), [("6.0.16", True), ("6.2.0", False), ("10.0.1", False)]
    )
    def test_a_server_older_than_6_2_is_reported(
        self, ns: Namespace, version: str, old: bool
    ) -> None:
        facts = ns.facts()
        facts = replace(facts, info={**facts.info, "redis_version": version})
        found = [(f.level, f.code) for f in findings(facts, ns.now)]
        assert found == ([("error", "redis-too-old")] if old else [])
        assert facts.readable is not old

    def test_a_replica_is_reported(self, fresh: Fresh, fresh_server: StartServer) -> None:
        ns = fresh(repl_diskless_sync_delay="0")
        with Redis.from_url(fresh_server().url) as replica:
            follow(replica, ns)
            assert Namespace(replica, ns.now).found()["replica"].level == "error"
        assert ns.found() == {}

    def test_a_replica_that_lags_is_reported(self, fresh: Fresh, fresh_server: StartServer) -> None:
        ns, server = fresh(repl_diskless_sync_delay="0"), fresh_server()
        with Redis.from_url(server.url) as replica:
            follow(replica, ns)
        server.pause()
        ns.redis.set("much", "x" * 3_000_000)
        ns.only("replica-behind", "warning")


def follow(replica: Redis, primary: Namespace) -> None:
    """Make it a replica, and wait until both know."""
    host, port = primary.url.removeprefix("redis://").removesuffix("/0").split(":")
    replica.execute_command("REPLICAOF", host, port)  # type: ignore[no-untyped-call]
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up", "the link")
    wait_until(
        lambda: primary.redis.info("replication").get("slave0", {}).get("state") == "online",
        "the replica is online",
    )


class TestClocks:
    @pytest.mark.parametrize("seconds", [-5, 5])
    def test_skew_between_this_machine_and_the_server_is_reported(
        self, ns: Namespace, seconds: int
    ) -> None:
        [finding] = findings(ns.gather(), datetime.now(UTC) + timedelta(seconds=seconds))
        assert (finding.level, finding.code) == ("warning", "clock-skew")
        assert ("behind" if seconds < 0 else "ahead of") in finding.text

    def test_a_leader_whose_clock_is_ahead_is_reported(self, ns: Namespace) -> None:
        ns.renew(skew_ms=-9000)
        assert "the leader's host is 9.0 s behind" in ns.found()["clock-skew"].text
        ns.renew(skew_ms=0, ahead_s=3600)
        assert "nothing is decided" in ns.found()["clock-skew"].text

    def test_a_leader_that_has_not_ticked_for_long_is_reported(self, ns: Namespace) -> None:
        ns.renew(tick=to_ms(ns.now - timedelta(seconds=90)))
        ns.only("leader-silent", "warning")


class TestLeadership:
    def test_no_leader_is_an_error(self, ns: Namespace) -> None:
        ns.leases.release(ns.lease)
        ns.only("no-leader", "error")

    def test_a_leader_that_is_not_through_its_first_pass_is_reported(self, ns: Namespace) -> None:
        ns.lead("clock.2")
        ns.only("leader-unproven", "warning")

    def test_a_namespace_of_another_owner_is_reported(self, ns: Namespace) -> None:
        ns.only("foreign-owner", "warning", owner=("laptop", ""))
        assert ns.found(owner=("app-id", "local")) == {}  # its former name

    @pytest.mark.parametrize("package", ["version", "tzdata", "rq", "redis_py"])
    def test_another_version_than_the_leaders_is_reported(
        self, ns: Namespace, package: str
    ) -> None:
        ns.renew(**{package: "0.0.1"})
        assert "0.0.1 there" in ns.only("versions-differ", "warning").text

    def test_a_leader_of_an_older_release_says_less(self, bare: Namespace) -> None:
        bare.leases.renew(bare.lead(), proven=1)
        assert bare.found() == {}

    @pytest.mark.parametrize("version", [1, 99])
    def test_data_of_another_version_is_reported_and_not_read(
        self, ns: Namespace, version: int
    ) -> None:
        ns.redis.hset(ns.key("meta"), "version", version)
        ns.redis.hdel(ns.key("markers"), "early")
        ns.only("data-version", "error")

    def test_clocks_that_depose_each_other_are_reported(self, ns: Namespace) -> None:
        for number in range(2, 7):
            ns.leases.renew(ns.lead(f"clock.{number}"), proven=1)
        assert ns.found() == {}
        ns.leases.renew(ns.lead("clock.7"), proven=1)
        ns.only("clocks-fight", "warning")
        ns.now += timedelta(minutes=11)
        assert "clocks-fight" not in ns.found()

    def test_a_pause_of_all_is_no_fault_and_one_that_ended_is_nothing(self, ns: Namespace) -> None:
        pause = Pause(reason="migration", by="ops", since=ns.now - HOUR)
        ns.redis.hset(ns.key("pauses"), "*", to_json(pause))
        ns.only("all-paused", "info")
        assert healthy(ns.found().values())
        ended = replace(pause, until=ns.now - timedelta(minutes=1))
        ns.redis.hset(ns.key("pauses"), "*", to_json(ended))
        assert ns.found() == {}


class TestMarkers:
    def test_a_schedule_without_a_marker_is_reported_with_its_last_fire_time(
        self, ns: Namespace
    ) -> None:
        ns.put(schedule("minutely", every(minutes=1)), known=2 * HOUR)
        ns.tick(HOUR)
        [run] = [e for e in ns.store.ledger("minutely") if not hasattr(e, "count")]
        ns.redis.hdel(ns.key("markers"), "minutely", "early")
        finding = ns.found()["marker-missing"]
        assert (finding.level, finding.schedules) == ("error", ("early", "minutely"))
        assert f"minutely (last {run.fire_time:%Y-%m-%dT%H:%M}" in finding.text  # type: ignore[union-attr]

    def test_the_remedy_for_a_missing_marker_works(self, ns: Namespace) -> None:
        ns.redis.hdel(ns.key("markers"), "early")
        ns.only("marker-missing", "error")
        assert sum(count for _, count in rebuild(ns.store)) == 1  # what the remedy says
        assert ns.found() == {}

    def test_a_marker_that_went_back_behind_the_ledger_is_reported(self, ns: Namespace) -> None:
        ns.put(schedule("minutely", every(minutes=1)), known=2 * HOUR)
        before = ns.redis.hget(ns.key("markers"), "minutely")
        assert before
        ns.tick()
        assert ns.found() == {}
        ns.redis.hset(ns.key("markers"), "minutely", before)
        finding = ns.found()["marker-behind"]
        assert (finding.level, finding.schedules) == ("error", ("minutely",))
        assert f"since {ns.now - 2 * HOUR:%Y-%m-%dT%H:%M:%S}" in finding.text

    def test_a_schedule_that_was_removed_and_declared_again_lost_nothing(
        self, ns: Namespace
    ) -> None:
        minutely = schedule("minutely", every(minutes=1))
        ns.put(minutely, known=2 * HOUR)
        ns.tick()
        ns.remove("minutely")
        ns.put(minutely)
        assert ns.store.ledger("minutely")
        assert ns.found() == {}

    def test_a_marker_in_the_future_is_reported(self, ns: Namespace) -> None:
        ahead = to_ms(ns.now + 9 * HOUR)
        ns.redis.hset(ns.key("markers"), "early", f"{ahead} {to_ms(ns.now)}")
        finding = ns.found()["marker-ahead"]
        assert (finding.level, finding.schedules) == ("error", ("early",))
        assert sum(count for _, count in rebuild(ns.store)) == 1  # what the remedy says
        assert ns.found() == {}


class TestDefinitions:
    def test_a_definition_that_cannot_be_read_is_reported(self, ns: Namespace) -> None:
        ns.redis.hset(ns.key("definitions"), "early", '{"every":60000,"func":"a.b","x":1}')
        assert "unknown option 'x'" in ns.only("invalid-definition", "error").text

    @pytest.mark.parametrize("kind", ["string", "nonsense"])
    def test_a_ledger_that_cannot_be_read_is_reported(self, ns: Namespace, kind: str) -> None:
        key = ns.key("ledger:early")
        if kind == "string":
            ns.redis.set(key, "not a list")
        else:
            ns.redis.rpush(key, "s yesterday 3")
        ns.only("ledger-unreadable", "error")

    def test_a_schedule_that_is_never_due_again_is_reported(self, ns: Namespace) -> None:
        ns.put(schedule("unfired", once(ns.now + HOUR)))
        ns.redis.hset(ns.key("markers"), "unfired", f"{to_ms(ns.now + 2 * HOUR)} {to_ms(ns.now)}")
        ns.redis.zrem(ns.key("due"), "unfired")
        assert set(ns.found()) == {"never-again", "marker-ahead"}
        assert ns.found()["never-again"].level == "warning"

    def test_a_schedule_after_its_last_fire_time_is_none(self, ns: Namespace) -> None:
        start, end = ns.now - 2 * HOUR, ns.now + 10 * HOUR
        for name, trigger in (
            ("counted", every(minutes=30, start=start, max_runs=2)),
            ("ended", every(hours=9, start=start, end=ns.now + HOUR)),
            ("goes-on", every(hours=9, start=start, end=end)),
        ):
            ns.put(schedule(name, trigger))
        assert ns.found() == {}

    @pytest.mark.parametrize("key", ["markers", "revisions", "pauses", "skips", "declared", "due"])
    def test_traces_of_what_is_not_there_are_reported(self, ns: Namespace, key: str) -> None:
        if key == "declared":
            ns.redis.sadd(ns.key(key), "nobody")
        elif key == "due":
            ns.redis.zadd(ns.key(key), {"nobody": to_ms(ns.now + HOUR)})
        else:
            ns.redis.hset(ns.key(key), "nobody", "1")
        finding = ns.only("orphans", "warning")
        assert finding.schedules == ("nobody",)
        assert f"nobody ({key})" in finding.text


class TestCode:
    def test_code_that_is_what_the_clock_took_in_is_well(self, ns: Namespace) -> None:
        assert ns.found(app=Code(schedules={s.name: s for s in ns.declared()})) == {}

    def test_code_that_differs_from_what_the_clock_took_in_is_reported(self, ns: Namespace) -> None:
        code = {"new": daily("new", ns.now), "early": daily("early", ns.now, queue="other")}
        finding = ns.only("code-differs", "warning", app=Code(schedules=code))
        assert finding.schedules == ("early", "late", "new")

    def test_what_was_added_at_run_time_is_not_compared_with_the_code(self, ns: Namespace) -> None:
        ns.redis.srem(ns.key("declared"), "late")
        code = Code(schedules={"early": daily("early", ns.now + HOUR)})
        assert ns.found(app=code) == {}

    def test_faulty_declarations_are_an_error_and_no_app_is_none(self, ns: Namespace) -> None:
        faulty = Code(schedules={}, faults=["x: expected minute 0-59, got '61' in '61 * * * *'"])
        ns.only("app-faulty", "error", app=faulty)
        finding = ns.found(app=Code(problem="cannot load the app"))["app-unread"]
        assert finding.level == "info"


class TestTimes:
    def test_a_herd_is_reported_and_jitter_spreads_it(self, ns: Namespace) -> None:
        herd = [daily(f"herd-{n}", ns.now + 3 * HOUR) for n in range(1001)]
        ns.put(*herd[:1000])
        assert ns.found() == {}
        ns.put(herd[1000])
        assert len(ns.only("herd", "info").schedules) == 1001
        ns.put(*(replace(s, jitter=HOUR) for s in herd))
        assert ns.found() == {}

    def test_a_fire_time_that_a_change_of_clocks_touches_is_reported(self, ns: Namespace) -> None:
        ns.put(schedule("gap", cron("30 2 * * *", tz="Europe/Berlin")))
        ns.put(schedule("noon", cron("0 12 * * *", tz="Europe/Berlin")))
        finding = ns.only("clock-change", "info")
        assert finding.schedules == ("gap",)
        assert "02:30" in finding.text


class TestQueues:
    def test_a_queue_of_schedules_without_a_worker_is_reported(self, ns: Namespace) -> None:
        ns.put(daily("report", ns.now + HOUR, queue="reports"))
        finding = ns.only("queue-without-worker", "warning")
        assert finding.schedules == ("report",)

    def test_jobs_that_wait_for_no_worker_are_an_error(self, ns: Namespace) -> None:
        queue = Queue("orphaned", connection=ns.redis)
        queue.enqueue("json.dumps", {})
        assert "orphaned (1 job waiting)" in ns.only("queue-without-worker", "error").text
        queue.empty()  # type: ignore[no-untyped-call]
        assert ns.found() == {}

    def test_a_worker_whose_key_expired_serves_nobody(self, ns: Namespace) -> None:
        ns.redis.delete("rq:worker:worker.default")
        assert ns.redis.scard("rq:workers:default") == 1
        ns.only("queue-without-worker", "warning")

    def test_workers_of_another_make_are_reported_while_they_live(self, ns: Namespace) -> None:
        ns.put(daily("report", ns.now + HOUR, queue="reports"))
        worker = ns.serve("reports", ours=False)
        assert "worker.reports (reports)" in ns.only("foreign-workers", "warning").text
        ns.redis.delete(worker.key)
        ns.only("queue-without-worker", "warning")


class TestCallbacks:
    """Findings about tasks; the URL's host is never looked up."""

    @pytest.fixture
    def callbacks(self, ns: Namespace, lasting: Server) -> Callbacks:
        settings = Settings.from_env({"REDIS_URL": lasting.url})
        return Callbacks(ns.redis, settings=settings)

    def stale(self, ns: Namespace, callbacks: Callbacks, count: int) -> None:
        """Let tasks fail for good."""
        callbacks.configure({"mode": "off", "maxRetries": 0})
        for _ in range(count):
            callbacks.enqueue(NewTask(url="https://93.184.216.34/"))
        one = Dispatch(ns.store, "one")
        assert one.enter()
        one.finish([
            CallResult(id=task.id, attempt=1, result="timeout", seconds=1.0)
            for task in one.claim(count).tasks
        ])  # fmt: skip
        one.leave()

    def test_without_tasks_nothing_is_found(self, ns: Namespace) -> None:
        assert ns.found() == {}

    def test_tasks_that_wait_for_no_worker_are_reported(
        self, ns: Namespace, callbacks: Callbacks
    ) -> None:
        later = ns.store.now() + HOUR
        callbacks.enqueue(NewTask(url="https://93.184.216.34/", execute_at=later))
        assert "callbacks (0 jobs waiting)" in ns.only("queue-without-worker", "warning").text
        ns.serve("callbacks")
        assert ns.found() == {}

    def test_stale_tasks_and_their_host_are_reported(
        self, ns: Namespace, callbacks: Callbacks
    ) -> None:
        self.stale(ns, callbacks, 5)
        assert set(ns.found()) == {"tasks-stale", "hosts-failing"}


def test_twenty_thousand_schedules_are_examined_in_few_round_trips(bare: Namespace) -> None:
    weekly = every(days=7, anchor=bare.now - 2 * HOUR)  # none is due while this runs
    crowd = [schedule(f"s{n}", weekly, jitter=HOUR) for n in range(20_000)]
    lease = bare.lead()
    bare.put(*crowd)
    bare.serve("default")
    bare.leases.renew(lease, proven=1)
    bare.redis.config_resetstat()
    facts = bare.facts()
    reads = bare.redis.info("stats")["total_reads_processed"]
    assert len(facts.seen) == 20_000
    assert findings(facts, bare.now) == []
    assert reads < 1000
    counts: Any = bare.redis.info("commandstats")
    assert counts["cmdstat_hmget"]["calls"] < 1000
