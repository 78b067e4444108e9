"""What a job does to its process, its directory, its connections and its children harms no other
job, whether each job has a process or several share one."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rq import Callback, Queue
from rq import Worker as StockWorker
from rq.job import Job

from rq_clock.worker import perform
from rq_clock.worker import worker as worker_module
from rq_clock.worker.worker import Worker
from tests.helpers import wait_until
from tests.process import ROOT
from tests.worker import jobs as jobs

Work = Callable[..., bool]
SHARED = {"RQ_CLOCK_HORSE_JOBS": "100"}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class TestIsolation:
    """What a job does to its process."""

    @pytest.mark.parametrize("how", ["exit", "SIGSEGV", "SIGKILL", "SIGABRT"])
    def test_a_job_that_ends_its_process_fails_alone(
        self, queue: Any, work: Work, how: str
    ) -> None:
        first, bad, last = (
            queue.enqueue(jobs.pid),
            queue.enqueue(jobs.die, how),
            queue.enqueue(jobs.pid),
        )
        work()
        assert bad.get_status() == "failed"
        assert "terminated unexpectedly" in bad.latest_result().exc_string
        assert first.return_value() != last.return_value()
        assert os.getpid() not in (first.return_value(), last.return_value())

    def test_each_job_has_a_process_of_its_own(self, queue: Any, work: Work) -> None:
        done = [queue.enqueue(jobs.pid) for _ in range(5)]
        work()
        assert len({job.return_value() for job in done}) == 5

    def test_jobs_may_share_a_process(self, queue: Any, work: Work) -> None:
        done = [queue.enqueue(jobs.pid) for _ in range(5)]
        work(RQ_CLOCK_HORSE_JOBS="3")
        first = [job.return_value() for job in done]
        assert first[0] == first[1] == first[2] != first[3] == first[4]

    @pytest.mark.parametrize(
        ("function", "args", "options"),
        [
            (jobs.fail, (), {}),
            (jobs.wait, (60,), {"job_timeout": 1}),
            (jobs.ask_again, (1,), {}),
            (jobs.give_up, ("now",), {}),
            (jobs.add, (1, 2), {"on_success": Callback("tests.worker.jobs.gone")}),
        ],
        ids=["raises", "times out", "asks for a retry", "is interrupted", "callback raises"],
    )
    def test_a_job_that_does_not_succeed_takes_its_process_along(
        self, queue: Any, work: Work, function: Any, args: Any,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        first = queue.enqueue(jobs.pid)
        bad = queue.enqueue(function, *args, **options)
        last = queue.enqueue(jobs.pid)
        work(RQ_CLOCK_MAX_INTERRUPTIONS="1", RQ_CLOCK_HORSE_JOBS="100")
        assert bad.get_status() == "failed"
        assert first.return_value() != last.return_value()

    def test_a_job_that_timed_out_leaves_no_thread_behind(
        self, queue: Any, work: Work, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "told")
        late = queue.enqueue(jobs.write_in_a_thread, path, job_timeout=1)
        after = queue.enqueue(jobs.grows, path)
        work()
        assert "JobTimeoutException" in late.latest_result().exc_string
        assert lines(tmp_path / "told")
        assert after.return_value() is False

    @pytest.mark.parametrize(("seconds", "flushed"), [(0.3, ["flushed"]), (60, [])])
    def test_errors_are_flushed_before_the_process_of_a_failed_job_ends_unless_that_hangs(
        self, queue: Any, work: Work, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, seconds: float, flushed: list[str],
    ) -> None:  # fmt: skip
        """Libraries that report errors wrap `perform_job` and send what they collected after it."""
        perform: Any = StockWorker.perform_job

        def perform_and_flush(self: StockWorker, job: Job, queue: Queue) -> Any:
            result = perform(self, job, queue)
            if not result:
                jobs.wait(seconds)
                jobs.tell(str(tmp_path / "told"), "flushed")
            return result

        monkeypatch.setattr(StockWorker, "perform_job", perform_and_flush)
        monkeypatch.setattr(worker_module, "FLUSH_SECONDS", 2.0)
        bad, good = queue.enqueue(jobs.fail, "no"), queue.enqueue(jobs.add, 1, 2)
        work()
        assert "ValueError: no" in bad.latest_result().exc_string
        assert (good.return_value(), lines(tmp_path / "told")) == (3, flushed)

    def test_a_process_that_has_grown_is_replaced(self, queue: Any, work: Work) -> None:
        done = [queue.enqueue(jobs.grow, n) for n in (1, 1, 60, 1)]
        work(RQ_CLOCK_HORSE_MB="40", RQ_CLOCK_HORSE_JOBS="100")
        a, b, c, d = (job.return_value() for job in done)
        assert a == b == c != d

    def test_what_a_dead_job_has_started_is_ended(
        self, queue: Any, work: Work, tmp_path: Path
    ) -> None:
        queue.enqueue(jobs.leave_a_child, str(tmp_path / "pid"))
        work()
        child = Path("/proc") / lines(tmp_path / "pid")[0] / "stat"
        wait_until(lambda: not child.exists() or ") Z " in child.read_text(), "the child is gone")

    def test_a_job_that_closes_what_the_worker_listens_to_fails_alone(
        self, queue: Any, work: Work
    ) -> None:
        bad, good = queue.enqueue(jobs.close_everything), queue.enqueue(jobs.add, 1, 2)
        work()
        assert (bad.get_status(), good.return_value()) == ("failed", 3)

    def test_pools_of_processes_end(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.use_pools, 25, job_timeout=60)
        work()
        assert job.return_value() == 25 * 28

    def test_processes_that_a_job_started_can_be_terminated(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.terminate_children, 10, job_timeout=60)
        work()
        assert job.return_value() == [-signal.SIGTERM] * 10

    @pytest.mark.parametrize("way", ["fork", "thread", "preexec_fn"])
    def test_a_forked_process_has_pythons_own_signal_handlers(
        self, queue: Any, work: Work, way: str
    ) -> None:
        job = queue.enqueue(jobs.handlers_of_a_fork, way)
        work()
        assert job.return_value() == [True] * 6

    def test_a_forked_process_keeps_a_handler_that_the_job_has_set(
        self, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.own_handler_of_a_fork)
        work()
        assert job.return_value() == 7

    @pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise", 1), ("exit", 5)])
    def test_a_forked_process_that_comes_out_of_the_job_ends(
        self, queue: Any, work: Work, how: str, code: int
    ) -> None:
        job = queue.enqueue(jobs.fork_and, how, job_timeout=3)
        other = queue.enqueue(jobs.add, 1, 2)
        work()
        assert (job.return_value(), other.return_value()) == (code, 3)
        assert len(job.results()) == 1

    def test_a_process_that_a_callback_forked_ends(self, queue: Any, work: Work) -> None:
        callback = Callback(jobs.fork_on_success, timeout=3)
        job, other = queue.enqueue(jobs.pid, on_success=callback), queue.enqueue(jobs.pid)
        work(RQ_CLOCK_HORSE_JOBS="100")
        assert job.return_value() == other.return_value()
        assert len(job.results()) == 1

    def test_a_timeout_raises_in_the_job(self, queue: Any, work: Work) -> None:
        job = queue.enqueue(jobs.wait, 60, job_timeout=1)
        work()
        assert job.get_status() == "failed"
        assert "JobTimeoutException" in job.latest_result().exc_string

    def test_a_job_that_does_not_yield_to_its_timeout_is_killed(
        self, queue: Any, work: Work, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(perform, "OVERTIME", 0.3)
        job = queue.enqueue(jobs.stubborn, str(tmp_path / "told"), job_timeout=1)
        work()
        assert lines(tmp_path / "told") == ["began", "JobTimeoutException"]
        assert job.get_status() == "failed"
        assert "maximum timeout value (1 seconds)" in job.latest_result().exc_string

    @pytest.mark.parametrize("env", [{}, SHARED], ids=["alone", "shared"])
    def test_nothing_of_a_job_is_found_by_the_next(
        self, queue: Any, work: Work, env: dict[str, str]
    ) -> None:
        before = queue.enqueue(jobs.surroundings)
        change = queue.enqueue(jobs.change_surroundings)
        after = queue.enqueue(jobs.surroundings)
        numbers = [queue.enqueue(jobs.random_number) for _ in range(2)]
        work(**env)
        assert change.get_status() == "finished"
        assert after.return_value() == before.return_value()
        assert len({job.return_value() for job in numbers}) == 2
        if env:
            assert numbers[0].worker_name == before.worker_name

    @pytest.mark.parametrize(
        "what", ["priority", "limit", "trace", "zone", "child", "session", "buffer", "stdout"]
    )
    def test_a_process_that_a_job_has_changed_for_good_takes_no_other(
        self, queue: Any, work: Work, what: str
    ) -> None:
        first = queue.enqueue(jobs.change_for_good, what)
        second, third = queue.enqueue(jobs.pid), queue.enqueue(jobs.pid)
        work(**SHARED)
        assert first.return_value() != second.return_value() == third.return_value()

    def test_a_process_that_ends_between_two_jobs_fails_neither(
        self, queue: Any, work: Work
    ) -> None:
        first, second = queue.enqueue(jobs.break_a_module), queue.enqueue(jobs.add, 1, 2)
        work(**SHARED)
        assert (first.get_status(), second.return_value()) == ("finished", 3)

    def test_a_broken_connection_fails_at_most_the_job_that_had_it(
        self, queue: Any, work: Work
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            done = [queue.enqueue(jobs.use_connection, address, n == 2) for n in range(8)]
            work(RQ_CLOCK_HORSE_JOBS="100")
        assert [job.get_status() for job in done].count("failed") == 1

    @pytest.mark.parametrize(("end", "env"), [("leave open", {}), ("fail", {}), ("fail", SHARED)])
    def test_no_job_commits_what_another_has_left_open(
        self, queue: Any, work: Work, tmp_path: Path, end: str, env: dict[str, str]
    ) -> None:
        path = str(tmp_path / "database")
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE rows (name)")
        queue.enqueue(jobs.insert, path, "half", end)
        queue.enqueue(jobs.insert, path, "whole", "commit")
        work(**env)
        rows = database.execute("SELECT name FROM rows").fetchall()
        database.close()
        assert rows == [("whole",)]

    def test_a_job_that_signals_itself_is_no_shutdown(self, queue: Any, work: Work) -> None:
        first = queue.enqueue(jobs.signal_itself)
        bad = queue.enqueue(jobs.signal_itself_and_fail)
        work(**SHARED)
        assert (first.return_value(), bad.get_status()) == (False, "failed")
        assert "ValueError" in bad.latest_result().exc_string

    @pytest.mark.parametrize("way", ["on_success", "on_failure", "after a timeout", "handler"])
    def test_what_follows_a_job_has_a_time_of_its_own(
        self, connection: Any, queue: Any, redis_url: str,
        monkeypatch: pytest.MonkeyPatch, way: str,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(perform, "OVERTIME", 0.1)
        slow = Callback(jobs.slow_callback)
        options: dict[str, Any] = {
            "on_success": {"on_success": slow},
            "on_failure": {"on_failure": slow},
            "after a timeout": {"on_failure": slow},
            "handler": {},
        }[way]
        function: Any = {"on_success": jobs.pid, "after a timeout": jobs.wait}.get(way, jobs.fail)
        arguments = (60,) if function is jobs.wait else ()
        handlers = [jobs.slow_callback] if way == "handler" else None
        job = queue.enqueue(function, *arguments, job_timeout=1, **options)
        worker = Worker([queue], connection=connection, exception_handlers=handlers)
        worker.work(burst=True, logging_level="CRITICAL")
        assert connection.lrange("called", 0, -1) == [b"slow"]
        trace = job.latest_result().exc_string or ""
        assert bool(trace) == (way != "on_success")
        assert ("JobTimeoutException" in trace) == (way == "after a timeout")

    def test_a_jobs_time_begins_when_it_begins(
        self, queue: Any, work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A library that sends what it has collected after each job keeps the process busy."""
        perform_job: Any = StockWorker.perform_job

        def perform_and_send(self: StockWorker, job: Job, queue: Queue) -> Any:
            result = perform_job(self, job, queue)
            jobs.wait(1.5)
            return result

        monkeypatch.setattr(StockWorker, "perform_job", perform_and_send)
        monkeypatch.setattr(perform, "OVERTIME", 0.1)
        first = queue.enqueue(jobs.pid, job_timeout=1)
        large = queue.enqueue(len, b"x" * 2_000_000, job_timeout=1)
        work(**SHARED)
        assert (first.get_status(), large.return_value()) == ("finished", 2_000_000)

    def test_a_process_that_stays_busy_with_its_last_job_is_replaced(
        self, queue: Any, work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        perform_job: Any = StockWorker.perform_job

        def perform_and_hang(self: StockWorker, job: Job, queue: Queue) -> Any:
            result = perform_job(self, job, queue)
            if job.args == (1,):
                jobs.wait(60)
            return result

        monkeypatch.setattr(StockWorker, "perform_job", perform_and_hang)
        monkeypatch.setattr(worker_module, "FLUSH_SECONDS", 0.5)
        done = [queue.enqueue(abs, n) for n in (1, 2)]
        work(**SHARED)
        assert [job.return_value() for job in done] == [1, 2]

    @pytest.mark.parametrize("env", [{}, SHARED], ids=["alone", "shared"])
    def test_what_was_collected_is_sent_before_the_process_ends(
        self, queue: Any, work: Work, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, env: dict[str, str],
    ) -> None:  # fmt: skip
        perform_job: Any = StockWorker.perform_job

        def perform_and_send(self: StockWorker, job: Job, queue: Queue) -> Any:
            result = perform_job(self, job, queue)
            jobs.wait(0.5)
            jobs.tell(str(tmp_path / "sent"), job.id)
            return result

        monkeypatch.setattr(StockWorker, "perform_job", perform_and_send)
        job = queue.enqueue(jobs.pid)
        work(max_jobs=1, **env)
        assert lines(tmp_path / "sent") == [job.id]

    def test_a_job_that_leaves_its_process_group_is_killed_all_the_same(
        self, queue: Any, work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(perform, "OVERTIME", 0.3)
        path = tmp_path / "told"
        job = queue.enqueue(jobs.leave_its_group, str(path), job_timeout=1)
        work()
        assert job.get_status() == "failed"
        assert not Path(f"/proc/{lines(path)[0]}").exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")
    def test_the_first_process_of_a_container_leaves_no_zombies(
        self, queue: Any, redis_url: str, tmp_path: Path
    ) -> None:
        job = queue.enqueue(jobs.leave_orphans, 5)
        count = queue.enqueue(jobs.zombies)
        environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
        worker = "from rq_clock import run_worker; run_worker(burst=True)"
        command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        run = subprocess.run(
            [*command, sys.executable, "-c", worker],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert (job.return_value(), count.return_value()) == (0, [])
