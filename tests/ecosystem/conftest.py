"""The server, the processes and the receivers that the tests of all neighbours share."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from tests.helpers import wait_until
from tests.process import Process
from tests.recorder import Handler, Recorder, serving
from tests.server import Server, free_url

Start = Callable[..., Process]
WORKER = "from rq_clock import run_worker; run_worker(['default'])"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), free_url(), appendonly="no") as server:
        yield server


@pytest.fixture
def redis_url(server: Server) -> str:
    """The URL of the server, emptied."""
    with Redis.from_url(server.url) as redis:
        redis.flushall()
    return server.url


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def queue(connection: Redis) -> Queue:
    return Queue("default", connection=connection)


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Start `python *arguments` with the server in its environment: `start("-c", WORKER)`."""
    with ExitStack() as stack:
        started: list[Process] = []

        def start(*arguments: str, **env: str) -> Process:
            log = tmp_path / f"process-{len(started)}.log"
            urls = {"REDIS_URL": redis_url, "RQ_REDIS_URL": redis_url}
            process = Process(log, *arguments, env={**urls, **env})
            started.append(stack.enter_context(process))
            return process

        yield start


class Receiver(Handler):
    """Accepts everything, uncompressed."""

    def respond(self) -> None:
        request = self.server.seen[-1]
        if request["headers"].get("Content-Encoding") == "gzip":
            request["body"] = gzip.decompress(request["body"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[Recorder]:
    """A web server that keeps what it gets."""
    with serving(Recorder(Receiver)) as recorder:
        yield recorder


def served(worker: Process) -> str:
    """Wait until a worker of ours serves its queues, and return its name."""
    return worker.wait_for("worker.serving").fields["name"]


def unfinished(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if job.get_status() not in ("finished", "failed", "stopped")]


def finish(jobs: list[Job], *processes: Process) -> None:
    """Wait until all jobs have ended. Fail at once when a process has."""

    def over() -> bool:
        for process in processes:
            assert process.process.poll() is None, process.text()[-4000:]
        return not unfinished(jobs)

    try:
        wait_until(over, "the end of all jobs", timeout=60)
    except AssertionError as error:
        logs = "\n".join(process.text()[-2000:] for process in processes)
        raise AssertionError(f"{len(unfinished(jobs))} are left: {error}\n{logs}") from None


def run_through_restarts(start_worker: Callable[[], Process], enqueue: Callable[[int], Job]) -> Any:
    """Run 100 jobs by four workers, one after the other. Each gets SIGTERM while it is at work, the
    last one with its last job. Return the ids, counted."""
    jobs: list[Job] = []
    for portion in range(4):
        worker = start_worker()
        served(worker)
        jobs += [enqueue(portion * 25 + number) for number in range(25)]
        left = 0 if portion == 3 else 10
        wait_until(lambda: len(unfinished(jobs)) <= left, "its share of the jobs")  # noqa: B023
        assert worker.end() == 0, worker.text()[-4000:]
    assert not unfinished(jobs)
    return Counter(job.id for job in jobs)


def metrics(text: str) -> dict[str, float]:
    """Read a page of metrics: `{'rq_jobs{queue="default",status="queued"}': 0.0}`."""
    lines: Any = (line.rpartition(" ") for line in text.splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in lines}
