"""Whatever RQ's worker takes, ours takes, or refuses in one line. RQ's own suite runs beside this:
see tests/rq_suite."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue, Retry
from rq import Worker as StockWorker
from rq.command import send_stop_job_command
from rq.group import Group
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from rq_clock.errors import RqClockError
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.reaper import SILENCE
from rq_clock.settings import Settings
from rq_clock.worker.worker import Worker
from tests.helpers import Events, wait_until
from tests.process import Process
from tests.server import Server
from tests.worker import jobs as jobs


class Doubling(Job):
    """A job class with a `perform` of its own."""

    def perform(self) -> Any:
        return super().perform() * 2


class Telling(Worker):
    """A worker that tells of what RQ calls."""

    def perform_job(self, job: Job, queue: Queue) -> bool:
        self.connection.rpush("called", "perform_job")
        return super().perform_job(job, queue)

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any) -> None:
        super().handle_job_success(job, queue, started_job_registry)
        self.connection.rpush("called", "handle_job_success")

    def handle_job_failure(self, *args: Any, **kwargs: Any) -> None:
        self.connection.rpush("called", "handle_job_failure")
        super().handle_job_failure(*args, **kwargs)


class Forgetful(Worker):
    def perform_job(self, job: Job, queue: Queue) -> bool:
        return True


class WithLoop(Worker):
    def execute_job(self, job: Job, queue: Queue) -> None:
        pass


class Elsewhere(Job):
    redis_job_namespace_prefix = "mine:job:"


def quiet(worker: Worker, **options: Any) -> bool:
    return worker.work(burst=True, logging_level="CRITICAL", **options)


def killed(job: Job, pid: int, status: int, rusage: Any) -> None:
    job.connection.rpush("called", f"killed by {os.WTERMSIG(status)}: {rusage.ru_maxrss > 0}")


def handler(job: Job, *error: Any) -> bool:
    job.connection.rpush("called", f"handler {error[0].__name__}")
    return True


@pytest.fixture
def called(connection: Any) -> Callable[[], Any]:
    """What the jobs' callbacks and handlers have left."""
    return lambda: connection.lrange("called", 0, -1)


Called = Callable[[], Any]


class TestOptions:
    def test_a_serializer_reads_the_job_and_writes_its_result(self, connection: Any) -> None:
        queue = Queue("default", connection=connection, serializer=JSONSerializer)
        job = queue.enqueue(jobs.add, 1, 2)
        quiet(Worker([queue], connection=connection, serializer=JSONSerializer))
        assert job.return_value() == 3

    def test_a_class_of_jobs_performs_them(self, connection: Any) -> None:
        queue = Queue("default", connection=connection, job_class=Doubling)
        job = queue.enqueue(jobs.add, 1, 2)
        quiet(Worker([queue], connection=connection, job_class=Doubling))
        assert job.return_value() == 6

    def test_a_subclass_may_override_what_happens_to_a_job(
        self, connection: Any, queue: Any, called: Called
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        queue.enqueue(jobs.fail)
        quiet(Telling([queue], connection=connection))
        about_good, about_bad = called()[:2], called()[2:]
        assert about_good == [b"perform_job", b"handle_job_success"]
        assert about_bad == [b"perform_job", b"handle_job_failure"]

    def test_a_subclass_that_stores_no_end_fails_the_job(self, connection: Any, queue: Any) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        quiet(Forgetful([queue], connection=connection))
        assert job.get_status() == "failed"
        assert "was not stored" in job.latest_result().exc_string

    @pytest.mark.parametrize(
        ("worker", "options", "text"),
        [
            (WithLoop, {}, r"WithLoop overrides execute_job\(\).*use rq.Worker"),
            (Worker, {"job_class": Elsewhere}, "redis_job_namespace_prefix: expected 'rq:job:'"),
        ],
        ids=["a part of RQ's loop", "keys of its own"],
    )
    def test_what_cannot_work_is_refused(
        self, connection: Any, worker: Any, options: dict[str, Any], text: str
    ) -> None:
        with pytest.raises(RqClockError, match=text):
            quiet(worker(["default"], connection=connection, **options))

    def test_a_bad_strategy_is_refused_before_a_job_is_taken(
        self, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        with pytest.raises(ValueError, match="nearest"):
            quiet(Worker([queue], connection=connection), dequeue_strategy="nearest")
        assert job.get_status() == "queued"

    @pytest.mark.parametrize("strategy", ["default", "round_robin", "random"])
    def test_every_strategy_serves_every_queue(self, connection: Any, strategy: str) -> None:
        queues = [Queue(name, connection=connection) for name in ("a", "b")]
        done = [queue.enqueue(jobs.add, 1, 2) for queue in queues for _ in range(2)]
        quiet(Worker(queues, connection=connection), dequeue_strategy=strategy)
        assert [job.get_status() for job in done] == ["finished"] * 4
        if strategy == "round_robin":
            order = sorted(done, key=lambda job: connection.hget(job.key, "ended_at"))
            assert [job.origin for job in order] == ["a", "b", "a", "b"]

    def test_handlers_may_replace_the_default_one(
        self, connection: Any, queue: Any, called: Called
    ) -> None:
        options: dict[str, Any] = {"disable_default_exception_handler": True}
        job = queue.enqueue(jobs.fail)
        quiet(Worker([queue], connection=connection, exception_handlers=[handler], **options))
        assert called() == [b"handler ValueError"]
        assert job.get_status() == "failed"
        assert (job.id in queue.failed_job_registry, job.latest_result()) == (False, None)

    def test_the_default_ttl_of_results_is_the_workers(self, connection: Any, queue: Any) -> None:
        short = queue.enqueue(jobs.add, 1, 2)
        own = queue.enqueue(jobs.add, 1, 2, result_ttl=9_000)
        quiet(Worker([queue], connection=connection, default_result_ttl=3600))
        assert 3500 < connection.ttl(short.key) <= 3600
        assert 8900 < connection.ttl(own.key) <= 9000

    def test_a_killed_process_calls_the_handler(
        self, connection: Any, queue: Any, called: Called
    ) -> None:
        job = queue.enqueue(jobs.die, "SIGKILL")
        quiet(Worker([queue], connection=connection, work_horse_killed_handler=killed))
        assert (job.get_status(), called()) == ("failed", [b"killed by 9: True"])

    def test_it_works_where_its_connection_leads(
        self, fresh_server: Callable[..., Server], redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", redis_url)
        with Redis.from_url(fresh_server().url) as other:
            queue = Queue(connection=other)
            job = queue.enqueue(jobs.save_and_wait, "/dev/null", 0, meta={"step": 5})
            quiet(Worker([queue], connection=other))
            job = Job.fetch(job.id, connection=other)
            assert (job.return_value(), job.meta) == (5, {"step": 5})

    def test_work_may_be_called_twice_and_the_birth_registered_before(
        self, connection: Any, queue: Any
    ) -> None:
        worker = Worker([queue], connection=connection)
        worker.register_birth()  # type: ignore[no-untyped-call]
        worker.register_death()  # type: ignore[no-untyped-call]
        for _ in range(2):
            job = queue.enqueue(jobs.add, 1, 2)
            assert quiet(worker)
            assert job.return_value() == 3


class TestNames:
    def test_a_second_worker_of_one_name_ends_as_rqs_does(
        self, connection: Any, redis_url: str, tmp_path: Path, queue: Any
    ) -> None:
        first = Process(tmp_path / "log", "-c", SERVE, env={"REDIS_URL": redis_url})
        try:
            first.wait_for("worker.serving")
            with pytest.raises(ValueError, match="active worker named 'one' already"):
                quiet(Worker([queue], "one", connection=connection))
        finally:
            first.kill()

    def test_the_name_of_a_dead_worker_is_free_after_its_silence(
        self, connection: Any, redis_url: str, tmp_path: Path, queue: Any, events: Events
    ) -> None:
        path = tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 3)
        first = Process(tmp_path / "log", "-c", SERVE, env={"REDIS_URL": redis_url})
        wait_until(path.exists, "the job began")
        first.kill()
        settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_WORKER_SILENCE": "3"})
        assert settings.worker_silence < SILENCE
        assert quiet(Worker([queue], "one", connection=connection, settings=settings))
        assert job.get_status() == "finished"
        assert events("worker.waiting")[0]["name"] == "one"
        assert events("worker.dead")[0]["again"] == "front"


SERVE = """
from rq_clock.worker import Worker
from rq_clock import connect
Worker(["default"], "one", connection=connect()).work()
"""


class TestEnds:
    def test_a_stopped_job_calls_its_callback(
        self, connection: Any, redis_url: str, tmp_path: Path, queue: Any, called: Called
    ) -> None:
        path = tmp_path / "told"
        stopped = Callback(jobs.on_stopped)
        job = queue.enqueue(jobs.wait_and_tell, str(path), 60, on_stopped=stopped)
        worker = Process(tmp_path / "log", "-c", SERVE, env={"REDIS_URL": redis_url})
        try:
            wait_until(path.exists, "the job began")
            send_stop_job_command(connection, job.id)
            wait_until(lambda: job.get_status() == "stopped", "it is stopped")
            assert called() == [b"stopped"]
        finally:
            worker.kill()

    @pytest.mark.parametrize("how", ["raises", "is killed"])
    def test_the_webhooks_of_a_job_follow_its_end(
        self, connection: Any, queue: Any, how: str
    ) -> None:
        statuses: list[Any] = []

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                statuses.append((body["status"], job.get_status()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Receiver) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            webhook = Webhook(url, "failed", method="POST")
            function, args = (jobs.fail, ()) if how == "raises" else (jobs.die, ("SIGKILL",))
            job = queue.enqueue(function, *args, webhooks=[webhook])
            quiet(Worker([queue], connection=connection))
            server.shutdown()
        assert statuses == [("failed", "failed")]

    def test_a_delayed_retry_goes_to_the_front_if_it_asks_for_it(
        self, connection: Any, queue: Any
    ) -> None:
        retry = Retry(max=1, interval=1, enqueue_at_front=True)
        again = queue.enqueue(jobs.fail, retry=retry)
        quiet(Worker([queue], connection=connection), max_jobs=1)
        connection.zadd(queue.scheduled_job_registry.key, {again.id: 1})
        other = queue.enqueue(jobs.add, 1, 2)
        Executions(connection, "default").scan(datetime.now(UTC))
        assert queue.job_ids == [again.id, other.id]

    def test_groups_forget_jobs_that_rq_has_forgotten(self, connection: Any, queue: Any) -> None:
        group = Group.create(connection)
        (job,) = group.enqueue_many(queue, [Queue.prepare_data(jobs.add, (1, 2))])
        connection.delete(job.key)
        quiet(Worker([queue], connection=connection))
        wait_until(lambda: not connection.exists(f"rq:group:{group.name}"), "it is cleaned")

    def test_what_is_no_command_harms_nothing(
        self, connection: Any, redis_url: str, tmp_path: Path, queue: Any
    ) -> None:
        worker = Process(tmp_path / "log", "-c", SERVE, env={"REDIS_URL": redis_url})
        try:
            worker.wait_for("worker.serving")
            for message in ("x", b"\xff", "{}", '{"command": "stop-job"}', "[1]"):
                connection.publish("rq:pubsub:one", message)
            worker.wait_for("message.unreadable")
            job = queue.enqueue(jobs.add, 1, 2)
            wait_until(lambda: job.get_status() == "finished", "it lives")
            assert worker.process.poll() is None
        finally:
            worker.kill()

    def test_rqs_tools_see_state_and_address_before_the_first_job(
        self, connection: Any, redis_url: str, tmp_path: Path
    ) -> None:
        worker = Process(tmp_path / "log", "-c", SERVE, env={"REDIS_URL": redis_url})
        try:
            worker.wait_for("worker.serving")
            (seen,) = StockWorker.all(connection=connection)
            assert (seen.get_state(), seen.pid) == ("idle", worker.process.pid)
            assert str(seen.ip_address).startswith("127.0.0.1:")
        finally:
            worker.kill()

    def test_poison_in_the_meta_of_others_is_unpickled_by_no_worker(
        self, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        """RQ's housekeeping reads the meta of jobs that were abandoned."""
        grenade = (
            b"cos\nsystem\n(S'touch " + str(tmp_path / "boom").encode() + b"; kill -9 $PPID'\ntR."
        )
        bad = queue.enqueue(jobs.add, 1, 2)
        connection.hset(bad.key, mapping={"meta": grenade, "status": "started"})
        connection.lrem(queue.key, 0, bad.id)
        connection.zadd(queue.started_job_registry.key, {f"{bad.id}:gone": 1})
        good = queue.enqueue(jobs.add, 3, 4)
        assert quiet(Worker([queue], connection=connection))
        assert good.return_value() == 7
