"""The page of one schedule, and what is done with it."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.model.targets import command, webhook
from rq_clock.schedules.service import Schedules
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every
from tests.web.pages.reading import (
    DAILY,
    DAY,
    HOUR,
    HTML,
    Page,
    key,
    main_of,
    ran,
    remember,
    text_of,
)

pytestmark = pytest.mark.usefixtures("one")


def test_a_schedule_shows_its_fire_times(
    connection: Redis, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    job = schedules.trigger("one", reason="to see")
    remember(
        connection, "one",
        f"- {to_ms(now - 9 * DAY)} {to_ms(now - 5 * DAY)} 5 overlap",
        f"- {to_ms(now - 4 * DAY)} {to_ms(now - 4 * DAY)} 1 window",
        ran(now - 3 * DAY, mark="c"),
        ran(now - 2 * DAY, "failed", error="ValueError: no such account"),
        f"x {to_ms(now - DAY)} default-one-7",
    )  # fmt: skip
    page = browser.get("/schedules/one")
    words = main_of(page)
    for phrase in (
        "At 02:30 every day, Europe/Berlin time.", "Next 10 fire times", "missed",
        "overlap — — — ‖ skipped 5 times", "catch-up +40 ms 60 ms 2 s ✓ ok",
        "✕ failed ValueError: no such account", "the job vanished", "manual · ana", "50 % of 2",
        "1 ok, 1 failed, 1 lost, 1 missed, 5 skipped, 1 waiting", "trigger", "to see",
    ):  # fmt: skip
        assert phrase in words
    assert len(re.findall(r"02:30 CES?T", words)) >= 10
    assert len(re.findall(r"0[01]:30 UTC", words)) >= 10
    assert f'href="/runs/{job}"' in page.text
    assert f'href="/runs/default-one-{to_ms(now - 2 * DAY)}"' in page.text


def test_an_unknown_schedule_is_not_found(browser: TestClient) -> None:
    assert "nobody" in text_of(browser.get("/schedules/nobody"), 404)


def test_its_definition_can_be_copied(schedules: Schedules, browser: TestClient) -> None:
    target = command("df -h /", env={"LEVEL": "1"})
    schedules.add("disk", every(minutes=90), target, retries=[10, 60], jitter=300, catch_up="all")
    page = main_of(browser.get("/schedules/disk"))
    assert "rq-clock add disk --every 90m --command 'df -h /' --env LEVEL=1" in page
    assert "--retries 10s,60s --catch-up all --jitter 5m" in page
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


# ---- operations -------------------------------------------------------------------------------


def test_a_run_by_hand_enqueues_one_job(
    connection: Redis, schedules: Schedules, browser: TestClient
) -> None:
    assert "mail" in main_of(browser.get("/schedules/one/run"))
    done = browser.post("/schedules/one/run", data={"reason": "to see"})
    assert done.url.path == "/schedules/one"
    assert "Enqueued default-one-" in main_of(done)
    assert connection.llen("rq:queue:mail") == 1
    audited = schedules.audit()[0]
    assert (audited.by, audited.verb, audited.reason) == ("ana", "trigger", "to see")


def test_a_message_is_shown_once(browser: TestClient) -> None:
    browser.post("/schedules/one/run", data={}, follow_redirects=False)
    assert "Enqueued" in main_of(browser.get("/schedules/one"))
    assert "Enqueued" not in main_of(browser.get("/schedules/one"))


def test_a_second_run_must_be_forced(connection: Redis, browser: TestClient) -> None:
    browser.post("/schedules/one/run", data={})
    refused = browser.post("/schedules/one/run", data={"reason": "again"})
    assert "expected no run in progress" in main_of(refused, 409)
    assert 'value="again"' in refused.text
    browser.post("/schedules/one/run", data={"force": "1"})
    assert connection.llen("rq:queue:mail") == 2


def test_a_skip_can_be_undone(schedules: Schedules, browser: TestClient) -> None:
    form = main_of(browser.get("/schedules/one/skip"))
    assert re.search(r"2: up to \w+ \d+ \w+ \d+ 02:30 CES?T", form)
    done = browser.post("/schedules/one/skip", data={"count": "2", "reason": "audit"})
    assert re.search(r"Skips the next 2, up to .* 02:30 CES?T", main_of(done))
    assert main_of(done).count("will be skipped") == 2
    [entry] = schedules
    assert entry.skipping
    assert (entry.skipping.count, entry.skipping.by) == (2, "ana")
    undone = browser.post("/schedules/one/skip", data={"count": "0"})
    assert "No fire time is skipped any more." in main_of(undone)
    for wrong in ("", "x", "-1", "1000"):
        assert browser.post("/schedules/one/skip", data={"count": wrong}).status_code == 409


def test_a_pause_ends_in_the_schedules_zone(
    schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    day = (now + 3 * DAY).date().isoformat()
    done = browser.post(
        "/schedules/one/pause",
        data={"reason": HTML, "until": "date", "date": f"{day}T09:00", "missed": "latest"},
    )
    assert HTML not in done.text
    assert "&lt;script&gt;" in done.text
    [entry] = schedules
    [pause] = entry.pauses
    assert (pause.reason, pause.by, pause.missed) == (HTML, "ana", "latest")
    assert pause.until
    assert pause.until.isoformat()[:13] in (f"{day}T07", f"{day}T08")
    resumed = browser.post("/schedules/one/resume", data={"missed": "skip"})
    assert "Resumed." in main_of(resumed)
    [entry] = schedules
    assert entry.pause(now + HOUR) is None


@pytest.mark.parametrize(
    "form", [{"until": "date", "date": ""}, {"until": "date", "date": "2020-01-01T00:00"},
             {"missed": "odd"}, {"until": "date", "date": "9999-12-31T23:59"}],
)  # fmt: skip
def test_a_refused_pause_keeps_its_form(
    schedules: Schedules, browser: TestClient, form: dict[str, str]
) -> None:
    page = browser.post("/schedules/one/pause", data={"reason": "why", **form})
    if page.status_code == 200:  # far away, but an instant
        return
    assert 'value="why"' in page.text
    assert "expected" in main_of(page, 409)
    [entry] = schedules
    assert not entry.pauses


def test_a_backfill_is_previewed_before_it_starts(
    connection: Redis, schedules: Schedules, browser: TestClient, now: datetime
) -> None:
    connection.hset(key("markers"), "one", f"- {to_ms(now)}")
    start, end = ((now - days).date().isoformat() for days in (4 * DAY, 2 * DAY))
    span = {"from": f"{start}T00:00", "to": f"{end}T23:00", "at_once": "2", "reason": "lost"}
    preview = browser.post("/schedules/one/backfill", data=span)
    assert "Runs 3 , oldest first, at most 2 at a time" in main_of(preview, 200)
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
    browser: TestClient, wrong: dict[str, str], word: str
) -> None:
    form = {"from": "2020-01-01T00:00", "to": "2020-01-02T00:00", "sure": "1", **wrong}
    assert word in main_of(browser.post("/schedules/one/backfill", data=form), 409)


def revision_of(page: Page) -> str:
    [revision] = re.findall(r'name="revision" value="(\d+)"', page.text)
    return str(revision)


def test_a_changed_schedule_is_not_deleted(schedules: Schedules, browser: TestClient) -> None:
    form = {"revision": revision_of(browser.get("/schedules/one/delete"))}
    schedules.update("one", queue="other")
    assert browser.post("/schedules/one/delete", data=form).status_code == 409
    form = {"revision": revision_of(browser.get("/schedules/one/delete"))}
    done = browser.post("/schedules/one/delete", data=form)
    assert done.url.path == "/"
    assert "Deleted one." in main_of(done)
    assert schedules.get("one") is None


def test_a_declared_schedule_is_not_edited_here(
    connection: Redis, schedules: Schedules, browser: TestClient
) -> None:
    connection.sadd(key("declared"), "one")
    assert "/edit" not in browser.get("/schedules/one").text
    assert browser.get("/schedules/one/edit").status_code == 409
    assert browser.post("/schedules/one/delete", data={}).status_code == 409
    form = {"do": "save", "cron": "0 1 * * *", "func": "tasks.one"}
    assert "declared in code" in main_of(browser.post("/schedules/one/edit", data=form))
    assert schedules.get("one")
