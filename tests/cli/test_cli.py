"""The command line: what it prints, and how it ends. The server is real, the terminal is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from redis import Redis
from rq import Queue

from rq_clock import Schedules, every
from rq_clock.cli import SECTIONS, main
from rq_clock.model.entry import Lease
from rq_clock.store.lease import Leases
from tests.cli.terminal import Run, command, environment, fill
from tests.helpers import PATIENCE, wait_until
from tests.server import free_url


def write_app(name: str, text: str) -> str:
    head = "from rq_clock import Clock, cron, every, once\nclock = Clock()\n"
    Path(f"{name}.py").write_text(head + text)
    return f"{name}:clock"


class TestExplain:
    def test_it_prints_fire_times_and_clock_changes(self, run: Run) -> None:
        result = run("explain", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "2",
                     "--from", "2026-03-28T12:00Z")  # fmt: skip
        assert result.exit_code == 0
        assert result.stdout.splitlines()[:2] == [
            "at 02:30 every day, Europe/Berlin time",
            "Sun 2026-03-29 03:00:00 Europe/Berlin  (2026-03-29T01:00:00Z)",
        ]
        assert "02:30 does not exist that day" in result.stdout

    def test_it_explains_intervals_too(self, run: Run) -> None:
        words = ("--every", "2w", "--at", "9:00", "--on", "tue", "--start", "2026-01-06",
                 "--max-runs", "3", "--tz", "EST", "-n", "9", "--from", "2026-01-07")  # fmt: skip
        result = run("explain", *words)
        assert result.stdout.splitlines() == [
            "at 09:00 on Tuesday every 2 weeks, counted from the week of 2026-01-05, "
            "from 2026-01-06, at most 3 times, EST time",
            "Tue 2026-01-20 09:00:00 EST  (2026-01-20T14:00:00Z)",
            "Tue 2026-02-03 09:00:00 EST  (2026-02-03T14:00:00Z)",
        ]
        assert "zone 'EST' is UTC-5 all year" in result.stderr

    def test_as_json_it_is_one_document(self, run: Run) -> None:
        result = run("explain", "*/5 * * * *", "-n", "1", "--from", "2026-03-01T00:00", "--json")
        document = json.loads(result.stdout)
        assert document["next"] == [
            {
                "fireTime": "2026-03-01T00:05:00Z",
                "local": "2026-03-01T00:05:00Z",
                "zone": "UTC",
                "notes": [],
                "skipped": None,
                "jitterOffsetMs": None,
            }
        ]
        assert document["words"] == "every 5 minutes"

    def test_every_fault_of_an_expression_is_reported(self, run: Run) -> None:
        assert "expected an EXPRESSION, or an interval" in run.refused(2, "explain")
        error = run.refused(1, "explain", "61 * 0 * *")
        assert len(error.splitlines()) == 2
        assert "expected minute 0-59, got '61' in '61 * 0 * *'" in error

    def test_a_wrong_instant_is_a_usage_error(self, run: Run) -> None:
        error = run.refused(2, "explain", "* * * * *", "--from", "someday")
        assert "expected a date and time such as" in error


@pytest.mark.parametrize("words", ["show {}", "resume a {}", "apply {}", "import crontab {}"])
def test_bytes_that_are_no_text_are_a_usage_error(run: Run, words: str) -> None:
    error = run.refused(2, *words.format("\udcff").split())
    assert r"expected text in UTF-8, got '\udcff'" in error


class TestStatus:
    def status(self, run: Run) -> tuple[int, dict[str, Any]]:
        result = run("status", "--json")
        return result.exit_code, json.loads(result.stdout)

    def test_a_leading_clock_is_healthy(self, run: Run, connection: Redis) -> None:
        store = fill(connection)
        leases = Leases(store)
        lease = Lease(leases.leader()["token"])
        leases.renew(lease, tick=1772323200000, lag_p50_ms=1, lag_p99_ms=2, lag_max_ms=3)
        code, report = self.status(run)
        assert code == 0
        assert report["healthy"]
        assert report["leader"]["instance"] == "clock.1"
        assert [report["leader"][f"lag{word}Ms"] for word in ("P50", "P99", "Max")] == [1, 2, 3]
        assert report["leader"]["lastTick"] == "2026-03-01T00:00:00Z"
        assert "healthy" in run("status").stdout

    def test_no_leader_is_unhealthy(self, run: Run) -> None:
        code, report = self.status(run)
        assert code == 5
        assert report["leader"] is None
        assert not report["healthy"]
        assert "problem    no clock leads; start one (`heroku ps" in run("status").stdout

    def test_a_late_schedule_is_unhealthy(self, run: Run, connection: Redis) -> None:
        fill(connection, late=timedelta(hours=1))
        code, report = self.status(run)
        assert code == 5
        assert (report["healthy"], report["late"]) == (False, 1)
        [seconds] = re.findall(r"late       feeds by (\d+) s", run("status").stdout)
        assert 3000 < int(seconds) < 3600


class TestWorker:
    def test_a_burst_worker_empties_its_queues(self, redis_url: str, connection: Redis) -> None:
        jobs = [
            Queue(name, connection=connection).enqueue("tests.worker.jobs.add", 1, 2)
            for name in ("high", "low", "other")
        ]
        words = ["worker", "high", "low", "--burst", "--concurrency", "2"]
        out, _ = command(redis_url, *words).communicate(timeout=PATIENCE)
        assert [job.get_status().value for job in jobs] == ["finished", "finished", "queued"]
        assert "worker.pool processes=2 connections=4" in out


class TestRedis:
    def test_no_redis_is_one_line_with_a_remedy(self, run: Run) -> None:
        [line] = run.refused(4, "list", REDIS_URL=free_url()).splitlines()
        assert "no Redis at redis://127.0.0.1" in line
        assert "start one with `rq-clock redis`" in line

    @pytest.mark.parametrize(
        "words",
        [
            "list", "list --density", "show x", "next", "history", "logs x", "logs -f x", "run x",
            "run x --wait", "pause x", "resume --all", "skip x", "backfill x --from 2h --to 1h",
            "backfills", "backfill-cancel x", "add x --every 1h --func a.b", "update x --queue q",
            "remove x", "audit", "status",
        ],
    )  # fmt: skip
    def test_without_redis_every_command_is_one_line(self, run: Run, words: str) -> None:
        assert len(run.refused(4, *words.split(), REDIS_URL=free_url()).splitlines()) == 1

    def test_a_redis_error_during_a_command_is_one_line(
        self, run: Run, fresh_server: Callable[..., Any]
    ) -> None:
        url = fresh_server().url
        with Redis.from_url(url) as redis:
            redis.execute_command(
                "ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all", "-xrevrange"
            )
        error = run.refused(4, "audit", REDIS_URL=url.replace("redis://", "redis://half:pw@"))
        [line] = error.splitlines()
        assert "does not let this user" in line

    def test_no_url_is_one_line_with_a_remedy(self, run: Run) -> None:
        assert "expected REDIS_URL to name a Redis" in run.refused(4, "status", REDIS_URL="")

    def test_a_wrong_password_is_reported_and_not_shown(
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
        error = run.refused(1, "list", RQ_CLOCK_NAMESPACE="No!")
        assert error.startswith("rq-clock: RQ_CLOCK_NAMESPACE: expected")

    def test_newer_data_is_left_alone(self, run: Run, connection: Redis) -> None:
        connection.hset("rq-clock:default:meta", "version", 99)
        assert "holds data of version 99" in run.refused(4, "list")


class TestColours:
    """The third channel, behind words and signs."""

    @pytest.mark.parametrize(
        ("words", "env", "colored"),
        [
            ("list", {}, False),
            ("list", {"FORCE_COLOR": "1"}, True),
            ("list", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
            ("list", {"FORCE_COLOR": "1", "TERM": "dumb"}, False),
            ("list --color always", {"NO_COLOR": "1"}, True),
            ("--color always list", {}, True),
            ("list --color never", {"FORCE_COLOR": "1"}, False),
            ("list --json", {"FORCE_COLOR": "1"}, False),
        ],
    )
    def test_the_option_wins_over_the_environment(
        self, run: Run, connection: Redis, words: str, env: dict[str, str], colored: bool
    ) -> None:
        fill(connection)
        output = run.ok(*words.split(), **{"TERM": "xterm", **env})
        assert ("\x1b[" in output) == colored
        assert "scheduled" in output

    def test_an_unsupported_sign_is_replaced(self, redis_url: str, connection: Redis) -> None:
        fill(connection)
        done = subprocess.run(
            [sys.executable, "-m", "rq_clock", "list"],
            env=environment(redis_url, PYTHONIOENCODING="latin-1"),
            capture_output=True,
            check=True,
        )
        assert b"? scheduled" in done.stdout


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_each_shell_has_its_script(self, run: Run, shell: str) -> None:
        assert f"_RQ_CLOCK_COMPLETE={shell}_complete" in run.ok("completion", shell)

    def completed(self, url: str, line: str) -> list[str]:
        words = line.split()
        env = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - (not line.endswith(" ")))}
        out, err = command(url, _RQ_CLOCK_COMPLETE="bash_complete", **env).communicate(
            timeout=PATIENCE
        )
        assert err == ""
        return [text.removeprefix("plain,") for text in out.split()]

    def completes(self, url: str, line: str, expected: list[str]) -> None:
        """Fail unless a line is completed so; on a busy machine Redis may answer too late."""
        wait_until(lambda: self.completed(url, line) == expected, f"{line} {expected}")

    def test_commands_and_names_are_completed(self, redis_url: str, connection: Redis) -> None:
        schedules = Schedules(connection)
        for name in ("feeds", "fees", "report"):
            schedules.add(name, every(hours=1), "a.b", queue="low")
        schedules.trigger("feeds")
        self.completes(redis_url, "rq-clock sho", ["show"])
        self.completes(redis_url, "rq-clock show fe", ["feeds", "fees"])
        self.completes(redis_url, "rq-clock pause feeds fe", ["fees"])
        self.completes(redis_url, "rq-clock list --queue ", ["low"])
        self.completes(redis_url, "rq-clock list --tz europe/berl", [])
        self.completes(redis_url, "rq-clock next --tz europe/berl", ["Europe/Berlin"])

    @pytest.mark.integration
    def test_without_redis_completion_offers_and_prints_nothing(self) -> None:
        assert self.completed(free_url(), "rq-clock show ") == []
        assert self.completed("nonsense", "rq-clock show ") == []


@pytest.mark.process
def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "rq_clock", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: rq-clock [OPTIONS] COMMAND")
    for title, rows in SECTIONS.items():
        assert f"\n{title}:\n" in done.stdout
        assert all(f"\n  {name} " in done.stdout for name in rows)


def test_the_list_of_commands_has_the_first_sentence_of_each_help() -> None:
    ctx = click.Context(main)
    for rows in SECTIONS.values():
        for name, (_, text) in rows.items():
            command = main.get_command(ctx, name)
            assert command
            assert command.name == name
            assert command.get_short_help_str(100) == text
            assert len(text) <= 60


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "slow"),
    [
        ("main(['--help'], standalone_mode=False)", "redis rq croniter dotenv zoneinfo"),
        ("[main.get_command(None, name) for name in main.list_commands(None)]", "redis rq dotenv"),
        ("main.get_command(None, 'list')", "redis rq dotenv croniter yaml"),
    ],
)
def test_neither_help_nor_completion_loads_slow_modules(code: str, slow: str) -> None:
    script = (
        f"import sys\nfrom rq_clock.cli import main\n{code}\n"
        f"print(sorted({set(slow.split())} & sys.modules.keys()))"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error(redis_url: str, connection: Redis) -> None:
    Schedules(connection).add("x", every(seconds=1), "a.b")
    done = subprocess.run(
        f"{sys.executable} -m rq_clock next -n 1000 | head -1",
        shell=True,
        env=environment(redis_url),
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.process
def test_a_faulty_script_starts_nothing(tmp_path: Path) -> None:
    """`python clock.py` with a wrong entry ends before it looks for a Redis."""
    script = tmp_path / "clock.py"
    script.write_text(
        "from rq_clock import Clock, cron\nclock = Clock()\n"
        "clock.add('nightly', cron('0 3 * * 8'), 'json.dumps')\nclock.run()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    fault = "nightly: expected day-of-week 0-7 or sun-sat, got '8' in '0 3 * * 8'"
    assert fault in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
