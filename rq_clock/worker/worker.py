"""The worker: RQ's, made to survive restarts and outages of a platform.

One loop, no threads. It takes a job, hands it to the work horse (work_horse.py), and waits for the
first of: the job's end, a signal, a command of RQ, the next heartbeat, the job's time limit. All
its writes about a job go through jobs/executions.py, in two scripts: take and close. For its death
at any point between see docs/internals/crashes.md.

SIGTERM and SIGINT mean the same, once or repeated: no new job; the running one may go on for
RQ_CLOCK_GRACE_SECONDS; then it goes back to the front of its queue, and that is no failure. An
outage of Redis ends nothing: the job runs on, and its end is stored when Redis is back.

Idle, it waits without polling: Redis announces when a queue changes (client tracking), so it serves
any number of queues in order over one connection.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import Any

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError, ResponseError
from rq import Queue
from rq import Worker as RQWorker
from rq.job import Job
from rq.worker import DequeueStrategy

from rq_clock.jobs import outcomes
from rq_clock.jobs.executions import Evicted, Executions
from rq_clock.jobs.outcomes import Execution, Outcome
from rq_clock.jobs.reaper import Reaper
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings
from rq_clock.store.client import SHORTEST_PAUSE, Reconnect, is_outage, socket_of
from rq_clock.worker.work_horse import JobRunner, WorkHorse

BEAT = 2.0
"""Seconds between two heartbeats."""
OVERTIME = 5.0
"""Seconds that a job gets beyond its timeout before its process is killed: RQ's own alarm raises
in the job first, unless the job is deep in a C library or catches everything."""
INTERRUPT_SECONDS = 1.0
"""Seconds for a job, when the grace is over, to release locks and close files: `Interrupted` is
raised in it; then its process is killed."""
FLUSH_SECONDS = 5.0
"""Seconds for the process of a job that did not succeed to end by itself, while libraries send the
errors that they collected. Then it is killed."""
LAST_TRY = 4.0
"""Seconds beyond the grace for which a worker without Redis tries to store an outcome."""
LAST_PAUSE = 0.5
"""Seconds between two of these attempts."""
POLL = 0.1
"""Seconds between two looks at the queues of a server without client tracking."""
MAINTENANCE = 600.0
"""Seconds between two runs of RQ's own cleaning of its registries."""


class Worker(RQWorker):
    """A worker for `queues`, highest priority first; its name is unique by itself.

    `work()` serves until a signal and returns whether it ran any job.
    """

    def __init__(
        self, queues: Any, name: str | None = None, *, settings: Settings | None = None,
        runtime: Runtime | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self._runtime = runtime or Runtime(signal.SIGCHLD)
        self._signals = self._runtime.signals
        self._settings = settings or Settings.from_env()
        options["prepare_for_work"] = False  # would talk to Redis here, which may be away
        super().__init__(queues, name or self._settings.instance, **options)
        self._executions = Executions(
            self.connection, self._settings.namespace, runs=self._settings.runs
        )
        self._faults = FaultLog()
        self._reaper = Reaper(self._executions, self._settings.max_interruptions)
        self._subscription: PubSub | None = None
        self._tracking = True
        self._condition = ""
        self._reconnect = Reconnect(self._settings.redis_url)
        self._served = False
        self._runner: JobRunner | None = None
        self._horse: WorkHorse | None = None
        self._dismissed: list[WorkHorse] = []
        self._finishing: WorkHorse | None = None
        """The process of a job that did not succeed. The outcome is stored once it has ended."""
        self._finishing_until = float("inf")
        self._task: _Task | None = None
        self._interrupted = False
        self._beat_at = self._clean_at = 0.0
        self._stop_at = float("inf")
        self._ended = 0
        self._finished = False
        """Whether it has waited for a job as long as `max_idle_time` allows."""
        self._look = True
        """Whether there may be a job."""
        self._fruitless_looks = 0
        self._unmanaged: set[str] = set()
        self._idle_since = 0.0

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # RQ would make every command of it wait for minutes

    # ---- the loop -------------------------------------------------------------------------------

    def work(  # noqa: PLR0913 - RQ's signature
        self,
        burst: bool = False,
        logging_level: str | None = "WARNING",
        date_format: str = "",
        log_format: str = "",
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Serve until SIGTERM or SIGINT; with `burst` until the queues are empty, with `max_jobs`
        until that many jobs have ended, with `max_idle_time` until no job came for that many
        seconds.

        `logging_level` is that of RQ's own lines. `with_scheduler` changes nothing: RQ's scheduled
        jobs are taken care of anyway.
        """
        logging.getLogger("rq.worker").setLevel(logging_level or logging.WARNING)
        self._dequeue_strategy = dequeue_strategy
        self._burst, self._max_jobs, self._max_idle = burst, max_jobs, max_idle_time
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._idle_since = self._runtime.monotonic()
        with self._runtime:
            try:
                while self._go_on():
                    self._attempt()
            finally:
                self._deregister()
        return self._ended > 0

    def _go_on(self) -> bool:
        if self._task is not None:
            return not (
                self._subscription is None and self._runtime.monotonic() >= self._stop_at + LAST_TRY
            )
        if self._max_jobs is not None and self._ended >= self._max_jobs:
            return False
        return not (self._signals.stopping or self._finished)

    def _attempt(self) -> None:
        """Do one step. Handle outages, and that others counted this worker as dead."""
        try:
            if self._subscription is None:
                self._register()
            self._step()
            self._reconnect.succeeded()
        except Evicted as error:
            log_warning(
                "worker.gone", reason=error, job=self._task.job_id if self._task else "none"
            )
            self._forget()
            self._disconnect()
        except (RedisError, OSError) as error:
            pause = self._reconnect.try_again(error)
            self._enter("outage")
            self._disconnect()
            self._wait(min(pause, LAST_PAUSE) if self._signals.stopping else pause)

    def _step(self) -> None:
        if self._horse is None and not (self._task and self._task.outcome):
            self._start_horse()
        if self._runtime.monotonic() >= self._beat_at:
            self._beat()
        if self._task is not None and self._task.outcome is not None and self._finishing is None:
            self._close(self._task.execution, self._task.outcome)
        elif self._task is not None:
            self._wait(self._beat_at - self._runtime.monotonic())
        elif self._look and (execution := self._take()) is not None:
            self._begin(execution)
        elif not self._idle():
            self._finished = True

    def _take(self) -> Execution | None:
        return self._executions.take(self.name, self._queues(), self._runtime.wall())

    def _idle(self) -> bool:
        """Wait until there may be a job. Return False when the waiting time is over."""
        if self._burst:
            return False
        self._look = True
        for_good = self._idle_since + self._max_idle if self._max_idle else float("inf")
        if self._executions.suspended:
            self._enter("suspended")
            self._wait(min(BEAT, for_good - self._runtime.monotonic()))
        elif not self._watch_queues():
            self._fruitless_looks = 0
            until = min(self._beat_at, for_good)
            self._wait(until - self._runtime.monotonic() if self._tracking else POLL)
        else:  # it came just now; or the key is no queue and holds no job
            self._fruitless_looks += 1
            self._wait(POLL if self._fruitless_looks > 1 else 0)
        return self._runtime.monotonic() < for_good

    # ---- Redis comes and goes -------------------------------------------------------------------

    def _register(self) -> None:
        """Register in Redis, and subscribe to commands and changes of queues."""
        sock: Any = self.connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        sock.execute_command("CLIENT", "ID")
        self._subscription_id = int(sock.connection.read_response())
        sock.subscribe(self.pubsub_channel_name, "__redis__:invalidate")
        self._executions.register(self.name, self._runtime.wall())
        if not self.connection.exists(self.key):
            self.register_birth()  # type: ignore[no-untyped-call]
        self._subscription, self._beat_at = sock, 0.0
        self._reconnect.answered()
        self._enter("serving", queues=",".join(self.queue_names()))

    def _disconnect(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        self.connection.connection_pool.disconnect()
        self._reaper.forget()

    def _enter(self, condition: str, **fields: Any) -> None:
        """Enter a condition, and log it when it has just begun."""
        before, self._condition = self._condition, condition
        if condition == before:
            return
        if condition == "suspended":
            log_event("worker.suspended", remedy="`rq resume`")
        elif before == "suspended":
            log_event("worker.resumed")
        if condition == "serving" and not self._served:
            self._served = True
            log_event("worker.serving", name=self.name, connections=2, **fields)

    def _beat(self) -> None:
        self._beat_at = self._runtime.monotonic() + BEAT
        if self._executions.beat(self.name, self.worker_ttl + 60, self._runtime.wall()):
            due = self._reaper.look(self._runtime.monotonic(), self._runtime.wall())
            pause = (due - self._runtime.wall()).total_seconds() if due else BEAT
            self._beat_at = self._runtime.monotonic() + min(max(pause, SHORTEST_PAUSE), BEAT)
        if self._task is None and self._runtime.monotonic() >= self._clean_at:
            self._clean_at = self._runtime.monotonic() + MAINTENANCE
            self._clean()
            self._look_for_others()

    def _clean(self) -> None:
        """Run RQ's own housekeeping. A job that it cannot read does not end the worker."""
        try:
            self.clean_registries()  # type: ignore[no-untyped-call]
        except Exception as error:
            if is_outage(error):
                raise
            self._faults.report("duty.failed", error, duty="registries")

    def _look_for_others(self) -> None:
        for worker, queues in self._executions.foreign(self.queue_names()).items():
            if worker not in self._unmanaged:
                self._unmanaged.add(worker)
                effect = "it keeps no groups, and its jobs are not safe from restarts"
                log_warning("worker.foreign", worker=worker, queues=",".join(queues), effect=effect)

    def _watch_queues(self) -> bool:
        """Subscribe to the next change of the queues. Return whether one has a job already."""
        keys = self.queue_keys()
        pipe: Any = self.connection.pipeline(transaction=False)
        if self._tracking:
            pipe.execute_command(
                "CLIENT", "TRACKING", "ON", "REDIRECT", self._subscription_id, "OPTIN"
            )
            pipe.execute_command("CLIENT", "CACHING", "YES")
        pipe.exists(*keys)
        *answers, waiting = pipe.execute(raise_on_error=False)
        for answer in [*answers, waiting]:
            if isinstance(answer, ResponseError) and self._tracking:
                log_warning("worker.polling", reason=answer, seconds=POLL)
                self._tracking = False
            elif isinstance(answer, Exception):
                raise answer
        return bool(self._tracking and waiting)

    def _deregister(self) -> None:
        until = self._runtime.monotonic() + LAST_TRY / 2  # for the webhooks of the last job
        while self._dismissed and self._runtime.monotonic() < until:
            self._runtime.wait(until - self._runtime.monotonic())
            self._dismissed = [horse for horse in self._dismissed if horse.exit_status() is None]
        for horse in self._dismissed:
            horse.kill()
            horse.exit_status(wait=True)
        self._stop_horse()
        try:
            if self._subscription is not None and self._task is None:
                self._give_back()
                self.register_death()  # type: ignore[no-untyped-call]
                self._executions.unregister(self.name)
        except (RedisError, OSError, Evicted) as error:
            log_warning("worker.unregistered", reason=error)
        log_event("worker.stopped", jobs=self._ended)

    def _give_back(self) -> None:
        """Put back a job that this worker took in a reply that was lost, just before it had to
        end."""
        execution = self._executions.take(self.name, [], self._runtime.wall())
        if execution is not None:
            error, limit = "the worker had to end", self._settings.max_interruptions
            outcome = outcomes.interrupted(execution, self._runtime.wall(), limit, error=error)
            self._executions.close(execution, outcome)
            self._report(execution, outcome)

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        """RQ's cleaning found a job that a stock worker took and never began: nothing of it has
        run, so it goes back to the front."""
        pipe = self.connection.pipeline()
        pipe.hset(job.key, mapping={"status": "queued", "worker_name": ""})
        pipe.lrem(queue.key, 0, job.id)
        pipe.lpush(queue.key, job.id)
        pipe.execute()
        log_warning("job.found", job=job.id, queue=queue.name, reason="taken and never begun")

    # ---- a job ----------------------------------------------------------------------------------

    def _queues(self) -> list[str]:
        return [queue.name for queue in self._ordered_queues]

    def _begin(self, execution: Execution) -> None:
        self._enter("serving")
        queue = next(q for q in self.queues if q.name == execution.queue)
        self.reorder_queues(reference_queue=queue)
        task = _Task(execution, self._runtime.monotonic())
        if self._horse is None:
            self._start_horse()
        assert self._horse
        if not self._horse.begin(execution):  # it died idle
            self._stop_horse()
            self._start_horse()
            self._horse.begin(execution)
        self._task = task  # not before: if the fork fails, Redis grants the job again

    def _close(self, execution: Execution, outcome: Outcome) -> None:
        """Store how the job ended and, with that, take the next one."""
        following = None
        if self._goes_on_after(execution):
            following = self._executions.close_and_take(
                execution, outcome, self._queues(), self._runtime.wall()
            )
        else:
            self._executions.close(execution, outcome)
        self._ended += 1
        self._forget(keep_horse=True)
        if following is not None:
            self._begin(following)
        self._look = following is not None or not self._goes_on_after(execution)
        self._report(execution, outcome)

    def _goes_on_after(self, execution: Execution) -> bool:
        """Return whether the next job may be taken in the same script."""
        enough = self._max_jobs is not None and self._ended + 1 >= self._max_jobs
        return not (self._signals.stopping or enough or self._runtime.monotonic() >= self._beat_at)

    def _forget(self, *, keep_horse: bool = False) -> None:
        """Forget the job: it is not this worker's any more."""
        horse, task = self._horse, self._task
        self._task = self._stopped_job_id = None
        self._idle_since = self._runtime.monotonic()
        if not keep_horse:
            self._stop_horse()
        elif horse is None:
            return
        elif task is not None and task.webhooks:
            horse.stored()
            self._dismiss()
        elif self._needs_replacing(horse):
            self._dismiss()

    def _report(self, execution: Execution, outcome: Outcome) -> None:
        origin = execution.origin
        fields: dict[str, Any] = {"job": execution.job_id, "queue": execution.queue}
        if origin:
            fields = {"schedule": origin.schedule, "fire_time": origin.fire_time, **fields}
        seconds = (outcome.ended - execution.started).total_seconds()
        fields |= {"state": outcome.state, "attempt": execution.attempt, "took": f"{seconds:.3f}s"}
        if outcome.error:
            fields["error"] = outcome.error
        if outcome.again:
            fields["again"] = outcome.again
        log_event("run.ended" if origin else "job.ended", **fields)

    # ---- the horse ------------------------------------------------------------------------------

    def _start_horse(self) -> None:
        """Have a process ready for the next job."""
        if self._runner is None:  # expensive to make, so only once; makes no connection
            redis, limit = self._runtime.connect(self._settings), self._settings.max_interruptions
            self._runner = JobRunner(self.name, redis, self._exc_handlers, max_interruptions=limit)
        sock = socket_of(self._subscription.connection) if self._subscription else None
        closed = [self._signals.close, self.connection.connection_pool.reset]
        self._horse = WorkHorse(self._runner, [*closed, *([sock.close] if sock else [])])
        self._horse_pid = self._horse.pid

    def _stop_horse(self) -> None:
        """End the process, and all that its job has started."""
        for horse in (self._horse, self._finishing):
            if horse is not None:
                horse.kill()
                horse.exit_status(wait=True)
                horse.dismiss()
        self._horse, self._horse_pid = None, 0
        self._finishing, self._finishing_until = None, float("inf")

    def _retire(self, horse: WorkHorse) -> None:
        """Wait for the end of the process, which ends after a job that did not succeed, and fork
        the next one meanwhile."""
        horse.dismiss()
        now = self._runtime.monotonic()
        self._finishing = horse
        self._finishing_until = min(
            now + FLUSH_SECONDS, max(now, self._stop_at) + INTERRUPT_SECONDS
        )
        self._horse, self._horse_pid = None, 0
        if not self._signals.stopping:
            self._start_horse()
        self._look_at_finishing()  # its SIGCHLD may have come with the job's end

    def _look_at_finishing(self) -> None:
        if self._finishing is not None and self._finishing.exit_status() is not None:
            self._finishing.kill()  # and processes that its job has left
            self._finishing, self._finishing_until = None, float("inf")

    def _dismiss(self) -> None:
        """Let the process end by itself."""
        assert self._horse
        self._horse.dismiss()
        self._dismissed.append(self._horse)
        self._horse, self._horse_pid = None, 0

    def _needs_replacing(self, horse: WorkHorse) -> bool:
        if horse.jobs >= self._settings.horse_jobs:
            return True
        return horse.grown() > self._settings.horse_mb * 1024 * 1024

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Carry out RQ's commands `stop-job` and `kill-horse`."""
        if self._horse is not None and self._running is not None:
            self._horse.kill("by command")

    @property
    def _running(self) -> _Task | None:
        """Return the job that runs, unless it has ended."""
        return self._task if self._task and self._task.outcome is None else None

    # ---- waiting --------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Sleep for `seconds` or until something happens, and handle it."""
        running = self._running
        limit = min(running.kill_at, self._stop_at) if running else self._finishing_until
        seconds = min(seconds, limit - self._runtime.monotonic())
        sock = socket_of(self._subscription.connection) if self._subscription else None
        others: list[Any] = [sock] if sock else []
        if self._horse is not None and (running or self._task is None):
            others.append(self._horse)
        was_stopping = self._signals.stopping
        ready = self._runtime.wait(seconds, *others)
        if self._signals.stopping and not was_stopping:
            self._prepare_to_stop()
        if self._horse in ready or self._signals.ended_child:
            self._look_at_horse()
        if sock in ready:
            self._handle_commands()
        now = self._runtime.monotonic()
        running = self._running
        if running is not None and self._horse is not None:
            if now >= self._stop_at and not self._interrupted:
                self._interrupted, self._stop_at = True, now + INTERRUPT_SECONDS
                self._horse.interrupt()
            elif now >= self._stop_at:
                self._horse.kill(outcomes.INTERRUPTED)
            elif now >= running.kill_at:
                self._horse.kill(outcomes.TIMED_OUT)
        if self._finishing is not None and now >= self._finishing_until:
            self._finishing.kill()
            self._finishing_until = float("inf")

    def _prepare_to_stop(self) -> None:
        self._stop_at = self._runtime.monotonic() + self._settings.grace_seconds
        log_event("worker.stopping", running=self._task.job_id if self._task else "none")
        if self._horse is not None and self._running is not None:
            self._horse.request_stop()

    def _handle_commands(self) -> None:
        """Carry out RQ's commands. Messages of changed queues only end the waiting."""
        assert self._subscription
        connection: Any = self._subscription.connection
        while True:
            message = self._subscription.get_message(timeout=0)
            if message is not None and message["channel"] == self.pubsub_channel_name.encode():
                self.handle_payload(message)  # type: ignore[no-untyped-call]
            if message is None and not connection.can_read(timeout=0):
                return

    def _look_at_horse(self) -> None:
        self._signals.ended_child = False
        self._dismissed = [horse for horse in self._dismissed if horse.exit_status() is None]
        self._look_at_finishing()
        horse = self._horse
        if horse is None:
            return
        sent = horse.outcome()
        running = self._running
        if sent is not None and running is not None:
            running.outcome, running.webhooks = sent
            if running.outcome.state != outcomes.OK and not running.webhooks:
                self._retire(horse)
            return
        if horse.disconnected:
            horse.kill()
        status = horse.exit_status()
        if status is None:
            return
        if running is not None:
            running.outcome = self._death(running.execution, status)
        horse.kill()  # and processes that its job has left
        horse.dismiss()
        self._horse, self._horse_pid = None, 0

    def _death(self, execution: Execution, status: int) -> Outcome:
        """Return the outcome of a job whose process has ended."""
        assert self._horse
        now, why = self._runtime.wall(), self._horse.kill_reason
        by = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        if self._stopped_job_id == execution.job_id:
            trace = "Job stopped by user, work-horse terminated."
            return outcomes.failed(execution, now, trace, state=outcomes.STOPPED)
        if why == outcomes.INTERRUPTED or (self._signals.stopping and os.WIFSIGNALED(status)):
            error = f"the worker had to end ({by})"
            return outcomes.interrupted(
                execution, now, self._settings.max_interruptions, error=error
            )
        if why == outcomes.TIMED_OUT:
            trace = f"Task exceeded maximum timeout value ({execution.timeout} seconds)"
            return outcomes.failed(execution, now, trace, state=outcomes.TIMED_OUT)
        trace = f"Work-horse terminated unexpectedly; waitpid returned {status} ({by})"
        return outcomes.failed(execution, now, trace)


class _Task:
    """The job of a worker: taken, then handed to the horse, then ended but not stored."""

    def __init__(self, execution: Execution, began: float) -> None:
        self.execution = execution
        timeout = execution.timeout
        self.kill_at = began + timeout + OVERTIME if timeout > 0 else float("inf")
        self.outcome: Outcome | None = None
        self.webhooks = False
        """Whether the horse still calls RQ's webhooks, once the outcome is stored."""

    @property
    def job_id(self) -> str:
        return self.execution.job_id
