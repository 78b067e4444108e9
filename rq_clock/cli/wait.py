"""Waiting for what was asked for: a run's end, its output as it comes, a backfill.

Only looks: what is waited for goes on by itself, also when the waiting is broken off.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import complain

if TYPE_CHECKING:
    from rq_clock.jobs.executions import Ended
    from rq_clock.store.backfills import Backfill
    from rq_clock.store.store import Store

LIVE = ("queued", "started", "scheduled", "deferred")
"""RQ's words for a job that has not ended for good: a retry that is to come counts."""
FIRST_LOOK, LONGEST_LOOK = 0.05, 1.0
"""Seconds between two looks; they grow from one to the other."""
NOBODY_SECONDS = 5.0
"""How long a job waits in a queue until it is said that no worker serves it."""
_CAME_BEFORE = re.compile(rb"\[(\d+) bytes came before\]\n")
_WHEEL = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: ok, failed, …, or "gone" when nothing is left that says it; `error` is one
    line. `ended` is what the worker recorded of its last attempt, if it is ours."""

    state: str
    error: str = ""
    ended: Ended | None = None


# ---- one job ----------------------------------------------------------------------------------


def wait_for_job(
    store: Store,
    job_id: str,
    timeout: float | None,
    look: Callable[[], object],
    *,
    spinner: bool,
) -> Outcome | None:
    """How a job ended for good; None when it has not within `timeout` seconds. Calls `look` all the
    while, and once more at the end."""
    started, told = time.monotonic(), False
    with _Line(show=spinner) as line:
        for pause in _pauses():
            status = _status(store, job_id)
            look()
            if status not in LIVE:
                return _outcome(store, job_id, status)
            waited = time.monotonic() - started
            if timeout is not None and waited >= timeout:
                return None
            if status == "queued" and waited > NOBODY_SECONDS and not told:
                told = True
                _tell_if_nobody_serves(store, job_id, line)
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
    from rq_clock.model.ledger import Enqueued

    ended = next((e for e in _ended(store) if e.job_id == job_id and not e.again), None)
    if ended is not None and isinstance(ended.entry, Enqueued) and ended.entry.attempt:
        return Outcome(ended.entry.attempt.state, ended.entry.attempt.error, ended)
    words = {"finished": "ok", "": "gone"}  # a stock RQ worker ran it
    return Outcome(words.get(status, status))


def _ended(store: Store) -> list[Ended]:
    from rq_clock.jobs.executions import Executions

    return Executions(store.redis, store.namespace).ended(1000)


def _tell_if_nobody_serves(store: Store, job_id: str, line: _Line) -> None:
    from rq import Queue, Worker
    from rq.job import Job

    queue = Queue(Job.fetch(job_id, connection=store.redis).origin, connection=store.redis)
    if not Worker.count(queue=queue):
        line.clear()
        complain(f"no worker serves queue {queue.name!r} now; the run waits for one")


# ---- output -----------------------------------------------------------------------------------


class Follower:
    """Prints what a run has printed since the last look. What is kept is the last 64 kB, behind a
    line that says how much came before; so what comes faster than it is read is left out, and
    that is said."""

    def __init__(self, read: Callable[[], bytes | None]) -> None:
        self._read = read
        self._seen = b""
        self._before = 0
        self._any = False

    def look(self) -> bool:
        """Print what is new; whether there was ever anything."""
        kept = self._read()
        if kept is not None:
            self._any = True
            fresh = self._fresh(kept)
            if fresh:
                sys.stdout.flush()
                sys.stdout.buffer.write(fresh)
                sys.stdout.flush()
        return self._any

    def _fresh(self, kept: bytes) -> bytes:
        """What of a record was not printed yet."""
        head = _CAME_BEFORE.match(kept)
        before, body = (int(head[1]), kept[head.end() :]) if head else (0, kept)
        overlap = self._overlap(body, before)
        gap = overlap == 0 and before > self._before + len(self._seen)
        self._seen, self._before = body, before
        if gap:
            complain("some output came too fast, and was left out here")
        return body[overlap:]

    def _overlap(self, body: bytes, before: int) -> int:
        """How much of the beginning of a record was printed. Its place in the stream says so, but
        for a mask that is longer or shorter than what it hides; then the text does."""
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
    """A backfill when it is over, None when it is not there any more, and which of its jobs failed,
    with the error, as far as that was seen."""
    from rq_clock.store.backfills import Backfills

    backfills, failed = Backfills(store), dict[str, str]()
    id, seen = backfill.id, ""
    with _Bar(backfill.total, backfill.id) as bar:
        for pause in _pauses():
            found = backfills.get(id)
            seen = _failures(store, backfill, seen, failed)
            if found is not None:
                bar.show(found.enqueued - len(found.jobs))
            if found is None or found.state != "running":
                return found, failed
            time.sleep(pause)
    raise AssertionError("the pauses never end")


def _failures(store: Store, backfill: Backfill, seen: str, failed: dict[str, str]) -> str:
    """Add the failed runs that ended since the entry `seen`; the newest entry."""
    from rq_clock.model.job_id import JobId
    from rq_clock.model.ledger import Enqueued

    found = _ended(store)
    for ended in found:
        if ended.id == seen:
            break
        entry = ended.entry
        run = JobId.parse(ended.job_id)
        of_it = run and (run.schedule, run.kind, run.number) == (
            backfill.schedule,
            "b",
            backfill.number,
        )
        if not of_it or ended.again or not isinstance(entry, Enqueued):
            continue
        if entry.attempt and entry.attempt.state != "ok":
            failed[ended.job_id] = entry.attempt.error or entry.attempt.state
    return found[0].id if found else seen


# ---- on the terminal --------------------------------------------------------------------------


def _pauses() -> Iterator[float]:
    """Seconds until the next look, for ever."""
    pause = FIRST_LOOK
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_LOOK)


class _Line:
    """One line on standard error that is written again and again, on a terminal only."""

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
            click.echo(f"\r\x1b[K{mark} {text}", err=True, nl=False, color=True)

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False, color=True)


class _Bar:
    """A progress bar on standard error, on a terminal only."""

    def __init__(self, length: int, label: str) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=length, label=label, show_pos=True, file=sys.stderr
            )
        self._at = 0

    def __enter__(self) -> _Bar:
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar:
            self._bar.__exit__(*error)

    def show(self, count: int) -> None:
        if self._bar and count > self._at:
            self._bar.update(count - self._at)
            self._at = count
