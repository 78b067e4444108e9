"""Tasks over the API: added, found, operated on, configured. Nothing is called here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pytest
from redis import ConnectionError, Redis
from redis.connection import AbstractConnection

from rq_clock.model.task import Task
from rq_clock.store.cursors import encode
from rq_clock.store.scripts import load_script
from rq_clock.store.tasks import ADD_PORTION
from rq_clock.timing.instants import iso
from tests.cli.terminal import everything
from tests.helpers import replies_lost
from tests.web.client import Caller, app_on

KEY = "0123456789abcdef0123456789abcdef"
URL = "https://example.com/jobs/42"
SECRET = "hush-hush-hush"


@lru_cache
def caller(redis_url: str, scope: str = "admin") -> Caller:
    """Return a client; all tests share an app, since it keeps nothing and takes a while to make."""
    app = app_on(
        redis_url, RQ_CLOCK_CALLBACKS_KEY=KEY, RQ_CLOCK_WEBHOOK_ENV="CRM_KEY",
        RQ_CLOCK_TOKEN_RATE="10000",
    )  # fmt: skip
    return Caller(app, scope)


@pytest.fixture
def api(redis_url: str) -> Caller:
    return caller(redis_url)


@contextmanager
def lost_after(connection: Redis, portions: int) -> Iterator[None]:
    """Lose the connection before each portion of new tasks beyond the first few."""
    script = load_script(connection, "task_add")
    connection.script_load(script.script)
    send: Any = AbstractConnection.send_packed_command
    sha, sent = script.sha.encode(), [0]

    def count(self: Any, command: Any, *args: Any, **options: Any) -> Any:
        words = command if isinstance(command, bytes) else b"".join(command)
        sent[0] += sha in words
        if sha in words and sent[0] > portions:
            self.disconnect()
            raise ConnectionError("the connection was lost")
        return send(self, command, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", count)
        yield


def add(api: Caller, url: str = URL, **fields: Any) -> Any:
    return api.call("POST", "/tasks", {"webhookUrl": url, **fields})


# ---- adding -----------------------------------------------------------------------------------


def test_a_request_is_taken_as_the_clients_of_such_a_service_send_it(api: Caller) -> None:
    """fetch() calls a body that is a text text/plain."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"webhookUrl": "your.client.example/jobs/42", "webhookAuth": SECRET, "executeAt": at}
    answer = api(
        "POST", "/tasks", content=json.dumps(body),
        headers={"Content-Type": "text/plain;charset=UTF-8"},
    )  # fmt: skip
    assert answer.status_code == 201
    task = answer.json()
    assert {"id", "status", "executeAt", "createdAt"} <= task.keys()
    assert (task["status"], task["method"]) == ("waiting", "POST")
    assert task["url"] == "https://your.client.example/jobs/42"
    assert task["executeAt"] == at
    assert task["auth"] == {"set": True, "env": None}
    assert answer.headers["Location"] == f"/api/v1/tasks/{task['id']}"
    assert api.call("GET", f"/tasks/{task['id']}")["id"] == task["id"]


@pytest.mark.parametrize("at", [None, "2020-01-01T00:00:00Z", "2001-01-01T00:00:00+14:00"])
def test_a_missing_or_past_instant_is_as_soon_as_possible(api: Caller, at: str | None) -> None:
    task = add(api, executeAt=at)
    assert task["nextCall"] <= api.call("GET", "/callbacks")["now"]
    assert api.call("GET", "/callbacks")["due"] == 1


def test_every_field_comes_back_but_the_auth(api: Caller) -> None:
    later = iso(datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
    fields: dict[str, Any] = {
        "executeAt": later, "method": "PUT", "headers": {"X-Tenant": "7"}, "payload": {"a": [1]},
        "dedupKey": "order-7", "priority": "high", "maxRetries": 3, "timeout": 2.5,
        "tags": ["orders", "eu"],
    }  # fmt: skip
    id = add(api, webhookAuth=f"Basic {SECRET}", **fields)["id"]
    answer = api("GET", f"/tasks/{id}")
    task = answer.json()
    assert {name: task[name] for name in fields} == fields
    assert task["auth"] == {"set": True, "env": None}
    assert (task["attempt"], task["failures"], task["attempts"]) == (0, 0, [])
    assert SECRET not in answer.text


def test_a_timeout_may_be_a_text(api: Caller) -> None:
    assert add(api, timeout="1m")["timeout"] == 60


def test_an_auth_that_names_a_variable_needs_no_key_and_shows_its_name(redis_url: str) -> None:
    keyless = Caller(app_on(redis_url, RQ_CLOCK_WEBHOOK_ENV="CRM_KEY"))
    assert add(keyless, webhookAuth="${env:CRM_KEY}")["auth"] == {"set": True, "env": "CRM_KEY"}
    body = {"webhookUrl": URL, "webhookAuth": SECRET}
    assert keyless.faults("POST", "/tasks", body) == ["/webhookAuth"]
    _, problem = keyless.refused("POST", "/tasks", body)
    assert "RQ_CLOCK_CALLBACKS_KEY" in problem["detail"]
    assert SECRET not in str(problem)


def test_a_living_task_with_the_dedup_key_is_returned_with_200(api: Caller) -> None:
    first = add(api, dedupKey="order-7")
    again = api("POST", "/tasks", {"webhookUrl": "https://example.org/", "dedupKey": "order-7"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    api.call("POST", f"/tasks/{first['id']}/cancel")
    assert add(api, dedupKey="order-7")["id"] != first["id"]


def test_a_repeated_request_with_its_key_adds_nothing(api: Caller, connection: Redis) -> None:
    key = {"Idempotency-Key": "order-7"}
    first = api("POST", "/tasks", {"webhookUrl": URL}, headers=key)
    again = api("POST", "/tasks", {"webhookUrl": URL}, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.json()) == (201, first.json())
    assert api.call("GET", "/tasks")["total"] == 1
    other = {"webhookUrl": "https://example.org/"}
    assert api.error("POST", "/tasks", other, headers=key) == "422 idempotency-conflict"


def test_a_repeated_request_gets_a_task_that_is_kept_no_more(api: Caller) -> None:
    key = {"Idempotency-Key": "order-7"}
    later = iso(datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
    body = {
        "webhookUrl": URL, "webhookAuth": SECRET, "executeAt": later, "method": "PUT",
        "priority": "low", "maxRetries": 2, "timeout": 3, "tags": ["a"],
    }  # fmt: skip
    first = api.call("POST", "/tasks", body, headers=key)
    assert api("DELETE", f"/tasks/{first['id']}").status_code == 204
    again = api("POST", "/tasks", body, headers=key)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    gone = {"status": "deleted", "nextCall": None, "createdAt": again.json()["createdAt"]}
    assert again.json() == first | gone
    assert api.call("GET", "/tasks")["total"] == 0


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "order-7"}])
def test_a_lost_reply_of_redis_adds_one_task(api: Caller, key: dict[str, str]) -> None:
    api.call("GET", "/tasks")
    with replies_lost():  # of the only script
        answer = api("POST", "/tasks", {"webhookUrl": URL}, headers=key)
    assert answer.status_code == 201
    assert [t["id"] for t in api.call("GET", "/tasks")["data"]] == [answer.json()["id"]]


def test_a_request_that_arrives_many_times_at_once_adds_one_task(api: Caller) -> None:
    body, key = {"webhookUrl": URL}, {"Idempotency-Key": "order-7"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api("POST", "/tasks", body, headers=key), range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert api.call("GET", "/tasks")["total"] == 1


def test_one_dedup_key_that_arrives_many_times_at_once_adds_one_task(api: Caller) -> None:
    body = {"webhookUrl": URL, "dedupKey": "order-7"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api("POST", "/tasks", body), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 23 + [201]
    assert api.call("GET", "/tasks")["total"] == 1


class TestBatch:
    def test_it_adds_all_in_order(self, api: Caller) -> None:
        tasks = [{"webhookUrl": f"{URL}/{n}", "priority": "low"} for n in range(1000)]
        added = api.call("POST", "/tasks/batch", {"tasks": tasks})["data"]
        assert [task["url"] for task in added] == [task["webhookUrl"] for task in tasks]
        assert [task["id"] for task in added] == sorted(task["id"] for task in added)
        assert all(task["created"] for task in added)
        assert api.call("GET", "/tasks?limit=1")["total"] == 1000

    @pytest.mark.parametrize("place", [0, 2])
    @pytest.mark.parametrize(
        ("wrong", "pointer"),
        [
            ({"webhookUrl": "ftp://example.com"}, "/webhookUrl"),
            ({"webhookUrl": URL, "url": 1}, "/url"),
            ({"webhookUrl": "http://127.0.0.1/x"}, "/webhookUrl"),
            ({}, "/webhookUrl"),
            (7, ""),
        ],
    )
    def test_a_fault_in_one_adds_none(
        self, api: Caller, place: int, wrong: Any, pointer: str
    ) -> None:
        tasks: list[Any] = [{"webhookUrl": URL}] * 3
        tasks[place] = wrong
        faults = api.faults("POST", "/tasks/batch", {"tasks": tasks})
        assert faults == [f"/tasks/{place}{pointer}"]
        assert api.faults("POST", "/tasks/batch", {"tasks": [wrong]}) == [f"/tasks/0{pointer}"]
        assert api.call("GET", "/tasks")["data"] == []

    @pytest.mark.parametrize(
        "body",
        [{}, {"tasks": []}, {"tasks": {}}, {"tasks": [{"webhookUrl": URL}], "x": 1},
         {"tasks": [{"webhookUrl": URL}] * 1001}],
    )  # fmt: skip
    def test_it_has_1_to_1000_tasks(self, api: Caller, body: Any) -> None:
        assert api.faults("POST", "/tasks/batch", body) == ["/tasks"]

    def test_it_is_added_once_for_its_key(self, api: Caller) -> None:
        body = {"tasks": [{"webhookUrl": f"{URL}/{n}"} for n in range(3)]}
        first, again = (
            api.call("POST", "/tasks/batch", body, headers={"Idempotency-Key": "batch-1"})["data"]
            for _ in range(2)
        )
        assert [task["id"] for task in again] == [task["id"] for task in first]
        assert [task["created"] for task in again] == [None] * 3
        assert api.call("GET", "/tasks")["total"] == 3

    @pytest.mark.parametrize("portions", [0, 1, 4])
    def test_one_that_broke_off_is_completed_by_its_repetition(
        self, api: Caller, connection: Redis, portions: int
    ) -> None:
        body = {"tasks": [{"webhookUrl": f"{URL}/{n}"} for n in range(450)]}
        key = {"Idempotency-Key": "batch-1"}
        with lost_after(connection, portions):
            assert api.error("POST", "/tasks/batch", body, headers=key).startswith("503")
        assert api.call("GET", "/tasks")["total"] == portions * ADD_PORTION
        first = api.call("GET", "/tasks?limit=1")["data"]
        for task in first:  # it is not made again
            assert api("DELETE", f"/tasks/{task['id']}").status_code == 204
        made, again = (
            api.call("POST", "/tasks/batch", body, headers=key)["data"] for _ in range(2)
        )
        assert [task["url"] for task in made] == [f"{URL}/{n}" for n in range(450)]
        before, after = portions * ADD_PORTION, 450 - portions * ADD_PORTION
        assert [task["created"] for task in made] == [None] * before + [True] * after
        assert [task["id"] for task in again] == [task["id"] for task in made]
        assert api.call("GET", "/tasks")["total"] == 450 - len(first)
        other = {"tasks": [{"webhookUrl": URL}]}
        assert api.error("POST", "/tasks/batch", other, headers=key) == "422 idempotency-conflict"

    def test_one_that_arrives_many_times_at_once_is_added_once(self, api: Caller) -> None:
        body = {"tasks": [{"webhookUrl": f"{URL}/{n}"} for n in range(250)]}
        key = {"Idempotency-Key": "batch-1"}
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda _: api.call("POST", "/tasks/batch", body, headers=key), range(6))
            )
        assert len({tuple(task["id"] for task in answer["data"]) for answer in answers}) == 1
        assert api.call("GET", "/tasks")["total"] == 250

    def test_a_repeated_one_gets_tasks_that_are_kept_no_more(self, api: Caller) -> None:
        body = {"tasks": [{"webhookUrl": f"{URL}/{n}", "tags": [str(n)]} for n in range(3)]}
        key = {"Idempotency-Key": "batch-1"}
        first = api.call("POST", "/tasks/batch", body, headers=key)["data"]
        api.call("POST", f"/tasks/{first[0]['id']}/cancel")
        assert api("DELETE", f"/tasks/{first[1]['id']}").status_code == 204
        again = api.call("POST", "/tasks/batch", body, headers=key)["data"]
        assert [task["status"] for task in again] == ["canceled", "deleted", "waiting"]
        for name in ("id", "url", "tags"):
            assert [task[name] for task in again] == [task[name] for task in first]
        assert api.call("GET", "/tasks")["total"] == 2


# ---- bad input --------------------------------------------------------------------------------

FAR = iso(datetime.now(UTC) + timedelta(days=400))


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"webhookUrl": None}, ["/webhookUrl"]),
        ({"webhookUrl": ""}, ["/webhookUrl"]),
        ({"webhookUrl": 7}, ["/webhookUrl"]),
        ({"webhookUrl": "https://"}, ["/webhookUrl"]),
        ({"webhookUrl": "https://ana:hush-hush@example.com"}, ["/webhookUrl"]),
        ({"webhookUrl": "file:///etc/passwd"}, ["/webhookUrl"]),
        ({"webhookUrl": "https://exa mple.com"}, ["/webhookUrl"]),
        ({"webhookUrl": f"https://example.com/{'x' * 9000}"}, ["/webhookUrl"]),
        ({"webhookUrl": "https://example.com/${env:CRM_KEY}"}, ["/webhookUrl"]),
        ({"webhookUrl": "localhost"}, ["/webhookUrl"]),
        ({"webhookUrl": "127.1"}, ["/webhookUrl"]),
        ({"webhookUrl": "http://[::1]/"}, ["/webhookUrl"]),
        ({"webhookUrl": "http://169.254.169.254/latest/meta-data"}, ["/webhookUrl"]),
        ({"webhookUrl": "http://0x7f.1/"}, ["/webhookUrl"]),
        ({"webhookAuth": 7}, ["/webhookAuth"]),
        ({"webhookAuth": "a\nb"}, ["/webhookAuth"]),
        ({"webhookAuth": "x" * 5000}, ["/webhookAuth"]),
        ({"webhookAuth": "${env:HOME}"}, ["/webhookAuth"]),
        ({"webhookAuth": "${env:REDIS_URL}"}, ["/webhookAuth"]),
        ({"executeAt": "tomorrow-ish"}, ["/executeAt"]),
        ({"executeAt": 7}, ["/executeAt"]),
        ({"executeAt": FAR}, ["/executeAt"]),
        ({"method": "BREW"}, ["/method"]),
        ({"method": "GET", "payload": 1}, ["/payload"]),
        ({"headers": {"Authorization": "x"}}, ["/headers"]),
        ({"headers": {"Host": "x"}}, ["/headers"]),
        ({"headers": {"X": "a\r\nb"}}, ["/headers"]),
        ({"headers": []}, ["/headers"]),
        ({"payload": "x" * 600_000}, ["/payload"]),
        ({"dedupKey": "x" * 201}, ["/dedupKey"]),
        ({"dedupKey": 7}, ["/dedupKey"]),
        ({"priority": "urgent"}, ["/priority"]),
        ({"maxRetries": -1}, ["/maxRetries"]),
        ({"maxRetries": True}, ["/maxRetries"]),
        ({"timeout": 0}, ["/timeout"]),
        ({"timeout": "soon"}, ["/timeout"]),
        ({"timeout": 10_000}, ["/timeout"]),
        ({"tags": "one"}, ["/tags"]),
        ({"tags": [1]}, ["/tags"]),
        ({"webhookURL": URL}, ["/webhookURL"]),
        ({"a/b~c": 1}, ["/a~1b~0c"]),
        ({"priority": "urgent", "method": "BREW"}, ["/method", "/priority"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_at_its_field(
    api: Caller, connection: Redis, fields: dict[str, Any], pointers: list[str]
) -> None:
    before = everything(connection)
    body = {"webhookUrl": URL, **fields}
    kind, problem = api.refused("POST", "/tasks", body)
    assert kind == "422 validation", problem
    assert sorted({e["pointer"] for e in problem["errors"]}) == pointers
    assert all("expected" in e["message"] or "rq-clock's to" in e["message"] or "carries no"
               in e["message"] for e in problem["errors"]), problem  # fmt: skip
    assert "hush-hush" not in str(problem)
    assert everything(connection) == before


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "422 validation"),
        (b"[]", "422 validation"),
        (b"7", "422 validation"),
        (b"{", "422 validation"),
        (b'{"webhookUrl": "a.example", "webhookUrl": "b.example"}', "422 validation"),
        (b'{"webhookUrl": "\\ud800"}', "422 validation"),
        (b"\xff\xfe", "422 validation"),
        (b"[" * 100_000, "422 validation"),
        (b" " * (1024 * 1024 + 1), "413 too-large"),
    ],
)
@pytest.mark.parametrize("path", ["/tasks", "/tasks/batch"])
@pytest.mark.parametrize("sent_as", ["application/json", "text/plain"])
def test_a_body_that_is_no_object_is_refused(
    api: Caller, content: bytes, kind: str, path: str, sent_as: str
) -> None:
    assert api.error("POST", path, content=content, headers={"Content-Type": sent_as}) == kind


def test_a_body_of_another_kind_is_refused(api: Caller) -> None:
    for kind in ("application/x-www-form-urlencoded", "application/xml", ""):
        error = api.error("POST", "/tasks", content=b"{}", headers={"Content-Type": kind})
        assert error == "415 media-type"


def test_a_private_address_may_be_allowed(redis_url: str) -> None:
    api = Caller(app_on(redis_url, RQ_CLOCK_WEBHOOK_ALLOW="127.0.0.1:8080"))
    assert add(api, "http://127.0.0.1:8080/x")
    assert api.faults("POST", "/tasks", {"webhookUrl": "http://127.0.0.1/"}) == ["/webhookUrl"]


# ---- reading ----------------------------------------------------------------------------------


def test_secrets_of_a_task_are_masked(api: Caller) -> None:
    id = add(
        api, f"https://example.com/hook/{SECRET * 2}?token={SECRET}",
        headers={"X-Api-Key": SECRET}, payload={"password": SECRET, "n": 1}, webhookAuth=SECRET,
    )["id"]  # fmt: skip
    texts = [api("GET", path).text for path in ("/tasks", f"/tasks/{id}", "/callbacks", "/audit")]
    assert not [text for text in texts if SECRET in text]
    task = api.call("GET", f"/tasks/{id}")
    assert task["payload"] == {"password": "****", "n": 1}
    assert task["headers"] == {"X-Api-Key": "****"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "012345"),
        ("?status=waiting", "01245"),
        ("?status=canceled", "3"),
        ("?status=done", ""),
        ("?host=example.org", "24"),
        ("?host=EXAMPLE.org&tag=even", "24"),
        ("?tag=odd", "135"),
        ("?q=jobs/4", "4"),
        ("?q=JOBS", "012345"),
        ("?q=no-such", ""),
    ],
)
def test_a_filter_finds_its_tasks(api: Caller, query: str, found: str) -> None:
    for n in range(6):
        host = "example.org" if n in (2, 4) else "example.com"
        task = add(api, f"https://{host}/jobs/{n}", tags=["odd" if n % 2 else "even"])
        if n == 3:
            api.call("POST", f"/tasks/{task['id']}/cancel")
    page = api.call("GET", f"/tasks{query}")
    assert "".join(sorted(task["url"][-1] for task in page["data"])) == found
    assert page["nextCursor"] is None


def test_a_masked_part_is_found_whole_and_by_nobody_who_guesses(api: Caller) -> None:
    secret = "0123456789abcdefghij"
    add(api, f"https://example.com/hook/{secret}")
    for guess in (secret[:-1], secret[1:], f"/{secret[:3]}"):
        assert api.call("GET", f"/tasks?q={guess}")["data"] == []
    assert len(api.call("GET", f"/tasks?q={secret}")["data"]) == 1


def test_pages_follow_each_other(api: Caller) -> None:
    tasks = [{"webhookUrl": f"{URL}/{n}"} for n in range(25)]
    ids = [task["id"] for task in api.call("POST", "/tasks/batch", {"tasks": tasks})["data"]]
    seen: list[str] = []
    path: str | None = "/tasks?limit=10"
    while path:
        answer = api("GET", path)
        seen += [task["id"] for task in answer.json()["data"]]
        assert answer.json()["total"] == 25
        cursor = answer.json()["nextCursor"]
        assert ("next" in answer.headers.get("Link", "")) == bool(cursor)
        path = cursor and f"/tasks?limit=10&cursor={cursor}"
    assert seen == ids


@pytest.mark.parametrize(
    ("query", "at"),
    [("cursor=nonsense", "cursor"), (f"cursor={encode(1, 'x', 'zzz')}", "cursor"),
     (f"cursor={encode(-1, 'x', '0')}", "cursor"), (f"cursor={encode(99, '', '0')}", "cursor"),
     ("status=angry", "status"), ("limit=0", "limit"),
     (f"q={'x' * 201}", "q"), (f"host={'x' * 201}", "host")],
)  # fmt: skip
def test_a_wrong_parameter_is_named(api: Caller, query: str, at: str) -> None:
    assert [fault.rpartition("/")[2] for fault in api.faults("GET", f"/tasks?{query}")] == [at]


@pytest.mark.parametrize("id", [f"task_{'0' * 26}", f"task_{'Z' * 26}"])
def test_a_task_that_is_not_there_is_404(api: Caller, id: str) -> None:
    for method, path in (
        ("GET", ""), ("GET", "/attempts"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""),
    ):  # fmt: skip
        assert api.error(method, f"/tasks/{id}{path}") == "404 not-found", path
    assert api.faults("GET", "/tasks/nonsense") == ["id"]


def test_an_unchanged_task_is_not_sent_again(api: Caller) -> None:
    id = add(api)["id"]
    tag = api("GET", f"/tasks/{id}").headers["ETag"]
    assert api("GET", f"/tasks/{id}", headers={"If-None-Match": tag}).status_code == 304


# ---- operations -------------------------------------------------------------------------------


def test_a_canceled_task_can_be_retried_and_deleted(api: Caller) -> None:
    id = add(api)["id"]
    assert api.error("POST", f"/tasks/{id}/retry") == "409 conflict"
    assert api.call("POST", f"/tasks/{id}/cancel", {"reason": "paid"})["status"] == "canceled"
    assert api.error("POST", f"/tasks/{id}/cancel") == "409 conflict"
    assert api.call("POST", f"/tasks/{id}/retry")["status"] == "waiting"
    assert api("DELETE", f"/tasks/{id}").status_code == 204
    assert api.error("GET", f"/tasks/{id}") == "404 not-found"
    entries = api.call("GET", "/audit")["data"]
    verbs = [(entry["verb"], entry["by"], entry["reason"]) for entry in entries]
    assert verbs == [("delete-task", "admin", ""), ("retry-task", "admin", ""),
                     ("cancel-task", "admin", "paid")]  # fmt: skip


def test_many_are_changed_by_a_filter(api: Caller) -> None:
    for n in range(6):
        add(api, f"https://{'example.org' if n % 2 else 'example.com'}/jobs/{n}")
    result = api.call("POST", "/tasks:cancel", {"filter": {"host": "example.org"}})
    assert result == {"done": 3, "refused": [], "more": False}
    assert api.call("GET", "/tasks?status=canceled")["total"] == 3
    assert api.call("POST", "/tasks:retry", {"filter": {"status": "canceled"}})["done"] == 3
    assert api.call("POST", "/tasks:retry", {"filter": {}})["done"] == 0
    assert api.call("POST", "/tasks:delete", {"filter": {"q": "jobs/1"}})["done"] == 1
    assert api.call("POST", "/tasks:delete", {"filter": {}, "reason": "all"})["done"] == 5
    assert api.call("GET", "/tasks")["data"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/filter"), ({"filter": []}, "/filter"), ({"filter": {"state": "x"}}, "/filter/state"),
     ({"filter": {"status": "angry"}}, "/filter/status"), ({"filter": {}, "x": 1}, "/x")],
)  # fmt: skip
def test_a_bulk_operation_needs_a_right_filter(api: Caller, body: Any, pointer: str) -> None:
    for verb in ("retry", "cancel", "delete"):
        assert api.faults("POST", f"/tasks:{verb}", body) == [pointer]


# ---- configuration ----------------------------------------------------------------------------


def test_the_configuration_is_changed_in_either_spelling(api: Caller) -> None:
    path = "/callbacks/configuration"
    before = api.call("GET", path)
    assert (before["baseIntervalMs"], before["selectSize"], before["maxRetries"]) == (1000, 100, 7)
    changes = {"base_interval_ms": 500, "selectSize": 50, "hostRate": 2.5, "reason": "calmer"}
    after = api.call("PATCH", path, changes)
    assert after == before | {"baseIntervalMs": 500, "selectSize": 50, "hostRate": 2.5}
    assert api.call("PATCH", path, {"hostRate": None})["hostRate"] is None
    assert api.call("GET", path)["baseIntervalMs"] == 500
    entries = api.call("GET", "/audit")["data"]
    assert (entries[1]["verb"], entries[1]["reason"]) == ("configure-callbacks", "calmer")
    assert "500" in str(entries[1]["detail"])


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"baseIntervalMs": 0}, ["/baseIntervalMs"]),
        ({"base_interval_ms": "500"}, ["/baseIntervalMs"]),
        ({"selectSize": 1.5, "maxRetries": -1}, ["/maxRetries", "/selectSize"]),
        ({"mode": "fast"}, ["/mode"]),
        ({"retryDelays": []}, ["/retryDelays"]),
        ({"retryDelays": [-1]}, ["/retryDelays"]),
        ({"selectSize": None}, ["/selectSize"]),
        ({"selectSize": True}, ["/selectSize"]),
        ({"no_such": 1}, ["/no_such"]),
        ({"select_size": 1, "selectSize": 2}, ["/selectSize"]),
        ({"reason": 7}, ["/reason"]),
    ],
)
def test_a_wrong_value_changes_nothing(api: Caller, changes: Any, pointers: list[str]) -> None:
    path = "/callbacks/configuration"
    before = api.call("GET", path)
    assert sorted(api.faults("PATCH", path, {"dispatchers": 2, **changes})) == pointers
    assert api.call("GET", path) == before
    assert api.call("GET", "/audit")["data"] == []


def test_the_status_counts_tasks(api: Caller) -> None:
    add(api)
    add(api, executeAt=iso(datetime.now(UTC) + timedelta(days=1)))
    status = api.call("GET", "/callbacks")
    assert status["counts"]["waiting"] == 2
    assert (status["due"], status["workers"], status["dispatchers"]) == (1, 0, 0)
    assert status["failingHosts"] == status["minutes"] == []


# ---- scopes -----------------------------------------------------------------------------------

ADDS = [("POST", "/tasks", {"webhookUrl": URL}),
        ("POST", "/tasks/batch", {"tasks": [{"webhookUrl": URL}]})]  # fmt: skip
READS = [
    ("GET", path, None)
    for path in ("/tasks", "/tasks/{id}", "/tasks/{id}/attempts", "/callbacks",
                 "/callbacks/configuration")
]  # fmt: skip
OPERATES: list[Any] = [("POST", "/tasks/{id}/cancel", {}), ("POST", "/tasks/{id}/retry", {}),
            ("POST", "/tasks:retry", {"filter": {}}), ("POST", "/tasks:cancel", {"filter": {}}),
            ("POST", "/tasks:delete", {"filter": {}}), ("DELETE", "/tasks/{id}", None)]  # fmt: skip
CONFIGURES = [("PATCH", "/callbacks/configuration", {"selectSize": 5})]
ALLOWED = {
    "tasks": (ADDS, READS, OPERATES),
    "read": (READS,),
    "operate": (READS, OPERATES),
    "admin": (ADDS, READS, OPERATES, CONFIGURES),
}


@pytest.mark.parametrize("scope", ALLOWED)
def test_a_token_reaches_the_routes_of_its_scope(redis_url: str, api: Caller, scope: str) -> None:
    limited = caller(redis_url, scope)
    for routes in (ADDS, READS, OPERATES, CONFIGURES):
        for method, path, body in routes:
            id = add(api)["id"]
            answer = limited(method, path.format(id=id), body)
            allowed = routes in ALLOWED[scope]
            assert (answer.status_code != 403) == allowed, (scope, method, path)


def test_a_token_for_tasks_reaches_nothing_else(redis_url: str) -> None:
    tasks = caller(redis_url, "tasks")
    for path in ("/schedules", "/clock", "/audit", "/queues", "/runs", "/manifest"):
        assert tasks.error("GET", path) == "403 forbidden"


def test_a_read_only_process_refuses_every_change(redis_url: str) -> None:
    api = Caller(app_on(redis_url, read_only=True))
    for method, path, body in (*ADDS, *OPERATES, *CONFIGURES):
        id = f"task_{'0' * 26}"
        assert api.error(method, path.format(id=id), body) == "403 read-only", path


def test_no_auth_is_in_a_repr() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    task = Task(
        id="task_1", status="waiting", url=f"https://example.com/?token={SECRET}", created_at=at,
        execute_at=at, due_at=at, headers={"X-Api-Key": SECRET}, payload=SECRET,
    )  # fmt: skip
    assert SECRET not in repr(task)
