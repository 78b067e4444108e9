"""RQ's queues to look at and to operate on, with RQ's own queues, our worker, and RQ's.

Laws: what is shown is what RQ has, in one round trip of a bounded size; what is done is done once,
whoever else acts meanwhile, and stands in the ledger and the audit.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, ResponseError
from rq import Queue, Retry
from rq import Worker as StockWorker
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry

from rq_clock.clock.planner import Planner
from rq_clock.errors import Conflict, ScheduleError, StoreUnavailable
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.outcomes import Execution
from rq_clock.jobs.queues import BulkJobsResult, JobFilter, NoJob, NotAllowed, Queues
from rq_clock.jobs.results import trace_of, value_of
from rq_clock.model.entry import Entry, Lease
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import Enqueued
from rq_clock.model.targets import command
from rq_clock.run import from_meta
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.audit import Actor
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every
from rq_clock.worker.worker import Worker
from tests.helpers import replies_lost, round_trips, wait_until
from tests.process import ROOT, Process
from tests.worker import jobs as jobs

ANA = Actor(by="ana", reason="the bank is back")
HOUR = timedelta(hours=1)


class Desk:
    """RQ's queues on a server, and all that acts on them."""

    def __init__(self, redis: Any, schedules: Schedules, work: Callable[..., bool]) -> None:
        self.redis = redis
        self.schedules = schedules
        self.work = work
        self.store = Store(redis, "default")
        self.queues = Queues(self.store)
        self.executions = Executions(redis, "default")
        self.queue: Any = Queue("default", connection=redis)

    def fire(self, name: str, target: Any, **options: Any) -> str:
        """Enqueue the last fire time of a schedule that is known for long. Return its job."""
        self.schedules.add(name, every(hours=1), target, **options)
        now = self.store.now()
        self.redis.hset(self.store.key("markers"), name, f"- {to_ms(now - 2 * HOUR)}")
        self.redis.zadd(self.store.key("due"), {name: to_ms(now - HOUR)})
        lease = Leases(self.store).acquire("clock.1", ("local", ""), "take-over", now)
        assert isinstance(lease, Lease)
        planner = Planner(self.store, lease, memory=1 << 20)
        while planner.turn(now) == 0:
            pass
        return self.entry(name).last_job

    def entry(self, name: str) -> Entry:
        entry = self.schedules.get(name)
        assert entry
        return entry

    def run(self, name: str, target: str, **options: Any) -> str:
        """Enqueue a schedule's last fire time, and let a worker run it. Return its job."""
        id = self.fire(name, target, **options)
        self.work()
        return id

    def failed(self) -> Job:
        """Return a job of no schedule that has failed."""
        job: Job = self.queue.enqueue(jobs.fail)
        self.work()
        return job

    def take(self, worker: str) -> Execution | None:
        """Take the next job, as a worker does."""
        now = datetime.now(UTC)
        self.executions.register(worker, now)
        return self.executions.take(worker, ["default"], now)

    def decide(self, name: str) -> None:
        """Let the clock have gone on: it watches no job of the schedule any more."""
        self.redis.hset(self.store.key("markers"), name, self.entry(name).base)

    def ledger(self, name: str) -> list[Enqueued]:
        return [entry for entry in self.store.ledger(name) if isinstance(entry, Enqueued)]

    def states(self, name: str) -> list[str]:
        return [e.attempt.state if e.attempt else "waiting" for e in self.ledger(name)]

    def status(self, id: str) -> str:
        return str((self.redis.hget(f"rq:job:{id}", "status") or b"").decode())

    def fill(self, kind: str, count: int, *, queues: int = 1, same: int = 1) -> list[str]:
        """Write so many jobs into RQ's registries, round the queues, `same` of them a score."""
        pipe = self.redis.pipeline(transaction=False)
        ids = []
        for i in range(count):
            id, queue = f"job-{i:05}", f"q{i % queues}"
            ids.append(id)
            pipe.hset(f"rq:job:{id}", mapping={
                "status": kind, "origin": queue, "description": f"tasks.n({i})",
                "ended_at": "2026-01-01T00:00:00.000000Z",
            })  # fmt: skip
            pipe.sadd("rq:queues", f"rq:queue:{queue}")
            if kind == "queued":
                pipe.rpush(f"rq:queue:{queue}", id)
            else:
                pipe.zadd(f"rq:{kind}:{queue}", {id: 1_700_000_000.25 + i // same})
        pipe.execute()
        return ids


@pytest.fixture
def desk(connection: Redis, schedules: Schedules, work: Callable[..., bool]) -> Desk:
    return Desk(connection, schedules, work)


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Start a worker in a process of its own."""
    with ExitStack() as stack:

        def start() -> None:
            log, env = tmp_path / "worker.log", {"REDIS_URL": redis_url}
            stack.enter_context(Process(log, str(ROOT / "worker.py"), env=env, new_session=True))

        yield start


class TestLooking:
    """What is shown is what RQ has."""

    def test_a_queue_counts_its_jobs_and_how_long_the_first_one_waits(self, desk: Desk) -> None:
        desk.queue.enqueue(jobs.fail)
        desk.queue.enqueue(jobs.add, 1, 2)
        desk.work()
        waits = desk.queue.enqueue(jobs.add, 1, 2)
        desk.queue.enqueue(jobs.add, 1, 2, depends_on=waits)
        desk.queue.enqueue_in(HOUR, jobs.add, 1, 2)
        report = desk.queues.look({"default", "mail"})
        default, mail = report.queues
        assert default.jobs == {
            "queued": 1, "started": 0, "scheduled": 1, "deferred": 1, "failed": 1, "finished": 1,
            "canceled": 0,
        }  # fmt: skip
        assert default.waiting is not None
        assert timedelta(0) <= default.waiting < timedelta(seconds=30)
        assert (mail.name, sum(mail.jobs.values()), mail.waiting) == ("mail", 0, None)

    def test_a_needed_queue_without_workers_is_unserved(self, desk: Desk) -> None:
        desk.queue.enqueue(jobs.add, 1, 2)
        Queue("idle", connection=desk.redis).enqueue(jobs.add, 1, 2).delete()
        seen = {q.name: q.unserved for q in desk.queues.look({"used"}).queues}
        assert seen == {"default": True, "idle": False, "used": True}
        worker = StockWorker(["default", "used"], connection=desk.redis)
        worker.register_birth()  # type: ignore[no-untyped-call]
        seen = {q.name: q.unserved for q in desk.queues.look({"used"}).queues}
        assert seen == {"default": False, "idle": False, "used": False}
        desk.redis.hset(worker.key, "death", "2026-01-01T00:00:00.000000Z")
        assert desk.queues.look({"used"}).workers == ()
        desk.redis.delete(worker.key)  # RQ's registry still names it
        assert desk.queues.look({"used"}).workers == ()
        assert desk.queues.look({"used"}).queues[0].unserved

    def test_a_worker_has_its_job_and_its_origin(
        self, desk: Desk, start: Callable[[], None]
    ) -> None:
        stock = StockWorker(["low"], connection=desk.redis)
        stock.register_birth()  # type: ignore[no-untyped-call]
        job = desk.queue.enqueue(jobs.wait, 60)
        start()
        wait_until(lambda: desk.status(job.id) == "started", "a worker")
        report = desk.queues.look()
        ours, theirs = sorted(report.workers, key=lambda w: w.origin != "rq-clock")
        assert (ours.origin, ours.state, ours.job, ours.queues) == (
            "rq-clock", "busy", job.id, ("default", "callbacks")
        )  # fmt: skip
        assert ours.since
        assert ours.last_seen
        assert report.now - ours.last_seen < timedelta(seconds=5)
        assert (theirs.name, theirs.origin, theirs.job) == (stock.name, "rq", None)
        assert theirs.pid == str(os.getpid())

    def test_each_look_is_one_round_trip_whatever_there_is(self, desk: Desk) -> None:
        def look() -> list[int]:
            counts = []
            for query in (
                lambda: desk.queues.look({"a", "b"}),
                lambda: desk.queues.jobs("failed"),
                lambda: desk.queues.jobs("queued"),
                lambda: desk.queues.job("default-x-1"),
            ):
                with round_trips() as sent:
                    query()
                counts.append(len(sent))
            return counts

        desk.fill("failed", 1)
        desk.redis.hset("rq:job:default-x-1", "status", "failed")
        look()  # loads the scripts
        desk.fill("failed", 2000, queues=20)
        assert look() == [1, 1, 1, 1]

    @pytest.mark.parametrize("kind", ["failed", "finished", "queued", "scheduled", "canceled"])
    def test_pages_have_each_job_once_in_their_order(self, desk: Desk, kind: str) -> None:
        every_id = desk.fill(kind, 205, queues=3, same=2)
        pages = [desk.queues.jobs(kind, limit=50)]
        while pages[-1].cursor:
            pages.append(desk.queues.jobs(kind, limit=50, cursor=pages[-1].cursor))
        assert {page.total for page in pages} == {205}
        ids = [job.id for page in pages for job in page.jobs]
        assert len(ids) == len(set(ids)) == 205
        newest_first = kind in ("failed", "finished", "canceled")
        if kind != "queued":
            order = [int(id.split("-")[1]) // 2 for id in ids]
            assert order == sorted(order, reverse=newest_first)
        assert set(ids) == set(every_id)

    def test_thousands_of_one_score_are_paged_through(self, desk: Desk) -> None:
        every_id = desk.fill("failed", 1000, same=1000)
        first = desk.queues.jobs("failed", limit=400)
        second = desk.queues.jobs("failed", limit=400, cursor=first.cursor)
        third = desk.queues.jobs("failed", limit=400, cursor=second.cursor)
        ids = [job.id for page in (first, second, third) for job in page.jobs]
        assert (len(ids), set(ids), third.cursor) == (1000, set(every_id), "")

    def test_a_page_goes_on_where_its_last_job_is_gone(self, desk: Desk) -> None:
        desk.fill("failed", 10)
        page = desk.queues.jobs("failed", limit=4)
        for job in page.jobs:
            desk.redis.zrem("rq:failed:q0", job.id)
        rest = desk.queues.jobs("failed", limit=10, cursor=page.cursor)
        assert len(rest.jobs) == 6

    @pytest.mark.parametrize(
        "cursor", ["x", "W10", "WyJxdWV1ZWQiLCIxIiwicSJd", "WyJmYWlsZWQiLCJ4IiwieSJd"]
    )
    def test_a_cursor_that_is_none_is_refused(self, desk: Desk, cursor: str) -> None:
        with pytest.raises(ScheduleError, match="cursor: expected"):
            desk.queues.jobs("failed", cursor=cursor)
        with pytest.raises(ScheduleError, match="kind: expected one of failed"):
            desk.queues.jobs("lost")

    def test_only_jobs_of_a_schedule_have_a_fire_time(self, desk: Desk) -> None:
        id = desk.fire("nightly", "tests.worker.jobs.add", args=[1, 2])
        desk.queue.enqueue(jobs.add, 1, 2, job_id="default-nightly-1700000000000")
        ours, other = desk.queues.jobs("queued").jobs
        assert ours.id == id
        assert ours.run
        assert (ours.run.schedule, to_ms(ours.run.fire_time) % 3_600_000) == ("nightly", 0)
        assert other.run is None

    def test_secrets_in_a_call_and_in_an_error_are_masked(self, desk: Desk) -> None:
        job = desk.queue.enqueue(jobs.fail, text="token=hunter22hunter22")
        desk.work()
        [listed] = desk.queues.jobs("failed").jobs
        detail = desk.queues.job(job.id)
        assert "hunter22" not in f"{listed}{detail}"
        assert listed.error == "ValueError: token=****"
        assert "ValueError" in detail.trace

    def test_a_job_has_what_rq_has_of_it(self, desk: Desk) -> None:
        job = desk.queue.enqueue(jobs.add, 1, 2, job_timeout=77, retry=Retry(max=2))
        child = desk.queue.enqueue(jobs.add, 3, 4, depends_on=job)
        before = desk.queues.job(job.id)
        assert (before.dependents, before.dependent_count) == ((child.id,), 1)
        assert (before.job.status, before.job.retries_left) == ("queued", 2)
        assert before.fields["timeout"] == "77"
        assert before.job.description == "tests.worker.jobs.add(1, 2)"
        desk.work()
        after = desk.queues.job(job.id)
        assert (after.results[0].value, after.results[0].kind) == ("3", "successful")
        assert after.expires_in

    def test_a_job_that_returns_none_has_null_as_its_result(self, desk: Desk) -> None:
        none, failed = desk.queue.enqueue("gc.enable"), desk.failed()
        assert desk.queues.job(none.id).results[0].value == "null"
        assert desk.queues.job(failed.id).results[0].value is None

    def test_a_run_that_rq_has_forgotten_has_its_attempts(self, desk: Desk) -> None:
        id = desk.run("short", "tests.worker.jobs.add", args=[1, 2], result_ttl=0)
        detail = desk.queues.job(id)
        assert not detail.exists
        [attempt] = detail.attempts
        assert (attempt.schedule, detail.job.run and detail.job.run.schedule) == ("short", "short")
        with pytest.raises(NoJob, match="there is no such job"):
            desk.queues.job("default-short-1")

    def test_keys_of_another_type_stop_nothing(self, desk: Desk) -> None:
        desk.queue.enqueue(jobs.add, 1, 2)
        desk.redis.sadd("rq:queues", "rq:queue:odd")
        desk.redis.set("rq:queue:odd", "x")
        desk.redis.set("rq:failed:odd", "x")
        assert [q.name for q in desk.queues.look().queues] == ["default", "odd"]
        assert len(desk.queues.jobs("queued").jobs) == 1
        assert desk.queues.jobs("failed").jobs == ()


class TestResults:
    """A result is shown without running what its pickle says."""

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (3, "3"), (None, "null"), ("a", '"a"'), ([1, (2,), {3}], "[1,[2],[3]]"),
            ({"n": 1.5, "api_key": "x"}, '{"n":1.5,"api_key":"****"}'), (b"ab", "\"b'ab'\""),
            (list(range(300)), None),
        ],
    )  # fmt: skip
    def test_plain_data_is_shown(self, value: Any, shown: str | None) -> None:
        found = value_of(b64encode(pickle.dumps(value, 5)))
        assert found is not None
        if shown is not None:
            assert json.loads(found) == json.loads(shown)

    @pytest.mark.parametrize(
        "packed",
        [
            pickle.dumps(datetime(2026, 1, 1, tzinfo=UTC)),
            b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
            b"\x80\x04r\xff\xff\xff\x7f.",  # wants memory
            b"\x80\x04\x8cgarbage",
            b"",
        ],
    )
    def test_what_is_not_plain_is_not_loaded(self, packed: bytes) -> None:
        assert value_of(b64encode(packed)) is None

    def test_a_small_pickle_cannot_make_a_large_page(self) -> None:
        value: Any = "x"
        for _ in range(30):
            value = [value] * 10
        found = value_of(b64encode(pickle.dumps(value)))
        assert found is not None
        assert len(found) < 20_000

    def test_a_small_trace_cannot_make_a_large_page(self) -> None:
        large = b64encode(zlib.compress(b"x" * 3_000_000 + b"\nValueError: no"))
        assert len(trace_of(large)) <= 256 * 1024
        assert trace_of(large).endswith("ValueError: no")
        assert len(trace_of(b64encode(zlib.compress(b"x" * 100_000_000)))) <= 256 * 1024
        assert trace_of(b"no such thing") == ""


class TestRequeue:
    """A failed job runs once more, as itself."""

    def test_it_keeps_its_id_and_fire_time_and_its_ledger_says_how_it_ended_now(
        self, desk: Desk
    ) -> None:
        id = desk.run("nightly", "tests.worker.jobs.fail")
        desk.redis.hset(f"rq:job:{id}", "rq_clock_interruptions", 9)
        assert desk.queues.requeue(id, ANA) == "default"
        job = Job.fetch(id, connection=desk.redis)
        assert (job.get_status(), job.ended_at, job.worker_name) == ("queued", None, None)
        assert desk.redis.ttl(job.key) == -1  # it would vanish from its queue
        assert id not in FailedJobRegistry("default", connection=desk.redis)
        assert desk.redis.hget(job.key, "rq_clock_interruptions") is None
        desk.work()
        [entry] = desk.ledger("nightly")
        assert entry.attempt
        assert (entry.attempt.state, entry.attempt.number) == ("failed", 2)
        assert len(desk.executions.ended(10)) == 2
        [noted] = desk.schedules.audit(1)
        assert (noted.by, noted.verb, noted.schedules, noted.reason, noted.detail) == (
            "ana", "requeue", ("nightly",), "the bank is back", {"job": id}
        )  # fmt: skip

    def test_of_two_requests_one_is_refused_and_it_runs_once(self, desk: Desk) -> None:
        job = desk.failed()
        desk.queues.requeue(job.id, ANA)
        with pytest.raises(NotAllowed, match="expected one that is failed, stopped or canceled"):
            desk.queues.requeue(job.id, ANA)
        assert desk.redis.lrange(desk.queue.key, 0, -1) == [job.id.encode()]

    def test_overlap_counts_it(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.fail")
        desk.decide("nightly")
        desk.queues.requeue(id, ANA)
        with pytest.raises(ScheduleError, match=f"expected no run in progress, got {id}"):
            desk.schedules.trigger("nightly")

    def test_a_job_that_stock_workers_failed_runs_on_either(self, desk: Desk) -> None:
        job = desk.queue.enqueue(jobs.fail)
        stock = StockWorker([desk.queue], connection=desk.redis)
        stock.work(burst=True, logging_level="CRITICAL")
        desk.queues.requeue(job.id, ANA)
        desk.work()
        desk.queues.requeue(job.id, ANA)
        stock.work(burst=True, logging_level="CRITICAL")
        assert len(job.results()) == 3
        assert job.id in FailedJobRegistry(queue=desk.queue)

    def test_a_queue_whose_key_is_no_list_is_an_error_and_nothing_is_written(
        self, desk: Desk
    ) -> None:
        job = desk.failed()
        desk.redis.set(desk.queue.key, "x")
        with pytest.raises(NotAllowed, match="is a string, not a list"):
            desk.queues.requeue(job.id, ANA)
        assert job.get_status() == "failed"

    def test_an_unknown_job_is_refused(self, desk: Desk) -> None:
        for verb in ("requeue", "cancel", "delete", "stop"):
            with pytest.raises(NoJob, match="gone: there is no such job"):
                getattr(desk.queues, verb)("gone", ANA)

    def test_a_group_gets_its_turns(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.fail", group="acme")
        desk.queues.requeue(id, ANA)
        desk.work()
        assert desk.states("nightly") == ["failed"]
        assert desk.redis.keys("rq-clock:default:turns:*") == []


class TestCancelAndDelete:
    """A job that has not begun can be taken away, which is recorded."""

    @pytest.mark.parametrize("verb", ["cancel", "delete"])
    def test_a_run_that_waits_is_stopped_in_its_ledger(self, desk: Desk, verb: str) -> None:
        id = desk.fire("nightly", "tests.worker.jobs.add", args=[1, 2])
        getattr(desk.queues, verb)(id, ANA)
        assert desk.redis.lrange("rq:queue:default", 0, -1) == []
        [entry] = desk.ledger("nightly")
        assert entry.attempt
        assert (entry.attempt.state, entry.attempt.number) == ("stopped", 0)
        assert entry.attempt.error == f"{verb}{'d' if verb == 'delete' else 'ed'} by ana"
        [ended] = desk.executions.ended(10)
        assert (ended.job_id, ended.again) == (id, "")
        assert desk.schedules.audit(1)[0].verb == f"{verb}-job"
        assert desk.redis.zcard(desk.store.key("failing")) == 0
        assert desk.redis.hget(desk.store.key("counters:nightly"), "run stopped -") == b"1"
        desk.work()
        assert desk.states("nightly") == ["stopped"]
        desk.schedules.trigger("nightly")  # nothing is in the way

    def test_a_canceled_job_is_kept_and_can_be_requeued(self, desk: Desk) -> None:
        job = desk.queue.enqueue(jobs.add, 1, 2)
        desk.queues.cancel(job.id, ANA)
        assert job.get_status() == "canceled"
        assert job.id in CanceledJobRegistry("default", connection=desk.redis)
        desk.queues.requeue(job.id, ANA)
        assert job.id not in CanceledJobRegistry("default", connection=desk.redis)
        desk.work()
        assert job.return_value() == 3

    def test_a_deleted_job_leaves_nothing(self, desk: Desk) -> None:
        failed, later = desk.queue.enqueue(jobs.fail), desk.queue.enqueue_in(HOUR, jobs.add, 1, 2)
        desk.work()
        for job in (failed, later):
            desk.queues.delete(job.id, ANA)
            assert desk.redis.keys(f"*{job.id}*") == []
        assert desk.redis.exists("rq:failed:default", "rq:scheduled:default") == 0

    def test_a_started_job_is_refused(self, desk: Desk, start: Callable[[], None]) -> None:
        job = desk.queue.enqueue(jobs.wait, 60)
        start()
        wait_until(lambda: desk.status(job.id) == "started", "a worker")
        for verb in ("cancel", "delete", "requeue"):
            with pytest.raises(NotAllowed, match="got one that is started"):
                getattr(desk.queues, verb)(job.id, ANA)

    def test_the_next_of_its_group_gets_the_turn(self, desk: Desk) -> None:
        meta = {"rq_clock": {"group": "acme"}}
        first, second = (desk.queue.enqueue(jobs.add, 1, 2, meta=meta) for _ in range(2))
        assert desk.take("w")
        assert desk.take("v") is None
        assert second.get_status() == "deferred"
        desk.queues.cancel(second.id, ANA)
        third = desk.queue.enqueue(jobs.add, 1, 2, meta=meta)
        assert desk.take("v") is None
        desk.redis.hset(first.key, "status", "canceled")  # by RQ's own tools
        desk.queues.cancel(third.id, ANA)
        assert desk.redis.smembers("rq-clock:default:turns:acme") == set()
        assert desk.redis.lrange("rq-clock:default:waiting:acme", 0, -1) == []


class TestStop:
    """A running job is ended by its worker."""

    def test_a_running_job_is_stopped_and_not_retried(
        self, desk: Desk, start: Callable[[], None]
    ) -> None:
        id = desk.fire("long", command("echo begun; sleep 60"), retries=3)
        start()
        wait_until(lambda: b"begun" in (desk.store.output(id) or b""), "the command's output")
        worker = desk.queues.stop(id, ANA)
        wait_until(lambda: desk.states("long") == ["stopped"], "its end")
        assert desk.status(id) == "stopped"
        detail = desk.queues.job(id)
        assert detail.job.worker in (None, worker)
        assert desk.schedules.audit(1)[0].verb == "stop"
        with pytest.raises(NotAllowed, match="that is running, got one that is stopped"):
            desk.queues.stop(id, ANA)

    def test_stopping_a_deaf_worker_is_refused(self, desk: Desk) -> None:
        job = desk.queue.enqueue(jobs.add, 1, 2)
        assert desk.take("deaf")
        with pytest.raises(NotAllowed, match="its worker deaf does not listen"):
            desk.queues.stop(job.id, ANA)
        assert desk.schedules.audit() == []


class TestAgain:
    """The same fire time once more, by today's definition."""

    def test_it_is_another_job_of_the_same_fire_time(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.what_run", result_ttl=0)
        desk.schedules.update("nightly", result_ttl=60)
        new = desk.schedules.rerun(id, reason="late data")
        first, second = JobId.parse(id), JobId.parse(new)
        assert first
        assert second
        assert new != id
        assert (first.fire_time, first.schedule) == (second.fire_time, second.schedule)
        desk.work()
        seen: Any = Job.fetch(new, connection=desk.redis).return_value()
        fire_time = first.fire_time.isoformat()
        assert (seen["fire_time"], seen["reason"], seen["attempt"]) == (fire_time, "manual", 1)
        assert seen["previous"] is None  # as of any run by hand
        assert desk.states("nightly") == ["ok", "ok"]
        assert [e.reason for e in desk.ledger("nightly")] == ["catch_up", "manual"]
        [noted] = desk.schedules.audit(1)
        assert (noted.verb, noted.reason, noted.detail["job"]) == ("again", "late data", new)

    def test_not_while_that_fire_time_is_in_progress_even_with_force(self, desk: Desk) -> None:
        id = desk.fire("nightly", "tests.worker.jobs.fail", overlap="allow")
        with pytest.raises(ScheduleError, match=f"expected no run in progress, got {id}"):
            desk.schedules.rerun(id, force=True)
        desk.work()
        new = desk.schedules.rerun(id)
        with pytest.raises(ScheduleError, match=f"got {new}"):
            desk.schedules.rerun(id)
        with pytest.raises(NotAllowed, match=f"expected no other run of its fire time.*got {new}"):
            desk.queues.requeue(id, ANA)
        desk.work()
        assert desk.states("nightly") == ["failed", "failed"]
        desk.queues.requeue(id, ANA)

    def test_another_run_in_progress_refuses_it_unless_forced(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.add", args=[1, 2])
        other = desk.schedules.trigger("nightly")
        with pytest.raises(ScheduleError, match=f"expected no run in progress, got {other}"):
            desk.schedules.rerun(id)
        desk.schedules.rerun(id, force=True)
        desk.work()
        assert desk.states("nightly") == ["ok"] * 3

    def test_only_runs_of_schedules_that_exist(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.add", args=[1, 2])
        desk.schedules.remove("nightly")
        with pytest.raises(Conflict, match="there is no such schedule"):
            desk.schedules.rerun(id)
        for foreign in (desk.queue.enqueue(jobs.add, 1, 2).id, id.replace("default", "other")):
            with pytest.raises(ScheduleError, match="expected a run of the namespace 'default'"):
                desk.schedules.rerun(foreign)

    def test_a_fire_time_to_come_is_refused(self, desk: Desk) -> None:
        desk.schedules.add("nightly", every(hours=1), "tests.worker.jobs.add")
        with pytest.raises(ScheduleError, match="expected fire_time in the past"):
            desk.schedules.trigger("nightly", fire_time=datetime.now(UTC) + HOUR)

    def test_its_meta_has_its_fire_time_for_stock_workers_too(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.add", args=[1, 2])
        run_now = from_meta(Job.fetch(desk.schedules.rerun(id), connection=desk.redis).meta)
        origin = JobId.parse(id)
        assert run_now
        assert origin
        assert run_now.fire_time == origin.fire_time


class TestRaces:
    """Whatever happens between a question and its answer."""

    def test_of_many_requeues_at_once_one_succeeds(self, desk: Desk, redis_url: str) -> None:
        job = desk.failed()
        barrier = threading.Barrier(8)

        def requeue(_: int) -> str:
            with Redis.from_url(redis_url) as redis:
                barrier.wait()
                try:
                    return Queues(Store(redis, "default")).requeue(job.id, ANA)
                except NotAllowed:
                    return "refused"

        with ThreadPoolExecutor(8) as pool:
            results = sorted(pool.map(requeue, range(8)))
        assert results == ["default", *["refused"] * 7]
        assert desk.redis.lrange(desk.queue.key, 0, -1) == [job.id.encode()]
        assert len(desk.schedules.audit()) == 1

    def test_a_job_is_canceled_or_started_never_both_and_never_neither(
        self, desk: Desk, redis_url: str
    ) -> None:
        ids = [desk.queue.enqueue(jobs.add, 1, 2).id for _ in range(200)]
        started: list[str] = []

        def take() -> None:
            with Redis.from_url(redis_url) as redis:
                executions = Executions(redis, "default")
                for n in range(len(ids)):
                    executions.register(f"w{n}", datetime.now(UTC))
                    execution = executions.take(f"w{n}", ["default"], datetime.now(UTC))
                    if execution is None:
                        return
                    started.append(execution.job_id)

        canceled = []
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(take)
            for id in reversed(ids):
                try:
                    desk.queues.cancel(id, ANA)
                    canceled.append(id)
                except NotAllowed:
                    assert desk.status(id) == "started"
            working.result()
        assert sorted(started + canceled) == sorted(ids)
        assert started
        assert canceled

    def test_after_a_lost_reply_nothing_is_done_twice(self, desk: Desk) -> None:
        id = desk.run("nightly", "tests.worker.jobs.fail")
        with pytest.raises(NoJob):
            desk.queues.stop("none", ANA)  # loads the script
        with replies_lost(), pytest.raises(ConnectionError):
            desk.queues.requeue(id, ANA)
        with pytest.raises(NotAllowed, match="got one that is queued"):
            desk.queues.requeue(id, ANA)
        assert desk.redis.lrange("rq:queue:default", 0, -1) == [id.encode()]
        desk.work()
        desk.schedules.trigger("nightly")  # loads the script
        desk.work()
        with replies_lost(), pytest.raises(StoreUnavailable):
            desk.schedules.rerun(id)
        with pytest.raises(ScheduleError, match="expected no run in progress"):
            desk.schedules.rerun(id)
        desk.work()
        with replies_lost(), pytest.raises(ConnectionError):
            desk.queues.delete(id, ANA)
        with pytest.raises(NoJob):
            desk.queues.delete(id, ANA)
        verbs = [noted.verb for noted in desk.schedules.audit()]
        assert verbs == ["delete-job", "again", "trigger", "requeue", "add"]
        assert desk.states("nightly") == ["failed"] * 3

    def test_a_full_server_changes_nothing_of_a_job(self, fresh_server: Callable[..., Any]) -> None:
        server = fresh_server()
        with Redis.from_url(server.url) as redis:
            queues, queue = Queues(Store(redis, "default")), Queue("default", connection=redis)
            job = queue.enqueue(jobs.fail)
            settings = Settings.from_env({"REDIS_URL": server.url})
            worker = Worker(["default"], connection=redis, settings=settings)
            worker.work(burst=True, logging_level="CRITICAL")
            waits = queue.enqueue(jobs.add, 1, 2)
            with pytest.raises(NoJob):
                queues.stop("none", ANA)
            redis.config_set("maxmemory", 1)
            for operation, id in ((queues.requeue, job.id), (queues.cancel, waits.id)):
                before: Any = redis.hgetall(f"rq:job:{id}")
                with pytest.raises(ResponseError, match="maxmemory"):
                    operation(id, ANA)
                assert redis.hgetall(f"rq:job:{id}") == before
            assert redis.lrange("rq:queue:default", 0, -1) == [waits.id.encode()]
            assert redis.zcard("rq:failed:default") == 1


class TestSweep:
    """What is done to many is done to those that match, each once, and is one line of the audit."""

    def test_all_that_match_and_no_other(self, desk: Desk) -> None:
        mail, bulk = Queue("mail", connection=desk.redis), Queue("bulk", connection=desk.redis)
        matching = [mail.enqueue(jobs.fail, f"smtp {i}").id for i in range(3)]
        other = [mail.enqueue(jobs.fail, "quota").id, bulk.enqueue(jobs.fail, "smtp").id]
        desk.work("mail", "bulk")
        match = JobFilter(queue="mail", text="SMTP")
        assert {job.id for job in desk.queues.matching(match)[0]} == set(matching)
        assert desk.queues.sweep("requeue", match, ANA) == BulkJobsResult(3)
        assert [desk.status(id) for id in matching] == ["queued"] * 3
        assert [desk.status(id) for id in other] == ["failed"] * 2
        [noted] = desk.schedules.audit(5)
        assert (noted.verb, noted.detail) == (
            "requeue", {"queue": "mail", "text": "SMTP", "jobs": 3}
        )  # fmt: skip
        assert desk.queues.sweep("requeue", match, ANA) == BulkJobsResult(0)
        assert desk.queues.sweep("delete", JobFilter(), ANA).done == 2

    def test_what_failed_since_somebody_looked_is_left(self, desk: Desk) -> None:
        desk.failed()
        seen = desk.queues.look().now
        desk.failed()
        assert desk.queues.sweep("delete", JobFilter(before=seen), ANA).done == 1

    def test_a_sweep_handles_a_bounded_number_and_reports_that_there_are_more(
        self, desk: Desk
    ) -> None:
        desk.fill("failed", 1500)
        with round_trips() as sent:
            result = desk.queues.sweep("delete", JobFilter(), ANA)
        assert result == BulkJobsResult(1000, (), more=True)
        assert len(sent) <= 20
        assert desk.queues.sweep("delete", JobFilter(), ANA) == BulkJobsResult(500)

    def test_several_fire_times_of_a_schedule_go_together(self, desk: Desk) -> None:
        desk.schedules.add(
            "nightly", every(hours=1), "tests.worker.jobs.fail", overlap="allow", failure_ttl=60
        )
        for _ in range(150):
            desk.schedules.trigger("nightly", force=True)
        desk.work()
        desk.decide("nightly")
        swept = desk.queues.sweep("requeue", JobFilter(schedule="nightly"), ANA)
        assert swept.done + len(swept.refused) == 150  # some are of the same millisecond
        assert swept.done > 100
        watched = desk.redis.hget(desk.store.key("markers"), "nightly").decode().split(" ")
        assert len(watched) == 2 + 100
