"""The calls of the last hour as a row of bars, one a minute, the newest at the right. Pure.

Calls with an answer of 2xx are at the bottom, others stand on top of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from markupsafe import Markup

from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.web.pages.filters import local_text

MINUTES = 60
_MINUTE = timedelta(minutes=1)
_STEP, _WIDTH, _HEIGHT = 10, 8, 48


def counts_text(calls: Mapping[str, int]) -> str:
    """Return calls by result as text: "1,200 ok, 3 timeout"."""
    parts = [f"{n:,} {result}" for result, n in sorted(calls.items(), key=lambda c: -c[1]) if n]
    return ", ".join(parts) or "no calls"


def hour_of(status: CallbacksStatus) -> dict[str, int]:
    """Return the calls of the last hour by result."""
    totals: dict[str, int] = {}
    for calls in status.minutes.values():
        for result, n in calls.items():
            totals[result] = totals.get(result, 0) + n
    return totals


def chart_of(status: CallbacksStatus) -> Markup:
    """Return the bars; nothing when there was no call."""
    totals = hour_of(status)
    if not any(totals.values()):
        return Markup()
    highest = max(sum(calls.values()) for calls in status.minutes.values())
    newest = status.now.replace(second=0, microsecond=0)
    drawn = [f'<path class="floor" d="M0 {_HEIGHT}h{_STEP * MINUTES}" stroke-width=".3"/>']
    for place in range(MINUTES):
        start = newest - _MINUTE * (MINUTES - 1 - place)
        drawn.append(_bar(start, status.minutes.get(start, {}), place * _STEP, highest))
    return Markup(
        f'<svg class="bars large" role="img" aria-label="{counts_text(totals)}" '
        f'preserveAspectRatio="none" viewBox="0 0 {_STEP * MINUTES} {_HEIGHT}">'
        f"{''.join(drawn)}</svg>"
    )


def _bar(start: datetime, calls: Mapping[str, int], x: int, highest: int) -> str:
    if not any(calls.values()):
        return ""
    ok = calls.get("ok", 0)
    failed = sum(calls.values()) - ok
    base = _height(ok, highest)
    rects = _rect("ok", x, _HEIGHT - base, base)
    rects += _rect("bad", x, _HEIGHT - base - _height(failed, highest), _height(failed, highest))
    return f"<g><title>{local_text(start, None)}: {counts_text(calls)}</title>{rects}</g>"


def _height(count: int, highest: int) -> float:
    """Return the height of a part of a bar; one call can be seen beside a thousand."""
    return round(max(1.0, (_HEIGHT - 2) * count / highest), 2) if count else 0


def _rect(look: str, x: int, y: float, height: float) -> str:
    if not height:
        return ""
    return f'<rect class="{look}" x="{x}" y="{y:g}" width="{_WIDTH}" height="{height:g}"/>'
