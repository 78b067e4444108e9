"""Claims of tasks on a real server: order, throttle, limits of hosts, and dispatchers that die.

Time is the server's. A claim is made to run out by the score that it has in Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from rq_clock.callbacks import Callbacks, NewTask, Task, TaskFilter
from rq_clock.store.store import Store
from rq_clock.store.task_claims import (
    PLACE_MS,
    CallResult,
    ClaimedTask,
    Dispatch,
    FinishedTask,
    places,
)
from rq_clock.timing.instants import to_ms
from tests.helpers import replies_lost, wait_until

Add = Callable[..., Task]
PAST = datetime(2020, 1, 1, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def result(task: ClaimedTask, result: str = "ok", **more: Any) -> CallResult:
    return CallResult(id=task.id, attempt=task.attempt, result=result, seconds=0.1, **more)


def finish(claims: Dispatch, *tasks: ClaimedTask, as_: str = "ok") -> list[FinishedTask]:
    return claims.finish([result(task, as_) for task in tasks])


def ids(tasks: Sequence[Task | ClaimedTask]) -> list[str]:
    return [task.id for task in tasks]


def run_out(connection: Any) -> None:
    """Let all claims run out."""
    for member in connection.zrange("rq-clock:default:task-claims", 0, -1):
        connection.zadd("rq-clock:default:task-claims", {member: 1})


# ---- order -------------------------------------------------------------------------------------


def test_tasks_are_called_in_order_of_their_instants_then_of_their_creation(
    add: Add, claims: Dispatch
) -> None:
    now = add().created_at
    first = add(execute_at=now + timedelta(milliseconds=1))
    added = [add(f"http://127.0.0.{n}/x") for n in (2, 1, 2, 3)]
    later = add(execute_at=now + HOUR)
    wait_until(lambda: places_now(claims) > first.due_at, "its instant")
    claimed = claims.claim(10).tasks
    expected = sorted([first, *added], key=lambda task: (task.due_at, task.id))
    assert ids(claimed)[1:] == ids(expected)
    assert later.id not in ids(claimed)


def places_now(claims: Dispatch) -> datetime:
    return places(claims._store).now


def test_one_instant_for_many_hosts_is_first_in_first_out(
    service: Callbacks, claims: Dispatch
) -> None:
    new = [NewTask(url=f"http://127.0.0.{n % 7 + 1}/x", execute_at=PAST) for n in range(300)]
    added = [task for task, _ in service.enqueue_many(new)]
    claimed: list[ClaimedTask] = []
    while some := claims.claim(70).tasks:
        claimed += some
    assert ids(claimed) == ids(added)


def test_priority_comes_first_and_then_what_never_failed(
    add: Add, service: Callbacks, claims: Dispatch
) -> None:
    service.configure({"retryDelays": [0]})
    order = ("low", "normal", "high")
    failed = {priority: add(priority=priority) for priority in order}
    finish(claims, *claims.claim(3).tasks, as_="timeout")
    new = {priority: add(priority=priority) for priority in order}
    expected = [task[p] for p in ("high", "normal", "low") for task in (new, failed)]
    assert ids(claims.claim(10).tasks) == ids(expected)


def test_a_task_is_never_called_before_its_instant(add: Add, claims: Dispatch) -> None:
    at = places_now(claims) + HOUR
    add(execute_at=at)
    claim = claims.claim(5)
    assert claim.tasks == ()
    assert claim.next_at == at


def test_a_claim_has_all_that_a_call_needs(add: Add, claims: Dispatch) -> None:
    task = add(payload={"a": 1}, headers={"X-A": "b"}, timeout=1.5, auth="x y", method="PATCH")
    claim = claims.claim(1)
    [claimed] = claim.tasks
    assert (claimed.id, claimed.attempt, claimed.url, claimed.method) == (
        task.id,
        1,
        "http://127.0.0.1/jobs",
        "PATCH",
    )
    assert (claimed.payload, claimed.headers, claimed.timeout) == ({"a": 1}, {"X-A": "b"}, 1.5)
    assert claimed.auth[:1] == b"e"
    assert claim.next_at == claim.now  # there may be more


def test_nothing_due_is_nothing_to_do(claims: Dispatch, store: Store) -> None:
    assert claims.claim(5).next_at is None
    assert places(store).next_due is None


# ---- the throttle ------------------------------------------------------------------------------


def test_after_answers_the_next_batch_begins_an_interval_after_the_last_answer(
    service: Callbacks, claims: Dispatch
) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 7)
    service.configure({"mode": "after_answers", "selectSize": 3, "baseIntervalMs": 60_000})
    first = claims.claim(10)
    assert len(first.tasks) == 3
    finish(claims, *first.tasks[:2])
    blocked = claims.claim(10)
    assert blocked.tasks == ()
    claims.finish([result(first.tasks[2], ago=30.0)])
    waits = claims.claim(10)
    assert waits.tasks == ()
    assert waits.next_at
    left = (waits.next_at - waits.now).total_seconds()
    assert 20 < left <= 60  # of the last of the answers, which came first
    service.configure({"baseIntervalMs": 1})
    claimed = wait_until(lambda: claims.claim(10).tasks, "the next batch")
    assert len(claimed) == 3


def test_a_batch_goes_on_while_slots_are_free_and_no_further(
    service: Callbacks, claims: Dispatch
) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 9)
    service.configure({"mode": "after_answers", "selectSize": 5, "baseIntervalMs": 60_000})
    assert len(claims.claim(2).tasks) == 2
    assert len(claims.claim(2).tasks) == 2
    last = claims.claim(2)
    assert len(last.tasks) == 1
    assert claims.claim(2).tasks == ()


def test_a_batch_of_a_dead_dispatcher_ends_with_the_timeout_of_its_calls(
    service: Callbacks, claims: Dispatch
) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x", timeout=0.01)] * 4)
    service.configure({"mode": "after_answers", "selectSize": 2, "baseIntervalMs": 1})
    dead = claims.claim(10)
    waits = claims.claim(10)
    assert (len(dead.tasks), waits.tasks) == (2, ())
    assert waits.next_at
    assert waits.next_at < waits.now + 10 * SECOND  # the claims themselves run out later
    assert len(wait_until(lambda: claims.claim(10).tasks, "the next batch")) == 2


def test_a_steady_rate_is_kept_and_nothing_is_saved_up(
    service: Callbacks, claims: Dispatch
) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 1000)
    service.configure({"mode": "steady", "selectSize": 100, "baseIntervalMs": 1000})
    began = service.status().now
    last = claims.claim(1000)
    claimed = len(last.tasks)
    assert claimed >= 50

    def a_hundred() -> bool:
        nonlocal claimed, last
        last = claims.claim(1000)
        claimed += len(last.tasks)
        return claimed >= 100

    wait_until(a_hundred, "the next ones")
    seconds = (last.now - began).total_seconds()
    assert claimed <= 50 + 100 * seconds + 1


def test_a_slower_rate_than_before_holds_nothing_up_for_long(
    service: Callbacks, claims: Dispatch
) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 4)
    service.configure({"mode": "steady", "selectSize": 1, "baseIntervalMs": 3_600_000})
    assert len(claims.claim(10).tasks) == 1
    waits = claims.claim(10)
    assert waits.next_at
    assert waits.next_at > waits.now + HOUR - 60 * SECOND
    service.configure({"baseIntervalMs": 1})
    assert wait_until(lambda: claims.claim(10).tasks, "the new rate")


def test_off_limits_nothing(service: Callbacks, claims: Dispatch) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 1000)
    assert len(claims.claim(1000).tasks) == 1000


# ---- limits of hosts ---------------------------------------------------------------------------


def test_a_host_at_its_limit_starves_no_other(service: Callbacks, claims: Dispatch) -> None:
    slow = [NewTask(url="http://127.0.0.1/slow")] * 900
    quick = [NewTask(url="http://127.0.0.2/quick")] * 20
    service.enqueue_many(slow)
    service.enqueue_many(quick)
    service.configure({"hostConcurrency": 3})
    claimed: list[ClaimedTask] = []

    def both() -> bool:
        claimed.extend(claims.claim(20).tasks)
        return len(claimed) == 6

    wait_until(both, "three calls of each host")
    hosts = Counter(task.url for task in claimed)
    assert set(hosts.values()) == {3}
    status = service.status()
    assert (status.waiting, status.due) == (914, 914)
    assert status.oldest_due == min(t.due_at for t in service.list(TaskFilter()).tasks)


def test_the_tasks_of_a_limited_host_keep_their_order(service: Callbacks, claims: Dispatch) -> None:
    added = service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 30)
    service.configure({"hostConcurrency": 4})
    found: list[ClaimedTask] = []
    while some := claims.claim(100).tasks:
        assert len(some) <= 4
        found += some
        finish(claims, *some)
    assert ids(found) == [task.id for task, _ in added]


def test_a_host_has_its_rate(service: Callbacks, claims: Dispatch) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 100)
    service.configure({"hostRate": 40})
    first = claims.claim(100)
    assert len(first.tasks) == 10  # a quarter of a second's
    claimed, last = len(first.tasks), first

    def thirty() -> bool:
        nonlocal claimed, last
        last = claims.claim(100)
        claimed += len(last.tasks)
        return claimed >= 30

    wait_until(thirty, "the next ones")
    assert claimed <= 10 + 40 * (last.now - first.now).total_seconds() + 1


def test_a_limit_that_is_lifted_counts_at_once(service: Callbacks, claims: Dispatch) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 10)
    service.configure({"hostConcurrency": 1})
    assert len(claims.claim(10).tasks) == 1
    assert claims.claim(10).tasks == ()
    service.configure({"hostConcurrency": None})
    assert len(claims.claim(10).tasks) == 9


def test_tasks_of_a_limited_host_can_be_listed_canceled_and_deleted(
    service: Callbacks, claims: Dispatch
) -> None:
    added = service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 6)
    service.configure({"hostConcurrency": 1})
    [first] = claims.claim(10).tasks
    waiting = [task.id for task, _ in added][1:]
    assert ids(service.list(TaskFilter(status="waiting")).tasks) == waiting
    service.cancel(waiting[0])
    service.delete(waiting[1])
    service.retry(waiting[0])
    finish(claims, first)
    assert ids(claims.claim(10).tasks) == [waiting[2]]


# ---- results -----------------------------------------------------------------------------------


def test_a_success_ends_a_task(add: Add, service: Callbacks, claims: Dispatch) -> None:
    task = add()
    [claimed] = claims.claim(1).tasks
    done = CallResult(id=task.id, attempt=1, result="ok", seconds=0.25, status=204, answer="fine")
    assert claims.finish([done]) == [FinishedTask(task.id, "done")]
    [attempt] = service.get(task.id).attempts
    assert (attempt.attempt, attempt.result, attempt.status) == (1, "ok", 204)
    assert (attempt.seconds, attempt.answer, attempt.error) == (0.25, "fine", "")
    assert attempt.ended >= claimed.claimed_at


def test_retries_come_after_their_delays_and_then_it_is_stale(
    add: Add, service: Callbacks, claims: Dispatch, connection: Redis
) -> None:
    service.configure({"retryDelays": [100, 1000]})
    task = add(max_retries=3)
    for low, high in ((90, 110), (900, 1100), (900, 1100)):
        now = places_now(claims)
        [ended] = finish(claims, *claims.claim(1).tasks, as_="status")
        assert ended.status == "retrying"
        assert ended.next_call
        assert low <= (ended.next_call - now).total_seconds() <= high + 60
        score = {task.id.removeprefix("task_"): 1}
        connection.zadd("rq-clock:default:task-queue:4", score, xx=True)
    [ended] = finish(claims, *claims.claim(1).tasks, as_="status")
    assert ended.status == "stale"
    assert service.get(task.id).attempt == 4
    assert claims.claim(5).next_at is None


def test_gone_is_stale_at_once(add: Add, claims: Dispatch) -> None:
    add()
    [ended] = finish(claims, *claims.claim(1).tasks, as_="gone")
    assert ended.status == "stale"


def test_retry_after_is_heeded(add: Add, service: Callbacks, claims: Dispatch) -> None:
    service.configure({"retryDelays": [1]})
    for asks, low, high in ((120, 119, 240), (0, 0, 120)):
        add()
        [claimed] = claims.claim(1).tasks
        now = places_now(claims)
        [ended] = claims.finish([result(claimed, "status", retry_after=asks)])
        assert ended.next_call
        assert low <= (ended.next_call - now).total_seconds() <= high


def test_results_that_are_sent_twice_count_once(
    add: Add, service: Callbacks, claims: Dispatch
) -> None:
    for _ in range(3):
        add()
    done, failed, back = claims.claim(3).tasks
    for _ in range(2):
        finish(claims, failed, as_="status")
    with replies_lost(), pytest.raises(ConnectionError):
        finish(claims, done)
    assert finish(claims, done)[0].status == "done"
    claims.give_back([back])
    claims.give_back([back])
    status = service.status()
    assert (status.done, status.retrying, status.waiting, status.calling) == (1, 1, 1, 0)
    assert status.counters["called ok"] == status.counters["called status"] == 1
    assert len(service.get(failed.id).attempts) == 1


def test_what_was_not_sent_is_claimed_again_with_the_same_attempt(
    add: Add, service: Callbacks, claims: Dispatch
) -> None:
    first, second = add(), add()
    claimed = claims.claim(2).tasks
    claims.give_back(claimed)
    again = claims.claim(2).tasks
    assert ids(again) == [first.id, second.id]
    assert [task.attempt for task in again] == [1, 1]
    assert service.get(first.id).attempts == ()


# ---- dispatchers that die ----------------------------------------------------------------------


def test_a_claim_that_runs_out_goes_back_to_its_place(
    add: Add, service: Callbacks, claims: Dispatch, connection: Redis
) -> None:
    first = add()
    later = add()
    assert ids(claims.claim(1).tasks) == [first.id]
    run_out(connection)
    again = claims.claim(2).tasks
    assert ids(again) == [first.id, later.id]
    assert [(t.attempt, t.failures) for t in again] == [(2, 0), (1, 0)]
    [attempt] = service.get(first.id).attempts
    assert (attempt.result, attempt.attempt) == ("lost", 1)


def test_a_claim_runs_out_after_the_timeout_and_thirty_seconds(
    add: Add, claims: Dispatch, connection: Any
) -> None:
    add(timeout=7)
    claim = claims.claim(1)
    [(_, score)] = connection.zrange("rq-clock:default:task-claims", 0, -1, withscores=True)
    assert score == to_ms(claim.now) + 37_000


def test_a_task_that_lost_ten_workers_is_stale(
    add: Add, service: Callbacks, claims: Dispatch, connection: Redis
) -> None:
    task = add()
    for attempt in range(1, 11):
        [claimed] = claims.claim(1).tasks
        assert claimed.attempt == attempt
        run_out(connection)
    assert claims.claim(1).tasks == ()
    assert service.get(task.id).status == "stale"
    service.retry(task.id)
    assert claims.claim(1).tasks[0].attempt == 11


def test_a_late_success_counts_unless_another_attempt_runs(
    add: Add, service: Callbacks, claims: Dispatch, connection: Redis
) -> None:
    task = add()
    [first] = claims.claim(1).tasks
    run_out(connection)
    [second] = claims.claim(1).tasks
    assert finish(claims, first)[0].status == "late"
    assert service.get(task.id).status == "calling"
    run_out(connection)
    claims.claim(0)
    assert service.get(task.id).status == "waiting"
    assert finish(claims, second, as_="timeout")[0].status == "late"
    assert finish(claims, second)[0].status == "done"
    assert claims.claim(5).tasks == ()


def test_another_dispatcher_cannot_end_a_call(add: Add, claims: Dispatch, store: Store) -> None:
    add()
    [claimed] = claims.claim(1).tasks
    assert finish(Dispatch(store, "two"), claimed)[0].status == "late"
    assert finish(claims, claimed)[0].status == "done"


def test_a_result_of_a_task_that_was_deleted_is_missing(
    claims: Dispatch, add: Add, connection: Redis
) -> None:
    add()
    [claimed] = claims.claim(1).tasks
    connection.delete("rq-clock:default:tasks")
    assert finish(claims, claimed)[0].status == "missing"
    run_out(connection)
    assert claims.claim(1).tasks == ()
    assert connection.zcard("rq-clock:default:task-claims") == 0


def test_there_are_as_many_dispatchers_as_there_may_be(
    service: Callbacks, claims: Dispatch, store: Store, connection: Redis
) -> None:
    second = Dispatch(store, "two")
    assert claims.enter()
    assert not second.enter()
    assert not second.beat()
    assert second.claim(5).lost
    service.configure({"dispatchers": 2})
    assert second.enter()
    assert places(store).alive == places(store).limit == 2
    claims.leave()
    assert claims.claim(5).lost
    connection.zadd("rq-clock:default:task-dispatchers", {"two": 1})
    third = Dispatch(store, "three")
    assert third.enter()
    assert second.claim(5).lost


def test_claims_and_results_keep_the_place(add: Add, claims: Dispatch, connection: Any) -> None:
    add()
    members = "rq-clock:default:task-dispatchers"
    connection.zadd(members, {"one": 2**42})
    claim = claims.claim(1)
    assert connection.zscore(members, "one") == to_ms(claim.now) + PLACE_MS
    connection.zadd(members, {"one": 2**42})
    finish(claims, *claim.tasks)
    assert connection.zscore(members, "one") < 2**42


def test_when_something_is_due_is_known_without_a_dispatcher(
    add: Add, claims: Dispatch, store: Store, connection: Redis
) -> None:
    task = add(execute_at=places_now(claims) + HOUR)
    assert places(store).next_due == task.due_at
    soon = add()
    assert places(store).next_due == soon.due_at
    claims.claim(1)
    claims.leave()
    due = places(store)
    assert due.alive == 0
    assert due.next_due  # when the claim runs out
    assert due.now < due.next_due < due.now + 60 * SECOND


# ---- what is kept ------------------------------------------------------------------------------


def test_done_and_canceled_tasks_are_kept_by_count_and_age_and_stale_ones_by_age(
    add: Add, service: Callbacks, claims: Dispatch, connection: Any
) -> None:
    service.configure({"keepDone": 3, "maxRetries": 0})
    for result_ in ("ok", "status"):
        for _ in range(6):
            add()
        finish(claims, *claims.claim(6).tasks, as_=result_)
    for task in [add() for _ in range(5)]:
        service.cancel(task.id)
    claims.claim(1)
    status = service.status()
    assert (status.done, status.canceled, status.stale) == (3, 3, 6)
    assert connection.hlen("rq-clock:default:tasks") == 12
    for shelf in ("done", "canceled", "stale"):
        key = f"rq-clock:default:task-{shelf}"
        connection.zadd(key, dict.fromkeys(connection.zrange(key, 0, 1), 1))
    claims.claim(1)
    status = service.status()
    assert (status.done, status.canceled, status.stale) == (1, 1, 4)
    assert connection.hlen("rq-clock:default:tasks") == 6
    assert len(connection.keys("rq-clock:default:task-attempts:*")) == 5


def test_fifty_attempts_of_a_task_are_kept(add: Add, service: Callbacks, claims: Dispatch) -> None:
    service.configure({"retryDelays": [0], "maxRetries": 100})
    task = add()
    for _ in range(60):
        finish(claims, *claims.claim(1).tasks, as_="connection")
    assert [a.attempt for a in service.get(task.id).attempts] == list(range(11, 61))
