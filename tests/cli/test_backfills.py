"""Backfills from the command line. Workers and clocks are processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis import Redis

from rq_clock import Schedules, cron, every
from tests.cli.terminal import Run, Terminal, everything, leading, serving

ADD, FAIL = "tests.worker.jobs.add", "tests.worker.jobs.fail"


class TestBackfill:
    def test_a_dry_run_shows_its_fire_times(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("nightly", cron("30 2 * * *", tz="Europe/Berlin"), ADD)
        before = everything(connection)
        span = ("--from", "2026-03-28", "--to", "2026-03-29", "--dry-run")
        assert run("backfill", "nightly", *span).stdout.splitlines() == [
            "nightly: 2 runs",
            "  from Sat 2026-03-28 02:30:00 Europe/Berlin  (2026-03-28T01:30:00Z)",
            "  to   Sun 2026-03-29 03:00:00 Europe/Berlin  (2026-03-29T01:00:00Z)",
        ]
        document = run.json("backfill", "nightly", *span)
        assert (document["count"], document["leftOut"]) == (2, 0)
        assert document["first"] == "2026-03-28T01:30:00Z"
        assert everything(connection) == before

    def test_it_warns_that_the_clock_does_the_work(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), ADD)
        result = run("backfill", "x", "--from", "now-5h", "--to", "2h", "--at-once", "2")
        assert result.exit_code == 0
        [made] = schedules.backfills()
        assert result.stdout == f"{made.id}\n"
        assert (made.total, made.at_once, made.by) == (3, 2, "ana")
        assert "no clock leads now; it begins when one does" in result.stderr

    def test_again_includes_past_runs(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), ADD)
        noon = 1_772_366_400_000  # 2026-03-01T12:00:00Z
        connection.rpush("rq-clock:default:ledger:x", f"s {noon} 3")
        span = ("--from", "2026-03-01T12:00", "--to", "2026-03-01T13:00", "--dry-run")
        assert run("backfill", "x", *span).stdout.startswith("x: 1 run; 1 ran already (--again")
        assert run("backfill", "x", *span, "--again").stdout.startswith("x: 2 runs\n")

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("nope --from 5h --to 1h", 3, "no schedule 'nope'"),
            ("x --from someday --to 1h", 2, "--from: expected a date and time"),
            ("x --from 5h --to someday", 2, "--to: expected a date and time"),
            ("x --from 2026-02-30 --to 1h", 2, "--from: expected a date and time"),
            ("x --from 1h --to 5h", 1, "expected the end of the span after its start"),
            ("x --from now+1h --to now+2h", 1, "expected a span of the past"),
            ("x --from 5h --to 1h --at-once 0", 2, "--at-once"),
            ("x --from 5h", 2, "--to"),
            ("x --from 3d --to 1h", 1, "scripts must pass --yes for more than 1,000 fire times"),
            ("x --from now-3650d --to now", 1, "got at least 10,000; divide the span"),
            ("x --from now-3650d --to now --yes", 1, "got at least 10,000; divide the span"),
        ],
    )
    def test_a_refused_backfill_enqueues_nothing(
        self, run: Run, schedules: Schedules, words: str, code: int, message: str
    ) -> None:
        schedules.add("x", every(minutes=1), ADD)
        assert message in run.refused(code, "backfill", *words.split())

    def test_more_than_a_thousand_need_yes(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(minutes=1), ADD)
        run.ok("backfill", "x", "--from", "2d", "--to", "1h", "--yes")
        assert schedules.backfills()[0].total > 1000

    def test_nothing_to_run_is_no_error(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", cron("0 0 1 1 *"), ADD)
        result = run("backfill", "x", "--from", "2026-03-01", "--to", "2026-03-02")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "x: nothing to run from Sun 2026-03-01 00:00:00 UTC" in result.stderr

    def test_waiting_names_the_failed_runs(
        self, run: Run, redis_url: str, schedules: Schedules, tmp_path: Path
    ) -> None:
        schedules.add("good", every(hours=1), ADD, args=[1, 2])
        schedules.add("bad", every(hours=1), FAIL)
        span = ("--from", "now-3h", "--to", "now-1h", "--wait")
        with serving(redis_url, "default"), leading(redis_url, tmp_path):
            good, bad = run("backfill", "good", *span), run("backfill", "bad", *span)
            document = run("backfill", "good", *span, "--again", "--json")
        assert good.exit_code == 0
        assert "2 runs ended" in good.stderr
        assert bad.exit_code == 1
        assert bad.stderr.count(" failed: ValueError: no") == 2
        view = json.loads(document.stdout)
        assert (view["state"], view["enqueued"], view["total"]) == ("done", 2, 2)

    def test_one_can_be_looked_up_and_canceled(self, run: Run, schedules: Schedules) -> None:
        assert run("backfills").stderr == "no backfills\n"
        schedules.add("x", every(hours=1), ADD)
        id = run("backfill", "x", "--from", "5h", "--to", "1h", "--reason", "lost").stdout.strip()
        [row] = run.json("backfills")
        assert (row["id"], row["state"], row["reason"]) == (id, "running", "lost")
        assert run("backfill-cancel", id, "--reason", "by mistake").stdout == f"{id}: ‖ canceled\n"
        assert "‖ canceled" in run("backfills").stdout
        again, unknown = run("backfill-cancel", id), run("backfill-cancel", "nope")
        assert (again.exit_code, unknown.exit_code) == (1, 3)
        assert "expected a backfill that is running" in again.stderr


class TestOnATerminal:
    @pytest.mark.parametrize(
        ("answer", "code", "made"), [("y", 0, 1), ("n", 1, 0), ("\x03", 130, 0)]
    )
    def test_the_question_names_the_number_of_runs(
        self, redis_url: str, schedules: Schedules, answer: str, code: int, made: int
    ) -> None:
        schedules.add("x", every(minutes=1), ADD)
        words = ("backfill", "x", "--from", "now-2d", "--to", "now-1d")
        with Terminal(redis_url, *words) as terminal:
            terminal.shows("Enqueue 1,440 runs of x? [y/N]: ")
            terminal.type(answer + ("\n" if answer.isalpha() else ""))
            assert terminal.ends() == code
        assert "x: 1,440 runs" in terminal.output
        assert len(schedules.backfills()) == made

    def test_too_many_runs_are_refused_outright(self, redis_url: str, schedules: Schedules) -> None:
        schedules.add("x", every(minutes=1), ADD)
        with Terminal(redis_url, "backfill", "x", "--from", "3650d", "--to", "now") as terminal:
            assert terminal.ends() == 1
        assert "got at least 10,000" in terminal.output
        assert "[y/N]" not in terminal.output
        assert schedules.backfills() == []

    def test_waiting_shows_a_bar(
        self, redis_url: str, schedules: Schedules, tmp_path: Path
    ) -> None:
        schedules.add("x", every(hours=1), ADD, args=[1, 2])
        words = ("backfill", "x", "--from", "now-4h", "--to", "now-1h", "--wait", "--yes")
        with (
            serving(redis_url, "default"),
            leading(redis_url, tmp_path),
            Terminal(redis_url, *words) as terminal,
        ):
            assert terminal.ends() == 0
        assert "3/3" in terminal.output
        assert "3 runs ended" in terminal.output
