"""The worker: RQ's, made to survive restarts and outages of a platform.

One loop, no threads. It takes a job, hands it to a process that was forked ahead (work_horse.py),
forks the next one, and waits for the first of: the job's end, a signal, a command of RQ, the next
heartbeat, the job's time limit. All its writes about a job go through jobs/executions.py, in two
scripts: take and close. For its death at any point between see docs/internals/crashes.md.

SIGTERM and SIGINT mean the same, once or repeated: no new job; the running one may go on for
RQ_CLOCK_GRACE_SECONDS; then it goes back to the front of its queue, and that is no failure. An
outage of Redis ends nothing: the job runs on, and its end is stored when Redis is back.

Idle, it waits without polling: Redis announces when a queue changes (client tracking), so it serves
any number of queues in order over one connection.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.worker import DequeueStrategy, WorkerStatus

from rq_clock.callbacks.queue import QUEUE as CALLBACKS
from rq_clock.jobs import outcomes
from rq_clock.jobs.executions import Evicted, Executions
from rq_clock.jobs.outcomes import Execution, Outcome
from rq_clock.jobs.reaper import Reaper
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings, withhold_secrets
from rq_clock.store.client import idle_sockets_of, is_outage, with_timeouts
from rq_clock.store.diagnosis import SHORTEST_PAUSE, Reconnect
from rq_clock.worker.channel import REUSABLE, Channel
from rq_clock.worker.hooks import FLUSH_SECONDS, Hooks, import_dispatcher, named_hooks, prepare
from rq_clock.worker.horses import Horses, reap_orphans
from rq_clock.worker.job_output import JobOutput, Recorder
from rq_clock.worker.maintenance import Maintenance
from rq_clock.worker.news import POLL, News
from rq_clock.worker.perform import AFTERWARDS, Aftermath, JobWorker
from rq_clock.worker.pipes import choose_level
from rq_clock.worker.registration import Registration
from rq_clock.worker.rq_options import refuse_what_is_ignored, set_up_logs
from rq_clock.worker.task import NOT_BEGUN, Task, log_end
from rq_clock.worker.work_horse import WorkHorse

BEATS = 5
"""Heartbeats within the time of silence that counts as death."""
AHEAD = 8
"""Processes that are forked together while one job follows the other."""
START_SECONDS = 60.0
"""Seconds for a new process to begin its job: `after_fork` runs before."""
INTERRUPT_SECONDS = 1.0
"""Seconds for a job, when the grace is over, to release locks and close files: `Interrupted` is
raised in it; then its process is killed."""
LAST_TRY = 4.0
"""Seconds beyond the grace for which a worker without Redis tries to store an outcome."""
LAST_PAUSE = 0.5
"""Seconds between two of these attempts."""
MAINTENANCE_SECONDS = 60.0
"""Seconds that RQ's own cleaning of its registries may take."""


class Worker(JobWorker):
    """A worker for `queues`, highest priority first, with all that RQ's worker takes. Its name is
    unique by itself.

    `hooks` replace what RQ_CLOCK_SETUP names.

    `work()` serves until a signal and returns whether it ran any job. Of RQ's methods a subclass
    may override those around a job (`perform_job`, `handle_job_success`, `handle_exception`, …),
    registration and maintenance; `work()` refuses one that overrides a part of RQ's own loop.
    """

    def __init__(
        self, queues: Any, name: str | None = None, *args: Any, settings: Settings | None = None,
        runtime: Runtime | None = None, hooks: Hooks | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self._chosen, self._own_hooks = settings, hooks
        at_once = options.pop("prepare_for_work", True)  # RQ would talk to Redis, which may be away
        name = name or (settings or Settings.from_env()).instance
        super().__init__(queues, name, *args, prepare_for_work=False, **options)  # type: ignore[misc]
        if at_once:
            self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._runtime = runtime or Runtime(signal.SIGCHLD)
        self._signals = self._runtime.signals
        self._faults = FaultLog()
        self._task: Task | None = None
        self._redis = self.connection

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # RQ would make every command of it wait for minutes

    # ---- the loop -------------------------------------------------------------------------------

    def work(  # noqa: PLR0913 - RQ's signature
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Serve until SIGTERM or SIGINT; with `burst` until the queues are empty, with `max_jobs`
        until that many jobs have ended, with `max_idle_time` until no job came for that many
        seconds.

        `logging_level`, if given, is that of RQ's own lines, beside ours. `with_scheduler` changes
        nothing: RQ's scheduled jobs are taken care of anyway. Raises ValueError when a living
        worker has this name, RqClockError for what cannot work.
        """
        self._dequeue_strategy = DequeueStrategy(dequeue_strategy)
        refuse_what_is_ignored(self, Worker)
        stamped = self._chosen.stamped_logs if self._chosen else True
        set_up_logs(logging_level, date_format, log_format, stamp=stamped)
        self._burst, self._max_jobs, self._max_idle = burst, max_jobs, max_idle_time
        self._begin_anew()
        prepare(self._hooks)
        choose_level(self._settings.log_level)
        with self._runtime:
            try:
                while self._go_on():
                    self._attempt()
            finally:
                self._deregister()
        return self._ended > 0

    def _begin_anew(self) -> None:
        self._settings = settings = self._chosen or Settings.from_env()
        withhold_secrets()
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        own = self._own_hooks
        self._hooks = named_hooks(settings.setup) if own is None else own
        self._redis = with_timeouts(self.connection)
        self._executions = Executions.from_settings(self._redis, settings)
        silence = settings.worker_silence
        self._recorder = Recorder(self._redis, settings)
        self._reaper = Reaper(self._executions, silence, settings.max_deaths)
        self._registration = Registration(self, self._executions, self._runtime, settings)
        self._maintenance = Maintenance(self, self._executions, self._runtime)
        serve = partial(self._serve, settings=settings)
        self._horses = Horses(partial(self._fork, serve), self._runtime)
        self._reconnect = Reconnect(settings.redis_url)
        self._signals.stopping = False
        self._news = News(self._redis, self.pubsub_channel_name)
        self._condition = ""
        self._served = False
        self._task = None
        self._interrupted = False
        self._beat_every = silence / BEATS
        self._beat_at = 0.0
        self._stop_at = float("inf")
        self._ended = 0
        self._finished = False
        """Whether it has waited for a job as long as `max_idle_time` allows."""
        self._look = True
        """Whether there may be a job."""
        self._fruitless_looks = 0
        self._idle_since = self._runtime.monotonic()

    def _go_on(self) -> bool:
        if self._task is not None:
            return not (
                not self._news.open and self._runtime.monotonic() >= self._stop_at + LAST_TRY
            )
        if self._max_jobs is not None and self._ended >= self._max_jobs:
            return False
        return not (self._signals.stopping or self._finished)

    def _attempt(self) -> None:
        """Do one step. Handle outages, and that others counted this worker as dead."""
        try:
            if not self._news.open and not self._register():
                self._wait(SHORTEST_PAUSE)
                return
            self._step()
            self._reconnect.succeeded()
        except Evicted as error:
            log_warning(
                "worker.gone", reason=error, job=self._task.job_id if self._task else "none"
            )
            self._forget()
            self._disconnect()
            self._registration.named = False
        except (RedisError, OSError) as error:
            pause = self._reconnect.try_again(error)
            self._enter("outage")
            self._disconnect()
            self._wait(min(pause, LAST_PAUSE) if self._signals.stopping else pause)

    def _step(self) -> None:
        task = self._task
        if task is None:
            self._horses.fork_ahead(1)
        if self._runtime.monotonic() >= self._beat_at:
            self._beat()
        if task is not None and task.outcome is not None and not task.finishing:
            self._close(task, task.outcome)
        elif task is not None or self._horses.crowded:
            if task and self._runtime.monotonic() >= task.output.write_at:
                task.output.write()
            until = min(self._beat_at, task.output.write_at) if task else self._beat_at
            self._wait(until - self._runtime.monotonic())
        elif self._look and (execution := self._take()) is not None:
            self._begin(execution)
        elif not self._idle():
            self._finished = True

    def _take(self) -> Execution | None:
        return self._executions.take(self.name, self._queues(), self._runtime.now())

    def _idle(self) -> bool:
        """Wait until there may be a job. Return False when the waiting time is over."""
        if self._burst:
            return False
        self._look = True
        for_good = self._idle_since + self._max_idle if self._max_idle else float("inf")
        self._enter(WorkerStatus.SUSPENDED if self._executions.suspended else "serving")
        if self._executions.suspended:
            self._wait(min(self._beat_every, for_good - self._runtime.monotonic()))
        elif not self._news.watch(self.queue_keys()):
            self._fruitless_looks = 0
            until = min(self._beat_at, for_good)
            self._wait(until - self._runtime.monotonic() if self._news.tracking else POLL)
        else:  # it came just now; or the key is no queue and holds no job
            self._fruitless_looks += 1
            self._wait(POLL if self._fruitless_looks > 1 else 0)
        return self._runtime.monotonic() < for_good

    # ---- Redis comes and goes -------------------------------------------------------------------

    def _register(self) -> bool:
        """Register in Redis, and subscribe to commands and changes of queues. Return False while
        another worker has this name and may be alive."""
        self._runtime.time.measure(self._redis)
        if not self._registration.take_name():
            self._reaper.look(self._runtime.monotonic(), self._runtime.now())
            return False
        self._registration.announce()
        self._news.subscribe()
        self._beat_at = 0.0
        if self._redis is not self.connection:
            self.connection.connection_pool.disconnect()
        self._reconnect.answered()
        self._enter("serving", queues=",".join(self.queue_names()))
        return True

    def _disconnect(self) -> None:
        self._news.close()
        for client in {self._redis, self.connection}:
            client.connection_pool.disconnect()
        self._reaper.forget()

    def _enter(self, condition: str, **fields: Any) -> None:
        """Enter a condition, and log it when it has just begun."""
        before, self._condition = self._condition, condition
        if condition == before:
            return
        if condition == WorkerStatus.SUSPENDED:
            self.set_state(condition)
            log_event("worker.suspended", remedy="`rq resume`")
        elif before == WorkerStatus.SUSPENDED and condition != "outage":
            if self._task is None:
                self.set_state(WorkerStatus.IDLE)
            log_event("worker.resumed")
        if condition == "serving" and not self._served:
            self._served = True
            self.procline(f"Listening on {','.join(self.queue_names())}")  # type: ignore[no-untyped-call]
            log_event("worker.serving", name=self.name, connections=2, **fields)

    def _beat(self) -> None:
        every = self._beat_every
        self._beat_at = self._runtime.monotonic() + every
        self._runtime.time.measure(self._redis)
        if self._executions.beat(self.name, self.worker_ttl + 60, self._runtime.now()):
            due = self._reaper.look(self._runtime.monotonic(), self._runtime.now())
            pause = (due - self._runtime.now()).total_seconds() if due else every
            self._beat_at = self._runtime.monotonic() + min(max(pause, SHORTEST_PAUSE), every)
        if self._task is None and self._maintenance.due():
            (horse,) = self._fork(self._maintenance.run, 1)
            self._horses.let_go(horse, MAINTENANCE_SECONDS)

    def _deregister(self) -> None:
        now = self._runtime.monotonic()
        self._horses.finish(min(FLUSH_SECONDS, max(self._stop_at + LAST_TRY - now, LAST_PAUSE)))
        if self._task is not None:
            self._task.output.finish()
            self._task.horse.end()
        try:
            if self._task is None:
                self._registration.leave()
        except (RedisError, OSError, Evicted) as error:
            log_warning("worker.unregistered", reason=error)
        self._disconnect()
        log_event("worker.stopped", jobs=self._ended)

    # ---- a job ----------------------------------------------------------------------------------

    def _queues(self) -> list[str]:
        return [queue.name for queue in self._ordered_queues]

    def _begin(self, execution: Execution, *, busy: bool = False) -> None:
        queue = next(q for q in self.queues if q.name == execution.queue)
        self.reorder_queues(reference_queue=queue)
        execution = replace(execution, offset=self._runtime.time.offset)
        self._task = self._hand_over(execution, execution)
        if execution.queue == CALLBACKS:
            import_dispatcher()
        self._enter("serving")
        if self._settings.horse_jobs == 1 and self._goes_on():
            self._horses.fork_ahead(AHEAD if busy else 1)

    def _hand_over(
        self, execution: Execution, job: Execution | Aftermath, output: JobOutput | None = None
    ) -> Task:
        """Let a process begin. If none can be forked, Redis grants the job again."""
        horse = self._horses.take()
        if not horse.begin(job):  # it died idle
            horse.end()
            horse = self._horses.take()
            horse.begin(job)
        self._horse_pid = horse.pid
        patience = FLUSH_SECONDS if horse.jobs > 1 else START_SECONDS
        now = self._runtime.monotonic()
        output = output or JobOutput(execution, self._recorder, now)
        return Task(execution, horse, output, now + patience)

    def _close(self, task: Task, outcome: Outcome) -> None:
        """Store how the job ended and, with that, take the next one."""
        execution, following = task.execution, None
        task.output.finish()
        task.output.write()
        if self._goes_on() and self._runtime.monotonic() < self._beat_at:
            following = self._executions.close_and_take(
                execution, outcome, self._queues(), self._runtime.now()
            )
        else:
            self._executions.close(execution, outcome)
        self._ended += 1
        self._release(task)
        if following is not None:
            self._begin(following, busy=True)
        self._look = True
        log_end(execution, outcome)

    def _goes_on(self) -> bool:
        """Return whether another job may be taken after the one in hand."""
        enough = self._max_jobs is not None and self._ended + 1 >= self._max_jobs
        return not (self._signals.stopping or enough or self._horses.crowded)

    def _release(self, task: Task) -> None:
        """Forget a job whose end is stored, and let its process go on or end."""
        self._put_down()
        horse = task.horse
        if horse.exit_status() is not None:
            horse.end()
        elif task.webhooks:
            horse.stored()
            self._horses.let_go(horse, AFTERWARDS)
        elif task.reusable and horse.grown() <= self._settings.horse_mb * 1024 * 1024:
            self._horses.give_back(horse)
        else:
            self._horses.let_go(horse)

    def _forget(self) -> None:
        """Forget the job: it is not this worker's any more."""
        if self._task is not None:
            self._task.output.finish()
            self._task.horse.end()
        self._put_down()

    def _put_down(self) -> None:
        """Have no job in hand from now on."""
        self._task = self._stopped_job_id = None
        self._horse_pid = 0
        self._idle_since = self._runtime.monotonic()

    # ---- its process ----------------------------------------------------------------------------

    def _fork(self, serve: Callable[[Channel], None], count: int) -> list[WorkHorse]:
        sockets = idle_sockets_of(self._redis)
        if self._redis is not self.connection:
            sockets += idle_sockets_of(self.connection)
        if self._news.socket is not None:
            sockets.append(self._news.socket)
        closed = [self._signals.close, *(sock.close for sock in sockets)]
        return WorkHorse.fork(count, serve, closed)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Carry out RQ's commands `stop-job` and `kill-horse`."""
        if self._running is not None:
            self._running.horse.kill("by command")
        elif self._task is None:
            super().kill_horse(sig)

    @property
    def _running(self) -> Task | None:
        """Return the job that runs, unless it has ended."""
        return self._task if self._task and self._task.outcome is None else None

    # ---- waiting --------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Sleep for `seconds` or until something happens, and handle it."""
        task, running = self._task, self._running
        limit = self._horses.next_look
        if running:
            limit = min(limit, running.limit, self._stop_at)
        elif task and task.finishing:
            limit = min(limit, task.finish_by)
        seconds = min(seconds, limit - self._runtime.monotonic())
        sock = self._news.socket
        others: list[Any] = [sock] if sock else []
        if running and not running.horse.disconnected:
            others.append(running.horse)
        if running:
            others += running.horse.pipes.readable
        was_stopping = self._signals.stopping
        ready = self._runtime.wait(seconds, *others)
        if self._signals.stopping and not was_stopping:
            self._prepare_to_stop()
        if running:
            running.output.read(running.horse, ready, self._runtime.monotonic())
        if (running and running.horse in ready) or self._signals.ended_child:
            self._look_at_processes()
        elif self._runtime.monotonic() >= self._horses.next_look:
            self._horses.look()
        if sock in ready:
            self._handle_commands()
        self._enforce_limits(self._runtime.monotonic())

    def _enforce_limits(self, now: float) -> None:
        task, running = self._task, self._running
        if running is not None:
            if now >= self._stop_at and not self._interrupted:
                self._interrupted, self._stop_at = True, now + INTERRUPT_SECONDS
                running.horse.interrupt()
            elif now >= self._stop_at:
                running.horse.kill(outcomes.INTERRUPTED)
            elif now >= running.limit:
                self._end_late(running)
        elif task is not None and now >= task.finish_by:
            task.horse.kill()
            task.finish_by = float("inf")

    def _end_late(self, task: Task) -> None:
        """Kill a process whose time is over."""
        task.horse.kill(outcomes.TIMED_OUT if task.horse.deadline > 0 else NOT_BEGUN)
        task.horse.exit_status(wait=True)
        self._look_at_processes()

    def _prepare_to_stop(self) -> None:
        self.handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        self._stop_at = self._runtime.monotonic() + self._settings.grace_seconds
        log_event("worker.stopping", running=self._task.job_id if self._task else "none")
        if self._running is not None:
            self._running.horse.request_stop()
            self._stop_requested, self._shutdown_requested_date = True, self._runtime.now()
            with suppress(RedisError, OSError):  # only RQ's tools show it
                self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]

    def _handle_commands(self) -> None:
        """Carry out RQ's commands."""
        for message in self._news.commands():
            try:
                self.handle_payload(message)  # type: ignore[no-untyped-call]
            except Exception as error:  # anybody may publish anything
                if is_outage(error):
                    raise
                self._faults.report("message.unreadable", error, channel="commands")

    def _look_at_processes(self) -> None:
        self._signals.ended_child = False
        self._horses.look()
        task = self._task
        if task is not None:
            self._look_at(task)
        task = self._task
        reap_orphans(self._horses.pids | ({task.horse.pid} if task else set()))

    def _look_at(self, task: Task) -> None:
        """Notice how the job of a process ended, or that it ended with its process."""
        horse = task.horse
        message = horse.message() if task.outcome is None else None
        if message is not None:
            task.output.drain(horse, self._runtime.monotonic())
            task.outcome, task.webhooks = message.content
            task.reusable = message.kind == REUSABLE
            if task.outcome.state != outcomes.OK and not task.webhooks:
                now = self._runtime.monotonic()
                horse.dismiss()
                until = max(now, self._stop_at) + INTERRUPT_SECONDS
                task.finish_by = min(now + FLUSH_SECONDS, until)
        if horse.disconnected and task.outcome is None:
            horse.kill()
        status = horse.exit_status()
        if status is None:
            return
        task.finish_by = float("inf")
        if task.outcome is None:
            task.output.drain(horse, self._runtime.monotonic())
        again = task.never_began
        horse.end()  # and processes that its job has left
        if again:
            self._task = self._hand_over(task.execution, task.execution, task.output)
        elif task.outcome is None:
            self._settle_death(task, status)

    def _settle_death(self, task: Task, status: int) -> None:
        """Find the outcome of a job whose process has ended without one. What RQ then calls of the
        app's own is called in a process of its own."""
        if task.aftermath is not None:
            task.outcome = task.aftermath.outcome
            return
        execution = task.execution
        stopped = self._stopped_job_id == execution.job_id
        outcome = task.death(
            self._runtime.now(),
            stopped=stopped,
            stopping=self._signals.stopping,
            limit=self._settings.max_interruptions,
            kept=not self.disable_default_exception_handler,
        )
        called = (b"stopped_callback_name",) if stopped else (b"webhooks",)
        handled = self._work_horse_killed_handler is not None or (
            type(self).handle_work_horse_killed is not Worker.handle_work_horse_killed
        )
        killed = outcome.state == outcomes.FAILED
        if any(execution.fields.get(name) for name in called) or (killed and handled):
            horse = task.horse
            after = Aftermath(execution, outcome, horse.pid, status, horse.rusage)
            self._task = self._hand_over(execution, after, task.output)
            self._task.aftermath = after
        else:
            task.outcome = outcome
