"""A clock that kills itself at a chosen point of its talk with Redis.

Runs in a fork of a process that has everything imported, so that each of hundreds of points costs
a few milliseconds. redis-py's connection is wrapped, rq_clock is as it is.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis.connection import AbstractConnection

from rq_clock import Clock, every
from rq_clock.store import scripts

HALF_PAST = datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
ALL: dict[str, Any] = {"catch_up": "all", "catch_up_limit": 1_000_000}
POINTS = ("before", "torn", "sent", "answered")
"""Of a command: nothing was sent; half of it was; all of it was; its answer has been read."""
TEXTS = {path.stem: scripts._source(path.stem) for path in scripts._LUA.glob("*.lua")}
SCRIPTS = {hashlib.sha1(str(text).encode()).hexdigest(): name for name, text in TEXTS.items()}


def old_release() -> Clock:
    clock = Clock()
    for name in ("steady", "changed", "before", "was", "gone"):
        clock.add(name, every(seconds=1), "tasks.nothing", **ALL)
    return clock


def new_release() -> Clock:
    """One schedule unchanged, one with another rule of time, one renamed, one both, one removed,
    one new. The new rule's fire times are told from the old one's by their half seconds."""
    clock = Clock()
    other = every(seconds=1, anchor=HALF_PAST)
    clock.add("steady", every(seconds=1), "tasks.nothing", **ALL)
    clock.add("changed", other, "tasks.nothing", **ALL)
    clock.add("after", every(seconds=1), "tasks.nothing", renamed_from="before", **ALL)
    clock.add("is", other, "tasks.nothing", renamed_from="was", **ALL)
    clock.add("fresh", every(seconds=1), "tasks.nothing", **ALL)
    return clock


class Death:
    """Counts what passes between this process and Redis, and kills it when told to.

    A point is "before EVALSHA commit 2": the second time it is about to send that command.
    `points` collects those that were passed.
    """

    def __init__(self, at: str | None) -> None:
        self.at = at
        self.points: list[str] = []
        self._passed: Counter[str] = Counter()

    def install(self) -> None:
        send: Any = AbstractConnection.send_packed_command
        read: Any = AbstractConnection.read_response
        asked: dict[int, str] = {}

        def sending(connection: Any, command: Any, check_health: bool = True) -> Any:
            label = asked[id(connection)] = _label(command)
            self._reach(f"before {label}")
            if label.startswith("EVALSHA"):
                whole = command if isinstance(command, bytes) else b"".join(command)
                self._reach(f"torn {label}", lambda: _tear(connection, whole))
            result = send(connection, command, check_health)
            self._reach(f"sent {label}")
            return result

        def reading(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return read(connection, *args, **kwargs)
            finally:
                self._reach(f"answered {asked[id(connection)]}")

        AbstractConnection.send_packed_command = sending  # type: ignore[method-assign]
        AbstractConnection.read_response = reading  # type: ignore[assignment]

    def _reach(self, point: str, first: Callable[[], None] = lambda: None) -> None:
        self._passed[point] += 1
        name = f"{point} {self._passed[point]}"
        self.points.append(name)
        if name == self.at:
            first()
            os.kill(os.getpid(), signal.SIGKILL)


def _tear(connection: Any, command: bytes) -> None:
    connection.connect()
    connection._sock.sendall(command[: len(command) // 2])


def _label(command: Any) -> str:
    """The command's name; a script's instead of its hash."""
    packed = command if isinstance(command, bytes) else b"".join(command)
    words = packed.split(b"\r\n", 5)
    name = words[2].decode()
    if name == "EVALSHA":
        return f"EVALSHA {SCRIPTS[words[4].decode()]}"
    return name


def run(path: Path, env: dict[str, str], death: str | None) -> None:
    """Be the clock of the new release, in this process, until a signal or the chosen death.

    `path` gets the log and, at an orderly end, the points that were passed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the test
    os.environ.clear()
    os.environ.update(env)
    log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv[1:] = []
    watch = Death(death)
    watch.install()
    new_release().run()
    path.with_suffix(".json").write_text(json.dumps(watch.points))
