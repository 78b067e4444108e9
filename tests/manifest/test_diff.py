"""What applying a manifest changes, and that it changes all of it, once, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rq_clock.errors import Conflict, ConflictKind, ScheduleError, StoreUnavailable
from rq_clock.manifest.definition import Item, Paused
from rq_clock.manifest.diff import FieldChange, differences, hidden
from rq_clock.model.entry import Entry, Lease, Pause
from rq_clock.model.ledger import Enqueued
from rq_clock.model.schedule import declare
from rq_clock.model.targets import Target, command, webhook
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.operations import BATCH_LIMIT
from rq_clock.store.store import Change, Store
from rq_clock.timing.triggers import Trigger, cron, every, once
from tests.cli.terminal import everything
from tests.helpers import pause, wait_until

DAILY, HOURLY = cron("0 3 * * *"), every(hours=1)
LONG_AGO = datetime(2026, 3, 1, tzinfo=UTC)
FAR_AWAY = datetime(2099, 1, 1, tzinfo=UTC)
TASK = "tasks.demo.heartbeat"


def item(
    name: str, trigger: Trigger = DAILY, target: Target = TASK, *, paused: Paused | None = None,
    **options: Any,
) -> Item:  # fmt: skip
    return Item(schedule=declare(name, trigger, target, options), paused=paused)


class Namespace:
    """The schedules of a server, and what is stored of them."""

    def __init__(self, store: Store, schedules: Schedules) -> None:
        self.redis: Any = store.redis
        self.store = store
        self.schedules = schedules
        self.plan = schedules.plan

    def add(self, *names: str) -> None:
        for name in names:
            self.schedules.add(name, DAILY, TASK)

    def apply(self, *items: Item, prune: bool = False) -> dict[str, list[str]]:
        """Plan and apply. Return the names of what was added, changed, removed."""
        plan = self.plan(items, prune=prune)
        self.schedules.apply(plan)
        kinds = {"added": plan.added, "changed": plan.changed, "removed": plan.removed}
        return {kind: [step.name for step in steps] for kind, steps in kinds.items() if steps}

    def entry(self, name: str = "a") -> Entry:
        entry = self.schedules.get(name)
        assert entry
        return entry

    def names(self) -> list[str]:
        return [entry.name for entry in self.schedules]

    def stored_pause(self) -> Pause:
        return self.store.pauses(["a"])["a"]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that the block writes nothing."""
        before = everything(self.redis)
        yield
        assert everything(self.redis) == before

    def declare_in_code(self, *names: str) -> None:
        lease = Leases(self.store).acquire("clock.1", ("local", ""), "starting", LONG_AGO)
        assert isinstance(lease, Lease)
        found = [declare(name, DAILY, TASK, {}) for name in names]
        changes = [Change("put", s.name, s.definition(), FAR_AWAY, LONG_AGO) for s in found]
        assert all(self.store.reconcile(lease, 0, LONG_AGO, changes))


@pytest.fixture
def ns(store: Store, schedules: Schedules) -> Namespace:
    return Namespace(store, schedules)


class TestApply:
    def test_it_makes_the_schedules_equal_the_items(self, ns: Namespace) -> None:
        ns.add("same", "other", "not-named")
        items = (item("new"), item("other", queue="reports"), item("same"))
        assert ns.apply(*items) == {"added": ["new"], "changed": ["other"]}
        assert ns.names() == ["new", "not-named", "other", "same"]
        assert ns.entry("other").schedule == items[1].schedule

    def test_applied_again_it_changes_nothing(self, ns: Namespace) -> None:
        items = (item("a", HOURLY), item("b", paused=Paused(reason="x")), item("c", once(FAR_AWAY)))
        ns.apply(*items)
        with ns.unchanged():
            assert ns.apply(*items, prune=True) == {}
            assert ns.plan(items).unchanged == 3

    def test_a_plan_writes_nothing(self, ns: Namespace) -> None:
        ns.add("a")
        with ns.unchanged():
            plan = ns.plan([item("a", HOURLY), item("b")], prune=True)
        assert len(plan.steps) == 2

    def test_a_revision_that_moved_since_the_plan_changes_nothing_at_all(
        self, ns: Namespace
    ) -> None:
        ns.add(*(f"job-{n:02}" for n in range(100)))
        plan = ns.plan([item(f"job-{n:02}", queue="reports") for n in range(100)])
        ns.schedules.pause("job-50", reason="by someone else")
        with ns.unchanged(), pytest.raises(Conflict) as conflict:
            ns.schedules.apply(plan)
        [one] = conflict.value.all
        assert (one.kind, one.name) == (ConflictKind.STALE, "job-50")

    @pytest.mark.parametrize(
        ("meanwhile", "kind"),
        [
            (lambda s: s.add("new", HOURLY, TASK), "exists"),
            (lambda s: s.remove("old"), "missing"),
            (lambda s: s.update("going", queue="x"), "stale"),
        ],
    )
    def test_a_stale_plan_changes_nothing(
        self, ns: Namespace, meanwhile: Callable[[Schedules], object], kind: str
    ) -> None:
        ns.add("old", "going")
        plan = ns.plan([item("new"), item("old", HOURLY)], prune=True)
        meanwhile(ns.schedules)
        with ns.unchanged(), pytest.raises(Conflict, match=r".") as conflict:
            ns.schedules.apply(plan)
        assert conflict.value.kind == kind

    def test_a_changed_schedule_keeps_marker_and_pause(self, ns: Namespace) -> None:
        ns.add("a")
        ns.redis.hset(ns.store.key("markers"), "a", "1772323200000 1772323200000 default-a-1")
        ns.schedules.pause("a", reason="on holiday")
        ns.apply(item("a", DAILY, queue="reports"))
        entry = ns.entry()
        assert entry.marker == LONG_AGO
        assert ns.stored_pause().reason == "on holiday"

    def test_the_old_trigger_decides_past_fire_times_before_a_new_one(self, ns: Namespace) -> None:
        ns.schedules.add("a", every(seconds=1), TASK, catch_up="all")
        plan = ns.plan([item("a", DAILY)])
        fire_time = ns.entry().next_fire
        assert fire_time
        wait_until(lambda: int(ns.redis.time()[0]) > fire_time.timestamp(), "a fire time")
        ns.schedules.apply(plan)
        decided = [e.fire_time for e in ns.store.ledger("a") if isinstance(e, Enqueued)]
        assert decided[0] == fire_time
        assert ns.entry().marker == decided[-1]
        assert ns.entry().schedule == item("a", DAILY).schedule

    def test_a_schedule_declared_in_code_is_refused_by_name(self, ns: Namespace) -> None:
        ns.declare_in_code("a", "b")
        with pytest.raises(Conflict) as conflict:
            ns.plan([item("a"), item("b"), item("c")])
        found = [(one.kind, one.name) for one in conflict.value.all]
        assert found == [(ConflictKind.DECLARED, "a"), (ConflictKind.DECLARED, "b")]

    def test_twins_are_refused(self, ns: Namespace) -> None:
        with pytest.raises(ScheduleError, match="names are unique"):
            ns.plan([item("a"), item("a", HOURLY)])

    def test_a_definition_that_cannot_be_read_is_replaced(self, ns: Namespace) -> None:
        ns.add("a")
        ns.redis.hset(ns.store.key("definitions"), "a", '{"from": "a later release"}')
        assert ns.apply(item("a")) == {"changed": ["a"]}
        assert ns.entry().schedule == item("a").schedule

    def test_the_audit_names_it(self, ns: Namespace) -> None:
        ns.schedules.apply(ns.plan([item("a"), item("b")]), reason="apply jobs.yaml")
        audited = ns.schedules.audit()[0]
        assert (audited.by, audited.verb, audited.schedules) == ("ana", "apply", ("a", "b"))
        assert audited.reason == "apply jobs.yaml"

    def test_very_many_are_changed_in_portions_each_a_whole(self, ns: Namespace) -> None:
        plan = ns.plan([item(f"job-{n:05}") for n in range(BATCH_LIMIT + 10)])
        ns.schedules.add(f"job-{BATCH_LIMIT + 5:05}", HOURLY, TASK)
        counts: list[int] = []
        with pytest.raises(Conflict):
            ns.schedules.apply(plan, progress=counts.append)
        assert counts == [BATCH_LIMIT]
        assert ns.store.size() == BATCH_LIMIT + 1
        rest = ns.plan([step.item for step in plan.steps if step.item])
        ns.schedules.apply(rest, progress=counts.append)
        assert (len(rest.added), len(rest.changed), counts) == (9, 1, [BATCH_LIMIT, 10])
        assert ns.store.size() == BATCH_LIMIT + 10

    @pytest.mark.integration
    def test_without_redis_it_raises_store_unavailable(self) -> None:
        away = Schedules(settings=Settings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0"}))
        with pytest.raises(StoreUnavailable):
            away.plan([item("a")])


class TestPrune:
    def test_a_schedule_that_the_manifest_lacks_is_removed(self, ns: Namespace) -> None:
        ns.add("a", "b", "c")
        assert ns.apply(item("b"), prune=True) == {"removed": ["a", "c"]}
        assert ns.names() == ["b"]

    def test_declared_schedules_and_one_off_jobs_stay(self, ns: Namespace) -> None:
        ns.declare_in_code("from-code")
        job = ns.schedules.once(FAR_AWAY, TASK)
        ns.add("once-a-day")
        ns.schedules.add("launch", once(FAR_AWAY), TASK)
        assert ns.apply(prune=True) == {"removed": ["launch", "once-a-day"]}
        assert ns.names() == ["from-code", job]


class TestOnce:
    def test_one_that_is_over_is_never_added_again(self, ns: Namespace) -> None:
        plan = ns.plan([item("launch", once(LONG_AGO)), item("a")])
        assert [step.name for step in plan.added] == ["a"]
        assert [item.schedule.name for item in plan.past] == ["launch"]
        assert plan.unchanged == 0

    def test_one_that_waits_can_be_changed(self, ns: Namespace) -> None:
        ns.apply(item("launch", once(FAR_AWAY)))
        sooner = item("launch", once(FAR_AWAY - timedelta(days=1)))
        assert ns.apply(sooner) == {"changed": ["launch"]}
        assert ns.entry("launch").next_fire == FAR_AWAY - timedelta(days=1)


class TestPauses:
    def test_one_is_added_with_its_schedule(self, ns: Namespace) -> None:
        paused = Paused(reason="not yet", until=FAR_AWAY, missed="latest")
        ns.apply(item("a", paused=paused))
        found = ns.stored_pause()
        assert (found.reason, found.by, found.until, found.missed) == (
            "not yet", "ana", FAR_AWAY, "latest",
        )  # fmt: skip

    def test_one_that_is_not_named_stays_as_it_is(self, ns: Namespace) -> None:
        ns.add("a")
        ns.schedules.pause("a", reason="an operator's")
        before = ns.stored_pause()
        assert ns.apply(item("a")) == {}
        assert ns.apply(item("a", HOURLY)) == {"changed": ["a"]}
        assert ns.stored_pause() == before

    def test_one_with_another_reason_keeps_its_beginning(self, ns: Namespace) -> None:
        ns.add("a")
        ns.schedules.pause("a", reason="first")
        since = ns.stored_pause().since
        assert ns.apply(item("a", paused=Paused(reason="then"))) == {"changed": ["a"]}
        assert (ns.stored_pause().reason, ns.stored_pause().since) == ("then", since)

    def test_one_that_is_over_is_none(self, ns: Namespace) -> None:
        assert ns.apply(item("a", paused=Paused(until=LONG_AGO))) == {"added": ["a"]}
        assert ns.store.pauses(["a"]) == {}
        assert ns.apply(item("a", paused=Paused(until=LONG_AGO))) == {}

    def test_a_pause_after_an_ended_one_starts_now(self, ns: Namespace) -> None:
        ns.add("a")
        over = LONG_AGO + timedelta(hours=1)
        pause(ns.store, "a", LONG_AGO, until=over)
        ns.apply(item("a", paused=Paused(reason="again")))
        assert ns.stored_pause().since > over

    def test_the_pause_of_all_is_nobodys_own(self, ns: Namespace) -> None:
        ns.add("a")
        ns.schedules.pause("*", reason="maintenance")
        assert ns.apply(item("a", paused=Paused(reason="maintenance"))) == {"changed": ["a"]}
        assert ns.stored_pause().by == "ana"


class TestDifferences:
    def test_each_different_value_is_reported_by_its_path(self) -> None:
        was = declare("a", HOURLY, command("run", env={"LANG": "C"}), {"queue": "reports"})
        then = declare("a", DAILY, command("run", env={"LANG": "de", "TZ": "UTC"}), {"tags": ["x"]})
        assert differences(was, then) == [
            FieldChange("command.env.LANG", "C", "de"),
            FieldChange("command.env.TZ", None, "UTC"),
            FieldChange("cron", None, "0 3 * * *"),
            FieldChange("every", "1h", None),
            FieldChange("queue", "reports", None),
            FieldChange("tags", None, '["x"]'),
            FieldChange("tz", None, "UTC"),
        ]

    def test_a_changed_secret_is_reported_and_not_shown(self) -> None:
        was = declare("a", DAILY, webhook("https://x.example/a?k=1", headers={"Token": "s1"}), {})
        then = declare("a", DAILY, webhook("https://x.example/a?k=2", headers={"Token": "s2"}), {})
        assert differences(was, then) == [
            FieldChange("webhook.headers.Token", "****", "**** (another one)"),
            FieldChange(
                "webhook.url", "https://x.example/a?…", "https://x.example/a?… (another one)"
            ),
        ]
        assert hidden(was) == ["webhook.url", "webhook.headers.Token"]

    def test_a_number_is_no_text_and_no_truth(self) -> None:
        schedules = [declare("a", DAILY, TASK, {"args": [value]}) for value in (1, "1", True, 1.0)]
        for was in schedules:
            for then in schedules:
                assert bool(differences(was, then)) == (was is not then)
