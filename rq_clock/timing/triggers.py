"""What users write: `cron`, `every` and `once` make a trigger (trigger_types.py).

Each raises ScheduleError with every fault of its arguments. An argument that another scheduler has
is a fault too, with the spelling here, and no TypeError. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, time, timedelta, tzinfo
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from rq_clock.errors import Fault, ScheduleError
from rq_clock.timing.arguments import Arguments
from rq_clock.timing.cron import fault_text
from rq_clock.timing.durations import duration_spec
from rq_clock.timing.instants import moment, read_instant, to_ms_up
from rq_clock.timing.specs import from_spec
from rq_clock.timing.trigger_types import (
    DAY_MS,
    LONGEST,
    CalendarInterval,
    Cron,
    Every,
    Faulty,
    Once,
    Recurring,
    Trigger,
    datetime_faults,
)
from rq_clock.timing.wall import MANY

__all__ = [
    "MANY", "CalendarInterval", "Cron", "Every", "Faulty", "Once", "Recurring", "Trigger", "cron",
    "deferred_faults", "every", "from_spec", "once",
]  # fmt: skip

_NAMED_ELSEWHERE = {
    "tz": "timezone zone tzinfo time_zone timezone_name",
    "start": "start_date start_at start_time starts starts_at begin after",
    "end": "end_date end_at end_time ends ends_at until stop before",
    "max_runs": "count limit times repeat max_runs_count maximum",
    "at": "time at_time",
    "on": "weekday weekdays day_of_week on_day byday",
}
_MS = timedelta(milliseconds=1)
_FIELDS = "second minute hour day day_of_month dom month month_of_year day_of_week dow week year"
_deferred: ContextVar[bool] = ContextVar("deferred", default=False)
P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def deferred_faults() -> Iterator[None]:
    """Within this block `cron`, `every` and `once` raise nothing: with faults they return a
    `Faulty`, which `Schedule` refuses with all other faults of a declaration."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def _explained(make: Callable[P, T]) -> Callable[P, T]:
    """Refuse arguments that `make` does not have with a ScheduleError that explains them."""
    code = make.__code__
    positional = code.co_argcount
    names = code.co_varnames[: positional + code.co_kwonlyargcount]

    @wraps(make)
    def explained(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            faults = [_unknown(make.__name__, key, names) for key in kwargs if key not in names]
            if len(args) > positional:
                got = f"{len(args)} arguments"
                example = 'cron("0 3 * * *", "Europe/Berlin")' if positional > 1 else 'every("5m")'
                faults.append(Fault(make.__name__, fault_text(example, got, "write one text")))
            if faults:
                raise ScheduleError(*faults)
            return make(*args, **kwargs)
        except ScheduleError as error:
            if not _deferred.get():
                raise
            return cast(T, Faulty(error.faults))

    return explained


def _unknown(trigger: str, key: str, names: tuple[str, ...]) -> Fault:
    """Return the fault of an argument that a trigger does not have."""
    ours = [name for name, theirs in _NAMED_ELSEWHERE.items() if key in theirs.split()]
    near = [name for name in ours if name in names] or difflib.get_close_matches(key, names, n=1)
    hint = f"known are {', '.join(names)}"
    if trigger == "cron" and key in _FIELDS.split():
        hint = 'write the five fields as one text, such as cron("0 3 * * *")'
    elif near:
        hint = f"write {near[0]}="
    return Fault(trigger, f"unknown argument {key}= of {trigger}(…): {hint}")


@_explained
def cron(
    expression: str,
    tz: str | tzinfo = "UTC",
    *,
    start: date | str | None = None,
    end: date | str | None = None,
    max_runs: int | None = None,
) -> Cron:
    """Fire when a zone's clock matches a cron expression, by the rules of Debian's cron.

    Five fields, minute hour day-of-month month day-of-week, or @hourly, @daily, @midnight,
    @weekly, @monthly, @yearly, @annually. A field is a list of `*`, `a`, `a-b`, `*/n`, `a-b/n`,
    `a/n`; months and weekdays have names (`jan`, `january`, `mon`, `monday`), Sunday is 0 or 7, `?`
    is `*` in the day fields. Beyond crontab(5): `L` (last day of the month), `L-3` (three days
    before it), `15W` (the day from Monday to Friday nearest to the 15th), `LW` (the last one),
    `fri#2` (second Friday), `fri#L` or `5L` (last Friday). `29W` to `31W` leave out the months
    without that day.

    From crontab(5): a day must match both day fields when one of them starts with `*`, otherwise
    either. From cron(8): when clocks change, a job whose minute and hour do not start with `*`
    runs once for each nominal time: the first time where clocks go back, and at the end of a gap
    of up to three hours where they go forward. Other jobs run whenever the clock shows a match.

    `start` and `end` bound the fire times, both included: aware datetimes, dates or ISO 8601, which
    without an offset is on the clock of `tz`; a date as `end` means its last moment. With
    `max_runs`, up to 10,000, only the first so many fire times from `start` on count; those that
    are skipped or missed count too. Raises ScheduleError with every fault.
    """
    read = Arguments()
    key = read.zone(tz)
    text = read.expression(expression)
    bounds = read.bounds(key, start, end, max_runs)
    return read.made(lambda: Cron(text, key, **bounds))


@_explained
def every(  # noqa: PLR0913 - one keyword a unit, as timedelta has them
    period: str | timedelta | None = None,
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    milliseconds: float = 0,
    at: str | time | None = None,
    on: str | None = None,
    tz: str | tzinfo | None = None,
    anchor: date | str | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
    max_runs: int | None = None,
) -> Every | CalendarInterval:
    """Fire each time a period has passed; with `at`, every n days or weeks at a local time.

    The period is a timedelta, a text such as "5m", "1h30m" or "2w", or the sum of the units; at
    least 10 ms. It counts from `anchor`, by default from `start`, else from the Unix epoch. The
    anchor gives the phase and is not a start. This is elapsed time, which no clock change touches:
    `days=1` is 86,400 s.

    With `at`, such as "09:00", the period is of whole days, and the trigger fires when the clock of
    `tz` (default UTC) first shows that time; when clocks change, as `cron` does. The anchor then is
    a date on which it fires. With `on`, such as "tue" or "mon-fri", the period is of whole weeks,
    and the anchor is any date in a week in which it fires.

    `start`, `end` and `max_runs` are those of `cron`. Raises ScheduleError with every fault.
    """
    read = Arguments()
    ms = read.period(period, (weeks, days, hours, minutes, seconds, milliseconds))
    key = "UTC" if tz is None else read.zone(tz)
    bounds = read.bounds(key, start, end, max_runs)
    first = bounds.get("start")
    if at is None:
        for field in [name for name, value in (("tz", tz), ("on", on)) if value is not None]:
            text = f'{field}= goes with a local time, such as at="09:00"; a period alone has none'
            read.faults.append(Fault(field, text))
        since = read.anchor(anchor, first)
        return read.made(lambda: Every(ms, since, **bounds))
    day, rest = divmod(ms, DAY_MS)
    if rest:
        got = duration_spec(ms * _MS) if 0 < ms <= LONGEST else "one far beyond"
        read.fault("every", "whole days or weeks with at=", got)
    minute, weekdays, since_day = read.time(at), read.weekdays(on), read.date(anchor, first, key)
    return read.made(lambda: CalendarInterval(day or 1, minute, key, weekdays, since_day, **bounds))


@_explained
def once(at: datetime | str) -> Once:
    """Fire at one instant, an aware datetime or ISO 8601 with an offset. Never early: it is rounded
    up to the next whole millisecond."""
    if isinstance(at, str):
        at = read_instant(at, field="once")
    if not datetime_faults("once", at):
        at = moment(to_ms_up(at)) or at
    return Once(at)
