"""The audit: who changed what, when and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq_clock.timing.instants import from_ms

AUDIT = 1000
"""Entries that the audit keeps, about."""

FEW = 10
"""Names that an entry of the audit spells out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who changes something and why; goes into the audit."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry of the audit: `schedules` are the first few of `count`."""

    id: str
    at: datetime
    by: str
    verb: str
    schedules: tuple[str, ...]
    count: int
    reason: str
    detail: Mapping[str, Any]


def _parse_entry(
    verb: str, names: Sequence[str], who: Actor, detail: Mapping[str, Any]
) -> dict[str, str]:
    """An entry of the audit."""
    shown = {key: value for key, value in detail.items() if value not in (None, "")}
    return {
        "by": who.by,
        "verb": verb,
        "schedules": " ".join(names[:FEW]),
        "count": str(len(names)),
        "reason": who.reason,
        "detail": json.dumps(shown, default=str),
    }


def audit_entry(id: str, said: Mapping[str, str]) -> AuditEntry:
    """An entry of the stream, as it was read."""
    return AuditEntry(
        id,
        from_ms(id.partition("-")[0]),
        said["by"],
        said["verb"],
        tuple(said["schedules"].split()),
        int(said["count"]),
        said["reason"],
        json.loads(said["detail"]),
    )
