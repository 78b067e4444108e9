"""What a schedule is, read from every face: pages, API, metrics, alerts and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.alerts.monitor import Monitor
from rq_clock.alerts.rules import Alert, TickReport
from rq_clock.model.entry import Lease
from rq_clock.model.verdict import STATES, TROUBLE, verdict
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.status import read_status
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every
from rq_clock.web import middleware
from tests.cli.terminal import Run
from tests.web.client import VALUES, app_on

HOUR = timedelta(hours=1)
QUIET = TickReport(refused=False, faulty={}, lost=())
FINDINGS = {"late": "late", "stuck": "stuck", "failing": "failing", "invalid-definition": "invalid"}


class World:
    """One schedule `x`, a clock that leads, and every face that shows the schedule."""

    def __init__(self, store: Store, schedules: Schedules, run: Run, work: Callable[..., bool]):
        self.store, self.schedules, self.run, self.work = store, schedules, run, work
        self.now = read_status(store).now
        self.monitor = Monitor(store, Settings.from_env({}))
        schedules.add("x", every(hours=1), "tests.worker.jobs.fail")
        self.monitor.look(0.0, self.now, QUIET, self.lead())

    def lead(self) -> Lease:
        """Take the lease; on a busy machine an earlier one may have run out."""
        lease = Leases(self.store).acquire("clock.1", ("test", ""), "take-over", self.now)
        assert isinstance(lease, Lease)
        return lease

    def make(self, fact: str) -> None:
        """Make one thing true of the schedule."""
        getattr(self, fact)()

    def late(self) -> None:
        self.due(self.now - timedelta(minutes=5))

    def due(self, t: datetime) -> None:
        self.store.redis.zadd(self.store.key("due"), {"x": to_ms(t)})

    def stuck(self) -> None:
        since = self.now - 2 * HOUR
        alert = Alert(kind="stuck", subject="x", since=since, last=since, detail="blocker")
        self.store.redis.hset(self.store.key("alerts"), alert.field, alert.to_json())
        self.store.redis.hset("rq:job:blocker", "status", "queued")
        self.monitor.forget()

    def failing(self) -> None:
        self.schedules.trigger("x")
        self.work()

    def running(self) -> None:
        value = f"{to_ms(self.now) * 1000} e1 default-x-{to_ms(self.now)} default"
        self.store.redis.hset(self.store.key("workers"), "w1", value)

    def paused(self) -> None:
        self.schedules.pause("x", reason="bank is down")

    def ended(self) -> None:
        self.store.redis.zrem(self.store.key("due"), "x")

    def invalid(self) -> None:
        self.store.redis.hset(self.store.key("definitions"), "x", "{}")
        self.late()

    # ---- the faces ----------------------------------------------------------------------------

    def faces(self, redis_url: str) -> dict[str, tuple[str, ...]]:
        """Return the states of the schedule by face; of those that only report trouble, that."""
        token = {"Authorization": f"Bearer {VALUES['read']}"}
        with TestClient(app_on(redis_url), headers=token) as client:
            row = client.get("/").text.partition('id="row-x"')[2].partition("</tr>")[0]
            api = client.get("/api/v1/schedules/x").json()
            answer = client.get("/metrics")
            assert answer.status_code == 200, answer.text
            metrics = answer.text
        [listed] = json.loads(self.run("list", "--json").stdout)
        status, doctor = self.run("status", "--json"), self.run("doctor", "--json")
        counts, checks = json.loads(status.stdout), json.loads(doctor.stdout)["checks"]
        assert status.exit_code == (0 if counts["healthy"] else 5)
        counted = re.findall(r'^rq_clock_schedules\{state="(\w+)"\} 1\.0$', metrics, re.MULTILINE)
        return {
            "page": tuple(re.findall(r'class="pill \w+">.*?</span> (\w+)</span>', row)),
            "API": tuple(api["states"]),
            "list": tuple(listed["states"]),
            "show": tuple(json.loads(self.run("show", "x", "--json").stdout)["states"]),
            "metrics": tuple(counted),
            "status": tuple(state for state in TROUBLE if counts[state]),
            "doctor": tuple(FINDINGS[c["code"]] for c in checks if c["code"] in FINDINGS),
            "alerts": self.alerts(),
        }

    def alerts(self) -> tuple[str, ...]:
        self.monitor.look(100.0, self.now, QUIET, self.lead())
        found = self.store.alerts()
        kinds = {field.partition(":")[0] for field in found if field.endswith(":x")}
        return tuple(kind for kind in TROUBLE if kind in kinds)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no page time out: the machine may be busy."""
    monkeypatch.setattr(middleware, "LOOK_SECONDS", 60)


@pytest.mark.parametrize(
    ("facts", "states"),
    [
        ("", "scheduled"),
        ("running", "running"),
        ("late", "late"),
        ("stuck", "stuck"),
        ("failing", "failing"),
        ("paused", "paused"),
        ("ended", "ended"),
        ("invalid", "invalid"),
        ("failing late stuck running", "late stuck failing running"),
        ("failing paused", "paused"),
        ("late stuck paused running", "paused running"),
        ("failing ended", "ended"),
        ("failing invalid paused", "invalid"),
    ],
)
def test_every_face_shows_the_same_states(
    store: Store,
    schedules: Schedules,
    redis_url: str,
    work: Callable[..., bool],
    facts: str,
    states: str,
) -> None:
    world = World(store, schedules, Run(redis_url), work)
    for fact in facts.split():
        world.make(fact)
    expected = tuple(states.split())
    trouble = tuple(state for state in expected if state in TROUBLE)
    faces = world.faces(redis_url)
    assert {face: faces.pop(face) for face in ("page", "API", "list", "show")} == dict.fromkeys(
        ("page", "API", "list", "show"), expected
    )
    assert faces.pop("metrics") == expected[:1]
    assert faces.pop("status") == trouble
    assert sorted(faces.pop("doctor")) == sorted(trouble)
    if expected == ("invalid",):  # its alert is that it stays undecided
        assert faces.pop("alerts")[0] == "late"
    else:
        assert faces.pop("alerts") == trouble
    assert not faces
    for state in STATES:
        found = json.loads(Run(redis_url)("list", "--json", "--state", state).stdout)
        assert [row["name"] for row in found] == (["x"] if state in expected else [])


def test_a_schedule_fails_after_as_many_failures_as_its_alert_needs(
    connection: Redis, schedules: Schedules, redis_url: str, work: Callable[..., bool]
) -> None:
    settings = Settings.from_env({"RQ_CLOCK_ALERT_FAILURES": "2"})
    store = Store.from_settings(connection, settings)
    schedules.add("x", every(hours=1), "tests.worker.jobs.fail")
    counts = []
    for _ in range(2):
        schedules.trigger("x", force=True)
        work()
        counts.append(read_status(store).failing_count)
    assert counts == [0, 1]
    listed = Run(redis_url, RQ_CLOCK_ALERT_FAILURES="2")("list", "--state", "failing")
    assert "✕ failing" in listed.stdout
    traceback = Run(redis_url)("logs", "x").stdout
    assert "Traceback (most recent call last)" in traceback


def test_a_pause_hides_trouble_and_nothing_hides_a_run() -> None:
    everything = {"late": True, "stuck": True, "failing": True, "running": True}
    assert verdict(paused=True, **everything) == ("paused", "running")
    assert verdict(readable=False, paused=True, **everything) == ("invalid", "running")
    assert verdict(ended=True, running=True) == ("running",)
    assert verdict() == ("scheduled",)
