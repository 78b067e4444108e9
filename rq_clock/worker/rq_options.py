"""What RQ's worker takes and this one treats otherwise: overrides that belong to RQ's loop, classes
that keep jobs elsewhere, and the level of RQ's own log lines.
"""

from __future__ import annotations

import logging

from rq.logutils import setup_loghandlers
from rq.worker import Worker

from rq_clock import log as logs
from rq_clock.errors import RqClockError
from rq_clock.log import SecretFilter
from rq_clock.settings import environment, known_secrets

_NOT_CALLED = (
    "bootstrap", "check_for_suspension", "dequeue_job_and_maintain_ttl", "execute_job",
    "fork_work_horse", "main_work_horse", "maintain_heartbeats", "monitor_work_horse",
    "prepare_execution", "request_force_stop", "request_stop", "setup_work_horse_signals",
    "wait_for_horse",
)  # fmt: skip
"""Methods of RQ's worker that belong to its loop."""
_MASKS = SecretFilter(lambda: known_secrets(environment()))
"""For RQ's own lines: those of a failed job have its whole traceback."""


def refuse_what_is_ignored(worker: Worker, ours: type[Worker]) -> None:
    """Raise RqClockError for a subclass of `ours`, or a class of jobs or queues, that cannot
    work."""
    for name in _NOT_CALLED:
        if getattr(type(worker), name) is not getattr(ours, name):
            raise RqClockError(
                f"{type(worker).__name__} overrides {name}(), which belongs to RQ's loop and is "
                "never called here; override perform_job() or a handler, or use rq.Worker"
            )
    for kind, attribute, prefix in (
        (worker.job_class, "redis_job_namespace_prefix", "rq:job:"),
        (worker.queue_class, "redis_queue_namespace_prefix", "rq:queue:"),
    ):
        if getattr(kind, attribute) != prefix:
            raise RqClockError(
                f"{kind.__name__}.{attribute}: expected {prefix!r}, which every tool of RQ reads, "
                f"got {getattr(kind, attribute)!r}; remove it, or use rq.Worker"
            )


def set_up_logs(level: str | None, date_format: str, log_format: str, *, stamp: bool) -> None:
    """Set up the log, unless the app has, and RQ's own lines: of `level`, or only warnings, without
    secrets."""
    if not logs.logger.hasHandlers():  # RQ's own command has started this class
        logs.set_up(stamp=stamp)
    for name in ("rq.worker", "rq.job"):
        if level:
            setup_loghandlers(level, date_format, log_format, name=name)
        else:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).addFilter(_MASKS)
