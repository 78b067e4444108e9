"""The state that workers share: taking, ending, the dead, turns of groups. A real server; workers
are names here, so every order of events can be written down."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.client import Pipeline
from redis.exceptions import ConnectionError
from rq import Retry
from rq.job import Job

from rq_clock.jobs import outcomes
from rq_clock.jobs.executions import SCANNED, Evicted, Executions
from rq_clock.jobs.outcomes import Execution
from rq_clock.jobs.reaper import SILENCE, Reaper
from tests.helpers import Events
from tests.worker import jobs as jobs

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Crew:
    """Three workers that are names, a queue, and all that the workers share."""

    def __init__(self, redis: Any, queue: Any) -> None:
        self.redis = redis
        self.queue = queue
        self.executions = Executions(redis, "default")
        for worker in "abc":
            self.register(worker)
            redis.hset(f"rq:worker:{worker}", "birth", "x")

    def register(self, worker: str) -> None:
        self.executions.register(worker, NOON)

    def enqueue(self, **options: Any) -> Any:
        return self.queue.enqueue(jobs.add, 1, 2, **options)

    def grouped(self, group: str, *, limit: int | None = None, **options: Any) -> Any:
        meta: dict[str, Any] = {"group": group} | ({"group_limit": limit} if limit else {})
        return self.enqueue(meta={"rq_clock": meta}, **options)

    def take(self, worker: str) -> Execution:
        execution = self.executions.take(worker, ["default"], NOON)
        assert execution
        return execution

    def nothing_for(self, worker: str) -> bool:
        return self.executions.take(worker, ["default"], NOON) is None

    def end(self, execution: Execution) -> None:
        self.executions.close(execution, outcomes.succeeded(execution, NOON, None))

    def fail(self, execution: Execution) -> None:
        self.executions.close(execution, outcomes.failed(execution, NOON, "ValueError: no"))

    def watch(self, limit: int = 3, seconds: float = SILENCE) -> None:
        """Let a reaper that allows so many deaths before look every two seconds for so long."""
        reaper = Reaper(self.executions, max_deaths=limit + 1)
        for moment in range(0, int(seconds) + 1, 2):
            reaper.look(float(moment), NOON)


@pytest.fixture
def crew(connection: Any, queue: Any) -> Crew:
    return Crew(connection, queue)


def test_a_registration_whose_reply_was_lost_is_the_workers_own(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executions, other = Executions(connection, "default"), Executions(connection, "default")
    execute = Pipeline.execute

    def lose(self: Pipeline, *args: Any) -> None:
        execute(self, *args)
        raise ConnectionError("the reply was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "execute", lose)
        with pytest.raises(ConnectionError):
            executions.register("a", NOON)
    assert executions.register("a", NOON + timedelta(seconds=1)) == ""
    assert other.register("a", NOON)


class TestTaking:
    def test_a_job_is_in_its_queue_or_in_the_started_registry(self, crew: Crew) -> None:
        job = crew.enqueue()
        execution = crew.take("a")
        assert crew.queue.job_ids == []
        assert crew.redis.exists("rq:queue:default:intermediate") == 0
        assert (
            [execution.job_id]
            == crew.queue.started_job_registry.get_job_ids(cleanup=False)
            == [job.id]
        )
        assert (
            crew.redis.zscore("rq:wip:default", f"{job.id}:{execution.id}")
            >= (NOON + timedelta(seconds=180)).timestamp()
        )

    def test_after_a_lost_reply_the_same_execution_is_returned_again(self, crew: Crew) -> None:
        crew.enqueue()
        crew.enqueue()
        first = crew.take("a")
        again = crew.take("a")
        assert (again.id, again.job_id, again.attempt) == (first.id, first.job_id, 1)

    def test_a_job_with_the_id_of_a_run_that_no_schedule_made_is_no_run(self, crew: Crew) -> None:
        crew.grouped("shop", job_id="default-nightly-1772352000000")
        execution = crew.take("a")
        assert execution.origin is None
        crew.end(execution)
        assert crew.executions.ended(1) == []
        assert not crew.redis.exists("rq-clock:default:ledger:nightly")

    def test_who_is_not_registered_takes_nothing(self, crew: Crew) -> None:
        job = crew.enqueue()
        with pytest.raises(Evicted):
            crew.take("stranger")
        assert crew.queue.job_ids == [job.id]


class TestEnding:
    def test_ending_again_after_a_lost_reply_changes_nothing(self, crew: Crew) -> None:
        job = crew.enqueue()
        execution = crew.take("a")
        crew.end(execution)
        after = crew.redis.xlen(f"rq:results:{job.id}")
        crew.end(execution)
        assert crew.redis.xlen(f"rq:results:{job.id}") == after == 1

    def test_an_end_and_the_next_job_after_a_lost_reply(self, crew: Crew) -> None:
        crew.enqueue()
        crew.enqueue()
        first = crew.take("a")
        outcome = outcomes.succeeded(first, NOON, None)
        begun = [
            crew.executions.close_and_take(first, outcome, ["default"], NOON) for _ in range(2)
        ]
        assert begun[0]
        assert begun[1]
        assert begun[0].id == begun[1].id

    def test_a_server_that_forgot_the_scripts_learns_them_and_ends_before_it_takes(
        self, crew: Crew
    ) -> None:
        for _ in range(2):
            crew.enqueue()
        first = crew.take("a")
        crew.redis.script_flush()
        outcome = outcomes.succeeded(first, NOON, None)
        second = crew.executions.close_and_take(first, outcome, ["default"], NOON)
        assert second
        assert second.job_id != first.job_id

    def test_a_deleted_job_is_not_brought_back_by_its_end(self, crew: Crew) -> None:
        job = crew.enqueue()
        execution = crew.take("a")
        job.delete()
        crew.end(execution)
        assert crew.redis.keys(f"rq:job:{job.id}*") == []
        assert crew.nothing_for("a")


class Grenade:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


class TestDependents:
    @pytest.fixture
    def children(self, crew: Crew) -> list[Any]:
        parent = crew.enqueue()
        return [crew.enqueue(depends_on=parent) for _ in range(2)]

    def damage(self, crew: Crew, job: Any, how: str) -> None:
        if how == "deleted, then a stale save_meta":
            job.delete()
            job.save_meta()
        elif how == "a status of a later RQ":
            crew.redis.hset(job.key, "status", "paused")
        elif how == "no hash":
            crew.redis.delete(job.key)
            crew.redis.set(job.key, "x")
        else:
            crew.redis.hset(job.key, "enqueue_at_front", "perhaps")

    @pytest.mark.parametrize(
        "how", ["deleted, then a stale save_meta", "a status of a later RQ", "no hash", "no number"]
    )
    def test_one_that_cannot_be_read_stays_deferred_and_the_others_run(
        self, crew: Crew, children: list[Any], events: Events, how: str
    ) -> None:
        good, bad = children
        self.damage(crew, bad, how)
        crew.redis.sadd(f"rq:job:{crew.queue.job_ids[0]}:dependents", bad.id)
        crew.end(crew.take("a"))
        assert crew.queue.job_ids == [good.id]
        assert [e["dependents"] for e in events("dependents.unreadable")] == [bad.id]

    def test_a_deleted_one_is_nothing(self, crew: Crew, children: list[Any]) -> None:
        crew.redis.delete(children[0].key)
        crew.end(crew.take("a"))
        assert crew.queue.job_ids == [children[1].id]

    def test_no_meta_of_another_job_is_unpickled(
        self, crew: Crew, children: list[Any], tmp_path: Path
    ) -> None:
        trap = pickle.dumps({"x": Grenade(tmp_path / "boom")})
        for child in children:
            crew.redis.hset(child.key, "meta", trap)
        crew.end(crew.take("a"))
        assert sorted(crew.queue.job_ids) == sorted(child.id for child in children)
        assert crew.redis.hget(children[0].key, "meta") == trap
        assert not (tmp_path / "boom").exists()

    def test_a_group_is_read_from_a_meta_that_is_not_unpickled(
        self, crew: Crew, tmp_path: Path
    ) -> None:
        meta = {"at": NOON, "x": Grenade(tmp_path / "boom"), "rq_clock": {"group": "shop"}}
        for _ in range(2):
            job = crew.enqueue()
            crew.redis.hset(job.key, "meta", pickle.dumps(meta))
        crew.take("a")
        assert crew.nothing_for("b")
        assert not (tmp_path / "boom").exists()

    def test_a_meta_that_cannot_be_read_names_no_group(self, crew: Crew) -> None:
        job = crew.enqueue()
        crew.redis.hset(job.key, "meta", b"\x80\x04 rq_clock group \xff")
        assert crew.take("a").job_id == job.id

    @pytest.mark.parametrize(
        "facts",
        [
            {"group": "\udcff"},
            {"group": 10**6000},
            {"group": ["shop"]},
            {"group": "shop", "group_limit": 10**6000},
            ["group"],
        ],
        ids=["a lone surrogate", "a long number", "a list", "a long limit", "no facts"],
    )
    def test_whatever_group_a_meta_names_its_job_is_taken(self, crew: Crew, facts: Any) -> None:
        job = crew.enqueue()
        crew.redis.hset(job.key, "meta", pickle.dumps({"rq_clock": facts}))
        assert crew.take("a").job_id == job.id

    @pytest.mark.parametrize("number", ["9" * 400, "1" + "0" * 30, "-" + "9" * 400])
    def test_a_jobs_numbers_may_be_of_any_size(self, crew: Crew, number: str) -> None:
        job = crew.enqueue()
        crew.redis.hset(job.key, mapping=dict.fromkeys(("timeout", "failure_ttl"), number))
        crew.fail(crew.take("a"))
        assert crew.redis.hget(job.key, "status") == b"failed"
        assert crew.redis.zscore("rq:failed:default", job.id)

    @pytest.mark.parametrize("pause", ["[1e999]", "[1e300]", "[NaN]", f"[{'9' * 400}]", "[" * 9999])
    def test_a_retry_may_ask_for_any_pause(self, crew: Crew, pause: str) -> None:
        job = crew.enqueue(retry=Retry(max=1))
        crew.redis.hset(job.key, "retry_intervals", pause)
        crew.fail(crew.take("a"))
        assert crew.redis.hget(job.key, "status") in (b"scheduled", b"queued")

    @pytest.mark.parametrize("id", [b"a b", b"", b"a\nb", b"\xff\xfe", b"a\x00"])
    def test_an_id_that_rq_refuses_fails_and_holds_up_no_other(
        self, crew: Crew, events: Events, id: bytes
    ) -> None:
        crew.redis.hset(b"rq:job:" + id, mapping={"created_at": "x", "status": "queued"})
        crew.redis.rpush("rq:queue:default", id)
        job = crew.enqueue()
        assert crew.take("a").job_id == job.id
        assert crew.redis.hget(b"rq:job:" + id, "status") == b"failed"
        assert len(events("job.unreadable")) == 1

    @pytest.mark.parametrize("key", ["rq:executions:{}", "rq:job:{}:dependents"])
    def test_a_key_of_another_type_beside_a_job_changes_nothing_of_its_end(
        self, crew: Crew, key: str
    ) -> None:
        job, other = crew.enqueue(), crew.enqueue()
        crew.redis.set(key.format(job.id), "x")
        crew.end(crew.take("a"))
        assert crew.redis.hget(job.key, "status") == b"finished"
        assert crew.take("a").job_id == other.id
        assert crew.redis.zcard("rq:wip:default") == 1

    def test_a_dead_workers_job_whose_numbers_cannot_be_read_is_ended(self, crew: Crew) -> None:
        job = crew.enqueue(retry=Retry(max=3, interval=[1, 2, 3]))
        garbage = ("timeout", "failure_ttl", "rq_clock_attempt", "rq_clock_interruptions",
                   "rq_clock_deaths")  # fmt: skip
        crew.redis.hset(job.key, mapping=dict.fromkeys((*garbage, "retry_intervals"), "{"))
        execution = crew.take("a")
        crew.redis.hset(f"rq:execution:{job.id}:{execution.id}", "created_at", "1e999")
        crew.watch(10, SILENCE + 2)
        assert crew.queue.job_ids == [job.id]

    def test_an_id_in_a_queue_that_names_no_hash_is_passed_over(self, crew: Crew) -> None:
        crew.redis.set("rq:job:odd", "x")
        crew.redis.rpush("rq:queue:default", "odd")
        job = crew.enqueue()
        assert crew.take("a").job_id == job.id


class TestTheDead:
    def test_a_silent_worker_is_dead_and_its_job_at_the_front(self, crew: Crew) -> None:
        job = crew.enqueue(retry=Retry(max=3))
        crew.take("a")
        other = crew.enqueue()
        crew.watch()
        job.refresh()
        assert crew.queue.job_ids == [job.id, other.id]
        assert (job.get_status(), job.retries_left) == ("queued", 3)
        assert crew.redis.hget(job.key, "rq_clock_deaths") == b"1"
        assert crew.redis.keys("rq:execution*") == []
        assert crew.redis.zcard("rq:wip:default") == 0

    def test_one_that_comes_back_ends_nothing(self, crew: Crew) -> None:
        job = crew.enqueue()
        frozen = crew.take("a")
        crew.watch()
        crew.register("b")
        second = crew.take("b")
        with pytest.raises(Evicted):
            crew.end(frozen)
        with pytest.raises(Evicted):
            crew.executions.beat("a", 60, NOON)
        crew.end(second)
        assert len(job.results()) == 1

    def test_a_sign_of_life_in_the_last_moment_saves_a_worker(self, crew: Crew) -> None:
        crew.enqueue()
        execution = crew.take("a")
        (place,) = [p for p in crew.executions.scan(NOON)[0] if p.worker == "a"]
        crew.executions.beat("a", 60, NOON)
        outcome = outcomes.interrupted(execution, NOON, 3)
        assert crew.executions.reap(place, execution, outcome) is False
        crew.end(execution)

    def test_silence_that_nobody_watched_does_not_count(self, crew: Crew) -> None:
        crew.enqueue()
        crew.take("a")
        reaper = Reaper(crew.executions, max_deaths=4)
        for moment in (0.0, 2.0, 100.0, 102.0, 104.0):  # the watcher was frozen in between
            reaper.look(moment, NOON)
        assert crew.queue.job_ids == []
        reaper.look(106.0, NOON)
        reaper.forget()  # the server was away
        for moment in (108.0, 110.0, 112.0):
            reaper.look(moment, NOON)
        assert crew.queue.job_ids == []

    def test_a_job_that_kills_its_workers_fails_in_the_end(self, crew: Crew) -> None:
        job = crew.enqueue()
        for worker in ("a", "b", "c"):
            crew.take(worker)
            crew.watch(2)
            for survivor in ("a", "b", "c"):
                crew.register(survivor)
        assert job.get_status() == "failed"
        assert "no sign of life" in job.latest_result().exc_string

    def test_a_dead_worker_whose_job_cannot_be_read_holds_up_no_other(
        self, crew: Crew, events: Events
    ) -> None:
        first, second = crew.enqueue(), crew.enqueue()
        crew.take("a")
        crew.take("b")
        crew.redis.delete(first.key)
        crew.redis.set(first.key, "x")
        crew.watch(10, SILENCE + 8)
        assert crew.queue.job_ids == [second.id]
        assert [e["worker"] for e in events("duty.failed")] == ["a"]

    def test_an_idle_worker_that_died_is_forgotten(self, crew: Crew) -> None:
        crew.redis.sadd("rq:workers", "rq:worker:a")
        crew.watch()
        assert crew.redis.hgetall("rq-clock:default:workers") == {}
        assert crew.redis.smembers("rq:workers") == set()


class TestScheduled:
    def test_jobs_are_queued_when_their_time_has_come(self, crew: Crew) -> None:
        early = crew.queue.enqueue_at(NOON - timedelta(seconds=1), jobs.add, 1, 2)
        late = crew.queue.enqueue_at(NOON + timedelta(seconds=90), jobs.add, 1, 2)
        _, due, moved = crew.executions.scan(NOON)
        assert (due, moved) == (NOON + timedelta(seconds=90), 1)
        assert crew.queue.job_ids == [early.id]
        assert (early.get_status(), late.get_status()) == ("queued", "scheduled")

    def test_queues_of_any_number_are_looked_at_in_steps(self, crew: Crew) -> None:
        """One script that looked at 50,000 would hold up everybody for a second."""
        crew.redis.sadd("rq:queues", *(f"rq:queue:{n}" for n in range(3 * SCANNED)))
        early = crew.queue.enqueue_at(NOON - timedelta(seconds=1), jobs.add, 1, 2)
        crew.queue.enqueue_at(NOON + timedelta(seconds=90), jobs.add, 1, 2)
        crew.redis.rpush("rq:queue:7", "nobody takes it")
        steps = [crew.executions.scan(NOON) for _ in range(3)]
        while steps[-1][1] == NOON:
            steps.append(crew.executions.scan(NOON))
            assert len(steps) < 6
        assert steps[-1][1] == NOON + timedelta(seconds=90)
        assert sum(moved for _, _, moved in steps) == 1
        assert early.get_status() == "queued"
        found = [crew.executions.snapshot(NOON, "", [], 10).unserved for _ in range(4)]
        assert found[0] is None
        assert found[-1] == {"7", "default"}

    def test_a_stock_scheduler_is_left_alone(self, crew: Crew) -> None:
        crew.queue.enqueue_at(NOON - timedelta(seconds=1), jobs.add, 1, 2)
        crew.redis.set("rq:scheduler-lock:default", 1)
        assert crew.executions.scan(NOON)[1:] == (None, 0)


class TestForeignKeys:
    """A key of another type is one queue's or one group's problem."""

    @pytest.mark.parametrize(
        "key",
        ["rq:scheduled:odd", "rq:queue:odd", "rq:job:odd", "rq:wip:odd", "rq:deferred:odd",
         "rq-clock:default:turns:odd", "rq-clock:default:waiting:odd"],
    )  # fmt: skip
    def test_others_are_promoted_and_taken(self, crew: Crew, key: str) -> None:
        crew.redis.sadd("rq:queues", "rq:queue:odd")
        crew.redis.zadd("rq:scheduled:odd", {"odd": 1})
        crew.redis.sadd("rq-clock:default:groups", "odd", "shop")
        crew.redis.rpush("rq:queue:odd", crew.grouped("odd").id)
        crew.redis.delete(key, "rq:queue:default")
        crew.redis.set(key, "x")
        early = crew.queue.enqueue_at(NOON - timedelta(seconds=1), jobs.add, 1, 2)
        assert crew.executions.scan(NOON)[2] == 1
        execution = crew.executions.take("a", ["odd", "default"], NOON)
        assert execution
        if execution.job_id != early.id:
            assert crew.take("b").job_id == early.id

    @pytest.mark.parametrize("key", ["rq:queues", "rq-clock:default:groups"])
    def test_a_scan_reads_nothing_from_it(self, crew: Crew, key: str) -> None:
        crew.redis.delete(key)
        crew.redis.set(key, "x")
        slots, due, moved = crew.executions.scan(NOON)
        assert (len(slots), due, moved) == (3, None, 0)

    @pytest.mark.parametrize("limit", ["x", "", "9" * 400])
    def test_a_group_goes_on_behind_a_job_whose_limit_cannot_be_read(
        self, crew: Crew, limit: str
    ) -> None:
        first, second = crew.grouped("shop"), crew.grouped("shop")
        running = crew.take("a")
        assert crew.nothing_for("b")
        crew.redis.hset(second.key, "rq_clock_group_limit", limit)
        crew.end(running)
        assert (running.job_id, crew.take("b").job_id) == (first.id, second.id)


class TestGroups:
    def test_jobs_of_one_group_run_one_at_a_time_in_order(self, crew: Crew) -> None:
        first, second, third = (crew.grouped("shop") for _ in range(3))
        running = crew.take("a")
        assert crew.nothing_for("b")
        assert [second.get_status(), third.get_status()] == ["deferred", "deferred"]
        assert set(crew.queue.deferred_job_registry.get_job_ids()) == {second.id, third.id}
        order = [running.job_id]
        for worker in ("b", "c"):
            crew.end(running)
            running = crew.take(worker)
            order.append(running.job_id)
        assert order == [first.id, second.id, third.id]

    def test_groups_run_side_by_side_and_hold_nobody_else_up(self, crew: Crew) -> None:
        waiting = [crew.grouped("shop") for _ in range(500)]
        other, free = crew.grouped("other"), crew.enqueue()
        begun = [crew.take(worker).job_id for worker in ("a", "b", "c")]
        assert begun == [waiting[0].id, other.id, free.id]

    def test_a_group_with_a_limit_lets_so_many_run(self, crew: Crew) -> None:
        three = [crew.grouped("shop", limit=2) for _ in range(3)]
        first, second = crew.take("a"), crew.take("b")
        assert crew.nothing_for("c")
        crew.end(second)
        assert crew.take("c").job_id == three[2].id
        assert first.job_id == three[0].id

    def test_a_retry_keeps_its_groups_turn(self, crew: Crew) -> None:
        first = crew.grouped("shop", retry=Retry(max=1, interval=60))
        second = crew.grouped("shop")
        crew.fail(crew.take("a"))
        assert first.get_status() == "scheduled"
        assert crew.nothing_for("b")
        crew.executions.scan(NOON + timedelta(seconds=61))
        again = crew.take("b")
        assert again.job_id == first.id
        crew.fail(again)
        assert crew.take("b").job_id == second.id

    def test_a_dead_workers_group_goes_on_with_the_same_job(self, crew: Crew) -> None:
        first, second = crew.grouped("shop"), crew.grouped("shop")
        crew.take("a")
        assert crew.nothing_for("b")
        crew.watch()
        crew.register("b")
        again = crew.take("b")
        assert again.job_id == first.id
        crew.end(again)
        assert crew.take("b").job_id == second.id

    def test_a_job_that_was_deleted_gives_its_turn_away(self, crew: Crew) -> None:
        first, second = crew.grouped("shop"), crew.grouped("shop")
        held = crew.take("a")
        assert crew.nothing_for("b")
        first.delete()
        crew.executions.scan(NOON)
        assert crew.take("b").job_id == second.id
        crew.end(held)

    def test_a_waiting_job_that_was_canceled_is_passed_over(self, crew: Crew) -> None:
        _, second, third = (crew.grouped("shop") for _ in range(3))
        running = crew.take("a")
        assert crew.nothing_for("b")
        second.cancel()
        crew.end(running)
        assert crew.take("b").job_id == third.id

    def test_a_group_forgets_its_deleted_jobs_some_at_a_time(self, crew: Crew) -> None:
        first, second = crew.grouped("g"), crew.grouped("g")
        execution = crew.take("a")
        assert crew.nothing_for("b")  # it is parked
        crew.redis.lpush("rq-clock:default:waiting:g", *(f"gone-{n}" for n in range(500)))
        crew.end(execution)
        assert second.get_status() == "deferred"
        for _ in range(2):
            crew.executions.scan(NOON)
        assert crew.queue.job_ids == [second.id]
        assert first.get_status() == "finished"

    def test_nothing_is_left_of_a_group_that_is_done(self, crew: Crew) -> None:
        for _ in range(2):
            crew.grouped("shop")
        running = crew.take("a")
        assert crew.nothing_for("b")
        crew.end(running)
        crew.end(crew.take("b"))
        names = {key.decode() for key in crew.redis.keys("rq-clock:*")}
        assert names == {"rq-clock:default:workers"}

    def test_a_meta_that_only_mentions_groups_makes_none(self, crew: Crew) -> None:
        for _ in range(2):
            crew.enqueue(meta={"rq_clock": {"schedule": "group-report"}})
        assert crew.take("a").job_id != crew.take("b").job_id

    def test_a_job_keeps_what_its_meta_says(self, crew: Crew) -> None:
        job = crew.grouped("shop")
        crew.take("a")
        meta = Job.fetch(job.id, connection=crew.redis).meta
        assert meta == {"rq_clock": {"group": "shop"}}
