"""The triggers, by tables of literal instants. What holds for all of them is tested as laws in
test_triggers_properties.py."""

from __future__ import annotations

import sys
import zoneinfo
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from random import Random
from typing import Any

import pytest

from rq_clock.errors import Fault, ScheduleError
from rq_clock.timing.cron import Expression
from rq_clock.timing.triggers import (
    MANY,
    Every,
    Once,
    Trigger,
    cron,
    deferred_faults,
    every,
    from_spec,
    once,
)
from rq_clock.timing.wall import WallRule
from rq_clock.timing.zones import zone, zone_names


def faults(make: Callable[[], Trigger]) -> list[Fault]:
    with pytest.raises(ScheduleError) as raised:
        make()
    return list(raised.value.faults)


def texts(make: Callable[[], Trigger]) -> list[str]:
    return [fault.text for fault in faults(make)]


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
            ("*/20 * * * *", "2026-01-01T00:20Z 2026-01-01T00:40Z 2026-01-01T01:00Z"),
            ("7-20/6 3 * * *", "2026-01-01T03:07Z 2026-01-01T03:13Z 2026-01-01T03:19Z"),
            ("50/4 3 * * *", "2026-01-01T03:50Z 2026-01-01T03:54Z 2026-01-01T03:58Z"),
            ("5,1,5,3 3 * * *", "2026-01-01T03:01Z 2026-01-01T03:03Z 2026-01-01T03:05Z"),
            ("05 03 01 02 *", "2026-02-01T03:05Z 2027-02-01T03:05Z"),
            ("0 0 1 JAN,jul *", "2026-07-01T00:00Z 2027-01-01T00:00Z"),
            ("0 0 * * Mon", "2026-01-05T00:00Z 2026-01-12T00:00Z"),
            ("0 0 * * Monday-friday", "2026-01-02T00:00Z 2026-01-05T00:00Z 2026-01-06T00:00Z"),
            ("0 0 1 january,sept *", "2026-09-01T00:00Z 2027-01-01T00:00Z"),
            ("\n0 0 * * Thurs \r\n", "2026-01-08T00:00Z 2026-01-15T00:00Z"),
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
            ("0 6 LW * *", "2026-01-30T06:00Z 2026-02-27T06:00Z 2026-03-31T06:00Z"),
            ("0 6 L-3 * *", "2026-01-28T06:00Z 2026-02-25T06:00Z 2026-03-28T06:00Z"),
            ("0 6 l-3w * *", "2026-01-28T06:00Z 2026-02-25T06:00Z 2026-03-27T06:00Z"),
            ("0 6 L-29 * *", "2026-01-02T06:00Z 2026-03-02T06:00Z 2026-04-01T06:00Z"),
            # Neither February nor April has a 31st; 2026-05-31 is a Sunday, in the same month.
            ("0 6 31W * *", "2026-01-30T06:00Z 2026-03-31T06:00Z 2026-05-29T06:00Z"),
            ("0 6 29w 2 *", "2028-02-29T06:00Z 2032-02-27T06:00Z"),
            ("0 6 * * fri#L", "2026-01-30T06:00Z 2026-02-27T06:00Z"),
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
            "0 0 30 2 *",  # D13
        ],
    )
    def test_what_crons_disagree_about_is_refused(self, expression: str) -> None:
        assert texts(lambda: cron(expression))

    @pytest.mark.parametrize(
        ("expression", "expected", "warning"),
        [
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
        assert trigger.warnings() == [warning]
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
                    "expected hour 0-23, got '24' in '61 24 * 13 *': midnight is hour 0",
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
                    "step 90 is wider than the field: write every(minutes=90)"
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
                    "hashed and random times are not supported; jitter= spreads them"
                ],
            ),
            (
                "0 0 32W * 5#6",
                [
                    "expected day-of-month 1-31, got '32W' in '0 0 32W * 5#6': "
                    "the nearest weekday is written 1W to 31W",
                    "expected day-of-week 0-7 or sun-sat, got '5#6' in '0 0 32W * 5#6': the n-th "
                    "weekday of a month is written FRI#1 to FRI#5, the last one FRI#L",
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
                    "got 6 in '0 30 2 * * *': leave out the leading 0, of seconds: '30 2 * * *'"
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
        assert texts(lambda: cron(expression)) == faults

    @pytest.mark.parametrize(
        ("expression", "hint"),
        [
            # a zone in the expression
            ("0 0 * * * Europe/Moscow", "cron('0 0 * * *', tz='Europe/Moscow')"),
            ("CRON_TZ=Europe/Moscow 0 0 * * *", "cron('0 0 * * *', tz='Europe/Moscow')"),
            ("TZ=UTC 0 3 * * *", "cron('0 3 * * *', tz='UTC')"),
            # Quartz, Spring and AWS
            ("0 0 12 * * ?", "Quartz's first field is seconds: leave it out, '0 12 * * ?'"),
            ("0 15 10 ? * 6L 2030", "leave it out and the year at the end, '15 10 ? * 6L'"),
            ("0 0 9 ? * 2-6", "its weekdays 1-7 are SUN-SAT: write their names"),
            ("0 12 * * ? *", "AWS's last field is the year: leave it out, '0 12 * * ?'"),
            ("0 12 ? * 2-6 2030", "its weekdays 1-7 are SUN-SAT: write their names"),
            ("cron(0 12 * * ? *)", "leave out the word, its brackets and the year"),
            ("rate(5 minutes)", "AWS's rate is every(minutes=5) here"),
            ("15 3 1 1 * 2030", "there is no field of years: leave it out, '15 3 1 1 *'"),
            ("*/10 * * * * *", "for seconds use every(seconds=10)"),
            # white space and quotes
            ("0 3, 5 * * *", "a field has no spaces inside: write '0 3,5 * * *'"),
            ("0 9 - 17 * * *", "a field has no spaces inside: write '0 9-17 * * *'"),
            ("'0 3 * * *'", "leave out the quotes inside the text"),
            # lines and words
            ("0 3 * * * /usr/bin/backup -q", "put its command into command(…)"),
            ("0 3 * * *\n0 4 * * *", "these are two expressions; add a schedule for each"),
            ("3:05", "a time of every day is '5 3 * * *'"),
            ("daily", "write '@daily'"),
            ("every 5 minutes", "write every(minutes=5)"),
            ("FREQ=WEEKLY;BYDAY=MO", "RRULE is not supported"),
            # items
            ("0 */36 * * *", "write every(hours=36)"),
            ("0 9 */45 * *", 'write every(days=45, at="09:00")'),
            ("0 0 */100,1-7 * MON", "write '0 0 * * MON#1'"),
            ("0 0 */32,8-14 3 2", "write '0 0 * 3 2#2'"),
            ("0 24 * * *", "midnight is hour 0"),
            ("0 9am * * *", "hours count from 0 to 23"),
            ("0 0 * * weekdays", "write mon-fri"),
            ("0 0 * * L", "the last Friday of a month is written FRI#L"),
            ("0 0 L-40 * *", "days before the month's end are L-1 to L-30"),
        ],
    )
    def test_a_fault_names_the_usual_cause(self, expression: str, hint: str) -> None:
        assert any(text.endswith(hint) or hint in text for text in texts(lambda: cron(expression)))

    @pytest.mark.parametrize(
        ("tz", "fault"),
        [
            ("europe/berlin", "got 'europe/berlin': did you mean 'Europe/Berlin'?"),
            ("Berlin", "got 'Berlin': did you mean 'Europe/Berlin'?"),
            ("America/New York", "got 'America/New York': did you mean 'America/New_York'?"),
            ("GMT+1", "'Etc/GMT-1' is 1 h ahead of UTC all year, its sign is reversed"),
            ("UTC-05:00", "'Etc/GMT+5' is 5 h behind UTC all year, its sign is reversed"),
            ("+05:30", "write the city whose clock you mean, such as 'Europe/Berlin'"),
            ("UTC+0", "did you mean 'UTC'?"),
            ("Asia/India", "did you mean 'Asia/Kolkata'?"),
            ("Asia/Beijing", "did you mean 'Asia/Shanghai'?"),
            ("Brazil", "that country has 16 zones, such as 'America/Noronha': write your city's"),
            ("CST", "write a city, such as 'America/Chicago'"),
            ("Eastern Standard Time", "write a city, such as 'America/New_York'"),
            ("GMT Standard Time", "write a city, such as 'Europe/London'"),
            ("Tokyo Standard Time", "did you mean 'Asia/Tokyo'?"),
            ("../etc/passwd", "got '../etc/passwd': rq_clock.timing.zones.zone_names() lists them"),
            (
                "/etc/localtime",
                "got '/etc/localtime': rq_clock.timing.zones.zone_names() lists them",
            ),
        ],
    )
    def test_an_unknown_zone_is_a_fault_with_its_neighbour(self, tz: str, fault: str) -> None:
        [found] = faults(lambda: cron("0 3 * * *", tz))
        assert found.field == "tz"
        assert found.text.startswith(f"expected a time zone such as 'Europe/Berlin', got {tz!r}: ")
        assert found.text.endswith(fault)

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
        found = faults(lambda: cron(expression))
        assert [fault.column for fault in found] == columns
        assert {fault.field for fault in found} == {"cron"}

    def test_faults_of_the_expression_and_of_the_zone_come_together(self) -> None:
        found = faults(lambda: cron("61 24 * * *", "Mars/Olympus", start="soon", max_runs=0))
        assert sorted(fault.field for fault in found) == ["cron", "cron", "start", "tz"]

    @pytest.mark.parametrize("value", [5, None, ["0 3 * * *"], b"0 3 * * *", {}])
    def test_what_is_not_text_is_a_fault(self, value: Any) -> None:
        expected = f"expected a cron expression as text, got {value!r}"
        assert texts(lambda: cron(value)) == [expected]
        expected = f"expected a time zone as text or ZoneInfo, got {value!r}"
        assert texts(lambda: cron("0 3 * * *", value)) == [expected]

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            ({"minute": 0, "hour": 3}, "write the five fields as one text, such as cron("),
            ({"expression": "0 3 * * *", "timezone": "UTC"}, "timezone= of cron(…): write tz="),
            ({"expression": "0 3 * * *", "start_date": None}, "write start="),
            ({"expression": "0 3 * * *", "ends": None}, "write end="),
            ({"expression": "0 3 * * *", "colour": 1}, "known are expression, tz, start, end"),
        ],
    )
    def test_an_argument_of_other_schedulers_is_explained(
        self, call: dict[str, Any], text: str
    ) -> None:
        assert all(text in found for found in texts(lambda: cron(**call)))
        several: Any = ("0", "3", "*", "*", "*")
        assert "write one text" in texts(lambda: cron(*several))[0]

    def test_while_faults_are_deferred_the_schedule_has_them(self) -> None:
        with deferred_faults():
            found: Any = cron("61 3 * * *", tz="Mars")
            assert [fault.field for fault in found.faults] == ["cron", "tz"]
        with pytest.raises(ScheduleError):
            cron("61 3 * * *")

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

    def test_it_shows_what_differs_from_the_default(self) -> None:
        assert repr(cron("0 3 * * *")) == "Cron(expression='0 3 * * *')"
        assert repr(every(minutes=5)) == "Every(period=300000)"

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
        cron("0 3 * * *", "America/Vancouver")
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
        found, zoned = Expression(expression), zone("Europe/Berlin")
        alone = WallRule(found.times, found.days, zoned, wildcard=False)
        again = Expression(expression)
        shared = WallRule(again.times, again.days, zoned, wildcard=False)
        expected = [(alone.next_after(t), alone.latest_at(t)) for t in instants]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                pairs = pool.map(lambda t: (shared.next_after(t), shared.latest_at(t)), instants)
                assert list(pairs) == expected
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

    def test_a_period_may_be_a_text_or_a_timedelta(self) -> None:
        assert every("5m") == every(timedelta(minutes=5)) == every(minutes=5)
        assert every("1h 30m") == every(minutes=90)
        assert every("1500ms") == every(seconds=1.5)

    def test_it_counts_from_its_start_unless_it_has_an_anchor(self) -> None:
        trigger = every(hours=6, start=at("2026-01-01T05:00Z"))
        assert fires(trigger, "2025-01-01T00:00Z", 2) == ["2026-01-01T05:00Z", "2026-01-01T11:00Z"]
        trigger = every(hours=6, start="2026-01-01T05:00", anchor="1970-01-01")
        assert fires(trigger, "2025-01-01T00:00Z", 1) == ["2026-01-01T06:00Z"]

    @pytest.mark.parametrize(
        ("args", "faults"),
        [
            (
                {},
                [
                    "expected a period of 10 ms to 50 years, got 0 ms: "
                    'give a duration such as "5m", or at least one of weeks, days, hours, '
                    "minutes, seconds, milliseconds"
                ],
            ),
            (
                {"milliseconds": 9},
                [
                    "expected a period of 10 ms to 50 years, got 9 ms: "
                    "let one run do the work of several"
                ],
            ),
            ({"minutes": -5}, ["expected a period of 10 ms to 50 years, got -300000 ms"]),
            ({"weeks": 3000}, ["expected a period of 10 ms to 50 years, got 1814400000000 ms"]),
            ({"seconds": 0.0005}, ["expected seconds that make whole milliseconds, got 0.0005"]),
            ({"seconds": float("inf")}, ["expected seconds as a number, got inf"]),
            ({"seconds": True}, ["expected seconds as a number, got True"]),
            (
                {"minutes": "5m", "hours": None},
                [
                    "expected hours as a number, got None",
                    "expected minutes as a number, got '5m': or every(\"5m\")",
                ],
            ),
            (
                {"period": 5},
                [
                    "expected a duration in whole milliseconds, such as 90s, 15m, 1h30m or 2d, "
                    'got 5: write every(seconds=5) or every("5s")'
                ],
            ),
            ({"period": "5m", "hours": 1}, ["expected a duration or units, not both, got '5m'"]),
            (
                {"hours": 1, "anchor": datetime(2026, 1, 1)},  # noqa: DTZ001
                [
                    "expected an aware datetime as anchor, got 2026-01-01T00:00:00: "
                    "give it a zone, such as tzinfo=timezone.utc"
                ],
            ),
            (
                {"hours": 1, "tz": "Europe/Berlin"},
                [
                    'tz= goes with a local time, such as at="09:00"; a period alone has none',
                ],
            ),
        ],
    )
    def test_a_fault_says_what_was_expected_and_what_came(
        self, args: dict[str, Any], faults: list[str]
    ) -> None:
        assert texts(lambda: every(**args)) == faults


class TestEveryFewDaysAtALocalTime:
    """Europe/Berlin: forward 2026-03-29T01:00Z, 02:00 → 03:00; back 2026-10-25T01:00Z."""

    @pytest.mark.parametrize(
        ("args", "after", "expected"),
        [
            # Every other day, counted from 1970-01-01: even day numbers. Summer begins on 03-29.
            (
                {"days": 2, "at": "09:00"},
                "2026-03-25T12:00Z",
                "2026-03-26T08:00Z 2026-03-28T08:00Z 2026-03-30T07:00Z 2026-04-01T07:00Z",
            ),
            (
                {"days": 2, "at": "2:30", "anchor": "2026-03-27"},  # no such time on 03-29
                "2026-03-25T12:00Z",
                "2026-03-27T01:30Z 2026-03-29T01:00Z 2026-03-31T00:30Z",
            ),
            (
                {"days": 3, "at": time(2, 30), "anchor": date(2026, 10, 25)},  # twice: the first
                "2026-10-22T12:00Z",
                "2026-10-25T00:30Z 2026-10-28T01:30Z",
            ),
            # Every other Tuesday
            (
                {"weeks": 2, "at": "09:00", "anchor": "2026-01-06"},
                "2026-01-01T00:00Z",
                "2026-01-06T08:00Z 2026-01-20T08:00Z 2026-02-03T08:00Z",
            ),
            (
                {"weeks": 2, "at": "09:00", "on": "tuesday,fri", "anchor": "2026-01-11"},
                "2026-01-01T00:00Z",
                "2026-01-06T08:00Z 2026-01-09T08:00Z 2026-01-20T08:00Z",
            ),
            (
                {"weeks": 3, "at": "09:00", "on": "sat-sun", "anchor": "2026-W02"},
                "2026-01-01T00:00Z",
                "2026-01-10T08:00Z 2026-01-11T08:00Z 2026-01-31T08:00Z",
            ),
            (
                {"period": "1w", "at": "09:00", "on": "mon"},
                "2026-01-01T00:00Z",
                "2026-01-05T08:00Z 2026-01-12T08:00Z",
            ),
            # The start gives the date: there it is the 6th already.
            (
                {"weeks": 2, "at": "00:30", "start": at("2026-01-05T23:00Z")},
                "2026-01-01T00:00Z",
                "2026-01-05T23:30Z 2026-01-19T23:30Z",
            ),
        ],
    )
    def test_fires_at(self, args: dict[str, Any], after: str, expected: str) -> None:
        trigger = every(tz="Europe/Berlin", **args)
        assert " ".join(fires(trigger, after, len(expected.split()))) == expected
        assert from_spec(trigger.spec()) == trigger

    @pytest.mark.parametrize(
        ("args", "text"),
        [
            ({"weeks": 2, "at": "09:00"}, 'expected on="mon", or anchor= as the date of one run'),
            ({"weeks": 2, "at": "09:00", "on": "tue"}, "expected anchor= as a date, such as"),
            ({"days": 3, "at": "09:00", "on": "tue"}, "on= goes with whole weeks"),
            ({"hours": 5, "at": "09:00"}, "expected whole days or weeks with at=, got '5h'"),
            ({"days": 2, "at": "24:00"}, "expected a local time such as \"09:00\", got '24:00'"),
            ({"days": 2, "at": "9 pm"}, "got '9 pm': hours count from 0 to 23"),
            ({"weeks": 1, "at": "09:00", "on": "fri#2"}, "expected weekdays such as mon,thu"),
            ({"days": 2, "at": "09:00", "anchor": "soon"}, "expected anchor as 2026-03-01, "),
            ({"days": 2, "at": "09:00", "tz": "CST"}, "write a city, such as 'America/Chicago'"),
            ({"minutes": 5, "on": "mon"}, 'on= goes with a local time, such as at="09:00"'),
        ],
    )
    def test_a_fault_says_what_is_missing(self, args: dict[str, Any], text: str) -> None:
        assert any(text in found for found in texts(lambda: every(**args)))


class TestBounds:
    def test_start_and_end_are_included(self) -> None:
        start, end = at("2026-01-02T03:00Z"), at("2026-01-04T03:00Z")
        trigger = cron("0 3 * * *", start=start, end=end)
        assert fires(trigger, "2020-01-01T00:00Z", 9) == [f"2026-01-0{n}T03:00Z" for n in (2, 3, 4)]
        assert trigger.latest_at(at("2030-01-01T00:00Z")) == end
        assert trigger.latest_at(at("2026-01-02T02:59Z")) is None
        assert trigger.count(at("2020-01-01T00:00Z"), at("2030-01-01T00:00Z")) == 3
        assert trigger.count(at("2030-01-01T00:00Z"), at("2030-01-02T00:00Z")) == 0

    def test_texts_are_on_the_clock_of_the_zone_and_a_date_ends_with_its_day(self) -> None:
        trigger = cron("0 * * * *", "Europe/Berlin", start="2026-07-01", end="2026-07-02")
        assert trigger.start == at("2026-06-30T22:00Z")
        assert trigger.end == at("2026-07-02T21:59:59.999Z")
        assert trigger.count(at("2026-01-01T00:00Z"), at("2027-01-01T00:00Z")) == 48

    @pytest.mark.parametrize(
        ("trigger", "last"),
        [
            (cron("0 3 * * *", start="2026-01-02", max_runs=1), "2026-01-02T03:00Z"),
            (cron("0 3 * * *", start="2026-01-02T03:00", max_runs=3), "2026-01-04T03:00Z"),
            # a gap on the way: in 2026-03 one time for two nominal ones
            (
                cron("0,30 2 * * *", "Europe/Berlin", start="2026-03-28T12:00Z", max_runs=2),
                "2026-03-30T00:00Z",
            ),
            (cron("* * * * *", start="2026-01-01", max_runs=10_000), "2026-01-07T22:39Z"),
            (cron("0 0 29 2 *", start="2026-01-01", max_runs=20), "2108-02-29T00:00Z"),
            (every(minutes=5, start="2026-01-01", max_runs=13), "2026-01-01T01:00Z"),
            (
                every(weeks=2, at="09:00", start="2026-01-06", max_runs=3),
                "2026-02-03T09:00Z",
            ),
            (
                cron("0 3 * * *", start="2026-01-02", max_runs=9, end="2026-01-03"),
                "2026-01-03T03:00Z",
            ),
        ],
    )
    def test_it_ends_at_the_nth_fire_time_from_its_start(self, trigger: Trigger, last: str) -> None:
        assert iso(trigger.latest_at(at("9000-01-01T00:00Z"))) == last
        assert trigger.next_after(at(last)) is None
        assert from_spec(trigger.spec()) == trigger

    def test_the_number_is_exact_whatever_part_is_asked_for(self) -> None:
        trigger = cron("*/7 * * * *", start="2026-01-01", max_runs=1_000)
        middle = at("2026-01-03T01:02Z")
        before = trigger.count(at("2020-01-01T00:00Z"), middle)
        assert before + trigger.count(middle, at("2030-01-01T00:00Z")) == 1_000

    @pytest.mark.parametrize(
        ("args", "fields"),
        [
            ({"max_runs": 5}, ["start"]),
            ({"start": "2026-01-01", "max_runs": 0}, ["maxRuns"]),
            ({"start": "2026-01-01", "max_runs": 10_001}, ["maxRuns"]),
            ({"start": "2026-01-01", "max_runs": True}, ["maxRuns"]),
            ({"start": "9899-01-01", "max_runs": 400}, ["maxRuns"]),
            ({"start": "2026-01-02", "end": "2026-01-01"}, ["end"]),
            ({"start": "2026-01-01T03:01", "end": "2026-01-02T02:59"}, ["end"]),  # it never fires
            ({"start": datetime(2026, 1, 1), "end": 5}, ["start", "end"]),  # noqa: DTZ001
            ({"end": "1969-01-01"}, ["end"]),
        ],
    )
    def test_bounds_that_cannot_be_are_refused(
        self, args: dict[str, Any], fields: list[str]
    ) -> None:
        assert [fault.field for fault in faults(lambda: cron("0 3 * * *", **args))] == fields

    @pytest.mark.parametrize(
        "trigger",
        [
            cron("0 3 * * *"),
            cron("0 3 * * *", end="9899-12-30"),
            cron("0 0 29 2 *", start="9890-01-01", max_runs=2),
            every(days=18_000, anchor="9890-01-01"),
            every(days=18_000, at="09:00"),
            every(milliseconds=10),
            once(at("9899-12-31T00:00Z")),
        ],
    )
    def test_no_instant_of_the_calendar_raises(self, trigger: Trigger) -> None:
        ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
        for t in [*ends, at("9899-12-31T23:59Z"), at("9900-01-01T00:00Z"), at("1969-12-31T00:00Z")]:
            following, latest = trigger.next_after(t), trigger.latest_at(t)
            assert following is None or t < following < at("9900-01-01T00:00Z")
            assert latest is None or latest <= t
            assert trigger.count(ends[0], t) >= 0 <= trigger.count(t, ends[1])


class TestWarnings:
    @pytest.mark.parametrize(
        ("trigger", "warning"),
        [
            (
                cron("*/7 * * * *"),
                "'*/7' in '*/7 * * * *' starts again with each hour, after a step shorter than 7; "
                "every(minutes=7) has equal steps",
            ),
            (
                cron("0 0/5 * * *"),
                "'0/5' in '0 0/5 * * *' starts again with each day, after a step shorter than 5; "
                "every(hours=5) has equal steps",
            ),
            (
                cron("0 9 */2 * *"),
                "'*/2' in '0 9 */2 * *' starts again with each month, after a step shorter than 2; "
                'every(days=2, at="09:00") has equal steps',
            ),
            (
                cron("0 3 * * *", "EST"),
                "zone 'EST' is UTC-5 all year; better a city, such as 'America/New_York', which "
                "has daylight saving",
            ),
            (
                every(days=1, at="03:00", tz="HST"),
                "zone 'HST' is UTC-10 all year; better a city, such as 'Pacific/Honolulu'",
            ),
            (
                cron("0 3 * * *", "Etc/GMT+5"),
                "zone 'Etc/GMT+5' is 5 h behind UTC: its sign is reversed; better a city",
            ),
        ],
    )
    def test_name_the_remedy(self, trigger: Trigger, warning: str) -> None:
        assert trigger.warnings() == [warning]

    @pytest.mark.parametrize("text", ["*/5 */3 * */4 */7", "*/7 3 * * *", "10-50/7 * * * *"])
    def test_steps_that_end_evenly_or_within_one_hour_have_none(self, text: str) -> None:
        assert cron(text).warnings() == []


class TestOnce:
    def test_fires_at_its_instant_and_never_again(self) -> None:
        trigger = once(at("2026-03-29T03:00+02:00"))
        assert fires(trigger, "2026-03-29T00:59Z", 5) == ["2026-03-29T01:00Z"]
        assert fires(trigger, "2026-03-29T01:00Z", 5) == []
        assert iso(trigger.latest_at(at("2026-03-29T01:00Z"))) == "2026-03-29T01:00Z"
        assert trigger.latest_at(at("2026-03-29T00:59Z")) is None

    def test_is_never_early(self) -> None:
        assert once("2026-03-29T03:00+02:00") == once(at("2026-03-29T01:00Z"))
        assert once(at("2026-01-01T00:00:00.000001Z")) == Once(at("2026-01-01T00:00:00.001Z"))
        assert once(at("2026-01-01T00:00:00.001Z")) == Once(at("2026-01-01T00:00:00.001Z"))

    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            (
                "2026-01-01",
                "expected once as a date and time such as 2026-03-29T02:30:00Z, in 1970-9899, "
                "got '2026-01-01'",
            ),
            (None, "expected an aware datetime, got None"),
            (
                datetime(2026, 1, 1),  # noqa: DTZ001
                "expected an aware datetime, got 2026-01-01T00:00:00: "
                "give it a zone, such as tzinfo=timezone.utc",
            ),
        ],
    )
    def test_a_fault_says_what_was_expected_and_what_came(self, value: Any, fault: str) -> None:
        assert faults(lambda: once(value)) == [Fault("once", fault)]


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
            (
                cron("0 3 * * *", start="2026-01-01", end=at("2026-02-01T00:00Z"), max_runs=9),
                {
                    "cron": "0 3 * * *",
                    "tz": "UTC",
                    "start": 1_767_225_600_000,
                    "end": 1_769_904_000_000,
                    "maxRuns": 9,
                },
            ),
            (every(minutes=5, start="2026-01-01"), {"every": 300_000, "start": 1_767_225_600_000}),
            (
                every(minutes=5, start="2026-01-01", anchor="1970-01-01"),
                {"every": 300_000, "start": 1_767_225_600_000, "anchor": 0},
            ),
            (
                every(weeks=2, at="9:05", on="sun,mon", anchor="2026-01-06", tz="Europe/Berlin"),
                {
                    "every": 1_209_600_000,
                    "at": "09:05",
                    "tz": "Europe/Berlin",
                    "on": "mon,sun",
                    "anchor": "2026-01-06",
                },
            ),
        ],
    )
    def test_reads_back_as_the_same_trigger(self, trigger: Trigger, spec: dict[str, Any]) -> None:
        assert trigger.spec() == spec
        assert from_spec(spec) == trigger

    def test_a_faulty_trigger_of_the_right_shape_is_refused_with_its_faults(self) -> None:
        assert len(faults(lambda: from_spec({"cron": "61 3 * * *", "tz": "Mars"}))) == 2
        assert len(faults(lambda: from_spec({"every": -1}))) == 1

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
            {"once": 0, "start": 0},
            {"cron": "0 3 * * *", "start": "2026-01-01"},
            {"every": 1000, "at": "09:00"},
            {"every": 86_400_000, "at": 540},
            {"every": 86_400_000, "at": "09:00", "anchor": 7},
        ],
    )
    def test_another_shape_is_refused(self, spec: dict[str, Any]) -> None:
        with pytest.raises(ScheduleError, match=r"expected \{\"cron\": text, \"tz\": zone\}"):
            from_spec(spec)
