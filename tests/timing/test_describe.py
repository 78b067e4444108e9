"""Descriptions of triggers: words, fire times with their notes, remarks on clock changes."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from itertools import product

import pytest

from rq_clock.timing.describe import Fire, dst_remarks, fires, words
from rq_clock.timing.triggers import Cron, Trigger, cron, every, once


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


class TestWords:
    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("* * * * *", "every minute"),
            ("*/5 * * * *", "every 5 minutes"),
            ("0,30 * * * *", "every 30 minutes"),
            ("0 3 * * *", "at 03:00 every day, UTC"),
            ("@weekly", "at 00:00 every Sunday, UTC"),
            ("0 * * * *", "at minute 0 of every hour, UTC"),
            ("15 */2 * * *", "at minute 15 of every 2nd hour, UTC"),
            ("30 9,17 * * *", "at 09:30 and 17:30 every day, UTC"),
            ("30 9-17 * * *", "every hour from 09:30 to 17:30, UTC"),
            ("*/5 9-17 * * *", "every 5 minutes from 09:00 to 17:55, UTC"),
            ("* 2 * * *", "every minute from 02:00 to 02:59, UTC"),
            ("*/10 1,3,7,8 * * *", "every 10 minutes of hours 1, 3, 7 and 8, UTC"),
            ("*/7 * * * *", "at every 7th minute from 0 to 56 of every hour, UTC"),
            ("5,20,35 */3 * * *", "at minutes 5, 20 and 35 of every 3rd hour, UTC"),
            ("1-5,9 0,4,5 * * *", "at minutes 1 to 5 and 9 of hours 0, 4 and 5, UTC"),
            (
                "7 1,2,3,5,8,13,21 * * *",
                "at 01:07, 02:07, 03:07, 05:07, 08:07, 13:07 and 21:07 every day, UTC",
            ),
        ],
    )
    def test_tell_the_times_of_day(self, expression: str, expected: str) -> None:
        assert words(cron(expression)) == expected

    @pytest.mark.parametrize(
        ("days", "expected"),
        [
            ("1 * *", "on day 1 of every month"),
            ("1-7,15 * *", "on days 1 to 7 and 15 of every month"),
            ("*/2 * *", "on every 2nd day from 1 to 31 of every month"),
            ("29 2 *", "on day 29 of February"),
            ("* 6-8 *", "every day in June to August"),
            ("L * *", "on the last day of every month"),
            (
                "1,15W,L */6 *",
                "on day 1, the weekday nearest to day 15 and the last day of January and July",
            ),
            ("* * 1", "every Monday"),
            ("* * 1-5", "every Monday to Friday"),
            ("* * 0,6", "every Saturday and Sunday"),
            ("* 3 FRI#2", "on the second Friday of March"),
            ("* * 5L,1", "every Monday and on the last Friday of every month"),
            ("LW,L-3 * *", "on the last weekday and the day 3 days before the last of every month"),
            (
                "31W,L-2W 1 *",
                "on the weekday nearest to day 31 and the weekday nearest to the day "
                "2 days before the last of January",
            ),
            ("* january fri#L", "on the last Friday of January"),
        ],
    )
    def test_tell_the_days(self, days: str, expected: str) -> None:
        assert words(cron(f"0 6 {days}")) == f"at 06:00 {expected}, UTC"
        assert words(cron(f"*/5 * {days}")) == f"every 5 minutes, {expected}, UTC"

    @pytest.mark.parametrize(
        ("days", "expected"),
        [
            ("1 * 1", "on day 1 of every month or every Monday"),
            ("1-7 * */7", "on days 1 to 7 of every month if the day is Sunday"),
            (
                "*/2,L 3 1-5,6L",
                "on every 2nd day from 1 to 31 and the last day of March "
                "if the day is Monday to Friday or the last Saturday of the month",
            ),
            ("8-9 * 0#2", "on days 8 and 9 of every month or on the second Sunday of every month"),
            ("1-31 * 1", "every day"),
        ],
    )
    def test_say_or_and_if_as_the_day_rule_does(self, days: str, expected: str) -> None:
        assert words(cron(f"0 6 {days}")) == f"at 06:00 {expected}, UTC"

    def test_name_the_zone(self) -> None:
        assert words(cron("0 3 * * *", "Europe/Berlin")) == "at 03:00 every day, Europe/Berlin time"

    @pytest.mark.parametrize(
        ("trigger", "expected"),
        [
            (every(minutes=5), "every 5 minutes"),
            (every(minutes=1), "every minute"),
            (every(hours=1), "every hour"),
            (every(days=1), "every 24 hours"),
            (every(weeks=1), "every 7 days of 24 hours"),
            (every(seconds=90), "every 90 s"),
            (every(seconds=1.5), "every 1500 ms"),
            (every(minutes=5, anchor=at("2026-01-01T00:05Z")), "every 5 minutes"),
            (
                every(minutes=5, anchor=at("2026-01-01T00:00:07Z")),
                "every 5 minutes, counted from 2026-01-01 00:00:07 UTC",
            ),
            (
                every(minutes=5, start="2026-01-01T00:00:07"),
                "every 5 minutes from 2026-01-01 00:00:07",
            ),
            (
                every(minutes=5, anchor="2026-01-01T00:00:07", end="2026-01-02"),
                "every 5 minutes, counted from 2026-01-01 00:00:07 UTC, until 2026-01-02",
            ),
            (every(days=1, at="9:00", tz="Asia/Tokyo"), "at 09:00 every day, Asia/Tokyo time"),
            (
                every(days=3, at="9:00"),
                "at 09:00 every 3 days, counted from 1970-01-01, UTC",
            ),
            (
                every(weeks=2, at="9:00", start="2026-01-06", max_runs=5, tz="Asia/Tokyo"),
                "at 09:00 every 2 weeks from 2026-01-06, at most 5 times, Asia/Tokyo time",
            ),
            (
                every(weeks=1, at="9:00", on="mon-wed,sun"),
                "at 09:00 every Monday to Wednesday and Sunday, UTC",
            ),
            (
                every(weeks=2, at="9:00", on="sun", anchor="2026-01-06"),
                "at 09:00 on Sunday every 2 weeks, counted from the week of 2026-01-05, UTC",
            ),
            (
                cron("0 9 * * 1", "Asia/Tokyo", start="2026-03-01T08:00", end="2026-04-30"),
                "at 09:00 every Monday from 2026-03-01 08:00:00 until 2026-04-30, Asia/Tokyo time",
            ),
            (
                cron("*/5 * * * *", end="2026-04-30T12:00"),
                "every 5 minutes until 2026-04-30 12:00:00, UTC",
            ),
            (once(at("2026-03-29T03:00+02:00")), "once at 2026-03-29 01:00:00 UTC"),
            (once(at("2026-03-29T01:00:00.250Z")), "once at 2026-03-29 01:00:00.250 UTC"),
        ],
    )
    def test_tell_intervals_and_instants(self, trigger: Trigger, expected: str) -> None:
        assert words(trigger) == expected

    def test_different_rules_never_have_the_same_description(self) -> None:
        texts = [
            ("*", "*/15", "0", "5,20", "0-10", "*/7", "1-59/2"),
            ("*", "*/2", "3", "9-17", "9-10", "1,3,8", "1-23/2"),
            ("*", "1", "*/2", "1-31", "L", "1-7,L", "*/2,L", "15W", "LW", "L-1", "L-1W"),
            ("*", "1-3", "*/3"),
            ("*", "1", "1-5", "0,6", "5#2", "5L", "1,5#2", "*/2"),
        ]
        times = [f"{minute} {hour} * * *" for minute, hour in product(*texts[:2])]
        days = [f"0 6 {' '.join(fields)}" for fields in product(*texts[2:])]
        alike = defaultdict[str, list[Cron]](list)
        for trigger in map(cron, [*times, *days]):
            alike[words(trigger)].append(trigger)
        for first, *others in alike.values():
            assert all(self.meaning(other) == self.meaning(first) for other in others)

    def meaning(self, trigger: Cron) -> object:
        expression = trigger.parsed
        day = first = (at("2026-01-01T00:00Z") - at("1970-01-01T00:00Z")).days
        days: list[int] = []
        while len(days) < 100 and day < first + 2 * 366:
            days.append(day := expression.days.first(day + 1))
        return list(expression.times), days


def notes(expression: str, tz: str, after: str, n: int) -> list[tuple[str, tuple[str, ...]]]:
    found = fires(cron(expression, tz), at(after), n)
    return [(f"{fire.local:%m-%d %H:%M}", fire.notes) for fire in found]


class TestFires:
    """Europe/Berlin: forward 2026-03-29T01:00Z, 02:00 → 03:00; back 2026-10-25T01:00Z."""

    def test_are_in_utc_and_on_the_clock_of_the_zone(self) -> None:
        (fire,) = fires(cron("0 3 * * *", "Europe/Berlin"), at("2026-07-01T00:00Z"), 1)
        assert fire == Fire(at("2026-07-01T01:00Z"), at("2026-07-01T03:00+02:00"))
        assert fire.local.isoformat() == "2026-07-01T03:00:00+02:00"

    def test_are_as_many_as_there_are(self) -> None:
        trigger = once(at("2026-07-01T00:00Z"))
        assert fires(trigger, at("2026-01-01T00:00Z"), 5) == [Fire(trigger.at, trigger.at)]
        assert fires(trigger, at("2027-01-01T00:00Z"), 5) == []
        assert len(fires(every(minutes=5), at("2026-01-01T00:00Z"), 5)) == 5

    def test_a_time_moved_out_of_a_gap(self) -> None:
        assert notes("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00Z", 3) == [
            ("03-28 02:30", ()),
            (
                "03-29 03:00",
                (
                    "offset changes +01:00 → +02:00",
                    "02:30 does not exist that day (clocks go forward 02:00 → 03:00); "
                    "runs at 03:00",
                ),
            ),
            ("03-30 02:30", ()),
        ]

    def test_the_first_pass_of_an_overlap(self) -> None:
        assert notes("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", 2) == [
            (
                "10-25 02:30",
                ("02:30 happens twice (clocks go back 03:00 → 02:00); runs the first time only",),
            ),
            ("10-26 02:30", ("offset changes +02:00 → +01:00",)),
        ]

    def test_wildcard_times_that_a_gap_leaves_out(self) -> None:
        assert notes("*/20 2 * * *", "Europe/Berlin", "2026-03-28T01:30Z", 2) == [
            ("03-28 02:40", ()),
            (
                "03-30 02:00",
                (
                    "offset changes +01:00 → +02:00",
                    "02:00 to 02:40 do not exist that day (clocks go forward 02:00 → 03:00); "
                    "does not run",
                ),
            ),
        ]

    def test_wildcard_times_that_an_overlap_repeats(self) -> None:
        twice = "02:30 happens twice (clocks go back 03:00 → 02:00); runs both times"
        assert notes("*/30 2 * * *", "Europe/Berlin", "2026-10-25T00:10Z", 4)[::2] == [
            ("10-25 02:30", (twice,)),
            ("10-25 02:30", (twice,)),
        ]

    def test_a_time_that_the_date_line_took(self) -> None:
        # Apia, 2011-12-30T10:00Z
        assert notes("0 12 * * *", "Pacific/Apia", "2011-12-29T20:00Z", 2) == [
            ("12-29 12:00", ()),
            (
                "12-31 12:00",
                (
                    "offset changes -10:00 → +14:00",
                    "2011-12-30 12:00 does not exist that day "
                    "(clocks go forward 2011-12-30 00:00 → 2011-12-31 00:00); does not run",
                ),
            ),
        ]

    def test_a_change_of_clocks_that_touches_nothing_is_only_a_new_offset(self) -> None:
        assert notes("0 12 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 1) == [
            ("03-29 12:00", ("offset changes +01:00 → +02:00",))
        ]


class TestDstRemarks:
    def test_tell_of_the_gaps_and_overlaps_of_a_year(self) -> None:
        assert dst_remarks(cron("30 2 * * *", "Europe/Berlin"), at("2026-01-01T00:00Z")) == [
            "2026-03-29: 02:30 does not exist that day (clocks go forward 02:00 → 03:00); "
            "runs at 03:00",
            "2026-10-25: 02:30 happens twice (clocks go back 03:00 → 02:00); "
            "runs the first time only",
        ]

    def test_tell_of_those_of_days_at_a_local_time(self) -> None:
        trigger = every(days=2, at="2:30", tz="Europe/Berlin", anchor="2026-03-29")
        assert dst_remarks(trigger, at("2026-01-01T00:00Z")) == [
            "2026-03-29: 02:30 does not exist that day (clocks go forward 02:00 → 03:00); "
            "runs at 03:00",
            "2026-10-25: 02:30 happens twice (clocks go back 03:00 → 02:00); "
            "runs the first time only",
        ]
        [fire] = fires(trigger, at("2026-03-28T00:00Z"), 1)
        assert len(fire.notes) == 2

    def test_name_the_date_on_which_the_lost_time_would_have_been(self) -> None:
        # Nuuk, 2024-03-31T01:00Z, 2024-03-30 23:00 → 2024-03-31 00:00
        assert dst_remarks(cron("30 23 * 3 *", "America/Nuuk"), at("2024-01-01T00:00Z")) == [
            "2024-03-30: 23:30 does not exist that day (clocks go forward 23:00 → 00:00); "
            "runs at 00:00"
        ]

    @pytest.mark.parametrize(
        "trigger",
        [
            cron("0 12 * * *", "Europe/Berlin"),  # no clock changes at noon
            cron("30 2 1 * *", "Europe/Berlin"),  # nor on the first of a month
            cron("*/5 * * * *", "Europe/Berlin"),  # nor does it take a run from every 5 minutes
            cron("30 2 * * *"),
            every(days=1),
            once(at("2026-03-29T01:00Z")),
        ],
    )
    def test_are_silent_where_nothing_happens(self, trigger: Trigger) -> None:
        assert dst_remarks(trigger, at("2026-01-01T00:00Z")) == []
