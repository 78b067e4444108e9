"""Demo tasks: each writes one line to the worker's log."""

from __future__ import annotations

import shutil

from rq_clock import current_run


def heartbeat() -> None:
    """Print the fire time."""
    run = current_run()
    print(f"heartbeat of {run.fire_time:%H:%M:%S}" if run else "heartbeat", flush=True)


def disk_space(path: str = "/") -> None:
    """Print how full a disk is."""
    usage = shutil.disk_usage(path)
    print(f"disk-space: {path} is {usage.used / usage.total:.0%} full", flush=True)


def close_minute() -> None:
    """Close one minute; after an outage, each minute that was missed."""
    run = current_run()
    if run is None:
        raise RuntimeError("close_minute needs a fire time; run it through its schedule")
    print(f"close-minute: minute {run.fire_time:%H:%M} closed ({run.reason})", flush=True)
