"""Answers match the document, definitions of any shape are accepted or refused, and secrets are
masked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq import Worker as StockWorker

from rq_clock.timing.triggers import cron
from tests.web.client import Caller, app_on, schedules_on

SECRET = "hush-hush-hush"
WHEN: list[dict[str, Any]] = [
    {"cron": "*/5 * * * *"},
    {"cron": "0 6 L * *", "tz": "Europe/Berlin"},
    {"every": "90s", "anchor": "2026-01-01T00:00:00+05:30"},
    {"every": 1500},
    {"once": "2090-01-01T00:00:00Z"},
    {"once": "2020-01-01T00:00:00.0001Z"},
]
WHAT: list[dict[str, Any]] = [
    {"func": "tests.worker.jobs.add", "args": [1, {"a": None}], "kwargs": {"b": 1.5}},
    {"command": "df -h /"},
    {"command": {"shell": "df", "env": {"API_KEY": SECRET}, "cwd": "/tmp", "timeout": "5s"}},
    {"webhook": "https://example.com/hook"},
    {"webhook": {"url": "https://example.com/x", "json": {"token": SECRET}, "method": "PUT",
                 "headers": {"Authorization": f"Bearer {SECRET}"}}},
    {"dyno": {"shell": "python report.py", "env": {"API_KEY": SECRET}, "size": "standard-2x"}},
]  # fmt: skip
HOW: dict[str, list[Any]] = {
    "queue": ["q", "odd queue:ü"], "timeout": [5, "10m", -1], "retries": [0, 3, [10, 60]],
    "resultTtl": [0, "1h"], "failureTtl": [-1, 5], "catchUp": ["all", "none", "latest"],
    "catchUpWindow": ["1h", 0.5], "catchUpLimit": [7], "overlap": ["skip", "allow"],
    "group": ["g"], "groupLimit": [1, 3], "jitter": ["1m", 2], "tags": [[], ["x", "y"]],
    "ping": ["https://hc.example.com/p/" + SECRET * 2],
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 10**30, -(10**400), 1e308, 0.1, "", " ", "\0", "x" * 2000, "'",
    "******", "****", "…", "😀", [], [[]], ["a", 1], {}, {"": ""}, {"shell": 1},
    {"url": None}, {"a": {"b": {"c": []}}}, "2026-01-01", "1ms", "99999999999w", "61 * * * *",
]  # fmt: skip
FIELDS = ("cron", "tz", "every", "anchor", "once", "func", "args", "kwargs", "command", "dyno",
          "webhook", "paused", "name", "renamedFrom", *HOW)  # fmt: skip


def fill(api: Caller, connection: Redis, work: Callable[[], None]) -> dict[str, str]:
    """One of each; what the parameters of paths stand for."""
    for n, when in enumerate(WHEN):
        api.call("PUT", f"/schedules/s{n}", {**when, **WHAT[n % len(WHAT)]})
    api.call("PUT", "/schedules/bad", {"every": "1h", "func": "tests.worker.jobs.fail"})
    api.call("PUT", "/schedules/it", {
        "every": "1h", "func": "tests.worker.jobs.fail", "kwargs": {"text": "oh", "token": SECRET},
        **{key: values[-1] for key, values in HOW.items()
           if key not in ("queue", "catchUpLimit", "overlap", "retries", "timeout")},
    })  # fmt: skip
    schedules_on(connection).add("nightly", cron("0 3 * * *"), "tasks.nightly")
    connection.sadd("rq-clock:default:declared", "nightly")
    job = api.call("POST", "/schedules/it/runs")["job"]
    api.call("POST", "/schedules/bad/runs")
    work()
    later = api.call("POST", "/schedules/it/runs", {"reason": "again"})["job"]
    connection.rpush("rq-clock:default:ledger:it", "- 1000 2000 3 overlap", f"x 3000 {later}")
    api.call("POST", "/schedules/it/pause", {"until": "2090-01-01T00:00:00Z"})
    api.call("POST", "/schedules/s0/skip", {"count": 2})
    span = {"from": "2026-01-01", "to": "2026-01-02"}
    made = api.call("POST", "/schedules/it/backfills", span)["id"]
    connection.hset("rq-clock:default:definitions", "s3", '{"moon": "full"}')
    connection.set(f"rq-clock:default:output:{job}", b"out\n")
    task = api.call("POST", "/tasks", {"webhookUrl": f"https://example.com/?token={SECRET}"})["id"]
    return {"name": "it", "id": job, "backfill": made, "queue": "default", "task": task}


def test_responses_match_the_document(
    api: Caller, connection: Redis, work: Callable[[], None]
) -> None:
    known = fill(api, connection, work)
    worker: Any = StockWorker(["default"], connection=connection)
    worker.register_birth()
    document, held = api.call("GET", "/openapi.json"), set()
    for path, methods in document["paths"].items():
        answer = methods.get("get", {}).get("responses", {}).get("200", {})
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if not schema or "manifest" in path:
            continue
        key = {"backfills": "backfill", "queues": "queue", "tasks": "task"}.get(
            path.split("/")[3], ""
        )
        filled = path.replace("{name}", known[key or "name"]).replace("{id}", known[key or "id"])
        api.call("GET", filled.removeprefix("/api/v1"))  # which holds it against the document
        held.add(schema["$ref"])
    assert len(held) >= 17, held
    assert api.call("GET", "/workers")["data"]
    assert api.call("GET", "/clock?checks=true")["checks"]


def test_no_secret_is_returned(api: Caller, connection: Redis, work: Callable[[], None]) -> None:
    known = fill(api, connection, work)
    for n, what in enumerate(WHAT):
        body = {"name": f"k{n}", "every": "1h", "retries": 1, **what}
        answer = api("POST", "/schedules", body, headers={"Idempotency-Key": f"k{n}"})
        assert answer.status_code == 201
        assert SECRET not in answer.text
        api.call("POST", f"/schedules/k{n}/runs")
    texts = [
        api("GET", f"/{path}").text
        for path in ("schedules?limit=200", "schedules/k2", "schedules/k4", "manifest", "audit",
                     "manifest?format=json", "jobs?kind=queued", "jobs", "runs", "backfills",
                     f"jobs/{known['id']}", f"runs/{known['id']}", "clock?checks=true",
                     "tasks", f"tasks/{known['task']}", f"tasks/{known['task']}/attempts",
                     "callbacks")
    ]  # fmt: skip
    wrong = {"every": "1h", "webhook": {"url": 1, "headers": {"Authorization": [SECRET]}}}
    texts.append(api("PUT", "/schedules/x", wrong).text)
    kept: Any = connection.keys("rq-clock:default:idempotency:*")
    texts += [str(connection.get(record)) for record in kept]
    assert not [text for text in texts if SECRET in text]
    definition: Any = connection.hget("rq-clock:default:definitions", "k4")
    assert SECRET in definition.decode()


def test_definitions_of_any_shape_are_accepted_or_refused(redis_url: str) -> None:
    api = Caller(app_on(redis_url))
    right = st.fixed_dictionaries(
        {}, optional={key: st.sampled_from(values) for key, values in HOW.items()}
    )
    wrong = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=3)

    @settings(
        deadline=None, max_examples=settings.default.max_examples // 2 if settings.default else 150,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        when=st.sampled_from([{}, *WHEN]),
        what=st.sampled_from([{}, *WHAT]),
        how=right,
        odd=st.one_of(st.just({}), wrong),
        verb=st.sampled_from(["PUT", "PATCH"]),
    )
    def hold(when: Any, what: Any, how: Any, odd: Any, verb: str) -> None:
        if verb == "PATCH":
            api.call("PUT", "/schedules/a", {**WHEN[0], **WHAT[0]})
        answer = api(verb, "/schedules/a", {**when, **what, **how, **odd})
        assert answer.status_code in (200, 201, 422), answer.text
        if answer.status_code == 422:
            assert answer.json()["errors"]
            return
        view = answer.json()
        again = api.call("PUT", "/schedules/a", view["definition"])
        assert again["definition"] == view["definition"]
        manifest = {"version": 1, "schedules": {"a": view["definition"]}}
        assert api.call("PUT", "/manifest", json.loads(json.dumps(manifest)))["equal"]
        api("DELETE", "/schedules/a")

    hold()
