"""The function that the jobs of `dyno(…)` call, in a worker: start a one-off dyno and follow it.

The platform's API takes no idempotency key and reports no exit code. So the dyno runs
`python -m rq_clock exec <run> -- …` (dyno_exec.py), and the two meet in Redis (store/dynos.py):

What happens when either dies at any step is in docs/internals/crashes.md, as a table.

A run is named by its job and by how many retries are left: attempts after a death or a shutdown
share it, a retry after a failure has a run of its own. Dynos of an earlier run of the job are
stopped before another one is started.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError
from rq.job import Job

from rq_clock.errors import CommandFailed, Interrupted, WebhookFailed
from rq_clock.log import log_event, log_warning
from rq_clock.model.targets import DYNO_START_SECONDS, DYNO_STOP_SECONDS
from rq_clock.redaction import masked_text, printable
from rq_clock.run import Run, stopping
from rq_clock.runners.output import last_line
from rq_clock.runners.platform_api import PlatformApi, PlatformDyno, PlatformError
from rq_clock.runners.shell import Ended
from rq_clock.runners.tasks import (
    CommandTimedOut,
    facts_of,
    prepare_job,
    print_output,
    run_variables,
)
from rq_clock.store.dynos import DynoRecord, Dynos

LOOK_SECONDS = 15.0
"""How often the platform is asked for a dyno that follows: an account may call 4,500 times an
hour."""
READ_MS = 500
"""How long one read waits for output."""
SHORTEST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds between two calls that failed; they double from the one to the other."""
_RUN = re.compile(r"\bexec (\S+) -- ")


def run_dyno(
    shell: str,
    size: str | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a shell command in a one-off dyno to its end; see `rq_clock.dyno`.

    Raises CommandFailed with its exit code, or when the platform refuses the dyno or loses it;
    CommandTimedOut after `timeout` seconds; Interrupted when the worker shuts down, and the dyno
    goes on.
    """
    settings, job, run = prepare_job()
    if job is None:
        raise CommandFailed("expected a job of RQ, got a plain call; dynos are started by workers")
    api = PlatformApi(settings)
    dynos = Dynos(job.connection, settings.namespace)
    line = (shell, size, timeout, {**(env or {}), **run_variables(run)})
    _Follower(api, dynos, job, run).run(*line)


def name_of(job: Job, run: Run | None) -> str:
    """Return the name of the job's present run: the same for each attempt of it."""
    words = [job.id, f"r{job.retries_left or 0}"]
    if run and run.requeued:
        words.append(f"q{run.requeued}")
    return ".".join(words)


class _Follower:
    """One attempt of a job to bring a dyno to its end."""

    def __init__(self, api: PlatformApi, dynos: Dynos, job: Job, run: Run | None) -> None:
        self._api, self._dynos, self._job = api, dynos, job
        self._facts = facts_of(job, run)
        self._run = name_of(job, run)
        self._last, self._number = "0", 0
        """The id of the last piece of output, and the number of the next one."""
        self._errors = b""

    def run(
        self, shell: str, size: str | None, timeout: float | None, env: Mapping[str, str]
    ) -> None:
        """Start or find the dyno, follow it, and raise what its end means."""
        self._leave_if_stopping()
        record = self._outlasting(self._intend)
        if not record.ended:
            shown = printable(masked_text(shell), 200)
            name = self._found() or self._start(shell, size, timeout, env)
            with suppress(RedisError):  # its name is only shown
                self._dynos.created(self._run, name)
            log_event("dyno.following", **self._facts, dyno=name, command=shown)
            record = self._follow(name, timeout)
        self._print_rest()
        self._report(record, timeout)

    # ---- to the beginning ---------------------------------------------------------------------

    def _intend(self) -> DynoRecord:
        """Store the intent. Return what an earlier attempt has left."""
        self._dynos.intend(self._run, self._job.id)
        return self._dynos.read(self._run)

    def _found(self) -> str:
        """Return the name of this run's dyno, "" when there is none. Stop those of earlier runs of
        the job: nobody follows them."""
        until, pause = time.monotonic() + DYNO_START_SECONDS, SHORTEST_PAUSE
        while True:
            try:
                return self._search()
            except PlatformError as error:
                pause = self._wait(error, until, pause)

    def _search(self) -> str:
        found = ""
        for dyno in self._api.dynos():
            named = _RUN.search(dyno.command)
            run = named[1].strip("'") if named else ""
            if run == self._run:
                found = found or dyno.name
            elif run.startswith(f"{self._job.id}.r"):
                log_warning("dyno.stopped", **self._facts, dyno=dyno.name, reason="an earlier run")
                self._api.stop(dyno.name)
        return found

    def _start(
        self, shell: str, size: str | None, timeout: float | None, env: Mapping[str, str]
    ) -> str:
        command = f"python -m rq_clock exec {shlex.quote(self._run)} -- {shlex.quote(shell)}"
        seconds = DYNO_START_SECONDS + DYNO_STOP_SECONDS
        until, pause = time.monotonic() + DYNO_START_SECONDS, SHORTEST_PAUSE
        while True:
            try:
                dyno: PlatformDyno = self._api.create(
                    command, size=size, env=env, seconds=int(timeout) + seconds if timeout else None
                )
                log_event("dyno.started", **self._facts, dyno=dyno.name, size=size or "default")
                return dyno.name
            except PlatformError as error:
                pause = self._wait(error, until, pause)
            if name := self._found():  # the reply was lost, not the request
                return name

    def _wait(self, error: PlatformError, until: float, pause: float) -> float:
        """Wait before a call is repeated, and return the next pause. Raises the error when that is
        useless or would last too long."""
        if error.again is None:
            raise error
        seconds = max(error.again, pause)
        if time.monotonic() + seconds > until:
            raise error
        log_warning("dyno.waiting", **self._facts, seconds=f"{seconds:g}", reason=error)
        wake_at = time.monotonic() + seconds
        while time.monotonic() < wake_at:
            self._leave_if_stopping()
            time.sleep(min(0.2, pause))
        return min(pause * 2, LONGEST_PAUSE)

    # ---- to the end ---------------------------------------------------------------------------

    def _follow(self, name: str, timeout: float | None) -> DynoRecord:
        """Pass on output until the dyno has ended. Stop it after its time."""
        started, look_at = time.monotonic(), time.monotonic() + LOOK_SECONDS
        stop_at, gone = 0.0, False
        while True:
            self._leave_if_stopping()
            record = self._outlasting(self._read)
            if record.ended:
                return record
            if gone:
                raise self._lost(name, record)
            now = time.monotonic()
            late = not record.began and now > started + DYNO_START_SECONDS
            over = timeout and record.began and record.now > record.began + timeout * 1000
            if (late or over) and not stop_at:
                stop_at = now
                self._stop(name)
            elif stop_at and now > stop_at + DYNO_STOP_SECONDS:
                raise CommandTimedOut(f"{name} was stopped after its time, and has stored no end")
            if now >= look_at:
                look_at = now + LOOK_SECONDS
                gone = self._is_gone(name)

    def _read(self) -> DynoRecord:
        """Pass on the output that has come, and return the record."""
        self._print(READ_MS)
        return self._dynos.read(self._run)

    def _outlasting(self, call: Callable[[], DynoRecord]) -> DynoRecord:
        """Return what a call returns that may be repeated. Wait while Redis is away."""
        while True:
            try:
                return call()
            except RedisError as error:
                log_warning("dyno.waiting", **self._facts, reason=error)
                self._leave_if_stopping()
                time.sleep(1)

    def _stop(self, name: str) -> None:
        log_event("dyno.stopped", **self._facts, dyno=name, reason="its time is over")
        try:
            self._api.stop(name)
        except PlatformError as error:  # its own time to live ends it, too
            log_warning("dyno.unstopped", **self._facts, dyno=name, reason=error)

    def _is_gone(self, name: str) -> bool:
        try:
            return self._api.is_gone(name)
        except PlatformError as error:  # Redis still says how it goes
            log_warning("dyno.unseen", **self._facts, dyno=name, reason=error)
            return False

    def _lost(self, name: str, record: DynoRecord) -> CommandFailed:
        """Return the error of a dyno that has vanished, with what the platform logged of it."""
        with suppress(WebhookFailed, CommandFailed):
            for line in self._api.last_lines(name):
                print_output(f"{printable(line, 2000)}\n".encode(), "stderr")
                self._errors = (self._errors + line.encode() + b"\n")[-2000:]
        when = "after it had begun" if record.began else "before it began"
        log_warning("dyno.lost", **self._facts, dyno=name, when=when)
        return CommandFailed(f"lost: {name} vanished {when}, and has stored no end{self._quote()}")

    def _leave_if_stopping(self) -> None:
        if stopping():
            log_event("dyno.left", **self._facts)
            raise Interrupted(
                "its worker shuts down; the dyno goes on, the next attempt follows it"
            )

    def _print(self, wait_ms: int) -> bool:
        """Pass on a portion of output; return whether there was some."""
        pieces = self._dynos.output_after(self._run, self._last, wait_ms)
        for piece in pieces:
            if piece.number > self._number:
                print_output(b"[output was dropped: the dyno printed too fast]\n", "stdout")
            print_output(piece.data, piece.stream)
            if piece.stream == "stderr":
                self._errors = (self._errors + piece.data)[-2000:]
            self._last, self._number = piece.id, piece.number + 1
        return bool(pieces)

    def _print_rest(self) -> None:
        """Print what is left. Its end is known: an outage costs output, not the run."""
        with suppress(RedisError):
            while self._print(1):
                pass

    def _quote(self) -> str:
        line = last_line(self._errors)
        return f"; last line: {line}" if line else ""

    def _report(self, record: DynoRecord, timeout: float | None) -> None:
        """Log the end, and raise what it means."""
        seconds = (record.ended - record.began) / 1000
        ended = Ended(record.code, record.because, seconds, False)
        how: dict[str, Any] = (
            {"signal": ended.signal_name} if ended.signal_name else {"exit": ended.code}
        )
        because: dict[str, Any] = {"because": ended.why} if ended.why else {}
        log_event("dyno.ended", **self._facts, **how, **because, took=f"{seconds:.3f}s")
        if timeout and ended.why and seconds >= timeout:
            text = f"ended by {ended.words} after {timeout:g} s, its timeout{self._quote()}"
            raise CommandTimedOut(text)
        if ended.why:
            raise CommandFailed(f"ended by {ended.words} because of {ended.why}{self._quote()}")
        if ended.code:
            raise CommandFailed(f"{ended.words}{self._quote()}")
