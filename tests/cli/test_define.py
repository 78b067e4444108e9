"""Defining schedules from the command line: add, update, remove."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from rq_clock import Schedules, command, cron, every, once, webhook
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import Command, Webhook
from tests.cli.terminal import Run, Terminal, everything, fill

HOUR = timedelta(hours=1)
TASK = "tasks.demo.heartbeat"


def schedule(schedules: Schedules, name: str = "x") -> Schedule:
    entry = schedules.get(name)
    assert entry
    assert entry.schedule
    return entry.schedule


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
        result = run("add", "x", *words)
        assert result.exit_code == 0, result.stderr
        assert schedule(schedules) == Schedule(
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
        first, second = result.stdout.splitlines()
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
        self, run: Run, schedules: Schedules, words: str, trigger: Any, target: Any, redis_url: str
    ) -> None:
        result = run("add", "x", *words.split())
        assert result.exit_code == 0, result.stderr
        assert (schedule(schedules).trigger, schedule(schedules).target) == (trigger, target)

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
        assert run(*words).exit_code == 0
        assert schedules.get("x") == before

    def test_another_definition_needs_replace_and_keeps_the_pause(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), TASK)
        schedules.pause("x")
        before = everything(connection)
        refused = run("add", "x", "--every", "2h", "--func", "a.b")
        assert refused.exit_code == 1
        assert "`rq-clock update` it, or pass --replace" in refused.stderr
        assert everything(connection) == before
        assert run("add", "x", "--every", "2h", "--func", "a.b", "--replace").exit_code == 0
        assert schedule(schedules).target == "a.b"
        assert json.loads(run("show", "x", "--json").stdout)["state"] == "paused"

    def test_every_fault_is_reported_at_once(self, run: Run, connection: Redis) -> None:
        words = ("--cron", "61 * * * *", "--func", "nodot", "--queue", "", "--group-limit", "3")
        result = run("add", "no name!", *words)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 5
        for message in (
            "expected a name",
            "expected minute 0-59, got '61'",
            "group_limit",
            "queue",
        ):
            assert message in result.stderr
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
            ("--every 1h --url https://x.example --env A=b", "--env goes with --command"),
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
    def test_words_that_do_not_fit_add_nothing(
        self, run: Run, connection: Redis, words: str, message: str
    ) -> None:
        result = run("add", "x", *words.split())
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert everything(connection) == {}


class TestUpdate:
    def test_only_the_named_options_change(self, run: Run, schedules: Schedules) -> None:
        schedules.add(
            "x", cron("0 6 * * *", tz="Asia/Tokyo"), TASK,
            args=[1], kwargs={"a": 1, "b": 2}, jitter=60, retries=3, tags=["t"], timeout=60,
        )  # fmt: skip
        was = schedule(schedules)
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
            is_now = schedule(schedules)
            for field in Schedule.__dataclass_fields__:
                expected = changed.get(field, getattr(was, field))
                assert getattr(is_now, field) == expected, (words, field)
            was = is_now

    def test_an_interval_keeps_its_anchor(self, run: Run, schedules: Schedules) -> None:
        anchor = datetime(2026, 3, 1, 0, 10, tzinfo=UTC)
        schedules.add("x", every(hours=1, anchor=anchor), TASK)
        run("update", "x", "--every", "2h")
        assert schedule(schedules).trigger == every(hours=2, anchor=anchor)

    def test_only_the_named_parts_of_a_command_or_call_change(
        self, run: Run, schedules: Schedules
    ) -> None:
        schedules.add("c", every(hours=1), command("df", cwd="/tmp", env={"A": "1", "B": "2"}))
        run("update", "c", "--command", "du")
        assert schedule(schedules, "c").target == Command("du", None, "/tmp", {"A": "1", "B": "2"})
        run("update", "c", "--env", "A=3", "--env", "B", "--cwd", "none")
        assert schedule(schedules, "c").target == Command("du", None, None, {"A": "3"})
        schedules.add("u", every(hours=1), webhook("https://x.example/a", json=1, timeout=5))
        run("update", "u", "--url", "https://x.example/b", "--header", "X-A: 1")
        target = schedule(schedules, "u").target
        assert target == Webhook("https://x.example/b", "POST", {"X-A": "1"}, 1, 5)
        run("update", "u", "--header", "x-a: 2", "--body", "none")
        run("update", "u", "--timeout", "9s")
        target = schedule(schedules, "u").target
        assert target == Webhook("https://x.example/b", "POST", {"x-a": "2"}, None, 9)
        assert schedule(schedules, "u").timeout is None

    def test_a_secret_header_does_not_go_to_another_host_unnoticed(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        headers = {"Authorization": "Bearer abcdef"}
        schedules.add("u", every(hours=1), webhook("https://x.example/a", headers=headers))
        before = everything(connection)
        refused = run("update", "u", "--url", "https://other.example/a")
        assert refused.exit_code == 1
        assert "webhook.headers.Authorization is masked" in refused.stderr
        assert "no stored value that it stands for at this host" in refused.stderr
        assert everything(connection) == before
        moved = ("update", "u", "--url", "https://other.example/a", "--header")
        assert run(*moved, "Authorization: Bearer abcdef").exit_code == 0
        assert schedule(schedules, "u").target == webhook(
            "https://other.example/a", headers=headers
        )
        assert run("update", "u", "--url", "https://x.example/a", "--header", "none").exit_code == 0
        assert schedule(schedules, "u").target == webhook("https://x.example/a")

    def test_someone_elses_change_is_not_undone(
        self, run: Run, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("x", every(hours=1), TASK)
        revision = json.loads(run("show", "x", "--json").stdout)["revision"]
        run("update", "x", "--queue", "theirs")
        before = everything(connection)
        result = run("update", "x", "--queue", "mine", "--revision", revision)
        assert result.exit_code == 1
        assert "was changed by someone else meanwhile" in result.stderr
        assert everything(connection) == before

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("x", 2, "expected an option to change"),
            ("x --timeout 1.5s", 1, "expected timeout in whole seconds"),
            ("nope --queue q", 3, "no schedule 'nope'"),
            ("x --kwarg k=text", 2, "--kwarg: expected JSON"),
            ("x --kwarg k", 2, "expected NAME=VALUE"),
            ("x --tz Asia/Tokyo", 2, "an interval has no zone"),
            ("x --env A=b", 2, "--env goes with --command"),
            ("x --catch-up-limit 3", 1, "catch_up_limit goes with catch_up='all'"),
            ("feeds --queue q", 1, "is declared in code"),
        ],
    )
    def test_a_refused_change_changes_nothing(
        self, run: Run, connection: Redis, schedules: Schedules, words: str, code: int, message: str
    ) -> None:
        fill(connection)
        schedules.add("x", every(hours=1), TASK, args=[1])
        before = everything(connection)
        result = run("update", *words.split())
        assert (result.exit_code, result.stdout) == (code, "")
        assert message in result.stderr
        assert everything(connection).keys() == before.keys()
        assert schedules.audit()[0].verb == "add"


class TestRemove:
    def test_a_script_removes_several_without_a_question(
        self, run: Run, schedules: Schedules
    ) -> None:
        for name in "abc":
            schedules.add(name, every(hours=1), TASK)
        result = run("remove", "a", "b", "a")
        assert (result.exit_code, result.stdout) == (0, "a: removed\nb: removed\n")
        assert [entry.name for entry in schedules] == ["c"]

    @pytest.mark.parametrize(("words", "code"), [("a nope", 3), ("a feeds", 1), ("", 2)])
    def test_when_one_does_not_fit_none_is_removed(
        self, run: Run, connection: Redis, schedules: Schedules, words: str, code: int
    ) -> None:
        fill(connection)
        schedules.add("a", every(hours=1), TASK)
        before = everything(connection)
        result = run("remove", *words.split())
        assert (result.exit_code, result.stdout) == (code, "")
        after = everything(connection)
        assert after.keys() == before.keys()
        assert schedules.get("a")

    @pytest.mark.parametrize(
        ("words", "answer", "left"), [("a", "n\n", 2), ("a", "y\n", 1), ("a b", "y\n", 0)]
    )
    def test_on_a_terminal_it_asks(
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
