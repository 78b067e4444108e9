"""What the tests of pages share: state written into Redis, and the text of a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from html import unescape
from typing import Protocol

from redis import Redis
from starlette.testclient import TestClient

from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron

HTML = "<script>alert(1)</script>"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DAILY = cron("30 2 * * *", tz="Europe/Berlin")
Site = Callable[..., TestClient]
Work = Callable[..., None]


class Page(Protocol):
    """A response, of whichever client."""

    @property
    def status_code(self) -> int: ...

    @property
    def text(self) -> str: ...


def key(name: str) -> str:
    return f"rq-clock:default:{name}"


def remember(connection: Redis, name: str, *lines: str) -> None:
    """Append entries to a schedule's ledger, oldest first."""
    connection.rpush(key(f"ledger:{name}"), *lines)


def ran(t: datetime, state: str = "ok", *, mark: str = "s", error: str = "") -> str:
    """A ledger's line: enqueued 40 ms late, waited 60 ms, took 2 s."""
    ms = to_ms(t)
    return f"{mark} {ms} 40 {state} 1 {ms + 100} {ms + 2100} worker.1 {error}".rstrip()


def text_of(page: Page | str, status: int | None = None) -> str:
    """Return the text of a page, which has this status."""
    if not isinstance(page, str):
        assert status in (None, page.status_code), page.text[:2000]
        page = page.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def main_of(page: Page, status: int | None = None) -> str:
    """Return the text of the part of a page that is its own."""
    assert status in (None, page.status_code), page.text[:2000]
    return text_of(page.text.partition("<main")[2].partition("</main>")[0])
