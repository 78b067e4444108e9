"""Bytes that others, or a later release, have written are one task's problem: every page, list and
command is served, with its neighbour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from tests.cli.terminal import Run
from tests.test_foreign_data import KEY, ODD
from tests.web.client import API, VALUES, app_on

WORDS = b"waiting 0 0 0 0 - - - 0 0 normal - - POST https://example.com/ "
RECORDS = (
    WORDS, WORDS.replace(b"waiting", b"calling-waiting"), WORDS.replace(b"waiting", b"stale"),
    WORDS.replace(b"0 0 0 0", b"x y z -1"), WORDS.replace(b"0 0 0 0", b"9e99 1e300 0 9e999"),
    WORDS.replace(b"normal", b"urgent"), WORDS.replace(b"https://example.com/", b"http://[::1"),
    WORDS.replace(b"https://example.com/", b"\xff\xfe"), WORDS.replace(b"POST", b"\xff"),
    WORDS + b"e", WORDS + b"v${env:X}", WORDS + b"\xff",
)  # fmt: skip
Plant = Callable[[Any, str, bytes], Any]
"""Writes an odd value for one task."""


def of(key: str) -> Plant:
    return lambda redis, id, value: redis.hset(KEY + key, id, value)


def field(key: str, name: str) -> Plant:
    return lambda redis, id, value: redis.hset(KEY + key, name, value)


PLANTS: dict[str, Plant] = {
    "record": of("tasks"),
    "details": of("task-details"),
    "tags": of("task-tags"),
    "attempts": lambda redis, id, value: redis.rpush(f"{KEY}task-attempts:{id}", value),
    "failing host": of("task-failing"),
    "minutes": field("task-minutes", "29000000 ok"),
    "configuration": field("task-configuration", "base_interval_ms"),
    "delays": field("task-configuration", "retry_delays"),
    "member": lambda redis, id, value: redis.zadd(KEY + "task-queue:3", {value: 1}),
    "stale member": lambda redis, id, value: redis.zadd(KEY + "task-stale", {value: 1}),
}


@pytest.mark.parametrize("what", PLANTS)
def test_an_odd_value_keeps_no_neighbour_from_being_shown(
    redis_url: str, connection: Redis, store: Store, what: str
) -> None:
    redis: Any = connection
    settings = Settings.from_env({"REDIS_URL": redis_url})
    callbacks = Callbacks(connection, by="ana", settings=settings)
    neighbour, victim = (
        callbacks.enqueue(NewTask(url=f"https://example.com/{name}"))[0].id
        for name in ("neighbour", "victim")
    )
    key = victim.removeprefix("task_")
    dispatch = Dispatch(store, "d1")
    dispatch.enter()
    [task] = dispatch.claim(1).tasks
    assert task.id == neighbour
    dispatch.finish([CallResult(id=task.id, attempt=1, result="gone", seconds=1)])
    browser = TestClient(app_on(redis_url, RQ_CLOCK_TOKEN_RATE="10000"))
    browser.headers["Authorization"] = f"Bearer {VALUES['admin']}"
    before = redis.hget(KEY + "tasks", key)
    values = (*ODD, *RECORDS) if what == "record" else ODD
    for value in values:
        redis.hset(KEY + "tasks", key, before)
        PLANTS[what](redis, key, value)
        for path in (
            "/callbacks?state=stale", "/callbacks?state=waiting", f"/callbacks/{victim}",
            "/callbacks/configuration", f"{API}/tasks", f"{API}/tasks/{victim}",
            f"{API}/callbacks", f"{API}/callbacks/configuration", f"{API}/tasks?q=neighbour",
        ):  # fmt: skip
            answer = browser.get(path)
            while "no answer in time" in answer.text:  # this machine is busy
                answer = browser.get(path)
            assert answer.status_code in (200, 404, 409, 422), (path, value, answer.text)
            if victim not in path:
                assert answer.status_code == 200, (path, value)
        assert "neighbour" in browser.get("/callbacks?state=stale").text
        assert "neighbour" in browser.get(f"{API}/tasks").text
    run = Run(redis_url)
    assert neighbour in run.ok("callbacks", "list")
    for words in (("list", "--json"), ("status",), ("configure",), ("show", neighbour)):
        run.ok("callbacks", *words)
    assert run.json("callbacks", "delete", neighbour)["done"] == 1
