"""A namespace in a real Redis that a test makes ill, and schedules for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from rq import Worker

from rq_clock.clock.planner import Planner
from rq_clock.doctor.facts import Code, Facts, gather
from rq_clock.doctor.schedule_checks import findings
from rq_clock.doctor.server_checks import Finding
from rq_clock.jobs.executions import Executions
from rq_clock.model.entry import Lease
from rq_clock.model.schedule import Schedule, declare
from rq_clock.store.lease import Leases
from rq_clock.store.store import Change, Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import Trigger, cron
from rq_clock.version import releases
from tests.server import Server

StartServer = Callable[..., Server]
OWNER = ("local", "")
HOUR = timedelta(hours=1)


class Namespace:
    """A namespace at an instant, on a server of the test's choice."""

    def __init__(self, redis: Redis, now: datetime | None = None) -> None:
        self.redis: Any = redis
        self.now = now or datetime.now(UTC)
        self.store = Store(redis, "default")
        self.key = self.store.key
        self.leases = Leases(self.store)

    def fill(self) -> Namespace:
        """Make it healthy: two schedules, known for an hour, a clock that leads, a worker."""
        lease = self.lead()
        self.put(*self.declared())
        self.serve("default")
        self.leases.renew(lease, proven=1, tick=to_ms(self.now), **releases())
        return self

    def declared(self) -> list[Schedule]:
        return [daily("early", self.now + HOUR), daily("late", self.now + 2 * HOUR)]

    def lead(self, instance: str = "clock.1", mode: str = "starting") -> Lease:
        lease = self.leases.acquire(instance, OWNER, mode, self.now)
        assert isinstance(lease, Lease), lease
        return lease

    @property
    def url(self) -> str:
        address = self.redis.connection_pool.connection_kwargs
        return f"redis://{address['host']}:{address['port']}/0"

    @property
    def lease(self) -> Lease:
        return Lease(self.leases.leader()["token"])

    def renew(self, **fields: Any) -> None:
        self.leases.renew(self.lease, **fields)

    def put(self, *schedules: Schedule, known: timedelta = timedelta(0)) -> None:
        """Declare schedules that have been known for so long."""
        since = self.now - known
        self.reconcile(*(
            Change("put", s.name, s.definition(), s.next_after(since), since=since)
            for s in schedules
        ), now=since)  # fmt: skip

    def remove(self, *names: str) -> None:
        self.reconcile(*(Change("remove", name) for name in names))

    def reconcile(self, *changes: Change, now: datetime | None = None) -> None:
        for went_through in self.store.reconcile(self.lease, 0, now or self.now, changes):
            assert went_through
            self.renew()

    def tick(self, ago: timedelta = timedelta(0)) -> None:
        """Decide and commit what was due `ago`, as the clock does."""
        self.renew()
        planner = Planner(self.store, self.lease, memory=1 << 20)
        while planner.turn(self.now - ago) == 0:
            pass

    def serve(self, queue: str, *, ours: bool = True) -> Worker:
        worker = Worker([queue], connection=self.redis, name=f"worker.{queue}")
        worker.register_birth()  # type: ignore[no-untyped-call]
        if ours:
            Executions(self.redis, "default").register(worker.name, self.now)
        return worker

    def gather(self, owner: tuple[str, str] = OWNER, app: Code | None = None) -> Facts:
        return gather(self.store, Executions(self.redis, "default"), owner, app or Code())

    def facts(self, **options: Any) -> Facts:
        """Return the facts as if the server's clock showed `now`: a slow machine makes no skew."""
        facts = self.gather(**options)
        return replace(facts, status=replace(facts.status, now=self.now))

    def found(self, **options: Any) -> dict[str, Finding]:
        """Return the doctor's findings by code."""
        return {finding.code: finding for finding in findings(self.facts(**options), self.now)}

    def only(self, code: str, level: str, **options: Any) -> Finding:
        """Return the one finding that there must be, with a text and a remedy."""
        [finding] = self.found(**options).values()
        assert (finding.code, finding.level) == (code, level)
        assert finding.text
        assert finding.remedy
        return finding


Fresh = Callable[..., Namespace]


def daily(name: str, at: datetime, **options: Any) -> Schedule:
    return schedule(name, cron(f"{at.minute} {at.hour} * * *"), **options)


def schedule(name: str, trigger: Trigger, **options: Any) -> Schedule:
    return declare(name, trigger, "tasks.demo.heartbeat", options)
