"""Instants: epoch milliseconds, ISO 8601, what people type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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


def iso(t: datetime) -> str:
    """A UTC instant as text, to the second unless it has a fraction of one."""
    spec = "milliseconds" if t.microsecond else "seconds"
    return t.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=spec) + "Z"
