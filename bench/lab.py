"""What every measurement needs: a private server, processes of their own, and honest readings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from redis import Redis

from tests.server import Server, free_url

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = Path(sys.prefix, "peers", "bin", "python")
"""The environment of Celery and rq-dashboard; `make bench` and `make bench-web` install it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table."""

    what: str
    unit: str
    figures: Mapping[str, float | None]
    """By the column's head, ours first; None where it was not measured."""
    aim: float | None = None
    """What ours is not to exceed."""
    least: float | None = None
    """What ours is to reach."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """How many times better than another's ours is to be; of one that is missing, any is."""
    more: bool = False
    """More is better, not less."""

    @property
    def ours(self) -> float:
        figure = next(iter(self.figures.values()))
        assert figure is not None
        return figure

    def ratio(self, other: str) -> float | None:
        """How many times better ours is; None where there is nothing to compare."""
        theirs = self.figures.get(other)
        if not theirs or not self.ours:
            return None
        return self.ours / theirs if self.more else theirs / self.ours

    @property
    def met(self) -> bool:
        ratios = ((self.ratio(other), times) for other, times in self.beside.items())
        far = all(ratio is None or ratio >= times for ratio, times in ratios)
        enough = self.least is None or self.ours >= self.least
        return far and enough and (self.aim is None or self.ours <= self.aim)


class Lab:
    """Where to measure, and how long."""

    def __init__(self, *, binary: str | None, quick: bool, full: bool) -> None:
        self.binary = binary
        self.quick = quick
        self.full = full
        self.server = ""
        """What the servers say that they are."""
        self.herds: dict[int, float] = {}
        """Jobs due at one instant → seconds until our clock has enqueued the last."""
        self.p999 = 0.0
        """The worst p99.9 of script runs on any server, ms, by LATENCY's statistics."""

    @cached_property
    def celery(self) -> str:
        """Celery's version; "" when it is not installed."""
        return self.peer("celery")

    def peer(self, package: str) -> str:
        """The version of a package in the peers' environment; "" when it is not installed."""
        if not PEERS_PYTHON.exists():
            return ""
        said = f"from importlib.metadata import version; print(version({package!r}))"
        command = [str(PEERS_PYTHON), "-c", said]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    @contextmanager
    def redis(self) -> Iterator[Redis]:
        """An empty server of its own, without persistence; gone at the end."""
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            server = Server(Path(directory), free_url(), binary=self.binary, appendonly="no")
            with server:
                client: Redis = Redis.from_url(server.url)
                info = client.info("server")
                name = "valkey" if "valkey_version" in info else "redis"
                self.server = f"{name} {info[f'{name}_version']}"
                yield client
                found = client.info("latencystats").get("latency_percentiles_usec_evalsha", {})
                self.p999 = max(self.p999, float(found.get("p99.9", 0)) / 1000)
                client.close()


class Process:
    """`python -m …`, and whatever it forks."""

    def __init__(
        self, redis: Redis, *command: str, python: str | Path = sys.executable, **settings: str
    ) -> None:
        """`command` is a module and its arguments; `settings` go into the environment."""
        at = redis.connection_pool.connection_kwargs
        own = ("RQ_CLOCK_", "REDIS_", "DYNO", "HEROKU_", "WORKER_", "CELERY_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        environment["REDIS_URL"] = f"redis://{at['host']}:{at['port']}/0"
        environment["PYTHONPATH"] = str(ROOT)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [python, "-m", *command],
            cwd=tempfile.gettempdir(),  # where no .env lies
            env=environment | settings,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def check(self) -> None:
        """Raise RuntimeError, with what it said last, when the process has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended: {self._said()}")

    def finish(self, seconds: float) -> None:
        """Wait until it is through; RuntimeError when it failed."""
        if self._process.wait(seconds):
            raise RuntimeError(f"it failed: {self._said()}")

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read()[-2000:].decode()

    def cpu(self) -> float:
        """CPU seconds of all its threads, from the scheduler's own count of nanoseconds."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e9

    def megabytes(self, kind: str) -> float:
        """Memory: VmRSS is now, VmHWM the most it ever was."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"no {kind} in /proc")

    def family_cpu(self) -> float:
        """CPU seconds of it and all that it forked, also of those that have ended, in ticks of
        10 ms."""
        ticks = 0
        for stat in self._family("stat"):
            ticks += sum(map(int, stat.rpartition(") ")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def family_megabytes(self, kind: str) -> float:
        """Memory of it and all that it forked. Rss counts what they share in each of them, Pss
        once in all (and shares it with other processes that map the same files)."""
        kilobytes = 0
        for rollup in self._family("smaps_rollup"):
            for line in rollup.splitlines():
                if line.startswith(f"{kind}:"):
                    kilobytes += int(line.split()[1])
        return kilobytes / 1024

    def _family(self, name: str) -> Iterator[str]:
        """That file of /proc, of it and of all that it forked."""
        pids = [self._process.pid]
        for pid in pids:  # grows on the way
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids += map(int, (task / "children").read_text().split())
                yield Path(f"/proc/{pid}/{name}").read_text()


class Monitor:
    """What a server is asked, and when jobs came to the queue and left it, by the server's clock.

    MONITOR's stamps are real time also inside a script: checked on Valkey 9.1 and Redis 7.0 with
    a script that keeps itself busy between two RPUSH. But nobody sees a push before its script or
    transaction ends, so each counts at the last stamp of its script, or at its EXEC. Watching
    costs the server time, which is in the figures. By INFO commandstats with and without it, the
    20 jobs of a second take 0.35 ms more in rq-clock's one script, and 0.1-0.3 ms more in all 20
    transactions of `rq cron` together.
    """

    def __init__(self, redis: Redis, queue_key: str) -> None:
        at = redis.connection_pool.connection_kwargs
        self._queue = f'"{queue_key}"'
        self._socket = socket.create_connection((at["host"], at["port"]))
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._open: dict[str, int] = {}
        self.visible: list[float] = []
        """For each job on the queue the instant, epoch seconds."""
        self.taken: list[float] = []
        """The same for those that a script took away: its last pop before it went on."""
        self._popped = 0.0
        self.requests = self.commands = 0
        """Commands that clients sent, and these together with those inside scripts."""

    def __enter__(self) -> Self:
        self._socket.sendall(b"MONITOR\r\n")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _watch(self) -> None:
        last = 0.0
        for raw in self._socket.makefile("rb"):
            stamp, _, rest = raw.decode("latin-1").strip().partition(" ")
            if not rest.startswith("["):
                continue  # the +OK
            source, _, command = rest.partition("] ")
            words = command.split(" ")
            in_script = source.endswith(" lua")
            self.commands += 1
            if not in_script:
                self.requests += 1
                self._close("[0 lua", last)
                self._popped = 0.0
            last = float(stamp[1:])
            if words[:2] == ['"RPUSH"', self._queue]:
                self._open[source] = self._open.get(source, 0) + len(words) - 2
            elif words[:2] == ['"LPUSH"', self._queue]:  # Celery's, outside of any transaction
                self.visible.append(last)
            elif in_script:
                self._look_for_pop(last, words)
            if words[0] == '"EXEC"':
                self._close(source, last)
        self._close("[0 lua", last)

    def _look_for_pop(self, stamp: float, words: list[str]) -> None:
        if words[:2] == ['"LPOP"', self._queue]:
            self._popped = stamp
        elif self._popped and words[0] == '"HSET"':  # it writes only when it found a job
            self.taken.append(self._popped)
            self._popped = 0.0

    def _close(self, source: str, stamp: float) -> None:
        self.visible += [stamp] * self._open.pop(source, 0)


def quantile(values: list[float], part: float) -> float:
    """Of sorted values: 0.5 gives the median, 1 the greatest."""
    return values[min(len(values) - 1, int(len(values) * part))]


def whole_second(ahead: float) -> float:
    """The first whole second that is at least `ahead` seconds away, as epoch seconds."""
    return float(int(time.time() + ahead) + 1)


def sleep_until(instant: float) -> None:
    """Wait until the wall clock shows `instant`, epoch seconds."""
    time.sleep(max(0.0, instant - time.time()))


def await_file(path: Path, process: Process) -> None:
    """Return when there is something in a file; looks every 5 ms."""
    deadline = time.monotonic() + 120
    while not path.exists() or not path.stat().st_size:
        process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"there is no {path.name} after two minutes")
        time.sleep(0.005)


def await_length(redis: Redis, key: str, length: int, process: Process) -> None:
    """Return when a list holds `length` elements; looks every 2 ms."""
    deadline = time.monotonic() + 120
    while redis.llen(key) < length:
        process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{key} has {redis.llen(key)} of {length} jobs after two minutes")
        time.sleep(0.002)
