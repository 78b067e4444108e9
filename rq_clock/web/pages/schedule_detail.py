"""The page of one schedule: its definition, next fire times, history and activity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markupsafe import Markup

from rq_clock.model.decision import Skip
from rq_clock.model.ledger import Enqueued, LedgerEntry, instant_of
from rq_clock.model.targets import shown_target
from rq_clock.schedules.detail import ScheduleDetail, detail
from rq_clock.schedules.listing import BARS
from rq_clock.schedules.upcoming import upcoming
from rq_clock.store.audit import AuditEntry
from rq_clock.store.status import Status
from rq_clock.timing.durations import duration_text
from rq_clock.timing.triggers import MANY, Cron
from rq_clock.timing.zones import zone
from rq_clock.web.context import Context, Read, Web
from rq_clock.web.pages.filters import local_text, pill
from rq_clock.web.pages.layout import page
from rq_clock.web.pages.schedule_row import late, pause_text, sentence
from rq_clock.web.pages.snippets import as_cli, as_curl, definition
from rq_clock.web.pages.sparkline import counts_text, large_bars, outcome, tally
from rq_clock.web.problems import Problem

router = APIRouter()
COMING = 10
"""Upcoming fire times on the page."""
RECENT, AUDITED = 30, 20
"""Rows of the history and of the audit."""
_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """The outcome of a fire time as a row. `since` is the first of several skipped together."""

    at: datetime
    state: Markup
    tone: str
    reason: str
    late: Markup
    waited: str
    took: str
    job: str
    text: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Statistics of the runs in the ledger; an unknown figure is empty."""

    success: str
    p50: str
    p95: str
    late: str
    counts: str


def existing(site: Context, name: str) -> tuple[Status, ScheduleDetail]:
    """Return the status and a schedule. Raises Problem when there is none."""
    status = site.schedules.status()
    found = detail(site.store, name, status)
    if found is None:
        raise Problem("not-found", f"no schedule {name!r} in namespace {site.settings.namespace!r}")
    return status, found


@router.get("/schedules/{name}")
def schedule_page(
    request: Request, site: Web, token: Read, name: str, history: str = ""
) -> Response:
    """Return the page of a schedule; with `history=all`, all of its history."""
    status, found = existing(site, name)
    row, now = found.row, status.now
    entry, schedule = row.entry, row.entry.schedule
    tz = entry.tz
    coming = upcoming(entry, max(now, entry.decided), COMING)
    skipping = entry.skipping if entry.skipping and entry.skipping.until > now else None
    pause = entry.pause(now)
    newest = found.ledger[::-1] if history == "all" else found.ledger[: -RECENT - 1 : -1]
    return page(
        request, "schedule.html", token, status,
        entry=entry, schedule=schedule, tz=tz, row=row,
        runs=shown_target(schedule.target)["runs"] if schedule else "",
        states=row.states, pause=pause,
        pause_text=pause_text(pause, tz, now) if pause else "",
        paused_alone=bool(pause and pause is not status.pause and pause != status.pause),
        skipping=skipping,
        sentence=sentence(schedule.trigger) if schedule else "",
        expression=schedule.trigger.expression
        if schedule and isinstance(schedule.trigger, Cron) else "",
        coming=coming, notes=sum(bool(fire.notes) for fire in coming),
        history=[_history_row(found, one) for one in newest], older=len(found.ledger) - len(newest),
        bars=large_bars(row.tail, tz), figures=_figures(found.ledger), shown=BARS,
        backfills=found.backfills,
        audited=found.audited[:AUDITED],
        details={one.id: _details(one, tz) for one in found.audited[:AUDITED]},
        definition=json.dumps(definition(entry), indent=2, ensure_ascii=False),
        cli=as_cli(entry.name, schedule) if schedule else "",
        curl=as_curl(entry.name, schedule, str(request.base_url)) if schedule else "",
    )  # fmt: skip


def _history_row(found: ScheduleDetail, entry: LedgerEntry) -> HistoryRow:
    row: dict[str, Any] = {
        "at": instant_of(entry), "state": pill(outcome(entry)), "reason": "", "late": Markup(""),
        "waited": "", "took": "", "job": "", "text": "", "tone": _tone(outcome(entry)),
    }  # fmt: skip
    if isinstance(entry, Skip):
        times = f"{'at least ' if entry.count >= MANY else ''}{entry.count:,} times"
        row |= {"reason": entry.reason, "text": times if entry.count > 1 else ""}
        row["since"] = entry.first if entry.count > 1 else None
    elif isinstance(entry, Enqueued):
        who = found.actor_of(entry)
        row["reason"] = entry.reason.replace("_", "-") + (f" · {who}" if who else "")
        row |= {"late": late(entry.lag), "job": found.job_of(entry)}
        if attempt := entry.attempt:
            since = entry.fire_time + (entry.lag or _NO_TIME)
            waited = max(_NO_TIME, attempt.started - since)
            row |= {"waited": duration_text(waited) if attempt.number == 1 else ""}
            row |= {"took": duration_text(attempt.ended - attempt.started), "text": attempt.error}
            if attempt.number > 1:
                row["reason"] += f" · attempt {attempt.number}"
        elif found.row.running and found.row.running == row["job"]:
            row["state"] = pill("running")
    else:
        row |= {"text": "the job vanished", "job": entry.job_id}
    return HistoryRow(**row)


def _details(entry: AuditEntry, tz: str) -> list[tuple[str, str]]:
    """Return the other facts of an audit entry as texts, instants in a zone."""
    found = []
    for key, value in entry.detail.items():
        if value in (None, "", False):
            continue
        with suppress(TypeError, ValueError):
            value = local_text(datetime.fromisoformat(value).astimezone(zone(tz).info), None)
        found.append((key, str(value)))
    return found


def _tone(state: str) -> str:
    return {"failed": "bad", "timed_out": "bad", "lost": "bad", "missed": "warn"}.get(state, "")


def _figures(ledger: Sequence[LedgerEntry]) -> Figures:
    """Return the statistics of a ledger."""
    ran = [e for e in ledger if isinstance(e, Enqueued)]
    ended = [e.attempt for e in ran if e.attempt and e.attempt.state != "interrupted"]
    ok = sum(attempt.state == "ok" for attempt in ended)
    took = sorted(a.ended - a.started for a in ended)
    lags = sorted(e.lag for e in ran if e.lag is not None)
    return Figures(
        success=f"{100 * ok / len(ended):.3g} % of {len(ended)}" if ended else "",
        p50=_quantile(took, 50),
        p95=_quantile(took, 95),
        late=_quantile(lags, 95),
        counts=counts_text(tally(ledger)),
    )


def _quantile(values: Sequence[timedelta], percent: int) -> str:
    """Return a percentile as text."""
    return duration_text(values[-(-len(values) * percent // 100) - 1]) if values else ""
