"""Which schedules there are, a page at a time in an order that people want, and how the whole is.

What pages, the API and metrics show, read in a fixed number of round trips (three at most), however
many schedules there are. Up to WHOLE schedules any order and any filter is exact. Beyond, only what
is indexed is in order (trouble first, then by next fire time), and what has to be searched for is
searched for in portions: a page then says how far it looked.

Not here: how it looks (views.py, web/), and operations on schedules (schedules.py).
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from heapq import nsmallest
from itertools import islice
from typing import Any, TypeAlias

from rq_clock.errors import ScheduleError
from rq_clock.jobs.executions import Slot
from rq_clock.model.decision import ON_TIME
from rq_clock.model.entry import Entry, Pause, pause_from
from rq_clock.model.filters import STATES, Filter, searched
from rq_clock.model.job_id import jobs_by_schedule
from rq_clock.model.ledger import LedgerEntry, ledger_entry
from rq_clock.model.schedule import Schedule, from_definition
from rq_clock.store.scripts import text, texts
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, to_ms

WHOLE = 20_000
"""Schedules up to which all names are read for each page."""
PORTION = 10_000
"""Definitions that one page searches when there are more."""
PORTIONS = 20
"""Portions that are searched for all that fits."""
BARS = 60
"""Entries of its ledger that a row shows."""
KEPT = 20_000
"""Entries of ledgers that stay read, 13 MB of them: open pages ask for the same ones on and on."""
TROUBLED = 1000
"""Late and failing schedules, each, that are put first when there are more than WHOLE."""
SORTS = ("trouble", "next", "last", "name")
SHOWN_STATES = (*STATES, "failing", "running")
"""What a schedule can be asked for by: its state, or how its runs do."""
Place: TypeAlias = list[Any]
"""Where in an order a schedule stands; ends with its name."""
_PLACES = {
    "trouble": [int, int, str],
    "next": [int, str],
    "last": [int, str],
    "name": [str],
    "search": [int, str],
    "index": [int, int, str],
}
_NEVER = 1 << 53
_UNINDEXED = ("scheduled", "paused", "ended", "invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the whole is, by the server's clock. `leader` is what the leading clock says of itself,
    empty when none leads; `led` is when one was last heard of, None if none ever was."""

    now: datetime
    leader: Mapping[str, str]
    led: datetime | None
    size: int
    late: int
    failing: int
    pause: Pause | None
    """The one of all schedules."""
    running: Mapping[str, str]
    """Jobs that run now, and their workers."""
    workers: int
    revision: str
    """Rises with every change of a schedule."""


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule as a list shows it: `tail` are the newest entries of its ledger, oldest first,
    `failing` is the end of its newest failure while nothing has succeeded since, `running` its job
    that runs now."""

    entry: Entry
    tail: tuple[LedgerEntry, ...]
    failing: datetime | None
    running: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of schedules. `cursor` leads to the next one and is empty at the end; `total` is how
    many fit in all, None when nobody has counted; `order` is the one they are in, which is not
    always the one that was asked for; `searched` is how many were looked at when that was not all
    of them."""

    pulse: Status
    rows: tuple[Row, ...]
    total: int | None
    cursor: str
    order: str
    searched: int | None = None


class ScheduleList:
    """The schedules of a namespace, to look at. Keep one for the life of a process: it remembers
    the definitions, as far as nothing has changed. Raises redis-py's RedisError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._size = -1
        self._shelf: tuple[str, Mapping[str, _Kept]] = ("", {})

    def pulse(self) -> Status:
        """How the whole is. One round trip."""
        return _NamedPipeline(self._store).answers()[0]

    def rows(self, names: Sequence[str], pulse: Status) -> list[Row]:
        """These schedules, those that exist. One round trip."""
        if not names:
            return []
        key, pipe = self._store.key, self._store.redis.pipeline(transaction=False)
        read = self._store.ask(pipe, names)
        pipe.zmscore(key("failing"), list(names))
        for name in names:
            pipe.lrange(key(f"ledger:{name}"), -BARS, -1)
        answers = pipe.execute()
        entries = read(answers)[0]
        *_, failing = answers[: -len(names)]
        running = jobs_by_schedule(self._store.namespace, pulse.running)
        found = []
        for name, failed, lines in zip(names, failing, answers[-len(names) :], strict=True):
            if name in entries:
                tail = tuple(map(_entry, lines))
                since = None if failed is None else from_ms(int(failed))
                found.append(Row(entries[name], tail, since, running.get(name, "")))
        return found

    def queues(self, pulse: Status) -> Mapping[str, str] | None:
        """Schedule → the queue that it names; None when there are more than WHOLE. One round trip
        after a change, none else."""
        if pulse.size > WHOLE:
            return None
        shelf = self._definitions(pulse.revision)
        return {name: kept.schedule.queue for name, kept in shelf.items() if kept.schedule}

    def page(
        self, wanted: Filter, *, sort: str = "trouble", most: int = 50, cursor: str = ""
    ) -> Listing:
        """The next `most` schedules that fit, after `cursor`. Raises ScheduleError for a state, an
        order or a cursor that is none."""
        found = self._find(wanted, sort, most, cursor)
        return Listing(
            pulse=found.pulse,
            rows=tuple(self.rows(found.names, found.pulse)),
            total=found.total,
            cursor=found.cursor,
            order=found.order,
            searched=found.searched,
        )

    def names(self, wanted: Filter, most: int) -> list[str]:
        """The names of the schedules that fit, up to `most` of them. Raises as `page` does, and
        ScheduleError when they are not found among so many as can be searched at once."""
        names: list[str] = []
        cursor = ""
        for _ in range(PORTIONS):
            found = self._find(wanted, "trouble", most - len(names), cursor)
            names += found.names
            cursor = found.cursor
            if not cursor or len(names) >= most:
                return names
        raise ScheduleError(
            f"expected what fits to be found among {PORTIONS * PORTION:,} schedules; narrow the "
            "filter to a state, or use the command line"
        )

    def _find(self, wanted: Filter, sort: str, most: int, cursor: str) -> _Found:
        _refuse("state", wanted.state, SHOWN_STATES)
        _refuse("sort", sort, SORTS)
        if self._size < 0:
            self._size = self._store.size()
        if self._size <= WHOLE:
            found = self._exact(wanted, sort, most, _place(cursor, sort))
        elif wanted.reads or wanted.origin or wanted.state in _UNINDEXED:
            found = self._searched(wanted, most, _place(cursor, "search"))
        else:
            found = self._indexed(wanted, most, _place(cursor, "index"))
        self._size = found.pulse.size
        return found

    # ---- in any order, of all of them ---------------------------------------------------------

    def _exact(self, wanted: Filter, sort: str, most: int, after: Place) -> _Found:
        asked = _NamedPipeline(self._store)
        asked.add("names", "hkeys", "definitions")
        asked.add("due", "zrange", "due", 0, -1, withscores=True)
        asked.add("failing", "zrange", "failing", 0, -1)
        if wanted.state in (*STATES, "failing"):
            asked.add("pauses", "hgetall", "pauses")
        if wanted.origin:
            asked.add("declared", "smembers", "declared")
        if sort == "last":
            asked.add("outcomes", "hgetall", "outcomes")
        pulse, said = asked.answers()
        index = _Index(self._store.namespace, pulse, said)
        names: Iterable[str] = map(text, said["names"])
        if wanted.reads:
            shelf = self._definitions(pulse.revision)
            names = (n for n in names if n in shelf and shelf[n].fits(wanted))
        if wanted.state or wanted.origin:
            names = (name for name in names if index.fits(name, wanted))
        fits = list(names)
        places = index.places(fits, sort)
        chosen = nsmallest(most + 1, (p for p in places if p > after) if after else places)
        return _Found.of(pulse, chosen, most, sort, total=len(fits))

    def _definitions(self, revision: str) -> Mapping[str, _Kept]:
        """All definitions, read; anew those that have changed since."""
        if self._shelf[0] != revision:
            raw: Any = self._store.redis.hgetall(self._store.key("definitions"))
            shelf: dict[str, _Kept] = {}
            for name, stored in ((text(n), text(d)) for n, d in raw.items()):
                kept = self._shelf[1].get(name)
                same = kept is not None and kept.stored == stored
                shelf[name] = kept if kept and same else _Kept.read(name, stored)
            self._shelf = (revision, shelf)
        return self._shelf[1]

    # ---- as they are indexed, of very many ----------------------------------------------------

    def _indexed(self, wanted: Filter, most: int, after: Place) -> _Found:
        """Those in trouble first, then, unless only these are wanted, the rest by fire time."""
        asked = _NamedPipeline(self._store)
        asked.add("late", "zrange", "due", 0, TROUBLED - 1, withscores=True)
        asked.add("failing", "zrevrange", "failing", 0, TROUBLED - 1)
        _, last, name = after if after and after[0] == 2 else (2, 0, "")
        asked.add("score", "zscore", "due", name)
        asked.add("rank", "zrank", "due", name)
        asked.add("before", "zcount", "due", "-inf", f"({last}")
        pulse, said = asked.answers()
        overdue = _overdue(pulse.now)
        late = [text(name) for name, score in said["late"] if score < overdue]
        failing = [text(name) for name in said["failing"]]
        if wanted.state:
            running = list(jobs_by_schedule(self._store.namespace, pulse.running))
            lists = [{"late": late, "failing": failing, "running": running}[wanted.state]]
        else:
            lists = [late, [name for name in failing if name not in set(late)]]
        places: list[Place] = [
            [i, n, x] for i, part in enumerate(lists) for n, x in enumerate(part)
        ]
        chosen = [place for place in places if place > after][: most + 1]
        if wanted.state or len(chosen) > most:
            return _Found.of(pulse, chosen, most, "index", len(places) if wanted.state else None)
        # Where the last one shown has gone on to another fire time, what was shown of its old one
        # is met again and left out.
        still = said["score"] is not None and int(said["score"]) == last
        start = said["rank"] + 1 if still else said["before"]
        shown = {place[-1] for place in places}
        due: Any = self._store.redis.zrange(
            self._store.key("due"), start, start + most + len(shown), withscores=True
        )
        behind: Iterable[Place] = ([2, int(score), text(name)] for name, score in due)
        chosen += [p for p in behind if p[-1] not in shown and p > after]
        return _Found.of(pulse, chosen, most, "index")

    # ---- as they are found, of very many ------------------------------------------------------

    def _searched(self, wanted: Filter, most: int, after: Place) -> _Found:
        """What fits in a portion, by name, and how large it is; then the next portion. One that is
        there all the time is met at least once, as HSCAN has it."""
        position, last = after or [0, ""]
        asked = _NamedPipeline(self._store)
        asked.add("portion", "hscan", "definitions", position, count=PORTION)
        pulse, said = asked.answers()
        following, raw = said["portion"]
        portion = texts(raw)
        fitting = (
            name for name in sorted(portion)
            if name > last and wanted.may_fit(name, portion[name])
            and (not wanted.reads or _Kept.read(name, portion[name]).fits(wanted))
        )  # fmt: skip
        indexed = wanted.state or wanted.origin
        names = list(fitting if indexed else islice(fitting, most + 1))
        if names and indexed:
            index = _Index(self._store.namespace, pulse, self._known_of(names))
            names = [name for name in names if index.fits(name, wanted)]
        cursor = ""
        if len(names) > most:
            cursor = _cursor("search", [position, names[most - 1]])
        elif following:
            cursor = _cursor("search", [int(following), ""])
        return _Found(pulse, names[:most], None, cursor, "name", len(portion))

    def _known_of(self, names: list[str]) -> dict[str, Any]:
        """What an index takes, of some schedules. One round trip."""
        key, pipe = self._store.key, self._store.redis.pipeline(transaction=False)
        pipe.zmscore(key("due"), names)
        pipe.hmget(key("pauses"), names)
        pipe.smismember(key("declared"), names)
        due, pauses, declared = (zip(names, said, strict=True) for said in pipe.execute())
        return {
            "due": [(name, score) for name, score in due if score is not None],
            "pauses": {name: pause for name, pause in pauses if pause is not None},
            "declared": [name for name, is_so in declared if is_so],
        }


# ---- what was read ----------------------------------------------------------------------------


class _NamedPipeline:
    """The pulse, and what else is asked in the same round trip: answers by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pipe: Any = store.redis.pipeline(transaction=False)
        self._names: list[str] = []
        self._pipe.time()
        self.add("lease", "hgetall", "lease")
        self.add("led", "hget", "meta", "led")
        self.add("size", "hlen", "definitions")
        self.add("soonest", "zrange", "due", 0, TROUBLED, withscores=True)
        self.add("failures", "zcard", "failing")
        self.add("pause", "hget", "pauses", "*")
        self.add("workers", "hgetall", "workers")
        self.add("revision", "get", "revision")

    def add(self, name: str, command: str, key: str, *args: Any, **options: Any) -> None:
        """Ask for one thing more."""
        self._names.append(name)
        getattr(self._pipe, command)(self._store.key(key), *args, **options)

    def answers(self) -> tuple[Status, dict[str, Any]]:
        """Ask."""
        (seconds, micros), *answers = self._pipe.execute()
        said = dict(zip(self._names, answers, strict=True))
        now = from_ms(seconds * 1000 + micros // 1000)
        overdue = _overdue(now)
        pause = pause_from(said["pause"]) if said["pause"] else None
        places = [Slot(text(name), text(value)) for name, value in said["workers"].items()]
        pulse = Status(
            now=now,
            leader=texts(said["lease"]),
            led=from_ms(said["led"]) if said["led"] else None,
            size=said["size"],
            late=sum(score < overdue for _, score in said["soonest"]),
            failing=said["failures"],
            pause=pause if pause and pause.at(now) else None,
            running={place.job[1]: place.worker for place in places if place.job},
            workers=len(places),
            revision=text(said["revision"] or "0"),
        )
        return pulse, said


class _Index:
    """What is known of schedules without their definitions."""

    def __init__(self, namespace: str, pulse: Status, said: Mapping[str, Any]) -> None:
        self._pulse = pulse
        self._overdue = _overdue(pulse.now)
        self._due = {text(name): int(score) for name, score in said["due"]}
        self._failing = {text(name) for name in said.get("failing", ())}
        self._pauses = {text(n): pause_from(p) for n, p in said.get("pauses", {}).items()}
        self._declared = {text(name) for name in said.get("declared", ())}
        self._outcomes = texts(said.get("outcomes", {}))
        self._running = jobs_by_schedule(namespace, pulse.running)

    def fits(self, name: str, wanted: Filter) -> bool:
        """Whether its state and origin are those that are wanted; what is invalid or has ended
        only its definition tells apart."""
        if wanted.origin and (name in self._declared) != (wanted.origin == "declared"):
            return False
        if wanted.state in (None, "invalid"):
            return True
        if wanted.state == "failing":
            return name in self._failing
        if wanted.state == "running":
            return name in self._running
        return wanted.state == self._state(name)

    def _state(self, name: str) -> str:
        """As finding.state_of has it."""
        pause = self._pauses.get(name)
        if self._pulse.pause or (pause and pause.at(self._pulse.now)):
            return "paused"
        if name not in self._due:
            return "ended"
        return "late" if self._due[name] < self._overdue else "scheduled"

    def places(self, names: Iterable[str], sort: str) -> Iterator[Place]:
        """Where each stands in an order."""
        due, overdue, failing = self._due, self._overdue, self._failing
        if sort == "name":
            return ([name] for name in names)
        if sort == "next":
            return ([due.get(name, _NEVER), name] for name in names)
        if sort == "last":
            return ([-self._ended(name), name] for name in names)
        return (
            [0 if at < overdue else 1 if name in failing else 2, at, name]
            for name, at in ((name, due.get(name, _NEVER)) for name in names)
        )

    def _ended(self, name: str) -> int:
        words = self._outcomes.get(name, "").split(" ")
        return int(words[3]) if len(words) > 3 else 0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A definition as it was read: `words` are what a text is looked for in."""

    stored: str
    schedule: Schedule | None
    words: str

    @classmethod
    def read(cls, name: str, stored: str) -> _Kept:
        schedule = None
        with suppress(ScheduleError):
            schedule = from_definition(name, stored)
        return cls(stored, schedule, searched(name, schedule))

    def fits(self, wanted: Filter) -> bool:
        """As far as the definition tells."""
        if wanted.state in ("ended", "invalid") and (self.schedule is None) != (
            wanted.state == "invalid"
        ):
            return False
        return wanted.describes(self.schedule, self.words)


@dataclass(frozen=True, slots=True)
class _Found:
    """A page's names, before its rows are read."""

    pulse: Status
    names: list[str]
    total: int | None
    cursor: str
    order: str
    searched: int | None = None

    @classmethod
    def of(
        cls, pulse: Status, places: list[Place], most: int, order: str, total: int | None = None
    ) -> _Found:
        """The first `most` of these, which are in order."""
        cursor = _cursor(order, places[most - 1]) if len(places) > most else ""
        shown = "trouble" if order == "index" else order
        return cls(pulse, [place[-1] for place in places[:most]], total, cursor, shown)


@lru_cache(maxsize=KEPT)
def _entry(line: bytes) -> LedgerEntry:
    return ledger_entry(line.decode())


def _overdue(now: datetime) -> int:
    """What was due before this is late; ms."""
    return to_ms(now - ON_TIME)


def _refuse(option: str, given: str | None, known: Sequence[str]) -> None:
    if given is not None and given not in known:
        raise ScheduleError(f"{option}: expected one of {', '.join(known)}, got {given!r}")


def _cursor(order: str, place: Place) -> str:
    return urlsafe_b64encode(json.dumps([order, *place]).encode()).decode().rstrip("=")


def _place(cursor: str, order: str) -> Place:
    """Where the page before has ended."""
    if not cursor:
        return []
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        known, *place = list(json.loads(urlsafe_b64decode(padded)))
        kinds = [type(part) for part in place]
    except (ValueError, TypeError, RecursionError):
        known, place, kinds = "", [], []
    if known != order or kinds != _PLACES[order]:
        raise ScheduleError(
            f"cursor: expected the one of a page in the same order, got {cursor!r}; begin again "
            "without one"
        )
    return place
