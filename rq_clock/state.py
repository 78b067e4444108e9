"""What Redis holds of a namespace, as Python sees it. Pure: store.py reads and writes it.

Instants are aware UTC datetimes here and whole epoch milliseconds there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rq_clock.schedule import Schedule, Skip

MARKS = {"s": "schedule", "c": "catch_up", "m": "manual", "b": "backfill"}
"""The first letter of an enqueued fire time in the ledger, and why it was enqueued."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(t: datetime) -> int:
    """Whole milliseconds since the epoch, rounded down: nothing may look due too early."""
    return (t - _EPOCH) // _MS


def from_ms(ms: int | str | bytes) -> datetime:
    return _EPOCH + int(ms) * _MS


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be the clock, as granted."""

    token: str

    @property
    def number(self) -> int:
        """The fencing token: grows with every change of holder."""
        return int(self.token.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the lease was not granted: `held` by a clock of ours, or `foreign`: the namespace
    belongs to another owner."""

    kind: str
    wait: float = 0.0
    holder: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule as stored, with what a decision about it is based on.

    `schedule` is None when the definition cannot be read; `fault` says why.
    """

    name: str
    schedule: Schedule | None
    fault: str
    marker: datetime | None
    known_since: datetime
    revision: str
    paused: bool
    last_job: str
    declared: bool = True

    @classmethod
    def read(cls, name: str, state: str, **rest: Any) -> Entry:
        """A schedule's entry from its value in `markers`; `rest` are the other fields."""
        marker, since, *jobs = state.split(" ")
        return cls(
            name=name,
            marker=None if marker == "-" else from_ms(marker),
            known_since=from_ms(since),
            last_job=jobs[-1] if jobs else "",
            **rest,
        )

    @property
    def decided(self) -> datetime:
        """The instant up to which every fire time is decided."""
        return max(self.marker, self.known_since) if self.marker else self.known_since

    @property
    def base(self) -> str:
        """This state as the commit compares it."""
        return f"{to_ms(self.marker) if self.marker else '-'} {to_ms(self.known_since)}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an execution of a run ended: `state` is ok, failed, timed_out, stopped, interrupted or
    lost (its worker died); `number` is 1 for the first; `error` is one line."""

    state: str
    number: int
    started: datetime
    ended: datetime
    worker: str
    error: str


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A ledger entry: a fire time that became a job, and how its latest attempt ended, if one has.
    `lag` is None when the entry that held it is gone."""

    fire_time: datetime
    reason: str
    lag: timedelta | None
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A ledger entry: a job that vanished without a word, found missing at `found`."""

    found: datetime
    job_id: str


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a reconcile. `restart`: new, or with a changed rule of time. `past`: the
    instant of a `once` that had passed before it was first seen."""

    verb: str
    name: str
    definition: str = ""
    next_fire: datetime | None = None
    restart: bool = False
    renamed_from: str = ""
    past: datetime | None = None


LedgerEntry = Enqueued | Skip | Lost


def ledger_entry(line: str) -> LedgerEntry:
    """What one line of a ledger says; its forms are in store.py."""
    mark, *words = line.split(" ")
    if mark == "-":
        first, last, count, reason = words
        return Skip(reason, from_ms(first), from_ms(last), int(count))
    if mark == "x":
        return Lost(from_ms(words[0]), words[1])
    fire, lag, *attempt = words
    return Enqueued(
        from_ms(fire),
        MARKS[mark],
        None if lag == "-" else timedelta(milliseconds=int(lag)),
        _attempt(attempt) if attempt else None,
    )


def _attempt(words: list[str]) -> Attempt:
    state, number, started, ended, worker, *error = words
    return Attempt(state, int(number), from_ms(started), from_ms(ended), worker, " ".join(error))
