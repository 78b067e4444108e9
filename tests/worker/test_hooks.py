"""The app's own functions around its jobs: run_worker's hooks, and what RQ_CLOCK_SETUP names."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rq import Callback
from rq.job import Job

from rq_clock.errors import RqClockError
from rq_clock.log import logger
from rq_clock.settings import Settings
from rq_clock.worker.hooks import Hooks, named_hooks
from rq_clock.worker.horses import PAUSE
from rq_clock.worker.worker import Worker
from tests.clock.storm import ClockProcess
from tests.helpers import PATIENCE, Events
from tests.process import ROOT
from tests.web.test_server import WebProcess
from tests.worker import jobs as jobs

Work = Callable[..., bool]
Write = Callable[[str, str], None]
FLASK = """
from contextvars import ContextVar
current = ContextVar("app", default="")

class Context:
    def __init__(self, name):
        self.name = name
    def push(self):
        current.set(self.name)

class Flask:
    def __init__(self, name):
        self.name = name
    def __call__(self, environ, start_response):
        raise AssertionError("a Flask app is called by web servers only")
    def app_context(self):
        return Context(self.name)
"""
"""As much of Flask as a worker meets."""


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Write]:
    """Write a module of the app: `write("shop", "…")`. Each logs its import in a file `told`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        head = (
            "import os\nfrom pathlib import Path\n"
            "def note(text):\n"
            f"    with Path({str(tmp_path / 'told')!r}).open('a') as file:\n"
            "        file.write(f'{text} {os.getpid()}\\n')\n"
            f"note('import {name}')\n"
        )
        (tmp_path / f"{name}.py").write_text(head + text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def work_with(connection: Any, redis_url: str) -> Work:
    """Run a worker with hooks in this process: `work_with(Hooks(setup=…), max_idle_time=2)`."""

    def work(hooks: Hooks | None = None, *, max_idle_time: int | None = None, **env: str) -> bool:
        settings = Settings.from_env({"REDIS_URL": redis_url, **env})
        worker = Worker(["default"], connection=connection, settings=settings, hooks=hooks)
        burst = max_idle_time is None
        return worker.work(burst, logging_level="CRITICAL", max_idle_time=max_idle_time)

    return work


def told(path: Path) -> list[str]:
    """The words that the app has noted, without the processes that noted them."""
    file = path / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.rpartition(" ")[0] for line in lines]


def run_script(url: str, text: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a worker.py of the test to its end."""
    Path("worker.py").write_text(text)
    return run_worker_process(url, "worker.py", **env)


def run_worker_process(url: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env={"REDIS_URL": url, "PYTHONPATH": f"{ROOT}:.", **env},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


class TestSetup:
    """What runs once, before the first process of jobs."""

    def test_it_runs_once_in_the_worker_and_no_job_imports_again_what_it_imported(
        self, queue: Any, work_with: Work, write: Write, tmp_path: Path
    ) -> None:
        write("heavy", "")
        done = [queue.enqueue(jobs.import_and_tell_pid, "heavy") for _ in range(3)]
        work_with(Hooks(setup=lambda: import_module("heavy")))
        assert (tmp_path / "told").read_text() == f"import heavy {os.getpid()}\n"
        assert len({job.return_value() for job in done} | {os.getpid()}) == 4

    @pytest.mark.process
    def test_a_pool_of_workers_runs_it_once_that_of_the_environment_first(
        self, redis_url: str, write: Write, tmp_path: Path
    ) -> None:
        write("shop", "def prepare(): note('named')\n")
        done = run_script(
            redis_url,
            "from rq_clock import run_worker\nimport shop\n"
            "run_worker(setup=lambda: shop.note('own'), concurrency=2, burst=True)\n",
            RQ_CLOCK_SETUP="shop:prepare",
        )
        assert done.returncode == 0, done.stderr
        assert told(tmp_path) == ["import shop", "named", "own"]

    def test_a_thread_that_it_leaves_is_named_unless_it_starts_again_in_a_fork(
        self, work_with: Work, events: Events
    ) -> None:
        over = threading.Event()
        names = ("poller", "OtelBatchSpanRecordProcessor", "sentry-sdk.BackgroundWorker")
        threads = [threading.Thread(target=over.wait, name=name) for name in names]

        def setup() -> None:
            for thread in threads:
                thread.start()

        try:
            work_with(Hooks(setup=setup))
        finally:
            over.set()
            for thread in threads:
                thread.join()
        [warning] = events("setup.thread")
        assert warning["thread"] == "poller"

    @pytest.mark.skipif(sys.platform != "linux", reason="only /proc lists sockets")
    def test_a_socket_that_it_leaves_is_named(self, work_with: Work, events: Events) -> None:
        left: list[socket.socket] = []
        work_with(Hooks(setup=lambda: left.extend(socket.socketpair())))
        named = [warning["socket"] for warning in events("setup.socket")]
        for end, name in zip(left, named, strict=True):
            assert f"(descriptor {end.fileno()})" in name
            end.close()

    def test_what_it_closes_itself_is_no_warning(self, work_with: Work, events: Events) -> None:
        def setup() -> None:
            for end in socket.socketpair():
                end.close()

        work_with(Hooks(setup=setup))
        assert events("setup.socket") == events("setup.thread") == []

    def test_its_error_ends_the_worker_before_it_takes_a_job(
        self, queue: Any, work_with: Work
    ) -> None:
        job = queue.enqueue(jobs.pid)
        with pytest.raises(ValueError, match="no"):
            work_with(Hooks(setup=jobs.fail))
        assert job.get_status() == "queued"


class TestNamedSetup:
    """RQ_CLOCK_SETUP."""

    def test_a_function_runs_once(
        self, queue: Any, work_with: Work, write: Write, tmp_path: Path
    ) -> None:
        write("shop", "def prepare(): note('prepared')\n")
        queue.enqueue(jobs.pid)
        queue.enqueue(jobs.pid)
        work_with(RQ_CLOCK_SETUP="shop:prepare")
        assert told(tmp_path) == ["import shop", "prepared"]

    def test_django_is_set_up(self, work_with: Work, write: Write, tmp_path: Path) -> None:
        write("django", "def setup(): note('set up')\n")
        work_with(RQ_CLOCK_SETUP="django")
        assert told(tmp_path) == ["import django", "set up"]

    @pytest.mark.parametrize("name", ["app", "create_app", "create_app()"])
    @pytest.mark.parametrize("shared", ["1", "10"])
    def test_each_job_has_the_context_of_a_flask_app_that_is_made_once(
        self, queue: Any, work_with: Work, write: Write, tmp_path: Path, name: str, shared: str
    ) -> None:
        write("shop", FLASK + (
            "app = Flask('shop')\n"
            "def create_app():\n    note('made')\n    return app\n"
        ))  # fmt: skip
        done = [queue.enqueue(jobs.context_value, "shop", "current") for _ in range(3)]
        work_with(RQ_CLOCK_SETUP=f"flask:shop:{name}", RQ_CLOCK_HORSE_JOBS=shared)
        assert [job.return_value() for job in done] == ["shop"] * 3
        assert told(tmp_path) == ["import shop", *(["made"] if "create" in name else [])]

    @pytest.mark.process
    def test_rqs_own_command_runs_it(self, redis_url: str, write: Write, tmp_path: Path) -> None:
        write("shop", "def prepare(): note('prepared')\n")
        words = ("-m", "rq.cli", "worker", "-w", "rq_clock.Worker", "--burst")
        done = run_worker_process(redis_url, *words, RQ_CLOCK_SETUP="shop:prepare")
        assert done.returncode == 0, done.stderr
        assert told(tmp_path) == ["import shop", "prepared"]

    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            ("shop", "expected module:function, django or flask:module:app; set it to"),
            ("shop:a:b", "expected module:function"),
            ("flask:shop", "no module 'flask'"),
            ("nowhere:prepare", "no module 'nowhere' in this directory or environment"),
            ("shop.nowhere:prepare", "no module 'shop.nowhere'"),
            ("shop:nothing", "no 'nothing' in module 'shop'"),
            ("shop:number", "expected 'number' to be a function, got 7"),
            ("flask:shop:prepare", "a function that returns one, got None"),
        ],
    )
    def test_a_wrong_value_is_one_error_with_its_remedy(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "flask", None)
        write("shop", "number = 7\ndef prepare(): pass\n")
        with pytest.raises(RqClockError) as caught:
            (named_hooks(name).setup or pytest.fail)()
        text = str(caught.value)
        assert text.startswith(f"RQ_CLOCK_SETUP={name!r}: ")
        assert fault in text
        assert text.endswith("set it to module:function, django or flask:module:app")

    def test_an_error_of_the_app_is_passed_on(self, write: Write) -> None:
        write("shop", "import a_missing_library\n")
        with pytest.raises(ModuleNotFoundError, match="a_missing_library"):
            (named_hooks("shop:prepare").setup or pytest.fail)()

    @pytest.mark.process
    def test_a_worker_with_a_wrong_value_ends_with_one_line(self, redis_url: str) -> None:
        done = run_script(
            redis_url, "from rq_clock import run_worker\nrun_worker()\n", RQ_CLOCK_SETUP="nowhere:f"
        )
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("error: RQ_CLOCK_SETUP='nowhere:f': no module 'nowhere'")

    @pytest.mark.process
    def test_neither_the_clock_nor_the_web_process_imports_the_app(
        self, redis_url: str, write: Write, tmp_path: Path
    ) -> None:
        write("shop", "def prepare(): note('prepared')\ndef task(): pass\n")
        env = {"RQ_CLOCK_SETUP": "shop:prepare", "RQ_CLOCK_APP": "shop:clock"}
        script = "clock.add('x', every(seconds=1), 'shop.task')\n"
        with (
            ClockProcess(
                tmp_path, redis_url, script, PYTHONPATH=f"{ROOT}:{tmp_path}", **env
            ) as clock,
            WebProcess(tmp_path, redis_url, **env) as web,
        ):
            clock.wait_for("run.enqueued", schedule="x")
            status, body, _seconds = web.get("/schedules/x")
            assert (status, "shop.task" in body) == (200, True)
        assert told(tmp_path) == []


class TestAfterFork:
    @pytest.mark.parametrize(("shared", "processes"), [("1", 3), ("10", 1)])
    def test_it_runs_in_each_process_of_jobs_before_its_first_job(
        self, queue: Any, work_with: Work, tmp_path: Path, shared: str, processes: int
    ) -> None:
        path = str(tmp_path / "told")
        done = [queue.enqueue(jobs.pid) for _ in range(3)]
        work_with(
            Hooks(after_fork=lambda: jobs.tell(path, f"{os.getpid()}")), RQ_CLOCK_HORSE_JOBS=shared
        )
        assert len({job.return_value() for job in done}) == processes
        noted = (tmp_path / "told").read_text().split()
        assert {str(job.return_value()) for job in done} <= set(noted)
        assert len(noted) == len(set(noted))

    def test_when_it_fails_an_idle_worker_forks_once_in_a_while(
        self, work_with: Work, events: Events
    ) -> None:
        began = time.monotonic()
        work_with(Hooks(after_fork=jobs.fail), max_idle_time=3)
        limit = (time.monotonic() - began) / PAUSE + 1
        assert 2 <= len(events("horse.ended")) <= limit

    def test_when_it_fails_each_job_fails_once(self, queue: Any, work_with: Work) -> None:
        done = [queue.enqueue(jobs.pid) for _ in range(3)]
        work_with(Hooks(after_fork=jobs.fail))
        assert [job.get_status() for job in done] == ["failed"] * 3


class TestAroundAJob:
    def test_they_get_the_job_in_its_process_around_it_and_its_callbacks(
        self, connection: Any, queue: Any, work_with: Work
    ) -> None:
        def note(word: str) -> Callable[[Job], object]:
            return lambda job: job.connection.rpush("called", f"{word} {job.id} {os.getpid()}")

        job = queue.enqueue(jobs.pid, job_id="x", on_success=Callback(jobs.on_success))
        work_with(Hooks(before_job=note("before"), after_job=note("after")))
        pid = job.return_value()
        called = [text.decode() for text in connection.lrange("called", 0, -1)]
        assert called == [f"before x {pid}", f"success {pid}", f"after x {pid}"]

    def test_an_error_before_a_job_fails_it_with_the_traceback(
        self, queue: Any, work_with: Work
    ) -> None:
        def refuse(job: Job) -> None:
            if job.id == "bad":
                raise ValueError("no tenant")

        bad, good = queue.enqueue(jobs.pid, job_id="bad"), queue.enqueue(jobs.add, 1, 2)
        work_with(Hooks(before_job=refuse))
        assert bad.get_status() == "failed"
        trace = bad.latest_result().exc_string
        assert "in refuse" in trace
        assert "ValueError: no tenant" in trace
        assert good.return_value() == 3

    @pytest.mark.parametrize("shared", ["1", "10"])
    def test_an_error_after_a_job_is_logged_and_harms_nothing(
        self, queue: Any, work_with: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        shared: str,
    ) -> None:  # fmt: skip
        log = tmp_path / "log"  # the line comes from the process of the job
        handler = logging.FileHandler(log)
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setenv("API_TOKEN", "hunter22")

        def refuse(job: Job) -> None:
            raise ValueError("cannot flush hunter22")

        good, bad = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.fail, "its own")
        work_with(Hooks(after_job=refuse), RQ_CLOCK_HORSE_JOBS=shared)
        assert (good.get_status(), good.return_value()) == ("finished", 3)
        handler.close()
        assert "ValueError: its own" in bad.latest_result().exc_string
        logged = [line.partition(" ")[0] for line in log.read_text().splitlines()]
        assert logged.count("job.late_error") == 2
        assert log.read_text().count("cannot flush ****") == 2
