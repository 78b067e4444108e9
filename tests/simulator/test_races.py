"""Editors and clocks that get in each other's way: nothing is lost, nothing doubled.

First by hand, on a wall clock that the test moves (races.py) and against records of its own
(records.py); what was found that way stands below it as a list of steps. Then with processes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from rq_clock.timing.triggers import every
from tests.simulator.races import MIDNIGHT, Leader, Wall, editor, line_to
from tests.simulator.records import MADE_UP, PREFIX, Books, Ledger, Rule, everything

TASK = "tasks.nothing"
EVERY_ONE = {"catch_up": "all", "catch_up_limit": 1_000_000}
NAMES = ("a", "b")
ONCES = ("once-k", "once-l")
RULES = (Rule(1000), Rule(1000, 300), Rule(1500), Rule(7000), Rule(20_000))
STEPS = (0, 1, 250, 1000, 1000, 2700, 12_000, 25_000)
"""How long nothing is done, in ms."""

rules = st.sampled_from(RULES)
steps = st.sampled_from(STEPS)
missed = st.sampled_from(["skip", "latest", "all", "all"])
policies = st.sampled_from(
    [("all", "allow"), ("all", "allow"), ("latest", "skip"), ("latest", "allow"), ("none", "skip")]
)
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
            ("resume", None),
            ("remove",),
        ]
    ),
)
breaks = st.tuples(st.sampled_from(["request", "reply"]), st.integers(1, 12))
troubles = st.none() | asides | st.none() | asides | breaks
targets = st.sampled_from(["a", "a", "a", "b", ALL])


def edit(*values: Any) -> st.SearchStrategy[Any]:
    parts = (v if isinstance(v, st.SearchStrategy) else st.just(v) for v in values)
    return st.tuples(st.just("edit"), targets, st.tuples(*parts), troubles)


def deed(*values: Any) -> st.SearchStrategy[Any]:
    return st.tuples(*(v if isinstance(v, st.SearchStrategy) else st.just(v) for v in values))


deeds = st.one_of(
    edit("add", rules, policies),
    edit("update_rule", rules),
    edit("update_options", options),
    edit("remove"),
    edit("pause", st.none() | steps, missed),
    edit("pause", st.none() | steps, missed),
    edit("resume", st.none() | st.none() | missed),
    edit("resume", st.none() | st.none() | missed),
    edit("skip", st.integers(0, 3)),
    edit("trigger", st.booleans()),
    edit("backfill", spans, st.integers(1, 3), st.booleans()),
    edit("cancel", st.integers(0, 9)),
    deed("one_off", st.sampled_from(ONCES), st.sampled_from([-5000, 0, 1, 1000, 20_000]),
         st.sampled_from(["once", "once", "pause", "remove"]), troubles),
    deed("all_is_done"),
    deed("all_is_done"),
    deed("nothing_is_done"),
    deed("clock_turns", st.booleans(), st.integers(1, 3), st.none() | breaks),
    deed("clock_turns", st.booleans(), st.integers(1, 3), st.none() | breaks),
    deed("clock_does_chores", troubles),
    deed("lead"),
    deed("a_deposed_clock_goes_on", st.integers(0, 9), st.integers(1, 3), st.booleans()),
    deed("jobs_end", st.sampled_from([1, 3, 10_000])),
)  # fmt: skip


def trigger_of(rule: Rule) -> Any:
    return every(milliseconds=rule.period, anchor=from_ms(rule.anchor) if rule.anchor else None)


class Races(RuleBasedStateMachine):
    """Editors, a leading clock and those that led before, workers, and the books."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.wall = Wall()
        self.raw: Any = Redis.from_url(url)
        self.raw.flushall()
        self.redis, self.fate = line_to(url, self.wall)
        self.books = Books(self.raw, NAMES)
        self.onces: dict[str, Counter[int]] = {name: Counter() for name in ONCES}
        self.leaders = [Leader(url, self.wall, 1)]
        self.busy = False
        self.sound = True
        """Whether nothing has failed until now."""
        for name in NAMES:
            self.add(name, RULES[0], ("all", "allow"), None)

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
        """What an editor was told: a result, a ScheduleError, or None when the answer was lost;
        and the span of the call."""
        began, self.sound = self.wall.ms, False
        self.redis.ping()
        if trouble and not self.busy:
            kind, n, *aside = trouble
            self.fate.arm(kind, n, lambda: self.aside(*aside, *args[:1]))
        told: Any = None
        try:
            told = getattr(editor(self.redis), verb)(*args, **options)
            told = "" if told is None else told
        except ScheduleError as error:
            told = error
        except StoreUnavailable:
            assert trouble
        finally:
            self.fate.disarm()
            self.sound = False
        return told, range(began, self.wall.ms + 1)

    def aside(self, step: int, deed: str, edit: tuple[Any, ...], name: str) -> None:
        """What happens between two commands of a call."""
        self.busy = True
        self.check()
        self.wall.ms += step
        if deed == "finish":
            self.leader.finish()
        elif deed == "lead":
            self.lead()
        elif name in NAMES:
            verb, *values = edit
            getattr(self, verb)(name, *values, None)
        self.check()
        self.busy = False

    def there(self, name: str) -> bool:
        return self.books.books[name].reign is not None

    def refused(self, told: Any, name: str, *others: str) -> bool:
        """Whether the call was refused, as it should if there is no such schedule. `others` are
        what else it may be refused for."""
        if not isinstance(told, ScheduleError):
            return False
        if isinstance(told, Conflict) and told.kind is ConflictKind.MISSING:
            assert not self.there(name)
        else:
            assert any(text in str(told) for text in others), told
        return True

    # ---- editors ------------------------------------------------------------------------------

    def edit(self, name: str, edit: tuple[Any, ...], trouble: Any) -> None:
        verb, *values = edit
        if name in NAMES and not self.there(name):
            self.add(name, RULES[0], ("all", "allow"), None)
        if name == ALL and verb in ("pause", "resume"):  # without a word on what is missed
            getattr(self, verb)(name, *values[:-1], "skip", trouble)
        else:
            getattr(self, verb)(name if name in NAMES else "b", *values, trouble)

    def add(self, name: str, new: Rule, policy: tuple[str, str], trouble: Any) -> None:
        catch_up, overlap = policy
        limit = {"catch_up_limit": 1_000_000} if catch_up == "all" else {}
        options = {"catch_up": catch_up, "overlap": overlap, **limit}
        before = self.books.revision(name)
        told, call = self.call(trouble, "add", name, trigger_of(new), TASK, **options)
        if self.refused(told, name, "exists already"):
            assert self.there(name)
        elif not self.there(name) and (told is not None or self.books.revision(name) != before):
            self.books.added(name, new, catch_up, overlap, call)

    def update_rule(self, name: str, new: Rule, trouble: Any) -> None:
        before = self.books.revision(name)
        told, call = self.call(trouble, "update", name, trigger=trigger_of(new))
        done = not self.refused(told, name)
        if done and (told is not None or self.books.revision(name) != before):
            self.books.ruled(name, new, call)

    def update_options(self, name: str, options: dict[str, Any], trouble: Any) -> None:
        before = self.books.revision(name)
        told, _ = self.call(trouble, "update", name, **options)
        if self.refused(told, name, "every fire time matters"):
            assert not self.there(name) or self.books.books[name].catch_up == "all"
        elif told is not None or self.books.revision(name) != before:
            book = self.books.books[name]
            book.overlap = options.get("overlap", book.overlap)

    def remove(self, name: str, trouble: Any) -> None:
        told, _ = self.call(trouble, "remove", name)
        done = not self.refused(told, name) and self.there(name)
        if done and (told is not None or self.books.revision(name) is None):
            self.books.removed(name)

    def pause(self, name: str, until: int | None, missed: str, trouble: Any) -> None:
        end = None if until is None else self.wall.at(until + 1)
        before = self.books.revision(name)
        told, call = self.call(trouble, "pause", name, until=end, missed=missed)
        done = not self.refused(told, name, "in the future")
        if done and (told is not None or self.books.revision(name) != before):
            ends = math.inf if end is None else to_ms(end)
            self.books.paused(name, ends, missed, call)

    def resume(self, name: str, missed: str | None, trouble: Any) -> None:
        told, call = self.call(trouble, "resume", name, missed=missed)
        if not self.refused(told, name) and (name == ALL or self.there(name)):
            self.books.resumed(name, missed, call)

    def skip(self, name: str, count: int, trouble: Any) -> None:
        before = self.books.revision(name)
        told, call = self.call(trouble, "skip", name, count)
        if not self.refused(told, name) and self.books.revision(name) != before:
            if count:
                self.books.skipped(name, count, told and to_ms(told), call)
            else:
                self.books.unskipped(name)

    def trigger(self, name: str, force: bool, trouble: Any) -> None:
        before = self.raw.llen("rq:queue:default")
        busy = self.busy_with(name)
        told, _ = self.call(trouble, "trigger", name, force=force)
        book = self.books.books[name]
        if self.refused(told, name, "expected no run in progress"):
            if not isinstance(told, Conflict):
                assert book.overlap == "skip"
                assert not force
        elif told is not None:
            assert self.raw.exists(f"rq:job:{told}")
            assert force or not busy
            book.by_hand += 1
        else:
            book.by_hand += self.raw.llen("rq:queue:default") - before

    def busy_with(self, name: str) -> bool:
        """Whether a schedule that skips overlaps has a run by hand that goes on."""
        book = self.books.books[name]
        return book.overlap == "skip" and any("-m" in job for job in book.alive)

    def backfill(
        self, name: str, span: tuple[int, int], at_once: int, again: bool, trouble: Any
    ) -> None:
        start = self.wall.ms - span[0] * 1000
        wanted = range(start, start + span[1] * 1000 + 1)
        ends = from_ms(wanted[0]), from_ms(wanted[-1])
        told, call = self.call(trouble, "backfill", name, *ends, at_once=at_once, again=again)
        if not self.refused(told, name, "span of the past", "in this millisecond", "gone"):
            for id in self.unknown_backfills():
                self.books.asked(id, name, wanted, at_once, again, call[0])

    def unknown_backfills(self) -> list[str]:
        """Those of editors that the books do not have."""
        ids = {id.decode() for id in self.raw.zrange(PREFIX + "backfills", 0, -1)}
        return [
            id
            for id in ids - self.books.backfills.keys()
            if self.raw.hget(f"{PREFIX}backfill:{id}", "reason") != MADE_UP.encode()
        ]

    def cancel(self, name: str, which: int, trouble: Any) -> None:
        """Also one that is over, or one of another schedule."""
        ids = sorted(self.books.backfills) or ["none-1"]
        id = ids[which % len(ids)]
        told, _ = self.call(trouble, "cancel_backfill", id)
        if isinstance(told, ScheduleError):
            assert "expected a backfill that is running" in str(told)
        elif told is not None:
            assert self.raw.hget(f"{PREFIX}backfill:{id}", "state") == b"canceled"

    # ---- one-off jobs -------------------------------------------------------------------------

    def one_off(self, name: str, at: int, verb: str, trouble: Any) -> None:
        before, fire = self.books.definition(name), self.wall.ms + at
        revision = self.books.revision(name)
        if verb == "pause":
            end = None if at == 0 else self.wall.at(abs(at) + 1)
            self.call(trouble, "pause", name, until=end)
        elif verb == "remove":
            self.call(trouble, "remove", name)
            if before and self.books.definition(name) is None and not self.is_decided(name, before):
                self.onces[name][before["once"]] -= 1
        else:
            told, _ = self.call(trouble, "once", from_ms(fire), TASK, key=name.partition("-")[2])
            assert told in (name, None)
            if self.books.revision(name) not in (None, revision):
                self.onces[name][fire] += 1

    def is_decided(self, name: str, definition: dict[str, Any]) -> bool:
        return self.decided_onces(name)[definition["once"]] == self.onces[name][definition["once"]]

    def decided_onces(self, name: str) -> Counter[int]:
        """How often an instant of a one-off job became a run, or was asked for twice."""
        found: Counter[int] = Counter()
        for line in self.raw.lrange(f"{PREFIX}ledger:{name}", 0, -1):
            mark, fire, *rest = line.decode().split(" ")
            assert mark in "sc" or rest[-1] == "duplicate", line
            assert f"default-{name}-{fire}" in self.books.seen
            found[int(fire)] += 1
        return found

    def check_onces(self) -> None:
        for name, asked in self.onces.items():
            found = self.decided_onces(name)
            if waiting := self.books.definition(name):
                found[waiting["once"]] += 1
            assert +found == +asked, name

    # ---- clocks and workers -------------------------------------------------------------------

    @rule(after=st.just(0) | steps, deed=deeds)
    def then(self, after: int, deed: tuple[Any, ...]) -> None:
        """One rule for all, which leaves it to `deeds` how often each of them is done."""
        self.wall.ms += after
        verb, *values = deed
        getattr(self, verb)(*values)
        self.check()

    def all_is_done(self) -> None:
        """The clock keeps up."""
        self.leader.finish()
        self.check()
        for name in NAMES:
            self.books.check_done(name, self.wall.ms)

    def nothing_is_done(self) -> None:
        """No clock, or none that is awake."""

    def clock_turns(self, hears: bool, turns: int, breaks: Any) -> None:
        """It does not hear before each turn: what is in its ears may wait for a few."""
        if hears:
            self.leader.hear()
        if breaks:
            self.leader.fate.arm(*breaks)
        for _ in range(turns):
            self.leader.turn()
        self.leader.fate.disarm()
        assert not self.leader.deposed

    def clock_does_chores(self, trouble: Any) -> None:
        if trouble:
            kind, n, *aside = trouble
            meanwhile: Callable[..., None] = self.aside
            self.leader.fate.arm(kind, n, lambda: meanwhile(*aside, "a"))
        leader = self.leader
        leader.look()
        leader.fate.disarm()
        assert not leader.deposed or leader is not self.leader

    def lead(self) -> None:
        """Another clock leads; the one that did has died, or has not noticed yet."""
        self.leaders.append(Leader(self.url, self.wall, len(self.leaders) + 1))

    def a_deposed_clock_goes_on(self, which: int, turns: int, chores: bool) -> None:
        """What it does beside the tick, anyone might: it changes nothing that the books see."""
        if len(self.leaders) == 1:
            self.lead()
        stale = self.leaders[:-1][-1 - which % (len(self.leaders) - 1)]
        before = everything(self.raw)
        for _ in range(turns):
            stale.turn()
        assert everything(self.raw) == before
        if chores:
            stale.look()

    def jobs_end(self, most: int) -> None:
        self.books.end_jobs(most)

    # ---- the account --------------------------------------------------------------------------

    def check(self) -> None:
        self.sound = False
        self.books.check(self.wall.ms)
        self.check_onces()
        self.sound = True

    def come_to_rest(self) -> None:
        """All that was asked for is done."""
        self.fate.disarm()
        for name in (ALL, *NAMES):
            self.resume(name, None, None)
        for name in ONCES:
            with suppress(Conflict):
                editor(self.redis).resume(name)
        for _ in range(5000):
            self.wall.ms += 2500
            self.leader.finish()
            self.check()
            self.books.end_jobs(10_000)
            if not self.raw.zcard(PREFIX + "duties"):
                break
        self.wall.ms += 61_000  # a one-off job that was held up may be looked at so late
        self.leader.finish()
        self.check()
        for name in NAMES:
            self.books.check_done(name, self.wall.ms)
            self.books.check_made_up(name, self.wall.ms)
        for name in ONCES:
            assert self.books.definition(name) is None, f"{name} still waits"
        assert not self.books.running()


def test_races_lose_and_double_nothing(redis_url: str) -> None:
    run_state_machine_as_test(
        partial(Races, redis_url),  # type: ignore[arg-type]  # it only calls it
        settings=settings(max_examples=60, stateful_step_count=40),
    )


# ---- what was found ---------------------------------------------------------------------------


class Race:
    """A leader and an editor, step by step."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.wall = Wall()
        self.raw: Any = Redis.from_url(url)
        self.redis, self.fate = line_to(url, self.wall)
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
        self.fate.arm("meanwhile", n, lambda: (deed(), None)[1])

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
        race.clock.stage.look_again(["*"])
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
    def test_a_resume_that_broke_off_is_asked_for_again(
        self, race: Race, kind: str, n: int
    ) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(3000)
        race.redis.ping()
        race.fate.arm(kind, n)
        with suppress(StoreUnavailable):
            race.edit.resume("a")
        race.fate.disarm()
        race.at(3500)
        race.edit.resume("a")
        assert race.backfilled() == each(1000, 3000)

    def test_what_was_due_when_a_pause_began_is_made_up_for(self, race: Race) -> None:
        race.add()
        race.tick(1000)
        race.at(3001)  # the clock is dead, or two milliseconds late
        race.edit.pause("a", missed="all")
        race.tick(4000)
        race.edit.resume("a")
        assert race.runs() == [1000]
        assert race.backfilled() == [2000, 3000, 4000]

    @pytest.mark.parametrize("n", range(1, 9))
    def test_what_comes_due_while_a_pause_is_ended_runs(self, race: Race, n: int) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(1999)
        race.before(n, lambda: race.tick(2000))
        race.edit.resume("a")
        race.tick(3000)
        assert sorted(race.backfilled() + race.runs())[:3] == [1000, 2000, 3000]

    def test_a_second_pause_does_not_forget_what_the_first_one_missed(self, race: Race) -> None:
        race.add()
        race.edit.pause("a", until=race.wall.at(2500), missed="all")
        race.at(3500)  # and no clock
        race.edit.pause("a")
        race.tick(4000)
        race.edit.resume("a")
        race.tick(5000)
        assert race.runs() == [5000]
        assert race.backfilled() == [1000, 2000]

    def test_a_pause_that_is_given_another_end_is_the_same_pause(self, race: Race) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(2000)
        race.edit.pause("a", until=race.wall.at(1500), missed="all")
        race.tick(4000)
        assert race.runs() == [4000]
        assert race.backfilled()[:3] == [1000, 2000, 3000]

    def test_a_pause_that_begins_while_another_is_made_up_for_is_made_up_for_too(
        self, race: Race
    ) -> None:
        race.add()
        race.edit.pause("a", until=race.wall.at(1500), missed="all")
        race.at(1600)
        race.clock.hear()
        race.clock.turn()
        race.clock.redis.ping()
        again = lambda: race.edit.pause("a", until=race.wall.at(2000), missed="all")  # noqa: E731
        race.clock.fate.arm("meanwhile", 6, again)
        race.clock.look()
        race.tick(3600)
        assert race.backfilled() == [1000, 2000, 3000]

    def test_what_ran_under_an_older_rule_does_not_count(self, race: Race) -> None:
        race.add()
        race.tick(10_000)
        race.at(10_500)
        race.edit.update("a", trigger=every(milliseconds=1700, anchor=from_ms(MIDNIGHT)))
        race.edit.pause("a", missed="all")
        race.tick(14_000)
        race.edit.resume("a")
        assert race.backfilled() == [11_900, 13_600]

    def test_only_what_the_rule_asked_for_is_made_up_for(self, race: Race) -> None:
        race.add()
        race.edit.pause("a", missed="all")
        race.tick(2500)
        race.edit.update("a", trigger=every(milliseconds=1700, anchor=from_ms(MIDNIGHT)))
        race.tick(5200)
        race.edit.resume("a")
        assert race.backfilled() == [3400, 5100]

    def test_a_backfill_in_the_millisecond_of_a_resume_is_another_one(self, race: Race) -> None:
        race.add()
        race.tick(1000)
        race.edit.pause("a", missed="all")
        race.tick(3000)
        race.edit.backfill("a", from_ms(MIDNIGHT), from_ms(MIDNIGHT))
        race.edit.resume("a")
        assert race.backfilled() == [0, 2000, 3000]


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
        told = to_ms(race.edit.skip("a", 2)) - MIDNIGHT
        race.tick(5000)
        assert race.runs() == [t for t in each(1000, 5000) if t not in (told - 1000, told)]


class TestBackfills:
    @pytest.mark.parametrize("n", range(1, 9))
    def test_a_backfill_whose_answer_was_lost_is_asked_for_again(self, race: Race, n: int) -> None:
        race.add(catch_up="none", catch_up_limit=None, overlap="skip")
        race.tick(60_000)
        span = from_ms(MIDNIGHT + 10_000), from_ms(MIDNIGHT + 20_000)
        race.redis.ping()
        race.fate.arm("reply", n)
        with suppress(StoreUnavailable):
            race.edit.backfill("a", *span)
        race.fate.disarm()
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
