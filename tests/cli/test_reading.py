"""What the command line tells of schedules and runs. The server is real, the terminal is not."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

from rq_clock import Schedules, command, cron, every, once, webhook
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import iso
from tests.cli.terminal import Run, fill, unchanged
from tests.helpers import pause

HOUR = timedelta(hours=1)
TASK = "tasks.demo.heartbeat"


def names(document: str) -> list[str]:
    return [row["name"] for row in json.loads(document)]


def test_no_output_has_what_a_terminal_obeys(run: Run, connection: Redis) -> None:
    odd = "a\x1b[2J\x1b[31mb\r\a\x9bc\u2028d\u202e"
    connection.sadd("rq:queues", f"rq:queue:{odd}")
    connection.rpush(f"rq:queue:{odd}", "job")
    printed = run("doctor", "--color", "always").stdout
    own = re.compile(r"\x1b\[(?:31|33|34|0)m(?=error|warning|info|  )| *\x1b\[0m")
    assert own.sub("", printed).replace("\n", "").isprintable()
    assert r"a\x1b[2J\x1b[31mb\r\x07\x9bc\u2028d\u202e" in printed
    document = run("doctor", "--json").stdout
    assert document.replace("\n", "").isprintable()
    assert odd in "".join(check["text"] for check in json.loads(document)["checks"])
    assert run("show", odd).stderr.replace("\n", "").isprintable()


class TestList:
    def test_each_schedule_is_shown(self, run: Run, connection: Redis) -> None:
        fire = iso(fill(connection).soonest(1)[0][1])
        head, feeds, report = run.ok("list").splitlines()
        assert head.split("  ")[:2] == ["SCHEDULE", "STATE"]
        assert feeds.startswith("feeds     ✓ scheduled  ")
        assert " ".join(feeds.split()[3:]) == f"- {fire} reports every 5 minutes {TASK}"
        assert "at 03:00 every day, Europe/Berlin time" in report

    def test_as_json_it_gives_whole_objects(self, run: Run, connection: Redis) -> None:
        pause(fill(connection), "report", datetime.now(UTC))
        connection.hset("rq-clock:default:definitions", "feeds", "{}")
        feeds, report = run.json("list")
        assert (feeds["state"], report["state"]) == ("invalid", "paused")
        assert "cannot read the stored definition" in feeds["fault"]
        assert report["pause"]["reason"] == "maintenance"
        assert report["trigger"] == {"cron": "0 3 * * *", "tz": "Europe/Berlin"}
        assert report["origin"] == "declared"
        assert report["func"] == TASK
        assert feeds.keys() == report.keys()

    def test_an_empty_list_prints_a_message_on_standard_error(self, run: Run) -> None:
        result = run("list")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "no schedules" in result.stderr

    def test_its_json_has_the_markers(self, run: Run, connection: Redis) -> None:
        store = fill(connection)
        connection.hset(store.key("markers"), "feeds", "1772323200000 1772323200000 job")
        feeds, _ = run.json("list")
        assert feeds["marker"] == feeds["knownSince"] == "2026-03-01T00:00:00Z"

    def test_every_filter_narrows_it(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        pause(fill(connection), "report", datetime.now(UTC))
        schedules.add("disk", every(hours=1), command("df -h /"), tags=["ops"])
        found = {
            words: names(run("list", *words.split(), "--json").stdout)
            for words in (
                "--state paused",
                "--state late,scheduled",
                "--queue reports",
                "--tag ops",
                "--origin run-time",
                "--text DF",
                "--text nothing",
            )
        }
        assert list(found.values()) == [
            ["report"], ["disk", "feeds"], ["feeds"], ["disk"], ["disk"], ["disk"], [],
        ]  # fmt: skip
        nothing = run("list", "--text", "nothing")
        assert (nothing.stdout, nothing.stderr) == ("", "no matching schedules\n")

    def test_an_unknown_state_is_a_usage_error(self, run: Run) -> None:
        error = run.refused(2, "list", "--state", "late,sleepy")
        assert "expected some of invalid,late,stuck,failing,paused" in error

    def test_it_is_sorted_by_the_option(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", every(hours=5), TASK)
        schedules.add("b", every(milliseconds=10), TASK)
        schedules.add("c", every(hours=4), TASK)
        schedules.pause("c")
        assert names(run("list", "--json").stdout) == ["a", "b", "c"]
        assert names(run("list", "--sort", "next", "--json").stdout)[0] == "b"
        assert names(run("list", "--sort", "state", "--json").stdout)[:1] == ["c"]

    def test_the_last_column_explains_a_state(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        fill(connection, late=HOUR)
        schedules.pause("report", reason="bank\x1b[2J is down")
        connection.hset("rq-clock:default:definitions", "broken", "{}")
        connection.hset("rq-clock:default:markers", "broken", "- 0")
        broken, feeds, report = run("list").stdout.splitlines()[1:]
        assert re.search(r"  ! late .*  by \d\d min$", feeds)
        assert report.endswith(r"by ana: bank\x1b[2J is down")
        assert "⊘ invalid" in broken
        assert "cannot read the stored definition" in broken

    def test_jitter_is_shown_beside_its_fire_time(self, run: Run, schedules: Schedules) -> None:
        schedules.add("spread", every(hours=1), TASK, jitter=600)
        row = run.json("list")[0]
        added = f"+{duration_text(timedelta(milliseconds=row['jitterOffsetMs']))} jitter"
        assert f"{row['nextFireTime']} {added}" in run("list").stdout
        assert added in run("show", "spread").stdout
        assert added in run("next").stdout
        assert run.json("next")[0]["jitterOffsetMs"] > 0

    def test_density_shows_crowded_seconds(self, run: Run, schedules: Schedules) -> None:
        minute = (datetime.now(UTC).minute + 30) % 60  # far from both ends of the hour to come
        schedules.add_many((f"n{i}", cron(f"{minute} * * * *"), TASK) for i in range(40))
        lines = run("list", "--density").stdout.splitlines()
        assert lines[0] == "fire times in each minute (UTC)"
        [crowded] = [line for line in lines[1:61] if "█" in line]
        assert crowded.split()[0].endswith(f":{minute:02}:00Z")
        assert crowded.split()[1] == "40"
        assert lines[61:] == [
            "herds in one second (`jitter` spreads them)",
            f"{crowded.split()[0]}         40",
        ]
        day = run.json("list", "--density", "day")
        assert day["bucketSeconds"] == 3600
        assert sum(bucket["fires"] for bucket in day["buckets"]) in (23 * 40, 24 * 40)

    def test_watch_needs_a_terminal(self, run: Run) -> None:
        run.refused(2, "list", "--watch")
        assert "--watch needs a terminal" in run("list", "--watch").stderr


class TestNext:
    def test_all_schedules_are_merged_soonest_first(self, run: Run, connection: Redis) -> None:
        fill(connection)
        rows = run.json("next", "-n", "4")
        assert [row["name"] for row in rows].count("feeds") >= 3
        assert [row["fireTime"] for row in rows] == sorted(row["fireTime"] for row in rows)

    def test_paused_schedules_are_left_out(self, run: Run, schedules: Schedules) -> None:
        for n in range(6):
            schedules.add(f"often-{n}", every(seconds=1), TASK)
        schedules.pause([f"often-{n}" for n in range(6)])
        schedules.add("daily", every(days=1), TASK)
        rows = run.json("next", "-n", "2")
        assert [row["name"] for row in rows] == ["daily", "daily"]

    def test_of_one_schedule(self, run: Run, connection: Redis) -> None:
        fill(connection)
        output = run.ok("next", "report", "-n", "2")
        assert all("03:00:00 Europe/Berlin" in line for line in output.splitlines()[:2])

    def test_a_span_is_in_the_schedules_zone(self, run: Run, schedules: Schedules) -> None:
        schedules.add("nightly", cron("30 2 * * *", tz="Europe/Berlin"), TASK)
        span = ("--from", "2027-03-27", "--until", "2027-03-28")
        assert run("next", "nightly", *span).stdout.splitlines() == [
            "nightly  Sat 2027-03-27 02:30:00 Europe/Berlin  (2027-03-27T01:30:00Z)",
            "nightly  Sun 2027-03-28 03:00:00 Europe/Berlin  (2027-03-28T01:00:00Z)",
            "    offset changes +01:00 → +02:00",
            "    02:30 does not exist that day (clocks go forward 02:00 → 03:00); runs at 03:00",
        ]
        assert len(run.json("next", *span)) == 2

    def test_a_reversed_span_is_refused(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), TASK)
        error = run.refused(2, "next", "x", "--from", "2027-03-27", "--until", "2027-03-26")
        assert "expected an instant after Sat 2027-03-27 00:00:00 UTC" in error

    def test_skipped_fire_times_are_marked(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), TASK)
        schedules.skip("x")
        first, second = run.json("next", "x", "-n", "2")
        assert (first["skipped"], second["skipped"]) == ("requested", None)
        assert "it will be skipped on request" in run("next", "x").stdout
        schedules.pause("x")
        assert "paused: it will be skipped" in run("next", "x", "-n", "1").stdout

    def test_an_unknown_name_gets_a_similar_one(self, run: Run, connection: Redis) -> None:
        fill(connection)
        error = run.refused(3, "next", "reprot")
        assert "no schedule 'reprot'" in error
        assert "did you mean 'report'?" in error


class TestShow:
    def test_it_shows_a_schedule(self, run: Run, connection: Redis, schedules: Schedules) -> None:
        schedules.add(
            "hook",
            cron("30 2 * * *", tz="Europe/Berlin"),
            webhook("https://hooks.example.com/in", headers={"Authorization": "Bearer abcdef"}),
            tags=["ops"],
        )
        schedules.pause("hook", reason="they are moving", missed="latest")
        schedules.skip("hook", 2)
        connection.rpush("rq-clock:default:ledger:hook", "s 1772366400000 3 ok 1 5 15 worker.1")
        output = run.ok("show", "hook", "-n", "1")
        lines = output.splitlines()
        assert lines[:2] == ["hook  ‖ paused", "at 02:30 every day, Europe/Berlin time"]
        assert "by ana since" in lines[2]
        assert lines[2].endswith(": they are moving (missed fire times to run then: latest)")
        assert lines[3].startswith("skips the next 2 until ")
        for fact in ("cron         30 2 * * *", "origin       run-time", 'tags         ["ops"]'):
            assert fact in lines
        assert sum("02:30:00 Europe/Berlin" in line for line in lines) == 2
        assert any(line.split()[:2] == ["2026-03-01T12:00:00Z", "ok"] for line in lines)
        assert "abcdef" not in output

    def test_its_json_has_the_next_and_past_runs(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), TASK)
        schedules.trigger("x")
        schedules.backfill("x", datetime.now(UTC) - 3 * HOUR, datetime.now(UTC))
        view = run.json("show", "x", "-n", "2")
        assert len(view["next"]) == 2
        assert [row["reason"] for row in view["runs"]] == ["manual"]
        assert view["last"]["state"] == "waiting"
        assert [row["total"] for row in view["backfills"]] == [3]
        assert "▶ running" in run("show", "x").stdout

    def test_an_invalid_one_is_shown_with_its_fault(self, run: Run, connection: Redis) -> None:
        fill(connection)
        connection.hset("rq-clock:default:definitions", "feeds", "{}")
        lines = run("show", "feeds").stdout.splitlines()
        assert lines[0] == "feeds  ⊘ invalid"
        assert "cannot read the stored definition" in lines[1]

    def test_an_unknown_name_gets_a_similar_one(self, run: Run, connection: Redis) -> None:
        fill(connection)
        assert "did you mean 'feeds'?" in run.refused(3, "show", "feed")


class TestHistory:
    """Entries as lua/commit.lua and lua/close.lua leave them."""

    NOON = 1_772_366_400_000  # 2026-03-01T12:00:00Z

    def record(self, connection: Redis) -> None:
        fill(connection)
        hour = 3_600_000
        end = f"1 {self.NOON + 5} {self.NOON + 1505} worker.1"
        failed = f"2 {self.NOON + hour + 5} {self.NOON + hour + 6} worker.2 ValueError: no luck"
        connection.rpush(
            "rq-clock:default:ledger:feeds",
            f"- {self.NOON - 2 * hour} {self.NOON - hour} 25 paused",
            f"s {self.NOON} 3 ok {end}",
            f"c {self.NOON + hour} 900000 failed {failed}",
            f"s {self.NOON + 2 * hour} 1",
        )
        for line in (f"s {self.NOON} 3 ok {end}", f"c {self.NOON + hour} - failed {failed}"):
            fields: dict[Any, Any] = {"schedule": "feeds", "job": "default-feeds-1", "entry": line}
            connection.xadd("rq-clock:default:runs", fields)

    def test_one_schedule_has_every_fire_time(self, run: Run, connection: Redis) -> None:
        self.record(connection)
        head, waiting, failed, ok, skipped = run.ok("history", "feeds").splitlines()
        assert head.split()[:3] == ["SCHEDULE", "FIRE", "TIME"]
        assert waiting.split()[1:] == ["2026-03-01T14:00:00Z", "waiting", "-", "-", "schedule"]
        assert failed.endswith("failed   2    0.001 s   ValueError: no luck")
        assert ok.split()[1:6] == ["2026-03-01T12:00:00Z", "ok", "1", "1.500", "s"]
        assert skipped.split()[-3:] == ["25", "times", "paused"]

    def test_all_attempts_are_listed_newest_first(self, run: Run, connection: Redis) -> None:
        self.record(connection)
        first, second = run.json("history")
        assert (first["state"], first["attempt"], first["lagMs"]) == ("failed", 2, None)
        assert first["error"] == "ValueError: no luck"
        assert (second["state"], second["reason"], second["lagMs"]) == ("ok", "schedule", 3)
        assert (second["started"], second["tookMs"]) == ("2026-03-01T12:00:00.005Z", 1500)
        assert second["job"] == "default-feeds-1"

    def test_it_can_be_narrowed(self, run: Run, connection: Redis) -> None:
        self.record(connection)
        states = {
            words: [row["state"] for row in run.json("history", *words)]
            for words in [
                ("feeds", "--state", "skipped"),
                ("feeds", "-n", "2"),
                ("feeds", "--since", "2026-03-01T13:00Z"),
                ("--state", "ok"),
                ("--since", "1h"),
            ]
        }
        assert list(states.values()) == [
            ["skipped"], ["waiting", "failed"], ["waiting", "failed"], ["ok"], [],
        ]  # fmt: skip

    def test_a_wrong_instant_names_the_option(self, run: Run) -> None:
        error = run.refused(2, "history", "--since", "someday")
        assert "--since: expected a date and time" in error

    def test_an_unknown_name_gets_a_similar_one(self, run: Run, connection: Redis) -> None:
        fill(connection)
        assert "did you mean 'feeds'?" in run.refused(3, "history", "feed")

    def test_a_removed_schedule_still_has_its_history(self, run: Run, connection: Redis) -> None:
        connection.rpush("rq-clock:default:ledger:gone", f"s {self.NOON} 3")
        assert "2026-03-01T12:00:00Z" in run("history", "gone").stdout


class TestLogs:
    def test_output_is_printed_byte_for_byte(self, run: Run, connection: Redis) -> None:
        connection.set("rq-clock:default:output:default-disk-1", b"100%\xff\n")
        assert run("logs", "default-disk-1").stdout_bytes == b"100%\xff\n"

    def test_a_run_without_output_is_reported(self, run: Run) -> None:
        assert "no output of run 'default-disk-1'" in run.refused(3, "logs", "default-disk-1")

    def test_a_name_means_its_latest_run(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("disk", every(hours=1), command("df"))
        connection.rpush("rq-clock:default:ledger:disk", "s 1772366400000 3")
        connection.set("rq-clock:default:output:default-disk-1772366400000", "old\n")
        assert run("logs", "disk").stdout == "old\n"
        job = schedules.trigger("disk")  # its number stands in no entry of the ledger
        connection.set(f"rq-clock:default:output:{job}", "new\n")
        assert run("logs", "disk").stdout == "new\n"

    def test_an_unknown_run_gets_a_similar_name(self, run: Run, schedules: Schedules) -> None:
        schedules.add("disk", every(hours=1), command("df"))
        assert "did you mean 'disk'?" in run("logs", "dsik").stderr
        assert "disk: no run with a known job" in run.refused(3, "logs", "disk")


def test_reading_writes_nothing(run: Run, connection: Redis, schedules: Schedules) -> None:
    fill(connection)
    schedules.add("later", once(datetime.now(UTC) + HOUR), TASK)
    schedules.trigger("later")
    for words in (
        "list", "list --density", "show feeds", "next", "history", "history feeds", "logs later",
        "audit", "backfills", "status", "next later", "backfill feeds --from 5h --to 1h --dry-run",
    ):  # fmt: skip
        with unchanged(connection):
            assert run(*words.split()).exit_code in (0, 3, 5), words
