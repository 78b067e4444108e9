"""Callbacks from the command line. Nothing is called here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from redis import Redis

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.cli.callbacks import SECTIONS
from rq_clock.cli.callbacks import callbacks as group
from rq_clock.settings import Settings
from tests.cli.terminal import Run, Terminal

URL = "https://example.com/jobs/42"
KEY = "0123456789abcdef0123456789abcdef"
SECRET = "hush-hush-hush"


@pytest.fixture
def tasks(connection: Redis, redis_url: str) -> Callbacks:
    settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_CALLBACKS_KEY": KEY})
    return Callbacks(connection, by="ana", settings=settings)


def fill(tasks: Callbacks, count: int = 3, **fields: Any) -> list[str]:
    new = [NewTask(url=f"{URL}/{n}", **fields) for n in range(count)]
    return [task.id for task, _ in tasks.enqueue_many(new)]


def test_the_list_of_commands_has_the_first_sentence_of_each_help() -> None:
    ctx = click.Context(group)
    for rows in SECTIONS.values():
        for name, (_, text) in rows.items():
            command = group.get_command(ctx, name)
            assert command
            assert (command.name, command.get_short_help_str(100)) == (name, text)


class TestAdd:
    def test_it_prints_the_id_of_the_task(self, run: Run, tasks: Callbacks) -> None:
        id = run.ok("callbacks", "add", "example.com/x", "--at", "tomorrow 09:00", "--tz",
                    "Europe/Berlin", "--header", "X-Tenant: 7", "--payload", '{"a": 1}',
                    "--tag", "eu", "--priority", "high", "--max-retries", "3", "--timeout", "1m",
                    "--method", "put", "--dedup-key", "k").strip()  # fmt: skip
        task = tasks.get(id)
        assert (task.url, task.method, task.headers) == (
            "https://example.com/x", "PUT", {"X-Tenant": "7"}
        )  # fmt: skip
        assert (task.payload, task.tags, task.priority) == ({"a": 1}, ("eu",), "high")
        assert (task.max_retries, task.timeout, task.dedup_key) == (3, 60, "k")
        assert task.execute_at.hour in (7, 8)
        again = run("callbacks", "add", URL, "--dedup-key", "k")
        assert again.stdout.strip() == id
        assert "lives already" in again.stderr

    def test_an_auth_comes_from_a_file_or_names_a_variable(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "auth"
        path.write_text(f"{SECRET}\n")
        env = {"RQ_CLOCK_CALLBACKS_KEY": KEY, "RQ_CLOCK_WEBHOOK_ENV": "CRM_KEY"}
        task = run.json("callbacks", "add", URL, "--auth-file", str(path), **env)
        assert task["auth"] == {"set": True, "env": None}
        assert SECRET not in run.ok("callbacks", "show", task["id"], **env)
        task = run.json("callbacks", "add", URL, "--auth-env", "CRM_KEY", **env)
        assert task["auth"]["env"] == "CRM_KEY"
        words = ("callbacks", "add", URL, "--auth-file", str(path), "--auth-env", "CRM_KEY")
        assert "got both" in run.refused(2, *words, **env)
        assert "RQ_CLOCK_CALLBACKS_KEY" in run.refused(
            1, "callbacks", "add", URL, "--auth-file", str(path)
        )

    @pytest.mark.parametrize(
        ("words", "code", "text"),
        [
            (("ftp://example.com",), 1, "expected"),
            (("http://10.0.0.1/",), 1, "public address"),
            ((URL, "--at", "someday"), 2, "--at"),
            ((URL, "--payload", "{"), 1, "JSON"),
            ((URL, "--header", "nonsense"), 2, "NAME:TEXT"),
            ((URL, "--method", "BREW"), 1, "method"),
            ((URL, "--timeout", "soon"), 2, "--timeout"),
            ((URL, "--max-retries", "-1"), 1, "maxRetries"),
        ],
    )
    def test_bad_input_is_one_line_and_adds_nothing(
        self, run: Run, words: tuple[str, ...], code: int, text: str
    ) -> None:
        assert text in run.refused(code, "callbacks", "add", *words)


class TestReading:
    def test_a_list_has_the_next_calls_first(self, run: Run, tasks: Callbacks) -> None:
        ids = fill(tasks, 250, tags=("eu",))
        tasks.cancel(ids[0])
        rows = run.ok("callbacks", "list", "--count", "300").splitlines()
        assert [row.split()[0] for row in rows] == ["TASK", *ids[1:], ids[0]]
        assert "○ waiting" in rows[1]
        assert len(run.json("callbacks", "list")) == 50
        assert run.json("callbacks", "list", "--state", "canceled")[0]["id"] == ids[0]
        assert len(run.json("callbacks", "list", "--text", "jobs/42/7", "--tag", "eu")) == 11
        assert run("callbacks", "list", "--host", "nobody").stderr == "no matching tasks\n"

    def test_one_is_shown_with_its_request(self, run: Run, tasks: Callbacks) -> None:
        [id] = fill(tasks, 1, headers={"X-Tenant": "7", "X-Api-Key": SECRET})
        text = run.ok("callbacks", "show", id)
        assert f"url         POST {URL}/0" in text
        assert "X-Tenant: 7" in text
        assert SECRET not in text + json.dumps(run.json("callbacks", "show", id))
        assert run.json("callbacks", "show", id)["id"] == id

    def test_a_task_that_is_not_there_is_not_found(self, run: Run, tasks: Callbacks) -> None:
        fill(tasks)
        for id in (f"task_{'0' * 26}", "nonsense", "\x1b[31m"):
            for verb in ("show", "cancel", "retry", "delete"):
                assert "no such task" in run.refused(3, "callbacks", verb, id)

    def test_the_status_says_that_no_worker_serves_the_queue(
        self, run: Run, tasks: Callbacks
    ) -> None:
        fill(tasks)
        shown = run("callbacks", "status")
        assert "3 waiting, 0 calling" in shown.stdout
        assert "no worker serves 'callbacks'" in shown.stderr
        assert run.json("callbacks", "status")["due"] == 3


class TestOperations:
    def test_they_change_tasks_by_id(self, run: Run, tasks: Callbacks) -> None:
        first, second, _ = fill(tasks)
        run.ok("callbacks", "cancel", first, second, "--reason", "paid")
        assert {tasks.get(id).status for id in (first, second)} == {"canceled"}
        assert run.json("callbacks", "retry", first)["done"] == 1
        assert "canceled" in run.refused(1, "callbacks", "cancel", second)
        run.ok("callbacks", "delete", second)
        assert "no such task" in run.refused(3, "callbacks", "show", second)

    def test_they_change_all_that_match(self, run: Run, tasks: Callbacks) -> None:
        tasks.configure({"keepDone": 1500})
        for _ in range(2):
            fill(tasks, 750)
        assert run.ok("callbacks", "cancel", "--all", "--host", "example.com") == (
            "1,500 tasks: canceled\n"
        )
        matching = 2 * sum(str(n).startswith("7") for n in range(750))
        result = run.json("callbacks", "delete", "--all", "--text", "/7")
        assert result == {"done": matching, "refused": [], "more": False}

    @pytest.mark.parametrize(
        "words", [(), ("x", "--all"), ("x", "--host", "h")], ids=["none", "both", "filter"]
    )
    def test_they_need_ids_or_all(self, run: Run, words: tuple[str, ...]) -> None:
        assert "expected" in run.refused(2, "callbacks", "retry", *words)

    def test_all_is_confirmed_on_a_terminal(self, redis_url: str, tasks: Callbacks) -> None:
        fill(tasks)
        with Terminal(redis_url, "callbacks", "delete", "--all") as terminal:
            terminal.shows("Delete all tasks that match (no filter)?")
            terminal.type("n\n")
            assert terminal.ends() == 1
        assert tasks.status().waiting == 3


class TestConfigure:
    def test_it_shows_and_changes(self, run: Run) -> None:
        assert "base_interval_ms=1000\n" in run.ok("callbacks", "configure")
        text = run.ok("callbacks", "configure", "base_interval_ms=500", "hostRate=2.5",
                      "retry_delays=1,2.5", "mode=steady", "--reason", "faster")  # fmt: skip
        for line in ("base_interval_ms=500", "host_rate=2.5", "retry_delays=1,2.5", "mode=steady"):
            assert f"{line}\n" in text
        assert "host_rate=none\n" in run.ok("callbacks", "configure", "host_rate=none")
        assert run.json("callbacks", "configure")["retryDelays"] == [1, 2.5]

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (("select_size",), 2), (("select_size=0",), 1), (("select_size=many",), 1),
            (("nonsense=1",), 1), (("mode=fast",), 1), (("select_size=1", "select_size=2"), 1),
            (("select_size=1", "selectSize=2"), 1), (("retry_delays=",), 1),
        ],
    )  # fmt: skip
    def test_a_wrong_value_changes_nothing(
        self, run: Run, words: tuple[str, ...], code: int
    ) -> None:
        assert "expected" in run.refused(code, "callbacks", "configure", "dispatchers=2", *words)
