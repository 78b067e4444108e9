"""Describes triggers to people, for `rq-clock explain` and `check`, the API and the pages. Pure.

`words` puts a trigger into words. `fires` lists its next fire times with the effects of clock
changes. `dst_remarks` lists the effects of the coming year.

Not here: deciding when a trigger fires. Every sentence is built from the values that cron.py works
with, so two spellings of one expression read the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import groupby, pairwise

from rq_clock.timing.cron import Expression, Field
from rq_clock.timing.days import MonthDay, NthWeekday
from rq_clock.timing.instants import END_OF_DAY
from rq_clock.timing.trigger_types import CalendarInterval, Cron, Every, Once, Trigger
from rq_clock.timing.wall import CATCH_UP, DAY, WallRule
from rq_clock.timing.zones import zone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FEW = 6  # up to here, times of day are easier to read one by one
_NTHS = ("last", "first", "second", "third", "fourth", "fifth")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("", "January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Fire:
    """An upcoming fire time in UTC and in the trigger's zone, with the effects of clock changes.

    `offset` is the jitter that it includes. `blocked_by` is why it will be skipped: paused,
    requested, or "".
    """

    fire_time: datetime
    local: datetime
    notes: tuple[str, ...] = ()
    offset: timedelta = timedelta(0)
    blocked_by: str = ""


def words(trigger: Trigger) -> str:
    """Return when a trigger fires, in English: "at 03:00 every day, Europe/Berlin time"."""
    if isinstance(trigger, Once):
        return f"once at {_instant(trigger.at)}"
    place = "UTC" if trigger.tz == "UTC" else f"{trigger.tz} time"
    if isinstance(trigger, Every):
        return _every(trigger) + _bounds(trigger)
    if isinstance(trigger, CalendarInterval):
        return f"{_interval(trigger)}{_bounds(trigger)}, {place}"
    text, zoned = _cron(trigger.parsed)
    return text + _bounds(trigger) + (f", {place}" if zoned or trigger.start or trigger.end else "")


def fires(
    trigger: Trigger, after: datetime, n: int, offset: timedelta = timedelta(0)
) -> list[Fire]:
    """Return the first `n` fire times after an instant, jitter included; fewer at the end."""
    found: list[Fire] = []
    after -= offset
    while len(found) < n and (t := trigger.next_after(after)):
        notes: list[str] = []
        if isinstance(trigger, Cron | CalendarInterval):
            notes = _notes(trigger.rule, max(0, int(after.timestamp())), int(t.timestamp()))
        local = (t + offset).astimezone(zone(trigger.tz).info)
        found.append(Fire(t + offset, local, tuple(notes), offset))
        after = t
    return found


def dst_remarks(trigger: Trigger, after: datetime) -> list[str]:
    """Return the effects of the clock changes in the 366 days after an instant, a line for each.

    A wildcard rule that fires in every hour has none: they neither add nor remove a run.
    """
    if not isinstance(trigger, Cron | CalendarInterval):
        return []
    rule, start = trigger.rule, int(after.timestamp())
    if isinstance(trigger, Cron) and rule.wildcard and trigger.parsed.fields[1].is_all:
        return []
    jumps = rule.zone.jumps(start, start + 366 * DAY)
    effects = [(jump + rule.zone.offset(jump - 1), _effect(rule, jump)) for jump in jumps]
    return [f"{_dated(wall)[:10]}: {effect}" for wall, effect in effects if effect]


# ---- effects of clock changes -----------------------------------------------------------------


def _notes(rule: WallRule, previous: int, fire: int) -> list[str]:
    zone, notes = rule.zone, []
    before, now = (datetime.fromtimestamp(t, zone.info).isoformat()[19:] for t in (previous, fire))
    if before != now:
        notes.append(f"offset changes {before} → {now}")
    forward = [t for t in zone.jumps(previous, fire) if zone.offset(t - 1) < zone.offset(t)]
    back = [t for t in zone.jumps(fire - DAY, fire + DAY) if zone.offset(t - 1) > zone.offset(t)]
    wall = fire + zone.offset(fire)
    effects = [_effect(rule, t) for t in forward] + [_effect(rule, t, wall) for t in back]
    return notes + [effect for effect in effects if effect]


def _effect(rule: WallRule, jump: int, only: int | None = None) -> str:
    """Return the effect of a jump on the times of a rule, or on one of them; "" for none."""
    expected, shown = jump + rule.zone.offset(jump - 1), jump + rule.zone.offset(jump)
    low, high = sorted((expected, shown))
    first = rule.first_match(low) if only is None else only
    last = rule.last_match(high - 1) if only is None else only
    if not low <= first < high:
        return ""
    stamp = _clock if high - low < DAY else _dated
    times = stamp(first) if first == last else f"{stamp(first)} to {stamp(last)}"
    clocks = f"{stamp(expected)} → {stamp(shown)}"
    if shown < expected:
        runs = "both times" if rule.wildcard else "the first time only"
        verb = "happens" if first == last else "happen"
        return f"{times} {verb} twice (clocks go back {clocks}); runs {runs}"
    dropped = rule.wildcard or shown - expected > CATCH_UP
    runs = "does not run" if dropped else f"runs at {stamp(shown)}"
    verb = "does" if first == last else "do"
    return f"{times} {verb} not exist that day (clocks go forward {clocks}); {runs}"


# ---- a trigger in words -----------------------------------------------------------------------


def _every(trigger: Every) -> str:
    period = trigger.period
    text = f"{period} ms" if period % 1_000 else f"{period // 1_000} s"
    for size, unit in ((60_000, "minute"), (3_600_000, "hour")):
        if period % size == 0:
            text = unit if period == size else f"{period // size} {unit}s"
    if period % 86_400_000 == 0 and period > 86_400_000:
        text = f"{period // 86_400_000} days of 24 hours"
    anchor = _EPOCH + timedelta(milliseconds=trigger.anchor)
    if trigger.anchor % period and anchor != trigger.start:
        text += f", counted from {_instant(anchor)}"
        text += "," if trigger.start or trigger.end else ""
    return f"every {text}"


def _interval(trigger: CalendarInterval) -> str:
    clock, weeks = _clock(60 * trigger.at), trigger.days // 7
    comma = "," if trigger.start or trigger.end else ""
    if trigger.on:
        days = _join(_runs(sorted((day - 1) % 7 for day in trigger.on), _WEEKDAYS))
        if weeks == 1 or trigger.anchor is None:
            return f"at {clock} every {days}"
        monday = trigger.anchor - timedelta(days=trigger.anchor.weekday())
        return f"at {clock} on {days} every {weeks} weeks, counted from the week of {monday}{comma}"
    if trigger.days == 1:
        return f"at {clock} every day"
    period = f"{weeks} weeks" if trigger.days % 7 == 0 else f"{trigger.days} days"
    origin = trigger.anchor or _EPOCH.date()
    if trigger.start and trigger.start.astimezone(zone(trigger.tz).info).date() == origin:
        return f"at {clock} every {period}"
    return f"at {clock} every {period}, counted from {origin}{comma}"


def _bounds(trigger: Cron | CalendarInterval | Every) -> str:
    """Return the first and last instant, on the clock of the trigger's zone, and the number."""
    info = zone(trigger.tz).info
    text = ""
    if trigger.start:
        start = trigger.start.astimezone(info)
        text += f" from {start.date() if start.time() == time() else _local(start)}"
    if trigger.end:
        end = trigger.end.astimezone(info)
        text += f" until {end.date() if end.time() == END_OF_DAY else _local(end)}"
    if trigger.max_runs is not None:
        text += f", at most {trigger.max_runs} times" if trigger.max_runs > 1 else ", once"
    return text


def _local(t: datetime) -> str:
    return t.replace(tzinfo=None).isoformat(" ", "milliseconds").removesuffix(".000")


def _cron(expression: Expression) -> tuple[str, bool]:
    """Return an expression in words, and whether its meaning depends on the zone."""
    minute, hour, *_ = expression.fields
    time, days = _time(minute, hour), _days(expression)
    if time.startswith("at ") and ":" in time:
        return f"{time} {days}", True
    if days != "every day":
        return f"{time}, {days}", True
    # Every few minutes of the whole day is the same in every zone.
    return time, not (time.startswith("every") and hour.is_all)


def _time(minute: Field, hour: Field) -> str:
    times = [_clock(60 * (60 * h + m)) for h in hour.values for m in minute.values]
    if len(times) <= _FEW:
        return f"at {_join(times)}"
    minutes = _part(minute.values, 60)
    unbroken = hour.values[-1] - hour.values[0] == len(hour.values) - 1
    if minutes:
        often = "every minute" if minutes == 1 else f"every {minutes} minutes"
        if hour.is_all:
            return often
        if unbroken:
            return f"{often} from {times[0]} to {times[-1]}"
        return f"{often} of {_hours(hour.values)}"
    if len(minute.values) > 1 or _part(hour.values, 24):
        return f"at {_numbers('minute', minute.values)} of {_hours(hour.values)}"
    return f"every hour from {times[0]} to {times[-1]}" if unbroken else f"at {_join(times)}"


def _hours(values: Sequence[int]) -> str:
    part = _part(values, 24)
    if part:
        return "every hour" if part == 1 else f"every {_ordinal(part)} hour"
    return _numbers("hour", values)


def _days(expression: Expression) -> str:
    _, _, dom, month, dow = expression.fields
    months = _join(_runs(month.values, _MONTHS))
    if (dom.is_all and dow.is_all) or (expression.either_day and (dom.is_all or dow.is_all)):
        return "every day" if month.is_all else f"every day in {months}"
    of = "of every month" if month.is_all else f"of {months}"
    weekdays, nths = _weekdays(dow)
    days_of_month = f"on {_month_days(dom)} {of}"
    if dow.is_all:
        return days_of_month
    if not dom.is_all and not expression.either_day:
        nths = [f"{nth} of the month" for nth in nths]
        return f"{days_of_month} if the day is {_join([*weekdays, *nths], 'or')}"
    week = []
    if weekdays:
        week.append(f"every {_join(weekdays)}" + ("" if month.is_all else f" in {months}"))
    if nths:
        week.append(f"on {_join(nths)} {of}")
    return " and ".join(week) if dom.is_all else " or ".join([days_of_month, *week])


def _month_days(dom: Field) -> str:
    special = [_month_day(day) for day in dom.special if isinstance(day, MonthDay)]
    return _join(([_numbers("day", dom.values)] if dom.values else []) + special)


def _month_day(day: MonthDay) -> str:
    name = f"day {day.day}" if day.day > 0 else "the last day"
    if day.day < 0:
        name = f"the day {-day.day} days before the last"
    if day.day == 0 and day.weekday:
        return "the last weekday"
    return f"the weekday nearest to {name}" if day.weekday else name


def _weekdays(dow: Field) -> tuple[list[str], list[str]]:
    """Return the days of the week, Monday first, and those that come once a month."""
    from_monday = sorted((value - 1) % 7 for value in dow.values)
    nths = [
        f"the {_NTHS[day.nth]} {_WEEKDAYS[day.weekday - 1]}"
        for day in dow.special
        if isinstance(day, NthWeekday)
    ]
    return _runs(from_monday, _WEEKDAYS), nths


def _numbers(noun: str, values: Sequence[int]) -> str:
    """Return numbers with their noun: "minute 5", "days 1 to 7 and 15", "every 7th minute …"."""
    steps = {after - before for before, after in pairwise(values)}
    if len(values) > 3 and len(steps) == 1 and steps != {1}:
        return f"every {_ordinal(steps.pop())} {noun} from {values[0]} to {values[-1]}"
    plural = "s" if len(values) > 1 else ""
    return f"{noun}{plural} {_join(_runs(values, range(60)))}"


def _part(values: Sequence[int], size: int) -> int:
    """Return the n of `*/n` if these are its values and n divides the size of the field; else 0."""
    steps = (n for n in range(1, size) if size % n == 0)
    return next((n for n in steps if tuple(range(0, size, n)) == values), 0)


def _runs(values: Sequence[int], names: Sequence[object]) -> list[str]:
    """Return the names of ascending values, with runs of three and more as "a to b"."""
    parts: list[str] = []
    for _, run in groupby(enumerate(values), key=lambda pair: pair[1] - pair[0]):
        texts = [str(names[value]) for _, value in run]
        parts += texts if len(texts) < 3 else [f"{texts[0]} to {texts[-1]}"]
    return parts


def _join(texts: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 < n < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _clock(wall: int) -> str:
    return f"{_EPOCH + timedelta(seconds=wall):%H:%M}"


def _dated(wall: int) -> str:
    return f"{_EPOCH + timedelta(seconds=wall):%Y-%m-%d %H:%M}"


def _instant(t: datetime) -> str:
    milliseconds = f".{t.microsecond // 1_000:03}" if t.microsecond else ""
    return f"{t:%Y-%m-%d %H:%M:%S}{milliseconds} UTC"
