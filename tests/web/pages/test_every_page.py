"""Laws of every page of schedules: scopes, escaping, zones, names, mounting."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.model.targets import command
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.web import create_app
from tests.web.client import ADMIN, OPERATOR, READER
from tests.web.pages.reading import DAILY, HTML, Site, key, main_of, ran, remember, text_of

pytestmark = pytest.mark.usefixtures("one", "several")


READS = ("/", "/schedules/one", "/new/preview")
OPERATES = (
    "/schedules/one/run", "/schedules/one/skip", "/schedules/one/pause", "/schedules/one/resume",
    "/schedules/one/backfill", "/pause", "/resume",
)  # fmt: skip
OWNS = ("/new", "/schedules/one/edit", "/schedules/one/delete")


def test_a_token_reaches_the_pages_of_its_scopes(site: Site) -> None:
    for token, allowed in (
        (READER, {*READS}),
        (OPERATOR, {*READS, *OPERATES}),
        (ADMIN, {*READS, *OPERATES, *OWNS}),
    ):
        browser = site(token)
        for path in (*READS, *OPERATES, *OWNS):
            expected = 200 if path in allowed else 403
            assert browser.get(path).status_code == expected, (token, path)


def test_a_token_without_read_sees_no_page(connection: Redis, settings: Settings) -> None:
    tokens = f"taz:tasks:{READER}"
    narrow = Settings.from_env({"REDIS_URL": settings.redis_url or "", "RQ_CLOCK_TOKENS": tokens})
    client = TestClient(create_app(narrow, redis=connection))
    client.headers["Sec-Fetch-Site"] = "same-origin"
    client.post("/login", data={"token": READER}, follow_redirects=False)
    for path in READS:
        page = client.get(path)
        assert "no clock leads" not in text_of(page, 403)


WRITES = (
    "/schedules/one/run", "/schedules/one/skip", "/schedules/one/pause", "/schedules/one/resume",
    "/schedules/one/backfill", "/schedules/one/backfills/one-1/cancel", "/schedules/one/delete",
    "/schedules/one/edit", "/new", "/bulk", "/bulk/pause", "/bulk/resume", "/bulk/run",
)  # fmt: skip


def test_a_form_needs_its_site_and_scope(schedules: Schedules, site: Site) -> None:
    before = len(schedules.audit())
    for path in WRITES:
        refused = site(READER).post(path, data={"names": "one", "count": "1"})
        assert refused.status_code == 403, path
        elsewhere = site(ADMIN).post(
            path, data={"names": "one"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert elsewhere.status_code == 403, path
    assert len(schedules.audit()) == before


def test_a_read_only_process_hides_and_refuses(schedules: Schedules, site: Site) -> None:
    browser, before = site(ADMIN, read_only=True), len(schedules.audit())
    for path in ("/", "/schedules/one"):
        page = browser.get(path)
        assert "--read-only" in text_of(page)
        assert "Pause" not in main_of(page)
        assert "Run" not in re.sub(r"\bRuns?\b", "", main_of(page))
        assert '<button name="verb"' not in page.text
    for path in WRITES:
        assert browser.post(path, data={"names": "one"}).status_code == 403, path
    assert len(schedules.audit()) == before


EVERY_PAGE = (
    *READS, *OPERATES, *OWNS, "/?state=late", "/?q=none", "/schedules/rests", "/schedules/newer",
    "/schedules/nobody", "/schedules/one/backfills/one-1/cancel", "/schedules/newer/edit",
)  # fmt: skip


@pytest.fixture
def hostile(connection: Redis, schedules: Schedules, now: datetime) -> None:
    """Markup wherever a text can come from."""
    schedules.pause("rests", reason=HTML)
    schedules.skip("one", 1, reason=HTML)
    schedules.trigger("one", reason=HTML)
    schedules.add("args", DAILY, "tasks.args", args=[HTML], kwargs={HTML: HTML}, tags=[HTML])
    schedules.add("shell", DAILY, command(f"echo '{HTML}'", env={"A": HTML}), queue=HTML)
    connection.hset(key("definitions"), "newer", json.dumps({"func": HTML, "cron": HTML}))
    connection.hset(key("lease"), mapping={"instance": HTML})
    remember(connection, "one", ran(now, "failed", error=HTML))
    Schedules(connection, by=HTML, settings=Settings.from_env({})).pause(ALL, reason=HTML)


def test_no_text_becomes_markup(hostile: None, browser: TestClient) -> None:
    more = ("/schedules/args", "/schedules/shell", "/schedules/args/edit", "/schedules/shell/edit",
            f"/?q={HTML}", f"/?tag={HTML}")  # fmt: skip
    for path in (*EVERY_PAGE, *more):
        html = browser.get(path).text
        assert HTML not in html, path
        assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", html) or "%3C" in html, (
            path
        )
        assert not re.search(r"<[^>]*\sstyle\s*=", html), path
        assert not re.search(r"<[^>]*\son\w+\s*=\s*[\"']", html), path
        assert "<style" not in html
        for script in re.findall(r"<script[^>]*>[^<]*", html):
            assert re.fullmatch(r'<script src="/static/\w+\.js" defer>', script), path
        assert "javascript:" not in html
    for path in ("/schedules/one/run", "/schedules/one/pause"):
        page = browser.post(path, data={"reason": HTML, "until": "date", "date": HTML})
        assert HTML not in page.text
    page = browser.post("/new", data={"name": HTML, "cron": HTML, "tz": HTML, "func": HTML})
    assert HTML not in page.text


def test_every_instant_has_a_zone(hostile: None, browser: TestClient) -> None:
    for path in (*EVERY_PAGE, "/schedules/fine", "/schedules/one"):
        html = browser.get(path).text
        for instant, hint, text in re.findall(
            r'<time datetime="([^"]+)" title="([^"]+)">([^<]+)</time>', html
        ):
            assert instant.endswith("Z")
            assert re.search(r" (UTC([+-]\d+)?|[A-Z]{2,5})$", text) or re.search(
                r" (UTC([+-]\d+)?|[A-Z]{2,5})$", hint
            ), (path, text)
        bare = re.sub(r"<(time|option|pre|li)\b[^>]*>.*?</\1>", "", html, flags=re.S)
        assert not re.search(
            r"\d\d:\d\d(:\d\d)?(?! ?(UTC|CES?T|every|on|:|\.|Z|\d))", text_of(bare)
        ), path


def test_every_id_is_unique_and_every_label_resolves(browser: TestClient) -> None:
    for path in EVERY_PAGE:
        html = browser.get(path).text
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids)), (path, [i for i in ids if ids.count(i) > 1])
        for refs in re.findall(r'\s(?:for|aria-labelledby|aria-describedby)="([^"]+)"', html):
            assert set(refs.split()) <= set(ids), (path, refs)
        assert html.count("<h1") == 1 or path == "/new/preview", path


def test_links_stay_below_the_mount(site: Site) -> None:
    browser = site(ADMIN, under="/clock")
    for path in EVERY_PAGE:
        html = browser.get(f"/clock{path}").text
        for link in re.findall(r'\s(?:href|src|action|formaction)="([^"]*)"', html):
            assert link.startswith(("/clock/", "#", "?")), (path, link)
    done = browser.post("/clock/schedules/one/run", data={})
    assert done.url.path == "/clock/schedules/one"
    assert "Enqueued" in main_of(done)
    assert browser.get("/clock/static/app.css").status_code == 200
