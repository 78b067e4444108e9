"""Callbacks on a real server: added, listed, changed, configured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from rq_clock import callbacks as public
from rq_clock.callbacks import Callbacks, NewTask, Task, TaskFilter
from rq_clock.callbacks import service as service_module
from rq_clock.errors import Conflict, ConflictKind, ScheduleError, StoreUnavailable
from rq_clock.model.callbacks import Configuration
from rq_clock.settings import Settings
from rq_clock.store import tasks as tasks_module
from rq_clock.store.audit import Actor, Audit, Repeated, RequestKey
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from rq_clock.store.tasks import BulkTasksResult, Tasks
from rq_clock.timing.instants import to_ms
from tests.helpers import replies_lost, wait_until

Add = Callable[..., Task]
HOUR = timedelta(hours=1)
SECRET = "Bearer open-sesame-0123456789"


def fail(claims: Dispatch, result: str = "status", **more: Any) -> str:
    """Claim a task and have its call fail. Return its status."""
    [task] = claims.claim(1).tasks
    failed = CallResult(id=task.id, attempt=task.attempt, result=result, seconds=0.1, **more)
    return claims.finish([failed])[0].status


# ---- adding ------------------------------------------------------------------------------------


def test_a_task_is_kept_with_all_that_it_was_added_with(service: Callbacks) -> None:
    at = service.status().now.replace(microsecond=0) + HOUR
    task, created = service.enqueue(
        NewTask(
            url="https://127.0.0.1:8443/jobs?a=1",
            auth=SECRET,
            execute_at=at,
            method="PUT",
            headers={"X-Trace": "7"},
            payload={"a": [1, "ä"]},
            dedup_key="job 7",
            priority="high",
            max_retries=3,
            timeout=2.5,
            tags=("billing", "eu"),
        )
    )
    assert created
    assert service.get(task.id) == task
    assert (task.status, task.execute_at, task.due_at) == ("waiting", at, at)
    assert (task.url, task.host) == ("https://127.0.0.1:8443/jobs?a=1", "127.0.0.1:8443")
    assert (task.method, task.headers, task.payload) == ("PUT", {"X-Trace": "7"}, {"a": [1, "ä"]})
    assert (task.priority, task.max_retries, task.timeout) == ("high", 3, 2.5)
    assert (task.tags, task.dedup_key) == (("billing", "eu"), "job 7")
    assert (task.auth_set, task.auth_env, task.attempts) == (True, "", ())


def test_enqueue_reads_the_environment(
    connection: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "127.0.0.1")
    monkeypatch.setattr(service_module._callbacks, "made", Callbacks(), raising=False)
    task = public.enqueue("http://127.0.0.1/jobs", timeout=timedelta(seconds=3), tags=["a"])
    assert (task.timeout, task.tags, task.status) == (3.0, ("a",), "waiting")


def test_a_task_of_no_instant_or_of_the_past_is_due_when_it_is_created(add: Add) -> None:
    now, past = add(), add(execute_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert now.due_at == now.execute_at == now.created_at
    assert past.due_at == past.created_at
    assert past.execute_at == datetime(2020, 1, 1, tzinfo=UTC)


def test_a_url_without_a_scheme_is_one_of_https(add: Add) -> None:
    assert add("127.0.0.1/jobs/7").url == "https://127.0.0.1/jobs/7"


def test_ids_sort_by_creation(service: Callbacks) -> None:
    added = service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 200)
    ids = [task.id for task, _ in added]
    assert ids == sorted(set(ids))


def test_of_many_tasks_one_fault_adds_none(service: Callbacks) -> None:
    good, bad = NewTask(url="http://127.0.0.1/x"), NewTask(url="http://127.0.0.1/x", method="EAT")
    with pytest.raises(ScheduleError) as refused:
        service.enqueue_many([good, bad, replace(bad, priority="top")])
    fields = [fault.field for fault in refused.value.faults]
    assert fields == ["tasks/1/method", "tasks/2/method", "tasks/2/priority"]
    assert service.status().waiting == 0


def test_more_than_a_thousand_at_once_are_refused(service: Callbacks) -> None:
    with pytest.raises(ScheduleError, match="at most 1,000 tasks at once, got 1,001"):
        service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 1001)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.1.2.3/x",
        "http://[::1]/x",
        "http://169.254.169.254/latest",
        "http://0x7f000001:80/x",
        "http://2130706433/x",
        "http://[::ffff:10.0.0.1]/x",
    ],
)
def test_an_address_that_is_not_public_is_refused(
    connection: Redis, redis_url: str, url: str
) -> None:
    service = Callbacks(connection, settings=Settings.from_env({"REDIS_URL": redis_url}))
    with pytest.raises(ScheduleError) as refused:
        service.enqueue(NewTask(url=url))
    [fault] = refused.value.faults
    assert fault.field == "webhookUrl"
    assert "RQ_CLOCK_WEBHOOK_ALLOW" in fault.text


def test_a_name_that_cannot_be_looked_up_now_is_accepted(add: Add) -> None:
    assert add("http://no-such-host.invalid/x").status == "waiting"


def test_an_auth_without_a_key_is_refused(connection: Redis, redis_url: str) -> None:
    env = {"REDIS_URL": redis_url, "RQ_CLOCK_WEBHOOK_ALLOW": "127.0.0.1"}
    service = Callbacks(connection, settings=Settings.from_env(env))
    with pytest.raises(ScheduleError) as refused:
        service.enqueue(NewTask(url="http://127.0.0.1/x", auth=SECRET))
    [fault] = refused.value.faults
    assert fault.field == "webhookAuth"
    assert "RQ_CLOCK_CALLBACKS_KEY" in fault.text
    assert SECRET not in str(refused.value)


def test_an_auth_is_nowhere_in_redis_or_in_a_text(
    add: Add, service: Callbacks, connection: Any, claims: Dispatch
) -> None:
    new = NewTask(url="http://127.0.0.1/x", auth=SECRET)
    task = service.enqueue(new)[0]
    claim = claims.claim(1)
    for name in connection.keys("*"):
        kind = connection.type(name)
        assert kind not in (b"hash",) or SECRET[7:].encode() not in str(
            connection.hgetall(name)
        ).encode(errors="replace")
    for shown in (new, task, claim, service.get(task.id)):
        assert SECRET[7:] not in repr(shown)


def test_an_auth_that_names_a_variable_is_shown_by_its_name(add: Add, service: Callbacks) -> None:
    task = add(auth="Bearer ${env:CRM_KEY}")
    assert (task.auth_set, task.auth_env) == (True, "CRM_KEY")
    mixed = add(auth="Token x-${env:CRM_KEY}")
    assert (mixed.auth_set, mixed.auth_env) == (True, "")
    with pytest.raises(ScheduleError, match="RQ_CLOCK_WEBHOOK_ENV"):
        add(auth="${env:OTHER}")


# ---- dedup keys and repeated requests -----------------------------------------------------------


def test_a_dedup_key_stands_for_the_task_that_lives_with_it(
    service: Callbacks, claims: Dispatch
) -> None:
    new = NewTask(url="http://127.0.0.1/x", dedup_key="k", max_retries=0, payload={"n": 1})
    first, created = service.enqueue(new)
    assert created
    assert service.enqueue(new) == (first, False)
    [claimed] = claims.claim(1).tasks
    again, created = service.enqueue(new)
    assert (again.id, again.status, created) == (first.id, "calling", False)
    done = CallResult(id=claimed.id, attempt=1, result="ok", seconds=0.1)
    claims.finish([done])
    second, created = service.enqueue(new)
    assert created
    assert second.id != first.id


def test_of_many_with_one_dedup_key_one_is_created(service: Callbacks) -> None:
    new = NewTask(url="http://127.0.0.1/x", dedup_key="k", tags=("a",))
    (first, created), (second, created_too) = service.enqueue_many([new, new])
    assert (created, created_too) == (True, False)
    assert second == first
    assert service.status().waiting == 1


def test_a_repeated_request_adds_nothing_and_names_what_the_first_one_made(
    connection: Redis, settings: Settings
) -> None:
    key = RequestKey("hash", "digest")
    service = Callbacks(connection, settings=settings, request_key=key)
    added = service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 3)
    with pytest.raises(Repeated) as repeated:
        service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 3)
    assert repeated.value.id.split() == [task.id for task, _ in added]
    assert repeated.value.digest == "digest"
    assert service.status().waiting == 3


def test_the_record_of_a_request_names_the_task_that_a_dedup_key_stood_for(
    connection: Redis, settings: Settings, service: Callbacks
) -> None:
    first, _ = service.enqueue(NewTask(url="http://127.0.0.1/x", dedup_key="k"))
    other = Callbacks(connection, settings=settings, request_key=RequestKey("h", "d"))
    assert other.enqueue(NewTask(url="http://127.0.0.1/x", dedup_key="k")) == (first, False)
    with pytest.raises(Repeated) as repeated:
        other.enqueue(NewTask(url="http://127.0.0.1/x", dedup_key="k"))
    assert repeated.value.id == first.id


def test_a_lost_reply_adds_a_task_once(service: Callbacks, add: Add) -> None:
    add()
    with replies_lost():
        task, created = service.enqueue(NewTask(url="http://127.0.0.1/x", dedup_key="k"))
    assert created
    assert service.status().waiting == 2
    assert service.get(task.id).dedup_key == "k"


def test_without_redis_there_is_one_error(settings: Settings) -> None:
    settings = replace(settings, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        Callbacks(settings=settings).enqueue(NewTask(url="http://127.0.0.1/x"))


# ---- lists -------------------------------------------------------------------------------------


def everything(service: Callbacks, match: TaskFilter, limit: int) -> list[Task]:
    """Return all pages of a list."""
    found: list[Task] = []
    cursor = ""
    while True:
        page = service.list(match, limit, cursor)
        assert len(page.tasks) <= limit
        found += page.tasks
        if not page.cursor:
            return found
        cursor = page.cursor


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
def test_pages_show_each_task_once_in_the_order_of_the_calls(
    service: Callbacks, limit: int
) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    new = [NewTask(url=f"http://127.0.0.{n % 3 + 1}/x", execute_at=at) for n in range(60)]
    ids = [task.id for task, _ in service.enqueue_many(new)]
    assert [task.id for task in everything(service, TaskFilter(), limit)] == ids
    assert service.list(TaskFilter(status="waiting")).total == 60


def test_a_task_that_leaves_between_two_pages_hides_no_other(
    service: Callbacks, connection: Redis
) -> None:
    added = service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 6)
    ids = [task.id for task, _ in added]
    page = service.list(TaskFilter(), 3)
    service.delete(ids[2])
    service.delete(ids[0])
    rest = service.list(TaskFilter(), 10, page.cursor)
    assert [task.id for task in rest.tasks] == ids[3:]


def test_ended_tasks_come_newest_first(add: Add, service: Callbacks) -> None:
    ids = [add().id for _ in range(5)]
    for id in ids:
        service.cancel(id)
    assert [t.id for t in everything(service, TaskFilter(status="canceled"), 2)] == ids[::-1]


def test_filters_narrow_a_list(add: Add, service: Callbacks) -> None:
    a, b = add("http://127.0.0.1/jobs/7", tags=("eu",)), add("http://127.0.0.2:81/x", tags=("us",))
    service.cancel(b.id)
    for match, found in [
        (TaskFilter(host="127.0.0.2:81"), [b]),
        (TaskFilter(tag="eu"), [a]),
        (TaskFilter(text="JOBS/7"), [a]),
        (TaskFilter(text=b.id[-6:]), [b]),
        (TaskFilter(status="canceled", tag="eu"), []),
        (TaskFilter(status="stale"), []),
    ]:
        assert [task.id for task in service.list(match).tasks] == [task.id for task in found]
    assert service.list(TaskFilter(tag="eu")).total is None


def test_a_wrong_status_or_cursor_is_one_fault(service: Callbacks) -> None:
    with pytest.raises(ScheduleError, match="expected status waiting"):
        service.list(TaskFilter(status="pending"))
    with pytest.raises(ScheduleError, match="cursor"):
        service.list(TaskFilter(), cursor="x")


@pytest.mark.parametrize("id", ["", "task_x", "task_" + "0" * 26, "a b", "*"])
def test_there_is_no_such_task(service: Callbacks, id: str) -> None:
    for act in (service.get, service.cancel, service.retry, service.delete):
        with pytest.raises(Conflict) as conflict:
            act(id)
        assert conflict.value.kind is ConflictKind.NO_TASK


# ---- operations --------------------------------------------------------------------------------


def test_each_status_allows_what_is_possible_in_it(
    add: Add, service: Callbacks, claims: Dispatch
) -> None:
    service.configure({"maxRetries": 0})
    calling, stale = add(), None
    assert claims.claim(1).tasks[0].id == calling.id
    for act in (service.cancel, service.retry, service.delete):
        with pytest.raises(Conflict, match="got calling; wait") as conflict:
            act(calling.id)
        assert conflict.value.kind is ConflictKind.TASK_STATUS
    stale = add()
    assert fail(claims) == "stale"
    waiting = add()
    with pytest.raises(Conflict, match="expected one that is stale, canceled or retrying"):
        service.retry(waiting.id)
    with pytest.raises(Conflict, match="got stale"):
        service.cancel(stale.id)
    service.retry(stale.id)
    assert service.get(stale.id).status == "retrying"
    service.cancel(stale.id)
    assert service.get(stale.id).status == "canceled"
    service.delete(stale.id)
    with pytest.raises(Conflict):
        service.get(stale.id)


def test_a_stale_task_that_is_retried_has_all_its_retries_again(
    add: Add, service: Callbacks, claims: Dispatch
) -> None:
    task = add(max_retries=1)
    service.configure({"retryDelays": [0]})
    assert [fail(claims), fail(claims)] == ["retrying", "stale"]
    service.retry(task.id, reason="the receiver is back")
    assert [fail(claims), fail(claims)] == ["retrying", "stale"]
    assert [a.attempt for a in service.get(task.id).attempts] == [1, 2, 3, 4]


def test_a_canceled_task_that_was_never_called_waits_again(add: Add, service: Callbacks) -> None:
    task = add(execute_at=service.status().now + HOUR)
    service.cancel(task.id)
    service.retry(task.id)
    again = service.get(task.id)
    assert (again.status, again.due_at) == ("waiting", task.due_at)


def test_no_retry_makes_two_tasks_of_one_dedup_key(add: Add, service: Callbacks) -> None:
    first = add(dedup_key="k")
    service.cancel(first.id)
    second = add(dedup_key="k")
    with pytest.raises(Conflict, match=second.id):
        service.retry(first.id)
    service.delete(second.id)
    service.retry(first.id)
    assert add(dedup_key="k").id == first.id


def test_a_deleted_task_leaves_nothing(
    add: Add, service: Callbacks, connection: Any, claims: Dispatch
) -> None:
    task = add(dedup_key="k", tags=("a",), payload={"a": 1})
    fail(claims)
    service.delete(task.id)
    left = {name.decode().partition("default:")[2] for name in connection.keys("*default:task*")}
    kept = {"configuration", "counters", "minutes", "failing", "dispatchers"}
    assert left == {f"task-{name}" for name in kept}


def test_changes_are_audited(add: Add, service: Callbacks, store: Store) -> None:
    task = add()
    service.cancel(task.id, reason="by mistake")
    [entry] = Audit(store).newest(10)
    assert (entry.verb, entry.by, entry.reason) == ("cancel-task", "ana", "by mistake")
    assert (entry.count, entry.detail) == (1, {"task": task.id, "tasks": 1})


def test_a_sweep_changes_all_that_match_and_no_other(add: Add, service: Callbacks) -> None:
    for n in range(1, 31):
        add(f"http://127.0.0.{n % 3 + 1}/x", tags=("odd",) if n % 2 else ())
    result = service.sweep("cancel", TaskFilter(host="127.0.0.1", tag="odd"))
    assert (result.done, result.refused, result.more) == (5, (), False)
    assert service.status().canceled == 5
    assert service.sweep("retry", TaskFilter(status="canceled")).done == 5
    assert service.sweep("delete", TaskFilter()).done == 30
    assert service.status().waiting == 0


def test_a_sweep_is_bounded_and_says_that_there_is_more(service: Callbacks) -> None:
    for _ in range(2):
        service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 600)
    first = service.sweep("cancel", TaskFilter(), reason="wrong host")
    assert (first.done, first.more) == (1000, True)
    second = service.sweep("cancel", TaskFilter())
    assert (second.done, second.more) == (200, False)


def test_canceling_forgets_the_oldest_beyond_what_is_kept(service: Callbacks) -> None:
    service.configure({"keep_done": 10})
    tasks = service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 900)
    assert service.sweep("cancel", TaskFilter()).done == 900
    assert service.status().canceled <= 10 + tasks_module.PORTION
    assert service.get(tasks[-1][0].id).status == "canceled"
    with pytest.raises(Conflict):
        service.get(tasks[0][0].id)


def test_a_sweep_looks_at_so_many_tasks_and_says_so(
    service: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "SEARCH_LIMIT", 500)
    monkeypatch.setattr(tasks_module, "SWEEP_SEARCHED", 600)
    for tags in ((), (), ("last",)):
        service.enqueue_many([NewTask(url="http://127.0.0.1/", tags=tags)] * 1000)
    assert service.sweep("cancel", TaskFilter(tag="last")) == BulkTasksResult(0, (), True)
    assert service.status().waiting == 3000


def test_a_sweep_leaves_what_it_cannot_change(
    add: Add, service: Callbacks, claims: Dispatch
) -> None:
    task = add()
    claims.claim(1)
    result = service.sweep("cancel", TaskFilter(status="calling"))
    assert (result.done, [refused.task for refused in result.refused]) == (0, [task.id])
    with pytest.raises(ScheduleError, match="expected retry, cancel, delete"):
        service.sweep("eat", TaskFilter())


# ---- configuration -----------------------------------------------------------------------------


def test_the_configuration_is_changed_whole_or_not_at_all(service: Callbacks) -> None:
    assert service.configuration() == Configuration()
    changes = {"base_interval_ms": 500, "hostRate": 2.5, "retryDelays": [1, 2.5]}
    after = service.configure(changes, reason="faster")
    assert service.configuration() == after
    assert (after.base_interval_ms, after.host_rate, after.retry_delays) == (500, 2.5, (1, 2.5))
    with pytest.raises(ScheduleError) as refused:
        service.configure({"selectSize": 5, "mode": "fast", "maxRetries": -1, "colour": 1})
    assert [f.field for f in refused.value.faults] == ["mode", "maxRetries", "colour"]
    assert service.configuration() == after
    assert service.configure({"hostRate": None}).host_rate is None


def test_a_change_of_the_configuration_is_audited(service: Callbacks, store: Store) -> None:
    service.configure({"selectSize": 5}, reason="slower")
    service.configure({"selectSize": 5})
    [entry] = Audit(store).newest(10)
    assert (entry.verb, entry.reason) == ("configure-callbacks", "slower")
    assert entry.detail == {"select_size": "100 → 5"}


def test_a_field_that_others_made_unreadable_has_its_default(
    service: Callbacks, connection: Redis
) -> None:
    fields = {"select_size": "many", "base_interval_ms": "250", "mode": "x", "foreign": "1"}
    connection.hset("rq-clock:default:task-configuration", mapping=fields)  # type: ignore[arg-type]
    assert service.configuration() == Configuration(base_interval_ms=250)


# ---- how they are ------------------------------------------------------------------------------


def test_the_status_counts(add: Add, service: Callbacks, claims: Dispatch) -> None:
    for _ in range(4):
        add()
    add(execute_at=service.status().now + HOUR)
    fail(claims)
    fail(claims, "gone")
    claims.claim(1)
    status = service.status()
    counts = (status.waiting, status.calling, status.retrying, status.stale, status.due)
    assert counts == (2, 1, 1, 1, 1)
    assert status.oldest_due
    assert status.oldest_due_seconds >= 0
    assert status.dispatchers == 1
    assert sum(status.minutes.popitem()[1].values()) == 2  # type: ignore[attr-defined]
    assert status.counters["called gone"] == status.counters["stale"] == 1
    [host] = status.failing_hosts
    assert (host.host, host.failures, host.result) == ("127.0.0.1", 2, "gone")


def test_a_host_that_answers_fails_no_more(add: Add, service: Callbacks, claims: Dispatch) -> None:
    add()
    add()
    fail(claims)
    [claimed] = claims.claim(1).tasks
    claims.finish([CallResult(id=claimed.id, attempt=1, result="ok", seconds=0.1)])
    assert service.status().failing_hosts == ()


def test_each_host_is_forgotten_a_week_after_its_last_failure(
    add: Add, service: Callbacks, claims: Dispatch, connection: Redis, store: Store
) -> None:
    now, day = to_ms(service.status().now), 86_400_000
    hosts = {"old.example": now - 8 * day, "new.example": now - 6 * day}
    for host, last in hosts.items():
        connection.hset(store.key("task-failing"), host, f"9 {now - 20 * day} {last} timeout")
    add()
    fail(claims)
    failing = {host.host for host in service.status().failing_hosts}
    assert failing == {"new.example", "127.0.0.1"}


def test_one_unreadable_record_hides_no_other(
    add: Add, service: Callbacks, connection: Redis, claims: Dispatch
) -> None:
    bad, good = add(), add()
    for record in ("", "x", "waiting " + "x " * 14, json.dumps({})):
        connection.hset("rq-clock:default:tasks", bad.id.removeprefix("task_"), record)
        assert [task.id for task in service.list(TaskFilter()).tasks] == [good.id]
    assert [task.id for task in claims.claim(5).tasks] == [good.id]
    assert service.status().waiting == 0


def test_the_news_tell_of_a_task_that_is_the_next(
    add: Add, service: Callbacks, connection: Redis, store: Store
) -> None:
    now = service.status().now
    news = store.listen()

    def heard() -> int:
        """Return the number of messages until one of our own."""
        connection.publish(store.key("news"), "end")
        for count in range(10):
            message = wait_until(lambda: news.get_message(timeout=1), "a message")
            if message["data"] == b"end":
                return count
            assert message["data"] == b":callbacks"
        raise AssertionError

    wait_until(lambda: connection.pubsub_numsub(store.key("news"))[0][1], "the subscription")
    add(execute_at=now + 2 * HOUR)
    assert heard() == 1
    add(execute_at=now + 3 * HOUR)
    assert heard() == 0
    add(execute_at=now + HOUR)
    assert heard() == 1
    add()
    assert heard() == 1
    add()  # a dispatcher is on its way already
    assert heard() == 0
    news.close()


def test_a_sweep_of_a_request_that_acts_once_is_not_cut_short(
    connection: Redis, settings: Settings, service: Callbacks, store: Store
) -> None:
    service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 450)
    actor = Actor(by="ana", request_key=RequestKey("h", "d"))
    assert Tasks(store).sweep("cancel", TaskFilter(), actor).done == 450
