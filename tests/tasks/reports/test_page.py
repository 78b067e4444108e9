"""The page "Reports" as a person uses it: a real browser, web process, worker and mail server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.process import ROOT, Process
from tests.tasks.reports.conftest import Add, states
from tests.tasks.reports.mailbox import Mailbox
from tests.web.pages.browser import log_in, seen
from tests.web.pages.test_browser import chromium, pytestmark
from tests.web.test_server import TOKEN

__all__ = ["chromium", "pytestmark"]  # a fixture, and the skip without a browser


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_report_that_is_due_is_seen_and_run_from_its_page(
    chromium: Browser, box: Mailbox, add: Add, environment: dict[str, str], tmp_path: Path
) -> None:
    add("one.example", "Daily orders")
    add("two.example", "Weekly sales", next_run_at=datetime.now(UTC) + timedelta(days=1))
    env = {**environment, "RQ_CLOCK_TOKENS": TOKEN, "PYTHONPATH": str(ROOT)}
    with (
        Process(tmp_path / "web.log", str(ROOT / "web.py"), "--port", "0", env=env) as web,
        Process(tmp_path / "worker.log", "-m", "rq_clock", "worker", env=env),
    ):
        page = chromium.new_page()
        log_in(page, web.wait_for("web.listening").fields["address"] + "/reports")
        seen(page, "1 report of 1 shop, the oldest due")
        seen(page, "No runs yet.")
        row = page.get_by_role("row").filter(has_text="Weekly sales")
        row.get_by_role("button", name="Run now").click()
        seen(page, "Enqueued the report of two.example.")
        expect(page.locator("#reports-history")).to_contain_text("sent")
        expect(row.first).to_contain_text("sent")
        page.close()
    assert states() == ["sent"]
    assert len(box.kept) == 1
