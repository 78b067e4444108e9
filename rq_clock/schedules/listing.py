"""The schedules of a namespace, filtered and in order: what pages, the API and the command line
list.

A page takes a fixed number of round trips, however many schedules there are. Up to WHOLE schedules
any order and any filter is exact. Beyond, only the indexes are in order (trouble first, then by
next fire time). Other filters search the definitions in portions; a page then reports how many it
searched.

Not here: how a list looks (serializers.py, web/, cli/), and operations on schedules (service.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from heapq import nsmallest
from itertools import islice
from typing import Any, TypeAlias

from rq_clock.errors import ScheduleError
from rq_clock.model.entry import Entry
from rq_clock.model.filters import Filter, search_text
from rq_clock.model.ledger import LedgerEntry, ledger_entry
from rq_clock.model.schedule import Schedule, from_definition
from rq_clock.model.verdict import STATES, TROUBLE, verdict
from rq_clock.store import cursors
from rq_clock.store.pipeline import NamedPipeline
from rq_clock.store.scripts import text, texts
from rq_clock.store.status import LastRun, Status, fails, pause_in_force, read_status
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, score_ms

WHOLE = 20_000
"""Schedules up to which all names are read for each page."""
PORTION = 10_000
"""Definitions that one page searches when there are more."""
PORTIONS = 20
"""Portions that `names` searches."""
BARS = 60
"""Entries of its ledger that a row has."""
KEPT = 20_000
"""Parsed ledger entries in memory, about 13 MB. Open pages read the same ones again and again."""
CHUNK = 500
"""Rows that `rows_of` reads in one round trip."""
SORTS = ("trouble", "next", "last", "name", "state")
Place: TypeAlias = list[Any]
"""Where a schedule stands in an order; ends with its name."""
_PLACES = {
    "trouble": (int, int, str),
    "next": (int, str),
    "last": (int, str),
    "name": (str,),
    "state": (int, str),
    "search": (int, str),
    "index": (int, int, str),
}
_NEVER = 1 << 53
_REST = len(TROUBLE[1:])
"""The place of schedules without trouble, behind late, stuck and failing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule in a list. `states` are worst first. `tail` are the newest entries of its ledger,
    oldest first, `failing` is the end of its newest failure since its newest success, `running` its
    job that runs now."""

    entry: Entry
    tail: tuple[LedgerEntry, ...]
    failing: datetime | None
    running: str
    states: tuple[str, ...]

    @property
    def state(self) -> str:
        """Return the worst of its states."""
        return self.states[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of schedules. `cursor` leads to the next page and is empty at the end. `total` is the
    number of matches, None when they were not counted. `order` may differ from the requested one.
    `searched` is the number of schedules searched, when that was not all of them."""

    status: Status
    rows: tuple[Row, ...]
    total: int | None
    cursor: str
    order: str
    searched: int | None = None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return the schedules themselves."""
        return tuple(row.entry for row in self.rows)


class ScheduleList:
    """The schedules of a namespace. Keep one for the life of a process: it remembers definitions as
    long as nothing changes. Raises redis-py's RedisError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._size = -1
        self._shelf: tuple[str, Mapping[str, _Kept]] = ("", {})

    def status(self) -> Status:
        """Return the status of the namespace."""
        return read_status(self._store)

    def rows(self, names: Sequence[str], status: Status, tail: int = BARS) -> list[Row]:
        """Return these schedules, if they exist, with `tail` entries of their ledgers. One round
        trip."""
        if not names:
            return []
        pipe: Any = self._store.redis.pipeline(transaction=False)
        read = ask_rows(self._store, pipe, names, tail)
        return read(pipe.execute(), status)

    def queues(self, status: Status) -> Mapping[str, str] | None:
        """Return the queue of each schedule; None when there are more than WHOLE. One round trip
        after a change, otherwise none."""
        if status.size > WHOLE:
            return None
        shelf = self._definitions(status.revision)
        return {name: kept.schedule.queue for name, kept in shelf.items() if kept.schedule}

    def page(
        self,
        conditions: Filter,
        *,
        sort: str = "trouble",
        limit: int = 50,
        cursor: str = "",
        tail: int = BARS,
    ) -> Listing:
        """Return the first `limit` matches after `cursor`, with `tail` entries of their ledgers.
        Raises ScheduleError for an unknown state, order or cursor."""
        found = self._find(conditions, sort, limit, cursor)
        return Listing(
            status=found.status,
            rows=tuple(self.rows(found.names, found.status, tail)),
            total=found.total,
            cursor=found.cursor,
            order=found.order,
            searched=found.searched,
        )

    def search(self, conditions: Filter, *, limit: int, cursor: str) -> Listing:
        """Return as `page` does, without ledgers, and search on until there are `limit` matches, in
        PORTIONS portions at most."""
        listing = self.page(conditions, limit=limit, cursor=cursor, tail=0)
        for _ in range(PORTIONS - 1):
            if not listing.cursor or len(listing.rows) >= limit:
                break
            rest = limit - len(listing.rows)
            more = self.page(conditions, limit=rest, cursor=listing.cursor, tail=0)
            listing = replace(more, rows=listing.rows + more.rows)
        return listing

    def names(self, conditions: Filter, limit: int) -> list[str]:
        """Return the names of the first `limit` matches. Raises as `page` does, and ScheduleError
        when there are too many schedules to search."""
        names: list[str] = []
        cursor = ""
        for _ in range(PORTIONS):
            found = self._find(conditions, "trouble", limit - len(names), cursor)
            names += found.names
            cursor = found.cursor
            if not cursor or len(names) >= limit:
                return names
        raise ScheduleError(
            f"too many schedules to search ({PORTIONS * PORTION:,} searched); filter by state, or "
            "use the command line"
        )

    def all_rows(self, conditions: Filter, *, sort: str = "name", tail: int = 1) -> Iterator[Row]:
        """Yield all matches in order, with `tail` entries of their ledgers. Reads as many portions
        as it takes. Raises as `page` does."""
        found = self._find(conditions, sort, WHOLE, "", indexed=False)
        names = dict.fromkeys(found.names)
        while found.cursor:
            found = self._find(conditions, sort, WHOLE, found.cursor, indexed=False)
            names |= dict.fromkeys(found.names)
        chunks = _chunks(list(names))
        rows: Iterable[Row] = (r for chunk in chunks for r in self.rows(chunk, found.status, tail))
        yield from rows if found.order == sort else sorted(rows, key=_keys[sort])

    def _find(
        self, conditions: Filter, sort: str, limit: int, cursor: str, *, indexed: bool = True
    ) -> _Found:
        for state in conditions.states:
            _refuse("state", state, STATES)
        _refuse("sort", sort, SORTS)
        if self._size < 0:
            self._size = self._store.size()
        if self._size <= WHOLE:
            found = self._exact(conditions, sort, limit, _place(cursor, sort))
        elif indexed and _is_indexed(conditions):
            found = self._indexed(conditions, limit, _place(cursor, "index"))
        else:
            found = self._searched(conditions, limit, _place(cursor, "search"))
        self._size = found.status.size
        return found

    # ---- in any order, of all of them ---------------------------------------------------------

    def _exact(self, conditions: Filter, sort: str, limit: int, after: Place) -> _Found:
        store, pipe = self._store, NamedPipeline(self._store)
        by_state = bool(conditions.states) or sort == "state"
        pipe.add("names", "hkeys", "definitions")
        pipe.add("due", "zrange", "due", 0, -1, withscores=True)
        if by_state:
            pipe.add("failing", "zrange", "failing", 0, -1)
            pipe.add("pauses", "hgetall", "pauses")
        if conditions.origin:
            pipe.add("declared", "smembers", "declared")
        if sort == "last" or store.thresholds.failures > 1:
            pipe.add("outcomes", "hgetall", "outcomes")
        status = read_status(store, pipe)
        index = _Index(store, status, pipe)
        names: Iterable[str] = map(text, pipe["names"])
        if (
            conditions.needs_definitions
            or sort == "state"
            or not set(conditions.states) <= set(TROUBLE[1:])
        ):
            shelf = self._definitions(status.revision)
            names = [n for n in names if n in shelf and shelf[n].matches(conditions)]
            index.invalid = {n for n in names if shelf[n].schedule is None}
        matches = [name for name in names if index.matches(name, conditions)]
        places = index.places(matches, sort)
        chosen = nsmallest(limit + 1, (p for p in places if p > after) if after else places)
        return _Found.of(status, chosen, limit, sort, total=len(matches))

    def _definitions(self, revision: str) -> Mapping[str, _Kept]:
        """Return all definitions, parsed; only those that have changed are parsed again."""
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

    def _indexed(self, conditions: Filter, limit: int, after: Place) -> _Found:
        """Return those in trouble; without a state filter the rest follows by fire time."""
        pipe = NamedPipeline(self._store)
        _, last, name = after if after and after[0] == _REST else (_REST, 0, "")
        pipe.add("score", "zscore", "due", name)
        pipe.add("rank", "zrank", "due", name)
        pipe.add("before", "zcount", "due", "-inf", f"({last}")
        status = read_status(self._store, pipe)
        kinds = {
            "late": status.late,
            "stuck": status.stuck,
            "failing": status.failing,
            "running": status.running_jobs,
        }
        shown: dict[str, None] = {}
        places: list[Place] = []
        for i, kind in enumerate(conditions.states or TROUBLE[1:]):
            places += [[i, n, x] for n, x in enumerate(kinds[kind]) if x not in shown]
            shown.update(dict.fromkeys(kinds[kind]))
        chosen = [place for place in places if place > after][: limit + 1]
        if conditions.states or len(chosen) > limit:
            return _Found.of(
                status, chosen, limit, "index", len(places) if conditions.states else None
            )
        # Where the last one shown has gone on to another fire time, what was shown of its old one
        # is met again and left out.
        still = pipe["score"] is not None and score_ms(pipe["score"]) == last
        start = pipe["rank"] + 1 if still else pipe["before"]
        due: Any = self._store.redis.zrange(
            self._store.key("due"), start, start + limit + len(shown), withscores=True
        )
        behind: Iterable[Place] = ([_REST, score_ms(score), text(name)] for name, score in due)
        chosen += [p for p in behind if p[-1] not in shown and p > after]
        return _Found.of(status, chosen, limit, "index")

    # ---- as they are found, of very many ------------------------------------------------------

    def _searched(self, conditions: Filter, limit: int, after: Place) -> _Found:
        """Return the matches of a portion, by name; then of the next portion. A schedule that
        exists all the time is found at least once, as HSCAN guarantees."""
        position, last = after or [0, ""]
        pipe = NamedPipeline(self._store)
        pipe.add("portion", "hscan", "definitions", position, count=PORTION)
        status = read_status(self._store, pipe)
        following, raw = pipe["portion"]
        portion = texts(raw)
        names = [n for n in sorted(portion) if n > last and conditions.may_match(n, portion[n])]
        index = (
            self._index_of(names, status)
            if (conditions.states or conditions.origin) and names
            else None
        )
        found = list(islice(_matches(portion, names, conditions, index), limit + 1))
        cursor = ""
        if len(found) > limit:
            cursor = cursors.encode("search", position, found[limit - 1])
        elif following:
            cursor = cursors.encode("search", int(following), "")
        return _Found(status, found[:limit], None, cursor, "name", len(portion))

    def _index_of(self, names: list[str], status: Status) -> _Index:
        """Return the index of some schedules. One round trip."""
        pipe = NamedPipeline(self._store)
        pipe.add("due", "zmscore", "due", names)
        pipe.add("failing", "zmscore", "failing", names)
        pipe.add("pauses", "hmget", "pauses", names)
        pipe.add("outcomes", "hmget", "outcomes", names)
        pipe.add("declared", "smismember", "declared", names)
        pipe.run()
        due = [(n, score) for n, score in zip(names, pipe["due"], strict=True) if score is not None]
        columns = {key: zip(names, pipe[key], strict=True) for key in _Index.COLUMNS}
        found = {key: {n: v for n, v in column if v} for key, column in columns.items()}
        return _Index(self._store, status, {**found, "due": due})


def ask_rows(
    store: Store, pipe: Any, names: Sequence[str], tail: int
) -> Callable[[Sequence[Any], Status], list[Row]]:
    """Add the commands that read these schedules to a pipeline; return what makes rows of the
    replies."""
    read, start = store.load_on(pipe, names), len(pipe)
    pipe.zmscore(store.key("failing"), list(names))
    pipe.hmget(store.key("outcomes"), list(names))
    for name in names if tail else ():
        pipe.lrange(store.key(f"ledger:{name}"), -tail, -1)

    def rows(replies: Sequence[Any], status: Status) -> list[Row]:
        entries = read(replies)[0]
        scores, outcomes = replies[start : start + 2]
        ledgers = replies[start + 2 : start + 2 + len(names)] if tail else [()] * len(names)
        found = []
        for name, score, outcome, lines in zip(names, scores, outcomes, ledgers, strict=True):
            if name in entries:
                entry, running = entries[name], status.running_jobs.get(name, "")
                states = entry.states(
                    status.now,
                    stuck=name in status.stuck,
                    failing=score is not None and fails(store, outcome),
                    running=bool(running),
                )
                failing = None if score is None else from_ms(score_ms(score))
                found.append(Row(entry, tuple(map(_entry, lines)), failing, running, states))
        return found

    return rows


# ---- what was read ----------------------------------------------------------------------------


class _Index:
    """What is known of schedules without their definitions."""

    COLUMNS = ("failing", "pauses", "outcomes", "declared")

    def __init__(self, store: Store, status: Status, read: Any) -> None:
        self._store = store
        self._pulse = status
        self._due = {text(name): score_ms(score) for name, score in read.get("due")}
        self._pauses = {text(n): p for n, p in read.get("pauses", {}).items()}
        self._declared = {text(name) for name in read.get("declared", ())}
        self._outcomes = texts(read.get("outcomes", {}))
        failing = map(text, read.get("failing", ()))
        self._failing = {name for name in failing if fails(store, self._outcomes.get(name))}
        self.invalid: Collection[str] = status.invalid
        """Those whose definitions cannot be read, as far as that is known."""

    def matches(self, name: str, conditions: Filter, *, readable: bool = True) -> bool:
        """Return whether origin and states match."""
        if conditions.origin and (name in self._declared) != (conditions.origin == "declared"):
            return False
        if not conditions.states:
            return True
        return not set(conditions.states).isdisjoint(self.states(name, readable=readable))

    def states(self, name: str, *, readable: bool = True) -> tuple[str, ...]:
        """Return the states of a schedule."""
        status, fire = self._pulse, self._due.get(name)
        own = self._pauses.get(name)
        return verdict(
            readable=readable and name not in self.invalid,
            paused=bool(status.pause or (own and pause_in_force(own, status.now))),
            ended=fire is None,
            late=fire is not None and fire < status.overdue,
            stuck=name in status.stuck,
            failing=name in self._failing,
            running=name in status.running_jobs,
        )

    def places(self, names: Iterable[str], sort: str) -> Iterator[Place]:
        """Yield where each stands in an order."""
        due, status = self._due, self._pulse
        if sort == "name":
            return ([name] for name in names)
        if sort == "next":
            return ([due.get(name, _NEVER), name] for name in names)
        if sort == "last":
            return ([-self._ended(name), name] for name in names)
        if sort == "state":
            return ([STATES.index(self.states(name)[0]), name] for name in names)
        kinds = (status.late, status.stuck, status.failing)
        rank = {name: i for i, kind in reversed(list(enumerate(kinds))) for name in kind}
        return ([rank.get(name, _REST), due.get(name, _NEVER), name] for name in names)

    def _ended(self, name: str) -> int:
        last = LastRun.read(self._outcomes.get(name))
        return last.ended if last else 0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A parsed definition. `searched` is the text that a filter searches."""

    stored: str
    schedule: Schedule | None
    searched: str

    @classmethod
    def read(cls, name: str, stored: str) -> _Kept:
        schedule = None
        with suppress(ScheduleError):
            schedule = from_definition(name, stored)
        return cls(stored, schedule, search_text(name, schedule))

    def matches(self, conditions: Filter) -> bool:
        """Return whether queue, tag and text match."""
        return conditions.matches(self.schedule, self.searched)


@dataclass(frozen=True, slots=True)
class _Found:
    """The names of a page, before its rows are read."""

    status: Status
    names: list[str]
    total: int | None
    cursor: str
    order: str
    searched: int | None = None

    @classmethod
    def of(
        cls, status: Status, places: list[Place], limit: int, order: str, total: int | None = None
    ) -> _Found:
        """Return the first `limit` of these, which are in order."""
        cursor = cursors.encode(order, *places[limit - 1]) if len(places) > limit else ""
        shown = "trouble" if order == "index" else order
        return cls(status, [place[-1] for place in places[:limit]], total, cursor, shown)


def _matches(
    portion: Mapping[str, str], names: Iterable[str], conditions: Filter, index: _Index | None
) -> Iterator[str]:
    """Yield the names that match. A definition is parsed only when the index does not rule it out,
    because that takes longest."""
    for name in names:
        if index and "invalid" not in conditions.states and not index.matches(name, conditions):
            continue
        if conditions.needs_definitions or conditions.states:
            kept = _Kept.read(name, portion[name])
            readable = kept.schedule is not None
            if not kept.matches(conditions) or (
                index and not index.matches(name, conditions, readable=readable)
            ):
                continue
        yield name


def _is_indexed(conditions: Filter) -> bool:
    """Return whether the indexes answer a filter."""
    known = set(conditions.states) <= {*TROUBLE[1:], "running"}
    return known and not conditions.origin and not conditions.needs_definitions


_keys: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.entry.name,
    "next": lambda row: (row.entry.next_fire is None, row.entry.next_fire, row.entry.name),
    "state": lambda row: (STATES.index(row.state), row.entry.name),
}
"""Orders of what a search has found."""


@lru_cache(maxsize=KEPT)
def _entry(line: bytes) -> LedgerEntry:
    return ledger_entry(line.decode())


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]


def _refuse(option: str, value: str | None, known: Sequence[str]) -> None:
    if value not in known:
        raise ScheduleError(f"{option}: expected one of {', '.join(known)}, got {value!r}")


def _place(cursor: str, order: str) -> Place:
    """Return where the previous page ended. Raises ScheduleError for a cursor of another order."""
    place = cursors.decode(cursor, str, *_PLACES[order])
    if place and place[0] != order:
        raise ScheduleError(
            f"cursor: expected the cursor of a page in the order {order}, got {cursor!r}; start "
            "again without one"
        )
    return place[1:]
