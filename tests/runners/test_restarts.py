"""A worker restarts while a command or a web call runs. Real workers, real signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rq_clock.model.targets import command, webhook
from tests.helpers import wait_until
from tests.process import Process
from tests.recorder import Handler, Recorder, serving
from tests.runners.lab import JOB_ID, enqueue, lives, pids_in

pytestmark = pytest.mark.process


class Waiting(Handler):
    """Answers when the server's `over` is set."""

    def respond(self) -> None:
        self.server.over.wait(30)
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def web() -> Iterator[Recorder]:
    with serving(Recorder(Waiting)) as server:
        yield server


@pytest.fixture
def worker(
    redis_url: str, tmp_path: Path, web: Recorder, request: pytest.FixtureRequest
) -> Iterator[Process]:
    """A worker; the parameter is its grace in seconds."""
    env = {
        "REDIS_URL": redis_url,
        "RQ_CLOCK_GRACE_SECONDS": request.param,
        "RQ_CLOCK_WEBHOOK_ALLOW": f"127.0.0.1:{web.server_port}",
    }
    code = "from rq_clock import run_worker; run_worker()"
    with Process(tmp_path / "worker.log", "-c", code, env=env) as worker:
        yield worker


@pytest.mark.parametrize("worker", ["25"], indirect=True)
class TestWithinTheGrace:
    def test_a_command_goes_on(self, worker: Process, connection: Any, tmp_path: Path) -> None:
        ticks = tmp_path / "ticks"

        def count() -> int:
            return len(ticks.read_text()) if ticks.exists() else 0

        line = "until [ -e go ]; do printf x >> ticks; sleep 0.05; done; echo done"
        job = enqueue(connection, command(line))
        wait_until(count, "the command runs")
        worker.signal(signal.SIGTERM)
        worker.wait_for("worker.stopping")
        before = count()
        wait_until(lambda: count() > before + 10, "the command goes on")
        (tmp_path / "go").touch()
        assert worker.ended() == 0
        assert job.get_status(refresh=True) == "finished"
        assert worker.wait_for("run.output").fields["line"] == "done"

    def test_a_web_call_goes_on(self, worker: Process, connection: Any, web: Recorder) -> None:
        job = enqueue(connection, webhook(web.url, timeout=30))
        wait_until(lambda: web.seen, "the call")
        worker.signal(signal.SIGTERM)
        worker.wait_for("worker.stopping")
        web.over.set()
        assert worker.ended() == 0
        assert job.get_status(refresh=True) == "finished"


@pytest.mark.parametrize("worker", ["1"], indirect=True)
class TestAfterTheGrace:
    @pytest.mark.parametrize("everybody", [False, True], ids=["the worker", "all processes"])
    def test_a_command_goes_back_to_its_queue_and_that_is_no_failure(
        self, worker: Process, connection: Any, everybody: bool
    ) -> None:
        job = enqueue(connection, command("echo $$ > pid; sleep 60"))
        [pid] = pids_in("pid")
        horse = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for process in [pid, horse, worker.pid] if everybody else [worker.pid]:
            os.kill(process, signal.SIGTERM)
        assert worker.ended() == 0
        assert not lives(pid)
        assert job.get_status(refresh=True) == "queued"
        assert connection.lrange("rq:queue:default", 0, -1) == [JOB_ID.encode()]
        assert "ended by SIGTERM" in worker.wait_for("run.ended").fields["error"]

    def test_a_stubborn_command_is_killed_with_its_worker(
        self, worker: Process, connection: Any
    ) -> None:
        job = enqueue(connection, command("trap '' TERM; echo $$ > pid; while :; do :; done"))
        [pid] = pids_in("pid")
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
        assert not lives(pid)
        assert job.get_status(refresh=True) == "queued"

    def test_a_web_call_goes_back_to_its_queue(
        self, worker: Process, connection: Any, web: Recorder
    ) -> None:
        job = enqueue(connection, webhook(web.url, timeout=30))
        wait_until(lambda: web.seen, "the call")
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
        assert job.get_status(refresh=True) == "queued"
