"""What an app sees: declaring, the switches of the script, and the fake clock for its tests.

The process itself, with signals and kills, is in test_process.py.
"""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rq_clock import Clock, RqClockError, ScheduleError, cron, current_run, every, once
from rq_clock.clock.clock import collect_faults
from rq_clock.run import Run
from rq_clock.runtime import Signals
from rq_clock.settings import Settings
from rq_clock.testing import FakeClock

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
ran: list[Run | None] = []


def note(*_args: object, **_kwargs: object) -> None:
    """The task of these tests: remembers the run that it is."""
    ran.append(current_run())


def fail() -> None:
    raise RuntimeError("the task failed")


class TestAdd:
    def test_a_wrong_declaration_raises_and_declares_nothing(self) -> None:
        clock = Clock()
        with pytest.raises(ScheduleError, match="nightly: unknown option 'que'"):
            clock.add("nightly", cron("1 3 * * *"), note, que="x")
        assert dict(clock.declared) == {}

    def test_a_name_is_declared_once(self) -> None:
        clock = Clock()
        clock.add("nightly", every(hours=1), note)
        with pytest.raises(ScheduleError, match="nightly: declared twice"):
            clock.add("nightly", every(hours=2), note)
        assert clock.declared["nightly"].trigger == every(hours=1)

    def test_a_check_collects_the_faults_of_all_schedules(self) -> None:
        clock = Clock()
        with collect_faults() as faults:
            clock.add("one", cron("61 3 * * *"), note, que="x")
            clock.add("two", every(seconds=-1), note)
            clock.add("three", every(seconds=1), note)
        assert [(fault.schedule, fault.field) for fault in faults] == [
            ("one", "que"),
            ("one", "cron"),
            ("two", "every"),
        ]
        assert list(clock.declared) == ["three"]

    def test_a_rename_from_a_name_that_is_still_declared_is_a_fault(self) -> None:
        clock = Clock()
        clock.add("old", every(hours=1), note)
        clock.add("new", every(hours=1), note, renamed_from="old")
        [fault] = clock.faults()
        assert fault.text.startswith("renamed_from 'old' is still declared")
        assert (fault.schedule, Path(fault.file).name) == ("new", "test_clock.py")

    def test_declared_schedules_cannot_be_changed_from_outside(self) -> None:
        with pytest.raises(TypeError):
            Clock().declared["x"] = None  # type: ignore[index]


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_the_wait_at_once(self, number: signal.Signals) -> None:
        with Signals() as signals:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
            timer.start()
            signals.wait(30)
            timer.join()
            assert signals.stopping

    def test_a_signal_between_two_waits_is_not_missed(self) -> None:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            signals.wait(30)
            assert signals.stopping

    def test_signal_handlers_are_restored(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Signals():
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before


class TestFakeClock:
    def test_it_runs_what_is_due_in_order_with_the_run_at_hand(self) -> None:
        clock = Clock()
        clock.add("half", every(minutes=30), note)
        clock.add("hour", cron("0 * * * *"), note)
        ran.clear()
        runs = FakeClock(clock, NOON).advance(timedelta(hours=1))
        assert [(r.schedule, f"{r.fire_time:%H:%M}") for r in runs] == [
            ("half", "12:30"),
            ("half", "13:00"),
            ("hour", "13:00"),
        ]
        assert ran == runs

    def test_dst_can_be_tried_without_waiting_for_march(self) -> None:
        clock = Clock()
        clock.add("report", cron("30 2 * * *", tz="Europe/Berlin"), note)
        runs = FakeClock(clock, "2026-03-28T12:00Z").advance("2026-03-30T12:00Z")
        assert [f"{r.fire_time:%m-%dT%H:%M}" for r in runs] == ["03-29T01:00", "03-30T00:30"]

    def test_after_an_outage_catch_up_decides(self) -> None:
        clock = Clock()
        clock.add("latest", every(minutes=10), note)
        clock.add("all", every(minutes=10), note, catch_up="all")
        clock.add("none", every(minutes=10), note, catch_up="none")
        runs = FakeClock(clock, NOON).advance(timedelta(minutes=35), outage=True)
        assert [(r.schedule, r.reason) for r in runs] == [
            ("all", "catch_up"),
            ("all", "catch_up"),
            ("latest", "catch_up"),
            ("all", "catch_up"),
        ]

    def test_the_same_fire_time_never_runs_twice(self) -> None:
        clock = Clock()
        clock.add("s", once(NOON + timedelta(minutes=1)), note)
        fake = FakeClock(clock, NOON)
        assert len(fake.advance(timedelta(hours=1))) == 1
        assert fake.advance(NOON) == []
        assert fake.advance(timedelta(hours=5)) == []

    def test_what_a_task_raises_is_raised(self) -> None:
        clock = Clock()
        clock.add("s", every(minutes=1), fail)
        with pytest.raises(RuntimeError, match="the task failed"):
            FakeClock(clock, NOON).advance(timedelta(minutes=1))
        assert FakeClock(clock, NOON, run_tasks=False).advance(timedelta(minutes=2))

    def test_a_naive_instant_is_refused(self) -> None:
        with pytest.raises(ScheduleError, match="expected a date and time such as"):
            FakeClock(Clock(), "2026-03-28T12:00")

    def test_there_is_no_run_outside_of_one(self) -> None:
        assert current_run() is None


class TestSettings:
    def test_the_redis_is_found_by_the_first_name_that_is_set(self) -> None:
        url = "redis://one"
        assert Settings.from_env({"REDIS_URL": url, "REDIS_TLS_URL": "x"}).redis_url == url
        assert Settings.from_env({"REDIS_TLS_URL": url}).redis_url == url
        named = {"RQ_CLOCK_REDIS_ENV": "GREEN_URL", "GREEN_URL": url, "REDIS_URL": "x"}
        assert Settings.from_env(named).redis_url == url
        assert Settings.from_env({}).redis_url is None

    @pytest.mark.parametrize(
        ("env", "owner"),
        [
            ({}, ("local", "")),
            ({"DYNO": "clock.1"}, ("dyno", "")),
            ({"DYNO": "clock.1", "HEROKU_APP_ID": "id"}, ("id", "dyno")),
            ({"RENDER_SERVICE_ID": "srv"}, ("srv", "")),
            ({"RQ_CLOCK_OWNER": "me", "HEROKU_APP_ID": "id"}, ("me", "")),
        ],
    )
    def test_the_owner_is_the_app_id_of_the_platform(
        self, env: dict[str, str], owner: tuple[str, str]
    ) -> None:
        settings = Settings.from_env(env)
        assert (settings.owner, settings.former_owner) == owner

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("RQ_CLOCK_NAMESPACE", "Über", "expected 1-40 of a-z, 0-9 and '_'"),
            ("RQ_CLOCK_NAMESPACE", "a-b", "expected 1-40 of a-z, 0-9 and '_'"),
            ("RQ_CLOCK_DISABLED", "maybe", "expected 1 or 0, got 'maybe'"),
            *(
                (name, value, f"expected a whole number from 1 to 999999999, got '{value[:50]}'")
                for name in ("RQ_CLOCK_STAGE_MB", "PORT")
                for value in ("0", "many", "²", "9" * 5000)
            ),
            ("RQ_CLOCK_REDIS_ENV", "NOWHERE", "names NOWHERE, which is not set"),
        ],
    )
    def test_a_bad_setting_is_named(self, name: str, value: str, expected: str) -> None:
        with pytest.raises(RqClockError, match=expected) as caught:
            Settings.from_env({name: value})
        assert name in str(caught.value)

    def test_heroku_numbers_its_releases(self) -> None:
        assert Settings.from_env({"HEROKU_RELEASE_VERSION": "v42"}).release == 42
        for other in ("", "v", "main", "²", "9" * 5000):
            assert Settings.from_env({"HEROKU_RELEASE_VERSION": other}).release == 0
