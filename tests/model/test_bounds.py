"""Whatever anybody declares is refused with ScheduleError, or can be stored, read back and decided:
each place of a declaration with each odd value. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rq_clock.clock.clock import Clock
from rq_clock.errors import ScheduleError
from rq_clock.model.decision import due
from rq_clock.model.schedule import STORED, declare, from_definition
from rq_clock.model.targets import command, webhook
from rq_clock.store.audit import Actor
from rq_clock.timing.triggers import cron, every, once

NOW = datetime(2026, 3, 1, tzinfo=UTC)
URL = "https://example.com/hook"
HOUR = every(hours=1)


class Silent:
    """Has no text to show."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __call__(self) -> None: ...


class Text(str):
    """A text that is not just one."""

    __slots__ = ()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value += [value, value]
    return value


NUMBERS = (
    True, 0, 1, -1, -2, 10**5000, -(10**5000), 2**53, 2**64, 10**9, 10**10, 1e308, 1e11, 0.5, 1e-9,
    -0.0, float("inf"), float("nan"), 50 * 366 * 86400, 5e-324,
)  # fmt: skip
TIMES = (
    timedelta.max, timedelta.min, timedelta(0), timedelta(microseconds=1), timedelta(days=18300),
    datetime.fromisoformat("9999-12-31"), datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    datetime(9899, 12, 31, tzinfo=UTC), date.max, ZoneInfo("UTC"),
)  # fmt: skip
TEXTS = (
    "", "x" * 600_000, "1" * 5000, "\ud800", "a\udc80", "\0", "\r\n", "\u2028", "\x1b[31m", "5m",
    "all", "none", "skip", "allow", URL, f"https://{'a' * 99_000}", "http://[::1", b"", b"\xff",
    Text("a"), Text("\ud800"), Path("/x"),
)  # fmt: skip
CONTAINERS: tuple[Any, ...] = (
    [], {}, (), [None], ["a"], ["a"] * 100_000, ["x" * 600_000], [10**5000], [Silent()], (("a",),),
    [float("nan")], [Text("\ud800")], {"a": 10**5000}, {10**5000: 1}, {"x" * 600_000: 1}, {1: 2},
    {"a": "b"}, {"\ud800": "b"}, {"a": "\ud800"}, {"a": {"b": b""}}, {"self": 1}, {1}, endless(),
    nested(63), nested(989), nested(100_000),
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, *NUMBERS, *TIMES, *TEXTS, *CONTAINERS, Silent(), object, len, partial(len), Ellipsis,
)  # fmt: skip


def options(option: str, *, inside: Any = None, **others: Any) -> Callable[[Any], Any]:
    def make(value: Any) -> Any:
        inner = [value] if inside is list else {"a": value} if inside is dict else value
        return declare("x", HOUR, "tasks.x", {option: inner} | others)

    return make


_days = partial(every, days=2, at="0:00")

PLACES: dict[str, Callable[[Any], Any]] = {
    **{option: options(option) for option in STORED.values()},
    **{f"{option}[]": options(option, inside=list) for option in ("args", "tags", "retries")},
    "kwargs{}": options("kwargs", inside=dict),
    "catch_up_limit of all": options("catch_up_limit", catch_up="all"),
    "limit of a group": options("group_limit", group="g"),
    "renamed_from": options("renamed_from"),
    "name": lambda v: declare(v, HOUR, "tasks.x", {}),
    "trigger": lambda v: declare("x", v, "tasks.x", {}),
    "target": lambda v: declare("x", HOUR, v, {}),
    "once": lambda v: declare("x", once(v), "tasks.x", {"jitter": 60}),
    "cron": lambda v: declare("x", cron(v), "tasks.x", {}),
    "tz": lambda v: declare("x", cron("0 3 * * *", v), "tasks.x", {}),
    "every": lambda v: declare("x", every(weeks=v), "tasks.x", {}),
    "anchor": lambda v: declare("x", every(hours=1, anchor=v), "tasks.x", {}),
    "period": lambda v: declare("x", every(v), "tasks.x", {}),
    "at": lambda v: declare("x", every(days=2, at=v), "tasks.x", {}),
    "start of days": lambda v: declare("x", _days(tz="America/New_York", start=v), "tasks.x", {}),
    "end of days": lambda v: declare("x", _days(tz="Asia/Tokyo", end=v), "tasks.x", {}),
    "anchor of days, west": lambda v: declare("x", _days(tz="Etc/GMT+9", anchor=v), "tasks.x", {}),
    "anchor of days, east": lambda v: declare("x", _days(tz="Asia/Tokyo", anchor=v), "tasks.x", {}),
    "weeks at": lambda v: declare("x", every(weeks=v, at="9:00", on="mon"), "tasks.x", {}),
    "seconds at": lambda v: declare("x", every(seconds=v, at="9:00"), "tasks.x", {}),
    "on": lambda v: declare("x", every(weeks=1, at="9:00", on=v), "tasks.x", {}),
    "date": lambda v: declare("x", every(weeks=1, at="9:00", anchor=v), "tasks.x", {}),
    "start": lambda v: declare("x", cron("0 3 * * *", start=v), "tasks.x", {}),
    "end": lambda v: declare("x", every(hours=1, end=v), "tasks.x", {}),
    "max_runs": lambda v: declare("x", every(hours=1, start=NOW, max_runs=v), "tasks.x", {}),
    "shell": lambda v: declare("x", HOUR, command(v), {}),
    "command's timeout": lambda v: declare("x", HOUR, command("x", timeout=v), {}),
    "cwd": lambda v: declare("x", HOUR, command("x", cwd=v), {}),
    "env": lambda v: declare("x", HOUR, command("x", env=v), {}),
    "env{}": lambda v: declare("x", HOUR, command("x", env={"A": v}), {}),
    "url": lambda v: declare("x", HOUR, webhook(v), {}),
    "method": lambda v: declare("x", HOUR, webhook(URL, method=v), {}),
    "headers": lambda v: declare("x", HOUR, webhook(URL, headers=v), {}),
    "headers{}": lambda v: declare("x", HOUR, webhook(URL, headers={"A": v}), {}),
    "json": lambda v: declare("x", HOUR, webhook(URL, json=v), {}),
    "call's timeout": lambda v: declare("x", HOUR, webhook(URL, timeout=v), {}),
}


@pytest.mark.parametrize("place", PLACES)
def test_any_value_is_refused_with_its_faults_or_can_be_decided(place: str) -> None:
    outcomes = set()
    for value in ODD:
        try:
            declared = PLACES[place](value)
        except ScheduleError as error:
            text = str(error)
            text.encode()
            assert max(map(len, text.splitlines())) < 600
            outcomes.add("refused")
            continue
        definition = declared.definition()
        assert len(definition.encode()) < 700_000
        kept = from_definition("x", definition)
        assert kept.definition() == definition
        for now in (NOW, NOW + timedelta(days=1), datetime(9899, 12, 31, tzinfo=UTC)):
            assert due(kept, NOW, now).marker <= now
    assert "refused" in outcomes


def test_a_name_that_cannot_be_one_is_a_fault_of_the_clock_too() -> None:
    clock = Clock()
    for name in (["a"], None, Silent(), 10**5000):
        with pytest.raises(ScheduleError, match="expected a name of 1-100 letters"):
            clock.add(name, HOUR, "tasks.x")  # type: ignore[arg-type]


def test_very_many_faults_are_not_all_listed() -> None:
    with pytest.raises(ScheduleError) as caught:
        declare("x", HOUR, "tasks.x", {"args": [b""] * 100_000})
    assert len(caught.value.faults) == 100


@pytest.mark.parametrize("reason", ["x" * 501, "x" * 1_000_000, "\ud800", 7, None])
def test_a_reason_that_the_audit_cannot_keep_is_refused(reason: Any) -> None:
    with pytest.raises(ScheduleError, match="expected reason"):
        Actor(by="ana", reason=reason)
    with pytest.raises(ScheduleError, match="expected by"):
        Actor(by=reason)
