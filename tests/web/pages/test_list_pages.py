"""The list of schedules, and what is done with many of them at once."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every
from rq_clock.web import create_app
from tests.helpers import round_trips
from tests.server import free_url
from tests.web.client import ADMIN, PAGE_TOKENS
from tests.web.pages.reading import DAILY, HOUR, key, main_of, text_of


def shown(browser: TestClient, query: str = "") -> list[str]:
    """Return the schedules of a list, in order."""
    page = browser.get(f"/{query}")
    assert page.status_code == 200, page.text
    return re.findall(r'<tr[^>]* id="row-([^"]+)"', page.text)


EVERYTHING = {"fine", "fresh", "fails", "waits", "rests", "works", "over", "newer"}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", EVERYTHING),
        ("?state=late", {"waits"}),
        ("?state=failing", {"fails"}),
        ("?state=running", {"works"}),
        ("?state=paused", {"rests"}),
        ("?state=ended", {"over"}),
        ("?state=invalid", {"newer"}),
        ("?q=FINE", {"fine"}),
        ("?q=tasks.re", {"rests"}),
        ("?queue=mail", {"fine"}),
        ("?tag=growth", {"fine"}),
        ("?origin=declared", {"fine", "works"}),
        ("?origin=declared&q=w", {"works"}),
        ("?q=no-such", set()),
    ],
)
def test_a_filter_shows_its_matches(
    several: None, browser: TestClient, query: str, names: set[str]
) -> None:
    assert set(shown(browser, query)) == names


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("fine", "✓ scheduled"),
        ("fresh", "✓ scheduled"),
        ("fails", "✕ failing"),
        ("waits", "! late"),
        ("rests", "‖ paused"),
        ("works", "▶ running"),
        ("over", "■ ended"),
        ("newer", "⊘ invalid"),
    ],
)
def test_a_state_is_a_sign_and_a_word(
    several: None, browser: TestClient, name: str, word: str
) -> None:
    row = browser.get("/").text.partition(f'id="row-{name}"')[2].partition("</tr>")[0]
    assert word in text_of(row)


def test_trouble_comes_first_and_other_orders_are_links(several: None, browser: TestClient) -> None:
    assert shown(browser)[:2] == ["waits", "fails"]
    assert shown(browser, "?sort=name") == sorted(EVERYTHING)
    page = browser.get("/?sort=name&queue=mail").text
    assert 'href="/?queue=mail&amp;sort=next"' in page
    assert 'aria-sort="ascending"' in page


def test_a_row_shows_trigger_runs_and_lateness(several: None, browser: TestClient) -> None:
    row = browser.get("/?q=fine").text.partition('id="row-fine"')[2].partition("</tr>")[0]
    words = text_of(row)
    assert "At 02:30 every day" in words
    assert "30 2 * * * Europe/Berlin" in words
    assert re.search(r"(29|30) min ago", words)
    assert "2 s · +40 ms" in words
    assert re.search(r"in \d+ (h|min|s).* \w{3} \d+ \w{3} 02:30 CES?T", words)
    assert 'aria-label="2 ok, 1 failed"' in row


def test_a_pause_is_shown_with_its_actor_and_reason(several: None, browser: TestClient) -> None:
    assert "by ana: “holiday”" in main_of(browser.get("/?state=paused"))


def test_a_page_links_to_the_next(schedules: Schedules, browser: TestClient) -> None:
    for n in range(60):
        schedules.add(f"s-{n:02}", every(hours=1), "tasks.some")
    first = browser.get("/?sort=name&size=25")
    assert "1–25 of 60" in text_of(first)
    [following] = re.findall(r'rel="next" href="([^"]+)"', first.text)
    second = browser.get(following.replace("&amp;", "&"))
    assert "26–50 of 60" in text_of(second)
    assert re.findall(r'id="row-([^"]+)"', second.text)[0] == "s-25"


def test_a_search_shows_how_many_it_examined(
    schedules: Schedules, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1200):
        name = f"s-{n:04}"
        schedules.add(name, every(hours=1), "tasks.some", tags=["rare"] if n % 400 == 0 else [])
    monkeypatch.setattr("rq_clock.schedules.listing.WHOLE", 1000)
    monkeypatch.setattr("rq_clock.schedules.listing.PORTION", 300)
    found, query, pages = set(), "?tag=rare", 0
    while query:
        page = browser.get(f"/{query}")
        assert re.search(r"searched \d+ schedules, found \d here", text_of(page))
        found |= set(re.findall(r'id="row-([^"]+)"', page.text))
        following = re.findall(r'rel="next" href="/([^"]+)">Search more', page.text)
        query, pages = following[0].replace("&amp;", "&") if following else "", pages + 1
    assert found == {"s-0000", "s-0400", "s-0800"}
    assert pages > 1
    chosen = browser.post("/bulk", data={"verb": "pause", "all": "1", "tag": "rare"})
    assert "Pause 3 schedules" in main_of(chosen)
    monkeypatch.setattr("rq_clock.schedules.listing.PORTIONS", 1)
    refused = browser.post("/bulk", data={"verb": "pause", "all": "1", "tag": "rare"})
    assert "too many schedules to search" in text_of(refused, 422)


def test_an_empty_list_shows_how_to_add_a_schedule(connection: Redis, browser: TestClient) -> None:
    page = main_of(browser.get("/"))
    assert "clock.add(" in page
    assert "rq-clock add" in page
    assert "clock: python clock.py" in page


def test_a_list_costs_few_round_trips(schedules: Schedules, browser: TestClient) -> None:
    for n in range(30):
        schedules.add(f"s-{n:02}", every(hours=1), "tasks.some")
    browser.get("/")
    with round_trips() as few:
        browser.get("/?size=25")
    with round_trips() as one:
        browser.get("/schedules/s-01")
    assert len(few) <= 3
    assert len(one) <= 3


def test_nonsense_in_the_url_is_refused_with_a_reason(browser: TestClient) -> None:
    for query in ("state=odd", "sort=odd", "size=7", "cursor=odd", "at=-1", "at=x"):
        page = browser.get(f"/?{query}")
        assert page.status_code == 422, query
        assert "expected" in text_of(page) or "greater" in text_of(page) or "at:" in text_of(page)


# ---- the frame --------------------------------------------------------------------------------


def test_without_a_clock_every_page_shows_since_when(
    connection: Redis, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    schedules.add("one", DAILY, "tasks.one")
    connection.hset(key("meta"), "led", to_ms(now - timedelta(minutes=37)))
    connection.zadd(key("due"), {"one": to_ms(now - HOUR)})
    for path in ("/", "/schedules/one", "/new", "/schedules/one/pause", "/schedules/none"):
        page = text_of(browser.get(path))
        day = r"\w+ \d+ \w+(?: \d{4})?"  # the year of another year
        since = rf"No clock has been running since {day} \d\d:\d\d:?\d* UTC \(37 min\)"
        assert re.search(since, page)
        assert "1 schedule is late." in page
        assert "heroku ps:scale clock=1" in page
        assert "python clock.py" in page


def test_a_clock_that_leads_is_named(connection: Redis, browser: TestClient, now: datetime) -> None:
    connection.hset(key("lease"), mapping={"instance": "clock.1", "lag_p50_ms": "12"})
    connection.hset(key("meta"), "led", to_ms(now))
    page = text_of(browser.get("/"))
    assert "clock.1 leads" in page
    assert "lag 12 ms" in page
    assert "No clock" not in page


def test_a_pause_of_all_stands_on_every_page(schedules: Schedules, browser: TestClient) -> None:
    schedules.add("one", DAILY, "tasks.one")
    schedules.pause(ALL, reason="moving house")
    for path in ("/", "/schedules/one"):
        page = text_of(browser.get(path))
        assert "All schedules are paused by ana" in page
        assert "“moving house”" in page


def test_the_theme_is_chosen_without_a_script(browser: TestClient) -> None:
    assert "data-theme" not in browser.get("/").text
    page = browser.post("/theme", data={"theme": "dark", "next": "/?q=x"})
    assert page.url.path == "/"
    assert 'data-theme="dark"' in page.text
    assert "data-theme" not in browser.post("/theme", data={"theme": "", "next": "/"}).text


def test_a_form_redirects_to_no_other_site(browser: TestClient) -> None:
    for elsewhere in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        answer = browser.post("/theme", data={"next": elsewhere}, follow_redirects=False)
        assert answer.headers["location"] == "/"


def test_without_redis_a_page_reports_it(settings: Settings) -> None:
    away = Settings.from_env({"REDIS_URL": free_url(), "RQ_CLOCK_TOKENS": PAGE_TOKENS})
    client = TestClient(create_app(away), headers={"Authorization": f"Bearer {ADMIN}"})
    for path in ("/", "/schedules/one", "/new", "/schedules/one/run"):
        page = client.get(path)
        assert "Redis" in text_of(page, 503)


# ---- many at once -----------------------------------------------------------------------------


def test_selected_schedules_are_paused(
    several: None, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    chosen = {"verb": "pause", "name": ["fine", "fresh"], "back": "/?q=f"}
    confirmation = browser.post("/bulk", data=chosen)
    assert "Pause 2 schedules" in main_of(confirmation)
    assert 'name="names" value="fine fresh"' in confirmation.text
    form = {"names": "fine fresh", "reason": "ship", "until": "hour", "back": "/?q=f"}
    done = browser.post("/bulk/pause", data=form)
    assert str(done.url).endswith("/?q=f")
    assert "Paused 2 schedules." in main_of(done)
    paused = {entry.name for entry in schedules if entry.pause(now + HOUR / 2)}
    assert paused == {"fine", "fresh", "rests"}
    assert "Resumed 2 schedules." in main_of(
        browser.post("/bulk/resume", data={"names": "fine fresh"})
    )


def test_all_matches_include_other_pages(
    schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    for n in range(60):
        schedules.add(f"s-{n:02}", every(hours=1), "tasks.some", queue="even" if n % 2 else "odd")
    page = browser.get("/?queue=even&size=25").text
    assert "All 30 matching schedules" in text_of(page)
    confirmation = browser.post("/bulk", data={"verb": "pause", "all": "1", "queue": "even"})
    assert "Pause 30 schedules" in main_of(confirmation)
    [names] = re.findall(r'name="names" value="([^"]+)"', confirmation.text)
    browser.post("/bulk/pause", data={"names": names})
    assert sum(bool(entry.pause(now + HOUR)) for entry in schedules) == 30


def test_one_that_cannot_run_blocks_no_other(
    several: None, connection: Redis, schedules: Schedules, browser: TestClient
) -> None:
    schedules.trigger("fresh")
    done = browser.post("/bulk/run", data={"names": "fresh newer fails"})
    words = main_of(done)
    assert "Enqueued a run of 1 schedule." in words
    assert "2 schedules did not run:" in words
    assert "newer: it cannot run" in words
    assert connection.llen("rq:queue:default") == 2


def test_nothing_chosen_and_too_much_are_refused(
    several: None, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert browser.post("/bulk", data={"verb": "pause"}).status_code == 422
    assert browser.post("/bulk", data={"verb": "odd", "name": "fine"}).status_code == 422
    assert browser.post("/bulk/odd", data={"names": "fine"}).status_code == 422
    monkeypatch.setattr("rq_clock.web.pages.schedule_list.BATCH_LIMIT", 3)
    page = browser.post("/bulk", data={"verb": "pause", "all": "1"})
    assert "at most 3 schedules" in text_of(page, 422)
    page = browser.post("/bulk/pause", data={"names": "fine nobody", "reason": "why"})
    assert "there is no such schedule" in text_of(page, 409)
    assert 'value="why"' in page.text


def test_all_schedules_can_be_paused(one: None, connection: Redis, browser: TestClient) -> None:
    assert "Pause all schedules" in main_of(browser.get("/pause"))
    browser.post("/bulk/pause", data={"names": "*", "reason": "house"})
    assert "All schedules are paused by ana" in text_of(browser.get("/"))
    browser.post("/bulk/resume", data={"names": "*"})
    assert "All schedules are paused" not in text_of(browser.get("/"))
