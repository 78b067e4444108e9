"""What failures leave in Redis: the newest failed jobs of each schedule, and nothing of the others.
A real server; workers are names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry

from rq_clock.jobs import outcomes
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.outcomes import Execution
from rq_clock.jobs.reaper import SILENCE, Reaper
from rq_clock.schedules.service import Schedules
from rq_clock.timing.triggers import every
from tests.jobs.endings import Ending, fails, ok, stopped
from tests.worker import jobs

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
YEAR = 365 * 24 * 60 * 60
FAILED = "rq-clock:default:failed:"


class Farm:
    """Schedules, run by hand, and a worker that is a name."""

    def __init__(self, redis: Any, schedules: Schedules, limit: int) -> None:
        self.redis = redis
        self.schedules = schedules
        self.executions = Executions(redis, "default", failed_jobs=limit)
        self.executions.register("a", NOON)

    def add(self, name: str, **options: Any) -> None:
        self.schedules.add(name, every(hours=1), "tests.worker.jobs.fail", **options)

    def take(self) -> Execution:
        execution = self.executions.take("a", ["default", "other"], NOON)
        assert execution
        return execution

    def run(self, name: str, ending: Ending = fails) -> str:
        """Run a schedule once, to this end. Return the job's id."""
        job_id = self.schedules.trigger(name)
        self.end(ending)
        return job_id

    def end(self, ending: Ending = fails) -> None:
        """Take the next job and end it."""
        execution = self.take()
        self.redis.set(f"rq-clock:default:output:{execution.job_id}", "x" * 1000)
        self.executions.close(execution, ending(execution, NOON))

    def failed(self, queue: str = "default") -> list[str]:
        registry = FailedJobRegistry(queue, connection=self.redis)
        return list(registry.get_job_ids(cleanup=False))

    def traces(self, job_id: str) -> list[str]:
        """The keys that have the id of a job in their name."""
        return sorted(key.decode() for key in self.redis.keys(f"*{job_id}*"))

    def bytes(self) -> int:
        """The memory that RQ's keys take."""
        return sum(self.redis.memory_usage(key, samples=0) for key in self.redis.keys("rq:*"))


@pytest.fixture
def farm(connection: Any, schedules: Schedules) -> Farm:
    return Farm(connection, schedules, 5)


def test_two_hundred_failures_of_a_schedule_leave_the_newest_and_no_more_bytes(farm: Farm) -> None:
    farm.add("s")
    first = [farm.run("s") for _ in range(5)]
    assert sorted(farm.failed()) == sorted(first)
    before = farm.bytes()
    ids = [farm.run("s") for _ in range(200)]
    assert sorted(farm.failed()) == sorted(ids[-5:])
    for kind in ("rq:job:*", "rq:results:*", "rq-clock:default:output:*"):
        assert len(farm.redis.keys(kind)) == 5
    assert farm.bytes() < before * 1.1
    assert farm.traces(ids[-6]) == []
    assert farm.redis.llen("rq-clock:default:ledger:s") == 100


def test_the_default_limit_is_twenty(connection: Any, schedules: Schedules) -> None:
    farm = Farm(connection, schedules, 20)
    farm.executions = Executions(connection, "default")
    farm.add("s")
    for _ in range(25):
        farm.run("s")
    assert len(farm.failed()) == 20


def test_each_schedule_has_its_own_limit(farm: Farm) -> None:
    farm.add("s")
    farm.add("neighbour")
    kept = farm.run("neighbour")
    for _ in range(8):
        farm.run("s")
    assert kept in farm.failed()
    assert len(farm.failed()) == 6


def test_a_failure_ttl_of_the_schedule_is_the_only_limit(farm: Farm) -> None:
    farm.add("s", failure_ttl=3600)
    ids = [farm.run("s") for _ in range(8)]
    assert sorted(farm.failed()) == sorted(ids)
    assert 0 < farm.redis.ttl(f"rq:job:{ids[0]}") <= 3600
    assert not farm.redis.exists(f"{FAILED}s")


def test_jobs_of_no_schedule_are_kept_as_rq_keeps_them(farm: Farm, queue: Queue) -> None:
    for _ in range(8):
        queue.enqueue(jobs.add, 1, 2)
        farm.end()
    assert len(farm.failed()) == 8


def test_a_requeued_job_is_not_deleted_and_counts_again_when_it_fails(farm: Farm) -> None:
    farm.add("s")
    revived = farm.run("s")
    job = Job.fetch(revived, connection=farm.redis)
    for _ in range(4):
        farm.run("s")
    job.requeue()
    execution = farm.take()
    assert execution.job_id == revived
    farm.executions.register("b", NOON)
    other = Farm(farm.redis, farm.schedules, 5)
    for _ in range(5):
        farm.schedules.trigger("s", force=True)
        taken = other.executions.take("b", ["default"], NOON)
        assert taken
        other.executions.close(taken, fails(taken, NOON))
    assert job.get_status() == JobStatus.STARTED
    farm.executions.close(execution, fails(execution, NOON))
    assert revived in farm.failed()
    assert len(farm.failed()) == 5
    assert farm.redis.lrange(f"{FAILED}s", -1, -1) == [revived.encode()]


def test_a_job_that_fails_a_second_time_is_the_newest(farm: Farm) -> None:
    farm.add("s")
    revived = farm.run("s")
    farm.run("s")
    Job.fetch(revived, connection=farm.redis).requeue()
    farm.end()
    for _ in range(4):
        farm.run("s")
    assert revived in farm.failed()
    assert len(farm.failed()) == 5


def test_a_requeued_job_that_succeeds_keeps_its_result(farm: Farm) -> None:
    farm.add("s")
    revived = farm.run("s")
    Job.fetch(revived, connection=farm.redis).requeue()
    farm.end(ok)
    for _ in range(8):
        farm.run("s")
    assert Job.fetch(revived, connection=farm.redis).get_status() == JobStatus.FINISHED


def test_a_job_that_a_deferred_job_waits_for_stays(farm: Farm, queue: Queue) -> None:
    farm.add("s")
    awaited = farm.schedules.trigger("s")
    child = queue.enqueue(jobs.add, 1, 2, depends_on=awaited)
    farm.end()
    assert child.get_status() == JobStatus.DEFERRED
    for _ in range(8):
        farm.run("s")
    assert awaited in farm.failed()
    assert farm.redis.exists(f"rq:results:{awaited}")


def test_a_job_whose_dependents_are_gone_is_deleted_with_its_set_of_them(
    farm: Farm, queue: Queue
) -> None:
    farm.add("s")
    awaited = farm.schedules.trigger("s")
    queue.enqueue(jobs.add, 1, 2, depends_on=awaited).delete()
    farm.end()
    farm.redis.sadd(f"rq:job:{awaited}:dependents", "gone")
    farm.redis.sadd(f"rq:job::{awaited}:dependencies", "gone")
    for _ in range(5):
        farm.run("s")
    assert farm.traces(awaited) == []


def test_results_that_rq_leaves_of_a_deleted_job_go_too(farm: Farm) -> None:
    farm.add("s")
    deleted = farm.run("s")
    Job.fetch(deleted, connection=farm.redis).delete()
    assert farm.traces(deleted) != []
    for _ in range(5):
        farm.run("s")
    assert farm.traces(deleted) == []


def test_stopped_and_lost_runs_count_and_retries_do_not(farm: Farm) -> None:
    farm.add("s", retries=1)
    job_id = farm.run("s")
    assert farm.redis.lrange(f"{FAILED}s", 0, -1) == []
    farm.end()
    farm.schedules.trigger("s")
    farm.end(stopped)
    farm.schedules.trigger("s")
    farm.take()
    reaper = Reaper(farm.executions, max_deaths=1)
    for moment in range(0, int(SILENCE) + 1, 2):
        reaper.look(float(moment), NOON)
    farm.executions.register("a", NOON)
    farm.end()  # its retry
    kept = farm.redis.lrange(f"{FAILED}s", 0, -1)
    assert (len(kept), kept[0]) == (3, job_id.encode())


def test_a_job_that_failed_in_another_queue_leaves_that_registry(farm: Farm) -> None:
    farm.add("s", queue="other")
    farm.run("s")
    farm.schedules.update("s", queue="default")
    for _ in range(5):
        farm.run("s")
    assert farm.failed("other") == []


def test_a_lower_limit_deletes_a_portion_with_each_failure(farm: Farm) -> None:
    farm.executions = Executions(farm.redis, "default", failed_jobs=250)
    farm.executions.register("a", NOON)
    farm.add("s")
    for _ in range(150):
        farm.run("s")
    farm.executions = Executions(farm.redis, "default", failed_jobs=10)
    farm.run("s")
    assert len(farm.failed()) == 51
    farm.run("s")
    assert len(farm.failed()) == 10


def test_the_list_ends_with_its_schedule(farm: Farm) -> None:
    farm.add("s")
    farm.run("s")
    assert YEAR - 60 < farm.redis.ttl(f"{FAILED}s") <= YEAR
    farm.schedules.remove("s")
    assert 0 < farm.redis.ttl(f"{FAILED}s") < YEAR / 10


def test_a_run_of_a_removed_schedule_is_left_to_rq(farm: Farm) -> None:
    farm.add("s")
    job_id = farm.schedules.trigger("s")
    farm.schedules.remove("s")
    farm.end()
    assert farm.failed() == [job_id]
    assert not farm.redis.exists(f"{FAILED}s")


def test_keys_of_another_type_prevent_no_end(farm: Farm) -> None:
    farm.add("s")
    farm.redis.set(f"{FAILED}s", "x")
    for _ in range(6):
        farm.run("s")
    assert len(farm.failed()) == 6


def test_every_key_that_a_failed_job_leaves_expires(farm: Farm) -> None:
    farm.add("s", retries=1)
    job_id = farm.run("s")
    farm.end()
    keys = [key for key in farm.traces(job_id) if key.startswith("rq:")]
    assert keys == [f"rq:job:{job_id}", f"rq:results:{job_id}"]
    assert all(0 < farm.redis.ttl(key) <= YEAR for key in keys)


def test_a_job_that_keeps_no_result_leaves_none_of_an_earlier_failure(farm: Farm) -> None:
    farm.add("s", result_ttl=0)
    job_id = farm.run("s")
    Job.fetch(job_id, connection=farm.redis).requeue()
    farm.end(lambda execution, now: outcomes.succeeded(execution, now, None))
    assert [key for key in farm.traces(job_id) if key.startswith("rq:")] == []
