"""The command line: what it prints, and how it ends. The server is real, the terminal is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from rq import Queue

from rq_clock import Clock, cron, every
from rq_clock.cli import main
from rq_clock.embedded import free_url
from rq_clock.state import Change, Lease, from_ms
from rq_clock.store import Store

Run = Callable[..., Result]


@pytest.fixture
def run(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `rq-clock` in an empty directory against the shared server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words: str, **env: str) -> Result:
        return CliRunner().invoke(main, words, env={"REDIS_URL": redis_url, **env})

    return run


def write_app(name: str, text: str) -> str:
    head = "from rq_clock import Clock, cron, every, once\nclock = Clock()\n"
    Path(f"{name}.py").write_text(head + text)
    return f"{name}:clock"


def fill(connection: Redis, *, now: datetime | None = None) -> Store:
    """Two schedules, known since `now`, and a clock that leads."""
    store, now = Store(connection, "default"), now or datetime.now(UTC)
    lease = store.acquire("clock.1", ("test", ""), "starting", now)
    assert isinstance(lease, Lease)
    clock = Clock()
    clock.add("feeds", every(minutes=5), "tasks.demo.heartbeat", queue="reports")
    clock.add("report", cron("0 3 * * *", tz="Europe/Berlin"), "tasks.demo.heartbeat")
    changes = [
        Change("put", s.name, s.definition(), s.next_after(now), restart=True)
        for s in clock.schedules.values()
    ]
    assert all(store.reconcile(lease, 0, now, changes))
    return store


class TestCheck:
    def test_good_declarations_pass(self, run: Run) -> None:
        app = write_app("good_app", "clock.add('x', every(minutes=1), 'json.dumps')")
        result = run("check", RQ_CLOCK_APP=app)
        assert (result.exit_code, result.stdout) == (0, "1 schedule in good_app:clock, all good\n")

    def test_every_fault_of_every_schedule_is_listed(self, run: Run) -> None:
        app = write_app(
            "bad_app",
            "clock.add('one', cron('61 25 * * *'), 'json.dumps', que='x')\n"
            "clock.add('two', every(), 'json.dumps')\n"
            "clock.add('three', every(minutes=1), 'json.nothing')\n"
            "clock.add('four', every(minutes=1), 'no_such_module.task')\n"
            "clock.add('five', cron('0 0 30 2 *'), 'json.dumps')\n"
            "clock.add('six', cron('0 3 * * *', tz='Europe/Berlim'), 'json.dumps')\n",
        )
        result = run("check", RQ_CLOCK_APP=app)
        assert result.exit_code == 1
        lines = result.stderr.splitlines()
        assert lines[-1] == "8 faults in bad_app:clock"
        told = "\n".join(lines)
        for expected in (
            "one: expected minute 0-59, got '61' in '61 25 * * *'",
            "one: expected hour 0-23, got '25' in '61 25 * * *'",
            "one: unknown option 'que'; did you mean 'queue'?",
            "two: expected a period",
            "three: 'json' has no function 'nothing'",
            "four: cannot import target 'no_such_module.task'",
            "five: ",
            "Europe/Berlin",
        ):
            assert expected in told

    def test_a_module_that_breaks_on_import_is_told_apart(self, run: Run) -> None:
        Path("broken_task.py").write_text("raise RuntimeError('no database here')\n")
        app = write_app("app_broken", "clock.add('x', every(minutes=1), 'broken_task.run')")
        result = run("check", RQ_CLOCK_APP=app)
        assert result.exit_code == 1
        assert "cannot import target 'broken_task.run': RuntimeError: no database" in result.stderr

    @pytest.mark.parametrize(
        ("app", "reason"),
        [("nowhere:clock", "cannot load the app"), ("json:dumps", "to be a rq_clock.Clock")],
    )
    def test_an_app_that_is_not_there_is_one_line(self, run: Run, app: str, reason: str) -> None:
        result = run("check", RQ_CLOCK_APP=app)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert "RQ_CLOCK_APP" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_a_reversed_range_is_a_warning_not_a_fault(self, run: Run) -> None:
        app = write_app("wrapped", "clock.add('x', cron('0 22-2 * * *'), 'json.dumps')")
        result = run("check", RQ_CLOCK_APP=app)
        assert result.exit_code == 0
        assert "warning: x: " in result.stderr


class TestExplain:
    def test_it_says_when_and_notes_what_the_clocks_do(self, run: Run) -> None:
        result = run("explain", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "2",
                     "--from", "2026-03-28T12:00Z")  # fmt: skip
        assert result.exit_code == 0
        assert result.stdout.splitlines()[:2] == [
            "at 02:30 every day, Europe/Berlin time",
            "Sun 2026-03-29 03:00:00 Europe/Berlin  (2026-03-29T01:00:00Z)",
        ]
        assert "02:30 does not exist that day" in result.stdout

    def test_as_json_it_is_one_document(self, run: Run) -> None:
        result = run("explain", "*/5 * * * *", "-n", "1", "--from", "2026-03-01T00:00", "--json")
        document = json.loads(result.stdout)
        assert document["next"] == [
            {"fireTime": "2026-03-01T00:05:00Z", "local": "2026-03-01T00:05:00+00:00", "notes": []}
        ]
        assert document["words"] == "every 5 minutes"

    def test_a_wrong_expression_is_told_whole(self, run: Run) -> None:
        result = run("explain", "61 * 0 * *")
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 2
        assert "expected minute 0-59, got '61' in '61 * 0 * *'" in result.stderr

    def test_a_wrong_instant_is_a_matter_of_usage(self, run: Run) -> None:
        result = run("explain", "* * * * *", "--from", "tomorrow")
        assert result.exit_code == 2
        assert "expected an instant such as" in result.stderr


class TestReading:
    def test_list_shows_each_schedule(self, run: Run, connection: Redis) -> None:
        fill(connection)
        result = run("list")
        assert result.exit_code == 0
        head, feeds, report = result.stdout.splitlines()
        assert head.split()[:2] == ["SCHEDULE", "WHEN"]
        assert feeds.startswith("feeds ")
        assert "every 5 minutes" in feeds
        assert feeds.endswith("reports")
        assert "Europe/Berlin" in report

    def test_list_as_json_gives_whole_objects(self, run: Run, connection: Redis) -> None:
        fill(connection).pause("report", reason="x", by="y", now=datetime.now(UTC))
        connection.hset("rq-clock:default:definitions", "feeds", "{}")
        feeds, report = json.loads(run("list", "--json").stdout)
        assert (feeds["state"], report["state"]) == ("invalid", "paused")
        assert report["trigger"] == {"cron": "0 3 * * *", "tz": "Europe/Berlin"}
        assert report["origin"] == "declared"
        assert report["func"] == "tasks.demo.heartbeat"

    def test_an_empty_list_is_said_on_standard_error(self, run: Run) -> None:
        result = run("list")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "no schedules" in result.stderr

    def test_next_merges_all_schedules_soonest_first(self, run: Run, connection: Redis) -> None:
        fill(connection)
        rows = json.loads(run("next", "-n", "4", "--json").stdout)
        assert [row["name"] for row in rows].count("feeds") >= 3
        assert [row["fireTime"] for row in rows] == sorted(row["fireTime"] for row in rows)

    def test_next_of_one_schedule(self, run: Run, connection: Redis) -> None:
        fill(connection)
        result = run("next", "report", "-n", "2")
        assert result.exit_code == 0
        assert all("03:00:00 Europe/Berlin" in line for line in result.stdout.splitlines()[:2])

    def test_an_unknown_schedule_is_told_with_its_neighbour(
        self, run: Run, connection: Redis
    ) -> None:
        fill(connection)
        result = run("next", "reprot")
        assert result.exit_code == 3
        assert "no schedule 'reprot'" in result.stderr
        assert "did you mean 'report'?" in result.stderr


class TestStatus:
    def status(self, run: Run) -> tuple[int, dict[str, Any]]:
        result = run("status", "--json")
        return result.exit_code, json.loads(result.stdout)

    def test_a_leading_clock_is_healthy(self, run: Run, connection: Redis) -> None:
        store = fill(connection)
        store.renew(Lease(store.leader()["token"]), tick=1772323200000, lag_p50_ms=1,
                    lag_p99_ms=2, lag_max_ms=3)  # fmt: skip
        code, report = self.status(run)
        assert code == 0
        assert report["healthy"]
        assert report["leader"]["instance"] == "clock.1"
        assert report["leader"]["lag"] == {"p50Ms": 1.0, "p99Ms": 2.0, "maxMs": 3.0}
        assert report["leader"]["lastTick"] == "2026-03-01T00:00:00Z"
        assert "healthy" in run("status").stdout

    def test_no_leader_is_unhealthy(self, run: Run) -> None:
        code, report = self.status(run)
        assert code == 5
        assert report["leader"] is None
        assert report["problems"] == [
            "no clock leads; start one (`heroku ps:scale clock=1`, `python clock.py`)"
        ]

    def test_a_late_schedule_is_unhealthy(self, run: Run, connection: Redis) -> None:
        fill(connection, now=datetime.now(UTC) - timedelta(hours=1))
        code, report = self.status(run)
        assert code == 5
        late = {row["name"]: row["lateSeconds"] for row in report["late"]}
        assert 3000 < late["feeds"] < 3600
        assert "late       feeds" in run("status").stdout

    def test_markers_are_told_in_the_list(self, run: Run, connection: Redis) -> None:
        store = fill(connection)
        connection.hset(store.key("markers"), "feeds", "1772323200000 1772323200000 job")
        feeds, _ = json.loads(run("list", "--json").stdout)
        assert feeds["marker"] == feeds["knownSince"] == "2026-03-01T00:00:00Z"
        assert from_ms(1772323200000).year == 2026


class TestRuns:
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

    def test_history_of_one_schedule_has_every_fire_time(self, run: Run, connection: Redis) -> None:
        self.record(connection)
        result = run("history", "feeds")
        assert result.exit_code == 0
        head, waiting, failed, ok, skipped = result.stdout.splitlines()
        assert head.split()[:3] == ["SCHEDULE", "FIRE", "TIME"]
        assert waiting.split()[1:] == ["2026-03-01T14:00:00Z", "waiting", "-", "-", "schedule"]
        assert failed.endswith("failed   2    0.001 s   ValueError: no luck")
        assert ok.split()[1:6] == ["2026-03-01T12:00:00Z", "ok", "1", "1.500", "s"]
        assert skipped.split()[-3:] == ["25", "times", "paused"]

    def test_history_of_all_has_what_ended_newest_first(self, run: Run, connection: Redis) -> None:
        self.record(connection)
        first, second = json.loads(run("history", "--json").stdout)
        assert (first["state"], first["attempt"], first["lagMs"]) == ("failed", 2, None)
        assert first["error"] == "ValueError: no luck"
        assert (second["state"], second["reason"], second["lagMs"]) == ("ok", "schedule", 3)
        assert (second["started"], second["tookMs"]) == ("2026-03-01T12:00:00.005Z", 1500)
        assert second["job"] == "default-feeds-1"

    def test_history_can_be_narrowed(self, run: Run, connection: Redis) -> None:
        self.record(connection)
        states = {
            words: [row["state"] for row in json.loads(run("history", *words, "--json").stdout)]
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
        result = run("history", "--since", "yesterday")
        assert result.exit_code == 2
        assert "--since: expected an instant" in result.stderr

    def test_history_of_an_unknown_schedule_is_told_with_its_neighbour(
        self, run: Run, connection: Redis
    ) -> None:
        fill(connection)
        result = run("history", "feed")
        assert result.exit_code == 3
        assert "did you mean 'feeds'?" in result.stderr

    def test_a_removed_schedule_still_has_its_history(self, run: Run, connection: Redis) -> None:
        connection.rpush("rq-clock:default:ledger:gone", f"s {self.NOON} 3")
        assert "2026-03-01T12:00:00Z" in run("history", "gone").stdout

    def test_logs_give_what_a_command_printed_byte_by_byte(
        self, run: Run, connection: Redis
    ) -> None:
        connection.set("rq-clock:default:output:default-disk-1", b"100%\xff\n")
        assert run("logs", "default-disk-1").stdout_bytes == b"100%\xff\n"

    def test_logs_of_nothing_are_told_as_such(self, run: Run, connection: Redis) -> None:
        result = run("logs", "default-disk-1")
        assert result.exit_code == 3
        assert "no output of run 'default-disk-1'" in result.stderr


class TestWorker:
    def test_a_burst_worker_empties_the_queues_named(
        self, redis_url: str, connection: Redis
    ) -> None:
        jobs = [
            Queue(name, connection=connection).enqueue("tests.worker_jobs.add", 1, 2)
            for name in ("high", "low", "other")
        ]
        words = ["worker", "high", "low", "--burst", "--concurrency", "2"]
        root = str(Path(__file__).parent.parent)
        result = subprocess.run(
            [sys.executable, "-m", "rq_clock", *words],
            env={"REDIS_URL": redis_url, "PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert [job.get_status().value for job in jobs] == ["finished", "finished", "queued"]
        assert "worker.pool processes=2 connections=4" in result.stdout


class TestRedis:
    def test_no_redis_is_one_line_with_a_remedy(self, run: Run) -> None:
        result = run("list", REDIS_URL=free_url())
        assert result.exit_code == 4
        [line] = result.stderr.splitlines()
        assert "no Redis at redis://127.0.0.1" in line
        assert "start one with `rq-clock redis`" in line

    def test_no_url_is_one_line_with_a_remedy(self, run: Run) -> None:
        result = run("status", REDIS_URL="")
        assert result.exit_code == 4
        assert "expected REDIS_URL to name a Redis" in result.stderr

    def test_a_wrong_password_is_told_without_showing_it(
        self, run: Run, fresh_server: Callable[..., Any]
    ) -> None:
        url = fresh_server().url
        with Redis.from_url(url) as redis:
            redis.config_set("requirepass", "right")
        result = run("list", REDIS_URL=url.replace("redis://", "redis://:hunter2@"))
        assert result.exit_code == 4
        assert "refuses the user or password" in result.stderr
        assert "hunter2" not in result.output

    def test_an_evicting_redis_is_warned_of(
        self, run: Run, fresh_server: Callable[..., Any]
    ) -> None:
        url = fresh_server(**{"maxmemory-policy": "allkeys-lru"}).url
        result = run("list", REDIS_URL=url)
        assert result.exit_code == 0
        assert "warning: maxmemory-policy is allkeys-lru" in result.stderr

    def test_a_bad_setting_is_one_line(self, run: Run) -> None:
        result = run("list", RQ_CLOCK_NAMESPACE="No!")
        assert result.exit_code == 1
        assert result.stderr.startswith("rq-clock: RQ_CLOCK_NAMESPACE: expected")

    def test_newer_data_is_left_alone(self, run: Run, connection: Redis) -> None:
        connection.hset("rq-clock:default:meta", "version", 99)
        result = run("list")
        assert result.exit_code == 4
        assert "holds data of version 99" in result.stderr


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "rq_clock", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: rq-clock [OPTIONS] COMMAND")
    for command in ("check", "explain", "list", "next", "redis", "status"):
        assert f"\n  {command} " in done.stdout


def test_a_faulty_script_starts_nothing(tmp_path: Path) -> None:
    """`python clock.py` with a wrong entry ends before it looks for a Redis."""
    script = tmp_path / "clock.py"
    script.write_text(
        "from rq_clock import Clock, cron\nclock = Clock()\n"
        "clock.add('nightly', cron('0 3 * * 8'), 'json.dumps')\nclock.run()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "rq_clock.errors.ScheduleError: nightly: "
        "expected day-of-week 0-7 or sun-sat, got '8' in '0 3 * * 8'"
    )
