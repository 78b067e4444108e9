"""The work horse: the process in which a worker's jobs run, so that a job can harm only itself.

RQ forks a process for each job, which takes nine times as long as a job that does nothing. This
one is forked ahead and serves many jobs. It ends with each job that does not succeed, so that open
transactions, broken connections and threads of that job end too. It is also replaced after a number
of jobs and when its memory has grown. With RQ_CLOCK_HORSE_JOBS=1 each job gets its own process.

Inside, RQ's own `perform_job` runs the job, with its callbacks, timeouts and exception handlers
(Sentry and others go on working). Only RQ's last writes to Redis come back to the worker instead,
as an `Outcome`. The horse has no connection unless a task opens one.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from redis import Redis
from rq import Queue
from rq import Worker as RQWorker
from rq.executions import Execution as RQExecution
from rq.job import UNEVALUATED, Job, _job_stack
from rq.timeouts import BaseDeathPenalty, JobTimeoutException
from rq.utils import now, utcformat, utcparse

from rq_clock.errors import Interrupted
from rq_clock.jobs import outcomes
from rq_clock.jobs.outcomes import Execution, Outcome, encodable
from rq_clock.log import log_warning
from rq_clock.run import from_meta, running, stop, stopping

SIGNALS = {signal.SIGTERM, signal.SIGINT}
LEAVE = signal.SIGVTALRM
"""Raises Interrupted in the job. A signal that nothing else uses: SIGALRM is the job's timeout,
SIGTERM may come from the platform at any time and only announces the end."""
_PR_SET_PDEATHSIG = 1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class WorkHorse:
    """The process, as its worker sees it."""

    def __init__(self, runner: JobRunner, inherited: Iterable[Callable[[], None]]) -> None:
        """Fork it. In the child the calls of `inherited` close what is the worker's alone, then
        `runner` runs the jobs. Call it where no other thread runs."""
        self.jobs = 0
        self.kill_reason = ""
        """Why the worker killed it, if it did."""
        self.disconnected = False
        """Nothing can come from it any more: it is gone, or a job has closed its pipe."""
        self._pipe, end = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        parent = os.getpid()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                self._pipe.close()
                _live(runner, end, inherited, parent, before)
            with suppress(PermissionError, ProcessLookupError):
                os.setpgid(self.pid, self.pid)  # the child does so too: one of them is first
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end.close()
        self._statm = _statm(self.pid)
        self._size = self._resident()

    def fileno(self) -> int:
        return self._pipe.fileno()

    def begin(self, execution: Execution) -> bool:
        """Hand over a job. False when the process is gone."""
        self.jobs += 1
        try:
            self._pipe.send(execution)
        except OSError:
            return False
        return True

    def outcome(self) -> tuple[Outcome, bool] | None:
        """Return what it has sent, if anything: the outcome, and whether the horse waits until it
        is stored before it calls the job's webhooks."""
        try:
            readable, _, _ = select.select([self._pipe], [], [], 0)  # quicker than its poll()
            return self._pipe.recv() if readable else None
        except (OSError, EOFError):
            self.disconnected = True
            return None

    def stored(self) -> None:
        with suppress(OSError):
            self._pipe.send(None)

    def request_stop(self) -> None:
        """Send SIGTERM to the job: the worker has to end. Most platforms have sent it already."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def interrupt(self) -> None:
        """Raise Interrupted in the job, so that it can release its resources."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, LEAVE)

    def kill(self, why: str = "") -> None:
        """End it and every process that its job started in its group."""
        self.kill_reason = self.kill_reason or why
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """Let it end by itself, after its job."""
        self._pipe.close()
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None

    def exit_status(self, *, wait: bool = False) -> int | None:
        """Return the status of waitpid; None while it lives."""
        pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
        return status if pid else None

    def grown(self) -> int:
        """Return the bytes by which its memory has grown since it was forked."""
        return self._resident() - self._size

    def _resident(self) -> int:
        if self._statm is None:
            return 0
        try:
            return int(os.pread(self._statm, 100, 0).split()[1]) * _PAGE
        except OSError:  # gone
            return 0


def _statm(pid: int) -> int | None:
    """Open the memory figures of a process; None where there are none (not Linux)."""
    try:
        return os.open(f"/proc/{pid}/statm", os.O_RDONLY)
    except OSError:
        return None


def _live(
    runner: JobRunner,
    pipe: Connection[Any, Any],
    inherited: Iterable[Callable[[], None]],
    parent: int,
    mask: set[signal.Signals | int],
) -> None:
    """The child, to its end. Never returns into the worker's stack."""
    status = 1
    try:
        os.setpgid(0, 0)
        die_with(parent, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in SIGNALS:
            signal.signal(number, lambda *_: stop())
        signal.signal(LEAVE, _leave)
        _reset_signals_in_forks()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for close in inherited:
            close()
        random.seed()
        runner.serve(pipe)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _reset_signals_in_forks() -> None:
    """Let every process that a job forks start with Python's own signal handlers. With those of
    the work horse, `Process.terminate()` and the end of a `Pool` would have no effect.

    SIGTERM and SIGINT are blocked during the fork. Else one that comes early would be lost.
    A handler that the job has set itself stays.
    """
    ours = {number: signal.getsignal(number) for number in (*SIGNALS, LEAVE)}
    thread = threading.local()

    def before() -> None:
        thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def after_in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, thread.mask)

    def after_in_child() -> None:
        reset = [number for number, handler in ours.items() if signal.getsignal(number) is handler]
        if isinstance(getattr(signal.getsignal(signal.SIGALRM), "__self__", 0), BaseDeathPenalty):
            reset.append(signal.SIGALRM)
        for number in reset:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, thread.mask)
        if signal.SIGINT in reset:  # not before: it raises, which is ignored in here
            signal.signal(signal.SIGINT, signal.default_int_handler)

    os.register_at_fork(
        before=before, after_in_parent=after_in_parent, after_in_child=after_in_child
    )


def _end_fork() -> None:
    """End a process that a job has forked and that comes out of the job: the process that forked
    it is the work horse, and reports how the job ended."""
    error = sys.exc_info()[1]
    status = int(error is not None)
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exc()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def die_with(parent: int, number: signal.Signals) -> None:
    """Get a signal when the parent dies. Linux only; elsewhere a horse goes on until its job has
    ended, beside the worker that runs it again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


_OVERWRITTEN = {b"started_at", b"last_heartbeat", b"ended_at"}
"""Fields that RQ sets again when it runs a job, and parses slowly."""


def _text(error: BaseException | None) -> str:
    """Return an error's type and text, also when the error has no text to give."""
    name = type(error).__name__
    try:
        return f"{name}: {error}".removesuffix(": ")
    except BaseException:
        return f"{name}: <exception str() failed>"  # as in Python's own tracebacks


_in_job = False


def _leave(*_: object) -> None:
    if _in_job:
        raise Interrupted("the worker has to end")


class _Job(Job):
    """RQ's job, which would ask Redis first to keep it while it runs; lua/take.lua has done so."""

    def perform(self) -> Any:
        global _in_job
        horse = os.getpid()
        _job_stack.push(self)  # type: ignore[no-untyped-call]
        try:
            _in_job = True
            self._result = self._execute()
        finally:
            _in_job = False
            _job_stack.pop()  # type: ignore[no-untyped-call]
            if os.getpid() != horse:
                _end_fork()
        return self._result


class JobRunner(RQWorker):
    """Runs the jobs inside the horse: RQ's worker from `perform_job` on."""

    log_result_lifespan = False

    def __init__(
        self, name: str, redis: Redis, handlers: list[Any], *, max_interruptions: int
    ) -> None:
        super().__init__([], name, connection=redis, prepare_for_work=False)
        self._is_horse = True
        self._exc_handlers = handlers
        self._limit = max_interruptions
        self._queues: dict[str, Queue] = {}
        utcparse(utcformat(now()))  # compiles what each process would compile for its first job

    def serve(self, pipe: Connection[Any, Any]) -> None:
        """Run jobs until one does not succeed, or until the worker closes the pipe."""
        self._pipe, self._process, self._spent = pipe, os.getpid(), False
        with suppress(EOFError):
            while not self._spent:
                self._execution: Execution = pipe.recv()
                self._perform()

    def _perform(self) -> None:
        self._delivered = False
        execution = self._execution
        job = _Job(execution.job_id, connection=self.connection)
        try:
            job.restore({k: v for k, v in execution.fields.items() if k not in _OVERWRITTEN})
        except Exception as error:
            self._deliver(outcomes.failed(execution, now(), f"cannot be read: {_text(error)}"), job)
            return
        self.execution = RQExecution(execution.id, job.id, self.connection, self.name)
        queue = self._queue(execution.queue)
        os.environ["RQ_WORKER_ID"], os.environ["RQ_JOB_ID"] = self.name, job.id
        run = from_meta(job.meta)
        if run is not None:
            run = replace(run, attempt=execution.attempt, previous=execution.previous)
        with running(run):
            try:
                self.perform_job(job, queue)
            except BaseException as error:  # an exception handler's, or that of a text RQ logs
                if self._delivered:
                    log_warning("job.late_error", job=job.id, error=encodable(_text(error)))
                    return
                trace = "".join(traceback.format_tb(error.__traceback__)) + _text(error)
                self.handle_job_failure(job, queue, exc_string=trace)

    def _queue(self, name: str) -> Queue:
        if name not in self._queues:
            self._queues[name] = Queue(name, connection=self.connection)
        return self._queues[name]

    def _deliver(self, outcome: Outcome, job: Job) -> None:
        if os.getpid() != self._process:  # a callback has forked it
            _end_fork()
        if self._delivered:  # a job ends once, whatever fails after its end
            return
        self._delivered, self._spent = True, outcome.state != outcomes.OK
        self._pipe.send((outcome, bool(job.webhooks)))
        if job.webhooks:
            self._pipe.recv()

    # ---- what RQ calls --------------------------------------------------------------------------

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # RQ would make every command of it wait for minutes

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """It has begun already, when it was taken."""
        job.worker_name = self.name

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        job.ended_at = now()
        if self._is_interruption(sys.exc_info()[1]):
            job._failure_callback_name = None  # a restart is not a failure
            job._failure_callback = UNEVALUATED

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        if not self._is_interruption(exc_info[1]):
            super().handle_exception(job, *exc_info)

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any) -> None:
        assert job.ended_at
        self._deliver(outcomes.succeeded(self._execution, job.ended_at, job._result), job)

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Any, started_job_registry: Any, execution: Any
    ) -> None:
        assert job.ended_at
        self._deliver(outcomes.retry_requested(self._execution, job.ended_at, retry), job)

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        error = sys.exc_info()[1]
        what = _text(error)
        at = job.ended_at or now()
        if self._is_interruption(error):
            outcome = outcomes.interrupted(self._execution, at, self._limit, error=what)
        else:
            late = isinstance(error, JobTimeoutException)
            state = outcomes.TIMED_OUT if late else outcomes.FAILED
            outcome = outcomes.failed(self._execution, at, exc_string, state=state, error=what)
        self._deliver(outcome, job)
        if job.webhooks and not outcome.again:
            job.send_webhooks("failed", exc_string=exc_string)

    def _is_interruption(self, error: BaseException | None) -> bool:
        """Return whether the platform caused it: the task raised Interrupted, or any error after
        the process had to end (a restart also hits the processes and connections of the job)."""
        if error is None or self._execution.interruptions >= self._limit:
            return False
        late = isinstance(error, JobTimeoutException)
        return isinstance(error, Interrupted) or (stopping() and not late)
