"""Schedules at run time, on a real server: added, edited, paused, resumed, backfilled.

Time is the server's; a `Planner` stands for the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from rq_clock.clock.backfiller import Backfiller
from rq_clock.clock.planner import Planner
from rq_clock.errors import Conflict, ConflictKind, ScheduleError, StoreUnavailable
from rq_clock.model.decision import Skip
from rq_clock.model.entry import Entry, Lease
from rq_clock.model.ledger import Enqueued
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import webhook
from rq_clock.run import from_meta
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.store import Change, Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every, once

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
TASK = "tasks.demo.heartbeat"


def now(store: Store) -> datetime:
    seconds, micros = store.redis.time()
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))


def lead(store: Store) -> Lease:
    lease = Leases(store).acquire("clock.1", ("local", ""), "starting", now(store))
    assert isinstance(lease, Lease)
    return lease


@pytest.fixture
def lease(store: Store) -> Lease:
    return lead(store)


def declare_in_code(store: Store, lease: Lease, schedule: Schedule) -> None:
    at = now(store)
    change = Change("put", schedule.name, schedule.definition(), schedule.next_after(at), True)
    assert all(store.reconcile(lease, 0, at, [change]))


def tick(store: Store, lease: Lease, at: datetime | None = None) -> None:
    """Decide the fire times that are due at an instant, as the clock does."""
    planner = Planner(store, lease, memory=1 << 20)
    while planner.turn(at or now(store)) == 0:
        pass


def get(schedules: Schedules, name: str) -> Entry:
    entry = schedules.get(name)
    assert entry
    return entry


def runs(store: Store, name: str) -> list[tuple[datetime, str]]:
    """Return the fire times that became jobs, with the reasons."""
    return [(e.fire_time, e.reason) for e in store.ledger(name) if isinstance(e, Enqueued)]


def skips(store: Store, name: str) -> list[tuple[str, int]]:
    return [(e.reason, e.count) for e in store.ledger(name) if isinstance(e, Skip)]


def jobs(connection: Redis) -> list[str]:
    return Queue("default", connection=connection).get_job_ids()


def end(connection: Redis, *ids: str) -> None:
    """End jobs, as a worker does."""
    for id in ids:
        connection.hset(f"rq:job:{id}", "status", "finished")
        connection.lrem("rq:queue:default", 0, id)


def faults(schedules: Schedules, verb: str, *args: Any, **options: Any) -> str:
    with pytest.raises(ScheduleError) as caught:
        getattr(schedules, verb)(*args, **options)
    return str(caught.value)


class TestAdding:
    def test_an_added_schedule_exists_and_is_not_declared(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK, queue="low", tags=["shop"])
        entry = get(schedules, "feeds")
        assert entry.schedule == declare(
            "feeds", every(minutes=5), TASK, {"queue": "low", "tags": ["shop"]}
        )
        assert not entry.declared
        assert entry.next_fire == every(minutes=5).next_after(entry.known_since)

    def test_it_fires_without_a_message_to_the_clock(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("often", every(seconds=1), TASK)
        fire = get(schedules, "often").next_fire
        assert fire
        tick(store, lead(store), fire)
        assert runs(store, "often") == [(fire, "schedule")]

    def test_adding_the_same_again_changes_nothing(self, schedules: Schedules) -> None:
        first = schedules.add("feeds", every(minutes=5), TASK)
        assert schedules.add("feeds", every(minutes=5), TASK) == first

    def test_another_definition_under_the_name_is_refused(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        assert "replace=True" in faults(schedules, "add", "feeds", every(minutes=6), TASK)
        assert get(schedules, "feeds").schedule == declare("feeds", every(minutes=5), TASK, {})

    def test_replace_keeps_marker_and_pause(
        self, schedules: Schedules, store: Store, lease: Lease
    ) -> None:
        schedules.add("often", every(seconds=1), TASK)
        before = get(schedules, "often")
        tick(store, lease, before.next_fire)
        schedules.pause("often", reason="x")
        schedules.add("often", every(seconds=1), TASK, replace=True, tags=["new"])
        after = get(schedules, "often")
        assert after.schedule
        assert after.schedule.tags == ("new",)
        assert (after.marker, after.known_since) == (before.next_fire, before.known_since)
        assert after.pauses

    def test_every_fault_is_reported_and_nothing_added(self, schedules: Schedules) -> None:
        text = faults(schedules, "add", "bad name", cron("61 3 * * *"), TASK, timeout=0)
        assert len(text.splitlines()) == 3
        assert not schedules.find().entries

    def test_very_many_are_added_in_portions(self, schedules: Schedules, store: Store) -> None:
        counts: list[int] = []
        added = ((f"tenant-{i}", every(hours=1), TASK, {"args": [i]}) for i in range(1200))
        assert schedules.add_many(added, progress=counts.append) == 1200
        assert counts == [500, 1000, 1200]
        assert store.size() == 1200
        assert [(a.verb, a.count) for a in schedules.audit()] == [("add-many", 1200)]

    def test_a_bad_one_leaves_its_portion_out_and_those_before_in(
        self, schedules: Schedules, store: Store
    ) -> None:
        added = [(f"t{i}", every(hours=1), TASK) for i in range(600)]
        added[550] = ("t550", every(hours=0), TASK)
        assert "t550: expected a period" in faults(schedules, "add_many", added)
        assert store.size() == 500
        added[550] = ("t550", every(hours=1), TASK)
        assert schedules.add_many(added, replace=True) == 600
        assert store.size() == 600

    def test_twins_in_a_portion_are_refused(self, schedules: Schedules, store: Store) -> None:
        added = [("a", every(hours=1), TASK), ("a", every(hours=2), TASK)]
        assert "a: the name appears twice" in faults(schedules, "add_many", added)
        assert store.size() == 0


class TestOneOff:
    def test_leaves_only_its_run(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        at = now(store) + SECOND
        name = schedules.once(at, TASK, key="welcome-42")
        tick(store, lease, at + SECOND)
        [job_id] = jobs(connection)
        assert job_id.startswith(f"default-{name}-")
        assert schedules.get(name) is None
        fields = ("definitions", "markers", "revisions", "pauses", "skips", "due")
        assert not connection.exists(*map(store.key, fields))
        assert len(runs(store, name)) == 1
        assert connection.ttl(store.key(f"ledger:{name}")) > 0

    def test_one_key_waits_once(self, schedules: Schedules, store: Store) -> None:
        first, second = now(store) + HOUR, now(store) + 2 * HOUR
        assert schedules.once(first, TASK, key="k") == schedules.once(second, TASK, key="k")
        assert store.size() == 1
        waiting = get(schedules, "once-k").next_fire
        assert waiting
        assert abs(waiting - first) < timedelta(milliseconds=1)

    def test_without_a_key_each_is_its_own(self, schedules: Schedules, store: Store) -> None:
        at = now(store) + HOUR
        assert schedules.once(at, TASK) != schedules.once(at, TASK)

    def test_an_instant_that_has_passed_is_due_at_once(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.once(now(store) - HOUR, TASK)
        tick(store, lease)
        assert len(jobs(connection)) == 1

    def test_waits_for_the_end_of_a_pause(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.pause(ALL, reason="maintenance")
        at = now(store) + SECOND
        schedules.once(at, TASK)
        tick(store, lease, at + SECOND)
        assert jobs(connection) == []
        schedules.resume(ALL)
        tick(store, lease, at + timedelta(minutes=3))
        assert len(jobs(connection)) == 1


class TestEditing:
    def test_an_update_changes_what_is_named(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK, queue="low", timeout=30)
        schedules.update("feeds", queue="high")
        entry = get(schedules, "feeds")
        options = {"queue": "high", "timeout": 30}
        assert entry.schedule == declare("feeds", every(minutes=5), TASK, options)

    def test_overlap_follows_catch_up_unless_it_was_chosen(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        schedules.update("feeds", catch_up="all")
        entry = get(schedules, "feeds")
        assert entry.schedule
        assert entry.schedule.overlap == "allow"

    def test_a_changed_rule_takes_effect_at_once(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(hours=5), TASK)
        schedules.update("feeds", trigger=every(seconds=7))
        entry = get(schedules, "feeds")
        assert entry.next_fire == every(seconds=7).next_after(entry.known_since)

    def test_what_the_old_rule_left_undecided_still_runs_once(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.add("often", every(milliseconds=50), TASK, overlap="allow")
        due = get(schedules, "often").next_fire
        assert due
        while now(store) < due + timedelta(milliseconds=2):
            pass
        schedules.update("often", trigger=every(hours=1))
        assert [reason for _, reason in runs(store, "often")] == ["schedule"]
        tick(store, lease)
        assert len(jobs(connection)) == 1

    def test_an_update_from_an_old_revision_is_refused(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        old = get(schedules, "feeds").revision
        schedules.update("feeds", queue="high")
        assert "someone else" in faults(schedules, "update", "feeds", revision=old, queue="low")
        assert "someone else" in faults(schedules, "remove", "feeds", revision=old)
        assert get(schedules, "feeds").schedule

    def test_declared_schedules_are_operated_on_not_edited(
        self, schedules: Schedules, store: Store, lease: Lease
    ) -> None:
        declare_in_code(store, lease, declare("nightly", cron("0 3 * * *"), TASK, {}))
        for verb, options in (("update", {"queue": "x"}), ("remove", {})):
            assert "declared in code" in faults(schedules, verb, "nightly", **options)
        assert "declared in code" in faults(schedules, "add", "nightly", every(hours=1), TASK)
        schedules.pause("nightly", reason="x")
        assert get(schedules, "nightly").pauses

    def test_removing_several_is_all_or_nothing(self, schedules: Schedules, store: Store) -> None:
        schedules.add_many([("a", every(hours=1), TASK), ("b", every(hours=1), TASK)])
        with pytest.raises(Conflict) as caught:
            schedules.remove(["a", "c"])
        assert (caught.value.kind, caught.value.name) == (ConflictKind.MISSING, "c")
        assert store.size() == 2
        schedules.remove(["a", "b"])
        assert store.size() == 0

    def test_a_missing_name_is_answered_with_a_similar_one(self, schedules: Schedules) -> None:
        schedules.add("nightly-report", every(hours=1), TASK)
        for verb in ("remove", "pause", "resume", "trigger", "skip"):
            assert "did you mean 'nightly-report'?" in faults(schedules, verb, "nightly-repot")

    def test_what_was_added_and_removed_leaves_nothing_but_its_ledger(
        self, schedules: Schedules, store: Store, connection: Redis
    ) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        schedules.pause("feeds", until=now(store) + HOUR, missed="all")
        schedules.skip("feeds")
        schedules.remove("feeds")
        keys: Any = connection.keys("rq*")
        left = {key.decode().partition("rq-clock:default:")[2] for key in keys}
        assert left == {"audit", "revision"}


class TestFinding:
    @pytest.fixture(autouse=True)
    def some(self, schedules: Schedules, store: Store, lease: Lease) -> None:
        declare_in_code(store, lease, declare("nightly", cron("0 3 * * *"), "tasks.mail.send", {}))
        schedules.add("shop-1", every(minutes=5), TASK, tags=["shop"], queue="low")
        schedules.add("shop-2", every(minutes=5), TASK, tags=["shop"])

    def names(self, schedules: Schedules, **filters: Any) -> list[str]:
        return sorted(entry.name for entry in schedules.find(**filters).entries)

    def test_by_each_filter(self, schedules: Schedules) -> None:
        schedules.pause("shop-1", reason="x")
        assert self.names(schedules) == ["nightly", "shop-1", "shop-2"]
        assert self.names(schedules, tag="shop") == ["shop-1", "shop-2"]
        assert self.names(schedules, queue="low") == ["shop-1"]
        assert self.names(schedules, queue="default") == ["nightly", "shop-2"]
        assert self.names(schedules, origin="declared") == ["nightly"]
        assert self.names(schedules, text="MAIL") == ["nightly"]
        schedules.add("hook", every(hours=1), webhook("https://x.example/"))
        assert self.names(schedules, text="post https") == ["hook"]
        schedules.remove("hook")
        assert self.names(schedules, state="paused") == ["shop-1"]
        assert self.names(schedules, state="scheduled", tag="shop") == ["shop-2"]
        assert self.names(schedules, text="shop", queue="high") == []

    def test_pages_list_each_one_once(self, schedules: Schedules) -> None:
        schedules.add_many((f"t{i}", every(hours=1), TASK) for i in range(3000))
        found, cursor, pages = [], "", 0
        while pages == 0 or cursor:
            page = schedules.find(cursor=cursor, limit=500)
            found += [entry.name for entry in page.entries]
            cursor, pages = page.cursor, pages + 1
        assert len(set(found)) == len(found) == 3003
        assert pages > 1

    def test_iterating_yields_all_by_name(self, schedules: Schedules) -> None:
        assert [entry.name for entry in schedules] == ["nightly", "shop-1", "shop-2"]


class TestTrigger:
    def test_runs_now_and_does_not_move_the_schedule(
        self, schedules: Schedules, store: Store, connection: Redis
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        before = get(schedules, "feeds")
        job_id = schedules.trigger("feeds", reason="the customer rang")
        assert jobs(connection) == [job_id]
        run = from_meta(Job.fetch(job_id, connection=connection).meta)
        assert run
        assert (run.schedule, run.reason) == ("feeds", "manual")
        assert runs(store, "feeds") == [(run.fire_time, "manual")]
        after = get(schedules, "feeds")
        assert (after.marker, after.next_fire) == (before.marker, before.next_fire)
        assert [(a.by, a.verb, a.reason) for a in schedules.audit(1)] == [
            ("ana", "trigger", "the customer rang")
        ]

    def test_is_refused_while_a_run_is_in_progress_unless_forced(
        self, schedules: Schedules, connection: Redis
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = schedules.trigger("feeds")
        assert first in faults(schedules, "trigger", "feeds")
        schedules.trigger("feeds", force=True)
        assert len(jobs(connection)) == 2
        schedules.update("feeds", overlap="allow")
        schedules.trigger("feeds")
        assert len(jobs(connection)) == 3

    def test_a_run_by_hand_counts_for_overlap(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.add("often", every(seconds=1), TASK)
        due = get(schedules, "often").next_fire
        by_hand = schedules.trigger("often")
        tick(store, lease, due)
        assert jobs(connection) == [by_hand]
        assert skips(store, "often") == [("overlap", 1)]

    def test_works_on_a_paused_schedule(self, schedules: Schedules, connection: Redis) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        schedules.pause("feeds")
        job_id = schedules.trigger("feeds")
        assert jobs(connection) == [job_id]

    def test_a_queue_that_is_no_list_is_reported_and_nothing_written(
        self, schedules: Schedules, store: Store, connection: Redis
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        connection.set("rq:queue:default", "x")
        assert "not a list" in faults(schedules, "trigger", "feeds")
        assert store.ledger("feeds") == []
        assert not connection.keys("rq:job:*")
        assert [a.verb for a in schedules.audit()] == ["add"]


class TestPause:
    def test_a_timed_pause_ends_by_itself(
        self, schedules: Schedules, store: Store, lease: Lease
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = get(schedules, "feeds").next_fire
        assert first
        schedules.pause("feeds", reason="x", until=first + HOUR + SECOND)
        assert get(schedules, "feeds").states(now(store)) == ("paused",)
        tick(store, lease, first)
        tick(store, lease, first + HOUR)
        assert skips(store, "feeds") == [("paused", 2)]
        tick(store, lease, first + 2 * HOUR)
        assert runs(store, "feeds") == [(first + 2 * HOUR, "schedule")]

    def test_what_came_due_in_it_is_skipped_also_if_no_clock_ran(
        self, schedules: Schedules, store: Store, lease: Lease
    ) -> None:
        schedules.add("often", every(milliseconds=20), TASK)
        schedules.pause("often")
        due = get(schedules, "often").next_fire
        assert due
        while now(store) <= due:
            pass
        schedules.resume("often")
        resumed = get(schedules, "often").pauses[0].until
        assert resumed
        tick(store, lease, resumed)
        assert runs(store, "often") == []
        assert [reason for reason, _ in skips(store, "often")] == ["paused"]

    @pytest.mark.parametrize("missed", ["latest", "all"])
    def test_a_resumed_schedule_catches_up_by_its_missed(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis, missed: str
    ) -> None:
        schedules.add("often", every(milliseconds=10), TASK)
        schedules.pause("often")
        since = get(schedules, "often").pauses[0].since
        while now(store) < since + timedelta(milliseconds=100):
            pass
        schedules.resume("often", missed=missed)
        until = get(schedules, "often").pauses[0].until
        assert until
        known = get(schedules, "often").known_since + timedelta(milliseconds=1)
        expected = list(fire_times(max(since, known), until, timedelta(milliseconds=10)))
        assert len(expected) >= 9
        if missed == "latest":
            expected = expected[-1:]
        finish_duties(store, lease, connection)
        assert runs(store, "often") == [(t, "backfill") for t in expected]

    def test_a_timed_pause_makes_up_for_what_it_missed(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.add("often", every(milliseconds=10), TASK)
        until = now(store) + timedelta(milliseconds=100)
        schedules.pause("often", until=until, missed="latest")
        chores = Backfiller(store)
        assert chores.look(lease, until - timedelta(milliseconds=1)) == until.replace(
            microsecond=until.microsecond // 1000 * 1000
        )
        while now(store) < until:
            pass
        finish_duties(store, lease, connection)
        [made_up] = [t for t, reason in runs(store, "often") if reason == "backfill"]
        assert until - timedelta(milliseconds=10) <= made_up <= until
        assert [b.state for b in schedules.backfills()] == ["done"]

    def test_a_pause_in_which_nothing_came_due_has_nothing_to_make_up_for(
        self, schedules: Schedules, connection: Redis
    ) -> None:
        schedules.add("feeds", every(days=300), TASK)
        schedules.pause("feeds", missed="all")
        schedules.resume("feeds")
        assert schedules.backfills() == []
        assert jobs(connection) == []

    def test_a_longer_pause_does_not_forget_what_the_first_one_missed(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        schedules.pause("feeds", reason="short")
        first = get(schedules, "feeds").pauses[0].since
        schedules.pause("feeds", reason="longer", until=now(store) + HOUR)
        [pause] = get(schedules, "feeds").pauses
        assert (pause.since, pause.reason) == (first, "longer")

    def test_bad_words_are_refused(self, schedules: Schedules, store: Store) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        past = now(store) - HOUR
        assert "in the future" in faults(schedules, "pause", "feeds", until=past)
        assert "skip, latest or all" in faults(schedules, "pause", "feeds", missed="some")
        assert "pause of all" in faults(schedules, "pause", ALL, missed="all")
        naive = datetime.fromisoformat("2999-01-01")
        assert "expected until as a date and time" in faults(
            schedules, "pause", "feeds", until=naive
        )
        assert get(schedules, "feeds").pauses == ()

    def test_resuming_what_is_not_paused_changes_nothing(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        revision = get(schedules, "feeds").revision
        schedules.resume("feeds")
        assert get(schedules, "feeds").revision == revision


class TestSkip:
    def test_the_next_ones_are_skipped_and_those_after_run(
        self, schedules: Schedules, store: Store, lease: Lease
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = get(schedules, "feeds").next_fire
        assert first
        assert schedules.skip("feeds", 2, reason="known bad data") == first + HOUR
        tick(store, lease, first)
        tick(store, lease, first + HOUR)
        tick(store, lease, first + 2 * HOUR)
        assert skips(store, "feeds") == [("requested", 2)]
        assert runs(store, "feeds") == [(first + 2 * HOUR, "schedule")]

    def test_can_be_undone(self, schedules: Schedules, store: Store, lease: Lease) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = get(schedules, "feeds").next_fire
        schedules.skip("feeds", 2)
        schedules.skip("feeds", 0)
        tick(store, lease, first)
        assert runs(store, "feeds") == [(first, "schedule")]

    def test_what_was_due_before_it_is_not_among_those_skipped(
        self, schedules: Schedules, store: Store
    ) -> None:
        schedules.add("often", every(milliseconds=50), TASK)
        known = get(schedules, "often").known_since
        while now(store) < known + timedelta(milliseconds=200):
            pass
        last = schedules.skip("often", 1)
        entry = get(schedules, "often")
        assert last == every(milliseconds=50).next_after(entry.decided)
        assert [reason for _, reason in runs(store, "often")] == ["schedule"]

    def test_more_than_there_will_be_is_refused(self, schedules: Schedules, store: Store) -> None:
        name = schedules.once(now(store) + HOUR, TASK)
        assert "expected 2 more fire times" in faults(schedules, "skip", name, 2)


def fire_times(after: datetime, until: datetime, period: timedelta) -> Iterator[datetime]:
    ms = to_ms(after) // 10 * 10
    t = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
    while t <= until:
        if t >= after:
            yield t
        t += period


def finish_duties(store: Store, lease: Lease, connection: Redis, at_once: int = 1) -> None:
    """Let the leader do its chores, and workers end each job, until nothing is left to do."""
    chores, at = Backfiller(store), now(store) + SECOND
    for _ in range(500):
        chores.look(lease, at)
        living = jobs(connection)
        assert len(living) <= at_once
        end(connection, *living)
        if not connection.zcard(store.key("duties")):
            return
        at += timedelta(seconds=3)
    raise AssertionError("the chores do not end")


class TestBackfill:
    START, END = datetime(2026, 3, 1, 0, 0, tzinfo=UTC), datetime(2026, 3, 1, 5, 30, tzinfo=UTC)
    HOURS = tuple(datetime(2026, 3, 1, h, tzinfo=UTC) for h in range(6))

    @pytest.fixture(autouse=True)
    def hourly(self, schedules: Schedules) -> None:
        schedules.add("hourly", cron("0 * * * *"), TASK)

    def test_each_fire_time_once_oldest_first(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        backfill = schedules.backfill("hourly", self.START, self.END, reason="lost data")
        assert (backfill.total, backfill.state) == (6, "running")
        finish_duties(store, lease, connection)
        assert runs(store, "hourly") == [(t, "backfill") for t in self.HOURS]
        [done] = schedules.backfills()
        assert (done.state, done.enqueued, done.skipped) == ("done", 6, 0)
        assert [a.verb for a in schedules.audit()] == ["backfill", "add"]

    def test_at_most_so_many_at_once(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.backfill("hourly", self.START, self.END, at_once=4)
        Backfiller(store).look(lease, now(store))
        assert len(jobs(connection)) == 4
        finish_duties(store, lease, connection, at_once=4)
        assert len(runs(store, "hourly")) == 6

    def test_fire_times_that_ran_are_left_out_unless_again(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.backfill("hourly", self.HOURS[1], self.HOURS[3])
        finish_duties(store, lease, connection)
        assert schedules.preview_backfill("hourly", self.START, self.END).count == 3
        assert schedules.preview_backfill("hourly", self.START, self.END, again=True).count == 6
        schedules.backfill("hourly", self.START, self.END)
        finish_duties(store, lease, connection)
        assert [t for t, _ in runs(store, "hourly")] == [*self.HOURS[1:4], *self.HOURS[::4][:1],
                                                         *self.HOURS[4:]]  # fmt: skip

    def test_a_span_may_begin_and_end_within_a_millisecond(self, schedules: Schedules) -> None:
        """What lies less than one before it is not in it, and is not taken for undone."""
        little = timedelta(microseconds=400)
        found = schedules.preview_backfill("hourly", self.HOURS[1] + little, self.HOURS[3] + little)
        assert (found.first, found.last, found.count) == (self.HOURS[2], self.HOURS[3], 2)

    def test_a_span_without_a_zone_is_on_the_schedules_clock(self, schedules: Schedules) -> None:
        schedules.add("berlin", cron("30 2 * * *", tz="Europe/Berlin"), TASK)
        found = schedules.preview_backfill(
            "berlin",
            datetime.fromisoformat("2026-03-28T02:30"),
            datetime.fromisoformat("2026-03-29T23:00"),
        )
        assert found.count == 2
        assert found.first == datetime(2026, 3, 28, 1, 30, tzinfo=UTC)
        assert found.last == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # the clocks went forward

    def test_canceled_it_enqueues_no_more(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        backfill = schedules.backfill("hourly", self.START, self.END)
        Backfiller(store).look(lease, now(store))
        schedules.cancel_backfill(backfill.id, reason="wrong span")
        finish_duties(store, lease, connection)
        assert len(runs(store, "hourly")) == 1
        assert [b.state for b in schedules.backfills()] == ["canceled"]
        assert "expected a backfill that is running" in faults(
            schedules, "cancel_backfill", backfill.id
        )

    def test_a_removed_schedule_ends_it(
        self, schedules: Schedules, store: Store, lease: Lease, connection: Redis
    ) -> None:
        schedules.backfill("hourly", self.START, self.END)
        schedules.remove("hourly")
        finish_duties(store, lease, connection)
        assert [b.state for b in schedules.backfills()] == ["canceled"]
        assert jobs(connection) == []

    def test_a_deposed_clock_goes_on_with_nothing(
        self, schedules: Schedules, store: Store, connection: Redis
    ) -> None:
        from rq_clock.errors import LeaseLost

        old = lead(store)
        assert isinstance(
            Leases(store).acquire("clock.2", ("local", ""), "take-over", now(store)), Lease
        )
        schedules.backfill("hourly", self.START, self.END)
        with pytest.raises(LeaseLost):
            Backfiller(store).look(old, now(store))
        assert jobs(connection) == []

    def test_bad_spans_are_refused_and_nothing_left(
        self, schedules: Schedules, store: Store, connection: Redis
    ) -> None:
        schedules.add("minutely", cron("* * * * *"), TASK)
        ten_years = self.START - timedelta(days=3652)
        assert "at least 10,000" in faults(schedules, "backfill", "minutely", ten_years, self.START)
        assert "after its start" in faults(schedules, "backfill", "hourly", self.END, self.START)
        future = now(store) + HOUR
        assert "of the past" in faults(schedules, "backfill", "hourly", future, future + HOUR)
        assert "at_once" in faults(schedules, "backfill", "hourly", self.START, self.END, at_once=0)
        assert not connection.exists(store.key("backfills"), store.key("duties"))


class TestOutage:
    @pytest.mark.integration
    def test_without_redis_every_method_raises_one_error(self) -> None:
        away = Schedules(settings=Settings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0"}))
        calls: tuple[list[Any], ...] = (
            ["add", "a", every(hours=1), TASK],
            ["get", "a"],
            ["find"],
            ["trigger", "a"],
            ["pause", "a"],
            ["once", datetime(2026, 3, 1, tzinfo=UTC), TASK],
        )
        for verb, *args in calls:
            with pytest.raises(StoreUnavailable, match=r"no Redis at redis://127\.0\.0\.1:1"):
                getattr(away, verb)(*args)

    def test_a_trigger_that_is_only_a_once_in_code_is_kept(
        self, schedules: Schedules, store: Store, lease: Lease
    ) -> None:
        at = now(store) + SECOND
        declare_in_code(store, lease, declare("launch", once(at), TASK, {}))
        tick(store, lease, at + SECOND)
        assert schedules.get("launch")
        assert len(runs(store, "launch")) == 1
