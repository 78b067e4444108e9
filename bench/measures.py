"""The clocks' measurements. Each runs both in the same minutes and returns rows of the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from rq import Queue

import bench
from bench.clocks import CANARY, CLOCKS, OURS, QUEUE, THEIRS
from bench.lab import (
    Lab,
    Monitor,
    Process,
    Row,
    await_length,
    quantile,
    sleep_until,
    whole_second,
)
from rq_clock.clock.planner import Planner
from rq_clock.clock.reconcile import plan
from rq_clock.model.entry import Lease
from rq_clock.model.schedule import declare
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.triggers import once

IDLE = 10_000
EACH_SECOND = 20
QUEUE_KEY, CANARY_KEY = f"rq:queue:{QUEUE}", f"rq:queue:{CANARY}"


def lag(lab: Lab) -> Iterator[Row]:
    """20 schedules each second: how late are their jobs on the queue?

    The jobs of one second come together, so of 30 seconds p99 is the worst: one in which the
    machine was busy with something else is enough. p90 says more of the clocks.
    """
    rounds, seconds = (1, 5) if lab.quick else (3, 10)
    lags: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
    for _ in range(rounds):  # in turns, so that noise meets both
        for clock in CLOCKS:
            lags[clock] += _lag_once(lab, clock, seconds)
    ours, theirs = sorted(lags[OURS]), sorted(lags[THEIRS])
    aims: dict[str, tuple[float, float | None, float | None]] = {
        "p50": (0.5, 1, 5), "p90": (0.9, None, None), "p99": (0.99, 3, 5), "max": (1, None, None),
    }  # fmt: skip
    for name, (part, aim, times) in aims.items():
        yield _row(
            what=f"lag {name}, 20 a second",
            unit="ms",
            ours=quantile(ours, part) * 1000,
            theirs=quantile(theirs, part) * 1000,
            aim=aim,
            times=times,
        )


def _lag_once(lab: Lab, clock: str, seconds: int) -> list[float]:
    with lab.redis() as redis, _process(clock, redis, each_second=EACH_SECOND) as process:
        await_length(redis, QUEUE_KEY, EACH_SECOND, process)
        begin = whole_second(1.5)  # past its start
        sleep_until(begin - 0.3)
        with Monitor(redis, QUEUE_KEY) as monitor:
            sleep_until(begin - 0.3 + seconds)
        expected = EACH_SECOND * seconds
        if len(monitor.visible) != expected:
            raise RuntimeError(f"{clock}: {len(monitor.visible)} jobs of {expected}")
    return [stamp % 1 for stamp in monitor.visible]


def herd(lab: Lab) -> Iterator[Row]:
    """Thousands due at one instant: when is the last on the queue, and who waits meanwhile?

    There is no cliff: a hundred thousand take at most 12 times as long as ten thousand, also where
    not all of them can be packed before their instant."""
    sizes = (1_000, 10_000) if lab.quick else (10_000, 50_000, 100_000, 200_000)
    first = 0.0
    for size in sizes:
        both = size <= 10_000 or lab.full
        ours = [_herd_once(lab, OURS, size) for _ in range(3 if size == 10_000 else 1)]
        theirs = _herd_once(lab, THEIRS, size) if both else (None, None, None)
        # Whole lines of one run, the middle one, so that the columns belong together.
        seconds, megabytes, wait = sorted(ours)[len(ours) // 2]
        lab.herds[size] = seconds
        first = first or seconds
        aim, times = (0.25, 25) if size == 10_000 else (1.2 * first * size / sizes[0], None)
        what = f"herd of {size:,}"
        yield _row(
            what=f"{what}: last", unit="s", ours=seconds, theirs=theirs[0], aim=aim, times=times
        )
        yield _row(what=f"{what}: longest wait of others", unit="ms", ours=wait, theirs=theirs[2])
        yield _row(what=f"{what}: clock's peak memory", unit="MB", ours=megabytes, theirs=theirs[1])


def _herd_once(lab: Lab, clock: str, size: int) -> tuple[float, float, float]:
    """Seconds until the last is on the queue; the clock's MB; the longest wait of others in ms."""
    at = whole_second(6 + size / 2_000)  # time to declare all, and for rq-clock to stage
    with lab.redis() as redis, _process(clock, redis, herd=size, at=at) as process:
        sleep_until(at - 0.2)
        found, longest = 0, 0.0
        while found < size:
            if time.time() > at + size / 100 + 10:
                raise RuntimeError(f"{clock}: {found} of {size} after {time.time() - at:.0f} s")
            process.check()
            asked = time.perf_counter()
            found = int(redis.llen(QUEUE_KEY))
            longest = max(longest, time.perf_counter() - asked)
            if found and time.time() < at:
                raise RuntimeError(f"{clock}: {found} enqueued before their time")
            time.sleep(0.002)
        seconds = time.time() - at
        return seconds, process.megabytes("VmHWM"), longest * 1000


def idle(lab: Lab) -> Iterator[Row]:
    """10,000 schedules of which none is due: what does waiting cost?"""
    cost = _cost(lab, each_second=0)
    whats = (("CPU a minute", "s", 0.05), ("requests a minute", "", 60),
             ("with commands in scripts", "", None), ("memory", "MB", 60))  # fmt: skip
    for i, (what, unit, aim) in enumerate(whats):
        ours, theirs = (cost[clock][i] for clock in CLOCKS)
        yield _row(what=f"idle, 10,000: {what}", unit=unit, ours=ours, theirs=theirs, aim=aim)


def mixed(lab: Lab) -> Iterator[Row]:
    """20 a second among 10,000 that are not due."""
    ours, theirs = (cost[0] for cost in _cost(lab, each_second=EACH_SECOND).values())
    what = "20 a second among 10,000: CPU a minute"
    yield _row(what=what, unit="s", ours=ours, theirs=theirs, aim=0.6)


def _cost(lab: Lab, *, each_second: int) -> dict[str, tuple[float, float, float, float]]:
    """CPU seconds, requests and commands a minute, and MB; both at once, a server each."""
    seconds = 10 if lab.quick else 30
    work = {"idle": IDLE, "base": time.time(), "each_second": each_second}
    with ExitStack() as stack:
        clients = {clock: stack.enter_context(lab.redis()) for clock in CLOCKS}
        clocks = {c: stack.enter_context(_process(c, clients[c], **work)) for c in CLOCKS}
        time.sleep(8)  # past the start, and its first looks around
        with ExitStack() as watch:
            monitors = {c: watch.enter_context(Monitor(clients[c], QUEUE_KEY)) for c in CLOCKS}
            before = {c: clocks[c].cpu() for c in CLOCKS}
            time.sleep(seconds)
            used = {c: clocks[c].cpu() - before[c] for c in CLOCKS}
        found = {}
        for clock in CLOCKS:
            clocks[clock].check()
            counts = (used[clock], monitors[clock].requests, monitors[clock].commands)
            cpu, requests, commands = (count * 60 / seconds for count in counts)
            found[clock] = (cpu, requests, commands, clocks[clock].megabytes("VmRSS"))
    return found


def start(lab: Lab) -> Iterator[Row]:
    """10,000 declared: from the start of the process to the first job on the queue."""
    seconds: dict[tuple[str, str], list[float]] = {}
    memory: dict[str, float] = {}
    for _ in range(1 if lab.quick else 3):
        for clock in CLOCKS:
            with lab.redis() as redis:
                base = time.time()
                for kind in ("empty Redis", "nothing changed"):
                    redis.delete(CANARY_KEY)
                    with _process(clock, redis, idle=IDLE, base=base, canary=1) as process:
                        await_length(redis, CANARY_KEY, 1, process)
                        took = time.monotonic() - process.started
                        seconds.setdefault((clock, kind), []).append(took)
                        memory[clock] = process.megabytes("VmHWM")
    for kind in ("empty Redis", "nothing changed"):
        ours, theirs = (sorted(seconds[c, kind]) for c in CLOCKS)
        yield _row(
            what=f"start, 10,000 declared, {kind}",
            unit="s",
            ours=quantile(ours, 0.5),
            theirs=quantile(theirs, 0.5),
            aim=1,
        )
    yield _row(
        what="start, 10,000 declared: memory after",
        unit="MB",
        ours=memory[OURS],
        theirs=memory[THEIRS],
        aim=60,
    )


def build(lab: Lab) -> Iterator[Row]:
    """What a job costs ahead of its instant, beside what RQ itself needs to make one."""
    size = 1_000 if lab.quick else 4_000
    with lab.redis() as redis:
        floor = min(_rq_enqueue(redis, size) for _ in range(3))
        ours = min(_staging(redis, size, f"round{i}") for i in range(3))
    yield _row(what="to make a job, beside RQ's own enqueue", unit="µs", ours=ours, theirs=floor)


def _rq_enqueue(redis: Redis, size: int) -> float:
    """µs for a job: RQ's enqueue into a pipeline, and packing it for the wire; nothing is sent."""
    queue = Queue("bench", connection=redis)
    connection: Any = redis.connection_pool.get_connection()
    began = time.perf_counter()
    for _ in range(size // 100):
        pipe = redis.pipeline(transaction=False)
        for _ in range(100):
            queue.enqueue(bench.task, pipeline=pipe)
        for words, _ in pipe.command_stack:
            connection.pack_command(*words)
    took = time.perf_counter() - began
    redis.connection_pool.release(connection)
    return took / size * 1e6


def _staging(redis: Redis, size: int, namespace: str) -> float:
    """µs for a job: found in the due index, loaded, decided, made, packed; nothing is sent."""
    store, now = Store(redis, namespace), datetime.now(UTC)
    at = now + timedelta(seconds=10)
    names = [f"herd-{i}" for i in range(size)]
    declared = {n: declare(n, once(at), "bench.task", {"queue": "bench"}) for n in names}
    lease = Leases(store).acquire("bench", ("bench", ""), "starting", now)
    assert isinstance(lease, Lease), "nobody else leads here"
    for _ in store.reconcile(lease, 0, now, plan(declared, {}, {}, now).changes):
        pass
    stage = Planner(store, lease, memory=1 << 30)
    began = time.perf_counter()
    while stage.turn(now) == 0:
        pass
    took = time.perf_counter() - began
    return took / size * 1e6


def _process(clock: str, redis: Redis, **work: float) -> Process:
    """`work` are options of clocks.py."""
    options = (f"--{name.replace('_', '-')}={value}" for name, value in work.items())
    return Process(redis, "bench.clocks", clock, *options)


def _row(
    *, what: str, unit: str, ours: float, theirs: float | None, aim: float | None = None,
    times: float | None = None,
) -> Row:  # fmt: skip
    figures = {OURS: ours, THEIRS: theirs}
    return Row(
        what=what, unit=unit, figures=figures, aim=aim, beside={THEIRS: times} if times else {}
    )


MEASURES: dict[str, Callable[[Lab], Iterator[Row]]] = {
    m.__name__: m for m in (lag, herd, idle, mixed, start, build)
}
