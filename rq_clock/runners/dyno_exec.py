"""What a one-off dyno runs: `python -m rq_clock exec <run> -- <command line>`.

It stores the beginning, then runs the command, stores what it prints about twice a second, and at
last its exit code. The beginning is stored once for a run: a second dyno for the same run, which
the platform or a lost reply can make, runs nothing. What the command prints goes to the dyno's own
output, too.

| it dies | what is left |
|---|---|
| before the beginning is stored | nothing was run; the worker sees the dyno vanish |
| while the command runs | beginning and output, no end: the worker reports the run as lost |
| after the end is stored | everything |
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from rq_clock.errors import CommandFailed
from rq_clock.log import log_event, log_warning
from rq_clock.redaction import StreamMask, masked_text, printable
from rq_clock.runners.shell import Shell
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings, job_environment, known_secrets
from rq_clock.store.dynos import PIECES, Dynos

WRITE_SECONDS = 0.5
"""How often output is stored."""
ALIVE_SECONDS = 5.0
"""How often it is checked whether the job still waits for this dyno."""
PIECE = 8 * 1024
"""Bytes of a piece of output."""
PATIENCE_SECONDS = 120.0
"""How long Redis may be away before the beginning and after the end. The platform's 30 s for a
dyno that it stops are not enough for this; then the run is lost."""
SHUTDOWN, NOBODY = "the end of its dyno", "the end of its job"


def execute(run: str, shell: str) -> int:
    """Run the command line and return its exit code, 128 and more for a signal. 0 without running
    anything when another dyno has begun this run; 75 (EX_TEMPFAIL) when Redis does not answer or
    knows no such run."""
    settings = Settings.from_env()
    dynos = Dynos(Runtime().connect(settings), settings.namespace)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    answer = _patiently(lambda: dynos.begin(run, settings.instance))
    if answer != "begun":
        log_warning("dyno.refused", run=run, reason=answer or "Redis does not answer")
        return 0 if answer == "taken" else 75
    log_event("dyno.begun", run=run, command=printable(masked_text(shell), 200))
    writer = _Writer(dynos, run)
    writer.start()
    code, because = _run(shell, writer, stopped)
    writer.finish()
    log_event("dyno.ended", run=run, exit=code)

    def store() -> str:
        dynos.end(run, code, because)
        return "stored"

    if _patiently(store) is None:
        log_warning("dyno.unstored", run=run, exit=code)
    return code if code >= 0 else 128 - code


def _run(shell: str, writer: _Writer, stopped: threading.Event) -> tuple[int, str]:
    """Return the exit code, minus the signal, and why it was ended, if it was."""
    environ = {"PYTHONUNBUFFERED": "1", **job_environment()}
    secrets = known_secrets(environ)
    masks = {"stdout": StreamMask(secrets), "stderr": StreamMask(secrets)}

    def add(stream: str, chunk: bytes) -> None:
        _print(chunk, stream)
        writer.add(stream, masks[stream].feed(chunk))

    def leave() -> str:
        return SHUTDOWN if stopped.is_set() else NOBODY if writer.abandoned else ""

    try:
        with Shell(shell, cwd=None, env=environ) as running:
            ended = running.watch(float("inf"), add, leave)
    except CommandFailed as error:
        writer.add("stderr", f"{error}\n".encode())
        return 126, ""
    for stream, mask in masks.items():
        writer.add(stream, mask.finish())
    if ended.code == -signal.SIGTERM and stopped.wait(0.5):  # the platform signals all at once
        return ended.code, SHUTDOWN
    return ended.code, ended.why


def _print(output: bytes, stream: str) -> None:
    with suppress(OSError):
        while output:
            output = output[os.write(1 if stream == "stdout" else 2, output) :]


def _patiently(act: Callable[[], str]) -> str | None:
    """Return what `act` returns, None when Redis does not answer for PATIENCE_SECONDS."""
    until, pause = time.monotonic() + PATIENCE_SECONDS, 0.2
    while True:
        try:
            return act()
        except RedisError as error:
            if time.monotonic() + pause > until:
                return None
            log_warning("store.waiting", reason=error)
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


class _Writer(threading.Thread):
    """Stores output in Redis, beside the command. It never delays the command: what does not fit is
    dropped, the oldest first, and its number is missing."""

    def __init__(self, dynos: Dynos, run: str) -> None:
        super().__init__(name="rq-clock-dyno", daemon=True)
        self.abandoned = False
        """Whether the job waits for this dyno no longer."""
        self._dynos, self._dyno_run = dynos, run
        self._pieces: deque[tuple[int, str, bytes]] = deque(maxlen=PIECES)
        self._next = 0
        self._changed = threading.Condition()
        self._over = False

    def add(self, stream: str, data: bytes) -> None:
        with self._changed:
            while data:
                data = data[self._extend(stream, data) :]

    def _extend(self, stream: str, data: bytes) -> int:
        """Add to the last piece, or begin one. Return how many bytes it took."""
        if self._pieces and self._pieces[-1][1] == stream and len(self._pieces[-1][2]) < PIECE:
            number, _, before = self._pieces.pop()
        else:
            number, before = self._next, b""
            self._next += 1
        part = data[: PIECE - len(before)]
        self._pieces.append((number, stream, before + part))
        return len(part)

    def run(self) -> None:
        looked = 0.0
        while not self._over:
            with self._changed:
                self._changed.wait(WRITE_SECONDS)
                pieces = list(self._pieces)
                self._pieces.clear()
            if pieces or time.monotonic() >= looked + ALIVE_SECONDS:
                looked = time.monotonic()
                self._write(pieces)

    def _write(self, pieces: list[tuple[int, str, bytes]]) -> None:
        try:
            self.abandoned = not self._dynos.print(self._dyno_run, pieces)
        except RedisError:
            with self._changed:
                newer = [*pieces, *self._pieces]
                self._pieces.clear()
                self._pieces.extend(newer)

    def finish(self) -> None:
        """End the thread, and store the rest: once more if need be."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self.join(ALIVE_SECONDS)
        if self._pieces:
            self._write(list(self._pieces))
