"""docs/commands.md: its code runs, and each row of its tables is walked with a real worker."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
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
from rq_clock.timing.triggers import Trigger, cron, every
from rq_clock.web import create_app
from tests.alerts.test_channels import Hub, Mailbox
from tests.alerts.test_monitor import Leader
from tests.clock.storm import TWENTY, ClockProcess, account, add, catch_up, decided
from tests.helpers import Events, definition, wait_until
from tests.jobs.endings import fails, ok
from tests.postgres import BINARIES, Postgres
from tests.process import ROOT, Process
from tests.recorder import serving
from tests.runners.platform_api import Platform

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "commands.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
ROWS = [
    row
    for row in re.findall(r"^\| (.+?) \| .+ \|$", PAGE.partition("## You used")[2], re.MULTILINE)
    if row not in ("Heroku Scheduler", "Cron To Go")
]
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
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": "same-origin"}


class World:
    """What the rows are walked with."""

    def __init__(
        self, redis: Redis, schedules: Schedules, work: Callable[..., bool], url: str,
        events: Events,
    ) -> None:  # fmt: skip
        self.redis: Any = redis
        self.schedules, self.store = schedules, Store(redis, "default")
        self.url, self.work, self._events = url, work, events

    def run(self, target: Any, **options: Any) -> str:
        """Run a target once, as the schedule x. Return the state of its attempt."""
        self.schedules.add("x", every(hours=1), target, **options, replace=True)
        self.schedules.trigger("x")
        return self.attempt()

    def attempt(self) -> str:
        """Run what is queued. Return the state of the newest attempt of x."""
        self.work()
        last: Any = self.jobs("x")[-1].attempt
        return f"{last.state} {last.error}".strip()

    def jobs(self, name: str) -> list[Enqueued]:
        """Return the fire times of a schedule that became jobs."""
        return [entry for entry in self.store.ledger(name) if isinstance(entry, Enqueued)]

    def leader(self, **env: Any) -> Leader:
        """Return a clock that leads, and whose time the test moves."""
        return Leader(self.redis, self._events, **env)

    def fired(self, trigger: Trigger, start: str, count: int, **options: Any) -> list[str]:
        """Let such a clock lead from `start`. Return when it enqueued the first jobs of x."""
        leader, found = self.leader(), []
        leader.now = datetime.fromisoformat(start)
        leader.declare(declare("x", trigger, "tasks.x", {"overlap": "allow", **options}))
        while len(self.jobs("x")) < count:
            [(_, leader.now)] = self.store.soonest(1)
            leader.turn()
            found.append(f"{leader.now:%a %d %H:%M:%S}")
        return found

    def cli(self, *words: str, code: int = 0, input: str = "") -> str:
        result = CliRunner().invoke(main, words, input=input, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    def web(self, path: str, method: str = "GET", **body: Any) -> str:
        """Return the page, or the answer of the API, of a caller that may do all."""
        tokens = f"ana:admin+commands:{TOKEN}"
        settings = Settings.from_env({"REDIS_URL": self.url, "RQ_CLOCK_TOKENS": tokens})
        with TestClient(create_app(settings), headers=HEADERS) as browser:
            answer = browser.request(method, path, **body)
        assert answer.status_code < 400, answer.text
        return answer.text


@pytest.fixture
def world(
    connection: Redis, schedules: Schedules, work: Callable[..., bool], redis_url: str,
    events: Events, monkeypatch: pytest.MonkeyPatch,
) -> World:  # fmt: skip
    monkeypatch.setenv("REDIS_URL", redis_url)
    return World(connection, schedules, work, redis_url, events)


def test_the_code_of_the_page_declares_what_it_says(world: World) -> None:
    names: dict[str, Any] = {}
    exec(compile(CODE, "docs/commands.md", "exec"), names)
    declared = names["clock"].declared
    assert list(declared) == ["feeds", "threads", "recompute", "report"]
    assert isinstance(declared["report"].target, Dyno)
    assert not names["clock"].faults()


# ---- Heroku Scheduler --------------------------------------------------------------------------


def fires(trigger: Trigger, start: str, fired: str) -> Callable[[World], None]:
    """Return a walk: a clock that leads from `start` enqueues at these times first."""

    def walk(world: World) -> None:
        times = fired.split(", ")
        assert world.fired(trigger, start, len(times)) == times

    return walk


NOON = "2026-03-02T12:00Z"
ten_minutes = fires(every(minutes=10), NOON, "Mon 02 12:10:00, Mon 02 12:20:00")
hourly = fires(cron("20 * * * *"), NOON, "Mon 02 12:20:00, Mon 02 13:20:00")
daily = fires(cron("30 3 * * *"), NOON, "Tue 03 03:30:00, Wed 04 03:30:00")


def raw_command(world: World) -> None:
    with Postgres(Path.cwd() / "pg") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BINARIES}:{os.environ['PATH']}")
        patch.setenv("DATABASE_URL", server.fresh())
        sql = 'CREATE TABLE \\"Threads\\" AS SELECT 4711 AS id; SELECT * FROM \\"Threads\\"'
        assert world.run(command(f'psql "$DATABASE_URL" -c "{sql}"')) == "ok"
        assert "4711" in world.cli("logs", "x")
        assert "exit code 1" in world.run(command('psql "$DATABASE_URL" -c "SELECT * FROM none"'))
        assert 'relation "none" does not exist' in world.cli("logs", "x")


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
    world.schedules.add("x", every(hours=1), command("echo hello; sleep 0.2; echo bye; exit 3"))
    world.schedules.trigger("x")
    words = ("-m", "rq_clock", "worker", "--burst")
    with Process(Path.cwd() / "worker.log", *words, env={"REDIS_URL": world.url}) as worker:
        worker.wait_for("command.started", schedule="x")
        assert "hello\nbye\n" in world.cli("logs", "-f", "x")
        ended = worker.wait_for("command.ended", schedule="x").fields
    assert ended["exit"] == "3"
    assert float(ended["took"].removesuffix("s")) >= 0.2


def ways_to_add(world: World) -> None:
    df, body = command("df -h /"), {"every": "10m", "command": "df -h /"}
    names: dict[str, Any] = {}
    exec(compile(CODE, "docs/commands.md", "exec"), names)
    names["clock"].add("code", every(minutes=10), df)
    world.leader().declare(*names["clock"].declared.values())
    form = {"name": "page", "what": "command", "when": "every", "do": "save", **body}
    world.web("/new", "POST", data=form)
    world.cli("add", "shell", "--every", "10m", "--command", "df -h /")
    target = {"command": {"shell": "df -h /"}}
    world.web("/api/v1/schedules", "POST", json={"name": "api", "every": "10m", **target})
    for name in ("code", "page", "shell", "api"):
        schedule = definition(world.schedules, name)
        assert (schedule.target, schedule.trigger) == (df, every(minutes=10)), name


def enqueued_once(world: World) -> None:
    with ExitStack() as stack:
        for both_die in (False, True, False):
            clock = ClockProcess(Path.cwd() / "clocks", world.url, add(*TWENTY))
            stack.enter_context(clock).wait_for("clock.leading")
            catch_up(world.redis, TWENTY)
            if both_die:
                stack.close()
                wait_until(lambda: not decided(world.redis, TWENTY, time.time() - 1), "an outage")
        assert clock.terminate() == 0
    account(world.redis, TWENTY).check("two clocks side by side, killed, and a third one")


def from_heroku(world: World) -> None:
    Path("table.txt").write_text(TABLE)
    world.cli("import", "heroku", "table.txt", "--dynos", "--yes")
    report, feeds = (definition(world.schedules, name) for name in ("report", "rake-feeds"))
    assert report.target == dyno("python report.py", size="standard-2x", timeout=86_400)
    assert feeds.target == dyno("rake feeds", size="eco", timeout=600)
    assert report.trigger == cron("30 3 * * *")


# ---- Cron To Go ----------------------------------------------------------------------------------


office_hours = cron("*/7 8-18 * * mon-fri")
any_cron = fires(office_hours, "2026-03-06T18:50Z", "Fri 06 18:56:00, Mon 09 08:00:00")
rate = fires(every(hours=3, seconds=7), NOON, "Mon 02 12:54:30, Mon 02 15:54:37")
nightly = cron("30 2 * * *", tz="America/New_York")  # there is no 02:30 on this Sunday
zone = fires(nightly, "2026-03-07T08:00Z", "Sun 08 07:00:00, Mon 09 06:30:00")


def jitter(world: World) -> None:
    fired = world.fired(every(hours=1), NOON, 3, jitter=300)
    assert [time[:9] for time in fired] == ["Mon 02 12", "Mon 02 13", "Mon 02 14"]
    [late] = {time[-5:] for time in fired}
    assert "00:00" <= late < "05:00"


def retries(world: World) -> None:
    assert world.run(command("[ -e y ] || { touch y; exit 1; }"), retries=[0, 0]) == "ok"
    registry, executions = "rq:scheduled:default", world.leader().executions
    state = world.run(command("exit 1"), retries=[10, 20, 40, 80])
    for seconds in (10, 20, 40, 80):
        assert state == "failed CommandFailed: exit code 1"
        [(_, due)] = world.redis.zrange(registry, 0, -1, withscores=True)
        attempt: Any = world.jobs("x")[-1].attempt
        assert abs(due - attempt.ended.timestamp() - seconds) <= 1  # RQ keeps whole seconds
        executions.scan(datetime.fromtimestamp(due - 1, UTC))
        assert world.redis.zcard(registry) == 1
        executions.scan(datetime.fromtimestamp(due, UTC))
        state = world.attempt()
    assert not world.redis.zcard(registry)


def timeout(world: World) -> None:
    assert world.run(command("sleep 60"), timeout=1).startswith("timed_out")


def paused(world: World) -> None:
    world.schedules.add("x", every(seconds=1), "tasks.x", overlap="allow")
    world.schedules.add("other", every(seconds=1), "tasks.x", overlap="allow")
    with ClockProcess(Path.cwd() / "clocks", world.url, ""):
        catch_up(world.redis, ["x", "other"])
        assert "paused" in world.cli("pause", "x")
        before = world.jobs("x")
        catch_up(world.redis, ["other"], time.time() + 1)
        assert world.jobs("x") == before
        assert "paused" not in world.cli("resume", "x")
        wait_until(lambda: len(world.jobs("x")) > len(before), "x to go on")


def run_now(world: World) -> None:
    world.schedules.add("x", every(hours=1), command("true"))
    world.cli("run", "x")
    world.work()
    assert "ok" in world.cli("history", "x")


def history(world: World) -> None:
    world.run(command("exit 9"))
    assert "exit code 9" in world.cli("history", "x")
    assert "exit code 9" in world.web("/schedules/x")


def grid(world: World) -> None:
    today, leader = datetime.now(UTC), world.leader()
    for ago in range(35, 0, -1):
        leader.now = today - timedelta(days=ago)
        world.schedules.add("x", every(hours=1), command("true"), replace=True)
        world.schedules.trigger("x")
        leader.end(fails if ago == 20 else ok)
    world.run(command("exit 1"))
    page = world.web("/schedules/x")
    cells = {ago: f"{today - timedelta(days=ago):%a %d %b %Y}" for ago in range(36)}
    assert f"{cells[0]}: 0 succeeded, 1 failed" in page
    assert f"{cells[20]}: 0 succeeded, 1 failed" in page
    assert f"{cells[28]}: 1 succeeded, 0 failed" in page
    assert page.count('succeeded, 0 failed">') == 28
    assert f"{cells[31]}: " not in page
    [days] = world.redis.keys("*days:x")
    assert 0 < world.redis.ttl(days) <= 30 * 86_400
    world.schedules.remove("x")
    assert not world.redis.exists(days)


def output(world: World) -> None:
    world.run(command("echo one; echo two"))
    assert "one\ntwo" in world.cli("logs", "x")
    [link] = set(re.findall(r'href="(/runs/[^"?#]+)"', world.web("/schedules/x")))
    assert "one\ntwo" in world.web(link)


def mails(world: World) -> None:
    mailbox = Mailbox()
    mailbox.start()
    try:
        leader = world.leader(alert_urls=mailbox.url)
        for line in ("true", "exit 1", "exit 1", "true", "true"):
            world.run(command(line))
            leader.look()
        leader.watch.close()
        wait_until(lambda: len(mailbox.mails) == 2, "two mails")
    finally:
        mailbox.stop()
    failing, recovered = (mail["Subject"] for _, _, mail in mailbox.mails)
    assert failing.startswith("[default] failing: x, failed once")
    assert recovered.startswith("[default] recovered: x")
    assert [len(leader.alerts(kind)) for kind in ("failing", "recovered")] == [1, 1]


def pings(world: World) -> None:
    with serving(Hub()) as hub:
        leader = world.leader(webhook_allow="127.0.0.1")
        for name, line in (("good", "true"), ("bad", "exit 1")):
            ping = {"ping": f"{hub.url}/{name}"}
            leader.declare(declare(name, every(minutes=10), command(line), ping))
            leader.go_on(timedelta(minutes=10, seconds=10))
            world.work()
            leader.look()
        leader.watch.close()
        wait_until(lambda: len(hub.seen) == 4, "four pings")
    assert hub.paths() == ["/good/start", "/good", "/bad/start", "/bad/fail"]


def manifests(world: World) -> None:
    world.cli("add", "y", "--every", "10m", "--dyno", "df -h /", "--size", "basic")
    Path("all.yaml").write_text(world.cli("export"))
    world.schedules.remove("y")
    world.cli("add", "z", "--every", "10m", "--command", "true")
    world.cli("apply", "all.yaml", "--prune", "--yes")
    assert world.cli("export") == Path("all.yaml").read_text()
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
