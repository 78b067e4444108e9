"""The commands with which RQ enqueues a job, recorded without running them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rq import Queue, Retry
from rq.job import Job

from rq_clock.model.decision import is_on_time
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import LEDGER_CODES
from rq_clock.model.schedule import Schedule
from rq_clock.store.store import Store
from rq_clock.timing.instants import iso


class _Queue(Queue):
    """RQ's queue, with the instant of the decision as the time of enqueueing: a job that was
    built ahead must not show an earlier time than its fire time."""

    decided_at: datetime

    def _prepare_for_queue(self, job: Job) -> None:
        super()._prepare_for_queue(job)
        job.enqueued_at = self.decided_at


class JobBuilder:
    """Lets RQ make the jobs of schedules, and keeps the commands instead of running them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pipeline = store.redis.pipeline(transaction=False)
        self._queues: dict[str, _Queue] = {}

    def queue(self, name: str) -> _Queue:
        """Return a queue, one object for all jobs."""
        if name not in self._queues:
            queue = self._queues[name] = _Queue(name, connection=self._store.redis)
            # RQ checks a serializer against a Protocol for each job, a tenth of the time that a job
            # takes. Without one, RQ uses its default.
            queue.serializer = None  # type: ignore[assignment]
        return self._queues[name]

    def build(
        self,
        schedule: Schedule,
        fire_time: datetime,
        now: datetime,
        kind: str = "",
        number: str = "",
    ) -> tuple[str, str, list[tuple[Any, ...]]]:
        """Return the id, ledger code and recorded commands of the job for one fire time. `kind` and
        `number` are those of the JobId, for a run by hand or of a backfill."""
        code = kind or ("s" if is_on_time(fire_time, now) else "c")
        job_id = str(JobId(self._store.namespace, schedule.name, fire_time, kind, number))
        run = {"schedule": schedule.name, "fire_time": iso(fire_time), "reason": LEDGER_CODES[code]}
        queue = self.queue(schedule.queue)
        job = queue.create_job(
            **schedule.call(),
            job_id=job_id,
            result_ttl=schedule.result_ttl,
            failure_ttl=schedule.failure_ttl,
            retry=_retry(schedule.retries),
            meta={"rq_clock": run | ({"group": schedule.group} if schedule.group else {})},
        )
        job.created_at = queue.decided_at = now
        try:
            queue.enqueue_job(job, pipeline=self._pipeline)
            commands = _needed([args for args, _options in self._pipeline.command_stack])
        finally:
            self._pipeline.command_stack.clear()
        if schedule.group is not None:
            commands.insert(0, _group(job.key, schedule.group, schedule.group_limit))
        # A message is packed whole: text that cannot be sent must not get into one.
        "".join(w for command in commands for w in command if isinstance(w, str)).encode()
        return job_id, code, commands


def command_words(commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Return commands as scripts take them: how many, then each with the number of its words."""
    return [len(commands), *(word for command in commands for word in (len(command), *command))]


def _retry(retries: int | tuple[int, ...]) -> Retry | None:
    """Return RQ's form of a count, or of a list of delays in seconds."""
    if isinstance(retries, tuple):
        return Retry(max=len(retries), interval=list(retries))
    return Retry(max=retries) if retries else None


def _group(key: str, group: str, limit: int) -> tuple[Any, ...]:
    """Return the command that writes a job's group where lua/take.lua reads it."""
    return ("HSET", key, "rq_clock_group", group, "rq_clock_group_limit", limit)


def _needed(commands: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the commands without an HSET whose fields the next one sets again: RQ writes a new
    job's status first, and then the whole hash."""
    needed = []
    for command, following in zip(commands, [*commands[1:], ("",)], strict=True):
        same_hash = command[0] == "HSET" and command[:2] == following[:2]
        if not (same_hash and set(command[2::2]) <= set(following[2::2])):
            needed.append(command)
    return needed
