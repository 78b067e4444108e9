"""Records of a race: what must become of the schedules that editors and clocks contend for.

They are kept beside Redis, from the answers that editors got, with an arithmetic of time of their
own, and compared with raw keys. A race may decide two things, which are read and not foreseen:

- when an edit took effect: at some instant of its call. Decisions before it follow the old state
  of the schedule, those after it the new one.
- how far the clock has come: after which decision.

All else is law: there must be a number of decisions before and after each edit that explains the
ledger, the marker, the count of a skip and the backfills exactly. So each fire time has one fate,
nothing is enqueued while a pause is in force, and what a pause holds waits for its end.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import takewhile
from typing import Any, TypeAlias

ON_TIME = 10_000
DECISION_LIMIT = 100
PREFIX = "rq-clock:default:"
QUEUE = "rq:queue:default"
OWED = "missed in a pause"
"""The reason of a backfill with the fire times that a pause owed."""
ONCE = "default-once-"
"""How the ids of one-off jobs begin. One that is requested again when it has run, runs again."""


@dataclass(frozen=True, slots=True)
class Times:
    """Fire times: anchor + offset + k * period, in ms. The offset is that of the jitter."""

    period: int
    anchor: int = 0
    offset: int = 0

    def between(self, after: int, until: int) -> range:
        """Return those in (after, until]."""
        first = after - (after - self.anchor - self.offset) % self.period + self.period
        return range(first, until + 1, self.period)

    def next(self, after: int) -> int:
        return self.between(after, after + self.period)[0]

    def same_trigger(self, other: Times) -> bool:
        return (self.period, self.anchor) == (other.period, other.anchor)


def offset_of(name: str, jitter: int) -> int:
    """Return by how much a jitter (ms) shifts a schedule."""
    digest = blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % jitter if jitter else 0


@dataclass(frozen=True, slots=True)
class Block:
    """Why fire times in [since, until) are not enqueued: a pause, or a skip of the next `count`."""

    reason: str
    since: int
    until: float = math.inf
    missed: str = "skip"
    count: int = 0
    whole: bool = False

    def at(self, t: int) -> bool:
        return self.since <= t < self.until


@dataclass(frozen=True, slots=True)
class Policy:
    """What a schedule does with missed fire times, and with runs that overlap."""

    catch_up: str = "latest"
    overlap: str = "skip"
    limit: int = 100
    window: float = math.inf

    @property
    def cutoff(self) -> float:
        """How old a fire time may be, in ms."""
        return ON_TIME if self.catch_up == "none" else self.window


@dataclass(frozen=True, slots=True)
class State:
    """A schedule between two decisions."""

    times: Times
    since: int
    policy: Policy
    marker: int | None = None
    pause: Block | None = None
    pause_of_all: Block | None = None
    skip: Block | None = None

    @property
    def decided(self) -> int:
        return max(self.marker or 0, self.since)

    @property
    def blocks(self) -> list[Block]:
        """Those that there are, the one that counts first."""
        return [block for block in (self.pause, self.pause_of_all, self.skip) if block]

    def block_at(self, t: int) -> Block | None:
        return next((block for block in self.blocks if block.at(t)), None)

    def pause_in_force(self, now: int) -> Block | None:
        pauses = (self.pause, self.pause_of_all)
        return next((pause for pause in pauses if pause and now < pause.until), None)

    def after(self, fates: dict[int, str]) -> State:
        """Return the state when these fire times are decided."""
        requested = [*fates.values()].count("requested")
        skip = self.skip
        if skip and requested:
            left = skip.count - requested
            skip = replace(skip, count=left) if left > 0 else None
        return replace(self, marker=max(fates), skip=skip)

    def decide(self, now: int, *, closing: bool = False) -> dict[int, str]:
        """Return the next decision, fire time → fate: run, backfill, or why it is skipped. Empty
        when nothing is due, or when a pause holds what is; with `closing` that is a backfill."""
        part, block = self._part(now)
        if not part:
            return {}
        if block and block.reason == "requested":
            return dict.fromkeys(part[: block.count], "requested")
        if block and block.missed == "skip":
            return dict.fromkeys(part, "paused")
        policy, fate = self.policy, "run"
        if block:
            oldest = min(block.until, now) - policy.window
            limit, too_many = 1, "paused"
            if block.missed == "all":
                limit, too_many, fate = policy.limit, "limit", "backfill"
        else:
            oldest = now - policy.cutoff
            limit, too_many = policy.limit if policy.catch_up == "all" else 1, "limit"
        kept = [t for t in part if t >= oldest][-limit:]
        if fate == "run":
            kept = kept[:DECISION_LIMIT]
        if kept and self.pause_in_force(now):
            if not closing:
                return {}
            fate = "backfill"
        left_out = [t for t in part if not kept or t < kept[0]]
        fates = {t: "window" if t < oldest else too_many for t in left_out}
        return fates | dict.fromkeys(kept, fate)

    def _part(self, now: int) -> tuple[list[int], Block | None]:
        """Return the due fire times that are decided alike, and their block."""
        due = self.times.between(self.decided, now)
        if not due:
            return [], None
        block = self.block_at(due[0])
        first = self.blocks.index(block) if block else None
        starts = [b.since for b in self.blocks[:first]]  # of those that count before it

        def alike(t: int) -> bool:
            return self.block_at(t) == block and not any(due[0] < s <= t for s in starts)

        return list(takewhile(alike, due)), block


@dataclass(frozen=True, slots=True)
class Outcome:
    """What may have happened to a schedule since the last check."""

    state: State | None
    runs: frozenset[int] = frozenset()
    skips: tuple[tuple[int, str], ...] = ()
    backfills: tuple[tuple[int, ...], ...] = ()


Change: TypeAlias = Callable[[Outcome], Iterable[Outcome]]
"""An edit: what may have come of an outcome; nothing when it cannot have been made then."""


@dataclass(slots=True)
class Backfill:
    name: str
    fire_times: frozenset[int]
    again: bool = False
    at_once: int = 1
    owed: bool = False
    fired: frozenset[int] = frozenset()
    canceled: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A backfill that an editor created, of what was decided from `start` to `end`."""

    id: str
    name: str
    span: range
    at_once: int
    again: bool
    decided: int
    """Up to where all was decided when its call began, or when that could not stay undecided."""


@dataclass(slots=True)
class Record:
    """One schedule, from its first life to its last."""

    state: State | None = None
    times: Times | None = None
    """Those it has, or had when it was removed."""
    changes: list[Change] = field(default_factory=list)
    """Edits since the last check."""
    runs: frozenset[int] = frozenset()
    skips: tuple[tuple[int, str], ...] = ()
    by_hand: int = 0
    alive: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Ledger:
    """One schedule's, by its lines."""

    runs: Counter[int] = field(default_factory=Counter)
    by_hand: Counter[int] = field(default_factory=Counter)
    backfilled: Counter[int] = field(default_factory=Counter)
    skips: list[tuple[int, int, int, str]] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[bytes]) -> Ledger:
        found = cls()
        for line in lines:
            code, *words = line.decode().split(" ")
            if code == "-":
                first, last, count, reason = words
                found.skips.append((int(first), int(last), int(count), reason))
            else:
                kind = {"m": found.by_hand, "b": found.backfilled}.get(code, found.runs)
                kind[int(words[0])] += 1
        return found

    @property
    def jobs(self) -> dict[str, Counter[int]]:
        """As `jobs_of` returns them."""
        return {"": self.runs, "m": self.by_hand, "b": self.backfilled}

    def holds(self, skips: tuple[tuple[int, str], ...], *, more: bool = False) -> bool:
        """Whether its skips are these, in this order, or with `more` begin so. Neighbours may be
        one entry."""
        rest = list(skips)
        for first, last, count, reason in self.skips:
            entry, rest = rest[:count], rest[count:]
            if more and not entry:
                return True
            whole = len(entry) == count and entry[-1][0] == last
            if entry[:1] and (entry[0][0] != first or {why for _, why in entry} != {reason}):
                return False
            if not whole and not (more and len(entry) < count):
                return False
        return not rest

    def fates(self, expected: list[int], owed: set[int], name: str) -> dict[int, str]:
        """Return what became of each fire time: run, backfill (`owed` by a pause), or why it was
        skipped. Fails unless all that were expected are here, and each once."""
        fates = dict.fromkeys(self.runs, "run")
        assert max(self.runs.values(), default=1) == 1, name
        assert not fates.keys() & owed, name
        fates |= dict.fromkeys(owed, "backfill")
        for first, last, count, reason in self.skips:
            skipped = {t for t in expected if first <= t <= last} - owed
            assert len(skipped) == count, (name, first, last, count, reason)
            assert not fates.keys() & skipped, (name, first, last, count, reason)
            fates |= dict.fromkeys(skipped, reason)
        assert sorted(fates) == expected, (name, sorted(fates.keys() ^ set(expected)))
        return fates


def all_keys(redis: Any, but: str) -> dict[bytes, bytes]:
    """Return every key except one, as DUMP shows it."""
    keys = sorted(key for key in redis.scan_iter("*", 10_000) if key != but.encode())
    pipe = redis.pipeline(transaction=False)
    for key in keys:
        pipe.dump(key)
    return dict(zip(keys, pipe.execute(), strict=True))


def jobs_of(name: str, ids: Iterable[str]) -> dict[str, Counter[int]]:
    """Return how many of a schedule's jobs there are for each fire time, by the letter of their
    kind: "" for the clock's own, m (by hand), b (backfill)."""
    found: dict[str, Counter[int]] = {"": Counter(), "m": Counter(), "b": Counter()}
    head = f"default-{name}-"
    for id in ids:
        if id.startswith(head):
            fire, _, kind = id.removeprefix(head).partition("-")
            found[kind[:1]][int(fire)] += 1
    return found


class Records:
    """All schedules of a race. `check` compares them with Redis."""

    def __init__(self, redis: Any, names: Iterable[str]) -> None:
        self.redis = redis
        self.schedules = {name: Record() for name in names}
        self.pause_of_all: Block | None = None
        self.closing: set[str] = set()
        """Schedules of which an edit under way decides also what a pause holds."""
        self.requests: list[Request] = []
        self.instants: list[int] = []
        """Those of the checks in the last 10 s."""
        self.backfills: dict[str, Backfill] = {}
        self.seen: set[str] = set()
        """Every job that was ever in the queue."""
        self.ended: set[str] = set()
        self.ledgers = {name: Ledger() for name in names}

    # ---- reading ------------------------------------------------------------------------------

    def base(self, name: str) -> tuple[int | None, int]:
        """Return marker and known since."""
        marker, since = self.redis.hget(PREFIX + "markers", name).decode().split(" ")[:2]
        return None if marker == "-" else int(marker), int(since)

    def revision(self, name: str) -> bytes | None:
        found: bytes | None = self.redis.hget(PREFIX + "revisions", name)
        return found

    def definition(self, name: str) -> dict[str, Any] | None:
        found = self.redis.hget(PREFIX + "definitions", name)
        return json.loads(found) if found else None

    def stored_pause(self, name: str) -> Block | None:
        if (found := self.redis.hget(PREFIX + "pauses", name)) is None:
            return None
        stored = json.loads(found)
        until = stored.get("until", math.inf)
        return Block("paused", stored["since"], until, stored["missed"], whole=name == "*")

    def stored_skip(self, name: str) -> Block | None:
        found = json.loads(self.redis.hget(PREFIX + "skips", name) or b"{}")
        return Block("requested", found["since"], count=found["count"]) if found else None

    def running(self) -> list[str]:
        """Return the ids of backfills that go on."""
        duties = [duty.decode() for duty in self.redis.zrange(PREFIX + "duties", 0, -1)]
        return [duty.removeprefix("backfill:") for duty in duties]

    # ---- edits --------------------------------------------------------------------------------

    def added(self, name: str, times: Times, policy: Policy, call: range) -> None:
        marker, since = self.base(name)
        assert marker is None
        assert since in call
        state = State(times, since, policy, pause_of_all=self.pause_of_all)
        self._change(name, lambda one: [] if one.state else [replace(one, state=state)])
        self.schedules[name].times = times

    def changed_times(self, name: str, times: Times, call: range) -> None:
        _, since = self.base(name)
        self._change(name, partial(_change_times, times=times, since=since, call=call))
        self.schedules[name].times = times

    def changed_overlap(self, name: str, overlap: str) -> None:
        def change(state: State) -> State:
            return replace(state, policy=replace(state.policy, overlap=overlap))

        self._change(name, partial(_with_state, change=change))

    def removed(self, name: str, call: range) -> None:
        self._change(name, partial(_remove, call=call))
        for id, backfill in self.backfills.items():
            if backfill.name == name:
                assert self.redis.hget(f"{PREFIX}backfill:{id}", "state") != b"running", id

    def paused(self, name: str, until: float, missed: str, call: range) -> None:
        before = self._pause(name)
        pause = self.stored_pause(name)
        assert pause
        assert (pause.until, pause.missed) == (until, missed)
        same = before and before.until > call[0] and pause.since == before.since
        assert same or pause.since in call, (name, before, pause, call)
        self._set_pause(name, pause)

    def resumed(self, name: str, missed: str | None, call: range) -> None:
        before, pause = self._pause(name), self.stored_pause(name)
        if pause is None or before == pause:
            return  # there was nothing to resume
        assert before
        assert pause == replace(before, until=pause.until, missed=missed or before.missed)
        assert pause.until in call
        self._set_pause(name, pause)

    def skipped(self, name: str, count: int, last: int | None, call: range) -> None:
        """The next `count` from some instant of the call on; `last` is the last one of them."""
        skip = self.stored_skip(name)
        assert (skip and skip.count) == (count or None)
        assert skip is None or skip.since in call

        def change(state: State) -> State:
            assert skip is None or last in (None, _last_skipped(state, skip))
            return replace(state, skip=skip)

        self._change(name, partial(_with_state, change=change))

    def requested(
        self, id: str, name: str, span: range, at_once: int, *, again: bool, now: int
    ) -> None:
        """A backfill was requested, in a call that began at `now`."""
        state = self.schedules[name].state
        decided = 0
        if state and state.pause_in_force(now):
            decided = state.decided
        elif state:
            decided = now
        self.requests.append(Request(id, name, span, at_once, again, decided))

    def _change(self, name: str, change: Change) -> None:
        self.schedules[name].changes.append(change)

    def _pause(self, name: str) -> Block | None:
        if name == "*":
            return self.pause_of_all
        state = self.schedules[name].state
        return state.pause if state else None

    def _set_pause(self, name: str, pause: Block) -> None:
        if name != "*":
            change = partial(_with_state, change=lambda state: replace(state, pause=pause))
            self._change(name, change)
            return
        self.pause_of_all = pause
        for other, record in self.schedules.items():
            if record.state:
                change = partial(
                    _with_state, change=lambda state: replace(state, pause_of_all=pause)
                )
                self._change(other, change)

    # ---- workers ------------------------------------------------------------------------------

    def end_jobs(self, limit: int) -> None:
        """The oldest jobs in the queue have run, and nothing is left of them."""
        for job in self.redis.lrange(QUEUE, 0, limit - 1):
            self.redis.lrem(QUEUE, 1, job)
            self.redis.delete(b"rq:job:" + job)
            self.ended.add(job.decode())
        for record in self.schedules.values():
            record.alive -= self.ended

    # ---- the check ----------------------------------------------------------------------------

    def check(self, now: int) -> None:
        """Fails when anything was lost, doubled, or decided without a reason."""
        self.instants = [t for t in self.instants if now - ON_TIME < t < now] + [now]
        queued = [job.decode() for job in self.redis.lrange(QUEUE, 0, -1)]
        assert len(set(queued)) == len(queued), queued
        again = {job for job in self.ended & set(queued) if not job.startswith(ONCE)}
        assert not again, f"jobs that have run are there again: {again}"
        self.seen.update(queued)
        for name, record in self.schedules.items():
            lines = self.redis.lrange(f"{PREFIX}ledger:{name}", 0, -1)
            ledger = self.ledgers[name] = Ledger.read(lines)
            assert jobs_of(name, self.seen) == ledger.jobs, name
            assert ledger.by_hand.total() == record.by_hand
            alive = {job for job in queued if job.startswith(f"default-{name}-")}
            before = record.state
            self._explain(name, record, ledger, alive, now)
            self._check_stored(name, record.state, now)
            states = [state for state in (before, record.state) if state]
            held = len(states) > 1 and all(state.pause_in_force(now) for state in states)
            self._check_backfilled(name, ledger, held=held)
            record.alive = alive
        for request in self.requests:
            self._check_request(request)
        self.requests.clear()
        stored = {id.decode() for id in self.redis.zrange(PREFIX + "backfills", 0, -1)}
        stored = {id for id in stored if not id.startswith("once-")}
        assert stored == self.backfills.keys(), stored ^ self.backfills.keys()
        self._check_backfills()

    def _explain(
        self, name: str, record: Record, ledger: Ledger, alive: set[str], now: int
    ) -> None:
        """Find the decisions, before and after each edit, that explain what is in Redis."""
        assert max(ledger.runs.values(), default=1) == 1, name
        ran = frozenset(ledger.runs) - record.runs
        marker = self.base(name)[0] if self.definition(name) else None
        count = getattr(self.stored_skip(name), "count", 0)
        owed = self._new_owed(name)
        busy, closing = bool(alive or record.alive), name in self.closing
        tried: list[Outcome] = []

        def possible(one: Outcome) -> bool:
            overlaps = any(why == "overlap" for _, why in one.skips)
            skips = record.skips + one.skips
            return one.runs <= ran and busy >= overlaps and ledger.holds(skips, more=True)

        def outcomes(one: Outcome, changes: list[Change]) -> Iterator[Outcome]:
            for then in _decisions(one, self._instants(one.state, now), possible, closing=closing):
                if not changes:
                    yield then
                    continue
                for changed in changes[0](then):
                    yield from outcomes(changed, changes[1:])

        for one in outcomes(Outcome(record.state), record.changes):
            tried.append(one)
            state = one.state
            if (
                (state.marker if state else None) == marker
                and one.runs == ran
                and (state.skip.count if state and state.skip else 0) == count
                and {times[-1]: times for times in one.backfills} == owed
                and ledger.holds(record.skips + one.skips)
            ):
                break
        else:
            found = (marker, sorted(ran), count, owed, ledger.skips[-4:])
            lines = "\n".join(map(str, tried))
            raise AssertionError(
                f"{name}: nothing explains {found} at {now} with {len(record.changes)} edits of\n"
                f"{record.state}\ntried:\n{lines}"
            )
        record.state, record.changes = one.state, []
        record.runs |= one.runs
        record.skips += one.skips
        for times in one.backfills:
            backfill = Backfill(name, frozenset(times), owed=True)
            self.backfills[f"{name}-0{times[-1]}"] = backfill

    def _instants(self, state: State | None, now: int) -> list[int]:
        """Return when a decision that is committed now may have been made: now, when somebody did
        something shortly before, or ahead of its instant."""
        ahead: list[float] = []
        if state:
            pauses = (pause for pause in (state.pause, state.pause_of_all) if pause)
            ahead = [pause.until for pause in pauses]
            ahead += state.times.between(now - state.times.period, now)
        recent = {int(t) for t in (*self.instants, *ahead) if now - ON_TIME < t <= now}
        return sorted({now, *recent}, reverse=True)

    def _new_owed(self, name: str) -> dict[int, tuple[int, ...]]:
        """Return the backfills of pauses that are not known yet, by their last fire time."""
        found = {}
        for id in self.redis.zrange(PREFIX + "backfills", 0, -1):
            key = f"{PREFIX}backfill:{id.decode()}"
            if not id.startswith(f"{name}-0".encode()) or id.decode() in self.backfills:
                continue
            words = {k.decode(): v.decode() for k, v in self.redis.hgetall(key).items()}
            spec = json.loads(words["rule"])
            jitter = offset_of(name, spec.get("jitter", 0))
            times = Times(spec["every"], spec.get("anchor", 0), jitter)
            span = tuple(times.between(int(words["start"]) - 1, int(words["end"])))
            assert (words["reason"], words["at_once"]) == (OWED, "1")
            assert int(words["total"]) == len(span)
            found[span[-1]] = span
        return found

    def _check_stored(self, name: str, state: State | None, now: int) -> None:
        """The definition, and when the clock is to look at it."""
        stored, due = self.definition(name), self.redis.zscore(PREFIX + "due", name)
        if state is None:
            assert (stored, due) == (None, None)
            assert not self.redis.hexists(PREFIX + "markers", name)
            return
        assert stored
        times, policy = state.times, state.policy
        offset = offset_of(name, round(stored.get("jitter", 0) * 1000))
        assert Times(stored["every"], stored.get("anchor", 0), offset) == times
        assert stored.get("catchUp", "latest") == policy.catch_up
        usual = "allow" if policy.catch_up == "all" else "skip"
        assert stored.get("overlap", usual) == policy.overlap
        assert self.base(name) == (state.marker, state.since)
        assert self.stored_pause(name) == state.pause
        self._check_due(name, state, due, now)

    def _check_due(self, name: str, state: State, due: float | None, now: int) -> None:
        """The clock looks at what is due now or, when a pause holds it, at its end or before."""
        following = state.times.next(state.decided)
        if following > now:  # earlier is an idle look, where the clock was ahead of an edit
            assert due is not None
            early = due <= now or state.since == state.marker
            assert due == following or (early and due < following), name
            return
        latest: float = now
        if state.pause and now < state.pause.until:
            latest = max(latest, state.pause.until)
        whole = state.pause_of_all
        freed = whole and whole.until <= now  # when the clock scans
        if due == math.inf and whole and (now < whole.until or freed):
            return
        assert (math.inf if due is None else due) <= max(following, latest), (name, due, state)

    def _check_backfilled(self, name: str, ledger: Ledger, *, held: bool) -> None:
        """Nothing ran a second time unrequested, and nothing in a pause."""
        mine = {id: b for id, b in self.backfills.items() if b.name == name}
        for id, backfill in mine.items():
            head, tail = f"default-{name}-", f"-b{id.rpartition('-')[2]}"
            jobs = {j for j in self.seen if j.startswith(head) and j.endswith(tail)}
            fired = frozenset(int(j.removeprefix(head).partition("-")[0]) for j in jobs)
            new = fired - backfill.fired
            assert fired <= backfill.fire_times, id
            assert not (new and held), f"{id} goes on in a pause: {new}"
            assert not (new and backfill.canceled), f"{id} goes on, canceled: {new}"
            assert len(jobs - self.ended) <= backfill.at_once, id
            backfill.fired = fired
        for fire, count in ledger.backfilled.items():
            again = sum(b.again and fire in b.fire_times for b in mine.values())
            plain = any(fire in b.fire_times for b in mine.values() if not b.again)
            once = fire not in ledger.runs and plain
            assert count <= again + once, f"{name}: {fire} was backfilled {count} times"

    def _check_request(self, request: Request) -> None:
        """A new backfill has what is asked for and is decided, and neither ran nor will."""
        name, span = request.name, request.span
        times, state = self.schedules[name].times, self.schedules[name].state
        assert times
        raw = self.redis.hgetall(f"{PREFIX}backfill:{request.id}")
        stored = {key.decode(): value.decode() for key, value in raw.items()}
        within = frozenset(t for t in times.between(span[0] - 1, int(stored["end"])) if t in span)
        if state:  # it may have been removed when this was written
            certain = times.between(span[0] - 1, request.decided)
            assert within >= {t for t in certain if t in span}
            assert int(stored["end"]) <= state.decided
        ran = set() if request.again else self._ran(name)
        left = within - ran
        self.backfills[request.id] = Backfill(name, left, request.again, request.at_once)
        assert int(stored["total"]) == len(left), (request, stored, sorted(left))

    def _ran(self, name: str) -> set[int]:
        """Return fire times that ran, or will by a backfill that was there before."""
        ran = {*self.ledgers[name].runs, *self.ledgers[name].backfilled}
        for id in self.running():
            if id in self.backfills and self.backfills[id].name == name:
                ran |= self.backfills[id].fire_times
        return ran

    def _check_backfills(self) -> None:
        for id, backfill in self.backfills.items():
            key = f"{PREFIX}backfill:{id}"
            state, total, enqueued = self.redis.hmget(key, "state", "total", "enqueued")
            assert len(backfill.fired) == int(enqueued or 0), id
            backfill.canceled = state == b"canceled"
            if state == b"done":
                assert len(backfill.fired) == int(total), id
                ledger = self.ledgers[backfill.name]
                assert backfill.fire_times <= {*ledger.runs, *ledger.backfilled}

    def check_idle(self, name: str, now: int) -> None:
        """Fails unless all that was due is decided, or held by a pause."""
        state = self.schedules[name].state
        if state:
            left = state.decide(now)
            assert not left, f"{name}: undecided at {now}: {left}"

    def check_done(self) -> None:
        """Fails unless each backfill is done, or canceled."""
        assert not self.running()
        for id, backfill in self.backfills.items():
            assert backfill.canceled or backfill.fired == backfill.fire_times, id


def _decisions(
    first: Outcome,
    instants: Sequence[int],
    possible: Callable[[Outcome], bool],
    *,
    closing: bool,
) -> Iterator[Outcome]:
    """Yield what comes of 0, 1, 2 … decisions, each made at one of these instants."""
    waiting, known = [first], {first}
    while waiting:
        one = waiting.pop()
        yield one
        if one.state is None:
            continue
        for now in instants:
            fates = one.state.decide(now)
            if not fates and closing:
                fates = one.state.decide(now, closing=True)
            for then in _decided(one, one.state, fates) if fates else ():
                if then not in known and possible(then):
                    known.add(then)
                    waiting.append(then)


def _decided(one: Outcome, state: State, fates: dict[int, str]) -> Iterator[Outcome]:
    """Yield what comes of a decision: its runs, or that all of them overlap another one."""
    runs = sorted(t for t, fate in fates.items() if fate == "run")
    skips = [(t, fate) for t, fate in fates.items() if fate not in ("run", "backfill")]
    backfill = tuple(t for t, fate in fates.items() if fate == "backfill")
    backfills = (*one.backfills, backfill) if backfill else one.backfills
    after = state.after(fates)
    yield Outcome(after, one.runs | set(runs), (*one.skips, *skips), backfills)
    if runs and state.policy.overlap == "skip":
        skips += [(t, "overlap") for t in runs]
        yield Outcome(after, one.runs, (*one.skips, *skips), backfills)


def _with_state(one: Outcome, change: Callable[[State], State]) -> list[Outcome]:
    return [replace(one, state=change(one.state))] if one.state else []


def _change_times(one: Outcome, times: Times, since: int, call: range) -> list[Outcome]:
    """What the old trigger named until then is decided by it; with another jitter alone, each
    instant of the trigger is decided once."""
    old = one.state
    if old is None:
        return []
    new = replace(old, times=times, since=since)
    if times == old.times:
        return [one] if since == old.since else []
    if times.same_trigger(old.times):
        new = replace(new, marker=None)
        wanted = old.times.next(old.decided) - old.times.offset + times.offset
        if old.times.next(old.since - 1) != old.since:  # first known then: nothing before is due
            wanted = max(wanted, times.next(old.since))
        right = times.next(new.decided) == wanted
    else:
        right = not old.times.between(old.decided, since)
        right = right and (since in call or since == old.marker)
    return [replace(one, state=new)] if right else []


def _remove(one: Outcome, call: range) -> Iterator[Outcome]:
    """What is left undecided is skipped; nobody knows whether what comes due in the call is."""
    if one.state is None:
        return
    times, decided = one.state.times, one.state.decided
    certain = times.between(decided, call[0])
    left = times.between(decided, call[-1])
    for count in range(len(certain), len(left) + 1):
        skips = tuple((t, "removed") for t in left[:count])
        yield replace(one, state=None, skips=one.skips + skips)


def _last_skipped(state: State, skip: Block) -> int:
    last = max(state.decided, skip.since - 1)
    for _ in range(skip.count):
        last = state.times.next(last)
    return last
