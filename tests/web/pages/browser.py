"""A whole rq-clock, each part a process of its own, and a real Chromium to look at it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from redis import Redis

from rq_clock.settings import Settings
from rq_clock.web import Section, create_app
from tests.clock.storm import ClockProcess
from tests.helpers import wait_until
from tests.process import Process
from tests.server import Server, free_url
from tests.web.test_server import TOKEN, WebProcess

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = [
    "--no-sandbox",  # in a container there is often no room for one
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--font-render-hinting=none",
]
WORKER = "from rq_clock import run_worker\nrun_worker()\n"


def chromium() -> str | None:
    """The system's Chromium; Playwright's own cannot be had everywhere."""
    return next((path for name in CHROMIUMS if (path := shutil.which(name))), None)


@contextmanager
def browser(*switches: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        args = [*SWITCHES, *switches]
        found = playwright.chromium.launch(executable_path=chromium(), args=args)
        yield found
        found.close()


class WorkerProcess(Process):
    """A worker in a process of its own, whose jobs are in `modules`."""

    def __init__(self, path: Path, url: str, **env: str) -> None:
        (path / "work.py").write_text(WORKER)
        super().__init__(path / "worker.log", str(path / "work.py"), env={"REDIS_URL": url, **env})


@dataclass
class Place:
    """A namespace with everything that runs: use it as a context manager."""

    path: Path
    schedules: str
    """What the app writes between `clock = Clock()` and `clock.run()`."""
    tasks: str = ""
    """The module `demo`."""
    queues: str = "default"
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.server = Server(self.path / "server", free_url(), appendonly="no")
        self.stack.enter_context(self.server)
        self.redis = self.stack.enter_context(Redis.from_url(self.server.url))
        (self.path / "worker").mkdir()
        (self.path / "worker" / "demo.py").write_text(self.tasks)
        self.clock = self.start_clock("ana")
        self.worker = WorkerProcess(
            self.path / "worker", self.server.url, WORKER_QUEUES=self.queues
        )
        self.stack.enter_context(self.worker)
        self.port = free_url().rpartition(":")[2].partition("/")[0]
        self.web = self.start_web()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def start_clock(self, name: str) -> ClockProcess:
        """Another clock; the newest one leads."""
        clock = ClockProcess(self.path / name, self.server.url, self.schedules, DYNO=name)
        return self.stack.enter_context(clock)

    def start_web(self) -> WebProcess:
        """The web process, always on the same port."""
        web = WebProcess(self.path, self.server.url, "--port", self.port)
        self.stack.enter_context(web)
        assert web.place, web.text()
        return web

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(redis: Redis, url: str, *sections: Section) -> Iterator[str]:
    """Serve the app on this client; yield its address."""
    settings = Settings.from_env({"REDIS_URL": url, "RQ_CLOCK_TOKENS": f"ana:admin:{TOKEN}"})
    app = create_app(settings, redis=redis, extra=sections)
    port = int(free_url().rpartition(":")[2].partition("/")[0])
    config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the web process")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def log_in(page: Page, url: str) -> None:
    """As a person does."""
    page.goto(url)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()


def seen(page: Page, text: str, what: str = "") -> None:
    """Fails unless the text comes to be seen on the page, which nobody reloads."""
    wait_until(lambda: text in page.locator("body").inner_text(), what or f"{text!r} on the page")


__all__ = ["Browser", "BrowserContext", "Page", "Place", "browser", "chromium", "log_in", "seen"]
