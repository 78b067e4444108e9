"""What a schedule accepts, and what is due. Pure: literal instants, no server."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rq_clock.errors import ScheduleError
from rq_clock.model.decision import DECISION_LIMIT, FOR_EVER, Block, Decision, Skip, Span, due
from rq_clock.model.schedule import Schedule, declare, from_definition
from rq_clock.model.targets import command
from rq_clock.timing.triggers import MANY, Trigger, cron, deferred_faults, every, once


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def schedule(trigger: Trigger, **options: Any) -> Schedule:
    return declare("nightly", trigger, "tasks.demo.heartbeat", options)


def faults(trigger: Any = None, target: Any = "tasks.demo.heartbeat", **options: Any) -> list[str]:
    with pytest.raises(ScheduleError) as caught:
        declare("nightly", trigger or every(minutes=1), target, options)
    return str(caught.value).splitlines()


HOURLY = schedule(cron("0 * * * *"))
ALL = schedule(cron("0 * * * *"), catch_up="all")
NONE = schedule(cron("0 * * * *"), catch_up="none")


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def endless() -> Any:
    """A list that holds itself, twice."""
    value: list[Any] = []
    value += [value, value]
    return value


class TestDue:
    def test_nothing_is_due_before_the_next_fire_time(self) -> None:
        marker = at("2026-03-01T03:00")
        decision = due(HOURLY, marker, at("2026-03-01T03:59:59.999"))
        assert decision == Decision(marker=marker, next=at("2026-03-01T04:00"))

    def test_a_fire_time_is_due_at_its_instant(self) -> None:
        decision = due(HOURLY, at("2026-03-01T03:00"), at("2026-03-01T04:00"))
        assert decision.fire_times == (at("2026-03-01T04:00"),)
        assert decision.marker == at("2026-03-01T04:00")
        assert decision.next == at("2026-03-01T05:00")

    def test_latest_runs_the_newest_missed_fire_time_and_accounts_for_the_rest(self) -> None:
        decision = due(HOURLY, at("2026-03-01T00:00"), at("2026-03-01T05:30"))
        assert decision.fire_times == (at("2026-03-01T05:00"),)
        assert decision.skips == (Skip("limit", at("2026-03-01T01:00"), at("2026-03-01T04:00"), 4),)

    def test_all_runs_every_missed_fire_time_oldest_first(self) -> None:
        decision = due(ALL, at("2026-03-01T00:00"), at("2026-03-01T03:30"))
        assert decision.fire_times == tuple(at(f"2026-03-01T0{h}:00") for h in (1, 2, 3))
        assert decision.skips == ()

    def test_all_keeps_the_newest_within_its_limit(self) -> None:
        two = schedule(cron("0 * * * *"), catch_up="all", catch_up_limit=2)
        decision = due(two, at("2026-03-01T00:00"), at("2026-03-01T05:30"))
        assert decision.fire_times == (at("2026-03-01T04:00"), at("2026-03-01T05:00"))
        assert decision.skips == (Skip("limit", at("2026-03-01T01:00"), at("2026-03-01T03:00"), 3),)

    def test_all_has_a_limit_of_100_by_default(self) -> None:
        minutely = schedule(cron("* * * * *"), catch_up="all")
        decision = due(minutely, at("2026-03-01T00:00"), at("2026-03-02T00:00"))
        assert len(decision.fire_times) == 100
        assert decision.fire_times[-1] == at("2026-03-02T00:00")
        assert [(s.reason, s.count) for s in decision.skips] == [("limit", 1340)]

    def test_none_skips_what_was_missed(self) -> None:
        decision = due(NONE, at("2026-03-01T00:00"), at("2026-03-01T03:30"))
        assert decision.fire_times == ()
        assert decision.skips == (
            Skip("window", at("2026-03-01T01:00"), at("2026-03-01T03:00"), 3),
        )
        assert decision.marker == at("2026-03-01T03:00")

    def test_none_still_runs_a_fire_time_that_is_a_few_seconds_old(self) -> None:
        decision = due(NONE, at("2026-03-01T03:00"), at("2026-03-01T04:00:09"))
        assert decision.fire_times == (at("2026-03-01T04:00"),)

    def test_a_window_bounds_the_age_of_what_is_caught_up(self) -> None:
        bounded = schedule(cron("0 * * * *"), catch_up="all", catch_up_window=timedelta(hours=2))
        decision = due(bounded, at("2026-03-01T00:00"), at("2026-03-01T05:30"))
        assert decision.fire_times == (at("2026-03-01T04:00"), at("2026-03-01T05:00"))
        assert decision.skips == (
            Skip("window", at("2026-03-01T01:00"), at("2026-03-01T03:00"), 3),
        )

    def test_a_single_fire_time_older_than_the_window_is_skipped(self) -> None:
        bounded = schedule(cron("0 3 * * *"), catch_up_window=3600)
        decision = due(bounded, at("2026-03-01T03:00"), at("2026-03-02T05:00"))
        assert decision.fire_times == ()
        assert decision.skips == (
            Skip("window", at("2026-03-02T03:00"), at("2026-03-02T03:00"), 1),
        )

    def test_window_and_limit_each_account_for_their_own(self) -> None:
        both = schedule(cron("0 * * * *"), catch_up="all", catch_up_window=14400, catch_up_limit=2)
        decision = due(both, at("2026-03-01T00:00"), at("2026-03-01T08:30"))
        assert [(s.reason, s.count) for s in decision.skips] == [("window", 4), ("limit", 2)]
        assert len(decision.fire_times) == 2

    def test_more_than_one_decision_holds_comes_in_several(self) -> None:
        many = schedule(every(minutes=1), catch_up="all", catch_up_limit=250)
        marker, now = at("2026-03-01T00:00"), at("2026-03-01T04:10")
        sizes = []
        while (decision := due(many, marker, now)).fire_times:
            sizes.append(len(decision.fire_times))
            marker = decision.marker
        assert sizes == [DECISION_LIMIT, DECISION_LIMIT, 50]
        assert marker == now

    def test_a_clock_that_goes_back_fires_nothing_again(self) -> None:
        marker = at("2026-03-01T05:00")
        decision = due(HOURLY, marker, at("2026-03-01T03:30"))
        assert decision == Decision(marker=marker, next=at("2026-03-01T06:00"))

    def test_a_long_outage_is_counted_up_to_many(self) -> None:
        decision = due(schedule(every(seconds=1)), at("2026-03-01T00:00"), at("2026-03-08T00:00"))
        assert [s.count for s in decision.skips] == [MANY]

    @pytest.mark.parametrize("limit", [1_000_000, 50_000])
    @pytest.mark.parametrize("trigger", [every(seconds=1), cron("* * * * *")])
    def test_catching_up_with_a_week_costs_no_more_than_its_fire_times(
        self, trigger: Trigger, limit: int
    ) -> None:
        """Each decision looks at the hundred fire times that it decides, not at all that follow."""
        asked: list[datetime] = []

        class Counting(type(trigger)):  # type: ignore[misc]
            def _next(self, t: datetime) -> datetime | None:
                asked.append(t)
                found: datetime | None = super()._next(t)
                return found

            def _latest(self, t: datetime) -> datetime | None:
                asked.append(t)
                found: datetime | None = super()._latest(t)
                return found

        values = {f.name: getattr(trigger, f.name) for f in fields(trigger)}
        mine = declare(
            "s", Counting(**values), "tasks.x", {"catch_up": "all"} | {"catch_up_limit": limit}
        )
        start = datetime(2026, 3, 1, tzinfo=UTC)
        marker, now = start, start + timedelta(days=7)
        found: list[datetime] = []
        for _ in range(50):
            decision = due(mine, marker, now)
            assert len(decision.fire_times) == DECISION_LIMIT
            found += decision.fire_times
            marker = decision.marker
        assert found == sorted(set(found))
        week = (now - start) // trigger.shortest_gap
        assert found[0] == now - (min(week, limit) - 1) * trigger.shortest_gap
        assert len(asked) < 50 * (DECISION_LIMIT + 10)

    def test_once_is_over_after_it_fired(self) -> None:
        decision = due(
            schedule(once(at("2026-03-01T03:00"))), at("2026-03-01T00:00"), at("2026-03-01T03:00")
        )
        assert decision.fire_times == (at("2026-03-01T03:00"),)
        assert decision.next is None

    def test_an_outage_across_the_end_accounts_for_the_first_n_and_ends(self) -> None:
        trigger = every(hours=1, start=at("2026-03-01T00:00"), max_runs=4)
        marker, now = at("2026-02-28T12:00"), at("2026-03-02T00:00")
        decision = due(schedule(trigger), marker, now)
        assert decision.fire_times == (at("2026-03-01T03:00"),)
        assert [(s.reason, s.count) for s in decision.skips] == [("limit", 3)]
        assert decision.next is None
        every_one = due(schedule(trigger, catch_up="all"), marker, now)
        assert every_one.fire_times == tuple(at(f"2026-03-01T0{h}:00") for h in range(4))
        assert due(schedule(trigger), every_one.marker, now) == Decision(
            marker=every_one.marker, next=None
        )

    def test_jitter_moves_every_fire_time_by_the_same_offset(self) -> None:
        jittered = schedule(cron("0 * * * *"), jitter=600)
        offset = jittered.offset
        assert timedelta(0) < offset < timedelta(minutes=10)
        marker = at("2026-03-01T00:00") + offset
        decision = due(jittered, marker, at("2026-03-01T03:30"))
        assert decision.fire_times == (at("2026-03-01T03:00") + offset,)
        assert decision.skips[0].first == at("2026-03-01T01:00") + offset
        assert schedule(cron("0 * * * *"), jitter=600).offset == offset

    @given(
        period=st.integers(10, 5000),
        cuts=st.lists(st.integers(0, 400_000), min_size=1, max_size=12),
        limit=st.integers(1, 1000),
    )
    def test_no_fire_time_is_lost_or_doubled_wherever_time_is_cut(
        self, period: int, cuts: list[int], limit: int
    ) -> None:
        sometimes = schedule(every(milliseconds=period), catch_up="all", catch_up_limit=limit)
        start = marker = at("2026-03-01T00:00")
        for cut in sorted(cuts):
            now = start + timedelta(milliseconds=cut)
            while (decision := due(sometimes, marker, now)).marker > marker:
                assert all(marker < t <= now for t in decision.fire_times)
                assert len(decision.fire_times) <= DECISION_LIMIT
                skipped = sum(s.count for s in decision.skips)
                span = sometimes.trigger.count(marker, decision.marker)
                if span < MANY:
                    assert skipped + len(decision.fire_times) == span
                marker = decision.marker
            assert decision.next is not None
            assert decision.next > now
        latest = sometimes.trigger.latest_at(start + timedelta(milliseconds=max(cuts)))
        assert latest is not None
        assert marker == max(start, latest)


class TestBlocks:
    """From midnight on, hourly: a pause from 1:30 to 4:30, or requests to skip."""

    MIDNIGHT = at("2026-03-01T00:00")

    def pause(self, owes: str = "", until: str = "04:30", **more: Any) -> Block:
        end = at(f"2026-03-01T{until}") if until else FOR_EVER
        return Block("paused", at("2026-03-01T01:30"), end, owes, **more)

    def history(self, now: str, *blocks: Block, closing: bool = False, **options: Any) -> list[str]:
        """Return what is decided from midnight on: runs as hours, the others as words."""
        found, marker = [], self.MIDNIGHT
        hourly, instant = schedule(cron("0 * * * *"), **options), at(f"2026-03-01T{now}")
        while (d := due(hourly, marker, instant, blocks, closing=closing)).decides:
            found += [f"{s.reason} {s.first:%H}-{s.last:%H} {s.count}" for s in d.skips]
            found += [f"{t:%H}" for t in d.fire_times]
            found += [f"backfill {b.first:%H}-{b.last:%H} {b.count}"] if (b := d.backfill) else []
            marker = d.marker
        if h := d.held:
            found.append(f"held {h.first:%H}-{h.last:%H} {h.count}")
            assert d.next == next(b.until for b in blocks if b.at(instant)) or d.next is None
        else:
            assert d.next is not None
            assert d.next > instant
        return found

    def test_a_pause_accounts_for_its_fire_times_whenever_they_are_decided(self) -> None:
        assert self.history("04:15", self.pause(), catch_up="all") == ["held 01-01 1"]
        assert self.history("06:30", self.pause(), catch_up="all") == [
            "01", "paused 02-04 3", "05", "06",
        ]  # fmt: skip

    def test_before_and_after_a_pause_the_policy_decides(self) -> None:
        assert self.history("07:30", self.pause()) == [
            "01", "paused 02-04 3", "limit 05-06 2", "07",
        ]  # fmt: skip
        window = timedelta(hours=2)
        assert self.history("07:30", self.pause(), catch_up="all", catch_up_window=window) == [
            "window 01-01 1", "paused 02-04 3", "window 05-05 1", "06", "07",
        ]  # fmt: skip

    def test_nothing_is_enqueued_while_a_pause_is_in_force(self) -> None:
        assert self.history("03:30", self.pause()) == ["held 01-01 1"]
        assert self.history("03:30", self.pause(until="", whole=True)) == ["held 01-01 1"]

    @pytest.mark.parametrize(
        ("owes", "options", "expected"),
        [
            ("latest", {}, ["paused 02-03 2", "04"]),
            ("all", {}, ["backfill 02-04 3"]),
            (
                "all",
                {"catch_up": "all", "catch_up_limit": 2},
                ["limit 02-02 1", "backfill 03-04 2"],
            ),
            ("all", {"catch_up_window": 5400}, ["window 02-02 1", "backfill 03-04 2"]),
            ("latest", {"catch_up_window": 60}, ["window 02-04 3"]),
        ],
    )
    def test_a_pause_that_owes_runs_holds_them_to_its_end(
        self, owes: str, options: dict[str, Any], expected: list[str]
    ) -> None:
        pause, first = self.pause(owes), at("2026-03-01T01:00")
        hourly = schedule(cron("0 * * * *"), **options)
        during = due(hourly, first, at("2026-03-01T03:30"), [pause])
        held = Span(at("2026-03-01T02:00"), at("2026-03-01T03:00"), 2)
        if options.get("catch_up_window") != 60:
            assert during == Decision(marker=first, next=pause.until, held=held)
        late = self.history("23:30", pause, **options)
        assert [step for step in late if step in expected] == expected

    def test_what_a_pause_owes_waits_for_the_pause_of_all(self) -> None:
        everything = Block("paused", at("2026-03-01T04:00"), at("2026-03-01T05:30"), whole=True)
        assert self.history("05:15", self.pause("latest"), everything) == ["held 01-01 1"]
        first, hourly = at("2026-03-01T01:00"), schedule(cron("0 * * * *"))
        blocks = [self.pause("latest"), everything]
        held = due(hourly, first, at("2026-03-01T05:15"), blocks)
        assert held.held == Span(at("2026-03-01T02:00"), at("2026-03-01T04:00"), 3)
        assert held.held_by_all
        assert self.history("06:15", self.pause("latest"), everything)[1:] == [
            "paused 02-03 2", "04", "paused 05-05 1", "06",
        ]  # fmt: skip

    def test_a_trigger_that_goes_leaves_a_backfill_of_what_it_owes(self) -> None:
        for owes, expected in (("latest", "backfill 03-03 1"), ("all", "backfill 02-03 2")):
            found = self.history("03:30", self.pause(owes, until=""), closing=True)
            assert found[0] == "backfill 01-01 1"
            assert found[-1] == expected

    def test_a_request_skips_as_many_as_it_names(self) -> None:
        request = Block("requested", at("2026-03-01T01:30"), count=2)
        half_hourly = schedule(cron("*/30 * * * *"))
        first = due(half_hourly, at("2026-03-01T01:30"), at("2026-03-01T04:00"), [request])
        assert (first.requested, first.marker) == (2, at("2026-03-01T02:30"))
        assert first.next == at("2026-03-01T03:00")

    def test_a_one_off_job_waits_for_the_end_of_a_pause(self) -> None:
        job, marker = schedule(once(at("2026-03-01T02:00"))), self.MIDNIGHT
        held = due(job, marker, at("2026-03-01T03:00"), [self.pause()])
        assert (held.decides, held.next) == (False, self.pause().until)
        ran = due(job, marker, at("2026-03-01T04:30"), [self.pause()])
        assert ran.fire_times == (at("2026-03-01T02:00"),)

    @given(
        cuts=st.lists(st.integers(1, 2000), min_size=1, max_size=8),
        edges=st.lists(st.integers(0, 2000), min_size=4, max_size=4),
        owes=st.sampled_from(["", "latest", "all"]),
        skips=st.integers(0, 5),
        catch_up=st.sampled_from(["latest", "all", "none"]),
    )
    def test_each_fire_time_is_decided_once_whatever_blocks_it(
        self, cuts: list[int], edges: list[int], owes: str, skips: int, catch_up: str
    ) -> None:
        minute, start = timedelta(minutes=1), self.MIDNIGHT
        a, b, c, d = (start + edge * minute for edge in edges)
        often, left = schedule(every(minutes=7), catch_up=catch_up), skips
        marker = start
        for cut in [*sorted(cuts), 5000]:
            now = start + cut * minute
            while True:
                blocks = [
                    Block("paused", a, max(a, b), owes),
                    Block("paused", c, max(c, d), whole=True),
                ]
                blocks += [Block("requested", a, count=left)] if left else []
                decision = due(often, marker, now, blocks)
                if not decision.decides:
                    break
                owed = decision.backfill.count if decision.backfill else 0
                decided = sum(s.count for s in decision.skips) + len(decision.fire_times) + owed
                assert decided == often.trigger.count(marker, decision.marker)
                if any(block.reason == "paused" and block.at(now) for block in blocks):
                    assert not decision.fire_times
                    assert not decision.backfill
                left -= decision.requested
                marker = decision.marker
        assert decision.next
        assert decision.next > now


class TestDeclaration:
    def test_every_fault_is_reported_at_once(self) -> None:
        with pytest.raises(ScheduleError) as caught, deferred_faults():
            declare("no name", cron("61 3 * * *", tz="Mars/Base"), "x", {"retries": -1})
        lines = str(caught.value).splitlines()
        assert len(lines) == 5
        assert all(line.startswith("no name: ") for line in lines)

    def test_a_wrong_field_is_named_with_what_was_expected(self) -> None:
        with deferred_faults():
            found = faults(cron("61 3 * * *"))
        assert found == ["nightly: expected minute 0-59, got '61' in '61 3 * * *'"]

    def test_an_unknown_option_is_named_with_its_neighbour(self) -> None:
        assert faults(que="reports") == ["nightly: unknown option 'que'; did you mean 'queue'?"]

    def test_an_unknown_option_does_not_hide_other_faults(self) -> None:
        assert len(faults(que="reports", timeout=0)) == 2

    @pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 101, "a/b", "a:b", "a\n"])
    def test_an_illegal_name_is_refused(self, name: str) -> None:
        with pytest.raises(ScheduleError, match="expected a name of 1-100 letters"):
            declare(name, every(minutes=1), "tasks.demo.heartbeat", {})

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("heartbeat", "expected a dotted name"),
            ("tasks..x", "expected a dotted name"),
            (7, "expected a function or its dotted name"),
            (lambda: None, "can import by name"),
            ("__main__.f", "workers cannot import"),
        ],
    )
    def test_a_target_that_no_worker_can_import_is_refused(self, target: Any, reason: str) -> None:
        assert reason in faults(target=target)[0]

    def test_a_function_is_stored_as_its_dotted_name(self) -> None:
        from tasks.demo import heartbeat

        assert declare("x", every(minutes=1), heartbeat, {}).target == "tasks.demo.heartbeat"

    @pytest.mark.parametrize(
        ("options", "place"),
        [
            ({"args": [datetime(2026, 1, 1, tzinfo=UTC)]}, "args[0]"),
            ({"kwargs": {"day": {"of": [1, {2}]}}}, "kwargs['day']['of'][1]"),
            ({"kwargs": {1: "x"}}, "kwargs"),
            ({"args": [float("nan")]}, "args[0]"),
        ],
    )
    def test_arguments_that_are_not_json_are_refused_with_their_place(
        self, options: dict[str, Any], place: str
    ) -> None:
        assert f"in {place}, got" in faults(**options)[0]

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"timeout": 0}, "expected timeout in whole seconds"),
            ({"timeout": 1.5}, "expected timeout in whole seconds"),
            ({"result_ttl": "1h"}, "expected result_ttl in whole seconds"),
            ({"retries": [10, -1]}, "or a list of delays in whole seconds"),
            ({"retries": []}, "or a list of delays in whole seconds"),
            ({"retries": True}, "expected retries to be a count"),
            ({"catch_up": "some"}, "expected catch_up 'latest', 'all' or 'none', got 'some'"),
            ({"catch_up": "all", "overlap": "skip"}, "every fire time matters"),
            ({"catch_up_limit": 5}, "catch_up_limit goes with catch_up='all'"),
            ({"catch_up": "all", "catch_up_limit": 0}, "1 to 1,000,000, got 0"),
            ({"catch_up": "none", "catch_up_window": 5}, "nothing to bound"),
            ({"catch_up_window": -1}, "expected catch_up_window as timedelta or seconds"),
            ({"jitter": "5m"}, "expected jitter as timedelta or seconds"),
            ({"overlap": "queue"}, "expected overlap 'skip' or 'allow', got 'queue'"),
            ({"queue": ""}, "expected queue to be a name of 1-200 characters"),
            ({"queue": "x" * 201}, "expected queue to be a name of 1-200 characters"),
            ({"tags": "daily"}, "expected tags to be a list of words"),
            ({"renamed_from": "nightly"}, "expected renamed_from to differ"),
            ({"group": "shop 42"}, "expected group as 1-100 characters without spaces"),
            ({"group": 42}, "expected group as 1-100 characters without spaces"),
            ({"group_limit": 2}, "group_limit goes with group"),
            ({"group": "shop-42", "group_limit": 0}, "1 to 1,000,000, got 0"),
            ({"catch_up_window": timedelta.max}, "at most 50 years"),
            ({"catch_up_window": 1e11}, "at most 50 years"),
            ({"catch_up_window": float("inf")}, "at most 50 years, got inf"),
            ({"catch_up_window": float("nan")}, "at most 50 years, got nan"),
            ({"jitter": timedelta.max}, "at most 50 years"),
            ({"jitter": float("nan")}, "at most 50 years, got nan"),
            ({"timeout": 10**5000}, "at most 50 years, or -1"),
            ({"failure_ttl": 10**10}, "at most 50 years, or -1"),
            ({"retries": 10**5000}, "expected retries to be a count"),
            ({"catch_up": "all", "catch_up_limit": 10**5000}, "expected catch_up_limit"),
            ({"args": [nested(989)]}, "nested at most 64 deep"),
            ({"args": [nested(64)]}, "nested at most 64 deep"),
            ({"args": [endless()]}, "nested at most 64 deep"),
            ({"args": ["a\udc80"]}, "text that UTF-8 can hold in args[0], got 'a\\udc80'"),
            ({"kwargs": {"a": ["\ud800"]}}, "text that UTF-8 can hold in kwargs['a'][0]"),
            ({"kwargs": {"\ud800": 1}}, "text that UTF-8 can hold as a key in kwargs"),
            ({"tags": ["\ud800"]}, "expected tags to be a list of words"),
            ({"group": "\ud800"}, "expected group as 1-100 characters"),
            ({"kwargs": {"n": 10**5000}}, "at most 4,200 digits in kwargs['n']"),
            ({"args": ["x" * 300_000, "y" * 300_000]}, "at most 512 kB as JSON, got 585 kB"),
            ({"args": [[0] * 600_000]}, "at most 512 kB as JSON"),
        ],
    )
    def test_an_option_that_cannot_be_kept_is_refused(
        self, options: dict[str, Any], reason: str
    ) -> None:
        assert reason in faults(**options)[0]

    def test_an_instant_at_the_end_of_the_calendar_is_refused(self) -> None:
        for last in (datetime.max.replace(tzinfo=UTC), at("9999-12-31T00:00")):
            with pytest.raises(ScheduleError, match="up to the year 9899"):
                once(last)

    def test_what_fits_just_so_is_kept(self) -> None:
        half, years = "x" * 250_000, timedelta(days=50 * 366)
        kept = schedule(
            once(at("9899-12-31T23:59")),
            args=[nested(63), 10**4200, "\U0001f600"],
            kwargs={"a": half, "b": half},
            catch_up_window=years,
            jitter=years,
        )
        assert from_definition("nightly", kept.definition()) == kept
        assert kept.next_after(at("2026-01-01T00:00")) == at("9899-12-31T23:59") + kept.offset

    def test_a_command_of_text_that_utf8_cannot_hold_is_refused(self) -> None:
        for target in (
            command("a\ud800"),
            command("a", cwd="\ud800"),
            command("a", env={"A": "\ud800"}),
        ):
            with pytest.raises(ScheduleError, match="expected"):
                declare("x", every(minutes=1), target, {})

    def test_no_trigger_is_refused(self) -> None:
        assert "expected a trigger, cron(…), every(…) or once(…)" in faults("0 3 * * *")[0]

    def test_overlap_follows_catch_up_by_default(self) -> None:
        assert HOURLY.overlap == "skip"
        assert ALL.overlap == "allow"
        assert schedule(every(minutes=1), overlap="allow").overlap == "allow"


class TestDefinition:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"catch_up": "all"},
            {"overlap": "allow"},
            {"args": [1, "zwei", None], "kwargs": {"full": False}},
            {"queue": "reports", "timeout": 90, "retries": [5, 60], "tags": ["daily"]},
            {"catch_up": "all", "catch_up_window": 5400, "catch_up_limit": 7, "jitter": 0.25},
            {"result_ttl": -1, "failure_ttl": timedelta(days=1)},
        ],
    )
    def test_what_is_stored_is_read_back_the_same(self, options: dict[str, Any]) -> None:
        for trigger in (
            cron("0 3 * * *", tz="Europe/Berlin"),
            every(seconds=90, anchor=at("2026-03-01T00:00:30")),
            once(at("2026-03-01T03:00")),
        ):
            declared = schedule(trigger, **options)
            assert from_definition("nightly", declared.definition()) == declared

    def test_schedules_that_differ_in_name_and_trigger_are_read_apart(self) -> None:
        for name, trigger in (
            ("a", every(hours=1)),
            ("b", cron("0 3 * * *")),
            ("a-2", every(days=1)),
        ):
            written = declare(name, trigger, "tasks.x", {"args": [1, {"two": []}], "timeout": 9})
            assert from_definition(name, written.definition()) == written
        with pytest.raises(ScheduleError, match="expected a name"):
            from_definition("no name", written.definition())

    def test_defaults_are_not_stored(self) -> None:
        assert schedule(every(minutes=1)).definition() == (
            '{"every":60000,"func":"tasks.demo.heartbeat"}'
        )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{",
            '{"func":"a.b"}',
            '{"every":60000}',
            '{"every":60000,"func":"a.b","new":1}',
            "[" * 100_000,
            '{"every":60000,"func":"a.b","jitter":NaN}',
            "\ud800",
            b"\xff",
        ],
    )
    def test_a_definition_that_cannot_be_read_is_a_schedule_error(self, text: str) -> None:
        with pytest.raises(ScheduleError, match="nightly"):
            from_definition("nightly", text)
