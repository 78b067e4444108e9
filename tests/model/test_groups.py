"""Groups of jobs that no schedule makes."""

from __future__ import annotations

from typing import Any

import pytest

from rq_clock import ScheduleError, in_group
from rq_clock.run import from_meta


def test_a_group_travels_in_the_meta_of_a_job_and_makes_no_run_of_it() -> None:
    meta = in_group("shop:7", 2) | {"shop": 7}
    assert meta == {"rq_clock": {"group": "shop:7", "group_limit": 2}, "shop": 7}
    assert from_meta(meta) is None


@pytest.mark.parametrize(
    ("group", "limit", "fields"),
    [
        ("", 1, ["group"]),
        ("two words", 1, ["group"]),
        ("x" * 101, 1, ["group"]),
        (7, 1, ["group"]),
        ("a", 0, ["groupLimit"]),
        ("a", True, ["groupLimit"]),
        ("a", "2", ["groupLimit"]),
        (None, -1, ["group", "groupLimit"]),
    ],
)
def test_every_fault_of_a_group_is_reported(group: Any, limit: Any, fields: list[str]) -> None:
    with pytest.raises(ScheduleError) as failure:
        in_group(group, limit)
    assert [fault.field for fault in failure.value.faults] == fields
