"""Callbacks on real parts: a server, a clock, workers and a receiver, each a process of its own."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from redis import Redis

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.settings import Settings
from tests.callbacks.receiver import ReceiverProcess
from tests.clock.storm import ClockProcess
from tests.helpers import wait_until
from tests.server import Server, free_url
from tests.worker.storm import Dyno

KEY = "a-key-of-thirty-two-characters-or-more"
AT_ONCE = 1000
WORKER = "from rq_clock import run_worker\nrun_worker()\n"


class Lab:
    """Everything that calls tasks; a context manager. `workers` serve the queue callbacks alone."""

    def __init__(
        self, path: Path, *, workers: int = 1, binary: str | None = None, **directives: str
    ) -> None:
        self.path = path
        self._workers = workers
        server: dict[str, Any] = {"binary": binary} if binary else {}
        self.server = Server(path / "server", free_url(), **server, **directives)
        self.receiver = ReceiverProcess(path / "receiver.log")
        self.env = {
            "REDIS_URL": self.server.url,
            "RQ_CLOCK_CALLBACKS_KEY": KEY,
            "RQ_CLOCK_WEBHOOK_ALLOW": "127.0.0.0/8",
            "RQ_CLOCK_WORKER_SILENCE": "3",
        }

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            (self.path / "server").mkdir(parents=True)
            stack.enter_context(self.server)
            stack.enter_context(self.receiver)
            self.redis: Any = stack.enter_context(Redis.from_url(self.server.url))
            self.callbacks = Callbacks(settings=Settings.from_env(self.env))
            self._stack = stack.pop_all()
        self.clock = self.start_clock()
        self.dynos = [self.start_worker() for _ in range(self._workers)]
        self.clock.wait_for("clock.leading")
        for dyno in self.dynos:
            dyno.wait_for("worker.serving")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start_clock(self) -> ClockProcess:
        env = {name: value for name, value in self.env.items() if name != "REDIS_URL"}
        clock = ClockProcess(self.path / "clocks", self.server.url, "", **env)
        return self._stack.enter_context(clock)

    def start_worker(self) -> Dyno:
        dyno = Dyno(self.path / "workers", "callbacks", script=WORKER, **self.env)
        return self._stack.enter_context(dyno)

    def add(self, count: int, path: str, **options: Any) -> list[str]:
        """Add tasks for the receiver, and return their ids."""
        task = NewTask(url=f"{self.receiver.url}{path}", auth="s3cret", **options)
        ids: list[str] = []
        while len(ids) < count:
            some = [task] * min(AT_ONCE, count - len(ids))
            ids += [added.id for added, _ in self.callbacks.enqueue_many(some)]
        return ids

    def wait_for(self, done: int, *, timeout: float = 600) -> None:
        """Wait until so many tasks are done."""
        pause = threading.Event()

        def there() -> bool:
            pause.wait(0.3)
            return self.callbacks.status().done >= done

        wait_until(there, f"{done} tasks are done", timeout=timeout)
