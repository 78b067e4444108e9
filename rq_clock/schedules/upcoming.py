"""Upcoming fire times of schedules, and their density. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rq_clock.model.entry import Entry
from rq_clock.model.schedule import Schedule
from rq_clock.model.view import View, doc
from rq_clock.timing.describe import Fire, fires
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.timing.triggers import MANY, Trigger

HERDS = 5
"""The number of crowded cells in a density."""
_MS, _SECOND = timedelta(milliseconds=1), timedelta(seconds=1)


def upcoming(
    entry: Entry, after: datetime, limit: int, until: datetime | None = None
) -> list[Fire]:
    """Return the first `limit` fire times of a schedule after an instant, up to `until`."""
    if entry.schedule is None:
        return []
    found, last = [], entry.last_skipped()
    for fire in fires(entry.schedule.trigger, after, limit, entry.schedule.offset):
        t = fire.fire_time
        if until is not None and t > until:
            break
        found.append(replace(fire, blocked_by=entry.blocked_by(t, last)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket(View):
    """The number of fire times from an instant on."""

    start: datetime = field(metadata=doc(alias="from"))
    fires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Density(View):
    """Fire times per bucket, and the herds: the most crowded moments."""

    start: datetime = field(metadata=doc(alias="from"))
    end: datetime = field(metadata=doc(alias="to"))
    bucket_seconds: float
    buckets: list[Bucket]
    herd_seconds: float
    herds: list[Bucket]


def density(
    entries: Iterable[Entry], after: datetime, span: timedelta, bucket: timedelta, cell: timedelta
) -> Density:
    """Count the fire times of a span after an instant. Skipped ones do not count."""
    counts: Counter[int] = Counter()
    shared: dict[tuple[Trigger, timedelta], Counter[int]] = {}
    width = bucket // _MS
    first = to_ms(after) // width
    end = from_ms(first * width) + span
    for entry in entries:
        schedule = entry.schedule
        if schedule is None or entry.next_fire is None:
            continue
        ends = (block.until for block in entry.blocks if block.reason == "paused")
        begin = max([after, entry.last_skipped() or after, *ends])
        if begin >= end:
            continue
        if begin > after:
            counts.update(_cells(schedule, begin, end, cell))
            continue
        key = schedule.trigger, schedule.offset
        if key not in shared:
            shared[key] = _cells(schedule, after, end, cell)
        counts.update(shared[key])
    buckets: Counter[int] = Counter()
    for ms, count in counts.items():
        buckets[ms // width] += count
    herds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:HERDS]
    return Density(
        start=from_ms(first * width),
        end=end,
        bucket_seconds=bucket / _SECOND,
        buckets=[
            Bucket(start=from_ms(n * width), fires=buckets[n])
            for n in range(first, first + span // bucket)
        ],
        herd_seconds=cell / _SECOND,
        herds=[Bucket(start=from_ms(ms), fires=count) for ms, count in herds if count > 1],
    )


def _cells(schedule: Schedule, after: datetime, until: datetime, cell: timedelta) -> Counter[int]:
    """Count the fire times in (after, until) by the start of their cell, in ms.

    A trigger that fires too often to step through is counted cell by cell.
    """
    trigger, offset, width = schedule.trigger, schedule.offset, cell // _MS
    last = until - _MS
    counted: Counter[int] = Counter()
    if trigger.count(after - offset, last - offset) < MANY:
        t = schedule.next_after(after)
        while t is not None and t <= last:
            counted[to_ms(t) // width * width] += 1
            t = schedule.next_after(t)
        return counted
    while after < last:
        start = to_ms(after + _MS) // width * width
        end = min(from_ms(start) + cell - _MS, last)
        counted[start] = trigger.count(after - offset, end - offset)
        after = end
    return counted
