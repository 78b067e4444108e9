"""The configuration of callbacks: read, checked, stored."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from rq_clock.errors import ScheduleError
from rq_clock.model.callbacks import Configuration, from_text
from rq_clock.model.view import camel


def test_what_is_stored_is_read_again() -> None:
    changed = Configuration().changed(
        {"hostConcurrency": 3, "hostRate": 0.5, "retryDelays": [1, 2.25], "mode": "steady"}
    )
    for configuration in (Configuration(), changed):
        assert Configuration.from_stored(configuration.stored()) == configuration


def test_both_spellings_are_read_and_not_at_once() -> None:
    assert Configuration().changed({"base_interval_ms": 7}).base_interval_ms == 7
    assert Configuration().changed({"baseIntervalMs": 7}).base_interval_ms == 7
    with pytest.raises(ScheduleError, match="expected baseIntervalMs once"):
        Configuration().changed({"baseIntervalMs": 7, "base_interval_ms": 8})


@pytest.mark.parametrize("field", [f.name for f in fields(Configuration)])
@pytest.mark.parametrize("value", ["x", -1, 10**12, [], {}, True, float("nan")])
def test_a_wrong_value_is_one_fault(field: str, value: Any) -> None:
    with pytest.raises(ScheduleError) as refused:
        Configuration().changed({field: value})
    assert [fault.field for fault in refused.value.faults] == [camel(field)]


def test_only_the_limits_of_hosts_may_be_none() -> None:
    for f in fields(Configuration):
        if f.name.startswith("host_"):
            assert getattr(Configuration().changed({f.name: None}), f.name) is None
        else:
            with pytest.raises(ScheduleError):
                Configuration().changed({f.name: None})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("select_size", "50", 50),
        ("host_rate", "2.5", 2.5),
        ("host_rate", "none", None),
        ("host_concurrency", "-", None),
        ("mode", "off", "off"),
        ("retry_delays", "1,2.5, 60", (1, 2.5, 60)),
        ("select_size", "many", "many"),
    ],
)
def test_texts_of_the_command_line_are_values(name: str, text: str, value: Any) -> None:
    assert from_text(name, text) == value
