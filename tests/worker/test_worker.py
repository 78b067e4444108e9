"""The worker: jobs end in RQ's books as RQ would have it, and nothing that a job does to its
process, or the platform to the worker, is more than that job's affair.

What only shows under load and restarts is in test_worker_storms.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue, Retry, SimpleWorker
from rq import Worker as StockWorker
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command
from rq.job import Dependency, Job
from rq.registry import (
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    StartedJobRegistry,
)

from rq_clock.jobs.executions import Executions
from rq_clock.model.schedule import declare
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron
from rq_clock.worker import supervisor
from rq_clock.worker.channel import ENDED
from rq_clock.worker.work_horse import WorkHorse
from rq_clock.worker.worker import Worker
from tests.helpers import wait_until
from tests.server import Server
from tests.worker import jobs as jobs
from tests.worker.conftest import Start, WorkerProcess

StartServer = Callable[..., Server]
Work = Callable[..., bool]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def runs(connection: Any) -> list[str]:
    """The ended attempts, as state and attempt."""
    entries: Any = connection.xrange("rq-clock:default:runs")
    return [" ".join(fields[b"entry"].decode().split(" ")[3:5]) for _id, fields in entries]


def beats(connection: Any) -> int:
    """How many signs of life were seen by those who asked here, one after the other."""
    seen = {connection.hvals("rq-clock:default:workers")[0]}
    wait_until(
        lambda: connection.hvals("rq-clock:default:workers")[0] not in seen, "a sign of life"
    )
    seen.add(connection.hvals("rq-clock:default:workers")[0])
    return len(seen)


class TestBooks:
    """What RQ's tools find afterwards."""

    def test_a_result_is_where_rq_has_it(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        assert work()
        job.refresh()
        assert (job.get_status(), job.return_value(), job.worker_name) == (
            "finished", 3, job.latest_result().worker_name,
        )  # fmt: skip
        assert job.id in FinishedJobRegistry(queue=queue)
        assert job.started_at
        assert job.ended_at
        assert job.ended_at >= job.started_at

    @pytest.mark.parametrize("options", [{}, {"result_ttl": 60}, {"result_ttl": -1}, {"ttl": 90}])
    @pytest.mark.parametrize("function", [jobs.pid, jobs.fail])
    def test_the_books_hold_what_they_hold_after_rqs_own_worker(
        self, connection: Any, queue: Any, work: Work,
        function: Any, options: dict[str, Any],
    ) -> None:  # fmt: skip
        def books(job: Job) -> dict[str, Any]:
            found = connection.keys(f"*{job.id}*")
            keys = sorted(key.decode().replace(job.id, "ID") for key in found)
            # RQ rewrites an empty meta, we count attempts and failures
            named = {"meta", "rq_clock_attempt", "rq_clock_ends"}
            fields = {k.decode() for k, v in connection.hgetall(job.key).items() if v} - named
            registries = [
                r for r in (FinishedJobRegistry, FailedJobRegistry) if job in r(queue=queue)
            ]
            result = job.latest_result()
            assert result
            return {
                "keys": keys,
                "fields": fields - {"exc_info"},
                "ttl": -(
                    -connection.ttl(job.key) // 60
                ),  # in minutes: some seconds may have passed
                "registries": registries,
                "status": job.get_status(),
                "result": (result.type, result.exc_string and result.exc_string[-12:]),
            }

        ours = queue.enqueue(function, **options)
        work()
        stocks = queue.enqueue(function, **options)
        SimpleWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
        assert books(ours) == books(stocks)

    def test_a_failure_is_in_the_registry_with_its_trace_and_its_callback_was_called(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.fail, "gone", on_failure=Callback(jobs.on_failure))
        work()
        assert job.get_status() == "failed"
        assert "ValueError: gone" in job.latest_result().exc_string
        assert job.id in FailedJobRegistry(queue=queue)
        assert connection.lrange("called", 0, -1) == [b"failure ValueError"]

    def test_a_success_callback_is_called_and_can_fail_the_job(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        good = queue.enqueue(jobs.add, 1, 2, on_success=Callback(jobs.on_success))
        bad = queue.enqueue(jobs.add, 1, 2, on_success=Callback("tests.worker.jobs.gone"))
        work()
        assert connection.lrange("called", 0, -1) == [b"success 3"]
        assert (good.get_status(), bad.get_status()) == ("finished", "failed")

    def test_a_job_that_may_be_retried_is(self, connection: Any, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.fail, retry=Retry(max=2))
        work()
        job.refresh()
        assert (job.get_status(), job.retries_left) == ("failed", 0)
        assert connection.hget(job.key, "rq_clock_attempt") == b"3"

    def test_a_retry_with_a_delay_waits_in_rqs_registry(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.fail, retry=Retry(max=2, interval=[30, 60]))
        before = datetime.now(UTC)
        work()
        assert job.get_status() == "scheduled"
        at = queue.scheduled_job_registry.get_scheduled_time(job)
        assert timedelta(seconds=29) < at - before < timedelta(seconds=35)

    def test_a_job_can_ask_for_a_retry(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.ask_again, 2)
        work()
        job.refresh()
        assert (job.get_status(), job.number_of_retries) == ("failed", 2)
        kinds = ["MAX_RETRIES_EXCEEDED", "RETRIED", "RETRIED"]
        assert [result.type.name for result in job.results()] == kinds

    def test_what_depends_on_a_job_is_queued_with_its_end(self, queue: Any, work: Work) -> None:
        parent = queue.enqueue(jobs.add, 1, 2)
        child = queue.enqueue(jobs.add, 3, 4, depends_on=parent)
        grandchild = queue.enqueue(jobs.add, 5, 6, depends_on=[parent, child])
        work()
        assert [j.get_status() for j in (child, grandchild)] == ["finished", "finished"]
        assert DeferredJobRegistry(queue=queue).count == 0

    def test_a_job_waits_for_all_it_depends_on_and_runs_once(self, queue: Any, work: Work) -> None:
        first, second = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.add, 1, 2)
        child = queue.enqueue(jobs.add, 3, 4, depends_on=[first, second])
        work(max_jobs=1)
        assert child.get_status() == "deferred"
        work()
        assert (child.get_status(), len(child.results())) == ("finished", 1)

    def test_what_depends_on_a_failed_job_waits_unless_it_allows_failure(
        self, queue: Any, work: Work
    ) -> None:
        parent = queue.enqueue(jobs.fail)
        waits = queue.enqueue(jobs.add, 3, 4, depends_on=parent)
        goes = queue.enqueue(jobs.add, 3, 4, depends_on=Dependency([parent], allow_failure=True))
        work()
        assert [j.get_status() for j in (waits, goes)] == ["deferred", "finished"]

    def test_a_result_without_ttl_leaves_nothing(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2, result_ttl=0)
        work()
        assert connection.keys(f"*{job.id}*") == []

    def test_a_result_that_cannot_be_pickled_does_not_fail_the_job(
        self, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.unpicklable)
        work()
        assert job.get_status() == "finished"
        assert "nserializable" in str(job.return_value())

    @pytest.mark.parametrize(
        ("function", "args", "told"),
        [
            ("tests.worker.jobs.gone", (), "gone"),
            ("tests.no_such_module.gone", (), "no_such_module"),
            ("tests.worker.jobs.add", (1,), "missing 1 required positional argument"),
        ],
    )
    def test_a_job_that_cannot_be_called_fails_with_the_reason(
        self, queue: Any, work: Work, function: str, args: Any, told: str
    ) -> None:
        job = queue.enqueue(function, *args)
        work()
        assert job.get_status() == "failed"
        assert told in job.latest_result().exc_string

    def test_a_job_whose_data_is_garbage_fails_alone(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        bad, good = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.add, 3, 4)
        connection.hset(bad.key, "data", "garbage")
        connection.hset(bad.key, "started_at", "never")
        work()
        assert (connection.hget(bad.key, "status"), good.return_value()) == (b"failed", 7)

    @pytest.mark.parametrize(
        ("field", "text", "ends"),
        [
            ("created_at", "2026-01-02T03:04:05Z", "finished"),  # as old releases of RQ wrote it
            ("enqueued_at", "2026-01-02T03:04:05.000006", "failed"),
            ("enqueued_at", "", "finished"),
            ("timeout", "soon", "failed"),
        ],
    )
    def test_fields_of_a_job_are_read_as_rq_reads_them(
        self, connection: Any, queue: Any, work: Work, field: str, text: str, ends: str
    ) -> None:
        odd, good = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.add, 3, 4)
        connection.hset(odd.key, field, text)
        work()
        status = connection.hget(odd.key, "status").decode()
        assert (status, good.return_value()) == (ends, 7)

    @pytest.mark.parametrize("text", ["\udcff.txt", "a\x00b", "\ud83d", "é"])
    def test_an_error_is_recorded_whatever_its_text(
        self, queue: Any, work: Work, text: str
    ) -> None:
        bad, good = queue.enqueue(jobs.fail, text), queue.enqueue(jobs.add, 1, 2)
        work()
        shown = text.encode(errors="backslashreplace").decode()
        assert (bad.get_status(), good.return_value()) == ("failed", 3)
        trace = bad.latest_result().exc_string
        assert trace.startswith("Traceback")
        assert trace.endswith(f"ValueError: {shown}\n")

    def test_an_error_that_has_no_text_is_recorded_with_its_trace(
        self, queue: Any, work: Work
    ) -> None:
        bad, good = queue.enqueue(jobs.fail_silently), queue.enqueue(jobs.add, 1, 2)
        work()
        assert (bad.get_status(), good.return_value()) == ("failed", 3)
        assert "SilentError: <exception str() failed>" in bad.latest_result().exc_string

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ((0,), "failed"),
            ((1, [60]), "scheduled"),
            (("?",), "scheduled"),
            ((1, [{1}]), "scheduled"),
        ],
        ids=["none", "one", "not a number", "not a list of numbers"],
    )
    def test_a_job_may_change_its_retries(
        self, queue: Any, work: Work, change: tuple[Any, ...], status: str
    ) -> None:
        """What RQ could not store changes nothing."""
        retry = Retry(max=2, interval=60)
        job = queue.enqueue(jobs.fail_with_retries, *change, retry=retry)
        work(max_jobs=1)
        assert job.get_status(refresh=True) == status

    @pytest.mark.parametrize(
        ("function", "field", "value", "ttl"),
        [
            (jobs.change, "result_ttl", 0, -2),
            (jobs.change, "result_ttl", -1, -1),
            (jobs.change, "result_ttl", "soon", 500),
            (jobs.change_and_fail, "failure_ttl", 0, -2),
            (jobs.change_and_fail, "failure_ttl", -1, -1),
        ],
    )
    def test_a_job_may_change_how_long_it_is_kept(  # noqa: PLR0913
        self,
        connection: Any,
        queue: Any,
        work: Work,
        function: Callable[..., None],
        field: str,
        value: Any,
        ttl: int,
    ) -> None:
        """-2 is no key, -1 for ever."""
        job = queue.enqueue(function, field, value)
        work()
        kept = connection.ttl(job.key)
        assert kept == ttl if ttl < 0 else 0 < kept <= ttl

    def test_an_interruption_is_recorded_whatever_its_reason(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.give_up, "\udcff")
        work(RQ_CLOCK_MAX_INTERRUPTIONS="1")
        assert job.get_status() == "failed"
        assert "Interrupted: \\udcff" in job.latest_result().exc_string

    def test_a_result_that_has_no_text_ends_one_job_and_no_other(
        self, queue: Any, work: Work
    ) -> None:
        done = [queue.enqueue(f) for f in (jobs.pid, jobs.answer_silently, jobs.pid)]
        work(RQ_CLOCK_HORSE_JOBS="100")
        assert [job.get_status() for job in done] == ["finished"] * 3
        assert done[0].return_value() == done[2].return_value()

    def test_an_exception_handler_that_raises_fails_the_job_with_its_trace(
        self, connection: Any, queue: Any, redis_url: str
    ) -> None:
        def handler(*_: object) -> bool:
            raise KeyError("\udcff")

        settings = Settings.from_env({"REDIS_URL": redis_url})
        worker = Worker(
            ["default"], connection=connection, settings=settings, exception_handlers=[handler]
        )
        bad, good = queue.enqueue(jobs.fail), queue.enqueue(jobs.add, 1, 2)
        worker.work(burst=True, logging_level="CRITICAL")
        assert (bad.get_status(), good.return_value()) == ("failed", 3)
        assert "KeyError: '\\udcff'" in bad.latest_result().exc_string

    def test_an_id_whose_job_was_deleted_is_passed_over(self, queue: Any, work: Work) -> None:
        gone, job = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.add, 3, 4)
        gone.delete(remove_from_queue=False)
        work()
        assert job.return_value() == 7

    def test_queues_are_served_in_their_order(
        self, connection: Any, work: Work, tmp_path: Path
    ) -> None:
        path = tmp_path / "told"
        for name in ("low", "high"):
            for i in range(2):
                Queue(name, connection=connection).enqueue(jobs.tell, str(path), f"{name} {i}")
        work("high", "low")
        assert lines(path) == ["high 0", "high 1", "low 0", "low 1"]

    def test_no_more_jobs_than_max_jobs(self, queue: Any, work: Work) -> None:
        waiting = [queue.enqueue(jobs.add, 1, 2) for _ in range(3)]
        work(max_jobs=2)
        assert [j.get_status() for j in waiting] == ["finished", "finished", "queued"]

    def test_rqs_own_repetition_is_kept(self, queue: Any, work: Work) -> None:
        from rq import Repeat

        job = queue.enqueue(jobs.add, 1, 2, repeat=Repeat(times=2))
        work()
        job.refresh()
        assert (job.get_status(), job.repeats_left, len(job.results())) == ("finished", 0, 3)

    def test_suspended_workers_take_nothing(self, connection: Any, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        connection.set("rq:suspended", 1)
        work()
        assert job.get_status() == "queued"

    def test_the_stock_worker_goes_on_where_this_one_stopped(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.fail, retry=Retry(max=2))
        work(max_jobs=1)
        StockWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
        job.refresh()
        assert (job.get_status(), job.retries_left) == ("failed", 0)


class TestEnding:
    """A worker that is told to end."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_idle_worker_ends_at_once(
        self, start: Start, connection: Any, number: signal.Signals
    ) -> None:
        worker = start()
        assert worker.end(number) == 0
        assert StockWorker.all(connection=connection) == []
        assert connection.hgetall("rq-clock:default:workers") == {}

    @pytest.mark.process
    def test_a_worker_of_a_pool_that_is_told_to_end_as_it_is_forked_serves_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fork = os.fork

        def told_at_once() -> int:
            pid = fork()
            if not pid:
                os.kill(os.getpid(), signal.SIGTERM)
            return pid

        monkeypatch.setattr(os, "fork", told_at_once)
        before = signal.signal(signal.SIGTERM, lambda *_: None)  # one of the app's own
        with Runtime(signal.SIGCHLD) as runtime:
            pid = supervisor._fork(runtime, lambda settings: None)
            _, status = os.waitpid(pid, 0)
            assert not runtime.signals.stopping
        signal.signal(signal.SIGTERM, before)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM

    def test_a_job_that_ends_within_the_grace_ends_as_ever(
        self, start: Start, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 0.7)
        later = queue.enqueue(jobs.add, 1, 2)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        os.killpg(worker.process.pid, signal.SIGTERM)
        assert worker.end() == 0
        assert (job.get_status(), later.get_status()) == ("finished", "queued")
        assert lines(path) == ["began", "ended"]

    def test_a_job_that_does_not_goes_back_to_the_front_as_it_was(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(RQ_CLOCK_GRACE_SECONDS="1"), tmp_path / "told"
        job = queue.enqueue(
            jobs.save_and_wait, str(path), 5,
            retry=Retry(max=3), meta={"step": 0}, on_failure=Callback(jobs.on_failure),
        )  # fmt: skip
        other = queue.enqueue(jobs.add, 1, 2)
        wait_until(lambda: lines(path) == ["step 5"], "the job began")
        for _ in range(3):  # a platform may say it more than once
            os.killpg(worker.process.pid, signal.SIGTERM)
        assert worker.end() == 0
        job.refresh()
        assert queue.job_ids == [job.id, other.id]
        assert (job.get_status(), job.retries_left, job.meta["step"]) == ("queued", 3, 5)
        assert connection.hget(job.key, "rq_clock_interruptions") == b"1"
        assert connection.exists("called") == 0
        assert StartedJobRegistry(queue=queue).get_job_ids(cleanup=False) == []
        worker = start()
        wait_until(lambda: job.get_status() == "finished", "it went on")
        assert job.return_value() == 5
        assert worker.end() == 0

    @pytest.mark.parametrize("function", [jobs.polite, jobs.broken_by_the_restart])
    def test_a_job_that_leaves_early_is_not_a_failure(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path,
        function: Any,
    ) -> None:  # fmt: skip
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(function, str(path), on_failure=Callback(jobs.on_failure))
        wait_until(lambda: lines(path) == ["began"], "the job began")
        assert worker.end() == 0
        assert (job.get_status(), queue.job_ids) == ("queued", [job.id])
        assert connection.exists("called") == 0
        assert "Traceback" not in worker.text()

    def test_a_job_can_put_down_what_it_holds_when_the_grace_is_over(
        self, start: Start, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(RQ_CLOCK_GRACE_SECONDS="1"), tmp_path / "told"
        job = queue.enqueue(jobs.tidy, str(path))
        wait_until(lambda: lines(path) == ["began"], "the job began")
        assert worker.end() == 0
        assert lines(path) == ["began", "tidied"]
        assert (job.get_status(), queue.job_ids) == ("queued", [job.id])

    def test_a_job_that_clings_to_its_process_is_killed_after_all(
        self, start: Start, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(RQ_CLOCK_GRACE_SECONDS="1"), tmp_path / "told"
        job = queue.enqueue(jobs.stubborn, str(path))
        wait_until(lambda: lines(path) == ["began"], "the job began")
        assert worker.end() == 0
        assert lines(path) == ["began", "Interrupted"]
        assert (job.get_status(), queue.job_ids) == ("queued", [job.id])

    def test_a_job_that_is_interrupted_for_ever_fails_in_the_end(
        self, connection: Any, queue: Any, work: Work, tmp_path: Path
    ) -> None:
        job = queue.enqueue(jobs.polite, str(tmp_path / "told"))
        connection.hset(job.key, "rq_clock_interruptions", 2)
        queue.enqueue("rq_clock.run.stop", at_front=True)
        work(RQ_CLOCK_MAX_INTERRUPTIONS="2", RQ_CLOCK_HORSE_JOBS="100")
        assert job.get_status() == "failed"
        assert job.id in FailedJobRegistry(queue=queue)

    def test_a_killed_worker_takes_its_job_along_and_the_next_one_gets_it(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 3)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        worker.process.kill()
        worker.process.wait()
        second = start()
        second.wait_for("worker.dead")
        wait_until(lambda: job.get_status() == "finished", "it ran again")
        assert lines(path) == ["began", "began", "ended"]
        assert second.end() == 0
        assert connection.smembers("rq:workers") == set()


class TestCommands:
    """What RQ's tools tell a worker."""

    def test_a_job_can_be_stopped(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 60, retry=Retry(max=3))
        wait_until(lambda: lines(path) == ["began"], "the job began")
        send_stop_job_command(connection, job.id)
        wait_until(lambda: job.get_status() == "stopped", "it is stopped")
        assert job.id in FailedJobRegistry(queue=queue)
        assert worker.end() == 0

    def test_a_horse_can_be_killed_and_a_worker_shut_down(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 60)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        name = StockWorker.all(connection=connection)[0].name
        send_kill_horse_command(connection, name)
        wait_until(lambda: job.get_status() == "failed", "it failed")
        send_shutdown_command(connection, name)
        assert worker.process.wait(10) == 0

    def test_rqs_tools_see_a_worker_like_any_other(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        queue.enqueue(jobs.wait_and_tell, str(path), 1)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        (seen,) = StockWorker.all(connection=connection)
        assert (seen.get_state(), seen.queue_names()) == ("busy", ["default", "callbacks"])
        assert seen.get_current_job_id() in StartedJobRegistry(queue=queue).get_job_ids()
        wait_until(lambda: lines(path) == ["began", "ended"], "the job ended")
        wait_until(
            lambda: StockWorker.all(connection=connection)[0].successful_job_count == 1,
            "counted",
        )
        assert worker.end() == 0

    def test_rq_info_shows_it_and_disturbs_nothing(
        self, start: Start, redis_url: str, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 8)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        command = [sys.executable, "-m", "rq.cli", "info", "--url", redis_url, "--raw"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "queue default 0" in shown
        assert "busy default" in shown
        wait_until(lambda: job.get_status() == "finished", "the job ended")
        assert worker.end() == 0

    def test_a_stock_worker_on_the_same_queue_is_reported(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        stock = StockWorker([queue], connection=connection, name="stock")
        stock.register_birth()  # type: ignore[no-untyped-call]
        worker = start()
        event = worker.wait_for("worker.foreign")
        assert (event.fields["worker"], event.fields["queues"]) == ("stock", "default")
        assert worker.end() == 0

    def test_a_suspended_worker_waits_and_goes_on(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        worker = start()
        connection.set("rq:suspended", 1)
        job = queue.enqueue(jobs.add, 1, 2)
        worker.wait_for("worker.suspended")
        asked = connection.info("commandstats")["cmdstat_evalsha"]["calls"]
        wait_until(lambda: beats(connection) >= 2, "it lives")
        assert connection.info("commandstats")["cmdstat_evalsha"]["calls"] - asked < 20
        assert job.get_status() == "queued"
        connection.delete("rq:suspended")
        wait_until(lambda: job.get_status() == "finished", "it goes on")
        assert worker.end() == 0

    def test_the_state_that_others_see_follows_a_suspension(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        worker = start()
        key = f"rq:worker:{worker.wait_for('worker.serving').fields['name']}"
        connection.set("rq:suspended", 1)
        worker.wait_for("worker.suspended")
        connection.delete("rq:suspended")
        wait_until(lambda: connection.hget(key, "state") == b"idle", "idle, before any job")
        connection.set("rq:suspended", 1)
        worker.wait_for("worker.suspended", times=2)
        job = queue.enqueue(jobs.wait, 60)
        connection.delete("rq:suspended")
        worker.wait_for("worker.resumed", times=2)
        assert connection.hget(key, "state") == b"busy"
        send_stop_job_command(connection, job.id)
        wait_until(lambda: connection.hget(key, "state") == b"idle", "idle, after the job")
        assert worker.end() == 0

    def test_a_queue_that_is_no_list_stops_no_other(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        connection.set("rq:queue:broken", "x")
        worker = start(WORKER_QUEUES="broken,default")
        asked = connection.info("commandstats")["cmdstat_evalsha"]["calls"]
        wait_until(lambda: beats(connection) >= 2, "it lives")
        assert connection.info("commandstats")["cmdstat_evalsha"]["calls"] - asked < 60
        job = queue.enqueue(jobs.add, 1, 2)
        wait_until(lambda: job.get_status() == "finished", "the other queue's job")
        assert worker.end() == 0

    def test_a_job_that_is_canceled_while_it_runs_keeps_its_result_and_lets_nothing_follow(
        self, start: Start, queue: Any, tmp_path: Path
    ) -> None:
        worker, path = start(), tmp_path / "told"
        job = queue.enqueue(jobs.wait_and_tell, str(path), 0.5)
        child = queue.enqueue(jobs.add, 1, 2, depends_on=job)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        job.cancel()
        wait_until(lambda: job.return_value() == "waited", "its result")
        assert worker.end() == 0
        assert (job.get_status(), child.get_status()) == ("finished", "deferred")


class TestOutages:
    def test_a_worker_that_starts_before_its_redis_waits_for_it(
        self, fresh_server: StartServer, tmp_path: Path
    ) -> None:
        server = fresh_server()
        server.kill()
        worker = WorkerProcess(server.url, tmp_path / "worker.log")
        try:
            worker.wait_for("store.waiting")
            server.start()
            worker.wait_for("worker.serving")
            assert worker.end() == 0
        finally:
            worker.process.kill()
            worker.process.wait()

    @pytest.mark.process
    def test_a_worker_that_waits_for_its_redis_ends_on_sigterm(self, tmp_path: Path) -> None:
        worker = WorkerProcess("redis://127.0.0.1:1", tmp_path / "worker.log")
        worker.wait_for("store.waiting")
        assert worker.end() == 0

    def test_a_worker_that_is_refused_ends_with_the_reason(
        self, fresh_server: StartServer, tmp_path: Path
    ) -> None:
        server = fresh_server()
        with Redis.from_url(server.url) as connection:
            connection.config_set("requirepass", "right")
        url = server.url.replace("redis://", "redis://:wrong@")
        worker = WorkerProcess(url, tmp_path / "worker.log")
        assert worker.process.wait(20) == 1
        assert "refuses the user or password" in worker.text()
        assert "wrong@" not in worker.text()

    def test_an_end_that_comes_while_redis_is_away_is_stored_when_it_is_back(
        self, start: Start, fresh_server: StartServer, tmp_path: Path
    ) -> None:
        server, path = fresh_server(appendonly="yes"), tmp_path / "told"
        with Redis.from_url(server.url) as connection:
            job = Queue(connection=connection).enqueue(jobs.wait_and_tell, str(path), 0.6)
        worker = start(server.url)
        wait_until(lambda: lines(path) == ["began"], "the job began")
        server.kill()
        wait_until(lambda: lines(path) == ["began", "ended"], "the job ended")
        worker.wait_for("store.waiting")
        server.start()
        worker.wait_for("store.back")
        with Redis.from_url(server.url) as connection:
            stored = Job.fetch(job.id, connection=connection)
            wait_until(lambda: stored.get_status() == "finished", "it is stored")
            assert lines(path) == ["began", "ended"]
            assert worker.end() == 0

    def test_a_job_needs_no_redis_to_run(self, connection: Any, queue: Any) -> None:
        executions = Executions(connection, "default")
        executions.register("w", datetime.now(UTC))
        queue.enqueue(jobs.add, 1, 2)
        execution = executions.take("w", ["default"], datetime.now(UTC))
        assert execution
        nowhere = Worker(["default"], "w", connection=Redis(host="127.0.0.1", port=1))
        settings = Settings.from_env({})
        (horse,) = WorkHorse.fork(1, lambda channel: nowhere._serve(channel, settings), [])
        try:
            assert horse.begin(execution)
            sent = wait_until(horse.message, "how it ended")
            assert sent
            outcome, webhooks = sent.content
            assert (sent.kind, outcome.state, outcome.error, webhooks) == (ENDED, "ok", "", False)
        finally:
            horse.end()

    def test_a_full_server_takes_the_end_of_a_job(
        self, fresh_server: StartServer, start: Start, tmp_path: Path
    ) -> None:
        server, path = fresh_server(), tmp_path / "told"
        with Redis.from_url(server.url) as connection:
            job = Queue(connection=connection).enqueue(jobs.wait_and_tell, str(path), 0.5)
            worker = start(server.url)
            wait_until(lambda: lines(path) == ["began"], "the job began")
            connection.config_set("maxmemory", 1)
            wait_until(lambda: job.get_status() == "finished", "it is stored")
            connection.config_set("maxmemory", 0)
            assert worker.end() == 0


class TestRuns:
    """A schedule's jobs, and what is kept of how they ended."""

    @pytest.fixture
    def enqueue(self, connection: Any) -> Callable[..., str]:
        """Let a clock enqueue the fire time of an hour of 2026-03-01; the job's id."""
        from tests.store.test_store import Namespace

        ns = Namespace(connection)
        ns.lead()

        def enqueue(hour: int, target: str = "tests.worker.jobs.what_run", **options: Any) -> str:
            schedule = declare("hourly", cron("0 * * * *"), target, {"overlap": "allow", **options})
            now = datetime(2026, 3, 1, hour, tzinfo=UTC)
            ns.put(schedule, now=now - timedelta(minutes=30))
            [answer] = ns.commit(now=now)
            assert answer.kind == "ok"
            return f"default-hourly-{to_ms(now)}"

        return enqueue

    def test_a_task_knows_its_run_and_the_last_that_succeeded(
        self, connection: Any, enqueue: Callable[..., str], work: Work
    ) -> None:
        told: list[Any] = []
        for hour in (1, 2):
            job = Job.fetch(enqueue(hour), connection=connection)
            work()
            told.append(job.return_value())
        assert told[0] == {
            "schedule": "hourly", "fire_time": "2026-03-01T01:00:00+00:00", "reason": "schedule",
            "attempt": 1, "previous": None, "stopping": False,
        }  # fmt: skip
        assert told[1]["previous"] == "2026-03-01T01:00:00+00:00"

    def test_the_ledger_has_the_outcome_of_a_run(
        self, connection: Any, enqueue: Callable[..., str], work: Work
    ) -> None:
        enqueue(1)
        work()
        enqueue(2, "tests.worker.jobs.fail", args=["no\nreason"], retries=1)
        work()
        first, second = connection.lrange("rq-clock:default:ledger:hourly", 0, -1)
        assert first.split(b" ")[0] == b"s"
        assert first.split(b" ")[3:5] == [b"ok", b"1"]
        assert second.split(b" ")[3:5] == [b"failed", b"2"]
        assert second.endswith(b"ValueError: no reason")
        assert runs(connection) == ["ok 1", "failed 1", "failed 2"]
        ended: Any = Executions(connection, "default").ended(2)
        assert [(e.schedule, e.entry.attempt.number) for e in ended] == [
            ("hourly", 2),
            ("hourly", 1),
        ]
        earlier: Any = Executions(connection, "default").ended(2, before=ended[-1].id)[0]
        assert earlier.entry.attempt.state == "ok"
        assert (
            connection.hget("rq-clock:default:succeeded", "hourly")
            == str(to_ms(datetime(2026, 3, 1, 1, tzinfo=UTC))).encode()
        )

    def test_a_job_that_died_without_a_word_has_its_record(
        self, connection: Any, enqueue: Callable[..., str], work: Work
    ) -> None:
        enqueue(1, "tests.worker.jobs.die", args=["SIGKILL"])
        work()
        (entry,) = connection.lrange("rq-clock:default:ledger:hourly", 0, -1)
        assert entry.split(b" ")[3] == b"failed"
        assert b"signal 9" in entry

    def test_a_job_of_no_schedule_leaves_no_record_even_if_its_id_looks_like_one(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        queue.enqueue(jobs.add, 1, 2, job_id="default-hourly-1772323200000")
        work()
        assert connection.keys("rq-clock:default:runs") == []

    def test_a_job_that_only_names_a_group_is_no_run(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.what_run, meta={"rq_clock": {"group": "shop"}})
        work()
        assert (job.get_status(), job.return_value()) == ("finished", {})

    def test_what_runs_are_kept_is_bounded(
        self, connection: Any, enqueue: Callable[..., str], work: Work
    ) -> None:
        for hour in range(1, 6):
            enqueue(hour)
        work(RQ_CLOCK_RUNS="1")
        assert connection.xlen("rq-clock:default:runs") <= 101  # trimmed in whole nodes of 100

    def test_a_delayed_retry_is_promoted_without_a_scheduler(
        self, connection: Any, start: Start, queue: Any
    ) -> None:
        worker = start()
        job = queue.enqueue(jobs.fail, retry=Retry(max=1, interval=1))
        wait_until(lambda: job.get_status() == "failed", "it was tried again")
        assert connection.hget(job.key, "rq_clock_attempt") == b"2"
        later = queue.enqueue_in(timedelta(seconds=1), jobs.add, 1, 2)
        wait_until(lambda: later.get_status() == "finished", "it came")
        assert worker.end() == 0
