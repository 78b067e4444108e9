"""The plugin for pytest that is installed with rq-clock: no clock starts under an app's tests.

It sets RQ_CLOCK_DISABLED for the tests and their child processes, unless the environment sets it
or the ini option `rq_clock_enabled` is true. Fixtures:

    rq_clock_enabled    clocks start in this test, as it asks for it
    fake_clock          the app's schedules on a clock that the test moves

Loaded by every run of pytest, so it imports nothing but pytest before it is used. `-p no:rq_clock`
leaves it out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from datetime import datetime

    from rq_clock.clock.clock import Clock
    from rq_clock.testing import FakeClock

SWITCH = "RQ_CLOCK_DISABLED"
_set_here = pytest.StashKey[bool]()


class FakeClockFactory(Protocol):
    """What the fixture `fake_clock` is."""

    def __call__(
        self, start: datetime | str, clock: Clock | None = None, *, run_tasks: bool = True
    ) -> FakeClock: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "start the clocks of rq-clock in tests too (default: false)"
    parser.addini("rq_clock_enabled", text, type="bool", default=False)


@pytest.hookimpl(tryfirst=True)  # a conftest.py may import the app, and with it start a clock
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if SWITCH not in os.environ and not early_config.getini("rq_clock_enabled"):
        os.environ[SWITCH] = "1"
        early_config.stash[_set_here] = True


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.stash.get(_set_here, False):
        os.environ.pop(SWITCH, None)


@pytest.fixture
def rq_clock_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clocks start in this test, and in the processes that it starts."""
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture
def fake_clock() -> FakeClockFactory:
    """Return a function that makes a FakeClock of a clock, or of that of RQ_CLOCK_APP.

    It raises ScheduleError with every fault of the app's declarations.
    """

    def make(
        start: datetime | str, clock: Clock | None = None, *, run_tasks: bool = True
    ) -> FakeClock:
        from rq_clock.clock.app import load
        from rq_clock.errors import ScheduleError
        from rq_clock.settings import Settings
        from rq_clock.testing import FakeClock

        if clock is None:
            clock, faults = load(Settings.from_env().app)
            if faults:
                raise ScheduleError(*faults)
        return FakeClock(clock, start, run_tasks=run_tasks)

    return make
