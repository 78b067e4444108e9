"""The stored state of a namespace as objects. Pure: store.py reads and writes it.

Instants are aware UTC datetimes here and whole epoch milliseconds there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from rq_clock.model.decision import ON_TIME, Block, Decision, due
from rq_clock.model.schedule import Schedule
from rq_clock.model.verdict import verdict
from rq_clock.model.view import doc
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.timing.triggers import Once

Missed = Literal["skip", "latest", "all"]
"""Fire times of a pause to run at its end."""
MISSED: tuple[str, ...] = get_args(Missed)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be the clock, as granted."""

    token: str

    @property
    def number(self) -> int:
        """The fencing token: grows with every change of holder."""
        return int(self.token.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGrant:
    """A grant of the lease: `how` is free (nobody led), deposed (a living leader of the same owner)
    or taken-over (by order of an operator); `before` is the previous leader, or empty."""

    at: datetime
    instance: str
    owner: str
    token: int
    how: str
    before: str

    @classmethod
    def read(cls, id: str, fields: Mapping[bytes, bytes]) -> LeaseGrant:
        """Return an entry of the stream; the server's instant is in its id."""
        words = {key.decode(): value.decode() for key, value in fields.items()}
        token, before = int(words.pop("token")), words.pop("from")
        return cls(at=from_ms(id.partition("-")[0]), token=token, before=before, **words)


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """A refusal of the lease. `kind` is held, by a clock of the same owner; foreign: the namespace
    belongs to another owner; or ownerless: it did, and now to nobody."""

    kind: str
    wait: float = 0.0
    holder: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """An operator's pause of a schedule, or of all. It ends at `until`; fire times before that stay
    skipped also when they are decided later. `missed` decides about its fire times at its end:
    skip, latest or all of them run."""

    reason: str
    by: str
    since: datetime
    until: datetime | None = None
    missed: str = field(default="skip", metadata=doc(enum=MISSED))

    def at(self, now: datetime) -> bool:
        """Return whether it is in force."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipRequest:
    """An operator's order to skip the next `count` fire times: those up to `until`."""

    count: int
    until: datetime
    reason: str
    by: str
    since: datetime


def to_json(order: Pause | SkipRequest) -> str:
    """Return a pause or a skip as Redis stores it."""
    values = ((f.name, getattr(order, f.name)) for f in fields(order))
    stored = {n: to_ms(v) if isinstance(v, datetime) else v for n, v in values if v is not None}
    return json.dumps(stored)


def pause_from(text: str | bytes) -> Pause:
    """Return the pause that `to_json` wrote."""
    return Pause(**_instants(text))


def skip_request_from(text: str | bytes) -> SkipRequest:
    """Return the skip that `to_json` wrote."""
    return SkipRequest(**_instants(text))


def _instants(text: str | bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(text)
    return {n: from_ms(v) if n in ("since", "until") else v for n, v in values.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule as stored, with the state that a decision about it is based on.

    `schedule` is None when the definition cannot be read; `fault` is the reason.
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
    skipping: SkipRequest | None = None
    next_fire: datetime | None = None
    """The one of the due index; None when the schedule is never due again, or its last fire time is
    being decided."""
    lost: bool = False
    """Whether Redis has lost its marker."""

    @classmethod
    def read(cls, name: str, state: str, **rest: Any) -> Entry:
        """Return a schedule's entry from its value in `markers`; `rest` are the other fields."""
        marker, since, *jobs = state.split(" ")
        found = cls(
            name=name,
            marker=None if marker == "-" else from_ms(marker),
            known_since=from_ms(since),
            last_job=jobs[-1] if jobs else "",
            **rest,
        )
        if found.base != f"{marker} {since}":  # no commit would ever fit
            raise ValueError(f"expected whole numbers, got {marker[:40]!r} and {since[:40]!r}")
        return found

    @classmethod
    def unreadable(cls, name: str, fault: str, **rest: Any) -> Entry:
        """Return the entry of a schedule whose marker, pause or skip cannot be read."""
        rest |= {"fault": fault, "known_since": _EPOCH, "last_job": ""}
        return cls(name, schedule=None, marker=None, **rest)

    def expected_fire(self) -> datetime | None:
        """Return the next fire time that the due index should have, by definition and marker. A
        one-off job in a pause is there with the instant of the next look at it instead."""
        if self.schedule is None:
            return self.next_fire
        following, indexed = self.schedule.next_after(self.decided), self.next_fire
        if self.pauses and isinstance(self.schedule.trigger, Once) and following and indexed:
            return max(following, indexed)
        return following

    @property
    def tz(self) -> str:
        """Return the zone of the schedule's trigger; UTC without one."""
        return self.schedule.trigger.tz if self.schedule else "UTC"

    @property
    def decided(self) -> datetime:
        """Return the instant up to which every fire time is decided."""
        return max(self.marker, self.known_since) if self.marker else self.known_since

    def pause(self, now: datetime) -> Pause | None:
        """Return the pause in force, if any."""
        return next((pause for pause in self.pauses if pause.at(now)), None)

    def states(
        self, now: datetime, *, stuck: bool = False, failing: bool = False, running: bool = False
    ) -> tuple[str, ...]:
        """Return the states of the schedule, worst first; see model/verdict.py. The entry itself
        does not know about its runs."""
        return verdict(
            readable=self.schedule is not None,
            paused=self.pause(now) is not None,
            ended=self.next_fire is None,
            late=self.next_fire is not None and now - self.next_fire > ON_TIME,
            stuck=stuck,
            failing=failing,
            running=running,
        )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Return the spans in which its fire times are skipped."""
        if not self.pauses and self.skipping is None:
            return ()
        paused = [Block("paused", p.until) if p.until else Block("paused") for p in self.pauses]
        return (*paused, *([Block("requested", self.skipping.until)] if self.skipping else []))

    def decide(self, now: datetime) -> Decision:
        """Return what is due by now. A one-off job waits for the end of a pause, so it is not
        skipped for one that is over."""
        assert self.schedule is not None
        blocks = self.blocks
        if isinstance(self.schedule.trigger, Once):
            blocks = tuple(b for b in blocks if b.reason != "paused" or now < b.until)
        return due(self.schedule, self.decided, now, blocks)

    @property
    def base(self) -> str:
        """Return this state as the commit compares it."""
        return f"{to_ms(self.marker) if self.marker else '-'} {to_ms(self.known_since)}"
