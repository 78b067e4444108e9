"""What applying a manifest changes, and that it changes all of it, once, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

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


def apply(schedules: Schedules, *items: Item, prune: bool = False) -> dict[str, list[str]]:
    """Plan and apply; the names of what was added, changed, removed."""
    plan = schedules.plan(items, prune=prune)
    schedules.apply(plan)
    kinds = {"added": plan.added, "changed": plan.changed, "removed": plan.removed}
    return {kind: [step.name for step in steps] for kind, steps in kinds.items() if steps}


def get(schedules: Schedules, name: str) -> Entry:
    entry = schedules.get(name)
    assert entry
    return entry


def pause_of(store: Store, name: str) -> Pause:
    return store.pauses([name])[name]


def declare_in_code(store: Store, *names: str) -> None:
    lease = Leases(store).acquire("clock.1", ("local", ""), "starting", LONG_AGO)
    assert isinstance(lease, Lease)
    found = [declare(name, DAILY, TASK, {}) for name in names]
    changes = [Change("put", s.name, s.definition(), FAR_AWAY, True) for s in found]
    assert all(store.reconcile(lease, 0, LONG_AGO, changes))


class TestApply:
    def test_it_makes_the_schedules_equal_the_items(self, schedules: Schedules) -> None:
        schedules.add("same", DAILY, TASK)
        schedules.add("other", DAILY, TASK)
        schedules.add("not-named", DAILY, TASK)
        items = (item("new"), item("other", queue="reports"), item("same"))
        assert apply(schedules, *items) == {"added": ["new"], "changed": ["other"]}
        assert [entry.name for entry in schedules] == ["new", "not-named", "other", "same"]
        assert get(schedules, "other").schedule == items[1].schedule

    def test_applied_again_it_changes_nothing(
        self, schedules: Schedules, connection: Redis
    ) -> None:
        items = (item("a", HOURLY), item("b", paused=Paused(reason="x")), item("c", once(FAR_AWAY)))
        apply(schedules, *items)
        before = everything(connection)
        assert apply(schedules, *items, prune=True) == {}
        assert schedules.plan(items).unchanged == 3
        assert everything(connection) == before

    def test_a_plan_writes_nothing(self, schedules: Schedules, connection: Redis) -> None:
        schedules.add("a", DAILY, TASK)
        before = everything(connection)
        plan = schedules.plan([item("a", HOURLY), item("b")], prune=True)
        assert len(plan.steps) == 2
        assert everything(connection) == before

    def test_a_revision_that_moved_since_the_plan_changes_nothing_at_all(
        self, schedules: Schedules, connection: Redis
    ) -> None:
        for n in range(100):
            schedules.add(f"job-{n:02}", DAILY, TASK)
        plan = schedules.plan([item(f"job-{n:02}", queue="reports") for n in range(100)])
        schedules.pause("job-50", reason="by someone else")
        before = everything(connection)
        with pytest.raises(Conflict) as conflict:
            schedules.apply(plan)
        [one] = conflict.value.all
        assert (one.kind, one.name) == (ConflictKind.STALE, "job-50")
        assert everything(connection) == before

    @pytest.mark.parametrize(
        ("meanwhile", "kind"),
        [
            (lambda s: s.add("new", HOURLY, TASK), "exists"),
            (lambda s: s.remove("old"), "missing"),
            (lambda s: s.update("going", queue="x"), "stale"),
        ],
    )
    def test_a_stale_plan_changes_nothing(
        self,
        schedules: Schedules,
        connection: Redis,
        meanwhile: Callable[[Schedules], object],
        kind: str,
    ) -> None:
        schedules.add("old", DAILY, TASK)
        schedules.add("going", DAILY, TASK)
        plan = schedules.plan([item("new"), item("old", HOURLY)], prune=True)
        meanwhile(schedules)
        before = everything(connection)
        with pytest.raises(Conflict, match=r".") as conflict:
            schedules.apply(plan)
        assert conflict.value.kind == kind
        assert everything(connection) == before

    def test_a_changed_schedule_keeps_marker_and_pause(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("a", DAILY, TASK)
        store.redis.hset(store.key("markers"), "a", "1772323200000 1772323200000 default-a-1")
        schedules.pause("a", reason="on holiday")
        apply(schedules, item("a", DAILY, queue="reports"))
        entry = get(schedules, "a")
        assert entry.marker == LONG_AGO
        assert pause_of(store, "a").reason == "on holiday"

    def test_the_old_trigger_decides_past_fire_times_before_a_new_one(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("a", every(seconds=1), TASK, catch_up="all")
        plan = schedules.plan([item("a", DAILY)])
        fire_time = get(schedules, "a").next_fire
        assert fire_time
        wait_until(lambda: int(store.redis.time()[0]) > fire_time.timestamp(), "a fire time")
        schedules.apply(plan)
        decided = [e.fire_time for e in store.ledger("a") if isinstance(e, Enqueued)]
        assert decided[0] == fire_time
        assert get(schedules, "a").marker == decided[-1]
        assert get(schedules, "a").schedule == item("a", DAILY).schedule

    def test_a_schedule_declared_in_code_is_refused_by_name(
        self, schedules: Schedules, store: Store
    ) -> None:
        declare_in_code(store, "a", "b")
        with pytest.raises(Conflict) as conflict:
            schedules.plan([item("a"), item("b"), item("c")])
        found = [(one.kind, one.name) for one in conflict.value.all]
        assert found == [(ConflictKind.DECLARED, "a"), (ConflictKind.DECLARED, "b")]

    def test_twins_are_refused(self, schedules: Schedules) -> None:
        with pytest.raises(ScheduleError, match="names are unique"):
            schedules.plan([item("a"), item("a", HOURLY)])

    def test_a_definition_that_cannot_be_read_is_replaced(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("a", DAILY, TASK)
        store.redis.hset(store.key("definitions"), "a", '{"from": "a later release"}')
        assert apply(schedules, item("a")) == {"changed": ["a"]}
        assert get(schedules, "a").schedule == item("a").schedule

    def test_the_audit_names_it(self, schedules: Schedules) -> None:
        schedules.apply(schedules.plan([item("a"), item("b")]), reason="apply jobs.yaml")
        audited = schedules.audit()[0]
        assert (audited.by, audited.verb, audited.schedules) == ("ana", "apply", ("a", "b"))
        assert audited.reason == "apply jobs.yaml"

    def test_very_many_are_changed_in_portions_each_a_whole(
        self, schedules: Schedules, store: Store
    ) -> None:
        plan = schedules.plan([item(f"job-{n:05}") for n in range(BATCH_LIMIT + 10)])
        schedules.add(f"job-{BATCH_LIMIT + 5:05}", HOURLY, TASK)
        counts: list[int] = []
        with pytest.raises(Conflict):
            schedules.apply(plan, progress=counts.append)
        assert counts == [BATCH_LIMIT]
        assert store.size() == BATCH_LIMIT + 1
        rest = schedules.plan([step.item for step in plan.steps if step.item])
        schedules.apply(rest, progress=counts.append)
        assert (len(rest.added), len(rest.changed), counts) == (9, 1, [BATCH_LIMIT, 10])
        assert store.size() == BATCH_LIMIT + 10

    @pytest.mark.integration
    def test_without_redis_it_raises_store_unavailable(self) -> None:
        away = Schedules(settings=Settings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0"}))
        with pytest.raises(StoreUnavailable):
            away.plan([item("a")])


class TestPrune:
    def test_a_schedule_that_the_manifest_lacks_is_removed(self, schedules: Schedules) -> None:
        for name in ("a", "b", "c"):
            schedules.add(name, DAILY, TASK)
        assert apply(schedules, item("b"), prune=True) == {"removed": ["a", "c"]}
        assert [entry.name for entry in schedules] == ["b"]

    def test_declared_schedules_and_one_off_jobs_stay(
        self, schedules: Schedules, store: Store
    ) -> None:
        declare_in_code(store, "from-code")
        job = schedules.once(FAR_AWAY, TASK)
        schedules.add("once-a-day", DAILY, TASK)
        schedules.add("launch", once(FAR_AWAY), TASK)
        assert apply(schedules, prune=True) == {"removed": ["launch", "once-a-day"]}
        assert [entry.name for entry in schedules] == ["from-code", job]


class TestOnce:
    def test_one_that_is_over_is_never_added_again(self, schedules: Schedules) -> None:
        plan = schedules.plan([item("launch", once(LONG_AGO)), item("a")])
        assert [step.name for step in plan.added] == ["a"]
        assert [item.schedule.name for item in plan.past] == ["launch"]
        assert plan.unchanged == 0

    def test_one_that_waits_can_be_changed(self, schedules: Schedules) -> None:
        apply(schedules, item("launch", once(FAR_AWAY)))
        sooner = item("launch", once(FAR_AWAY - timedelta(days=1)))
        assert apply(schedules, sooner) == {"changed": ["launch"]}
        assert get(schedules, "launch").next_fire == FAR_AWAY - timedelta(days=1)


class TestPauses:
    def test_one_is_added_with_its_schedule(self, schedules: Schedules, store: Store) -> None:
        paused = Paused(reason="not yet", until=FAR_AWAY, missed="latest")
        apply(schedules, item("a", paused=paused))
        found = pause_of(store, "a")
        assert (found.reason, found.by, found.until, found.missed) == (
            "not yet", "ana", FAR_AWAY, "latest",
        )  # fmt: skip
        assert store.redis.zscore(store.key("duties"), "pause:a") == FAR_AWAY.timestamp() * 1000

    def test_one_that_is_not_named_stays_as_it_is(self, schedules: Schedules, store: Store) -> None:
        schedules.add("a", DAILY, TASK)
        schedules.pause("a", reason="an operator's")
        before = pause_of(store, "a")
        assert apply(schedules, item("a")) == {}
        assert apply(schedules, item("a", HOURLY)) == {"changed": ["a"]}
        assert pause_of(store, "a") == before

    def test_one_in_other_words_keeps_its_beginning(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("a", DAILY, TASK)
        schedules.pause("a", reason="first")
        since = pause_of(store, "a").since
        assert apply(schedules, item("a", paused=Paused(reason="then"))) == {"changed": ["a"]}
        assert (pause_of(store, "a").reason, pause_of(store, "a").since) == ("then", since)

    def test_one_that_is_over_is_none(self, schedules: Schedules, store: Store) -> None:
        assert apply(schedules, item("a", paused=Paused(until=LONG_AGO))) == {"added": ["a"]}
        assert store.pauses(["a"]) == {}
        assert apply(schedules, item("a", paused=Paused(until=LONG_AGO))) == {}

    def test_a_pause_after_an_ended_one_starts_now(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("a", DAILY, TASK)
        over = LONG_AGO + timedelta(hours=1)
        pause(store, "a", LONG_AGO, until=over)
        apply(schedules, item("a", paused=Paused(reason="again")))
        assert pause_of(store, "a").since > over

    def test_the_pause_of_all_is_nobodys_own(self, schedules: Schedules, store: Store) -> None:
        schedules.add("a", DAILY, TASK)
        schedules.pause("*", reason="maintenance")
        assert apply(schedules, item("a", paused=Paused(reason="maintenance"))) == {
            "changed": ["a"]
        }
        assert pause_of(store, "a").by == "ana"


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
