"""The memory of the server: how much of its limit is used, and how many failed jobs take part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from rq_clock.store.scripts import text

FULL = 0.8
"""The part of its memory that a server may use before it is called full."""
ROOM = 0.75
"""The part below which it is not called full any more."""
REMEDY = (
    "delete failed jobs, set failure_ttl or a lower RQ_CLOCK_FAILED_JOBS, lower result_ttl and "
    "RQ_CLOCK_HISTORY, empty queues that nobody serves, or take a larger plan"
)


def memory_info(redis: Redis) -> dict[str, Any]:
    """Return INFO's section about memory; empty where the server lacks or refuses the command."""
    client: Any = redis
    try:
        return dict(client.info("memory"))
    except ResponseError:
        return {}


def memory_used(info: Mapping[str, Any]) -> float | None:
    """Return the used part of the memory, from INFO; None where it is unknown or has no limit."""
    used, limit = info.get("used_memory"), info.get("maxmemory")
    return used / limit if used and limit else None


def failed_jobs(redis: Redis) -> dict[str, int]:
    """Return how many failed jobs RQ keeps of each queue that has some."""
    client: Any = redis
    keys = client.sscan_iter("rq:queues", count=1000)
    queues = sorted({text(key).removeprefix("rq:queue:") for key in keys})
    pipe = client.pipeline(transaction=False)
    for queue in queues:
        pipe.zcard(f"rq:failed:{queue}")
    counts = zip(queues, pipe.execute(raise_on_error=False), strict=True)
    return {queue: count for queue, count in counts if isinstance(count, int) and count}


def memory_text(info: Mapping[str, Any], failed: Mapping[str, int]) -> str:
    """Return one line: the used part, and the failed jobs, with the queue that has the largest
    number of them."""
    used, limit = info["used_memory"], info["maxmemory"]
    line = f"{used / limit:.0%} of Redis's memory is used ({used >> 10} of {limit >> 10} kB)"
    if failed:
        queue, count = max(failed.items(), key=lambda item: item[1])
        line += f", also by {sum(failed.values())} failed jobs, {count} of them of queue {queue}"
    return f"{line}; a full one takes no jobs"
