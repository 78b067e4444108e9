"""docs/reports.md: its code and commands run, and each row of its tables is walked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rq_clock import Schedules
from rq_clock.model.schedule import declare
from tasks.reports import models, on_demand, scheduler, schedules, web
from tasks.reports.sample import SHOP
from tests.helpers import needs
from tests.process import ROOT, Process
from tests.tasks.reports.conftest import report_of

PAGE = (ROOT / "docs" / "reports.md").read_text()
SOURCE = "".join(path.read_text() for path in (ROOT / "tasks" / "reports").rglob("*.py"))
TOKEN = "0123456789abcdef0123"
_TABLES = PAGE.partition("## You used")[2].partition("| in the log you read")
USED = re.findall(r"^\| (.+?) \| (.+) \|$", _TABLES[0], re.MULTILINE)[1:]
LOGGED = re.findall(r"^\| .+ \| (.+) \|$", _TABLES[2], re.MULTILINE)


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of the app's processes, which share a SQLite."""
    return {
        "REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": f"ana:admin+commands:{TOKEN}",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'reports.db'}",
        "REPORTS_SECRET": "0123456789abcdef",
    }  # fmt: skip


def set_up(app: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in app.items():
        monkeypatch.setenv(name, value)
    scheduler._redis.cache_clear()


def test_its_code_runs(
    app: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(app, monkeypatch)
    Schedules().add(scheduler.CHECK, scheduler.EVERY, on_demand.CHECK_TARGET)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "reports.md", "exec"), {})
    assert capsys.readouterr().out == "False [] 0\n"  # no clock leads here
    assert report_of(1).name == "Weekly sales"


@pytest.mark.process
@needs("curl")
def test_its_commands_get_the_answers_it_shows(app: dict[str, str], tmp_path: Path) -> None:
    blocks = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
    examples = [e.partition("\n") for e in re.split(r"^\$ ", blocks, flags=re.MULTILINE)[1:]]
    with (
        Process(tmp_path / "clock.log", str(ROOT / "clock.py"), env=app) as clock,
        Process(tmp_path / "web.log", str(ROOT / "web.py"), "--port", "0", env=app) as site,
    ):
        clock.wait_for("reconcile.done")
        env = app | {"TOKEN": TOKEN, "URL": site.wait_for("web.listening").fields["address"],
                     "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}  # fmt: skip
        walked = 0
        for command, _, shown in examples:
            if command.startswith(("make ", "heroku ")):
                continue
            ran = subprocess.run(
                ["/bin/sh", "-c", command.replace(".venv/bin/python", sys.executable)],
                cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            if shown.startswith("{"):
                assert json.loads(ran.stdout) == json.loads(shown)
            else:
                assert ran.stdout == shown
            walked += 1
        assert walked == 3


def test_the_settings_of_its_deploy_exist() -> None:
    example = (ROOT / ".env.example").read_text()
    [command] = re.findall(r"^\$ heroku config:set (.+)$", PAGE, re.MULTILINE)
    named = re.findall(r"([A-Z_]+)=", command) + re.findall(r"`([A-Z_]+)=", PAGE)
    assert {"REPORTS_SECRET", "SMTP_URL", "MAIL_FROM", "REPORTS_ON_DEMAND"} <= set(named)
    for name in set(named) - {"QUEUE"}:
        assert f"#{name}=" in example, name
    assert "tasks.reports.migrate" in (ROOT / "Procfile").read_text()


def test_what_it_says_to_delete_is_there() -> None:
    assert scheduler.CHECK in (ROOT / "clock.py").read_text()
    assert "tasks.reports.web" in (ROOT / "web.py").read_text()


def test_every_line_of_its_log_is_written() -> None:
    assert len(LOGGED) >= 14
    for line in LOGGED:
        for word in re.findall(r"`(reports\.[a-z_]+)", line):
            state = word.removeprefix("reports.")
            written = f'"{word}"' in SOURCE or (f'"{state}"' in SOURCE and '{state}"' in SOURCE)
            assert written, word


def is_column(table: Any, *names: str) -> bool:
    return set(names) <= set(table.__table__.columns.keys())


def api_paths() -> set[str]:
    return {str(getattr(route, "path", "")) for route in web.api.routes}


WALKED: dict[str, Callable[[], object]] = {
    "`startScheduler()`": lambda: scheduler.start_scheduler,
    "`stopScheduler()`": lambda: scheduler.stop_scheduler,
    "`getSchedulerStatus()`": lambda: scheduler.get_scheduler_status,
    "`triggerSchedulerCheck()`": lambda: scheduler.trigger_scheduler_check,
    "`GET /api/scheduler`": lambda: "/api/scheduler" in api_paths(),
    "`POST /api/scheduler/trigger`": lambda: "/api/scheduler/trigger" in api_paths(),
    '`cron.schedule("*/5 * * * *", …)`': lambda: (
        "every(minutes=5)" in (ROOT / "clock.py").read_text()
    ),
    "the wait of 5 s after the start": lambda: "sleep" not in (ROOT / "clock.py").read_text(),
    "`runningJobs`, a set in memory": lambda: (
        schedules.meta_of(SHOP)["rq_clock"]["group"] == f"shop:{SHOP}"
    ),
    "`nextRunAt <= now`, `isActive`": lambda: is_column(
        models.ReportSchedule, "next_run_at", "active", "tz"
    ),
    "`ReportHistory`": lambda: is_column(models.ReportHistory, "report_id", "fire_time"),
    "an offline session, its access token": lambda: (
        is_column(models.ShopSession, "token") and schedules.set_session
    ),
    "`Promise` for each shop": lambda: scheduler.enqueue_shops,
    "batches of five shops": lambda: (
        "WORKER_CONCURRENCY" in (ROOT / "rq_clock" / "settings.py").read_text()
    ),
    "a single instance, or distributed locks": lambda: declare(
        "x", scheduler.EVERY, on_demand.CHECK_TARGET, {"group": schedules.group_of(SHOP)}
    ),
    "Heroku Scheduler as a backup": lambda: (
        declare("x", scheduler.EVERY, on_demand.CHECK_TARGET, {}).catch_up == "latest"
    ),
    "reading the log": lambda: web.reports.name == "Reports",
}


@pytest.mark.parametrize("row", [used for used, _ in USED])
def test_each_row_of_its_table_leads_somewhere(row: str) -> None:
    assert WALKED[row]()


def test_no_row_is_left_out() -> None:
    assert [used for used, _ in USED] == list(WALKED)


def test_the_schedule_of_the_clock_names_the_check(connection: Redis) -> None:
    [line] = [line for line in (ROOT / "clock.py").read_text().splitlines() if "reports" in line]
    assert f'"{on_demand.CHECK_TARGET}"' in line
