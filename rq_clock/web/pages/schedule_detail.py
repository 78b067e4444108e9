"""The page of one schedule: its definition, next fire times, history and activity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from fastapi import APIRouter
from fastapi.responses import Response

from rq_clock.manifest.definition import document
from rq_clock.model.ledger import Enqueued, LedgerEntry
from rq_clock.model.targets import shown_target
from rq_clock.schedules.detail import ScheduleDetail, detail
from rq_clock.schedules.listing import BARS
from rq_clock.schedules.upcoming import upcoming
from rq_clock.serializers.schedules import skipping_view
from rq_clock.store.status import Status
from rq_clock.timing.durations import duration_text
from rq_clock.timing.triggers import Cron
from rq_clock.web.context import Caller, Read
from rq_clock.web.pages.audit import details
from rq_clock.web.pages.day_grid import day_grid, totals
from rq_clock.web.pages.layout import page
from rq_clock.web.pages.runs import REASONS, RunLine, line_in
from rq_clock.web.pages.schedule_row import late, pause_text, sentence
from rq_clock.web.pages.snippets import as_cli, as_curl
from rq_clock.web.pages.sparkline import counts_text, large_bars, outcome, tally
from rq_clock.web.problems import Problem

router = APIRouter()
COMING = 10
"""Upcoming fire times on the page."""
RECENT, AUDITED = 30, 20
"""Rows of the history and of the audit."""


def existing(caller: Caller, name: str) -> tuple[Status, ScheduleDetail]:
    """Return the status and a schedule. Raises Problem when there is none."""
    status = caller.context.schedules.status()
    found = detail(caller.context.store, name, status)
    if found is None:
        raise Problem("not-found", f"no schedule {name!r} in namespace {caller.namespace!r}")
    return status, found


@router.get("/schedules/{name}")
def schedule_page(caller: Read, name: str, history: str = "") -> Response:
    """Return the page of a schedule; with `history=all`, all of its history."""
    status, found = existing(caller, name)
    row, now = found.row, status.now
    entry, schedule = row.entry, row.entry.schedule
    tz = entry.tz
    coming = upcoming(entry, max(now, entry.decided), COMING)
    pause = entry.pause(now)
    definition = document(schedule, secrets=False) if schedule else {"fault": entry.fault}
    newest = found.ledger[::-1] if history == "all" else found.ledger[: -RECENT - 1 : -1]
    return page(
        caller, "schedule.html", status,
        entry=entry, schedule=schedule, tz=tz, row=row,
        runs=shown_target(schedule.target)["runs"] if schedule else "",
        states=row.states, pause=pause,
        pause_text=pause_text(pause, tz, now) if pause else "",
        paused_alone=bool(pause and pause is not status.pause and pause != status.pause),
        skipping=skipping_view(entry), held=entry.held(now),
        sentence=sentence(schedule.trigger) if schedule else "",
        expression=schedule.trigger.expression
        if schedule and isinstance(schedule.trigger, Cron) else "",
        coming=coming, notes=sum(bool(fire.notes) for fire in coming),
        history=[_history_row(found, one) for one in newest], older=len(found.ledger) - len(newest),
        reasons=REASONS, late=late,
        bars=large_bars(row.tail, tz), figures=_figures(found.ledger), shown=BARS,
        days=day_grid(found.days, now), day_totals=totals(found.days, now),
        backfills=found.backfills,
        audited=[(one, details(one, tz)) for one in found.audited[:AUDITED]],
        definition=json.dumps(definition, indent=2, ensure_ascii=False),
        cli=as_cli(entry.name, schedule) if schedule else "",
        curl=as_curl(entry.name, schedule, str(caller.request.base_url)) if schedule else "",
    )  # fmt: skip


def _history_row(found: ScheduleDetail, entry: LedgerEntry) -> tuple[RunLine, str]:
    """Return the outcome of a fire time as a row, and the person who started its run."""
    line = replace(line_in(found, entry), state=outcome(entry))
    if line.job and line.job == found.row.running and line.state == "waiting":
        line = replace(line, state="running")
    return line, found.actor_of(entry) if isinstance(entry, Enqueued) else ""


def _figures(ledger: Sequence[LedgerEntry]) -> dict[str, str]:
    """Return the statistics of the runs in a ledger; an unknown one is empty."""
    ran = [e for e in ledger if isinstance(e, Enqueued)]
    ended = [e.attempt for e in ran if e.attempt and e.attempt.state != "interrupted"]
    ok = sum(attempt.state == "ok" for attempt in ended)
    took = sorted(a.ended - a.started for a in ended)
    return {
        "success": f"{100 * ok / len(ended):.3g} % of {len(ended)}" if ended else "",
        "p50": _quantile(took, 50),
        "p95": _quantile(took, 95),
        "late": _quantile(sorted(e.lag for e in ran if e.lag is not None), 95),
        "counts": counts_text(tally(ledger)),
    }


def _quantile(values: Sequence[timedelta], percent: int) -> str:
    """Return a percentile of sorted values as text."""
    return duration_text(values[-(-len(values) * percent // 100) - 1]) if values else ""
