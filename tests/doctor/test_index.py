"""The due index as the doctor finds and rebuilds it, also beside a clock at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from redis import Redis

from rq_clock.doctor.rebuild import rebuild
from rq_clock.errors import RqClockError
from rq_clock.model.entry import Pause, to_json
from rq_clock.store.scripts import load_script
from rq_clock.store.store import Change
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import every, once
from tests.doctor.namespace import HOUR, Namespace, daily, schedule
from tests.server import Server

pytestmark = pytest.mark.integration


class TestIndex:
    def test_an_index_that_lacks_or_misplaces_a_schedule_is_reported(self, ns: Namespace) -> None:
        ns.redis.zrem(ns.key("due"), "early")
        ns.redis.zincrby(ns.key("due"), 60_000, "late")
        assert ns.only("index-wrong", "error").schedules == ("early", "late")

    def test_rebuilding_corrects_the_index_and_notifies_the_clock(self, ns: Namespace) -> None:
        right = ns.redis.zrange(ns.key("due"), 0, -1, withscores=True)
        news = ns.store.listen()
        assert list(rebuild(ns.store)) == [(2, 0), (0, 0)]
        ns.redis.delete(ns.key("due"))
        ns.redis.zadd(ns.key("due"), {"late": 1, "nobody": 2})
        assert set(ns.found()) == {"index-wrong", "orphans", "late"}
        assert list(rebuild(ns.store)) == [(2, 2), (0, 1)]
        assert ns.redis.zrange(ns.key("due"), 0, -1, withscores=True) == right
        messages = [message["data"] for _ in range(5) if (message := news.get_message(timeout=0.1))]
        news.close()
        assert messages == [b"*", b"*"]
        assert ns.found() == {}

    def test_what_has_ended_leaves_the_index(self, ns: Namespace) -> None:
        ns.put(schedule("once", once(ns.now - HOUR)), known=2 * HOUR)
        ns.tick()
        assert ns.found() == {}
        ns.redis.zadd(ns.key("due"), {"once": to_ms(ns.now + HOUR)})
        ns.only("index-wrong", "error")
        assert sum(changed for _, changed in rebuild(ns.store)) == 1
        assert ns.found() == {}

    def test_a_definition_that_cannot_be_read_keeps_its_place(self, ns: Namespace) -> None:
        ns.redis.hset(ns.key("definitions"), "early", "{}")
        ns.redis.zadd(ns.key("due"), {"early": 5})
        assert sum(changed for _, changed in rebuild(ns.store)) == 0
        assert ns.redis.zscore(ns.key("due"), "early") == 5

    @pytest.mark.parametrize("change", ["commit", "edit", "remove", "return"])
    def test_what_moved_on_since_it_was_read_is_left_as_it_is(
        self, ns: Namespace, change: str
    ) -> None:
        minutely = schedule("minutely", every(minutes=1))
        ns.put(minutely, known=HOUR)
        entry = ns.store.load(["minutely"])[0]["minutely"]
        words: list[Any] = ["minutely", entry.base, entry.revision, 5, "", ""]
        if change == "commit":
            ns.tick()
        elif change == "edit":
            edited = replace(minutely, queue="other").definition()
            edit = Change("put", "minutely", edited, ns.now)
            ns.reconcile(edit)
        elif change == "remove":
            ns.remove("minutely")
        else:  # there was no such schedule when it was read
            words = ["minutely", "", "", "", "", ""]
        before = ns.redis.zscore(ns.key("due"), "minutely")
        keys = ns.store.keys("due", "lease")
        assert load_script(ns.redis, "repair")(keys, ["", 100, "", *words]) == []
        assert ns.redis.zscore(ns.key("due"), "minutely") == before

    def test_rebuilding_under_other_zone_data_is_refused(self, ns: Namespace) -> None:
        ns.renew(tzdata="2001a")
        with pytest.raises(RqClockError, match=r"expected the leading clock's zone data, 2001a"):
            list(rebuild(ns.store))

    def test_a_one_off_job_that_waits_for_the_end_of_a_pause_is_in_its_place(
        self, ns: Namespace
    ) -> None:
        ns.put(schedule("once", once(ns.now - HOUR)), known=2 * HOUR)
        pause = Pause(reason="holiday", by="ops", since=ns.now - HOUR, until=ns.now + 9 * HOUR)
        ns.redis.hset(ns.key("pauses"), "once", to_json(pause))
        ns.redis.zadd(ns.key("due"), {"once": to_ms(ns.now + 9 * HOUR)})
        assert ns.found() == {}
        ns.redis.hdel(ns.key("pauses"), "once")
        ns.only("index-wrong", "error")

    def test_what_is_due_and_undecided_is_reported(self, ns: Namespace) -> None:
        ns.put(schedule("hourly", every(hours=1)), known=2 * HOUR)
        ns.only("late", "warning")


class Busy(threading.Thread):
    """A clock that decides an hour in each turn while schedules come and go, for as long as one
    looks."""

    def __init__(self, url: str, start: datetime) -> None:
        super().__init__()
        self._url, self._start = url, start
        self._over = threading.Event()
        self.turns = 0

    def run(self) -> None:
        with Redis.from_url(self._url) as redis:
            ns = Namespace(redis, self._start)
            passing = [daily(f"passing-{n}", self._start) for n in range(50)]
            while not self._over.is_set():
                ns.now += HOUR
                ns.tick()
                ns.put(*passing)
                ns.remove(*(s.name for s in passing))
                self.turns += 1

    def __enter__(self) -> Busy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


class TestBesideAClock:
    @pytest.fixture
    def busy(self, ns: Namespace, lasting: Server) -> Iterator[Busy]:
        # Long names make each request long enough for others to come in between.
        names = (f"busy-{n}" + "-" * 90 for n in range(300))
        busy = (schedule(name, every(minutes=45)) for name in names)
        ns.put(*busy, known=20_000 * HOUR)
        with Busy(lasting.url, ns.now - 20_000 * HOUR) as clock:
            yield clock

    def test_a_clock_at_work_never_looks_ill(self, ns: Namespace, busy: Busy) -> None:
        allowed = {"late", "queue-without-worker"}  # it lives in the past
        looks = 0
        while busy.turns < 20 or looks < 20:
            assert busy.is_alive()
            looks += 1
            assert set(ns.found()) <= allowed

    def test_an_index_rebuilt_beside_a_clock_at_work_is_right(
        self, ns: Namespace, busy: Busy
    ) -> None:
        put_right = 0
        while busy.turns < 20 or put_right < 50:
            assert busy.is_alive()
            names = [entry.name for entry in ns.store.everything() if "busy" in entry.name][:4]
            ns.redis.zadd(ns.key("due"), {names[0]: 1, names[1]: to_ms(ns.now + HOUR)})
            ns.redis.zrem(ns.key("due"), *names[2:])
            put_right += sum(changed for _, changed in rebuild(ns.store))
        busy.__exit__()
        assert set(ns.found()) <= {"late"}
