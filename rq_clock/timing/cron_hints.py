"""Remedies for what other schedulers accept and crontab(5) does not. Pure.

Each function returns a hint for the end of an error message, "" when it knows none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rq_clock.timing.zones import zone_names

_DAYS_1_TO_7 = "; its weekdays 1-7 are SUN-SAT: write their names"
_TEXTS = (  # whole texts, in lower case
    (r"(?:every )?(\d+) ?(m|min|mins|minutes?)", "write every(minutes={0})"),
    (r"(?:every )?(\d+) ?(h|hours?)", "write every(hours={0})"),
    (r"(?:every )?(\d+) ?(s|sec|secs|seconds?)", "write every(seconds={0})"),
    (r"(?:every )?(\d+) ?(d|days?)", "write every(days={0})"),
    (r"rate\((\d+) (minute|hour|day)s?\)", "AWS's rate is every({1}s={0}) here"),
    (r"cron\((.*)\)", "AWS's cron(…): leave out the word, its brackets and the year"),
    (r"(?:daily )?(?:at )?(\d\d?):([0-5]\d)", "a time of every day is '{1} {0} * * *'"),
    (r"(hourly|daily|midnight|weekly|monthly|yearly|annually)", "write '@{0}'"),
    (r"\d{4}-\d\d-\d\d.*", "one instant is once(datetime)"),
    (r".*freq=.*", "RRULE is not supported: write a cron expression, or every(weeks=2, at=…)"),
)
_ITEMS = (  # in lower case
    (r"[hr]([(/].*)?|\d+~\d+", "hashed and random times are not supported; jitter= spreads them"),
    (r"l-.*", "days before the month's end are L-1 to L-30"),
    (r"\d+w", "the nearest weekday is written 1W to 31W"),
    (r"\w+#-.*", "the last Friday of a month is written FRI#L"),
    (r"\w+#.*", "the n-th weekday of a month is written FRI#1 to FRI#5, the last one FRI#L"),
    (r"l", "the last Friday of a month is written FRI#L"),
    (r"week-?days?", "write mon-fri"),
    (r"week-?ends?", "write sat,sun"),
    (r"\d+:\d+", "minute and hour are two fields"),
    (r"\d+ ?[ap]m", "hours count from 0 to 23"),
    (r"\d+[.;|]+\d+", "a range is written 1-5, a list 1,5"),
    (r"-.*|.*\d+-\d+-.*", "a range is written as first-last"),
    (r"""["'`].*|.*["'`]""", "leave out the quotes inside the text"),
    (r"(cron_)?tz=.*", "the zone is tz=, beside the expression"),
)
_EVERY = {"minute": "minutes={}", "hour": "hours={}", "day-of-month": 'days={}, at="09:00"'}
_NTH_WEEKS = {"1-7": 1, "8-14": 2, "15-21": 3, "22-28": 4}
"""Seven days of a month → which of a weekday lies in them."""


def of_text(parts: list[str], valid: Callable[[str], bool]) -> str:
    """Return what is wrong with a text that has not five parts. `valid` tells whether a text is an
    expression."""
    text = " ".join(parts)
    for pattern, hint in _TEXTS:
        if match := re.fullmatch(pattern, text.lower()):
            groups = (group.lstrip("0") or "0" for group in match.groups())
            return hint.format(*groups)
    closed = re.sub(r" ?([,/-]) ?", r"\1", text)
    if closed != text and valid(closed):
        return f"a field has no spaces inside: write {closed!r}"
    if found := _zone_in(parts):
        zone, rest = found
        return f"the zone is an argument of its own: cron({rest!r}, tz={zone!r})"
    if len(parts) == 10 and valid(" ".join(parts[:5])):
        return "these are two expressions; add a schedule for each"
    if len(parts) > 5 and valid(" ".join(parts[:5])) and re.match(r"[/.~\w-]*[a-z/]", parts[5]):
        return "a line of a crontab has more than its times: put its command into command(…)"
    return _of_six_or_seven(parts, valid) if len(parts) in (6, 7) else ""


def _zone_in(parts: list[str]) -> tuple[str, str] | None:
    """Return the zone at the begin or end of an expression, and the expression."""
    for part, rest in ((parts[0], parts[1:]), (parts[-1], parts[:-1])):
        name = re.sub(r"(?i)^(cron_)?tz=", "", part)
        shaped = name != part or re.fullmatch(r"[A-Za-z]{3,}/[A-Za-z_/+-]+", part)
        if shaped or part in zone_names():
            return name, " ".join(rest)
    return None


def _of_six_or_seven(parts: list[str], valid: Callable[[str], bool]) -> str:
    """Return the hint for six fields, of seconds or of years, and for seven, of both."""
    without_seconds, without_year = " ".join(parts[1:6]), " ".join(parts[:5])
    # A `?` stands for a day: its place tells whether the first field is seconds.
    seconds_first = "?" in (parts[3], parts[5]) or len(parts) == 7
    year_last = re.fullmatch(r"\*|\d{4}([-,/]\d+)*", parts[5]) is not None
    numbered = _DAYS_1_TO_7 if re.match(r"\d", parts[5 if seconds_first else 4]) else ""
    if re.match(r"(\*|0)/\d+$|\*$", parts[0]) and seconds_first is False and "?" not in parts:
        step = parts[0].partition("/")[2]
        return f"for seconds use every(seconds={step or 1})"
    if "?" in (parts[2], parts[4]) and year_last:
        return f"AWS's last field is the year: leave it out, {without_year!r}{numbered}"
    if seconds_first:
        year = " and the year at the end" if len(parts) == 7 else ""
        hint = f"Quartz's first field is seconds: leave it out{year}, {without_seconds!r}"
        return hint + numbered
    if re.fullmatch(r"0+", parts[0]) and valid(without_seconds):
        return f"leave out the leading 0, of seconds: {without_seconds!r}"
    if year_last and valid(without_year):
        return f"there is no field of years: leave it out, {without_year!r}"
    return "for seconds use every(seconds=)"


def of_item(kind: str, item: str) -> str:
    """Return what is wrong with an item, in lower case, of a field of this kind."""
    if kind == "hour" and item == "24":
        return "midnight is hour 0"
    return next((hint for pattern, hint in _ITEMS if re.fullmatch(pattern, item)), "")


def of_step(kind: str, step: int, text: str) -> str:
    """Return the trigger that a step wider than its field stands for."""
    if step == 0:
        return ""
    minute, hour, dom, month, dow = text.split(" ")
    match = re.fullmatch(rf"\*/{step},(\d+-\d+)", dom)  # the old way to have both day fields match
    if kind == "day-of-month" and match and match[1] in _NTH_WEEKS and re.fullmatch(r"\w+", dow):
        nth = f"{dow}#{_NTH_WEEKS[match[1]]}"
        return f"write {' '.join((minute, hour, '*', month, nth))!r}"
    wide = f"step {step} is wider than the field"
    return f"{wide}: write every({_EVERY[kind].format(step)})" if kind in _EVERY else wide
