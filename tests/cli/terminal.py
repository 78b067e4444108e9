"""The command line as its users meet it: called, or on a terminal of 100 columns and 30 rows."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import click
from click.testing import CliRunner, Result
from redis import Redis

from rq_clock import Clock, cron, every
from rq_clock.cli import main
from rq_clock.model.entry import Lease
from rq_clock.store.lease import Leases
from rq_clock.store.store import Change, Store
from tests.helpers import PATIENCE, wait_until
from tests.process import ROOT

NOT_LATE = timedelta(0)


class Run:
    """Run `rq-clock` against a server, without a terminal: `run("list", "--json", DYNO="x")`."""

    def __init__(self, url: str, **env: str) -> None:
        self._env = {"REDIS_URL": url, **env}

    def __call__(self, *words: str, **env: str) -> Result:
        return CliRunner().invoke(main, words, env=self._env | env)

    def ok(self, *words: str, **env: str) -> str:
        """Run a command that succeeds, and return its standard output."""
        result = self(*words, **env)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def json(self, *words: str, **env: str) -> Any:
        """Return the document that a command prints with --json, whatever its exit code."""
        return json.loads(self(*words, "--json", **env).stdout)

    def refused(self, code: int, *words: str, **env: str) -> str:
        """Run a command that fails without output or a change, and return its standard error."""
        with Redis.from_url(self._env["REDIS_URL"]) as redis, unchanged(redis):
            result = self(*words, **env)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        return result.stderr


def fill(connection: Redis, *, late: timedelta = NOT_LATE) -> Store:
    """Two declared schedules, of which one is late by so much, and a clock that leads."""
    store, now = Store(connection, "default"), datetime.now(UTC)
    lease = Leases(store).acquire("clock.1", ("test", ""), "starting", now)
    assert isinstance(lease, Lease)
    clock = Clock()
    clock.add("feeds", every(minutes=5), "tasks.demo.heartbeat", queue="reports")
    clock.add("report", cron("0 3 * * *", tz="Europe/Berlin"), "tasks.demo.heartbeat")
    known = {"feeds": now - late, "report": now}  # a daily schedule is late at some hours only
    changes = [
        Change("put", s.name, s.definition(), s.next_after(known[s.name]), since=known[s.name])
        for s in clock.declared.values()
    ]
    assert all(store.reconcile(lease, 0, now, changes))
    return store


def everything(redis: Redis) -> dict[bytes, Any]:
    """All that the server holds, to see that nothing was written."""
    client: Any = redis
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    return {key: read[client.type(key)](key) for key in client.keys("*")}


@contextmanager
def unchanged(redis: Redis) -> Iterator[None]:
    """Fail when the block changes a key of the server, except a lease, which may expire."""
    before = everything(redis)
    yield
    after = everything(redis)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed <= {b"rq-clock:default:lease"}, changed


def environment(url: str, **env: str) -> dict[str, str]:
    """What a process of the tests is given."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return {"REDIS_URL": url, "PYTHONPATH": str(ROOT), "PATH": path, "TERM": "xterm", **env}


def command(url: str, *words: str, **env: str) -> subprocess.Popen[str]:
    """`rq-clock` in a process of its own, with pipes for its output."""
    return subprocess.Popen(
        [sys.executable, "-m", "rq_clock", *words],
        env=environment(url, **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(url: str, *queues: str) -> Iterator[None]:
    """A worker for these queues, as long as the block lasts."""
    worker = command(url, "worker", *queues)
    try:
        with Redis.from_url(url) as redis:
            wait_until(lambda: redis.exists("rq:workers"), "a worker")
        yield
    finally:
        worker.terminate()
        worker.communicate(timeout=PATIENCE)


@contextmanager
def leading(url: str, path: Path) -> Iterator[None]:
    """A clock without schedules of its own, as long as the block lasts."""
    script = path / "clock.py"
    script.write_text("from rq_clock import Clock\nClock().run()\n")
    clock = subprocess.Popen(
        [sys.executable, script],
        env=environment(url, RQ_CLOCK_OWNER="test"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Redis.from_url(url) as redis:
            store = Store(redis, "default")
            wait_until(Leases(store).leader, "a clock that leads")
        yield
    finally:
        clock.terminate()
        clock.wait(PATIENCE)


class Terminal:
    """`rq-clock` with a terminal as its input and outputs."""

    def __init__(self, url: str, *words: str, **env: str) -> None:
        self.output = self._typed = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_ITS_TERMINAL, *words],
            env=environment(url, **env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        os.close(self._master)

    @property
    def plain(self) -> str:
        """What was shown, without colours."""
        return click.unstyle(self.output)

    def shows(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.output.count(text) >= times, f"{text!r} on the terminal")

    def type(self, text: str) -> None:
        self._typed = text
        os.write(self._master, text.encode())

    def ends(self) -> int:
        """The exit code, after everything was read. Ctrl-C is typed again after some seconds, as a
        person does: Python's input() loses one that comes in the moment before it waits."""
        for _ in range(9):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE / 10)
                break
            if self._typed == "\x03":
                self.type(self._typed)
        code = self._process.wait(PATIENCE / 10)
        self._reader.join(PATIENCE)
        return code

    def _read(self) -> None:
        decoder = getincrementaldecoder("utf-8")()
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.output += decoder.decode(data)


# Ctrl-C reaches the processes whose terminal this is.
_ON_ITS_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from rq_clock.cli import main
main(sys.argv[1:], prog_name="rq-clock")
"""
