"""A Redis or Valkey of the tests' own: the embedded one, or RQ_CLOCK_TEST_SERVER's binary."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from rq_clock.devserver import LOG, check_port, start_server, stop_server
from rq_clock.store.scripts import load_script

BINARY = os.environ.get("RQ_CLOCK_TEST_SERVER")
LUA = Path(__file__).parents[1] / "rq_clock" / "store" / "lua"
SLOW_US = 1000
SLOWLOG = {"slowlog_log_slower_than": str(SLOW_US), "slowlog_max_len": "10000"}
longest: dict[str, float] = {}
"""Script → its longest run on any server that has ended, ms, by SLOWLOG; those over SLOW_US."""


class Server:
    """One server process and its data; after any end, `start` runs it on the same data again.

    `directives` are the server's own, with _ for -:
    `Server(path, free_url(), appendonly="no", maxmemory="2mb")`.
    """

    def __init__(
        self, data_dir: Path, url: str, *, binary: str | None = BINARY, **directives: str
    ) -> None:
        self.url = url
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / LOG
        self._binary = binary
        self._directives = SLOWLOG | directives

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process.poll() is None

    def start(self) -> None:
        self._process = start_server(
            self.url, self.data_dir, binary=self._binary, **self._directives
        )

    def stop(self) -> int:
        """End it as SHUTDOWN does, also a paused one. Return its exit code."""
        self.resume()
        self._read_slowlog()
        return stop_server(self._process)

    def kill(self) -> None:
        """End it as a crash does."""
        self._read_slowlog()
        self._process.kill()
        self._process.wait()

    def _read_slowlog(self) -> None:
        """Note how long scripts ran, unless the server answers nobody here."""
        with suppress(RedisError), Redis.from_url(self.url, socket_timeout=5) as redis:
            entries: Any = redis.slowlog_get(10_000) if self.running else []
            names = {load_script(redis, path.stem).sha: path.stem for path in LUA.glob("*.lua")}
            for entry in entries:
                words = entry["command"].decode(errors="replace").split(" ")
                if words[0].upper() == "EVALSHA":
                    name = names.get(words[1], "another")
                    longest[name] = max(longest.get(name, 0), entry["duration"] / 1000)

    def pause(self) -> None:
        """Make it stand still: connections stay, nothing answers."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on after a pause."""
        self._process.send_signal(signal.SIGCONT)


def longest_shown() -> str:
    """Return the five longest script runs, as a line of a report."""
    found = sorted(longest.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{name} {ms:.1f} ms" for name, ms in found) or f"none over {SLOW_US} µs"


def free_url() -> str:
    """Return the URL of a free port of this machine.

    Its port is below those that systems hand out to clients: one that keeps reconnecting to a
    stopped server could otherwise get that very port for its own end, and talk to itself. So is
    the port 10,000 above it, which a server in cluster mode listens on.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 22_000)
        with suppress(OSError):
            check_port("127.0.0.1", port)
            return f"redis://127.0.0.1:{port}/0"
