"""A schedule as a row of the list. Pure.

Its cells are rendered here: a page has up to 200 rows, and a template would take ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from markupsafe import Markup, escape

from rq_clock.model.decision import ON_TIME
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.ledger import Enqueued, LedgerEntry
from rq_clock.model.targets import shown_target
from rq_clock.schedules.listing import Row
from rq_clock.timing.describe import words
from rq_clock.timing.durations import duration_text
from rq_clock.timing.triggers import Cron, Trigger
from rq_clock.web.pages.filters import ago, pill, when
from rq_clock.web.pages.sparkline import bars

_TONES = {"invalid": "bad", "failing": "bad", "late": "warn", "stuck": "warn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """A row. `look` is the tone of its worst state; `note` explains its state."""

    entry: Entry
    look: str
    trigger: Markup
    target: str
    last: Markup
    next: Markup
    bars: Markup
    states: Markup
    note: Markup


def schedule_row(row: Row, now: datetime) -> ScheduleRow:
    """Return a schedule as the list shows it."""
    entry, schedule = row.entry, row.entry.schedule
    tz = entry.tz
    return ScheduleRow(
        entry=entry,
        look=next((_TONES[s] for s in row.states if s in _TONES), ""),
        trigger=trigger_cell(schedule.trigger) if schedule else Markup("—"),
        target=shown_target(schedule.target)["runs"] if schedule else "",
        last=_last(row.tail, tz, now),
        next=_next(row, tz, now),
        bars=bars(row.tail),
        states=Markup(" ").join(map(pill, row.states)),
        note=_note(row, tz, now),
    )


@lru_cache(maxsize=4096)
def sentence(trigger: Trigger) -> str:
    """Return a trigger in words, with a capital."""
    text = words(trigger)
    return text[0].upper() + text[1:]


@lru_cache(maxsize=4096)
def trigger_cell(trigger: Trigger) -> Markup:
    """Return a trigger in words, and a cron trigger as it is written."""
    text = sentence(trigger)
    if not isinstance(trigger, Cron):
        return escape(text)
    for zoned in (", UTC", f", {trigger.tz} time"):
        text = text.removesuffix(zoned)
    form = Markup("{}<small><code>{}</code> {}</small>")
    return form.format(text, trigger.expression, trigger.tz)


def pause_text(pause: Pause, tz: str, now: datetime) -> Markup:
    """Return the end, actor and reason of a pause."""
    text = Markup("")
    if pause.until:
        text = Markup("until {} ({}), ").format(when(pause.until, tz, now), ago(pause.until, now))
    text += Markup("by {}").format(pause.by)
    return text + Markup(": “{}”").format(pause.reason) if pause.reason else text


def _last(tail: Sequence[LedgerEntry], tz: str, now: datetime) -> Markup:
    """Return when the latest run ended, its duration and its lateness."""
    for entry in reversed(tail):
        if isinstance(entry, Enqueued) and entry.attempt:
            attempt = entry.attempt
            took = duration_text(attempt.ended - attempt.started)
            since = when(attempt.ended, tz, now, word=ago(attempt.ended, now))
            lateness = Markup(" ·") + late(entry.lag) if entry.lag is not None else ""
            return Markup(f"{since}<small>{took}{lateness}</small>")
    return Markup("—")


def late(lag: timedelta | None) -> Markup:
    """Return how late a run was enqueued: " +0.4 s", marked when that was not on time."""
    if lag is None:
        return Markup("")
    text = f"+{duration_text(lag)}"
    return Markup(f' <b class="warned">{text} late</b>' if lag > ON_TIME else f" {text}")


def _next(row: Row, tz: str, now: datetime) -> Markup:
    """Return the next fire time, and whether it will be skipped."""
    fire = row.entry.next_fire
    if fire is None:
        return Markup("—")
    overdue = now - fire > ON_TIME
    text = f"{duration_text(now - fire)} overdue" if overdue else ago(max(fire, now), now)
    block = "" if overdue else row.entry.blocked_by(fire, row.entry.last_skipped())
    note = {"paused": "paused then", "requested": "skipped on request"}.get(block, "")
    return Markup(f"{text}<small>{when(fire, tz, now)}{f' · {note}' if note else ''}</small>")


def _note(row: Row, tz: str, now: datetime) -> Markup:
    """Return why a schedule is paused or invalid."""
    if row.entry.schedule is None:
        return escape(row.entry.fault)
    pause = row.entry.pause(now)
    if pause is None:
        return Markup("")
    held = row.entry.held(now)
    return pause_text(pause, tz, now) + (f"; holds {held.count:,}" if held else "")
