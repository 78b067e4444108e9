"""Callbacks: calls of URLs at their time, added and operated by an app, an operator or a page.

    from rq_clock import callbacks

    task = callbacks.enqueue("https://example.com/jobs/7", auth="…", at=tomorrow)

The task is in Redis when the call returns. A dispatcher on the queue `callbacks` calls the URL at
or after that instant, and again until it answers 2xx: at least once, so a receiver may see an id
twice.

Every method raises StoreUnavailable when Redis cannot be used, and ScheduleError with every fault
(Conflict when there is no such task, NO_TASK, or its status does not allow the change,
TASK_STATUS); then it has changed nothing. If the process dies in the middle, the change is whole or
not made, but for `enqueue_many` and `sweep`, which work in portions. After a lost reply `enqueue`
sends the same task once more.

Not here: how it is stored (store/tasks.py), and the calls (dispatcher.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from threading import local
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from rq_clock.callbacks.hosts import host_faults
from rq_clock.callbacks.ids import Ids, made_at
from rq_clock.callbacks.secrets import Vault
from rq_clock.errors import Fault, ScheduleError, StoreUnavailable
from rq_clock.model.callbacks import CallbacksStatus, Configuration
from rq_clock.model.new_task import NewTask, named_variable
from rq_clock.model.task import DELETED, STATES, Task, TaskFilter, TaskPage
from rq_clock.settings import Settings
from rq_clock.store.audit import Actor, RequestKey
from rq_clock.store.client import connect
from rq_clock.store.diagnosis import diagnose
from rq_clock.store.store import Store, portions
from rq_clock.store.tasks import ADD_LIMIT, ADD_PORTION, BulkTasksResult, Draft, Tasks

VERBS = ("retry", "cancel", "delete")
T = TypeVar("T")
_ids = Ids()
_callbacks = local()


def enqueue(  # noqa: PLR0913 - each a choice of its own
    url: str,
    *,
    auth: str = "",
    at: datetime | None = None,
    payload: Any = None,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    dedup_key: str = "",
    priority: str = "normal",
    max_retries: int | None = None,
    timeout: float | timedelta | None = None,
    tags: Sequence[str] = (),
) -> Task:
    """Have a URL called at or after an instant, or as soon as possible. Return the task.

    `auth` is the Authorization header if it has a space, else its bearer token; it is stored
    encrypted. `payload` is any JSON. While a task with the same `dedup_key` waits or is called, no
    other one is added and that one is returned. `timeout` is in seconds.
    """
    task = NewTask(
        url=url,
        auth=auth,
        execute_at=at,
        payload=payload,
        method=method,
        headers={} if headers is None else headers,
        dedup_key=dedup_key,
        priority=priority,
        max_retries=max_retries,
        timeout=timeout.total_seconds() if isinstance(timeout, timedelta) else timeout,
        tags=tuple(tags),
    )
    if not hasattr(_callbacks, "made"):
        _callbacks.made = Callbacks()
    made: Callbacks = _callbacks.made
    return made.enqueue(task)[0]


class Callbacks:
    """The callbacks of a namespace. `by` is the actor in the audit. With the key of a request, the
    same change is made once; later calls raise Repeated, with the ids of the tasks, separated by
    spaces.

    It connects on first use. Keep one for the life of a process, for one thread at a time.
    """

    def __init__(
        self, redis: Redis | None = None, *, by: str = "app", settings: Settings | None = None,
        request_key: RequestKey | None = None,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._by = by
        self._settings = settings
        self._request_key = request_key
        self._store: Store | None = None

    # ---- adding -------------------------------------------------------------------------------

    def enqueue(self, task: NewTask) -> tuple[Task, bool]:
        """Add a task. Return it, and whether it was created: not where a task with its dedup key
        lives, which is returned instead."""
        return self.enqueue_many([task])[0]

    def enqueue_many(self, tasks: Sequence[NewTask]) -> list[tuple[Task, bool]]:
        """Add tasks, at most 1,000; as `enqueue`. They are added in portions of ADD_PORTION, each
        whole or not at all: if the process dies or Redis fails, the first ones stay."""
        found: list[tuple[Task, bool]] = []
        for some in portions(self.drafts(tasks), ADD_PORTION):
            found += self.add(some)
        return found

    def drafts(self, tasks: Sequence[NewTask]) -> list[Draft]:
        """Return tasks ready for `add`, at most 1,000. Raises ScheduleError with the faults of all;
        of several tasks, a fault's field has the place: "tasks/3/webhookUrl"."""
        if len(tasks) > ADD_LIMIT:
            text = f"expected at most {ADD_LIMIT:,} tasks at once, got {len(tasks):,}"
            raise ScheduleError(Fault("tasks", f"{text}; send the rest in another call"))
        if not tasks:
            return []
        with self._open() as (store, settings):
            vault, now = Vault(settings.callbacks_key), store.now()
            if faults := list(_faults(tasks, now, settings, vault)):
                raise ScheduleError(*faults)
            return [Draft(id=_ids.next(now), task=t, auth=vault.seal(t.auth)) for t in tasks]

    def add(self, drafts: Sequence[Draft]) -> list[tuple[Task, bool]]:
        """Add at most ADD_PORTION tasks, all or none; return what `enqueue` returns for each."""
        with self._open() as (store, _):
            return _sent_twice(lambda: Tasks(store).add(drafts, self._actor("")))

    def added(self, ids: Sequence[str], tasks: Sequence[NewTask]) -> list[Task]:
        """Return the tasks that an earlier request added, without headers, payloads and attempts.
        One that is kept no more has the status DELETED and the fields of the request."""
        with self._open() as (store, _):
            kept = Tasks(store).kept(ids)
            pairs = zip(ids, tasks, strict=True)
            return [kept.get(id) or _deleted(id, task) for id, task in pairs]

    # ---- reading ------------------------------------------------------------------------------

    def list(self, filter: TaskFilter, limit: int = 50, cursor: str = "") -> TaskPage:
        """Return the next `limit` tasks that match: called, retrying and waiting ones in the order
        of their calls, then ended ones, the newest first. Without headers, payload and attempts.
        `cursor` continues after an earlier page."""
        _check(filter)
        with self._open() as (store, _):
            return Tasks(store).page(filter, limit, cursor)

    def get(self, id: str) -> Task:
        """Return a task with its attempts. Raises Conflict."""
        with self._open() as (store, _):
            return Tasks(store).get(id)

    def status(self) -> CallbacksStatus:
        """Return counts, what is due, the last calls, and hosts that only fail."""
        with self._open() as (store, _):
            return Tasks(store).status()

    # ---- operations ---------------------------------------------------------------------------

    def cancel(self, id: str, reason: str = "") -> None:
        """Cancel a task that is waiting or retrying. It is kept for a while. Raises Conflict."""
        self._edit("cancel", id, reason)

    def retry(self, id: str, reason: str = "") -> None:
        """Have a task called again that is stale, canceled or retrying: as soon as possible, with
        all its retries. Raises Conflict."""
        self._edit("retry", id, reason)

    def delete(self, id: str, reason: str = "") -> None:
        """Forget a task, unless it is being called. Raises Conflict."""
        self._edit("delete", id, reason)

    def sweep(self, verb: str, filter: TaskFilter, reason: str = "") -> BulkTasksResult:
        """Retry, cancel or delete the tasks that match, 1,000 at most. Without a status, retry
        means stale tasks; cancel and delete mean all in whose status this is possible."""
        if verb not in VERBS:
            raise ScheduleError(f"expected {', '.join(VERBS)}, got {verb!r}")
        _check(filter)
        with self._open() as (store, _):
            return Tasks(store).sweep(verb, filter, self._actor(reason))

    # ---- configuration ------------------------------------------------------------------------

    def configuration(self) -> Configuration:
        with self._open() as (store, _):
            return Tasks(store).configuration()

    def configure(self, changes: Mapping[str, Any], reason: str = "") -> Configuration:
        """Change fields of the configuration, in either spelling; all or none. It counts from the
        next interval on. Return the new one."""
        with self._open() as (store, _):
            tasks = Tasks(store)
            before = tasks.configuration()
            after = before.changed(changes)
            if after != before:
                tasks.configure(before, after, self._actor(reason))
            return after

    def _edit(self, verb: str, id: str, reason: str) -> None:
        with self._open() as (store, _):
            Tasks(store).edit_one(verb, id, self._actor(reason))

    def _actor(self, reason: str) -> Actor:
        return Actor(by=self._by, reason=reason, request_key=self._request_key)

    @contextmanager
    def _open(self) -> Iterator[tuple[Store, Settings]]:
        """Yield the store; inside the block, Redis's errors become StoreUnavailable."""
        settings = self._settings = self._settings or Settings.from_env()
        if self._store is None:
            redis = self._redis or connect(settings=settings)
            self._store = Store.from_settings(redis, settings)
        try:
            yield self._store, settings
        except RedisError as error:
            raise StoreUnavailable(diagnose(error, settings.redis_url)) from None


def _faults(
    tasks: Sequence[NewTask], now: datetime, settings: Settings, vault: Vault
) -> Iterator[Fault]:
    """Yield the faults of tasks; of several with their place. Hosts are looked up only when all
    else is right."""
    found = [
        (place, fault)
        for place, task in enumerate(tasks)
        for fault in task.faults(now, variables=settings.webhook_env, key=vault.has_key)
    ]
    found = found or list(host_faults([t.full_url for t in tasks], settings.webhook_allow))
    for place, fault in found:
        yield fault if len(tasks) == 1 else replace(fault, field=f"tasks/{place}/{fault.field}")


def _deleted(id: str, new: NewTask) -> Task:
    at = made_at(id)
    return Task(
        id=id,
        status=DELETED,
        url=new.full_url,
        created_at=at,
        execute_at=new.execute_at or at,
        due_at=max(new.execute_at or at, at),
        method=new.method,
        priority=new.priority,
        max_retries=new.max_retries,
        timeout=new.timeout,
        auth_set=bool(new.auth),
        auth_env=named_variable(new.auth),
        tags=new.tags,
    )


def _sent_twice(send: Callable[[], T]) -> T:
    """Send what may be sent again, once more after a lost reply."""
    try:
        return send()
    except (ConnectionError, TimeoutError):
        return send()


def _check(filter: TaskFilter) -> None:
    if filter.status and filter.status not in STATES:
        text = f"expected status {', '.join(STATES)}, got {filter.status[:40]!r}"
        raise ScheduleError(Fault("status", text))
