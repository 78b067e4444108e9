"""The API matches its document for any request: no 500, only documented responses, valid bodies.
Schemathesis makes the requests, valid and invalid; names and ids are often those of things that
exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.job import Job, JobStatus
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.model.targets import command, webhook
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import cron, every, once
from tests.server import free_url
from tests.web.client import VALUES, app_on

EXAMPLES = int(os.environ.get("RQ_CLOCK_EXAMPLES", "300"))
FEW = max(2, EXAMPLES // 30)
"""Requests to an operation, right ones and wrong ones each."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
NAMES = ["daily", "often", "shell", "hook", "later", "gone"]


OPERATIONS = [
    (method.upper(), path)
    for path, methods in app_on(free_url()).openapi()["paths"].items()
    for method in methods
]


@pytest.fixture
def api(redis_url: str) -> Iterator[Any]:
    """The document of an app whose Redis has one of each."""
    with Redis.from_url(redis_url) as redis:
        fill(redis, Settings.from_env({"REDIS_URL": redis_url}))
        yield schemathesis.openapi.from_asgi(
            "/api/v1/openapi.json",
            app_on(redis_url),
            headers={"Authorization": f"Bearer {VALUES['admin']}"},
        )


def fill(redis: Redis, settings: Settings) -> None:
    schedules = Schedules(redis, by="ana", settings=settings)
    schedules.add("daily", cron("30 2 * * *", tz="Europe/Berlin"), "os.getcwd", tags=["x"])
    schedules.add("often", every(minutes=5), "os.getcwd", overlap="allow")
    schedules.add("shell", every(hours=1), command("df", env={"API_KEY": "secret-value"}))
    schedules.add("hook", cron("0 6 L * *"), webhook("https://example.com/hook", json=[1]))
    schedules.add("later", once(datetime.now(UTC) + timedelta(days=1)), "os.getcwd")
    schedules.pause("shell", reason="why not")
    schedules.skip("daily", 2)
    schedules.backfill("often", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    failed = Job.fetch(schedules.trigger("often"), connection=redis)
    failed.set_status(JobStatus.FAILED)
    schedules.trigger("often")
    callbacks = Callbacks(redis, by="ana", settings=settings)
    url = "https://example.com/jobs"
    added = callbacks.enqueue_many([NewTask(url=url, dedup_key=name) for name in ("a", "b", "c")])
    callbacks.cancel(added[0][0].id)
    redis.set(f"rq-clock:default:output:{failed.id}", b"some output\n")


def ids(api: Any) -> list[str]:
    """Values for the parameters of paths that name something."""
    redis = api.app.state.web.redis
    jobs = [key.decode().removeprefix("rq:job:") for key in redis.keys("rq:job:*")]
    backfills = [id.decode() for id in redis.zrange("rq-clock:default:backfills", 0, -1)]
    tasks = [f"task_{id.decode()}" for id in redis.hkeys("rq-clock:default:tasks")]
    return [*jobs, *backfills, *tasks]


def hold(api: Any, method: str, path: str, examples: int, *, always_alike: bool) -> None:
    operation = api[path][method]
    names = NAMES if "{name}" in path else ids(api)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=always_alike,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of([operation.as_strategy(mode) for mode in GenerationMode]),
        name=st.sampled_from([*names, ""]),
    )
    def one(case: Any, name: str) -> None:
        for parameter in case.path_parameters or {}:
            if name:
                case.path_parameters[parameter] = name
        case.call_and_validate(
            headers={"Authorization": f"Bearer {VALUES['admin']}"}, checks=CHECKS
        )

    one()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_matches_its_document(api: Any, method: str, path: str) -> None:
    hold(api, method, path, FEW * 2, always_alike=True)


@pytest.mark.soak
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_matches_it_at_length(api: Any, method: str, path: str) -> None:
    hold(api, method, path, 100 * FEW, always_alike=False)
