"""Schedules at run time, on a real server: added, edited, paused, resumed, backfilled.

Time is the server's; a `Planner` stands for the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from rq_clock.clock.backfiller import Backfiller
from rq_clock.clock.planner import Planner
from rq_clock.errors import Conflict, ConflictKind, LeaseLost, ScheduleError, StoreUnavailable
from rq_clock.model.decision import Skip, Span
from rq_clock.model.entry import Entry, Lease
from rq_clock.model.ledger import Enqueued
from rq_clock.model.schedule import declare
from rq_clock.model.targets import webhook
from rq_clock.run import from_meta
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.store import Change, Store
from rq_clock.timing.instants import iso, to_ms
from rq_clock.timing.triggers import Trigger, cron, every, once
from tests.helpers import Events, definition

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
TASK = "tasks.demo.heartbeat"


class Leader:
    """The clock that leads on a real server. It decides and does its duties when a test lets it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.redis: Any = store.redis
        self.lease = self.acquire("clock.1", "starting")

    def acquire(self, instance: str, reason: str) -> Lease:
        lease = Leases(self.store).acquire(instance, ("local", ""), reason, self.now)
        assert isinstance(lease, Lease)
        return lease

    @property
    def now(self) -> datetime:
        seconds, micros = self.redis.time()
        return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))

    def pass_by(self, instant: datetime) -> None:
        """Wait until the server's time is after an instant that is milliseconds away."""
        while self.now <= instant:
            pass

    def declare(self, name: str, trigger: Trigger, target: str) -> None:
        """Declare a schedule in code."""
        schedule, at = declare(name, trigger, target, {}), self.now
        change = Change("put", name, schedule.definition(), schedule.next_after(at), at)
        assert all(self.store.reconcile(self.lease, 0, at, [change]))

    def tick(self, at: datetime | None = None) -> None:
        """Decide the fire times that are due at an instant."""
        planner = Planner(self.store, self.lease, memory=1 << 20)
        while planner.turn(at or self.now) == 0:
            pass

    def finish_duties(self, at_once: int = 1) -> None:
        """Do the duties, and end each job as a worker does, until nothing is left to do."""
        backfiller, at = Backfiller(self.store), self.now + SECOND
        for _ in range(500):
            backfiller.look(self.lease, at)
            jobs = self.jobs()
            assert len(jobs) <= at_once
            self.finish_jobs()
            if not self.redis.zcard(self.store.key("duties")):
                return
            at += timedelta(seconds=3)
        raise AssertionError("the duties do not end")

    def finish_jobs(self) -> None:
        """End each waiting job as a worker does."""
        for job in self.jobs():
            self.redis.hset(f"rq:job:{job}", "status", "finished")
            self.redis.lrem("rq:queue:default", 0, job)

    def jobs(self) -> list[str]:
        return Queue("default", connection=self.redis).get_job_ids()

    def runs(self, name: str) -> list[tuple[datetime, str]]:
        """Return the fire times that became jobs, with the reasons."""
        ledger = self.store.ledger(name)
        return [(e.fire_time, e.reason) for e in ledger if isinstance(e, Enqueued)]

    def skips(self, name: str) -> list[tuple[str, int]]:
        return [(e.reason, e.count) for e in self.store.ledger(name) if isinstance(e, Skip)]


@pytest.fixture
def clock(store: Store) -> Leader:
    return Leader(store)


def get(schedules: Schedules, name: str) -> Entry:
    entry = schedules.get(name)
    assert entry
    return entry


def next_fire(schedules: Schedules, name: str) -> datetime:
    fire = get(schedules, name).next_fire
    assert fire
    return fire


def fault(schedules: Schedules, verb: str, *args: Any, **options: Any) -> str:
    """Call a method that refuses, and return the error's text."""
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

    def test_it_fires_without_news_to_the_clock(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(seconds=1), TASK)
        fire = next_fire(schedules, "often")
        clock.tick(fire)
        assert clock.runs("often") == [(fire, "schedule")]

    def test_adding_the_same_again_changes_nothing(self, schedules: Schedules) -> None:
        first = schedules.add("feeds", every(minutes=5), TASK)
        assert schedules.add("feeds", every(minutes=5), TASK) == first

    def test_another_definition_under_the_name_is_refused(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        assert "replace=True" in fault(schedules, "add", "feeds", every(minutes=6), TASK)
        assert get(schedules, "feeds").schedule == declare("feeds", every(minutes=5), TASK, {})

    def test_replace_keeps_marker_and_pause(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(seconds=1), TASK)
        before = get(schedules, "often")
        clock.tick(before.next_fire)
        schedules.pause("often", reason="x")
        schedules.add("often", every(seconds=1), TASK, replace=True, tags=["new"])
        after = get(schedules, "often")
        assert definition(schedules, "often").tags == ("new",)
        assert (after.marker, after.known_since) == (before.next_fire, before.known_since)
        assert after.pauses

    def test_every_fault_is_reported_and_nothing_added(self, schedules: Schedules) -> None:
        text = fault(schedules, "add", "bad name", cron("1 3 * * *"), TASK, timeout=0)
        assert len(text.splitlines()) == 2
        assert not schedules.find().entries

    def test_very_many_are_added_in_portions(self, schedules: Schedules, clock: Leader) -> None:
        counts: list[int] = []
        added = ((f"tenant-{i}", every(hours=1), TASK, {"args": [i]}) for i in range(500))
        assert schedules.add_many(added, progress=counts.append) == 500
        assert counts == [200, 400, 500]
        assert clock.store.size() == 500
        assert [(a.verb, a.count) for a in schedules.audit()] == [("add-many", 500)]

    def test_a_fault_drops_only_its_portion(self, schedules: Schedules, clock: Leader) -> None:
        added: list[Any] = [(f"t{i}", every(hours=1), TASK) for i in range(300)]
        added[250] = ("t250", every(hours=1), TASK, {"timeout": 0})
        assert "t250: expected timeout" in fault(schedules, "add_many", added)
        assert clock.store.size() == 200
        added[250] = ("t250", every(hours=1), TASK)
        assert schedules.add_many(added, replace=True) == 300
        assert clock.store.size() == 300

    def test_a_name_given_twice_is_refused(self, schedules: Schedules, clock: Leader) -> None:
        added = [("a", every(hours=1), TASK), ("a", every(hours=2), TASK)]
        assert "a: the name appears twice" in fault(schedules, "add_many", added)
        assert clock.store.size() == 0


class TestOneOff:
    def test_leaves_only_its_run(self, schedules: Schedules, clock: Leader) -> None:
        at = clock.now + SECOND
        name = schedules.once(at, TASK, key="welcome-42")
        clock.tick(at + SECOND)
        [job_id] = clock.jobs()
        assert job_id.startswith(f"default-{name}-")
        assert schedules.get(name) is None
        fields = ("definitions", "markers", "revisions", "pauses", "skips", "due")
        assert not clock.redis.exists(*map(clock.store.key, fields))
        assert len(clock.runs(name)) == 1
        assert clock.redis.ttl(clock.store.key(f"ledger:{name}")) > 0

    def test_one_key_waits_once(self, schedules: Schedules, clock: Leader) -> None:
        first, second = clock.now + HOUR, clock.now + 2 * HOUR
        assert schedules.once(first, TASK, key="k") == schedules.once(second, TASK, key="k")
        assert clock.store.size() == 1
        assert abs(next_fire(schedules, "once-k") - first) < timedelta(milliseconds=1)

    def test_without_a_key_each_is_its_own(self, schedules: Schedules, clock: Leader) -> None:
        at = clock.now + HOUR
        assert schedules.once(at, TASK) != schedules.once(at, TASK)

    def test_a_past_instant_is_due_at_once(self, schedules: Schedules, clock: Leader) -> None:
        schedules.once(clock.now - HOUR, TASK)
        clock.tick()
        assert len(clock.jobs()) == 1

    def test_waits_for_the_end_of_a_pause(self, schedules: Schedules, clock: Leader) -> None:
        schedules.pause(ALL, reason="maintenance")
        at = clock.now + SECOND
        schedules.once(at, TASK)
        clock.tick(at + SECOND)
        assert clock.jobs() == []
        schedules.resume(ALL)
        clock.tick(at + timedelta(minutes=3))
        assert len(clock.jobs()) == 1


class TestEditing:
    def test_an_update_changes_what_is_named(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK, queue="low", timeout=30)
        schedules.update("feeds", queue="high")
        options = {"queue": "high", "timeout": 30}
        assert definition(schedules, "feeds") == declare("feeds", every(minutes=5), TASK, options)

    def test_overlap_follows_catch_up_unless_it_was_chosen(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        schedules.update("feeds", catch_up="all")
        assert definition(schedules, "feeds").overlap == "allow"

    def test_a_changed_trigger_takes_effect_at_once(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(hours=5), TASK)
        schedules.update("feeds", trigger=every(seconds=7))
        entry = get(schedules, "feeds")
        assert entry.next_fire == every(seconds=7).next_after(entry.known_since)

    def test_a_fire_time_already_due_still_runs(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(milliseconds=50), TASK, overlap="allow")
        due = next_fire(schedules, "often")
        clock.pass_by(due + timedelta(milliseconds=2))
        schedules.update("often", trigger=every(hours=1))
        assert [reason for _, reason in clock.runs("often")] == ["schedule"]
        clock.tick()
        assert len(clock.jobs()) == 1

    def test_an_update_from_an_old_revision_is_refused(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(minutes=5), TASK)
        old = get(schedules, "feeds").revision
        schedules.update("feeds", queue="high")
        assert "someone else" in fault(schedules, "update", "feeds", revision=old, queue="low")
        assert "someone else" in fault(schedules, "remove", "feeds", revision=old)
        assert get(schedules, "feeds").schedule

    def test_declared_schedules_cannot_be_edited(self, schedules: Schedules, clock: Leader) -> None:
        clock.declare("nightly", cron("0 3 * * *"), TASK)
        for verb, options in (("update", {"queue": "x"}), ("remove", {})):
            assert "declared in code" in fault(schedules, verb, "nightly", **options)
        assert "declared in code" in fault(schedules, "add", "nightly", every(hours=1), TASK)
        schedules.pause("nightly", reason="x")
        assert get(schedules, "nightly").pauses

    def test_removing_several_is_all_or_nothing(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add_many([("a", every(hours=1), TASK), ("b", every(hours=1), TASK)])
        with pytest.raises(Conflict) as caught:
            schedules.remove(["a", "c"])
        assert (caught.value.kind, caught.value.name) == (ConflictKind.MISSING, "c")
        assert clock.store.size() == 2
        schedules.remove(["a", "b"])
        assert clock.store.size() == 0

    def test_an_unknown_name_is_answered_with_a_similar_one(self, schedules: Schedules) -> None:
        schedules.add("nightly-report", every(hours=1), TASK)
        for verb in ("remove", "pause", "resume", "trigger", "skip"):
            assert "did you mean 'nightly-report'?" in fault(schedules, verb, "nightly-repot")

    def test_a_removed_schedule_leaves_no_key(self, schedules: Schedules, clock: Leader) -> None:
        before = set(clock.redis.keys())
        schedules.add("feeds", every(minutes=5), TASK)
        schedules.pause("feeds", until=clock.now + HOUR, missed="all")
        schedules.skip("feeds")
        schedules.remove("feeds")
        left = set(clock.redis.keys()) - before
        assert left == {b"rq-clock:default:audit", b"rq-clock:default:revision"}


class TestFinding:
    @pytest.fixture(autouse=True)
    def some(self, schedules: Schedules, clock: Leader) -> None:
        clock.declare("nightly", cron("0 3 * * *"), "tasks.mail.send")
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

    def test_one_that_becomes_a_past_one_off_job_runs_at_once(
        self, schedules: Schedules, clock: Leader
    ) -> None:
        schedules.add("often", every(milliseconds=10), TASK, overlap="allow")
        clock.pass_by(next_fire(schedules, "often"))
        clock.tick()
        before = clock.now - HOUR
        schedules.update("often", trigger=once(before))
        clock.tick()
        assert [t for t, _ in clock.runs("often")][-1] - before < timedelta(milliseconds=1)

    def test_a_one_off_job_that_a_pause_holds_is_moved(
        self, schedules: Schedules, clock: Leader
    ) -> None:
        name = schedules.once(clock.now - SECOND, TASK, key="k")
        schedules.pause(name)
        clock.tick()
        later = clock.now + HOUR
        schedules.update(name, trigger=once(later))
        schedules.resume(name)
        clock.tick()
        assert clock.jobs() == []
        assert schedules.backfills() == []
        assert later <= next_fire(schedules, name) < later + SECOND


class TestTrigger:
    def test_runs_now_and_keeps_the_marker(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        before = get(schedules, "feeds")
        job_id = schedules.trigger("feeds", reason="the customer rang")
        assert clock.jobs() == [job_id]
        run = from_meta(Job.fetch(job_id, connection=clock.redis).meta)
        assert run
        assert (run.schedule, run.reason) == ("feeds", "manual")
        assert clock.runs("feeds") == [(run.fire_time, "manual")]
        after = get(schedules, "feeds")
        assert (after.marker, after.next_fire) == (before.marker, before.next_fire)
        [change] = schedules.audit(1)
        assert (change.by, change.verb, change.reason) == ("ana", "trigger", "the customer rang")

    def test_a_run_in_progress_must_be_forced(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = schedules.trigger("feeds")
        assert first in fault(schedules, "trigger", "feeds")
        schedules.trigger("feeds", force=True)
        assert len(clock.jobs()) == 2
        schedules.update("feeds", overlap="allow")
        schedules.trigger("feeds")
        assert len(clock.jobs()) == 3

    def test_a_run_by_hand_counts_for_overlap(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(seconds=1), TASK)
        due = next_fire(schedules, "often")
        by_hand = schedules.trigger("often")
        clock.tick(due)
        assert clock.jobs() == [by_hand]
        assert clock.skips("often") == [("overlap", 1)]

    def test_works_on_a_paused_schedule(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        schedules.pause("feeds")
        job_id = schedules.trigger("feeds")
        assert clock.jobs() == [job_id]

    def test_a_queue_of_another_type_is_refused(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        clock.redis.set("rq:queue:default", "x")
        assert "not a list" in fault(schedules, "trigger", "feeds")
        assert clock.store.ledger("feeds") == []
        assert not clock.redis.keys("rq:job:*")
        assert [a.verb for a in schedules.audit()] == ["add"]


class TestPause:
    @pytest.mark.usefixtures("ahead")
    def test_a_timed_pause_ends_by_itself(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = next_fire(schedules, "feeds")
        schedules.pause("feeds", reason="x", until=first + HOUR + SECOND)
        assert get(schedules, "feeds").states(clock.now) == ("paused",)
        clock.tick(first)
        clock.tick(first + HOUR)
        assert clock.skips("feeds") == [("paused", 2)]
        clock.tick(first + 2 * HOUR)
        assert clock.runs("feeds") == [(first + 2 * HOUR, "schedule")]

    def test_it_skips_fire_times_without_a_clock(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(milliseconds=20), TASK)
        schedules.pause("often")
        due = next_fire(schedules, "often")
        clock.pass_by(due + timedelta(milliseconds=40))
        schedules.resume("often")
        [pause] = get(schedules, "often").pauses
        assert pause.until
        clock.tick(pause.until)
        assert [t for t, _ in clock.runs("often") if pause.since <= t < pause.until] == []
        assert "paused" in [reason for reason, _ in clock.skips("often")]

    @pytest.mark.parametrize("names", ["job", ALL])
    def test_a_one_off_job_that_waited_runs_at_once_after_it(
        self, schedules: Schedules, clock: Leader, names: str
    ) -> None:
        at = clock.now.replace(microsecond=0)
        schedules.add("job", once(at), TASK)
        schedules.pause(names)
        clock.tick()
        assert get(schedules, "job").states(clock.now) == ("paused",)
        schedules.resume(names)
        clock.tick()
        assert [fire for fire, _ in clock.runs("job")] == [at]

    @pytest.mark.parametrize("missed", ["latest", "all"])
    def test_a_resumed_schedule_catches_up_by_its_missed(
        self, schedules: Schedules, clock: Leader, missed: str
    ) -> None:
        schedules.add("often", every(milliseconds=10), TASK, overlap="allow")
        schedules.pause("often")
        since = get(schedules, "often").pauses[0].since
        clock.pass_by(since + timedelta(milliseconds=100))
        schedules.resume("often", missed=missed)
        [pause] = get(schedules, "often").pauses
        assert pause.until
        until = pause.until - timedelta(milliseconds=1)  # the end itself is not in it
        known = get(schedules, "often").known_since + timedelta(milliseconds=1)
        expected = list(fire_times(max(since, known), until, timedelta(milliseconds=10)))
        assert len(expected) >= 9
        if missed == "latest":
            expected = expected[-1:]
        clock.tick(pause.until)
        clock.finish_duties(at_once=2)
        kind = "schedule" if missed == "latest" else "backfill"
        ran = [run for run in clock.runs("often") if since <= run[0] <= until]
        assert ran == [(t, kind) for t in expected]

    @pytest.mark.usefixtures("ahead")
    def test_a_pause_that_owes_runs_holds_them(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK, catch_up="all")
        first = next_fire(schedules, "feeds")
        schedules.pause("feeds", until=first + 3 * HOUR, missed="all")
        clock.tick(first + HOUR)
        held = get(schedules, "feeds")
        assert held.next_fire == first + 3 * HOUR
        assert held.held(first + HOUR) == Span(first, first + HOUR, 2)
        assert held.states(first + HOUR) == ("paused",)
        assert clock.store.ledger("feeds") == []
        clock.tick(first + 3 * HOUR)
        assert clock.runs("feeds") == [(first + 3 * HOUR, "schedule")]
        [backfill] = schedules.backfills()
        assert (backfill.start, backfill.end, backfill.total, backfill.at_once, backfill.by) == (
            first, first + 2 * HOUR, 3, 1, "ana",
        )  # fmt: skip

    def test_what_is_owed_survives_another_pause(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(milliseconds=10), TASK)
        schedules.pause("often", missed="all")
        clock.pass_by(get(schedules, "often").known_since + timedelta(milliseconds=50))
        schedules.resume("often")
        schedules.pause("often", reason="again")
        assert max(owed.total for owed in schedules.backfills()) >= 4
        assert "backfill" not in [reason for _, reason in clock.runs("often")]

    @pytest.mark.usefixtures("ahead")
    @pytest.mark.parametrize("name", [ALL, "feeds"])
    def test_a_pause_holds_backfills(self, schedules: Schedules, clock: Leader, name: str) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        clock.tick(next_fire(schedules, "feeds") + 10 * HOUR)
        begin = get(schedules, "feeds").decided
        clock.finish_jobs()
        schedules.backfill("feeds", begin - 3 * HOUR, begin, again=True)
        schedules.pause(name)
        backfiller = Backfiller(clock.store)
        look = backfiller.look(clock.lease, clock.now + SECOND)
        assert look
        assert look > clock.now + 30 * SECOND
        assert clock.jobs() == []
        schedules.resume(name)
        backfiller.look(clock.lease, clock.now + SECOND)
        assert len(clock.jobs()) == 1

    def test_a_removal_accounts_for_what_was_held(
        self, schedules: Schedules, clock: Leader
    ) -> None:
        schedules.add("often", every(milliseconds=10), TASK)
        schedules.pause("often", missed="all")
        clock.pass_by(get(schedules, "often").known_since + timedelta(milliseconds=50))
        schedules.remove("often")
        [(reason, count)] = clock.skips("often")
        assert reason == "removed"
        assert count >= 4

    @pytest.mark.parametrize("missed", ["latest", "all"])
    def test_a_changed_trigger_leaves_what_the_old_one_owed(
        self, schedules: Schedules, clock: Leader, missed: str
    ) -> None:
        schedules.add("often", every(milliseconds=10), TASK)
        schedules.pause("often", missed=missed)
        clock.pass_by(get(schedules, "often").known_since + timedelta(milliseconds=50))
        schedules.update("often", trigger=every(hours=1))
        total = sum(owed.total for owed in schedules.backfills())
        assert total <= 2 if missed == "latest" else total >= 4
        schedules.resume("often")
        clock.tick()
        clock.finish_duties(at_once=2)
        assert len(clock.runs("often")) == total

    def test_an_empty_pause_catches_up_nothing(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(days=300), TASK)
        schedules.pause("feeds", missed="all")
        schedules.resume("feeds")
        assert schedules.backfills() == []
        assert clock.jobs() == []

    def test_a_second_pause_keeps_its_start(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        schedules.pause("feeds", reason="short")
        first = get(schedules, "feeds").pauses[0].since
        schedules.pause("feeds", reason="longer", until=clock.now + HOUR)
        [pause] = get(schedules, "feeds").pauses
        assert (pause.since, pause.reason) == (first, "longer")

    def test_bad_values_are_refused(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        past = clock.now - HOUR
        assert "in the future" in fault(schedules, "pause", "feeds", until=past)
        assert "skip, latest or all" in fault(schedules, "pause", "feeds", missed="some")
        assert "pause of all" in fault(schedules, "pause", ALL, missed="all")
        naive = datetime.fromisoformat("2999-01-01")
        text = fault(schedules, "pause", "feeds", until=naive)
        assert "expected until as a date and time" in text
        assert get(schedules, "feeds").pauses == ()

    def test_resuming_what_is_not_paused_changes_nothing(self, schedules: Schedules) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        revision = get(schedules, "feeds").revision
        schedules.resume("feeds")
        assert get(schedules, "feeds").revision == revision


class TestSkip:
    @pytest.mark.usefixtures("ahead")
    def test_the_next_fire_times_are_skipped(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = next_fire(schedules, "feeds")
        assert schedules.skip("feeds", 2, reason="known bad data") == first + HOUR
        clock.tick(first)
        clock.tick(first + HOUR)
        clock.tick(first + 2 * HOUR)
        assert clock.skips("feeds") == [("requested", 2)]
        assert clock.runs("feeds") == [(first + 2 * HOUR, "schedule")]

    @pytest.mark.usefixtures("ahead")
    def test_can_be_undone(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        first = next_fire(schedules, "feeds")
        schedules.skip("feeds", 2)
        schedules.skip("feeds", 0)
        clock.tick(first)
        assert clock.runs("feeds") == [(first, "schedule")]

    def test_a_fire_time_already_due_runs(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("often", every(milliseconds=50), TASK)
        known = get(schedules, "often").known_since
        clock.pass_by(known + timedelta(milliseconds=200))
        last = schedules.skip("often", 1)
        skipping = get(schedules, "often").skipping
        assert skipping
        assert last == every(milliseconds=50).next_after(skipping.since)
        clock.finish_jobs()
        clock.tick(last)
        assert [reason for _, reason in clock.runs("often")] == ["schedule"]
        assert ("requested", 1) in clock.skips("often")

    @pytest.mark.usefixtures("ahead")
    def test_it_counts_fire_times_also_of_a_denser_trigger(
        self, schedules: Schedules, clock: Leader
    ) -> None:
        schedules.add("feeds", every(hours=1), TASK)
        schedules.skip("feeds", 2)
        schedules.skip("feeds", 2)
        schedules.update("feeds", trigger=every(seconds=10))
        first = next_fire(schedules, "feeds")
        for i in range(3):
            clock.tick(first + 10 * i * SECOND)
        assert clock.skips("feeds") == [("requested", 2)]
        assert clock.runs("feeds") == [(first + 20 * SECOND, "schedule")]
        assert get(schedules, "feeds").skipping is None

    def test_more_than_remain_is_refused(self, schedules: Schedules, clock: Leader) -> None:
        name = schedules.once(clock.now + HOUR, TASK)
        assert "expected 2 more fire times" in fault(schedules, "skip", name, 2)


def fire_times(after: datetime, until: datetime, period: timedelta) -> Iterator[datetime]:
    ms = to_ms(after) // 10 * 10
    t = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
    while t <= until:
        if t >= after:
            yield t
        t += period


class TestBackfill:
    START, END = datetime(2026, 3, 1, 0, 0, tzinfo=UTC), datetime(2026, 3, 1, 5, 30, tzinfo=UTC)
    HOURS = tuple(datetime(2026, 3, 1, h, tzinfo=UTC) for h in range(6))

    @pytest.fixture(autouse=True)
    def hourly(self, schedules: Schedules) -> None:
        schedules.add("hourly", cron("0 * * * *"), TASK)

    def test_fire_times_run_oldest_first(self, schedules: Schedules, clock: Leader) -> None:
        backfill = schedules.backfill("hourly", self.START, self.END, reason="lost data")
        assert (backfill.total, backfill.state) == (6, "running")
        clock.finish_duties()
        assert clock.runs("hourly") == [(t, "backfill") for t in self.HOURS]
        [done] = schedules.backfills()
        assert (done.state, done.enqueued, done.skipped) == ("done", 6, 0)
        assert [a.verb for a in schedules.audit()] == ["backfill", "add"]

    def test_at_once_limits_concurrent_runs(self, schedules: Schedules, clock: Leader) -> None:
        schedules.backfill("hourly", self.START, self.END, at_once=4)
        Backfiller(clock.store).look(clock.lease, clock.now)
        assert len(clock.jobs()) == 4
        clock.finish_duties(at_once=4)
        assert len(clock.runs("hourly")) == 6

    def test_past_runs_are_left_out_unless_again(self, schedules: Schedules, clock: Leader) -> None:
        schedules.backfill("hourly", self.HOURS[1], self.HOURS[3])
        clock.finish_duties()
        assert schedules.preview_backfill("hourly", self.START, self.END).count == 3
        assert schedules.preview_backfill("hourly", self.START, self.END, again=True).count == 6
        schedules.backfill("hourly", self.START, self.END)
        clock.finish_duties()
        ran = [t for t, _ in clock.runs("hourly")]
        assert ran == [*self.HOURS[1:4], self.HOURS[0], *self.HOURS[4:]]

    @pytest.mark.usefixtures("ahead")
    def test_what_the_history_does_not_reach_is_run_only_on_demand(
        self, schedules: Schedules, clock: Leader
    ) -> None:
        first = next_fire(schedules, "hourly")
        for i in range(6):
            clock.tick(first + i * HOUR)
            clock.finish_jobs()
        clock.redis.ltrim(clock.store.key("ledger:hourly"), -3, -1)
        reach = first + 3 * HOUR
        span = first, first + 5 * HOUR
        assert f"goes back to {iso(reach)}" in fault(schedules, "backfill", "hourly", *span)
        assert schedules.preview_backfill("hourly", reach, span[1]).count == 0
        assert schedules.preview_backfill("hourly", *span, again=True).count == 6

    def test_a_span_may_begin_and_end_within_a_millisecond(self, schedules: Schedules) -> None:
        """A fire time less than a millisecond before the span is outside it."""
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

    def test_a_canceled_one_enqueues_no_more(self, schedules: Schedules, clock: Leader) -> None:
        backfill = schedules.backfill("hourly", self.START, self.END)
        Backfiller(clock.store).look(clock.lease, clock.now)
        schedules.cancel_backfill(backfill.id, reason="wrong span")
        clock.finish_duties()
        assert len(clock.runs("hourly")) == 1
        assert [b.state for b in schedules.backfills()] == ["canceled"]
        assert clock.store.redis.pttl(clock.store.key(f"backfill:{backfill.id}")) > 0
        assert "expected a backfill that is running" in fault(
            schedules, "cancel_backfill", backfill.id
        )

    def test_a_removed_schedule_ends_it(self, schedules: Schedules, clock: Leader) -> None:
        schedules.backfill("hourly", self.START, self.END)
        schedules.remove("hourly")
        clock.finish_duties()
        assert [b.state for b in schedules.backfills()] == ["canceled"]
        assert clock.jobs() == []

    def test_a_duty_of_a_later_release_is_left_to_it(
        self, schedules: Schedules, clock: Leader, events: Events
    ) -> None:
        duties = clock.store.key("duties")
        clock.redis.zadd(duties, {"later:hourly": 0})
        schedules.backfill("hourly", self.START, self.END)
        backfiller = Backfiller(clock.store)
        for minutes in range(3):
            backfiller.look(clock.lease, clock.now + timedelta(minutes=minutes))
        assert len(clock.runs("hourly")) == 1
        assert clock.redis.zscore(duties, "later:hourly")
        assert [e["item"] for e in events("duty.unknown")] == ["later:hourly"]

    def test_a_deposed_clock_enqueues_nothing(self, schedules: Schedules, clock: Leader) -> None:
        clock.acquire("clock.2", "take-over")
        schedules.backfill("hourly", self.START, self.END)
        with pytest.raises(LeaseLost):
            Backfiller(clock.store).look(clock.lease, clock.now)
        assert clock.jobs() == []

    def test_a_refused_span_leaves_no_key(self, schedules: Schedules, clock: Leader) -> None:
        schedules.add("minutely", cron("* * * * *"), TASK)
        ten_years = self.START - timedelta(days=3652)
        assert "at least 10,000" in fault(schedules, "backfill", "minutely", ten_years, self.START)
        assert "after its start" in fault(schedules, "backfill", "hourly", self.END, self.START)
        future = clock.now + HOUR
        assert "of the past" in fault(schedules, "backfill", "hourly", future, future + HOUR)
        assert "at_once" in fault(schedules, "backfill", "hourly", self.START, self.END, at_once=0)
        assert not clock.redis.exists(clock.store.key("backfills"), clock.store.key("duties"))


def test_the_status_names_the_leader_and_what_is_in_trouble(
    schedules: Schedules, store: Store
) -> None:
    assert not schedules.status().leader
    leader = Leader(store)
    schedules.add("x", every(minutes=5), TASK)
    found = schedules.status()
    assert (found.size, found.troubled, bool(found.leader)) == (1, False, True), leader


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

    def test_a_once_declared_in_code_is_kept(self, schedules: Schedules, clock: Leader) -> None:
        at = clock.now + SECOND
        clock.declare("launch", once(at), TASK)
        clock.tick(at + SECOND)
        assert schedules.get("launch")
        assert len(clock.runs("launch")) == 1
