"""A Redis or Valkey of the tests' own: the embedded one, or RQ_CLOCK_TEST_SERVER's binary."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Self

from rq_clock.devserver import LOG, check_port, start_server, stop_server

BINARY = os.environ.get("RQ_CLOCK_TEST_SERVER")


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
        self._directives = directives

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
        return stop_server(self._process)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Make it stand still: connections stay, nothing answers."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on after a pause."""
        self._process.send_signal(signal.SIGCONT)


def free_url() -> str:
    """Return the URL of a free port of this machine.

    Its port is below those that systems hand out to clients: one that keeps reconnecting to a
    stopped server could otherwise get that very port for its own end, and talk to itself.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with suppress(OSError):
            check_port("127.0.0.1", port)
            return f"redis://127.0.0.1:{port}/0"
