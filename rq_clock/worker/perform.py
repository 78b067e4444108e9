"""What runs in the work horse: RQ's worker from `perform_job` on.

RQ's own `perform_job` runs the job, with its callbacks, timeouts and exception handlers, and so do
the methods of a subclass and what Sentry and others wrap. Only the last writes to Redis come back
to the worker instead, as an `Outcome`: it stores them in one step with the end of the execution,
and only while the job is still its own. The process has no connection unless a task opens one.

A worker object that is used without its `work()`, as in `worker.perform_job(job, queue)`, does
what RQ's own does.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Event
from typing import Any

from rq import Queue
from rq import Worker as RQWorker
from rq.executions import Execution as RQExecution
from rq.job import UNEVALUATED, Job, JobStatus
from rq.serializers import DefaultSerializer
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from rq.utils import now, utcformat

from rq_clock import run
from rq_clock.errors import Interrupted, TargetRefused
from rq_clock.jobs import outcomes
from rq_clock.jobs.outcomes import Execution, Outcome, encodable
from rq_clock.log import log_warning
from rq_clock.model.allowlist import refusal
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings, environment, known_secrets
from rq_clock.store.server_time import instant
from rq_clock.worker.channel import ENDED, NO_MORE, REUSABLE, Channel
from rq_clock.worker.hooks import Hooks, flush_telemetry
from rq_clock.worker.hygiene import Surroundings
from rq_clock.worker.rq_job import KeptAlready, restored, with_changes
from rq_clock.worker.work_horse import LEAVE, end_fork, received, reset_signals_in_forks

OVERTIME = 5.0
"""Seconds that a job gets beyond its timeout before its process is killed: RQ's own alarm raises
in the job first, unless the job is deep in a C library or catches everything."""
AFTERWARDS = 60.0
"""Seconds for what has no timeout of its own: exception handlers, hooks, RQ's webhooks. RQ's worker
kills a process as long after the job's timeout."""
MOMENT = 0.5
"""Seconds within which the worker has heard of a restart whose signal has reached its job first."""

_TIME = utcformat(now()).encode()
_EXAMPLE = Execution("", "example", "default", "", now(), {
    b"created_at": _TIME, b"enqueued_at": _TIME, b"origin": b"default", b"timeout": b"180",
    b"status": b"queued", b"description": b"an example", b"meta": pickle.dumps({}),
    b"data": zlib.compress(pickle.dumps(("rq_clock.run.stopping", None, (), {}))),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What is still to be done for a job whose process was killed: RQ's callback of a stopped job,
    the worker's handler of a killed process, webhooks."""

    execution: Execution
    outcome: Outcome
    pid: int
    status: int
    rusage: Any


class JobWorker(RQWorker):
    """The part of the worker that performs a job, in the work horse."""

    _runtime: Runtime
    _settings: Settings
    _hooks = Hooks()
    _channel: Channel | None = None
    """To the worker; None outside its work horse."""
    _current: Execution
    _surroundings: Surroundings | None = None
    _process = 0
    _reusable = _delivered = _in_job = False
    _interruption: bool | None = None

    # ---- the process ----------------------------------------------------------------------------

    def _serve(self, channel: Channel, settings: Settings) -> None:
        """Perform up to RQ_CLOCK_HORSE_JOBS jobs, but none after one that did not end well, and
        none when the worker has closed the channel."""
        self._channel, self._settings, self._process = channel, settings, os.getpid()
        self._is_horse = True
        run.obey(lambda: channel.stopping)
        signal.signal(LEAVE, self._leave)
        channel.pipes.prepare()
        reset_signals_in_forks()
        if self._hooks.after_fork:
            with run.worker_code():
                self._hooks.after_fork()
        if settings.horse_jobs > 1:
            self._surroundings = Surroundings()
        self._rehearse()
        with suppress(EOFError):
            for left in reversed(range(settings.horse_jobs)):
                kind, job = channel.receive()
                if kind == NO_MORE:
                    break
                self._reusable = left > 0
                channel.pipes.capture()
                if isinstance(job, Aftermath):
                    self._settle(job)
                elif self._surroundings is None:
                    self._perform(job)
                else:
                    self._surroundings.run(self._perform, job)
                if not self._reusable or self._surroundings is None:
                    break
                self._surroundings.restore()
        flush_telemetry()

    def _rehearse(self) -> None:
        """Go through what every job goes through, for nothing: so the memory that this takes is
        copied for this process before it has a job, not while the job waits."""
        execution = pickle.loads(pickle.dumps(_EXAMPLE))
        job = restored(Job, execution, self.connection, None)
        with UnixSignalDeathPenalty(60, JobTimeoutException):  # type: ignore[no-untyped-call]
            result = job.func(*job.args, **job.kwargs)
        pickle.dumps((outcomes.succeeded(execution, now(), result), False))

    def _perform(self, execution: Execution) -> None:
        self._current, self._delivered, self._interruption = execution, False, None
        received.clear()
        try:
            job = self._restored(execution)
        except Exception as error:
            self._deliver(
                outcomes.failed(execution, self._now(), f"cannot be read: {_text(error)}")
            )
            return
        self.execution = RQExecution(execution.id, job.id, self.connection, self.name)
        queue = next((queue for queue in self.queues if queue.name == execution.queue), None)
        os.environ["RQ_WORKER_ID"], os.environ["RQ_JOB_ID"] = self.name, job.id
        facts = run.from_meta(job.meta)
        if facts is not None:
            facts = replace(
                facts, attempt=execution.attempt, previous=execution.previous,
                requeued=execution.ends,
            )  # fmt: skip
        assert queue
        with run.running(facts):
            try:
                self.perform_job(job, queue)
            except BaseException as error:  # an exception handler's, or that of a text RQ logs
                self._in_job = False
                if self._delivered:
                    _log_late(execution, error)
                    return
                trace = "".join(traceback.format_tb(error.__traceback__)) + _text(error)
                self.handle_job_failure(job, queue, exc_string=trace)
        if not self._delivered:  # by a method that a subclass overrides
            stored = job.get_status(refresh=True) != JobStatus.STARTED
            trace = "perform_job() returned, and the job's end was not stored"
            outcome = outcomes.failed(execution, self._now(), trace)
            self._deliver(outcomes.stored_elsewhere(self._now()) if stored else outcome, job)

    def _now(self) -> datetime:
        """Return the server's time."""
        return instant(self._runtime.monotonic() + self._current.offset)

    @property
    def _another_serializer(self) -> Any:
        """Return the serializer, or None for RQ's own: RQ examines each other one at length."""
        return None if self.serializer is DefaultSerializer else self.serializer

    def _restored(self, execution: Execution) -> Job:
        serializer = self._another_serializer
        return restored(self.job_class, execution, self.connection, serializer)

    def _settle(self, aftermath: Aftermath) -> None:
        """Do what RQ's worker does for a job whose process is gone."""
        self._current, outcome, job = aftermath.execution, aftermath.outcome, None
        self._delivered = False
        stopped = outcome.state == outcomes.STOPPED
        self._allow(AFTERWARDS)
        try:
            job = self._restored(aftermath.execution)
            job.ended_at = outcome.ended
            if not stopped:
                pid, status, rusage = aftermath.pid, aftermath.status, aftermath.rusage
                self.handle_work_horse_killed(job, pid, status, rusage)  # type: ignore[no-untyped-call]
            elif job.stopped_callback:
                self._allow(job.stopped_callback_timeout)
                job.execute_stopped_callback(self.death_penalty_class)
        except Exception as error:
            _log_late(aftermath.execution, error)
        self._deliver(outcome, job)
        if job and not (stopped or outcome.again):
            job.send_webhooks(JobStatus.FAILED, exc_string=outcome.error)

    def _allow(self, seconds: float) -> None:
        """Give the process `seconds` and OVERTIME more before the worker kills it."""
        assert self._channel
        self._channel.deadline = self._runtime.monotonic() + seconds + OVERTIME

    def _leave(self, *_: object) -> None:
        if self._in_job:
            raise Interrupted("the worker has to end")

    def _deliver(self, outcome: Outcome, job: Job | None = None) -> None:
        """Let the worker store how the job ended."""
        if os.getpid() != self._process:  # a callback has forked it
            end_fork()
        if self._delivered:  # a job ends once, whatever fails after its end
            return
        self._delivered = True
        webhooks = bool(job and job.webhooks)
        if job and self._hooks.after_job:
            self._allow(AFTERWARDS)
            try:
                self._hooks.after_job(job)
            except Exception as error:
                _log_late(self._current, error)
        clean = self._surroundings is not None and self._surroundings.clean()
        self._reusable &= clean and outcome.state == outcomes.OK and not webhooks
        if webhooks:
            self._allow(AFTERWARDS)
        assert self._channel
        self._channel.pipes.release()  # all that the job has printed is there before its outcome
        self._channel.send(REUSABLE if self._reusable else ENDED, (outcome, webhooks))
        if webhooks:  # they follow what is stored
            self._channel.receive()

    # ---- what RQ calls --------------------------------------------------------------------------

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """In the work horse: it has begun already, when it was taken."""
        if self._channel is None:
            super().prepare_job_execution(job, remove_from_intermediate_queue)
            return
        job.worker_name = self.name
        KeptAlready(job)
        if not self._settings.function_output:
            with suppress(Exception):  # unreadable data fails the job later
                self._channel.recorded = str(job.func_name).startswith("rq_clock.runners.")
        if self._hooks.before_job:
            self._allow(AFTERWARDS)
            self._hooks.before_job(job)
        timeout = job.timeout or self.queue_class.DEFAULT_TIMEOUT
        self._refuse_target(job, timeout)
        self._allow(timeout if timeout > 0 else float("inf"))
        self._in_job = True

    def _refuse_target(self, job: Job, timeout: float) -> None:
        """Raise TargetRefused for a run that a token has defined, if its function is not one that
        tokens may call. The job then fails for good."""
        allowed = run.allowed_targets(job.meta)
        if allowed is None:
            return
        self._allow(timeout if timeout > 0 else AFTERWARDS)  # importing it may take long
        targets = self._settings.targets
        name = job.func_name or ""
        reason = refusal(name, lambda: job.func, allowed if targets is None else targets)
        if reason:
            job.retries_left = 0
            raise TargetRefused(reason)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """Take the time. `heartbeat_ttl` is how long the callback that follows may take."""
        if self._channel is None:
            super().handle_execution_ended(job, queue, heartbeat_ttl)
            return
        self._in_job = False
        if os.getpid() != self._process:  # the job has forked it
            end_fork()
        job.ended_at = self._now()
        self._allow(max(heartbeat_ttl, AFTERWARDS))
        if self._is_interruption(sys.exc_info()[1]):
            job._failure_callback_name = None  # a restart is not a failure
            job._failure_callback = UNEVALUATED

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Call the exception handlers, but not for an interruption."""
        if self._channel is None or not self._is_interruption(exc_info[1]):
            super().handle_exception(job, *exc_info)

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any) -> None:
        """Let the worker store that the job has succeeded."""
        if self._channel is None:
            super().handle_job_success(job, queue, started_job_registry)
            return
        assert job.ended_at
        outcome = outcomes.succeeded(
            with_changes(self._current, job), job.ended_at, job._result,
            ttl=self.default_result_ttl, serializer=self._another_serializer,
        )  # fmt: skip
        self._deliver(outcome, job)

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Any, started_job_registry: Any, execution: Any
    ) -> None:
        """Let the worker store that the function returned a Retry."""
        if self._channel is None:
            super().handle_job_retry(job, queue, retry, started_job_registry, execution)
            return
        assert job.ended_at
        outcome = outcomes.retry_requested(
            with_changes(self._current, job),
            job.ended_at,
            retry,
            serializer=self._another_serializer,
        )
        self._deliver(outcome, job)
        if not outcome.again:
            job.send_webhooks(JobStatus.FAILED, exc_string="")

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        """Let the worker store that the job has failed, or was interrupted."""
        if self._channel is None:
            super().handle_job_failure(job, queue, started_job_registry, exc_string)
            return
        error = sys.exc_info()[1]
        secrets = known_secrets(environment())
        what, exc_string = secrets.hide_text(_text(error)), secrets.hide_text(exc_string)
        at = job.ended_at or self._now()
        execution = with_changes(self._current, job)
        if self._is_interruption(error):
            limit = self._settings.max_interruptions
            outcome = outcomes.interrupted(execution, at, limit, error=what)
        else:
            late = isinstance(error, JobTimeoutException)
            state = outcomes.TIMED_OUT if late else outcomes.FAILED
            outcome = outcomes.failed(
                execution, at, exc_string, state=state, error=what,
                kept=not self.disable_default_exception_handler,
            )  # fmt: skip
        self._deliver(outcome, job)
        if not outcome.again:
            job.send_webhooks(JobStatus.FAILED, exc_string=exc_string)

    def _is_interruption(self, error: BaseException | None) -> bool:
        """Return whether the platform caused it: the task raised Interrupted, or any error after
        the process had to end (a restart also hits the processes and connections of the job)."""
        if error is None or self._current.interruptions >= self._settings.max_interruptions:
            return False
        if self._interruption is None:
            late = isinstance(error, JobTimeoutException)
            self._interruption = isinstance(error, Interrupted) or (not late and self._must_end())
        return self._interruption

    def _must_end(self) -> bool:
        """Return whether the worker has to end. A signal of the platform may be here before the
        worker knows of it; one that the job has sent to itself means nothing."""
        until = self._runtime.monotonic() + MOMENT
        while received and not run.stopping() and self._runtime.monotonic() < until:
            Event().wait(0.01)
        return run.stopping()


def _log_late(execution: Execution, error: BaseException) -> None:
    """Log an error that changes nothing of how the job ends."""
    text = known_secrets(environment()).hide_text(_text(error))
    log_warning("job.late_error", job=execution.job_id, error=encodable(text))


def _text(error: BaseException | None) -> str:
    """Return an error's type and text, also when the error has no text to give."""
    name = type(error).__name__
    try:
        return f"{name}: {error}".removesuffix(": ")
    except BaseException:
        return f"{name}: <exception str() failed>"  # as in Python's own tracebacks
