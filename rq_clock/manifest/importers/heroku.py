"""Schedules of Heroku Scheduler, from its table as copied from the dashboard."""

from __future__ import annotations

import re

from rq_clock.errors import ScheduleError
from rq_clock.manifest.importers.parsing import ImportRejected, SchedulerRow, scheduler_rows
from rq_clock.manifest.importers.result import POLICIES, Imported, _Found
from rq_clock.model.targets import command
from rq_clock.timing.triggers import cron

_DAILY = re.compile(
    r"(?:daily|every day) at (\d{1,2}):([0-5]\d)(?: ?([ap]m))?(?: (?:utc|gmt))?", re.IGNORECASE
)

_HOURLY = re.compile(r"(?:hourly|every hour) at :?([0-5]?\d)", re.IGNORECASE)

_TEN = re.compile(r"every (?:10|ten) minutes", re.IGNORECASE)


def from_heroku_scheduler(text: str, *, queue: str = "default") -> Imported:
    """The jobs of Heroku Scheduler, from the table of its dashboard (it has no other export).

    Command and frequency count, a size makes a note, the last run and the next do not matter. Its
    times are UTC. It ends a job after its interval (10 minutes, an hour, a day): so much time the
    command has here.
    """
    found = _Found(queue)
    for row in scheduler_rows(text):
        if isinstance(row, ImportRejected):
            found.leave(row.line, row.text, row.reason)
            continue
        try:
            _add_row(found, row)
        except ScheduleError as error:
            found.leave(row.line, row.text, error)
    return found.done()


def _add_row(found: _Found, row: SchedulerRow) -> None:
    expression, seconds = _frequency(row.frequency)
    name = found.add("", cron(expression), command(row.command, timeout=seconds))
    found.note(name, _dyno_note(row.size), POLICIES)
    if seconds == 600:
        found.note(name, "runs at minute 0, 10, 20, …; Heroku does not say when")


def _dyno_note(size: str) -> str:
    kind = f"a one-off dyno of size {size}" if size else "a one-off dyno"
    return f"ran in {kind}; here it runs in a worker, which must be as large"


def _frequency(text: str) -> tuple[str, int]:
    """The cron expression, and the seconds that a job may take."""
    if _TEN.fullmatch(text):
        return "*/10 * * * *", 600
    if match := _HOURLY.fullmatch(text):
        return f"{int(match[1])} * * * *", 3600
    if match := _DAILY.fullmatch(text):
        hour, half = int(match[1]), (match[3] or "").lower()
        if (1 <= hour <= 12) if half else hour <= 23:
            hour = hour % 12 + 12 * (half == "pm") if half else hour
            return f"{int(match[2])} {hour} * * *", 86_400
    raise ScheduleError(
        "expected the frequency as 'Every 10 minutes', 'Hourly at :10' or 'Daily at 3:30 AM UTC', "
        f"got {text!r}"
    )
