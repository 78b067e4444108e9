"""The grid of a schedule's last 30 days. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from rq_clock.web.pages.day_grid import DAYS, day_grid, totals

NOW = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
TODAY = 20543


def test_it_has_thirty_days_and_today_is_the_last() -> None:
    grid = day_grid({TODAY: (3, 0), TODAY - 29: (0, 2), TODAY - 30: (9, 9)}, NOW)
    assert len(grid) == DAYS
    assert grid[-1].text == "Tue 31 Mar 2026: 3 succeeded, 0 failed"
    assert grid[0].text == "Mon 02 Mar 2026: 0 succeeded, 2 failed"
    assert totals({TODAY: (3, 0), TODAY - 30: (9, 9)}, NOW) == "3 succeeded, 0 failed"


def test_a_day_is_read_by_its_sign_as_well_as_by_its_colour() -> None:
    counts = {TODAY: (1, 0), TODAY - 1: (0, 1), TODAY - 2: (5, 1)}
    *_, none, some, bad, ok = day_grid(counts, NOW)
    assert [day.sign for day in (none, some, bad, ok)] == ["·", "!", "✕", "✓"]
    assert [day.look for day in (none, some, bad, ok)] == ["none", "warn", "bad", "ok"]
    assert none.text == "Sat 28 Mar 2026: no run ended"
    assert totals({}, NOW) == "no run has ended"
