"""Work that can be watched: each task says what it did in a line of the worker's log."""

from __future__ import annotations

import shutil

from rq_clock import current_run


def heartbeat() -> str:
    """Say that the clock ticks."""
    run = current_run()
    return f"tick of {run.fire_time:%H:%M:%S}" if run else "tick"


def disk_space(path: str = "/") -> str:
    """Say how full a disk is."""
    usage = shutil.disk_usage(path)
    return f"{path} is {usage.used / usage.total:.0%} full"


def close_minute() -> str:
    """Do the books of one minute; caught up one by one after an outage."""
    run = current_run()
    assert run, "this task needs to know for which minute it runs"
    return f"books of {run.fire_time:%H:%M} closed ({run.reason})"
