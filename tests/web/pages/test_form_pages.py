"""The form of a schedule: added, previewed, edited."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html import unescape

import pytest
from starlette.testclient import TestClient

from rq_clock.model.targets import command, dyno, webhook
from rq_clock.schedules.service import Schedules
from rq_clock.timing.triggers import cron, every, once
from rq_clock.web.pages.schedule_form import values_of
from tests.helpers import definition
from tests.web.pages.reading import DAILY, HTML, main_of


def fields_of(page: str) -> dict[str, str]:
    """Return what a browser sends of a page's form."""
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


def test_a_schedule_is_added_as_it_was_entered(schedules: Schedules, browser: TestClient) -> None:
    form = {
        "name": "nightly", "what": "func", "func": "tasks.reports.nightly", "args": "[42]",
        "kwargs": '{"full": true}', "when": "cron", "cron": "30 2 * * *", "tz": "Europe/Berlin",
        "queue": "reports", "timeout": "10m", "retries": "10s,1m", "catch_up": "latest",
        "catch_up_window": "2h", "jitter": "5m", "tags": "mail, growth",
    }  # fmt: skip
    preview = main_of(browser.post("/new", data={**form, "do": "preview"}), 200)
    for phrase in (
        "At 02:30 every day, Europe/Berlin time.", "Clock changes within a year",
        "does not exist that day", "rq-clock add nightly",
    ):  # fmt: skip
        assert phrase in preview
    assert schedules.get("nightly") is None
    done = browser.post("/new", data={**form, "do": "save"})
    assert done.url.path == "/schedules/nightly"
    assert "Added nightly." in main_of(done)
    assert json.loads(definition(schedules, "nightly").definition()) == {
        "cron": "30 2 * * *", "tz": "Europe/Berlin", "func": "tasks.reports.nightly",
        "args": [42], "kwargs": {"full": True}, "queue": "reports", "timeout": 600,
        "retries": [10, 60], "catchUpWindow": 7200.0, "jitter": 300.0, "tags": ["mail", "growth"],
    }  # fmt: skip
    assert not any(entry.declared for entry in schedules)


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
    browser.post(
        "/new",
        data={"do": "save", "name": "report", "what": "dyno", "dyno": "python report.py",
              "size": "standard-2x", "dyno_env": "LEVEL=1", "when": "every", "every": "1h"},
    )  # fmt: skip
    report = definition(schedules, "report")
    assert report.target == dyno("python report.py", size="standard-2x", env={"LEVEL": "1"})
    assert values_of(report)["dyno_env"] == "LEVEL=1"
    disk, hook = definition(schedules, "disk"), definition(schedules, "hook")
    assert disk.target == command("df -h /", env={"LEVEL": "1", "NAME": "x"}, cwd="sub")
    assert disk.trigger == every(minutes=90)
    assert hook.target == webhook(
        "https://example.com/x", method="PUT", headers={"X-One": "1"}, json={"a": 1}, timeout=30
    )
    assert hook.trigger == once(datetime(2999, 1, 1, tzinfo=UTC))


def test_the_form_of_a_trigger_with_all_fields_reads_as_the_same(
    schedules: Schedules, browser: TestClient
) -> None:
    triggers = [
        every(weeks=2, at="9:00", on="tue", anchor="2026-01-06", tz="Asia/Tokyo", end="2099-01-01"),
        every(minutes=5, start="2026-01-01", anchor="1970-01-01", max_runs=9),
        cron("0 3 * * *", "Europe/Berlin", start="2026-01-01", end="2099-01-01"),
    ]
    for trigger in triggers:
        schedules.add("all", trigger, "tasks.x", replace=True)
        form = fields_of(browser.get("/schedules/all/edit").text)
        browser.post("/schedules/all/edit", data={**form, "do": "save", "queue": "mail"})
        assert definition(schedules, "all").trigger == trigger
        assert definition(schedules, "all").queue == "mail"
    form |= {"when": "every", "every": "10m", "start": "", "end": "", "max_runs": ""}
    form["revision"] = fields_of(browser.get("/schedules/all/edit").text)["revision"]
    browser.post("/schedules/all/edit", data={**form, "do": "save"})
    assert definition(schedules, "all").trigger == every(minutes=10)


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
def test_a_fault_is_shown_at_its_field(
    browser: TestClient, form: dict[str, str], fields: set[str]
) -> None:
    page = browser.post("/new", data={"name": "a", "cron": "0 3 * * *", **form})
    assert set(re.findall(r'id="e-(\w+)"', page.text)) == fields


def test_a_refused_form_keeps_its_values(schedules: Schedules, browser: TestClient) -> None:
    form = {
        "do": "save", "name": "no spaces", "what": "func", "func": "nodots", "args": "[",
        "kwargs": "{1}", "when": "cron", "cron": "61 2 * * *", "tz": "Europe/Berlín",
        "timeout": "soon", "retries": "x", "jitter": "-", "catch_up": "none",
        "catch_up_window": "1h", "catch_up_limit": "x",
    }  # fmt: skip
    page = browser.post("/new", data=form)
    faulty = set(re.findall(r'id="e-(\w+)"', page.text))
    assert faulty == {
        "name", "func", "args", "kwargs", "cron", "tz", "timeout", "retries", "jitter",
        "catch_up_window", "catch_up_limit",
    }  # fmt: skip
    for name in faulty:
        assert re.search(rf'id="f-{name}"[^>]*aria-describedby="[^"]*\be-{name}\b', page.text), name
        assert re.search(rf'id="f-{name}"[^>]*aria-invalid="true"', page.text), name
    assert 'value="61 2 * * *"' in page.text
    assert "expected minute 0-59" in main_of(page, 422)
    assert list(schedules) == []


def test_a_name_is_used_once(one: None, schedules: Schedules, browser: TestClient) -> None:
    form = {"do": "save", "name": "one", "func": "tasks.other", "cron": "0 1 * * *"}
    assert "exists already" in main_of(browser.post("/new", data=form), 422)
    assert definition(schedules, "one").target == "tasks.one"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("when=cron&cron=30+2+*+*+*&tz=Europe/Berlin", "At 02:30 every day"),
        ("when=cron&cron=0+0+30+2+*", "never"),
        ("when=cron&cron=61+*+*+*+*", "expected minute 0-59"),
        ("when=cron&cron=*+*+*+*+*&tz=Mars", "expected a time zone"),
        ("when=every&every=15m", "Every 15 minutes."),
        ("when=every&every=often", "expected a duration"),
        (
            "when=every&every=2w&time=9:00&on=tue&anchor=2026-01-06&tz=Asia/Tokyo",
            "At 09:00 on Tuesday every 2 weeks, counted from the week of 2026-01-05, Asia/Tokyo",
        ),
        ("when=every&every=2w&time=9:00", "Weekdays:</b> expected on="),
        ("when=cron&cron=0+3+*+*+*&max_runs=5", "Starts:</b> max_runs counts fire times from"),
        ("when=cron&cron=0+3+*+*+*&end=2001-01-01", "its last fire time has passed"),
        ("when=cron&cron=*/7+*+*+*+*&tz=EST", "EST&#39; is UTC-5 all year"),
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


def test_an_edit_keeps_the_other_fields_and_secrets(
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
    assert definition(schedules, "hook").target == hook
    assert definition(schedules, "hook").queue == "other"
    assert definition(schedules, "hook").result_ttl == 77
    assert definition(schedules, "hook").timeout == 600  # the form shows only that of the call
    assert definition(schedules, "call").kwargs == {"password": secret, "deep": {"token": secret}}


def test_a_masked_header_goes_to_no_other_host(schedules: Schedules, browser: TestClient) -> None:
    hook = webhook("https://example.com/x", headers={"X-Api-Key": "hunter22-hunter22"})
    schedules.add("hook", DAILY, hook)
    form = fields_of(browser.get("/schedules/hook/edit").text)
    changed = {**form, "url": "https://evil.example/x", "do": "save"}
    page = browser.post("/schedules/hook/edit", data=changed)
    assert "no stored value that it stands for at this host" in main_of(page, 422)


def test_an_outdated_edit_is_refused(one: None, schedules: Schedules, browser: TestClient) -> None:
    form = fields_of(browser.get("/schedules/one/edit").text)
    schedules.update("one", queue="theirs")
    page = browser.post("/schedules/one/edit", data={**form, "queue": "mine", "do": "save"})
    assert "changed by someone else" in main_of(page)
    assert definition(schedules, "one").queue == "theirs"
