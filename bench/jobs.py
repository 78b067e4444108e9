"""The workers' measurements. Each runs all of them in the same minutes.

Where jobs per second are counted, and what a job costs, all jobs are on the queue beforehand, and
the worker does nothing else. The first job holds it until the reading begins, the last one holds
it when it ends: so no start, no enqueueing and no idling is in the figures, and for each job what
comes after its end is.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from redis import Redis

from bench.lab import PEERS_PYTHON, Lab, Monitor, Process, Row, await_file, quantile
from bench.workers import CELERY, OURS, QUEUE, SHARING, SIMPLE, STOCK, WORKERS

Figures = dict[str, float | None]


def throughput(lab: Lab) -> Iterator[Row]:
    """Jobs that do nothing: how many a second, and what they cost of the processors."""
    many, some = (2_000, 150) if lab.quick else (5_000, 300)
    counts = {OURS: some, SHARING: many, STOCK: some, SIMPLE: many // 2, CELERY: many}
    found: dict[str, list[tuple[float, float, float]]] = {worker: [] for worker in _present(lab)}
    for _ in range(1 if lab.quick else 3):  # in turns, so that noise meets all
        for worker in found:
            found[worker].append(_throughput_once(lab, worker, counts[worker]))
    # Whole lines of one run, the middle one, so that the rows belong together.
    middle = {worker: sorted(lines)[len(lines) // 2] for worker, lines in found.items()}
    yield Row(
        what="no-op jobs a second",
        unit="",
        figures=_figures(middle, 0),
        beside={STOCK: 3},
        more=True,
    )
    shared = {worker: figure for worker, figure in _figures(middle, 0).items() if worker != OURS}
    yield Row(
        what="no-op jobs a second, sharing",
        unit="",
        figures={OURS: shared.pop(SHARING), **shared},
        beside={CELERY: 1},
        more=True,
    )
    yield Row(what="CPU a job: worker", unit="ms", figures=_figures(middle, 1))
    yield Row(what="CPU a job: Redis", unit="ms", figures=_figures(middle, 2))


def _throughput_once(lab: Lab, worker: str, jobs: int) -> tuple[float, float, float]:
    """Jobs a second; ms of CPU a job of the worker with its horses, and of the server."""
    with _shift(lab, worker, jobs) as shift:
        before = shift.process.family_cpu(), _server_cpu(shift.redis)
        shift.release("first")
        shift.reach("last")
        after = shift.process.family_cpu(), _server_cpu(shift.redis)
        seconds = shift.instants("last")[0] - shift.instants("first")[1]
        own, server = ((a - b) / jobs * 1000 for a, b in zip(after, before, strict=True))
        return (jobs + 1) / seconds, own, server


def latency(lab: Lab) -> Iterator[Row]:
    """One job at a time, to a worker that is idle: when does it begin?

    From just before the call that enqueues it: about a millisecond is RQ's enqueue itself. Then,
    for fewer jobs and with MONITOR on, from the pop. What rq-clock's script pops has MONITOR's
    stamp; the others wait inside their pop, so the server serves them as soon as the push is done.
    When it began says the job, by the same machine's clock.
    """
    whole: dict[str, list[float]] = {worker: [] for worker in _present(lab)}
    popped: dict[str, list[float]] = {worker: [] for worker in whole}
    for _ in range(1 if lab.quick else 3):
        for worker in whole:
            with _worker(lab, worker) as (redis, _process, directory):
                _send(redis, worker, directory / "warm", 10)
                sent = _send(redis, worker, directory / "whole", 50 if lab.quick else 100)
                whole[worker] += [start - before for before, start in sent]
                with Monitor(redis, _queue_key(worker)) as monitor:
                    sent = _send(redis, worker, directory / "popped", 20 if lab.quick else 30)
                pops = monitor.taken if worker in (OURS, SHARING) else monitor.visible
                pairs = zip(sent, pops, strict=True)
                popped[worker] += [start - pop for (_, start), pop in pairs]
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        figures = _quantiles(whole, part)
        yield Row(what=f"enqueue to start, idle, {name}", unit="ms", figures=figures)
    yield Row(what="pop to start, idle, p50", unit="ms", figures=_quantiles(popped, 0.5), aim=3)


def footprint(lab: Lab) -> Iterator[Row]:
    """After 200 jobs: memory while one runs; connections meanwhile, and when there is none."""
    found = {worker: _footprint_once(lab, worker) for worker in _present(lab)}
    kinds = ("in each process", "shared counted once")
    for i, kind in enumerate(kinds):
        yield Row(what=f"memory in a job, {kind}", unit="MB", figures=_figures(found, i))
    for i, when in enumerate(("in a job", "idle"), start=len(kinds)):
        what = f"connections {when}"
        yield Row(what=what, unit="", figures=_figures(found, i), beside={STOCK: 1})


def _footprint_once(lab: Lab, worker: str) -> tuple[float, ...]:
    """MB as RSS and as PSS, and connections, of a worker in a job; its connections idle."""
    with _shift(lab, worker, 200) as shift:
        shift.release("first")
        shift.reach("last")
        sleep(0.5)
        memory = [shift.process.family_megabytes(kind) for kind in ("Rss", "Pss")]
        busy = shift.connections()
        shift.release("last")
        sleep(1.5)
        return *memory, busy, shift.connections()


def heavy(lab: Lab) -> Iterator[Row]:
    """Jobs of a module that takes a second to import: ours imports it in `setup`, once."""
    found: Figures = {}
    for worker, jobs in ((OURS, 40), (SHARING, 40), (STOCK, 4)):
        with lab.redis() as redis, tempfile.TemporaryDirectory(prefix="bench-") as directory:
            _produce(redis, worker, "heavy", Path(directory), jobs)
            others = len(redis.client_list())
            with _serving(redis, worker, BENCH_HEAVY="1") as process:
                shift = _Shift(redis, process, Path(directory), others)
                shift.reach("first")
                shift.release("first")
                shift.reach("last")
                seconds = shift.instants("last")[0] - shift.instants("first")[1]
                shift.release("last")
                found[worker] = (jobs + 1) / seconds
    yield Row(what="jobs a second, 1 s of imports", unit="", figures=found, more=True)


def requests(lab: Lab) -> Iterator[Row]:
    """What a job asks of Redis, while there are more. A round trip is a time that the server
    reads from a client's socket: a pipeline or a transaction is one."""
    jobs = 100 if lab.quick else 300
    found = {worker: _requests_once(lab, worker, jobs) for worker in _present(lab)}
    whats = ("round trips a job", "commands a job", "commands a job, with those in scripts")
    for i, what in enumerate(whats):
        yield Row(what=what, unit="", figures=_figures(found, i))


def _requests_once(lab: Lab, worker: str, jobs: int) -> tuple[float, ...]:
    with _shift(lab, worker, jobs) as shift:
        before = _reads(shift.redis)
        with Monitor(shift.redis, _queue_key(worker)) as monitor:
            shift.release("first")
            shift.reach("last")
        reads = _reads(shift.redis) - before - 3  # MONITOR's beginning and end, and the question
        return tuple(n / (jobs + 1) for n in (reads, monitor.requests, monitor.commands))


# ---- what they share ----------------------------------------------------------------------------


class _Shift:
    """A worker that holds its first job, and will hold its last."""

    def __init__(self, redis: Redis, process: Process, directory: Path, others: int) -> None:
        self.redis = redis
        self.process = process
        self._directory = directory
        self._others = others

    def connections(self) -> int:
        """How many the worker has: the lab itself has the others."""
        return len(self.redis.client_list()) - self._others

    def reach(self, job: str) -> None:
        """Wait until the worker holds that one."""
        await_file(self._directory / job, self.process)

    def release(self, job: str) -> None:
        """Let it end."""
        (self._directory / f"{job}.go").touch()

    def instants(self, job: str) -> list[float]:
        """When it began, and when it ended if it has."""
        return [float(line) for line in (self._directory / job).read_text().splitlines()]


@contextmanager
def _shift(lab: Lab, worker: str, jobs: int) -> Iterator[_Shift]:
    """Run a worker on a number of jobs that do nothing."""
    with lab.redis() as redis, tempfile.TemporaryDirectory(prefix="bench-") as directory:
        _produce(redis, worker, "fill", Path(directory), jobs)
        others = len(redis.client_list())
        with _serving(redis, worker) as process:
            shift = _Shift(redis, process, Path(directory), others)
            try:
                shift.reach("first")
                sleep(0.5)
                yield shift
            finally:  # so that it can end
                shift.release("first")
                shift.release("last")


@contextmanager
def _worker(lab: Lab, worker: str) -> Iterator[tuple[Redis, Process, Path]]:
    """A worker without any jobs."""
    with (
        lab.redis() as redis,
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        _serving(redis, worker) as process,
    ):
        yield redis, process, Path(directory)


def _serving(redis: Redis, worker: str, **settings: str) -> Process:
    if worker == SHARING:
        settings["RQ_CLOCK_HORSE_JOBS"] = "100"
    return Process(redis, "bench.workers", worker, "serve", python=_python(worker), **settings)


def _send(redis: Redis, worker: str, directory: Path, jobs: int) -> list[tuple[float, float]]:
    """Send jobs one at a time: for each just before it was enqueued, and when it began."""
    directory.mkdir()
    _produce(redis, worker, "send", directory, jobs)
    lines = (directory / "starts").read_text().splitlines()
    return [(float(sent), float(start)) for sent, start in map(str.split, lines)]


def _produce(redis: Redis, worker: str, what: str, directory: Path, jobs: int) -> None:
    command = ("bench.workers", worker, what, f"--jobs={jobs}", f"--directory={directory}")
    with Process(redis, *command, python=_python(worker)) as process:
        process.finish(120)


def _python(worker: str) -> Path:
    return PEERS_PYTHON if worker == CELERY else Path(sys.executable)


def _queue_key(worker: str) -> str:
    return QUEUE if worker == CELERY else f"rq:queue:{QUEUE}"


def _server_cpu(redis: Redis) -> float:
    info = redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def _reads(redis: Redis) -> int:
    return int(redis.info("stats")["total_reads_processed"])


def _present(lab: Lab) -> list[str]:
    return [worker for worker in WORKERS if worker != CELERY or lab.celery]


def _figures(found: Mapping[str, Sequence[float]], i: int) -> Figures:
    """A column's figure of each that was measured."""
    return {worker: line[i] for worker, line in found.items()}


def _quantiles(found: Mapping[str, list[float]], part: float) -> Figures:
    return {worker: quantile(sorted(times), part) * 1000 for worker, times in found.items()}


MEASURES: dict[str, Callable[[Lab], Iterator[Row]]] = {
    m.__name__: m for m in (throughput, latency, footprint, heavy, requests)
}
