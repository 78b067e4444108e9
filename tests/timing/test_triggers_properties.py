"""Laws of the triggers, for all zones and many expressions, against an oracle that steps minutes.

P1 to P9 are those of the study that the rules come from. The oracle is the text of crontab(5) and
cron(8) in the most naive form: it walks through UTC minute by minute and looks at the wall clock.
It shares the zone data with the code under test and nothing else; the expressions are generated
together with the sets that they mean, so that nothing here parses one.

RQ_CLOCK_EXAMPLES sets the number of examples of each law (50).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

from cronsim import CronSim, CronSimError
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st

from rq_clock.errors import Fault, ScheduleError
from rq_clock.timing.triggers import MANY, Cron, Trigger, cron, every, from_spec, once
from rq_clock.timing.zones import zone, zone_names

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FROM, TO = datetime(1975, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
MILLISECOND = timedelta(milliseconds=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONTHS = [
    "jan",
    "feb",
    "march",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sept",
    "oct",
    "nov",
    "december",
]
WEEKDAYS = ["sun", "mon", "tues", "wednesday", "thu", "fri", "sat"]
ZONES = sorted(zone_names())
Place = tuple[str, datetime]
Daily = tuple[str, int, int, datetime]
"""A zone, an hour, a minute, and an instant to look from."""


# Instants: half of them within a day or an hour of a jump of the zone's clock.


@cache
def jumps(key: str) -> list[datetime]:
    low, high = (int(t.timestamp()) for t in (FROM, TO))
    return [datetime.fromtimestamp(t, UTC) for t in zone(key).jumps(low, high)]


def instants(low: datetime, high: datetime) -> st.SearchStrategy[datetime]:
    return st.integers(0, (high - low) // SECOND).map(lambda n: low + n * SECOND)


@st.composite
def places(draw: st.DrawFn) -> Place:
    """A zone and an instant."""
    key = draw(st.sampled_from(ZONES))
    near_a_jump = draw(st.booleans())
    if near_a_jump and jumps(key):
        jump, distance = draw(st.sampled_from(jumps(key))), draw(st.sampled_from([HOUR, DAY]))
        return key, draw(instants(jump - distance, jump + distance))
    return key, draw(instants(FROM, TO))


def shown(key: str, t: datetime) -> datetime:
    """What the clock of a zone shows, without the zone."""
    return t.astimezone(zone(key).info).replace(tzinfo=None)


# Expressions, each with what it means.

Day = Callable[[date], bool]


@dataclass(frozen=True)
class Meaning:
    text: str
    minutes: frozenset[int] = field(repr=False)
    hours: frozenset[int] = field(repr=False)
    day: Day = field(repr=False)

    @property
    def wildcard(self) -> bool:
        minute, hour = self.text.split()[:2]
        return minute[0] == "*" or hour[0] == "*"

    def matches(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.day(wall.date())


@st.composite
def items(draw: st.DrawFn, low: int, top: int, names: list[str]) -> tuple[str, frozenset[int]]:
    """An item of a list of numbers."""

    def spell(n: int) -> str:
        by_name = draw(st.booleans())
        if by_name and names:
            return draw(st.sampled_from([str.lower, str.upper, str.title]))(names[n - low])
        return f"{n:02}" if draw(st.integers(0, 9)) == 0 else str(n)

    a, b = draw(st.integers(low, top)), draw(st.integers(low, top))
    step = draw(st.integers(1, min(top - low + 1, 12)))
    form = draw(st.sampled_from(["*", "a", "a", "a-b", "*/n", "a-b/n", "a/n"]))
    match form:
        case "*":
            return "*", frozenset(range(low, top + 1))
        case "a":
            return spell(a), frozenset({a})
        case "a-b":
            inside = [n for n in range(low, top + 1) if (a <= n <= b if a <= b else not b < n < a)]
            return f"{spell(a)}-{spell(b)}", frozenset(inside)
        case "*/n":
            return f"*/{step}", frozenset(range(low, top + 1, step))
        case "a/n":
            return f"{spell(a)}/{step}", frozenset(range(a, top + 1, step))
        case _:
            a, b = sorted((a, b)) if a != b else (low, top)  # cronsim reads 5-5/2 as 5/2
            return f"{spell(a)}-{spell(b)}/{step}", frozenset(range(a, b + 1, step))


@st.composite
def numbers(draw: st.DrawFn, low: int, top: int, names: list[str]) -> tuple[str, frozenset[int]]:
    parts = draw(st.lists(items(low, top, names), min_size=1, max_size=3))
    return ",".join(text for text, _ in parts), frozenset().union(*(found for _, found in parts))


def last_of_month(day: date) -> bool:
    return (day + DAY).month != day.month


def nearest_weekday(n: int) -> Day:
    """The weekday nearest to day n; n days before the last for n <= 0."""

    def is_nearest(day: date) -> bool:
        month = [day.replace(day=1) + timedelta(days=k) for k in range(31)]
        month = [d for d in month if d.month == day.month]
        working = [d.day for d in month if d.isoweekday() < 6]
        aim = n if n > 0 else len(month) + n
        near = min(working, key=lambda d: abs(d - aim))
        return 1 <= aim <= len(month) and day.day == near

    return is_nearest


def before_the_last(n: int) -> Day:
    return lambda day: last_of_month(day + n * DAY) and (day + n * DAY).month == day.month


@st.composite
def days_of_month(draw: st.DrawFn) -> tuple[str, Day]:
    text, found = draw(numbers(1, 31, []))
    match draw(st.sampled_from(["*", "*", "*", "?", "plain", "plain", "L", "L-", "W", "both"])):
        case "*" | "?" as star:
            return star, lambda day: True
        case "plain":
            return text, lambda day: day.day in found
        case "L":
            return draw(st.sampled_from("lL")), last_of_month
        case "L-":
            n = draw(st.integers(0, 30))
            spelled = f"L-{n}" if n else "L"
            if draw(st.booleans()):
                return f"{spelled}W", nearest_weekday(-n)
            return spelled, before_the_last(n)
    n = draw(st.integers(1, 31))
    near = nearest_weekday(n)
    if draw(st.booleans()):
        return f"{n}W", near
    return f"{text},{n}w,L", lambda day: day.day in found or near(day) or last_of_month(day)


@st.composite
def days_of_week(draw: st.DrawFn) -> tuple[str, Day]:
    text, found = draw(numbers(0, 6, WEEKDAYS))
    weekday = draw(st.integers(0, 6))
    n = draw(st.integers(1, 5))

    def nth(day: date) -> bool:
        return day.isoweekday() % 7 == weekday and (day.day + 6) // 7 == n

    def last(day: date) -> bool:
        return day.isoweekday() % 7 == weekday and (day + 7 * DAY).month != day.month

    name = draw(st.sampled_from([str(weekday or 7), str(weekday), WEEKDAYS[weekday]]))
    match draw(st.sampled_from(["*", "*", "*", "?", "plain", "plain", "#", "L", "all"])):
        case "*" | "?" as star:
            return star, lambda day: True
        case "plain":
            return text, lambda day: day.isoweekday() % 7 in found
        case "#":
            return f"{name}#{n}", nth
        case "L":
            return draw(st.sampled_from([f"{name}L", f"l{name}", f"{name}#L"])), last
        case _:
            either = f"{name}#{n},{text},{name}L"
            return either, lambda d: d.isoweekday() % 7 in found or nth(d) or last(d)


@st.composite
def expressions(draw: st.DrawFn) -> Meaning:
    minute, minutes = draw(numbers(0, 59, []))
    hour, hours = draw(numbers(0, 23, []))
    dom, in_month = draw(days_of_month())
    month, months = draw(st.just(("*", frozenset(range(1, 13)))) | numbers(1, 12, MONTHS))
    dow, in_week = draw(days_of_week())
    both = dom[0] in "*?" or dow[0] in "*?"

    def day(d: date) -> bool:
        rule = in_month(d) and in_week(d) if both else in_month(d) or in_week(d)
        return d.month in months and rule

    return Meaning(f"{minute} {hour} {dom} {month} {dow}", minutes, hours, day)


# The oracle.


def oracle(meaning: Meaning, key: str, low: datetime, high: datetime) -> list[datetime]:
    """The fire times in (`low`, `high`], by looking at the wall clock every minute.

    It looks at a day before `low` as well, so as to know what an overlap shows a second time.
    """
    begin = low.replace(second=0, microsecond=0) - DAY - HOUR
    minutes = [begin + k * MINUTE for k in range((high - begin) // MINUTE + 1)]
    clock = [(t, shown(key, t)) for t in minutes]
    if meaning.wildcard:
        return [t for t, wall in clock if low < t <= high and meaning.matches(wall)]
    fires = set()
    seen = {clock[0][1]}
    for (_, before), (t, wall) in pairwise(clock):
        gap = wall - before - MINUTE
        if timedelta(0) < gap <= 3 * HOUR:
            left_out = [before + k * MINUTE for k in range(1, gap // MINUTE + 1)]
            if any(map(meaning.matches, left_out)):
                fires.add(t)
        if wall not in seen and meaning.matches(wall):
            fires.add(t)
        seen.add(wall)
    return sorted(t for t in fires if low < t <= high)


def fresh(trigger: Cron) -> Cron:
    """Forget the answers that a rule keeps."""
    trigger.rule._recent = ()
    return trigger


def walk(trigger: Trigger, after: datetime, until: datetime) -> list[datetime]:
    found = []
    while (t := trigger.next_after(after)) and t <= until:
        found.append(t)
        after = t
    return found


def made(make: Callable[[], Trigger]) -> tuple[Trigger | None, list[Fault]]:
    """A trigger, or its faults."""
    try:
        return make(), []
    except ScheduleError as error:
        return None, list(error.faults)


def valid(meaning: Meaning, key: str = "UTC") -> Cron:
    trigger, faults = made(lambda: cron(meaning.text, key))
    assume(not any("never fires" in fault.text for fault in faults))
    assert isinstance(trigger, Cron), faults
    return trigger


class TestCronInAllZones:
    @given(expressions(), places())
    def test_p1_the_next_fire_time_is_later_and_a_whole_minute_of_utc(
        self, meaning: Meaning, place: Place
    ) -> None:
        key, t = place
        fire = valid(meaning, key).next_after(t)
        assert fire is not None
        assert fire > t
        assert fire.tzinfo is UTC
        assert fire.second == fire.microsecond == 0

    @given(expressions(), places(), st.data())
    def test_p6_the_answer_is_the_same_from_every_instant_up_to_it(
        self, meaning: Meaning, place: Place, data: st.DataObject
    ) -> None:
        key, t = place
        trigger = valid(meaning, key)
        fire = trigger.next_after(t)
        assert fire is not None
        between = data.draw(st.integers(0, (fire - t) // timedelta(milliseconds=1) - 1))
        x = t + timedelta(milliseconds=between)
        assert trigger.next_after(x) == fire  # from the kept answers
        assert fresh(trigger).next_after(x) == fire

    @given(expressions(), places(), st.data())
    @example(
        Meaning("5 1 * * *", frozenset({5}), frozenset({1}), lambda d: True),
        ("America/New_York", datetime(2026, 11, 1, 6, 0, tzinfo=UTC)),
        None,
    )
    def test_p7_next_latest_and_count_are_those_of_stepping_through_every_minute(
        self, meaning: Meaning, place: Place, data: st.DataObject | None
    ) -> None:
        key, t = place
        trigger = fresh(valid(meaning, key))
        high = t + 2 * DAY
        expected = oracle(meaning, key, t, high)
        assert walk(trigger, t, high)[:50] == expected[:50]
        low = t
        for _ in range(4):
            if data is not None:
                seconds = st.integers(0, 2 * 86_400)
                low, high = sorted(t + timedelta(seconds=data.draw(seconds)) for _ in range(2))
            first, beyond = bisect_right(expected, low), bisect_right(expected, high)
            assert trigger.count(low, high) == beyond - first
            if beyond:
                assert trigger.latest_at(high) == expected[beyond - 1]
            if first < len(expected):
                assert fresh(trigger).next_after(low) == expected[first]

    @given(expressions(), places())
    def test_p8_latest_mirrors_next(self, meaning: Meaning, place: Place) -> None:
        key, t = place
        trigger = valid(meaning, key)
        latest = trigger.latest_at(t)
        assume(latest is not None)
        assert latest is not None
        assert latest <= t
        following = fresh(trigger).next_after(latest)
        assert following is not None
        assert following > t
        assert fresh(trigger).next_after(latest - timedelta(milliseconds=1)) == latest
        assert trigger.latest_at(latest) == latest

    @given(expressions(), places(), st.integers(0, 400))
    def test_count_is_that_of_enumerating(self, meaning: Meaning, place: Place, days: int) -> None:
        key, t = place
        trigger = valid(meaning, key)
        fires = walk(trigger, t, t + timedelta(days=days)) if days < 3 else []
        if days < 3:
            assert trigger.count(t, t + timedelta(days=days)) == len(fires)
        middle, end = t + timedelta(days=days / 2), t + timedelta(days=days)
        parts = trigger.count(t, middle) + trigger.count(middle, end)
        assert trigger.count(t, end) == min(MANY, parts)


@st.composite
def daily(draw: st.DrawFn) -> Daily:
    key, t = draw(places())
    return key, draw(st.integers(0, 23)), draw(st.integers(0, 59)), t


class TestADailyTime:
    @given(daily())
    def test_p2_runs_once_for_each_date_that_the_zone_has(self, case: Daily) -> None:
        key, hour, minute, t = case
        nominal = [self.nominal(key, hour, minute, fire) for fire in self.fires(case)]
        missing = {date(2000, 1, 1)}
        for before, day in pairwise(nominal):
            missing |= {before + k * DAY for k in range(1, (day - before).days)}
            assert day > before
        walls = [shown(key, t + k * HOUR) for k in range(-48, 11 * 24)]
        dates = {wall.date() for wall in walls}
        for before_it, after_it in pairwise(walls):
            if after_it - before_it > 4 * HOUR:  # a jump over more than three hours leaves out
                dates -= {before_it.date(), after_it.date()}
        assert not missing & dates

    def test_p2_a_date_whose_time_a_change_of_the_date_line_left_out_has_no_run(self) -> None:
        """Vostok went from 00:00 to 07:00 on 1994-11-01."""
        case = ("Antarctica/Vostok", 0, 0, datetime(1994, 10, 31, 23, 0, tzinfo=UTC))
        nominal = [self.nominal(*case[:3], fire) for fire in self.fires(case)]
        assert nominal[:2] == [date(1994, 10, 31), date(1994, 11, 2)]

    @given(daily())
    def test_p3_an_existing_time_fires_when_it_is_first_shown(self, case: Daily) -> None:
        for fire in self.fires(case):
            local = fire.astimezone(zone(case[0]).info)
            if (local.hour, local.minute) == case[1:3]:
                assert local.fold == 0

    @given(daily())
    def test_p4_a_moved_time_is_the_end_of_a_gap_of_at_most_three_hours_that_contains_it(
        self, case: Daily
    ) -> None:
        key, hour, minute, _ = case
        for fire in self.fires(case):
            local = shown(key, fire)
            if (local.hour, local.minute) != (hour, minute):
                before = shown(key, fire - MINUTE) + MINUTE
                assert before < local <= before + 3 * HOUR
                day = self.nominal(key, hour, minute, fire)
                assert before <= datetime.combine(day, time(hour, minute)) < local

    def fires(self, case: Daily) -> list[datetime]:
        key, hour, minute, t = case
        return walk(cron(f"{minute} {hour} * * *", key), t - DAY, t + 9 * DAY)

    def nominal(self, key: str, hour: int, minute: int, fire: datetime) -> date:
        """The date that a fire time is for: where a gap ends after midnight, the one before."""
        local = shown(key, fire)
        return local.date() if (local.hour, local.minute) >= (hour, minute) else local.date() - DAY


class TestEveryNMinutes:
    @given(st.integers(1, 30), places())
    def test_p5_elapsed_time_between_two_is_n_minutes_but_for_odd_jumps(
        self, n: int, place: Place
    ) -> None:
        assume(60 % n == 0)
        key, t = place
        fires = walk(cron(f"*/{n} * * * *", key), t, t + 12 * HOUR)
        for before, after in pairwise(fires):
            jump = abs(shown(key, after) - shown(key, before) - (after - before))
            if jump % (n * MINUTE):
                assert after - before <= n * MINUTE + jump
            else:
                assert after - before == n * MINUTE
            assert shown(key, after).minute % n == 0


class TestTheCalendar:
    @given(expressions(), st.dates(date(1971, 1, 1), date(2090, 1, 1)))
    def test_the_next_and_the_latest_day_are_those_of_stepping_through_every_day(
        self, meaning: Meaning, start: date
    ) -> None:
        assume(meaning.minutes and meaning.hours)
        days = valid(meaning).parsed.days
        origin = date(1970, 1, 1)
        number = (start - origin).days
        first = next(d for k in range(50 * 366) if meaning.day(d := start + k * DAY))
        assert days.first(number) == (first - origin).days
        last = next((d for k in range(number) if meaning.day(d := start - k * DAY)), None)
        assume(last is not None)
        assert last is not None
        assert days.last(number) == (last - origin).days

    @given(expressions(), instants(FROM, datetime(2060, 1, 1, tzinfo=UTC)))
    def test_cronsim_agrees_in_utc_where_it_reads_the_expression(
        self, meaning: Meaning, after: datetime
    ) -> None:
        trigger = valid(meaning)
        # It lets 1/2 in the day of the week run on to 7.
        assume(not re.search(r"(^|,)\w+/", meaning.text.split()[4]))
        try:
            theirs = CronSim(meaning.text, after)
        except CronSimError:
            reject()
        for _ in range(6):
            fire = trigger.next_after(after)
            assert fire == next(theirs)
            assert fire is not None
            after = fire


class TestIntervals:
    @given(st.integers(10, 10**11), instants(FROM, TO), instants(FROM, TO), st.integers(0, 10**6))
    def test_p9_fire_times_are_a_period_apart_and_counts_add_up(
        self, period: int, anchor: datetime, t: datetime, span: int
    ) -> None:
        trigger = every(milliseconds=period, anchor=anchor)
        step = timedelta(milliseconds=period)
        fire, latest = trigger.next_after(t), trigger.latest_at(t)
        assert fire
        assert latest
        assert t < fire <= t + step
        assert latest == fire - step
        assert trigger.latest_at(fire) == fire
        assert (fire - EPOCH) % timedelta(milliseconds=1) == timedelta(0)
        until = t + step * (span % 50) + timedelta(milliseconds=span % period)
        fires = walk(trigger, t, until)
        assert trigger.count(t, until) == len(fires)
        middle = t + (until - t) / 2
        assert trigger.count(t, until) == trigger.count(t, middle) + trigger.count(middle, until)


class TestDaysAtALocalTime:
    """Every n days or weeks: those of a daily cron expression on the dates that count."""

    @given(places(), st.integers(1, 30), st.integers(0, 23), st.integers(0, 59), st.data())
    def test_they_are_the_daily_ones_of_the_dates_that_count(
        self, place: Place, n: int, hour: int, minute: int, data: st.DataObject
    ) -> None:
        key, t = place
        anchor = t.date() + data.draw(st.integers(-400, 400)) * DAY
        on = data.draw(st.none() | st.lists(st.sampled_from(range(7)), min_size=1, unique=True))
        monday = anchor - anchor.weekday() * DAY
        names = ",".join(WEEKDAYS[(day + 1) % 7] for day in on) if on else None
        unit = "days" if on is None else "weeks"
        trigger = every(f"{n}{unit[0]}", at=f"{hour}:{minute:02}", tz=key, on=names, anchor=anchor)

        def counts(day: date) -> bool:
            if on is None:
                return (day - anchor).days % n == 0
            return day.weekday() in on and (day - monday).days // 7 % n == 0

        nominal = TestADailyTime().nominal
        fires = walk(cron(f"{minute} {hour} * * *", key), t, t + 100 * DAY)
        expected = [f for f in fires if counts(nominal(key, hour, minute, f))]
        assert walk(trigger, t, t + 100 * DAY) == expected
        assert trigger.count(t, t + 100 * DAY) == len(expected)
        if expected:
            assert trigger.latest_at(t + 100 * DAY) == expected[-1]
        assert from_spec(trigger.spec()) == trigger


class TestBounds:
    @given(expressions(), places(), st.integers(0, 3 * 86_400), st.integers(1, 50), st.booleans())
    def test_the_first_n_from_the_start_and_no_others(
        self, meaning: Meaning, place: Place, seconds: int, n: int, cron_like: bool
    ) -> None:
        key, t = place
        free: Trigger = valid(meaning, key) if cron_like else every(seconds=10 + seconds, anchor=t)
        start, end = t, t + seconds * SECOND
        bounds: Any = {"start": start, "end": end, "max_runs": n}
        bound, faults = made(
            lambda: (
                cron(meaning.text, key, **bounds)
                if cron_like
                else every(seconds=10 + seconds, anchor=t, **bounds)
            )
        )
        if bound is None:
            late = [fault.field for fault in faults] == ["maxRuns"]
            assert late or free.count(start - MILLISECOND, end) == 0
            return
        assert from_spec(bound.spec()) == bound
        expected = walk(free, start - MILLISECOND, end)[:n]
        assert walk(bound, t - 400 * DAY, t + 400 * DAY) == expected
        assert bound.count(t - 400 * DAY, t + 400 * DAY) == len(expected)
        assert bound.latest_at(t + 400 * DAY) == expected[-1]
        middle = t + seconds * SECOND / 2
        assert bound.count(t - DAY, middle) == sum(fire <= middle for fire in expected)


class TestAnyText:
    @given(st.text(max_size=40) | st.text("0123456789*/-,?LWl#@hR monfri\t", max_size=40), places())
    def test_it_fires_or_is_refused_with_its_faults(self, text: str, place: Place) -> None:
        trigger, faults = made(lambda: cron(text))
        if trigger is None:
            assert all("expected" in fault.text for fault in faults)
            return
        fire = trigger.next_after(place[1])
        assert fire
        assert fire > place[1]

    @given(st.text(max_size=20) | st.sampled_from(["UTC+5", "Asia/Foo", "X Standard Time"]))
    def test_a_zone_is_one_or_is_refused_with_a_suggestion_that_exists(self, key: str) -> None:
        _, faults = made(lambda: cron("0 3 * * *", key))
        for fault in faults:
            suggested = re.findall(r"'([A-Z][\w+/-]+)'", fault.text.partition(": ")[2])
            assert set(suggested) <= set(ZONES)

    @given(expressions(), st.sampled_from(ZONES), st.integers(10, 10**12), instants(FROM, TO))
    def test_a_spec_reads_back_as_the_same_trigger(
        self, meaning: Meaning, key: str, period: int, at: datetime
    ) -> None:
        for trigger in (
            cron(valid(meaning).expression.replace(" ", "\t  "), key),
            every(milliseconds=period, anchor=at),
            once(at),
        ):
            assert from_spec(trigger.spec()) == trigger
