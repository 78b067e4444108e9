"""A token without the scope `commands` defines nothing that is a shell on the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from rq_clock.model.targets import command
from rq_clock.schedules.service import Schedules
from rq_clock.settings import tokens_from
from rq_clock.store.store import Store
from rq_clock.timing.triggers import every
from tests.helpers import definition
from tests.web.client import VALUES, Caller, app_on

TARGETS = "tests.worker.jobs.*"
HOURLY = {"every": "1h"}


@pytest.fixture
def limited(redis_url: str) -> Caller:
    return Caller(app_on(redis_url, RQ_CLOCK_TARGETS=TARGETS), "limited")


def test_no_scope_includes_commands_and_a_bare_value_has_it_not() -> None:
    bare, admin, shell = tokens_from(f"{'a' * 16},x:admin+operate:{'b' * 16},y:commands:{'c' * 16}")
    assert "commands" not in bare.scopes | admin.scopes
    assert shell.scopes == {"commands"}


@pytest.mark.parametrize(
    ("target", "pointer"),
    [
        ({"func": "subprocess.getoutput", "args": ["id"]}, "/func"),
        ({"func": "rq_clock.runners.run_command", "kwargs": {"shell": "id"}}, "/func"),
        ({"func": "tests.worker.other.f"}, "/func"),
        ({"command": "id"}, "/command"),
        ({"command": {"shell": "id"}}, "/command/shell"),
        ({"func": "rq_clock.runners.run_dyno", "kwargs": {"shell": "id"}}, "/func"),
        ({"dyno": "id"}, "/dyno"),
        ({"dyno": {"shell": "id", "size": "basic"}}, "/dyno/shell"),
    ],
)
def test_is_refused_at_the_field(limited: Caller, target: Any, pointer: str) -> None:
    body = HOURLY | target
    assert limited.faults("PUT", "/schedules/x", body) == [pointer]
    assert limited.faults("POST", "/schedules", body | {"name": "x"}) == [pointer]
    manifest = {"version": 1, "schedules": {"x": body}}
    assert limited.faults("PUT", "/manifest", manifest) == [f"/schedules/x{pointer}"]


def test_the_default_is_what_the_clock_has_stored(redis_url: str, store: Store) -> None:
    limited = Caller(app_on(redis_url), "limited")
    body = HOURLY | {"func": "tasks.feeds.refresh"}
    _, problem = limited.refused("PUT", "/schedules/x", body)
    assert "RQ_CLOCK_TARGETS (not set, and no function is declared)" in problem["detail"]
    store.keep_packages(["tasks"])
    assert limited.call("PUT", "/schedules/x", body)


def test_may_move_a_command_of_the_app_and_not_change_it(
    limited: Caller, schedules: Schedules
) -> None:
    schedules.add("x", every(hours=1), command("df", env={"A": "1"}))
    assert limited.call("PATCH", "/schedules/x", {"every": "2h", "queue": "low"})
    for part in ({"env": {"A": "2"}}, {"cwd": "/tmp"}, {"shell": "id"}):
        [name] = part
        assert limited.faults("PATCH", "/schedules/x", {"command": part}) == [f"/command/{name}"]
    assert definition(schedules).allowed_targets is None


def test_its_export_has_no_trace_of_the_limits(limited: Caller, schedules: Schedules) -> None:
    limited.call("PUT", "/schedules/x", HOURLY | {"func": "tests.worker.jobs.pid"})
    assert definition(schedules).allowed_targets == ("tests.worker.jobs.*",)
    assert "allowedTargets" not in limited("GET", "/manifest").text
    assert limited.faults(
        "PUT", "/schedules/x", HOURLY | {"func": "tests.worker.jobs.pid", "allowedTargets": ["*"]}
    )


def test_its_value_is_masked_in_results_and_errors(
    limited: Caller, connection: Redis, work: Callable[..., bool]
) -> None:
    queue = Queue("default", connection=connection)
    jobs = [queue.enqueue(name, f"/{VALUES['admin']}") for name in ("builtins.str", "os.stat")]
    work()
    for job in jobs:
        answer = limited("GET", f"/jobs/{job.id}")
        assert "/****" in answer.text
        assert VALUES["admin"] not in answer.text


class TestWorker:
    @pytest.fixture
    def horse_jobs(self) -> str:
        return "1"

    def test_refuses_the_function_that_a_name_leads_to_for_good(
        self, limited: Caller, connection: Redis, work: Callable[..., bool]
    ) -> None:
        for name, func in (("good", "pid"), ("bad", "subprocess.getoutput")):
            body = HOURLY | {"func": f"tests.worker.jobs.{func}", "retries": 3}
            body |= {"args": ["id"]} if name == "bad" else {}
            limited.call("PUT", f"/schedules/{name}", body)
        run, refused = (
            Job.fetch(limited.call("POST", f"/schedules/{name}/runs")["job"], connection)
            for name in ("good", "bad")
        )
        work()
        assert run.get_status(refresh=True) == "finished"
        assert refused.get_status(refresh=True) == "failed"
        result = refused.latest_result()
        assert result
        assert "which is getoutput of subprocess" in (result.exc_string or "")

    def test_its_own_setting_counts_too(
        self, limited: Caller, connection: Redis, work: Callable[..., bool]
    ) -> None:
        limited.call("PUT", "/schedules/x", HOURLY | {"func": "tests.worker.jobs.pid"})
        job = Job.fetch(limited.call("POST", "/schedules/x/runs")["job"], connection)
        work(RQ_CLOCK_TARGETS="tasks.*")
        assert job.get_status(refresh=True) == "failed"


@pytest.mark.parametrize("url", ["https://evil.example/hook", "http://example.com/hook"])
@pytest.mark.parametrize("header", ["Authorization", "X-Auth", "X-Session-Id", "Sig", "X-Plain"])
def test_a_stored_secret_goes_to_no_other_host(limited: Caller, header: str, url: str) -> None:
    call = {"url": "https://example.com/hook", "headers": {header: "Bearer hunter22"}}
    limited.call("PUT", "/schedules/x", HOURLY | {"webhook": call})
    moved = {"url": url}
    assert limited.faults("PATCH", "/schedules/x", {"webhook": moved}) == ["/webhook/headers"]
    shown = limited.call("GET", "/schedules/x")["definition"]["webhook"]
    assert "hunter22" not in str(shown)
    body = HOURLY | {"webhook": shown | moved}
    assert limited.faults("PUT", "/schedules/x", body) == ["/webhook/headers"]
    manifest = {"version": 1, "schedules": {"x": body}}
    assert limited.faults("PUT", "/manifest", manifest) == ["/schedules/x/webhook/headers"]
