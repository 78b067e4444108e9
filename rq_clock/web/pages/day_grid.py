"""The successes and failures of a schedule's runs as a grid of the last 30 days. Pure.

A day has a sign and a text, so that it is read without colour: ✓ all succeeded, ✕ all failed,
! some failed, · nothing ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rq_clock.timing.instants import from_ms, to_ms

DAYS = 30
_DAY = 86_400_000  # ms


@dataclass(frozen=True, slots=True)
class Day:
    """A cell of the grid."""

    look: str
    sign: str
    text: str


def day_grid(counts: Mapping[int, tuple[int, int]], now: datetime) -> list[Day]:
    """Return a cell for each of the last 30 days by UTC, today last. `counts` are those of
    `ScheduleDetail.days`."""
    today = to_ms(now) // _DAY
    return [_day(day, *counts.get(day, (0, 0))) for day in range(today - DAYS + 1, today + 1)]


def totals(counts: Mapping[int, tuple[int, int]], now: datetime) -> str:
    """Return the sums of the grid as text."""
    first = to_ms(now) // _DAY - DAYS
    kept = [pair for day, pair in counts.items() if day > first]
    ok, failed = (sum(pair[i] for pair in kept) for i in (0, 1))
    return f"{ok:,} succeeded, {failed:,} failed" if kept else "no run has ended"


def _day(day: int, ok: int, failed: int) -> Day:
    date = f"{from_ms(day * _DAY):%a %d %b %Y}"
    if not ok and not failed:
        return Day("none", "·", f"{date}: no run ended")
    look, sign = ("ok", "✓") if not failed else ("warn", "!") if ok else ("bad", "✕")
    return Day(look, sign, f"{date}: {ok:,} succeeded, {failed:,} failed")
