"""Job ids: what the id of a run names. No server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rq_clock.model.job_id import JobId, jobs_by_schedule

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MS = 1767225600000


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"default-daily-{MS}", ("default", "daily", "", "")),
        (f"default-daily-{MS}-m7", ("default", "daily", "m", "7")),
        (f"default-daily-{MS}-b0{MS}", ("default", "daily", "b", f"0{MS}")),
        (f"default-a-b_C-1-{MS}", ("default", "a-b_C-1", "", "")),
        (f"default-daily-5-m1-{MS}", ("default", "daily-5-m1", "", "")),
        (f"a_1-x-{MS}-m1-{MS}-m2", ("a_1", f"x-{MS}-m1", "m", "2")),
    ],
)
def test_an_id_is_read_as_it_is_written(text: str, parts: tuple[str, str, str, str]) -> None:
    namespace, schedule, kind, number = parts
    id = JobId(namespace, schedule, NEW_YEAR, kind, number)
    assert JobId.parse(text) == id
    assert str(id) == text


@pytest.mark.parametrize(
    "text",
    ["", "4f6f", "default-daily", f"Default-daily-{MS}", f"default-daily-{MS}-x1",
     f"default-daily-{MS}-m", f"default-daily-{MS}\n", "default-daily-99999999999999999"],
)  # fmt: skip
def test_another_id_has_no_parts(text: str) -> None:
    assert JobId.parse(text) is None


def test_runs_of_one_fire_time_are_recognised_whoever_enqueued_them() -> None:
    by_clock, by_hand = JobId("a", "daily", NEW_YEAR), JobId("a", "daily", NEW_YEAR, "m", "1")
    assert by_hand.same_fire_time(by_clock)
    assert not by_hand.same_fire_time(JobId("a", "hourly", NEW_YEAR))
    assert not by_hand.same_fire_time(JobId("b", "daily", NEW_YEAR))
    assert [id.ledger_codes for id in (by_clock, by_hand)] == ["[sc]", "m"]


def test_jobs_are_sorted_by_the_schedules_of_the_namespace() -> None:
    jobs = [f"a-x-{MS}", f"a-x-{MS}-m1", f"a-y-{MS}-b2", f"b-z-{MS}", "4f6f"]
    assert jobs_by_schedule("a", jobs) == {"x": f"a-x-{MS}-m1", "y": f"a-y-{MS}-b2"}
