"""What a command prints: in the log, in its record. Real processes, a real Redis."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from rq_clock.model.targets import command
from rq_clock.redaction import MASK, Secrets
from rq_clock.runners import output
from rq_clock.runners.tasks import keep_output, run_command
from tests.helpers import Events, wait_until
from tests.process import ROOT
from tests.runners.lab import JOB_ID, KEY, enqueue, lines, ran, work

pytestmark = pytest.mark.process


class TestOutput:
    def test_not_utf_8_is_shown_as_escapes(self, events: Events) -> None:
        run_command(r"printf 'a\377b\nf\303\274r\n'")
        assert lines(events) == [r"a\xffb", "für"]

    def test_a_line_without_an_end_is_a_line(self, events: Events) -> None:
        run_command("printf one; printf two >&2")
        assert (lines(events), lines(events, "stderr")) == (["one"], ["two"])

    def test_terminals_are_not_obeyed(self, events: Events) -> None:
        run_command(r"printf '\033[31mred\033[0m \033]0;title\007\007end\n10%%\r99%%\r\n'")
        assert lines(events) == [r"red \x07end", "99%"]

    def test_a_long_line_is_cut_and_marked(self, events: Events) -> None:
        run_command("head -c 3000 /dev/zero | tr '\\0' x; echo; head -c 99999 /dev/zero")
        first, second = events("run.output")
        assert first["line"] == "x" * 1999 + "…"
        assert first["cut_of_bytes"] == 3000
        assert len(second["line"]) == 2000
        assert second["cut_of_bytes"] == 99999

    def test_a_thousand_lines_are_logged_and_the_rest_is_counted(self, events: Events) -> None:
        run_command("seq 1 2500; printf tail; seq 1 10 >&2")
        assert len(events("run.output")) == 1000
        assert lines(events)[-1] == "1000"
        assert events("run.output_cut") == [{"logged": 1000, "more_lines": 1511}]

    def test_a_thousand_lines_are_all_logged(self, events: Events) -> None:
        run_command("seq 1 1000")
        assert len(events("run.output")) == 1000
        assert not events("run.output_cut")

    def test_the_record_is_what_was_printed(self, connection: Any) -> None:
        ran(connection, command(r"echo one; printf 'a\377\nb'"))
        assert connection.get(KEY) == b"one\na\xff\nb"
        assert 71 * 3600 < connection.ttl(KEY) <= 72 * 3600

    def test_the_record_of_a_failure_is_kept_for_as_long_as_it_is_set(
        self, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RQ_CLOCK_OUTPUT_HOURS", "2")
        job = ran(connection, command("echo broken >&2; exit 9"))
        assert job.get_status() == "failed"
        assert connection.get(KEY) == b"broken\n"
        assert 3600 < connection.ttl(KEY) <= 2 * 3600

    def test_a_run_that_prints_nothing_leaves_nothing_of_the_one_before(
        self, connection: Any
    ) -> None:
        keep_output(connection, "default", JOB_ID, b"before")
        ran(connection, command("true"))
        assert connection.get(KEY) == b""

    def test_the_record_can_be_followed_while_it_runs(
        self, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(output, "WRITE_SECONDS", 0.05)
        enqueue(connection, command("echo one; until [ -e go ]; do :; done; echo two", timeout=20))

        def follow() -> None:
            wait_until(lambda: connection.get(KEY) == b"one\n", "the first line")
            Path("go").touch()

        watcher = threading.Thread(target=follow)
        watcher.start()
        work(connection)
        watcher.join()
        assert connection.get(KEY) == b"one\ntwo\n"

    def test_of_much_output_the_end_is_kept_from_a_whole_line_on(self, connection: Any) -> None:
        ran(connection, command("seq 1 50000"))
        kept = connection.get(KEY)
        first, *rest = kept.decode().splitlines()
        assert 63 * 1024 < len(kept) <= 64 * 1024
        assert rest == [str(n) for n in range(int(rest[0]), 50001)]
        everything = "".join(f"{n}\n" for n in range(1, 50001))
        assert first == f"[{len(everything) - len(kept) + len(first) + 1} bytes came before]"

    def test_a_record_that_cannot_be_written_is_logged_once(
        self, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(output, "WRITE_SECONDS", 0.01)
        tries = []

        def away(kept: bytes) -> None:
            tries.append(kept)
            raise ConnectionError("nobody there")

        with output.Record(lambda: b"x", away) as record:
            record.changed()
            wait_until(lambda: len(tries) == 1, "a try")
            record.changed()
            wait_until(lambda: len(tries) == 2, "another")
        assert events("run.output_lost") == [{"reason": "nobody there"}]

    def test_a_redis_that_is_stuck_does_not_hold_up_the_command(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(output, "WRITE_SECONDS", 0.01)
        monkeypatch.setattr(output, "LAST_WRITE_SECONDS", 0.1)
        over, started = threading.Event(), time.monotonic()
        with output.Record(lambda: b"x", lambda _kept: over.wait(30)) as record:
            record.changed()
            run_command("sleep 0.1")
        assert time.monotonic() - started < 25  # of 30 that the write hangs
        over.set()

    @pytest.mark.parametrize("what", ["yes", "cat /dev/zero"])
    def test_a_hundred_megabytes_fill_neither_memory_nor_redis_nor_log(
        self, what: str, connection: Any, redis_url: str
    ) -> None:
        code = (  # the peak is this process's own, not that of its parent
            "import re, sys; from rq import Queue; from redis import Redis\n"
            "from rq_clock.log import set_up; set_up(stamp=False)\n"
            "status = lambda: open('/proc/self/status').read()\n"
            "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status())[1])\n"
            "redis = Redis.from_url(sys.argv[1])\n"
            "queue = Queue('x', connection=redis, is_async=False)\n"
            "call = lambda line, name: queue.enqueue_call(\n"
            "    'rq_clock.runners.run_command', kwargs={'shell': line}, job_id=name)\n"
            "call('seq 1 5000', 'warm'); before = peak()\n"
            "call(sys.argv[2] + ' | head -c 104857600', 'hot')\n"
            "print('grown', peak() - before); redis.close()\n"
        )
        words = [sys.executable, "-W", "ignore", "-c", code, redis_url, what]
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
        )
        assert int(done.stdout.rpartition("grown ")[2]) < 8 * 1024, "kB"
        assert 50 * 1024 < connection.strlen("rq-clock:default:output:hot") <= 64 * 1024
        assert len(done.stdout) < 2000 * 60

    def test_secrets_are_in_neither_log_nor_record(
        self, connection: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("API_TOKEN", "hunter22")
        monkeypatch.setenv("DATABASE_URL", "postgres://me:sw0rdfish@db/app")
        line = (
            "env; echo token=hunter22; echo $GIVEN_KEY >&2; curl_it() { :; }; "
            "curl_it -H 'Authorization: Bearer open5esame'; exit 1"
        )
        job = ran(connection, command(line, env={"GIVEN_KEY": "xyzzy-xyzzy"}))
        record = connection.get(KEY).decode()
        assert f"API_TOKEN={MASK}" in record
        trace = job.latest_result().exc_string
        for text in (record, caplog.text, trace, job.description):
            for secret in ("hunter22", "sw0rdfish", "xyzzy-xyzzy", "open5esame"):
                assert secret not in text

    @pytest.mark.parametrize("length", [16, 100])
    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_the_cut_of_the_record_shows_no_secret(self, length: int, end: bytes) -> None:
        secret = "0123456789abcdef".rjust(length, ".")
        secrets = Secrets({"API_KEY": secret})
        for extra in range(length):
            tail = output.Tail(1024)
            tail.add((secret.encode() + end) * 100 + b" " * extra)
            assert b"f" not in tail.value(secrets).partition(b"\n")[2]

    def test_the_record_stands_under_the_namespace_of_the_schedule(
        self, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker may serve the queues of several."""
        monkeypatch.setenv("RQ_CLOCK_NAMESPACE", "other")
        ran(connection, command("echo one"))
        assert connection.get(KEY) == b"one\n"
