"""The triggers, by tables of literal instants. What holds for all of them is tested as laws in
test_triggers_properties.py."""

from __future__ import annotations

import sys
import zoneinfo
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

import pytest

from rq_clock.errors import Fault, ScheduleError
from rq_clock.timing.cron import CronRule, Expression
from rq_clock.timing.triggers import MANY, Cron, Every, Once, Trigger, cron, every, from_spec, once
from rq_clock.timing.zones import zone, zone_names


def texts(trigger: Trigger) -> list[str]:
    return [fault.text for fault in trigger.faults()]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def iso(t: datetime | None) -> str:
    return f"{t:%Y-%m-%dT%H:%MZ}" if t else "none"


def fires(trigger: Trigger, after: str, n: int) -> list[str]:
    found: list[str] = []
    t = at(after)
    while len(found) < n and (fire := trigger.next_after(t)):
        found.append(iso(fire))
        t = fire
    return found


class TestTheFields:
    """Each expression with its first fire times after 2026-01-01T00:00Z, a Thursday."""

    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("* * * * *", "2026-01-01T00:01Z 2026-01-01T00:02Z"),
            ("*/25 * * * *", "2026-01-01T00:25Z 2026-01-01T00:50Z 2026-01-01T01:00Z"),
            ("7-20/6 3 * * *", "2026-01-01T03:07Z 2026-01-01T03:13Z 2026-01-01T03:19Z"),
            ("50/4 3 * * *", "2026-01-01T03:50Z 2026-01-01T03:54Z 2026-01-01T03:58Z"),
            ("5,1,5,3 3 * * *", "2026-01-01T03:01Z 2026-01-01T03:03Z 2026-01-01T03:05Z"),
            ("05 03 01 02 *", "2026-02-01T03:05Z 2027-02-01T03:05Z"),
            ("0 0 1 JAN,jul *", "2026-07-01T00:00Z 2027-01-01T00:00Z"),
            ("0 0 * * Mon", "2026-01-05T00:00Z 2026-01-12T00:00Z"),
            ("0 0 * * 0", "2026-01-04T00:00Z 2026-01-11T00:00Z"),
            ("0 0 * * 7", "2026-01-04T00:00Z 2026-01-11T00:00Z"),
            ("0 0 * * sat-sun", "2026-01-03T00:00Z 2026-01-04T00:00Z 2026-01-10T00:00Z"),
            ("0 0 * * 5-7/2", "2026-01-02T00:00Z 2026-01-04T00:00Z 2026-01-09T00:00Z"),
            ("0 0 * * 1/2", "2026-01-02T00:00Z 2026-01-05T00:00Z 2026-01-07T00:00Z"),
            ("0 0 ? * 7/1", "2026-01-04T00:00Z 2026-01-11T00:00Z"),
            ("0 0 31 * ?", "2026-01-31T00:00Z 2026-03-31T00:00Z 2026-05-31T00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00Z 2032-02-29T00:00Z"),
            ("@hourly", "2026-01-01T01:00Z 2026-01-01T02:00Z"),
            ("@DAILY", "2026-01-02T00:00Z 2026-01-03T00:00Z"),
            ("@midnight", "2026-01-02T00:00Z 2026-01-03T00:00Z"),
            ("@weekly", "2026-01-04T00:00Z 2026-01-11T00:00Z"),
            ("@monthly", "2026-02-01T00:00Z 2026-03-01T00:00Z"),
            ("@yearly", "2027-01-01T00:00Z 2028-01-01T00:00Z"),
            ("@annually", "2027-01-01T00:00Z 2028-01-01T00:00Z"),
        ],
    )
    def test_an_expression_fires_at(self, expression: str, expected: str) -> None:
        trigger = cron(expression)
        assert trigger.faults() == []
        assert trigger.warnings() == []
        assert " ".join(fires(trigger, "2026-01-01T00:00Z", len(expected.split()))) == expected

    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("0 6 L * *", "2026-01-31T06:00Z 2026-02-28T06:00Z 2026-03-31T06:00Z"),
            ("0 6 l,1 * *", "2026-01-01T06:00Z 2026-01-31T06:00Z 2026-02-01T06:00Z"),
            # 2026-02-15 is a Sunday, 2026-08-01 a Saturday.
            ("0 6 15W 2 *", "2026-02-16T06:00Z"),
            ("0 6 1w 8 *", "2026-08-03T06:00Z"),
            ("0 6 1W,15W 2 *", "2026-02-02T06:00Z 2026-02-16T06:00Z"),
            ("0 6 * * 5#2", "2026-01-09T06:00Z 2026-02-13T06:00Z"),
            ("0 6 * * FRI#5", "2026-01-30T06:00Z 2026-05-29T06:00Z"),
            ("0 6 * * 5L", "2026-01-30T06:00Z 2026-02-27T06:00Z"),
            ("0 6 * * Lfri", "2026-01-30T06:00Z 2026-02-27T06:00Z"),
            ("0 6 * * 7#1,5L", "2026-01-04T06:00Z 2026-01-30T06:00Z 2026-02-01T06:00Z"),
        ],
    )
    def test_days_beyond_crontab_5(self, expression: str, expected: str) -> None:
        found = fires(cron(expression), "2026-01-01T00:00Z", len(expected.split()))
        assert " ".join(found) == expected

    def test_a_rare_date_is_found_across_the_year_2100_which_has_no_leap_day(self) -> None:
        found = fires(cron("0 0 29 2 */7"), "2072-03-01T00:00Z", 2)
        assert found == ["2088-02-29T00:00Z", "2128-02-29T00:00Z"]


class TestTheDayRule:
    """crontab(5): both day fields when one starts with `*`, else either. 2026-06-01 is a Monday."""

    @pytest.mark.parametrize(
        ("days", "expected"),
        [
            ("15 * 1", "06-01 06-08 06-15 06-22"),  # either
            ("15 * *", "06-15 07-15 08-15 09-15"),
            ("* * 1", "06-01 06-08 06-15 06-22"),
            ("*/2 * 1", "06-01 06-15 06-29 07-13"),  # both: an odd day that is a Monday
            ("1-7 * */7", "06-07 07-05 08-02 09-06"),  # both: the first Sunday
            ("? * 1", "06-01 06-08 06-15 06-22"),
            ("1-31 * 1", "05-31 06-01 06-02 06-03"),  # either, though every day is named
            ("10 * 0-6", "05-31 06-01 06-02 06-03"),
        ],
    )
    def test_a_day_matches(self, days: str, expected: str) -> None:
        found = fires(cron(f"0 0 {days}"), "2026-05-30T12:00Z", 4)
        assert " ".join(t[5:10] for t in found) == expected


class TestWhatOthersRead:
    """The expressions D1 to D13 of the study, which croniter reads in ways of its own."""

    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            # D1: a range of one value is that value, not the whole field.
            ("5-5 * * * *", "2026-01-01T00:05Z 2026-01-01T01:05Z"),
            ("5-5/2 * * * *", "2026-01-01T00:05Z 2026-01-01T01:05Z"),
            ("0 9-9 * * *", "2026-01-01T09:00Z 2026-01-02T09:00Z"),
            ("0 0 * * 2-2", "2026-01-06T00:00Z 2026-01-13T00:00Z"),
            ("0 0 * * SUN-SUN", "2026-01-04T00:00Z 2026-01-11T00:00Z"),
            # D2: either day field, also with a special day.
            ("0 0 8-9 * 0#2", "2026-01-08T00:00Z 2026-01-09T00:00Z 2026-01-11T00:00Z"),
            ("0 0 30 * L5", "2026-01-30T00:00Z 2026-02-27T00:00Z 2026-03-27T00:00Z"),
            ("0 12 1W * 1-5", "2026-01-01T12:00Z 2026-01-02T12:00Z 2026-01-05T12:00Z"),
            # D4: a field that starts with * is not restricted, whatever follows.
            ("0 0 */2 * 1-5", "2026-01-05T00:00Z 2026-01-07T00:00Z 2026-01-09T00:00Z"),
            # D7: an alias is what it has always been.
            ("@daily", "2026-01-02T00:00Z 2026-01-03T00:00Z"),
            # D11
            ("0 0 * * 1#1,2", "2026-01-05T00:00Z 2026-01-06T00:00Z 2026-01-13T00:00Z"),
            ("0 0 * * 5L", "2026-01-30T00:00Z 2026-02-27T00:00Z"),
        ],
    )
    def test_an_expression_fires_at(self, expression: str, expected: str) -> None:
        found = fires(cron(expression), "2026-01-01T00:00Z", len(expected.split()))
        assert " ".join(found) == expected

    @pytest.mark.parametrize(
        "expression",
        [
            "* * * 10-3/2 *",  # D3: no two crons agree where a stepped range goes on
            "* * 20-5/5 * *",
            "* * * * sat-tue/2",
            "R R * * *",  # D5
            "0 30 2 * * *",  # D6
            "0 0 0 1 1 * 2030",
            "H H * * *",  # D8, D9
            "0 0 31W * *",  # D10
            "0 0 LW * *",  # D11
            "0 0 L-3 * *",
            "0 0 30 2 *",  # D13
        ],
    )
    def test_what_crons_disagree_about_is_refused(self, expression: str) -> None:
        assert len(cron(expression).faults()) > 0

    @pytest.mark.parametrize(
        ("expression", "expected", "warning"),
        [
            ("50-10/1 * * * *", "", ""),
            (
                "57-1 3 * * *",
                "2026-01-01T03:00Z 2026-01-01T03:01Z 2026-01-01T03:57Z",
                "'57-1' in '57-1 3 * * *' wraps around: it means 57,58,59,0,1",
            ),
            (
                "0 0 * * FRI-MON",
                "2026-01-02T00:00Z 2026-01-03T00:00Z 2026-01-04T00:00Z 2026-01-05T00:00Z",
                "'FRI-MON' in '0 0 * * FRI-MON' wraps around: it means 5,6,0,1",
            ),
            (
                "0 0 1 nov-jan *",
                "2026-11-01T00:00Z 2026-12-01T00:00Z",
                "'nov-jan' in '0 0 1 nov-jan *' wraps around: it means 11,12,1",
            ),
        ],
    )
    def test_a_range_that_wraps_is_read_with_a_warning(
        self, expression: str, expected: str, warning: str
    ) -> None:
        trigger = cron(expression)
        assert trigger.warnings() == ([warning] if warning else [])
        if warning:
            found = fires(trigger, "2026-01-01T00:00Z", len(expected.split()))
            assert " ".join(found) == expected


class TestEuropeLondon:
    """Forward 2021-03-28T01:00Z, 01:00 → 02:00; back 2021-10-31T01:00Z, 02:00 → 01:00."""

    def test_z1_a_fixed_time_in_the_overlap_runs_the_first_time_only(self) -> None:
        found = fires(cron("30 1 * * *", "Europe/London"), "2021-10-30T12:00Z", 2)
        assert found == ["2021-10-31T00:30Z", "2021-11-01T01:30Z"]

    def test_a_fixed_time_in_the_gap_runs_at_its_end(self) -> None:
        found = fires(cron("30 1 * * *", "Europe/London"), "2021-03-27T00:00Z", 3)
        assert found == ["2021-03-27T01:30Z", "2021-03-28T01:00Z", "2021-03-29T00:30Z"]

    def test_fixed_times_of_one_gap_run_once_together(self) -> None:
        found = fires(cron("0,20,40 1,2 * * *", "Europe/London"), "2021-03-28T00:00Z", 3)
        assert found == ["2021-03-28T01:00Z", "2021-03-28T01:20Z", "2021-03-28T01:40Z"]

    def test_each_minute_of_a_wildcard_runs_in_both_passes(self) -> None:
        trigger = cron("*/5 * * * *", "Europe/London")
        assert trigger.count(at("2021-10-31T00:00Z"), at("2021-10-31T02:00Z")) == 24
        assert trigger.count(at("2021-03-28T00:00Z"), at("2021-03-28T02:00Z")) == 24

    def test_latest_at_in_the_second_pass_is_a_fixed_time_of_the_first(self) -> None:
        trigger = cron("10,50 1 * * *", "Europe/London")
        for t in ("2021-10-31T01:00Z", "2021-10-31T01:15Z", "2021-10-31T01:59Z"):
            assert iso(trigger.latest_at(at(t))) == "2021-10-31T00:50Z"


class TestOverlaps:
    @pytest.mark.parametrize(
        ("expression", "tz", "after", "expected"),
        [
            # back 2019-04-06T14:00Z, 04:00 → 03:00
            (
                "45 3 * * *",
                "Pacific/Apia",
                "2019-04-06T12:00Z",
                "2019-04-06T13:45Z 2019-04-07T14:45Z",
            ),
            # back 2009-10-25T01:00Z by two hours, 03:00 → 01:00
            (
                "59 2 * * *",
                "Antarctica/Troll",
                "2009-10-24T12:00Z",
                "2009-10-25T00:59Z 2009-10-26T02:59Z",
            ),
            # back 2026-10-25T01:00Z, 00:00 → 23:00 of the day before
            (
                "30 23 * * *",
                "America/Nuuk",
                "2026-10-24T12:00Z",
                "2026-10-25T00:30Z 2026-10-26T01:30Z",
            ),
            # back 2021-10-30T21:00Z, 00:00 → 23:00 of the day before
            (
                "0 23 * * *",
                "Asia/Beirut",
                "2021-10-30T12:00Z",
                "2021-10-30T20:00Z 2021-10-31T21:00Z",
            ),
            # back 2019-10-27T01:00Z, 02:00 → 01:00, where winter time is the one that is saved
            (
                "0 1 * * *",
                "Europe/Dublin",
                "2019-10-26T12:00Z",
                "2019-10-27T00:00Z 2019-10-28T01:00Z",
            ),
        ],
    )
    def test_z2_a_fixed_time_runs_once(
        self, expression: str, tz: str, after: str, expected: str
    ) -> None:
        assert " ".join(fires(cron(expression, tz), after, 2)) == expected


class TestAmericaNewYork:
    """Forward 2021-03-14T07:00Z, 02:00 → 03:00; back 2026-11-01T06:00Z, 02:00 → 01:00."""

    def test_z3_a_wildcard_hour_that_did_not_happen_does_not_run(self) -> None:
        found = fires(cron("0 */2 * * *", "America/New_York"), "2021-03-14T04:00Z", 3)
        assert found == ["2021-03-14T05:00Z", "2021-03-14T08:00Z", "2021-03-14T10:00Z"]

    @pytest.mark.parametrize("minutes", ["*", "*/15"])
    def test_z4_wildcard_minutes_of_the_gap_do_not_run(self, minutes: str) -> None:
        trigger = cron(f"{minutes} 2 * * *", "America/New_York")
        assert trigger.count(at("2021-03-14T05:00Z"), at("2021-03-15T05:00Z")) == 0
        assert fires(trigger, "2021-03-14T05:00Z", 1) == ["2021-03-15T06:00Z"]

    def test_z5_nothing_is_invented_at_the_end_of_a_gap(self) -> None:
        santiago = cron("*/5 0 * * *", "America/Santiago")  # 2010-10-10T04:00Z, 00:00 → 01:00
        assert fires(santiago, "2010-10-09T12:00Z", 1) == ["2010-10-11T03:00Z"]
        hours = cron("9 */2 * * *", "America/New_York")  # 2009-03-08T07:00Z, 02:00 → 03:00
        assert fires(hours, "2009-03-08T04:00Z", 2) == ["2009-03-08T05:09Z", "2009-03-08T08:09Z"]

    def test_z8_a_restart_in_the_second_pass_repeats_nothing(self) -> None:
        trigger = cron("5 1 * * *", "America/New_York")
        assert fires(trigger, "2026-11-01T04:00Z", 1) == ["2026-11-01T05:05Z"]
        assert fires(trigger, "2026-11-01T06:00Z", 1) == ["2026-11-02T06:05Z"]
        late = cron("58 1 * * *", "America/New_York")
        assert fires(late, "2026-11-01T06:55Z", 1) == ["2026-11-02T06:58Z"]


class TestUnusualJumps:
    def test_z6_apia_lost_a_day_that_is_not_caught_up(self) -> None:
        # 2011-12-30T10:00Z: 2011-12-30 00:00 → 2011-12-31 00:00
        trigger = cron("0 12 * * *", "Pacific/Apia")
        expected = ["2011-12-28T22:00Z", "2011-12-29T22:00Z", "2011-12-30T22:00Z"]
        assert fires(trigger, "2011-12-28T00:00Z", 3) == expected
        assert trigger.count(at("2011-12-28T00:00Z"), at("2011-12-31T00:00Z")) == 3
        assert iso(trigger.latest_at(at("2011-12-30T10:00Z"))) == "2011-12-29T22:00Z"

    def test_the_midnight_at_the_end_of_a_lost_day_runs(self) -> None:
        found = fires(cron("0 0 * * *", "Pacific/Apia"), "2011-12-29T00:00Z", 3)
        assert found == ["2011-12-29T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"]

    def test_z7_all_hours_written_as_a_range_are_fixed(self) -> None:
        # Troll, 2012-03-25T01:00Z, 01:00 → 03:00
        found = fires(cron("15 0-23 * * *", "Antarctica/Troll"), "2012-03-25T00:00Z", 3)
        assert found == ["2012-03-25T00:15Z", "2012-03-25T01:00Z", "2012-03-25T01:15Z"]

    def test_a_gap_that_ends_after_midnight_runs_on_the_next_date(self) -> None:
        # Nuuk, 2024-03-31T01:00Z, 2024-03-30 23:00 → 2024-03-31 00:00
        found = fires(cron("30 23 * * *", "America/Nuuk"), "2024-03-30T00:00Z", 3)
        assert found == ["2024-03-30T01:30Z", "2024-03-31T01:00Z", "2024-04-01T00:30Z"]

    def test_lord_howe_jumps_by_half_an_hour(self) -> None:
        # 2020-04-04T15:00Z, 02:00 → 01:30; 2020-10-03T15:30Z, 02:00 → 02:30
        back = cron("45 1 * * *", "Australia/Lord_Howe")
        assert fires(back, "2020-04-04T12:00Z", 2) == ["2020-04-04T14:45Z", "2020-04-05T15:15Z"]
        forward = cron("10 2 * * *", "Australia/Lord_Howe")
        assert fires(forward, "2020-10-03T12:00Z", 2) == ["2020-10-03T15:30Z", "2020-10-04T15:10Z"]

    def test_a_gap_of_three_hours_is_caught_up_and_a_longer_one_is_not(self) -> None:
        # Casey, 2020-10-03T16:01Z, 2020-10-04 00:01 → 03:01
        casey = cron("30 2 * * *", "Antarctica/Casey")
        found = fires(casey, "2020-10-02T12:00Z", 3)
        assert found == ["2020-10-02T18:30Z", "2020-10-03T16:01Z", "2020-10-04T15:30Z"]
        # Vostok, 1994-11-01T00:00Z, 00:00 → 07:00
        vostok = cron("0 3 * * *", "Antarctica/Vostok")
        found = fires(vostok, "1994-10-31T00:00Z", 2)
        assert found == ["1994-10-31T03:00Z", "1994-11-01T20:00Z"]


class TestFaults:
    @pytest.mark.parametrize(
        ("expression", "faults"),
        [
            ("61 3 * * *", ["expected minute 0-59, got '61' in '61 3 * * *'"]),
            (
                "61 24 * 13 *",
                [
                    "expected minute 0-59, got '61' in '61 24 * 13 *'",
                    "expected hour 0-23, got '24' in '61 24 * 13 *'",
                    "expected month 1-12 or jan-dec, got '13' in '61 24 * 13 *'",
                ],
            ),
            (
                "0 0 0 * 8",
                [
                    "expected day-of-month 1-31, got '0' in '0 0 0 * 8'",
                    "expected day-of-week 0-7 or sun-sat, got '8' in '0 0 0 * 8'",
                ],
            ),
            (
                "*/90 * * * *",
                [
                    "expected minute step 1-60, got '*/90' in '*/90 * * * *': "
                    "step 90 is wider than minute 0-59"
                ],
            ),
            ("*/0 * * * *", ["expected minute step 1-60, got '*/0' in '*/0 * * * *'"]),
            ("1,,2 * * * *", ["expected minute 0-59, got '' in '1,,2 * * * *'"]),
            ("? * * * *", ["expected minute 0-59, got '?' in '? * * * *'"]),
            (
                "0 -5 * * *",
                ["expected hour 0-23, got '-5' in '0 -5 * * *': a range is written as first-last"],
            ),
            (
                "0 20-4/2 * * *",
                ["expected a range with a step to go upwards, got '20-4/2' in '0 20-4/2 * * *'"],
            ),
            (
                "H 3 * * *",
                [
                    "expected minute 0-59, got 'H' in 'H 3 * * *': "
                    "hashed and random times are not supported; jitter= spreads the load"
                ],
            ),
            (
                "0 0 LW * monday",
                [
                    "expected day-of-month 1-31, got 'LW' in '0 0 LW * monday': "
                    "of the month's end only L, its last day, is supported",
                    "expected day-of-week 0-7 or sun-sat, got 'monday' in '0 0 LW * monday': "
                    "names have three letters",
                ],
            ),
            (
                "0 0 31W * 5#6",
                [
                    "expected day-of-month 1-31, got '31W' in '0 0 31W * 5#6': "
                    "the nearest weekday is supported from 1W to 28W",
                    "expected day-of-week 0-7 or sun-sat, got '5#6' in '0 0 31W * 5#6': "
                    "the n-th weekday of a month is written FRI#1 to FRI#5",
                ],
            ),
            (
                "0 0 30 2 *",
                ["expected a day that comes within 50 years, got '0 0 30 2 *': it never fires"],
            ),
            (
                "0 30 2 * * *",
                [
                    "expected 5 fields, minute hour day-of-month month day-of-week, "
                    "got 6 in '0 30 2 * * *': for seconds use every(seconds=)"
                ],
            ),
            (
                "0 3 * *",
                [
                    "expected 5 fields, minute hour day-of-month month day-of-week, "
                    "got 4 in '0 3 * *'"
                ],
            ),
            (
                "@reboot",
                [
                    "expected @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, "
                    "got '@reboot': a restart is not a time; enqueue the job where the app starts"
                ],
            ),
            (
                "@every 5m",
                [
                    "expected @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, "
                    "got '@every 5m': write every(minutes=5)"
                ],
            ),
            ("0 0 * * ١", ["expected ASCII characters, got '0 0 * * ١'"]),
            ("0," * 128 + " * * * *", ["expected at most 256 characters, got 264"]),
        ],
    )
    def test_a_fault_says_what_was_expected_and_what_came(
        self, expression: str, faults: list[str]
    ) -> None:
        assert texts(cron(expression)) == faults

    @pytest.mark.parametrize(
        ("tz", "fault"),
        [
            ("europe/berlin", "got 'europe/berlin': did you mean 'Europe/Berlin'?"),
            ("Berlin", "got 'Berlin': did you mean 'Europe/Berlin'?"),
            ("America/New York", "got 'America/New York': did you mean 'America/New_York'?"),
            ("PST", "got 'PST': rq_clock.timing.zones.zone_names() lists them"),
            ("../etc/passwd", "got '../etc/passwd': rq_clock.timing.zones.zone_names() lists them"),
            (
                "/etc/localtime",
                "got '/etc/localtime': rq_clock.timing.zones.zone_names() lists them",
            ),
        ],
    )
    def test_an_unknown_zone_is_a_fault_with_its_neighbour(self, tz: str, fault: str) -> None:
        expected = f"expected a time zone such as 'Europe/Berlin', {fault}"
        assert cron("0 3 * * *", tz).faults() == [Fault("tz", expected)]

    @pytest.mark.parametrize(
        ("expression", "columns"),
        [
            ("61 24 * 13 *", [1, 4, 9]),
            ("1,61 0 * * 1,61,8", [3, 14, 17]),
            ("0 0 * * 8-9,0", [9]),
            ("*  25  * * *", [3]),
            ("0 3 * *", [None]),
        ],
    )
    def test_a_fault_names_its_field_and_the_column_of_its_item(
        self, expression: str, columns: list[int | None]
    ) -> None:
        faults = cron(expression).faults()
        assert [fault.column for fault in faults] == columns
        assert {fault.field for fault in faults} == {"cron"}

    def test_faults_of_the_expression_and_of_the_zone_come_together(self) -> None:
        assert len(cron("61 24 * * *", "Mars/Olympus").faults()) == 3

    @pytest.mark.parametrize("value", [5, None, ["0 3 * * *"], b"0 3 * * *", {}])
    def test_what_is_not_text_is_a_fault(self, value: Any) -> None:
        assert texts(cron(value)) == [f"expected a cron expression as text, got {value!r}"]
        assert texts(cron("0 3 * * *", value)) == [f"expected a time zone as text, got {value!r}"]

    def test_a_faulty_trigger_answers_no_question_about_time(self) -> None:
        t = at("2026-01-01T00:00Z")
        faulty: list[Trigger] = [cron("61 3 * * *"), cron(5), every(), once(None)]  # type: ignore[arg-type]
        for trigger in faulty:
            assert trigger.warnings() == []
            with pytest.raises(ScheduleError, match="expected"):
                trigger.next_after(t)
            with pytest.raises(ScheduleError, match="expected"):
                trigger.latest_at(t)
            with pytest.raises(ScheduleError, match="expected"):
                trigger.count(t, t)

    @pytest.mark.parametrize(
        "trigger", [cron("0 3 * * *"), every(minutes=5), once(datetime(2026, 1, 1, tzinfo=UTC))]
    )
    def test_a_naive_instant_is_refused(self, trigger: Trigger) -> None:
        with pytest.raises(TypeError):
            trigger.next_after(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


class TestCronTriggers:
    def test_white_space_is_normalised_and_the_rest_kept_as_written(self) -> None:
        trigger = cron("  0\t3  * *   MON ", "Europe/Berlin")
        assert trigger.spec() == {"cron": "0 3 * * MON", "tz": "Europe/Berlin"}
        assert trigger == cron("0 3 * * MON", "Europe/Berlin")
        assert hash(trigger) == hash(cron("0 3 * * MON", "Europe/Berlin"))
        assert trigger != cron("0 3 * * 1", "Europe/Berlin")

    def test_triggers_of_the_same_text_and_zone_share_one_rule(self) -> None:
        one, other = cron("0 3 * * *", "Europe/Berlin"), cron("0  3 * * *", "Europe/Berlin")
        assert one is not other
        assert one.rule is other.rule
        assert one.rule is not cron("0 3 * * *", "UTC").rule

    def test_instants_of_other_zones_and_within_a_minute_are_understood(self) -> None:
        trigger = cron("0 3 * * *")
        t = datetime(2026, 1, 1, 3, 59, 59, 999_999, timezone(timedelta(hours=1)))
        assert iso(trigger.next_after(t)) == "2026-01-01T03:00Z"
        assert iso(trigger.latest_at(t)) == "2025-12-31T03:00Z"
        exactly = at("2026-01-01T03:00Z")
        assert iso(trigger.next_after(exactly)) == "2026-01-02T03:00Z"
        assert trigger.latest_at(exactly) == exactly

    def test_fire_times_lie_between_1970_and_9900(self) -> None:
        trigger = cron("0 3 * * *", "Europe/Berlin")
        assert iso(trigger.next_after(at("0001-01-02T00:00Z"))) == "1970-01-01T02:00Z"
        assert trigger.latest_at(at("1969-12-31T23:00Z")) is None
        assert trigger.next_after(at("9899-12-31T12:00Z")) is None
        assert trigger.next_after(at("9999-12-31T23:59Z")) is None
        assert iso(trigger.latest_at(at("9999-12-31T23:59Z"))) == "9899-12-31T02:00Z"
        assert trigger.count(at("9999-01-01T00:00Z"), at("9999-12-31T00:00Z")) == 0

    def test_the_zones_of_the_process_stay_as_they_are(self) -> None:
        before = zoneinfo.TZPATH
        assert cron("0 3 * * *", "America/Vancouver").faults() == []
        assert before == zoneinfo.TZPATH
        assert zone("America/Vancouver").info is not zoneinfo.ZoneInfo("America/Vancouver")

    @pytest.mark.parametrize("key", ["../zones", "/etc/localtime", "Europe", "europe/berlin"])
    def test_no_name_leads_to_a_file_that_is_not_a_zone(self, key: str) -> None:
        with pytest.raises(ValueError, match="expected a time zone"):
            zone(key)

    def test_every_zone_of_the_package_can_be_used(self) -> None:
        assert len(zone_names()) > 590
        for key in zone_names():
            assert cron("0 3 * * *", key).next_after(at("2026-01-01T00:00Z")) is not None

    def test_threads_that_share_a_rule_get_the_same_answers_as_one(self) -> None:
        random, start = Random(1), at("2026-01-01T00:00Z").timestamp()
        instants = [int(start + random.randrange(10**8)) for _ in range(1_000)]
        expression = "30 9 1,15W * 1-5"
        alone = CronRule(Expression(expression), zone("Europe/Berlin"))
        shared = CronRule(Expression(expression), zone("Europe/Berlin"))
        expected = [(alone.next_after(t), alone.latest_at(t)) for t in instants]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                found = pool.map(lambda t: (shared.next_after(t), shared.latest_at(t)), instants)
                assert list(found) == expected
        finally:
            sys.setswitchinterval(interval)


class TestCount:
    @pytest.mark.parametrize(
        ("trigger", "after", "until", "expected"),
        [
            (cron("0 3 * * *"), "2026-01-01T03:00Z", "2026-01-02T03:00Z", 1),
            (cron("0 3 * * *"), "2026-01-01T02:59Z", "2026-01-02T02:59Z", 1),
            (cron("0 3 * * *"), "2026-01-02T00:00Z", "2026-01-01T00:00Z", 0),
            (cron("0 3 * * *"), "2025-01-01T00:00Z", "2026-01-01T00:00Z", 365),
            (cron("*/5 9-17 * * 1-5"), "2026-01-04T00:00Z", "2026-01-11T00:00Z", 540),
            (cron("* * * * *"), "2026-01-01T00:00Z", "2026-01-07T22:39Z", 9_999),
            (cron("* * * * *"), "2026-01-01T00:00Z", "2026-01-07T22:40Z", MANY),
            (cron("* * * * *"), "2026-01-01T00:00Z", "2027-01-01T00:00Z", MANY),
            # Europe/Berlin goes forward 2026-03-29T01:00Z and back 2026-10-25T01:00Z.
            (cron("30 2 * * *", "Europe/Berlin"), "2026-01-01T00:00Z", "2027-01-01T00:00Z", 365),
            (cron("0,30 2 * * *", "Europe/Berlin"), "2026-03-29T00:00Z", "2026-03-30T00:00Z", 2),
            (cron("0,30 2 * * *", "Europe/Berlin"), "2026-10-25T00:30Z", "2026-10-25T02:00Z", 0),
            (cron("0 2,3 * * *", "Europe/Berlin"), "2026-03-29T00:00Z", "2026-03-29T12:00Z", 1),
            (cron("0,30 2 * * *", "Europe/Berlin"), "2026-10-25T00:30Z", "2026-10-25T01:15Z", 0),
            (cron("*/30 2 * * *", "Europe/Berlin"), "2026-03-29T00:00Z", "2026-03-30T00:00Z", 1),
            (cron("*/30 2 * * *", "Europe/Berlin"), "2026-10-25T00:00Z", "2026-10-25T02:00Z", 3),
            (every(minutes=5), "2026-01-01T00:00Z", "2026-01-01T01:00Z", 12),
            (every(minutes=5), "2026-01-01T01:00Z", "2026-01-01T00:00Z", 0),
            (every(milliseconds=10), "2026-01-01T00:00Z", "2027-01-01T00:00Z", MANY),
            (once(at("2026-01-01T00:00Z")), "2025-12-31T23:59Z", "2026-01-01T00:00Z", 1),
            (once(at("2026-01-01T00:00Z")), "2026-01-01T00:00Z", "2027-01-01T00:00Z", 0),
        ],
    )
    def test_counts_after_the_first_instant_up_to_and_with_the_second(
        self, trigger: Trigger, after: str, until: str, expected: int
    ) -> None:
        assert trigger.count(at(after), at(until)) == expected


class TestEvery:
    def test_fires_in_the_phase_of_the_epoch(self) -> None:
        found = fires(every(minutes=25), "2026-01-01T00:00Z", 3)
        assert found == ["2026-01-01T00:15Z", "2026-01-01T00:40Z", "2026-01-01T01:05Z"]

    def test_fires_in_the_phase_of_its_anchor_before_and_after_it(self) -> None:
        trigger = every(hours=6, anchor=at("2026-01-01T05:00+01:00"))
        found = fires(trigger, "2025-12-31T12:00Z", 4)
        assert found == [f"2025-12-31T{h}:00Z" for h in (16, 22)] + [
            "2026-01-01T04:00Z",
            "2026-01-01T10:00Z",
        ]

    def test_a_clock_change_does_not_touch_it(self) -> None:
        found = fires(every(days=1), "2026-03-28T12:00Z", 2)
        assert found == ["2026-03-29T00:00Z", "2026-03-30T00:00Z"]

    def test_latest_at_is_exact_to_the_millisecond(self) -> None:
        trigger = every(seconds=1.5)
        assert trigger.latest_at(at("2026-01-01T00:00:01Z")) == at("2026-01-01T00:00:00Z")
        assert trigger.latest_at(at("2026-01-01T00:00:01.500Z")) == at("2026-01-01T00:00:01.500Z")

    def test_units_add_up_exactly(self) -> None:
        assert every(seconds=0.1) == every(milliseconds=100)
        assert every(weeks=1, days=1, hours=1, minutes=1, seconds=1, milliseconds=1) == Every(
            694_861_001
        )
        assert every(hours=1.5) == every(minutes=90)

    def test_beyond_the_last_datetime_there_is_nothing(self) -> None:
        assert every(days=30).next_after(at("9999-12-31T00:00Z")) is None

    @pytest.mark.parametrize(
        ("trigger", "faults"),
        [
            (
                every(),
                [
                    "expected a period of 10 ms to 50 years, got 0 ms: "
                    "give at least one of weeks, days, hours, minutes, seconds, milliseconds"
                ],
            ),
            (
                every(milliseconds=9),
                [
                    "expected a period of 10 ms to 50 years, got 9 ms: "
                    "let one run do the work of several"
                ],
            ),
            (every(minutes=-5), ["expected a period of 10 ms to 50 years, got -300000 ms"]),
            (every(weeks=3_000), ["expected a period of 10 ms to 50 years, got 1814400000000 ms"]),
            (every(seconds=0.0005), ["expected seconds that make whole milliseconds, got 0.0005"]),
            (every(seconds=float("inf")), ["expected seconds as a number, got inf"]),
            (every(seconds=True), ["expected seconds as a number, got True"]),
            (
                every(minutes="5", hours=None),  # type: ignore[arg-type]
                ["expected hours as a number, got None", "expected minutes as a number, got '5'"],
            ),
            (
                every(hours=1, anchor=datetime(2026, 1, 1)),  # noqa: DTZ001
                [
                    "expected an aware datetime as anchor, got 2026-01-01T00:00:00: "
                    "give it a zone, such as tzinfo=timezone.utc"
                ],
            ),
            (
                every(hours=1, anchor="now"),  # type: ignore[arg-type]
                ["expected an aware datetime as anchor, got 'now'"],
            ),
        ],
    )
    def test_a_fault_says_what_was_expected_and_what_came(
        self, trigger: Every, faults: list[str]
    ) -> None:
        assert texts(trigger) == faults


class TestOnce:
    def test_fires_at_its_instant_and_never_again(self) -> None:
        trigger = once(at("2026-03-29T03:00+02:00"))
        assert fires(trigger, "2026-03-29T00:59Z", 5) == ["2026-03-29T01:00Z"]
        assert fires(trigger, "2026-03-29T01:00Z", 5) == []
        assert iso(trigger.latest_at(at("2026-03-29T01:00Z"))) == "2026-03-29T01:00Z"
        assert trigger.latest_at(at("2026-03-29T00:59Z")) is None

    def test_is_never_early(self) -> None:
        assert once(at("2026-01-01T00:00:00.000001Z")) == Once(at("2026-01-01T00:00:00.001Z"))
        assert once(at("2026-01-01T00:00:00.001Z")) == Once(at("2026-01-01T00:00:00.001Z"))

    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            ("2026-01-01", "expected an aware datetime, got '2026-01-01'"),
            (None, "expected an aware datetime, got None"),
            (
                datetime(2026, 1, 1),  # noqa: DTZ001
                "expected an aware datetime, got 2026-01-01T00:00:00: "
                "give it a zone, such as tzinfo=timezone.utc",
            ),
        ],
    )
    def test_a_fault_says_what_was_expected_and_what_came(self, value: Any, fault: str) -> None:
        assert once(value).faults() == [Fault("once", fault)]


class TestSpec:
    @pytest.mark.parametrize(
        ("trigger", "spec"),
        [
            (cron("0 3 * * *", "Europe/Berlin"), {"cron": "0 3 * * *", "tz": "Europe/Berlin"}),
            (cron("@Daily"), {"cron": "@Daily", "tz": "UTC"}),
            (every(minutes=5), {"every": 300_000}),
            (
                every(minutes=5, anchor=at("1970-01-01T00:00:07Z")),
                {"every": 300_000, "anchor": 7_000},
            ),
            (once(at("2026-03-29T01:00Z")), {"once": 1_774_746_000_000}),
        ],
    )
    def test_reads_back_as_the_same_trigger(self, trigger: Trigger, spec: dict[str, Any]) -> None:
        assert trigger.spec() == spec
        assert from_spec(spec) == trigger

    def test_a_faulty_trigger_of_the_right_shape_reads_back_with_its_faults(self) -> None:
        assert isinstance(from_spec({"cron": "61 3 * * *"}), Cron)
        assert len(from_spec({"cron": "61 3 * * *", "tz": "Mars"}).faults()) == 2
        assert len(from_spec({"every": -1}).faults()) == 1

    @pytest.mark.parametrize(
        "spec",
        [
            {},
            {"tz": "UTC"},
            {"cron": "0 3 * * *", "every": 1},
            {"cron": "0 3 * * *", "timezone": "UTC"},
            {"every": "5 minutes"},
            {"every": True},
            {"every": 1, "anchor": None},
            {"once": "2026-01-01"},
            {"once": 10**18},
        ],
    )
    def test_another_shape_is_refused(self, spec: dict[str, Any]) -> None:
        with pytest.raises(ScheduleError, match=r"expected \{\"cron\": text, \"tz\": zone\}"):
            from_spec(spec)
