"""The stored state of a namespace as objects. Pure: store.py reads and writes it.

Instants are aware UTC datetimes here and whole epoch milliseconds there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from rq_clock.model.decision import (
    FOR_EVER,
    ON_TIME,
    Block,
    Decision,
    Skip,
    Span,
    due,
    skip_between,
)
from rq_clock.model.schedule import Schedule
from rq_clock.model.verdict import verdict
from rq_clock.model.view import doc
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.timing.triggers import Once

Missed = Literal["skip", "latest", "all"]
"""Fire times of a pause to run at its end."""
MISSED: tuple[str, ...] = get_args(Missed)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
SET_MEANWHILE = timedelta(seconds=2)
"""How far ahead a block may begin that was set between reading the time and reading the schedule;
the same that a commit allows (store.commit.EARLY_MS)."""


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
    def read(cls, id: bytes, fields: Mapping[bytes, bytes]) -> LeaseGrant:
        """Return an entry of the stream; the server's instant is in its id."""
        words = {key.decode(): value.decode() for key, value in fields.items()}
        token, before = int(words.pop("token")), words.pop("from")
        return cls(at=from_ms(id.partition(b"-")[0]), token=token, before=before, **words)


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
    """An operator's pause of a schedule, or of all. Its fire times are those in [since, until),
    whenever they are decided. `missed` names those that run at its end: skip (none), latest or
    all."""

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
    """An operator's order to skip the next `count` fire times from `since` on. The commit that
    skips some lowers it."""

    count: int
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
    values = _instants(text)
    return SkipRequest(**{f.name: values[f.name] for f in fields(SkipRequest)})


def _instants(text: str | bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(text)
    return {n: from_ms(v) if n in ("since", "until") else v for n, v in values.items()}


def is_once(*schedules: Schedule) -> bool:
    """Return whether these are one-off jobs."""
    return all(isinstance(schedule.trigger, Once) for schedule in schedules)


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
    own_pause: Pause | None = None
    pause_of_all: Pause | None = None
    """That of all schedules; like its own also one that has ended."""
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
        """Return the next fire time that the due index should have, by definition and marker, or
        the end of the pause that has held it."""
        if self.schedule is None:
            return self.next_fire
        following, end = self.schedule.next_after(self.decided), None
        if self.own_pause:
            end = self.own_pause.until
        return end if following and end and following < end == self.next_fire else following

    @property
    def tz(self) -> str:
        """Return the zone of the schedule's trigger; UTC without one."""
        return self.schedule.trigger.tz if self.schedule else "UTC"

    @property
    def decided(self) -> datetime:
        """Return the instant up to which every fire time is decided."""
        return max(self.marker, self.known_since) if self.marker else self.known_since

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """Return its own pause and the one of all, also ended ones."""
        return tuple(pause for pause in (self.own_pause, self.pause_of_all) if pause)

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
        """Return why some of its fire times are not enqueued, the one that counts first."""
        found = []
        if pause := self.own_pause:
            owes = "" if pause.missed == "skip" else pause.missed
            found.append(Block("paused", pause.since, pause.until or FOR_EVER, owes))
        if pause := self.pause_of_all:
            found.append(Block("paused", pause.since, pause.until or FOR_EVER, whole=True))
        if skip := self.skipping:
            found.append(Block("requested", skip.since, count=skip.count))
        return tuple(found)

    def decide(self, now: datetime, *, closing: bool = False) -> Decision:
        """Return what is decided now: see `due`. A block from a time to come was set when the time
        was wrong, unless it was set after `now` was read: it blocks all that is not decided."""
        assert self.schedule is not None
        since, limit = self.decided, now + SET_MEANWHILE
        blocks = [replace(b, since=since) if b.since > limit else b for b in self.blocks]
        return due(self.schedule, since, now, blocks, closing=closing)

    def held(self, now: datetime) -> Span | None:
        """Return the fire times that wait for the end of the pause in force; None without any."""
        if self.schedule is None or self.pause(now) is None:
            return None
        return self.decide(now).held

    def after(self, decision: Decision) -> Entry:
        """Return the entry once the decision is committed."""
        skipping, left = self.skipping, 0
        if skipping:
            left = skipping.count - decision.requested
            skipping = replace(skipping, count=left) if left > 0 else None
        marker = decision.marker if decision.decides else self.marker
        return replace(self, marker=marker, skipping=skipping)

    def undecided(self, reason: str, now: datetime) -> Skip | None:
        """Return the fire times up to now that are not decided as one entry for the ledger; None
        when there are none."""
        if self.schedule is None:
            return None
        return skip_between(self.schedule, reason, self.decided, now)

    def overdue(self, now: datetime) -> bool:
        """Return whether a fire time up to now is not decided."""
        following = self.schedule.next_after(self.decided) if self.schedule else None
        return following is not None and following <= now

    def overdue_before(self, schedule: Schedule, now: datetime) -> bool:
        """Return whether fire times must be decided before it gets the fire times of `schedule`. A
        one-off job that a pause holds is moved instead."""
        assert self.schedule is not None
        if not self.overdue(now):
            return False
        return not (is_once(self.schedule, schedule) and self.held(now))

    def counts_from(self, schedule: Schedule, now: datetime) -> datetime:
        """Return the instant from which the fire times of `schedule` count, when it gets that
        definition and is decided until now.

        It is now, unless only the jitter changes: then each instant of the trigger is decided once,
        with the old jitter or with the new one. None before it was first known becomes due: known
        since is that instant, unless such a change has made it a fire time.
        """
        was = self.schedule
        if was is None or was.trigger != schedule.trigger:
            return now
        until = max(now, self.decided) - was.offset
        latest, first = was.trigger.latest_at(until), was.trigger.next_after(until)
        if latest is not None:
            since = latest + schedule.offset
        else:
            since = now if first is None else min(now, first + schedule.offset - _MS)
        is_fire_time = was.next_after(self.known_since - _MS) == self.known_since
        return since if is_fire_time else max(since, self.known_since)

    def blocked_by(self, t: datetime, last_skipped: datetime | None) -> str:
        """Return why an upcoming fire time will be skipped or held: paused, requested, or ""."""
        if t <= self.decided:
            return ""
        if any(p.since <= t and p.at(t) for p in self.pauses):
            return "paused"
        return "requested" if last_skipped is not None and t <= last_skipped else ""

    def last_skipped(self) -> datetime | None:
        """Return the last of the fire times that are skipped on request; None without any."""
        last, skipping = None, self.skipping
        if skipping and self.schedule:
            last = max(self.decided, skipping.since - _MS)
            for _ in range(skipping.count):
                last = self.schedule.next_after(last) or last
        return last

    @property
    def base(self) -> str:
        """Return this state as the commit compares it."""
        return f"{to_ms(self.marker) if self.marker else '-'} {to_ms(self.known_since)}"
