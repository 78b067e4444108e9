"""/metrics and what is built on it. A real server; where it matters a real clock and a real worker,
and an end to them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from redis import Redis

from rq_clock import Schedules, cron, every
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.web import metrics
from rq_clock.web.context import Context
from rq_clock.web.metrics import METHODS, Metrics, count_request
from tests.cli.terminal import serving
from tests.clock.storm import ClockProcess, add, client
from tests.helpers import pause, round_trips, wait_until
from tests.server import Server

ROOT = Path(__file__).parents[2]
PREFIX = "rq-clock:default:"
HOUR = timedelta(hours=1)
Labels = frozenset[tuple[str, str]]
Samples = dict[str, dict[Labels, float]]


def web(redis: Any, **env: str) -> TestClient:
    """Return a web process with metrics."""
    app = FastAPI()
    app.state.web = Context.of(Settings.from_env(env), redis, read_only=False)
    app.include_router(metrics.router)
    return TestClient(app)


def samples(text: str) -> Samples:
    """Metric → labels → value, as Prometheus reads it."""
    found: Samples = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def metrics_of(redis: Any, **env: str) -> Samples:
    settings = Settings.from_env(env)
    store = Context.of(settings, redis, read_only=False).store
    return samples(Metrics(store, settings).text("")[0].decode())


def of(found: Samples, name: str, **labels: str) -> float | None:
    """The value of a metric with exactly these labels."""
    return found.get(name, {}).get(frozenset(labels.items()))


def with_label(found: Samples, name: str, label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in found.get(name, {}).items()}


class TestSingleSchedules:
    def test_a_schedule_has_its_instants(self, connection: Redis, schedules: Schedules) -> None:
        schedules.add("s", cron("0 3 * * *", tz="Europe/Berlin"), "tasks.x", queue="low")
        due: Any = connection.zscore(PREFIX + "due", "s")
        marker = to_ms(datetime(2026, 3, 1, tzinfo=UTC))
        connection.hset(PREFIX + "markers", "s", f"{marker} 5 job")
        connection.hset(PREFIX + "outcomes", "s", "failed 1 2 3000 2000 3000 1")
        connection.zadd(PREFIX + "failing", {"s": 3000})
        found = metrics_of(connection, RQ_CLOCK_ALERT_GRACE_SECONDS="90")
        assert found["rq_clock_schedule_info"] == {
            frozenset(
                {
                    "schedule": "s", "kind": "cron", "queue": "low",
                    "timezone": "Europe/Berlin", "origin": "run-time",
                }.items()
            ): 1
        }  # fmt: skip
        expected = {
            "next_run_timestamp_seconds": due / 1000,
            "last_slot_timestamp_seconds": marker / 1000,
            "last_success_timestamp_seconds": 2,
            "last_failure_timestamp_seconds": 3,
            "overdue_seconds": 0,
            "grace_seconds": 90,
            "paused": 0,
            "failing": 1,
        }
        for name, value in expected.items():
            assert of(found, f"rq_clock_schedule_{name}", schedule="s") == value, name

    def test_unknown_values_are_absent(self, connection: Redis, schedules: Schedules) -> None:
        schedules.add("s", every(hours=1), "tasks.x")
        found = metrics_of(connection)
        for name in ("last_success", "last_failure", "last_slot"):
            assert f"rq_clock_schedule_{name}_timestamp_seconds" not in found
        assert "rq_clock_leader_info" not in found
        assert "rq_clock_last_tick_timestamp_seconds" not in found

    def test_it_is_overdue_by_redis_time(self, connection: Redis, schedules: Schedules) -> None:
        schedules.add("s", every(hours=1), "tasks.x")
        now = to_ms(datetime.now(UTC))
        connection.zadd(PREFIX + "due", {"s": now - 100_000})
        late = of(metrics_of(connection), "rq_clock_schedule_overdue_seconds", schedule="s")
        assert late == pytest.approx(100, abs=5)

    @pytest.mark.parametrize("limit", ["500", "3"])
    def test_the_states_are_counted_alike_with_and_without_single_schedules(
        self, connection: Redis, schedules: Schedules, limit: str
    ) -> None:
        now = to_ms(datetime.now(UTC))
        for number in range(16):
            schedules.add(f"s{number}", every(hours=1), "tasks.x")
        connection.zadd(PREFIX + "failing", {"s0": 1, "s3": 1, "s12": 1, "s13": 1})
        for name in ("s13", "s14", "s0"):
            job = f"default-{name}-1790000000000"
            connection.hset(PREFIX + "workers", f"w-{name}", f"1790000000000000 e1 {job} default")
        stuck = json.dumps({"since": now - 7_200_000})
        connection.hset(PREFIX + "alerts", mapping={"stuck:s15": stuck, "stuck:s1": stuck})
        schedules.pause("s0")
        schedules.pause("s1", until=datetime.now(UTC) + HOUR)
        schedules.pause("s2")
        schedules.resume("s2")
        late = now - 60_000
        connection.zadd(PREFIX + "due", {"s1": late, "s3": late, "s4": late})
        connection.zrem(PREFIX + "due", "s5", "s0")
        connection.hset(PREFIX + "definitions", "s4", "{")
        found = metrics_of(connection, RQ_CLOCK_METRICS_SCHEDULES=limit)
        assert with_label(found, "rq_clock_schedules", "state") == {
            "invalid": 1, "late": 1, "stuck": 1, "failing": 2, "paused": 2, "running": 1,
            "ended": 1, "scheduled": 7,
        }  # fmt: skip
        assert of(found, "rq_clock_schedules_failing") == 3
        pause(Store(connection, "default"), "*", datetime.now(UTC))
        paused = metrics_of(connection, RQ_CLOCK_METRICS_SCHEDULES=limit)
        assert with_label(paused, "rq_clock_schedules", "state") == {
            "invalid": 1, "late": 0, "stuck": 0, "failing": 0, "paused": 15, "running": 0,
            "ended": 0, "scheduled": 0,
        }  # fmt: skip
        assert of(paused, "rq_clock_schedules_failing") == 0

    def test_beyond_the_limit_only_trouble_is_listed(
        self, connection: Redis, schedules: Schedules
    ) -> None:
        now = to_ms(datetime.now(UTC))
        for number in range(30):
            schedules.add(f"s{number}", every(hours=1), "tasks.x")
        late = {f"s{n}": now - 60_000 - n for n in range(10)}
        connection.zadd(PREFIX + "due", late)
        connection.zadd(PREFIX + "failing", {f"s{n}": n for n in range(8, 24)})

        def names(limit: int) -> set[str]:
            found = metrics_of(connection, RQ_CLOCK_METRICS_SCHEDULES=str(limit))
            assert of(found, "rq_clock_schedules_failing") == 16
            assert of(found, "rq_clock_schedules", state="late") == 10
            return set(with_label(found, "rq_clock_schedule_paused", "schedule"))

        assert len(names(30)) == 30
        assert names(29) == {f"s{n}" for n in range(24)}
        few = names(8)
        assert few == {"s9", "s8", "s7", "s6"} | {f"s{n}" for n in range(20, 24)}


class TestQueues:
    def test_names_are_those_of_rq_exporter(
        self, redis_url: str, connection: Redis, schedules: Schedules
    ) -> None:
        schedules.add("good", every(hours=1), "tests.worker.jobs.add", args=[1, 2])
        schedules.add("bad", every(hours=1), "tests.worker.jobs.fail", overlap="allow")
        schedules.add("waits", every(hours=1), "tests.worker.jobs.add", queue='odd "one"')
        for name in ("good", "bad", "waits"):
            schedules.trigger(name)
        with serving(redis_url, "default", "low"):
            wait_until(lambda: connection.zcard("rq:failed:default"), "the failure")
            wait_until(
                lambda: of(
                    metrics_of(connection), "rq_workers", state="idle", queues="default,low"
                ),
                "an idle worker",
            )
            found = metrics_of(connection)
        for status in ("finished", "failed"):
            assert of(found, "rq_jobs", queue="default", status=status) == 1
        assert of(found, "rq_jobs", queue="default", status="queued") == 0
        assert of(found, "rq_jobs", queue='odd "one"', status="queued") == 1
        assert of(found, "rq_queue_workers", queue="default") == 1
        assert of(found, "rq_queue_workers", queue="low") == 1
        assert of(found, "rq_queue_workers", queue='odd "one"') == 0
        assert of(found, "rq_queue_oldest_job_age_seconds", queue="default") == 0
        age = of(found, "rq_queue_oldest_job_age_seconds", queue='odd "one"')
        assert age is not None
        assert 0 < age < 60

    def test_a_worker_without_a_record_does_not_count(self, connection: Redis) -> None:
        connection.sadd("rq:workers", "rq:worker:gone")
        connection.sadd("rq:queues", "rq:queue:default")
        found = metrics_of(connection)
        assert "rq_workers" not in found
        assert of(found, "rq_queue_workers", queue="default") == 0


class TestTheText:
    def test_both_formats_have_equal_samples(self, connection: Redis, schedules: Schedules) -> None:
        schedules.add("s", every(hours=1), "tasks.x", queue='a "b" \\ c')
        counts: dict[Any, Any] = {"run ok 2.5": 3, "run failed 300": 1, "took": 90_500}
        connection.hset(PREFIX + "counters:s", mapping=counts)
        count_request("/api/v1/x", "GET", 200)
        site = web(connection)
        plain = site.get("/metrics")
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        modern = site.get("/metrics", headers=accept)
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
        assert modern.text.endswith("# EOF\n")
        found = samples(plain.text)
        again: Samples = {}
        kinds: dict[str, str] = {}
        families: Iterator[Any] = read_openmetrics(modern.text)  # type: ignore[no-untyped-call]
        for family in families:
            kinds[family.name] = family.type
            for sample in family.samples:
                again.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        volatile = {"rq_clock_schedule_overdue_seconds"}
        assert {k: v for k, v in found.items() if k not in volatile} == {
            k: v for k, v in again.items() if k not in volatile
        }
        assert kinds["rq_clock_runs"] == "counter"
        assert kinds["rq_clock_schedule_run_duration_seconds"] == "histogram"
        bucket = "rq_clock_schedule_run_duration_seconds_bucket"
        rows = {dict(labels)["le"]: value for labels, value in found[bucket].items()}
        assert (rows["1.0"], rows["2.5"], rows["60.0"], rows["300.0"]) == (0, 3, 3, 4)
        assert rows["+Inf"] == 4
        assert of(found, "rq_clock_schedule_run_duration_seconds_sum", schedule="s") == 90.5

    def test_buckets_are_cumulative_and_end_with_all(self, connection: Redis) -> None:
        fields: dict[Any, Any] = {
            f"late {le}": 1 for le in ("0.05", "1", "7", "+Inf")
        }  # 7: of another release
        connection.hset(PREFIX + "counters", mapping=fields)
        found = metrics_of(connection)["rq_clock_fire_lateness_seconds_bucket"]
        rows = sorted((float(dict(labels)["le"]), n) for labels, n in found.items())
        assert [n for _, n in rows] == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
        assert all(one <= other for (_, one), (_, other) in pairwise(rows))

    def test_failure_counters_begin_at_zero(self, connection: Redis) -> None:
        """Of a counter that appears with 1, increase() sees nothing."""
        found = metrics_of(connection)
        for status in ("failed", "timed_out", "lost"):
            assert of(found, "rq_clock_runs_total", status=status) == 0
        assert of(found, "rq_clock_fires_total", result="error", reason="write") == 0

    def test_requests_add_no_labels(self, connection: Redis) -> None:
        for number in range(50):
            count_request("", f"METHOD{number}", 404)
        found = samples(web(connection).get("/metrics").text)["rq_clock_http_requests_total"]
        methods = {dict(labels)["method"] for labels in found}
        assert methods <= {*METHODS, "other"}
        assert found[frozenset({"route": "none", "method": "other", "code": "404"}.items())] >= 50


class TestCost:
    def round_trips(self, connection: Redis) -> int:
        metrics_of(connection)  # loads the scripts
        with round_trips() as sent:
            metrics_of(connection)
        return len(sent)

    def test_four_round_trips_however_many_schedules_there_are(
        self, connection: Redis, schedules: Schedules
    ) -> None:
        assert self.round_trips(connection) <= 4
        for number in range(40):
            schedules.add(f"s{number}", every(hours=1), "tasks.x")
            schedules.trigger(f"s{number}")
        assert self.round_trips(connection) == 4

    def test_the_used_part_of_the_memory_is_absent_where_there_is_no_limit(
        self, connection: Any
    ) -> None:
        name = "rq_clock_redis_memory_used_ratio"
        assert name not in metrics_of(connection)
        connection.config_set("maxmemory", 2 * connection.info("memory")["used_memory"])
        try:
            [used] = metrics_of(connection)[name].values()
            assert 0.4 < used < 0.6
        finally:
            connection.config_set("maxmemory", 0)

    def test_one_reading_serves_a_second(self, connection: Redis) -> None:
        site = Context.of(Settings.from_env({}), connection, read_only=False)
        shared = Metrics(site.store, site.settings)
        first, _ = shared.text("")
        connection.hset(PREFIX + "counters", "run ok 1", "5")
        assert shared.text("")[0] == first
        wait_until(lambda: shared.text("")[0] != first, "another reading")


# ---- an app that runs -------------------------------------------------------------------------

APP = (
    add("good", options="")
    .replace("tasks.nothing", "tests.worker.jobs.pid")
    .replace("every(seconds=1)", "cron('* * * * *')")
    + add("often", options="overlap='allow'").replace("tasks.nothing", "tests.worker.jobs.pid")
    + add("bad", options="overlap='allow'").replace("tasks.nothing", "tests.worker.jobs.fail")
    + add("unheard", options="queue='nobody', overlap='allow'")
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ClockProcess]]:
    """A server, with a clock and a worker whose events appear in the metrics."""
    from tests.server import free_url

    path = tmp_path_factory.mktemp("app")
    with (
        Server(path / "server", free_url(), appendonly="no", maxmemory="256mb") as server,
        client(server.url) as redis,
        ClockProcess(path / "clock", server.url, APP) as clock,
        serving(server.url, "default"),
    ):
        count_request("/api/v1/schedules", "GET", 200)
        wait_until(lambda: enough(redis), "runs, failures, and the counts of the clock")
        yield redis, clock


def enough(redis: Any) -> bool:
    found = metrics_of(redis)
    counted = of(found, "rq_clock_fires_total", result="enqueued", reason="schedule") or 0
    failed = of(found, "rq_clock_schedule_runs_total", schedule="bad", status="failed") or 0
    return (
        counted > 3 and failed > 0 and "rq_clock_schedule_last_success_timestamp_seconds" in found
    )


@pytest.fixture
def text(running: tuple[Any, ClockProcess]) -> str:
    return web(running[0]).get("/metrics").text


NAME = re.compile(r"\b(rq_[a-z_]+)\b(?:\{([^}]*)\})?")


def board() -> Any:
    return json.loads((ROOT / "ops" / "grafana.json").read_text())


def rules() -> dict[str, str]:
    [group] = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def expressions() -> list[str]:
    """Of the rules, and of all panels."""
    found = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", [])]
    found += [note["expr"] for note in board()["annotations"]["list"]]
    return [*rules().values(), *found]


class TestWhatIsBuiltOnIt:
    def test_every_metric_and_label_of_rules_and_panels_exists(self, text: str) -> None:
        found = samples(text)
        for expression in expressions():
            named = {name for name, _ in NAME.findall(expression)}
            assert named, expression
            known = {"job", "instance"}  # Prometheus's own
            for name, matchers in NAME.findall(expression):
                assert name in found, f"{name} in {expression}"
                labels = [dict(sample) for sample in found[name]]
                known |= set(labels[0])
                for label, value in re.findall(r'(\w+)="([^"]*)"', matchers):
                    assert any(sample.get(label) == value for sample in labels), expression
            for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
                assert {label for label in re.split(r",\s*", group) if label} <= known, expression

    def test_the_text_of_panels_and_rules_names_labels_that_there_are(self, text: str) -> None:
        labels = {label for rows in samples(text).values() for row in rows for label, _ in row}
        everything = (ROOT / "ops" / "alerts.yml").read_text() + json.dumps(board())
        used = re.findall(r"\$labels\.(\w+)", everything) + re.findall(r"\{\{(\w+)\}\}", everything)
        assert used
        assert set(used) <= labels

    def test_the_documented_table_lists_the_metrics(self, text: str) -> None:
        page = (ROOT / "docs" / "metrics.md").read_text()
        rows = re.findall(r"^\| `(rq_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
        kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        kinds = {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
        assert {name: kind for name, kind, _ in rows} == kinds
        found = samples(text)
        for name, kind, labels in rows:
            single = {"schedule"} if name.startswith("rq_clock_schedule_") else set()
            expected = single | {label for label in labels.replace(" ", "").split(",") if label}
            sample = next(iter(found[name + ("_sum" if kind == "histogram" else "")]))
            assert {label for label, _ in sample} == expected, name

    def test_panels_have_places_of_their_own(self) -> None:
        used: set[tuple[int, int]] = set()
        for panel in board()["panels"]:
            place = panel["gridPos"]
            cells = {
                (place["x"] + x, place["y"] + y)
                for x in range(place["w"])
                for y in range(place["h"])
            }
            assert not cells & used, panel["title"]
            assert max(x for x, _ in cells) < 24
            used |= cells
        ids = [panel["id"] for panel in board()["panels"]]
        assert len(ids) == len(set(ids))


class TestRulesInTrouble:
    """The rules' conditions by hand, on real metrics. Runs last: it ends the clock."""

    def test_the_conditions_select_only_what_is_in_trouble(self, text: str) -> None:
        found = samples(text)
        assert len(found["rq_clock_leader_info"]) == 1
        [tick] = found["rq_clock_last_tick_timestamp_seconds"].values()
        assert 0 <= datetime.now(UTC).timestamp() - tick < 15
        assert failing(found) == {"bad"}
        assert late(found) == set()
        assert not with_label(found, "rq_clock_schedules", "state")["invalid"]

    def test_nobody_listens_to_a_queue_that_has_jobs_and_no_worker(self, text: str) -> None:
        found = samples(text)
        waiting = {
            dict(labels)["queue"]
            for labels, number in found["rq_jobs"].items()
            if ("status", "queued") in labels and number > 0
        }
        served = with_label(found, "rq_queue_workers", "queue")
        assert {queue for queue in waiting if served[queue] == 0} == {"nobody"}

    def test_a_killed_clock_is_down(self, running: tuple[Any, ClockProcess]) -> None:
        redis, clock = running
        clock.signal(signal.SIGKILL)
        grace = {"RQ_CLOCK_ALERT_GRACE_SECONDS": "5"}

        def down() -> Samples:
            found = metrics_of(redis)
            return {} if "rq_clock_leader_info" in found else found

        found = wait_until(down, "the lease has run out")
        [tick] = found["rq_clock_last_tick_timestamp_seconds"].values()
        assert 5 < datetime.now(UTC).timestamp() - tick < 60  # goes on to grow
        wait_until(
            lambda: {"often", "bad", "unheard"} <= late(metrics_of(redis, **grace)),
            "they are late",
        )
        Schedules(redis, by="test").pause("often")
        assert "often" not in late(metrics_of(redis, **grace))


def failing(found: Samples) -> set[str]:
    """RqClockScheduleFailing."""
    assert "rq_clock_schedule_failing == 1" in rules()["RqClockScheduleFailing"]
    values = with_label(found, "rq_clock_schedule_failing", "schedule")
    return {name for name, value in values.items() if value == 1}


def late(found: Samples) -> set[str]:
    """RqClockScheduleLate."""
    metric = "rq_clock_schedule_{}"
    overdue, grace, paused = (
        with_label(found, metric.format(name), "schedule")
        for name in ("overdue_seconds", "grace_seconds", "paused")
    )
    return {n for n, seconds in overdue.items() if seconds > grace[n] and paused[n] != 1}
