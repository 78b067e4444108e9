"""The API's operations: run, pause, resume, skip, backfill, retry, stop, of one and of many; and
what is told of runs, queues and jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from rq import Queue

from rq_clock.store import cursors
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every
from tests.helpers import round_trips
from tests.web.client import Caller, app_on, schedules_on
from tests.worker import jobs as jobs

OK = {"every": "1h", "func": "tests.worker.jobs.add", "args": [1, 2]}
BAD = {"every": "1h", "func": "tests.worker.jobs.fail"}
SHELL = {"every": "1h", "command": "echo one; echo two"}


class TestOfOne:
    def test_a_run_is_at_its_location(self, api: Caller, work: Callable[[], None]) -> None:
        api.call("PUT", "/schedules/a", OK)
        answer = api("POST", "/schedules/a/runs", {"reason": "to see"})
        assert answer.status_code == 202
        path = answer.headers["location"].removeprefix("/api/v1")
        assert api.call("GET", path)["status"] == "queued"
        work()
        run = api.call("GET", path)
        assert (run["schedule"], run["reason"], run["status"]) == ("a", "manual", "finished")
        assert run["fireTime"] <= run["enqueued"] <= run["started"] <= run["ended"]
        [attempt] = run["attempts"]
        assert (attempt["state"], attempt["number"], attempt["error"]) == ("ok", 1, None)
        assert run["result"] == "3"
        assert api.call("GET", "/audit")["data"][0]["reason"] == "to see"

    def test_a_run_in_progress_stands_in_the_way_unless_forced(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", OK)
        first = api.call("POST", "/schedules/a/runs")["job"]
        kind, problem = api.refused("POST", "/schedules/a/runs")
        assert (kind, first in problem["detail"]) == ("409 overlap", True)
        assert api.call("POST", "/schedules/a/runs", {"force": True})["job"] != first

    def test_a_pause_is_kept_with_its_reason_and_end(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", OK)
        body = {"reason": "bank", "until": "2036-01-01T01:00:00+01:00", "missed": "latest"}
        for _ in range(2):
            view = api.call("POST", "/schedules/a/pause", body)
        assert view["state"] == "paused"
        pause = view["pause"]
        assert (pause["reason"], pause["by"], pause["missed"]) == ("bank", "admin", "latest")
        assert pause["until"] == "2036-01-01T00:00:00Z"
        for _ in range(2):
            view = api.call("POST", "/schedules/a/resume", {"missed": "skip"})
        assert (view["state"], view["pause"]) == ("scheduled", None)

    @pytest.mark.parametrize(
        ("path", "body", "pointer"),
        [
            ("pause", {"until": "2020-01-01T00:00:00Z"}, "/until"),
            ("pause", {"until": "2036-01-01"}, "/until"),
            ("pause", {"until": 2036}, "/until"),
            ("pause", {"missed": "some"}, "/missed"),
            ("pause", {"reason": "x" * 501}, "/reason"),
            ("pause", {"why": "x"}, "/why"),
            ("resume", {"missed": 1}, "/missed"),
            ("skip", {"count": 0}, "/count"),
            ("skip", {"count": 10**30}, "/count"),
            ("skip", {"count": "1"}, "/count"),
            ("runs", {"force": "yes"}, "/force"),
            ("backfills", {"from": "x", "to": "2026-01-01"}, "/from"),
            ("backfills", {"from": "2026-01-01"}, "/to"),
            ("backfills", {"from": "2026-01-02", "to": "2026-01-01"}, "/to"),
            ("backfills", {"from": "2090-01-01", "to": "2090-01-02"}, "/from"),
            ("backfills", {"from": "0001-01-01T00:00:00+14:00", "to": "2026-01-01"}, "/from"),
            ("backfills", {"from": "2026-01-01", "to": "2026-01-02", "atOnce": 0}, "/atOnce"),
            ("backfills", {"from": "2020-01-01", "to": "2026-01-02"}, "/limit"),
        ],
    )
    def test_each_fault_has_its_field(
        self, api: Caller, path: str, body: dict[str, Any], pointer: str
    ) -> None:
        api.call("PUT", "/schedules/a", OK)
        assert api.faults("POST", f"/schedules/a/{path}", body)[0] == pointer

    def test_skip_takes_the_next_fire_times(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", OK)
        fires = [f["fireTime"] for f in api.call("GET", "/schedules/a/next?n=4")["data"]]
        said = api.call("POST", "/schedules/a/skip", {"count": 3})
        assert said == {"skipping": fires[:3], "count": 3, "until": fires[2]}
        call = api.call("GET", "/schedules/a/next?n=4")["data"]
        assert [f["skipped"] for f in call] == ["requested"] * 3 + [None]
        assert api.call("DELETE", "/schedules/a/skip")["skipping"] == []
        assert api.call("GET", "/schedules/a")["skipping"] is None

    def test_a_once_has_no_second_fire_time_to_skip(self, api: Caller) -> None:
        api.call("PUT", "/schedules/a", {"once": "2090-01-01T00:00:00Z", "func": "a.b"})
        assert api.error("POST", "/schedules/a/skip", {"count": 2}) == "409 conflict"

    def test_a_backfill_is_previewed_created_and_canceled(self, api: Caller) -> None:
        rule = {"cron": "0 3 * * *", "tz": "Europe/Berlin", "func": "a.b"}
        api.call("PUT", "/schedules/a", rule)
        span = {"from": "2026-03-27", "to": "2026-03-29T12:00"}
        seen = api("POST", "/schedules/a/backfills", {**span, "dryRun": True})
        assert seen.status_code == 200
        assert (seen.json()["count"], seen.json()["last"]) == (3, "2026-03-29T01:00:00Z")
        assert api.call("GET", "/backfills")["data"] == []
        made = api("POST", "/schedules/a/backfills", {**span, "reason": "lost"})
        assert made.status_code == 202
        path = made.headers["location"].removeprefix("/api/v1")
        assert api.call("GET", path) == made.json()
        assert api.call("GET", "/schedules/a/backfills")["data"] == [made.json()]
        assert api.call("GET", "/schedules/b/backfills")["data"] == []
        assert api("DELETE", path).status_code == 204
        assert api.call("GET", path)["state"] == "canceled"
        assert api.error("DELETE", path) == "409 conflict"
        assert api.error("GET", "/backfills/a-1") == "404 not-found"
        assert api.error("DELETE", "/backfills/a-1") == "404 not-found"

    def test_many_backfills_cost_few_round_trips(self, api: Caller, connection: Redis) -> None:
        day = datetime(2026, 1, 1, tzinfo=UTC)
        for name in ("a", "b", "c", "d", "e"):
            api.call("PUT", f"/schedules/{name}", OK)
            schedules_on(connection).backfill(name, day, day)
        with round_trips() as sent:
            assert len(api.call("GET", "/backfills")["data"]) == 5
        assert len(sent) <= 3


class TestOfMany:
    def fill(self, api: Caller, *names: str) -> None:
        for name in names:
            api.call("PUT", f"/schedules/{name}", {**OK, "tags": [name[0]]})

    def outcome(self, api: Caller, verb: str, **body: Any) -> dict[str, Any]:
        """What is said of each: None, or the kind of its problem."""
        said = api.call("POST", f"/schedules:{verb}", body)
        kinds = {
            row["name"]: row["problem"] and row["problem"]["type"].rpartition(":")[2]
            for row in said["data"]
        }
        assert said["done"] == list(kinds.values()).count(None)
        assert said["done"] + said["failed"] == len(kinds)
        return kinds

    def test_conflicts_stop_no_other(self, api: Caller, connection: Redis) -> None:
        self.fill(api, "a1", "a2", "b1")
        connection.sadd("rq-clock:default:declared", "b1")
        names = ["a1", "nope", "b1", "a1"]
        paused = self.outcome(api, "pause", names=names, reason="x")
        assert paused == {"a1": None, "nope": "not-found", "b1": None}
        assert self.outcome(api, "resume", names=names)["nope"] == "not-found"
        assert api.call("GET", "/schedules?state=paused")["data"] == []
        assert self.outcome(api, "run", names=names) == paused
        assert self.outcome(api, "run", names=["a1", "a2"]) == {"a1": "overlap", "a2": None}
        assert self.outcome(api, "delete", names=names) == {
            "a1": None, "nope": "not-found", "b1": "declared-in-code"
        }  # fmt: skip
        assert [row["name"] for row in api.call("GET", "/schedules")["data"]] == ["a2", "b1"]

    def test_a_filter_selects_its_matches(self, api: Caller) -> None:
        self.fill(api, "a1", "a2", "b1")
        assert self.outcome(api, "pause", filter={"tag": "a"}) == {"a1": None, "a2": None}
        assert self.outcome(api, "resume", filter={"state": "paused"}).keys() == {"a1", "a2"}
        assert self.outcome(api, "delete", filter={"q": "B1"}) == {"b1": None}
        assert self.outcome(api, "delete", filter={"queue": "nope"}) == {}

    def test_too_many_are_refused(self, api: Caller, connection: Redis) -> None:
        count = 1001
        schedules_on(connection).add_many((f"s{n}", every(hours=1), "a.b") for n in range(count))
        assert api.faults("POST", "/schedules:pause", {"filter": {}})[0] == "/filter"
        assert api.error("POST", "/schedules:run", {"filter": {"q": "s"}}) == "422 validation"
        names = [f"s{n}" for n in range(count)]
        assert api.faults("POST", "/schedules:delete", {"names": names})[0] == "/names"
        assert api.call("POST", "/schedules:pause", {"names": names[1:]})["done"] == 1000

    @pytest.mark.parametrize(
        "body",
        [{}, {"names": ["a"], "filter": {}}, {"names": []}, {"names": ["a b"]}, {"names": "a"},
         {"names": [5]}, {"filter": {"colour": "red"}}, {"filter": {"state": "asleep"}}],
    )  # fmt: skip
    def test_an_empty_selection_is_refused(self, api: Caller, body: dict[str, Any]) -> None:
        assert api.error("POST", "/schedules:pause", body) == "422 validation"

    def test_each_requires_its_scope(self, redis_url: str) -> None:
        operator = Caller(app_on(redis_url), "operate")
        assert operator.error("POST", "/schedules:delete", {"names": ["a"]}) == "403 forbidden"
        assert operator.call("POST", "/schedules:pause", {"names": ["a"]})["failed"] == 1


class TestRuns:
    def test_the_ledger_comes_in_pages_newest_first(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/a", OK)
        start = to_ms(datetime(2026, 3, 1, tzinfo=UTC))
        lines = [f"s {start + n * 1000} 5 ok 1 {start} {start + 9} w" for n in range(5)]
        lines[1] = f"- {start + 1000} {start + 1500} 7 overlap"
        lines[3] = f"s {start + 3000} 5 failed 2 {start} {start + 9} w boom: it broke"
        connection.rpush("rq-clock:default:ledger:a", *lines)
        found, path = [], "/schedules/a/runs?limit=2"
        while path:
            answer = api("GET", path)
            found += answer.json()["data"]
            path = answer.headers.get("link", "").partition(">")[0].removeprefix("</api/v1")
            connection.rpush("rq-clock:default:ledger:a", f"m {start + 10**7} 1")  # meanwhile
        states = [row["state"] for row in found]
        assert states == ["ok", "failed", "ok", "skipped", "ok"]
        assert found[1]["error"] == "boom: it broke"
        assert (found[3]["reason"], found[3]["count"]) == ("overlap", 7)

        def count(query: str) -> int:
            whole = len(api.call("GET", f"/schedules/a/runs?{query}")["data"])
            assert whole == len(api.call("GET", f"/runs?schedule=a&{query}")["data"])
            return whole

        assert count("state=failed") == count("reason=overlap") == 1
        assert count("state=ok&until=2026-03-01T00:00:02Z") == 2
        assert count("state=ok&since=2026-03-01T00:00:04Z") == 1

    def test_a_cursor_outlives_its_entries(self, api: Caller, connection: Redis) -> None:
        api.call("PUT", "/schedules/a", OK)
        connection.rpush("rq-clock:default:ledger:a", "s 1000 1", "s 2000 1", "s 3000 1")
        cursor = api.call("GET", "/schedules/a/runs?limit=2")["nextCursor"]
        connection.ltrim("rq-clock:default:ledger:a", -1, -1)
        page = api.call("GET", f"/schedules/a/runs?cursor={cursor}")
        assert page == {"data": [], "nextCursor": None, "total": None, "searched": None}

    def test_all_ended_attempts_are_listed(self, api: Caller, connection: Redis) -> None:
        start = to_ms(datetime(2026, 3, 1, tzinfo=UTC))
        for n in range(2500):
            state = "failed" if n % 500 == 0 else "ok"
            entry = f"s {start} 5 {state} 1 {start} {start + n} w"
            job = f"default-s{n % 2}-{start}"
            fields = {"schedule": f"s{n % 2}", "job": job, "entry": entry}
            connection.xadd("rq-clock:default:runs", fields, id=f"{start + n}-0")  # type: ignore[arg-type]
        api.call("GET", "/clock")
        with round_trips() as sent:
            page = api.call("GET", "/runs?limit=3")
        assert len(sent) <= 3
        ends = [row["ended"] for row in page["data"]]
        assert ends == sorted(ends, reverse=True)
        path = f"/runs?limit=200&cursor={page['nextCursor']}"
        assert api.call("GET", path)["data"][0]["ended"] < ends[-1]
        found, cursor, searched = [], "", 0
        while True:
            page = api.call("GET", f"/runs?state=failed&cursor={cursor}")
            found += page["data"]
            searched += page["searched"] or 0
            if not (cursor := page["nextCursor"]):
                break
        assert [row["state"] for row in found] == ["failed"] * 5
        assert searched == 2000
        for query, count in (("until=2026-03-01T00:00:00.100Z", 101),
                             ("since=2026-03-01T00:00:02.400Z", 100)):  # fmt: skip
            assert len(api.call("GET", f"/runs?limit=200&{query}")["data"]) == count

    def test_nothing_comes_before_the_first_entry(self, api: Caller) -> None:
        assert api.call("GET", f"/runs?cursor={cursors.encode('0-0')}")["data"] == []

    @pytest.mark.parametrize(
        "query", ["since=x", "until=2026-01-01", "state=asleep", "cursor=x", "cursor=WyJ4Il0",
                  "schedule=a%20b", "limit=1000"],
    )  # fmt: skip
    def test_a_wrong_parameter_is_named(self, api: Caller, query: str) -> None:
        assert api.faults("GET", f"/runs?{query}")[0] == query.partition("=")[0]

    def test_output_comes_whole_and_in_parts(self, api: Caller, work: Callable[[], None]) -> None:
        api.call("PUT", "/schedules/a", SHELL)
        job = api.call("POST", "/schedules/a/runs")["job"]
        work()
        path = f"/runs/{job}/output"
        whole = api("GET", path)
        assert whole.headers["content-type"].startswith("text/plain")
        assert whole.text == "one\ntwo\n"
        assert api("GET", f"{path}?offset=4").text == "two\n"
        assert api("GET", f"{path}?offset=99").text == ""
        parts = {
            "bytes=4-": ("two\n", "4-7/8"),
            "bytes=0-1": ("on", "0-1/8"),
            "bytes=-3": ("wo\n", "5-7/8"),
            "bytes=6-99": ("o\n", "6-7/8"),
        }
        for wanted, (text, span) in parts.items():
            part = api("GET", path, headers={"Range": wanted})
            assert (part.status_code, part.text) == (206, text)
            assert part.headers["content-range"] == f"bytes {span}"
        for wanted in ("lines=1-2", "bytes=-", "bytes=5-2", "bytes=1-2,3-4", "x"):
            assert api("GET", path, headers={"Range": wanted}).text == whole.text
        refused = api("GET", path, headers={"Range": "bytes=8-"})
        assert (refused.status_code, refused.headers["content-range"]) == (416, "bytes */8")
        assert api.error("GET", "/runs/default-a-1/output") == "404 not-found"

    def test_a_failed_run_can_be_repeated(self, api: Caller, work: Callable[[], None]) -> None:
        api.call("PUT", "/schedules/a", BAD)
        job = api.call("POST", "/schedules/a/runs")["job"]
        assert api.error("POST", f"/runs/{job}/retry") == "409 conflict"
        work()
        run = api.call("GET", f"/runs/{job}")
        assert run["status"] == "failed"
        assert run["error"]
        assert "Traceback" in run["traceback"]
        assert api.call("POST", f"/runs/{job}/retry", {"reason": "fixed"})["job"] == job
        work()
        assert len(api.call("GET", f"/runs/{job}")["attempts"]) == 2
        other = api("POST", f"/runs/{job}/retry", {"again": True}).json()["job"]
        assert other != job
        assert api.call("GET", f"/runs/{other}")["fireTime"] == run["fireTime"]

    def test_only_a_running_job_is_stopped(self, api: Caller, work: Callable[[], None]) -> None:
        api.call("PUT", "/schedules/a", OK)
        job = api.call("POST", "/schedules/a/runs")["job"]
        assert api.error("POST", f"/runs/{job}/stop") == "409 conflict"
        assert api.error("POST", "/runs/default-a-1/stop") == "404 not-found"

    def test_a_job_of_no_schedule_is_no_run(self, api: Caller, connection: Any) -> None:
        job = Queue("default", connection=connection).enqueue(jobs.add, 1, 2)
        assert api.error("GET", f"/runs/{job.id}") == "404 not-found"
        assert api.call("GET", f"/jobs/{job.id}")["schedule"] is None

    @pytest.mark.parametrize(
        "id", ["default-a-" + "9" * 20, "default-a-" + "9" * 200, "x", "a-b-1-m", "-", "%00"]
    )
    def test_an_odd_id_is_no_server_error(self, api: Caller, id: str) -> None:
        for path in (f"/runs/{id}", f"/jobs/{id}", f"/runs/{id}/output", f"/backfills/{id}"):
            assert api("GET", path).status_code in (404, 422)
        for path in (f"/runs/{id}/retry", f"/runs/{id}/stop", f"/jobs/{id}/requeue"):
            assert api("POST", path).status_code in (404, 422)
        assert api("DELETE", f"/jobs/{id}").status_code in (404, 422)


class TestQueues:
    def test_queues_and_jobs_are_listed(
        self, api: Caller, connection: Any, work: Callable[[], None]
    ) -> None:
        api.call("PUT", "/schedules/a", BAD)
        failed = api.call("POST", "/schedules/a/runs")["job"]
        work()
        Queue("odd queue:ü", connection=connection).enqueue(jobs.add, 1, 2)
        queues = {q["name"]: q for q in api.call("GET", "/queues")["data"]}
        assert queues["default"]["jobs"]["failed"] == 1
        assert queues["odd queue:ü"]["unserved"] is True
        assert api.call("GET", "/queues/odd%20queue:%C3%BC")["servedBy"] == []
        assert api.error("GET", "/queues/nope") == "404 not-found"
        found = api.call("GET", "/jobs?queue=default")
        assert ([job["id"] for job in found["data"]], found["total"]) == ([failed], 1)
        assert api.call("GET", "/jobs?kind=queued")["data"][0]["queue"] == "odd queue:ü"
        assert api.call("GET", "/workers")["data"] == []

    def test_jobs_come_in_pages(self, api: Caller, connection: Any) -> None:
        queue = Queue("default", connection=connection)
        known = [queue.enqueue(jobs.add, n, 2).id for n in range(7)]
        found, path = [], "/jobs?kind=queued&limit=3"
        while path:
            answer = api("GET", path)
            found += [job["id"] for job in answer.json()["data"]]
            path = answer.headers.get("link", "").partition(">")[0].removeprefix("</api/v1")
        assert found == known
        for cursor in ("x", "W10", "WyJxdWV1ZWQiLCAiaW5mIiwgIiJd", "%00"):
            assert api("GET", f"/jobs?kind=queued&cursor={cursor}").status_code in (200, 422)

    def test_failed_jobs_can_be_removed(self, api: Caller, work: Callable[[], None]) -> None:
        ids = []
        for name in ("a", "b", "c"):
            api.call("PUT", f"/schedules/{name}", BAD)
            ids.append(api.call("POST", f"/schedules/{name}/runs")["job"])
        work()
        assert api("POST", f"/jobs/{ids[0]}/requeue").status_code == 202
        assert api.error("POST", f"/jobs/{ids[0]}/requeue") == "409 conflict"
        swept = api.call("POST", "/jobs:requeue", {"filter": {"schedule": "b"}})
        assert swept == {"done": 1, "refused": [], "more": False}
        assert api("DELETE", f"/jobs/{ids[2]}").status_code == 204
        assert api.call("GET", f"/jobs/{ids[2]}")["status"] is None  # only its attempts are left
        work()
        old = {"filter": {"before": "2026-01-01T00:00:00Z"}}
        assert api.call("POST", "/jobs:delete", old)["done"] == 0
        assert api.call("POST", "/jobs:delete")["done"] == 2
        assert api.call("GET", "/jobs")["data"] == []
