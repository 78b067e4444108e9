"""What the parameters of commands name when they fail, and how instants are printed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from rq_clock.cli.params import instant, shown, shown_jitter

NOW = datetime(2026, 3, 28, 22, 30, 15, tzinfo=UTC)


def test_a_faulty_instant_names_the_option() -> None:
    with pytest.raises(click.BadParameter, match=r"2h \(an age\).*, got 'someday'") as raised:
        instant("someday", "--from", NOW, ages=True)
    assert raised.value.param_hint == "--from"


def test_an_instant_is_printed_with_its_zone() -> None:
    assert shown(NOW) == "Sat 2026-03-28 22:30:15 UTC"
    assert shown(NOW + timedelta(milliseconds=5)) == "Sat 2026-03-28 22:30:15.005 UTC"
    berlin = "Sat 2026-03-28 23:30:15 Europe/Berlin  (2026-03-28T22:30:15Z)"
    assert shown(NOW, "Europe/Berlin") == berlin


def test_jitter_is_printed_as_the_added_delay() -> None:
    offsets = [timedelta(0), timedelta(milliseconds=12_345), timedelta(milliseconds=7)]
    assert [shown_jitter(o) for o in offsets] == ["", "+12 s jitter", "+7 ms jitter"]
