"""Backfills as Redis holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rq_clock.model.schedule import Schedule
from rq_clock.store.scripts import texts
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """Fire times of the past that are enqueued again, or at last, oldest first."""

    id: str
    schedule: str
    start: datetime
    end: datetime
    at_once: int
    total: int
    by: str
    reason: str
    since: datetime
    rule: str
    left_out: frozenset[int] = field(default_factory=frozenset)
    cursor: datetime | None = None
    enqueued: int = 0
    skipped: int = 0
    jobs: tuple[str, ...] = ()
    state: str = "running"

    @property
    def number(self) -> str:
        """What its jobs' ids end with."""
        return self.id.rpartition("-")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a backfill does next: `fire_times` to enqueue beside those of its jobs that are still
    `living`; `skipped`, how many ran already; `cursor`, how far it has come then."""

    schedule: Schedule
    fire_times: tuple[datetime, ...]
    living: tuple[str, ...]
    cursor: datetime | None
    skipped: int
    over: bool
    look: datetime


def backfills_of(store: Store, ids: Sequence[str]) -> list[Backfill]:
    """Those of these that are still kept. One round trip, or none."""
    if not ids:
        return []
    pipe: Any = store.redis.pipeline(transaction=False)
    for id in ids:
        pipe.hgetall(store.key(f"backfill:{id}"))
    read = zip(ids, pipe.execute(), strict=True)
    return [_backfill(id, texts(raw)) for id, raw in read if raw]


def _backfill(id: str, said: Mapping[str, str]) -> Backfill:
    return Backfill(
        id=id,
        schedule=said["schedule"],
        start=from_ms(said["start"]),
        end=from_ms(said["end"]),
        at_once=int(said["at_once"]),
        total=int(said["total"]),
        by=said["by"],
        reason=said["reason"],
        since=from_ms(said["since"]),
        rule=said["rule"],
        left_out=frozenset(map(int, said["left_out"].split())),
        cursor=from_ms(said["cursor"]) if said.get("cursor") else None,
        enqueued=int(said.get("enqueued", 0)),
        skipped=int(said.get("skipped", 0)),
        jobs=tuple(said.get("jobs", "").split()),
        state=said["state"],
    )
