"""A clock in a web app, as docs/locks.md starts it: of several processes one leads, and never the
one that only watches files."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

from tests.clock.test_background import LEASE, LOGS, App, leader
from tests.helpers import wait_until

CLOCK = LOGS + (
    "from rq_clock import Clock, every\n"
    "clock = Clock()\n"
    "clock.add('x', every(seconds=1), 'tasks.nothing')\n"
)
FLASK = "from flask import Flask\napp = Flask(__name__)\n"
GUNICORN = "from app0 import clock\n\ndef post_worker_init(worker):\n    clock.start()\n"
DJANGO = """
from django.apps import AppConfig

class Site(AppConfig):
    name = "app0"

    def ready(self):
        clock.start()

urlpatterns = []
if __name__ == "__main__":
    from django.conf import settings
    from django.core.management import execute_from_command_line
    settings.configure(
        DEBUG=True, SECRET_KEY="of the tests", ROOT_URLCONF="app0", INSTALLED_APPS=["app0.Site"]
    )
    execute_from_command_line(["manage.py", "runserver", "127.0.0.1:0"])
"""


def test_of_gunicorns_workers_one_leads_and_after_its_death_another(
    tmp_path: Path, redis_url: str, connection: Any
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN)
    words = ("-m", "gunicorn", "--workers", "3", "--bind", "127.0.0.1:0", "{app}:app")
    with App(tmp_path, redis_url, CLOCK + FLASK, *words) as site:
        site.wait_for("clock.standby", times=2)
        first = leader(connection)
        booted = re.findall(r"Booting worker with pid: (\d+)", site.text())
        assert str(first) in booted
        assert len(booted) == 3
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: leader(connection) not in (0, first), "another leader")
        assert leader(connection) != site.pid
        assert site.end() == 0
    hows = [fields[b"how"] for _, fields in connection.xrange("rq-clock:default:handovers")]
    assert hows[:2] == [b"free"] * 2
    assert not connection.exists(LEASE)


def test_of_flasks_reloader_only_the_serving_process_leads(
    tmp_path: Path, redis_url: str, connection: Any
) -> None:
    words = ("-m", "flask", "--app", "{app}", "run", "--debug", "--port", "0")
    with App(tmp_path, redis_url, CLOCK + FLASK + "clock.start()\n", *words) as site:
        wait_until(lambda: leader(connection) not in (0, site.pid), "the serving process to lead")
        site.wait_for("clock.leading")


def test_of_djangos_reloader_only_the_serving_process_leads(
    tmp_path: Path, redis_url: str, connection: Any
) -> None:
    with App(tmp_path, redis_url, CLOCK + DJANGO, "{app}.py") as site:
        site.wait_for("clock.off")
        wait_until(lambda: leader(connection) not in (0, site.pid), "the serving process to lead")
