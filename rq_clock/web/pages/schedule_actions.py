"""The actions on one schedule: each has a page with a form that explains it.

A refusal is shown above the form, which keeps its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from rq_clock.errors import ScheduleError
from rq_clock.schedules.backfill import BACKFILL_LIMIT, Preview
from rq_clock.schedules.detail import ScheduleDetail
from rq_clock.schedules.upcoming import upcoming
from rq_clock.timing.instants import read_instant, to_ms
from rq_clock.timing.zones import zone
from rq_clock.web.context import Caller, Needs
from rq_clock.web.pages.filters import local_text
from rq_clock.web.pages.layout import Fields, done, page
from rq_clock.web.pages.schedule_detail import existing

router = APIRouter(prefix="/schedules/{name}")
SKIPS = 20
"""Fire times that one form can skip."""
NINE = "tomorrow 09:00"
_UNTIL = {"hour": "now+1h", "tomorrow": NINE}
"""Choice for the end of a pause → that instant."""


def until_of(form: Mapping[str, str], tz: str, now: datetime) -> datetime | None:
    """Return when a pause ends, by the clock of a zone; None if it does not. Raises
    ScheduleError."""
    until = form.get("until", "never")
    if until == "never":
        return None
    return read_instant(_UNTIL.get(until, form.get("date")), tz, now=now, field="until")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A form for a schedule; `form` is empty for a request to show it."""

    caller: Caller
    verb: str
    form: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.caller.request.path_params["name"])

    @property
    def reason(self) -> str:
        return self.form.get("reason", "").strip()

    def page(self, **values: Any) -> Response:
        """Return the page with the form."""
        status, found = existing(self.caller, self.name)
        entry = found.row.entry
        return page(
            self.caller, "action.html", status, verb=self.verb, name=self.name,
            tz=entry.tz, entry=entry, row=found.row, pause=entry.pause(status.now),
            tomorrow=read_instant(NINE, entry.tz, now=status.now), limit=BACKFILL_LIMIT,
            coming=upcoming(entry, max(status.now, entry.decided), SKIPS), form=self.form,
            id=self.caller.request.path_params.get("id", ""), **values,
        )  # fmt: skip


# ---- the actions: each returns a message, or a page; raises ScheduleError ----------------------


def _run(sent: Submission) -> str:
    force = sent.form.get("force") == "1"
    job = sent.caller.service.trigger(sent.name, force=force, reason=sent.reason)
    return f"Enqueued {job}."


def _skip(sent: Submission) -> str:
    count, schedules = sent.form.get("count", ""), sent.caller.service
    if not count.isdecimal() or len(count) > 9 or int(count) > SKIPS:
        raise ScheduleError(f"count: expected a whole number up to {SKIPS}, got {count!r}")
    last = schedules.skip(sent.name, int(count), reason=sent.reason)
    if count == "0":
        return "No fire time is skipped any more."
    entry = schedules.get(sent.name)
    at = _local(last, entry.tz if entry else "UTC")
    return f"Skips {at}." if count == "1" else f"Skips the next {count}, up to {at}."


def _pause(sent: Submission) -> str:
    status, found = existing(sent.caller, sent.name)
    tz = found.row.entry.tz
    until = until_of(sent.form, tz, status.now)
    missed = sent.form.get("missed", "skip")
    sent.caller.service.pause(sent.name, reason=sent.reason, until=until, missed=missed)
    return f"Paused until {_local(until, tz)}." if until else "Paused until it is resumed."


def _resume(sent: Submission) -> str:
    sent.caller.service.resume(sent.name, missed=sent.form.get("missed") or None)
    return "Resumed."


def _backfill(sent: Submission) -> str | Response:
    """Return the preview; once that was confirmed (`sure`), request the backfill."""
    status, found = existing(sent.caller, sent.name)
    form, tz, schedules = sent.form, found.row.entry.tz, sent.caller.service
    start = read_instant(form.get("from", ""), tz, field="from")
    end = read_instant(form.get("to", ""), tz, field="to")
    at_once, again = form.get("at_once", "1"), form.get("again") == "1"
    if not at_once.isdecimal() or len(at_once) > 9 or not 1 <= int(at_once) <= 1000:
        raise ScheduleError(f"at once: expected a number from 1 to 1,000, got {at_once!r}")
    preview = schedules.preview_backfill(sent.name, start, end, again=again)
    if form.get("sure") != "1" or not preview.count:
        return sent.page(preview=preview, at_once=at_once, sample=_sample(preview, found))
    made = schedules.backfill(
        sent.name, start, end, at_once=int(at_once), again=again, reason=sent.reason
    )
    waits = "" if status.leader else " It begins when a clock leads."
    return f"Started a backfill of {made.total:,} runs.{waits}"


def _cancel(sent: Submission) -> str:
    sent.caller.service.cancel_backfill(sent.caller.request.path_params["id"], reason=sent.reason)
    return "Canceled the backfill."


def _delete(sent: Submission) -> str:
    sent.caller.service.remove(sent.name, revision=sent.form.get("revision") or None)
    history = f"rq-clock history {sent.name}"
    return f"Deleted {sent.name}. Its history stays readable for 30 days: {history}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action: its path below the schedule's, its scope, and the page that follows it."""

    act: Callable[[Submission], str | Response]
    path: str
    scope: str = "operate"
    to: str = "/schedules/{name}"


ACTIONS = {
    "run": Action(act=_run, path="/run"),
    "skip": Action(act=_skip, path="/skip"),
    "pause": Action(act=_pause, path="/pause"),
    "resume": Action(act=_resume, path="/resume"),
    "backfill": Action(act=_backfill, path="/backfill"),
    "cancel": Action(act=_cancel, path="/backfills/{id}/cancel"),
    "delete": Action(act=_delete, path="/delete", scope="admin", to="/"),
}


def _add_routes(verb: str, action: Action) -> None:
    needs = Depends(Needs(action.scope))

    def show(caller: Caller = needs) -> Response:
        return Submission(caller=caller, verb=verb, form={}).page()

    def submit(form: Fields, caller: Caller = needs) -> Response:
        sent = Submission(caller=caller, verb=verb, form=form)
        try:
            outcome = action.act(sent)
        except ScheduleError as error:
            return sent.page(error=str(error), status_code=409)
        if isinstance(outcome, Response):
            return outcome
        return done(caller, action.to.format(name=sent.name), outcome)

    router.add_api_route(action.path, show, methods=["GET"], name=f"{verb} form")
    router.add_api_route(action.path, submit, methods=["POST"], name=verb)


for _verb, _action in ACTIONS.items():
    _add_routes(_verb, _action)


def _sample(preview: Preview, found: ScheduleDetail) -> list[tuple[datetime, bool]]:
    """Return the first fire times of a backfill, and whether each is left out."""
    schedule = found.row.entry.schedule
    listed: list[tuple[datetime, bool]] = []
    t = preview.first
    while schedule and t and preview.last and t <= preview.last and len(listed) < SKIPS:
        listed.append((t, to_ms(t) in preview.left_out))
        t = schedule.next_after(t)
    return listed


def _local(t: datetime, tz: str) -> str:
    return local_text(t.astimezone(zone(tz).info), None)
