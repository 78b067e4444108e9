"""A Redis that is full: changes are refused whole, and once there is room nothing is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis
from redis.exceptions import RedisError

from rq_clock.callbacks import Callbacks, NewTask, TaskFilter
from rq_clock.errors import StoreUnavailable
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from tests.server import Server


def test_a_full_redis_loses_no_task(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly="no", maxmemory_policy="noeviction")
    env = {"REDIS_URL": server.url, "RQ_CLOCK_WEBHOOK_ALLOW": "127.0.0.0/8"}
    with Redis.from_url(server.url) as redis:
        service = Callbacks(redis, settings=Settings.from_env(env))
        service.configure({"mode": "off"})
        claims = Dispatch(Store(redis, "default"), "one")
        claims.enter()
        ids = [service.enqueue(NewTask(url="http://127.0.0.1/x"))[0].id for _ in range(4)]
        [claimed] = claims.claim(1).tasks
        redis.config_set("maxmemory", "1kb")
        result = CallResult(id=claimed.id, attempt=1, result="ok", seconds=0.1)
        for act in (
            lambda: service.enqueue_many([NewTask(url="http://127.0.0.1/x")] * 5),
            lambda: service.cancel(ids[1]),
            lambda: service.delete(ids[2]),
            lambda: service.configure({"mode": "steady"}),
        ):
            with pytest.raises(StoreUnavailable):
                act()
        for write in (lambda: claims.claim(5), lambda: claims.finish([result])):
            with pytest.raises(RedisError):
                write()
        redis.config_set("maxmemory", "0")
        status = service.status()
        assert (status.waiting, status.calling) == (len(ids) - 1, 1)
        assert service.list(TaskFilter(text=ids[1])).tasks[0].status == "waiting"
        assert claims.finish([result])[0].status == "done"
        found = [task.id for task in claims.claim(10_000).tasks]
        assert found == ids[1:]
