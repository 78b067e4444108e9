"""The timeline: past and planned runs of many schedules side by side, and their density."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from markupsafe import Markup, escape

from rq_clock.model.decision import Skip
from rq_clock.model.filters import Filter
from rq_clock.model.ledger import Lost, instant_of
from rq_clock.schedules.listing import Listing, Row
from rq_clock.schedules.upcoming import density, upcoming
from rq_clock.timing.zones import zone
from rq_clock.web.context import Read
from rq_clock.web.pages.filters import local_text
from rq_clock.web.pages.layout import page
from rq_clock.web.pages.sparkline import outcome
from rq_clock.web.problems import Problem

router = APIRouter()
LANES = 50
"""Schedules on one page."""
SPAN, HALF = timedelta(hours=48), timedelta(hours=24)
PAN = 24
"""Hours by which the links move the window."""
FURTHEST = 24 * 14
BAND = 48
"""Upcoming fire times of one schedule above which they are drawn as a band."""
ROWS = 1000
"""Rows of the table that replaces the chart."""
THIN = 36
"""Past fire times of one schedule above which successful ones are drawn thin."""
BUCKET, CELL = timedelta(minutes=30), timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_SHAPES = {
    "ok": "ok", "failed": "bad", "timed_out": "bad", "stopped": "bad", "interrupted": "again",
    "lost": "lost", "missed": "missed", "skipped": "skip", "waiting": "waits",
}  # fmt: skip
"""Outcome of a fire time → its shape."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A fire time on a lane: `x` in percent of the window, `text` for its outcome."""

    at: datetime
    x: float
    shape: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A schedule. `band` is the start, width and count of too many upcoming fire times. `drawn` is
    the marks as SVG: a page has thousands, so no template renders them."""

    name: str
    look: str
    marks: tuple[Mark, ...]
    drawn: Markup
    band: tuple[float, float, int] | None
    summary: str


@dataclass(frozen=True, slots=True)
class Window:
    """The span of time on the page; instants become percents of it."""

    start: datetime
    now: datetime
    tz: str

    @property
    def end(self) -> datetime:
        return self.start + SPAN

    def x(self, t: datetime) -> float:
        return round(100 * ((t - self.start) / SPAN), 2)

    def has(self, t: datetime) -> bool:
        return self.start <= t < self.end

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield the position of each sixth hour of the zone's day, every second one with a text."""
        t = self.start.replace(minute=0, second=0, microsecond=0)
        while t < self.end:
            local = t.astimezone(zone(self.tz).info)
            if self.has(t) and local.hour % 6 == 0 and local.minute == 0:
                yield self.x(t), f"{local:%a %H:%M}" if local.hour % 12 == 0 else ""
            t += _HOUR / 2


@router.get("/timeline")
def timeline_page(  # noqa: PLR0913 - one a filter
    caller: Read, state: str = "", queue: str = "", tag: str = "",
    q: str = "", tz: str = "UTC", shift: int = 0, view: str = "", cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Return two days of matching schedules, those in trouble and due soonest first."""
    query = {"state": state, "queue": queue, "tag": tag, "q": q, "tz": tz if tz != "UTC" else "",
            "shift": shift or "", "view": view}  # fmt: skip
    if not -FURTHEST <= shift <= FURTHEST:
        raise Problem("validation", f"shift: expected hours within two weeks, got {shift}")
    states = (state,) if state else ()
    match = Filter(states=states, queue=queue, tag=tag, text=q)
    listing = caller.context.schedules.page(match, limit=LANES, cursor=cursor)
    now = listing.status.now
    start = now.replace(minute=now.minute // 30 * 30, second=0, microsecond=0)
    window = Window(start - HALF + shift * _HOUR, now, _known_zone(tz))
    lanes = [lane_of(row, window) for row in listing.rows]
    return page(
        caller, "timeline.html", listing.status, listing=listing, lanes=lanes, query=query,
        window=window, ticks=list(window.ticks()), density=_density(listing, window), at=at,
        zones=_zones(listing.rows, tz), tz=window.tz, shift=shift, pan=PAN, view=view,
        rows=_table(lanes) if view == "table" else [], limit=ROWS,
        filtered=bool(state or queue or tag or q), now_x=window.x(now) if window.has(now) else None,
    )  # fmt: skip


def lane_of(row: Row, window: Window) -> Lane:
    marks = _past(row, window)
    entry, band = row.entry, None
    after = max(window.now, entry.decided, window.start)
    coming = upcoming(entry, after, BAND + 1, window.end)
    if len(coming) > BAND and entry.schedule:
        trigger, offset = entry.schedule.trigger, entry.schedule.offset
        count = trigger.count(after - offset, window.end - offset)
        band = (window.x(after), round(100 - window.x(after), 2), count)
    else:
        for fire in coming:
            block = {"paused": "paused", "requested": "to be skipped"}.get(fire.blocked_by, "")
            text = f"planned, but {block}" if block else "planned"
            shape = "blocked" if block else "planned"
            marks.append(Mark(fire.fire_time, window.x(fire.fire_time), shape, text))
    return Lane(
        name=entry.name,
        look="bad" if {"failing", "invalid"} & {*row.states} else "",
        marks=tuple(marks),
        drawn=_drawn(marks, window),
        band=band,
        summary=_summary(marks, band),
    )


def _past(row: Row, window: Window) -> list[Mark]:
    """Return past fire times; failures last, so that they are drawn over the rest."""
    marks = []
    seen = [entry for entry in row.tail if window.has(instant_of(entry))]
    for entry in seen:
        at, state = instant_of(entry), outcome(entry)
        text, shape = state.replace("_", " "), _SHAPES.get(state, "waits")
        if isinstance(entry, Skip):
            text += f": {entry.reason}" + (f", {entry.count:,} times" if entry.count > 1 else "")
        elif isinstance(entry, Lost):
            text = "lost: the job vanished"
        if shape == "ok" and len(seen) > THIN:
            shape = "ok-thin"
        marks.append(Mark(at, window.x(at), shape, text))
    return sorted(marks, key=lambda mark: not mark.shape.startswith("ok"))


def _drawn(marks: Sequence[Mark], window: Window) -> Markup:
    info, year = zone(window.tz).info, window.now.year
    drawn = (
        f'<use href="#m-{mark.shape}" x="{mark.x}%"><title>'
        f"{local_text(mark.at.astimezone(info), year)}: {escape(mark.text)}</title></use>"
        for mark in marks
    )
    return Markup("".join(drawn))


def _summary(marks: Sequence[Mark], band: tuple[float, float, int] | None) -> str:
    counts = Counter(mark.text.partition(":")[0].partition(",")[0] for mark in marks)
    if band:
        counts["planned"] += band[2]
    return ", ".join(f"{count:,} {word}" for word, count in counts.items()) or "no fire times"


def _density(listing: Listing, window: Window) -> dict[str, Any] | None:
    """Count the upcoming fire times of each half hour; None when the window is all past."""
    begin = max(window.now, window.start)
    if begin >= window.end:
        return None
    found = density((row.entry for row in listing.rows), begin, window.end - begin, BUCKET, CELL)
    highest = max((bucket.fires for bucket in found.buckets), default=0)
    bars = []
    for start, count in ((bucket.start, bucket.fires) for bucket in found.buckets):
        if count and window.has(start):
            height = round(4 + 32 * count / highest, 1)
            text = local_text(start.astimezone(zone(window.tz).info), window.now.year)
            bars.append((window.x(start), height, f"{count:,} from {text} on"))
    return {
        "bars": bars,
        "width": round(100 * (BUCKET / SPAN), 2),
        "herds": [(herd.start, herd.fires) for herd in found.herds if herd.fires >= 3],
        "total": sum(bucket.fires for bucket in found.buckets),
    }


def _table(lanes: Sequence[Lane]) -> list[tuple[datetime, str, str]]:
    """Return the rows of the table, by time."""
    rows = [(mark.at, lane.name, mark.text) for lane in lanes for mark in lane.marks]
    return sorted(rows)[: ROWS + 1]


def _zones(rows: Sequence[Row], chosen: str) -> list[str]:
    """Return the zones of the schedules on the page."""
    found = {row.entry.tz for row in rows if row.entry.schedule}
    return ["UTC", *sorted((found | {chosen}) - {"UTC"})]


def _known_zone(tz: str) -> str:
    try:
        zone(tz)
    except ValueError as error:
        raise Problem("validation", f"tz: {error}") from None
    return tz
