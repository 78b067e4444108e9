"""The leader's news through a proxy that forgets connections. A real server."""

from __future__ import annotations

import time

from redis import Redis

from rq_clock.clock.news import EVERYTHING, News
from rq_clock.store.store import Store
from tests.helpers import Events, wait_until
from tests.proxy import Proxy


def test_a_connection_that_was_dropped_in_silence_is_replaced(
    connection: Redis, redis_url: str, events: Events
) -> None:
    with Proxy(redis_url) as proxy, Redis.from_url(proxy.url) as redis:
        store = Store(redis, "default")
        news = News(store, time.monotonic)
        news.open()
        news.ping()
        wait_until(lambda: (news.read(), news.answer_by)[1] == float("inf"), "an answer")
        connection.publish(store.key("news"), "s")
        assert wait_until(news.read, "a message") == ["s"]
        proxy.forget()
        news.ping()
        connection.publish(store.key("news"), "lost")
        assert wait_until(news.read, "it is noticed") == [EVERYTHING]
        connection.publish(store.key("news"), "t")
        assert wait_until(news.read, "a message") == ["t"]
        news.close()
    assert len(events("news.dead")) == 1
