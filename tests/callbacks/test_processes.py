"""Tasks end to end, on real processes: a clock, workers and a receiver."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.callbacks.lab import Lab
from tests.helpers import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, appendonly="no") as lab:
        lab.callbacks.configure({"mode": "off"})
        yield lab


def test_clock_and_worker_call_a_task_at_its_time(lab: Lab) -> None:
    due = lab.callbacks.status().now + timedelta(seconds=2)
    [later] = lab.add(1, "/10", execute_at=due)
    [now] = lab.add(1, "/10")
    lab.wait_for(2)
    first, second = lab.receiver.calls()
    assert [first.id, second.id] == [now, later]
    assert second.at >= due.timestamp()
    [ended, _] = lab.dynos[0].events("task.ended")
    assert (ended.fields["id"], ended.fields["status"]) == (now, "done")


def test_nothing_due_costs_no_job_no_entry_and_no_command(lab: Lab) -> None:
    lab.add(1, "/10")
    lab.wait_for(1)
    lab.add(1, "/10", execute_at=lab.callbacks.status().now + timedelta(days=1))
    wait_until(lambda: not lab.redis.keys("rq:job:*"), "the end of the job")
    wait_until(lambda: lab.callbacks.status().dispatchers == 0, "no dispatcher")
    lab.clock.wait_for("dispatcher.enqueued")
    sent: list[str] = []
    with lab.redis.monitor() as monitor:
        quiet = 0
        while quiet < 3:  # renewals in a row without a word about tasks
            command = monitor.next_command()["command"]
            sent.append(command)
            if "task-" in command:
                quiet = 0
                assert len(sent) < 2000
            elif command.startswith("PEXPIRE rq-clock:default:lease"):
                quiet += 1
    assert not lab.redis.keys("rq:job:*")
    assert lab.redis.llen("rq:queue:callbacks") == 0
    assert not lab.redis.keys("rq-clock:default:ledger:*")
    assert len(lab.clock.events("dispatcher.enqueued")) == 1


def test_a_worker_that_has_to_end_waits_for_its_calls_and_hands_over(lab: Lab) -> None:
    other = lab.start_worker()
    other.wait_for("worker.serving")
    ids = lab.add(20, "/2000")
    lab.receiver.wait_for(20)
    [job] = lab.redis.keys("rq:job:*")
    name = lab.redis.hget(job, "worker_name").decode()
    busy = next(dyno for dyno in (lab.dynos[0], other) if dyno.name == name)
    busy.signal_all(signal.SIGTERM)
    more = lab.add(20, "/10")
    lab.wait_for(40)
    busy.ended()
    calls = lab.receiver.calls()
    assert sorted(call.id for call in calls) == sorted(ids + more)
    assert {call.attempt for call in calls} == {1}


def test_hostile_receivers_harm_only_their_own_tasks(lab: Lab) -> None:
    """One hangs, one hangs up, one answers 50 MB and one as much as gzip; one in ten fails once."""
    lab.callbacks.configure({"httpCallbackTimeoutMs": 5000, "retryDelays": [0], "maxRetries": 2})
    kinds = {"/never": "timeout", "/drop": "connection", "/big": "ok", "/bomb": "ok"}
    hostile = {path: lab.add(5, path) for path in kinds}
    good = lab.add(200, "/10/10")
    lab.wait_for(210)
    wait_until(lambda: lab.callbacks.status().stale == 10, "two kinds are stale")
    for path, result in kinds.items():
        for task in map(lab.callbacks.get, hostile[path]):
            attempts = 1 if result == "ok" else 3
            assert [one.result for one in task.attempts] == [result] * attempts
            assert len(task.attempts[0].answer) <= 2048
    calls = lab.receiver.calls()
    tries = {id: [call for call in calls if call.id == id] for id in good}
    for some in tries.values():
        assert [call.status for call in some] in ([200], [500, 200])
        assert [call.attempt for call in some] == list(range(1, len(some) + 1))
    assert 5 <= sum(len(some) == 2 for some in tries.values()) <= 50
