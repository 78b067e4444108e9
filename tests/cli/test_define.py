"""Defining schedules from the command line: add, update, remove."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from rq_clock import Schedules, command, cron, dyno, every, once, webhook
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Command, Webhook
from rq_clock.timing.triggers import Trigger
from rq_clock.web.pages.snippets import as_cli
from tests.cli.terminal import Run, Terminal, everything, fill
from tests.helpers import definition

HOUR = timedelta(hours=1)
TASK = "tasks.demo.heartbeat"


class TestAdd:
    def test_a_function_by_cron_with_every_option(self, run: Run, schedules: Schedules) -> None:
        words = (
            "--cron", "0 6 * * *", "--tz", "Asia/Tokyo", "--func", "tasks.reports.send",
            "--arg", "42", "--arg", '"text"', "--kwarg", 'to=["a", null]', "--queue", "low",
            "--timeout", "10m", "--retries", "10s,1m", "--result-ttl", "1h", "--failure-ttl", "-1",
            "--catch-up", "all", "--catch-up-window", "2d", "--catch-up-limit", "5",
            "--overlap", "allow", "--group", "shop-42", "--group-limit", "2", "--jitter", "1m30s",
            "--tag", "a", "--tag", "b", "--ping", "https://hc-ping.com/x",
        )  # fmt: skip
        output = run.ok("add", "x", *words)
        assert definition(schedules) == Schedule(
            name="x",
            trigger=cron("0 6 * * *", tz="Asia/Tokyo"),
            target="tasks.reports.send",
            args=(42, "text"),
            kwargs={"to": ["a", None]},
            queue="low",
            timeout=600,
            retries=(10, 60),
            result_ttl=3600,
            failure_ttl=-1,
            catch_up="all",
            catch_up_window=timedelta(days=2),
            catch_up_limit=5,
            overlap="allow",
            group="shop-42",
            group_limit=2,
            jitter=timedelta(seconds=90),
            tags=("a", "b"),
            ping="https://hc-ping.com/x",
        )
        first, second = output.splitlines()
        assert first.startswith("x: added, revision ")
        assert first.endswith(": at 06:00 every day, Asia/Tokyo time")
        assert " Asia/Tokyo  (" in second
        assert second.endswith(" jitter")
        assert schedules.audit()[0].by == "ana"

    @pytest.mark.parametrize(
        ("words", "trigger", "target"),
        [
            ("--every 15m --func a.b", every(minutes=15), "a.b"),
            ("--every 1h30m --func a.b", every(minutes=90), "a.b"),
            ("--every 500ms --func a.b", every(milliseconds=500), "a.b"),
            ("--at 2099-07-01T09:00Z --func a.b", once(datetime(2099, 7, 1, 9, tzinfo=UTC)), "a.b"),
            (
                "--at 2099-07-01T09:00 --tz Europe/Berlin --func a.b",
                once(datetime(2099, 7, 1, 7, tzinfo=UTC)),
                "a.b",
            ),
            (
                "--every 2w --at 9:00 --on tue,thu --anchor 2026-01-06 --tz Asia/Tokyo --func a.b",
                every(weeks=2, at="09:00", on="tue,thu", anchor="2026-01-06", tz="Asia/Tokyo"),
                "a.b",
            ),
            (
                "--every 5m --start 2026-01-01 --max-runs 9 --func a.b",
                every(minutes=5, start="2026-01-01", max_runs=9),
                "a.b",
            ),
            (
                "--cron @daily --tz Asia/Tokyo --start 2026-01-01 --end 2026-01-31 --func a.b",
                cron("@daily", "Asia/Tokyo", start="2026-01-01", end="2026-01-31"),
                "a.b",
            ),
            (
                "--every 1h --dyno report --size standard-2x --env LANG=C",
                every(hours=1),
                dyno("report", size="standard-2x", env={"LANG": "C"}),
            ),
            (
                "--every 1h --command df --cwd /tmp --env LANG=C --env EMPTY=",
                every(hours=1),
                command("df", cwd="/tmp", env={"LANG": "C", "EMPTY": ""}),
            ),
            (
                "--every 1h --url https://x.example/a --method put --header X-A:b=c --body [1]",
                every(hours=1),
                webhook("https://x.example/a", method="PUT", headers={"X-A": "b=c"}, json=[1]),
            ),
            (
                "--every 1h --url https://x.example/a --timeout 1m",
                every(hours=1),
                webhook("https://x.example/a", timeout=60),
            ),
        ],
    )
    def test_each_kind_of_time_and_target(
        self, run: Run, schedules: Schedules, words: str, trigger: Any, target: Any
    ) -> None:
        run.ok("add", "x", *words.split())
        assert (definition(schedules).trigger, definition(schedules).target) == (trigger, target)

    def test_secrets_are_masked_in_the_output(self, run: Run) -> None:
        result = run(
            "add", "x", "--every", "1h", "--url", "https://user.example/a?key=abcdef12",
            "--header", "Authorization: Bearer abcdef12", "--body", '{"password": "abcdef12"}',
            "--ping", "https://hc-ping.com/abcdef12-3456-7890-abcd-ef1234567890", "--json",
        )  # fmt: skip
        view = json.loads(result.stdout)
        assert view["webhook"]["headers"] == {"Authorization": "****"}
        assert view["ping"] == "https://hc-ping.com/****"
        for words in ("show x", "show x --json", "list", "list --json"):
            assert "abcdef12" not in run(*words.split()).output

    def test_it_warns_when_no_clock_leads(self, run: Run, connection: Redis) -> None:
        words = ("add", "x", "--every", "1h", "--func", "a.b")
        assert run(*words).stderr == "rq-clock: no clock leads now; it fires when one does\n"
        fill(connection)
        assert run(*words).stderr == ""

    def test_adding_the_same_again_changes_nothing(self, run: Run, schedules: Schedules) -> None:
        words = ("add", "x", "--every", "1h", "--func", "a.b")
        run(*words)
        before = schedules.get("x")
        run.ok(*words)
        assert schedules.get("x") == before

    def test_replace_changes_the_definition_and_keeps_the_pause(
        self, run: Run, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), TASK)
        schedules.pause("x")
        words = ("add", "x", "--every", "2h", "--func", "a.b")
        assert "`rq-clock update` it, or pass --replace" in run.refused(1, *words)
        run.ok(*words, "--replace")
        assert definition(schedules).target == "a.b"
        assert run.json("show", "x")["state"] == "paused"

    def test_every_fault_is_reported_at_once(self, run: Run, connection: Redis) -> None:
        words = ("--cron", "61 * * * *", "--func", "nodot", "--queue", "", "--group-limit", "3")
        error = run.refused(1, "add", "no name!", *words)
        assert len(error.splitlines()) == 5
        for message in (
            "expected a name",
            "expected minute 0-59, got '61'",
            "group_limit",
            "queue",
        ):
            assert message in error
        assert everything(connection) == {}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("", "expected a time"),
            ("--every 1h", "and a target"),
            ("--func a.b", "expected a time"),
            ("--every 1h --cron @daily --func a.b", "expected one of --cron, --every"),
            ("--every 1h --func a.b --command df", "expected one of --func, --command"),
            ("--every 1h --func a.b --cwd /", "--cwd goes with --command"),
            ("--every 1h --command df --body 1", "--body goes with --url"),
            ("--every 1h --url https://x.example --env A=b", "--env goes with --command or --dyno"),
            ("--every 1h --tz Asia/Tokyo --func a.b", "an interval has no zone"),
            ("--cron @daily --tz Asia/Tokio --func a.b", "did you mean 'Asia/Tokyo'?"),
            ("--every often --func a.b", "expected a duration such as 90s"),
            ("--at someday --func a.b", "--at: expected a date and time"),
            ("--every 1h --func a.b --arg text", "put text in quotes"),
            ("--every 1h --func a.b --kwarg k", "expected NAME=VALUE"),
            ("--every 1h --func a.b --kwarg k=text", "--kwarg: expected JSON"),
            ("--every 1h --func a.b --retries often", "expected a duration such as"),
            ("--every 1h --func a.b --catch-up-limit few", "expected a whole number"),
        ],
    )
    def test_invalid_options_add_nothing(
        self, run: Run, connection: Redis, words: str, message: str
    ) -> None:
        assert message in run.refused(2, "add", "x", *words.split())
        assert everything(connection) == {}


class TestUpdate:
    def test_only_the_named_options_change(self, run: Run, schedules: Schedules) -> None:
        schedules.add(
            "x", cron("0 6 * * *", tz="Asia/Tokyo"), TASK,
            args=[1], kwargs={"a": 1, "b": 2}, jitter=60, retries=3, tags=["t"], timeout=60,
        )  # fmt: skip
        was = definition(schedules)
        for words, changed in (
            ("--queue low", {"queue": "low"}),
            ("--cron @hourly", {"trigger": cron("@hourly", tz="Asia/Tokyo")}),
            ("--tz Europe/Berlin", {"trigger": cron("@hourly", tz="Europe/Berlin")}),
            ("--kwarg b=3 --kwarg c=4", {"kwargs": {"a": 1, "b": 3, "c": 4}}),
            ("--kwarg a", {"kwargs": {"b": 3, "c": 4}}),
            ("--kwarg none", {"kwargs": {}}),
            ("--arg 5 --arg 6", {"args": (5, 6)}),
            ("--arg none", {"args": ()}),
            ("--jitter none", {"jitter": None}),
            ("--timeout none", {"timeout": None}),
            ("--retries 0", {"retries": 0}),
            ("--tag none", {"tags": ()}),
            ("--catch-up none", {"catch_up": "none"}),
            ('--kwarg d={"x":null}', {"kwargs": {"d": {"x": None}}}),
            ('--kwarg d={"y":1}', {"kwargs": {"d": {"y": 1}}}),
            ("--func a.b", {"target": "a.b"}),
            ("--command df", {"target": command("df"), "kwargs": {}}),
            (
                "--url https://x.example --body [1]",
                {"target": webhook("https://x.example", json=[1])},
            ),
            ('--body {"a":null}', {"target": webhook("https://x.example", json={"a": None})}),
            ("--every 1h", {"trigger": every(hours=1)}),
        ):
            result = run("update", "x", *words.split())
            assert result.exit_code == 0, (words, result.stderr)
            is_now = definition(schedules)
            for field in Schedule.__dataclass_fields__:
                expected = changed.get(field, getattr(was, field))
                assert getattr(is_now, field) == expected, (words, field)
            was = is_now

    def test_an_interval_keeps_its_anchor(self, run: Run, schedules: Schedules) -> None:
        anchor = datetime(2026, 3, 1, 0, 10, tzinfo=UTC)
        schedules.add("x", every(hours=1, anchor=anchor), TASK)
        run("update", "x", "--every", "2h")
        assert definition(schedules).trigger == every(hours=2, anchor=anchor)

    def test_a_local_time_comes_and_goes(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(days=2), TASK)
        run.ok("update", "x", "--at", "09:00", "--tz", "Asia/Tokyo", "--end", "2099-01-01")
        daily = every(days=2, at="09:00", tz="Asia/Tokyo", end="2099-01-01")
        assert definition(schedules).trigger == daily
        assert "expected whole days" in run.refused(1, "update", "x", "--every", "5m")
        run.ok("update", "x", "--every", "5m", "--at", "none", "--end", "none")
        assert definition(schedules).trigger == every(minutes=5)
        run.ok("update", "x", "--cron", "0 3 * * *")
        assert definition(schedules).trigger == cron("0 3 * * *")

    @pytest.mark.parametrize(
        "trigger",
        [
            cron("0 3 * * *", "Asia/Tokyo", start="2026-01-01", max_runs=5),
            every(minutes=5, start="2026-01-01", anchor="1970-01-01"),
            every(weeks=2, at="9:00", on="tue", anchor="2026-01-06", end="2099-01-01"),
        ],
    )
    def test_the_command_that_a_page_shows_adds_the_same(
        self, run: Run, schedules: Schedules, trigger: Trigger
    ) -> None:
        wanted = declare("x", trigger, TASK, {})
        run.ok(*shlex.split(as_cli("x", wanted))[1:])
        assert definition(schedules) == wanted

    def test_only_the_named_parts_of_a_target_change(self, run: Run, schedules: Schedules) -> None:
        schedules.add("c", every(hours=1), command("df", cwd="/tmp", env={"A": "1", "B": "2"}))
        schedules.add("d", every(hours=1), dyno("df", size="basic", env={"A": "1"}))
        run("update", "d", "--size", "none", "--env", "B=2")
        assert definition(schedules, "d").target == dyno("df", env={"A": "1", "B": "2"})
        run("update", "c", "--command", "du")
        assert definition(schedules, "c").target == Command(
            "du", None, "/tmp", {"A": "1", "B": "2"}
        )
        run("update", "c", "--env", "A=3", "--env", "B", "--cwd", "none")
        assert definition(schedules, "c").target == Command("du", None, None, {"A": "3"})
        schedules.add("u", every(hours=1), webhook("https://x.example/a", json=1, timeout=5))
        run("update", "u", "--url", "https://x.example/b", "--header", "X-A: 1")
        target = definition(schedules, "u").target
        assert target == Webhook("https://x.example/b", "POST", {"X-A": "1"}, 1, 5)
        run("update", "u", "--header", "x-a: 2", "--body", "none")
        run("update", "u", "--timeout", "9s")
        target = definition(schedules, "u").target
        assert target == Webhook("https://x.example/b", "POST", {"x-a": "2"}, None, 9)
        assert definition(schedules, "u").timeout is None

    def test_a_secret_header_goes_to_no_other_host(self, run: Run, schedules: Schedules) -> None:
        headers = {"Authorization": "Bearer abcdef"}
        schedules.add("u", every(hours=1), webhook("https://x.example/a", headers=headers))
        error = run.refused(1, "update", "u", "--url", "https://other.example/a")
        assert "webhook.headers.Authorization is masked" in error
        assert "no stored value that it stands for at this host" in error
        moved = ("update", "u", "--url", "https://other.example/a", "--header")
        run.ok(*moved, "Authorization: Bearer abcdef")
        assert definition(schedules, "u").target == webhook(
            "https://other.example/a", headers=headers
        )
        run.ok("update", "u", "--url", "https://x.example/a", "--header", "none")
        assert definition(schedules, "u").target == webhook("https://x.example/a")

    def test_someone_elses_change_is_not_undone(self, run: Run, schedules: Schedules) -> None:
        schedules.add("x", every(hours=1), TASK)
        revision = run.json("show", "x")["revision"]
        run("update", "x", "--queue", "theirs")
        error = run.refused(1, "update", "x", "--queue", "mine", "--revision", revision)
        assert "was changed by someone else meanwhile" in error

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("x", 2, "expected an option to change"),
            ("x --timeout 1.5s", 1, "expected timeout in whole seconds"),
            ("nope --queue q", 3, "no schedule 'nope'"),
            ("x --kwarg k=text", 2, "--kwarg: expected JSON"),
            ("x --kwarg k", 2, "expected NAME=VALUE"),
            ("x --tz Asia/Tokyo", 2, "an interval has no zone"),
            ("x --env A=b", 2, "--env goes with --command or --dyno"),
            ("x --catch-up-limit 3", 1, "catch_up_limit goes with catch_up='all'"),
            ("feeds --queue q", 1, "is declared in code"),
        ],
    )
    def test_a_refused_change_changes_nothing(
        self, run: Run, connection: Redis, schedules: Schedules, words: str, code: int, message: str
    ) -> None:
        fill(connection)
        schedules.add("x", every(hours=1), TASK, args=[1])
        assert message in run.refused(code, "update", *words.split())


class TestRemove:
    def test_a_script_removes_several_at_once(self, run: Run, schedules: Schedules) -> None:
        for name in "abc":
            schedules.add(name, every(hours=1), TASK)
        result = run("remove", "a", "b", "a")
        assert (result.exit_code, result.stdout) == (0, "a: removed\nb: removed\n")
        assert [entry.name for entry in schedules] == ["c"]

    @pytest.mark.parametrize(("words", "code"), [("a nope", 3), ("a feeds", 1), ("", 2)])
    def test_if_one_is_refused_none_is_removed(
        self, run: Run, connection: Redis, schedules: Schedules, words: str, code: int
    ) -> None:
        fill(connection)
        schedules.add("a", every(hours=1), TASK)
        run.refused(code, "remove", *words.split())
        assert schedules.get("a")

    @pytest.mark.parametrize(
        ("words", "answer", "left"), [("a", "n\n", 2), ("a", "y\n", 1), ("a b", "y\n", 0)]
    )
    def test_a_terminal_asks(
        self, redis_url: str, schedules: Schedules, words: str, answer: str, left: int
    ) -> None:
        for name in "ab":
            schedules.add(name, every(hours=1), TASK)
        with Terminal(redis_url, "remove", *words.split()) as terminal:
            terminal.shows("Remove a? [y/N]: " if words == "a" else "Remove 2 schedules? [y/N]: ")
            terminal.type(answer)
            assert terminal.ends() == (1 if answer == "n\n" else 0)
        assert len(list(schedules)) == left

    def test_with_yes_it_does_not_ask(self, redis_url: str, schedules: Schedules) -> None:
        schedules.add("a", every(hours=1), TASK)
        with Terminal(redis_url, "remove", "a", "--yes") as terminal:
            assert terminal.ends() == 0
        assert terminal.plain == "a: removed\r\n"
