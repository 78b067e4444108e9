"""Work that can be watched: each task says in one line of the worker's log what it did."""

from __future__ import annotations

import shutil

from rq_clock import current_run


def heartbeat() -> None:
    """Show that the clock ticks."""
    run = current_run()
    print(f"heartbeat of {run.fire_time:%H:%M:%S}" if run else "heartbeat", flush=True)


def disk_space(path: str = "/") -> None:
    """Say how full a disk is."""
    usage = shutil.disk_usage(path)
    print(f"disk-space: {path} is {usage.used / usage.total:.0%} full", flush=True)


def close_minute() -> None:
    """Do the books of one minute; after an outage, of each minute that was missed."""
    run = current_run()
    if run is None:
        raise RuntimeError("close_minute needs to know its minute; let its schedule run it")
    print(f"close-minute: books of {run.fire_time:%H:%M} closed ({run.reason})", flush=True)
