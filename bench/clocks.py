"""The two clocks under measure: `python -m bench.clocks "rq-clock"|"rq cron" …`, a process each.

Both declare the same work, as far as each can say it, and then run until SIGTERM. What differs,
always in favour of `rq cron`: it logs warnings only, where rq-clock writes its usual line for
each job; and its script starts the scheduler itself, without the `rq` command around it.

No worker takes the jobs away, so every schedule that fires twice says overlap="allow".
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bench

OURS, THEIRS = CLOCKS = ("rq-clock", "rq cron")
QUEUE = "bench"
CANARY, BEHIND = "canary", "behind"
_EXPRESSIONS = (  # with minute and hour filled in: 250 different ones, all of kinds that people use
    "{m} {h} * * *",
    "{m} {h} * * mon-fri",
    "{m} {h} 1,15 * *",
    "{m}-59/10 {h} * * *",
    "{m} {h} * jan-jun sun",
)


def main() -> None:
    work = options()
    (rq_clock if work.clock == OURS else rq_cron)(work)


def options(*words: str) -> argparse.Namespace:
    """Read the work from these words, or else from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clock", choices=CLOCKS)
    parser.add_argument("--each-second", type=int, default=0, help="schedules due each second")
    parser.add_argument("--idle", type=int, default=0, help="schedules not due for six hours")
    parser.add_argument("--base", type=float, default=0, help="now, the same for each start")
    parser.add_argument("--herd", type=int, default=0, help="schedules due once, at --at")
    parser.add_argument("--at", type=float, default=0)
    parser.add_argument("--behind", type=int, default=0, help="schedules that catch up, ours only")
    parser.add_argument("--timeout", type=int, help="of the idle ones, ours only")
    parser.add_argument("--canary", type=int, default=0, help="schedules due right away")
    return parser.parse_args(words or None)


def rq_clock(work: argparse.Namespace) -> None:
    from rq_clock import Clock

    clock = Clock()
    for schedule in schedules(work):
        clock.add(*schedule[:3], **schedule[3])
    clock.run()


def schedules(work: argparse.Namespace) -> Iterator[tuple[str, Any, str, dict[str, Any]]]:
    """Name, trigger, target and options of each that `rq_clock` declares."""
    from rq_clock import cron, every, once

    target, often = "bench.task", {"queue": QUEUE, "overlap": "allow"}
    for i in range(work.each_second):
        yield f"second-{i}", every(seconds=1), target, often
    for i in range(work.behind):
        limit = {"queue": BEHIND, "catch_up": "all", "catch_up_limit": 1_000_000}
        yield f"behind-{i}", every(seconds=1), target, limit
    for i, (expression, at) in enumerate(idle(work)):
        trigger = every(days=1, anchor=at) if i % 2 else cron(expression)
        yield f"idle-{i}", trigger, target, {"queue": QUEUE, "timeout": work.timeout}
    at = datetime.fromtimestamp(work.at, UTC)
    for i in range(work.herd):
        yield f"herd-{i}", once(at), target, {"queue": QUEUE}
    for i in range(work.canary):
        yield f"canary-{i}", every(milliseconds=10), target, often | {"queue": CANARY}


def rq_cron(work: argparse.Namespace) -> None:
    from redis import Redis
    from rq.cron import CronScheduler

    redis = Redis.from_url(os.environ["REDIS_URL"])
    scheduler = CronScheduler(connection=redis, logging_level="WARNING")
    for _ in range(work.each_second):
        scheduler.register(bench.task, QUEUE, cron="* * * * * *")
    for expression, _ in idle(work):  # its intervals all begin with a run at the start
        scheduler.register(bench.task, QUEUE, cron=expression)
    at = datetime.fromtimestamp(work.at, UTC)
    for _ in range(work.herd):
        scheduler.register(bench.task, QUEUE, cron=f"{at:%M %H %d %m * %S}")
    for _ in range(work.canary):
        scheduler.register(bench.task, CANARY, interval=3600)
    scheduler.start()  # type: ignore[no-untyped-call]  # rq


def idle(work: argparse.Namespace) -> Iterator[tuple[str, datetime]]:
    """A cron expression and an instant each, 6 to 18 hours away."""
    noon = datetime.fromtimestamp(work.base, UTC) + timedelta(hours=12)
    for i in range(work.idle):
        # Fifty minutes, and five kinds: 250 expressions.
        at = noon + timedelta(minutes=(i // 2 // 5 % 50 - 25) * 13)
        kind = _EXPRESSIONS[i // 2 % 5]
        yield kind.format(m=at.minute, h=at.hour), at + timedelta(seconds=i % 600)


if __name__ == "__main__":
    main()
