"""The objects that `--json` prints: complete, masked, at literal instants."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rq_clock.model.decision import Skip
from rq_clock.model.entry import Entry, Pause, SkipRequest
from rq_clock.model.ledger import Attempt, Enqueued, LedgerEntry, Lost
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import command, webhook
from rq_clock.schedules.serializers import (
    audit_view,
    backfill_view,
    density_view,
    fire_view,
    run_view,
    schedule_view,
)
from rq_clock.schedules.upcoming import density, upcoming
from rq_clock.store.audit import AuditEntry
from rq_clock.store.backfills import Backfill
from rq_clock.timing.describe import Fire
from rq_clock.timing.triggers import Trigger, cron, every, once

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def entry(trigger: Trigger, target: Any = "a.b", *, name: str = "x", **options: Any) -> Entry:
    schedule = declare(name, trigger, target, options)
    return Entry(
        name=name,
        schedule=schedule,
        fault="",
        marker=None,
        known_since=NOON - HOUR,
        revision="7",
        last_job="",
        next_fire=schedule.next_after(NOON),
    )


def pause(until: datetime | None = None) -> Pause:
    return Pause(reason="bank", by="ana", since=NOON - MINUTE, until=until, missed="all")


class TestSchedules:
    def test_one_is_told_whole(self) -> None:
        view = schedule_view(
            entry(cron("0 3 * * *", tz="Europe/Berlin"), args=[1], retries=[10], tags=["a"]), NOON
        )
        assert view == {
            "name": "x",
            "state": "scheduled",
            "states": ["scheduled"],
            "origin": "declared",
            "revision": "7",
            "words": "at 03:00 every day, Europe/Berlin time",
            "trigger": {"cron": "0 3 * * *", "tz": "Europe/Berlin"},
            "zone": "Europe/Berlin",
            "func": "a.b",
            "runs": "a.b",
            "args": [1],
            "kwargs": {},
            "queue": "default",
            "timeout": None,
            "retries": [10],
            "resultTtl": None,
            "failureTtl": None,
            "catchUp": "latest",
            "catchUpWindow": None,
            "catchUpLimit": None,
            "overlap": "skip",
            "group": None,
            "groupLimit": 1,
            "jitter": None,
            "tags": ["a"],
            "ping": None,
            "nextFireTime": "2026-03-02T02:00:00Z",
            "nextLocal": "2026-03-02T03:00:00+01:00",
            "marker": None,
            "knownSince": "2026-03-01T11:00:00Z",
            "pause": None,
            "skipping": None,
            "fault": None,
            "last": None,
        }

    def test_no_option_is_forgotten(self) -> None:
        options = {f.name for f in fields(Schedule)} - {"name", "trigger", "target", "renamed_from"}
        keys = {key.replace("_", "").lower() for key in schedule_view(entry(every(hours=1)), NOON)}
        assert {option.replace("_", "") for option in options} <= keys

    def test_durations_are_seconds_and_jitter_says_what_is_its_own(self) -> None:
        found = entry(every(hours=1), jitter=600, catch_up_window=timedelta(minutes=1.5))
        view = schedule_view(found, NOON)
        assert (view["jitter"], view["catchUpWindow"]) == (600.0, 90.0)
        assert found.schedule
        assert view["jitterOffsetMs"] == found.schedule.offset / timedelta(milliseconds=1)
        assert "jitterOffsetMs" not in schedule_view(entry(every(hours=1)), NOON)

    @pytest.mark.parametrize(
        ("target", "options"),
        [
            ("a.b", {"kwargs": {"api_token": "hunter22", "deep": [{"password": "hunter22"}]}}),
            ("a.b", {"args": ["redis://:hunter22@host", "PASSWORD=hunter22 run"]}),
            (command("API_KEY=hunter22 run", env={"API_TOKEN": "hunter22"}), {}),
            (webhook("https://x.example/?q=hunter22", headers={"Cookie": "hunter22"}), {}),
            (webhook("https://x.example/", json={"secret": "hunter22"}), {}),
            ("a.b", {"ping": "https://hc-ping.com/0123456789-hunter22-0123456789"}),
        ],
    )
    def test_no_secret_is_told(self, target: Any, options: dict[str, Any]) -> None:
        view = schedule_view(entry(every(hours=1), target, **options), NOON)
        assert "hunter22" not in repr(view)
        assert "****" in repr(view) or "…" in repr(view)

    def test_who_holds_it_and_why(self) -> None:
        skipping = SkipRequest(count=2, until=NOON + HOUR, reason="", by="ana", since=NOON)
        held = replace(entry(every(hours=1)), pauses=(pause(),), skipping=skipping, declared=False)
        view = schedule_view(held, NOON)
        assert (view["state"], view["origin"]) == ("paused", "run-time")
        assert view["pause"] == {
            "reason": "bank",
            "by": "ana",
            "since": "2026-03-01T11:59:00Z",
            "until": None,
            "missed": "all",
        }
        assert view["skipping"]["count"] == 2
        assert view["skipping"]["until"] == "2026-03-01T13:00:00Z"

    def test_what_is_over_holds_nothing(self) -> None:
        skipping = SkipRequest(
            count=2, until=NOON - HOUR, reason="", by="ana", since=NOON - 2 * HOUR
        )
        held = replace(entry(every(hours=1)), pauses=(pause(NOON),), skipping=skipping)
        view = schedule_view(held, NOON)
        assert (view["state"], view["pause"], view["skipping"]) == ("scheduled", None, None)

    def test_one_that_cannot_be_read_has_its_fault_and_every_key(self) -> None:
        broken = replace(entry(every(hours=1)), schedule=None, fault="no trigger")
        view = schedule_view(broken, NOON)
        assert (view["state"], view["fault"], view["words"]) == ("invalid", "no trigger", None)
        assert view.keys() == schedule_view(entry(every(hours=1)), NOON).keys()


class TestFireTimes:
    def test_jitter_moves_them_on_the_clock_of_the_zone_too(self) -> None:
        found = entry(cron("30 2 * * *", tz="Europe/Berlin"), jitter=3600)
        assert found.schedule
        before = datetime(2026, 3, 28, 12, tzinfo=UTC)  # clocks go on that night
        [fire] = upcoming(found, before, 1)
        assert fire.fire_time == datetime(2026, 3, 29, 1, tzinfo=UTC) + found.schedule.offset
        assert fire.local == fire.fire_time
        assert fire.local.utcoffset() == 2 * HOUR
        assert "02:30 does not exist that day" in fire.notes[1]
        assert fire_view(fire)["jitterOffsetMs"] > 0

    def test_what_is_held_is_said_and_only_what_is_undecided_is_held(self) -> None:
        skipping = SkipRequest(count=1, until=NOON + HOUR, reason="", by="ana", since=NOON)
        held = replace(entry(every(hours=1)), marker=NOON, skipping=skipping)
        told = [fire_view(fire)["skipped"] for fire in upcoming(held, NOON - 2 * HOUR, 4)]
        assert told == [None, None, "requested", None]
        paused = replace(held, pauses=(pause(NOON + 2 * HOUR),))
        told = [fire_view(fire)["skipped"] for fire in upcoming(paused, NOON, 3)]
        assert told == ["paused", "paused", None]

    def test_they_end_where_asked(self) -> None:
        found = upcoming(entry(every(hours=1)), NOON, 10, NOON + 2 * HOUR)
        assert [fire.fire_time for fire in found] == [NOON + HOUR, NOON + 2 * HOUR]
        assert upcoming(entry(once(NOON)), NOON, 10) == []
        assert upcoming(replace(entry(every(hours=1)), schedule=None), NOON, 10) == []

    def test_a_plain_one_has_no_more_keys_than_it_needs(self) -> None:
        assert fire_view(Fire(NOON, NOON)) == {
            "fireTime": "2026-03-01T12:00:00Z",
            "local": "2026-03-01T12:00:00+00:00",
            "zone": "UTC",
            "notes": [],
            "skipped": None,
        }


class TestRuns:
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
    def test_each_fate_has_the_same_keys(self, line: LedgerEntry, expected: dict[str, Any]) -> None:
        view = run_view("x", line, "default")
        assert {key: value for key, value in view.items() if value is not None} == {
            "schedule": "x",
            "fireTime": "2026-03-01T12:00:00Z",
            **expected,
        }
        assert view.keys() == run_view("y", Skip("window", NOON, NOON, 1), "default").keys()

    def test_the_job_of_a_run_by_hand_is_told_by_who_knows_it(self) -> None:
        line = Enqueued(NOON, "manual", None)
        job = "default-x-1772366400000-m12"
        assert run_view("x", line, "default", job)["job"] == job

    def test_a_backfill_and_an_entry_of_the_audit(self) -> None:
        backfill = Backfill(
            id="x-1", schedule="x", start=NOON, end=NOON + HOUR, at_once=2, total=9, by="ana",
            reason="lost", since=NOON, rule='{"every": 1}', enqueued=3,
            jobs=("default-x-1-b1",),
        )  # fmt: skip
        view = backfill_view(backfill)
        assert (view["from"], view["to"]) == ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z")
        assert (view["atOnce"], view["total"], view["enqueued"], view["state"]) == (
            2, 9, 3, "running",
        )  # fmt: skip
        audited = AuditEntry("1-0", NOON, "ana", "pause", ("*",), 1, "bank", {"missed": "skip"})
        assert audit_view(audited) == {
            "id": "1-0",
            "at": "2026-03-01T12:00:00Z",
            "by": "ana",
            "verb": "pause",
            "schedules": ["*"],
            "count": 1,
            "reason": "bank",
            "detail": {"missed": "skip"},
        }


class TestDensity:
    AT = NOON + timedelta(minutes=29, seconds=30)

    def of(self, *entries: Entry, span: timedelta = HOUR) -> dict[str, Any]:
        return density_view(density(entries, self.AT, span, MINUTE, SECOND))

    def test_every_fire_time_of_the_span_counts_once(self) -> None:
        view = self.of(entry(every(minutes=10)), entry(cron("0 * * * *"), name="y"))
        counted = {b["from"][11:16]: b["fires"] for b in view["buckets"] if b["fires"]}
        assert counted == {
            "12:30": 1, "12:40": 1, "12:50": 1, "13:00": 2, "13:10": 1, "13:20": 1,
        }  # fmt: skip
        assert len(view["buckets"]) == 60
        assert view["herds"] == [{"from": "2026-03-01T13:00:00Z", "fires": 2}]

    def test_jitter_spreads_a_herd(self) -> None:
        hourly = [entry(every(hours=1), name=f"n{i}") for i in range(50)]
        spread = [entry(every(hours=1), name=f"n{i}", jitter=600) for i in range(50)]
        assert self.of(*hourly)["herds"][0]["fires"] == 50
        assert all(herd["fires"] < 10 for herd in self.of(*spread)["herds"])
        assert sum(bucket["fires"] for bucket in self.of(*spread)["buckets"]) == 50

    def test_what_is_held_or_over_does_not_count(self) -> None:
        minutely = entry(every(minutes=1))
        paused, until = (replace(minutely, pauses=(pause(t),)) for t in (None, self.AT + HOUR / 2))
        over = replace(entry(once(NOON)), next_fire=None)
        broken = replace(minutely, schedule=None)
        assert sum(b["fires"] for b in self.of(paused, over, broken)["buckets"]) == 0
        assert sum(b["fires"] for b in self.of(until)["buckets"]) == 29

    def test_what_fires_too_often_to_be_walked_along_is_counted_alike(self) -> None:
        view = self.of(entry(every(milliseconds=100)))
        assert view["buckets"][1]["fires"] == 600
        assert view["herds"][0]["fires"] == 10
        whole = sum(bucket["fires"] for bucket in view["buckets"])
        assert whole == (59 * 60 + 30) * 10 - 1  # what fires at the very instant is no more to come
