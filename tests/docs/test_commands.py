"""docs/commands.md: its code runs, and each row of its tables is walked with a real worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.cli import main
from rq_clock.model.ledger import Enqueued
from rq_clock.model.schedule import declare
from rq_clock.model.targets import Dyno, command, dyno
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.timing.triggers import cron, every
from rq_clock.web import create_app
from tests.helpers import definition
from tests.process import ROOT
from tests.runners.platform_api import Platform

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "commands.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
ROWS = [
    row
    for row in re.findall(r"^\| (.+?) \| .+ \|$", PAGE.partition("## You used")[2], re.MULTILINE)
    if row not in ("Heroku Scheduler", "Cron To Go")
]
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TABLE = (
    "$ python report.py\tStandard-2X\tDaily at 3:30 AM UTC\n$ rake feeds\tEco\tEvery 10 minutes\n"
)
MANIFEST = """
jobs:
  - nickname: report
    schedule: "30 2 * * *"
    timezone: America/New_York
    command: python report.py
    dyno: Standard-2X
    timeout: 600
    retries: 3
    jitter: 2
    state: paused
"""
TOKEN = "0123456789abcdef0123"


class World:
    """What the rows are walked with."""

    def __init__(
        self, redis: Redis, schedules: Schedules, store: Store, work: Callable[..., bool],
        url: str,
    ) -> None:  # fmt: skip
        self.redis, self.schedules, self.store = redis, schedules, store
        self.url, self._work = url, work

    def run(self, target: Any, **options: Any) -> str:
        """Run a target once, as the schedule x. Return the state of its attempt."""
        self.schedules.add("x", every(hours=1), target, **options, replace=True)
        self.schedules.trigger("x")
        self._work()
        entries = [e for e in self.store.ledger("x") if isinstance(e, Enqueued) and e.attempt]
        assert entries[-1].attempt
        return f"{entries[-1].attempt.state} {entries[-1].attempt.error}".strip()

    def cli(self, *words: str, code: int = 0, input: str = "") -> str:
        result = CliRunner().invoke(main, words, input=input, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    def page(self, path: str) -> str:
        settings = Settings.from_env({"REDIS_URL": self.url, "RQ_CLOCK_TOKENS": TOKEN})
        app = create_app(settings)
        with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as browser:
            return browser.get(path).text


@pytest.fixture
def world(
    connection: Redis, schedules: Schedules, store: Store, work: Callable[..., bool],
    redis_url: str, monkeypatch: pytest.MonkeyPatch,
) -> World:  # fmt: skip
    monkeypatch.setenv("REDIS_URL", redis_url)
    return World(connection, schedules, store, work, redis_url)


def next_after(trigger: Any) -> str:
    return f"{trigger.next_after(NOON):%a %d %H:%M}"


def test_the_code_of_the_page_declares_what_it_says(world: World) -> None:
    names: dict[str, Any] = {}
    exec(compile(CODE, "docs/commands.md", "exec"), names)
    declared = names["clock"].declared
    assert list(declared) == ["feeds", "threads", "recompute", "report"]
    assert isinstance(declared["report"].target, Dyno)
    assert not names["clock"].faults()


# ---- Heroku Scheduler --------------------------------------------------------------------------


def ten_minutes(world: World) -> None:
    assert next_after(every(minutes=10)) == "Mon 02 12:10"


def hourly(world: World) -> None:
    assert next_after(cron("20 * * * *")) == "Mon 02 12:20"


def daily(world: World) -> None:
    assert next_after(cron("30 3 * * *")) == "Tue 03 03:30"


def raw_command(world: World) -> None:
    line = """printf '%s|' psql "$DATABASE_URL" -c "SELECT * FROM \\"Threads\\" LIMIT 1" >out"""
    assert world.run(command(line, env={"DATABASE_URL": "postgres://x"})) == "ok"
    assert Path("out").read_text() == 'psql|postgres://x|-c|SELECT * FROM "Threads" LIMIT 1|'


def exit_code(world: World) -> None:
    assert world.run(command("true")) == "ok"
    assert "exit code 3; last line: no disk" in world.run(command("echo no disk >&2; exit 3"))


def one_off_dyno(world: World) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        Platform(Path.cwd(), {"REDIS_URL": world.url}) as api,
    ):
        for name, value in api.settings.items():
            patch.setenv(name, value)
        assert world.run(dyno("echo made; exit 0", size="standard-2x")) == "ok"
        assert "exit code 4" in world.run(dyno("exit 4"))
    assert api.dynos[0].body["size"] == "standard-2x"


def ended_in_time(world: World) -> None:
    assert world.run(command("sleep 60", timeout=1)).startswith("timed_out")


def logs(world: World) -> None:
    world.run(command("echo hello"))
    assert "hello" in world.cli("logs", "x")


def ways_to_add(world: World) -> None:
    world.cli("add", "y", "--every", "10m", "--command", "df -h /")
    assert definition(world.schedules, "y").target == command("df -h /")
    assert "Shell command" in world.page("/new")


def enqueued_once(world: World) -> None:
    x = declare("x", every(minutes=10), "tasks.x", {})
    assert x.catch_up == "latest"  # tests/clock holds the promise, with kills


def from_heroku(world: World) -> None:
    Path("table.txt").write_text(TABLE)
    world.cli("import", "heroku", "table.txt", "--dynos", "--yes")
    report, feeds = (definition(world.schedules, name) for name in ("report", "rake-feeds"))
    assert report.target == dyno("python report.py", size="standard-2x", timeout=86_400)
    assert feeds.target == dyno("rake feeds", size="eco", timeout=600)
    assert report.trigger == cron("30 3 * * *")


# ---- Cron To Go ----------------------------------------------------------------------------------


def any_cron(world: World) -> None:
    assert next_after(cron("*/7 8-18 * * mon-fri")) == "Mon 02 12:07"


def rate(world: World) -> None:
    trigger = every(hours=3)
    assert trigger.next_after(NOON) == NOON + timedelta(hours=3)


def zone(world: World) -> None:
    assert next_after(cron("30 2 * * *", tz="America/New_York")) == "Tue 03 07:30"


def jitter(world: World) -> None:
    world.schedules.add("x", every(hours=1), "tasks.x", jitter=300)
    x = definition(world.schedules)
    assert timedelta(0) <= x.offset < timedelta(seconds=300)
    assert x.offset == declare("x", every(hours=1), "tasks.x", {"jitter": 300}).offset


def retries(world: World) -> None:
    assert world.run(command("[ -e y ] || { touch y; exit 1; }"), retries=[0, 0]) == "ok"


def timeout(world: World) -> None:
    assert declare("x", every(hours=1), command("x"), {"timeout": 1800}).call()["timeout"] == 1810


def paused(world: World) -> None:
    world.schedules.add("x", every(hours=1), "tasks.x")
    assert "paused" in world.cli("pause", "x")
    assert "paused" not in world.cli("resume", "x")


def run_now(world: World) -> None:
    world.schedules.add("x", every(hours=1), command("true"))
    world.cli("run", "x")
    world._work()
    assert "ok" in world.cli("history", "x")


def history(world: World) -> None:
    world.run(command("exit 9"))
    assert "exit code 9" in world.cli("history", "x")
    assert "exit code 9" in world.page("/schedules/x")


def grid(world: World) -> None:
    world.run(command("true"))
    world.run(command("exit 1"))
    page = world.page("/schedules/x")
    assert "1 succeeded, 1 failed" in page
    assert page.count("no run ended") >= 28
    [days] = world.redis.keys("*days:x")
    assert 0 < world.redis.ttl(days) <= 30 * 86_400
    world.schedules.remove("x")
    assert not world.redis.exists(days)


def output(world: World) -> None:
    world.run(command("echo one; echo two"))
    assert "one\ntwo" in world.cli("logs", "x")


def mails(world: World) -> None:
    assert "alert_urls" in Settings.__dataclass_fields__  # tests/alerts: begins and ends once


def pings(world: World) -> None:
    world.schedules.add("x", every(hours=1), "tasks.x", ping="https://hc-ping.com/1")
    assert definition(world.schedules).ping


def manifests(world: World) -> None:
    world.cli("add", "y", "--every", "10m", "--dyno", "df -h /", "--size", "basic")
    Path("all.yaml").write_text(world.cli("export"))
    world.schedules.remove("y")
    world.cli("add", "z", "--every", "10m", "--command", "true")
    world.cli("apply", "all.yaml", "--prune", "--yes")
    assert [entry.name for entry in world.schedules] == ["y"]
    assert definition(world.schedules, "y").target == dyno("df -h /", size="basic")


def from_cron_to_go(world: World) -> None:
    world.cli("import", "crontogo", "-", "--dynos", "--yes", input=MANIFEST)
    report = definition(world.schedules, "report")
    assert report.target == dyno("python report.py", size="standard-2x", timeout=600)
    assert report.trigger == cron("30 2 * * *", tz="America/New_York")
    assert report.retries == (10, 20, 40)
    assert "paused" in world.cli("list")


WALKS: list[Callable[[World], None]] = [
    ten_minutes, hourly, daily, raw_command, exit_code, one_off_dyno, ended_in_time, logs,
    ways_to_add, enqueued_once, from_heroku,
    any_cron, rate, zone, jitter, retries, timeout, paused, run_now, history, grid, output, mails,
    pings, manifests, from_cron_to_go,
]  # fmt: skip


def test_every_row_is_walked() -> None:
    assert len(ROWS) == len(WALKS)


@pytest.mark.parametrize(("row", "walk"), list(zip(ROWS, WALKS, strict=False)))
def test_what_people_used_is_here(row: str, walk: Callable[[World], None], world: World) -> None:
    walk(world)
