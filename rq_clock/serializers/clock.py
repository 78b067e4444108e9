"""Views of a namespace: its clock, its health, its audit. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from rq_clock.doctor.server_checks import Finding
from rq_clock.model.entry import Pause
from rq_clock.model.view import View, doc
from rq_clock.redaction import masked_json
from rq_clock.timing.instants import from_ms

if TYPE_CHECKING:
    from rq_clock.store.audit import AuditEntry
    from rq_clock.store.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderView(View):
    """The leading clock."""

    instance: str | None
    owner: str | None
    since: datetime | None
    token: int | None
    last_tick: datetime | None
    enqueued: int | None = field(metadata=doc("Runs that it has enqueued."))
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    lag_max_ms: float | None
    version: str | None
    skew_ms: int | None = field(
        metadata=doc("How far its host's clock is ahead of Redis's; negative: behind.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockView(View):
    """The status of the namespace at the server's time."""

    namespace: str
    now: datetime
    healthy: bool = field(metadata=doc("A clock leads, no schedule is in trouble, no check fails."))
    leader: LeaderView | None = field(metadata=doc("Null when no clock leads."))
    led: datetime | None = field(metadata=doc("When a clock led last."))
    schedules: int
    late: int
    stuck: int
    failing: int
    invalid: int = field(metadata=doc("Schedules that are due and cannot be read."))
    running: int
    workers: int
    pause: Pause | None = field(metadata=doc("The pause of all schedules."))
    checks: Sequence[Finding] | None = field(metadata=doc("The doctor's findings, on request."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltView(View):
    """A rebuild of the due index."""

    schedules: int
    corrected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorView(View):
    """The doctor's findings."""

    namespace: str
    healthy: bool
    rebuilt: RebuiltView | None
    checks: Sequence[Finding]


def clock_view(
    namespace: str, status: Status, checks: Sequence[Finding] | None = None
) -> ClockView:
    leads, failed = bool(status.leader), [c for c in checks or () if c.level != "info"]
    return ClockView(
        namespace=namespace,
        now=status.now,
        healthy=leads and not status.troubled and not failed,
        leader=_leader(status.leader) if leads else None,
        led=status.led,
        schedules=status.size,
        late=status.late_count,
        stuck=len(status.stuck),
        failing=status.failing_count,
        invalid=len(status.invalid),
        running=len(status.running),
        workers=status.workers,
        pause=status.pause,
        checks=checks,
    )


def _leader(facts: Mapping[str, str]) -> LeaderView:
    return LeaderView(
        instance=facts.get("instance"),
        owner=facts.get("owner"),
        since=_instant(facts, "since"),
        token=_number(facts.get("token", "").partition(".")[0]),
        last_tick=_instant(facts, "tick"),
        enqueued=_number(facts.get("enqueued")),
        lag_p50_ms=_lag(facts, "p50"),
        lag_p99_ms=_lag(facts, "p99"),
        lag_max_ms=_lag(facts, "max"),
        version=facts.get("version"),
        skew_ms=_number(facts.get("skew_ms")),
    )


def _instant(facts: Mapping[str, str], name: str) -> datetime | None:
    return from_ms(facts[name]) if name in facts else None


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _lag(facts: Mapping[str, str], name: str) -> float | None:
    lag = facts.get(f"lag_{name}_ms")
    return float(lag) if lag else None


def audit_view(entry: AuditEntry) -> AuditEntry:
    """Return an entry of the audit without secrets."""
    return replace(entry, detail=masked_json(dict(entry.detail)))
