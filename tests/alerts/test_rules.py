"""Which edges there are, with every instant written down. Pure: nothing but the board."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from rq_clock.alerts.rules import (
    ALERT_LIMIT,
    BEGAN,
    FAILING,
    FORGOTTEN,
    GOES_ON,
    HOST_FAILURES,
    LATE,
    LISTED,
    MEMORY,
    NO_WORKER,
    QUIET,
    RECOVERED,
    STUCK,
    Alert,
    Edge,
    OpenAlerts,
    report,
    summary,
)
from rq_clock.model.callbacks import CallbacksStatus, FailingHost
from rq_clock.model.verdict import Thresholds

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def board(*, failures: int = 1, kept: dict[str, str] | None = None) -> OpenAlerts:
    return OpenAlerts(Thresholds(failures=failures), kept or {})


def news(of: OpenAlerts) -> list[tuple[str, str]]:
    """State and field of each edge since the last time."""
    return [(edge.state, edge.alert.field) for edge in of.drain()[0]]


class Kept(dict[str, str]):
    """What is kept of a board, as the script does it."""

    def keep(self, of: OpenAlerts) -> list[tuple[str, str]]:
        edges, changes = of.drain()
        for field, text in changes.items():
            if text:
                self[field] = text
            else:
                del self[field]
        return [(edge.state, edge.alert.field) for edge in edges]


class TestFailing:
    def test_only_the_first_failure_is_reported(self) -> None:
        b = board()
        for minute in range(3):
            b.failed("s", NOON + minute * MINUTE, "no", NOON + minute * MINUTE)
        assert news(b) == [(BEGAN, "failing:s")]
        b.failed("s", NOON + HOUR, "no", NOON + HOUR)
        assert news(b) == []
        assert [a.count for a in b.open] == [4]

    def test_it_is_reported_after_the_configured_number_in_a_row(self) -> None:
        b = board(failures=3)
        b.failed("s", NOON, "no", NOON)
        b.failed("s", NOON, "no", NOON)
        assert news(b) == []
        b.succeeded("s", NOON)
        b.failed("s", NOON, "no", NOON)
        b.failed("s", NOON, "no", NOON)
        assert news(b) == []
        b.failed("s", NOON, "no", NOON)
        assert news(b) == [(BEGAN, "failing:s")]

    def test_the_next_success_ends_it_once(self) -> None:
        b = board()
        b.failed("s", NOON, "no", NOON)
        b.succeeded("s", NOON + MINUTE)
        b.succeeded("s", NOON + 2 * MINUTE)
        assert news(b) == [(BEGAN, "failing:s"), (RECOVERED, "failing:s")]
        assert b.open == []

    def test_an_alert_that_was_never_reported_ends_without_a_report(self) -> None:
        b = board(failures=2)
        b.failed("s", NOON, "no", NOON)
        b.succeeded("s", NOON)
        assert news(b) == []

    def test_it_is_called_to_mind_once_a_day(self) -> None:
        b = board()
        b.failed("s", NOON, "no", NOON)
        b.drain()
        reported = []
        for hour in range(1, 73):
            b.check(set(), set(), NOON + hour * HOUR)
            reported += [(hour, state) for state, _ in news(b)]
        assert reported == [(24, GOES_ON), (48, GOES_ON), (72, GOES_ON)]

    def test_schedules_fail_for_themselves(self) -> None:
        b = board(failures=2)
        b.failed("a", NOON, "no", NOON)
        b.failed("b", NOON, "no", NOON)
        b.succeeded("b", NOON)
        b.failed("a", NOON, "no", NOON)
        assert news(b) == [(BEGAN, "failing:a")]


class TestLate:
    def test_a_fire_time_that_stays_undecided_is_reported_once(self) -> None:
        b = board()
        for look in range(10):
            b.late("s", NOON, "is undecided", NOON + MINUTE + look * 5 * SECOND)
        assert news(b) == [(BEGAN, "late:s")]
        b.late("s", NOON, "was enqueued 120 s late", NOON + 2 * MINUTE)
        assert news(b) == []
        assert [(a.count, a.last, a.detail) for a in b.open] == [
            (1, NOON, "was enqueued 120 s late")
        ]

    def test_the_next_one_on_time_ends_it(self) -> None:
        b = board()
        b.late("s", NOON, "is undecided", NOON + MINUTE)
        b.late("s", NOON + HOUR, "was enqueued 90 s late", NOON + HOUR + 90 * SECOND)
        assert [a.count for a in b.open] == [2]
        b.on_time("s", NOON + 2 * HOUR)
        assert news(b) == [(BEGAN, "late:s"), (RECOVERED, "late:s")]

    def test_time_alone_does_not_call_it_to_mind(self) -> None:
        """A yearly schedule that was late once is not late all year."""
        b = board()
        b.late("s", NOON, "was enqueued 90 s late", NOON)
        b.drain()
        b.check(set(), set(), NOON + 100 * HOUR)
        assert news(b) == []
        b.late("s", NOON, "is undecided", NOON + 100 * HOUR)
        assert news(b) == [(GOES_ON, "late:s")]

    def test_after_an_outage_a_bounded_number_is_kept_and_the_others_do_no_harm(self) -> None:
        b = board()
        for i in range(ALERT_LIMIT + 10):
            b.late(f"s{i}", NOON, "was enqueued 90 s late", NOON)
        b.failed("other", NOON, "no", NOON)
        edges, changes = b.drain()
        assert len(edges) == len(changes) == ALERT_LIMIT + 1
        for i in range(ALERT_LIMIT + 10):
            b.on_time(f"s{i}", NOON + HOUR)
        assert summary(b.drain()[0]) == {RECOVERED: ALERT_LIMIT}
        b.late("again", NOON, "was enqueued 90 s late", NOON)
        assert news(b) == [(BEGAN, "late:again")]


class TestStuck:
    def test_it_is_reported_when_the_job_has_blocked_its_schedule_for_an_hour(self) -> None:
        b = board()
        b.blocked("s", NOON, "default-s-1")
        reported = []
        for minute in range(121):
            now = NOON + minute * MINUTE
            b.blocked("s", now, "default-s-1")
            b.check({"default-s-1"}, set(), now)
            reported += [(minute, *edge) for edge in news(b)]
        assert reported == [(60, BEGAN, "stuck:s")]
        assert b.jobs() == ["default-s-1"]

    def test_the_jobs_end_ends_it_before_the_next_fire_time(self) -> None:
        b = board()
        b.blocked("daily", NOON, "default-daily-1")
        b.check(set(), set(), NOON + 10 * MINUTE)
        assert b.open == []
        b.blocked("daily", NOON + 24 * HOUR, "default-daily-2")
        b.check({"default-daily-2"}, set(), NOON + 24 * HOUR + 10 * MINUTE)
        assert news(b) == []
        b.check({"default-daily-2"}, set(), NOON + 26 * HOUR)
        b.check(set(), set(), NOON + 27 * HOUR)
        assert news(b) == [(BEGAN, "stuck:daily"), (RECOVERED, "stuck:daily")]

    def test_a_fire_time_that_is_enqueued_ends_it(self) -> None:
        b = board()
        b.blocked("s", NOON, "j")
        b.unblocked("s", NOON + MINUTE)
        b.check({"j"}, set(), NOON + 2 * HOUR)
        assert news(b) == []


class TestNoWorker:
    def test_it_is_reported_after_a_minute_and_ends_with_the_first_worker(self) -> None:
        b = board()
        reported = []
        for second in range(0, 200, 5):
            queues = {"reports"} if second < 120 else set()
            b.check(set(), queues, NOON + second * SECOND)
            reported += [(second, *edge) for edge in news(b)]
        assert reported == [(60, BEGAN, "no-worker:reports"), (120, RECOVERED, "no-worker:reports")]

    def test_a_queue_that_waits_for_moments_is_not_reported(self) -> None:
        b = board()
        for second in range(0, 600, 5):
            b.check(set(), {"reports"} if second % 50 else set(), NOON + second * SECOND)
        assert news(b) == []


class TestMemory:
    def test_it_is_reported_once_at_80_percent_and_ends_below_75(self) -> None:
        b = board()
        reported = []
        for minute, used in enumerate([0.79, 0.80, 0.99, 0.78, 0.85, 0.75, 0.74, 0.79, 0.80]):
            b.memory(used, "the detail", NOON + minute * MINUTE)
            b.check(set(), set(), NOON + minute * MINUTE)
            reported += [(minute, *edge) for edge in news(b)]
        field = "memory:redis"
        assert reported == [(1, BEGAN, field), (6, RECOVERED, field), (8, BEGAN, field)]

    def test_a_day_later_it_is_reported_again_with_the_present_detail(self) -> None:
        kept = Kept()
        board_before = board(kept=kept)
        board_before.memory(0.8, "80%", NOON)
        kept.keep(board_before)
        b = board(kept=kept)
        b.memory(0.9, "90%", NOON + 23 * HOUR)
        assert kept.keep(b) == []
        b.memory(0.9, "90%", NOON + 24 * HOUR)
        [edge] = b.drain()[0]
        assert (edge.state, edge.text) == (GOES_ON, "still memory: 90%")

    def test_a_schedule_of_the_same_name_neither_ends_it_nor_has_it(self) -> None:
        b = board()
        b.memory(0.8, "80%", NOON)
        b.drop({"redis"})
        assert [alert.field for alert in b.open] == ["memory:redis"]
        assert b.schedules() == set()


class TestKeeping:
    def test_a_restart_repeats_no_report_and_counts_on(self) -> None:
        kept = Kept()
        reported = []
        for _restart in range(4):
            b = board(failures=3, kept=kept)
            b.failed("s", NOON, "no", NOON)
            b.late("t", NOON, "is undecided", NOON + MINUTE)
            reported.append(kept.keep(b))
        assert reported == [[(BEGAN, "late:t")], [], [(BEGAN, "failing:s")], []]
        b = board(kept=kept)
        b.succeeded("s", NOON + HOUR)
        b.on_time("t", NOON + HOUR)
        assert kept.keep(b) == [(RECOVERED, "failing:s"), (RECOVERED, "late:t")]
        assert kept == {}

    def test_the_day_until_a_reminder_goes_on_over_a_restart(self) -> None:
        kept = Kept()
        b = board(kept=kept)
        b.failed("s", NOON, "no", NOON)
        kept.keep(b)
        b = board(kept=kept)
        b.check(set(), set(), NOON + 23 * HOUR)
        assert kept.keep(b) == []
        b.check(set(), set(), NOON + 24 * HOUR)
        assert kept.keep(b) == [(GOES_ON, "failing:s")]

    def test_what_has_not_changed_is_not_written_again(self) -> None:
        b = board()
        b.late("s", NOON, "is undecided", NOON + MINUTE)
        assert list(b.drain()[1]) == ["late:s"]
        b.late("s", NOON, "is undecided", NOON + 2 * MINUTE)
        assert b.drain() == ([], {})

    def test_what_opens_and_ends_between_two_takes_is_not_written_at_all(self) -> None:
        b = board()
        b.blocked("s", NOON, "j")
        b.unblocked("s", NOON)
        assert b.drain() == ([], {})

    def test_what_a_later_release_wrote_is_left_alone(self) -> None:
        kept = Kept({"failing:s": '{"since": "tomorrow"}', "late:t": "[]", "late:u": "{"})
        b = board(kept=kept)
        assert b.open == []
        b.check(set(), set(), NOON)
        assert b.drain() == ([], {})

    def test_an_alert_is_the_same_after_it_was_kept(self) -> None:
        alert = Alert(
            kind=NO_WORKER, subject="a:b c", since=NOON, last=NOON + SECOND, count=7,
            reported=NOON + MINUTE, detail='"ü"',
        )  # fmt: skip
        assert Alert.read(alert.field, alert.to_json()) == alert

    def test_a_dropped_schedule_has_no_alerts_and_no_recovery(self) -> None:
        b = board(kept=Kept())
        b.failed("gone", NOON, "no", NOON)
        b.blocked("gone", NOON, "j")
        b.late("kept", NOON, "is undecided", NOON)
        b.check({"j"}, {"gone"}, NOON)
        b.drain()
        b.drop({"gone"})
        edges, changes = b.drain()
        assert (edges, changes) == ([], {"failing:gone": "", "stuck:gone": ""})
        assert [a.field for a in b.open] == ["late:kept", "no-worker:gone"]
        assert b.schedules() == {"kept"}


def edge(kind: str, subject: str, state: str = BEGAN) -> Edge:
    alert = Alert(kind=kind, subject=subject, since=NOON, last=NOON, detail="ValueError: no")
    return Edge(state, alert, NOON)


class TestReport:
    def test_one_edge_has_a_text_and_facts(self) -> None:
        found = report([edge(FAILING, "nightly")], "shop", NOON)
        assert found.title == (
            "[shop] failing: nightly, failed once since 2026-03-01T12:00:00Z: ValueError: no"
        )
        assert found.text == found.title
        assert found.facts == {
            "kind": "failing", "state": "began", "schedule": "nightly", "namespace": "shop",
            "since": "2026-03-01T12:00:00Z", "last": "2026-03-01T12:00:00Z", "count": 1,
            "detail": "ValueError: no", "at": "2026-03-01T12:00:00Z",
        }  # fmt: skip

    def test_every_kind_and_state_has_its_text(self) -> None:
        text = {
            edge(kind, "x", state).text
            for kind in (LATE, FAILING, STUCK, NO_WORKER, MEMORY)
            for state in (BEGAN, GOES_ON, RECOVERED)
        }
        assert len(text) == 15
        assert "recovered: queue x, no-worker since 2026-03-01T12:00:00Z" in text
        assert (
            "still no-worker: queue x, jobs wait since 2026-03-01T12:00:00Z and no worker "
            "serves them" in text
        )

    def test_the_server_is_called_a_server(self) -> None:
        facts = report([edge(MEMORY, "redis")], "default", NOON).facts
        assert (facts["kind"], facts["server"]) == ("memory", "redis")
        assert "schedule" not in facts

    def test_a_queue_is_called_a_queue(self) -> None:
        facts = report([edge(NO_WORKER, "reports")], "default", NOON).facts
        assert facts["queue"] == "reports"
        assert "schedule" not in facts

    def test_many_are_summed_up_and_the_first_of_them_named(self) -> None:
        edges = [edge(LATE, f"s{i}") for i in range(200)] + [edge(FAILING, "t", RECOVERED)]
        found = report(edges, "default", NOON)
        assert found.title == "[default] 200 late, 1 recovered"
        assert (found.facts["kind"], found.facts["count"]) == ("digest", 201)
        assert len(found.facts["alerts"]) == LISTED
        assert found.text.splitlines()[-1] == "… and 101 more"
        assert json.loads(json.dumps(dict(found.facts))) == found.facts

    def test_the_same_edges_have_the_same_id_and_others_another(self) -> None:
        later = Edge(BEGAN, edge(FAILING, "a").alert, NOON + HOUR)
        reports = [[edge(FAILING, "a")], [edge(FAILING, "a", RECOVERED)], [later]]
        ids = [report(edges, "default", NOON).id for edges in reports for _ in range(2)]
        assert ids[::2] == ids[1::2]
        assert len(set(ids)) == 3


class TestTime:
    def test_it_is_reported_once_a_day_and_when_it_is_over(self) -> None:
        b = board()
        for minute in (0, 1, 2):
            b.time("it went back by 90 s", NOON + minute * MINUTE)
        [edge] = b.drain()[0]
        assert (edge.state, edge.text) == (BEGAN, "time: it went back by 90 s")
        assert edge.facts["server"] == "redis"
        b.time("it went back by 90 s", NOON + 25 * HOUR)
        assert news(b) == [(GOES_ON, "time:redis")]
        b.time("", NOON + 26 * HOUR)
        assert news(b) == [(RECOVERED, "time:redis")]

    def test_without_a_fault_there_is_none(self) -> None:
        b = board()
        b.time("", NOON)
        assert news(b) == []


def callbacks(at: datetime, *hosts: FailingHost, stale: int = 0) -> CallbacksStatus:
    return CallbacksStatus(
        now=at, waiting=0, calling=0, retrying=0, done=0, stale=stale, canceled=0, due=0,
        oldest_due=None, dispatchers=1, failing_hosts=hosts,
    )  # fmt: skip


def host(failures: int, minutes: int, name: str = "x.example") -> FailingHost:
    last = NOON + minutes * MINUTE
    return FailingHost(host=name, failures=failures, since=NOON, last=last, result="timeout")


class TestCallbacks:
    def test_tasks_that_fail_for_good_are_one_alert_until_an_hour_is_quiet(self) -> None:
        b = board()
        for minute, new in ((0, 3), (1, 0), (2, 1)):
            b.stale(new, callbacks(NOON + minute * MINUTE, stale=4))
        [edge] = b.drain()[0]
        assert (edge.state, edge.alert.field) == (BEGAN, "stale:callbacks")
        assert edge.text == "stale: 3 tasks have failed for good, 4 are stale; retry or delete them"
        assert edge.facts["queue"] == "callbacks"
        b.check([], None, NOON + 2 * MINUTE + QUIET - SECOND)
        assert news(b) == []
        b.check([], None, NOON + 2 * MINUTE + QUIET)
        assert news(b) == [(RECOVERED, "stale:callbacks")]

    def test_a_host_that_only_fails_is_an_alert_until_it_answers(self) -> None:
        b = board()
        b.hosts(callbacks(NOON, host(HOST_FAILURES, 0)))
        b.hosts(callbacks(NOON + MINUTE, host(HOST_FAILURES - 1, 1)))
        assert news(b) == []
        for minute in (2, 3):
            b.hosts(callbacks(NOON + minute * MINUTE, host(HOST_FAILURES, minute)))
        [edge] = b.drain()[0]
        assert (edge.state, edge.alert.field) == (BEGAN, "host:x.example")
        assert "5 calls in a row failed since 2026-03-01T12:00:00Z, last: timeout" in edge.text
        assert edge.facts["host"] == "x.example"
        b.hosts(callbacks(NOON + 4 * MINUTE))
        assert news(b) == [(RECOVERED, "host:x.example")]

    def test_a_host_that_nobody_calls_any_more_is_forgotten(self) -> None:
        b = board()
        both = host(9, 1), host(9, 1, "y.example")
        b.hosts(callbacks(NOON + MINUTE, *both))
        assert news(b) == [(BEGAN, "host:x.example"), (BEGAN, "host:y.example")]
        later, still = NOON + MINUTE + FORGOTTEN, host(10, 2, "y.example")
        b.hosts(callbacks(NOON + 2 * MINUTE, both[0], still))
        for second in range(2):  # also while the record of its failures is kept
            b.check([], None, later + second * SECOND)
            b.hosts(callbacks(later + second * SECOND, both[0], still))
        assert news(b) == [(GOES_ON, "host:y.example")]
        assert [alert.field for alert in b.open] == ["host:y.example"]
        b.hosts(callbacks(later + MINUTE, both[0]))
        assert news(b) == [(RECOVERED, "host:y.example")]
        assert not b.open
