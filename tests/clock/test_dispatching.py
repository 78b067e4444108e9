"""The leader enqueues a dispatcher when a task is due and nobody calls; else it sends nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.clock.dispatching import _LONG_AGO, LONGEST_PAUSE, LOOK_SECONDS, Dispatching
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from tests.helpers import round_trips

URL = "https://93.184.216.34/jobs"


@pytest.fixture
def callbacks(connection: Redis, redis_url: str) -> Callbacks:
    return Callbacks(connection, settings=Settings.from_env({"REDIS_URL": redis_url}))


@pytest.fixture
def dispatching(store: Store) -> Dispatching:
    return Dispatching(store)


def queued(connection: Redis) -> int:
    client: Any = connection
    return int(client.llen("rq:queue:callbacks"))


def test_without_a_task_it_looks_once_and_enqueues_nothing(
    dispatching: Dispatching, connection: Redis
) -> None:
    dispatching.look()  # loads its script
    with round_trips() as sent:
        assert dispatching.look() == float("inf")
    assert len(sent) == 1
    assert queued(connection) == 0


def test_a_task_that_is_due_later_costs_nothing_until_then(
    dispatching: Dispatching, callbacks: Callbacks, store: Store, connection: Redis
) -> None:
    callbacks.enqueue(NewTask(url=URL, execute_at=store.now() + timedelta(minutes=10)))
    assert 590 < dispatching.look() <= 600
    callbacks.enqueue(NewTask(url=URL, execute_at=store.now() + timedelta(seconds=90)))
    assert 80 < dispatching.look() <= 90
    assert queued(connection) == 0


def test_a_task_of_next_year_is_looked_for_each_hour(
    dispatching: Dispatching, callbacks: Callbacks, store: Store
) -> None:
    callbacks.enqueue(NewTask(url=URL, execute_at=store.now() + timedelta(days=300)))
    assert dispatching.look() == LONGEST_PAUSE


def test_a_task_that_is_due_has_one_job(
    dispatching: Dispatching, callbacks: Callbacks, connection: Redis
) -> None:
    callbacks.enqueue(NewTask(url=URL))
    for _ in range(3):
        assert dispatching.look() == LOOK_SECONDS
    assert queued(connection) == 1


def test_a_living_dispatcher_has_no_other_beside_it(
    dispatching: Dispatching, callbacks: Callbacks, store: Store, connection: Redis
) -> None:
    callbacks.enqueue(NewTask(url=URL))
    one = Dispatch(store, "one")
    assert one.enter()
    assert dispatching.look() == LOOK_SECONDS
    assert queued(connection) == 0
    one.leave()
    dispatching.look()
    assert queued(connection) == 1


def test_a_backlog_has_one_dispatcher_more_at_each_look_up_to_their_number(
    dispatching: Dispatching, callbacks: Callbacks, store: Store, connection: Redis
) -> None:
    callbacks.configure({"dispatchers": 3})
    callbacks.enqueue(NewTask(url=URL))
    for number in range(3):
        dispatching.look()
        assert queued(connection) == 1
        connection.delete("rq:queue:callbacks")
        assert Dispatch(store, f"d{number}").enter()
    dispatching.look()
    assert queued(connection) == 0


def test_jobs_that_fail_at_once_come_later_and_later(
    dispatching: Dispatching, callbacks: Callbacks, connection: Redis
) -> None:
    callbacks.enqueue(NewTask(url=URL))
    dispatching.look()
    connection.delete("rq:queue:callbacks")  # it has failed
    assert 0 < dispatching.look() <= LOOK_SECONDS
    assert queued(connection) == 0
    dispatching._not_before = _LONG_AGO  # some seconds later
    dispatching.look()
    connection.delete("rq:queue:callbacks")
    assert LOOK_SECONDS < dispatching.look() <= 2 * LOOK_SECONDS


def test_jobs_that_call_have_the_next_one_at_once(
    dispatching: Dispatching, callbacks: Callbacks, store: Store, connection: Redis
) -> None:
    callbacks.configure({"mode": "off"})
    for _ in range(2):
        callbacks.enqueue(NewTask(url=URL))
    dispatching.look()
    connection.delete("rq:queue:callbacks")
    one = Dispatch(store, "one")
    assert one.enter()
    [task] = one.claim(1).tasks
    one.finish([CallResult(id=task.id, attempt=1, result="ok", seconds=0.1)])
    one.leave()
    dispatching.look()
    assert queued(connection) == 1


def test_a_throttle_that_is_closed_has_no_job_until_it_opens(
    dispatching: Dispatching, callbacks: Callbacks, store: Store, connection: Redis
) -> None:
    callbacks.configure({"baseIntervalMs": 600_000, "selectSize": 1})
    for _ in range(2):
        callbacks.enqueue(NewTask(url=URL))
    one = Dispatch(store, "one")
    assert one.enter()
    one.give_back(one.claim(10).tasks)
    one.leave()
    assert 590 < dispatching.look() <= 600
    assert queued(connection) == 0


def test_the_alerts_get_the_status_while_there_is_something_to_see(
    dispatching: Dispatching, callbacks: Callbacks
) -> None:
    dispatching.look()
    assert dispatching.take_status() is None
    callbacks.enqueue(NewTask(url=URL))
    dispatching.look()
    status = dispatching.take_status()
    assert status
    assert status.due == 1
    assert dispatching.take_status() is None
