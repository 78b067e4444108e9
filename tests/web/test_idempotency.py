"""Requests that come twice: one act, one answer, also after a crash or a lost response."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.utils import utcformat

from rq_clock.settings import Settings
from rq_clock.store.client import connect
from rq_clock.web import create_app
from tests.proxy import Proxy
from tests.web.client import TOKENS, Caller, app_on

KEY = {"Idempotency-Key": "it-1"}
RULE = {"every": "1h", "func": "a.b"}
DIES = """
import os, sys
from redis import Redis
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings, Token
from rq_clock.web.idempotency import once_of

url, when = sys.argv[1:]
token = Token(name="admin", value="x" * 16, scopes=frozenset({"admin"}))
key = once_of(token, "/schedules/{name}/runs", "it-1", b"/api/v1/schedules/a/runs?\\n")
settings = Settings.from_env({"REDIS_URL": url})
schedules = Schedules(Redis.from_url(url), by="admin", settings=settings, request_key=key)
if when == "after":
    print(schedules.trigger("a"), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def api(redis_url: str) -> Caller:
    caller = Caller(app_on(redis_url))
    caller.call("PUT", "/schedules/a", RULE)
    return caller


def jobs(connection: Any) -> list[str]:
    return sorted(key.decode().removeprefix("rq:job:") for key in connection.keys("rq:job:*"))


def records(connection: Any) -> list[bytes]:
    found: list[bytes] = connection.keys("rq-clock:default:idempotency:*")
    return found


def fail(connection: Any, job: str) -> None:
    """What a worker leaves of a job that failed now."""
    connection.delete("rq:queue:default")
    seconds, micros = connection.time()
    ended = datetime.fromtimestamp(seconds + micros / 1e6, UTC)
    connection.hset(f"rq:job:{job}", mapping={"status": "failed", "ended_at": utcformat(ended)})
    connection.zadd("rq:failed:default", {job: seconds + 3600})


def memory(connection: Any) -> int:
    return int(connection.info("memory")["used_memory"])


class TestTwice:
    def test_the_first_response_is_repeated(self, api: Caller, connection: Redis) -> None:
        first = api("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        again = api("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["location"] == first.headers["location"]
        assert jobs(connection) == [first.json()["job"]]

    def test_it_is_kept_for_a_day(self, api: Caller, connection: Redis) -> None:
        api.call("POST", "/schedules/a/pause", headers=KEY)
        [record] = records(connection)
        assert 86_390 < connection.ttl(record) <= 86_400

    def test_after_a_refusal_it_acts(self, api: Caller, connection: Redis) -> None:
        first = api.call("POST", "/schedules/a/runs")["job"]
        assert api.error("POST", "/schedules/a/runs", headers=KEY) == "409 overlap"
        assert records(connection) == []
        connection.delete(f"rq:job:{first}")
        assert api.call("POST", "/schedules/a/runs", headers=KEY)["job"] != first

    def test_a_key_of_another_route_is_another_key(self, api: Caller, connection: Redis) -> None:
        api.call("POST", "/schedules/a/runs", headers=KEY)
        assert api.call("POST", "/schedules/a/pause", headers=KEY)["state"] == "paused"
        assert len(records(connection)) == 2

    @pytest.mark.parametrize(
        ("path", "body", "undone"),
        [("/schedules", {"name": "b", **RULE}, "/schedules:delete"),
         ("/schedules/a/pause", {"reason": "x"}, "/schedules:resume"),
         ("/schedules:pause", {"names": ["a", "none"]}, "/schedules:resume"),
         ("/schedules:delete", {"names": ["a"]}, "")],
    )  # fmt: skip
    def test_it_is_not_done_again_when_it_was_undone(
        self, api: Caller, connection: Redis, path: str, body: Any, undone: str
    ) -> None:
        first = api.call("POST", path, body, headers=KEY)
        if undone:
            api.call("POST", undone, {"names": [body.get("name", "a")]})
        before = len(api.call("GET", "/audit")["data"])
        again = api("POST", path, body, headers=KEY)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.status_code == (201 if path == "/schedules" else 200)
        if path.startswith("/schedules:"):
            assert again.json() == {**first, "data": []}
        assert len(api.call("GET", "/audit")["data"]) == before

    def test_fire_times_are_skipped_once(self, api: Caller, connection: Redis) -> None:
        first = api.call("POST", "/schedules/a/skip", {"count": 2}, headers=KEY)
        assert api.call("POST", "/schedules/a/skip", {"count": 2}, headers=KEY) == first
        assert connection.xlen("rq-clock:default:audit") == 2  # it was added, too

    def test_of_many_runs_each_is_made_once(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/b", RULE)
        body = {"names": ["a", "b", "none"], "force": True}
        first = api.call("POST", "/schedules:run", body, headers=KEY)
        assert (first["done"], first["failed"]) == (2, 1)
        assert api.call("POST", "/schedules:run", body, headers=KEY) == first
        assert len(jobs(connection)) == 2
        other = api.refused("POST", "/schedules:run", {"names": ["a"]}, headers=KEY)
        assert other[0] == "422 idempotency-conflict"

    @pytest.mark.parametrize("retry", ["/jobs/{}/requeue", "/runs/{}/retry", "/jobs:requeue"])
    def test_a_second_failure_is_not_requeued(
        self, api: Caller, connection: Redis, retry: str
    ) -> None:
        job = api.call("POST", "/schedules/a/runs")["job"]
        fail(connection, job)
        api.call("POST", retry.format(job), {}, headers=KEY)
        assert connection.llen("rq:queue:default") == 1
        fail(connection, job)
        again = api("POST", retry.format(job), {}, headers=KEY)
        assert (again.is_success, again.headers["idempotency-replayed"]) == (True, "true")
        assert connection.llen("rq:queue:default") == 0

    def test_large_arguments_leave_no_copies(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/a", {**RULE, "args": ["x" * 400_000]})
        api.call("POST", "/schedules/a/pause")  # whatever the first one loads
        before = memory(connection)
        for n in range(20):
            api.call("POST", "/schedules/a/pause", headers={"Idempotency-Key": f"it-{n}"})
        assert memory(connection) - before < 400_000
        assert sum(connection.memory_usage(record) or 0 for record in records(connection)) < 10_000

    @pytest.mark.parametrize(
        ("path", "body"),
        [("/schedules/a/runs", {"force": True}), ("/schedules/a/runs", {}),
         ("/schedules/b/runs", None), ("/schedules/a/runs?x=1", None)],
    )  # fmt: skip
    def test_a_key_serves_one_request(
        self, api: Caller, connection: Redis, path: str, body: Any
    ) -> None:
        api.call("POST", "/schedules/a/runs", headers=KEY)
        assert api.error("POST", path, body, headers=KEY) == "422 idempotency-conflict"
        assert len(jobs(connection)) == 1

    def test_each_token_has_its_own_keys(self, redis_url: str, api: Caller) -> None:
        first = api.call("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        other = Caller(app_on(redis_url), "operate")
        answer = other("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        assert answer.status_code == 202
        assert answer.json() != first

    def test_a_wrong_request_stores_nothing(
        self, redis_url: str, api: Caller, connection: Redis
    ) -> None:
        reader = Caller(app_on(redis_url), "read")
        assert reader.error("POST", "/schedules/a/runs", headers=KEY) == "403 forbidden"
        assert api.error("POST", "/schedules/a/runs", {"f": 1}, headers=KEY)[:3] == "422"
        assert api.error("POST", "/schedules", {"name": "b"}, headers=KEY)[:3] == "422"
        assert records(connection) == []
        api.call("POST", "/schedules/a/runs", headers=KEY)

    def test_of_many_at_once_one_acts(self, redis_url: str, connection: Redis) -> None:
        app = app_on(redis_url)
        Caller(app).call("PUT", "/schedules/a", RULE)
        start, counts = threading.Barrier(8), Counter[str]()

        def ask() -> None:
            caller = Caller(app)
            start.wait()
            answer = caller("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
            replayed = "idempotency-replayed" in answer.headers
            counts[f"{answer.status_code} {'again' if replayed else ''}".strip()] += 1

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts["202"] == 1
        assert counts == {"202": 1, "202 again": 7}
        assert len(jobs(connection)) == 1


class TestBrokenOff:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_repeated_request_runs_once(
        self, api: Caller, connection: Redis, redis_url: str, when: str
    ) -> None:
        root = Path(__file__).parents[2]
        died = subprocess.run(
            [sys.executable, "-c", DIES, redis_url, when],
            env={"PYTHONPATH": str(root)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert died.returncode == -9, died.stderr
        found = api.call("POST", "/schedules/a/runs", headers=KEY)["job"]
        assert jobs(connection) == [found]
        assert died.stdout.strip() == ("" if when == "before" else found)

    def test_also_when_the_run_is_forgotten(self, api: Caller, connection: Redis) -> None:
        job = api.call("POST", "/schedules/a/runs", headers=KEY)["job"]
        connection.delete(f"rq:job:{job}", "rq:queue:default")
        assert api.call("POST", "/schedules/a/runs", headers=KEY)["job"] == job
        assert jobs(connection) == []

    def test_a_backfill_is_created_once(self, api: Caller) -> None:
        body = {"from": "2026-01-01", "to": "2026-01-02", "again": True}
        first = api.call("POST", "/schedules/a/backfills", body, headers=KEY)
        assert api.call("POST", "/schedules/a/backfills", body, headers=KEY) == first
        assert len(api.call("GET", "/backfills")["data"]) == 1


def test_over_a_bad_network_each_key_has_one_run(redis_url: str, connection: Redis) -> None:
    chance = random.Random(7)
    counts = Counter[int]()
    Caller(app_on(redis_url)).call("PUT", "/schedules/a", RULE)
    with Proxy(redis_url, chance) as proxy:
        settings = Settings.from_env({"REDIS_URL": proxy.url, "RQ_CLOCK_TOKENS": TOKENS})
        redis = connect(settings=settings, seconds=0.2)
        api = Caller(create_app(settings, redis=redis))
        jobs_by_request = {}
        for n in range(40):
            proxy.strike()
            for _ in range(100):
                answer = api(
                    "POST", "/schedules/a/runs", {"force": True},
                    headers={"Idempotency-Key": f"key-{n}"},
                )  # fmt: skip
                counts[answer.status_code] += 1
                assert answer.status_code in (202, 503), answer.text
                if answer.status_code == 202:
                    jobs_by_request[n] = answer.json()["job"]
                    break
        redis.close()
    assert sorted(jobs_by_request.values()) == jobs(connection)
    assert len(jobs_by_request) == 40
    assert counts[503] > 5
