"""Whoever dies, however: a command does not outlive its runner. Real workers, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.command import send_stop_job_command

from rq_clock.model.targets import command
from tests.helpers import wait_until
from tests.process import ROOT, Process
from tests.runners.lab import STOCK, enqueue, pids_in, wait_until_gone

pytestmark = pytest.mark.process


OURS = "from rq_clock import run_worker; run_worker()"


class TestDeath:
    """Whoever dies, however: a command does not outlive its runner."""

    @pytest.fixture(params=[STOCK, OURS], ids=["rq", "rq-clock"])
    def worker(
        self, request: pytest.FixtureRequest, redis_url: str, tmp_path: Path
    ) -> Iterator[Process]:
        log = tmp_path / "worker.log"
        with Process(log, "-c", request.param, redis_url, env={"REDIS_URL": redis_url}) as worker:
            yield worker

    @staticmethod
    def horse_of(pid: int, worker: Process) -> int:
        """The process between a command and its worker."""
        horse = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        parent = int(Path(f"/proc/{horse}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent == worker.pid
        return horse

    def test_a_command_dies_with_its_worker(self, worker: Process, connection: Any) -> None:
        enqueue(connection, command("timeout 60 sleep 60 & echo $! > two; echo $$ > one; wait"))
        pids = pids_in("one", "two")
        worker.signal(signal.SIGKILL)
        wait_until_gone(*pids)

    def test_a_command_dies_with_its_work_horse(self, worker: Process, connection: Any) -> None:
        enqueue(connection, command("timeout 60 sleep 60 & echo $! > two; echo $$ > one; wait"))
        pids = pids_in("one", "two")
        os.kill(self.horse_of(pids[0], worker), signal.SIGKILL)
        wait_until_gone(*pids)

    def test_a_command_dies_with_the_job_that_is_stopped(
        self, worker: Process, connection: Any
    ) -> None:
        job = enqueue(connection, command("echo $$ > pid; sleep 60"))
        [pid] = pids_in("pid")
        send_stop_job_command(connection, job.id)
        wait_until_gone(pid)
        wait_until(lambda: job.get_status(refresh=True) == "stopped", "job stopped")

    def test_a_stubborn_command_is_killed_by_its_guard(self) -> None:
        code = (
            "import os, signal; from pathlib import Path; from rq_clock.runners import shell\n"
            "shell.GRACE_SECONDS = 0.3\n"
            'line = "trap \'\' TERM; timeout 60 sh -c \'trap \\"\\" TERM; echo $$ > two; "\n'
            'line += "while :; do sleep 60; done\' & echo $$ > one; while :; do sleep 60; done"\n'
            "with shell.Shell(line, cwd=None, env=os.environ) as running:\n"
            "    leave = lambda: '' if not Path('two').exists() else os.kill(os.getpid(), 9)\n"
            "    running.watch(60, lambda stream, chunk: None, leave)\n"
        )
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
        assert done.returncode == -signal.SIGKILL
        wait_until_gone(*pids_in("one", "two"))

    @pytest.mark.parametrize("step", ["_answer", "_start"])
    def test_nothing_runs_before_its_guard_stands(self, step: str) -> None:
        """Killed after the command's shell was started, but not yet let through the gate."""
        code = (
            "import os; from rq_clock.runners import shell\n"
            f"real, calls = shell.{step}, []\n"
            "def die(*args, **options):\n"
            "    calls.append(args)\n"
            f"    if len(calls) > ({step!r} == '_start'): os.kill(os.getpid(), 9)\n"
            "    process = real(*args, **options); print(process.pid, flush=True); return process\n"
            f"shell.{step} = die\n"
            "with shell.Shell('touch begun', cwd=None, env=os.environ) as running:\n"
            "    running.watch(60, lambda stream, chunk: None, lambda: '')\n"
        )
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=env, check=False, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL
        wait_until_gone(*map(int, done.stdout.split()))
        assert not Path("begun").exists()
