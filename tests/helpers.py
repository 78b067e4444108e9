"""What several tests need and pytest does not have."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError

import rq_clock
from rq_clock.model.entry import Pause
from rq_clock.model.schedule import Schedule
from rq_clock.schedules.service import Schedules
from rq_clock.store.operations import Edit, Operations
from rq_clock.store.store import Store

T = TypeVar("T")
LUA = Path(rq_clock.__file__).parent / "store" / "lua"
REQUIRED = bool(os.environ.get("CI") or os.environ.get("RQ_CLOCK_REQUIRE_ALL") == "1")
"""Whether a test that lacks a program of the system fails. Read before any test clears the
environment."""
PATIENCE = 120.0
"""Seconds after which something awaited is missing: far beyond what a busy machine needs."""
Events = Callable[[str], list[dict[str, Any]]]


def needs(program: str) -> pytest.MarkDecorator:
    """Skip tests where a program of the system is missing, and say so; in CI they fail."""
    missing = not shutil.which(program)
    return pytest.mark.skipif(missing and not REQUIRED, reason=lack(program))


def require(program: str) -> str:
    """Return the path of a program of the system. Where it is missing, skip the test or, in CI,
    fail it."""
    path = shutil.which(program)
    if path is None:
        (pytest.fail if REQUIRED else pytest.skip)(lack(program))
    return path


def make_certificate(path: Path, name: str) -> Path:
    """Make a certificate for "DNS:…" or "IP:…", signed by itself: `cert.pem`, which is returned,
    and `key.pem`."""
    words = (
        f"{require('openssl')} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        f" -days 2 -keyout key.pem -out cert.pem -subj /CN=x -addext subjectAltName={name}"
    )
    subprocess.run(words.split(), cwd=path, check=True, capture_output=True)
    return path / "cert.pem"


def lack(program: str) -> str:
    return f"THERE IS NO {program.upper()} HERE: `apt install {program}`"


def wait_until(predicate: Callable[[], T], what: str, *, timeout: float = PATIENCE) -> T:
    """Return the predicate's first true value. Fail after `timeout` seconds.

    The only sleep of the suite: a test waits for something, never for a while.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
    return value


class Pace:
    """A control for promised times: how slow the machine was while the block lasted.

    Python processes that do nothing are started beside the block, one after the other; the slowest
    one says how long a busy machine lets a process wait. Alone it takes about 15 ms.
    """

    def __init__(self) -> None:
        self.slowest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def allows(self, seconds: float) -> float:
        """Return the limit for a promise of `seconds` on a machine as slow as this one was."""
        return seconds + 20 * self.slowest

    def _measure(self) -> None:
        while not self.slowest or not self._over.is_set():
            began = time.monotonic()
            subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self._over.wait(0.1)


@contextmanager
def round_trips() -> Iterator[list[Any]]:
    """What this process sends to any Redis in the block, one entry a round trip."""
    sent: list[Any] = []
    send: Any = AbstractConnection.send_packed_command

    def spy(self: AbstractConnection, command: Any, check_health: bool = True) -> None:
        sent.append(command)
        send(self, command, check_health)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", spy)
        yield sent


@contextmanager
def replies_lost(*scripts: str) -> Iterator[None]:
    """Lose the reply to each of these scripts once: the server acts, and the client gets an error.

    Without names, the reply to the first script that is called.
    """
    shas = [hashlib.sha1((LUA / f"{name}.lua").read_bytes()).hexdigest() for name in scripts]
    lost = [sha.encode() for sha in shas] or [b"EVALSHA"]
    sent: dict[int, bytes] = {}
    send: Any = AbstractConnection.send_packed_command
    read: Any = AbstractConnection.read_response

    def note(self: Any, command: Any, *args: Any, **options: Any) -> None:
        sent[id(self)] = command if isinstance(command, bytes) else b"".join(command)
        send(self, command, *args, **options)

    def lose(self: Any, *args: Any, **options: Any) -> Any:
        reply = read(self, *args, **options)
        request = sent.pop(id(self), b"")
        for sha in lost:
            if b"EVALSHA" in request and sha in request:
                lost.remove(sha)
                self.disconnect()
                raise ConnectionError("the reply was lost")
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", note)
        patch.setattr(AbstractConnection, "read_response", lose)
        yield
    assert not lost


def definition(schedules: Schedules, name: str = "x") -> Schedule:
    """Return the definition of a schedule. Fail when there is none."""
    entry = schedules.get(name)
    assert entry
    assert entry.schedule
    return entry.schedule


def pause(
    store: Store, name: str, now: datetime, until: datetime | None = None, missed: str = "skip"
) -> None:
    """Pause a schedule, or all with "*", at an instant of the test's own. With `until` as the
    instant that is now it ends."""
    pause = Pause(reason="maintenance", by="ops", since=now, until=until, missed=missed)
    Operations(store).edit([Edit(name=name, pause=pause, next_fire=until)], now)
