"""Worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process import ROOT, Process


class WorkerProcess(Process):
    def __init__(self, url: str, log: Path, **env: str) -> None:
        super().__init__(
            log, str(ROOT / "worker.py"), env={"REDIS_URL": url, **env}, new_session=True
        )


Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start a worker process: `start(RQ_CLOCK_GRACE_SECONDS="1")`."""
    with ExitStack() as stack:

        def start(url: str = redis_url, **env: str) -> WorkerProcess:
            count = len(list(tmp_path.glob("*.log")))
            process = WorkerProcess(url, tmp_path / f"worker-{count}.log", **env)
            stack.callback(process.kill)
            process.wait_for("worker.serving")
            return process

        yield start


@pytest.fixture
def horse_jobs() -> str:
    """As by default: each job has a process of its own."""
    return "1"
