"""Commands as a worker runs them: real processes, a real Redis."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.timeouts import JobTimeoutException

from rq_clock import Clock, run
from rq_clock.errors import Interrupted
from rq_clock.log import logger
from rq_clock.model.targets import command
from rq_clock.run import Run, running
from rq_clock.runners import shell
from rq_clock.runners.tasks import CommandTimedOut, run_command
from rq_clock.testing import FakeClock
from rq_clock.timing.triggers import every
from rq_clock.worker.work_horse import LEAVE
from rq_clock.worker.worker import INTERRUPT_SECONDS
from tests.helpers import Events
from tests.process import ROOT
from tests.runners.lab import (
    FIRE_TIME,
    STOCK,
    enqueue,
    failure,
    lines,
    lives,
    pid_in,
    pids_in,
    ran,
    wait_until_gone,
    work,
)

pytestmark = pytest.mark.process


class TestCommand:
    def test_exit_code_zero_is_success(
        self, events: Events, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_command("echo one; echo two >&2; echo three")
        assert capfd.readouterr() == ("one\nthree\n", "two\n")
        assert events("command.started") == [{"command": "echo one; echo two >&2; echo three"}]
        [ended] = events("command.ended")
        assert ended["exit"] == 0
        assert float(ended["took"].removesuffix("s")) > 0

    def test_another_exit_code_is_a_failure_with_its_last_words(self, events: Events) -> None:
        text = failure("echo first >&2; echo no disk >&2; echo ' ' >&2; exit 3")
        assert text == "exit code 3; last line: no disk"
        assert events("command.ended")[0]["exit"] == 3

    def test_a_signal_is_named(self, events: Events) -> None:
        assert failure("kill -KILL $$") == "SIGKILL"
        assert events("command.ended")[0]["signal"] == "SIGKILL"
        assert failure("exit 137") == "exit code 137 (128 + SIGKILL)"

    def test_a_command_that_does_not_exist_fails(self) -> None:
        assert failure("no-such-program --x").startswith("exit code 127; last line: sh: ")
        assert "not found" in failure("no-such-program --x")

    def test_a_directory_that_does_not_exist_fails(self) -> None:
        text = failure("true", cwd="nowhere")
        assert text.startswith("cannot be started: ")
        assert "nowhere" in text

    def test_it_runs_in_its_directory_with_its_variables_and_nothing_to_read(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "data").mkdir()
        monkeypatch.setenv("FROM_APP", "app")
        monkeypatch.setenv("OVERRIDDEN", "app")
        env = {"OWN": "two words", "OVERRIDDEN": "own"}
        run_command('pwd; echo "$FROM_APP $OWN $OVERRIDDEN"; cat', cwd="data", env=env)
        assert lines(capfd) == [str(tmp_path / "data"), "app two words own"]

    def test_it_runs_at_the_apps_root_by_default(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_command("pwd")
        assert lines(capfd) == [str(tmp_path)]

    def test_it_knows_its_run(self, events: Events, capfd: pytest.CaptureFixture[str]) -> None:
        before = datetime(2026, 3, 1, 2, tzinfo=UTC)
        with running(Run("nightly", FIRE_TIME, "catch_up", previous=before)):
            run_command("env | grep ^RQ_CLOCK_ | sort")
        assert lines(capfd) == [
            "RQ_CLOCK_FIRE_TIME=2026-03-01T03:00:00Z",
            "RQ_CLOCK_PREVIOUS=2026-03-01T02:00:00Z",
            "RQ_CLOCK_REASON=catch_up",
            "RQ_CLOCK_SCHEDULE=nightly",
        ]
        assert events("command.ended")[0]["schedule"] == "nightly"

    def test_lines_of_a_python_script_come_at_once(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        script = f"{sys.executable} -c 'import os; print(1); os.kill(os.getpid(), 9)'"
        assert "SIGKILL" in failure(script)
        assert lines(capfd) == ["1"]

    def test_buffering_can_be_chosen(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONUNBUFFERED", "")
        run_command('echo "app $PYTHONUNBUFFERED"')
        run_command('echo "own $PYTHONUNBUFFERED"', env={"PYTHONUNBUFFERED": "0"})
        assert lines(capfd) == ["app ", "own 0"]

    def test_it_has_a_session_of_its_own(self, capfd: pytest.CaptureFixture[str]) -> None:
        run_command("echo $$; ps -o pgid= -o sid= -p $$")
        own, group, session = " ".join(lines(capfd)).split()
        assert own == group == session
        assert own != str(os.getpgrp())

    def test_it_leaves_no_process_thread_or_file_behind(self) -> None:
        def held() -> tuple[int, int, list[str]]:
            children = Path("/proc/thread-self/children").read_text().split()
            return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), children

        run_command("true")
        before = held()
        for _ in range(3):
            run_command("echo x; sleep 0.001 & exit 0")
            failure("exit 1")
            failure("true", cwd="nowhere")
        assert held() == before


class TestEnding:
    def test_a_timeout_ends_the_command(self, events: Events) -> None:
        with pytest.raises(CommandTimedOut, match=r"^ended by SIGTERM after 0\.2 s, its timeout$"):
            run_command("echo $$ > pid; sleep 60", timeout=0.2)
        wait_until_gone(*pids_in("pid"))
        assert events("command.ended")[0]["because"] == "timeout"
        assert issubclass(CommandTimedOut, JobTimeoutException)

    def test_a_timeout_ends_all_that_it_started_however_stubborn(self) -> None:
        stubborn = "trap '' TERM; echo $$ > {0}; while :; do sleep 60; done"
        line = (
            f'sh -c "{stubborn.format("one").replace("$$", "$$$$")}" & '
            "timeout 60 sh -c 'echo $$ > two; sleep 60' & "  # makes itself a group of its own
            "sh -c 'sh -c \"echo \\$\\$ > three; sleep 60\" & echo $$ > four; sleep 60' & "
            "trap '' TERM; echo $$ > five; sleep 60 & wait; wait"
        )
        line = line.replace("$$$$", "\\$\\$")
        with pytest.raises(CommandTimedOut, match="SIGKILL"):
            run_command(line, timeout=0.5)
        assert not any(map(lives, pids_in("one", "two", "three", "four", "five")))

    def test_a_command_may_end_well_on_shutdown(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(CommandTimedOut, match="exit code 7"):
            run_command("trap 'echo bye; exit 7' TERM; sleep 60 & wait", timeout=0.2)
        assert lines(capfd) == ["bye"]

    def test_what_a_command_leaves_behind_is_ended(self) -> None:
        run_command(
            "(trap '' TERM; echo ready > one.up; sleep 60) & echo $! > one\n"
            "sleep 60 & echo $! > two\nuntil [ -e one.up ]; do :; done"
        )
        assert not any(map(lives, pids_in("one", "two")))

    def test_what_ends_by_itself_soon_after_is_not_disturbed(self) -> None:
        run_command("(trap 'touch disturbed' TERM; sleep 0.05; touch done) & exit 0")
        assert Path("done").exists()
        assert not Path("disturbed").exists()

    def test_a_daemon_is_left_alone_and_not_waited_for(self) -> None:
        started = time.monotonic()
        run_command(
            "setsid sh -c 'echo $$ > daemon; exec sleep 60' & until [ -s daemon ]; do :; done"
        )
        assert time.monotonic() - started < 50  # of 60 that the daemon lives
        pid = pid_in("daemon")
        assert lives(pid)
        os.kill(pid, signal.SIGKILL)

    def test_rqs_own_timeout_ends_it_too(self, connection: Any, events: Events) -> None:
        kwargs = {"shell": "echo $$ > pid; trap '' TERM; while :; do sleep 60; done"}
        queue = Queue("default", connection=connection)
        job: Any = queue.enqueue("rq_clock.runners.run_command", kwargs=kwargs, job_timeout=1)
        work(connection)
        assert "JobTimeoutException" in job.latest_result().exc_string
        assert events("command.failed")[0]["reason"] == "JobTimeoutException"
        wait_until_gone(*pids_in("pid"))

    def test_the_commands_own_timeout_is_met_before_rqs(self, connection: Any) -> None:
        job = ran(connection, command("trap '' TERM; sleep 60; sleep 60", timeout=1))
        assert "CommandTimedOut: ended by" in job.latest_result().exc_string
        assert job.get_status() == "failed"

    @contextmanager
    def interrupted_after(self, name: str) -> Iterator[None]:
        """Interrupt the block as a worker does when its grace is over, once a file is there."""

        def leave(*_: object) -> None:
            raise Interrupted("the worker has to end")

        def interrupt() -> None:
            pid_in(name)
            run.stop()
            os.kill(os.getpid(), LEAVE)

        before = signal.signal(LEAVE, leave)
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            signal.signal(LEAVE, before)

    def test_the_end_of_the_grace_interrupts_a_command(
        self, events: Events, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with self.interrupted_after("pid"), pytest.raises(Interrupted, match="shutdown"):
            run_command("trap 'echo bye; exit 7' TERM; echo $$ > pid; sleep 60 & wait")
        wait_until_gone(*pids_in("pid"))
        assert events("command.ended")[0]["because"] == "its worker's shutdown"
        assert lines(capfd) == ["bye"]

    def test_the_end_of_the_grace_kills_a_stubborn_command_within_the_second_that_is_left(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shell, "GRACE_SECONDS", 60)
        assert shell.INTERRUPTED_SECONDS < INTERRUPT_SECONDS
        started = time.monotonic()
        with self.interrupted_after("pid"), pytest.raises(Interrupted, match="SIGKILL"):
            run_command("trap '' TERM; echo $$ > pid; while :; do sleep 60; done")
        assert time.monotonic() - started < 50  # of 60 that another end may take
        wait_until_gone(*pids_in("pid"))

    def test_a_shutdown_alone_interrupts_no_command(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        timer = threading.Timer(0.2, run.stop)
        timer.start()
        run_command("sleep 0.6; echo done")
        timer.join()
        assert lines(capfd) == ["done"]

    def test_a_command_that_has_just_ended_well_was_not_interrupted(self) -> None:
        with shell.Shell("true", cwd=None, env={"PATH": os.environ["PATH"]}) as running:

            def leave() -> str:
                wait_until_gone(running.pid)
                return "shutdown"

            ended = running.watch(60, lambda _stream, _chunk: None, leave)
        assert (ended.code, ended.why) == (0, "")

    def test_a_command_is_not_begun_in_a_shutdown(self) -> None:
        run.stop()
        with pytest.raises(Interrupted, match="not begun"):
            run_command("touch begun")
        assert not Path("begun").exists()

    def test_a_command_that_the_platform_ended_first_was_interrupted(self) -> None:
        """A dyno's processes all get SIGTERM at once: the command may be dead before we notice."""
        timer = threading.Timer(0.2, run.stop)
        timer.start()
        with pytest.raises(Interrupted, match="SIGTERM"):
            run_command("kill -TERM $$")
        timer.join()
        assert issubclass(Interrupted, Exception)

    def test_a_command_that_ended_itself_by_sigterm_has_failed(self) -> None:
        assert failure("kill -TERM $$") == "SIGTERM"


def test_the_stock_workers_log_gets_the_output(redis_url: str, connection: Any) -> None:
    """`rq worker` sets up nothing for us."""
    enqueue(connection, command("echo from the command"))
    code = STOCK.replace("work()", "work(burst=True)")
    words = [sys.executable, "-c", code, redis_url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "command.started schedule=nightly job=" in done.stdout
    assert "\nfrom the command\n" in done.stdout
    assert logging.getLogger("rq_clock") is logger


def test_a_fake_clock_runs_commands_too(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    clock.add("disk", every(hours=1), command("echo $RQ_CLOCK_FIRE_TIME"))
    FakeClock(clock, "2026-03-01T02:30Z").advance("2026-03-01T03:30Z")
    assert lines(capfd) == ["2026-03-01T03:00:00Z"]
