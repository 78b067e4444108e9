"""The output of the job that runs: from the pipes of its process to the log, line by line, and to
Redis about once a second.

The worker's loop does it, so it costs no thread and no connection. However fast a job prints, the
loop reads 64 kB of a stream at a time, and the job waits while its pipes are full. A record that
the server refuses is lost and logged once; in an outage it is written when Redis is back.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import cached_property
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from rq_clock.jobs.outcomes import Execution
from rq_clock.log import log_warning
from rq_clock.redaction import Secrets
from rq_clock.runners.output import Output
from rq_clock.settings import Settings, environment, known_secrets
from rq_clock.store.outputs import Outputs
from rq_clock.worker.work_horse import WorkHorse

WRITE_SECONDS = 1.0
"""From one writing of the record to the next."""


class Recorder:
    """What the outputs of a worker's jobs have in common."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.namespace, self.all = settings.namespace, settings.function_output
        self.outputs = Outputs(redis, hours=settings.output_hours, limit=settings.output_bytes)

    @cached_property
    def secrets(self) -> Secrets:
        """Those of the environment, as it was when the first job printed."""
        return known_secrets(environment())


class JobOutput:
    """The output of one attempt at a job, in whatever processes it runs."""

    def __init__(self, execution: Execution, recorder: Recorder, now: float) -> None:
        self._execution, self._recorder = execution, recorder
        self._output: Output | None = None
        self._recorded, self._lost = True, False
        # what the attempt before has left is not this one's
        self.write_at = now + WRITE_SECONDS if execution.attempt > 1 else float("inf")
        """When (monotonic seconds) the record is to be written."""

    def read(self, horse: WorkHorse, ready: Container[Any], now: float) -> None:
        """Read what has come at those descriptors."""
        self._add(horse.pipes.read(ready), now)
        self._recorded = self._recorder.all or horse.recorded

    def drain(self, horse: WorkHorse, now: float) -> None:
        """Read all that has come, before the pipes are closed."""
        self._add(horse.pipes.drain(), now)
        self._recorded = self._recorder.all or horse.recorded

    def write(self) -> None:
        """Write the record, if it has changed. Raises RedisError in an outage."""
        if self.write_at == float("inf"):
            return
        kept = self._output.kept() if self._output else b""
        origin, id = self._execution.origin, self._execution.job_id
        if self._recorded:
            try:
                # a worker may serve several namespaces
                namespace = origin.namespace if origin else self._recorder.namespace
                self._recorder.outputs.write(namespace, id, kept)
            except ResponseError as error:
                if not self._lost:
                    log_warning("run.output_lost", job=id, reason=error)
                self._lost = True
        self.write_at = float("inf")

    def finish(self) -> None:
        """Log the last lines, once or again."""
        if self._output:
            self._output.finish()

    def _add(self, chunks: Iterable[tuple[str, bytes]], now: float) -> None:
        for stream, chunk in chunks:
            if self._output is None:
                self._output = Output(self._facts(), self._recorder.secrets)
            self._output.add(stream, chunk)
            self.write_at = min(self.write_at, now + WRITE_SECONDS)

    def _facts(self) -> dict[str, str]:
        origin, id = self._execution.origin, self._execution.job_id
        if origin:
            return {"schedule": origin.schedule, "job": id}
        return {"job": id, "queue": self._execution.queue}
