"""The worker process of a dyno: one worker, or a supervisor over WORKER_CONCURRENCY of them.

The supervisor has no connection and no work of its own. It forks workers from a process that has
everything imported, passes signals on, replaces workers that died, and ends when all have ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rq.job import Job

from rq_clock import log as logs
from rq_clock.errors import RqClockError
from rq_clock.log import log_event, log_warning
from rq_clock.redaction import escaped
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings, withhold_secrets
from rq_clock.worker.hooks import Hooks, named_hooks, prepare
from rq_clock.worker.horses import reap_orphans
from rq_clock.worker.work_horse import SIGNALS, die_with
from rq_clock.worker.worker import Worker

CONNECTIONS = 2
"""Connections of a worker: one for its work, one for messages. A task may open a third."""
RESTART_SECONDS = 1.0
"""Seconds until a worker that died is replaced; also in a crash loop, as the platform restarts
us."""


def run_worker(  # noqa: PLR0913 - each is an option of its own
    queues: Sequence[str] | None = None,
    *,
    burst: bool = False,
    concurrency: int | None = None,
    max_jobs: int | None = None,
    setup: Callable[[], object] | None = None,
    after_fork: Callable[[], object] | None = None,
    before_job: Callable[[Job], object] | None = None,
    after_job: Callable[[Job], object] | None = None,
) -> None:
    """Serve `queues`, highest priority first (default: WORKER_QUEUES), in `concurrency` processes
    (default: WORKER_CONCURRENCY), until SIGTERM or SIGINT; with `burst` until the queues are
    empty; with `max_jobs` until each process has run that many. The last line of worker.py.

    `setup` runs once, before anything is forked: what it imports, no job has to import. It should
    leave no thread and no connection, which do not survive a fork; a warning names them.
    `after_fork` runs in each process of jobs before it has one. `before_job` and `after_job` get
    RQ's job, in its process: an error of the first fails the job, one of the second is logged.
    What RQ_CLOCK_SETUP names runs before `setup` and `after_fork`.

    Waits for Redis if it is not there yet. Exits with 1 when a setting or the Redis URL is wrong.
    """
    try:
        settings = Settings.from_env()
        withhold_secrets()
        logs.set_up(stamp=settings.stamped_logs)
        names = tuple(queues or settings.worker_queues)
        count = concurrency or settings.worker_concurrency
        hooks = Hooks(setup, after_fork, before_job, after_job).after(named_hooks(settings.setup))
        if count == 1:
            _work(names, settings, hooks, burst, max_jobs)
        else:
            Runtime().connect(settings)  # reports a wrong URL once, and not in each process
            log_event("worker.pool", processes=count, connections=count * CONNECTIONS)
            prepare(hooks)
            work = partial(_work, names, hooks=replace(hooks, setup=None), burst=burst)
            _supervise(partial(work, max_jobs=max_jobs), count)
    except RqClockError as error:
        sys.exit(f"error: {error}")


def _work(
    names: Sequence[str], settings: Settings, hooks: Hooks, burst: bool, max_jobs: int | None
) -> None:
    runtime = Runtime(signal.SIGCHLD)
    connection = runtime.connect(settings)
    worker = Worker(names, connection=connection, settings=settings, runtime=runtime, hooks=hooks)
    worker.work(burst=burst, max_jobs=max_jobs)


def _supervise(work: Callable[..., None], count: int) -> None:
    children: set[int] = set()
    with Runtime(signal.SIGCHLD) as runtime:
        signals = runtime.signals
        missing, signaled = count, False
        while missing or children:
            while missing and not signals.stopping:
                children.add(_fork(runtime, work))
                missing -= 1
            runtime.wait(None)
            reap_orphans(children)
            if signals.stopping and not signaled:
                signaled, missing = True, 0
                for pid in children:
                    os.kill(pid, signal.SIGTERM)
            for pid in list(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    continue
                children.remove(pid)
                if status and not signals.stopping:
                    log_warning(
                        "worker.died", pid=pid, status=status, restart_in=f"{RESTART_SECONDS:g}s"
                    )
                    runtime.wait(RESTART_SECONDS)
                    missing += 1
            if signals.stopping:
                missing = 0


def _fork(runtime: Runtime, work: Callable[..., None]) -> int:
    """Fork a worker. A SIGTERM that comes before it has handlers of its own ends it."""
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    status = 1
    try:
        runtime.__exit__()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        die_with(parent, signal.SIGTERM)
        work(settings=Settings.from_env())
        status = 0
    except RqClockError as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
