"""rq-clock: a clock process for RQ that survives restarts. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq_clock.errors import (
    Busy,
    Interrupted,
    LeaseLost,
    LockLost,
    RqClockError,
    ScheduleError,
    StoreUnavailable,
)
from rq_clock.run import Run, current_run, stopping
from rq_clock.version import __version__

if TYPE_CHECKING:
    from rq_clock.clock.clock import Clock
    from rq_clock.lock import exclusive
    from rq_clock.model.groups import in_group
    from rq_clock.model.targets import command, dyno, webhook
    from rq_clock.model.variables import env
    from rq_clock.schedules.service import Schedules
    from rq_clock.store.client import connect
    from rq_clock.timing.triggers import cron, every, once
    from rq_clock.worker.supervisor import run_worker
    from rq_clock.worker.worker import Worker

__all__ = [
    "Busy",
    "Clock",
    "Interrupted",
    "LeaseLost",
    "LockLost",
    "RqClockError",
    "Run",
    "ScheduleError",
    "Schedules",
    "StoreUnavailable",
    "Worker",
    "__version__",
    "command",
    "connect",
    "cron",
    "current_run",
    "dyno",
    "env",
    "every",
    "exclusive",
    "in_group",
    "once",
    "run_worker",
    "stopping",
    "webhook",
]

_LAZY = {
    "Clock": "rq_clock.clock.clock",
    "Schedules": "rq_clock.schedules.service",
    "Worker": "rq_clock.worker.worker",
    "command": "rq_clock.model.targets",
    "connect": "rq_clock.store.client",
    "cron": "rq_clock.timing.triggers",
    "dyno": "rq_clock.model.targets",
    "env": "rq_clock.model.variables",
    "every": "rq_clock.timing.triggers",
    "exclusive": "rq_clock.lock",
    "in_group": "rq_clock.model.groups",
    "once": "rq_clock.timing.triggers",
    "run_worker": "rq_clock.worker.supervisor",
    "webhook": "rq_clock.model.targets",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a task that asks for `current_run` pays for nothing else."""
    if name not in _LAZY:
        raise AttributeError(f"module 'rq_clock' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value
