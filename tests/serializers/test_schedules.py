"""The JSON of schedules and fire times: complete, masked, at literal instants."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rq_clock.model.decision import Skip
from rq_clock.model.entry import Entry, Pause, SkipRequest
from rq_clock.model.ledger import Enqueued
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import command, webhook
from rq_clock.model.view import encode
from rq_clock.schedules.listing import Row
from rq_clock.schedules.upcoming import density, upcoming
from rq_clock.serializers.schedules import (
    fire_time_view,
    schedule_detail_view,
    schedule_view,
)
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


def view_of(entry: Entry, now: datetime = NOON) -> dict[str, Any]:
    row = Row(entry, (), None, "", entry.states(now))
    document = encode(schedule_view(row, now, "default"))
    found: dict[str, Any] = json.loads(document)
    return found


def fire_of(fire: Fire) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(fire_time_view(fire)))
    return found


def pause(until: datetime | None = None) -> Pause:
    return Pause(reason="bank", by="ana", since=NOON - MINUTE, until=until, missed="all")


class TestSchedules:
    def test_a_schedule_has_every_field(self) -> None:
        view = view_of(
            entry(cron("0 3 * * *", tz="Europe/Berlin"), args=[1], retries=[10], tags=["a"])
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
            "command": None,
            "dyno": None,
            "webhook": None,
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
            "jitterOffsetMs": None,
            "tags": ["a"],
            "ping": None,
            "nextFireTime": "2026-03-02T02:00:00Z",
            "nextLocal": "2026-03-02T03:00:00+01:00",
            "marker": None,
            "knownSince": "2026-03-01T11:00:00Z",
            "pause": None,
            "held": None,
            "skipping": None,
            "fault": None,
            "last": None,
            "failingSince": None,
            "running": None,
        }

    def test_no_option_is_forgotten(self) -> None:
        options = {f.name for f in fields(Schedule)} - {"name", "trigger", "target", "renamed_from"}
        options -= {"allowed_targets"}  # no option, and it is shown nowhere
        keys = {key.replace("_", "").lower() for key in view_of(entry(every(hours=1)))}
        assert {option.replace("_", "") for option in options} <= keys

    def test_durations_are_seconds_and_jitter_says_what_is_its_own(self) -> None:
        found = entry(every(hours=1), jitter=600, catch_up_window=timedelta(minutes=1.5))
        view = view_of(found)
        assert (view["jitter"], view["catchUpWindow"]) == (600.0, 90.0)
        assert found.schedule
        assert view["jitterOffsetMs"] == found.schedule.offset / timedelta(milliseconds=1)
        assert view_of(entry(every(hours=1)))["jitterOffsetMs"] is None

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
    def test_secrets_are_masked(self, target: Any, options: dict[str, Any]) -> None:
        view = view_of(entry(every(hours=1), target, **options))
        assert "hunter22" not in repr(view)
        assert "****" in repr(view) or "…" in repr(view)

    def test_a_blocked_schedule_has_its_pause_and_its_skip(self) -> None:
        skipping = SkipRequest(count=2, reason="", by="ana", since=NOON)
        held = replace(entry(every(hours=1)), own_pause=pause(), skipping=skipping, declared=False)
        view = view_of(held)
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

    def test_a_pause_that_is_over_blocks_nothing(self) -> None:
        view = view_of(replace(entry(every(hours=1)), own_pause=pause(NOON)))
        assert (view["state"], view["pause"], view["skipping"]) == ("scheduled", None, None)

    def test_one_that_cannot_be_read_has_its_fault_and_every_key(self) -> None:
        broken = replace(entry(every(hours=1)), schedule=None, fault="no trigger")
        view = view_of(broken)
        assert (view["state"], view["fault"], view["words"]) == ("invalid", "no trigger", None)
        assert view.keys() == view_of(entry(every(hours=1))).keys()

    def test_its_last_run_is_the_newest_that_was_not_skipped(self) -> None:
        ran, skip = Enqueued(NOON - HOUR, "schedule", None), Skip("overlap", NOON, NOON, 1)
        row = Row(entry(every(hours=1)), (ran, skip), NOON, "default-x-1", ("failing",))
        view = schedule_view(row, NOON, "default")
        assert view.last
        assert (view.last.state, view.last.fire_time) == ("waiting", NOON - HOUR)
        assert (view.failing_since, view.running) == (NOON, "default-x-1")

    def test_one_in_detail_has_its_definition_masked(self) -> None:
        found = entry(every(hours=1), kwargs={"token": "hunter22"})
        view = schedule_detail_view(Row(found, (), None, "", ("scheduled",)), NOON, "default")
        assert view.definition == {"every": "1h", "func": "a.b", "kwargs": {"token": "****"}}
        broken = replace(found, schedule=None, fault="no trigger")
        assert (
            schedule_detail_view(Row(broken, (), None, "", ("invalid",)), NOON, "d").definition
            is None
        )


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
        assert fire_of(fire)["jitterOffsetMs"] > 0

    def test_only_undecided_fire_times_are_blocked(self) -> None:
        skipping = SkipRequest(count=1, reason="", by="ana", since=NOON)
        held = replace(entry(every(hours=1)), marker=NOON, skipping=skipping)
        skipped = [fire_of(fire)["skipped"] for fire in upcoming(held, NOON - 2 * HOUR, 4)]
        assert skipped == [None, None, "requested", None]
        paused = replace(held, own_pause=pause(NOON + 2 * HOUR))
        skipped = [fire_of(fire)["skipped"] for fire in upcoming(paused, NOON, 3)]
        assert skipped == ["paused", None, None]

    def test_they_end_at_until(self) -> None:
        found = upcoming(entry(every(hours=1)), NOON, 10, NOON + 2 * HOUR)
        assert [fire.fire_time for fire in found] == [NOON + HOUR, NOON + 2 * HOUR]
        assert upcoming(entry(once(NOON)), NOON, 10) == []
        assert upcoming(replace(entry(every(hours=1)), schedule=None), NOON, 10) == []

    def test_a_plain_one_has_every_key(self) -> None:
        assert fire_of(Fire(NOON, NOON)) == {
            "fireTime": "2026-03-01T12:00:00Z",
            "local": "2026-03-01T12:00:00Z",
            "zone": "UTC",
            "notes": [],
            "skipped": None,
            "jitterOffsetMs": None,
        }


class TestDensity:
    AT = NOON + timedelta(minutes=29, seconds=30)

    def of(self, *entries: Entry, span: timedelta = HOUR) -> dict[str, Any]:
        counted = density(entries, self.AT, span, MINUTE, SECOND)
        found: dict[str, Any] = json.loads(encode(counted))
        return found

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

    def test_blocked_and_ended_schedules_do_not_count(self) -> None:
        minutely = entry(every(minutes=1))
        paused, until = (replace(minutely, own_pause=pause(t)) for t in (None, self.AT + HOUR / 2))
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
