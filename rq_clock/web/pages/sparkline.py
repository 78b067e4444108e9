"""The outcomes of a schedule's last fire times as a row of bars, the newest at the right. Pure.

The height is the square root of the duration, so that runs of a second and of an hour both show. A
failure has full height, so that it shows without colour. A skip is a stub; a lost or missed fire
time is hollow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from math import sqrt

from markupsafe import Markup, escape

from rq_clock.model.decision import Skip
from rq_clock.model.ledger import Enqueued, LedgerEntry, Lost, instant_of
from rq_clock.schedules.listing import BARS
from rq_clock.timing.durations import duration_text
from rq_clock.timing.triggers import MANY
from rq_clock.timing.zones import zone
from rq_clock.web.pages.filters import local_text

MISSED = ("window", "limit", "past")
"""Reasons of skips after an outage."""
_LOOKS = {
    "ok": "ok", "failed": "bad", "timed_out": "bad", "stopped": "bad", "interrupted": "warn",
    "lost": "hollow", "missed": "hollow", "skipped": "skip-bar", "waiting": "info",
}  # fmt: skip
_STEP, _WIDTH, _HEIGHT, _STUB = 3, 2, 24, 4
_SECOND = timedelta(seconds=1)


def outcome(entry: LedgerEntry) -> str:
    """Return the outcome of a fire time: the state of its run, waiting, skipped, missed or lost."""
    if isinstance(entry, Enqueued):
        return entry.attempt.state if entry.attempt else "waiting"
    if isinstance(entry, Lost):
        return "lost"
    return "missed" if entry.reason in MISSED else "skipped"


def tally(tail: Sequence[LedgerEntry]) -> Counter[str]:
    """Count fire times by outcome."""
    counts: Counter[str] = Counter()
    for entry in tail:
        counts[outcome(entry)] += entry.count if isinstance(entry, Skip) else 1
    return counts


def counts_text(counts: Counter[str]) -> str:
    """Return counts as text: "55 ok, 3 failed, 1 skipped"."""
    parts = (
        f"{count:,}{'+' if count >= MANY else ''} {state.replace('_', ' ')}"
        for state, count in sorted(counts.items(), key=lambda item: list(_LOOKS).index(item[0]))
    )
    return ", ".join(parts) or "no runs yet"


def bars(tail: Sequence[LedgerEntry]) -> Markup:
    """Return small bars, with one path for each look: a page has thousands of bars."""
    paths: dict[str, list[str]] = {}
    start = _STEP * (BARS - len(tail))
    for i, (state, height) in enumerate(_heights(tail)):
        x = start + _STEP * i
        if _LOOKS[state] == "hollow":
            shape = f"M{x}.5 {_HEIGHT}v-{height}h1v{height}z"
        else:
            shape = f"M{x} {_HEIGHT}v-{height}h{_WIDTH}v{height}z"
        paths.setdefault(_LOOKS[state], []).append(shape)
    drawn = "".join(f'<path class="{look}" d="{"".join(d)}"/>' for look, d in paths.items())
    width = _STEP * BARS
    return Markup(
        f'<svg class="bars" role="img" aria-label="{counts_text(tally(tail))}" width="{width}" '
        f'height="{_HEIGHT + 1}" viewBox="0 0 {width} {_HEIGHT + 1}">'
        f'<path class="floor" d="M0 {_HEIGHT}.5h{width}"/>{drawn}</svg>'
    )


def large_bars(tail: Sequence[LedgerEntry], tz: str) -> Markup:
    """Return larger bars, each with a title."""
    start = _STEP * (BARS - len(tail))
    drawn = [f'<path class="floor" d="M0 {_HEIGHT}h{_STEP * BARS}" stroke-width=".3"/>']
    for i, (entry, (state, height)) in enumerate(zip(tail, _heights(tail), strict=True)):
        x = start + _STEP * i
        drawn.append(
            f'<rect class="{_LOOKS[state]}" x="{x}" y="{_HEIGHT - height}" width="{_WIDTH}" '
            f'height="{height}" vector-effect="non-scaling-stroke">'
            f"<title>{escape(_title(entry, state, tz))}</title></rect>"
        )
    return Markup(
        f'<svg class="bars large" role="img" aria-label="{counts_text(tally(tail))}" '
        f'preserveAspectRatio="none" viewBox="0 0 {_STEP * BARS} {_HEIGHT}">{"".join(drawn)}</svg>'
    )


def _heights(tail: Sequence[LedgerEntry]) -> Iterator[tuple[str, int]]:
    """Yield the outcome and the height of each bar."""
    took = [
        (e.attempt.ended - e.attempt.started) / _SECOND
        if isinstance(e, Enqueued) and e.attempt else 0.0
        for e in tail
    ]  # fmt: skip
    longest = max([*took, 0.001])
    for entry, seconds in zip(tail, took, strict=True):
        state = outcome(entry)
        look = _LOOKS[state]
        if look in ("ok", "warn"):
            yield state, _STUB + 1 + round((_HEIGHT - 10) * sqrt(max(0.0, seconds) / longest))
        else:
            yield state, {"bad": _HEIGHT, "hollow": _HEIGHT // 2}.get(look, _STUB)


def _title(entry: LedgerEntry, state: str, tz: str) -> str:
    at = local_text(instant_of(entry).astimezone(zone(tz).info), None)
    text = f"{at}: {state.replace('_', ' ')}"
    if isinstance(entry, Skip):
        return f"{text} ({entry.reason})" + (f", {entry.count:,} times" if entry.count > 1 else "")
    if isinstance(entry, Lost) or entry.attempt is None:
        return text
    late = f", {duration_text(entry.lag)} late" if entry.lag is not None else ""
    return f"{text}, took {duration_text(entry.attempt.ended - entry.attempt.started)}{late}"
