"""The ledger: the outcome of each fire time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from rq_clock.model.decision import Skip
from rq_clock.timing.instants import from_ms

_MS = timedelta(milliseconds=1)

LEDGER_CODES = {"s": "schedule", "c": "catch_up", "m": "manual", "b": "backfill"}
"""Ledger code of an enqueued fire time → why it was enqueued."""


RunState = Literal[
    "ok", "failed", "timed_out", "stopped", "interrupted", "lost", "skipped", "waiting"
]
"""The outcome of a fire time."""
RUN_STATES: tuple[str, ...] = get_args(RunState)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An ended execution of a run: `state` is ok, failed, timed_out, stopped, interrupted or lost
    (its worker died); `number` is 1 for the first, 0 for a run that was canceled before it began;
    `error` is one line."""

    state: str
    number: int
    started: datetime
    ended: datetime
    worker: str
    error: str


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A ledger entry: a fire time that became a job, and its latest ended attempt, if any. `lag` is
    None when the ledger did not keep it."""

    fire_time: datetime
    reason: str
    lag: timedelta | None
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A ledger entry: a job that vanished, found missing at `found`."""

    found: datetime
    job_id: str


@dataclass(frozen=True, slots=True)
class Invalid(Skip):
    """A ledger entry: a fire time that could not be decided, because of `error`. It is not decided:
    a schedule that is put right catches up."""

    error: str


LedgerEntry = Enqueued | Skip | Lost


def instant_of(entry: LedgerEntry) -> datetime:
    """Return an entry's fire time, the last one of a skip, or when a lost job was found missing."""
    if isinstance(entry, Skip):
        return entry.last
    return entry.found if isinstance(entry, Lost) else entry.fire_time


def decided_until(entry: LedgerEntry) -> datetime | None:
    """Return the fire time up to which all is decided by the last entry of a ledger, if it says
    so."""
    if isinstance(entry, Skip) and entry.reason not in ("past", "time", "invalid"):
        return entry.last
    if isinstance(entry, Enqueued) and entry.reason in ("schedule", "catch_up"):
        return entry.fire_time
    return None


def ledger_entry(line: str) -> LedgerEntry:
    """Return the entry in a line of a ledger; keys.py lists the forms. Raises ValueError when it
    cannot be read."""
    try:
        return _read(line)
    except (ArithmeticError, LookupError, ValueError) as error:
        raise ValueError(f"{line[:60]!r} is no entry of a ledger: {error}") from None


def _read(line: str) -> LedgerEntry:
    code, first, rest = line.split(" ", 2)
    if code == "-":
        last, count, reason, *error = rest.split(" ", 3)
        skip = reason, from_ms(first), from_ms(last), int(count)
        return Invalid(*skip, error[0]) if error else Skip(*skip)
    if code == "x":
        return Lost(from_ms(first), rest)
    lag, _, ending = rest.partition(" ")
    return Enqueued(
        from_ms(first),
        LEDGER_CODES[code],
        None if lag == "-" else int(lag) * _MS,
        _attempt(ending) if ending else None,
    )


def _attempt(ending: str) -> Attempt:
    state, number, started, ended, worker, *error = ending.split(" ", 5)
    return Attempt(state, int(number), from_ms(started), from_ms(ended), worker, "".join(error))
