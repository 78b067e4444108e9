"""The state that workers share: taking, ending, the dead, turns of groups. A real server; workers
are names here, so every order of events can be written down."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rq import Retry
from rq.job import Job

from rq_clock.jobs import outcomes as endings
from rq_clock.jobs.executions import Evicted, Executions
from rq_clock.jobs.outcomes import Execution
from rq_clock.jobs.reaper import SILENCE, Reaper
from tests.worker import jobs as jobs

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def executions(connection: Any) -> Executions:
    executions = Executions(connection, "default")
    for worker in ("a", "b", "c"):
        executions.register(worker, NOON)
        connection.hset(f"rq:worker:{worker}", "birth", "x")
    return executions


def take(executions: Executions, worker: str, *queues: str) -> Execution:
    execution = executions.take(worker, queues or ["default"], NOON)
    assert execution
    return execution


def nothing_for(executions: Executions, worker: str) -> bool:
    return executions.take(worker, ["default"], NOON) is None


def end(executions: Executions, execution: Execution) -> None:
    executions.close(execution, endings.succeeded(execution, NOON, None))


def fail(executions: Executions, execution: Execution) -> None:
    executions.close(execution, endings.failed(execution, NOON, "ValueError: no"))


def grouped(queue: Any, group: str, *, limit: int | None = None, **options: Any) -> Any:
    meta: dict[str, Any] = {"group": group} | ({"group_limit": limit} if limit else {})
    return queue.enqueue(jobs.add, 1, 2, meta={"rq_clock": meta}, **options)


def watch(care: Reaper, seconds: float) -> None:
    """Look every two seconds for so long."""
    for moment in range(0, int(seconds) + 1, 2):
        care.look(float(moment), NOON)


class TestTaking:
    def test_a_job_is_in_its_queue_or_in_the_started_registry(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        execution = take(executions, "a")
        assert queue.job_ids == []
        assert connection.exists("rq:queue:default:intermediate") == 0
        assert (
            [execution.job_id] == queue.started_job_registry.get_job_ids(cleanup=False) == [job.id]
        )
        assert (
            connection.zscore("rq:wip:default", f"{job.id}:{execution.id}")
            >= (NOON + timedelta(seconds=180)).timestamp()
        )

    def test_after_a_lost_reply_the_same_execution_is_returned_again(
        self, executions: Executions, queue: Any
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        queue.enqueue(jobs.add, 3, 4)
        first = take(executions, "a")
        again = take(executions, "a")
        assert (again.id, again.job_id, again.attempt) == (first.id, first.job_id, 1)

    def test_a_job_with_the_id_of_a_run_that_no_schedule_made_is_no_run(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        grouped(queue, "shop", job_id="default-nightly-1772352000000")
        execution = take(executions, "a")
        assert execution.origin is None
        end(executions, execution)
        assert executions.ended(1) == []
        assert not connection.exists("rq-clock:default:ledger:nightly")

    def test_who_is_not_registered_takes_nothing(self, executions: Executions, queue: Any) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        with pytest.raises(Evicted):
            take(executions, "stranger")
        assert queue.job_ids == [job.id]


class TestEnding:
    def test_ending_again_after_a_lost_reply_changes_nothing(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        execution = take(executions, "a")
        end(executions, execution)
        after = connection.xlen(f"rq:results:{job.id}")
        end(executions, execution)
        assert connection.xlen(f"rq:results:{job.id}") == after == 1

    def test_an_end_and_the_next_job_after_a_lost_reply(
        self, executions: Executions, queue: Any
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        queue.enqueue(jobs.add, 3, 4)
        first = take(executions, "a")
        ending = endings.succeeded(first, NOON, None)
        begun = [executions.close_and_take(first, ending, ["default"], NOON) for _ in range(2)]
        assert begun[0]
        assert begun[1]
        assert begun[0].id == begun[1].id

    def test_a_server_that_forgot_the_scripts_learns_them_and_ends_before_it_takes(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        for _ in range(2):
            queue.enqueue(jobs.add, 1, 2)
        first = take(executions, "a")
        connection.script_flush()
        ending = endings.succeeded(first, NOON, None)
        second = executions.close_and_take(first, ending, ["default"], NOON)
        assert second
        assert second.job_id != first.job_id

    def test_a_deleted_job_is_not_brought_back_by_its_end(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        execution = take(executions, "a")
        job.delete()
        end(executions, execution)
        assert connection.keys(f"rq:job:{job.id}*") == []
        assert nothing_for(executions, "a")


class Grenade:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


class TestDependents:
    @pytest.fixture
    def children(self, queue: Any) -> list[Any]:
        parent = queue.enqueue(jobs.add, 1, 2)
        return [queue.enqueue(jobs.add, 3, 4, depends_on=parent) for _ in range(2)]

    def breaks(self, connection: Any, job: Any, how: str) -> None:
        if how == "deleted, then a stale save_meta":
            job.delete()
            job.save_meta()
        elif how == "a status of a later RQ":
            connection.hset(job.key, "status", "paused")
        elif how == "no hash":
            connection.delete(job.key)
            connection.set(job.key, "x")
        else:
            connection.hset(job.key, "enqueue_at_front", "perhaps")

    @pytest.mark.parametrize(
        "how",
        ["deleted, then a stale save_meta", "a status of a later RQ", "no hash", "no number"],
    )
    def test_one_that_cannot_be_read_stays_deferred_and_the_others_run(
        self, executions: Executions, connection: Any, queue: Any, children: list[Any],
        caplog: pytest.LogCaptureFixture, how: str,
    ) -> None:  # fmt: skip
        good, bad = children
        self.breaks(connection, bad, how)
        connection.sadd(f"rq:job:{queue.job_ids[0]}:dependents", bad.id)
        end(executions, take(executions, "a"))
        assert queue.job_ids == [good.id]
        warnings = [r for r in caplog.records if getattr(r, "event", "") == "dependents.unreadable"]
        assert [r.fields["dependents"] for r in warnings] == [bad.id]  # type: ignore[attr-defined]

    def test_a_deleted_one_is_nothing(
        self, executions: Executions, connection: Any, queue: Any, children: list[Any]
    ) -> None:
        connection.delete(children[0].key)
        end(executions, take(executions, "a"))
        assert queue.job_ids == [children[1].id]

    def test_no_meta_of_another_job_is_unpickled(
        self, executions: Executions, connection: Any, queue: Any, children: list[Any],
        tmp_path: Path,
    ) -> None:  # fmt: skip
        trap = pickle.dumps({"x": Grenade(tmp_path / "boom")})
        for child in children:
            connection.hset(child.key, "meta", trap)
        end(executions, take(executions, "a"))
        assert sorted(queue.job_ids) == sorted(child.id for child in children)
        assert connection.hget(children[0].key, "meta") == trap
        assert not (tmp_path / "boom").exists()

    def test_a_group_is_read_from_a_meta_that_is_not_unpickled(
        self, executions: Executions, connection: Any, queue: Any, tmp_path: Path
    ) -> None:
        meta = {"at": NOON, "x": Grenade(tmp_path / "boom"), "rq_clock": {"group": "shop"}}
        for _ in range(2):
            job = queue.enqueue(jobs.add, 1, 2)
            connection.hset(job.key, "meta", pickle.dumps(meta))
        take(executions, "a")
        assert nothing_for(executions, "b")
        assert not (tmp_path / "boom").exists()

    def test_a_meta_that_cannot_be_read_names_no_group(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        connection.hset(job.key, "meta", b"\x80\x04 rq_clock group \xff")
        assert take(executions, "a").job_id == job.id

    def test_a_dead_workers_job_whose_numbers_cannot_be_read_is_ended(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2, retry=Retry(max=3, interval=[1, 2, 3]))
        garbage = ("timeout", "failure_ttl", "rq_clock_attempt", "rq_clock_interruptions")
        connection.hset(job.key, mapping=dict.fromkeys((*garbage, "retry_intervals"), "{"))
        take(executions, "a")
        watch(Reaper(executions, 10), SILENCE + 2)
        assert queue.job_ids == [job.id]

    def test_an_id_in_a_queue_that_names_no_hash_is_passed_over(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        connection.set("rq:job:odd", "x")
        connection.rpush("rq:queue:default", "odd")
        job = queue.enqueue(jobs.add, 1, 2)
        assert take(executions, "a").job_id == job.id


class TestTheDead:
    def test_a_silent_worker_is_dead_and_its_job_at_the_front(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2, retry=Retry(max=3))
        take(executions, "a")
        other = queue.enqueue(jobs.add, 3, 4)
        watch(Reaper(executions, 3), SILENCE)
        job.refresh()
        assert queue.job_ids == [job.id, other.id]
        assert (job.get_status(), job.retries_left) == ("queued", 3)
        assert connection.hget(job.key, "rq_clock_interruptions") == b"1"
        assert connection.keys("rq:execution*") == []
        assert connection.zcard("rq:wip:default") == 0

    def test_one_that_comes_back_ends_nothing(self, executions: Executions, queue: Any) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        frozen = take(executions, "a")
        watch(Reaper(executions, 3), SILENCE)
        executions.register("b", NOON)
        second = take(executions, "b")
        with pytest.raises(Evicted):
            end(executions, frozen)
        with pytest.raises(Evicted):
            executions.beat("a", 60, NOON)
        end(executions, second)
        assert len(job.results()) == 1

    def test_a_sign_of_life_in_the_last_moment_saves_a_worker(
        self, executions: Executions, queue: Any
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        execution = take(executions, "a")
        (place,) = [p for p in executions.scan(NOON)[0] if p.worker == "a"]
        executions.beat("a", 60, NOON)
        ending = endings.interrupted(execution, NOON, 3)
        assert executions.reap(place, execution, ending) is False
        end(executions, execution)

    def test_silence_that_nobody_watched_does_not_count(
        self, executions: Executions, queue: Any
    ) -> None:
        queue.enqueue(jobs.add, 1, 2)
        take(executions, "a")
        care = Reaper(executions, 3)
        for moment in (0.0, 2.0, 100.0, 102.0, 104.0):  # the watcher was frozen in between
            care.look(moment, NOON)
        assert queue.job_ids == []
        care.look(106.0, NOON)
        care.forget()  # the server was away
        for moment in (108.0, 110.0, 112.0):
            care.look(moment, NOON)
        assert queue.job_ids == []

    def test_a_job_that_kills_its_workers_fails_in_the_end(
        self, executions: Executions, queue: Any
    ) -> None:
        job = queue.enqueue(jobs.add, 1, 2)
        for worker in ("a", "b", "c"):
            take(executions, worker)
            watch(Reaper(executions, 2), SILENCE)
            for survivor in ("a", "b", "c"):
                executions.register(survivor, NOON)
        assert job.get_status() == "failed"
        assert "no sign of life" in job.latest_result().exc_string

    def test_a_dead_worker_whose_job_cannot_be_read_holds_up_no_other(
        self, executions: Executions, connection: Any, queue: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        first, second = queue.enqueue(jobs.add, 1, 2), queue.enqueue(jobs.add, 1, 2)
        take(executions, "a")
        take(executions, "b")
        connection.delete(first.key)
        connection.set(first.key, "x")
        watch(Reaper(executions, 10), SILENCE + 8)
        assert queue.job_ids == [second.id]
        failed = [r for r in caplog.records if getattr(r, "event", "") == "duty.failed"]
        assert [r.fields["worker"] for r in failed] == ["a"]  # type: ignore[attr-defined]

    def test_an_idle_worker_that_died_is_forgotten(
        self, executions: Executions, connection: Any
    ) -> None:
        connection.sadd("rq:workers", "rq:worker:a")
        watch(Reaper(executions, 3), SILENCE)
        assert connection.hgetall("rq-clock:default:workers") == {}
        assert connection.smembers("rq:workers") == set()


class TestScheduled:
    def test_jobs_are_queued_when_their_time_has_come(
        self, executions: Executions, queue: Any
    ) -> None:
        early = queue.enqueue_at(NOON - timedelta(seconds=1), jobs.add, 1, 2)
        late = queue.enqueue_at(NOON + timedelta(seconds=90), jobs.add, 1, 2)
        _, due, moved = executions.scan(NOON)
        assert (due, moved) == (NOON + timedelta(seconds=90), 1)
        assert queue.job_ids == [early.id]
        assert (early.get_status(), late.get_status()) == ("queued", "scheduled")

    def test_a_stock_scheduler_is_left_alone(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        queue.enqueue_at(NOON - timedelta(seconds=1), jobs.add, 1, 2)
        connection.set("rq:scheduler-lock:default", 1)
        assert executions.scan(NOON)[1:] == (None, 0)


class TestGroups:
    def test_jobs_of_one_group_run_one_at_a_time_in_order(
        self, executions: Executions, queue: Any
    ) -> None:
        first, second, third = (grouped(queue, "shop") for _ in range(3))
        running = take(executions, "a")
        assert nothing_for(executions, "b")
        assert [second.get_status(), third.get_status()] == ["deferred", "deferred"]
        assert set(queue.deferred_job_registry.get_job_ids()) == {second.id, third.id}
        order = [running.job_id]
        for worker in ("b", "c"):
            end(executions, running)
            running = take(executions, worker)
            order.append(running.job_id)
        assert order == [first.id, second.id, third.id]

    def test_groups_run_side_by_side_and_hold_nobody_else_up(
        self, executions: Executions, queue: Any
    ) -> None:
        waiting = [grouped(queue, "shop") for _ in range(500)]
        other, free = grouped(queue, "other"), queue.enqueue(jobs.add, 1, 2)
        begun = [take(executions, worker).job_id for worker in ("a", "b", "c")]
        assert begun == [waiting[0].id, other.id, free.id]

    def test_a_group_with_a_limit_lets_so_many_run(
        self, executions: Executions, queue: Any
    ) -> None:
        three = [grouped(queue, "shop", limit=2) for _ in range(3)]
        first, second = take(executions, "a"), take(executions, "b")
        assert nothing_for(executions, "c")
        end(executions, second)
        assert take(executions, "c").job_id == three[2].id
        assert first.job_id == three[0].id

    def test_a_retry_keeps_its_groups_turn(self, executions: Executions, queue: Any) -> None:
        first = grouped(queue, "shop", retry=Retry(max=1, interval=60))
        second = grouped(queue, "shop")
        fail(executions, take(executions, "a"))
        assert first.get_status() == "scheduled"
        assert nothing_for(executions, "b")
        executions.scan(NOON + timedelta(seconds=61))
        again = take(executions, "b")
        assert again.job_id == first.id
        fail(executions, again)
        assert take(executions, "b").job_id == second.id

    def test_a_dead_workers_group_goes_on_with_the_same_job(
        self, executions: Executions, queue: Any
    ) -> None:
        first, second = grouped(queue, "shop"), grouped(queue, "shop")
        take(executions, "a")
        assert nothing_for(executions, "b")
        watch(Reaper(executions, 3), SILENCE)
        executions.register("b", NOON)
        again = take(executions, "b")
        assert again.job_id == first.id
        end(executions, again)
        assert take(executions, "b").job_id == second.id

    def test_a_job_that_was_deleted_gives_its_turn_away(
        self, executions: Executions, queue: Any
    ) -> None:
        first, second = grouped(queue, "shop"), grouped(queue, "shop")
        held = take(executions, "a")
        assert nothing_for(executions, "b")
        first.delete()
        executions.scan(NOON)
        assert take(executions, "b").job_id == second.id
        end(executions, held)

    def test_a_waiting_job_that_was_canceled_is_passed_over(
        self, executions: Executions, queue: Any
    ) -> None:
        _, second, third = (grouped(queue, "shop") for _ in range(3))
        running = take(executions, "a")
        assert nothing_for(executions, "b")
        second.cancel()
        end(executions, running)
        assert take(executions, "b").job_id == third.id

    def test_nothing_is_left_of_a_group_that_is_done(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        for _ in range(2):
            grouped(queue, "shop")
        running = take(executions, "a")
        assert nothing_for(executions, "b")
        end(executions, running)
        end(executions, take(executions, "b"))
        names = {key.decode() for key in connection.keys("rq-clock:*")}
        assert names == {"rq-clock:default:workers"}

    def test_a_meta_that_only_mentions_groups_makes_none(
        self, executions: Executions, queue: Any
    ) -> None:
        for _ in range(2):
            queue.enqueue(jobs.add, 1, 2, meta={"rq_clock": {"schedule": "group-report"}})
        assert take(executions, "a").job_id != take(executions, "b").job_id

    def test_a_job_keeps_what_its_meta_says(
        self, executions: Executions, connection: Any, queue: Any
    ) -> None:
        job = grouped(queue, "shop")
        take(executions, "a")
        meta = Job.fetch(job.id, connection=connection).meta
        assert meta == {"rq_clock": {"group": "shop"}}
