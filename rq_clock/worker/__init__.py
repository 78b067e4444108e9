"""RQ's worker with a loop of its own, and the processes it runs in."""

from __future__ import annotations

from rq_clock.worker.supervisor import run_worker
from rq_clock.worker.worker import Worker

__all__ = ["Worker", "run_worker"]
