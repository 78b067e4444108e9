"""Requests that come twice: one act, one answer, whoever dies or goes deaf in between."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rq_clock.settings import Settings
from rq_clock.store.client import connect
from rq_clock.web import create_app, idempotency
from tests.proxy import Proxy
from tests.web.client import TOKENS, Caller, app_on

KEY = {"Idempotency-Key": "it-1"}
RULE = {"every": "1h", "func": "a.b"}
DIES = """
import os, sys
from redis import Redis
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.web.idempotency import Idempotency

url, when = sys.argv[1:]
redis = Redis.from_url(url)
keys = Idempotency(redis, "default")
claim = keys.claim("admin", "it-1", b"POST /api/v1/schedules/a/runs?\\n")
schedules = Schedules(redis, by="admin", settings=Settings.from_env({"REDIS_URL": url}))
if when == "after":
    print(schedules.trigger("a", request_id=(claim.began, claim.number)), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def api(redis_url: str) -> Caller:
    caller = Caller(app_on(redis_url))
    caller.told("PUT", "/schedules/a", RULE)
    return caller


def jobs(connection: Any) -> list[str]:
    return sorted(key.decode().removeprefix("rq:job:") for key in connection.keys("rq:job:*"))


def records(connection: Any) -> list[bytes]:
    found: list[bytes] = connection.keys("rq-clock:default:idempotency:*")
    return found


class TestTwice:
    def test_the_first_answer_is_given_again(self, api: Caller, connection: Redis) -> None:
        first = api("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        again = api("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["location"] == first.headers["location"]
        assert jobs(connection) == [first.json()["job"]]

    def test_it_is_kept_for_a_day(self, api: Caller, connection: Redis) -> None:
        api.told("POST", "/schedules/a/pause", headers=KEY)
        [record] = records(connection)
        assert 86_390 < connection.ttl(record) <= 86_400

    def test_an_error_that_was_found_is_an_answer_too(self, api: Caller) -> None:
        api.told("POST", "/schedules/a/runs")
        first = api("POST", "/schedules/a/runs", headers=KEY)
        assert first.status_code == 409
        again = api("POST", "/schedules/a/runs", headers=KEY)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["content-type"] == "application/problem+json"
        assert again.json() == first.json()

    @pytest.mark.parametrize(
        ("path", "body"),
        [("/schedules/a/runs", {"force": True}), ("/schedules/a/runs", {}),
         ("/schedules/a/pause", None), ("/schedules/b/runs", None),
         ("/schedules/a/runs?x=1", None)],
    )  # fmt: skip
    def test_another_request_under_the_key_is_refused(
        self, api: Caller, connection: Redis, path: str, body: Any
    ) -> None:
        api.told("POST", "/schedules/a/runs", headers=KEY)
        assert api.refused("POST", path, body, headers=KEY)[0] == "422 idempotency-conflict"
        assert len(jobs(connection)) == 1

    def test_each_token_has_its_own_keys(self, redis_url: str, api: Caller) -> None:
        first = api.told("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        other = Caller(app_on(redis_url), "operate")
        answer = other("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
        assert answer.status_code == 202
        assert answer.json() != first

    def test_a_wrong_request_leaves_no_trace(
        self, redis_url: str, api: Caller, connection: Redis
    ) -> None:
        reader = Caller(app_on(redis_url), "read")
        assert reader.refused("POST", "/schedules/a/runs", headers=KEY)[0] == "403 forbidden"
        assert api.refused("POST", "/schedules/a/runs", {"f": 1}, headers=KEY)[0][:3] == "422"
        assert api.refused("POST", "/schedules", {"name": "b"}, headers=KEY)[0][:3] == "422"
        assert records(connection) == []
        api.told("POST", "/schedules/a/runs", headers=KEY)

    def test_of_many_at_once_one_acts(self, redis_url: str, connection: Redis) -> None:
        app = app_on(redis_url)
        Caller(app).told("PUT", "/schedules/a", RULE)
        start, said = threading.Barrier(8), Counter[str]()

        def ask() -> None:
            caller = Caller(app)
            start.wait()
            answer = caller("POST", "/schedules/a/runs", {"force": True}, headers=KEY)
            replayed = "idempotency-replayed" in answer.headers
            said[f"{answer.status_code} {'again' if replayed else ''}".strip()] += 1

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said["202"] == 1
        assert set(said) <= {"202", "202 again", "409"}
        assert len(jobs(connection)) == 1


class TestBrokenOff:
    def die(self, redis_url: str, when: str) -> str:
        """A process that has claimed the key and dies before it acts, or right after."""
        root = Path(__file__).parents[2]
        found = subprocess.run(
            [sys.executable, "-c", DIES, redis_url, when],
            env={"PYTHONPATH": str(root)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == -9, found.stderr
        return found.stdout.strip()

    def give_up_waiting(self, connection: Redis) -> None:
        [record] = records(connection)
        connection.hset(record, "until", 0)

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_who_asks_again_has_the_one_run(
        self, api: Caller, connection: Redis, redis_url: str, when: str
    ) -> None:
        job = self.die(redis_url, when)
        for _ in range(2):
            kind, problem = api.refused("POST", "/schedules/a/runs", headers=KEY)
            assert (kind, "at work" in problem["detail"]) == ("409 conflict", True)
        self.give_up_waiting(connection)
        found = api.told("POST", "/schedules/a/runs", headers=KEY)["job"]
        assert jobs(connection) == [found]
        assert job == ("" if when == "before" else found)
        again = api("POST", "/schedules/a/runs", headers=KEY)
        assert again.headers["idempotency-replayed"] == "true"

    def test_also_when_the_run_has_ended_and_is_forgotten(
        self, api: Caller, connection: Redis, redis_url: str
    ) -> None:
        job = self.die(redis_url, "after")
        connection.delete(f"rq:job:{job}", "rq:queue:default")
        self.give_up_waiting(connection)
        assert api.told("POST", "/schedules/a/runs", headers=KEY)["job"] == job
        assert jobs(connection) == []

    def test_a_backfill_is_asked_for_once(
        self, api: Caller, connection: Redis, redis_url: str
    ) -> None:
        body = {"from": "2026-01-01", "to": "2026-01-02", "again": True}
        first = api.told("POST", "/schedules/a/backfills", body, headers=KEY)
        [record] = records(connection)
        connection.hdel(record, "answer")  # as if it had died before it could store it
        connection.hset(record, "until", 0)
        assert api.told("POST", "/schedules/a/backfills", body, headers=KEY) == first
        assert len(api.told("GET", "/backfills")["data"]) == 1

    def test_a_schedule_is_added_once(self, api: Caller, connection: Redis) -> None:
        body = {"name": "b", **RULE}
        first = api.told("POST", "/schedules", body, headers=KEY)
        [record] = records(connection)
        connection.hdel(record, "answer")
        connection.hset(record, "until", 0)
        again = api("POST", "/schedules", body, headers=KEY)
        assert (again.status_code, again.json()) == (201, first)

    def test_one_that_was_overtaken_does_not_overwrite(self, connection: Redis) -> None:
        keys = idempotency.Idempotency(connection, "default")
        first = keys.claim("ana", "k", b"x")
        assert isinstance(first, idempotency.Claim)
        self.give_up_waiting(connection)
        second = keys.claim("ana", "k", b"x")
        assert isinstance(second, idempotency.Claim)
        assert (second.again, second.began, second.number) == (True, first.began, first.number)
        keys.answer(second, idempotency.Answer(202, {}, "second"))
        keys.answer(first, idempotency.Answer(202, {}, "first"))
        keys.drop(first)
        keys.give_up(first)
        third = keys.claim("ana", "k", b"x")
        assert isinstance(third, idempotency.Answer)
        assert third.body == "second"


def test_over_a_bad_network_each_key_has_one_run(
    redis_url: str, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "BROKEN_OFF_MS", 20)
    chance = random.Random(7)
    said = Counter[int]()
    Caller(app_on(redis_url)).told("PUT", "/schedules/a", RULE)
    with Proxy(redis_url, chance) as proxy:
        settings = Settings.from_env({"REDIS_URL": proxy.url, "RQ_CLOCK_TOKENS": TOKENS})
        redis = connect(settings=settings, seconds=0.2)
        api = Caller(create_app(settings, redis=redis))
        told = {}
        for n in range(40):
            proxy.strike()
            for _ in range(100):
                answer = api(
                    "POST", "/schedules/a/runs", {"force": True},
                    headers={"Idempotency-Key": f"key-{n}"},
                )  # fmt: skip
                said[answer.status_code] += 1
                assert answer.status_code in (202, 409, 503), answer.text
                if answer.status_code == 202:
                    told[n] = answer.json()["job"]
                    break
        redis.close()
    assert sorted(told.values()) == jobs(connection)
    assert len(told) == 40
    assert said[503] > 5
