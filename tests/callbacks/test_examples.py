"""docs/callbacks.md is true: its commands get the answers that it shows, and its examples do what
it says, with a clock, a worker and a web process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rq_clock.callbacks import Callbacks, Configuration
from rq_clock.cli.callbacks import SECTIONS
from rq_clock.model.new_task import NewTask
from rq_clock.model.view import camel
from rq_clock.settings import Settings
from tests.clock.storm import ClockProcess
from tests.helpers import needs, wait_until
from tests.process import ROOT, Process
from tests.server import free_url
from tests.web.api.test_docs import examples, holds
from tests.web.pages.browser import WorkerProcess
from tests.web.test_server import TOKEN, WebProcess

PAGE = (ROOT / "docs" / "callbacks.md").read_text()
EXAMPLES = ROOT / "docs" / "examples"
ENV = {
    "RQ_CLOCK_WEBHOOK_ALLOW": "127.0.0.0/8",
    "RQ_CLOCK_CALLBACKS_KEY": "0123456789abcdef0123456789abcdef",
}


class Receiver(Process):
    """One of the examples as a process, on a free port."""

    def __init__(self, path: Path, name: str, **env: str) -> None:
        port = free_url().rpartition(":")[2].partition("/")[0]
        super().__init__(path / f"{name}.log", str(EXAMPLES / name), env={"PORT": port, **env})
        self.url = f"http://127.0.0.1:{port}"


class Place:
    """Everything that runs."""

    def __init__(self, path: Path, url: str, redis: Redis) -> None:
        self.path = path
        self.stack = ExitStack()
        self.web = self.stack.enter_context(WebProcess(path, url, **ENV))
        self.url = "http://{}:{}".format(*self.web.place)
        self.stack.enter_context(ClockProcess(path / "clock", url, ""))
        (path / "worker").mkdir()
        worker = WorkerProcess(path / "worker", url, WORKER_QUEUES="default,callbacks", **ENV)
        self.worker = self.stack.enter_context(worker)
        settings = Settings.from_env({"REDIS_URL": url})
        self.callbacks = Callbacks(redis, by="ana", settings=settings)
        self.callbacks.configure({"retry_delays": [0.2], "max_retries": 100})
        self.env = {"RQ_CLOCK_URL": self.url, "RQ_CLOCK_TOKEN": TOKEN}

    def receive(self, name: str, **env: str) -> Receiver:
        return self.stack.enter_context(Receiver(self.path, name, **self.env, **env))

    def run(self, *words: str, **env: str) -> str:
        """Return the output of a command."""
        whole = {"PATH": os.environ["PATH"], **self.env, **env}
        done = subprocess.run(words, env=whole, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def done(self, id: str) -> bool:
        return self.callbacks.get(id).status == "done"


@pytest.fixture
def process(tmp_path: Path, redis_url: str, connection: Redis) -> Iterator[Place]:
    place = Place(tmp_path, redis_url, connection)
    with place.stack:
        yield place


def test_a_task_is_taken_over_and_answered_at_once(process: Place) -> None:
    receiver = process.receive("take_over.py")
    script = [sys.executable, str(EXAMPLES / "enqueue.py"), f"{receiver.url}/jobs/42"]
    id = process.run(*script).strip()
    wait_until(lambda: process.done(id), "the task to be done")
    wait_until(lambda: "worked on 42" in receiver.text(), "the work")
    [attempt] = process.callbacks.get(id).attempts
    assert (attempt.status, attempt.result) == (202, "ok")


@needs("curl")
def test_a_receiver_enqueues_itself_again(process: Place) -> None:
    receiver = process.receive("every_interval.py", INTERVAL="1", AUTH="secret-of-the-receiver")
    script = ["sh", str(EXAMPLES / "enqueue.sh"), f"{receiver.url}/jobs/feeds"]
    first = json.loads(process.run(*script, "2026-01-01T00:00:00Z"))
    assert first["executeAt"] == "2026-01-01T00:00:00Z"
    assert json.loads(process.run(*script))["status"] == "waiting"  # another chain
    wait_until(lambda: receiver.text().count("refreshed") >= 6, "three calls of each chain")
    assert "failed" not in receiver.text()
    assert process.callbacks.status().waiting <= 2


def test_a_receiver_is_called_again_while_its_work_is_in_progress(process: Place) -> None:
    receiver = process.receive("in_progress.py", WORK_SECONDS="1")
    script = [sys.executable, str(EXAMPLES / "enqueue.py"), f"{receiver.url}/jobs/43"]
    id = process.run(*script).strip()
    wait_until(lambda: process.done(id), "the task to be done")
    attempts = process.callbacks.get(id).attempts
    assert [attempt.status for attempt in attempts[:-1]] == [500] * (len(attempts) - 1)
    assert len(attempts) > 1
    assert attempts[-1].status == 200
    assert "attempt 1: in progress" in receiver.text()


@needs("curl")
def test_the_commands_of_the_page_get_the_answers_it_shows(
    redis_url: str, tmp_path: Path, connection: Redis
) -> None:
    with WebProcess(tmp_path, redis_url, **ENV) as web:
        url = "http://{}:{}".format(*web.place)
        env = {"PATH": os.environ["PATH"], "TOKEN": TOKEN, "URL": url,
               "RECEIVER": "http://127.0.0.1:9001"}  # fmt: skip
        commands = examples(PAGE)
        assert len(commands) == 4
        for command, shown in commands:
            done = subprocess.run(
                ["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert holds(shown, json.loads(done.stdout)), f"{command}\n{done.stdout}"


def test_the_page_names_every_field_and_every_command() -> None:
    names: dict[str, Any] = {"url": "webhookUrl", "auth": "webhookAuth"}
    for field in fields(NewTask):
        assert f"`{names.get(field.name, camel(field.name))}`" in PAGE, field.name
    defaults = Configuration()
    for field in fields(Configuration):
        assert f"`{field.name}`" in PAGE, field.name
    for name in ("base_interval_ms", "http_callback_timeout_ms", "select_size", "max_retries"):
        assert f"| `{name}` | {getattr(defaults, name)} |" in PAGE
    assert {"add", "list", "retry", "configure"} <= {n for rows in SECTIONS.values() for n in rows}
