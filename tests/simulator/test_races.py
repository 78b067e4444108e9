"""Editors and clocks that get in each other's way: nothing is lost, nothing doubled.

First by hand, on a wall clock that the test moves (races.py) and against records of its own
(records.py); what was found that way stands below it as a list of steps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from redis import Redis

from rq_clock.errors import Conflict, ConflictKind, ScheduleError, StoreUnavailable
from rq_clock.schedules.edits import ALL
from rq_clock.schedules.service import Schedules
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.timing.triggers import every, once
from tests.simulator.races import MIDNIGHT, Leader, Wall, editor, line_to
from tests.simulator.records import (
    OWED,
    PREFIX,
    QUEUE,
    Ledger,
    Policy,
    Records,
    Times,
    all_keys,
    offset_of,
)

TASK = "tasks.nothing"
EVERY_ONE = {"catch_up": "all", "catch_up_limit": 1_000_000}
NAMES = ("a", "b")
ONCES = ("once-k", "once-l")
TRIGGERS = ((1000, 0), (1000, 300), (1500, 0), (7000, 0), (20_000, 0))
"""Periods and anchors."""
FIRST = (*TRIGGERS[0], 0)
"""Period, anchor and jitter of a schedule at first."""
STEPS = (0, 1, 250, 1000, 1000, 2700, 12_000, 25_000)
"""How long nothing is done, in ms."""
ALL_OF_THEM = Policy("all", "allow", 30)
"""A pause that lasted long still ends soon enough."""
POLICIES = (
    ALL_OF_THEM,
    ALL_OF_THEM,
    Policy("all", "allow", 4),
    Policy("latest", "skip"),
    Policy("latest", "allow", window=20_000),
    Policy("none", "skip"),
)

rules = st.tuples(st.sampled_from(TRIGGERS), st.sampled_from([0, 0, 900, 30_000])).map(
    lambda one: (*one[0], one[1])
)
steps = st.sampled_from(STEPS)
missed = st.sampled_from(["skip", "latest", "all", "all"])
policies = st.sampled_from(POLICIES)
options = st.sampled_from([{"overlap": "allow"}, {"overlap": "skip"}, {"tags": ["x"]}])
spans = st.tuples(st.integers(0, 12), st.integers(0, 6))
asides = st.tuples(
    st.just("meanwhile"),
    st.integers(1, 9),
    st.sampled_from([0, 1, 250, 1000]),
    st.sampled_from(["finish", "finish", "finish", "lead", "edit"]),
    st.sampled_from(
        [
            ("update_options", {"tags": ["y"]}),
            ("pause", 2700, "all"),
            ("pause", None, "latest"),
            ("resume", None),
            ("skip", 2),
            ("remove",),
        ]
    ),
)
breaks = st.tuples(st.sampled_from(["request", "reply"]), st.integers(1, 12))
troubles = st.none() | asides | st.none() | asides | breaks
targets = st.sampled_from(["a", "a", "a", "b", ALL])


def actions(*values: Any) -> st.SearchStrategy[Any]:
    return st.tuples(*(v if isinstance(v, st.SearchStrategy) else st.just(v) for v in values))


def edits(*values: Any) -> st.SearchStrategy[Any]:
    return actions("edit", targets, actions(*values), troubles)


anything = st.one_of(
    edits("add", rules, policies),
    edits("update_times", rules),
    edits("update_jitter", st.sampled_from([0, 900, 30_000])),
    edits("update_options", options),
    edits("remove"),
    edits("pause", st.none() | steps, missed),
    edits("pause", st.none() | steps, missed),
    edits("resume", st.none() | st.none() | missed),
    edits("resume", st.none() | st.none() | missed),
    edits("skip", st.integers(0, 3)),
    edits("trigger", st.booleans()),
    edits("backfill", spans, st.integers(1, 3), st.booleans()),
    edits("cancel", st.integers(0, 9)),
    actions("one_off", st.sampled_from(ONCES), st.sampled_from([-5000, 0, 1, 1000, 20_000]),
            st.sampled_from(["once", "once", "pause", "remove", "move"]), troubles),
    actions("all_is_done"),
    actions("all_is_done"),
    actions("nothing_is_done"),
    actions("clock_turns", st.booleans(), st.integers(1, 3), st.none() | breaks),
    actions("clock_turns", st.booleans(), st.integers(1, 3), st.none() | breaks),
    actions("clock_backfills", troubles),
    actions("lead"),
    actions("a_deposed_clock_goes_on", st.integers(0, 9), st.integers(1, 3), st.booleans()),
    actions("jobs_end", st.sampled_from([1, 3, 10_000])),
)  # fmt: skip


def trigger_of(period: int, anchor: int) -> Any:
    return every(milliseconds=period, anchor=from_ms(anchor) if anchor else None)


def jitter_of(ms: int) -> timedelta | None:
    return timedelta(milliseconds=ms) if ms else None


def times_of(name: str, period: int, anchor: int, jitter: int) -> Times:
    return Times(period, anchor, offset_of(name, jitter))


class Races(RuleBasedStateMachine):
    """Editors, a leading clock and those that led before, workers, and the records."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.wall = Wall()
        self.raw: Any = Redis.from_url(url)
        self.raw.flushall()
        self.redis, self.fault = line_to(url, self.wall)
        self.records = Records(self.raw, NAMES)
        self.onces: dict[str, Counter[int]] = {name: Counter() for name in ONCES}
        """How often each instant of a one-off job was requested."""
        self.leaders = [Leader(url, self.wall, 1)]
        self.busy = False
        self.sound = True
        """Whether nothing has failed until now."""
        for name in NAMES:
            self.add(name, FIRST, ALL_OF_THEM, None)
        self.check()

    def teardown(self) -> None:
        try:
            if self.sound:
                self.come_to_rest()
        finally:
            for leader in self.leaders:
                leader.close()
            self.redis.close()
            self.raw.close()

    @property
    def leader(self) -> Leader:
        return self.leaders[-1]

    # ---- how a call goes ------------------------------------------------------------------

    def call(self, trouble: Any, verb: str, *args: Any, **options: Any) -> tuple[Any, range]:
        """Return the answer to an editor: a result, a ScheduleError, or None when it was lost; and
        the span of the call."""
        began, self.sound = self.wall.ms, False
        self.redis.ping()
        if trouble and not self.busy:
            kind, n, *aside = trouble
            self.fault.arm(kind, n, lambda: self.aside(*aside, *args[:1]))
        answer: Any = None
        try:
            answer = getattr(editor(self.redis), verb)(*args, **options)
            answer = "" if answer is None else answer
        except ScheduleError as error:
            answer = error
        except StoreUnavailable:
            assert trouble
        finally:
            self.fault.disarm()
            self.sound = False
        return answer, range(began, self.wall.ms + 1)

    def aside(self, step: int, action: str, edit: tuple[Any, ...], name: str) -> None:
        """What happens between two commands of a call."""
        self.busy = True
        self.check()
        self.wall.ms += step
        if action == "finish":
            self.leader.finish()
        elif action == "lead":
            self.lead()
        elif name in NAMES:
            verb, *values = edit
            getattr(self, verb)(name, *values, None)
        self.check()
        self.busy = False

    def exists(self, name: str) -> bool:
        return self.records.schedules[name].state is not None

    def refused(self, answer: Any, name: str, *others: str) -> bool:
        """Whether the call was refused, as it should if there is no such schedule. `others` are
        what else it may be refused for."""
        if not isinstance(answer, ScheduleError):
            return False
        if isinstance(answer, Conflict) and answer.kind is ConflictKind.MISSING:
            assert not self.exists(name)
        else:
            assert any(text in str(answer) for text in others), answer
        return True

    # ---- editors ------------------------------------------------------------------------------

    def edit(self, name: str, edit: tuple[Any, ...], trouble: Any) -> None:
        verb, *values = edit
        if name in NAMES and not self.exists(name):
            self.add(name, FIRST, ALL_OF_THEM, None)
            self.check()
        if name == ALL and verb in ("pause", "resume"):  # which owes nothing
            getattr(self, verb)(name, *values[:-1], "skip", trouble)
        else:
            getattr(self, verb)(name if name in NAMES else "b", *values, trouble)

    def add(self, name: str, new: tuple[int, int, int], policy: Policy, trouble: Any) -> None:
        options: dict[str, Any] = {"catch_up": policy.catch_up, "overlap": policy.overlap}
        if policy.catch_up == "all":
            options["catch_up_limit"] = policy.limit
        if policy.window < math.inf:
            options["catch_up_window"] = policy.window / 1000
        if jitter := jitter_of(new[2]):
            options["jitter"] = jitter
        before = self.records.revision(name)
        answer, call = self.call(trouble, "add", name, trigger_of(*new[:2]), TASK, **options)
        if self.refused(answer, name, "exists already"):
            assert self.exists(name)
        elif not self.exists(name) and (
            answer is not None or self.records.revision(name) != before
        ):
            self.records.added(name, times_of(name, *new), policy, call)

    def update_times(self, name: str, new: tuple[int, int, int], trouble: Any) -> None:
        before = self.records.revision(name)
        self.records.closing.add(name)
        answer, call = self.call(
            trouble, "update", name, trigger=trigger_of(*new[:2]), jitter=jitter_of(new[2])
        )
        done = not self.refused(answer, name)
        if done and (answer is not None or self.records.revision(name) != before):
            self.records.changed_times(name, times_of(name, *new), call)

    def update_jitter(self, name: str, jitter: int, trouble: Any) -> None:
        times = self.records.schedules[name].times
        assert times
        self.update_times(name, (times.period, times.anchor, jitter), trouble)

    def update_options(self, name: str, options: dict[str, Any], trouble: Any) -> None:
        before = self.records.revision(name)
        answer, _ = self.call(trouble, "update", name, **options)
        state = self.records.schedules[name].state
        if self.refused(answer, name, "every fire time matters"):
            assert state is None or state.policy.catch_up == "all"
        elif (
            state
            and "overlap" in options
            and (answer is not None or self.records.revision(name) != before)
        ):
            self.records.changed_overlap(name, options["overlap"])

    def remove(self, name: str, trouble: Any) -> None:
        answer, call = self.call(trouble, "remove", name)
        done = not self.refused(answer, name) and self.exists(name)
        if done and (answer is not None or self.records.revision(name) is None):
            self.records.removed(name, call)

    def pause(self, name: str, until: int | None, missed: str, trouble: Any) -> None:
        end = None if until is None else self.wall.at(until + 1)
        before = self.records.revision(name)
        self.records.closing.add(name)  # what an ended pause has held
        answer, call = self.call(trouble, "pause", name, until=end, missed=missed)
        done = not self.refused(answer, name, "in the future")
        if done and (answer is not None or self.records.revision(name) != before):
            ends = math.inf if end is None else to_ms(end)
            self.records.paused(name, ends, missed, call)

    def resume(self, name: str, missed: str | None, trouble: Any) -> None:
        answer, call = self.call(trouble, "resume", name, missed=missed)
        if not self.refused(answer, name) and (name == ALL or self.exists(name)):
            self.records.resumed(name, missed, call)

    def skip(self, name: str, count: int, trouble: Any) -> None:
        before = self.records.revision(name)
        answer, call = self.call(trouble, "skip", name, count)
        if not self.refused(answer, name) and self.records.revision(name) != before:
            last = to_ms(answer) if answer and count else None
            self.records.skipped(name, count, last, call)

    def trigger(self, name: str, force: bool, trouble: Any) -> None:
        before = self.raw.llen(QUEUE)
        busy = self.busy_with(name)
        answer, _ = self.call(trouble, "trigger", name, force=force)
        record = self.records.schedules[name]
        if self.refused(answer, name, "expected no run in progress"):
            if not isinstance(answer, Conflict):
                assert record.state
                assert record.state.policy.overlap == "skip"
                assert not force
        elif answer is not None:
            assert self.raw.exists(f"rq:job:{answer}")
            assert force or not busy
            record.by_hand += 1
        else:
            record.by_hand += self.raw.llen(QUEUE) - before

    def busy_with(self, name: str) -> bool:
        """Whether a schedule that skips overlaps has a run by hand that goes on."""
        record = self.records.schedules[name]
        skips = record.state is not None and record.state.policy.overlap == "skip"
        return skips and any("-m" in job for job in record.alive)

    def backfill(
        self, name: str, span: tuple[int, int], at_once: int, again: bool, trouble: Any
    ) -> None:
        start = self.wall.ms - span[0] * 1000
        requested = range(start, start + span[1] * 1000 + 1)
        ends = from_ms(requested[0]), from_ms(requested[-1])
        answer, call = self.call(trouble, "backfill", name, *ends, at_once=at_once, again=again)
        if not self.refused(answer, name, "span of the past", "has this id", "gone"):
            for id in self.unknown_backfills():
                self.records.requested(id, name, requested, at_once, again=again, now=call[0])

    def unknown_backfills(self) -> list[str]:
        """Return those of editors that the records do not have."""
        ids = {id.decode() for id in self.raw.zrange(PREFIX + "backfills", 0, -1)}
        return [
            id
            for id in ids - self.records.backfills.keys()
            if self.raw.hget(f"{PREFIX}backfill:{id}", "reason") != OWED.encode()
        ]

    def cancel(self, name: str, which: int, trouble: Any) -> None:
        """Also one that is over, or one of another schedule."""
        ids = sorted(self.records.backfills) or ["none-1"]
        id = ids[which % len(ids)]
        answer, _ = self.call(trouble, "cancel_backfill", id)
        if isinstance(answer, ScheduleError):
            assert "expected a backfill that is running" in str(answer)
        elif answer is not None:
            assert self.raw.hget(f"{PREFIX}backfill:{id}", "state") == b"canceled"

    # ---- one-off jobs -------------------------------------------------------------------------

    def one_off(self, name: str, at: int, verb: str, trouble: Any) -> None:
        before, fire = self.records.definition(name), self.wall.ms + at
        revision, requested = self.records.revision(name), self.onces[name]
        if verb == "pause":
            end = None if at == 0 else self.wall.at(abs(at) + 1)
            self.call(trouble, "pause", name, until=end)
            return
        if verb == "remove":
            self.call(trouble, "remove", name)
        elif verb == "move":
            self.call(trouble, "update", name, trigger=once(from_ms(fire)))
        else:
            answer, _ = self.call(trouble, "once", from_ms(fire), TASK, key=name.partition("-")[2])
            assert answer in (name, None)
        after = self.records.definition(name)
        if before and before != after and self.decided(name) < requested.total():
            requested[before["once"]] -= 1  # it was removed or moved before it was due
        if (
            after
            and self.records.revision(name) != revision
            and (verb == "once" or before != after)
        ):
            requested[after["once"]] += 1

    def decided(self, name: str) -> int:
        """Return how many of the instants of a one-off job are decided: it ran, or had run at this
        instant before, or was removed when it was due."""
        ledger = Ledger.read(self.raw.lrange(f"{PREFIX}ledger:{name}", 0, -1))
        queued = {id.decode() for id in self.raw.lrange(QUEUE, 0, -1)}  # an edit enqueues as well
        for fire, count in ledger.runs.items():
            assert 0 < count <= self.onces[name][fire], (name, fire)
            assert f"default-{name}-{fire}" in self.records.seen | queued
        assert not ledger.by_hand + ledger.backfilled
        assert {reason for *_, reason in ledger.skips} <= {"duplicate", "removed"}
        return ledger.runs.total() + sum(count for _, _, count, _ in ledger.skips)

    def check_onces(self) -> None:
        for name, requested in self.onces.items():
            waiting = self.records.definition(name) is not None
            assert self.decided(name) + waiting == requested.total(), name

    # ---- clocks and workers -------------------------------------------------------------------

    @rule(after=st.just(0) | steps, action=anything)
    def then(self, after: int, action: tuple[Any, ...]) -> None:
        """One rule for all, which leaves it to `anything` how often each of them is done."""
        self.wall.ms += after
        verb, *values = action
        getattr(self, verb)(*values)
        self.check()
        self.records.closing.clear()

    def all_is_done(self) -> None:
        """The clock keeps up."""
        self.leader.finish()
        self.check()
        for name in NAMES:
            self.records.check_idle(name, self.wall.ms)

    def nothing_is_done(self) -> None:
        """No clock, or none that is awake."""

    def clock_turns(self, hears: bool, turns: int, breaks: Any) -> None:
        """It does not hear before each turn: an announcement may wait for a few."""
        if hears:
            self.leader.hear()
        if breaks:
            self.leader.fault.arm(*breaks)
        for _ in range(turns):
            self.leader.turn()
        self.leader.fault.disarm()
        assert not self.leader.deposed

    def clock_backfills(self, trouble: Any) -> None:
        if trouble:
            kind, n, *aside = trouble
            meanwhile: Callable[..., None] = self.aside
            self.leader.fault.arm(kind, n, lambda: meanwhile(*aside, "a"))
        leader = self.leader
        leader.look()
        leader.fault.disarm()
        assert not leader.deposed or leader is not self.leader

    def lead(self) -> None:
        """Another clock leads; the one that did has died, or has not noticed yet."""
        self.leaders.append(Leader(self.url, self.wall, len(self.leaders) + 1))

    def a_deposed_clock_goes_on(self, which: int, turns: int, backfills: bool) -> None:
        """It decides nothing any more. What the pause of all has held it may still find due, and
        what it does beside the tick, anyone might."""
        if len(self.leaders) == 1:
            self.lead()
        stale = self.leaders[:-1][-1 - which % (len(self.leaders) - 1)]
        before = all_keys(self.raw, but=PREFIX + "due")
        for _ in range(turns):
            stale.turn()
        assert all_keys(self.raw, but=PREFIX + "due") == before
        if backfills:
            stale.look()

    def jobs_end(self, limit: int) -> None:
        self.records.end_jobs(limit)

    # ---- the check ----------------------------------------------------------------------------

    def check(self) -> None:
        self.sound = False
        self.records.check(self.wall.ms)
        self.check_onces()
        self.sound = True

    def come_to_rest(self) -> None:
        """All that was requested is done."""
        self.fault.disarm()
        for name in (ALL, *NAMES):
            self.resume(name, None, None)
            self.check()
        for name in ONCES:
            with suppress(Conflict):
                editor(self.redis).resume(name)
        for _ in range(150):
            self.wall.ms += 2500
            self.leader.finish()
            self.check()
            self.records.end_jobs(10_000)
            if not self.raw.zcard(PREFIX + "duties"):
                break
        self.wall.ms += 61_000  # a one-off job that was held up may be looked at so late
        self.leader.finish()
        self.check()
        for name in NAMES:
            self.records.check_idle(name, self.wall.ms)
        for name in ONCES:
            assert self.records.definition(name) is None, f"{name} still waits"
        self.records.check_done()


def test_races_lose_and_double_nothing(redis_url: str) -> None:
    run_state_machine_as_test(
        partial(Races, redis_url),  # type: ignore[arg-type]  # it only calls it
        settings=settings(stateful_step_count=40),
    )


# ---- what was found ---------------------------------------------------------------------------


class Race:
    """A leader and an editor, step by step."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.wall = Wall()
        self.raw: Any = Redis.from_url(url)
        self.redis, self.fault = line_to(url, self.wall)
        self.clock = Leader(url, self.wall, 1)

    def close(self) -> None:
        for each in (self.clock, self.redis, self.raw):
            each.close()

    @property
    def edit(self) -> Schedules:
        return editor(self.redis)

    def add(self, period: int = 1000, **options: Any) -> None:
        every_one: dict[str, Any] = {**EVERY_ONE, **options}
        self.edit.add("a", every(milliseconds=period), TASK, **every_one)

    def at(self, ms: int) -> None:
        """Let it be so many milliseconds after midnight."""
        self.wall.ms = MIDNIGHT + ms

    def tick(self, ms: int) -> None:
        """Let the clock do all that is to be done by then."""
        self.at(ms)
        self.clock.finish()

    def before(self, n: int, deed: Callable[[], object]) -> None:
        """Do this before the editor's n-th command from now on."""
        self.redis.ping()
        self.fault.arm("meanwhile", n, lambda: (deed(), None)[1])

    def ledger(self, name: str = "a") -> Ledger:
        return Ledger.read(self.raw.lrange(f"{PREFIX}ledger:{name}", 0, -1))

    def runs(self, name: str = "a") -> list[int]:
        """Fire times that ran, in ms after midnight."""
        return sorted(t - MIDNIGHT for t in self.ledger(name).runs.elements())

    def backfilled(self) -> list[int]:
        """Those that were backfilled, when all of it is done."""
        for _ in range(100):
            self.raw.delete("rq:queue:default", *self.raw.keys("rq:job:*"))
            self.wall.ms += 3000
            self.clock.finish()
            if not self.raw.zcard(PREFIX + "duties"):
                break
        return sorted(t - MIDNIGHT for t in self.ledger().backfilled.elements())


@pytest.fixture
def race(redis_url: str) -> Iterator[Race]:
    race = Race(redis_url)
    yield race
    race.close()


def each(first: int, last: int, period: int = 1000) -> list[int]:
    return list(range(first, last + 1, period))


class TestEdits:
    @pytest.mark.parametrize("n", range(1, 4))
    def test_a_new_rule_survives_another_edit_at_the_same_time(self, race: Race, n: int) -> None:
        race.add()
        race.before(n, lambda: race.edit.update("a", tags=["x"]))
        race.edit.update("a", trigger=every(seconds=7))
        entry = race.edit.get("a")
        assert entry
        assert entry.schedule
        assert entry.schedule.trigger == every(seconds=7)
        assert entry.schedule.tags == ("x",)

    def test_an_edit_that_is_heard_before_the_answer_to_a_commit_is_not_forgotten(
        self, race: Race
    ) -> None:
        race.add(20_000)
        race.tick(10_000)
        race.at(20_000)
        assert race.clock.turn()  # the commit; its answer is not taken in yet
        race.edit.update("a", trigger=every(seconds=1))
        race.tick(21_000)
        assert race.runs() == [20_000, 21_000]

    def test_an_edit_of_all_that_is_heard_before_the_answer_is_not_forgotten(
        self, race: Race
    ) -> None:
        race.add(20_000)
        race.tick(10_000)
        race.at(20_000)
        assert race.clock.turn()
        race.edit.update("a", trigger=every(seconds=1))
        race.clock.planner.look_again(["*"])
        race.tick(21_000)
        assert race.runs() == [20_000, 21_000]


class TestPauses:
    def test_a_pause_of_all_holds_before_the_clock_has_heard_of_it(self, race: Race) -> None:
        race.add()
        race.edit.add("b", every(seconds=7), TASK, catch_up="all", catch_up_limit=1_000_000)
        race.at(2700)
        for _ in range(3):
            race.clock.turn()
        assert race.runs() == [1000, 2000]
        race.at(27_700)
        race.edit.pause(ALL)
        for _ in range(10):
            race.clock.turn()
        assert race.runs() == [1000, 2000]
        assert race.runs("b") == []

    def test_a_one_off_job_outlasts_a_pause(self, race: Race) -> None:
        race.edit.pause(ALL)
        name = race.edit.once(race.wall.at(1000), TASK, key="k")
        race.edit.pause(name, until=race.wall.at(5000))
        race.tick(2000)
        race.edit.resume(ALL)
        race.tick(70_000)
        assert race.runs(name) == [1000]

    @pytest.mark.parametrize("missed", ["latest", "all"])
    def test_a_pause_without_a_fire_time_ends_like_any_other(self, race: Race, missed: str) -> None:
        race.add(60_000)
        race.edit.pause("a", missed=missed)
        race.at(1000)
        race.edit.resume("a")
        race.edit.pause("a", until=race.wall.at(1000), missed=missed)
        race.tick(2000)
        assert not race.raw.zcard(PREFIX + "duties")
        race.tick(60_000)
        assert race.runs() == [60_000]

    @pytest.mark.parametrize("n", range(1, 12))
    @pytest.mark.parametrize("kind", ["request", "reply"])
    def test_a_resume_that_broke_off_can_be_repeated(self, race: Race, kind: str, n: int) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(3000)
        race.redis.ping()
        race.fault.arm(kind, n)
        with suppress(StoreUnavailable):
            race.edit.resume("a")
        race.fault.disarm()
        race.at(3500)
        race.edit.resume("a")
        assert sorted(race.backfilled() + race.runs())[:4] == each(1000, 4000)

    def test_what_was_due_when_a_pause_began_waits_and_then_runs(self, race: Race) -> None:
        race.add()
        race.tick(1000)
        race.at(3001)  # the clock is dead, or two milliseconds late
        race.edit.pause("a", missed="all")
        race.tick(4500)
        assert race.runs() == [1000]
        race.edit.resume("a")
        race.tick(4500)
        assert race.runs() == [1000, 2000, 3000]
        assert race.backfilled() == [4000]

    @pytest.mark.parametrize("n", range(1, 9))
    def test_what_comes_due_while_a_pause_is_ended_runs(self, race: Race, n: int) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(1999)
        race.before(n, lambda: race.tick(2000))
        race.edit.resume("a")
        race.tick(3000)
        assert sorted(race.backfilled() + race.runs())[:3] == [1000, 2000, 3000]

    def test_a_second_pause_does_not_forget_what_the_first_one_owed(self, race: Race) -> None:
        race.add()
        race.edit.pause("a", until=race.wall.at(2500), missed="all")
        race.at(3500)  # and no clock
        race.edit.pause("a")
        race.tick(4000)
        race.edit.resume("a")
        race.tick(5000)
        assert race.runs() == [3000, 5000]
        assert race.backfilled() == [1000, 2000]

    def test_a_pause_that_is_given_another_end_is_the_same_pause(self, race: Race) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(2000)
        race.edit.pause("a", until=race.wall.at(1500), missed="all")
        race.tick(4000)
        assert race.runs() == [4000]
        assert race.backfilled()[:3] == [1000, 2000, 3000]

    @pytest.mark.parametrize("n", range(1, 9))
    def test_a_pause_that_begins_in_a_step_of_a_backfill_holds_it(self, race: Race, n: int) -> None:
        race.add()
        race.edit.pause("a", until=race.wall.at(1500), missed="all")
        race.at(1600)
        race.clock.hear()
        while race.clock.turn():
            pass
        before: list[Counter[int]] = []

        def pause() -> None:
            before.append(race.ledger().backfilled)
            race.edit.pause("a", until=race.wall.at(2000), missed="all")

        race.clock.redis.ping()
        race.clock.fault.arm("meanwhile", n, pause)
        race.clock.look()
        race.clock.fault.disarm()
        assert not before or race.ledger().backfilled == before[0]
        race.tick(3600)
        assert race.backfilled() == ([1000, 2000, 3000] if before else [1000])

    @pytest.mark.parametrize("n", range(1, 6))
    def test_a_pause_that_ends_while_it_is_set_again_owes_what_it_owed(
        self, race: Race, n: int
    ) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.at(2500)
        resumed = []

        def resume() -> None:
            resumed.append(n)
            race.edit.resume("a")

        race.before(n, resume)
        race.edit.pause("a", missed="skip")
        race.fault.disarm()
        race.edit.resume("a")
        race.tick(3000)
        owed = [1000, 2000] if resumed else []
        assert race.runs() == [3000]
        assert race.backfilled() == owed

    def test_what_ran_by_an_older_trigger_does_not_count(self, race: Race) -> None:
        race.add()
        race.tick(10_000)
        race.at(10_500)
        race.edit.update("a", trigger=every(milliseconds=1700, anchor=from_ms(MIDNIGHT)))
        race.edit.pause("a", missed="all")
        race.tick(14_000)
        race.edit.resume("a")
        assert race.backfilled() == [11_900, 13_600]

    def test_each_trigger_owes_what_it_named_in_the_pause(self, race: Race) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(2500)
        race.edit.update("a", trigger=every(milliseconds=1700, anchor=from_ms(MIDNIGHT)))
        race.tick(5200)
        assert race.ledger() == Ledger()
        race.edit.resume("a")
        assert race.backfilled() == [1000, 2000, 3400, 5100]

    def test_the_clock_waits_for_what_it_sends_next_before_it_hears_of_a_longer_one(
        self, race: Race
    ) -> None:
        race.add()
        race.at(2500)  # and no clock until now
        race.edit.pause("a", until=race.wall.at(5), missed="all")
        race.clock.hear()
        while race.clock.turn():
            pass
        race.edit.pause("a", until=race.wall.at(2000), missed="all")
        race.clock.hear()
        assert not race.clock.turn()  # it sleeps, and does not spin
        race.tick(2600)
        assert race.runs() == []
        race.tick(5000)
        assert race.runs() == [1000, 2000, 5000]


class TestSkips:
    def test_what_was_due_before_still_runs(self, race: Race) -> None:
        race.add()
        race.at(3500)  # and no clock until now
        assert race.edit.skip("a", 1) == from_ms(MIDNIGHT + 4000)
        race.tick(5000)
        assert race.runs() == [1000, 2000, 3000, 5000]

    @pytest.mark.parametrize("n", range(1, 6))
    def test_what_a_skip_promised_holds_however_close_it_was(self, race: Race, n: int) -> None:
        race.add()
        race.tick(999)
        race.before(n, lambda: race.tick(1000))
        last = to_ms(race.edit.skip("a", 2)) - MIDNIGHT
        race.tick(5000)
        assert race.runs() == [t for t in each(1000, 5000) if t not in (last - 1000, last)]

    @pytest.mark.parametrize("n", range(1, 6))
    def test_a_skip_that_comes_while_a_pause_begins_skips_nothing_of_before(
        self, race: Race, n: int
    ) -> None:
        race.add()
        race.at(1000)
        race.edit.pause("a")
        race.edit.resume("a")

        def skip() -> None:
            race.at(1001)
            race.edit.skip("a", 2)

        race.before(n, skip)
        race.edit.pause("a")
        race.edit.resume("a")
        race.tick(5000)
        assert race.runs() == [1000, 4000, 5000]


class TestBackfills:
    @pytest.mark.parametrize("n", range(1, 9))
    def test_a_backfill_whose_answer_was_lost_is_asked_for_again(self, race: Race, n: int) -> None:
        race.add(catch_up="none", catch_up_limit=None, overlap="skip")
        race.tick(60_000)
        span = from_ms(MIDNIGHT + 10_000), from_ms(MIDNIGHT + 20_000)
        race.redis.ping()
        race.fault.arm("reply", n)
        with suppress(StoreUnavailable):
            race.edit.backfill("a", *span)
        race.fault.disarm()
        race.at(61_000)
        race.edit.backfill("a", *span)
        assert race.backfilled() == each(10_000, 20_000)

    @pytest.mark.parametrize("n", range(1, 13))
    def test_two_who_ask_for_the_same_at_once_get_it_once(self, race: Race, n: int) -> None:
        race.add(catch_up="none", catch_up_limit=None, overlap="skip")
        race.tick(60_000)
        span = from_ms(MIDNIGHT + 10_000), from_ms(MIDNIGHT + 20_000)

        def another() -> None:
            race.at(60_001)
            race.edit.backfill("a", *span)
            race.tick(60_002)

        race.before(n, another)
        race.edit.backfill("a", *span)
        assert race.backfilled() == each(10_000, 20_000)

    def test_a_backfill_keeps_to_the_rule_that_it_was_asked_for_by(self, race: Race) -> None:
        race.add(catch_up="none", catch_up_limit=None, overlap="skip")
        race.tick(60_000)
        race.edit.backfill("a", from_ms(MIDNIGHT + 10_000), from_ms(MIDNIGHT + 20_000))
        race.clock.finish()
        race.edit.update("a", trigger=every(seconds=7))
        assert race.backfilled() == each(10_000, 20_000)
