"""What Redis holds of a namespace, as Python sees it. Pure: store.py reads and writes it.

Instants are aware UTC datetimes here and whole epoch milliseconds there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from rq_clock.schedule import Hold, Schedule, Skip

MARKS = {"s": "schedule", "c": "catch_up", "m": "manual", "b": "backfill"}
"""The first letter of an enqueued fire time in the ledger, and why it was enqueued."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_FIRST, _LAST = 0, 253_402_300_799_000


def to_ms(t: datetime) -> int:
    """Whole milliseconds since the epoch, rounded down: nothing may look due too early."""
    return (t - _EPOCH) // _MS


def from_ms(ms: int | str | bytes) -> datetime:
    return _EPOCH + int(ms) * _MS


def score_ms(score: float) -> int:
    """Return a sorted set's score as an instant that datetime can hold."""
    return int(min(max(score, _FIRST), _LAST))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be the clock, as granted."""

    token: str

    @property
    def number(self) -> int:
        """The fencing token: grows with every change of holder."""
        return int(self.token.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A grant of the lease: `how` is free (nobody led), deposed (a living leader of the same owner)
    or taken-over (by order of an operator); `before` is who led until then, or empty."""

    at: datetime
    instance: str
    owner: str
    token: int
    how: str
    before: str

    @classmethod
    def read(cls, id: str, fields: Mapping[bytes, bytes]) -> Handover:
        """An entry of the stream; the server's instant is in its id."""
        said = {key.decode(): value.decode() for key, value in fields.items()}
        return cls(
            at=from_ms(id.partition("-")[0]),
            token=int(said.pop("token")),
            before=said.pop("from"),
            **said,
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the lease was not granted: `held` by a clock of ours, or `foreign`: the namespace
    belongs to another owner."""

    kind: str
    wait: float = 0.0
    holder: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """An operator's pause of a schedule, or of all. It has ended when `until` has come; what came
    due before that stays skipped also when it is decided later. `missed` says what becomes of
    its fire times at its end: skip, latest or all of them run."""

    reason: str
    by: str
    since: datetime
    until: datetime | None = None
    missed: str = "skip"

    def at(self, now: datetime) -> bool:
        """Whether it holds now."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipping:
    """An operator's word to skip the next `count` fire times: those up to `until`."""

    count: int
    until: datetime
    reason: str
    by: str
    since: datetime


def to_json(said: Pause | Skipping) -> str:
    """A pause or a skip as Redis stores it."""
    values = {f.name: getattr(said, f.name) for f in fields(said)}
    return json.dumps(
        {
            name: to_ms(value) if isinstance(value, datetime) else value
            for name, value in values.items()
            if value is not None
        }
    )


def pause_from(text: str | bytes) -> Pause:
    """What `to_json` made of a pause."""
    return Pause(**_instants(text))


def skipping_from(text: str | bytes) -> Skipping:
    """What `to_json` made of a skip."""
    return Skipping(**_instants(text))


def _instants(text: str | bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(text)
    return {n: from_ms(v) if n in ("since", "until") else v for n, v in values.items()}


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
    last_job: str
    declared: bool = True
    pauses: tuple[Pause, ...] = ()
    """Its own and the one of all schedules, also ended ones."""
    skipping: Skipping | None = None
    next_fire: datetime | None = None
    """As the due index has it; None when it is never due again, or being decided for the last
    time."""

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

    @classmethod
    def unreadable(cls, name: str, fault: str, **rest: Any) -> Entry:
        """Return the entry of a schedule whose marker, pause or skip cannot be read."""
        since = _EPOCH
        return cls(
            name, schedule=None, fault=fault, marker=None, known_since=since, last_job="", **rest
        )

    @property
    def decided(self) -> datetime:
        """The instant up to which every fire time is decided."""
        return max(self.marker, self.known_since) if self.marker else self.known_since

    def pause(self, now: datetime) -> Pause | None:
        """The pause that holds now, if any."""
        return next((pause for pause in self.pauses if pause.at(now)), None)

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What the decision about its fire times has to respect."""
        if not self.pauses and self.skipping is None:
            return ()
        paused = [Hold("paused", p.until) if p.until else Hold("paused") for p in self.pauses]
        return (*paused, *([Hold("requested", self.skipping.until)] if self.skipping else []))

    @property
    def base(self) -> str:
        """This state as the commit compares it."""
        return f"{to_ms(self.marker) if self.marker else '-'} {to_ms(self.known_since)}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an execution of a run ended: `state` is ok, failed, timed_out, stopped, interrupted or
    lost (its worker died); `number` is 1 for the first, 0 for a run that was taken away before it
    began; `error` is one line."""

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
    mark, first, rest = line.split(" ", 2)
    if mark == "-":
        last, count, reason = rest.split(" ")
        return Skip(reason, from_ms(first), from_ms(last), int(count))
    if mark == "x":
        return Lost(from_ms(first), rest)
    lag, _, ending = rest.partition(" ")
    return Enqueued(
        from_ms(first),
        MARKS[mark],
        None if lag == "-" else int(lag) * _MS,
        _attempt(ending) if ending else None,
    )


def _attempt(ending: str) -> Attempt:
    state, number, started, ended, worker, *error = ending.split(" ", 5)
    return Attempt(state, int(number), from_ms(started), from_ms(ended), worker, "".join(error))
