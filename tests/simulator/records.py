"""The books of a race: what must have come of the schedules that editors and clocks contended for.

They are kept beside Redis, from what the editors were told, with an arithmetic of time of their
own, and compared with raw keys. What a race may decide either way is not foreseen but read:

- An edit takes effect at some instant of its call, or at the newest decided fire time if that is
  later. From there on the new rule has the word, until there the old one.
- A pause holds what is undecided when it is written, also what came due before; its end and the
  skipping of what is to come take effect likewise.

All else is law: each fire time is in the ledger once, as a run or as a skip for a reason that held;
what a pause is to make up for runs once; no job's id is seen twice.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

ON_TIME = 10_000
PREFIX = "rq-clock:default:"
MADE_UP = "missed in a pause"
ONCE = "default-once-"
"""How the ids of one-off jobs begin. Who asks for one again when it has run, gets it again."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires at anchor + k * period, in ms."""

    period: int
    anchor: int = 0

    def times(self, after: int, until: int) -> range:
        """Fire times in (after, until]."""
        first = after - (after - self.anchor) % self.period + self.period
        return range(first, until + 1, self.period)

    def next(self, after: int) -> int:
        return self.times(after, after + self.period)[0]


@dataclass(slots=True)
class Reign:
    """The time under one rule: fire times in (since, end] were its to give. Without an end it
    goes on."""

    rule: Rule
    since: int
    end: int | None = None


@dataclass(slots=True)
class Hold:
    """A word that fire times up to `until` are not to run. It is no matter of those that were
    decided before it was written."""

    reason: str
    until: float
    written: dict[str, int]
    """Schedule → up to where it was decided then."""
    missed: str = "skip"

    def covers(self, name: str, fire: int) -> bool:
        return self.written.get(name, 0) < fire <= self.until


@dataclass(slots=True)
class Owed:
    """Fire times in (after, until] that were skipped for a pause are to run: the newest or all."""

    after: int
    until: float
    missed: str


@dataclass(slots=True)
class Backfill:
    name: str
    fire_times: frozenset[int]
    again: bool
    at_once: int


@dataclass(slots=True)
class Book:
    """One schedule, from its first life to its last."""

    catch_up: str = "all"
    overlap: str = "allow"
    overlap_before: str = "allow"
    reigns: list[Reign] = field(default_factory=list)
    pause: Hold | None = None
    skip: Hold | None = None
    owed: list[Owed] = field(default_factory=list)
    edges: list[range] = field(default_factory=list)
    """When pauses began: what was decided meanwhile may be counted among what they missed."""
    fates: dict[int, str] = field(default_factory=dict)
    """Fire time → run, or why it was skipped."""
    by_hand: int = 0
    marker: int | None = None
    alive: set[str] = field(default_factory=set)
    judged_by: tuple[Hold | None, ...] = ()
    """The holds at the last check."""

    @property
    def reign(self) -> Reign | None:
        """The one that goes on."""
        return self.reigns[-1] if self.reigns and self.reigns[-1].end is None else None

    def expected(self) -> list[int]:
        """Every fire time that is decided."""
        found: list[int] = []
        for reign in self.reigns:
            until = reign.end if reign.end is not None else self.marker or reign.since
            found += reign.rule.times(reign.since, until)
        return found


@dataclass(slots=True)
class Ledger:
    """One schedule's, by what its lines say."""

    runs: Counter[int] = field(default_factory=Counter)
    by_hand: Counter[int] = field(default_factory=Counter)
    backfilled: Counter[int] = field(default_factory=Counter)
    skips: list[tuple[int, int, int, str]] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[bytes]) -> Ledger:
        found = cls()
        for line in lines:
            mark, *words = line.decode().split(" ")
            if mark == "-":
                first, last, count, reason = words
                found.skips.append((int(first), int(last), int(count), reason))
            else:
                kind = {"m": found.by_hand, "b": found.backfilled}.get(mark, found.runs)
                kind[int(words[0])] += 1
        return found

    @property
    def jobs(self) -> dict[str, Counter[int]]:
        """As `jobs_of` tells them."""
        return {"": self.runs, "m": self.by_hand, "b": self.backfilled}

    def fates(self, expected: list[int], name: str) -> dict[int, str]:
        """What became of each fire time: run, or why it was skipped. Fails unless all that were
        expected are here, and each once."""
        fates = dict.fromkeys(self.runs, "run")
        assert max(self.runs.values(), default=1) == 1, name
        for first, last, count, reason in self.skips:
            skipped = [t for t in expected if first <= t <= last]
            assert len(skipped) == count, (name, first, last, count, reason)
            assert {first, last} <= set(skipped), (name, first, last, count, reason)
            assert not fates.keys() & set(skipped), (name, first, last, count, reason)
            fates |= dict.fromkeys(skipped, reason)
        assert sorted(fates) == expected, (name, sorted(fates.keys() ^ set(expected)))
        return fates


def everything(redis: Any) -> dict[bytes, bytes]:
    """Every key, as DUMP shows it."""
    keys = sorted(redis.scan_iter("*", 10_000))
    pipe = redis.pipeline(transaction=False)
    for key in keys:
        pipe.dump(key)
    return dict(zip(keys, pipe.execute(), strict=True))


def jobs_of(name: str, ids: Iterable[str]) -> dict[str, Counter[int]]:
    """Jobs of a schedule, by their ids: how many there are for which fire time, by the letter of
    what no rule of time asked for."""
    found: dict[str, Counter[int]] = {"": Counter(), "m": Counter(), "b": Counter()}
    head = f"default-{name}-"
    for id in ids:
        if id.startswith(head):
            fire, _, manner = id.removeprefix(head).partition("-")
            found[manner[:1]][int(fire)] += 1
    return found


class Books:
    """All schedules of a race. `check` compares them with Redis."""

    def __init__(self, redis: Any, names: Iterable[str]) -> None:
        self.redis = redis
        self.books = {name: Book() for name in names}
        self.everything: Hold | None = None
        """The pause of all."""
        self.backfills: dict[str, Backfill] = {}
        self.seen: set[str] = set()
        """Every job that was ever in the queue."""
        self.ended: set[str] = set()
        self.ledgers = {name: Ledger() for name in names}

    # ---- reading ------------------------------------------------------------------------------

    def state(self, name: str) -> tuple[int | None, int]:
        """Marker and known since."""
        marker, since = self.redis.hget(PREFIX + "markers", name).decode().split(" ")[:2]
        return None if marker == "-" else int(marker), int(since)

    def decided(self, name: str) -> int:
        marker, since = self.state(name)
        return max(marker or 0, since)

    def revision(self, name: str) -> bytes | None:
        found: bytes | None = self.redis.hget(PREFIX + "revisions", name)
        return found

    def definition(self, name: str) -> dict[str, Any] | None:
        found = self.redis.hget(PREFIX + "definitions", name)
        return json.loads(found) if found else None

    # ---- what editors did ---------------------------------------------------------------------

    def added(self, name: str, rule: Rule, catch_up: str, overlap: str, call: range) -> None:
        book = self.books[name]
        marker, since = self.state(name)
        assert marker is None
        assert since in call
        book.reigns.append(Reign(rule, since))
        book.catch_up, book.overlap, book.marker = catch_up, overlap, None

    def ruled(self, name: str, rule: Rule, call: range) -> None:
        book = self.books[name]
        reign = book.reign
        assert reign
        if rule == reign.rule:
            return
        marker, since = self.state(name)
        assert since in call or since == marker, f"{name}: {since} {marker} {call}"
        reign.end = since
        book.reigns.append(Reign(rule, since))

    def removed(self, name: str) -> None:
        book = self.books[name]
        reign = book.reign
        assert reign
        reign.end = max(book.marker or 0, reign.since)
        book.marker = book.pause = book.skip = None
        book.owed.clear()

    def paused(self, name: str, until: float, missed: str, call: range) -> None:
        if name == "*":
            lives = {n: self.decided(n) for n, b in self.books.items() if b.reign}
            self.everything = Hold("paused", until, lives)
            return
        book, before = self.books[name], self.books[name].pause
        book.edges.append(call)
        if until < call[-1]:  # it was over when it was written
            until = self._stored_end(name)
        book.pause = Hold("paused", until, {name: self.decided(name)}, missed)
        if before and before.until > call[-1]:  # the same pause, with another end
            book.pause.written = before.written
        elif before:
            self._owe(name, before, before.until, before.missed)

    def resumed(self, name: str, missed: str | None, call: range) -> None:
        hold = self.everything if name == "*" else self.books[name].pause
        until = self._stored_end(name)
        if hold is None or hold.until == until:
            return  # there was nothing to resume
        hold.until = until
        if name == "*":
            assert until in call
            return
        decided = self.decided(name)
        assert until in call or until == decided
        self._owe(name, hold, max(until, decided), missed or hold.missed)
        hold.missed = "skip"

    def _stored_end(self, name: str) -> float:
        stored = json.loads(self.redis.hget(PREFIX + "pauses", name) or b"{}")
        return float(stored.get("until", math.inf))

    def _owe(self, name: str, hold: Hold, until: float, missed: str) -> None:
        if missed != "skip":
            self.books[name].owed.append(Owed(hold.written[name], until, missed))

    def skipped(self, name: str, count: int, told: int | None, call: range) -> None:
        """The next `count` from some instant of the call on; `told` is the last one of them."""
        book = self.books[name]
        assert book.reign
        until = int(json.loads(self.redis.hget(PREFIX + "skips", name))["until"])
        assert told in (None, until)
        decided = self.decided(name)
        starts = {max(decided, now) for now in (call[0], call[-1])}
        lasts = {book.reign.rule.times(t, t + count * book.reign.rule.period)[-1] for t in starts}
        assert min(lasts) <= until <= max(lasts), (name, until, lasts)
        book.skip = Hold("requested", until, {name: max(decided, call[0])})

    def unskipped(self, name: str) -> None:
        self.books[name].skip = None

    def asked(self, id: str, name: str, span: range, at_once: int, again: bool, now: int) -> None:
        """A backfill was asked for, in a call that began at `now`. What is to come is left out."""
        book = self.books[name]
        reign = book.reigns[-1]
        raw = self.redis.hgetall(f"{PREFIX}backfill:{id}")
        said = {key.decode(): value.decode() for key, value in raw.items()}
        wanted = frozenset(t for t in reign.rule.times(span[0] - 1, int(said["end"])) if t in span)
        if book.reign:  # it may have been removed when this was written
            assert wanted >= {t for t in reign.rule.times(span[0] - 1, now) if t in span}
            assert int(said["end"]) <= self.decided(name)
        ran = set() if again else self._ran(name)
        self.backfills[id] = Backfill(name, frozenset(wanted - ran), again, at_once)
        assert int(said["total"]) == len(wanted - ran), (id, said, sorted(wanted - ran))

    def _ran(self, name: str) -> set[int]:
        """Fire times that ran already, or will by a backfill that was asked for before."""
        ledger = Ledger.read(self.redis.lrange(f"{PREFIX}ledger:{name}", 0, -1))
        ran = {*ledger.runs, *ledger.backfilled}
        for id in self.running():
            raw = self.redis.hgetall(f"{PREFIX}backfill:{id}")
            if id in self.backfills and self.backfills[id].name == name:
                ran |= self.backfills[id].fire_times
            elif raw[b"schedule"] == name.encode() and raw[b"reason"] == MADE_UP.encode():
                spec = json.loads(raw[b"rule"])
                made_up = Rule(spec["every"], spec.get("anchor", 0))
                ran |= {*made_up.times(int(raw[b"start"]) - 1, int(raw[b"end"]))}
        return ran

    def running(self) -> list[str]:
        """Backfills that go on."""
        chores = self.redis.zrange(PREFIX + "duties", 0, -1)
        return [c.decode()[9:] for c in chores if c.startswith(b"backfill:")]

    # ---- what workers did ---------------------------------------------------------------------

    def end_jobs(self, most: int) -> None:
        """The oldest jobs in the queue have run, and nothing is left of them."""
        for job in self.redis.lrange("rq:queue:default", 0, most - 1):
            self.redis.lrem("rq:queue:default", 1, job)
            self.redis.delete(b"rq:job:" + job)
            self.ended.add(job.decode())
        for book in self.books.values():
            book.alive -= self.ended

    # ---- the account --------------------------------------------------------------------------

    def check(self, now: int) -> None:
        """Fails when anything was lost, doubled, or decided without a reason."""
        queued = [job.decode() for job in self.redis.lrange("rq:queue:default", 0, -1)]
        assert len(set(queued)) == len(queued), queued
        again = {job for job in self.ended & set(queued) if not job.startswith(ONCE)}
        assert not again, f"jobs that have run are there again: {again}"
        self.seen.update(queued)
        for name, book in self.books.items():
            self._check_definition(name, book)
            lines = self.redis.lrange(f"{PREFIX}ledger:{name}", 0, -1)
            ledger = self.ledgers[name] = Ledger.read(lines)
            self._check_jobs(name, ledger)
            alive = {job for job in queued if job.startswith(f"default-{name}-")}
            self._check_fates(name, book, ledger, alive, now)
            self._check_backfilled(name, book, ledger)
            book.alive = alive
            book.judged_by, book.overlap_before = self._holds(book), book.overlap
        self._check_backfills()

    def _holds(self, book: Book) -> tuple[Hold | None, ...]:
        holds = (book.pause, self.everything, book.skip)
        return tuple(replace(hold) if hold else None for hold in holds)

    def _check_definition(self, name: str, book: Book) -> None:
        stored, due = self.definition(name), self.redis.zscore(PREFIX + "due", name)
        reign = book.reign
        if reign is None:
            assert stored is None
            assert due is None
            assert not self.redis.hexists(PREFIX + "markers", name)
            return
        assert stored
        assert Rule(stored["every"], stored.get("anchor", 0)) == reign.rule
        usual = "allow" if book.catch_up == "all" else "skip"
        assert stored.get("catchUp", "latest") == book.catch_up
        assert stored.get("overlap", usual) == book.overlap
        marker, since = self.state(name)
        assert since == reign.since
        assert (marker or 0) >= (book.marker or 0), f"{name}: its marker went back"
        book.marker = marker
        following = reign.rule.next(max(marker or 0, since))
        # Earlier is an idle look, where the clock was ahead of an edit; later is too late.
        assert due == following or (since == marker and due < following), (name, due, following)

    def _check_jobs(self, name: str, ledger: Ledger) -> None:
        """Each job of the ledger was in the queue, and none else."""
        assert jobs_of(name, self.seen) == ledger.jobs, name
        assert ledger.by_hand.total() == self.books[name].by_hand

    def _check_fates(
        self, name: str, book: Book, ledger: Ledger, alive: set[str], now: int
    ) -> None:
        fates = ledger.fates(book.expected(), name)
        assert fates.items() >= book.fates.items()
        for fire in sorted(fates.keys() - book.fates.keys()):
            self._judge(name, book, fire, fates[fire], alive, now)
        book.fates = fates

    def _judge(
        self, name: str, book: Book, fire: int, fate: str, alive: set[str], now: int
    ) -> None:
        """Whether this fate of a fire time is one that it could have."""
        why = f"{name} {fire} {fate}"
        if fate == "overlap":
            assert book.overlap == "skip" or book.overlap_before == "skip", why
            assert alive or book.alive, why
            return
        if fate == "limit":
            assert book.catch_up != "all", why
            return
        if fate == "window":
            assert book.catch_up == "none", why
            assert fire < now - ON_TIME, why
            return
        allowed = set()
        for holds in (book.judged_by, self._holds(book)):
            reasons = {h.reason for h in holds if h and h.covers(name, fire)}
            allowed |= reasons or {"run"}
        assert fate in allowed, f"{why}: {allowed}"

    def _check_backfilled(self, name: str, book: Book, ledger: Ledger) -> None:
        """Nothing ran a second time unasked."""
        mine = [b for b in self.backfills.values() if b.name == name]
        for fire, count in ledger.backfilled.items():
            again = sum(b.again and fire in b.fire_times for b in mine)
            plain = any(fire in b.fire_times for b in mine if not b.again)
            missed = book.fates.get(fire) == "paused" or any(fire in e for e in book.edges)
            once = fire not in ledger.runs and (plain or missed)
            assert count <= again + once, f"{name}: {fire} was backfilled {count} times"

    def _check_backfills(self) -> None:
        for id, backfill in self.backfills.items():
            said = self.redis.hmget(f"{PREFIX}backfill:{id}", "state", "total", "enqueued")
            state, total, enqueued = said
            number = id.rpartition("-")[2]
            head, tail = f"default-{backfill.name}-", f"-b{number}"
            mine = {j for j in self.seen if j.startswith(head) and j.endswith(tail)}
            fired = {int(j.removeprefix(head).partition("-")[0]) for j in mine}
            assert fired <= backfill.fire_times
            assert len(mine - self.ended) <= backfill.at_once
            assert len(fired) == int(enqueued or 0)
            if state == b"done":
                assert len(fired) == int(total), id
                ledger = self.ledgers[backfill.name]
                assert backfill.fire_times <= {*ledger.runs, *ledger.backfilled}

    def check_done(self, name: str, now: int) -> None:
        """Fails unless all that was due is decided."""
        book = self.books[name]
        if reign := book.reign:
            late = reign.rule.times(max(book.marker or 0, reign.since), now)
            assert not late, f"{name}: undecided at {now}: {list(late)[:5]}"

    def check_made_up(self, name: str, now: int) -> None:
        """Fails unless each ended pause was made up for, as far as the rule is still the same."""
        book = self.books[name]
        if book.reign is None:
            return
        ledger, owed = self.ledgers[name], list(book.owed)
        if book.pause and book.pause.missed != "skip" and book.pause.until <= now:
            hold = book.pause
            owed.append(Owed(hold.written[name], hold.until, hold.missed))
        for debt in owed:
            after = max(debt.after, book.reign.since)
            fire_times = [t for t in book.fates if after < t <= debt.until]
            if debt.missed == "latest":
                fire_times = sorted(fire_times)[-1:]
            missing = {t for t in fire_times if book.fates[t] == "paused"} - {*ledger.backfilled}
            missing -= self._canceled(name)
            assert not missing, f"{name}: {debt} was not made up for: {missing}"

    def _canceled(self, name: str) -> set[int]:
        """Fire times that a backfill was to enqueue, and maybe others left to it, until somebody
        canceled it."""
        found: set[int] = set()
        for id, backfill in self.backfills.items():
            state = self.redis.hget(f"{PREFIX}backfill:{id}", "state")
            if backfill.name == name and state == b"canceled":
                found |= backfill.fire_times
        return found
