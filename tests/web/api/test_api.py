"""The API's definitions: listed, added, changed, removed, explained, carried in and out."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every
from rq_clock.web.idempotency import LONGEST
from tests.helpers import round_trips
from tests.server import free_url
from tests.web.client import VALUES, Caller, app_on, schedules_on

YAML = {"Content-Type": "application/yaml"}
DAILY = {"cron": "0 6 * * *", "tz": "Asia/Tokyo", "func": "tasks.send", "args": [42]}
HOOK = {
    "every": "15m",
    "webhook": {"url": "https://example.com/x", "headers": {"Authorization": "Bearer hush-hush"}},
}


def declare(connection: Redis, *names: str) -> None:
    """Have schedules stand there as declared in code."""
    schedules = schedules_on(connection)
    for name in names:
        schedules.add(name, cron("0 3 * * *"), "tasks.nightly")
        connection.sadd("rq-clock:default:declared", name)


class TestAdding:
    def test_a_schedule_is_at_its_location(self, api: Caller) -> None:
        answer = api("POST", "/schedules", {"name": "report-42", **DAILY})
        assert answer.status_code == 201
        assert answer.headers["location"] == "/api/v1/schedules/report-42"
        view = api.call("GET", "/schedules/report-42")
        assert view == answer.json()
        assert view["words"] == "at 06:00 every day, Asia/Tokyo time"
        assert view["definition"] == DAILY
        assert api.call("GET", "/audit")["data"][0]["by"] == "admin"

    def test_an_existing_name_is_refused(self, api: Caller) -> None:
        api.call("POST", "/schedules", {"name": "a", **DAILY})
        kind, problem = api.refused("POST", "/schedules", {"name": "a", **HOOK})
        assert kind == "409 exists"
        assert "PATCH" in problem["detail"]
        assert api.error("POST", "/schedules", {"name": "a", **DAILY}) == "409 exists"
        assert api.call("GET", "/schedules/a")["definition"] == DAILY

    @pytest.mark.parametrize(
        ("definition", "pointers"),
        [
            ({"cron": "61 6 * * *", "func": "a.b"}, ["/cron"]),
            ({"cron": 6, "func": "a.b"}, ["/cron"]),
            ({"cron": "0 6 * * *", "tz": "Mars/Olympus", "func": "a.b"}, ["/tz"]),
            ({"every": "often", "func": "a.b"}, ["/every"]),
            ({"every": 0, "func": "a.b"}, ["/every"]),
            ({"every": "5m", "anchor": "noon", "func": "a.b"}, ["/anchor"]),
            ({"once": "2026-03-29T02:30", "func": "a.b"}, ["/once"]),
            ({"every": "5m", "tz": "UTC", "func": "a.b"}, ["/tz"]),
            ({"every": "5m", "cron": "* * * * *", "func": "a.b"}, [""]),
            ({"every": "5m"}, [""]),
            ({"every": "5m", "func": "a.b", "command": "ls"}, [""]),
            ({"every": "5m", "func": "a b"}, ["/func"]),
            ({"every": "5m", "func": "nodots"}, ["/func"]),
            ({"every": "5m", "func": "https://example.com"}, ["/func"]),
            ({"every": "5m", "func": 5}, ["/func"]),
            ({"every": "5m", "command": ""}, ["/command"]),
            ({"every": "5m", "command": {"shell": "ls", "cwd": 5}}, ["/command/cwd"]),
            ({"every": "5m", "command": {"shell": "ls", "env": [1]}}, ["/command/env"]),
            ({"every": "5m", "command": {"shell": "ls", "evn": {}}}, ["/command/evn"]),
            ({"every": "5m", "command": "ls", "args": [1]}, ["/args"]),
            ({"every": "5m", "webhook": "ftp://example.com"}, ["/webhook"]),
            ({"every": "5m", "webhook": {"url": "https://u:p@e.com"}}, ["/webhook/url"]),
            ({"every": "5m", "webhook": "https://u:p@queue.example.com/x"}, ["/webhook"]),
            ({"every": "5m", "func": "mail headers"}, ["/func"]),
            ({"every": "5m", "command": "ls", "kwargs": {"json": 1}}, ["/kwargs"]),
            ({"every": "5m", "webhook": {"url": "https://e.com", "method": "COPY"}},
             ["/webhook/method"]),
            ({"every": "5m", "func": "a.b", "args": "x"}, ["/args"]),
            ({"every": "5m", "func": "a.b", "kwargs": [1]}, ["/kwargs"]),
            ({"every": "5m", "func": "a.b", "queue": ""}, ["/queue"]),
            ({"every": "5m", "func": "a.b", "timeout": -5}, ["/timeout"]),
            ({"every": "5m", "func": "a.b", "timeout": 10**400}, ["/timeout"]),
            ({"every": "5m", "func": "a.b", "retries": "many"}, ["/retries"]),
            ({"every": "5m", "func": "a.b", "resultTtl": -5}, ["/resultTtl"]),
            ({"every": "5m", "func": "a.b", "catchUp": {}}, ["/catchUp"]),
            ({"every": "5m", "func": "a.b", "catchUpWindow": 0}, ["/catchUpWindow"]),
            ({"every": "5m", "func": "a.b", "catchUpLimit": 5}, ["/catchUpLimit"]),
            ({"every": "5m", "func": "a.b", "overlap": "queue"}, ["/overlap"]),
            ({"every": "5m", "func": "a.b", "group": "two words"}, ["/group"]),
            ({"every": "5m", "func": "a.b", "groupLimit": 2}, ["/groupLimit"]),
            ({"every": "5m", "func": "a.b", "jitter": "soon"}, ["/jitter"]),
            ({"every": "5m", "func": "a.b", "tags": "x"}, ["/tags"]),
            ({"every": "5m", "func": "a.b", "ping": "nowhere"}, ["/ping", "/ping"]),
            ({"every": "5m", "func": "a.b", "paused": True}, ["/paused"]),
            ({"every": "5m", "func": "a.b", "queu": "x"}, ["/queu"]),
            ({"cron": "61 6 * * *", "func": "a b", "queu": "x"}, ["/queu", "/cron", "/func"]),
        ],
    )  # fmt: skip
    def test_each_fault_has_its_field(
        self, api: Caller, definition: dict[str, Any], pointers: list[str]
    ) -> None:
        assert api.faults("POST", "/schedules", {"name": "a", **definition}) == pointers
        assert api.call("GET", "/schedules")["data"] == []

    def test_a_fault_in_a_cron_item_has_its_column(self, api: Caller) -> None:
        body = {"cron": "30 2 * * 9", "func": "a.b"}
        [error] = api.refused("PUT", "/schedules/a", body)[1]["errors"]
        assert (error["pointer"], error["column"]) == ("/cron", 10)

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 101, "ä", 5, None, ["a"], "a\n"])
    def test_an_invalid_name_is_refused(self, api: Caller, name: Any) -> None:
        assert api.faults("POST", "/schedules", {"name": name, **DAILY})[0] == "/name"

    def test_null_is_the_same_as_nothing(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", {**DAILY, "queue": None, "once": None, "group": None})
        assert api.call("GET", "/schedules/a")["definition"] == DAILY


class TestBodies:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"{", "expected JSON"),
            (b"", "Field required"),
            (b"[1]", "expected a JSON object"),
            (b'"x"', "expected a JSON object"),
            (b'{"a": NaN}', "NaN"),
            (b'{"a": 1, "a": 2}', "comes twice"),
            (b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", "levels"),
            (b"[" * 100_000, "expected JSON"),
            (b'{"a": ' + b"9" * 5000 + b"}", "expected JSON"),
            (b'{"a": "\\ud800"}', "surrogate"),
            (b'{"a": "\xff"}', "UTF-8"),
            ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        ],
    )
    def test_only_a_json_object_is_accepted(self, api: Caller, content: bytes, said: str) -> None:
        headers = {"Content-Type": "application/json"}
        kind, problem = api.refused("POST", "/schedules", content=content, headers=headers)
        assert kind == "422 validation"
        assert said in problem["detail"]

    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", "multipart/form-data"])
    def test_another_kind_of_body_is_refused(self, api: Caller, kind: str) -> None:
        headers = {"Content-Type": kind}
        assert api.error("POST", "/schedules", content=b"{}", headers=headers) == "415 media-type"

    def test_a_body_of_more_than_a_megabyte_is_refused(self, api: Caller) -> None:
        headers = {"Content-Type": "application/json"}
        whole = b'{"a": "' + b"x" * 1024 * 1024 + b'"}'
        parts = (whole[i : i + 65536] for i in range(0, len(whole), 65536))  # of unknown length
        for content in (whole, parts):
            found = api.error("POST", "/schedules", content=content, headers=headers)
            assert found == "413 too-large"

    def test_scopes_are_checked_before_the_body(self, redis_url: str) -> None:
        reader = Caller(app_on(redis_url), "read")
        for method, path in (("POST", "/schedules"), ("PUT", "/schedules/a")):
            kind = reader.error(method, path, content=b"{", headers={"Content-Type": "x/y"})
            assert kind == "403 forbidden"

    @pytest.mark.parametrize(
        "body",
        [
            '{"name": "a", "every": 5, "func": "a.b", "args": ['
            + ",".join(["1e999"] * 9999)
            + "]}",
            "{" + ",".join(['"x": 1'] * 9999) + "}",
            '{"names": [' + ",".join(['"a b"'] * 1000) + "]}",
        ],
    )
    def test_only_the_first_of_very_many_faults_are_listed(self, api: Caller, body: str) -> None:
        path = "/schedules:pause" if "names" in body else "/schedules"
        headers = {"Content-Type": "application/json"}
        answer = api("POST", path, content=body, headers=headers)
        assert answer.status_code == 422
        assert len(answer.content) < 10_000

    def test_any_text_that_json_has_is_kept(self, api: Caller) -> None:
        odd: list[Any] = [
            "\0",
            "\x7f",
            "\u2028",
            "😀",
            "</script>",
            "{{ 7 * 7 }}",
            "%00",
            10**300,
            -0.0,
        ]
        body: dict[str, Any] = {**DAILY, "args": odd, "kwargs": {"\0": odd}}
        assert api.call("PUT", "/schedules/a", body)["args"] == odd
        assert api.call("GET", "/schedules?q=send")["data"][0]["kwargs"] == {"\0": odd}


class TestChanging:
    def test_a_patch_changes_what_it_names(self, api: Caller) -> None:
        body = {**DAILY, "kwargs": {"a": 1, "b": 2}, "jitter": 60, "tags": ["x"]}
        api.call("PUT", "/schedules/a", body)
        patch = {"kwargs": {"a": None, "c": 3}, "jitter": None, "queue": "q"}
        view = api.call("PATCH", "/schedules/a", patch)
        assert view["definition"] == {
            **DAILY, "kwargs": {"b": 2, "c": 3}, "queue": "q", "tags": ["x"]
        }  # fmt: skip

    def test_a_patch_may_have_its_own_content_type(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", DAILY)
        headers = {"Content-Type": "application/merge-patch+json"}
        api.call("PATCH", "/schedules/a", content=b'{"queue": "q"}', headers=headers)
        assert api.call("GET", "/schedules/a")["queue"] == "q"

    def test_a_new_trigger_or_target_replaces_the_old_one(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", {**DAILY, "kwargs": {"a": 1}, "tags": ["x"]})
        view = api.call("PATCH", "/schedules/a", {"every": "5m", "command": "df"})
        assert view["definition"] == {"every": "5m", "command": {"shell": "df"}, "tags": ["x"]}
        view = api.call("PATCH", "/schedules/a", {"command": {"env": {"A": "1"}}})
        assert view["definition"]["command"] == {"shell": "df", "env": {"A": "1"}}

    def test_a_wrong_patch_changes_nothing(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", DAILY)
        assert api.faults("PATCH", "/schedules/a", {"queue": "q", "timeout": 0})[0] == "/timeout"
        assert api.call("GET", "/schedules/a")["definition"] == DAILY

    def test_a_stale_revision_is_refused(self, api: Caller) -> None:
        first = api("PUT", "/schedules/a", DAILY).headers["etag"]
        second = api("PATCH", "/schedules/a", {"queue": "q"}, headers={"If-Match": first})
        assert second.status_code == 200
        for method, body in (("PATCH", {"queue": "r"}), ("PUT", DAILY), ("DELETE", None)):
            found = api.error(method, "/schedules/a", body, headers={"If-Match": first})
            assert found == "412 stale-revision"
        assert api.call("GET", "/schedules/a")["queue"] == "q"
        for tag in (second.headers["etag"], "*"):
            api.call("PUT", "/schedules/a", DAILY, headers={"If-Match": tag})
            second = api("GET", "/schedules/a")
        found = api.error("PUT", "/schedules/b", DAILY, headers={"If-Match": "*"})
        assert found == "412 stale-revision"
        found = api.error("PUT", "/schedules/a", DAILY, headers={"If-Match": "7"})
        assert found == "422 validation"

    def test_putting_replaces_all_but_marker_pause_and_history(self, api: Caller) -> None:
        answer = api("PUT", "/schedules/a", {**DAILY, "tags": ["x"]})
        assert answer.status_code == 201
        api.call("POST", "/schedules/a/pause", {"reason": "holiday"})
        answer = api("PUT", "/schedules/a", HOOK)
        assert answer.status_code == 200
        view = answer.json()
        assert view["tags"] == []
        assert view["pause"]["reason"] == "holiday"

    def test_a_mask_stands_for_the_stored_secret(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/a", HOOK)
        definition = api.call("GET", "/schedules/a")["definition"]
        assert "hush" not in json.dumps(definition)
        api.call("PUT", "/schedules/a", {**definition, "queue": "q"})
        api.call("PATCH", "/schedules/a", {"every": "20m"})
        stored: Any = connection.hget("rq-clock:default:definitions", "a")
        assert b"hush-hush" in stored
        kind, problem = api.refused("PUT", "/schedules/b", definition)
        assert (kind, "masked" in problem["detail"]) == ("422 validation", True)

    def test_removing_is_done_once(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", DAILY)
        assert api("DELETE", "/schedules/a").status_code == 204
        assert api.error("DELETE", "/schedules/a") == "404 not-found"
        assert [row["verb"] for row in api.call("GET", "/audit")["data"]] == ["remove", "add"]

    def test_a_declared_schedule_is_not_changed(self, api: Caller, connection: Redis) -> None:
        declare(connection, "nightly")
        for method, body in (("PATCH", {"queue": "q"}), ("PUT", DAILY), ("DELETE", None)):
            assert api.error(method, "/schedules/nightly", body) == "409 declared-in-code"
        assert api.error("POST", "/schedules", {"name": "nightly", **DAILY}) == "409 exists"
        assert api.call("POST", "/schedules/nightly/pause")["state"] == "paused"

    def test_an_unreadable_schedule_can_be_replaced(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/a", DAILY)
        connection.hset("rq-clock:default:definitions", "a", '{"moon": "full"}')
        view = api.call("GET", "/schedules/a")
        assert (view["state"], view["definition"]) == ("invalid", None)
        assert api.error("PATCH", "/schedules/a", {"queue": "q"}) == "409 conflict"
        assert api.error("POST", "/schedules/a/runs") == "409 conflict"
        assert api.error("POST", "/schedules/a/skip") == "409 conflict"
        body = {"from": "2026-01-01", "to": "2026-01-01"}
        assert api.error("POST", "/schedules/a/backfills", body) == "409 conflict"
        assert api.call("GET", "/schedules/a/next")["data"] == []
        assert api.call("PUT", "/schedules/a", DAILY)["state"] == "scheduled"

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/next"), ("GET", "/runs"),
         ("POST", "/runs"), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/skip"),
         ("DELETE", "/skip")],
    )  # fmt: skip
    def test_an_unknown_schedule_is_not_found(self, api: Caller, method: str, path: str) -> None:
        body: Any = {} if method in ("PATCH", "POST") else None
        assert api.error(method, f"/schedules/nope{path}", body) == "404 not-found"

    @pytest.mark.parametrize("name", ["a%20b", "%00", "a%2Fb", "..%2f", "x" * 101, "%ff", "é"])
    def test_an_odd_name_is_no_server_error(self, api: Caller, name: str) -> None:
        for method in ("GET", "DELETE"):
            assert api(method, f"/schedules/{name}").status_code in (404, 422)
            assert api("POST", f"/schedules/{name}/runs").status_code in (404, 422)


class TestLists:
    def fill(self, connection: Redis, count: int) -> list[str]:
        names = [f"s-{n:03}" for n in range(count)]
        tags = ["even", "odd"]
        schedules_on(connection).add_many(
            (name, every(minutes=n + 1), "tasks.x", {"tags": [tags[n % 2]]})
            for n, name in enumerate(names)
        )
        return names

    @pytest.mark.parametrize("sort", ["trouble", "next", "last", "name"])
    def test_pages_have_everything_once(self, api: Caller, connection: Redis, sort: str) -> None:
        names = self.fill(connection, 23)
        found, path = [], f"/schedules?limit=5&sort={sort}"
        while path:
            answer = api("GET", path)
            view = answer.json()
            assert view["total"] == 23
            found += [row["name"] for row in view["data"]]
            link = answer.headers.get("link", "")
            assert bool(link) == bool(view["nextCursor"])
            path = link.partition(">")[0].removeprefix("</api/v1")
        assert sorted(found) == names

    def test_filters_are_those_of_the_pages(self, api: Caller, connection: Redis) -> None:
        self.fill(connection, 4)
        declare(connection, "nightly")
        api.call("POST", "/schedules/s-001/pause")

        def names(query: str) -> list[str]:
            return sorted(row["name"] for row in api.call("GET", f"/schedules?{query}")["data"])

        assert names("tag=odd") == ["s-001", "s-003"]
        assert names("state=paused") == ["s-001"]
        assert names("origin=declared") == names("q=tasks.night") == ["nightly"]
        assert names("queue=default&tag=even") == ["s-000", "s-002"]
        assert names("state=running") == names("state=failing") == names("queue=nope") == []

    def test_an_unchanged_list_is_not_sent_again(self, api: Caller, connection: Redis) -> None:
        self.fill(connection, 3)
        answer = api("GET", "/schedules")
        known = {"If-None-Match": f'"x", W/{answer.headers["etag"]}'}
        again = api("GET", "/schedules", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        api.call("POST", "/schedules/s-001/pause")
        assert api("GET", "/schedules", headers=known).status_code == 200

    @pytest.mark.parametrize(
        "query",
        ["state=asleep", "sort=size", "limit=0", "limit=201", "limit=x", "origin=moon",
         "cursor=x", "cursor=W10", "cursor=%00", "cursor=" + "W1tb" * 100, "q=" + "x" * 201],
    )  # fmt: skip
    def test_a_wrong_parameter_is_named(self, api: Caller, query: str) -> None:
        assert api.faults("GET", f"/schedules?{query}")[0] == query.partition("=")[0]

    def test_a_page_costs_three_round_trips_at_most(self, api: Caller, connection: Redis) -> None:
        self.fill(connection, 300)
        api.call("GET", "/schedules")
        for query in ("", "?limit=200", "?state=paused", "?q=x&tag=odd", "?sort=name"):
            with round_trips() as sent:
                api.call("GET", f"/schedules{query}")
            assert len(sent) <= 3

    def test_a_schedule_has_its_last_run_and_states(self, api: Caller, connection: Redis) -> None:
        self.fill(connection, 1)
        job = api.call("POST", "/schedules/s-000/runs")["job"]
        row = api.call("GET", "/schedules")["data"][0]
        assert (row["last"]["state"], row["last"]["reason"]) == ("waiting", "manual")
        assert row["running"] is None
        connection.hset("rq-clock:default:workers", "w", f"1 1 {job} default")
        connection.zadd("rq-clock:default:failing", {"s-000": 1774746000000})
        row = api.call("GET", "/schedules")["data"][0]
        assert row["running"] == job
        assert row["failingSince"] == "2026-03-29T01:00:00Z"


class TestToCome:
    def test_fire_times_note_clock_changes(self, api: Caller) -> None:
        api.call(
            "PUT", "/schedules/a", {"cron": "30 2 * * *", "tz": "Europe/Berlin", "func": "a.b"}
        )
        found = api.call("GET", "/schedules/a/next?n=2&from=2027-03-28T00:00")["data"]
        assert found[0]["fireTime"] == "2027-03-28T01:00:00Z"
        assert found[0]["local"] == "2027-03-28T03:00:00+02:00"
        assert "does not exist" in " ".join(found[0]["notes"])
        assert found[1]["local"] == "2027-03-29T02:30:00+02:00"

    def test_a_span_limits_fire_times(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", {"every": "6h", "func": "a.b"})
        path = "/schedules/a/next?n=50&from=2030-01-01T00:00:00Z&until=2030-01-01"
        found = [fire["fireTime"][11:13] for fire in api.call("GET", path)["data"]]
        assert found == ["06", "12", "18"]

    @pytest.mark.parametrize(
        "query",
        ["n=0", "n=101", "from=x", "from=0001-01-01T00:00:00Z", "until=9999-12-31T23:59:59Z",
         "from=2026-02-30", "until=" + "1" * 50, "n=" + "9" * 30],
    )  # fmt: skip
    def test_an_invalid_instant_is_refused(self, api: Caller, query: str) -> None:
        api.call("PUT", "/schedules/a", {"every": "6h", "func": "a.b"})
        assert api.faults("GET", f"/schedules/a/next?{query}")[0] == query.partition("=")[0]


class TestExplaining:
    def test_explain_describes_a_trigger(
        self, redis_url: str, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Store, "now", lambda _: datetime(2026, 7, 1, tzinfo=UTC))
        reader = Caller(app_on(redis_url), "read")
        body = {"cron": "30 2 * * *", "tz": "Europe/Berlin", "n": 3}
        found = reader.call("POST", "/explain", body)
        assert found["words"] == "at 02:30 every day, Europe/Berlin time"
        assert len(found["next"]) == 3
        assert len(found["clockChanges"]) == 2
        assert not connection.keys("rq-clock:*")

    @pytest.mark.parametrize(
        ("rule", "pointer"),
        [
            ({"cron": "* * *"}, "/cron"),
            ({"cron": "0 6 * * *", "tz": "x"}, "/tz"),
            ({"every": "-5m"}, "/every"),
            ({"every": "2w", "at": "9:00", "on": "tue"}, "/anchor"),
            ({"every": "2d", "at": "9"}, "/at"),
            ({"cron": "0 6 * * *", "maxRuns": 5}, "/start"),
            ({"once": "now"}, "/once"),
            ({}, ""),
            ({"every": "5m", "once": "2026-01-01T00:00:00Z"}, ""),
            ({"cron": "* * * * *", "n": 101}, "/n"),
            ({"cron": "* * * * *", "m": 1}, "/m"),
            ({"cron": "x" * 5000}, "/cron"),
        ],
    )
    def test_explain_reports_a_fault_at_its_field(
        self, api: Caller, rule: dict[str, Any], pointer: str
    ) -> None:
        assert api.faults("POST", "/explain", rule)[0] == pointer

    def test_the_process_that_changes_nothing_explains(self, redis_url: str) -> None:
        caller = Caller(app_on(redis_url, read_only=True))
        assert caller.call("POST", "/explain", {"every": "5m"})["words"] == "every 5 minutes"
        body = {"every": "2d", "at": "09:00", "tz": "Asia/Tokyo", "start": "2099-01-01",
                "maxRuns": 2}  # fmt: skip
        found = caller.call("POST", "/explain", body)
        assert [fire["fireTime"] for fire in found["next"]] == [
            "2099-01-01T00:00:00Z", "2099-01-03T00:00:00Z",
        ]  # fmt: skip
        assert caller.error("PUT", "/schedules/a", DAILY) == "403 read-only"


class TestManifests:
    def test_an_export_can_be_applied(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/a", {**DAILY, "tags": ["x"]})
        api.call("PUT", "/schedules/b", HOOK)
        api.call("POST", "/schedules/a/pause", {"reason": "holiday", "missed": "all"})
        declare(connection, "nightly")
        text = api("GET", "/manifest").text
        assert "hush" not in text
        assert "nightly" not in text
        same = api.call("PUT", "/manifest", content=text, headers=YAML)
        assert (same["equal"], same["unchanged"]) == (True, 2)
        whole = api.call("GET", "/manifest?format=json")
        assert api.call("PUT", "/manifest", whole)["equal"]
        assert list(api.call("GET", "/manifest?format=json&tag=x")["schedules"]) == ["a"]
        api("DELETE", "/schedules/a")
        assert api.call("PUT", "/manifest?dryRun=true", content=text, headers=YAML)["added"]
        api.call("PUT", "/manifest", content=text, headers=YAML)
        assert api.call("GET", "/schedules/a")["pause"]["missed"] == "all"

    def test_pruning_removes_other_schedules(self, api: Caller, connection: Redis) -> None:
        declare(connection, "nightly")
        api.call("PUT", "/schedules/a", DAILY)
        body = {"version": 1, "schedules": {"b": HOOK}}
        planned = api.call("PUT", "/manifest?prune=true&dryRun=true", body)
        assert [row["name"] for row in planned["removed"]] == ["a"]
        assert len(api.call("GET", "/schedules")["data"]) == 2
        api.call("PUT", "/manifest?prune=true", body)
        names = {row["name"] for row in api.call("GET", "/schedules")["data"]}
        assert names == {"b", "nightly"}
        assert api.call("GET", "/audit")["data"][0]["verb"] == "apply"

    @pytest.mark.parametrize(
        ("text", "pointer"),
        [
            ("version: 1\nschedules:\n  a:\n    every: 5m\n    comand: ls", "/schedules/a/comand"),
            ("version: 1\nschedules:\n  a: {cron: 61 3 * * *, func: a.b}", "/schedules/a/cron"),
            ("version: 1\nschedules:\n  a b: {}", "/schedules/a b"),
            ("version: 2\nschedules: {}", "/version"),
            ("- 1", ""),
            ("", ""),
            ("a: &b 1", ""),
            ("\x00", ""),
            ('{"version": 1, "schedules": {"a": 1}}', "/schedules/a"),
        ],
    )
    def test_a_faulty_manifest_has_pointers(self, api: Caller, text: str, pointer: str) -> None:
        answer = api("PUT", "/manifest", content=text, headers=YAML)
        assert answer.status_code in (415, 422)
        if answer.status_code == 422 and answer.json().get("errors"):
            assert answer.json()["errors"][0]["pointer"] == pointer

    def test_a_declared_schedule_is_refused(self, api: Caller, connection: Redis) -> None:
        declare(connection, "nightly")
        body = {"version": 1, "schedules": {"nightly": DAILY}}
        assert api.error("PUT", "/manifest", body) == "409 declared-in-code"


class TestTheWhole:
    def test_the_clock_has_its_leader_and_counts(self, api: Caller, connection: Redis) -> None:
        view = api.call("GET", "/clock")
        assert (view["leader"], view["led"], view["checks"]) == (None, None, None)
        now = datetime.now(UTC).replace(microsecond=0)
        facts: Any = {"token": "7.x", "instance": "clock.1", "owner": "o", "since": to_ms(now)}
        facts |= {"tick": to_ms(now), "lag_p50_ms": "3", "lag_p99_ms": "8", "lag_max_ms": "9"}
        connection.hset("rq-clock:default:lease", mapping=facts)
        leader = api.call("GET", "/clock")["leader"]
        assert (leader["instance"], leader["token"], leader["lagP99Ms"]) == ("clock.1", 7, 8)
        assert leader["since"] == leader["lastTick"] == now.isoformat()[:19] + "Z"
        connection.delete("rq-clock:default:lease")
        view = api.call("GET", "/clock?checks=true")
        assert view["healthy"] is False
        assert "no-leader" in [finding["code"] for finding in view["checks"]]

    def test_the_audit_comes_in_pages(self, api: Caller) -> None:
        for n in range(5):
            api.call("PUT", f"/schedules/s{n}", DAILY)
        first = api.call("GET", "/audit?limit=3")
        second = api.call("GET", f"/audit?limit=3&cursor={first['nextCursor']}")
        found = [row["schedules"] for row in first["data"] + second["data"]]
        assert found == [[f"s{n}"] for n in reversed(range(5))]
        assert second["nextCursor"] is None
        for cursor in ("x", "1", "%2B", "1-1)"):
            assert api.error("GET", f"/audit?cursor={cursor}") == "422 validation"
        for cursor in ("0-0", "000-00", "0-1"):  # nothing comes before the first entry
            assert api.call("GET", f"/audit?cursor={cursor}")["data"] == []

    @pytest.mark.integration
    def test_every_response_reports_an_outage(self) -> None:
        api = Caller(app_on(free_url()))
        for method, path in (("GET", "/schedules"), ("GET", "/clock"), ("GET", "/queues"),
                             ("POST", "/schedules/a/runs"), ("GET", "/runs")):  # fmt: skip
            kind, problem = api.refused(method, path)
            assert kind == "503 store-unavailable"
            assert "retry" in str(api(method, path).headers).lower()
            assert problem["instance"].startswith("urn:rq-clock:request:")

    def test_an_unknown_path_and_method_are_problems(self, api: Caller) -> None:
        assert api.error("GET", "/nope") == "404 not-found"
        answer = api("DELETE", "/clock")
        assert answer.status_code == 405
        assert answer.headers["content-type"] == "application/problem+json"


def test_under_a_path_its_links_stay_there(redis_url: str, connection: Redis) -> None:
    outer = FastAPI()
    outer.mount("/clock", app_on(redis_url))
    headers = {"Authorization": f"Bearer {VALUES['admin']}"}
    client = TestClient(outer, headers=headers)
    made = client.post("/clock/api/v1/schedules", json={"name": "a", **DAILY})
    assert made.headers["location"] == "/clock/api/v1/schedules/a"
    assert client.get(made.headers["location"]).status_code == 200
    schedules_on(connection).add("b", every(hours=1), "a.b")
    page = client.get("/clock/api/v1/schedules?limit=1")
    link = page.headers["link"].partition(">")[0].removeprefix("<")
    assert client.get(link).json()["data"][0]["name"] != page.json()["data"][0]["name"]
    document = client.get("/clock/api/v1/openapi.json").json()
    assert document["servers"] == [{"url": "/clock"}]


class TestTheDocument:
    def test_every_operation_documents_its_responses(self, api: Caller) -> None:
        document = api.call("GET", "/openapi.json")
        assert document["openapi"].startswith("3.1")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                known = set(operation["responses"])
                assert known >= {"401", "403", "422", "429", "503"}, (method, path)
                assert operation["security"], path
                assert operation["description"], path
                if "requestBody" in operation:
                    assert known >= {"413", "415"}, path
                names = [p["name"] for p in operation.get("parameters", [])]
                assert ("Idempotency-Key" in names) == (method == "post")

    def test_every_reference_resolves(self, api: Caller) -> None:
        text = api("GET", "/openapi.json").text
        document = json.loads(text)
        for ref in {part.partition('"')[0] for part in text.split('"$ref":"#/')[1:]}:
            found = document
            for step in ref.split("/"):
                found = found[step]
        identities = [
            operation["operationId"]
            for methods in document["paths"].values()
            for operation in methods.values()
        ]
        assert len(set(identities)) == len(identities)

    def test_schemas_have_plain_names_and_enums(self, api: Caller) -> None:
        schemas = api.call("GET", "/openapi.json")["components"]["schemas"]
        assert {"Schedule", "SchedulePage", "Run", "RunPage", "JobDetail", "Pause"} <= set(schemas)
        for name, schema in schemas.items():
            assert re.fullmatch("[A-Z][A-Za-z]+(?<!View)", name)
            assert schema["title"] == name
        assert schemas["Pause"]["properties"]["missed"]["enum"] == ["skip", "latest", "all"]

    def test_its_examples_are_accepted(self, api: Caller) -> None:
        schemas = api.call("GET", "/openapi.json")["components"]["schemas"]
        for example in schemas["NewSchedule"]["examples"]:
            assert api("POST", "/schedules", example).status_code == 201
        for example in schemas["Definition"]["examples"]:
            assert api("PUT", "/schedules/x", example).status_code == 201
        for example in schemas["ExplainRequest"]["examples"]:
            api.call("POST", "/explain", example)
        for example in schemas["BackfillRequest"]["examples"]:
            api.call("POST", "/schedules/x/backfills", example)
        for example in schemas["Manifest"]["examples"]:
            api.call("PUT", "/manifest", example)

    def test_it_requires_a_token(self, redis_url: str) -> None:
        client = TestClient(app_on(redis_url), follow_redirects=False)
        assert client.get("/api/v1/openapi.json").status_code == 401
        assert client.get("/docs").status_code == 303
        headers = {"Authorization": f"Bearer {VALUES['read']}"}
        assert client.get("/api/v1/openapi.json", headers=headers).status_code == 200
        page = client.get("/docs", headers=headers)
        assert page.status_code == 200
        assert "POST /api/v1/schedules/{name}/runs" in page.text
        for word in ("https://", "http://", "<script>", "style="):
            assert word not in page.text.replace("https://example.com", "")


def test_the_constants_of_the_document_are_those_of_the_code(api: Caller) -> None:
    path = "/schedules/a/pause"
    api.call("PUT", "/schedules/a", DAILY)
    for key in ("", "x" * (LONGEST + 1), "ü", "\x7f"):
        headers = {"Idempotency-Key": key.encode("latin-1")}
        assert api.faults("POST", path, {}, headers=headers) == ["Idempotency-Key"]
