"""What the tests of commands and web calls share: fixtures, and processes to look at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rq import Queue, Retry, SimpleWorker

from rq_clock.errors import CommandFailed, WebhookFailed
from rq_clock.model.schedule import declare
from rq_clock.runners.tasks import call_webhook, run_command
from rq_clock.timing.triggers import every
from tests.helpers import wait_until

FIRE_TIME = datetime(2026, 3, 1, 3, tzinfo=UTC)
JOB_ID = "default-nightly-1772334000000"
STOCK = (
    "import sys; from rq import Worker; from redis import Redis\n"
    "Worker(['default'], connection=Redis.from_url(sys.argv[1])).work()"
)
"""The worker of RQ itself."""


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed to standard output since the last look."""
    return capfd.readouterr().out.splitlines()


def failure(line: str, **options: Any) -> str:
    with pytest.raises(CommandFailed) as caught:
        run_command(line, **options)
    return str(caught.value)


def refused(url: str, **options: Any) -> str:
    with pytest.raises(WebhookFailed) as caught:
        call_webhook(url, **options)
    return str(caught.value)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(name: str) -> int:
    """Wait for the process id that a command writes into a file, and return it."""
    path = Path(name)
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"a pid in {name}")
    return int(path.read_text())


def pids_in(*names: str) -> list[int]:
    return [pid_in(name) for name in names]


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(lives, pids)), f"end of {pids}")


def enqueue(
    connection: Any, target: Any, job_id: str = JOB_ID, *, retry: Retry | None = None,
    **options: Any,
) -> Any:  # fmt: skip
    """Return the job that a schedule makes for a fire time."""
    queue = Queue("default", connection=connection)
    schedule = declare("nightly", every(hours=1), target, options)
    meta = {"schedule": "nightly", "fire_time": "2026-03-01T03:00:00Z", "reason": "schedule"}
    job = queue.create_job(**schedule.call(), job_id=job_id, retry=retry, meta={"rq_clock": meta})
    return queue.enqueue_job(job)


def work(connection: Any) -> None:
    """Run what is enqueued, here and now."""
    SimpleWorker(["default"], connection=connection).work(burst=True, logging_level="CRITICAL")


def ran(connection: Any, target: Any, **options: Any) -> Any:
    """Return the job of a fire time after it has run."""
    job = enqueue(connection, target, **options)
    work(connection)
    job.refresh()
    return job
