"""The functions that a token without the scope `commands` may schedule."""

from __future__ import annotations

import functools
import os
import subprocess
from typing import Any

import pytest

from rq_clock.clock.packages import own_packages
from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.model.allowlist import is_allowed, limited, packages_of, refusal
from rq_clock.model.schedule import Schedule, declare, from_definition
from rq_clock.model.targets import command, dyno, webhook
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every


def plain() -> None:
    """A function of this module."""


class Kind(subprocess.Popen[bytes]):
    """A class of this module that inherits from elsewhere."""


class Own:
    """One that does not."""

    def __init__(self, text: str) -> None:
        self.text = text


HERE = __name__
_method: Any = getattr


def schedule(target: Any, **options: Any) -> Schedule:
    return declare("x", every(hours=1), target, options)


@pytest.mark.parametrize(
    ("name", "patterns", "allowed"),
    [
        ("tasks.feeds.refresh", ["tasks.*"], True),
        ("tasks.feeds.refresh", ["tasks"], True),
        ("tasks.feeds.refresh", ["tasks.feeds.refresh"], True),
        ("tasks.feeds.refresh", ["*.refresh"], True),
        ("tasksmith.run", ["tasks", "tasks.*"], False),
        ("billing.close", ["tasks.*"], False),
        ("tasks.feeds.refresh", [], False),
        *[
            (name, ["*"], False)
            for name in ("subprocess.run", "builtins.eval", "os.system", "posix.system",
                         "rq_clock.runners.run_command", "__main__.run")
        ],
    ],
)  # fmt: skip
def test_patterns_cover_what_is_below_them_and_never_the_standard_library(
    name: str, patterns: list[str], allowed: bool
) -> None:
    assert is_allowed(name, patterns) is allowed


def test_the_default_is_the_packages_of_the_declared_functions() -> None:
    targets: list[Any] = [
        "tasks.a.f",
        "tasks.b.g",
        "billing.close",
        "os.sync",
        command("ls"),
        "rq_clock.x.y",
    ]
    assert packages_of(targets) == ["billing", "tasks"]
    assert own_packages(["absent", "click", "dateutil", "tests"]) == ["absent", "tests"]


@pytest.mark.parametrize("text", ["tasks.", "tasks/*", "a b;c", "[a-z]*", "x" * 201])
def test_a_wrong_pattern_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(RqClockError, match=r"RQ_CLOCK_TARGETS: expected names of functions"):
        Settings.from_env({"RQ_CLOCK_TARGETS": text})


@pytest.mark.parametrize(
    "function",
    [
        os.system, subprocess.run, functools.partial(plain), _method(plain, "__call__"),
        plain.__globals__.update, Kind.__subclasses__, Kind.communicate, eval, print,
    ],
)  # fmt: skip
def test_the_worker_refuses_what_a_harmless_name_leads_to(function: Any) -> None:
    reason = refusal(f"{HERE}.thing", lambda: function, [HERE])
    assert reason.startswith(f"expected a function of {HERE}, got {HERE}.thing, which is ")


def test_the_worker_imports_nothing_for_a_name_that_is_refused() -> None:
    def resolve() -> None:
        raise AssertionError("imported")

    assert "got os.system" in refusal("os.system", resolve, [HERE])
    assert "no command" in refusal("rq_clock.runners.run_command", resolve, ["*"])
    assert "no command" in refusal("rq_clock.runners.run_dyno", resolve, ["*"])
    assert refusal("rq_clock.runners.call_webhook", resolve, []) == ""
    assert refusal(f"{HERE}.plain", lambda: plain, [HERE]) == ""
    assert refusal(f"{HERE}.Own", lambda: Own, [f"{HERE}.*"]) == ""
    assert "which begins with subprocess.Popen" in refusal(f"{HERE}.Kind", lambda: Kind, [HERE])


class TestDefinitions:
    ALLOWED = ("tasks",)

    @pytest.mark.parametrize(
        ("new", "was", "field"),
        [
            (schedule(command("ls")), None, "command.shell"),
            (schedule(dyno("ls")), None, "dyno.shell"),
            (schedule(dyno("ls")), schedule(command("ls")), "dyno.shell"),
            (schedule(command("ls")), schedule(dyno("ls")), "command.shell"),
            (schedule(dyno("ls", size="basic")), schedule(dyno("ls")), "dyno.size"),
            (schedule(dyno("ls", env={"A": "1"})), schedule(dyno("ls")), "dyno.env"),
            (schedule(dyno("ls", timeout=5), queue="low"), schedule(dyno("ls")), ""),
            (schedule("os.system", args=["ls"]), None, "func"),
            (schedule("tasks.f"), None, ""),
            (schedule(webhook("https://example.com")), None, ""),
            (schedule(command("ls", env={"A": "1"})), schedule(command("ls")), "command.env"),
            (schedule(command("ls", cwd="/")), schedule(command("ls")), "command.cwd"),
            (schedule(command("id")), schedule(command("ls")), "command.shell"),
            (schedule(command("ls", timeout=5), queue="low"), schedule(command("ls")), ""),
            (schedule("os.system", args=["id"]), schedule("os.system", args=["ls"]), "args"),
            (schedule("os.system", kwargs={"a": 1}), schedule("os.system"), "kwargs"),
            (schedule("os.system", retries=3), schedule("os.system"), ""),
        ],
    )
    def test_a_token_changes_only_what_it_may_define(
        self, new: Schedule, was: Schedule | None, field: str
    ) -> None:
        if not field:
            expected = self.ALLOWED if was is None else was.allowed_targets
            assert limited(new, was, self.ALLOWED).allowed_targets == expected
            return
        with pytest.raises(ScheduleError) as caught:
            limited(new, was, self.ALLOWED)
        assert [fault.field for fault in caught.value.faults] == [field]

    def test_limits_are_stored_and_stay_until_somebody_else_writes_the_call(self) -> None:
        mine = limited(schedule("tasks.f"), None, self.ALLOWED)
        assert from_definition("x", mine.definition()) == mine
        assert limited(schedule("tasks.f", queue="low"), mine, None).allowed_targets == ("tasks",)
        assert limited(schedule("tasks.f", args=[1]), mine, None).allowed_targets is None
