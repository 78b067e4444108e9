"""What every measurement needs: a private server, a clock's process, and honest readings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redis import Redis

from rq_clock.embedded import Server, free_url

OURS, THEIRS = "rq-clock", "rq-cron"
CLOCKS = (OURS, THEIRS)
ROOT = Path(__file__).parent.parent
QUEUE_KEY = "rq:queue:bench"
CANARY_KEY = "rq:queue:canary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. Less is better in all of them."""

    what: str
    unit: str
    ours: float
    theirs: float | None = None
    aim: float | None = None
    aim_ratio: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less rq-clock needs; None where there is nothing to compare."""
        return self.theirs / self.ours if self.theirs and self.ours else None

    @property
    def met(self) -> bool:
        near = self.aim is None or self.ours <= self.aim
        far = self.aim_ratio is None or self.ratio is None or self.ratio >= self.aim_ratio
        return near and far


class Lab:
    """Where to measure, and how long."""

    def __init__(self, *, binary: str | None, quick: bool, full: bool) -> None:
        self.binary = binary
        self.quick = quick
        self.full = full
        self.server = ""
        """What the servers say that they are."""

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
                client.close()


class Process:
    """One clock's process."""

    def __init__(self, clock: str, redis: Redis, **work: float) -> None:
        """`work` are options of clocks.py."""
        at = redis.connection_pool.connection_kwargs
        own = ("RQ_CLOCK_", "REDIS_", "DYNO", "HEROKU_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        environment["REDIS_URL"] = f"redis://{at['host']}:{at['port']}/0"
        environment["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, "-m", "bench.clocks", clock]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in work.items()]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=tempfile.gettempdir(),  # where no .env lies
            env=environment,
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
            self._output.seek(0)
            raise RuntimeError(f"the clock ended: {self._output.read()[-2000:].decode()}")

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


class Monitor:
    """What a server is asked, and when jobs became visible on the queue, by the server's clock.

    MONITOR's stamps are real time also inside a script: checked on Valkey 9.1 and Redis 7.0 with
    a script that keeps itself busy between two RPUSH. But nobody sees a push before its script or
    transaction ends, so each counts at the last stamp of its script, or at its EXEC. Watching
    costs the server time, which is in the figures. By INFO commandstats with and without it, the
    20 jobs of a second take 0.35 ms more in rq-clock's one script, and 0.1-0.3 ms more in all 20
    transactions of `rq cron` together.
    """

    def __init__(self, redis: Redis) -> None:
        at = redis.connection_pool.connection_kwargs
        self._socket = socket.create_connection((at["host"], at["port"]))
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._open: dict[str, int] = {}
        self.visible: list[float] = []
        """For each job on the queue the instant, epoch seconds."""
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
            if words[:2] == ['"RPUSH"', f'"{QUEUE_KEY}"']:
                self._open[source] = self._open.get(source, 0) + len(words) - 2
            last = float(stamp[1:])
            if words[0] == '"EXEC"':
                self._close(source, last)
        self._close("[0 lua", last)

    def _close(self, source: str, stamp: float) -> None:
        self.visible += [stamp] * self._open.pop(source, 0)


def whole_second(ahead: float) -> float:
    """The first whole second that is at least `ahead` seconds away, as epoch seconds."""
    return float(int(time.time() + ahead) + 1)


def sleep_until(instant: float) -> None:
    """Wait until the wall clock shows `instant`, epoch seconds."""
    time.sleep(max(0.0, instant - time.time()))


def await_length(redis: Redis, key: str, length: int, process: Process) -> None:
    """Return when a list holds `length` elements; looks every 2 ms."""
    deadline = time.monotonic() + 120
    while redis.llen(key) < length:
        process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{key} has {redis.llen(key)} of {length} jobs after two minutes")
        time.sleep(0.002)
