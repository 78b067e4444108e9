"""The state in Redis: the laws of lease, reconcile, commit and ledger. A real server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue
from rq.job import Job

from rq_clock.errors import Conflict, LeaseLost, StoreUnavailable
from rq_clock.model.decision import Skip, due
from rq_clock.model.entry import Entry, Lease, LeaseRefused
from rq_clock.model.ledger import Enqueued, Lost
from rq_clock.model.schedule import Schedule, declare
from rq_clock.store.commit import Batch, CommitChannel, CommitRefusal, CommitResult, was_committed
from rq_clock.store.job_commands import JobBuilder
from rq_clock.store.lease import LEASE_MS, Leases
from rq_clock.store.store import Change, Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every
from tests.helpers import pause

OURS = ("production", "")
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def acquire(store: Store, instance: str = "clock.1", mode: str = "starting") -> Lease:
    lease = Leases(store).acquire(instance, OURS, mode, MIDNIGHT)
    assert isinstance(lease, Lease), lease
    return lease


def refused(
    store: Store, instance: str, mode: str = "starting", owner: str = "production"
) -> LeaseRefused:
    answer = Leases(store).acquire(instance, (owner, ""), mode, MIDNIGHT)
    assert isinstance(answer, LeaseRefused), answer
    return answer


def hourly(name: str = "hourly", **options: Any) -> Schedule:
    return declare(name, cron("0 * * * *"), "tasks.demo.heartbeat", options)


def put(store: Store, lease: Lease, *schedules: Schedule, now: datetime = MIDNIGHT) -> None:
    changes = [
        Change("put", s.name, s.definition(), s.next_after(now), restart=True) for s in schedules
    ]
    assert all(store.reconcile(lease, 0, now, changes))


def entry(store: Store, name: str = "hourly") -> Entry:
    return store.load([name])[0][name]


def declared(store: Store, name: str) -> Schedule:
    schedule = entry(store, name).schedule
    assert schedule
    return schedule


def batch_of(store: Store, lease: Lease, entries: list[Entry], now: datetime) -> Batch:
    batch, builder = Batch(now, store.load([])[1]), JobBuilder(store)
    for e in entries:
        assert e.schedule
        batch.add(e, due(e.schedule, e.decided, now, e.blocks), builder)
    batch.pack(store, lease, CommitChannel(store))
    return batch


def send(store: Store, batch: Batch) -> list[CommitResult] | CommitRefusal:
    return CommitChannel(store).commit([batch])[0]


def commit(store: Store, lease: Lease, names: list[str], now: datetime) -> list[CommitResult]:
    answers = send(store, batch_of(store, lease, [entry(store, n) for n in names], now))
    assert not isinstance(answers, CommitRefusal), answers
    return answers


def kinds(answers: list[CommitResult]) -> list[str]:
    return [answer.kind for answer in answers]


def dump(connection: Redis) -> dict[bytes, Any]:
    return {key: connection.dump(key) for key in connection.scan_iter()}


class TestLease:
    def test_the_newest_clock_of_the_same_owner_wins(self, store: Store) -> None:
        old = acquire(store, "clock.1")
        Leases(store).renew(old, proven=1)
        new = acquire(store, "clock.2")
        assert new.number > old.number
        with pytest.raises(LeaseLost):
            Leases(store).renew(old, proven=1)

    def test_a_clock_that_stands_by_deposes_nobody(self, store: Store) -> None:
        Leases(store).renew(acquire(store, "clock.1"), proven=1)
        answer = refused(store, "clock.2", mode="waiting")
        assert (answer.kind, answer.holder) == ("held", "clock.1")
        assert 0 < answer.wait <= LEASE_MS / 1000

    def test_asking_again_after_a_lost_reply_gives_the_same_token(self, store: Store) -> None:
        assert acquire(store) == acquire(store)

    def test_a_full_server_grants_nothing_not_even_to_the_holder(
        self, store: Store, connection: Redis
    ) -> None:
        acquire(store)
        connection.config_set("maxmemory", 1)
        try:
            with pytest.raises(ResponseError, match="maxmemory"):
                Leases(store).acquire("clock.1", OURS, "waiting", MIDNIGHT)
        finally:
            connection.config_set("maxmemory", 0)

    def test_a_released_lease_is_free_at_once_and_announced(self, store: Store) -> None:
        news = store.listen()
        lease = acquire(store, "clock.1")
        Leases(store).release(lease)
        assert acquire(store, "clock.2", mode="waiting").number == lease.number + 1
        heard = [news.get_message(timeout=1) for _ in range(4)]
        assert [m["data"] for m in heard if m] == [b"lease"] * 3
        news.close()

    def test_releasing_a_lost_lease_leaves_its_new_holder_alone(self, store: Store) -> None:
        old = acquire(store, "clock.1")
        Leases(store).renew(old, proven=1)
        acquire(store, "clock.2")
        Leases(store).release(old)
        assert Leases(store).leader()["instance"] == "clock.2"

    def test_a_clock_of_another_owner_is_refused_also_when_nobody_leads(self, store: Store) -> None:
        Leases(store).release(acquire(store))
        answer = refused(store, "laptop.1", owner="laptop")
        assert (answer.kind, answer.owner) == ("foreign", "production")
        assert Leases(store).leader() == {}

    def test_take_over_changes_the_owner(self, store: Store) -> None:
        acquire(store, "clock.1")
        assert isinstance(
            Leases(store).acquire("laptop.1", ("laptop", ""), "take-over", MIDNIGHT), Lease
        )
        assert refused(store, "clock.1").kind == "foreign"

    def test_an_app_that_learns_its_id_keeps_its_namespace(self, store: Store) -> None:
        Leases(store).release(
            _granted(Leases(store).acquire("clock.1", ("dyno", ""), "starting", MIDNIGHT))
        )
        _granted(Leases(store).acquire("clock.2", ("app-id", "dyno"), "starting", MIDNIGHT))
        assert Leases(store).leader()["owner"] == "app-id"

    def test_a_leader_that_is_not_through_its_first_pass_is_not_deposed(self, store: Store) -> None:
        acquire(store, "clock.1")
        assert refused(store, "clock.2").kind == "held"

    def test_after_a_deposition_that_failed_nobody_is_deposed_for_a_while(
        self, store: Store, connection: Redis
    ) -> None:
        Leases(store).renew(acquire(store, "steady.1"), proven=1)
        acquire(store, "crashing.1")  # and dies in its first pass
        connection.delete(store.key("lease"))  # its lease runs out
        Leases(store).renew(acquire(store, "steady.1", mode="waiting"), proven=1)
        assert refused(store, "crashing.2").kind == "held"

    def test_a_deposition_that_worked_allows_the_next(self, store: Store) -> None:
        for number in range(1, 5):
            Leases(store).renew(acquire(store, f"clock.{number}"), proven=1)

    @pytest.mark.parametrize(
        ("version", "remedy"),
        [(99, "deploy the newer rq-clock again"), (1, "export with the older rq-clock")],
    )
    def test_data_of_another_version_is_refused_with_the_remedy(
        self, store: Store, connection: Redis, version: int, remedy: str
    ) -> None:
        connection.hset(store.key("meta"), "version", version)
        before = dump(connection)
        expected = f"version {version}, this release understands 2; {remedy}"
        with pytest.raises(StoreUnavailable, match=expected):
            acquire(store)
        with pytest.raises(StoreUnavailable, match=expected):
            store.check_server()
        assert dump(connection) == before


def _granted(answer: Lease | LeaseRefused) -> Lease:
    assert isinstance(answer, Lease), answer
    return answer


class TestCommit:
    def test_job_marker_due_index_and_ledger_move_together(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly(queue="reports", timeout=90, kwargs={"path": "/tmp"}))
        [answer] = commit(store, lease, ["hourly"], MIDNIGHT + HOUR)
        job_id = f"default-hourly-{to_ms(MIDNIGHT + HOUR)}"
        assert answer.kind == "ok"
        assert Queue("reports", connection=connection).job_ids == [job_id]
        job = Job.fetch(job_id, connection=connection)
        assert (job.func_name, job.kwargs) == ("tasks.demo.heartbeat", {"path": "/tmp"})
        assert job.timeout == 90
        assert job.meta == {
            "rq_clock": {
                "schedule": "hourly",
                "fire_time": "2026-03-01T01:00:00Z",
                "reason": "schedule",
            }
        }
        after = entry(store)
        assert (after.marker, after.last_job) == (MIDNIGHT + HOUR, job_id)
        assert store.soonest(5) == [("hourly", MIDNIGHT + 2 * HOUR)]
        [run] = store.ledger("hourly")
        assert isinstance(run, Enqueued)
        assert (run.fire_time, run.reason) == (MIDNIGHT + HOUR, "schedule")

    def test_a_job_carries_the_instant_of_its_decision(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        commit(store, lease, ["hourly"], MIDNIGHT + HOUR)
        job = Job.fetch(f"default-hourly-{to_ms(MIDNIGHT + HOUR)}", connection=connection)
        assert job.created_at == job.enqueued_at == MIDNIGHT + HOUR

    def test_sent_twice_is_enqueued_once_and_known_as_done(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        send(store, batch)
        again = send(store, batch)
        assert not isinstance(again, CommitRefusal)
        assert kinds(again) == ["stale"]
        assert was_committed(again[0].planned, again[0].detail)
        assert Queue("default", connection=connection).count == 1

    def test_jobs_that_differ_in_one_batch_are_each_as_rq_writes_them(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(
            store, lease,
            hourly("plain"), hourly("plain-too"),
            hourly("args", args=[1, "two", None]), hourly("kwargs", kwargs={"full": False}),
            hourly("retries", retries=3), hourly("delays", retries=[5, 60]),
            hourly("queue", queue="reports", timeout=60),
            hourly("group", group="shop-42", group_limit=2),
            hourly("ttl", result_ttl=0, failure_ttl=7),
        )  # fmt: skip
        names = [
            "plain",
            "args",
            "plain-too",
            "kwargs",
            "retries",
            "delays",
            "queue",
            "group",
            "ttl",
        ]
        assert kinds(commit(store, lease, names, MIDNIGHT + HOUR)) == ["ok"] * len(names)
        for name in names:
            job = Job.fetch(f"default-{name}-{to_ms(MIDNIGHT + HOUR)}", connection=connection)
            stored: Any = connection.hgetall(job.key)
            written = {k: v for k, v in stored.items() if not k.startswith(b"rq_clock")}
            group = {b"rq_clock_group": b"shop-42", b"rq_clock_group_limit": b"2"}
            assert stored == written | (group if name == "group" else {})
            connection.delete(job.key)
            job.save()
            assert written == connection.hgetall(job.key), name
            options = declared(store, name)
            assert (job.args, job.kwargs) == (options.args, dict(options.kwargs))
            assert job.origin == options.queue
            assert job.id in Queue(options.queue, connection=connection).job_ids
        assert set(connection.smembers("rq:queues")) == {b"rq:queue:default", b"rq:queue:reports"}

    def test_a_stale_clock_cannot_enqueue(self, store: Store, connection: Redis) -> None:
        old = acquire(store, "clock.1")
        put(store, old, hourly())
        Leases(store).renew(old, proven=1)
        batch = batch_of(store, old, [entry(store)], MIDNIGHT + HOUR)
        acquire(store, "clock.2")
        before = dump(connection)
        with pytest.raises(LeaseLost):
            send(store, batch)
        assert dump(connection) == before

    def test_a_clock_whose_lease_ran_out_cannot_enqueue(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        connection.delete(store.key("lease"))
        with pytest.raises(LeaseLost):
            send(store, batch)

    def test_a_token_never_comes_back_even_if_the_counter_is_lost(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store, "clock.1")
        connection.flushall()
        assert acquire(store, "clock.2") != lease

    def test_a_decision_on_an_edited_schedule_is_refused(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        put(store, lease, hourly(queue="other"))
        answers = send(store, batch)
        assert not isinstance(answers, CommitRefusal)
        assert kinds(answers) == ["stale"]
        assert not was_committed(answers[0].planned, answers[0].detail)
        assert Queue("default", connection=connection).count == 0

    def test_a_decision_on_a_removed_schedule_is_refused(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        assert all(store.reconcile(lease, 0, MIDNIGHT, [Change("remove", "hourly")]))
        answers = send(store, batch)
        assert not isinstance(answers, CommitRefusal)
        assert kinds(answers) == ["stale"]
        assert store.size() == 0

    def test_a_pause_holds_from_its_instant_on(self, store: Store, connection: Redis) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        staged = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        pause(store, "hourly", MIDNIGHT)
        answers = send(store, staged)
        assert not isinstance(answers, CommitRefusal)
        assert kinds(answers) == ["stale"]
        assert kinds(commit(store, lease, ["hourly"], MIDNIGHT + HOUR)) == ["ok"]
        assert Queue("default", connection=connection).count == 0
        assert store.ledger("hourly") == [Skip("paused", MIDNIGHT + HOUR, MIDNIGHT + HOUR, 1)]

    def test_a_pause_of_all_makes_every_staged_decision_stale(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        staged = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        pause(store, "*", MIDNIGHT)
        answer = send(store, staged)
        assert isinstance(answer, CommitRefusal)
        assert answer.changed
        assert entry(store).pause(MIDNIGHT + HOUR)
        pause(store, "*", MIDNIGHT, until=MIDNIGHT + HOUR)
        assert not entry(store).pause(MIDNIGHT + HOUR)

    def test_pausing_what_does_not_exist_says_so(self, store: Store) -> None:
        with pytest.raises(Conflict, match="no such schedule"):
            pause(store, "nobody", MIDNIGHT)

    def test_one_schedule_that_cannot_be_written_leaves_the_others_whole(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        names = ["first", "bad", "last"]
        put(store, lease, *(hourly(n, queue="bad" if n == "bad" else "good") for n in names))
        connection.set("rq:queue:bad", "not a list")
        before = entry(store, "bad")
        answers = commit(store, lease, names, MIDNIGHT + HOUR)
        assert kinds(answers) == ["ok", "error", "ok"]
        assert "rq:queue:bad of its queue is a string" in answers[1].detail
        assert Queue("good", connection=connection).count == 2
        assert entry(store, "bad") == before
        assert store.ledger("bad") == []
        assert not connection.keys("rq:job:default-bad-*")

    def test_a_ledger_of_the_wrong_type_is_one_schedules_problem(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly("bad"), hourly("good"))
        connection.set(store.key("ledger:bad"), "not a list")
        assert kinds(commit(store, lease, ["bad", "good"], MIDNIGHT + HOUR)) == ["error", "ok"]
        assert not connection.keys("rq:job:default-bad-*")

    def test_a_refusal_in_the_middle_of_a_schedule_is_undone(self, store: Store) -> None:
        """An ACL that lets a job be written but not queued: the write fails half-way."""
        admin = store.redis
        admin.acl_setuser("half", enabled=True, nopass=True, categories=["+@all"], reset=True,
                          keys=["*"], commands=["-rpush"])  # fmt: skip
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        kwargs = admin.connection_pool.connection_kwargs
        limited = Redis(host=kwargs["host"], port=kwargs["port"], username="half", password="x")
        try:
            answers = send(Store(limited, "default"), batch)
        finally:
            limited.close()
            admin.acl_deluser("half")
        assert not isinstance(answers, CommitRefusal)
        assert kinds(answers) == ["error"]
        assert not admin.keys("rq:job:*")
        assert entry(store).marker is None

    def test_our_own_keys_of_the_wrong_type_refuse_the_batch(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        connection.delete(store.key("due"))
        connection.set(store.key("due"), "x")
        before = dump(connection)
        answer = send(store, batch)
        assert isinstance(answer, CommitRefusal)
        assert "WRONGTYPE" in str(answer)
        assert dump(connection) == before

    def test_a_restarted_server_learns_the_script_again(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        batch = batch_of(store, lease, [entry(store)], MIDNIGHT + HOUR)
        wire = CommitChannel(store)
        connection.script_flush()
        [answers] = wire.commit([batch])
        assert not isinstance(answers, CommitRefusal)
        assert kinds(answers) == ["ok"]

    def test_a_job_id_that_exists_is_never_enqueued_again(
        self, store: Store, connection: Redis
    ) -> None:
        """Someone deleted the markers: the deterministic id is the second line of defence."""
        lease = acquire(store)
        put(store, lease, hourly())
        commit(store, lease, ["hourly"], MIDNIGHT + HOUR)
        connection.hset(store.key("markers"), "hourly", entry(store).base.replace(
            str(to_ms(MIDNIGHT + HOUR)), "-"))  # fmt: skip
        assert kinds(commit(store, lease, ["hourly"], MIDNIGHT + HOUR)) == ["ok"]
        assert Queue("default", connection=connection).count == 1
        skips = [e for e in store.ledger("hourly") if isinstance(e, Skip)]
        assert [s.reason for s in skips] == ["duplicate"]

    def test_two_namespaces_never_meet(self, connection: Redis) -> None:
        for namespace in ("eu", "us"):
            store = Store(connection, namespace)
            lease = acquire(store)
            put(store, lease, hourly())
            assert kinds(commit(store, lease, ["hourly"], MIDNIGHT + HOUR)) == ["ok"]
        assert Queue("default", connection=connection).count == 2


class TestOverlap:
    def run(self, store: Store, lease: Lease, hours: int) -> CommitResult:
        return commit(store, lease, ["hourly"], MIDNIGHT + hours * HOUR)[0]

    @pytest.mark.parametrize("status", ["queued", "started", "scheduled", "deferred"])
    def test_a_living_job_makes_the_next_fire_time_a_skip(
        self, store: Store, connection: Redis, status: str
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        self.run(store, lease, 1)
        job_id = entry(store).last_job
        connection.hset(f"rq:job:{job_id}", "status", status)
        answer = self.run(store, lease, 2)
        assert (answer.kind, answer.detail) == ("overlap", job_id)
        assert Queue("default", connection=connection).count == 1
        assert store.ledger("hourly")[1:] == [
            Skip("overlap", MIDNIGHT + 2 * HOUR, MIDNIGHT + 2 * HOUR, 1)
        ]
        assert entry(store).marker == MIDNIGHT + 2 * HOUR

    @pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled", None])
    def test_an_ended_job_blocks_nothing(
        self, store: Store, connection: Redis, status: str | None
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        self.run(store, lease, 1)
        key = f"rq:job:{entry(store).last_job}"
        if status:
            connection.hset(key, "status", status)
        else:
            connection.delete(key)
        assert self.run(store, lease, 2).kind == "ok"

    def test_neighbouring_skips_are_one_entry(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        for hours in range(1, 6):
            self.run(store, lease, hours)
        assert store.ledger("hourly")[1:] == [
            Skip("overlap", MIDNIGHT + 2 * HOUR, MIDNIGHT + 5 * HOUR, 4)
        ]

    def test_allow_never_asks(self, store: Store, connection: Redis) -> None:
        lease = acquire(store)
        put(store, lease, hourly(overlap="allow"))
        assert [self.run(store, lease, h).kind for h in (1, 2, 3)] == ["ok"] * 3
        assert Queue("default", connection=connection).count == 3

    def test_a_pause_in_between_forgets_no_living_job(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        self.run(store, lease, 1)
        pause(store, "hourly", MIDNIGHT)
        self.run(store, lease, 2)
        pause(store, "hourly", MIDNIGHT, until=MIDNIGHT + 2 * HOUR)
        assert self.run(store, lease, 3).kind == "overlap"

    def test_a_job_that_is_nowhere_has_vanished(self, store: Store, connection: Redis) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        self.run(store, lease, 1)
        job_id = entry(store).last_job
        assert store.vanished([job_id]) == []
        connection.delete("rq:queue:default")
        assert store.vanished([job_id]) == [job_id]
        for place, member in (("rq:wip:default", f"{job_id}:execution"),
                              ("rq:scheduled:default", job_id),
                              ("rq:deferred:default", job_id)):  # fmt: skip
            connection.zadd(place, {member: 1})
            assert store.vanished([job_id]) == []
            connection.delete(place)
        connection.rpush("rq:queue:default:intermediate", job_id)
        assert store.vanished([job_id]) == []

    def test_a_lost_job_is_recorded_and_blocks_no_longer(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        self.run(store, lease, 1)
        job_id = entry(store).last_job
        assert store.job_lost(lease, "hourly", job_id, MIDNIGHT + 2 * HOUR)
        assert not store.job_lost(lease, "hourly", job_id, MIDNIGHT + 2 * HOUR)
        assert store.ledger("hourly")[-1] == Lost(MIDNIGHT + 2 * HOUR, job_id)
        assert self.run(store, lease, 2).kind == "ok"


class TestReconcile:
    def test_a_new_schedule_is_known_since_now(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly(), now=MIDNIGHT + HOUR / 2)
        found = entry(store)
        assert (found.marker, found.known_since) == (None, MIDNIGHT + HOUR / 2)
        assert found.declared

    def test_a_removed_schedule_stops_and_its_ledger_stays_for_a_while(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        commit(store, lease, ["hourly"], MIDNIGHT + HOUR)
        assert all(store.reconcile(lease, 0, MIDNIGHT, [Change("remove", "hourly")]))
        assert (store.size(), store.soonest(5), store.declared()) == (0, [], {})
        assert connection.ttl(store.key("ledger:hourly")) > 0
        put(store, lease, hourly())
        assert connection.ttl(store.key("ledger:hourly")) == -1

    def test_a_rename_keeps_marker_pause_and_ledger(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly("old"))
        commit(store, lease, ["old"], MIDNIGHT + HOUR)
        pause(store, "old", MIDNIGHT)
        before = entry(store, "old")
        change = Change("put", "new", hourly("new").definition(), renamed_from="old")
        assert all(store.reconcile(lease, 0, MIDNIGHT, [change]))
        after = entry(store, "new")
        assert (after.marker, after.known_since) == (before.marker, before.known_since)
        assert after.pause(MIDNIGHT)
        assert len(store.ledger("new")) == 1
        assert store.all_names() == ["new"]

    def test_an_older_release_never_overwrites_a_newer_one(
        self, store: Store, connection: Redis
    ) -> None:
        lease = acquire(store)
        change = Change("put", "hourly", hourly().definition(), MIDNIGHT + HOUR, restart=True)
        assert list(store.reconcile(lease, 42, MIDNIGHT, [change])) == [True]
        before = dump(connection)
        assert list(store.reconcile(lease, 41, MIDNIGHT, [Change("remove", "hourly")])) == [False]
        assert dump(connection) == before
        assert store.released() == 42

    def test_a_stale_clock_cannot_reconcile(self, store: Store, connection: Redis) -> None:
        old = acquire(store, "clock.1")
        put(store, old, hourly())
        Leases(store).renew(old, proven=1)
        acquire(store, "clock.2")
        before = dump(connection)
        with pytest.raises(LeaseLost):
            list(store.reconcile(old, 0, MIDNIGHT, [Change("remove", "hourly")]))
        assert dump(connection) == before

    def test_an_unreadable_definition_is_named_not_raised(
        self, store: Store, connection: Redis
    ) -> None:
        put(store, acquire(store), hourly())
        connection.hset(store.key("definitions"), "hourly", '{"every":60000,"func":"a.b","x":1}')
        found = entry(store)
        assert found.schedule is None
        assert "unknown option 'x'" in found.fault


class TestLedger:
    def test_history_is_bounded_by_count(self, connection: Redis) -> None:
        store = Store(connection, "default", history=3)
        lease = acquire(store)
        put(store, lease, hourly(overlap="allow"))
        for hours in range(1, 8):
            commit(store, lease, ["hourly"], MIDNIGHT + hours * HOUR)
        runs = [e.fire_time for e in store.ledger("hourly") if isinstance(e, Enqueued)]
        assert runs == [MIDNIGHT + hours * HOUR for hours in (5, 6, 7)]

    def test_a_week_of_outage_is_two_entries(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, declare("busy", every(seconds=30), "tasks.demo.heartbeat", {}))
        commit(store, lease, ["busy"], MIDNIGHT + 7 * 24 * HOUR)
        skip, run = store.ledger("busy")
        assert isinstance(skip, Skip)
        assert isinstance(run, Enqueued)
        assert (skip.reason, skip.count) == ("limit", 10_000)
        assert skip.first == MIDNIGHT + timedelta(seconds=30)

    def test_a_caught_up_run_is_told_from_one_on_schedule(self, store: Store) -> None:
        lease = acquire(store)
        put(store, lease, hourly())
        commit(store, lease, ["hourly"], MIDNIGHT + HOUR + timedelta(minutes=5))
        [run] = store.ledger("hourly")
        assert isinstance(run, Enqueued)
        assert run.reason == "catch_up"
