"""The pages of callbacks: the list, one task, the actions, the configuration."""

from __future__ import annotations

import re
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.callbacks import Callbacks, NewTask, TaskFilter
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from rq_clock.web.changes import Changes
from tests.web.client import ADMIN, OPERATOR, READER
from tests.web.pages.reading import HTML, Site, main_of, text_of

URL = "https://example.com/jobs"
STATES = ("waiting", "calling", "retrying", "done", "stale", "canceled")


@pytest.fixture
def tasks(connection: Redis, settings: Settings) -> Callbacks:
    return Callbacks(connection, by="ana", settings=settings)


@pytest.fixture
def each(store: Store, tasks: Callbacks) -> dict[str, str]:
    """A task in each state, by state."""
    ends = {"done": ("ok", 200), "retrying": ("status", 503), "stale": ("gone", 410),
            "calling": None}  # fmt: skip
    dispatch, found = Dispatch(store, "d1"), {}
    assert dispatch.enter()
    for state, end in ends.items():
        found[state] = add(tasks, state)
        [claimed] = dispatch.claim(1).tasks
        assert claimed.id == found[state]
        if end:
            result = CallResult(
                id=claimed.id, attempt=1, result=end[0], status=end[1], seconds=1.25,
                error="" if end[1] == 200 else HTML, answer=f"answer of {state} {HTML}",
            )  # fmt: skip
            dispatch.finish([result])
    found["canceled"] = add(tasks, "canceled")
    tasks.cancel(found["canceled"], "paid")
    found["waiting"] = add(tasks, "waiting", tags=("eu", HTML), payload={"text": HTML, "n": 1},
                           headers={"X-Tenant": "7"}, dedup_key=HTML, priority="high")  # fmt: skip
    return found


def add(tasks: Callbacks, name: str, **fields: Any) -> str:
    return tasks.enqueue(NewTask(url=f"{URL}/{name}", **fields))[0].id


def rows(page: Any) -> list[str]:
    assert page.status_code == 200, page.text
    return re.findall(r'<tr[^>]*>\s*<th scope="row"[^>]*><a [^>]*/callbacks/(task_\w+)"', page.text)


def test_each_state_has_its_tab(each: dict[str, str], browser: TestClient) -> None:
    for state in STATES:
        page = browser.get(f"/callbacks?state={state}")
        assert rows(page) == [each[state]]
        assert f"{state} 1" in main_of(page)


def test_the_first_tab_is_where_something_is_wrong(
    each: dict[str, str], browser: TestClient
) -> None:
    assert rows(browser.get("/callbacks")) == [each["stale"]]


def test_the_page_shows_how_calling_goes(each: dict[str, str], browser: TestClient) -> None:
    text = main_of(browser.get("/callbacks"))
    assert "Due now 1" in text
    assert "Dispatchers 1" in text
    assert "No worker serves the queue callbacks." in text
    assert "A receiver may see an id twice" in text
    assert "Calls in the last hour" in text
    assert "1 ok" in text


def test_an_empty_page_says_how_to_begin(browser: TestClient) -> None:
    page = browser.get("/callbacks")
    assert "No tasks yet." in main_of(page)
    assert "rq-clock callbacks add" in main_of(page)


@pytest.mark.parametrize(
    ("query", "states"),
    [("host=example.com", {"waiting"}), ("host=nobody", set()), ("tag=eu", {"waiting"}),
     ("q=WAITING", {"waiting"}), ("q=zzz", set())],
)  # fmt: skip
def test_a_filter_shows_its_tasks(
    each: dict[str, str], browser: TestClient, query: str, states: set[str]
) -> None:
    page = browser.get(f"/callbacks?state=waiting&{query}")
    assert set(rows(page)) == {each[state] for state in states}


def test_pages_follow_each_other(tasks: Callbacks, browser: TestClient) -> None:
    ids = [task.id for task, _ in tasks.enqueue_many([NewTask(url=URL)] * 120)]
    seen, path = [], "/callbacks?state=waiting"
    while path:
        page = browser.get(path)
        seen += rows(page)
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == ids


def test_a_task_has_its_request_and_its_calls(each: dict[str, str], browser: TestClient) -> None:
    text = main_of(browser.get(f"/callbacks/{each['waiting']}"))
    for part in (f"{URL}/waiting", "X-Tenant 7", '"n": 1', "eu", "high", "Not called yet."):
        assert part in text, part
    text = main_of(browser.get(f"/callbacks/{each['retrying']}"))
    assert "503" in text
    assert "1.25 s" in text or "1.2 s" in text
    assert "answer of retrying" in text


def test_an_action_is_confirmed_and_done(
    each: dict[str, str], tasks: Callbacks, browser: TestClient
) -> None:
    stale = each["stale"]
    assert "Its retries start again." in main_of(browser.get(f"/callbacks/{stale}/retry"))
    done = browser.post(f"/callbacks/{stale}/retry", data={"reason": "mended"})
    assert "is called as soon as possible" in main_of(done)
    assert tasks.get(stale).status == "retrying"
    browser.post(f"/callbacks/{stale}/cancel", data={})
    assert tasks.get(stale).status == "canceled"
    done = browser.post(f"/callbacks/{stale}/delete", data={"back": "/callbacks?state=canceled"})
    assert f"Deleted {stale}." in main_of(done)
    assert "there is no such task" in main_of(browser.get(f"/callbacks/{stale}"), 404)


def test_a_refused_action_is_explained(
    each: dict[str, str], tasks: Callbacks, browser: TestClient
) -> None:
    page = browser.post(f"/callbacks/{each['calling']}/cancel", data={"reason": "why not"})
    assert "got calling" in main_of(page, 409)
    assert 'value="why not"' in page.text
    assert tasks.get(each["calling"]).status == "calling"


def test_all_stale_tasks_are_retried_or_deleted(
    tasks: Callbacks, store: Store, browser: TestClient
) -> None:
    dispatch = Dispatch(store, "d1")
    dispatch.enter()
    tasks.configure({"selectSize": 100})
    for n in range(60):
        add(tasks, f"x{n}", tags=("odd",) if n % 2 else ())
    claimed = dispatch.claim(60).tasks
    assert len(claimed) == 60
    dispatch.finish([CallResult(id=t.id, attempt=1, result="gone", seconds=1) for t in claimed])
    page = browser.get("/callbacks?state=stale&tag=odd")
    assert len(rows(page)) == 30
    link = re.search(r'href="(/bulk-callbacks/retry[^"]*)"', page.text)
    assert link
    form = browser.get(link[1].replace("&amp;", "&"))
    assert "Retry 30 tasks" in main_of(form) or "Retry all that match" in main_of(form)
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form.text))
    done = browser.post("/bulk-callbacks/retry", data=fields)
    assert "Retries 30 tasks." in main_of(done)
    assert (tasks.status().retrying, tasks.status().stale) == (30, 30)
    form = browser.get("/bulk-callbacks/delete?state=stale")
    assert "Delete 30 tasks" in main_of(form)
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form.text))
    assert "Deleted 30 tasks." in main_of(browser.post("/bulk-callbacks/delete", data=fields))
    assert tasks.status().stale == 0
    assert "No task matches any more." in main_of(browser.get("/bulk-callbacks/delete?state=stale"))


def test_the_configuration_is_a_form(tasks: Callbacks, browser: TestClient) -> None:
    page = browser.get("/callbacks/configuration")
    fields = dict(
        re.findall(r'<input id="f-\w+" name="(\w+)" type="\w+" value="([^"]*)"', page.text)
    )
    assert fields["base_interval_ms"] == "1000"
    assert fields["host_rate"] == ""
    changed = fields | {"base_interval_ms": "500", "host_rate": "2.5", "mode": "steady",
                        "retry_delays": "1, 2"}  # fmt: skip
    done = browser.post("/callbacks/configuration", data=changed)
    assert "Changed." in main_of(done)
    now = tasks.configuration()
    assert (now.base_interval_ms, now.host_rate, now.mode, now.retry_delays) == (
        500, 2.5, "steady", (1, 2)
    )  # fmt: skip
    browser.post("/callbacks/configuration", data=changed | {"host_rate": ""})
    assert tasks.configuration().host_rate is None


def test_a_wrong_configuration_changes_nothing(tasks: Callbacks, browser: TestClient) -> None:
    before = tasks.configuration()
    wrong = {"base_interval_ms": "0", "select_size": "many", "dispatchers": "2", "mode": HTML}
    page = browser.post("/callbacks/configuration", data=wrong)
    text = main_of(page, 422)
    assert "3 fields have errors" in text
    assert "expected baseIntervalMs" in text
    assert 'value="many"' in page.text
    assert 'value="2"' in page.text
    assert tasks.configuration() == before


ADMINS = ("/callbacks/configuration",)
OPERATORS = ("/callbacks/{id}/cancel", "/callbacks/{id}/delete", "/bulk-callbacks/cancel")
READERS = ("/callbacks", "/callbacks/{id}", "/callbacks/configuration")


def test_a_form_needs_its_scope_and_site(
    each: dict[str, str], tasks: Callbacks, site: Site
) -> None:
    data = {"state": "waiting", "before": "2090-01-01T00:00:00Z", "select_size": "5"}
    for path in (*OPERATORS, *ADMINS):
        path = path.format(id=each["waiting"])
        assert site(READER).post(path, data=data).status_code == 403, path
        elsewhere = {"Sec-Fetch-Site": "cross-site"}
        assert site(ADMIN).post(path, data=data, headers=elsewhere).status_code == 403, path
        refused = site(ADMIN, read_only=True).post(path, data=data)
        assert refused.status_code == 403, path
    assert site(OPERATOR).post(ADMINS[0], data=data).status_code == 403
    assert tasks.list(TaskFilter()).total == 6
    assert tasks.configuration().select_size == 100


def test_a_reader_sees_no_action(each: dict[str, str], site: Site) -> None:
    for browser in (site(READER), site(ADMIN, read_only=True)):
        for path in (*READERS, "/callbacks?state=waiting"):
            page = browser.get(path.format(id=each["stale"]))
            text = main_of(page, 200)
            assert "Retry" not in re.sub(r"Retries", "", text), path
            assert "Delete" not in text
            assert "Save" not in text


def test_a_page_of_callbacks_is_sound(each: dict[str, str], site: Site) -> None:
    """No text becomes markup, ids are unique, labels resolve, links stay below the mount."""
    browser = site(ADMIN, under="/clock")
    paths = [f"/callbacks?state={state}&q={HTML if state == 'done' else ''}" for state in STATES]
    for id in each.values():
        paths += [f"/callbacks/{id}", f"/callbacks/{id}/delete", f"/callbacks/{id}/retry"]
    paths += ["/callbacks/configuration", "/bulk-callbacks/retry", f"/callbacks?tag={HTML}&host=x",
              "/bulk-callbacks/cancel?state=waiting"]  # fmt: skip
    for path in paths:
        html = browser.get(f"/clock{path}").text
        assert HTML not in html, path
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids)), path
        for refs in re.findall(r'\s(?:for|aria-labelledby|aria-describedby)="([^"]+)"', html):
            assert set(refs.split()) <= set(ids), (path, refs)
        assert html.count("<h1") == 1, path
        for link in re.findall(r'\s(?:href|src|action)="([^"]*)"', html):
            assert link.startswith(("/clock/", "#", "?")), (path, link)
        bare = re.sub(r"<(time|option|pre|li|svg)\b[^>]*>.*?</\1>", "", html, flags=re.S)
        assert not re.search(r"\d\d:\d\d(:\d\d)?(?! ?(UTC|:|\.|Z|\d))", text_of(bare)), path


@pytest.mark.parametrize(
    "path",
    ["/callbacks/nonsense", f"/callbacks/task_{'0' * 26}", f"/callbacks/task_{'0' * 26}/retry",
     "/callbacks?state=angry", "/bulk-callbacks/nonsense", "/bulk-callbacks/retry?state=waiting",
     f"/callbacks/task_{'0' * 26}/nonsense"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(browser: TestClient, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_a_wrong_cursor_is_a_fault_of_the_request(browser: TestClient) -> None:
    assert browser.get("/callbacks?cursor=nonsense").status_code == 422


def test_the_audit_links_to_a_task(each: dict[str, str], browser: TestClient) -> None:
    page = browser.get("/audit")
    assert f'href="/callbacks/{each["canceled"]}"' in page.text
    assert "more" not in main_of(page)


def test_an_open_page_changes_with_its_tasks(
    each: dict[str, str], tasks: Callbacks, store: Store, settings: Settings
) -> None:
    changes, dispatch = Changes(store), Dispatch(store, "d1")
    seen = [changes.latest("x")]

    def changed() -> bool:
        seen.append(changes.latest("x"))  # with a job it is read each time
        return seen[-1] != seen[-2]

    tasks.configure({"mode": "off"})
    assert changed()
    add(tasks, "more")
    assert changed()
    claimed = dispatch.claim(10).tasks
    assert len(claimed) == 2
    assert changed()
    dispatch.finish([CallResult(id=t.id, attempt=1, result="ok", seconds=1) for t in claimed])
    assert changed()
    tasks.delete(each["done"])
    assert changed()
