"""The housekeeping that RQ's worker does beside its jobs: expired entries of RQ's registries, and
jobs that a stock worker took and never began. It unpickles the meta of jobs, so it runs in a
process of its own.
"""

from __future__ import annotations

from rq import Queue
from rq.job import Job
from rq.worker import Worker

from rq_clock.jobs.executions import Executions
from rq_clock.log import FaultLog, log_warning
from rq_clock.runtime import Runtime
from rq_clock.worker.channel import Channel

SKEW = 60.0
"""Seconds by which this host's clock may differ from Redis's."""


class Maintenance:
    """That of one worker, with what a subclass makes of `run_maintenance_tasks`."""

    def __init__(self, worker: Worker, executions: Executions, runtime: Runtime) -> None:
        self._worker, self._executions, self._runtime = worker, executions, runtime
        self._next = 0.0
        self._unmanaged: set[str] = set()
        self._faults = FaultLog()

    def due(self) -> bool:
        """Return whether `run` has to be called now, in a fork. Log workers that are not ours once.
        Raises RedisError."""
        if self._runtime.monotonic() < self._next:
            return False
        self._look_for_others()
        self._next = self._runtime.monotonic() + self._worker.maintenance_interval
        return self._is_in_time()

    def run(self, _: Channel) -> None:
        """Run RQ's own housekeeping. What it raises is logged."""
        self._worker.handle_job_failure = self._put_back  # type: ignore[method-assign]
        try:
            self._worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except Exception as error:
            self._faults.report("duty.failed", error, duty="registries")

    def _is_in_time(self) -> bool:
        """Return whether this host's clock, by which RQ's housekeeping judges what has expired, is
        right: with a wrong one it would fail jobs that run."""
        skew = self._runtime.time.skew
        if abs(skew) > SKEW:
            effect = "RQ's registries are not cleaned by this worker"
            log_warning("time.skewed", ahead=f"{skew:.0f}s", effect=effect, remedy="use NTP")
        return abs(skew) <= SKEW

    def _put_back(self, job: Job, queue: Queue, *_: object, **__: object) -> None:
        """RQ's cleaning found a job that a stock worker took and never began: nothing of it has
        run, so it goes back to the front."""
        redis = self._worker.connection
        if not redis.exists(job.key):
            return
        pipe = redis.pipeline()
        pipe.hset(job.key, mapping={"status": "queued", "worker_name": ""})
        pipe.lrem(queue.key, 0, job.id)
        pipe.lpush(queue.key, job.id)
        pipe.execute()
        log_warning("job.found", job=job.id, queue=queue.name, reason="taken and never begun")

    def _look_for_others(self) -> None:
        for worker, queues in self._executions.foreign(self._worker.queue_names()).items():
            if worker not in self._unmanaged:
                self._unmanaged.add(worker)
                effect = "it keeps no groups, and its jobs are not safe from restarts"
                log_warning("worker.foreign", worker=worker, queues=",".join(queues), effect=effect)
