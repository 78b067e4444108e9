"""The state in Redis: the laws of lease, reconcile, commit and ledger. A real server."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue
from rq.job import Job

from rq_clock.errors import Conflict, LeaseLost, StoreUnavailable
from rq_clock.model.decision import Decision, Skip, due
from rq_clock.model.entry import Entry, Lease, LeaseRefused
from rq_clock.model.ledger import Enqueued, LedgerEntry, Lost
from rq_clock.model.schedule import Schedule, declare
from rq_clock.store.access import check_server
from rq_clock.store.audit import Actor
from rq_clock.store.commit import Batch, CommitChannel, CommitRefusal, CommitResult, Planned
from rq_clock.store.job_commands import JobBuilder
from rq_clock.store.lease import LEASE_MS, Leases
from rq_clock.store.operations import Operations
from rq_clock.store.store import Change, Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every
from tests.helpers import pause

OURS = ("production", "")
HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
ONE, TWO = MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR
JOB = f"default-hourly-{to_ms(ONE)}"


class Namespace:
    """A namespace, and the clock that leads it."""

    def __init__(self, redis: Any, name: str = "default", **options: Any) -> None:
        self.redis = redis
        self.store = Store(redis, name, **options)
        self.key = self.store.key
        self.leases = Leases(self.store)

    def lead(
        self, instance: str = "clock.1", mode: str = "starting", owner: tuple[str, str] = OURS
    ) -> Lease:
        lease = self.leases.acquire(instance, owner, mode, MIDNIGHT)
        assert isinstance(lease, Lease), lease
        self.lease = lease
        return lease

    def prove(self, instance: str, mode: str = "starting") -> Lease:
        """Lead, and go through the first pass."""
        lease = self.lead(instance, mode)
        self.leases.renew(lease, proven=1)
        return lease

    def refused(
        self, instance: str, mode: str = "starting", owner: str = "production"
    ) -> LeaseRefused:
        answer = self.leases.acquire(instance, (owner, ""), mode, MIDNIGHT)
        assert isinstance(answer, LeaseRefused), answer
        return answer

    def put(self, *schedules: Schedule, now: datetime = MIDNIGHT) -> None:
        self.reconcile(*(
            Change("put", s.name, s.definition(), s.next_after(now), since=now)
            for s in schedules
        ), now=now)  # fmt: skip

    def remove(self, name: str) -> None:
        self.reconcile(Change("remove", name))

    def reconcile(self, *changes: Change, now: datetime = MIDNIGHT) -> None:
        assert all(self.store.reconcile(self.lease, 0, now, changes))

    def entry(self, name: str = "hourly") -> Entry:
        return self.store.load([name])[0][name]

    def ledger(self) -> list[LedgerEntry]:
        return self.store.ledger("hourly")

    def stage(self, *names: str, now: datetime = ONE) -> Batch:
        batch, builder = Batch(now, self.store.load([])[1]), JobBuilder(self.store)
        for entry in map(self.entry, names or ["hourly"]):
            assert entry.schedule
            batch.add(entry, due(entry.schedule, entry.decided, now, entry.blocks), builder)
        batch.pack(self.store, self.lease, CommitChannel(self.store))
        return batch

    def refusal(self, batch: Batch) -> CommitRefusal:
        [answer] = CommitChannel(self.store).commit([batch])
        assert isinstance(answer, CommitRefusal)
        return answer

    def send(self, batch: Batch) -> list[CommitResult]:
        [answers] = CommitChannel(self.store).commit([batch])
        assert not isinstance(answers, CommitRefusal), answers
        return answers

    def commit(self, *names: str, now: datetime = ONE) -> list[CommitResult]:
        return self.send(self.stage(*names, now=now))

    def jobs(self, queue: str = "default") -> list[str]:
        return Queue(queue, connection=self.redis).job_ids

    def dump(self) -> dict[bytes, Any]:
        return {key: self.redis.dump(key) for key in self.redis.scan_iter()}


@pytest.fixture
def ns(connection: Redis) -> Namespace:
    """A namespace that no clock leads yet."""
    return Namespace(connection)


@pytest.fixture
def led(ns: Namespace) -> Namespace:
    ns.lead()
    return ns


@pytest.fixture
def ready(led: Namespace) -> Namespace:
    """A led namespace with the schedule `hourly`."""
    led.put(hourly())
    return led


def hourly(name: str = "hourly", **options: Any) -> Schedule:
    return declare(name, cron("0 * * * *"), "tasks.demo.heartbeat", options)


def kinds(answers: list[CommitResult]) -> list[str]:
    return [answer.kind for answer in answers]


def was_committed(planned: Planned, stale: str) -> bool:
    """Whether the state in a stale result is what this very decision leaves: marker and job."""
    _revision, _, state = stale.partition(" ")
    marker, *rest = state.split(" ")
    written = marker == str(to_ms(planned.decision.marker))
    return written and (not planned.job_ids or rest[-1:] == [planned.job_ids[-1]])


class TestLease:
    def test_the_newest_clock_of_the_same_owner_wins(self, ns: Namespace) -> None:
        old = ns.prove("clock.1")
        assert ns.lead("clock.2").number > old.number
        with pytest.raises(LeaseLost):
            ns.leases.renew(old, proven=1)

    def test_a_clock_that_stands_by_deposes_nobody(self, ns: Namespace) -> None:
        ns.prove("clock.1")
        answer = ns.refused("clock.2", mode="waiting")
        assert (answer.kind, answer.holder) == ("held", "clock.1")
        assert 0 < answer.wait <= LEASE_MS / 1000

    def test_acquiring_again_after_a_lost_reply_gives_the_same_token(self, ns: Namespace) -> None:
        assert ns.lead() == ns.lead()

    def test_a_full_server_grants_nothing_not_even_to_the_holder(self, led: Namespace) -> None:
        led.redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(ResponseError, match="maxmemory"):
                led.lead(mode="waiting")
        finally:
            led.redis.config_set("maxmemory", 0)

    def test_a_released_lease_is_free_at_once_and_announced(self, ns: Namespace) -> None:
        news = ns.store.listen()
        lease = ns.lead("clock.1")
        ns.leases.release(lease)
        assert ns.lead("clock.2", mode="waiting").number == lease.number + 1
        messages = [news.get_message(timeout=1) for _ in range(4)]
        assert [m["data"] for m in messages if m] == [b"lease"] * 3
        news.close()

    def test_releasing_a_lost_lease_leaves_its_new_holder_alone(self, ns: Namespace) -> None:
        old = ns.prove("clock.1")
        ns.lead("clock.2")
        ns.leases.release(old)
        assert ns.leases.leader()["instance"] == "clock.2"

    def test_a_clock_of_another_owner_is_refused_also_when_nobody_leads(
        self, ns: Namespace
    ) -> None:
        ns.leases.release(ns.lead())
        answer = ns.refused("laptop.1", owner="laptop")
        assert (answer.kind, answer.owner) == ("foreign", "production")
        assert ns.leases.leader() == {}

    def test_a_foreign_clock_does_not_get_a_namespace_that_lost_its_owner(
        self, led: Namespace
    ) -> None:
        assert led.refused("laptop.1", owner="laptop").kind == "foreign"
        led.redis.flushall()
        assert led.refused("laptop.1", "foreign", "laptop").kind == "ownerless"
        led.lead("clock.1", "waiting")
        assert led.refused("laptop.1", "foreign", "laptop").kind == "foreign"

    def test_a_lease_is_no_longer_than_a_lease(self, ns: Namespace) -> None:
        """As when the server's clock was set back by an hour: it lived on for so long."""
        ns.prove("clock.1")
        ns.redis.pexpire(ns.key("lease"), 3_600_000)
        assert ns.refused("clock.2", mode="waiting").wait <= LEASE_MS / 1000

    def test_take_over_changes_the_owner(self, led: Namespace) -> None:
        led.lead("laptop.1", "take-over", ("laptop", ""))
        assert led.refused("clock.1").kind == "foreign"

    def test_an_app_that_learns_its_id_keeps_its_namespace(self, ns: Namespace) -> None:
        ns.leases.release(ns.lead("clock.1", owner=("dyno", "")))
        ns.lead("clock.2", owner=("app-id", "dyno"))
        assert ns.leases.leader()["owner"] == "app-id"

    def test_a_leader_that_is_not_through_its_first_pass_is_not_deposed(
        self, led: Namespace
    ) -> None:
        assert led.refused("clock.2").kind == "held"

    def test_after_a_deposition_that_failed_nobody_is_deposed_for_a_while(
        self, ns: Namespace
    ) -> None:
        ns.prove("steady.1")
        ns.lead("crashing.1")  # and dies in its first pass
        ns.redis.delete(ns.key("lease"))  # its lease runs out
        ns.prove("steady.1", mode="waiting")
        assert ns.refused("crashing.2").kind == "held"

    def test_a_deposition_that_worked_allows_the_next(self, ns: Namespace) -> None:
        for number in range(1, 5):
            ns.prove(f"clock.{number}")

    def test_a_token_never_comes_back_even_if_the_counter_is_lost(self, ns: Namespace) -> None:
        lease = ns.lead("clock.1")
        ns.redis.flushall()
        assert ns.lead("clock.2") != lease

    @pytest.mark.parametrize(
        ("version", "remedy"),
        [(99, "deploy the newer rq-clock again"), (1, "export with the older rq-clock")],
    )
    def test_data_of_another_version_is_refused_with_the_remedy(
        self, ns: Namespace, version: int, remedy: str
    ) -> None:
        ns.redis.hset(ns.key("meta"), "version", version)
        before = ns.dump()
        expected = f"version {version}, this release understands 2; {remedy}"
        for refused in (ns.lead, partial(check_server, ns.store)):
            with pytest.raises(StoreUnavailable, match=expected):
                refused()
        assert ns.dump() == before


class TestCommit:
    def test_job_marker_due_index_and_ledger_move_together(self, led: Namespace) -> None:
        led.put(hourly(queue="reports", timeout=90, kwargs={"path": "/tmp"}))
        assert kinds(led.commit()) == ["ok"]
        assert led.jobs("reports") == [JOB]
        job = Job.fetch(JOB, connection=led.redis)
        assert (job.func_name, job.kwargs) == ("tasks.demo.heartbeat", {"path": "/tmp"})
        assert job.timeout == 90
        assert job.created_at == job.enqueued_at == ONE  # the instant of the decision
        run = {"schedule": "hourly", "fire_time": "2026-03-01T01:00:00Z", "reason": "schedule"}
        assert job.meta == {"rq_clock": run}
        assert (led.entry().marker, led.entry().last_job) == (ONE, JOB)
        assert led.store.soonest(5) == [("hourly", TWO)]
        [entry] = led.ledger()
        assert isinstance(entry, Enqueued)
        assert (entry.fire_time, entry.reason) == (ONE, "schedule")

    def test_sent_twice_is_enqueued_once_and_known_as_done(self, ready: Namespace) -> None:
        batch = ready.stage()
        ready.send(batch)
        [again] = ready.send(batch)
        assert again.kind == "stale"
        assert was_committed(again.planned, again.detail)
        assert len(ready.jobs()) == 1

    def test_jobs_that_differ_in_one_batch_are_each_as_rq_writes_them(self, led: Namespace) -> None:
        schedules = [
            hourly("plain"), hourly("args", args=[1, "two", None]), hourly("plain-too"),
            hourly("kwargs", kwargs={"full": False}), hourly("retries", retries=3),
            hourly("delays", retries=[5, 60]), hourly("queue", queue="reports", timeout=60),
            hourly("group", group="shop-42", group_limit=2),
            hourly("ttl", result_ttl=0, failure_ttl=7),
        ]  # fmt: skip
        led.put(*schedules)
        assert set(kinds(led.commit(*(s.name for s in schedules)))) == {"ok"}
        for schedule in schedules:
            job = Job.fetch(f"default-{schedule.name}-{to_ms(ONE)}", connection=led.redis)
            stored = led.redis.hgetall(job.key)
            written = {k: v for k, v in stored.items() if not k.startswith(b"rq_clock")}
            group = {b"rq_clock_group": b"shop-42", b"rq_clock_group_limit": b"2"}
            assert stored == written | (group if schedule.name == "group" else {})
            led.redis.delete(job.key)
            job.save()
            assert written == led.redis.hgetall(job.key), schedule.name
            assert (job.args, job.kwargs) == (schedule.args, dict(schedule.kwargs))
            assert job.origin == schedule.queue
            assert job.id in led.jobs(schedule.queue)
        assert led.redis.smembers("rq:queues") == {b"rq:queue:default", b"rq:queue:reports"}

    def test_a_stale_clock_cannot_enqueue(self, ns: Namespace) -> None:
        ns.prove("clock.1")
        ns.put(hourly())
        batch = ns.stage()
        ns.lead("clock.2")
        before = ns.dump()
        with pytest.raises(LeaseLost):
            ns.send(batch)
        assert ns.dump() == before

    def test_a_clock_whose_lease_ran_out_cannot_enqueue(self, ready: Namespace) -> None:
        batch = ready.stage()
        ready.redis.delete(ready.key("lease"))
        with pytest.raises(LeaseLost):
            ready.send(batch)

    def test_a_decision_on_an_edited_schedule_is_refused(self, ready: Namespace) -> None:
        batch = ready.stage()
        ready.put(hourly(queue="other"))
        [answer] = ready.send(batch)
        assert answer.kind == "stale"
        assert not was_committed(answer.planned, answer.detail)
        assert ready.jobs() == []

    def test_a_decision_on_a_removed_schedule_is_refused(self, ready: Namespace) -> None:
        batch = ready.stage()
        ready.remove("hourly")
        assert kinds(ready.send(batch)) == ["stale"]
        assert ready.store.size() == 0

    def test_a_pause_holds_from_its_instant_on(self, ready: Namespace) -> None:
        staged = ready.stage()
        pause(ready.store, "hourly", MIDNIGHT)
        assert kinds(ready.send(staged)) == ["stale"]
        assert kinds(ready.commit()) == ["ok"]
        assert ready.jobs() == []
        assert ready.ledger() == [Skip("paused", ONE, ONE, 1)]

    def test_a_pause_of_all_makes_every_staged_decision_stale(self, ready: Namespace) -> None:
        staged = ready.stage()
        pause(ready.store, "*", MIDNIGHT)
        assert ready.refusal(staged).changed
        assert ready.entry().pause(ONE)
        pause(ready.store, "*", MIDNIGHT, until=ONE)
        assert not ready.entry().pause(ONE)

    def test_a_pause_of_an_unknown_schedule_is_refused(self, store: Store) -> None:
        with pytest.raises(Conflict, match="no such schedule"):
            pause(store, "nobody", MIDNIGHT)

    def test_one_schedule_that_cannot_be_written_leaves_the_others_whole(
        self, led: Namespace
    ) -> None:
        names = ["first", "bad", "last"]
        led.put(*(hourly(n, queue="bad" if n == "bad" else "good") for n in names))
        led.redis.set("rq:queue:bad", "not a list")
        before = led.entry("bad")
        answers = led.commit(*names)
        assert kinds(answers) == ["ok", "error", "ok"]
        assert "rq:queue:bad of its queue is a string" in answers[1].detail
        assert len(led.jobs("good")) == 2
        assert led.entry("bad") == before
        assert led.store.ledger("bad") == []
        assert not led.redis.keys("rq:job:default-bad-*")

    def test_a_ledger_of_the_wrong_type_is_one_schedules_problem(self, led: Namespace) -> None:
        led.put(hourly("bad"), hourly("good"))
        led.redis.set(led.key("ledger:bad"), "not a list")
        assert kinds(led.commit("bad", "good")) == ["error", "ok"]
        assert not led.redis.keys("rq:job:default-bad-*")

    @pytest.mark.parametrize(
        "allowed",
        [
            "+@all -rpush ~*",
            "+@all ~rq-clock:* ~rq:job:* ~rq:queues",
            "+@all ~rq-clock:* ~rq:job:* ~rq:queues %R~rq:queue:*",
            "+@all ~rq-clock:* ~rq:job:* ~rq:queue:*",
        ],
    )
    def test_a_refusal_in_the_middle_of_a_schedule_is_undone(
        self, led: Namespace, allowed: str
    ) -> None:
        """An ACL that lets a job be written but not queued: the write fails half-way."""
        if "%R" in allowed and led.redis.info()["redis_version"] < "7":
            pytest.skip("rights to read only came with Redis 7")
        led.put(hourly(catch_up="all", catch_up_limit=2), hourly("paused"))
        pause(led.store, "paused", MIDNIGHT)
        skip = f"- {to_ms(MIDNIGHT)} {to_ms(MIDNIGHT)} 1 limit"
        led.redis.rpush(led.key("ledger:hourly"), skip)
        rules = ["reset", "on", "nopass", *allowed.split()]
        led.redis.execute_command("ACL", "SETUSER", "half", *rules)
        batch, before = led.stage("hourly", "paused", now=MIDNIGHT + 5 * HOUR), led.dump()
        kwargs = led.redis.connection_pool.connection_kwargs
        limited = Redis(host=kwargs["host"], port=kwargs["port"], username="half", password="x")
        try:
            answers = Namespace(limited).send(batch)
        finally:
            limited.close()
            led.redis.acl_deluser("half")
        assert kinds(answers)[0] == "error"
        after = led.dump()
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        assert led.entry().marker is None
        assert changed <= {
            led.key(name).encode() for name in ("markers", "due", "ledger:paused")
        } | {b"rq:queues"}

    def test_a_batch_is_full_at_about_a_megabyte(self, led: Namespace) -> None:
        text = base64.b85encode(Random(1).randbytes(300_000)).decode()  # hard to compress
        led.put(*(hourly(f"s{i}", args=[text]) for i in range(3)))
        batch, builder = Batch(ONE, "0"), JobBuilder(led.store)
        sizes = []
        for entry in (led.entry(f"s{i}") for i in range(3)):
            assert entry.schedule
            batch.add(entry, due(entry.schedule, entry.decided, ONE, entry.blocks), builder)
            sizes.append(batch.full)
        assert sizes == [False, False, True]

    def test_our_own_keys_of_the_wrong_type_refuse_the_batch(self, ready: Namespace) -> None:
        batch = ready.stage()
        ready.redis.delete(ready.key("due"))
        ready.redis.set(ready.key("due"), "x")
        before = ready.dump()
        assert "WRONGTYPE" in str(ready.refusal(batch))
        assert ready.dump() == before

    def test_a_restarted_server_learns_the_script_again(self, ready: Namespace) -> None:
        batch, channel = ready.stage(), CommitChannel(ready.store)
        ready.redis.script_flush()
        [answers] = channel.commit([batch])
        assert not isinstance(answers, CommitRefusal)
        assert kinds(answers) == ["ok"]

    def test_a_job_id_that_exists_is_never_enqueued_again(self, ready: Namespace) -> None:
        """Someone deleted the markers: the deterministic id is the second line of defence."""
        ready.commit()
        forgotten = ready.entry().base.replace(str(to_ms(ONE)), "-")
        ready.redis.hset(ready.key("markers"), "hourly", forgotten)
        assert kinds(ready.commit()) == ["ok"]
        assert len(ready.jobs()) == 1
        assert [e.reason for e in ready.ledger() if isinstance(e, Skip)] == ["duplicate"]

    def test_two_namespaces_never_meet(self, connection: Redis) -> None:
        for name in ("eu", "us"):
            ns = Namespace(connection, name)
            ns.lead()
            ns.put(hourly())
            assert kinds(ns.commit()) == ["ok"]
        assert len(ns.jobs()) == 2


class TestOverlap:
    """The job of 01:00 and the fire time of 02:00."""

    @pytest.mark.parametrize("status", ["queued", "started", "scheduled", "deferred"])
    def test_a_living_job_makes_the_next_fire_time_a_skip(
        self, ready: Namespace, status: str
    ) -> None:
        ready.commit()
        ready.redis.hset(f"rq:job:{JOB}", "status", status)
        if status == "started":
            ready.redis.zadd(f"rq:executions:{JOB}", {"x": 1})
        [answer] = ready.commit(now=TWO)
        assert (answer.kind, answer.detail) == ("overlap", JOB)
        assert len(ready.jobs()) == 1
        assert ready.ledger()[1:] == [Skip("overlap", TWO, TWO, 1)]
        assert ready.entry().marker == TWO

    @pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled", None])
    def test_an_ended_job_blocks_nothing(self, ready: Namespace, status: str | None) -> None:
        ready.commit()
        if status:
            ready.redis.hset(f"rq:job:{JOB}", "status", status)
        else:
            ready.redis.delete(f"rq:job:{JOB}")
        assert kinds(ready.commit(now=TWO)) == ["ok"]

    @pytest.mark.parametrize("sign", [True, False])
    def test_a_started_job_blocks_while_its_worker_gives_signs_of_life(
        self, ready: Namespace, sign: bool
    ) -> None:
        """Of a stock worker RQ's list of executions expires; ours are the reaper's."""
        ready.commit()
        ready.redis.hset(f"rq:job:{JOB}", mapping={"status": "started", "worker_name": "w"})
        ready.redis.hset(ready.key("workers"), "w", f"1 x {JOB} default" if sign else "1")
        assert kinds(ready.commit(now=TWO)) == ["overlap" if sign else "ok"]

    def test_neighbouring_skips_are_one_entry(self, ready: Namespace) -> None:
        for hours in range(1, 6):
            ready.commit(now=MIDNIGHT + hours * HOUR)
        assert ready.ledger()[1:] == [Skip("overlap", TWO, MIDNIGHT + 5 * HOUR, 4)]

    def test_allow_never_skips(self, led: Namespace) -> None:
        led.put(hourly(overlap="allow"))
        for hours in (1, 2, 3):
            assert kinds(led.commit(now=MIDNIGHT + hours * HOUR)) == ["ok"]
        assert len(led.jobs()) == 3

    def test_a_pause_in_between_forgets_no_living_job(self, ready: Namespace) -> None:
        ready.commit()
        pause(ready.store, "hourly", MIDNIGHT)
        ready.commit(now=TWO)
        pause(ready.store, "hourly", MIDNIGHT, until=TWO)
        assert kinds(ready.commit(now=TWO + HOUR)) == ["overlap"]

    def test_a_job_that_is_nowhere_has_vanished(self, ready: Namespace) -> None:
        ready.commit()
        assert ready.store.vanished([JOB]) == []
        ready.redis.delete("rq:queue:default")
        assert ready.store.vanished([JOB]) == [JOB]
        places = {"rq:wip:default": f"{JOB}:execution", "rq:scheduled:default": JOB,
                  "rq:deferred:default": JOB}  # fmt: skip
        for place, member in places.items():
            ready.redis.zadd(place, {member: 1})
            assert ready.store.vanished([JOB]) == []
            ready.redis.delete(place)
        ready.redis.rpush("rq:queue:default:intermediate", JOB)
        assert ready.store.vanished([JOB]) == []

    def test_a_lost_job_is_recorded_and_blocks_no_longer(self, ready: Namespace) -> None:
        ready.commit()
        assert ready.store.job_lost(ready.lease, "hourly", JOB, TWO)
        assert not ready.store.job_lost(ready.lease, "hourly", JOB, TWO)
        assert ready.ledger()[-1] == Lost(TWO, JOB)
        assert kinds(ready.commit(now=TWO)) == ["ok"]


class TestReconcile:
    def test_a_new_schedule_is_known_since_now(self, led: Namespace) -> None:
        led.put(hourly(), now=MIDNIGHT + HOUR / 2)
        found = led.entry()
        assert (found.marker, found.known_since) == (None, MIDNIGHT + HOUR / 2)
        assert found.declared

    def test_a_removed_schedule_stops_and_its_ledger_stays_for_a_while(
        self, ready: Namespace
    ) -> None:
        store = ready.store
        ready.commit()
        ready.remove("hourly")
        assert (store.size(), store.soonest(5), store.declared()) == (0, [], {})
        assert ready.redis.ttl(ready.key("ledger:hourly")) > 0
        ready.put(hourly())
        assert ready.redis.ttl(ready.key("ledger:hourly")) == -1

    def test_a_rename_keeps_marker_pause_and_ledger(self, led: Namespace) -> None:
        led.put(hourly("old"))
        led.commit("old")
        pause(led.store, "old", MIDNIGHT)
        before = led.entry("old")
        led.reconcile(Change("put", "new", hourly("new").definition(), renamed_from="old"))
        after = led.entry("new")
        assert (after.marker, after.known_since) == (before.marker, before.known_since)
        assert after.pause(MIDNIGHT)
        assert len(led.store.ledger("new")) == 1
        assert led.store.all_names() == ["new"]

    def test_an_older_release_never_overwrites_a_newer_one(self, led: Namespace) -> None:
        put = Change("put", "hourly", hourly().definition(), ONE, since=MIDNIGHT)
        assert list(led.store.reconcile(led.lease, 42, MIDNIGHT, [put])) == [True]
        before = led.dump()
        remove = Change("remove", "hourly")
        assert list(led.store.reconcile(led.lease, 41, MIDNIGHT, [remove])) == [False]
        assert led.dump() == before
        assert led.store.released() == 42

    def test_many_or_large_changes_are_several_scripts(self, led: Namespace) -> None:
        def scripts(*changes: Change) -> int:
            return len(list(led.store.reconcile(led.lease, 0, MIDNIGHT, changes)))

        many = [Change("put", f"tenant-{i}", hourly().definition()) for i in range(250)]
        large = [Change("put", name, "x" * 600_000) for name in "abcde"]
        assert (scripts(*many), scripts(*large), scripts()) == (3, 3, 0)
        assert led.store.size() == 255

    def test_a_stale_clock_cannot_reconcile(self, ns: Namespace) -> None:
        old = ns.prove("clock.1")
        ns.put(hourly())
        ns.lead("clock.2")
        before = ns.dump()
        with pytest.raises(LeaseLost):
            list(ns.store.reconcile(old, 0, MIDNIGHT, [Change("remove", "hourly")]))
        assert ns.dump() == before

    def test_an_unreadable_definition_is_named_not_raised(self, ready: Namespace) -> None:
        broken = '{"every":60000,"func":"a.b","x":1}'
        ready.redis.hset(ready.key("definitions"), "hourly", broken)
        found = ready.entry()
        assert found.schedule is None
        assert "unknown option 'x'" in found.fault


class TestDueIndex:
    def test_entries_that_leave_between_two_pages_hide_no_other(self, led: Namespace) -> None:
        due_index, herd = led.key("due"), {f"s{i:04}": to_ms(ONE) + i // 2500 for i in range(5000)}
        led.redis.zadd(due_index, herd)
        pages = led.store.due(None, TWO)
        read = [next(pages)[0] for _ in range(2000)]
        led.redis.zrem(due_index, *read[:10])
        later = [next(pages)[0] for _ in range(2000)]
        assert later[0] == "s2000"
        led.redis.zrem(due_index, *later[:20], later[-1])  # the last one of its page too
        seen = {*read, *later, *(name for name, _ in pages)}
        assert seen == set(herd)


class TestLedger:
    def test_history_is_bounded_by_count(self, connection: Redis) -> None:
        ns = Namespace(connection, history=3)
        ns.lead()
        ns.put(hourly(overlap="allow"))
        for hours in range(1, 8):
            ns.commit(now=MIDNIGHT + hours * HOUR)
        runs = [e.fire_time for e in ns.ledger() if isinstance(e, Enqueued)]
        assert runs == [MIDNIGHT + hours * HOUR for hours in (5, 6, 7)]

    def test_skips_and_lost_jobs_are_bounded_by_count_too(self, connection: Redis) -> None:
        ns = Namespace(connection, history=3)
        ns.lead()
        ns.put(hourly())
        for hours in range(1, 7):
            reason = "window" if hours % 2 else "limit"
            skip = Skip(reason, MIDNIGHT, MIDNIGHT + hours * HOUR, 1)
            entry = ns.entry()
            batch = Batch(ONE, ns.store.load([])[1])
            decision = Decision(marker=MIDNIGHT + hours * HOUR, next=TWO, skips=(skip,))
            batch.add(entry, decision, JobBuilder(ns.store))
            batch.pack(ns.store, ns.lease, CommitChannel(ns.store))
            assert kinds(ns.send(batch)) == ["ok"]
        assert [e.reason for e in ns.ledger() if isinstance(e, Skip)] == [
            "limit",
            "window",
            "limit",
        ]
        connection.hset(ns.key("markers"), "hourly", f"{to_ms(ONE)} 0 a b")
        assert ns.store.job_lost(ns.lease, "hourly", "a", TWO)
        assert len(ns.ledger()) == 3

    def test_the_leading_clock_says_how_many_entries_a_ledger_has(self, connection: Redis) -> None:
        ns = Namespace(connection, history=5)
        ns.lead()
        ns.store.keep_history()
        ns.put(hourly(overlap="allow"))
        operations = Operations(Store(connection, "default", history=2))
        for number in range(9):
            operations.trigger(ns.entry(), ONE, str(number), Actor(by="ana"), force=True)
        assert len(ns.ledger()) == 5

    def test_a_week_of_outage_is_two_entries(self, led: Namespace) -> None:
        led.put(declare("busy", every(seconds=30), "tasks.demo.heartbeat", {}))
        led.commit("busy", now=MIDNIGHT + 7 * 24 * HOUR)
        skip, run = led.store.ledger("busy")
        assert isinstance(skip, Skip)
        assert isinstance(run, Enqueued)
        assert (skip.reason, skip.count) == ("limit", 10_000)
        assert skip.first == MIDNIGHT + timedelta(seconds=30)

    def test_a_caught_up_run_differs_from_one_on_schedule(self, ready: Namespace) -> None:
        ready.commit(now=ONE + timedelta(minutes=5))
        [run] = ready.ledger()
        assert isinstance(run, Enqueued)
        assert run.reason == "catch_up"
