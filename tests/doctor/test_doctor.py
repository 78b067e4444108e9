"""The doctor: each ailment is brought about on a real server, and found; the healthy have none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from rq import Queue, Worker

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.cli import main
from rq_clock.clock.planner import Planner
from rq_clock.doctor.facts import Code, Facts, gather
from rq_clock.doctor.rebuild import rebuild
from rq_clock.doctor.schedule_checks import findings, healthy
from rq_clock.doctor.server_checks import Finding
from rq_clock.errors import RqClockError
from rq_clock.jobs.executions import Executions
from rq_clock.model.entry import Lease, LeaseRefused, Pause, to_json
from rq_clock.model.schedule import Schedule, declare
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.scripts import load_script
from rq_clock.store.store import Change, Store
from rq_clock.store.task_claims import CallResult, Dispatch
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


class Namespace:
    """A namespace at an instant, on a server of the test's choice."""

    def __init__(self, redis: Redis, now: datetime | None = None) -> None:
        self.redis: Any = redis
        self.now = now or datetime.now(UTC)
        self.store = Store(redis, "default")
        self.key = self.store.key
        self.leases = Leases(self.store)

    def fill(self) -> Namespace:
        """Make it healthy: two schedules, known for an hour, a clock that leads, a worker."""
        lease = self.lead()
        self.put(*self.declared())
        self.serve("default")
        self.leases.renew(lease, proven=1, tick=to_ms(self.now), **releases())
        return self

    def declared(self) -> list[Schedule]:
        return [daily("early", self.now + HOUR), daily("late", self.now + 2 * HOUR)]

    def lead(self, instance: str = "clock.1", mode: str = "starting") -> Lease:
        lease = self.leases.acquire(instance, OWNER, mode, self.now)
        assert isinstance(lease, Lease), lease
        return lease

    @property
    def url(self) -> str:
        address = self.redis.connection_pool.connection_kwargs
        return f"redis://{address['host']}:{address['port']}/0"

    @property
    def lease(self) -> Lease:
        return Lease(self.leases.leader()["token"])

    def renew(self, **fields: Any) -> None:
        self.leases.renew(self.lease, **fields)

    def put(self, *schedules: Schedule, known: timedelta = timedelta(0)) -> None:
        """Declare schedules that have been known for so long."""
        since = self.now - known
        self.reconcile(*(
            Change("put", s.name, s.definition(), s.next_after(since), since=since)
            for s in schedules
        ), now=since)  # fmt: skip

    def remove(self, *names: str) -> None:
        self.reconcile(*(Change("remove", name) for name in names))

    def reconcile(self, *changes: Change, now: datetime | None = None) -> None:
        for went_through in self.store.reconcile(self.lease, 0, now or self.now, changes):
            assert went_through
            self.renew()

    def tick(self, ago: timedelta = timedelta(0)) -> None:
        """Decide and commit what was due `ago`, as the clock does."""
        self.renew()
        planner = Planner(self.store, self.lease, memory=1 << 20)
        while planner.turn(self.now - ago) == 0:
            pass

    def serve(self, queue: str, *, ours: bool = True) -> Worker:
        worker = Worker([queue], connection=self.redis, name=f"worker.{queue}")
        worker.register_birth()  # type: ignore[no-untyped-call]
        if ours:
            Executions(self.redis, "default").register(worker.name, self.now)
        return worker

    def gather(self, owner: tuple[str, str] = OWNER, app: Code | None = None) -> Facts:
        return gather(self.store, Executions(self.redis, "default"), owner, app or Code())

    def facts(self, **options: Any) -> Facts:
        """Return the facts as if the server's clock showed `now`: a slow machine makes no skew."""
        facts = self.gather(**options)
        return replace(facts, status=replace(facts.status, now=self.now))

    def found(self, **options: Any) -> dict[str, Finding]:
        """Return the doctor's findings by code."""
        return {finding.code: finding for finding in findings(self.facts(**options), self.now)}

    def only(self, code: str, level: str, **options: Any) -> Finding:
        """Return the one finding that there must be, with a text and a remedy."""
        [finding] = self.found(**options).values()
        assert (finding.code, finding.level) == (code, level)
        assert finding.text
        assert finding.remedy
        return finding


Fresh = Callable[..., Namespace]


@pytest.fixture
def bare(connection: Redis) -> Namespace:
    """A namespace in which there is nothing yet."""
    return Namespace(connection)


@pytest.fixture
def ns(bare: Namespace) -> Namespace:
    """A healthy namespace."""
    return bare.fill()


@pytest.fixture
def fresh(fresh_server: StartServer) -> Iterator[Fresh]:
    """Start a server with a healthy namespace: `fresh(maxclients="20")`."""
    with ExitStack() as clients:

        def start(**directives: str) -> Namespace:
            url = fresh_server(**directives).url
            return Namespace(clients.enter_context(Redis.from_url(url))).fill()

        yield start


def daily(name: str, at: datetime, **options: Any) -> Schedule:
    return schedule(name, cron(f"{at.minute} {at.hour} * * *"), **options)


def schedule(name: str, trigger: Trigger, **options: Any) -> Schedule:
    return declare(name, trigger, "tasks.demo.heartbeat", options)


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


class TestHandovers:
    """The history that lua/acquire.lua keeps."""

    def test_each_grant_is_recorded_with_its_predecessor_and_its_kind(
        self, bare: Namespace
    ) -> None:
        lease = bare.lead("clock.1")
        assert bare.lead("clock.1") == lease  # acquired again: no handover
        bare.leases.renew(lease, proven=1)
        assert isinstance(bare.leases.acquire("clock.2", OWNER, "waiting", bare.now), LeaseRefused)
        bare.lead("clock.2")
        laptop = bare.leases.acquire("laptop.1", ("laptop", ""), "take-over", bare.now)
        assert isinstance(laptop, Lease)
        bare.leases.release(laptop)
        bare.lead("clock.3", "take-over")
        handovers = [
            (h.instance, h.owner, h.token, h.how, h.before) for h in bare.leases.handovers(10)
        ]
        assert handovers == [
            ("clock.3", "local", 4, "taken-over", ""),
            ("laptop.1", "laptop", 3, "taken-over", "clock.2"),
            ("clock.2", "local", 2, "deposed", "clock.1"),
            ("clock.1", "local", 1, "free", ""),
        ]
        assert abs(bare.leases.handovers(1)[0].at - bare.now) < timedelta(minutes=1)

    def test_the_history_is_bounded(self, bare: Namespace) -> None:
        for number in range(300):
            bare.leases.release(bare.lead(f"clock.{number}"))
        assert 100 <= len(bare.leases.handovers(1000)) <= 200
        assert [h.token for h in bare.leases.handovers(2)] == [300, 299]

    def test_a_history_that_cannot_be_written_costs_nobody_the_lease(self, bare: Namespace) -> None:
        bare.redis.set(bare.key("handovers"), "not a stream")
        bare.lead()
        assert bare.leases.leader()["instance"] == "clock.1"


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


class TestIndex:
    def test_an_index_that_lacks_or_misplaces_a_schedule_is_reported(self, ns: Namespace) -> None:
        ns.redis.zrem(ns.key("due"), "early")
        ns.redis.zincrby(ns.key("due"), 60_000, "late")
        assert ns.only("index-wrong", "error").schedules == ("early", "late")

    def test_rebuilding_corrects_the_index_and_notifies_the_clock(self, ns: Namespace) -> None:
        right = ns.redis.zrange(ns.key("due"), 0, -1, withscores=True)
        news = ns.store.listen()
        assert list(rebuild(ns.store)) == [(2, 0), (0, 0)]
        ns.redis.delete(ns.key("due"))
        ns.redis.zadd(ns.key("due"), {"late": 1, "nobody": 2})
        assert set(ns.found()) == {"index-wrong", "orphans", "late"}
        assert list(rebuild(ns.store)) == [(2, 2), (0, 1)]
        assert ns.redis.zrange(ns.key("due"), 0, -1, withscores=True) == right
        messages = [message["data"] for _ in range(5) if (message := news.get_message(timeout=0.1))]
        news.close()
        assert messages == [b"*", b"*"]
        assert ns.found() == {}

    def test_what_has_ended_leaves_the_index(self, ns: Namespace) -> None:
        ns.put(schedule("once", once(ns.now - HOUR)), known=2 * HOUR)
        ns.tick()
        assert ns.found() == {}
        ns.redis.zadd(ns.key("due"), {"once": to_ms(ns.now + HOUR)})
        ns.only("index-wrong", "error")
        assert sum(changed for _, changed in rebuild(ns.store)) == 1
        assert ns.found() == {}

    def test_a_definition_that_cannot_be_read_keeps_its_place(self, ns: Namespace) -> None:
        ns.redis.hset(ns.key("definitions"), "early", "{}")
        ns.redis.zadd(ns.key("due"), {"early": 5})
        assert sum(changed for _, changed in rebuild(ns.store)) == 0
        assert ns.redis.zscore(ns.key("due"), "early") == 5

    @pytest.mark.parametrize("change", ["commit", "edit", "remove", "return"])
    def test_what_moved_on_since_it_was_read_is_left_as_it_is(
        self, ns: Namespace, change: str
    ) -> None:
        minutely = schedule("minutely", every(minutes=1))
        ns.put(minutely, known=HOUR)
        entry = ns.store.load(["minutely"])[0]["minutely"]
        words: list[Any] = ["minutely", entry.base, entry.revision, 5, "", ""]
        if change == "commit":
            ns.tick()
        elif change == "edit":
            edited = replace(minutely, queue="other").definition()
            edit = Change("put", "minutely", edited, ns.now)
            ns.reconcile(edit)
        elif change == "remove":
            ns.remove("minutely")
        else:  # there was no such schedule when it was read
            words = ["minutely", "", "", "", "", ""]
        before = ns.redis.zscore(ns.key("due"), "minutely")
        keys = ns.store.keys("due", "lease")
        assert load_script(ns.redis, "repair")(keys, ["", 100, "", *words]) == []
        assert ns.redis.zscore(ns.key("due"), "minutely") == before

    def test_rebuilding_under_other_zone_data_is_refused(self, ns: Namespace) -> None:
        ns.renew(tzdata="2001a")
        with pytest.raises(RqClockError, match=r"expected the leading clock's zone data, 2001a"):
            list(rebuild(ns.store))

    def test_a_one_off_job_that_waits_for_the_end_of_a_pause_is_in_its_place(
        self, ns: Namespace
    ) -> None:
        ns.put(schedule("once", once(ns.now - HOUR)), known=2 * HOUR)
        pause = Pause(reason="holiday", by="ops", since=ns.now - HOUR, until=ns.now + 9 * HOUR)
        ns.redis.hset(ns.key("pauses"), "once", to_json(pause))
        ns.redis.zadd(ns.key("due"), {"once": to_ms(ns.now + 9 * HOUR)})
        assert ns.found() == {}
        ns.redis.hdel(ns.key("pauses"), "once")
        ns.only("index-wrong", "error")

    def test_what_is_due_and_undecided_is_reported(self, ns: Namespace) -> None:
        ns.put(schedule("hourly", every(hours=1)), known=2 * HOUR)
        ns.only("late", "warning")


class Busy(threading.Thread):
    """A clock that decides an hour in each turn while schedules come and go, for as long as one
    looks."""

    def __init__(self, url: str, start: datetime) -> None:
        super().__init__()
        self._url, self._start = url, start
        self._over = threading.Event()
        self.turns = 0

    def run(self) -> None:
        with Redis.from_url(self._url) as redis:
            ns = Namespace(redis, self._start)
            passing = [daily(f"passing-{n}", self._start) for n in range(50)]
            while not self._over.is_set():
                ns.now += HOUR
                ns.tick()
                ns.put(*passing)
                ns.remove(*(s.name for s in passing))
                self.turns += 1

    def __enter__(self) -> Busy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


class TestBesideAClock:
    @pytest.fixture
    def busy(self, ns: Namespace, lasting: Server) -> Iterator[Busy]:
        # Long names make each request long enough for others to come in between.
        names = (f"busy-{n}" + "-" * 90 for n in range(300))
        busy = (schedule(name, every(minutes=45)) for name in names)
        ns.put(*busy, known=20_000 * HOUR)
        with Busy(lasting.url, ns.now - 20_000 * HOUR) as clock:
            yield clock

    def test_a_clock_at_work_never_looks_ill(self, ns: Namespace, busy: Busy) -> None:
        allowed = {"late", "queue-without-worker"}  # it lives in the past
        looks = 0
        while busy.turns < 20 or looks < 20:
            assert busy.is_alive()
            looks += 1
            assert set(ns.found()) <= allowed

    def test_an_index_rebuilt_beside_a_clock_at_work_is_right(
        self, ns: Namespace, busy: Busy
    ) -> None:
        put_right = 0
        while busy.turns < 20 or put_right < 50:
            assert busy.is_alive()
            names = [entry.name for entry in ns.store.everything() if "busy" in entry.name][:4]
            ns.redis.zadd(ns.key("due"), {names[0]: 1, names[1]: to_ms(ns.now + HOUR)})
            ns.redis.zrem(ns.key("due"), *names[2:])
            put_right += sum(changed for _, changed in rebuild(ns.store))
        busy.__exit__()
        assert set(ns.found()) <= {"late"}


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


Run = Callable[..., Result]


class TestCommand:
    @pytest.fixture
    def run(self, lasting: Server) -> Run:
        """`rq-clock doctor`, where there is no app unless the test makes one."""

        def run(*words: str, color: bool = False, **env: str) -> Result:
            env = {"REDIS_URL": lasting.url, "RQ_CLOCK_APP": "nowhere:clock", **env}
            return CliRunner().invoke(main, ["doctor", *words], env=env, color=color)

        return run

    def test_a_healthy_namespace_is_all_good(self, run: Run, ns: Namespace) -> None:
        result = run()
        assert result.exit_code == 0, result.output
        level, *rest = result.stdout.splitlines()
        assert level.startswith("info     app-unread  ")
        assert rest == ["all good"]

    def test_each_finding_is_a_line_and_its_remedy(self, run: Run, ns: Namespace) -> None:
        ns.leases.release(ns.lease)
        result = run()
        assert result.exit_code == 5
        assert result.stdout.splitlines()[:2] == [
            "error    no-leader  no clock leads: nothing is enqueued",
            "         start one (`heroku ps:scale clock=1`, `python clock.py`)",
        ]
        assert "all good" not in result.stdout
        assert "\x1b[31merror\x1b[0m    no-leader  no clock" in run(color=True).stdout

    def test_as_json_it_is_one_document(self, run: Run, ns: Namespace) -> None:
        ns.redis.zrem(ns.key("due"), "early")
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

    def test_the_index_is_rebuilt_before_all_is_examined(self, run: Run, ns: Namespace) -> None:
        ns.redis.delete(ns.key("due"))
        result = run("--rebuild-index")
        assert result.exit_code == 0
        assert result.stderr == "due index: 2 schedules checked, 2 corrected\n"
        document = json.loads(run("--rebuild-index", "--json").stdout)
        assert document["healthy"]
        assert document["rebuilt"] == {"schedules": 2, "corrected": 0}

    def test_the_apps_declarations_are_compared(
        self, run: Run, ns: Namespace, monkeypatch: pytest.MonkeyPatch
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
