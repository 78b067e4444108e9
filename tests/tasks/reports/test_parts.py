"""The parts of the reports: documents, tokens, settings, validation, migrations, the catcher."""

from __future__ import annotations

import csv
import os
import smtplib
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.message import EmailMessage
from io import StringIO
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from redis import Redis
from sqlalchemy import create_engine

import tasks.reports
from tasks.reports import database, settings
from tasks.reports.database import writing
from tasks.reports.migrate import HEAD, VERSIONS, bring_up_to_date
from tasks.reports.models import Base, Order, ReportSchedule, ShopSession
from tasks.reports.rendering import Period, render
from tasks.reports.schedules import (
    ReportError,
    add_report,
    remove_report,
    run_soon,
    set_active,
    set_session,
)
from tasks.reports.settings import SettingError, database_url, smtp_url
from tasks.reports.tokens import NoSession, decrypt, encrypt
from tests.helpers import wait_until
from tests.process import ROOT, Process
from tests.server import free_url
from tests.tasks.reports.conftest import Add, report_of

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
PERIOD = Period(after=datetime(2026, 2, 1, tzinfo=UTC), until=NOW, tz="Asia/Tokyo")
SECRET = "0123456789abcdef"


class TestDocuments:
    @pytest.fixture
    def shop(self, environment: dict[str, str]) -> str:
        rows = [("=cmd|'/c calc'!A1", 2, 500), ("<b>Pears</b>", 1, 320), ("-5% day", 1, -20)]
        with writing() as db:
            for product, pieces, cents in rows:
                db.add(Order(shop="one.example", ordered_at=NOW, product=product,
                             quantity=pieces, cents=cents))  # fmt: skip
            db.add(Order(shop="two.example", ordered_at=NOW, product="Foreign", quantity=1,
                         cents=1))  # fmt: skip
        return "one.example"

    def test_a_cell_is_no_formula_and_a_number_stays_one(self, shop: str) -> None:
        with database.reading() as db:
            made = render(db, ReportSchedule(name="Sales", shop=shop, kind="sales"), "", PERIOD)
        rows = [*csv.reader(StringIO(made.csv))]
        assert rows == [
            ["Product", "Pieces", "Sales"], ["'=cmd|'/c calc'!A1", "2", "5.00"],
            ["<b>Pears</b>", "1", "3.20"], ["'-5% day", "1", "-0.20"],
        ]  # fmt: skip

    @pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
    def test_no_sign_begins_a_formula(self, shop: str, sign: str) -> None:
        with database.writing() as db:
            db.add(Order(shop="three.example", ordered_at=NOW, product=f"{sign}1+1", quantity=1,
                         cents=1))  # fmt: skip
        with database.reading() as db:
            report = ReportSchedule(name="Sales", shop="three.example", kind="sales")
            made = render(db, report, "", PERIOD)
        assert [*csv.reader(StringIO(made.csv, newline=""))][1][0] == f"'{sign}1+1"

    def test_no_text_of_a_shop_becomes_markup(self, shop: str) -> None:
        with database.reading() as db:
            report = ReportSchedule(name="<i>Sales</i>", shop=shop, kind="orders")
            made = render(db, report, "", PERIOD)
        assert "<b>Pears" not in made.html
        assert "<i>Sales" not in made.html
        assert "&lt;b&gt;Pears&lt;/b&gt;" in made.html
        assert "Foreign" not in made.html
        assert "2026-03-01 18:00" in made.html  # the shop's clock

    def test_one_without_rows_says_so(self, environment: dict[str, str]) -> None:
        with database.reading() as db:
            made = render(db, ReportSchedule(name="A", shop="x", kind="sales"), "", PERIOD)
        assert "No rows." in made.html
        assert made.rows == 0


class TestTokens:
    def test_one_is_encrypted_in_the_database(self, environment: dict[str, str]) -> None:
        set_session("one.example", "shpat_4711")
        set_session("one.example", "shpat_4712")
        with database.reading() as db:
            session = db.get(ShopSession, "one.example")
            assert session
            assert b"shpat" not in session.token
            assert decrypt(session.token) == "shpat_4712"
            assert "shpat" not in repr(session)

    def test_the_secret_can_be_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REPORTS_SECRET", f"old-{SECRET}")
        stored = encrypt("token")
        monkeypatch.setenv("REPORTS_SECRET", f"new-{SECRET},old-{SECRET}")
        assert decrypt(stored) == "token"
        fresh = encrypt("token")
        monkeypatch.setenv("REPORTS_SECRET", f"new-{SECRET}")
        assert decrypt(fresh) == "token"
        with pytest.raises(NoSession, match="not encrypted with REPORTS_SECRET"):
            decrypt(stored)

    def test_a_deployment_without_a_secret_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://x/y")
        with pytest.raises(SettingError, match="openssl rand -hex 32"):
            encrypt("token")
        monkeypatch.setenv("REPORTS_SECRET", "short")
        with pytest.raises(SettingError, match="at least 16 characters") as failure:
            encrypt("token")
        assert "short" not in str(failure.value)

    def test_a_laptop_makes_one_secret_however_many_begin_at_once(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as threads:
            made = {*threads.map(lambda _: settings.secrets()[0], range(16))}
        assert len(made) == 1
        file = tmp_path / ".data" / "reports-secret"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [path.name for path in file.parent.iterdir()] == ["reports-secret"]


class TestSettings:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
    def test_the_url_of_a_platform_is_understood(
        self, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", f"{scheme}://user:p%40ss@host:5432/name?sslmode=require")
        url = "postgresql+psycopg://user:p%40ss@host:5432/name?sslmode=require"
        assert database_url() == url

    def test_a_platform_needs_a_mail_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert smtp_url() == settings.DEVELOPMENT_SMTP
        monkeypatch.setenv("DYNO", "worker.1")
        with pytest.raises(SettingError, match="SMTP_URL"):
            smtp_url()


GOOD: dict[str, Any] = {
    "shop": "one.example", "name": "A", "kind": "sales", "cron_text": "0 9 * * mon",
    "tz": "Europe/Berlin", "recipients": ["ann@example.com"],
}  # fmt: skip


class TestReports:
    def test_every_fault_is_reported_and_nothing_is_stored(
        self, environment: dict[str, str]
    ) -> None:
        wrong: dict[str, Any] = {
            "shop": "One Shop", "name": "a\nBcc: x@y", "kind": "none", "cron_text": "61 * * * *",
            "tz": "Mars/Olympus", "recipients": ["ann@example.com, bob@example.com"],
        }  # fmt: skip
        with pytest.raises(ReportError) as failure:
            add_report(**wrong)
        for field in ("shop:", "name:", "kind:", "cron:", "recipients:"):
            assert field in str(failure.value)
        with pytest.raises(ReportError, match="expected the id of a report, got 1"):
            set_active(1, True)

    def test_one_is_first_due_at_its_next_minute_by_the_shops_clock(
        self, environment: dict[str, str]
    ) -> None:
        at = report_of(add_report(**GOOD)).next_run_at
        assert at
        assert (at.minute, at.hour in (7, 8), at.weekday()) == (0, True, 0)

    def test_one_that_is_not_active_is_not_run_by_hand(self, add: Add) -> None:
        report = add()
        set_active(report, False)
        with pytest.raises(ReportError, match="activate it first"):
            run_soon(report)
        remove_report(report)
        with pytest.raises(ReportError, match="expected the id"):
            run_soon(report)

    @pytest.mark.parametrize("shop", ["", "a b", "../x", "x" * 90])
    def test_a_session_of_a_wrong_shop_is_refused(
        self, environment: dict[str, str], shop: str
    ) -> None:
        with pytest.raises(ReportError) as failure:
            set_session(shop, "secret-4711")
        assert "4711" not in str(failure.value)


class TestMigrations:
    def test_they_make_what_the_models_say(self, environment: dict[str, str]) -> None:
        with database.engine().connect() as connection:
            options = {"version_table": VERSIONS}
            context = MigrationContext.configure(connection, opts=options)
            found = compare_metadata(context, Base.metadata)
        # the columns of an index are compared by their names alone
        assert not found

    def test_the_head_is_the_newest(self) -> None:
        config = Config()
        where = Path(tasks.reports.__file__).parent / "migrations"
        config.set_main_option("script_location", str(where))
        assert ScriptDirectory.from_config(config).get_current_head() == HEAD

    @pytest.mark.process
    def test_processes_that_begin_at_once_make_one_database(self, tmp_path: Path) -> None:
        code = "from tasks.reports.migrate import bring_up_to_date as b; b('here.db')"
        command = [sys.executable, "-c", code]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        begun = [subprocess.Popen(command, cwd=tmp_path, env=env) for _ in range(4)]
        assert [process.wait() for process in begun] == [0] * 4
        bring_up_to_date(str(tmp_path / "here.db"))
        database = sqlite3.connect(tmp_path / "here.db")
        assert database.execute(f"SELECT version_num FROM {VERSIONS}").fetchall() == [(HEAD,)]
        database.close()

    def release(self, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tasks.reports.migrate"],
            cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @pytest.mark.process
    def test_a_deploy_without_a_database_migrates_nothing(self, tmp_path: Path) -> None:
        done = self.release(tmp_path)
        assert (done.returncode, "nothing to migrate" in done.stdout) == (0, True)

    @pytest.mark.process
    def test_a_deploy_leaves_the_database_of_an_app_without_reports_alone(
        self, tmp_path: Path
    ) -> None:
        done = self.release(tmp_path, DATABASE_URL="mysql://u:pa55@127.0.0.1:1/x")
        assert (done.returncode, "left alone" in done.stdout) == (0, True)

    @pytest.mark.process
    @pytest.mark.parametrize("url", ["mysql://u:pa55@127.0.0.1:1/x", "pa55"])
    def test_a_deploy_with_another_database_fails_with_one_line(
        self, tmp_path: Path, url: str
    ) -> None:
        done = self.release(tmp_path, DATABASE_URL=url, REPORTS_SECRET=SECRET)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert done.stderr.startswith("error: DATABASE_URL: expected")
        assert "pa55" not in done.stderr

    @pytest.mark.process
    def test_a_deploy_whose_database_is_away_fails_with_one_line(self, tmp_path: Path) -> None:
        url = "postgres://u:pa55@127.0.0.1:1/x"
        done = self.release(tmp_path, DATABASE_URL=url, REPORTS_SECRET=SECRET)
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot migrate the reports' database: ")
        assert len(done.stderr.splitlines()) == 1
        assert "pa55" not in done.stderr

    @pytest.mark.process
    def test_a_deploy_migrates_once(self, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        url = request.getfixturevalue("postgres").fresh()
        for _ in range(2):
            done = self.release(tmp_path, DATABASE_URL=url, REPORTS_SECRET=SECRET)
            assert (done.returncode, done.stdout) == (
                0, f"reports: the database is at version {HEAD}\n",
            ), done.stderr  # fmt: skip
        engine = create_engine(url.replace("postgres://", "postgresql+psycopg://"))
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSIONS})
            assert not compare_metadata(context, Base.metadata)
        engine.dispose()


@pytest.mark.process
class TestCatcher:
    def test_it_keeps_each_mail_and_ends(self, tmp_path: Path) -> None:
        url = free_url().replace("redis", "smtp").removesuffix("/0")
        words = ("-m", "tasks.reports.catcher", url)
        with Process(tmp_path / "log", *words, env={}) as catcher:
            catcher.wait_for_line("mail: listening")
            mail = EmailMessage()
            mail["Subject"], mail["Message-ID"] = "Hello", "<../a b@c>"
            mail.set_content("x")
            host, port = url.removeprefix("smtp://").split(":")
            for _ in range(2):
                with smtplib.SMTP(host, int(port)) as server:
                    server.send_message(mail, "a@example.com", ["b@example.com"])
            wait_until(lambda: "mail to b@example.com" in catcher.text(), "the line of the mail")
            assert [p.name for p in (tmp_path / ".data" / "mail").iterdir()] == [".._a_b_c.eml"]
            assert catcher.end(SIGTERM) == 0

    def test_where_its_port_is_taken_it_waits_so_that_the_others_go_on(
        self, tmp_path: Path, redis_url: str
    ) -> None:
        url = redis_url.replace("redis", "smtp").removesuffix("/0")
        words = ("-m", "tasks.reports.catcher", url)
        with Process(tmp_path / "log", *words, env={}) as catcher:
            catcher.wait_for_line("mail: cannot listen on 127.0.0.1")
            assert catcher.end(SIGTERM) == 0


def test_a_stray_redis_is_needed_by_no_report_without_a_schedule_of_its_own(
    environment: dict[str, str], connection: Redis
) -> None:
    add_report(**GOOD)
    assert connection.keys("*") == []
