"""Lists of schedules, filtered and in order, for pages, the API and the command line.

A page takes a fixed number of round trips, however many schedules there are. Up to WHOLE schedules
any order and any filter is exact. Beyond, only the indexes are in order (trouble first, then by
next fire time). Other filters search the definitions in portions; a page then reports how many it
searched.

Not here: how a list looks (serializers/, web/, cli/), and operations on schedules (service.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from rq_clock.store.pipeline import NamedPipeline, execute
from rq_clock.store.scripts import text, texts
from rq_clock.store.status import LastRun, Status, fails, pause_in_force, read_status
from rq_clock.store.store import Store, portions
from rq_clock.timing.instants import from_ms, score_ms

WHOLE = 20_000
"""Schedules up to which all names are read for each page."""
PORTION = 10_000
"""Definitions that one page searches when there are more."""
PORTIONS = 20
"""Limit of the portions that `names` and `search` search."""
BARS = 60
"""Ledger entries of a row."""
KEPT = 20_000
"""Parsed ledger entries in memory, about 13 MB. Open pages read the same ones again and again."""
SORTS = ("trouble", "next", "last", "name", "state")
Place: TypeAlias = list[Any]
"""The position of a schedule in an order; its last part is the name."""
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
    oldest first. `failing` is the end of its newest failure since its newest success. `running` is
    its job that runs now."""

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
    names: list[str]
    rows: tuple[Row, ...] = ()
    total: int | None = None
    cursor: str = ""
    order: str
    searched: int | None = None

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(row.entry for row in self.rows)


class ScheduleList:
    """The schedules of a namespace. Keep one for the life of a process: it remembers definitions as
    long as nothing changes. Raises redis-py's RedisError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._size = -1
        self._shelf: tuple[str, Mapping[str, _Definition]] = ("", {})

    def status(self) -> Status:
        return read_status(self._store)

    def rows(self, names: Sequence[str], status: Status, tail: int = BARS) -> list[Row]:
        """Return these schedules, if they exist, with `tail` entries of their ledgers. One round
        trip."""
        if not names:
            return []
        pipe: Any = self._store.redis.pipeline(transaction=False)
        read = rows_on(self._store, pipe, names, tail)
        return read(execute(pipe), status)

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
        return self._with_rows(found, tail)

    def search(self, conditions: Filter, *, limit: int, cursor: str) -> Listing:
        """Return as `page` does, without ledgers, and search on until there are `limit` matches, in
        PORTIONS portions at most."""
        return self._with_rows(self._find_on(conditions, limit, cursor), 0)

    def names(self, conditions: Filter, limit: int) -> list[str]:
        """Return the names of the first `limit` matches. Raises as `page` does, and ScheduleError
        when there are too many schedules to search."""
        found = self._find_on(conditions, limit, "")
        if found.cursor and len(found.names) < limit:
            raise ScheduleError(
                f"too many schedules to search ({PORTIONS * PORTION:,} searched); filter by state, "
                "or use the command line"
            )
        return found.names

    def all_rows(self, conditions: Filter, *, sort: str = "name", tail: int = 1) -> Iterator[Row]:
        """Yield all matches in order, with `tail` entries of their ledgers. Reads as many portions
        as it takes. Raises as `page` does."""
        found = self._find(conditions, sort, WHOLE, "", indexed=False)
        names = dict.fromkeys(found.names)
        while found.cursor:
            found = self._find(conditions, sort, WHOLE, found.cursor, indexed=False)
            names |= dict.fromkeys(found.names)
        rows: Iterable[Row] = (
            row for chunk in portions(names) for row in self.rows(chunk, found.status, tail)
        )
        yield from rows if found.order == sort else sorted(rows, key=_keys[sort])

    def _with_rows(self, found: Listing, tail: int) -> Listing:
        return replace(found, rows=tuple(self.rows(found.names, found.status, tail)))

    def _find_on(self, conditions: Filter, limit: int, cursor: str) -> Listing:
        """Find as `_find` does, and search on while there are fewer than `limit`."""
        found = self._find(conditions, "trouble", limit, cursor)
        for _ in range(PORTIONS - 1):
            if not found.cursor or len(found.names) >= limit:
                break
            more = self._find(conditions, "trouble", limit - len(found.names), found.cursor)
            found = replace(more, names=found.names + more.names)
        return found

    def _find(
        self, conditions: Filter, sort: str, limit: int, cursor: str, *, indexed: bool = True
    ) -> Listing:
        """Return a page without its rows."""
        named = [("state", state, STATES) for state in conditions.states]
        for option, value, known in (*named, ("sort", sort, SORTS)):
            if value not in known:
                raise ScheduleError(f"{option}: expected one of {', '.join(known)}, got {value!r}")
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

    # ---- all of them, in any order ------------------------------------------------------------

    def _exact(self, conditions: Filter, sort: str, limit: int, after: Place) -> Listing:
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
        return _first(status, chosen, limit, sort, total=len(matches))

    def _definitions(self, revision: str) -> Mapping[str, _Definition]:
        """Return all definitions, parsed; only those that have changed are parsed again."""
        if self._shelf[0] != revision:
            raw: Any = self._store.redis.hgetall(self._store.key("definitions"))
            shelf: dict[str, _Definition] = {}
            for name, stored in texts(raw).items():
                kept = self._shelf[1].get(name)
                same = kept and kept.stored == stored
                shelf[name] = kept if kept and same else _Definition.read(name, stored)
            self._shelf = (revision, shelf)
        return self._shelf[1]

    # ---- very many, as they are indexed -------------------------------------------------------

    def _indexed(self, conditions: Filter, limit: int, after: Place) -> Listing:
        """Return the schedules in trouble; without a state filter the rest follows by fire time."""
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
            return _first(
                status, chosen, limit, "index", len(places) if conditions.states else None
            )
        # If the last one shown has a later fire time now, start at its old one: those shown before
        # are met again and left out.
        still = pipe["score"] is not None and score_ms(pipe["score"]) == last
        start = pipe["rank"] + 1 if still else pipe["before"]
        due: Any = self._store.redis.zrange(
            self._store.key("due"), start, start + limit + len(shown), withscores=True
        )
        behind: Iterable[Place] = ([_REST, score_ms(score), text(name)] for name, score in due)
        chosen += [p for p in behind if p[-1] not in shown and p > after]
        return _first(status, chosen, limit, "index")

    # ---- very many, as they are found ---------------------------------------------------------

    def _searched(self, conditions: Filter, limit: int, after: Place) -> Listing:
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
        return Listing(
            status=status, names=found[:limit], cursor=cursor, order="name", searched=len(portion)
        )

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


def rows_on(
    store: Store, pipe: Any, names: Sequence[str], tail: int
) -> Callable[[Sequence[Any], Status], list[Row]]:
    """Queue the reads of these schedules on a pipeline. Return the function that makes rows of the
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
                tail_entries = tuple(e for e in map(_entry, lines) if e)
                found.append(Row(entry, tail_entries, failing, running, states))
        return found

    return rows


# ---- what was read ----------------------------------------------------------------------------


class _Index:
    """The schedules' states and order, without their definitions."""

    COLUMNS = ("failing", "pauses", "outcomes", "declared")

    def __init__(self, store: Store, status: Status, read: Any) -> None:
        self._store = store
        self._status = status
        self._due = {text(name): score_ms(score) for name, score in read.get("due")}
        self._pauses = {text(n): p for n, p in read.get("pauses", {}).items()}
        self._declared = {text(name) for name in read.get("declared", ())}
        self._outcomes = texts(read.get("outcomes", {}))
        failing = map(text, read.get("failing", ()))
        self._failing = {name for name in failing if fails(store, self._outcomes.get(name))}
        self.invalid = set(status.invalid)
        """Schedules whose definitions cannot be read, as far as they were read."""

    def matches(self, name: str, conditions: Filter) -> bool:
        """Return whether origin and states match."""
        if conditions.origin and (name in self._declared) != (conditions.origin == "declared"):
            return False
        return not conditions.states or not set(conditions.states).isdisjoint(self.states(name))

    def states(self, name: str) -> tuple[str, ...]:
        status, fire = self._status, self._due.get(name)
        own = self._pauses.get(name)
        return verdict(
            readable=name not in self.invalid,
            paused=bool(status.pause or (own and pause_in_force(own, status.now))),
            ended=fire is None,
            late=fire is not None and fire < status.overdue,
            stuck=name in status.stuck,
            failing=name in self._failing,
            running=name in status.running_jobs,
        )

    def places(self, names: Iterable[str], sort: str) -> Iterator[Place]:
        """Yield the position of each in an order."""
        due, status = self._due, self._status
        if sort == "name":
            return ([name] for name in names)
        if sort == "next":
            return ([due.get(name, _NEVER), name] for name in names)
        if sort == "last":
            ended = {n: last.ended for n, o in self._outcomes.items() if (last := LastRun.read(o))}
            return ([-ended.get(name, 0), name] for name in names)
        if sort == "state":
            return ([STATES.index(self.states(name)[0]), name] for name in names)
        kinds = (status.late, status.stuck, status.failing)
        rank = {name: i for i, kind in reversed(list(enumerate(kinds))) for name in kind}
        return ([rank.get(name, _REST), due.get(name, _NEVER), name] for name in names)


@dataclass(frozen=True, slots=True)
class _Definition:
    """A parsed definition. `searched` is the text that a filter searches."""

    stored: str
    schedule: Schedule | None
    searched: str

    @classmethod
    def read(cls, name: str, stored: str) -> _Definition:
        schedule = None
        with suppress(ScheduleError):
            schedule = from_definition(name, stored)
        return cls(stored, schedule, search_text(name, schedule))

    def matches(self, conditions: Filter) -> bool:
        return conditions.matches(self.schedule, self.searched)


def _first(
    status: Status, places: list[Place], limit: int, order: str, total: int | None = None
) -> Listing:
    """Return the page of the first `limit` places, which are in order."""
    return Listing(
        status=status,
        names=[place[-1] for place in places[:limit]],
        total=total,
        cursor=cursors.encode(order, *places[limit - 1]) if len(places) > limit else "",
        order="trouble" if order == "index" else order,
    )


def _matches(
    portion: Mapping[str, str], names: Iterable[str], conditions: Filter, index: _Index | None
) -> Iterator[str]:
    """Yield the names that match. A definition is parsed only when the index does not rule it out,
    because that takes longest."""
    for name in names:
        if index and "invalid" not in conditions.states and not index.matches(name, conditions):
            continue
        if conditions.needs_definitions or conditions.states:
            definition = _Definition.read(name, portion[name])
            if index and definition.schedule is None:
                index.invalid.add(name)
            if not definition.matches(conditions) or (
                index and not index.matches(name, conditions)
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
"""Orders of the matches of a search."""


@lru_cache(maxsize=KEPT)
def _entry(line: bytes) -> LedgerEntry | None:
    with suppress(ValueError):
        return ledger_entry(line.decode())
    return None


def _place(cursor: str, order: str) -> Place:
    """Return where the previous page ended. Raises ScheduleError for a cursor of another order."""
    place = cursors.decode(cursor, str, *_PLACES[order])
    if place and place[0] != order:
        raise ScheduleError(
            f"cursor: expected the cursor of a page in the order {order}, got {cursor!r}; start "
            "again without one"
        )
    return place[1:]
