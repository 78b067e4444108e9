"""Lists of schedules against a real server: each schedule once, in order, over all pages."""

from __future__ import annotations

from datetime import timedelta

import pytest
from redis import Redis

from rq_clock.errors import ScheduleError
from rq_clock.model.filters import Filter
from rq_clock.model.targets import command
from rq_clock.schedules import listing as module
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.listing import SORTS, Listing, ScheduleList
from rq_clock.schedules.service import Schedules
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every, once
from tests.helpers import round_trips

PREFIX = "rq-clock:default:"
TASK = "tasks.nothing"


@pytest.fixture
def seen(connection: Redis) -> ScheduleList:
    return ScheduleList(Store(connection, "default"))


@pytest.fixture(params=["all", "indexed"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether there are more schedules than are read whole."""
    if request.param == "indexed":
        monkeypatch.setattr(module, "WHOLE", 3)
        monkeypatch.setattr(module, "PORTION", 20)
    return bool(request.param == "indexed")


def fill(schedules: Schedules, count: int = 120) -> list[str]:
    names = [f"s{n:03}" for n in range(count)]
    schedules.add_many(
        (name, every(minutes=1 + n % 7), TASK, {"queue": f"q{n % 3}", "tags": [f"t{n % 5}"]})
        for n, name in enumerate(names)
    )
    return names


def all_pages(
    seen: ScheduleList, conditions: Filter, sort: str = "trouble", limit: int = 7
) -> list[str]:
    """The names on all pages, one after the other."""
    found: list[str] = []
    cursor = ""
    for _ in range(1000):
        listing = seen.page(conditions, sort=sort, limit=limit, cursor=cursor)
        assert len(listing.rows) <= limit
        found += names_of(listing)
        cursor = listing.cursor
        if not cursor:
            return found
    raise AssertionError("the pages have no end")


def names_of(listing: Listing) -> list[str]:
    return [row.entry.name for row in listing.rows]


class TestPages:
    @pytest.mark.parametrize("sort", SORTS)
    def test_each_schedule_stands_on_one_page(
        self, schedules: Schedules, seen: ScheduleList, large: bool, sort: str
    ) -> None:
        names = fill(schedules)
        found = all_pages(seen, Filter(), sort)
        assert sorted(found) == names
        if sort == "name" and not large:
            assert found == names

    @pytest.mark.parametrize(
        ("conditions", "fits"),
        [
            (Filter(queue="q1"), lambda n: n % 3 == 1),
            (Filter(tag="t2"), lambda n: n % 5 == 2),
            (Filter(text="S01"), lambda n: n // 10 == 1),
            (Filter(queue="q0", tag="t0"), lambda n: n % 15 == 0),
            (Filter(origin="run-time"), lambda n: True),
            (Filter(origin="declared"), lambda n: False),
            (Filter(states=("scheduled",)), lambda n: True),
            (Filter(states=("late",)), lambda n: False),
        ],
    )
    def test_each_filter_finds_its_matches(
        self,
        schedules: Schedules,
        seen: ScheduleList,
        large: bool,
        conditions: Filter,
        fits: object,
    ) -> None:
        names = fill(schedules)
        assert callable(fits)
        expected = [name for n, name in enumerate(names) if fits(n)]
        found = all_pages(seen, conditions)
        assert sorted(set(found)) == expected
        assert large or len(found) == len(expected)  # a search may meet one twice

    def test_trouble_comes_first(
        self, schedules: Schedules, seen: ScheduleList, connection: Redis, large: bool
    ) -> None:
        fill(schedules)
        now = seen.status().now
        connection.zadd(PREFIX + "due", {"s100": to_ms(now - timedelta(hours=1))})
        connection.zadd(PREFIX + "failing", {"s050": to_ms(now)})
        listing = seen.page(Filter(), limit=3)
        assert names_of(listing)[:2] == ["s100", "s050"]
        assert (listing.status.late_count, listing.status.failing_count) == (1, 1)
        assert listing.rows[1].failing is not None
        assert sorted(all_pages(seen, Filter(), limit=3)) == sorted(
            set(all_pages(seen, Filter(), limit=3))
        )
        assert all_pages(seen, Filter(states=("late",))) == ["s100"]
        assert all_pages(seen, Filter(states=("failing",))) == ["s050"]

    def test_one_that_fires_meanwhile_hides_no_other(
        self, schedules: Schedules, seen: ScheduleList, connection: Redis, large: bool
    ) -> None:
        names = fill(schedules, 60)
        at = to_ms(seen.status().now + timedelta(hours=1))
        connection.zadd(PREFIX + "due", dict.fromkeys(names, at))  # a herd at one instant
        first = seen.page(Filter(), sort="next", limit=10)
        connection.zadd(PREFIX + "due", dict.fromkeys(names_of(first), at + 60_000))
        second = seen.page(Filter(), sort="next", limit=100, cursor=first.cursor)
        assert set(names_of(first)) | set(names_of(second)) >= set(names)

    def test_a_page_takes_three_round_trips_at_most(
        self, schedules: Schedules, seen: ScheduleList, large: bool
    ) -> None:
        fill(schedules)
        seen.page(Filter())  # reads the size once
        for conditions in (
            Filter(),
            Filter(text="s01"),
            Filter(states=("paused",)),
            Filter(tag="t1"),
        ):
            with round_trips() as sent:
                seen.page(conditions, sort="last", limit=5)
            assert 1 <= len(sent) <= 3

    def test_a_page_reports_its_total_and_order(
        self, schedules: Schedules, seen: ScheduleList, large: bool
    ) -> None:
        fill(schedules)
        listing = seen.page(Filter(), sort="name")
        assert (listing.total, listing.order) == ((None, "trouble") if large else (120, "name"))
        searched = seen.page(Filter(tag="t1"), sort="name")
        assert (searched.searched is not None, searched.order) == (large, "name")

    @pytest.mark.parametrize("cursor", ["x", "WyJuYW1lIl0", "bnVsbA", "W10", "é", "WyJuZXh0IiwxXQ"])
    def test_a_cursor_of_nothing_is_refused(self, seen: ScheduleList, cursor: str) -> None:
        with pytest.raises(ScheduleError, match="cursor: expected the cursor of"):
            seen.page(Filter(), cursor=cursor)

    def test_states_and_orders_that_are_none_are_refused(self, seen: ScheduleList) -> None:
        with pytest.raises(ScheduleError, match="state: expected one of invalid, late"):
            seen.page(Filter(states=("gone",)))
        with pytest.raises(ScheduleError, match="sort: expected one of trouble, next"):
            seen.page(Filter(), sort="colour")


class TestStates:
    def test_paused_ended_and_invalid(
        self, schedules: Schedules, seen: ScheduleList, connection: Redis, large: bool
    ) -> None:
        now = seen.status().now
        schedules.add("paused", every(minutes=1), TASK)
        schedules.pause("paused", reason="bank is down")
        schedules.add("over", once(now + timedelta(hours=1)), TASK)
        connection.zrem(PREFIX + "due", "over")
        schedules.add("broken", every(minutes=1), TASK)
        connection.hset(PREFIX + "definitions", "broken", "{}")
        connection.incr(PREFIX + "revision")  # as whoever changes a definition does
        schedules.add("fine", cron("0 3 * * *"), command("df -h"))
        assert all_pages(seen, Filter(states=("paused",))) == ["paused"]
        assert all_pages(seen, Filter(states=("ended",))) == ["over"]
        assert all_pages(seen, Filter(states=("invalid",))) == ["broken"]
        assert all_pages(seen, Filter(states=("scheduled",))) in (["fine"], ["broken", "fine"])
        assert all_pages(seen, Filter(text="DF -h")) == ["fine"]

    def test_a_pause_of_all_pauses_each(
        self, schedules: Schedules, seen: ScheduleList, large: bool
    ) -> None:
        names = fill(schedules, 10)
        schedules.pause(ALL)
        assert sorted(all_pages(seen, Filter(states=("paused",)))) == names
        assert seen.status().pause is not None

    def test_a_changed_definition_is_read_again(
        self, schedules: Schedules, seen: ScheduleList, large: bool
    ) -> None:
        fill(schedules, 10)
        assert all_pages(seen, Filter(tag="new")) == []
        schedules.update("s003", tags=["new"])
        assert all_pages(seen, Filter(tag="new")) == ["s003"]
        schedules.remove("s003")
        assert all_pages(seen, Filter(tag="new")) == []

    def test_running_is_what_a_worker_holds(
        self, schedules: Schedules, seen: ScheduleList, connection: Redis, large: bool
    ) -> None:
        fill(schedules, 10)
        job = "default-s004-1790000000000-m17"
        connection.hset(PREFIX + "workers", "w1", f"1790000000000000 e1 {job} default")
        assert all_pages(seen, Filter(states=("running",))) == ["s004"]
        [row] = seen.page(Filter(states=("running",))).rows
        assert row.running == job
        assert seen.status().running == {job: "w1"}
