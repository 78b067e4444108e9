"""Times as people write them: what each means, at literal instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from rq_clock.cli.params import instant, shown, shown_jitter, shown_span
from rq_clock.timing.durations import read_span

NOW = datetime(2026, 3, 28, 22, 30, 15, tzinfo=UTC)  # in Berlin 23:30:15, clocks go on that night


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-29", "2026-03-28T23:00Z"),
        ("2026-03-29T02:30", "2026-03-29T01:30Z"),  # not there: as far behind the gap
        ("2026-03-29T04:00", "2026-03-29T02:00Z"),
        ("2026-03-29T04:00Z", "2026-03-29T04:00Z"),
        ("2026-03-29 04:00+09:00", "2026-03-28T19:00Z"),
        ("2026-10-25T02:30", "2026-10-25T00:30Z"),  # twice: the first
        ("now", "2026-03-28T22:30:15Z"),
        ("now-2h", "2026-03-28T20:30:15Z"),
        ("now + 1d12h", "2026-03-30T10:30:15Z"),
        ("today", "2026-03-27T23:00Z"),
        ("yesterday 9:05", "2026-03-27T08:05Z"),
        ("tomorrow 09:00", "2026-03-29T07:00Z"),
        ("tomorrow 09:00:30", "2026-03-29T07:00:30Z"),
        ("23:45", "2026-03-28T22:45Z"),
        (" 23:45 ", "2026-03-28T22:45Z"),
    ],
)
def test_an_instant_is_on_the_clock_of_its_zone(text: str, expected: str) -> None:
    assert instant(text, "--from", NOW, tz="Europe/Berlin") == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    "text",
    ["", "someday", "25:00", "2026-02-30", "2026-13-01", "now-", "now-soon", "nowadays",
     "tomorrow 9 o'clock", "2h", "now-99999999999d", "9999-12-31T23:59-12:00"],
)  # fmt: skip
def test_what_is_none_names_the_option_and_what_came(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected an instant such as") as told:
        instant(text, "--from", NOW)
    assert told.value.param_hint == "--from"
    assert repr(text.strip()) in told.value.message


def test_an_age_is_one_only_where_it_makes_sense() -> None:
    assert instant("2h", "--since", NOW, ages=True) == NOW - timedelta(hours=2)
    assert instant("1h30m", "--since", NOW, ages=True) == NOW - timedelta(minutes=90)


def test_the_end_of_a_span_of_dates_is_the_end_of_its_last_day() -> None:
    end = instant("2026-03-29", "--to", NOW, tz="Europe/Berlin", whole_day=True)
    assert end == datetime(2026, 3, 29, 21, 59, 59, 999_000, tzinfo=UTC)
    assert instant("today", "--to", NOW, whole_day=True).date() == NOW.date()
    at_midnight = instant("2026-03-29T00:00", "--to", NOW, whole_day=True)
    assert at_midnight == datetime(2026, 3, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("1.5", 1.5), ("500ms", 0.5), ("90s", 90), ("15m", 900), ("1h30m", 5400),
        ("2d", 172_800), ("1w", 604_800), ("", None), ("h", None), ("1x", None), ("-1h", None),
        ("1 h", None), ("99999999999999w", None),
    ],
)  # fmt: skip
def test_a_duration(text: str, seconds: float | None) -> None:
    found = read_span(text)
    assert (found and found / timedelta(seconds=1)) == seconds


def test_what_is_shown_names_its_zone() -> None:
    assert shown(NOW) == "Sat 2026-03-28 22:30:15 UTC"
    assert shown(NOW + timedelta(milliseconds=5)) == "Sat 2026-03-28 22:30:15.005 UTC"
    berlin = "Sat 2026-03-28 23:30:15 Europe/Berlin  (2026-03-28T22:30:15Z)"
    assert shown(NOW, "Europe/Berlin") == berlin


def test_lengths_are_told_roughly() -> None:
    told = [shown_span(timedelta(seconds=s)) for s in (0.014, 1, 119, 120, 7200, 172_800)]
    assert told == ["14 ms", "1 s", "119 s", "2 min", "2 h", "2 d"]
    offsets = [timedelta(0), timedelta(milliseconds=12_345), timedelta(milliseconds=7)]
    assert [shown_jitter(o) for o in offsets] == ["", "+12.3 s jitter", "+7 ms jitter"]
