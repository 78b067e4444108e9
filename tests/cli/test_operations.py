"""Operating schedules from the command line: run, pause, resume, skip, backfill, the audit. Workers
and clocks are processes of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from getpass import getuser
from socket import gethostname

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job

from rq_clock import Schedules, command, cron, every, once
from rq_clock.cli.wait import Follower
from tests.cli.terminal import Run, Terminal, fill, serving
from tests.cli.terminal import command as process
from tests.helpers import PATIENCE, wait_until

HOUR = timedelta(hours=1)
ADD, FAIL = "tests.worker.jobs.add", "tests.worker.jobs.fail"


class TestRun:
    def test_it_prints_the_id_of_its_job(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), ADD, args=[1, 2], queue="low")
        [job_id] = run.ok("run", "x", "--reason", "to see").splitlines()
        assert Queue("low", connection=connection).job_ids == [job_id]
        [entry, _] = schedules.audit()
        assert (entry.verb, entry.by, entry.reason) == ("trigger", "ana", "to see")

    def test_as_json_it_is_a_row_of_the_history(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), ADD)
        row = run.json("run", "x")
        assert (row["schedule"], row["state"], row["reason"]) == ("x", "waiting", "manual")
        assert row.keys() == run.json("history", "x")[0].keys()

    def test_a_run_in_progress_must_be_forced(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), ADD)
        first = run("run", "x").stdout.strip()
        assert f"x: expected no run in progress, got {first}" in run.refused(1, "run", "x")
        run.ok("run", "x", "--force")
        assert len(Queue("default", connection=connection)) == 2

    def test_wait_reports_the_outcome(self, run: Run, redis_url: str, schedules: Schedules) -> None:
        schedules.add("good", every(hours=1), ADD, args=[1, 2])
        schedules.add("bad", every(hours=1), FAIL, args=["no luck"])
        schedules.add("gone", every(hours=1), ADD, args=[1, 2], result_ttl=0)
        with serving(redis_url, "default"):
            good, bad = run("run", "good", "--wait"), run("run", "bad", "--wait")
            gone = run("run", "gone", "--wait")
            document = run("run", "bad", "--wait", "--json")
        assert good.exit_code == 0
        assert good.stderr.startswith("ok after ")
        assert bad.exit_code == 1
        assert bad.stderr.endswith(": ValueError: no luck\n")
        assert (gone.exit_code, gone.stderr[:3]) == (0, "ok ")  # nothing of its job is left
        assert document.exit_code == 1
        row = json.loads(document.stdout)
        assert (row["state"], row["error"], row["attempt"]) == ("failed", "ValueError: no luck", 1)

    def test_wait_includes_retries(self, run: Run, redis_url: str, schedules: Schedules) -> None:
        schedules.add("bad", every(hours=1), FAIL, retries=1)
        with serving(redis_url, "default"):
            result = run("run", "bad", "--wait")
        assert result.exit_code == 1
        assert ", attempt 2: ValueError: no" in result.stderr

    @pytest.mark.parametrize(("task", "code"), [(ADD, 0), (FAIL, 1)])
    def test_it_waits_for_a_run_of_a_stock_worker(
        self, redis_url: str, connection: Redis, schedules: Schedules, task: str, code: int
    ) -> None:
        schedules.add("x", every(hours=1), task, args=[1, 2] if task == ADD else [])
        waiting = process(redis_url, "run", "x", "--wait")
        queue = Queue("default", connection=connection)
        wait_until(lambda: len(queue), "the job")
        SimpleWorker([queue], connection=connection).work(burst=True)
        waiting.communicate(timeout=PATIENCE)
        assert waiting.returncode == code

    def test_the_run_outlives_the_timeout_of_wait(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), ADD)
        result = run("run", "x", "--wait", "--timeout", "100ms")
        assert result.exit_code == 6
        assert f"rq-clock logs -f {result.stdout.strip()}" in result.stderr
        assert len(Queue("default", connection=connection)) == 1

    def test_a_deleted_job_is_no_success(
        self, redis_url: str, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), ADD)
        waiting = process(redis_url, "run", "x", "--wait")
        [id] = wait_until(lambda: Queue("default", connection=connection).job_ids, "job")
        Job.fetch(id, connection=connection).delete()
        _, err = waiting.communicate(timeout=PATIENCE)
        assert waiting.returncode == 1
        assert "its outcome is unknown" in err

    def test_follow_prints_the_output_alone(
        self, run: Run, redis_url: str, schedules: Schedules
    ) -> None:
        schedules.add("shell", every(hours=1), command("echo one; sleep 1.5; echo two; exit 3"))
        with serving(redis_url, "default"):
            result = run("run", "shell", "--follow")
        assert result.exit_code == 1
        assert result.stdout == "one\ntwo\n"
        job_id, ended = result.stderr.splitlines()
        assert job_id.startswith("default-shell-")
        assert ended.startswith("failed after ")

    def test_logs_follow_the_latest_run(
        self, run: Run, redis_url: str, schedules: Schedules
    ) -> None:
        schedules.add("shell", every(hours=1), command("echo one; sleep 1.5; echo two"))
        with serving(redis_url, "default"):
            run("run", "shell")
            assert run("logs", "-f", "shell").stdout == "one\ntwo\n"

    @pytest.mark.parametrize(
        "words", ["run x --follow --json", "run x --timeout 1m", "run x --wait --timeout soon"]
    )
    def test_invalid_options_run_nothing(
        self, run: Run, connection: Redis, schedules: Schedules, words: str
    ) -> None:
        schedules.add("x", every(hours=1), ADD)
        run.refused(2, *words.split())
        assert len(Queue("default", connection=connection)) == 0

    def test_an_unknown_name_gets_a_similar_one(self, run: Run, schedules: Schedules) -> None:
        schedules.add("feeds", every(hours=1), ADD)
        assert "did you mean 'feeds'?" in run.refused(3, "run", "feed")


class TestFollower:
    """Only the new part of a record that is truncated at its beginning is printed."""

    @pytest.mark.parametrize(
        ("records", "printed"),
        [
            ([None, b"a\n", b"a\nb\n", b"a\nb\n"], b"a\nb\n"),
            ([b"a\na\na\n", b"[2 bytes came before]\na\na\nb\n"], b"a\na\na\nb\n"),
            (  # 12 of those 21 bytes were shown as ****
                [b"****\none\ntwo\n", b"[21 bytes came before]\none\ntwo\nthree\n"],
                b"****\none\ntwo\nthree\n",
            ),
            ([b"a\n", b"[900 bytes came before]\nz\n"], b"a\nz\n"),
            ([b"try\n", b"again\n"], b"try\nagain\n"),
        ],
        ids=["each-byte-once", "cut-record", "mask-of-another-length", "too-fast", "new-attempt"],
    )
    def test_it_prints(
        self, capfdbinary: pytest.CaptureFixture[bytes], records: list[bytes], printed: bytes
    ) -> None:
        reads = iter(records)
        follower = Follower(lambda: next(reads))
        for _ in records:
            follower.look()
        output = capfdbinary.readouterr()
        assert output.out == printed
        assert (b"some output came too fast" in output.err) == (b"900" in records[-1])


class TestPause:
    def test_a_pause_keeps_every_option(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", every(hours=1), ADD)
        schedules.add("b", every(hours=1), ADD)
        output = run.ok("pause", "a", "b", "--for", "2h", "--reason", "bank", "--missed", "latest")
        assert [line.partition(" until ")[0] for line in output.splitlines()] == [
            "a: ‖ paused",
            "b: ‖ paused",
        ]
        assert output.count(" UTC") == 2
        pauses = [entry.pauses[0] for entry in schedules]
        assert [(p.reason, p.by, p.missed) for p in pauses] == [("bank", "ana", "latest")] * 2
        assert all(
            timedelta(0) <= p.until - p.since - 2 * HOUR <= timedelta(seconds=2)
            for p in pauses
            if p.until
        )

    def test_until_is_in_the_zone_of_tz(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", every(hours=1), ADD)
        assert run("pause", "a", "--until", "2099-07-01T09:00", "--tz", "Europe/Berlin").stdout == (
            "a: ‖ paused until Wed 2099-07-01 09:00:00 Europe/Berlin  (2099-07-01T07:00:00Z)\n"
        )

    @pytest.mark.parametrize(
        ("env", "by"),
        [
            ({"RQ_CLOCK_USER": "bo"}, "bo"),
            ({"RQ_CLOCK_USER": ""}, f"{getuser()}@{gethostname()}"),
            ({"RQ_CLOCK_USER": "", "DYNO": "run.42"}, f"{getuser()}@run.42"),
        ],
    )
    def test_the_actor_is_the_user_of_the_machine(
        self, run: Run, schedules: Schedules, env: dict[str, str], by: str
    ) -> None:
        schedules.add("a", every(hours=1), ADD)
        run("pause", "a", **env)
        assert schedules.audit()[0].by == by

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            ("a nope", 3),
            ("a --until 2001-01-01", 1),
            ("a --until someday", 2),
            ("a --for soon", 2),
            ("a --for 1h --until tomorrow", 2),
            ("a --missed some", 2),
            ("a --until tomorrow --tz Mars/Base", 2),
            ("--all --missed all", 1),
            ("a --all", 2),
            ("", 2),
        ],
    )
    def test_a_refused_pause_pauses_nothing(
        self, run: Run, schedules: Schedules, words: str, code: int
    ) -> None:
        schedules.add("a", every(hours=1), ADD)
        run.refused(code, "pause", *words.split())

    def test_all_or_some_are_resumed(self, run: Run, schedules: Schedules) -> None:
        for name in "abc":
            schedules.add(name, every(hours=1), ADD)
        run("pause", "--all", "--reason", "release")
        run("pause", "b")
        result = run("resume", "a")
        assert "a: all schedules are paused; `rq-clock resume --all` resumes them" in result.stderr
        result = run("resume", "--all")
        assert result.stdout == "all schedules: resumed\n"
        assert "still paused one by one: b" in result.stderr
        result = run("resume", "a", "b")
        assert result.stdout.startswith("b: resumed, next ")
        assert result.stderr == "a: was not paused\n"
        assert "all schedules: were not paused" in run("resume", "--all").stderr
        assert all(entry.pause(datetime.now(UTC)) is None for entry in schedules)

    def test_an_unknown_name_resumes_none(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", every(hours=1), ADD)
        schedules.pause("a")
        run.refused(3, "resume", "a", "nope")
        run.refused(2, "resume")

    def test_a_declared_schedule_is_paused_like_any(self, run: Run, connection: Redis) -> None:
        fill(connection)
        run.ok("pause", "feeds")
        assert "‖ paused" in run("list", "--text", "feeds").stdout


class TestSkip:
    def test_skipped_fire_times_have_their_zone(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", cron("0 3 * * *", tz="Europe/Berlin"), ADD)
        lines = run("skip", "a", "-n", "12", "--reason", "holiday").stdout.splitlines()
        assert len(lines) == 11
        assert all("a: skips " in line and "03:00:00 Europe/Berlin" in line for line in lines[:10])
        assert lines[10].startswith("a: … and 2 more, up to ")
        [entry] = schedules
        assert entry.skipping is not None
        assert (entry.skipping.count, entry.skipping.reason) == (12, "holiday")
        assert run("skip", "a", "--undo").stdout == "a: skips nothing\n"
        assert next(iter(schedules)).skipping is None

    @pytest.mark.parametrize(
        ("words", "code"), [("nope", 3), ("a -n 0", 2), ("a -n 2 --undo", 2), ("once -n 2", 1)]
    )
    def test_a_refused_skip_skips_nothing(
        self, run: Run, schedules: Schedules, words: str, code: int
    ) -> None:
        schedules.add("a", every(hours=1), ADD)
        schedules.add("once", once(datetime.now(UTC) + HOUR), ADD)
        run.refused(code, "skip", *words.split())


class TestAudit:
    def test_it_lists_changes_newest_first(self, run: Run, schedules: Schedules) -> None:
        assert run("audit").stderr == "no changes by hand yet\n"
        schedules.add("a", every(hours=1), ADD)
        run("pause", "--all", "--reason", "release \x1b[31m42")
        first, second = run("audit").stdout.splitlines()[1:]
        assert first.split()[1:4] == ["ana", "pause", "all"]
        assert r"release \x1b[31m42" in first
        assert second.split()[1:4] == ["ana", "add", "a"]
        [row] = run.json("audit", "-n", "1")
        assert (row["verb"], row["schedules"], row["count"]) == ("pause", ["*"], 1)


class TestOnATerminal:
    def test_waiting_shows_how_the_run_gets_on(self, redis_url: str, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), "tests.worker.jobs.wait", args=[1.0])
        with serving(redis_url, "default"), Terminal(redis_url, "run", "x", "--wait") as terminal:
            terminal.shows(" started, 0 s")
            assert terminal.ends() == 0
        assert "\x1b[Kok after " in terminal.output

    def test_the_run_survives_ctrl_c(
        self, redis_url: str, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), ADD, queue="lonely")
        with Terminal(redis_url, "run", "x", "--wait") as terminal:
            terminal.shows("no worker serves queue 'lonely' now")
            terminal.type("\x03")
            assert terminal.ends() == 130
        assert len(Queue("lonely", connection=connection)) == 1

    def test_watch_goes_on_through_an_outage(
        self, redis_url: str, connection: Redis, schedules: Schedules
    ) -> None:
        fill(connection)
        with Terminal(redis_url, "list", "--watch") as terminal:
            terminal.shows("2 schedules  every 2 s, Ctrl-C ends")
            terminal.shows("\x1b[32m✓ scheduled")
            schedules.add("third", every(hours=1), ADD)
            terminal.shows("3 schedules")
            connection.set("rq-clock:default:definitions", "no hash")
            terminal.shows("WRONGTYPE")
            connection.delete("rq-clock:default:definitions")
            terminal.shows("0 schedules")
            terminal.type("\x03")
            assert terminal.ends() == 130
