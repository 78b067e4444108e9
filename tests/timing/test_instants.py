"""Instants and durations as people write them: what each text means, by literal instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rq_clock.errors import ScheduleError
from rq_clock.timing.durations import duration_or_none, duration_spec, duration_text, read_duration
from rq_clock.timing.instants import LONGEST, iso, read_instant

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
def test_a_text_is_read_by_the_clock_of_its_zone(text: str, expected: str) -> None:
    assert read_instant(text, "Europe/Berlin", now=NOW) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    "text",
    ["", "someday", "25:00", "2026-02-30", "2026-13-01", "now-", "now-soon", "nowadays",
     "tomorrow 9 o'clock", "2h", "now-99999999999d", "9999-12-31T23:59-12:00",
     "1969-12-31T23:59Z", "9900-01-01T00:00Z", "now-99999d", 42, None, ["now"]],
)  # fmt: skip
def test_anything_else_names_the_field_and_the_value(text: Any) -> None:
    with pytest.raises(ScheduleError, match=r"^expected from as a date and time such as") as raised:
        read_instant(text, "UTC", now=NOW, field="from")
    got = repr(text.strip()) if isinstance(text, str) else type(text).__name__
    assert str(raised.value).endswith(f"or now-2h, 'tomorrow 09:00', in 1970-9899, got {got}")


def test_a_hostile_text_is_cut_in_the_error() -> None:
    with pytest.raises(ScheduleError) as raised:
        read_instant("9" * 10_000)
    assert len(str(raised.value)) < 200 + LONGEST


def test_without_a_zone_the_text_must_name_one() -> None:
    expected = datetime(2026, 3, 29, tzinfo=UTC)
    assert read_instant("2026-03-29T02:00+02:00") == expected
    assert read_instant(datetime.fromisoformat("2026-03-29T02:00+02:00")) == expected
    for value in ("2026-03-29T00:00", "2026-03-29", expected.replace(tzinfo=None)):
        with pytest.raises(ScheduleError, match=r"such as 2026-03-29T02:30:00Z, in 1970-9899, got"):
            read_instant(value)
    local = expected.replace(tzinfo=None)
    assert read_instant(local, "Europe/Berlin") == expected - timedelta(hours=1)


@pytest.mark.parametrize("text", ["now", "now-2h", "today", "tomorrow 09:00", "18:00"])
def test_relative_texts_take_a_now(text: str) -> None:
    with pytest.raises(ScheduleError, match="got"):
        read_instant(text, "UTC")


def test_an_age_is_read_only_where_ages_are_allowed() -> None:
    assert read_instant("2h", "UTC", now=NOW, ages=True) == NOW - timedelta(hours=2)
    assert read_instant("1h30m", "UTC", now=NOW, ages=True) == NOW - timedelta(minutes=90)


def test_the_end_of_a_span_of_dates_is_the_end_of_its_last_day() -> None:
    end = read_instant("2026-03-29", "Europe/Berlin", whole_day=True)
    assert end == datetime(2026, 3, 29, 21, 59, 59, 999_000, tzinfo=UTC)
    assert iso(read_instant("today", "UTC", now=NOW, whole_day=True)) == "2026-03-28T23:59:59.999Z"
    at_midnight = read_instant("2026-03-29T00:00", "UTC", whole_day=True)
    assert at_midnight == datetime(2026, 3, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("1.5", 1.5), ("500ms", 0.5), ("90s", 90), ("15m", 900), ("1h30m", 5400),
        ("2d", 172_800), ("1w", 604_800), ("", None), ("h", None), ("1x", None), ("-1h", None),
        ("1 h", None), ("\u0661h", None), ("99999999999999w", None),
    ],
)  # fmt: skip
def test_a_duration(text: str, seconds: float | None) -> None:
    found = duration_or_none(text)
    assert (found and found / timedelta(seconds=1)) == seconds


def test_a_text_that_is_no_duration_is_refused_with_the_value() -> None:
    assert read_duration("1 h 30 m") == timedelta(minutes=90)
    with pytest.raises(ScheduleError, match=r"expected a duration such as 90s.*, got 'often'"):
        read_duration("often")


@pytest.mark.parametrize(
    ("seconds", "spec", "text"),
    [
        (0, "0s", "0 ms"),
        (0.014, "14ms", "14 ms"),
        (1, "1s", "1 s"),
        (4.712, "4712ms", "4.7 s"),
        (90, "90s", "1 min 30 s"),
        (7200, "2h", "2 h"),
        (7500, "125m", "2 h 5 min"),
        (172_800, "2d", "2 d"),
        (200_000, "200000s", "2 d 7 h"),
    ],
)
def test_a_duration_is_printed_exactly_to_be_read_and_roughly_for_people(
    seconds: float, spec: str, text: str
) -> None:
    duration = timedelta(seconds=seconds)
    assert (duration_spec(duration), duration_text(duration)) == (spec, text)
    assert read_duration(spec) == duration
