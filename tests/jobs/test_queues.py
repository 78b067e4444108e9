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
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError, ResponseError
from rq import Queue, Retry
from rq import Worker as StockWorker
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry

from rq_clock.clock.planner import Planner
from rq_clock.errors import Conflict, ScheduleError, StoreUnavailable
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.queues import BulkJobsResult, JobFilter, NoJob, NotAllowed, Queues
from rq_clock.jobs.results import trace_of, value_of
from rq_clock.model.entry import Lease
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
from tests.helpers import round_trips, wait_until
from tests.process import ROOT, Process
from tests.worker import jobs as jobs

ANA = Actor(by="ana", reason="the bank is back")
HOUR = timedelta(hours=1)


@pytest.fixture
def queues(store: Store) -> Queues:
    return Queues(store)


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Start a worker in a process of its own."""
    with ExitStack() as stack:

        def start() -> None:
            log, env = tmp_path / "worker.log", {"REDIS_URL": redis_url}
            stack.enter_context(Process(log, str(ROOT / "worker.py"), env=env, new_session=True))

        yield start


def fire(store: Store, schedules: Schedules, name: str, target: Any, **options: Any) -> str:
    """Let the clock enqueue the last fire time of a schedule that is known for long; its job."""
    schedules.add(name, every(hours=1), target, **options)
    now = store.now()
    store.redis.hset(store.key("markers"), name, f"- {to_ms(now - 2 * HOUR)}")
    store.redis.zadd(store.key("due"), {name: to_ms(now - HOUR)})
    lease = Leases(store).acquire("clock.1", ("local", ""), "take-over", now)
    assert isinstance(lease, Lease)
    stage = Planner(store, lease, memory=1 << 20)
    while stage.turn(now) == 0:
        pass
    entry = schedules.get(name)
    assert entry
    assert entry.last_job
    return entry.last_job


def ledger(store: Store, name: str) -> list[Enqueued]:
    return [entry for entry in store.ledger(name) if isinstance(entry, Enqueued)]


def states(store: Store, name: str) -> list[str]:
    return [e.attempt.state if e.attempt else "waiting" for e in ledger(store, name)]


def status(connection: Any, id: str) -> str:
    return str((connection.hget(f"rq:job:{id}", "status") or b"").decode())


class TestLooking:
    """What is shown is what RQ has."""

    def test_a_queue_tells_its_jobs_and_for_how_long_the_first_one_waits(
        self, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        queue.enqueue(jobs.fail)
        queue.enqueue(jobs.add, 1, 2)
        work()
        waits = queue.enqueue(jobs.add, 1, 2)
        queue.enqueue(jobs.add, 1, 2, depends_on=waits)
        queue.enqueue_in(HOUR, jobs.add, 1, 2)
        report = queues.look({"default", "mail"})
        default, mail = report.queues
        assert default.jobs == {
            "queued": 1, "started": 0, "scheduled": 1, "deferred": 1, "failed": 1, "finished": 1,
            "canceled": 0,
        }  # fmt: skip
        assert default.waiting is not None
        assert timedelta(0) <= default.waiting < timedelta(seconds=30)
        assert (mail.name, sum(mail.jobs.values()), mail.waiting) == ("mail", 0, None)

    def test_a_needed_queue_without_workers_is_unserved(
        self, connection: Any, queue: Any, queues: Queues
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        Queue("idle", connection=connection).enqueue(jobs.add, 1, 2).delete()
        seen = {q.name: q.unserved for q in queues.look({"used"}).queues}
        assert seen == {"default": True, "idle": False, "used": True}
        worker = StockWorker(["default", "used"], connection=connection)
        worker.register_birth()  # type: ignore[no-untyped-call]
        seen = {q.name: q.unserved for q in queues.look({"used"}).queues}
        assert seen == {"default": False, "idle": False, "used": False}
        connection.hset(worker.key, "death", "2026-01-01T00:00:00.000000Z")
        assert queues.look({"used"}).workers == ()
        connection.delete(worker.key)  # RQ's registry still names it
        assert queues.look({"used"}).workers == ()
        assert queues.look({"used"}).queues[0].unserved

    def test_workers_tell_what_they_run_and_whose_they_are(
        self, connection: Any, queue: Any, queues: Queues, start: Callable[[], None]
    ) -> None:
        stock = StockWorker(["low"], connection=connection)
        stock.register_birth()  # type: ignore[no-untyped-call]
        job = queue.enqueue(jobs.wait, 60)
        start()
        wait_until(lambda: status(connection, job.id) == "started", "a worker")
        report = queues.look()
        ours, theirs = sorted(report.workers, key=lambda w: w.origin != "rq-clock")
        assert (ours.origin, ours.state, ours.job, ours.queues) == (
            "rq-clock", "busy", job.id, ("default",)
        )  # fmt: skip
        assert ours.since
        assert ours.last_seen
        assert report.now - ours.last_seen < timedelta(seconds=5)
        assert (theirs.name, theirs.origin, theirs.job) == (stock.name, "rq", None)
        assert theirs.pid == str(os.getpid())

    def test_each_look_is_one_round_trip_whatever_there_is(
        self, connection: Any, queues: Queues
    ) -> None:
        def look() -> list[int]:
            counts = []
            for ask in (
                lambda: queues.look({"a", "b"}),
                lambda: queues.jobs("failed"),
                lambda: queues.jobs("queued"),
                lambda: queues.job("default-x-1"),
            ):
                with round_trips() as sent:
                    ask()
                counts.append(len(sent))
            return counts

        fill(connection, "failed", 1)
        connection.hset("rq:job:default-x-1", "status", "failed")
        look()  # loads the scripts
        fill(connection, "failed", 2000, queues=20)
        assert look() == [1, 1, 1, 1]

    @pytest.mark.parametrize("kind", ["failed", "finished", "queued", "scheduled", "canceled"])
    def test_pages_tell_each_job_once_in_their_order(
        self, connection: Any, queues: Queues, kind: str
    ) -> None:
        every_id = fill(connection, kind, 205, queues=3, same=2)
        ids: list[str] = []
        cursor = ""
        while True:
            page = queues.jobs(kind, limit=50, cursor=cursor)
            assert page.total == 205
            ids += [job.id for job in page.jobs]
            cursor = page.cursor
            if not cursor:
                break
        assert len(ids) == len(set(ids)) == 205
        newest_first = kind in ("failed", "finished", "canceled")
        if kind != "queued":
            order = [int(id.split("-")[1]) // 2 for id in ids]
            assert order == sorted(order, reverse=newest_first)
        assert set(ids) == set(every_id)

    def test_thousands_of_one_score_are_paged_through(
        self, connection: Any, queues: Queues
    ) -> None:
        every_id = fill(connection, "failed", 1000, same=1000)
        first = queues.jobs("failed", limit=400)
        second = queues.jobs("failed", limit=400, cursor=first.cursor)
        third = queues.jobs("failed", limit=400, cursor=second.cursor)
        ids = [job.id for page in (first, second, third) for job in page.jobs]
        assert (len(ids), set(ids), third.cursor) == (1000, set(every_id), "")

    def test_a_page_goes_on_where_its_last_job_is_gone(
        self, connection: Any, queues: Queues
    ) -> None:
        fill(connection, "failed", 10)
        page = queues.jobs("failed", limit=4)
        for job in page.jobs:
            connection.zrem("rq:failed:q0", job.id)
        rest = queues.jobs("failed", limit=10, cursor=page.cursor)
        assert len(rest.jobs) == 6

    @pytest.mark.parametrize(
        "cursor", ["x", "W10", "WyJxdWV1ZWQiLCIxIiwicSJd", "WyJmYWlsZWQiLCJ4IiwieSJd"]
    )
    def test_a_cursor_that_is_none_is_refused(self, queues: Queues, cursor: str) -> None:
        with pytest.raises(ScheduleError, match="cursor: expected"):
            queues.jobs("failed", cursor=cursor)
        with pytest.raises(ScheduleError, match="kind: expected one of failed"):
            queues.jobs("lost")

    def test_only_jobs_of_a_schedule_have_a_fire_time(
        self, store: Store, schedules: Schedules, queue: Any, queues: Queues
    ) -> None:
        id = fire(store, schedules, "nightly", "tests.worker.jobs.add", args=[1, 2])
        queue.enqueue(jobs.add, 1, 2, job_id="default-nightly-1700000000000")
        ours, other = queues.jobs("queued").jobs
        assert ours.id == id
        assert ours.run
        assert (ours.run.schedule, to_ms(ours.run.fire_time) % 3_600_000) == ("nightly", 0)
        assert other.run is None

    def test_secrets_in_a_call_and_in_an_error_are_masked(
        self, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        job = queue.enqueue(jobs.fail, text="token=hunter22hunter22")
        work()
        [listed] = queues.jobs("failed").jobs
        detail = queues.job(job.id)
        assert "hunter22" not in f"{listed}{detail}"
        assert listed.error == "ValueError: token=****"
        assert "ValueError" in detail.trace

    def test_a_job_tells_what_rq_has_of_it(
        self, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2, job_timeout=77, retry=Retry(max=2))
        child = queue.enqueue(jobs.add, 3, 4, depends_on=job)
        before = queues.job(job.id)
        assert (before.dependents, before.dependent_count) == ((child.id,), 1)
        assert (before.job.status, before.job.retries_left) == ("queued", 2)
        assert before.fields["timeout"] == "77"
        assert before.job.description == "tests.worker.jobs.add(1, 2)"
        work()
        after = queues.job(job.id)
        assert (after.results[0].value, after.results[0].kind) == ("3", "successful")
        assert after.expires_in

    def test_a_job_that_returns_none_has_null_as_its_result(
        self, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        none, failed = queue.enqueue("gc.enable"), queue.enqueue(jobs.fail)
        work()
        assert queues.job(none.id).results[0].value == "null"
        assert queues.job(failed.id).results[0].value is None

    def test_a_run_that_rq_has_forgotten_has_its_attempts(
        self, store: Store, schedules: Schedules, queues: Queues, work: Callable[..., bool]
    ) -> None:
        id = fire(store, schedules, "short", "tests.worker.jobs.add", args=[1, 2], result_ttl=0)
        work()
        detail = queues.job(id)
        assert not detail.exists
        [attempt] = detail.attempts
        assert (attempt.schedule, detail.job.run and detail.job.run.schedule) == ("short", "short")
        with pytest.raises(NoJob, match="there is no such job"):
            queues.job("default-short-1")

    def test_keys_of_another_type_stop_nothing(
        self, connection: Any, queue: Any, queues: Queues
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        connection.sadd("rq:queues", "rq:queue:odd")
        connection.set("rq:queue:odd", "x")
        connection.set("rq:failed:odd", "x")
        assert [q.name for q in queues.look().queues] == ["default", "odd"]
        assert len(queues.jobs("queued").jobs) == 1
        assert queues.jobs("failed").jobs == ()


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
            b"\x80\x04r\xff\xff\xff\x7f.",  # asks for memory
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
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.fail")
        work()
        connection.hset(f"rq:job:{id}", "rq_clock_interruptions", 9)
        assert queues.requeue(id, ANA) == "default"
        job = Job.fetch(id, connection=connection)
        assert (job.get_status(), job.ended_at, job.worker_name) == ("queued", None, None)
        assert connection.ttl(job.key) == -1  # it would vanish from its queue
        assert id not in FailedJobRegistry("default", connection=connection)
        assert connection.hget(job.key, "rq_clock_interruptions") is None
        work()
        [entry] = ledger(store, "nightly")
        assert entry.attempt
        assert (entry.attempt.state, entry.attempt.number) == ("failed", 2)
        assert len(Executions(connection, "default").ended(10)) == 2
        [noted] = schedules.audit(1)
        assert (noted.by, noted.verb, noted.schedules, noted.reason, noted.detail) == (
            "ana", "requeue", ("nightly",), "the bank is back", {"job": id}
        )  # fmt: skip

    def test_of_two_who_ask_one_is_refused_and_it_runs_once(
        self, connection: Any, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        job = queue.enqueue(jobs.fail)
        work()
        queues.requeue(job.id, ANA)
        with pytest.raises(
            NotAllowed, match="expected one that is failed, stopped or canceled, got"
        ):
            queues.requeue(job.id, ANA)
        assert connection.lrange(queue.key, 0, -1) == [job.id.encode()]

    def test_overlap_minds_it(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.fail")
        work()
        entry = schedules.get("nightly")
        assert entry
        connection.hset(store.key("markers"), "nightly", entry.base)  # the clock has gone on
        queues.requeue(id, ANA)
        with pytest.raises(ScheduleError, match=f"expected no run in progress, got {id}"):
            schedules.trigger("nightly")

    def test_a_job_that_stock_workers_failed_runs_on_either(
        self, connection: Any, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        job = queue.enqueue(jobs.fail)
        stock = StockWorker([queue], connection=connection)
        stock.work(burst=True, logging_level="CRITICAL")
        queues.requeue(job.id, ANA)
        work()
        queues.requeue(job.id, ANA)
        stock.work(burst=True, logging_level="CRITICAL")
        assert len(job.results()) == 3
        assert job.id in FailedJobRegistry(queue=queue)

    def test_a_queue_whose_key_is_no_list_is_an_error_and_nothing_is_written(
        self, connection: Any, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        job = queue.enqueue(jobs.fail)
        work()
        connection.set(queue.key, "x")
        with pytest.raises(NotAllowed, match="is a string, not a list"):
            queues.requeue(job.id, ANA)
        assert job.get_status() == "failed"

    def test_an_unknown_job_is_refused(self, queues: Queues) -> None:
        for operation in (queues.requeue, queues.cancel, queues.delete, queues.stop):
            with pytest.raises(NoJob, match="gone: there is no such job"):
                operation("gone", ANA)

    def test_a_group_gets_its_turns(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.fail", group="acme")
        work()
        queues.requeue(id, ANA)
        work()
        assert states(store, "nightly") == ["failed"]
        assert connection.keys("rq-clock:default:turns:*") == []


class TestCancelAndDelete:
    """A job that has not begun can be taken away, and the books say so."""

    @pytest.mark.parametrize("verb", ["cancel", "delete"])
    def test_a_run_that_waits_is_stopped_in_its_ledger(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool], verb: str,
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.add", args=[1, 2])
        getattr(queues, verb)(id, ANA)
        assert connection.lrange("rq:queue:default", 0, -1) == []
        [entry] = ledger(store, "nightly")
        assert entry.attempt
        assert (entry.attempt.state, entry.attempt.number) == ("stopped", 0)
        assert entry.attempt.error == f"{verb}{'d' if verb == 'delete' else 'ed'} by ana"
        [ended] = Executions(connection, "default").ended(10)
        assert (ended.job_id, ended.again) == (id, "")
        assert schedules.audit(1)[0].verb == f"{verb}-job"
        assert connection.zcard(store.key("failing")) == 0
        assert connection.hget(store.key("counters:nightly"), "run stopped -") == b"1"
        work()
        assert states(store, "nightly") == ["stopped"]
        schedules.trigger("nightly")  # nothing is in the way

    def test_a_canceled_job_is_kept_and_can_be_requeued(
        self, connection: Any, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        queues.cancel(job.id, ANA)
        assert job.get_status() == "canceled"
        assert job.id in CanceledJobRegistry("default", connection=connection)
        queues.requeue(job.id, ANA)
        assert job.id not in CanceledJobRegistry("default", connection=connection)
        work()
        assert job.return_value() == 3

    def test_a_deleted_job_leaves_nothing(
        self, connection: Any, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        failed, later = queue.enqueue(jobs.fail), queue.enqueue_in(HOUR, jobs.add, 1, 2)
        work()
        for job in (failed, later):
            queues.delete(job.id, ANA)
            assert connection.keys(f"*{job.id}*") == []
        assert (
            connection.zcard("rq:failed:default") == connection.zcard("rq:scheduled:default") == 0
        )

    def test_a_job_that_a_worker_has_taken_is_refused(
        self, connection: Any, queue: Any, queues: Queues, start: Callable[[], None]
    ) -> None:
        job = queue.enqueue(jobs.wait, 60)
        start()
        wait_until(lambda: status(connection, job.id) == "started", "a worker")
        for operation in (queues.cancel, queues.delete, queues.requeue):
            with pytest.raises(NotAllowed, match="got one that is started"):
                operation(job.id, ANA)

    def test_the_next_of_its_group_gets_the_turn(
        self, connection: Any, queue: Any, queues: Queues
    ) -> None:
        executions = Executions(connection, "default")
        meta = {"rq_clock": {"group": "acme"}}
        first, second = (queue.enqueue(jobs.add, 1, 2, meta=meta) for _ in range(2))
        executions.register("w", datetime.now(UTC))
        taken = executions.take("w", ["default"], datetime.now(UTC))
        assert taken
        executions.register("v", datetime.now(UTC))
        assert executions.take("v", ["default"], datetime.now(UTC)) is None
        assert second.get_status() == "deferred"
        queues.cancel(second.id, ANA)
        third = queue.enqueue(jobs.add, 1, 2, meta=meta)
        assert executions.take("v", ["default"], datetime.now(UTC)) is None
        connection.hset(first.key, "status", "canceled")  # by RQ's own tools
        queues.cancel(third.id, ANA)
        assert connection.smembers("rq-clock:default:turns:acme") == set()
        assert connection.lrange("rq-clock:default:waiting:acme", 0, -1) == []


class TestStop:
    """A running job is ended by its worker."""

    def test_a_running_job_is_stopped_and_not_retried(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        start: Callable[[], None],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "long", command("echo begun; sleep 60"), retries=3)
        start()
        wait_until(lambda: b"begun" in (store.output(id) or b""), "the command's output")
        worker = queues.stop(id, ANA)
        wait_until(lambda: states(store, "long") == ["stopped"], "its end")
        assert status(connection, id) == "stopped"
        detail = queues.job(id)
        assert detail.job.worker in (None, worker)
        assert schedules.audit(1)[0].verb == "stop"
        with pytest.raises(
            NotAllowed, match="expected one that is running, got one that is stopped"
        ):
            queues.stop(id, ANA)

    def test_stopping_a_deaf_worker_is_refused(
        self, connection: Any, queue: Any, queues: Queues, schedules: Schedules
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        executions = Executions(connection, "default")
        executions.register("deaf", datetime.now(UTC))
        assert executions.take("deaf", ["default"], datetime.now(UTC))
        with pytest.raises(NotAllowed, match="its worker deaf does not listen"):
            queues.stop(job.id, ANA)
        assert schedules.audit() == []


class TestAgain:
    """The same fire time once more, by today's definition."""

    def test_it_is_another_job_of_the_same_fire_time(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.what_run", result_ttl=0)
        work()
        schedules.update("nightly", result_ttl=60)
        new = schedules.rerun(id, reason="late data")
        first, second = JobId.parse(id), JobId.parse(new)
        assert first
        assert second
        assert new != id
        assert (first.fire_time, first.schedule) == (second.fire_time, second.schedule)
        work()
        seen: Any = Job.fetch(new, connection=connection).return_value()
        fire_time = first.fire_time.isoformat()
        assert (seen["fire_time"], seen["reason"], seen["attempt"]) == (fire_time, "manual", 1)
        assert seen["previous"] is None  # as of any run by hand
        assert states(store, "nightly") == ["ok", "ok"]
        assert [e.reason for e in ledger(store, "nightly")] == ["catch_up", "manual"]
        [noted] = schedules.audit(1)
        assert (noted.verb, noted.reason, noted.detail["job"]) == ("again", "late data", new)

    def test_not_while_that_fire_time_is_in_progress_even_with_force(
        self, store: Store, schedules: Schedules, queues: Queues, work: Callable[..., bool]
    ) -> None:
        id = fire(store, schedules, "nightly", "tests.worker.jobs.fail", overlap="allow")
        with pytest.raises(ScheduleError, match=f"expected no run in progress, got {id}"):
            schedules.rerun(id, force=True)
        work()
        new = schedules.rerun(id)
        with pytest.raises(ScheduleError, match=f"got {new}"):
            schedules.rerun(id)
        with pytest.raises(NotAllowed, match=f"expected no other run of its fire time.*got {new}"):
            queues.requeue(id, ANA)
        work()
        assert states(store, "nightly") == ["failed", "failed"]
        queues.requeue(id, ANA)

    def test_another_run_in_progress_is_minded_unless_forced(
        self, store: Store, schedules: Schedules, queues: Queues, work: Callable[..., bool]
    ) -> None:
        id = fire(store, schedules, "nightly", "tests.worker.jobs.add", args=[1, 2])
        work()
        other = schedules.trigger("nightly")
        with pytest.raises(ScheduleError, match=f"expected no run in progress, got {other}"):
            schedules.rerun(id)
        schedules.rerun(id, force=True)
        work()
        assert states(store, "nightly") == ["ok"] * 3

    def test_only_runs_of_schedules_that_exist(
        self, store: Store, schedules: Schedules, queue: Any, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.add", args=[1, 2])
        work()
        schedules.remove("nightly")
        with pytest.raises(Conflict, match="there is no such schedule"):
            schedules.rerun(id)
        for foreign in (queue.enqueue(jobs.add, 1, 2).id, id.replace("default", "other")):
            with pytest.raises(ScheduleError, match="expected a run of the namespace 'default'"):
                schedules.rerun(foreign)

    def test_a_fire_time_to_come_is_refused(self, schedules: Schedules) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.add")
        with pytest.raises(ScheduleError, match="expected fire_time in the past"):
            schedules.trigger("nightly", fire_time=datetime.now(UTC) + HOUR)

    def test_its_meta_tells_it_to_stock_workers_too(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.add", args=[1, 2])
        work()
        run_now = from_meta(Job.fetch(schedules.rerun(id), connection=connection).meta)
        origin = JobId.parse(id)
        assert run_now
        assert origin
        assert run_now.fire_time == origin.fire_time


class TestRaces:
    """Whatever happens between a question and its answer."""

    def test_of_many_who_requeue_at_once_one_does(
        self, redis_url: str, connection: Any, queue: Any, schedules: Schedules,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        job = queue.enqueue(jobs.fail)
        work()
        barrier = threading.Barrier(8)

        def requeue(_: int) -> str:
            with Redis.from_url(redis_url) as redis:
                queues = Queues(Store(redis, "default"))
                barrier.wait()
                try:
                    return queues.requeue(job.id, ANA)
                except NotAllowed:
                    return "refused"

        with ThreadPoolExecutor(8) as pool:
            results = sorted(pool.map(requeue, range(8)))
        assert results == ["default", *["refused"] * 7]
        assert connection.lrange(queue.key, 0, -1) == [job.id.encode()]
        assert len(schedules.audit()) == 1

    def test_a_job_is_canceled_or_taken_never_both_and_never_neither(
        self, redis_url: str, connection: Any, queue: Any, queues: Queues
    ) -> None:
        ids = [queue.enqueue(jobs.add, 1, 2).id for _ in range(200)]
        taken: list[str] = []

        def take() -> None:
            with Redis.from_url(redis_url) as redis:
                executions = Executions(redis, "default")
                for n in range(len(ids)):
                    executions.register(f"w{n}", datetime.now(UTC))
                    execution = executions.take(f"w{n}", ["default"], datetime.now(UTC))
                    if execution is None:
                        return
                    taken.append(execution.job_id)

        canceled = []
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(take)
            for id in reversed(ids):
                try:
                    queues.cancel(id, ANA)
                    canceled.append(id)
                except NotAllowed:
                    assert status(connection, id) == "started"
            working.result()
        assert sorted(taken + canceled) == sorted(ids)
        assert taken
        assert canceled

    def test_asked_again_after_a_lost_reply_nothing_is_done_twice(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        id = fire(store, schedules, "nightly", "tests.worker.jobs.fail")
        work()
        with pytest.raises(NoJob):
            queues.stop("none", ANA)  # loads the script
        with reply_lost(monkeypatch), pytest.raises(ConnectionError):
            queues.requeue(id, ANA)
        with pytest.raises(NotAllowed, match="got one that is queued"):
            queues.requeue(id, ANA)
        assert connection.lrange("rq:queue:default", 0, -1) == [id.encode()]
        work()
        schedules.trigger("nightly")  # loads the script
        work()
        with reply_lost(monkeypatch), pytest.raises(StoreUnavailable):
            schedules.rerun(id)
        with pytest.raises(ScheduleError, match="expected no run in progress"):
            schedules.rerun(id)
        work()
        with reply_lost(monkeypatch), pytest.raises(ConnectionError):
            queues.delete(id, ANA)
        with pytest.raises(NoJob):
            queues.delete(id, ANA)
        verbs = [noted.verb for noted in schedules.audit()]
        assert verbs == ["delete-job", "again", "trigger", "requeue", "add"]
        assert states(store, "nightly") == ["failed"] * 3

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

    def test_all_that_match_and_no_other(
        self, connection: Any, schedules: Schedules, queues: Queues, work: Callable[..., bool]
    ) -> None:
        mail, bulk = Queue("mail", connection=connection), Queue("bulk", connection=connection)
        wanted = [mail.enqueue(jobs.fail, f"smtp {i}").id for i in range(3)]
        other = [mail.enqueue(jobs.fail, "quota").id, bulk.enqueue(jobs.fail, "smtp").id]
        work("mail", "bulk")
        match = JobFilter(queue="mail", text="SMTP")
        assert {job.id for job in queues.matching(match)[0]} == set(wanted)
        assert queues.sweep("requeue", match, ANA) == BulkJobsResult(3)
        assert [status(connection, id) for id in wanted] == ["queued"] * 3
        assert [status(connection, id) for id in other] == ["failed"] * 2
        [noted] = schedules.audit(5)
        assert (noted.verb, noted.detail) == (
            "requeue", {"queue": "mail", "text": "SMTP", "jobs": 3}
        )  # fmt: skip
        assert queues.sweep("requeue", match, ANA) == BulkJobsResult(0)
        assert queues.sweep("delete", JobFilter(), ANA).done == 2

    def test_what_failed_since_somebody_looked_is_left(
        self, queue: Any, queues: Queues, work: Callable[..., bool]
    ) -> None:
        queue.enqueue(jobs.fail)
        work()
        seen = queues.look().now
        queue.enqueue(jobs.fail)
        work()
        assert queues.sweep("delete", JobFilter(before=seen), ANA).done == 1

    def test_a_sweep_handles_a_bounded_number_and_reports_that_there_are_more(
        self, connection: Any, queues: Queues
    ) -> None:
        fill(connection, "failed", 1500)
        with round_trips() as sent:
            assert queues.sweep("delete", JobFilter(), ANA) == BulkJobsResult(1000, (), more=True)
        assert len(sent) <= 20
        assert queues.sweep("delete", JobFilter(), ANA) == BulkJobsResult(500)

    def test_several_fire_times_of_a_schedule_go_together(
        self, connection: Any, store: Store, schedules: Schedules, queues: Queues,
        work: Callable[..., bool],
    ) -> None:  # fmt: skip
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail", overlap="allow")
        for _ in range(150):
            schedules.trigger("nightly", force=True)
        work()
        entry = schedules.get("nightly")
        assert entry
        connection.hset(store.key("markers"), "nightly", entry.base)  # the clock has gone on
        swept = queues.sweep("requeue", JobFilter(schedule="nightly"), ANA)
        assert swept.done + len(swept.refused) == 150  # some are of the same millisecond
        assert swept.done > 100
        watched = connection.hget(store.key("markers"), "nightly").decode().split(" ")
        assert len(watched) == 2 + 100


@contextmanager
def reply_lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this block the server does what a script says, and nobody hears of it."""
    scripts: set[int] = set()
    send: Any = AbstractConnection.send_packed_command
    read: Any = AbstractConnection.read_response

    def note(self: Any, packed: Any, *args: Any, **options: Any) -> None:
        if b"EVALSHA" in b"".join(packed):
            scripts.add(id(self))
        send(self, packed, *args, **options)

    def lose(self: Any, *args: Any, **options: Any) -> Any:
        answer = read(self, *args, **options)
        if id(self) in scripts:
            scripts.clear()
            self.disconnect()
            raise ConnectionError("the reply is lost")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", note)
        patch.setattr(AbstractConnection, "read_response", lose)
        yield


def fill(connection: Any, kind: str, count: int, *, queues: int = 1, same: int = 1) -> list[str]:
    """So many jobs in RQ's books, round the queues, each `same` of them with one score."""
    pipe = connection.pipeline(transaction=False)
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
