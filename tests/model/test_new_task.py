"""Requests for tasks of callbacks: what is right, and one fault for each thing that is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rq_clock.errors import ScheduleError
from rq_clock.model.new_task import NewTask, _complete_url, complete_url, named_variable
from rq_clock.model.task import Task, TaskFilter, key_of_id

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
URL = "https://example.com/jobs/7"


def fields(task: NewTask, **options: Any) -> list[str]:
    options = {"key": True, "variables": {"CRM_KEY"}, **options}
    return [fault.field for fault in task.faults(NOW, **options)]


def test_the_request_of_a_browser_is_read() -> None:
    task = NewTask.from_request(
        {"webhookUrl": "your.client.handler/jobs/7", "webhookAuth": "abc",
         "executeAt": "2026-03-01T13:00:00.000Z"}
    )  # fmt: skip
    assert fields(task) == []
    assert task.full_url == "https://your.client.handler/jobs/7"
    assert task.execute_at == datetime(2026, 3, 1, 13, tzinfo=UTC)


def test_a_request_has_all_options() -> None:
    task = NewTask.from_request(
        {
            "webhookUrl": URL, "webhookAuth": "Basic abc", "executeAt": "2026-03-01T13:00:00+02:00",
            "method": "PUT", "headers": {"X-A": "1"}, "payload": {"a": 1}, "dedupKey": "k",
            "priority": "low", "maxRetries": 2, "timeout": "1m30s", "tags": ["a"],
        }
    )  # fmt: skip
    assert fields(task) == []
    assert (task.timeout, task.tags, task.priority) == (90.0, ("a",), "low")
    assert task.execute_at == datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=2)))


def test_null_means_the_default() -> None:
    names = ("webhookAuth", "executeAt", "method", "headers", "payload", "dedupKey", "priority",
             "maxRetries", "timeout", "tags")  # fmt: skip
    assert NewTask.from_request({"webhookUrl": URL, **dict.fromkeys(names)}) == NewTask(url=URL)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], [""]),
        ({}, ["webhookUrl"]),
        ({"webhookUrl": None}, ["webhookUrl"]),
        ({"webhookUrl": URL, "url": 1, "x": 2}, ["url", "x"]),
        ({"webhookUrl": URL, "executeAt": "tomorrow"}, ["executeAt"]),
        ({"webhookUrl": URL, "executeAt": 1772366400}, ["executeAt"]),
        ({"webhookUrl": URL, "executeAt": "2026-03-01T13:00"}, ["executeAt"]),
    ],
)
def test_a_request_that_cannot_be_read_names_its_fields(
    document: object, expected: list[str]
) -> None:
    with pytest.raises(ScheduleError) as refused:
        NewTask.from_request(document)
    assert [fault.field for fault in refused.value.faults] == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"url": ""}, "webhookUrl"),
        ({"url": 7}, "webhookUrl"),
        ({"url": "ftp://example.com/x"}, "webhookUrl"),
        ({"url": "https://"}, "webhookUrl"),
        ({"url": "https:///x"}, "webhookUrl"),
        ({"url": "https://user:pw@example.com/x"}, "webhookUrl"),
        ({"url": "user@example.com/x"}, "webhookUrl"),
        ({"url": "https://example.com:0/x"}, "webhookUrl"),
        ({"url": "https://example.com:99999/x"}, "webhookUrl"),
        ({"url": "https://example.com/a b"}, "webhookUrl"),
        ({"url": "https://example.com/\n"}, "webhookUrl"),
        ({"url": "https://example.com/" + "x" * 8000}, "webhookUrl"),
        ({"url": "https://example.com/${env:CRM_KEY}"}, "webhookUrl"),
        ({"url": "https://[::1/x"}, "webhookUrl"),
        ({"auth": "a\r\nX-Evil: 1"}, "webhookAuth"),
        ({"auth": "ä"}, "webhookAuth"),
        ({"auth": " a"}, "webhookAuth"),
        ({"auth": "x" * 5000}, "webhookAuth"),
        ({"auth": 7}, "webhookAuth"),
        ({"auth": "${env:OTHER}"}, "webhookAuth"),
        ({"auth": "${env:}"}, "webhookAuth"),
        ({"execute_at": NOW + timedelta(days=367)}, "executeAt"),
        ({"execute_at": NOW.replace(tzinfo=None)}, "executeAt"),
        ({"execute_at": "now"}, "executeAt"),
        ({"method": "EAT"}, "method"),
        ({"method": None}, "method"),
        ({"method": "GET", "payload": {"a": 1}}, "payload"),
        ({"headers": ["a"]}, "headers"),
        ({"headers": {"X-A": 1}}, "headers"),
        ({"headers": {"X-A": "a\nb"}}, "headers"),
        ({"headers": {"X A": "b"}}, "headers"),
        ({"headers": {"host": "b"}}, "headers"),
        ({"headers": {"Authorization": "b"}}, "headers"),
        ({"headers": {"Webhook-Signature": "b"}}, "headers"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers"),
        ({"headers": {"X-A": "${env:CRM_KEY}"}}, "headers"),
        ({"payload": float("nan")}, "payload"),
        ({"payload": {1: 2}}, "payload"),
        ({"payload": {"a": object()}}, "payload"),
        ({"payload": "x" * 600_000}, "payload"),
        ({"payload": "\ud800"}, "payload"),
        ({"dedup_key": "x" * 201}, "dedupKey"),
        ({"dedup_key": 7}, "dedupKey"),
        ({"priority": "urgent"}, "priority"),
        ({"priority": []}, "priority"),
        ({"max_retries": -1}, "maxRetries"),
        ({"max_retries": 101}, "maxRetries"),
        ({"max_retries": True}, "maxRetries"),
        ({"max_retries": "3"}, "maxRetries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 301}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"tags": ("",)}, "tags"),
        ({"tags": "abc"}, "tags"),
        ({"tags": ("a",) * 51}, "tags"),
    ],
)
def test_each_wrong_value_is_one_fault_of_its_field(change: dict[str, Any], expected: str) -> None:
    options: dict[str, Any] = {"url": URL, **change}
    assert set(fields(NewTask(**options))) == {expected}


def test_a_url_that_is_too_long_is_not_kept() -> None:
    before = _complete_url.cache_info().currsize
    task = NewTask(url="https://example.com/" + "x" * 100_000)
    assert fields(task) == ["webhookUrl"]
    assert _complete_url.cache_info().currsize == before


def test_all_faults_come_at_once() -> None:
    task = NewTask(url="ftp://x/y", method="EAT", priority="top", max_retries=-1)
    assert fields(task) == ["webhookUrl", "method", "priority", "maxRetries"]


def test_no_fault_shows_an_auth() -> None:
    secret = "open-sesame-0123456789"
    for auth in (f"{secret}\n", f" {secret}", f"{secret} ${{env:OTHER}}", secret):
        task = NewTask(url=URL, auth=auth)
        texts = [fault.text for fault in task.faults(NOW)]
        assert texts
        assert not any(secret in text for text in texts)
        assert secret not in repr(task)


def test_an_auth_needs_a_key_unless_it_only_names_a_variable() -> None:
    assert fields(NewTask(url=URL, auth="abc"), key=False) == ["webhookAuth"]
    assert fields(NewTask(url=URL, auth="${env:CRM_KEY}"), key=False) == []
    assert fields(NewTask(url=URL, auth="Bearer ${env:CRM_KEY}"), key=False) == []
    assert fields(NewTask(url=URL, auth="abc-${env:CRM_KEY}"), key=False) == ["webhookAuth"]
    assert named_variable("a b ${env:CRM_KEY}") == ""


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("example.com/x", "https://example.com/x"),
        ("//example.com/x", "https://example.com/x"),
        ("localhost:8000/x", "https://localhost:8000/x"),
        ("HTTP://Example.COM:80/X?a=B", "http://example.com/X?a=B"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("https://example.com:/x", "https://example.com/x"),
    ],
)
def test_urls_of_one_host_have_one_name_for_it(url: str, full: str) -> None:
    assert complete_url(url) == full


@given(
    st.dictionaries(
        st.sampled_from(["webhookUrl", "webhookAuth", "executeAt", "method", "headers", "payload",
                         "dedupKey", "priority", "maxRetries", "timeout", "tags"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
)  # fmt: skip
def test_nothing_that_json_can_say_raises_anything_but_faults(document: dict[str, Any]) -> None:
    try:
        task = NewTask.from_request(document)
    except ScheduleError:
        return
    repr(task)
    for fault in task.faults(NOW):
        assert fault.field in {
            "webhookUrl", "webhookAuth", "executeAt", "method", "headers", "payload", "dedupKey",
            "priority", "maxRetries", "timeout", "tags",
        }  # fmt: skip


def test_ids_that_are_none_have_no_key() -> None:
    for id in ("", "task_", "task_ILOU" + "0" * 22, "0" * 26, None, 7, "task_" + "0" * 26 + "\n"):
        assert key_of_id(id) == ""
    assert key_of_id("task_" + "0" * 26) == "0" * 26


def test_a_filter_compares_all_that_is_set() -> None:
    task = Task(
        id="task_" + "0" * 26, status="waiting", url="https://example.com:81/Jobs",
        created_at=NOW, execute_at=NOW, due_at=NOW, tags=("a",),
    )  # fmt: skip
    assert TaskFilter().fits(task)
    assert TaskFilter(status="waiting", host="EXAMPLE.com:81", tag="a", text="jobs").fits(task)
    assert not TaskFilter(host="example.com").fits(task)
    assert not TaskFilter(tag="b").fits(task)
    assert not TaskFilter(before=NOW - timedelta(seconds=1)).fits(task)
    assert "secret" not in repr(Task(**{**{f: getattr(task, f) for f in task.__slots__},
                                       "url": "https://example.com/?key=secret"}))  # fmt: skip
