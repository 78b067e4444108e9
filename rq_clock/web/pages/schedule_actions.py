"""What can be done to one schedule: each a page that says what will happen, and a form that does
it. What is refused is said above the form, which keeps what was entered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from rq_clock.errors import ScheduleError
from rq_clock.schedules.backfill import Preview
from rq_clock.schedules.detail import ScheduleDetail
from rq_clock.schedules.service import BACKFILL_LIMIT, Schedules
from rq_clock.schedules.upcoming import upcoming
from rq_clock.settings import Token
from rq_clock.timing.instants import read_instant, to_ms
from rq_clock.timing.zones import zone
from rq_clock.web.context import Admin, Context, Operate, Web, schedules_for
from rq_clock.web.pages.filters import local_text
from rq_clock.web.pages.form_times import NINE, until_of
from rq_clock.web.pages.layout import Fields, done, page
from rq_clock.web.pages.schedule_detail import existing

router = APIRouter(prefix="/schedules/{name}")
SKIPS = 20
"""Fire times that can be skipped by one form."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody who wants to do something to a schedule."""

    request: Request
    site: Context
    token: Token
    name: str

    def ask(self, verb: str, **values: Any) -> Response:
        """The page that says what an action does."""
        pulse, found = existing(self.site, self.name)
        tz, entry = _zone(found), found.row.entry
        return page(
            self.request, "action.html", self.token, pulse, verb=verb, name=self.name, tz=tz,
            entry=entry, row=found.row, tomorrow=read_instant(NINE, tz, now=pulse.now),
            pause=entry.pause(pulse.now), most=BACKFILL_LIMIT,
            coming=upcoming(entry, max(pulse.now, entry.decided), SKIPS),
            **{"form": {}, **values},
        )  # fmt: skip

    def attempt(
        self, verb: str, form: Mapping[str, str], act: Callable[[Schedules], str], to: str = ""
    ) -> Response:
        """Do it, and go back with a word on what was done; or say why not, over the same form."""
        try:
            said = act(schedules_for(self.site, self.token))
        except ScheduleError as error:
            return self.ask(verb, form=form, error=str(error), status=409)
        return done(self.request, to or f"/schedules/{self.name}", said)


def _operator(request: Request, site: Web, token: Operate, name: str) -> Asked:
    return Asked(request, site, token, name)


def _admin(request: Request, site: Web, token: Admin, name: str) -> Asked:
    return Asked(request, site, token, name)


Operator = Annotated[Asked, Depends(_operator)]
Owner = Annotated[Asked, Depends(_admin)]


def _zone(found: ScheduleDetail) -> str:
    return found.row.entry.tz


# ---- run now ----------------------------------------------------------------------------------


@router.get("/run")
def run_page(asked: Operator) -> Response:
    """Asks before a run."""
    return asked.ask("run")


@router.post("/run")
def run(asked: Operator, form: Fields) -> Response:
    """Enqueue one job."""

    def act(schedules: Schedules) -> str:
        force = form.get("force") == "1"
        job = schedules.trigger(asked.name, force=force, reason=form.get("reason", "").strip())
        return f"Enqueued {job}."

    return asked.attempt("run", form, act)


# ---- skip the next ones -----------------------------------------------------------------------


@router.get("/skip")
def skip_page(asked: Operator) -> Response:
    """Asks which of the next fire times are to be skipped."""
    return asked.ask("skip")


@router.post("/skip")
def skip(asked: Operator, form: Fields) -> Response:
    """Skip them, or with a count of 0 none any more."""

    def act(schedules: Schedules) -> str:
        said = form.get("count", "")
        if not said.isdecimal() or len(said) > 9 or int(said) > SKIPS:
            raise ScheduleError(f"count: expected a whole number up to {SKIPS}, got {said!r}")
        last = schedules.skip(asked.name, int(said), reason=form.get("reason", "").strip())
        if said == "0":
            return "Nothing is skipped any more."
        entry = schedules.get(asked.name)
        at = _told(last, entry.tz if entry else "UTC")
        return f"Skips {at}." if said == "1" else f"Skips the next {said}, up to {at}."

    return asked.attempt("skip", form, act)


# ---- pause and resume -------------------------------------------------------------------------


@router.get("/pause")
def pause_page(asked: Operator) -> Response:
    """Asks for how long, and why."""
    return asked.ask("pause")


@router.post("/pause")
def pause(asked: Operator, form: Fields) -> Response:
    """Pause it."""
    pulse, found = existing(asked.site, asked.name)

    def act(schedules: Schedules) -> str:
        tz = _zone(found)
        until = until_of(form, tz, pulse.now)
        reason, missed = form.get("reason", "").strip(), form.get("missed", "skip")
        schedules.pause(asked.name, reason=reason, until=until, missed=missed)
        return f"Paused until {_told(until, tz)}." if until else "Paused until it is resumed."

    return asked.attempt("pause", form, act)


@router.get("/resume")
def resume_page(asked: Operator) -> Response:
    """Asks what becomes of what was missed."""
    return asked.ask("resume")


@router.post("/resume")
def resume(asked: Operator, form: Fields) -> Response:
    """Let it go on."""

    def act(schedules: Schedules) -> str:
        schedules.resume(asked.name, missed=form.get("missed") or None)
        return "Resumed."

    return asked.attempt("resume", form, act)


# ---- backfill ---------------------------------------------------------------------------------


@router.get("/backfill")
def backfill_page(asked: Operator) -> Response:
    """Asks for the span."""
    return asked.ask("backfill")


@router.post("/backfill")
def backfill(asked: Operator, form: Fields) -> Response:
    """Show what it would enqueue; when that has been seen (`sure`), ask the clock for it."""
    pulse, found = existing(asked.site, asked.name)
    schedules, tz = schedules_for(asked.site, asked.token), _zone(found)
    try:
        span = _Span.read(form, tz)
        preview = schedules.preview_backfill(asked.name, span.start, span.end, again=span.again)
        if form.get("sure") == "1" and preview.count:
            made = schedules.backfill(
                asked.name, span.start, span.end, at_once=span.at_once, again=span.again,
                reason=form.get("reason", "").strip(),
            )  # fmt: skip
            waits = "" if pulse.leader else " It begins when a clock leads."
            return done(
                asked.request,
                f"/schedules/{asked.name}",
                f"A backfill of {made.total:,} runs goes on.{waits}",
            )
    except ScheduleError as error:
        return asked.ask("backfill", form=form, error=str(error), status=409)
    sample = _sample(preview, found)
    return asked.ask("backfill", form=form, preview=preview, span=span, sample=sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """What a backfill is asked for with."""

    start: datetime
    end: datetime
    at_once: int
    again: bool

    @classmethod
    def read(cls, form: Mapping[str, str], tz: str) -> _Span:
        """Raises ScheduleError."""
        at_once = form.get("at_once", "1")
        if not at_once.isdecimal() or len(at_once) > 9 or not 1 <= int(at_once) <= 1000:
            raise ScheduleError(f"at once: expected a number from 1 to 1,000, got {at_once!r}")
        return cls(
            start=read_instant(form.get("from", ""), tz, field="from"),
            end=read_instant(form.get("to", ""), tz, field="to"),
            at_once=int(at_once),
            again=form.get("again") == "1",
        )


def _sample(preview: Preview, found: ScheduleDetail) -> list[tuple[datetime, bool]]:
    """The first fire times of a backfill, and whether each is left out."""
    schedule = found.row.entry.schedule
    listed: list[tuple[datetime, bool]] = []
    t = preview.first
    while schedule and t and preview.last and t <= preview.last and len(listed) < SKIPS:
        listed.append((t, to_ms(t) in preview.left_out))
        t = schedule.next_after(t)
    return listed


@router.get("/backfills/{id}/cancel")
def cancel_page(asked: Operator, id: str) -> Response:
    """Asks before a backfill is canceled."""
    return asked.ask("cancel", id=id)


@router.post("/backfills/{id}/cancel")
def cancel(asked: Operator, id: str, form: Fields) -> Response:
    """Let it enqueue no more."""
    schedules = schedules_for(asked.site, asked.token)
    try:
        schedules.cancel_backfill(id, reason=form.get("reason", "").strip())
    except ScheduleError as error:
        return asked.ask("cancel", id=id, error=str(error), status=409)
    return done(asked.request, f"/schedules/{asked.name}", "The backfill enqueues no more.")


# ---- delete -----------------------------------------------------------------------------------


@router.get("/delete")
def delete_page(asked: Owner) -> Response:
    """Asks before it is gone."""
    return asked.ask("delete")


@router.post("/delete")
def delete(asked: Owner, form: Fields) -> Response:
    """Remove it."""

    def act(schedules: Schedules) -> str:
        schedules.remove(asked.name, revision=form.get("revision") or None)
        return (
            f"Deleted {asked.name}. Its history stays readable for 30 days: "
            f"rq-clock history {asked.name}"
        )

    return asked.attempt("delete", form, act, "/")


def _told(t: datetime, tz: str) -> str:
    return local_text(t.astimezone(zone(tz).info), None)
