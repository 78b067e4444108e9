"""The JSON of runs, jobs and backfills: the same keys for every outcome."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rq_clock.model.decision import Skip
from rq_clock.model.ledger import Attempt, Enqueued, LedgerEntry, Lost
from rq_clock.model.view import encode
from rq_clock.serializers.clock import audit_view
from rq_clock.serializers.runs import backfill_view, run_view
from rq_clock.store.audit import AuditEntry
from rq_clock.store.backfills import Backfill

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def plain(view: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(view))
    return found


ENDED = Attempt("failed", 2, NOON + SECOND, NOON + 3 * SECOND, "worker.1", "ValueError: no")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            Enqueued(NOON, "schedule", 5 * SECOND),
            {"state": "waiting", "reason": "schedule", "lagMs": 5000.0,
             "job": "default-x-1772366400000"},
        ),
        (
            Enqueued(NOON, "catch_up", None, ENDED),
            {"state": "failed", "reason": "catch_up", "attempt": 2, "tookMs": 2000.0,
             "started": "2026-03-01T12:00:01Z", "ended": "2026-03-01T12:00:03Z",
             "worker": "worker.1", "error": "ValueError: no",
             "job": "default-x-1772366400000"},
        ),
        (Enqueued(NOON, "manual", None), {"state": "waiting", "reason": "manual"}),
        (Enqueued(NOON, "backfill", None), {"state": "waiting", "reason": "backfill"}),
        (
            Skip("overlap", NOON - HOUR, NOON, 3),
            {"state": "skipped", "reason": "overlap", "count": 3},
        ),
        (
            Lost(NOON, "default-x-1"),
            {"state": "lost", "error": "the job vanished", "job": "default-x-1"},
        ),
    ],
)  # fmt: skip
def test_each_fate_has_the_same_keys(line: LedgerEntry, expected: dict[str, Any]) -> None:
    view = plain(run_view("x", line, "default"))
    assert {key: value for key, value in view.items() if value is not None} == {
        "schedule": "x",
        "fireTime": "2026-03-01T12:00:00Z",
        **expected,
    }
    assert view.keys() == plain(run_view("y", Skip("window", NOON, NOON, 1), "default")).keys()


def test_the_job_of_a_manual_run_is_the_one_passed_in() -> None:
    line = Enqueued(NOON, "manual", None)
    job = "default-x-1772366400000-m12"
    assert run_view("x", line, "default", job).job == job


def test_a_backfill_and_an_entry_of_the_audit() -> None:
    backfill = Backfill(
        id="x-1", schedule="x", start=NOON, end=NOON + HOUR, at_once=2, total=9, by="ana",
        reason="lost", since=NOON, rule='{"every": 1}', enqueued=3,
        jobs=("default-x-1-b1",),
    )  # fmt: skip
    view = plain(backfill_view(backfill))
    assert (view["from"], view["to"]) == ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z")
    assert (view["atOnce"], view["total"], view["enqueued"], view["state"]) == (
        2, 9, 3, "running",
    )  # fmt: skip
    audited = AuditEntry("1-0", NOON, "ana", "pause", ("*",), 1, "bank", {"missed": "skip"})
    assert plain(audit_view(audited)) == {
        "id": "1-0",
        "at": "2026-03-01T12:00:00Z",
        "by": "ana",
        "verb": "pause",
        "schedules": ["*"],
        "count": 1,
        "reason": "bank",
        "detail": {"missed": "skip"},
    }
