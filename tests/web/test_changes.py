"""An open page that asks for itself again gets it as soon as it would show something else, and no
sooner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from starlette.testclient import TestClient

from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.client import connect
from rq_clock.store.store import Store
from rq_clock.timing.triggers import every
from rq_clock.web import changes, create_app
from rq_clock.web.changes import Changes
from tests.helpers import round_trips, wait_until
from tests.server import Server

ANA, EVE = (f"{name}-token-0123456789" for name in ("ana", "eve"))
Act = Callable[[Redis], Any]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request looks, and no page grows old."""
    monkeypatch.setattr(changes, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(changes, "OLD_SECONDS", 10**9)


@pytest.fixture
def settings(redis_url: str) -> Settings:
    tokens = f"ana:admin:{ANA},eve:read:{EVE}"
    return Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": tokens})


@pytest.fixture
def site(settings: Settings, connection: Redis) -> Callable[[str], TestClient]:
    def browser(token: str) -> TestClient:
        app = create_app(settings, redis=connection)
        headers = {"Sec-Fetch-Site": "same-origin"}
        client = TestClient(app, headers=headers, follow_redirects=False)
        client.post("/login", data={"token": token})
        return client

    return browser


@pytest.fixture
def browser(site: Callable[[str], TestClient]) -> TestClient:
    return site(ANA)


def ask(browser: TestClient, path: str = "/", etag: str = '""') -> Any:
    return browser.get(path, headers={"If-None-Match": etag})


def key(name: str) -> str:
    return f"rq-clock:default:{name}"


def add(redis: Redis) -> None:
    settings = Settings.from_env({"REDIS_URL": "redis://x"})
    Schedules(redis, settings=settings).add("a", every(hours=1), "tasks.x")


CHANGES: dict[str, Act] = {
    "a schedule is added": add,
    "a fire time is decided": lambda redis: redis.zadd(key("due"), {"s0": 4_000_000_000_000}),
    "a schedule fails": lambda redis: redis.zadd(key("failing"), {"s0": 1}),
    "a backfill goes on": lambda redis: redis.zadd(key("duties"), {"backfill:s0-1": 1}),
    "another clock leads": lambda redis: redis.hset(key("lease"), "token", "2.x"),
    "an alert is raised": lambda redis: redis.hset(key("alerts"), "late", "1"),
    "a worker begins a job": lambda redis: redis.hset(key("workers"), "w", "1 execution job-1 q"),
    "the lease changes hands": lambda redis: redis.xadd(key("handovers"), {"instance": "x"}),
    "a run ends": lambda redis: redis.xadd(key("runs"), {"schedule": "s0"}),
    "somebody changes something": lambda redis: redis.xadd(key("audit"), {"verb": "pause"}),
    "a job is enqueued": lambda redis: Queue("reports", connection=redis).enqueue("tasks.x"),
    "a job fails": lambda redis: redis.zadd("rq:failed:mail", {"job-1": 1}),
    "a queue is new": lambda redis: redis.sadd("rq:queues", "rq:queue:new"),
}


class TestAPageThatAsksAgain:
    @pytest.fixture(autouse=True)
    def there(self, connection: Redis) -> None:
        connection.sadd("rq:queues", "rq:queue:mail")
        connection.hset(key("workers"), "w", "1")
        connection.zadd(key("due"), {"s0": 3_000_000_000_000})

    @pytest.mark.parametrize("path", ["/", "/timeline", "/runs", "/queues", "/clock", "/audit"])
    def test_it_is_not_sent_while_nothing_changes(self, browser: TestClient, path: str) -> None:
        first = ask(browser, path)
        assert (first.status_code, first.headers["cache-control"]) == (200, "no-store")
        again = ask(browser, path, first.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]

    @pytest.mark.parametrize("change", CHANGES)
    def test_it_is_sent_when(self, browser: TestClient, connection: Redis, change: str) -> None:
        etag = ask(browser).headers["etag"]
        CHANGES[change](connection)
        again = ask(browser, etag=etag)
        assert (again.status_code, again.headers["etag"] != etag) == (200, True)

    def test_it_is_sent_when_a_run_is_late(self, browser: TestClient, connection: Redis) -> None:
        seconds: Any = connection.time()
        connection.zadd(key("due"), {"s1": (seconds[0] - 10 + 2) * 1000})
        etag = ask(browser).headers["etag"]
        wait_until(lambda: ask(browser, etag=etag).status_code == 200, "it to be late")

    def test_it_is_sent_when_it_is_old(
        self, browser: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes, "OLD_SECONDS", 1)
        etag = ask(browser).headers["etag"]
        wait_until(lambda: ask(browser, etag=etag).status_code == 200, "an older page")

    def test_a_heartbeat_is_no_change(self, browser: TestClient, connection: Redis) -> None:
        etag = ask(browser).headers["etag"]
        connection.hset(key("workers"), "w", "2")
        connection.hset(key("lease"), "lag_p50_ms", "7")
        assert ask(browser, etag=etag).status_code == 304

    def test_output_changes_its_own_page_alone(
        self, browser: TestClient, connection: Redis
    ) -> None:
        connection.set(key("output:job-1"), "0 line 1\n")
        etags = {path: ask(browser, path).headers["etag"] for path in ("/runs/job-1", "/")}
        connection.append(key("output:job-1"), "line 2\n")
        page = ask(browser, "/runs/job-1", etags["/runs/job-1"])
        assert (page.status_code, "line 2" in page.text) == (200, True)
        assert ask(browser, "/", etags["/"]).status_code == 304

    def test_an_etag_depends_on_reader_and_theme(
        self, browser: TestClient, site: Callable[[str], TestClient]
    ) -> None:
        etag = ask(browser).headers["etag"]
        assert ask(site(EVE), etag=etag).status_code == 200
        browser.post("/theme", data={"theme": "dark", "next": "/"})
        assert ask(browser, etag=etag).status_code == 200

    def test_without_a_login_it_leads_there(self, browser: TestClient) -> None:
        etag = ask(browser).headers["etag"]
        browser.cookies.clear()
        answer = ask(browser, etag=etag)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/")

    def test_keys_of_another_type_are_no_error(
        self, browser: TestClient, connection: Redis
    ) -> None:
        connection.set("rq:queue:mail", "no list")
        etag = ask(browser, "/audit").headers["etag"]
        assert ask(browser, "/audit", etag).status_code == 304

    def test_a_page_without_etag_costs_no_look(
        self, browser: TestClient, connection: Redis
    ) -> None:
        with round_trips() as plain:
            assert "etag" not in browser.get("/audit").headers
        with round_trips() as conditional:
            ask(browser, "/audit")
        looks = [sum(b"EVALSHA" in b"".join(c) for c in sent) for sent in (plain, conditional)]
        assert looks == [0, 1]


class TestCost:
    def test_all_open_pages_together_cost_one_round_trip_a_second(
        self, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes, "KEPT_SECONDS", 3600.0)
        add(connection)
        looks = Changes(Store(connection, "default"))
        looks.latest()  # loads the script
        with round_trips() as sent:
            assert len({looks.latest() for _ in range(50)}) == 1
            assert sent == []
            monkeypatch.setattr(changes, "KEPT_SECONDS", 0.0)
            looks.latest()
        assert len(sent) == 1

    def test_pages_that_ask_while_redis_is_frozen_do_not_wait_in_turn(
        self, fresh_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes, "KEPT_SECONDS", 3600.0)
        server = fresh_server()
        redis = connect(server.url, seconds=0.5)
        failed: list[Changes] = []

        def look(looks: Changes) -> None:
            with pytest.raises(RedisError):
                looks.latest()
            failed.append(looks)

        server.pause()
        began = time.monotonic()
        look(Changes(Store(redis, "default")))
        alone = time.monotonic() - began
        looks = Changes(Store(redis, "default"))
        threads = [threading.Thread(target=look, args=(looks,)) for _ in range(8)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = time.monotonic() - began
        server.resume()
        redis.close()
        assert len(failed) == 9
        assert together < 4 * alone
