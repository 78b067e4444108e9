"""Waits for a run, its output or a backfill.

It only reads: the run or backfill continues after Ctrl-C.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from rq_clock.cli.common import complain, progress
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import Enqueued
from rq_clock.redaction import escaped

if TYPE_CHECKING:
    from rq_clock.jobs.executions import Ended
    from rq_clock.store.backfills import Backfill
    from rq_clock.store.store import Store

LIVE = ("queued", "started", "scheduled", "deferred")
"""RQ's states of a job that has not ended for good; a planned retry counts."""
FIRST_LOOK, LONGEST_LOOK = 0.05, 1.0
"""Seconds between two looks, growing from the first to the second."""
NOBODY_SECONDS = 5.0
"""Seconds in a queue before the lack of a worker is reported."""
_CAME_BEFORE = re.compile(rb"\[(\d+) bytes came before\]\n")
_WHEEL = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: ok, failed, …, or "gone" if Redis has no record of it; `error` is one line.

    `ended` is our worker's record of its last attempt.
    """

    state: str
    error: str = ""
    ended: Ended | None = None


# ---- one job ----------------------------------------------------------------------------------


def wait_for_job(
    store: Store, job_id: str, timeout: float | None, look: Callable[[], object], *, spinner: bool
) -> Outcome | None:
    """Return how a job ended, retries included; None if it is still going after `timeout` seconds.

    Calls `look` while it waits, and once at the end.
    """
    started, warned = time.monotonic(), False
    with _Line(show=spinner) as line:
        for pause in _pauses():
            status = _status(store, job_id)
            look()
            if status not in LIVE:
                return _outcome(store, job_id, status)
            waited = time.monotonic() - started
            if timeout is not None and waited >= timeout:
                return None
            if status == "queued" and waited > NOBODY_SECONDS and not warned:
                warned = True
                _warn_without_worker(store, job_id, line)
            line.show(f"{job_id} {status}, {waited:.0f} s")
            time.sleep(pause if timeout is None else min(pause, max(timeout - waited, 0.0)))
    raise AssertionError("the pauses never end")


def _status(store: Store, job_id: str) -> str:
    from rq.exceptions import InvalidJobOperation
    from rq.job import Job

    try:
        return Job(job_id, connection=store.redis).get_status().value
    except InvalidJobOperation:
        return ""


def _outcome(store: Store, job_id: str, status: str) -> Outcome:
    ended = next((e for e in _ended(store) if e.job_id == job_id and not e.again), None)
    if ended is not None and isinstance(ended.entry, Enqueued) and ended.entry.attempt:
        return Outcome(ended.entry.attempt.state, ended.entry.attempt.error, ended)
    states = {"finished": "ok", "": "gone"}  # a stock RQ worker ran it
    return Outcome(states.get(status, status))


def _ended(store: Store) -> list[Ended]:
    from rq_clock.jobs.executions import Executions

    return Executions(store.redis, store.namespace).ended(1000)


def _warn_without_worker(store: Store, job_id: str, line: _Line) -> None:
    from rq import Queue, Worker
    from rq.job import Job

    queue = Queue(Job.fetch(job_id, connection=store.redis).origin, connection=store.redis)
    if not Worker.count(queue=queue):
        line.clear()
        complain(f"no worker serves queue {queue.name!r} now; the run waits for one")


# ---- output -----------------------------------------------------------------------------------


class Follower:
    """Prints the output of a run since the last look.

    Redis keeps the last 64 kB, behind a line with the number of bytes before. Output that comes
    faster than it is read is left out, with a notice.
    """

    def __init__(self, read: Callable[[], bytes | None]) -> None:
        self._read = read
        self._seen = b""
        self._before = 0
        self._any = False

    def look(self) -> bool:
        """Print new output. Return whether there has been any output at all."""
        kept = self._read()
        if kept is not None:
            self._any = True
            fresh = self._fresh(kept)
            if fresh:
                if sys.stdout.isatty():
                    text = fresh.decode(errors="replace")
                    fresh = escaped(text, kept="\n\t").encode()
                sys.stdout.flush()
                sys.stdout.buffer.write(fresh)
                sys.stdout.flush()
        return self._any

    def _fresh(self, kept: bytes) -> bytes:
        """Return the part of a record that has not been printed."""
        head = _CAME_BEFORE.match(kept)
        before, body = (int(head[1]), kept[head.end() :]) if head else (0, kept)
        overlap = self._overlap(body, before)
        gap = overlap == 0 and before > self._before + len(self._seen)
        self._seen, self._before = body, before
        if gap:
            complain("some output came too fast and is left out here")
        return body[overlap:]

    def _overlap(self, body: bytes, before: int) -> int:
        """Return how many bytes at the start of a record have been printed.

        Its place in the stream decides. If a mask is longer or shorter than the secret that it
        hides, the text decides.
        """
        seen = self._seen
        start = before - self._before
        if 0 <= start <= len(seen) and body.startswith(seen[start:]):
            return len(seen) - start
        line = body[: body.find(b"\n") + 1] or body
        start = seen.find(line) if line else -1
        while start >= 0:
            if body.startswith(seen[start:]):
                return len(seen) - start
            start = seen.find(line, start + 1)
        return 0


# ---- a backfill -------------------------------------------------------------------------------


def wait_for_backfill(store: Store, backfill: Backfill) -> tuple[Backfill | None, dict[str, str]]:
    """Return an ended backfill, or None if it was deleted, and the errors of its failed jobs."""
    from rq_clock.store.backfills import Backfills

    backfills, failed = Backfills(store), dict[str, str]()
    id, seen = backfill.id, ""
    with progress(backfill.total, id) as show:
        for pause in _pauses():
            found = backfills.get(id)
            seen = _failures(store, backfill, seen, failed)
            if found is not None:
                show(found.enqueued - len(found.jobs))
            if found is None or found.state != "running":
                return found, failed
            time.sleep(pause)
    raise AssertionError("the pauses never end")


def _failures(store: Store, backfill: Backfill, seen: str, failed: dict[str, str]) -> str:
    """Add the failed runs that ended since the entry `seen`. Return the newest entry."""
    found = _ended(store)
    for ended in found:
        if ended.id == seen:
            break
        entry = ended.entry
        run = JobId.parse(ended.job_id)
        if run is None or ended.again or not isinstance(entry, Enqueued):
            continue
        if (run.schedule, run.kind, run.number) != (backfill.schedule, "b", backfill.number):
            continue
        if entry.attempt and entry.attempt.state != "ok":
            failed[ended.job_id] = entry.attempt.error or entry.attempt.state
    return found[0].id if found else seen


# ---- on the terminal --------------------------------------------------------------------------


def _pauses() -> Iterator[float]:
    """Yield the seconds until the next look, forever."""
    pause = FIRST_LOOK
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_LOOK)


class _Line:
    """A line on standard error that is rewritten, on a terminal only."""

    def __init__(self, *, show: bool) -> None:
        self._shown = show and sys.stderr.isatty()
        self._turns = 0

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        if self._shown:
            mark = _WHEEL[self._turns % len(_WHEEL)]
            self._turns += 1
            click.echo(f"\r\x1b[K{mark} {escaped(text)}", err=True, nl=False, color=True)

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False, color=True)
