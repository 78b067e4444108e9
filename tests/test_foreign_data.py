"""Bytes that others, or a later release, have written are one item's problem: the clock fires the
neighbour, its duties go on, and every page, list and command is served.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.alerts.monitor import Monitor
from rq_clock.alerts.rules import TickReport
from rq_clock.clock.backfiller import Backfiller
from rq_clock.errors import ScheduleError
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.reaper import Reaper
from rq_clock.model.schedule import Schedule
from rq_clock.settings import Settings
from rq_clock.store.audit import Actor
from rq_clock.store.backfills import Backfill
from rq_clock.store.operations import Operations
from rq_clock.timing.triggers import every
from tests.cli.terminal import Run
from tests.clock.test_planner import SECOND, Wall, each, schedule
from tests.helpers import Events
from tests.model.test_bounds import ODD as VALUES_OF_OPTIONS
from tests.model.test_bounds import PLACES
from tests.web.client import API, VALUES, app_on

KEY = "rq-clock:default:"
ODD = (
    b"", b"\xff", b"{", b"null", b"[]", b"-1", b"inf", b"0 0", b"9" * 25, b"9" * 5000, b"1e300",
    b"\x00", b'"\\ud800"', b"[" * 50_000, b"s 1 2", b"- 1 2 3 x", b"007 0",
    b'{"since":1e300,"until":-5,"reason":1,"by":[],"missed":"x"}',
    b'{"since":0,"until":99999999999999999,"reason":"\\ud800","by":"x","missed":"latest"}',
    b'{"every":1000,"func":"a.b","later":1}', b'{"every":1000,"func":"tasks.x","queue":"\\ud800"}',
)  # fmt: skip
PAGES = ("/", "/clock", "/queues", "/runs", "/timeline", "/audit", "/?state=invalid", "/metrics",
         f"{API}/schedules", f"{API}/clock", f"{API}/queues", f"{API}/runs", f"{API}/audit",
         f"{API}/backfills", f"{API}/workers")  # fmt: skip
SCORES = ("-inf", "inf", "1e300", "-1e300", "0", "1.5", "1e15")
BACKFILL = ("schedule", "start", "end", "at_once", "total", "by", "since", "rule", "left_out",
            "state", "cursor", "enqueued", "jobs")  # fmt: skip
Plant = Callable[[Any, str, bytes], Any]
"""Writes an odd value for one schedule."""


def of(key: str) -> Plant:
    return lambda redis, name, value: redis.hset(KEY + key, name, value)


def of_its_backfill(field: str) -> Plant:
    return lambda redis, name, value: redis.hset(KEY + f"backfill:{name}-5", field, value)


def of_another_type(key: str) -> Plant:
    def plant(redis: Any, name: str, value: bytes) -> None:
        redis.delete(KEY + key.format(name))
        redis.set(KEY + key.format(name), value)

    return plant


def stream(key: str, **fields: str) -> Plant:
    def plant(redis: Any, name: str, value: bytes) -> None:
        for field in fields:
            redis.xadd(KEY + key, {f: v.format(name) for f, v in fields.items()} | {field: value})
        redis.xadd(KEY + key, {value: value})

    return plant


OWN: dict[str, Plant] = {
    **{key: of(key) for key in ("definitions", "markers", "revisions", "pauses", "skips")},
    **{key: of(key) for key in ("succeeded", "outcomes")},
    **{f"b-{field}": of_its_backfill(field) for field in BACKFILL},
    "ledger": lambda redis, name, value: redis.rpush(KEY + f"ledger:{name}", value),
    "no-ledger": of_another_type("ledger:{}"),
    "no-counters": of_another_type("counters:{}"),
    "no-days": of_another_type("days:{}"),
    "days": lambda redis, name, value: redis.hset(KEY + f"days:{name}", value, value),
    "no-failed": of_another_type("failed:{}"),
    "no-backfill": of_another_type("backfill:{}-5"),
    "counters": lambda redis, name, value: redis.hset(KEY + f"counters:{name}", value, value),
    "due": lambda redis, name, _: redis.zadd(KEY + "due", dict.fromkeys([name], SCORES[0])),
    "audit": stream("audit", by="a", verb="a", schedules="{}", count="1", reason="", detail="{{}}"),
    "runs": stream("runs", schedule="{}", job="default-{}-1", entry="s 1 2 ok 1 1 2 w", again=""),
}
"""Place → what is odd there; the place is the head of its schedules' names."""


def plant_names(redis: Any) -> None:
    """Write odd names into everything that holds names, and keys of another type."""
    for i, value in enumerate(ODD):
        for key in ("definitions", "markers", "pauses", "workers", "alerts", "counters"):
            redis.hset(KEY + key, value, b"x")
        for key in ("due", "duties", "backfills", "failing"):
            redis.zadd(KEY + key, {value: SCORES[i % len(SCORES)]})
        for duty in (b"pause:", b"backfill:", b"later:"):
            redis.zadd(KEY + "duties", {duty + value[:300]: 1})
        redis.hset(KEY + "alerts", f"late:n{i}", value)
        redis.hset(KEY + "alerts", f"stuck:n{i}", value)
        redis.hset(KEY + "workers", f"w{i}", value)
        redis.hset(KEY + "counters", b"run ok " + value[:99], value)
        redis.xadd(KEY + "handovers", dict.fromkeys(["instance", "owner", "how", "from"], value))
        redis.sadd(KEY + "groups", value, f"g{i}")
        redis.rpush(KEY + f"waiting:g{i}", f"j{i}")
        redis.hset(f"rq:job:j{i}", mapping={"status": "deferred", "origin": value})
        redis.hset(f"rq:job:j{i}", "rq_clock_group_limit", value)
        redis.sadd("rq:queues", value, b"rq:queue:" + value)
        redis.rpush(b"rq:queue:" + value, value)
        redis.sadd("rq:workers", value)
    for kind in ("queue", "scheduled", "failed", "finished", "deferred", "wip", "canceled"):
        redis.sadd("rq:queues", f"rq:queue:{kind}")
        redis.set(f"rq:{kind}:{kind}", "x")
    redis.hset(KEY + "revisions", "*", b"\xff")
    redis.hset(KEY + "pauses", "*", b"\xff")


class Look:
    """A namespace full of odd data, after some seconds of a clock."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.wall = Wall(redis)
        self.wall.now = self.start = datetime.now(UTC).replace(microsecond=0)
        redis.persist(KEY + "lease")  # however slow the machine is
        names = [f"{place}-{i}" for place in OWN for i in range(len(ODD))]
        options: dict[str, Any] = {"queue": "other"}
        bad = (schedule(every(seconds=1), name, **options) for name in names)
        self.wall.declare(schedule(every(seconds=1), "good"), *bad)
        self.wall.run(self.start + SECOND)
        backfills = Operations(self.wall.store).backfills
        for name in names:
            backfills.create(self.backfill(name), Actor(by="ana"))
        for place, plant in OWN.items():
            for i, value in enumerate(ODD):
                plant(redis, f"{place}-{i}", value)
        redis.zadd(KEY + "due", {f"due-{i}": SCORES[i % len(SCORES)] for i in range(len(ODD))})
        plant_names(redis)
        self.wall.lead("clock.2")  # which has read nothing yet
        redis.persist(KEY + "lease")
        self.wall.planner.look_again([*(v.decode(errors="replace") for v in ODD), "*"])

    def backfill(self, name: str) -> Backfill:
        start = self.start - timedelta(minutes=1)
        return Backfill(
            id=f"{name}-5", schedule=name, start=start, end=self.start, at_once=1, total=60,
            by="ana", reason="", since=self.start, rule='{"every": 1000}',
        )  # fmt: skip


@pytest.mark.integration
def test_whatever_is_stored_the_neighbour_fires_and_everything_is_served(
    connection: Redis, redis_url: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # commands add the app's directory
    look = Look(connection)
    wall, settings = look.wall, Settings.from_env({"REDIS_URL": redis_url})
    wall.run(look.start + 4 * SECOND)
    assert wall.enqueued("good") == each(look.start, SECOND, 4)
    invalid = [event["schedule"] for event in events("schedule.invalid")]
    assert len(invalid) == len(set(invalid)) > 3 * len(ODD)

    backfiller, monitor = Backfiller(wall.store), Monitor(wall.store, settings)
    reaper = Reaper(Executions(connection, "default"))
    for second in range(40):
        backfiller.look(wall.lease, wall.now + second * SECOND)
    for moment in (0.0, 100.0):
        monitor.look(moment, wall.now, TickReport(refused=False, faulty={}, lost=()), wall.lease)
    for moment in range(0, 20, 4):
        reaper.look(float(moment), wall.now)

    app = app_on(redis_url)
    headers = {"Authorization": f"Bearer {VALUES['admin']}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as web:
        pages = [*PAGES, *(f"{start}/schedules/{place}-1" for start in ("", API) for place in OWN)]
        failed = {page: code for page in pages if (code := web.get(page).status_code) >= 500}
        assert failed == {}
    for words in (["list"], ["status"], ["history", "markers-1"], ["show", "definitions-1"]):
        result = Run(redis_url)(*words)
        assert result.exit_code in (0, 5), result.output


@pytest.mark.integration
def test_whatever_was_accepted_is_decided_and_its_neighbour_fires(
    connection: Redis, events: Events
) -> None:
    wall = Wall(connection)
    wall.now = start = datetime(2026, 3, 1, tzinfo=UTC)
    connection.persist(KEY + "lease")  # however slow the machine is
    accepted: list[Schedule] = []
    for make in PLACES.values():
        for value in VALUES_OF_OPTIONS:
            with suppress(ScheduleError):
                accepted.append(replace(make(value), name=f"a{len(accepted)}", renamed_from=None))
    wall.declare(schedule(every(minutes=1), "good"), *accepted)
    wall.run(start + timedelta(hours=1, seconds=3))
    assert len(accepted) > 300
    assert wall.enqueued("good") == each(start, 60 * SECOND, 60)
    assert events("schedule.invalid") == []
    assert wall.planner.report().faulty == {}
    jobs = {job.decode().split("-")[1] for job in connection.scan_iter("rq:job:default-a*")}
    fired = {f"a{i}" for i, s in enumerate(accepted) if s.next_after(start) is not None}
    assert len(jobs) > len(fired) * 0.8


FACTS = ("token", "instance", "owner", "since", "proven", "tick", "enqueued", "lag_p50_ms",
         "lag_p99_ms", "lag_max_ms", "skew_ms", "ahead_s", "release", "version")  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value[:20]))
def test_whatever_the_leader_has_reported_everything_is_served(
    connection: Redis, redis_url: str, value: bytes
) -> None:
    headers = {"Authorization": f"Bearer {VALUES['admin']}"}
    commands = ("status", "doctor", "list", "healthcheck clock", "healthcheck worker")
    with TestClient(app_on(redis_url), headers=headers, raise_server_exceptions=False) as web:
        for field in FACTS:
            facts: dict[Any, Any] = {
                "token": "7.x",
                "instance": "c.1",
                "since": "1",
                "proven": "1",
                field: value,
            }
            connection.delete(KEY + "lease")
            connection.hset(KEY + "lease", mapping=facts)
            pages = ("/clock", "/metrics", f"{API}/clock?checks=true")
            failed = {page: code for page in pages if (code := web.get(page).status_code) >= 500}
            assert (field, failed) == (field, {})
        connection.hset(KEY + "lease", mapping=dict.fromkeys(FACTS, value))
        connection.hset(KEY + "meta", mapping={"led": value, "counted": value, "zone_data": value})
        connection.hset(KEY + "workers", "w", value)
        for words in commands:
            result = Run(redis_url)(*words.split())
            assert result.exit_code in (0, 4, 5), (words, result.output)
            assert not result.exception or isinstance(result.exception, SystemExit)
