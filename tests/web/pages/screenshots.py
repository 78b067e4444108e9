"""`make screenshots`: docs/img/<page>-<light|dark>-<1280|390>.png, of a shop's schedules at an
instant that never changes, so that a picture changes when a page does.

The history is written straight into Redis, as the tables of keys in store.py and executions.py have
it; nothing runs. The client through which the pages read reports NOW as the time.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page
from redis import Redis
from rq.utils import utcformat

from rq_clock import Schedules, command, cron, every, once, webhook
from rq_clock.alerts.rules import Alert
from rq_clock.settings import Settings
from rq_clock.store import scripts
from rq_clock.timing.instants import to_ms
from rq_clock.version import __version__
from tasks.reports.scheduler import start_scheduler
from tasks.reports.web import reports
from tests.process import ROOT
from tests.server import Server, free_url
from tests.web.pages import browser as lab
from tests.web.pages.app_pictures import write_callbacks, write_reports

IMAGES = ROOT / "docs" / "img"
MAX_BYTES = 150_000
NOW = datetime(2026, 3, 27, 14, 7, 20, tzinfo=UTC)
"""Two days before the clocks of Berlin go forward."""
STILL = (
    "--disable-partial-raster",
    "--disable-skia-runtime-opts",
    "--num-raster-threads=1",
    "--run-all-compositor-stages-before-draw",
)
"""Switches without which the edge of a rounded corner depends on which thread was faster."""
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=n) for n in (1, 60, 3600, 86400))
PREFIX = "rq-clock:default:"
WORKERS = ("worker.1.2", "worker.2.2")
OUTPUT = """\
Filesystem      Size  Used Avail Use% Mounted on
/dev/vda1        49G   31G   16G  67% /
archiving /srv/uploads/2026-03-24 ... 1,204 files, 812 MB
archiving /srv/uploads/2026-03-25 ... 1,377 files, 903 MB
archiving /srv/uploads/2026-03-26 ...
"""
TRACE = """\
Traceback (most recent call last):
  File "/app/.venv/lib/python3.13/site-packages/rq/worker/base.py", line 1483, in perform_job
    return_value = job.perform()
  File "/app/tasks/orders.py", line 41, in sync
    for order in client.changed(since):
  File "/app/shop/client.py", line 77, in changed
    raise ConnectionError(f"{self.host} refused the connection")
ConnectionError: orders.example.com refused the connection
"""


@dataclass(frozen=True)
class Story:
    """A schedule and how it did: `took` is the usual length of a run; `bad` are the runs, counted
    from the newest, that failed; `error` is what with."""

    name: str
    trigger: Any
    target: Any
    took: float
    options: dict[str, Any]
    bad: tuple[int, ...] = ()
    error: str = "TimeoutError: no answer within 10 s"


STORIES = [
    Story("sync-orders", every(minutes=5), "tasks.orders.sync", 2.4,
          {"queue": "orders", "retries": 2, "tags": ["shop"]}, (0, 1, 2, 31),
          "ConnectionError: orders.example.com refused the connection"),
    Story("refresh-feeds", cron("*/10 * * * *"), "tasks.feeds.refresh", 4.2,
          {"tags": ["feeds"]}, (17,)),
    Story("nightly-report", cron("30 2 * * *", tz="Europe/Berlin"), "tasks.reports.nightly", 212,
          {"queue": "reports", "catch_up": "all", "tags": ["finance"]}, (9,), "MemoryError"),
    Story("archive-uploads", cron("5 * * * *"), command("bin/archive /srv/uploads"), 95, {}),
    Story("ping-partners", every(minutes=15), webhook("https://partners.example.com/hook"), 0.3,
          {"tags": ["shop", "partners"]}, (40, 41)),
    Story("send-digest", cron("0 7 * * 1-5", tz="America/New_York"), "tasks.mail.digest", 31,
          {"queue": "mail"}),
    Story("rebuild-search", cron("0 */4 * * *"), "tasks.search.rebuild", 540, {"queue": "reports"}),
    Story("close-books", cron("0 6 1 * *", tz="Europe/Berlin"), "tasks.books.close", 1260,
          {"queue": "reports", "catch_up": "all", "tags": ["finance"]}),
    Story("expire-carts", every(hours=1), "tasks.carts.expire", 0.9, {"tags": ["shop"]}),
]  # fmt: skip
LATE = "ping-partners"
"""The late schedule."""
RUN_TIME = ("expire-carts", "welcome-4711")
PAGES = {
    "schedules": "/",
    "schedule": "/schedules/nightly-report",
    "pause": "/schedules/refresh-feeds/pause",
    "new": "/new",
    "timeline": "/timeline",
    "runs": "/runs",
    "run": "/runs/default-sync-orders-{failed}",
    "output": "/runs/default-archive-uploads-{running}",
    "queues": "/queues",
    "failed-jobs": "/jobs",
    "clock": "/clock",
    "audit": "/audit",
    "no-clock": "/",
}
"""Name of a picture → the page that it is of."""


class Past:
    """Writes the history."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self.luck = random.Random(1)
        self.runs: list[tuple[int, dict[str, str]]] = []

    def key(self, name: str) -> str:
        return PREFIX + name

    def write(self) -> dict[str, int]:
        """Write everything; return the fire times (ms) in the paths of pages."""
        settings = Settings.from_env({"REDIS_URL": "redis://unused", "RQ_CLOCK_OWNER": "shop"})
        schedules = Schedules(self.redis, by="ana", settings=settings)
        for story in STORIES:
            schedules.add(story.name, story.trigger, story.target, **story.options)
            self.history(story)
        schedules.add("welcome-4711", once(NOW + 26 * HOUR), "tasks.mail.welcome", args=[4711])
        schedules.pause(
            "send-digest", reason="the mail provider is being replaced", until=NOW + 3 * DAY
        )
        self.redis.sadd(self.key("declared"), *({s.name for s in STORIES} - set(RUN_TIME)))
        for ended, entry in sorted(self.runs, key=lambda run: run[0])[-400:]:
            self.redis.xadd(self.key("runs"), entry, id=f"{ended}-*")
        self.late()
        self.clocks()
        self.audit()
        self.workers()
        return {"failed": self.failed_job(), "running": self.running_job()}

    def history(self, story: Story) -> None:
        """Write the last hundred fire times of a schedule, some of which failed."""
        t, times = NOW - 60 * DAY, []
        until = NOW - 20 * MINUTE if story.name == LATE else NOW
        while (t := story.trigger.next_after(t)) <= until:
            times.append(t)
        lines, newest = [], {"ok": "-", "failed": "-"}
        for i, fire in enumerate(times[-100:]):
            behind = min(len(times), 100) - 1 - i
            line = self.fate(story, fire, behind)
            lines.append(line)
            if len(words := line.split(" ", 7)) > 3 and words[3] in newest:
                newest[words[3]] = words[6]
                self.runs.append((int(words[6]), {
                    "schedule": story.name, "job": f"default-{story.name}-{to_ms(fire)}",
                    "entry": line, "again": "",
                }))  # fmt: skip
                ends = f"{newest['ok']} {newest['failed']} 1"
                outcome = f"{words[3]} {words[1]} {words[5]} {words[6]} {ends}"
                self.redis.hset(self.key("outcomes"), story.name, outcome)
        self.redis.rpush(self.key(f"ledger:{story.name}"), *lines)
        if 0 in story.bad:
            self.redis.zadd(self.key("failing"), {story.name: newest["failed"]})
        marker = f"{to_ms(times[-1])} {to_ms(NOW - 60 * DAY)}"
        self.redis.hset(self.key("markers"), story.name, marker)
        self.redis.zadd(self.key("due"), {story.name: to_ms(story.trigger.next_after(NOW))})

    def fate(self, story: Story, fire: datetime, behind: int) -> str:
        """Return a fire time's outcome as a line of the ledger."""
        ms, lag = to_ms(fire), self.luck.choice((0, 0, 1, 1, 2, 3))
        if story.name == "send-digest" and behind < 2:
            return f"- {ms} {ms} 1 paused"
        if story.name == "archive-uploads" and behind == 0:
            return f"s {ms} {lag}"
        if story.name == "rebuild-search" and behind in (5, 6):
            return f"- {ms} {ms} 1 overlap"
        if story.name == "nightly-report" and behind in (20, 21):  # the clock was away for two days
            lag = int((22 - behind) * 9 * HOUR / timedelta(milliseconds=1))
        mark = "c" if lag > 1000 else "s"
        failed = behind in story.bad
        started = ms + lag + self.luck.randrange(4, 60)
        took = int(story.took * 1000 * self.luck.uniform(0.7, 1.5) * (0.3 if failed else 1))
        worker = self.luck.choice(WORKERS)
        state, attempt = ("failed", story.options.get("retries", 0) + 1) if failed else ("ok", 1)
        line = f"{mark} {ms} {lag} {state} {attempt} {started} {started + took} {worker}"
        return f"{line} {story.error}" if failed else line

    def late(self) -> None:
        """Write a late schedule and the open alerts."""
        due = to_ms(NOW - 7 * MINUTE - 20 * SECOND)
        self.redis.zadd(self.key("due"), {LATE: due})
        alerts = (
            Alert(kind="failing", subject="sync-orders", since=NOW - 12 * MINUTE,
                  last=NOW - 2 * MINUTE, count=3, reported=NOW - 12 * MINUTE,
                  detail=STORIES[0].error),
            Alert(kind="late", subject=LATE, since=NOW - 6 * MINUTE, last=NOW,
                  reported=NOW - 6 * MINUTE),
        )  # fmt: skip
        for alert in alerts:
            self.redis.hset(self.key("alerts"), alert.field, alert.to_json())

    def clocks(self) -> None:
        names = ("clock.1.4.9c1e", "clock.1.4.b7a0", "clock.1.4.52df")
        hows = ("free", "deposed", "deposed")
        for i, (name, how) in enumerate(zip(names, hows, strict=True)):
            at = to_ms(NOW - (9, 2, 0.4)[i] * DAY)
            before = names[i - 1] if i else ""
            grant = {"instance": name, "owner": "shop", "token": i + 41, "how": how, "from": before}
            self.redis.xadd(self.key("handovers"), grant, id=f"{at}-0")
        lease = {
            "token": "43.x", "instance": names[-1], "owner": "shop", "tick": to_ms(NOW - SECOND),
            "since": to_ms(NOW - 0.4 * DAY), "enqueued": 4312, "lag_p50_ms": 1, "lag_p99_ms": 4,
            "lag_max_ms": 11, "version": __version__, "release": "118",
        }  # fmt: skip
        self.redis.hset(self.key("lease"), mapping=lease)
        self.redis.hset(self.key("meta"), "led", to_ms(NOW - SECOND))

    def audit(self) -> None:
        self.redis.delete(self.key("audit"))
        for ago, by, verb, names, reason, detail in (
            (60 * DAY, "release 97", "add", "sync-orders refresh-feeds nightly-report", "", {}),
            (20 * DAY, "ben@shop", "update", "archive-uploads", "the old path is gone", {}),
            (3 * DAY, "ana", "trigger", "close-books", "February again, with the refunds", {}),
            (2 * DAY, "grafana", "skip", "rebuild-search", "a migration runs", {"count": 1}),
            (29 * HOUR, "ana", "pause", "send-digest", "the mail provider is being replaced", {}),
            (11 * MINUTE, "ben@shop", "trigger", "sync-orders", "is their side back?", {}),
        ):  # fmt: skip
            entry = {
                "by": by, "verb": verb, "schedules": names, "count": len(names.split()),
                "reason": reason, "detail": json.dumps(detail),
            }  # fmt: skip
            self.redis.xadd(self.key("audit"), entry, id=f"{to_ms(NOW - ago)}-0")

    # ---- RQ's side ----------------------------------------------------------------------------

    def workers(self) -> None:
        for i, name in enumerate(WORKERS):
            self.redis.sadd("rq:workers", f"rq:worker:{name}")
            queues = ("default,mail", "orders,default,reports")[i]
            for queue in queues.split(","):
                self.redis.sadd(f"rq:workers:{queue}", f"rq:worker:{name}")
                self.redis.sadd("rq:queues", f"rq:queue:{queue}")
            fields = {
                "state": "idle", "queues": queues, "birth": utcformat(NOW - 9 * HOUR), "pid": "4",
                "last_heartbeat": utcformat(NOW - SECOND), "hostname": f"dyno-{i + 1}",
                "version": "2.12.0",
            }  # fmt: skip
            self.redis.hset(f"rq:worker:{name}", mapping=fields)
            self.redis.hset(self.key("workers"), name, str(to_ms(NOW - SECOND) * 1000))

    def job(self, name: str, fire: datetime, status: str, queue: str, **fields: str) -> str:
        id = f"default-{name}-{to_ms(fire)}"
        fields_of_job = {
            "status": status, "origin": queue, "meta": "rq_clock_fire_time",
            "created_at": utcformat(fire), "enqueued_at": utcformat(fire),
            "started_at": utcformat(fire + SECOND / 10), "timeout": "180",
            "rq_clock_attempt": "1", **fields,
        }  # fmt: skip
        self.redis.hset(f"rq:job:{id}", mapping=fields_of_job)
        return id

    def failed_job(self) -> int:
        """Write the newest three failures as jobs; return the fire time of the newest."""
        for i in (2, 1, 0):
            fire = NOW.replace(minute=5, second=0) - i * 5 * MINUTE
            ended = fire + 3 * SECOND
            id = self.job(
                "sync-orders", fire, "failed", "orders", ended_at=utcformat(ended),
                rq_clock_attempt="3", retries_left="0", worker_name=WORKERS[1],
                description="tasks.orders.sync()",
            )  # fmt: skip
            self.redis.zadd("rq:failed:orders", {id: int((NOW + 300 * DAY).timestamp()) - i})
            packed = b64encode(zlib.compress(TRACE.encode()))
            result = {"type": 2, "exc_string": packed, "worker_name": WORKERS[1]}
            self.redis.xadd(f"rq:results:{id}", result, id=f"{to_ms(ended)}-0")
        return to_ms(fire)

    def running_job(self) -> int:
        fire = NOW.replace(minute=5, second=0)
        id = self.job(
            "archive-uploads", fire, "started", "default", worker_name=WORKERS[0],
            description="rq_clock.runners.run_command('bin/archive /srv/uploads')", timeout="3600",
        )  # fmt: skip
        self.redis.zadd("rq:wip:default", {f"{id}:e1": (NOW + HOUR).timestamp()})
        self.redis.hset(f"rq:worker:{WORKERS[0]}", mapping={"state": "busy", "current_job": id})
        place = f"{to_ms(NOW - SECOND) * 1000} e1 {id} default"
        self.redis.hset(self.key("workers"), WORKERS[0], place)
        self.redis.set(self.key(f"output:{id}"), OUTPUT)
        return to_ms(fire)


# ---- the pictures -----------------------------------------------------------------------------


def at_now(url: str) -> Redis:
    """Return a client for which the server's clock stands still, in scripts too."""
    script, still = scripts._source, f"({{'{int(NOW.timestamp())}', '0'}})"
    scripts._source = cache(lambda name: script(name).replace("redis.call('TIME')", still))
    redis = Redis.from_url(url)
    redis.set_response_callback("TIME", lambda *_, **__: (int(NOW.timestamp()), 0))
    info = {
        "server_name": "valkey", "valkey_version": "8.1.1", "used_memory": 31 * 1024**2,
        "maxmemory": 50 * 1024**2, "uptime_in_seconds": 1_296_000, "maxmemory_policy": "noeviction",
        "aof_enabled": 1, "connected_clients": 7, "maxclients": 40, "connected_slaves": 0,
    }  # fmt: skip
    redis.set_response_callback("INFO", lambda *_, **__: info)
    return redis


def ready(page: Page, name: str) -> None:
    """Wait until a page is complete."""
    if name == "new":
        page.get_by_label("Name", exact=True).fill("early-mail")
        page.get_by_label("Zone", exact=True).fill("Europe/Berlin")
        page.get_by_label("Expression", exact=True).fill("30 2 * * *")
        page.get_by_label("Function", exact=True).fill("tasks.mail.early")
        page.get_by_text("02:30 does not exist that day").first.wait_for()
        page.locator("h1").click()
    page.locator("#live[data-state=live]").wait_for()


def take(browser: Browser, address: str, pages: dict[str, str]) -> None:
    for width, height in ((1280, 800), (390, 844)):
        for theme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=theme,
                reduced_motion="reduce",
            )
            page = context.new_page()
            lab.log_in(page, address)
            for name, path in pages.items():
                page.goto(address + path)
                ready(page, name)
                file = IMAGES / f"{name}-{theme}-{width}.png"
                page.screenshot(path=file, animations="disabled", caret="hide")
                size = file.stat().st_size
                assert size <= MAX_BYTES, f"{file.name} has {size:,} bytes"
            context.close()


def picture_the_app(path: Path) -> None:
    """Take the pages of callbacks and of reports, in a namespace of their own."""
    (path / "app").mkdir()
    with Server(path / "app", free_url(), appendonly="no") as server:
        redis = at_now(server.url)
        past = Past(redis)
        past.clocks()
        past.workers()
        settings = Settings.from_env({"REDIS_URL": server.url})
        task = write_callbacks(redis, settings, NOW)
        write_reports(path, server.url, NOW)
        start_scheduler()
        pages = {"callbacks": "/callbacks?state=retrying", "callback": f"/callbacks/{task}"}
        with lab.browser(*STILL) as browser:
            with lab.served(redis, server.url) as address:
                take(browser, address, pages)
            with lab.served(redis, server.url, reports) as address:
                take(browser, address, {"reports": "/reports/"})
        redis.close()


def main() -> int:
    if not lab.chromium():
        print(f"expected one of {', '.join(lab.CHROMIUMS)} on PATH: apt install chromium")
        return 1
    IMAGES.mkdir(exist_ok=True)
    with TemporaryDirectory() as path, Server(Path(path), free_url(), appendonly="no") as server:
        redis = at_now(server.url)
        ids = Past(redis).write()
        pages = {name: path.format(**ids) for name, path in PAGES.items()}
        without = {"no-clock": pages.pop("no-clock")}
        with lab.served(redis, server.url) as address, lab.browser(*STILL) as browser:
            take(browser, address, pages)
            redis.delete(PREFIX + "lease")
            redis.hset(PREFIX + "meta", "led", to_ms(NOW - 11 * MINUTE))
            take(browser, address, without)
        redis.close()
        picture_the_app(Path(path))
    print(f"{len(list(IMAGES.glob('*.png')))} pictures in {IMAGES.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
