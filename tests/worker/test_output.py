"""What a job prints is in the log and in its record, however it prints and however it ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue, Retry

from rq_clock.model.targets import command, webhook
from rq_clock.store.outputs import Outputs
from rq_clock.worker import job_output
from tests.helpers import Events, wait_until
from tests.process import Process
from tests.runners.lab import JOB_ID, enqueue
from tests.server import Server
from tests.worker import jobs
from tests.worker.conftest import Start

Work = Callable[..., bool]
BUFFERED = {"PYTHONUNBUFFERED": ""}
RECORD = "rq-clock:default:output:"


def record(connection: Any, job: Any) -> bytes | None:
    kept: bytes | None = connection.get(RECORD + job.id)
    return kept


def logged(worker: Process, job: Any, stream: str = "stdout") -> list[str]:
    found = [event.fields for event in worker.events("run.output")]
    return [f["line"] for f in found if (f["job"], f["stream"]) == (job.id, stream)]


def ended(job: Any) -> str:
    final = ("finished", "failed", "stopped")
    wait_until(lambda: job.get_status(refresh=True) in final, "its end")
    return str(job.get_status().value)


UPWARDS = (
    "p=$$; while [ $p -gt 1 ]; do cat /proc/$p/environ; set -- $(cat /proc/$p/stat); p=$4; done"
)
"""Print the environments with which this process and those above it were started."""


def test_no_job_finds_the_tokens_in_an_environment_and_no_error_shows_a_secret(
    start: Start, connection: Any, queue: Any
) -> None:
    tokens = "ana:admin:0123456789abcdef"
    worker = start(RQ_CLOCK_TOKENS=tokens, API_TOKEN="hunter22")
    child = queue.enqueue("subprocess.getoutput", UPWARDS)
    own = queue.enqueue("os.getenv", "RQ_CLOCK_TOKENS")
    failing = queue.enqueue("os.stat", "/hunter22/0123456789abcdef")
    assert [ended(job) for job in (child, own, failing)] == ["finished", "finished", "failed"]
    found = child.return_value()
    assert "API_TOKEN=hunter22" in found
    assert "0123456789abcdef" not in found
    assert own.return_value() is None
    assert "'/****/****'" in failing.latest_result().exc_string
    wait_until(lambda: "raised while executing (os.stat)" in worker.text(), "RQ's line")
    assert not re.search("hunter22|0123456789abcdef", worker.text())


def test_no_line_of_a_failed_job_has_a_secret_or_what_a_terminal_obeys(
    start: Start, queue: Any
) -> None:
    worker = start(API_TOKEN="hunter22")
    callback = Callback(jobs.fail_to_report)
    failing = queue.enqueue(jobs.fail, "\x1b[31mof hunter22", on_failure=callback)
    assert ended(failing) == "failed"
    wait_until(lambda: worker.events("job.ended"), "our line")
    shown = {r"ValueError: \x1b[31mof ****", r"KeyError: '\x1b[31mof ****'"}
    wait_until(lambda: shown <= {*worker.text().splitlines()}, "RQ's lines")
    assert not re.search("hunter22|\x1b", worker.text())


class TestPrinting:
    """Functions, in worker processes."""

    def test_whatever_way_it_prints(self, start: Start, connection: Any, queue: Any) -> None:
        worker, job = start(**BUFFERED), queue.enqueue(jobs.print_in_every_way)
        assert ended(job) == "finished"
        kept = record(connection, job)
        assert kept
        assert logged(worker, job) == ["printed", "from C", "from a child", "no end"]
        assert logged(worker, job, "stderr") == ["to stderr", "INFO app.mail: logged"]
        assert all(line.encode() in kept for line in logged(worker, job))
        [first, *_] = worker.events("run.output")
        assert first.fields["queue"] == "default"

    def test_it_is_there_at_once_and_without_secrets(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        worker = start(API_TOKEN="hunter22", **BUFFERED)
        job = queue.enqueue(jobs.print_and_wait, str(tmp_path / "go"))
        worker.wait_for("run.output", line="one ****")
        wait_until(lambda: record(connection, job) == b"one ****\n", "the record")
        (tmp_path / "go").touch()
        assert ended(job) == "finished"
        assert record(connection, job) == b"one ****\ntwo\n"
        assert 71 * 3600 < connection.ttl(RECORD + job.id) <= 72 * 3600

    def test_however_much_it_prints_the_worker_lives_and_stays_small(
        self, start: Start, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        def peak() -> int:
            status = Path(f"/proc/{worker.pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0])

        def sign() -> bytes:
            place: bytes = connection.hvals("rq-clock:default:workers")[0]
            return place.split()[0]

        worker = start(RQ_CLOCK_WORKER_SILENCE="1")
        ended(queue.enqueue(jobs.print_in_every_way))
        before = peak()
        job = queue.enqueue(jobs.print_without_end, str(tmp_path / "go"))
        wait_until(lambda: (record(connection, job) or b"").startswith(b"["), "much output")
        for _ in range(3):
            last = sign()
            wait_until(lambda: sign() != last, "a sign of life")  # noqa: B023 - called here
        (tmp_path / "go").touch()
        assert ended(job) == "finished"
        passed = job.return_value()
        assert passed >= 50_000_000
        kept = record(connection, job)
        assert kept
        assert 63 * 1024 < len(kept) <= 64 * 1024
        head, _, rest = kept.partition(b"\n")
        assert head == b"[%d bytes came before]" % (passed - len(rest))
        [cut] = worker.events("run.output_cut")
        assert int(cut.fields["more_lines"]) == passed / 100 - 1000
        assert peak() - before < 8 * 1024, "kB"

    def test_a_job_that_is_killed_leaves_its_last_words(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        worker, job = start(), queue.enqueue(jobs.print_and_die, "last words")
        assert ended(job) == "failed"
        assert record(connection, job) == b"last words\n"
        assert logged(worker, job) == ["last words"]

    def test_an_outage_delays_the_record_and_loses_nothing(
        self, start: Start, fresh_server: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = fresh_server()
        worker = start(server.url)
        with Redis.from_url(server.url) as connection:
            queue = Queue("default", connection=connection)
            job = queue.enqueue(jobs.print_and_wait, str(tmp_path / "go"))
            worker.wait_for("run.output", line="one ")
            server.stop()
            (tmp_path / "go").touch()
            worker.wait_for("run.output", line="two")
            server.start()
            assert ended(job) == "finished"
            assert record(connection, job) == b"one \ntwo\n"

    def test_what_is_printed_outside_of_jobs_goes_to_the_log_as_it_is(
        self, redis_url: str, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        job = queue.enqueue(jobs.print_once, "in the job")
        code = (
            "from rq_clock import run_worker\n"
            "say = lambda text: lambda *_: print(text)\n"
            "run_worker(burst=True, setup=say('set up'), after_fork=say('forked'),\n"
            "           before_job=say('before'), after_job=say('after'))\n"
        )
        with Process(tmp_path / "log", "-c", code, env={"REDIS_URL": redis_url}) as worker:
            assert worker.ended() == 0
            assert worker.lines()[0] == "set up"
            assert "forked" in worker.lines()
            assert logged(worker, job) == ["before", "in the job", "after"]
        assert record(connection, job) == b"before\nin the job\nafter\n"

    def test_an_error_of_after_fork_is_printed_without_secrets(
        self, redis_url: str, queue: Any, tmp_path: Path
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        code = (
            "import os\n"
            "from rq_clock import run_worker\n"
            "def connect():\n"
            "    raise OSError(os.environ['DB_PASSWORD'] + '\\x1b[2J')\n"
            "run_worker(burst=True, after_fork=connect)\n"
        )
        env = {"REDIS_URL": redis_url, "DB_PASSWORD": "hunter2hunter2"}
        with Process(tmp_path / "log", "-c", code, env=env) as worker:
            assert worker.ended() == 0
            assert "OSError: ****\\x1b[2J" in worker.lines()
            assert "hunter2" not in "".join(worker.lines())
        assert ended(job) == "failed"

    def test_a_failure_prints_its_traceback_to_the_log_alone(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        worker, job = start(), queue.enqueue(jobs.fail)
        assert ended(job) == "failed"
        wait_until(lambda: "ValueError: no" in worker.lines(), "the traceback")
        assert record(connection, job) is None

    def test_logging_that_is_set_up_stays(self, start: Start, connection: Any, queue: Any) -> None:
        start(LOG_LEVEL="debug")
        loud, own = queue.enqueue(jobs.print_in_every_way), queue.enqueue(jobs.configure_logging)
        assert (ended(loud), ended(own)) == ("finished", "finished")
        assert b"DEBUG app.mail: too much" in (record(connection, loud) or b"")
        assert record(connection, own) == b"mine: configured\n"

    def test_a_process_that_is_left_and_prints_on_holds_up_nobody(
        self, start: Start, queue: Any, tmp_path: Path
    ) -> None:
        start(RQ_CLOCK_HORSE_JOBS="100")
        job = queue.enqueue(jobs.leave_one_that_prints, str(tmp_path / "pid"))
        following = queue.enqueue(jobs.add, 1, 2)
        assert (ended(job), ended(following)) == ("finished", "finished")
        with suppress(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    def test_jobs_that_share_a_process_have_outputs_of_their_own(
        self, start: Start, connection: Any, queue: Any
    ) -> None:
        done = [queue.enqueue(jobs.print_once, text) for text in ("a", "", "c")]
        start(RQ_CLOCK_HORSE_JOBS="100")
        assert [ended(job) for job in done] == ["finished"] * 3
        assert [record(connection, job) for job in done] == [b"a\n", None, b"c\n"]


class TestRecord:
    """The record of what commands and functions print."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(job_output, "WRITE_SECONDS", 0.05)

    def test_of_a_command_it_is_what_was_printed(
        self, connection: Any, work: Work, events: Events
    ) -> None:
        enqueue(connection, command(r"echo one; printf 'a\377\nb'"))
        work(RQ_CLOCK_OUTPUT_HOURS="2")
        assert connection.get(RECORD + JOB_ID) == b"one\na\xff\nb"
        assert 3600 < connection.ttl(RECORD + JOB_ID) <= 2 * 3600
        assert [fields["line"] for fields in events("run.output")] == ["one", r"a\xff", "b"]
        assert events("run.output")[0]["schedule"] == "nightly"

    def test_of_a_command_that_failed_it_is_kept_too(self, connection: Any, work: Work) -> None:
        job = enqueue(connection, command("echo $OWN_KEY >&2; exit 9", env={"OWN_KEY": "xyzzy9"}))
        work()
        assert job.get_status() == "failed"
        assert record(connection, job) == b"****\n"

    def test_of_a_web_call_it_is_the_answer(self, connection: Any, work: Work) -> None:
        job = enqueue(connection, webhook("http://127.0.0.1:1/"))
        work()
        assert job.get_status() == "failed"
        assert record(connection, job) is None

    def test_another_attempt_begins_with_none(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        job = queue.enqueue(jobs.print_and_fail, "first", retry=Retry(max=1))
        work(max_jobs=1)
        assert record(connection, job) == b"first"
        work()
        assert record(connection, job) == b""

    def test_it_stands_under_the_namespace_of_the_schedule(
        self, connection: Any, work: Work
    ) -> None:
        """A worker may serve the queues of several."""
        enqueue(connection, command("echo one"))
        work(RQ_CLOCK_NAMESPACE="other")
        assert connection.get(RECORD + JOB_ID) == b"one\n"

    def test_that_of_functions_can_be_left_out(
        self, connection: Any, queue: Any, work: Work
    ) -> None:
        function = queue.enqueue(os.system, "echo one")
        enqueue(connection, command("echo two"))
        work(RQ_CLOCK_FUNCTION_OUTPUT="0", RQ_CLOCK_HORSE_JOBS="2")
        assert record(connection, function) is None
        assert connection.get(RECORD + JOB_ID) == b"two\n"

    def test_one_that_the_server_refuses_is_lost_alone(
        self, connection: Any, work: Work, events: Events
    ) -> None:
        connection.rpush("rq-clock:default:outputs", "of another type")
        job = enqueue(connection, command("echo one; sleep 0.2; echo two"))
        work()
        assert job.get_status() == "finished"
        assert len(events("run.output_lost")) == 1


class TestLimit:
    """All outputs together."""

    MB = 1024 * 1024

    def sizes(self, connection: Any) -> dict[str, int]:
        names = [key.decode() for key in connection.keys(RECORD + "*")]
        return {name.removeprefix(RECORD): connection.strlen(name) for name in names}

    def test_the_oldest_go_first(self, connection: Any) -> None:
        outputs = Outputs(connection, hours=1, limit=self.MB)
        for n in range(40):
            outputs.write("default", f"job-{n}", b"x" * 60_000)
        left = self.sizes(connection)
        assert self.MB - 3 * 60_000 < sum(left.values()) <= self.MB
        assert left.keys() == {f"job-{n}" for n in range(40 - len(left), 40)}
        assert connection.zcard("rq-clock:default:outputs") == len(left)

    def test_one_that_grows_counts_once(self, connection: Any) -> None:
        outputs = Outputs(connection, hours=1, limit=self.MB)
        outputs.write("default", "old", b"x")
        for n in range(1000):
            outputs.write("default", "new", b"x" * (60_000 + n % 100))
        assert self.sizes(connection).keys() == {"old", "new"}

    def test_small_ones_take_room_too(self, connection: Any) -> None:
        outputs = Outputs(connection, hours=1, limit=200_000)
        for n in range(1000):
            outputs.write("default", f"job-{n}", b"x")
        assert 500 < len(self.sizes(connection)) < 800
