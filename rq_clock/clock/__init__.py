"""The clock process: what an app declares, and the process that enqueues what is due."""

from __future__ import annotations

from rq_clock.clock.clock import Clock, collect_faults

__all__ = ["Clock", "collect_faults"]
