"""A report is run once, whatever dies: on SQLite and PostgreSQL, with a real mail server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from rq_clock import Interrupted
from tasks.reports import database, execution
from tasks.reports.execution import ATTEMPTS, TakenOver, run_shop
from tasks.reports.models import BUILDING, SENDING, ReportHistory, ReportSchedule, ShopSession
from tasks.reports.rendering import KINDS, Period, Rows
from tasks.reports.sample import add_orders
from tests.tasks.reports.conftest import Add, report_of, runs, states
from tests.tasks.reports.mailbox import Mailbox

pytestmark = pytest.mark.usefixtures("environment")
SHOP = "one.example"


def kind(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> str:
    """Add a type of report that acts while it is built. Return its name."""

    def build(db: Any, shop: str, period: Period) -> Rows:
        act()
        return ("A",), [("1",)], [("1", 1)]

    monkeypatch.setitem(KINDS, "odd", build)
    return "odd"


def left(report: int, state: str, attempt: int = 1) -> None:
    """Leave the row that a worker which died in this state leaves."""
    now = datetime.now(UTC)
    found = report_of(report)
    row = ReportHistory(
        report_id=report, shop=found.shop, fire_time=found.next_run_at, state=state,
        attempt=attempt, began_at=now, changed_at=now,
    )  # fmt: skip
    with database.writing() as db:
        db.add(row)


class TestAReport:
    def test_is_a_mail_with_a_table_a_chart_and_a_file(self, add: Add, box: Mailbox) -> None:
        add_orders(SHOP, 40)
        report = add(recipients=["ann@example.com", "bob@example.com"], cron="0 * * * *",
                     next_run_at=datetime.now(UTC).replace(microsecond=0))  # fmt: skip
        earlier = datetime.now(UTC) - timedelta(days=8)
        left(report, "sent")
        with database.writing() as db:
            db.execute(update(ReportHistory).values(fire_time=earlier))
        run_shop(SHOP)
        [mail] = box.mails()
        assert mail["To"] == "ann@example.com, bob@example.com"
        assert mail["Subject"] == "Weekly sales of one.example"
        html = mail.get_body(("html",))
        assert html
        assert html.get_content().count("<td>") >= 12
        assert "background:#0a54ad" in html.get_content()
        [file] = mail.iter_attachments()
        titles, *rows = file.get_content().splitlines()
        assert titles == "Product,Pieces,Sales"
        assert len(rows) == 4
        assert runs(report)[-1].rows == 4

    def test_has_a_key_that_is_the_same_however_often_it_is_built(
        self, add: Add, box: Mailbox
    ) -> None:
        report = add()
        at = report_of(report).next_run_at
        assert at
        run_shop(SHOP)
        assert box.ids() == [f"<report-{report}-{int(at.timestamp() * 1000)}@localhost>"]

    def test_covers_what_a_failed_one_has_left_out(self, add: Add, box: Mailbox) -> None:
        add_orders(SHOP, 10)
        report = add(cron="* * * * *")
        box.mood = "refuse"
        run_shop(SHOP)
        assert states() == ["failed"]
        box.mood = "well"
        with database.writing() as db:
            db.execute(update(ReportSchedule).values(next_run_at=datetime.now(UTC)))
        run_shop(SHOP)
        assert [run.state for run in runs(report)] == ["failed", "sent"]


class TestAfterADeath:
    def test_one_that_was_being_built_is_built_again(self, add: Add, box: Mailbox) -> None:
        report = add()
        left(report, BUILDING)
        run_shop(SHOP)
        [run] = runs(report)
        assert (run.state, run.attempt, len(box.kept)) == ("sent", 2, 1)

    def test_one_that_was_being_sent_is_not_sent_again(self, add: Add, box: Mailbox) -> None:
        report, after = add(priority=9), add()
        left(report, SENDING)
        run_shop(SHOP)
        [run] = runs(report)
        assert run.state == "unsure"
        assert run.error
        assert "may have been sent" in run.error
        assert [r.state for r in runs(after)] == ["sent"]
        assert len(box.kept) == 1
        following = report_of(report).next_run_at
        assert following
        assert following > datetime.now(UTC)

    def test_one_that_has_ended_is_not_run_again(self, add: Add, box: Mailbox) -> None:
        report = add()
        left(report, "sent")
        run_shop(SHOP)
        run_shop(SHOP)
        assert len(runs(report)) == 1
        assert not box.kept

    def test_one_that_kills_every_worker_fails_at_last(self, add: Add, box: Mailbox) -> None:
        report = add()
        left(report, BUILDING, ATTEMPTS)
        run_shop(SHOP)
        [run] = runs(report)
        assert run.state == "failed"
        assert not box.kept

    def test_a_worker_that_wakes_after_it_was_counted_as_dead_sends_nothing(
        self, add: Add, box: Mailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asleep: list[bool] = []

        def sleep_once() -> None:
            if not asleep:
                asleep.append(True)
                run_shop(SHOP)  # another worker, while this one is frozen

        report = add(kind=kind(monkeypatch, sleep_once))
        with pytest.raises(TakenOver):
            run_shop(SHOP)
        [run] = runs(report)
        assert (run.state, run.attempt, len(box.kept)) == ("sent", 2, 1)

    def test_a_worker_that_has_to_end_leaves_the_run_to_the_next(
        self, add: Add, box: Mailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = add()
        with monkeypatch.context() as patch:
            patch.setattr("tasks.reports.execution.stopping", lambda: True)
            with pytest.raises(Interrupted):
                run_shop(SHOP)
        assert runs(report) == []
        run_shop(SHOP)
        assert states() == ["sent"]


class TestFailures:
    @pytest.mark.parametrize(
        ("mood", "state", "shown"),
        [
            ("refuse", "failed", "the mail server refused it: 554 it looks like spam"),
            ("closed", "failed", "451 come back later"),
            ("silent", "unsure", "the mail server fell silent"),
        ],
    )
    def test_what_the_mail_server_did_is_in_the_history(
        self, add: Add, box: Mailbox, mood: str, state: str, shown: str
    ) -> None:
        report = add()
        box.mood = mood
        run_shop(SHOP)
        [run] = runs(report)
        assert run.state == state
        assert run.error
        assert shown in run.error
        assert len(box.kept) == (1 if mood == "silent" else 0)

    def test_a_mail_server_that_is_not_there_fails_the_report(self, add: Add) -> None:
        report = add()
        run_shop(SHOP)
        [run] = runs(report)
        assert (run.state, run.error) == (
            "failed", "ConnectionRefusedError: [Errno 111] Connection refused",
        )  # fmt: skip

    def test_a_recipient_that_is_refused_keeps_no_other_from_the_report(
        self, add: Add, box: Mailbox
    ) -> None:
        box.refused = {"bob@example.com"}
        report = add(recipients=["ann@example.com", "bob@example.com"])
        run_shop(SHOP)
        [run] = runs(report)
        assert run.state == "sent"
        assert run.error == "refused: bob@example.com (550 nobody of that name)"

    def test_an_address_that_smtp_has_no_letters_for_keeps_no_other_from_the_report(
        self, add: Add, box: Mailbox
    ) -> None:
        report = add(recipients=["ann@example.com", "jörg@example.com"])
        run_shop(SHOP)
        [run] = runs(report)
        assert run.state == "sent"
        assert run.error == "refused: jörg@example.com (expected plain letters)"

    def test_a_token_is_in_no_error_and_no_log(
        self, add: Add, box: Mailbox, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        caplog.set_level(logging.INFO)

        def leak() -> None:
            raise ValueError("401 for token of one.example")

        report = add(kind=kind(monkeypatch, leak))
        run_shop(SHOP)
        [run] = runs(report)
        assert run.error == "ValueError: 401 for ***"
        assert "token of" not in caplog.text

    @pytest.mark.parametrize("columns", [{"cron": "61 * * * *"}, {"tz": "Mars/Olympus"}])
    def test_a_report_that_cannot_be_read_stops_no_other(
        self, add: Add, box: Mailbox, columns: dict[str, str]
    ) -> None:
        report, other = add(priority=9, **columns), add()
        run_shop(SHOP)
        assert [run.state for run in runs(report)] == ["failed"]
        assert [run.state for run in runs(other)] == ["sent"]
        assert report_of(report).next_run_at is None

    def test_a_session_that_cannot_be_read_leaves_its_reports_due(
        self, add: Add, box: Mailbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        report = add()
        with database.writing() as db:
            db.execute(update(ShopSession).values(token=b"forged"))
        run_shop(SHOP)
        assert runs(report) == []
        assert 'reports.no_session shop=one.example reason="invalid session' in caplog.text
        assert "forged" not in caplog.text

    def test_a_report_that_is_removed_meanwhile_stops_no_other(
        self, add: Add, box: Mailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def remove() -> None:
            with database.writing() as db:
                db.execute(delete(ReportSchedule).where(ReportSchedule.id == report))

        report = add(kind=kind(monkeypatch, remove), priority=9)
        other = add()
        run_shop(SHOP)
        assert [run.report_id for run in runs()] == [other]

    def test_a_change_of_a_report_while_it_runs_is_kept(
        self, add: Add, box: Mailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later = datetime(2030, 1, 1, tzinfo=UTC)

        def change() -> None:
            with database.writing() as db:
                db.execute(update(ReportSchedule).values(next_run_at=later))

        report = add(kind=kind(monkeypatch, change))
        run_shop(SHOP)
        assert states() == ["sent"]
        assert report_of(report).next_run_at == later

    @pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
    def test_connections_that_are_cut_cost_no_report(
        self, add: Add, box: Mailbox, monkeypatch: pytest.MonkeyPatch, database_url: str,
        request: pytest.FixtureRequest,
    ) -> None:  # fmt: skip
        postgres = request.getfixturevalue("postgres")
        monkeypatch.setattr(execution, "PAUSES", (0.01, 0.01))
        report = add(kind=kind(monkeypatch, lambda: None))
        box.during = postgres.kill_connections
        run_shop(SHOP)
        assert [run.state for run in runs(report)] == ["sent"]
