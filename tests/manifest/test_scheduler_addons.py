"""What comes of Heroku Scheduler's table and Cron To Go's manifests. No server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rq_clock.manifest.importers.cron_to_go import from_cron_to_go
from rq_clock.manifest.importers.heroku import from_heroku_scheduler
from rq_clock.manifest.importers.result import Imported
from rq_clock.model.targets import Command
from rq_clock.timing.triggers import Cron
from tests.manifest.importing import ZONES, assert_fires_as_cron, fire_times, job, names

HEROKU = """\
Job\tDyno Size\tFrequency\tLast Run\tNext Due
$ rake update_feed\tStandard-1X\tEvery 10 minutes\tOctober 4, 2026 12:00 AM UTC\tOctober 4, 2026 12:10 AM UTC
$ python manage.py clearsessions\tBasic\tDaily at 3:30 AM UTC\tNever\tin 5 minutes
node  report.js   Hourly at :10   Eco   about 3 hours ago
Daily at 12:00 PM\t$ bin/noon  --quiet\tStandard-1X
"""  # noqa: E501


class TestHerokuScheduler:
    def test_the_pasted_table_is_carried_over(self) -> None:
        imported = from_heroku_scheduler(HEROKU.replace("node  report", "node report"))
        found = [(s.name, s.trigger, s.target) for s in imported.schedules]
        assert imported.left_out == []
        assert found == [
            ("rake-update_feed", Cron("*/10 * * * *"), Command("rake update_feed", 600)),
            (
                "manage-clearsessions", Cron("30 3 * * *"),
                Command("python manage.py clearsessions", 86_400),
            ),
            ("report", Cron("10 * * * *"), Command("node report.js", 3600)),
            ("noon", Cron("0 12 * * *"), Command("bin/noon  --quiet", 86_400)),
        ]  # fmt: skip
        for schedule in imported.schedules:
            assert_fires_as_cron(schedule)
        assert (
            "rake-update_feed, noon: ran in a one-off dyno of size Standard-1X; here it runs in a "
            "worker, which must be as large (--dynos keeps it in dynos)"
        ) in imported.notes

    def test_a_table_pasted_cell_by_cell_is_carried_over(self) -> None:
        text = HEROKU.replace("node  report", "node report").replace("   ", "\t")
        rows = [line.split("\t") for line in text.splitlines()[:3]]
        cells = "\n".join(cell for row in rows for cell in row)
        whole = from_heroku_scheduler("\n".join(text.splitlines()[:3]))
        assert from_heroku_scheduler(cells) == whole
        assert len(whole.schedules) == 2

    @pytest.mark.parametrize(
        ("frequency", "expression"),
        [
            ("Daily at 12:00 AM UTC", "0 0 * * *"),
            ("Daily at 12:30 PM UTC", "30 12 * * *"),
            ("daily at 11:30 pm", "30 23 * * *"),
            ("Every day at 15:30 UTC", "30 15 * * *"),
            ("Hourly at :00", "0 * * * *"),
            ("Every hour at :50", "50 * * * *"),
        ],
    )
    def test_a_frequency_is_the_rule_of_utc(self, frequency: str, expression: str) -> None:
        [schedule] = from_heroku_scheduler(f"$ x\t{frequency}").schedules
        assert schedule.trigger == Cron(expression, "UTC")

    @pytest.mark.parametrize(
        "frequency",
        ["Daily at 13:30 PM UTC", "Daily at 3:30 AM PST", "Daily", "Hourly at :60", "Every day",
         "Every 7 minutes", "Weekly at 3:00 AM UTC", "Daily at 24:00", "Daily at 0:30 AM"],
    )  # fmt: skip
    def test_a_frequency_that_it_does_not_have_is_left_out(self, frequency: str) -> None:
        imported = from_heroku_scheduler(f"$ x --token hunter22\t{frequency}\n$ y\tHourly at :10\n")
        assert names(imported) == ["y"]
        [left] = imported.left_out
        assert (left.line, left.text) == (1, f"$ x --token **** {frequency}")
        assert left.reason.endswith(f"got {frequency!r}")

    @pytest.mark.parametrize(
        ("text", "line", "why"),
        [
            ("$ a\tEco\n$ b\tDaily at 3:30 AM", 1, "found no frequency for it"),
            ("$ b\tDaily at 3:30 AM\n$ a\n", 2, "found no frequency for it"),
            ("$ b\tDaily at 3:30 AM\nHourly at :10\n", 2, "found no command for it"),
            ("$ b\tDaily at 3:30 AM\nx\ty\tHourly at :10", 2, "expected one command and one frequ"),
            ("$ b\tDaily at 3:30 AM\n$ \tHourly at :10", 2, "expected a command line"),
        ],
    )
    def test_a_row_that_lacks_something_is_left_out(self, text: str, line: int, why: str) -> None:
        imported = from_heroku_scheduler(text)
        assert names(imported) == ["b"]
        [left] = imported.left_out
        assert left.line == line
        assert left.reason.startswith(why)


MANIFEST = """\
jobs:
  - nickname: Every minute job
    timezone: 'UTC'
    schedule: '*/1 * * * *'   # quoted, as YAML needs it
    command: 'echo "Every Minute Job"'
    dyno: 'Basic'
    timeout: 300
    state: 'enabled'

  # a comment
  - nickname: Every day (at 09:00)
    timezone: America/New_York
    schedule: 0 9 * * *
    start_date: null
    command: >-
      python manage.py report --to it's-me
      --all
    dyno: Standard-1X
    timeout: 30
    state: paused
    jitter: 5
    retries: 3
  - id: '12345678-1234-5678-1234-567812345678'
    nickname: Every 2 days
    schedule: 2 days
    start_date: '2026-01-01T06:00:00'
    command: |
      set -e
      bin/a
      bin/b
"""
JOBS = [
    {
        "Alias": "Every minute job", "Id": "1", "CreatedAt": 1561888254653, "Timezone": "UTC",
        "ScheduleExpression": "*/1 * * * *", "ScheduleType": "cron", "State": "enabled",
        "LastAttempt": {"Id": "2", "State": "succeeded"}, "Retries": 0, "Jitter": 0,
        "Target": {
            "Type": "dyno", "Size": "Basic", "Command": 'echo "Every Minute Job"',
            "TimeToLive": 300,
        },
    },
    {
        "Alias": "Every day (at 09:00)", "Timezone": "America/New_York", "StartDate": None,
        "ScheduleExpression": "0 9 * * *", "ScheduleType": "cron", "State": "paused",
        "Retries": 3, "Jitter": 5,
        "Target": {
            "Type": "dyno", "Size": "Standard-1X", "TimeToLive": 30,
            "Command": "python manage.py report --to it's-me --all",
        },
    },
    {
        "Alias": "Every 2 days", "ScheduleExpression": "2 days", "ScheduleType": "rate",
        "StartDate": "2026-01-01T06:00:00.000Z", "State": "enabled",
        "Target": {"Type": "dyno", "Command": "set -e\nbin/a\nbin/b\n"},
    },
]  # fmt: skip


class TestCronToGo:
    def test_a_manifest_is_carried_over(self) -> None:
        imported = from_cron_to_go(MANIFEST)
        assert imported.left_out == []
        assert imported.paused == ["every-day-at-09-00"]
        minute, daily, rate = imported.schedules
        assert minute.trigger == Cron("*/1 * * * *")
        assert minute.target == Command('echo "Every Minute Job"', 300)
        assert daily.trigger == Cron("0 9 * * *", "America/New_York")
        assert daily.target == Command("python manage.py report --to it's-me --all", 30)
        assert (daily.jitter, daily.retries) == (timedelta(minutes=5), (10, 20, 40))
        assert rate.name == "every-2-days"
        assert rate.target == Command("set -e\nbin/a\nbin/b\n", 1800)
        found = fire_times(rate, datetime(2026, 1, 1, tzinfo=UTC))[:3]
        assert [f"{t:%m-%d %H:%M}" for t in found] == ["01-01 06:00", "01-03 06:00", "01-05 06:00"]

    @pytest.mark.parametrize("text", [json.dumps(JOBS), json.dumps({"jobs": JOBS}, indent=2)])
    def test_the_json_of_its_api_reads_the_same(self, text: str) -> None:
        assert from_cron_to_go(text) == from_cron_to_go(MANIFEST)

    def test_it_fires_as_by_cron(self) -> None:
        expressions = ["0 9 * * *", "30 2 * * *", "*/20 1-3 * * 0", "0 0 1,15 * *", "15 5 * 3 1-5"]
        jobs = [job(schedule=e, timezone=z) for e in expressions for z in ZONES]
        imported = from_cron_to_go(json.dumps(jobs))
        assert len(imported.schedules) == len(jobs)
        for schedule in imported.schedules:
            assert_fires_as_cron(schedule)

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"schedule": "61 * * * *"}, "expected minute 0-59, got '61' in '61 * * * *'"),
            ({"schedule": None}, "expected 5 fields"),
            ({"schedule": 5}, "expected schedule as text, got int"),
            ({"schedule": "3 weeks"}, "expected 5 fields"),
            ({"schedule": "0 days"}, "expected a period of 10 ms to 50 years"),
            ({"schedule": "999999999 days"}, "expected a period of 10 ms to 50 years"),
            ({"ScheduleType": "rate"}, "expected a rate such as '3 hours', got '0 0 * * *'"),
            ({"ScheduleType": "cron", "schedule": "3 hours"}, "expected 5 fields"),
            ({"ScheduleType": "once"}, "expected ScheduleType 'cron' or 'rate'"),
            ({"timezone": "Mars/Olympus"}, "expected a time zone"),
            ({"command": ""}, "expected a command"),
            ({"command": ["a"]}, "expected command as text, got list"),
            ({"Target": {"Type": "webhook"}}, "expected the target type 'dyno', got 'webhook'"),
            ({"state": "off"}, "expected state 'enabled' or 'paused', got 'off'"),
            ({"timeout": 0}, "expected a command's timeout in seconds"),
            ({"timeout": "soon"}, "expected timeout as a whole number, got 'soon'"),
            ({"jitter": -1}, "expected jitter as a whole number, got -1"),
            ({"jitter": True}, "expected jitter as a whole number, got True"),
            ({"retries": 10**6}, "expected at most 20 retries, got 1000000"),
            ({"start_date": "soon"}, "expected start_date as ISO 8601, got 'soon'"),
            ({"start_date": 5}, "expected start_date as ISO 8601, got 5"),
        ],
    )
    def test_a_job_that_it_could_not_have_is_left_out(self, fields: Any, why: str) -> None:
        imported = from_cron_to_go(json.dumps([job(), job(nickname="y", **fields)]))
        assert names(imported) == ["x"]
        [left] = imported.left_out
        assert left.line == 2
        assert left.reason.startswith(why)
        assert '"nickname": "y"' in left.text

    @pytest.mark.parametrize(
        ("text", "line", "why"),
        [
            ('{"jobs": [', 1, "cannot read the manifest: line 1: expected JSON"),
            ('{"jobs": [\n{"a": 1,}]}', 2, "cannot read the manifest: line 2: expected JSON"),
            ("[" * 100_000, 1, "cannot read the manifest: line 1: expected at most 70 levels"),
            ("[1, {}]", 1, "expected a job with named fields"),
            ('{"jobs": 3}', 1, "expected a job with named fields"),
            ("hello", 1, "expected a job with named fields"),
            ("tasks:\n  - command: x\n", 1, "expected the list of a manifest, 'jobs:', or a job"),
            ("jobs:\n  - nickname: &a x\n", 2, "cannot read the manifest: line 2: expected no"),
            ("jobs:\n  - schedule: */5 * * * *\n", 2, "cannot read the manifest: line 2: expec"),
        ],
    )
    def test_an_unreadable_job_is_left_out(self, text: str, line: int, why: str) -> None:
        left, *_ = from_cron_to_go(text).left_out
        assert left.line == line
        assert left.reason.startswith(why)

    @pytest.mark.parametrize(
        "text", ["", "jobs: []", "jobs: null\n", "[]", '{"jobs": null}', "\n#\n"]
    )
    def test_no_jobs_are_no_fault(self, text: str) -> None:
        imported = from_cron_to_go(text)
        assert imported == Imported("default")

    def test_a_difference_in_behavior_is_noted(self) -> None:
        jobs = [
            job(nickname="a", command="worker", Webhook="x"),
            job(nickname="b", schedule="0 0 */2 * 1", start_date="2026-01-01T00:00:00Z"),
            job(nickname="c", schedule="3 hours"),
        ]
        imported = from_cron_to_go(json.dumps(jobs))
        notes = imported.notes
        assert imported.schedules[1].trigger.spec()["start"] == 1_767_225_600_000
        assert set(notes) >= {
            "a: if 'worker' is a process of the Procfile, use its command",
            "a: unknown and not carried over: webhook",
            "b: runs on days that match both its day fields; Cron To Go may need only one",
            "c: its rate is elapsed time, counted from 1970-01-01 UTC",
        }
