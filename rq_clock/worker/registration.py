"""The place of a worker among the living: its name, which no other has at a time, and its record
for RQ's tools.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError
from rq.worker import Worker, WorkerStatus

from rq_clock.jobs import outcomes
from rq_clock.jobs.executions import Executions
from rq_clock.log import log_event
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings
from rq_clock.worker.task import log_end


class Registration:
    """That of one worker. Methods raise redis-py's RedisError and OSError."""

    def __init__(
        self, worker: Worker, executions: Executions, runtime: Runtime, settings: Settings
    ) -> None:
        self._worker, self._executions = worker, executions
        self._runtime, self._settings = runtime, settings
        self.named = False
        """Whether the name is this worker's."""
        self._rival = ""
        """The sign of life of another worker with this name."""

    def take_name(self) -> bool:
        """Take the place of this name among the living. Return False while another worker may have
        it: the first sign of life that it gives ends this one with a ValueError, a long silence
        frees the name."""
        name = self._worker.name
        sign = self._executions.register(name, self._runtime.now())
        if not sign or self.named:
            self.named, self._rival = True, ""
            return True
        if self._rival and self._rival != sign:
            raise ValueError(f"There exists an active worker named {name!r} already")
        if not self._rival:
            seconds = self._settings.worker_silence
            log_event("worker.waiting", name=name, reason="the name is taken", seconds=seconds)
        self._rival = sign
        return False

    def announce(self) -> None:
        """Write what RQ's tools show of a worker, unless it is there."""
        worker = self._worker
        if worker.connection.exists(worker.key):
            return
        try:
            info: Any = worker.connection.client_info()
            worker.ip_address = info["addr"]
        except (ResponseError, KeyError):  # only RQ's tools show it
            worker.ip_address = "unknown"
        worker.register_birth()  # type: ignore[no-untyped-call]
        worker.set_state(WorkerStatus.IDLE)

    def leave(self) -> None:
        """Give the name back, and with it a job that was taken in a reply that was lost, just
        before the worker had to end. Raises Evicted."""
        if not self.named:
            return
        execution = self._executions.take(self._worker.name, [], self._runtime.now())
        if execution is not None:
            error, limit = "the worker had to end", self._settings.max_interruptions
            outcome = outcomes.interrupted(execution, self._runtime.now(), limit, error=error)
            self._executions.close(execution, outcome)
            log_end(execution, outcome)
        self._worker.register_death()  # type: ignore[no-untyped-call]
        self._executions.unregister(self._worker.name)
