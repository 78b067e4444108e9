"""The pages of schedules, as a browser without a script meets them: the app on a real Redis.

Laws: pages show the state in Redis, each instant with its zone. A refusal is shown above its form,
which keeps its values. No text becomes markup, and every page works within the content security
policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.model.targets import command, webhook
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every, once
from rq_clock.web import create_app
from tests.helpers import round_trips
from tests.server import free_url
from tests.web.client import ADMIN, OPERATOR, PAGE_TOKENS, READER

HTML = "<script>alert(1)</script>"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DAILY = cron("30 2 * * *", tz="Europe/Berlin")


@pytest.fixture
def now(connection: Redis) -> datetime:
    seconds, _ = connection.time()
    return datetime.fromtimestamp(int(seconds), UTC)


def key(name: str) -> str:
    return f"rq-clock:default:{name}"


def remember(connection: Redis, name: str, *lines: str) -> None:
    """What became of a schedule's fire times, oldest first."""
    connection.rpush(key(f"ledger:{name}"), *lines)


def ran(t: datetime, state: str = "ok", *, mark: str = "s", error: str = "") -> str:
    """A ledger's line: enqueued 40 ms late, waited 60 ms, took 2 s."""
    ms = to_ms(t)
    return f"{mark} {ms} 40 {state} 1 {ms + 100} {ms + 2100} worker.1 {error}".rstrip()


def shown(browser: TestClient, query: str = "") -> list[str]:
    """The schedules of a list, in their order."""
    page = browser.get(f"/{query}")
    assert page.status_code == 200, page.text
    return re.findall(r'<tr[^>]* id="row-([^"]+)"', page.text)


class Page(Protocol):
    """An answer, of whichever client."""

    @property
    def text(self) -> str: ...


def text_of(page: Page | str) -> str:
    """What a reader of a page reads."""
    html = page if isinstance(page, str) else page.text
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def main_of(page: Page) -> str:
    """The part of a page that is its own."""
    return text_of(page.text.partition("<main")[2].partition("</main>")[0])


# ---- the list ---------------------------------------------------------------------------------


@pytest.fixture
def several(connection: Redis, schedules: Schedules, now: datetime) -> None:
    """A schedule in each state."""
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("fine", "tasks.fine", {"queue": "mail", "tags": ["growth"]}),
        ("fresh", "tasks.fresh", {}),
        ("fails", "tasks.fails", {}),
        ("waits", "tasks.waits", {}),
        ("rests", "tasks.rests", {}),
        ("works", "tasks.works", {}),
    ]
    for name, target, options in rows:
        schedules.add(name, DAILY, target, **options)
    schedules.add("over", once(now + DAY), "tasks.over")
    connection.zrem(key("due"), "over")
    connection.zadd(key("due"), {"waits": to_ms(now - HOUR)})
    connection.zadd(key("failing"), {"fails": to_ms(now - HOUR)})
    connection.hset(key("definitions"), "newer", '{"cron":"0 0 * * *","func":"a.b","shards":7}')
    connection.hset(key("markers"), "newer", f"- {to_ms(now)}")
    connection.hset(
        key("workers"), "w1", f"{to_ms(now) * 1000} e1 default-works-{to_ms(now)} default"
    )
    connection.sadd(key("declared"), "fine", "works")
    remember(connection, "fine", ran(now - DAY), ran(now - HOUR, "failed"), ran(now - HOUR / 2))
    schedules.pause("rests", reason="holiday")


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
def test_a_filter_in_the_url_shows_the_matching_schedules(
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


def test_pages_link_to_the_next_and_show_their_place(
    schedules: Schedules, browser: TestClient
) -> None:
    for n in range(60):
        schedules.add(f"s-{n:02}", every(hours=1), "tasks.some")
    first = browser.get("/?sort=name&size=25")
    assert "1–25 of 60" in text_of(first)
    [following] = re.findall(r'rel="next" href="([^"]+)"', first.text)
    second = browser.get(following.replace("&amp;", "&"))
    assert "26–50 of 60" in text_of(second)
    assert re.findall(r'id="row-([^"]+)"', second.text)[0] == "s-25"


def test_a_page_of_very_many_schedules_shows_how_many_were_searched(
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
    assert refused.status_code == 422
    assert "too many schedules to search" in text_of(refused)


def test_an_empty_list_shows_how_to_add_a_schedule(connection: Redis, browser: TestClient) -> None:
    page = main_of(browser.get("/"))
    assert "clock.add(" in page
    assert "rq-clock add" in page
    assert "clock: python clock.py" in page


def test_a_list_takes_few_round_trips_however_long_it_is(
    schedules: Schedules, browser: TestClient
) -> None:
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
        assert re.search(
            r"No clock has been running since \w+ \d+ \w+ \d\d:\d\d:?\d* UTC \(37 min\)", page
        )
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
        assert page.status_code == 503
        assert "Redis" in text_of(page)


# ---- one schedule -----------------------------------------------------------------------------


def test_a_schedule_shows_its_past_and_next_fire_times(
    connection: Redis, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    schedules.add("one", DAILY, "tasks.one", queue="mail")
    job = schedules.trigger("one", reason="to see")
    t = now.replace(microsecond=0)
    remember(
        connection, "one",
        f"- {to_ms(t - 9 * DAY)} {to_ms(t - 5 * DAY)} 5 overlap",
        f"- {to_ms(t - 4 * DAY)} {to_ms(t - 4 * DAY)} 1 window",
        ran(t - 3 * DAY, mark="c"),
        ran(t - 2 * DAY, "failed", error="ValueError: no such account"),
        f"x {to_ms(t - DAY)} default-one-7",
    )  # fmt: skip
    page = browser.get("/schedules/one")
    words = main_of(page)
    assert "At 02:30 every day, Europe/Berlin time." in words
    assert "Next 10 fire times" in words
    assert len(re.findall(r"02:30 CES?T", words)) >= 10
    assert len(re.findall(r"0[01]:30 UTC", words)) >= 10
    assert "overlap — — — ‖ skipped 5 times" in words
    assert "missed" in words
    assert "catch-up +40 ms 60 ms 2 s ✓ ok" in words
    assert "✕ failed ValueError: no such account" in words
    assert "the job vanished" in words
    assert "manual · ana" in words
    assert "50 % of 2" in words
    assert "1 ok, 1 failed, 1 lost, 1 missed, 5 skipped, 1 waiting" in words
    assert f'href="/runs/{job}"' in page.text
    assert f'href="/runs/default-one-{to_ms(t - 2 * DAY)}"' in page.text
    assert "trigger" in words
    assert "to see" in words


def test_an_unknown_schedule_is_not_found(browser: TestClient) -> None:
    page = browser.get("/schedules/nobody")
    assert page.status_code == 404
    assert "nobody" in text_of(page)


def test_its_definition_can_be_copied_as_a_command_and_a_request(
    schedules: Schedules, browser: TestClient
) -> None:
    target = command("df -h /", env={"LEVEL": "1"})
    schedules.add("disk", every(minutes=90), target, retries=[10, 60], jitter=300, catch_up="all")
    page = main_of(browser.get("/schedules/disk"))
    assert (
        "rq-clock add disk --every 90m --command &#39;df -h /&#39; --env LEVEL=1 --retries 10s,60s "
        "--catch-up all --jitter 5m" in page
    )
    assert "curl -X PUT" in page


def test_secrets_show_nowhere(schedules: Schedules, browser: TestClient) -> None:
    secret = "hunter22-hunter22-hunter22"
    hook = webhook(f"https://example.com/{secret}", headers={"X-Api-Key": secret})
    schedules.add("a", DAILY, "tasks.a", kwargs={"password": secret, "deep": {"token": secret}})
    schedules.add("b", DAILY, command(f"curl --password {secret} x", env={"API_KEY": secret}))
    schedules.add("c", DAILY, hook, ping=f"https://example.com/{secret}")
    for path in ("", "/edit", "/run", "/delete"):
        for name in "abc":
            assert secret not in browser.get(f"/schedules/{name}{path}").text
    assert secret not in browser.get("/").text


# ---- what can be done -------------------------------------------------------------------------


@pytest.fixture
def one(schedules: Schedules) -> str:
    schedules.add("one", DAILY, "tasks.one", queue="mail")
    return "one"


def test_a_run_by_hand_enqueues_one_job_in_the_name_of_the_token(
    one: str, connection: Redis, schedules: Schedules, browser: TestClient
) -> None:
    confirmation = browser.get("/schedules/one/run")
    assert "mail" in main_of(confirmation)
    done = browser.post("/schedules/one/run", data={"reason": "to see"})
    assert done.url.path == "/schedules/one"
    assert "Enqueued default-one-" in main_of(done)
    assert connection.llen("rq:queue:mail") == 1
    audited = schedules.audit()[0]
    assert (audited.by, audited.verb, audited.reason) == ("ana", "trigger", "to see")


def test_a_message_is_shown_once(one: str, browser: TestClient) -> None:
    browser.post("/schedules/one/run", data={}, follow_redirects=False)
    assert "Enqueued" in main_of(browser.get("/schedules/one"))
    assert "Enqueued" not in main_of(browser.get("/schedules/one"))


def test_a_second_run_is_refused_kindly_and_can_be_forced(
    one: str, connection: Redis, browser: TestClient
) -> None:
    browser.post("/schedules/one/run", data={})
    refused = browser.post("/schedules/one/run", data={"reason": "again"})
    assert refused.status_code == 409
    assert "expected no run in progress" in main_of(refused)
    assert 'value="again"' in refused.text
    browser.post("/schedules/one/run", data={"force": "1"})
    assert connection.llen("rq:queue:mail") == 2


def test_the_next_ones_are_skipped_and_that_is_undone(
    one: str, schedules: Schedules, browser: TestClient
) -> None:
    assert re.search(
        r"2: up to \w+ \d+ \w+ \d+ 02:30 CES?T", main_of(browser.get("/schedules/one/skip"))
    )
    done = browser.post("/schedules/one/skip", data={"count": "2", "reason": "audit"})
    assert re.search(r"Skips the next 2, up to .* 02:30 CES?T", main_of(done))
    assert main_of(done).count("will be skipped") == 2
    entry = schedules.get("one")
    assert entry is not None
    assert entry.skipping is not None
    assert (entry.skipping.count, entry.skipping.by) == (2, "ana")
    undone = browser.post("/schedules/one/skip", data={"count": "0"})
    assert "No fire time is skipped any more." in main_of(undone)
    for wrong in ("", "x", "-1", "1000"):
        assert browser.post("/schedules/one/skip", data={"count": wrong}).status_code == 409


def test_a_pause_has_a_reason_and_an_end_on_the_schedules_clock(
    one: str, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    day = (now + 3 * DAY).date().isoformat()
    done = browser.post(
        "/schedules/one/pause",
        data={"reason": HTML, "until": "date", "date": f"{day}T09:00", "missed": "latest"},
    )
    assert HTML not in done.text
    assert "&lt;script&gt;" in done.text
    entry = schedules.get("one")
    assert entry is not None
    [pause] = entry.pauses
    assert (pause.reason, pause.by, pause.missed) == (HTML, "ana", "latest")
    assert pause.until is not None
    assert pause.until.isoformat()[:13] in (f"{day}T07", f"{day}T08")
    resumed = browser.post("/schedules/one/resume", data={"missed": "skip"})
    assert "Resumed." in main_of(resumed)
    entry = schedules.get("one")
    assert entry is not None
    assert entry.pause(now + HOUR) is None


@pytest.mark.parametrize(
    "form", [{"until": "date", "date": ""}, {"until": "date", "date": "2020-01-01T00:00"},
             {"missed": "odd"}, {"until": "date", "date": "9999-12-31T23:59"}],
)  # fmt: skip
def test_an_impossible_pause_is_refused_and_the_form_keeps_its_values(
    one: str, schedules: Schedules, browser: TestClient, form: dict[str, str]
) -> None:
    page = browser.post("/schedules/one/pause", data={"reason": "why", **form})
    if page.status_code == 200:  # far away, but an instant
        return
    assert page.status_code == 409
    assert 'value="why"' in page.text
    assert "expected" in main_of(page)
    entry = schedules.get("one")
    assert entry is not None
    assert not entry.pauses


def test_a_backfill_is_previewed_before_it_starts(
    one: str, connection: Redis, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    connection.hset(key("markers"), "one", f"{to_ms(now)} {to_ms(now - 30 * DAY)}")
    start, end = ((now - days).date().isoformat() for days in (4 * DAY, 2 * DAY))
    span = {"from": f"{start}T00:00", "to": f"{end}T23:00", "at_once": "2", "reason": "lost"}
    preview = browser.post("/schedules/one/backfill", data=span)
    assert preview.status_code == 200
    assert "Runs 3 , oldest first, at most 2 at a time" in main_of(preview)
    assert len(re.findall(r"02:30 CES?T", main_of(preview))) >= 4
    assert "No clock leads. The backfill begins when one does." in main_of(preview)
    assert schedules.backfills() == []
    done = browser.post("/schedules/one/backfill", data={**span, "sure": "1"})
    assert "Started a backfill of 3 runs." in main_of(done)
    [backfill] = schedules.backfills()
    assert (backfill.total, backfill.at_once, backfill.by) == (3, 2, "ana")
    assert f'href="/schedules/one/backfills/{backfill.id}/cancel"' in done.text
    canceled = browser.post(f"/schedules/one/backfills/{backfill.id}/cancel", data={})
    assert "Canceled the backfill." in main_of(canceled)
    assert schedules.backfills()[0].state == "canceled"
    again = browser.post(f"/schedules/one/backfills/{backfill.id}/cancel", data={})
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"from": ""}, "expected from as"),
        ({"to": "yesterday"}, "expected to as"),
        ({"to": "2001-01-01T00:00"}, "after its start"),
        ({"from": "2999-01-01T00:00", "to": "2999-01-02T00:00"}, "of the past"),
        ({"at_once": "0"}, "at once: expected"),
        ({"at_once": "many"}, "at once: expected"),
    ],
)
def test_an_impossible_span_is_refused(
    one: str, browser: TestClient, wrong: dict[str, str], word: str
) -> None:
    form = {"from": "2020-01-01T00:00", "to": "2020-01-02T00:00", "sure": "1", **wrong}
    page = browser.post("/schedules/one/backfill", data=form)
    assert page.status_code == 409
    assert word in main_of(page)


def test_a_schedule_is_deleted_only_as_it_was_seen(
    one: str, schedules: Schedules, browser: TestClient
) -> None:
    page = browser.get("/schedules/one/delete").text
    [revision] = re.findall(r'name="revision" value="(\d+)"', page)
    schedules.update("one", queue="other")
    assert browser.post("/schedules/one/delete", data={"revision": revision}).status_code == 409
    page = browser.get("/schedules/one/delete").text
    [revision] = re.findall(r'name="revision" value="(\d+)"', page)
    done = browser.post("/schedules/one/delete", data={"revision": revision})
    assert done.url.path == "/"
    assert "Deleted one." in main_of(done)
    assert schedules.get("one") is None


def test_a_declared_schedule_is_not_edited_here(
    one: str, connection: Redis, schedules: Schedules, browser: TestClient
) -> None:
    connection.sadd(key("declared"), "one")
    assert "/edit" not in browser.get("/schedules/one").text
    assert browser.get("/schedules/one/edit").status_code == 409
    assert browser.post("/schedules/one/delete", data={}).status_code == 409
    form = {"do": "save", "cron": "0 1 * * *", "func": "tasks.one"}
    page = browser.post("/schedules/one/edit", data=form)
    assert "declared in code" in main_of(page)
    assert schedules.get("one") is not None


# ---- many at once -----------------------------------------------------------------------------


def test_those_that_are_chosen_are_paused_all_of_them(
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


def test_all_that_match_are_meant_also_those_of_other_pages(
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


def test_one_that_cannot_run_keeps_no_other_from_running(
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
    assert page.status_code == 422
    assert "at most 3 schedules" in text_of(page)
    page = browser.post("/bulk/pause", data={"names": "fine nobody", "reason": "why"})
    assert page.status_code == 409
    assert "there is no such schedule" in text_of(page)
    assert 'value="why"' in page.text


def test_all_are_paused_and_resumed_at_once(
    one: str, connection: Redis, browser: TestClient
) -> None:
    assert "Pause all schedules" in main_of(browser.get("/pause"))
    browser.post("/bulk/pause", data={"names": "*", "reason": "house"})
    assert "All schedules are paused by ana" in text_of(browser.get("/"))
    browser.post("/bulk/resume", data={"names": "*"})
    assert "All schedules are paused" not in text_of(browser.get("/"))


# ---- adding and editing -----------------------------------------------------------------------


def test_a_schedule_is_added_as_it_was_entered(schedules: Schedules, browser: TestClient) -> None:
    form = {
        "name": "nightly", "what": "func", "func": "tasks.reports.nightly", "args": "[42]",
        "kwargs": '{"full": true}', "when": "cron", "cron": "30 2 * * *", "tz": "Europe/Berlin",
        "queue": "reports", "timeout": "10m", "retries": "10s,1m", "catch_up": "latest",
        "catch_up_window": "2h", "jitter": "5m", "tags": "mail, growth",
    }  # fmt: skip
    previewed = browser.post("/new", data={**form, "do": "preview"})
    assert previewed.status_code == 200
    words = main_of(previewed)
    assert "At 02:30 every day, Europe/Berlin time." in words
    assert "Clock changes within a year" in words
    assert "does not exist that day" in words
    assert "rq-clock add nightly" in words
    assert schedules.get("nightly") is None
    done = browser.post("/new", data={**form, "do": "save"})
    assert done.url.path == "/schedules/nightly"
    assert "Added nightly." in main_of(done)
    entry = schedules.get("nightly")
    assert entry is not None
    assert entry.schedule is not None
    assert json.loads(entry.schedule.definition()) == {
        "cron": "30 2 * * *", "tz": "Europe/Berlin", "func": "tasks.reports.nightly",
        "args": [42], "kwargs": {"full": True}, "queue": "reports", "timeout": 600,
        "retries": [10, 60], "catchUpWindow": 7200.0, "jitter": 300.0, "tags": ["mail", "growth"],
    }  # fmt: skip
    assert not entry.declared


def test_commands_and_web_calls_are_added_too(schedules: Schedules, browser: TestClient) -> None:
    browser.post(
        "/new",
        data={"do": "save", "name": "disk", "what": "command", "command": "df -h /",
              "env": "LEVEL=1\nNAME = x", "cwd": "sub", "when": "every", "every": "1h30m"},
    )  # fmt: skip
    browser.post(
        "/new",
        data={"do": "save", "name": "hook", "what": "url", "url": "https://example.com/x",
              "method": "PUT", "headers": "X-One: 1", "body": '{"a": 1}', "timeout": "30",
              "when": "once", "at": "2999-01-01T09:00", "tz": "Asia/Tokyo"},
    )  # fmt: skip
    disk, hook = schedules.get("disk"), schedules.get("hook")
    assert disk is not None
    assert disk.schedule is not None
    assert disk.schedule.target == command("df -h /", env={"LEVEL": "1", "NAME": "x"}, cwd="sub")
    assert disk.schedule.trigger == every(minutes=90)
    assert hook is not None
    assert hook.schedule is not None
    assert hook.schedule.target == webhook(
        "https://example.com/x", method="PUT", headers={"X-One": "1"}, json={"a": 1}, timeout=30
    )
    assert hook.schedule.trigger == once(datetime(2999, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        ({"func": "mail headers"}, {"func"}),
        ({"func": "tasks.command line"}, {"func"}),
        ({"what": "url", "url": "https://u:p@json.example.com/"}, {"url"}),
        ({"what": "url", "url": "https://example.com", "method": "GET", "body": "1"}, {"body"}),
        ({"what": "command", "command": "ls", "env": "1url=args"}, {"env"}),
        ({"func": "a.b", "retries": "-2s"}, {"retries"}),
    ],
)
def test_a_fault_is_shown_at_its_field_whatever_its_text_mentions(
    browser: TestClient, form: dict[str, str], fields: set[str]
) -> None:
    page = browser.post("/new", data={"name": "a", "cron": "0 3 * * *", **form})
    assert set(re.findall(r'id="e-(\w+)"', page.text)) == fields


def test_every_fault_is_shown_at_its_field_and_the_form_keeps_its_values(
    schedules: Schedules, browser: TestClient
) -> None:
    form = {
        "do": "save", "name": "no spaces", "what": "func", "func": "nodots", "args": "[",
        "kwargs": "{1}", "when": "cron", "cron": "61 2 * * *", "tz": "Europe/Berlín",
        "timeout": "soon", "retries": "x", "jitter": "-", "catch_up": "none",
        "catch_up_window": "1h", "catch_up_limit": "x",
    }  # fmt: skip
    page = browser.post("/new", data=form)
    assert page.status_code == 422
    faulty = set(re.findall(r'id="e-(\w+)"', page.text))
    assert faulty == {
        "name", "func", "args", "kwargs", "cron", "tz", "timeout", "retries", "jitter",
        "catch_up_window", "catch_up_limit",
    }  # fmt: skip
    for name in faulty:
        assert re.search(rf'id="f-{name}"[^>]*aria-describedby="[^"]*\be-{name}\b', page.text), name
        assert re.search(rf'id="f-{name}"[^>]*aria-invalid="true"', page.text), name
    assert 'value="61 2 * * *"' in page.text
    assert "expected minute 0-59" in main_of(page)
    assert list(schedules) == []


def test_a_name_is_used_once(one: str, schedules: Schedules, browser: TestClient) -> None:
    form = {"do": "save", "name": "one", "func": "tasks.other", "cron": "0 1 * * *"}
    page = browser.post("/new", data=form)
    assert page.status_code == 422
    assert "exists already" in main_of(page)
    entry = schedules.get("one")
    assert entry is not None
    assert entry.schedule is not None
    assert entry.schedule.target == "tasks.one"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("when=cron&cron=30+2+*+*+*&tz=Europe/Berlin", "At 02:30 every day"),
        ("when=cron&cron=0+0+30+2+*", "never"),
        ("when=cron&cron=61+*+*+*+*", "expected minute 0-59"),
        ("when=cron&cron=*+*+*+*+*&tz=Mars", "expected a time zone"),
        ("when=every&every=15m", "Every 15 minutes."),
        ("when=every&every=often", "expected a duration"),
        ("when=once&at=2001-01-01T00:00", "it is due at once"),
        ("when=once&at=", "expected a date and time"),
        ("when=cron&cron=", "Enter a trigger"),
        ("", "Enter a trigger"),
        (f"when=cron&cron={HTML}", "&lt;script&gt;"),
    ],
)
def test_the_preview_explains_an_expression(browser: TestClient, query: str, words: str) -> None:
    part = browser.get(f"/new/preview?{query}")
    assert part.status_code == 200
    assert "<html" not in part.text
    assert words in " ".join(part.text.split())
    assert HTML not in part.text


def test_an_edit_changes_only_the_edited_fields_and_loses_no_secret(
    schedules: Schedules, browser: TestClient
) -> None:
    secret = "hunter22-hunter22-hunter22"
    hook = webhook(f"https://example.com/{secret}", headers={"X-Api-Key": secret, "X-Plain": "1"})
    schedules.add("hook", DAILY, hook, result_ttl=77, queue="mail", timeout=600)
    schedules.add("call", DAILY, "tasks.x", kwargs={"password": secret, "deep": {"token": secret}})
    for name in ("hook", "call"):
        page = browser.get(f"/schedules/{name}/edit").text
        form = fields_of(page) | {"queue": "other", "do": "save"}
        assert "Changed" in main_of(browser.post(f"/schedules/{name}/edit", data=form))
    changed = schedules.get("hook")
    assert changed is not None
    assert changed.schedule is not None
    assert changed.schedule.target == hook
    assert (changed.schedule.queue, changed.schedule.result_ttl) == ("other", 77)
    assert changed.schedule.timeout == 600  # the form shows only the timeout of the call
    call = schedules.get("call")
    assert call is not None
    assert call.schedule is not None
    assert call.schedule.kwargs == {"password": secret, "deep": {"token": secret}}


def test_a_masked_header_goes_to_no_other_host(schedules: Schedules, browser: TestClient) -> None:
    hook = webhook("https://example.com/x", headers={"X-Api-Key": "hunter22-hunter22"})
    schedules.add("hook", DAILY, hook)
    form = fields_of(browser.get("/schedules/hook/edit").text)
    changed = {**form, "url": "https://evil.example/x", "do": "save"}
    page = browser.post("/schedules/hook/edit", data=changed)
    assert page.status_code == 422
    assert "no stored value that it stands for at this host" in main_of(page)


def test_an_edit_of_a_schedule_that_changed_meanwhile_is_refused(
    one: str, schedules: Schedules, browser: TestClient
) -> None:
    form = fields_of(browser.get("/schedules/one/edit").text)
    schedules.update("one", queue="theirs")
    page = browser.post("/schedules/one/edit", data={**form, "queue": "mine", "do": "save"})
    assert "changed by someone else" in main_of(page)
    entry = schedules.get("one")
    assert entry is not None
    assert entry.schedule is not None
    assert entry.schedule.queue == "theirs"


def fields_of(page: str) -> dict[str, str]:
    """What a browser would send of a page's form."""
    from html import unescape

    form = page.partition('class="draft"')[2].partition("</form>")[0]
    fields = {}
    for tag in re.findall(r"<input[^>]*>", form):
        name, value = (re.search(rf'\b{a}="([^"]*)"', tag) for a in ("name", "value"))
        if name and ('type="radio"' not in tag or "checked" in tag):
            fields[name[1]] = unescape(value[1]) if value else ""
    for name_, text in re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>(.*?)</textarea>', form, re.S):
        fields[name_] = unescape(text)
    for name_, options in re.findall(r'<select[^>]*name="(\w+)"[^>]*>(.*?)</select>', form, re.S):
        chosen = re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)', options)
        if chosen:
            fields[name_] = chosen[2] if chosen[1] is None else chosen[1]
    return fields


# ---- who may, and what no page does -----------------------------------------------------------


READS = ("/", "/schedules/one", "/new/preview")
OPERATES = (
    "/schedules/one/run", "/schedules/one/skip", "/schedules/one/pause", "/schedules/one/resume",
    "/schedules/one/backfill", "/pause", "/resume",
)  # fmt: skip
OWNS = ("/new", "/schedules/one/edit", "/schedules/one/delete")


def test_a_token_reaches_the_pages_of_its_scopes(one: str, site: Callable[..., TestClient]) -> None:
    for token, allowed in (
        (READER, {*READS}),
        (OPERATOR, {*READS, *OPERATES}),
        (ADMIN, {*READS, *OPERATES, *OWNS}),
    ):
        browser = site(token)
        for path in (*READS, *OPERATES, *OWNS):
            expected = 200 if path in allowed else 403
            assert browser.get(path).status_code == expected, (token, path)


def test_a_token_without_the_scope_read_sees_nothing(
    one: str, connection: Redis, settings: Settings
) -> None:
    tokens = f"taz:tasks:{READER}"
    narrow = Settings.from_env({"REDIS_URL": settings.redis_url or "", "RQ_CLOCK_TOKENS": tokens})
    client = TestClient(create_app(narrow, redis=connection))
    client.headers["Sec-Fetch-Site"] = "same-origin"
    client.post("/login", data={"token": READER}, follow_redirects=False)
    for path in READS:
        page = client.get(path)
        assert page.status_code == 403
        assert "no clock leads" not in text_of(page)


WRITES = (
    "/schedules/one/run", "/schedules/one/skip", "/schedules/one/pause", "/schedules/one/resume",
    "/schedules/one/backfill", "/schedules/one/backfills/one-1/cancel", "/schedules/one/delete",
    "/schedules/one/edit", "/new", "/bulk", "/bulk/pause", "/bulk/resume", "/bulk/run",
)  # fmt: skip


def test_no_form_is_accepted_from_another_site_or_without_its_scope(
    one: str, schedules: Schedules, site: Callable[..., TestClient]
) -> None:
    before = len(schedules.audit())
    for path in WRITES:
        refused = site(READER).post(path, data={"names": "one", "count": "1"})
        assert refused.status_code == 403, path
        elsewhere = site(ADMIN).post(
            path, data={"names": "one"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert elsewhere.status_code == 403, path
    assert len(schedules.audit()) == before


def test_a_process_that_only_reads_hides_and_refuses(
    one: str, schedules: Schedules, site: Callable[..., TestClient]
) -> None:
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
def hostile(
    several: None, one: str, connection: Redis, schedules: Schedules, now: datetime
) -> None:
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


def test_no_text_becomes_markup_and_no_page_has_a_style_or_script_of_its_own(
    hostile: None, browser: TestClient
) -> None:
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


def test_every_control_has_a_name_and_every_id_is_its_own(
    several: None, one: str, browser: TestClient
) -> None:
    for path in EVERY_PAGE:
        html = browser.get(path).text
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids)), (path, [i for i in ids if ids.count(i) > 1])
        for refs in re.findall(r'\s(?:for|aria-labelledby|aria-describedby)="([^"]+)"', html):
            assert set(refs.split()) <= set(ids), (path, refs)
        assert html.count("<h1") == 1 or path == "/new/preview", path


def test_mounted_under_a_path_every_link_stays_there(
    several: None, one: str, site: Callable[..., TestClient]
) -> None:
    browser = site(ADMIN, under="/clock")
    for path in EVERY_PAGE:
        html = browser.get(f"/clock{path}").text
        for link in re.findall(r'\s(?:href|src|action|formaction)="([^"]*)"', html):
            assert link.startswith(("/clock/", "#", "?")), (path, link)
    done = browser.post("/clock/schedules/one/run", data={})
    assert done.url.path == "/clock/schedules/one"
    assert "Enqueued" in main_of(done)
    assert browser.get("/clock/static/app.css").status_code == 200
