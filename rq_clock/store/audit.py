"""The audit: who changed what, when and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.model.validation import reason_faults
from rq_clock.store.scripts import newest, text, texts
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms

AUDIT = 1000
"""Entries that the audit keeps, about."""

FEW = 10
"""Names that an entry of the audit spells out."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The identity of a request that acts once: the hash of its key, and a digest of the request.
    `made` is the id of the thing that it makes, where the caller knows it."""

    hash: str
    digest: str
    made: str = ""


class Repeated(Exception):
    """The request has acted before; `id` is that of the thing it made."""

    def __init__(self, record: str) -> None:
        super().__init__(record)
        self.digest, _, self.id = record.partition(" ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The actor and reason of a change, for the audit, and the key of a request that acts once."""

    by: str
    reason: str = ""
    request_key: RequestKey | None = None

    def __post_init__(self) -> None:
        """Raise ScheduleError for a reason or name that is too long, or that Redis cannot hold."""
        if faults := [*reason_faults(self.reason), *reason_faults(self.by, "by")]:
            raise ScheduleError(*faults)

    def call(self, script: Any, keys: Sequence[str], args: Sequence[Any], made: str = "") -> Any:
        """Run a script that audits (audit.lua). `made` is the id of the thing that it makes. Raises
        Repeated when the request has acted before."""
        key = self.request_key
        answer = script(keys, [*args, f"{key.hash} {key.digest} {made or key.made}" if key else ""])
        if isinstance(answer, list) and answer[0] == b"repeated":
            raise Repeated(text(answer[1]))
        return answer


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

    @classmethod
    def read(cls, id: str, fields: Mapping[str, str]) -> AuditEntry:
        at, schedules = from_ms(id.partition("-")[0]), tuple(fields["schedules"].split())
        count, detail = int(fields["count"]), json.loads(fields["detail"])
        if not isinstance(detail, dict):
            raise ValueError(f"expected an object as its detail, got {detail!r}")
        by, verb, reason = fields["by"], fields["verb"], fields["reason"]
        return cls(id, at, by, verb, schedules, count, reason, detail)


class Audit:
    """The audit of one namespace. Methods raise redis-py's RedisError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, verb: str, count: int, actor: Actor) -> None:
        """Enter a change that took many steps."""
        fields = _fields(verb, (), actor, {}) | {"count": str(count)}
        self._store.redis.xadd(self._store.key("audit"), fields, maxlen=AUDIT)  # type: ignore[arg-type]

    def newest(self, limit: int, before: str = "+") -> list[AuditEntry]:
        """Return the newest entries, newest first; `before` is the id of the last one returned."""

        def read(id: bytes, fields: Mapping[bytes, bytes]) -> AuditEntry:
            return AuditEntry.read(text(id), texts(fields))

        return newest(self._store.redis, self._store.key("audit"), read, limit, before)


def audit_words(
    verb: str, names: Sequence[str], actor: Actor, detail: Mapping[str, Any]
) -> list[str]:
    """Return an entry as scripts add it: field, value, …"""
    return [word for pair in _fields(verb, names, actor, detail).items() for word in pair]


def _fields(
    verb: str, names: Sequence[str], actor: Actor, detail: Mapping[str, Any]
) -> dict[str, str]:
    shown = {key: value for key, value in detail.items() if value not in (None, "")}
    return {
        "by": actor.by,
        "verb": verb,
        "schedules": " ".join(names[:FEW]),
        "count": str(len(names)),
        "reason": actor.reason,
        "detail": json.dumps(shown, default=str),
    }
