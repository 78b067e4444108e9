"""Groups of jobs that no schedule makes. Pure."""

from __future__ import annotations

from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.model.validation import group_faults


def in_group(group: str, limit: int = 1) -> dict[str, Any]:
    """Return the `meta` that puts an RQ job into a group, as `group` and `group_limit` do for a
    schedule: `queue.enqueue(work, meta=in_group("shop:7"))`.

    Jobs of a group run in the order of their enqueueing, `limit` at a time, on whatever queues and
    workers. A waiting job keeps no worker busy. rq-clock's worker does this; RQ's own runs each job
    as it comes. After the death of a worker its job keeps its turn. Add entries of your own with
    `in_group("shop:7") | {"key": value}`. Raises ScheduleError for an invalid group.
    """
    if faults := [*group_faults(group, limit)]:
        raise ScheduleError(*faults)
    return {"rq_clock": {"group": group, "group_limit": limit}}
