"""The ten test cases of a scheduler of reports, on a real Redis, SQLite, PostgreSQL, mail server
and worker; then what this one promises beyond them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from rq_clock import ScheduleError, Schedules, every
from rq_clock.model.entry import Lease
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from tasks.reports import database, scheduler
from tasks.reports.execution import PER_TURN
from tasks.reports.on_demand import NEXT_CHECK
from tasks.reports.scheduler import (
    CHECK,
    check,
    due_shops,
    get_scheduler_status,
    start_scheduler,
    stop_scheduler,
    trigger_scheduler_check,
)
from tasks.reports.schedules import URGENT, add_report, own_name, set_session, use_own_schedule
from tests.tasks.reports.conftest import YEARLY, Add, report_of, runs, states
from tests.tasks.reports.mailbox import Mailbox

pytestmark = pytest.mark.usefixtures("environment")
Work = Callable[..., bool]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tasks.reports")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines of the log so far, and clear it."""

    def said() -> list[str]:
        found = [r.getMessage() for r in caplog.records if r.name == "tasks.reports"]
        caplog.clear()
        return found

    return said


@pytest.fixture
def declared(schedules: Schedules) -> Schedules:
    """The schedule of clock.py, as a clock would have stored it."""
    schedules.add(CHECK, every(minutes=5), "tasks.reports.scheduler.check")
    return schedules


@pytest.fixture
def leader(store: Store) -> None:
    """A clock that leads."""
    assert isinstance(Leases(store).acquire("clock.1", ("test", ""), "starting", now()), Lease)


def now() -> datetime:
    return datetime.now(UTC)


class TestTheTenCases:
    def test_start_scheduler_successfully(
        self, schedules: Schedules, said: Callable[[], list[str]], leader: None
    ) -> None:
        start_scheduler()
        entry = schedules.get(CHECK)
        assert entry
        assert entry.schedule
        assert entry.schedule.target == "tasks.reports.scheduler.check"
        assert said() == ["reports.starting", 'reports.started trigger="every 5 minutes"']
        assert get_scheduler_status() == {"isRunning": True, "runningJobs": [], "jobCount": 0}

    def test_stop_scheduler_successfully(
        self, declared: Schedules, said: Callable[[], list[str]], leader: None
    ) -> None:
        assert get_scheduler_status()["isRunning"]
        stop_scheduler(by="ana")
        assert said() == ["reports.stopping", "reports.stopped"]
        assert not get_scheduler_status()["isRunning"]
        assert declared.audit()[0].by == "ana"
        start_scheduler()
        assert get_scheduler_status()["isRunning"]

    def test_prevent_duplicate_starts(self, schedules: Schedules, leader: None) -> None:
        start_scheduler()
        before = [(entry.name, entry.revision) for entry in schedules], len(schedules.audit())
        start_scheduler()
        assert ([(e.name, e.revision) for e in schedules], len(schedules.audit())) == before
        stop_scheduler()
        stopped = len(schedules.audit())
        stop_scheduler()
        assert len(schedules.audit()) == stopped

    def test_find_due_reports_correctly(self, add: Add) -> None:
        add("due.example")
        add("later.example", next_run_at=now() + timedelta(hours=1))
        add("resting.example", active=False)
        add("never.example", next_run_at=None)
        assert [due.shop for due in due_shops(now())] == ["due.example"]

    def test_group_reports_by_shop(
        self, add: Add, queue: Queue, said: Callable[[], list[str]]
    ) -> None:
        for shop in ("one.example", "two.example"):
            add(shop, "First")
        add("one.example", "Second")
        check()
        assert sorted(job.args for job in queue.jobs) == [("one.example",), ("two.example",)]
        assert {job.meta["rq_clock"]["group"] for job in queue.jobs} == {
            "shop:one.example", "shop:two.example",
        }  # fmt: skip
        assert said() == ["reports.checking", "reports.found reports=3 shops=2"]

    def test_prevent_duplicate_executions(
        self, add: Add, queue: Queue, work: Work, box: Mailbox, said: Callable[[], list[str]]
    ) -> None:
        report = add()
        check()
        check()
        assert 'reports.skipped shop=one.example reason="already running"' in said()
        assert len(queue) == 1
        scheduler.enqueue_shops(["one.example"])  # as two checks at the same instant would
        work()
        assert [run.state for run in runs(report)] == ["sent"]
        assert len(box.kept) == 1

    def test_handle_missing_sessions(
        self, add: Add, work: Work, box: Mailbox, said: Callable[[], list[str]]
    ) -> None:
        lost = add("lost.example", session=False)
        add("one.example")
        check()
        assert "reports.no_session shop=lost.example reports=1" in said()
        work()
        assert [run.shop for run in runs()] == ["one.example"]
        set_session("lost.example", "found")
        check()
        work()
        assert [run.state for run in runs(lost)] == ["sent"]

    def test_handle_execution_errors(self, add: Add, work: Work, box: Mailbox) -> None:
        broken = add("one.example", "Broken", kind="nothing", priority=50)
        whole = add("one.example", "Whole")
        other = add("two.example")
        check()
        work()
        [failed] = runs(broken)
        assert (failed.state, failed.error) == ("failed", "KeyError: 'nothing'")
        assert failed.ended_at
        assert [run.state for report in (whole, other) for run in runs(report)] == ["sent"] * 2
        assert len(box.kept) == 2

    def test_update_next_run_times(self, add: Add, work: Work, box: Mailbox) -> None:
        daily = {"cron": "30 8 * * *", "tz": "Europe/Berlin"}
        good = add("one.example", **daily)
        bad = add("one.example", kind="nothing", **daily)
        missed = add("one.example", next_run_at=now() - timedelta(days=9), **daily)
        check()
        work()
        for report in (good, bad, missed):
            following = report_of(report).next_run_at
            assert following
            assert timedelta() < following - now() <= timedelta(hours=25)
            assert len(runs(report)) == 1

    def test_clean_up_running_jobs(
        self, add: Add, work: Work, box: Mailbox, queue: Queue, connection: Redis
    ) -> None:
        for kind in ("sales", "nothing"):
            add("one.example", kind=kind)
        check()
        assert scheduler.busy_shops() == {"one.example"}
        work()
        assert scheduler.busy_shops() == set()
        assert get_scheduler_status()["runningJobs"] == []
        assert connection.keys("rq:job:*") == []
        assert queue.started_job_registry.get_job_ids(cleanup=False) == []


class TestTrigger:
    def test_a_check_is_made_now_also_after_a_stop(
        self, declared: Schedules, add: Add, work: Work, box: Mailbox,
    ) -> None:  # fmt: skip
        add()
        stop_scheduler()
        trigger_scheduler_check(by="ana")
        assert declared.audit()[0].by == "ana"
        work()
        assert states() == ["sent"]

    def test_without_its_schedule_it_says_what_to_do(self) -> None:
        with pytest.raises(ScheduleError, match=r"run the clock, or call start_scheduler\(\)"):
            trigger_scheduler_check()

    def test_the_status_names_the_shops_that_run(
        self, queue: Queue, connection: Redis, add: Add
    ) -> None:
        add("one-2.example")
        check()
        [job] = queue.job_ids
        connection.zadd(queue.started_job_registry.key, {f"{job}:x": 2**33})
        queue.empty()  # type: ignore[no-untyped-call]
        assert get_scheduler_status()["runningJobs"] == ["one-2.example"]


class TestTheCheck:
    def test_one_with_nothing_due_costs_one_query(
        self, add: Add, said: Callable[[], list[str]]
    ) -> None:
        add(next_run_at=now() + timedelta(hours=1))
        with statements() as found:
            check()
        assert len(found) == 1, found
        assert said() == ["reports.checking", "reports.none_due"]

    def test_one_with_a_thousand_due_costs_one_query_too(self, add: Add, queue: Queue) -> None:
        for number in range(30):
            add(f"shop-{number}.example")
        with statements() as found:
            check()
        assert len(found) == 1, found
        assert len(queue) == 30

    def test_a_database_that_is_away_fails_the_check_and_is_logged(
        self, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("DATABASE_URL", "postgres://127.0.0.1:1/none")
            with pytest.raises(SQLAlchemyError):
                check()
        [_, line] = said()
        assert line.startswith("reports.check_failed error=")

    def test_urgent_shops_go_first_by_type_and_recipients(self, add: Add, queue: Queue) -> None:
        add("few.example", priority=11)
        add("many.example", priority=60)
        check()
        add("urgent.example", priority=URGENT)
        add("most-urgent.example", priority=URGENT + 1)
        check()
        assert [job.args[0] for job in queue.jobs] == [
            "most-urgent.example", "urgent.example", "many.example", "few.example",
        ]  # fmt: skip

    def test_a_shop_with_very_many_reports_lets_others_go_between(
        self, add: Add, work: Work, box: Mailbox
    ) -> None:
        for number in range(PER_TURN + 3):
            add("large.example", f"Report {number}")
        add("small.example", priority=0)
        check()
        work()
        order = [run.shop for run in runs()]
        assert order.index("small.example") == PER_TURN
        assert states() == ["sent"] * (PER_TURN + 4)


class TestItsOwnMinute:
    def test_a_report_may_have_a_schedule_of_its_own(
        self, schedules: Schedules, box: Mailbox, work: Work, queue: Queue
    ) -> None:
        report = add_report(
            shop="one.example", name="Hourly", kind="sales", cron_text="17 * * * *",
            tz="Asia/Tokyo", recipients=["ann@example.com"], own_schedule=True,
        )  # fmt: skip
        set_session("one.example", "token")
        entry = schedules.get(own_name(report))
        assert entry
        assert entry.schedule
        assert entry.schedule.group == "shop:one.example"
        assert entry.next_fire == report_of(report).next_run_at
        check()
        assert len(queue) == 0
        use_own_schedule(report, False)
        assert schedules.get(own_name(report)) is None

    def test_a_schedule_that_redis_lost_is_mended_and_nothing_is_lost(
        self, add: Add, schedules: Schedules, work: Work, box: Mailbox
    ) -> None:
        fresh = add("fresh.example", own_schedule=True)
        late = add("late.example", own_schedule=True, next_run_at=now() - timedelta(minutes=6))
        check()
        assert schedules.get(own_name(late))
        assert schedules.get(own_name(fresh)) is None  # its own schedule may be about to fire
        work()
        assert [run.report_id for run in runs()] == [late]

    def test_a_report_run_by_both_runs_once(
        self, add: Add, work: Work, box: Mailbox, queue: Queue
    ) -> None:
        report = add(own_schedule=True, next_run_at=now() - timedelta(minutes=6))
        check()
        queue.enqueue("tasks.reports.execution.run_shop", "one.example")
        work()
        assert len(runs(report)) == len(box.kept) == 1


class TestOnDemand:
    @pytest.fixture(autouse=True)
    def demand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REPORTS_ON_DEMAND", "1")

    def test_the_next_check_is_at_the_minute_of_the_next_report(
        self, schedules: Schedules, add: Add
    ) -> None:
        check()
        assert schedules.get(NEXT_CHECK) is None
        report = add_report(
            shop="one.example", name="A", kind="sales", cron_text=YEARLY, tz="UTC",
            recipients=["a@b.example"],
        )  # fmt: skip
        assert next_check(schedules) == report_of(report).next_run_at
        soon = now().replace(microsecond=0) + timedelta(hours=1)
        add("two.example", next_run_at=soon)
        check()
        assert next_check(schedules) == soon

    def test_a_shop_that_stays_due_is_looked_at_once_a_minute(
        self, schedules: Schedules, add: Add
    ) -> None:
        add(session=False)
        check()
        following = next_check(schedules)
        assert timedelta(seconds=50) < following - now() <= timedelta(seconds=61)


def next_check(schedules: Schedules) -> datetime:
    entry = schedules.get(NEXT_CHECK)
    assert entry
    assert entry.next_fire
    return entry.next_fire


class statements:  # noqa: N801 - a function in all but name
    """What is sent to the database in the block."""

    def __enter__(self) -> list[str]:
        self._found: list[str] = []
        event.listen(database.engine(), "before_cursor_execute", self._note)
        return self._found

    def __exit__(self, *_: object) -> None:
        event.remove(database.engine(), "before_cursor_execute", self._note)

    def _note(self, *args: Any) -> None:
        self._found.append(args[2])
