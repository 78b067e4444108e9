"""The doctor: each ailment is brought about on a real server, and found; the healthy have none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from rq import Queue, Worker

from rq_clock.cli import main
from rq_clock.clock.planner import Planner
from rq_clock.clock.reconcile import plan
from rq_clock.doctor.facts import Code, Facts, gather
from rq_clock.doctor.rebuild import rebuild
from rq_clock.doctor.schedule_checks import findings, healthy
from rq_clock.doctor.server_checks import Finding
from rq_clock.errors import RqClockError
from rq_clock.jobs.executions import Executions
from rq_clock.model.entry import Lease, LeaseRefused, Pause, to_json
from rq_clock.model.schedule import Schedule, declare
from rq_clock.store.lease import Leases
from rq_clock.store.scripts import load_script
from rq_clock.store.store import Change, Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import Trigger, cron, every, once
from rq_clock.version import releases
from tests.helpers import wait_until
from tests.server import Server, free_url

pytestmark = pytest.mark.integration

StartServer = Callable[..., Server]
OWNER = ("local", "")
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps its data, as a healthy one does; the suite's shared one does not."""
    path = tmp_path_factory.mktemp("lasting")
    with Server(path, free_url()) as server:
        yield server


@pytest.fixture
def connection(lasting: Server) -> Iterator[Redis]:
    with Redis.from_url(lasting.url) as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def now() -> datetime:
    """The present: the server's own clock is held against it."""
    return datetime.now(UTC)


@pytest.fixture
def store(connection: Redis, now: datetime) -> Store:
    """A healthy namespace: two schedules, known for an hour, a clock that leads, a worker."""
    return healthy_namespace(connection, now)


def healthy_namespace(redis: Redis, now: datetime) -> Store:
    store = Store(redis, "default")
    lease = lead(store, now)
    put(store, now, daily("early", now + HOUR), daily("late", now + 2 * HOUR))
    serve(redis, "default", now)
    Leases(store).renew(lease, proven=1, tick=to_ms(now), **releases())
    return store


def lead(store: Store, now: datetime, instance: str = "clock.1", mode: str = "starting") -> Lease:
    lease = Leases(store).acquire(instance, OWNER, mode, now)
    assert isinstance(lease, Lease), lease
    return lease


def leader(store: Store) -> Lease:
    return Lease(Leases(store).leader()["token"])


def daily(name: str, at: datetime, **options: Any) -> Schedule:
    return schedule(name, cron(f"{at.minute} {at.hour} * * *"), **options)


def schedule(name: str, trigger: Trigger, **options: Any) -> Schedule:
    return declare(name, trigger, "tasks.demo.heartbeat", options)


def put(store: Store, now: datetime, *schedules: Schedule) -> None:
    """Declare them, known since `now`."""
    changes = [
        Change("put", s.name, s.definition(), s.next_after(now), restart=True) for s in schedules
    ]
    lease = leader(store)
    for went_through in store.reconcile(lease, 0, now, changes):
        assert went_through
        Leases(store).renew(lease)


def tick(store: Store, now: datetime) -> None:
    """Decide and commit what is due at `now`, as the clock does."""
    lease = leader(store)
    Leases(store).renew(lease)
    stage = Planner(store, lease, memory=1 << 20)
    while stage.turn(now) == 0:
        pass


def serve(redis: Redis, queue: str, now: datetime, *, ours: bool = True) -> Worker:
    worker = Worker([queue], connection=redis, name=f"worker.{queue}")
    worker.register_birth()  # type: ignore[no-untyped-call]
    if ours:
        Executions(redis, "default").register(worker.name, now)
    return worker


def facts_of(store: Store, owner: tuple[str, str] = OWNER, app: Code | None = None) -> Facts:
    executions = Executions(store.redis, store.namespace)
    return gather(store, executions, owner, app or Code())


def at(facts: Facts, now: datetime, **changes: Any) -> Facts:
    """Return the facts as if the server's clock showed `now`."""
    return replace(facts, status=replace(facts.status, now=now), **changes)


def found(store: Store, now: datetime, **given: Any) -> dict[str, Finding]:
    """What the doctor finds, by code; as if the server's clock showed `now`, so that a slow machine
    makes no skew."""
    facts = at(facts_of(store, **given), now)
    return {finding.code: finding for finding in findings(facts, now)}


def level_of(store: Store, now: datetime, code: str, **given: Any) -> str:
    """The level of what was found, which must be nothing else."""
    everything = found(store, now, **given)
    assert set(everything) == {code}
    assert everything[code].text
    assert everything[code].remedy
    return everything[code].level


def test_a_healthy_namespace_has_nothing_to_mend(store: Store, now: datetime) -> None:
    tick(store, now)
    assert found(store, now) == {}


def test_a_clock_that_has_just_caught_up_leaves_nothing_to_mend(
    connection: Redis, now: datetime
) -> None:
    store = Store(connection, "default")
    lease = lead(store, now - 3 * HOUR)
    put(
        store,
        now - 3 * HOUR,
        schedule("minutely", every(minutes=1)),
        schedule("all", cron("*/10 * * * *"), catch_up="all"),
        schedule("spread", every(minutes=5), jitter=60),
        schedule("once", once(now - HOUR)),
    )
    serve(connection, "default", now)
    Leases(store).renew(lease, proven=1)
    for minutes in (150, 60, 0):
        tick(store, now - timedelta(minutes=minutes))
    assert store.load(["minutely"])[0]["minutely"].marker
    assert found(store, now) == {}


def test_the_worst_comes_first(store: Store, connection: Redis, now: datetime) -> None:
    put(store, now, schedule("berlin", cron("30 2 * * *", tz="Europe/Berlin")))
    connection.hset(store.key("revisions"), "nobody", 7)
    Leases(store).release(leader(store))
    told = findings(at(facts_of(store), now), now)
    assert [finding.level for finding in told] == ["error", "warning", "info"]
    assert not healthy(told)


class TestServer:
    @pytest.mark.parametrize(
        ("policy", "level"), [("allkeys-lru", "error"), ("volatile-ttl", "warning")]
    )
    def test_a_server_that_evicts_is_told(
        self, store: Store, connection: Redis, now: datetime, policy: str, level: str
    ) -> None:
        connection.config_set("maxmemory-policy", policy)
        try:
            assert level_of(store, now, "evicting") == level
        finally:
            connection.config_set("maxmemory-policy", "noeviction")

    def test_tls_without_verification_is_worth_knowing(self, store: Store, now: datetime) -> None:
        facts = at(facts_of(store), now, unverified=True)
        told = [(f.level, f.code) for f in findings(facts, now)]
        assert ("info", "tls-unverified") in told

    def test_a_server_that_keeps_nothing_on_disk_is_told(
        self, fresh_server: StartServer, now: datetime
    ) -> None:
        with Redis.from_url(fresh_server(appendonly="no").url) as redis:
            store = healthy_namespace(redis, now)
            assert level_of(store, now, "persistence-off") == "warning"
            redis.config_set("save", "900 1")  # snapshots will do
            assert found(store, now) == {}

    def test_a_server_that_is_nearly_full_is_told(
        self, fresh_server: StartServer, now: datetime
    ) -> None:
        with Redis.from_url(fresh_server().url) as redis:
            store = healthy_namespace(redis, now)
            used = redis.info("memory")["used_memory"]
            redis.config_set("maxmemory", used * 10 // 9)
            assert level_of(store, now, "memory") == "warning"
            redis.config_set("maxmemory", used * 2)
            assert found(store, now) == {}

    def test_connections_that_a_deploy_would_exhaust_are_told(
        self, fresh_server: StartServer, now: datetime
    ) -> None:
        server = fresh_server(maxclients="20")
        with Redis.from_url(server.url) as redis:
            store = healthy_namespace(redis, now)
            assert found(store, now) == {}
            others = [Redis.from_url(server.url) for _ in range(11)]
            for other in others:
                other.ping()
            finding = found(store, now)["connections"]
            for other in others:
                other.close()
        assert finding.level == "warning"
        assert "of 20 connections are in use" in finding.text

    def test_what_a_hosted_server_lets_nobody_ask_is_no_error(
        self, fresh_server: StartServer, now: datetime
    ) -> None:
        server = fresh_server(appendonly="no")
        with Redis.from_url(server.url) as admin:
            healthy_namespace(admin, now)
            rights: Any = {"enabled": True, "nopass": True, "categories": ["+@all"],
                           "keys": ["*"], "channels": ["*"]}  # fmt: skip
            admin.acl_setuser("hosted", commands=["-config"], **rights)
            admin.acl_setuser("mute", commands=["-config", "-info"], **rights)
        for user, code in (("hosted", "persistence-unknown"), ("mute", "redis-unknown")):
            with Redis.from_url(server.url, username=user, password="x") as redis:
                assert level_of(Store(redis, "default"), now, code) == "info"

    def test_an_unknown_limit_of_connections_is_no_error(self, store: Store, now: datetime) -> None:
        facts = at(facts_of(store), now)
        info = {name: value for name, value in facts.info.items() if name != "maxclients"}
        [finding] = findings(replace(facts, info=info, config={}), now)
        assert (finding.level, finding.code) == ("info", "connections-unknown")
        assert findings(replace(facts, info=info, config={"maxclients": "10000"}), now) == []

    @pytest.mark.parametrize(
        ("version", "old"), [("6.0.16", True), ("6.2.0", False), ("10.0.1", False)]
    )
    def test_a_server_older_than_6_2_is_told(
        self, store: Store, now: datetime, version: str, old: bool
    ) -> None:
        facts = facts_of(store)
        changed = at(facts, now, info={**facts.info, "redis_version": version})
        told = [(f.level, f.code) for f in findings(changed, now)]
        assert told == ([("error", "redis-too-old")] if old else [])
        assert changed.readable is not old

    def test_a_replica_is_told(self, fresh_server: StartServer, now: datetime) -> None:
        primary, replica = fresh_server(repl_diskless_sync_delay="0"), fresh_server()
        with Redis.from_url(primary.url) as redis, Redis.from_url(replica.url) as copy:
            store = healthy_namespace(redis, now)
            follow(copy, primary)
            finding = found(Store(copy, "default"), now)["replica"]
            assert finding.level == "error"
            assert found(store, now) == {}

    def test_a_replica_that_lags_is_told(self, fresh_server: StartServer, now: datetime) -> None:
        primary, replica = fresh_server(repl_diskless_sync_delay="0"), fresh_server()
        with Redis.from_url(primary.url) as redis, Redis.from_url(replica.url) as copy:
            store = healthy_namespace(redis, now)
            follow(copy, primary)
            replica.pause()
            redis.set("much", "x" * 3_000_000)
            assert level_of(store, now, "replica-behind") == "warning"


def follow(copy: Redis, primary: Server) -> None:
    host, _, port = primary.url.removeprefix("redis://").partition("/")[0].partition(":")
    copy.execute_command("REPLICAOF", host, port)  # type: ignore[no-untyped-call]
    wait_until(lambda: copy.info("replication")["master_link_status"] == "up", "the link is up")
    with Redis.from_url(primary.url) as redis:
        wait_until(
            lambda: redis.info("replication").get("slave0", {}).get("state") == "online",
            "the replica is online",
        )


class TestClocks:
    @pytest.mark.parametrize("seconds", [-5, 5])
    def test_skew_between_this_machine_and_the_server_is_told(
        self, store: Store, now: datetime, seconds: int
    ) -> None:
        [finding] = findings(facts_of(store), datetime.now(UTC) + timedelta(seconds=seconds))
        assert (finding.level, finding.code) == ("warning", "clock-skew")
        assert ("behind" if seconds < 0 else "ahead of") in finding.text

    def test_a_leader_whose_clock_is_ahead_is_told(self, store: Store, now: datetime) -> None:
        Leases(store).renew(leader(store), tick=to_ms(now + timedelta(seconds=10)))
        assert "the leader's clock" in found(store, now)["clock-skew"].text

    def test_a_leader_that_has_not_ticked_for_long_is_told(
        self, store: Store, now: datetime
    ) -> None:
        Leases(store).renew(leader(store), tick=to_ms(now - timedelta(seconds=90)))
        assert level_of(store, now, "leader-silent") == "warning"


class TestLeadership:
    def test_no_leader_is_an_error(self, store: Store, now: datetime) -> None:
        Leases(store).release(leader(store))
        assert level_of(store, now, "no-leader") == "error"

    def test_a_leader_that_is_not_through_its_first_pass_is_told(
        self, store: Store, now: datetime
    ) -> None:
        lead(store, now, "clock.2")
        assert level_of(store, now, "leader-unproven") == "warning"

    def test_a_namespace_of_another_owner_is_told(self, store: Store, now: datetime) -> None:
        assert level_of(store, now, "foreign-owner", owner=("laptop", "")) == "warning"
        assert found(store, now, owner=("app-id", "local")) == {}  # its former name

    @pytest.mark.parametrize("package", ["version", "tzdata", "rq", "redis_py"])
    def test_another_version_than_the_leaders_is_told(
        self, store: Store, now: datetime, package: str
    ) -> None:
        Leases(store).renew(leader(store), **{package: "0.0.1"})
        assert level_of(store, now, "versions-differ") == "warning"
        assert "0.0.1 there" in found(store, now)["versions-differ"].text

    def test_a_leader_of_an_older_release_says_less(self, connection: Redis, now: datetime) -> None:
        store = Store(connection, "default")
        Leases(store).renew(lead(store, now), proven=1)
        assert found(store, now) == {}

    @pytest.mark.parametrize("version", [1, 99])
    def test_data_of_another_version_is_reported_and_not_read(
        self, store: Store, connection: Redis, now: datetime, version: int
    ) -> None:
        connection.hset(store.key("meta"), "version", version)
        connection.hdel(store.key("markers"), "early")
        assert level_of(store, now, "data-version") == "error"

    def test_clocks_that_depose_each_other_are_told(self, store: Store, now: datetime) -> None:
        for number in range(2, 7):
            Leases(store).renew(lead(store, now, f"clock.{number}"), proven=1)
        assert found(store, now) == {}
        Leases(store).renew(lead(store, now, "clock.7"), proven=1)
        assert level_of(store, now, "clocks-fight") == "warning"
        facts = facts_of(store)
        later = now + timedelta(minutes=11)
        assert "clocks-fight" not in {f.code for f in findings(at(facts, later), later)}

    def test_a_pause_of_all_is_no_fault_and_one_that_ended_is_nothing(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        pause = Pause(reason="migration", by="ops", since=now - HOUR)
        connection.hset(store.key("pauses"), "*", to_json(pause))
        assert level_of(store, now, "all-paused") == "info"
        assert healthy(found(store, now).values())
        ended = replace(pause, until=now - timedelta(minutes=1))
        connection.hset(store.key("pauses"), "*", to_json(ended))
        assert found(store, now) == {}


class TestHandovers:
    """The history that lua/acquire.lua keeps."""

    def test_each_grant_says_who_followed_whom_and_how(
        self, connection: Redis, now: datetime
    ) -> None:
        store = Store(connection, "default")
        lease = lead(store, now, "clock.1")
        assert lead(store, now, "clock.1") == lease  # asked again: no handover
        Leases(store).renew(lease, proven=1)
        assert isinstance(Leases(store).acquire("clock.2", OWNER, "waiting", now), LeaseRefused)
        lead(store, now, "clock.2")
        laptop = Leases(store).acquire("laptop.1", ("laptop", ""), "take-over", now)
        assert isinstance(laptop, Lease)
        Leases(store).release(laptop)
        lead(store, now, "clock.3", "take-over")
        told = [
            (h.instance, h.owner, h.token, h.how, h.before) for h in Leases(store).handovers(10)
        ]
        assert told == [
            ("clock.3", "local", 4, "taken-over", ""),
            ("laptop.1", "laptop", 3, "taken-over", "clock.2"),
            ("clock.2", "local", 2, "deposed", "clock.1"),
            ("clock.1", "local", 1, "free", ""),
        ]
        assert abs(Leases(store).handovers(1)[0].at - now) < timedelta(minutes=1)

    def test_the_history_is_bounded(self, connection: Redis, now: datetime) -> None:
        store = Store(connection, "default")
        for number in range(300):
            Leases(store).release(lead(store, now, f"clock.{number}"))
        assert 100 <= len(Leases(store).handovers(1000)) <= 200
        assert [h.token for h in Leases(store).handovers(2)] == [300, 299]

    def test_a_history_that_cannot_be_written_costs_nobody_the_lease(
        self, connection: Redis, now: datetime
    ) -> None:
        store = Store(connection, "default")
        connection.set(store.key("handovers"), "not a stream")
        lead(store, now)
        assert Leases(store).leader()["instance"] == "clock.1"


class TestMarkers:
    def test_a_schedule_without_a_marker_is_told_with_its_last_fire_time(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        put(store, now - 2 * HOUR, schedule("minutely", every(minutes=1)))
        tick(store, now - HOUR)
        [run] = [e for e in store.ledger("minutely") if not hasattr(e, "count")]
        connection.hdel(store.key("markers"), "minutely", "early")
        finding = found(store, now)["marker-missing"]
        assert (finding.level, finding.schedules) == ("error", ("early", "minutely"))
        assert f"minutely (last {run.fire_time:%Y-%m-%dT%H:%M}" in finding.text  # type: ignore[union-attr]

    def test_the_remedy_for_a_missing_marker_works(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        connection.hdel(store.key("markers"), "early")
        assert level_of(store, now, "marker-missing") == "error"
        connection.hdel(store.key("definitions"), "early")  # what the remedy says
        declared = {s.name: s for s in (daily("early", now + HOUR), daily("late", now + 2 * HOUR))}
        changes = plan(declared, store.declared(), {}, now).changes
        assert all(store.reconcile(leader(store), 0, now, changes))
        assert found(store, now) == {}

    def test_a_marker_that_went_back_behind_the_ledger_is_told(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        put(store, now - 2 * HOUR, schedule("minutely", every(minutes=1)))
        before = connection.hget(store.key("markers"), "minutely")
        assert before
        tick(store, now)
        assert found(store, now) == {}
        connection.hset(store.key("markers"), "minutely", before)
        finding = found(store, now)["marker-behind"]
        assert (finding.level, finding.schedules) == ("error", ("minutely",))
        assert f"since {now - 2 * HOUR:%Y-%m-%dT%H:%M:%S}" in finding.text

    def test_a_schedule_that_was_removed_and_declared_again_lost_nothing(
        self, store: Store, now: datetime
    ) -> None:
        minutely = schedule("minutely", every(minutes=1))
        put(store, now - 2 * HOUR, minutely)
        tick(store, now)
        assert all(store.reconcile(leader(store), 0, now, [Change("remove", "minutely")]))
        put(store, now, minutely)
        assert store.ledger("minutely")
        assert found(store, now) == {}

    def test_a_marker_in_the_future_is_told(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        ahead = to_ms(now + 9 * HOUR)
        connection.hset(store.key("markers"), "early", f"{ahead} {to_ms(now)}")
        finding = found(store, now)["marker-ahead"]
        assert (finding.level, finding.schedules) == ("error", ("early",))


class TestIndex:
    def test_an_index_that_lacks_or_misplaces_a_schedule_is_told(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        connection.zrem(store.key("due"), "early")
        connection.zincrby(store.key("due"), 60_000, "late")
        assert level_of(store, now, "index-wrong") == "error"
        assert found(store, now)["index-wrong"].schedules == ("early", "late")

    def test_rebuilding_puts_right_what_is_wrong_and_tells_the_clock(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        right = connection.zrange(store.key("due"), 0, -1, withscores=True)
        news = store.listen()
        assert list(rebuild(store)) == [(2, 0), (0, 0)]
        connection.delete(store.key("due"))
        connection.zadd(store.key("due"), {"late": 1, "nobody": 2})
        assert set(found(store, now)) == {"index-wrong", "orphans", "late"}
        assert list(rebuild(store)) == [(2, 2), (0, 1)]
        assert connection.zrange(store.key("due"), 0, -1, withscores=True) == right
        heard = [message["data"] for _ in range(5) if (message := news.get_message(timeout=0.1))]
        news.close()
        assert heard == [b"*", b"*"]
        assert found(store, now) == {}

    def test_what_has_ended_leaves_the_index(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        put(store, now - 2 * HOUR, schedule("once", once(now - HOUR)))
        tick(store, now)
        assert found(store, now) == {}
        connection.zadd(store.key("due"), {"once": to_ms(now + HOUR)})
        assert level_of(store, now, "index-wrong") == "error"
        assert sum(changed for _, changed in rebuild(store)) == 1
        assert found(store, now) == {}

    def test_a_definition_that_cannot_be_read_keeps_its_place(
        self, store: Store, connection: Redis
    ) -> None:
        connection.hset(store.key("definitions"), "early", "{}")
        connection.zadd(store.key("due"), {"early": 5})
        assert sum(changed for _, changed in rebuild(store)) == 0
        assert connection.zscore(store.key("due"), "early") == 5

    @pytest.mark.parametrize("change", ["commit", "edit", "remove", "return"])
    def test_what_moved_on_since_it_was_read_is_left_as_it_is(
        self, store: Store, connection: Redis, now: datetime, change: str
    ) -> None:
        minutely = schedule("minutely", every(minutes=1))
        put(store, now - HOUR, minutely)
        entry = store.load(["minutely"])[0]["minutely"]
        words: list[Any] = ["minutely", entry.base, entry.revision, 5]
        if change == "commit":
            tick(store, now)
        elif change == "edit":
            edited = replace(minutely, queue="other").definition()
            edit = Change("put", "minutely", edited, now)
            assert all(store.reconcile(leader(store), 0, now, [edit]))
        elif change == "remove":
            assert all(store.reconcile(leader(store), 0, now, [Change("remove", "minutely")]))
        else:  # there was no such schedule when it was read
            words = ["minutely", "", "", ""]
        before = connection.zscore(store.key("due"), "minutely")
        keys = store.keys("definitions", "markers", "revisions", "due", "news")
        assert load_script(connection, "rebuild")(keys, words) == 0
        assert connection.zscore(store.key("due"), "minutely") == before

    def test_rebuilding_under_other_zone_data_is_refused(self, store: Store) -> None:
        Leases(store).renew(leader(store), tzdata="2001a")
        with pytest.raises(RqClockError, match=r"expected the leading clock's zone data, 2001a"):
            list(rebuild(store))

    def test_a_one_off_job_that_waits_for_the_end_of_a_pause_is_in_its_place(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        put(store, now - 2 * HOUR, schedule("once", once(now - HOUR)))
        pause = Pause(reason="holiday", by="ops", since=now - HOUR, until=now + 9 * HOUR)
        connection.hset(store.key("pauses"), "once", to_json(pause))
        connection.zadd(store.key("due"), {"once": to_ms(now + 9 * HOUR)})
        assert found(store, now) == {}
        connection.hdel(store.key("pauses"), "once")
        assert level_of(store, now, "index-wrong") == "error"

    def test_what_is_due_and_undecided_is_told(self, store: Store, now: datetime) -> None:
        put(store, now - 2 * HOUR, schedule("hourly", every(hours=1)))
        assert level_of(store, now, "late") == "warning"


class Busy(threading.Thread):
    """A clock that decides an hour in each turn while schedules come and go, for as long as one
    looks."""

    def __init__(self, url: str, start: datetime) -> None:
        super().__init__()
        self._url, self._now = url, start
        self._over = threading.Event()
        self.turns = 0

    def run(self) -> None:
        with Redis.from_url(self._url) as redis:
            store = Store(redis, "default")
            passing = [daily(f"passing-{n}", self._now) for n in range(50)]
            leave = [Change("remove", s.name) for s in passing]
            while not self._over.is_set():
                self._now += HOUR
                tick(store, self._now)
                put(store, self._now, *passing)
                assert all(store.reconcile(leader(store), 0, self._now, leave))
                self.turns += 1

    def __enter__(self) -> Busy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


class TestBesideAClock:
    @pytest.fixture
    def busy(self, store: Store, lasting: Server, now: datetime) -> Iterator[Busy]:
        start = now - 20_000 * HOUR
        # Long names make what is asked of the server long enough for others to come in between.
        names = (f"busy-{n}" + "-" * 90 for n in range(300))
        put(store, start, *(schedule(name, every(minutes=45)) for name in names))
        with Busy(lasting.url, start) as busy:
            yield busy

    def test_a_clock_at_work_never_looks_ill(self, store: Store, busy: Busy, now: datetime) -> None:
        allowed = {"late", "queue-without-worker"}  # it lives in the past
        looks = 0
        while busy.turns < 20 or looks < 20:
            assert busy.is_alive()
            looks += 1
            assert set(found(store, now)) <= allowed

    def test_an_index_rebuilt_beside_a_clock_at_work_is_right(
        self, store: Store, connection: Redis, busy: Busy, now: datetime
    ) -> None:
        put_right = 0
        while busy.turns < 20 or put_right < 50:
            assert busy.is_alive()
            names = [entry.name for entry in store.everything() if "busy" in entry.name][:4]
            connection.zadd(store.key("due"), {names[0]: 1, names[1]: to_ms(now + HOUR)})
            connection.zrem(store.key("due"), *names[2:])
            put_right += sum(changed for _, changed in rebuild(store))
        busy.__exit__()
        assert set(found(store, now)) <= {"late"}


class TestDefinitions:
    def test_a_definition_that_cannot_be_read_is_told(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        connection.hset(store.key("definitions"), "early", '{"every":60000,"func":"a.b","x":1}')
        assert level_of(store, now, "invalid-definition") == "error"
        assert "unknown option 'x'" in found(store, now)["invalid-definition"].text

    @pytest.mark.parametrize("kind", ["string", "nonsense"])
    def test_a_ledger_that_cannot_be_read_is_told(
        self, store: Store, connection: Redis, now: datetime, kind: str
    ) -> None:
        key = store.key("ledger:early")
        if kind == "string":
            connection.set(key, "not a list")
        else:
            connection.rpush(key, "s yesterday 3")
        assert level_of(store, now, "ledger-unreadable") == "error"

    def test_a_schedule_that_is_never_due_again_is_told(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        put(store, now, schedule("unfired", once(now + HOUR)))
        connection.hset(store.key("markers"), "unfired", f"{to_ms(now + 2 * HOUR)} {to_ms(now)}")
        connection.zrem(store.key("due"), "unfired")
        assert set(found(store, now)) == {"never-again", "marker-ahead"}
        assert found(store, now)["never-again"].level == "warning"

    @pytest.mark.parametrize("key", ["markers", "revisions", "pauses", "skips", "declared", "due"])
    def test_traces_of_what_is_not_there_are_told(
        self, store: Store, connection: Redis, now: datetime, key: str
    ) -> None:
        if key == "declared":
            connection.sadd(store.key(key), "nobody")
        elif key == "due":
            connection.zadd(store.key(key), {"nobody": to_ms(now + HOUR)})
        else:
            connection.hset(store.key(key), "nobody", "1")
        assert level_of(store, now, "orphans") == "warning"
        finding = found(store, now)["orphans"]
        assert finding.schedules == ("nobody",)
        assert f"nobody ({key})" in finding.text


class TestCode:
    def declared(self, now: datetime, **others: Schedule) -> dict[str, Schedule]:
        same = {s.name: s for s in (daily("early", now + HOUR), daily("late", now + 2 * HOUR))}
        return same | others

    def test_code_that_is_what_the_clock_took_in_is_well(self, store: Store, now: datetime) -> None:
        assert found(store, now, app=Code(schedules=self.declared(now))) == {}

    def test_code_that_differs_from_what_the_clock_took_in_is_told(
        self, store: Store, now: datetime
    ) -> None:
        code = self.declared(now, new=daily("new", now), early=daily("early", now, queue="other"))
        del code["late"]
        assert level_of(store, now, "code-differs", app=Code(schedules=code)) == "warning"
        finding = found(store, now, app=Code(schedules=code))["code-differs"]
        assert finding.schedules == ("early", "late", "new")

    def test_what_was_added_at_run_time_is_not_compared_with_the_code(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        connection.srem(store.key("declared"), "late")
        code = Code(schedules={"early": daily("early", now + HOUR)})
        assert found(store, now, app=code) == {}

    def test_faulty_declarations_are_an_error_and_no_app_is_none(
        self, store: Store, now: datetime
    ) -> None:
        faulty = Code(schedules={}, faults=["x: expected minute 0-59, got '61' in '61 * * * *'"])
        assert level_of(store, now, "app-faulty", app=faulty) == "error"
        finding = found(store, now, app=Code(problem="cannot load the app"))["app-unread"]
        assert finding.level == "info"


class TestTimes:
    def test_a_herd_is_told_and_jitter_spreads_it(self, store: Store, now: datetime) -> None:
        herd = [daily(f"herd-{n}", now + 3 * HOUR) for n in range(1001)]
        put(store, now, *herd[:1000])
        assert found(store, now) == {}
        put(store, now, herd[1000])
        assert level_of(store, now, "herd") == "info"
        assert len(found(store, now)["herd"].schedules) == 1001
        put(store, now, *(replace(s, jitter=HOUR) for s in herd))
        assert found(store, now) == {}

    def test_a_fire_time_that_a_change_of_clocks_touches_is_told(
        self, store: Store, now: datetime
    ) -> None:
        put(store, now, schedule("gap", cron("30 2 * * *", tz="Europe/Berlin")))
        put(store, now, schedule("noon", cron("0 12 * * *", tz="Europe/Berlin")))
        assert level_of(store, now, "clock-change") == "info"
        finding = found(store, now)["clock-change"]
        assert finding.schedules == ("gap",)
        assert "02:30" in finding.text


class TestQueues:
    def test_a_queue_of_schedules_without_a_worker_is_told(
        self, store: Store, now: datetime
    ) -> None:
        put(store, now, daily("report", now + HOUR, queue="reports"))
        assert level_of(store, now, "queue-without-worker") == "warning"
        finding = found(store, now)["queue-without-worker"]
        assert finding.schedules == ("report",)

    def test_jobs_that_wait_for_no_worker_are_an_error(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        queue = Queue("orphaned", connection=connection)
        queue.enqueue("json.dumps", {})
        assert level_of(store, now, "queue-without-worker") == "error"
        assert "orphaned (1 job waiting)" in found(store, now)["queue-without-worker"].text
        queue.empty()  # type: ignore[no-untyped-call]
        assert found(store, now) == {}

    def test_a_worker_whose_key_expired_serves_nobody(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        connection.delete("rq:worker:worker.default")
        assert connection.scard("rq:workers:default") == 1
        assert level_of(store, now, "queue-without-worker") == "warning"

    def test_workers_of_another_make_are_told_while_they_live(
        self, store: Store, connection: Redis, now: datetime
    ) -> None:
        put(store, now, daily("report", now + HOUR, queue="reports"))
        worker = serve(connection, "reports", now, ours=False)
        assert level_of(store, now, "foreign-workers") == "warning"
        assert "worker.reports (reports)" in found(store, now)["foreign-workers"].text
        connection.delete(worker.key)
        assert level_of(store, now, "queue-without-worker") == "warning"


def test_twenty_thousand_schedules_are_examined_in_few_round_trips(
    connection: Redis, now: datetime
) -> None:
    store = Store(connection, "default")
    weekly = every(days=7, anchor=now - 2 * HOUR)  # none is due while this runs
    crowd = [schedule(f"s{n}", weekly, jitter=HOUR) for n in range(20_000)]
    lease = lead(store, now)
    put(store, now, *crowd)
    serve(connection, "default", now)
    Leases(store).renew(lease, proven=1)
    connection.config_resetstat()
    facts = facts_of(store)
    reads = connection.info("stats")["total_reads_processed"]
    assert len(facts.seen) == 20_000
    assert findings(at(facts, now), now) == []
    assert reads < 1000
    counts: Any = connection.info("commandstats")
    assert counts["cmdstat_hmget"]["calls"] < 1000


Run = Callable[..., Result]


class TestCommand:
    @pytest.fixture
    def run(self, lasting: Server) -> Run:
        """`rq-clock doctor`, where there is no app unless the test makes one."""

        def run(*words: str, color: bool = False, **env: str) -> Result:
            env = {"REDIS_URL": lasting.url, "RQ_CLOCK_APP": "nowhere:clock", **env}
            return CliRunner().invoke(main, ["doctor", *words], env=env, color=color)

        return run

    def test_a_healthy_namespace_is_all_good(self, run: Run, store: Store) -> None:
        result = run()
        assert result.exit_code == 0, result.output
        level, *rest = result.stdout.splitlines()
        assert level.startswith("info     app-unread  ")
        assert rest == ["all good"]

    def test_each_finding_is_a_line_and_its_remedy(self, run: Run, store: Store) -> None:
        Leases(store).release(leader(store))
        result = run()
        assert result.exit_code == 5
        assert result.stdout.splitlines()[:2] == [
            "error    no-leader  no clock leads: nothing is enqueued",
            "         start one (`heroku ps:scale clock=1`, `python clock.py`)",
        ]
        assert "all good" not in result.stdout
        assert "\x1b[31merror\x1b[0m    no-leader  no clock" in run(color=True).stdout

    def test_as_json_it_is_one_document(self, run: Run, store: Store, connection: Redis) -> None:
        connection.zrem(store.key("due"), "early")
        result = run("--json")
        document = json.loads(result.stdout)
        assert result.exit_code == 5
        assert not document["healthy"]
        assert document["checks"][0] == {
            "level": "error",
            "code": "index-wrong",
            "text": document["checks"][0]["text"],
            "remedy": "`rq-clock doctor --rebuild-index`, also while the clock works",
            "schedules": ["early"],
        }

    def test_the_index_is_rebuilt_before_all_is_examined(
        self, run: Run, store: Store, connection: Redis
    ) -> None:
        connection.delete(store.key("due"))
        result = run("--rebuild-index")
        assert result.exit_code == 0
        assert result.stderr == "due index: 2 schedules checked, 2 corrected\n"
        document = json.loads(run("--rebuild-index", "--json").stdout)
        assert document["healthy"]
        assert document["rebuilt"] == {"schedules": 2, "corrected": 0}

    def test_the_apps_declarations_are_compared(
        self, run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(Path.cwd()))
        head = "from rq_clock import Clock, every\nclock = Clock()\n"
        Path("doctored.py").write_text(head + "clock.add('new', every(hours=1), 'json.dumps')\n")
        Path("broken.py").write_text("raise RuntimeError('no database here')\n")
        differs = json.loads(run("--json", RQ_CLOCK_APP="doctored:clock").stdout)
        assert [f["code"] for f in differs["checks"]] == ["code-differs"]
        assert differs["checks"][0]["schedules"] == ["early", "late", "new"]
        broken = json.loads(run("--json", RQ_CLOCK_APP="broken:clock").stdout)
        assert [f["code"] for f in broken["checks"]] == ["app-faulty"]
        assert "RuntimeError: no database here" in broken["checks"][0]["text"]

    def test_without_redis_it_is_one_line(self, run: Run) -> None:
        result = run(REDIS_URL=free_url())
        assert (result.exit_code, result.stdout) == (4, "")
        assert len(result.stderr.splitlines()) == 1
