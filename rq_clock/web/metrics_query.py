"""What metrics are made of, read from Redis in three round trips, however many schedules there are.

Single schedules are told up to a limit; where there are more, only those in trouble are: late or
failing, and of these no more than the limit, so that alert rules still see them. The totals are of
all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from redis.exceptions import ResponseError

from rq_clock.errors import ScheduleError
from rq_clock.model.decision import ON_TIME
from rq_clock.model.entry import pause_from
from rq_clock.model.filters import STATES
from rq_clock.model.schedule import from_definition
from rq_clock.store.counters import CounterSnapshot
from rq_clock.store.scripts import text
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, to_ms
from rq_clock.timing.triggers import Cron

QUEUES, WORKERS = 500, 2000
"""Queues and workers that are looked at, at most."""
PAUSES = 10_000
"""Pauses up to which those that have ended are told apart where there are many schedules."""
STATUSES = {
    "queued": "queue",
    "started": "wip",
    "scheduled": "scheduled",
    "deferred": "deferred",
    "finished": "finished",
    "failed": "failed",
    "canceled": "canceled",
}
"""Status of a job, and where RQ has those of a queue."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a definition says of a schedule."""

    kind: str
    queue: str
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One schedule. Instants are epoch seconds; None where there is none."""

    name: str
    described: Described | None
    """None when the definition cannot be read."""
    declared: bool
    paused: bool
    failing: bool
    next_run: float | None
    last_slot: float | None
    last_success: float | None
    last_failure: float | None
    counts: CounterSnapshot

    def state(self, now: float) -> str:
        """As finding.state_of has it."""
        if self.described is None:
            return "invalid"
        if self.paused:
            return "paused"
        if self.next_run is None:
            return "ended"
        return "late" if now - self.next_run > ON_TIME.total_seconds() else "scheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    """A namespace, and RQ's queues, at one instant of the server's clock."""

    now: float
    leader: str
    """The instance that leads, or empty."""
    led: float | None
    """When a leader last said so."""
    counts: CounterSnapshot
    states: Mapping[str, int]
    failing: int
    singles: tuple[Single, ...]
    jobs: Mapping[tuple[str, str], int]
    """By queue and status."""
    workers: Mapping[tuple[str, str], int]
    """By state and queues."""
    served: Mapping[str, int]
    """Queue → living workers that serve it."""
    waiting: Mapping[str, float]
    """Queue → seconds for which its first job has waited; 0 when it is empty."""


def read(store: Store, limit: int) -> MetricsSnapshot:
    """Read all of it. Raises redis-py's RedisError."""
    return _Reading(store, limit).figures()


class _Asked:
    """A pipeline whose answers have names."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pipe: Any = store.redis.pipeline(transaction=False)
        self._names: list[str] = []
        self._ours: set[str] = set()

    def add(self, name: str, command: str, *args: Any, **options: Any) -> None:
        """Ask for one thing more."""
        self._names.append(name)
        getattr(self._pipe, command)(*args, **options)

    def of_ours(self, name: str, command: str, key: str, *args: Any, **options: Any) -> None:
        """The same, of a key of the namespace."""
        self._ours.add(name)
        self.add(name, command, self._store.key(key), *args, **options)

    def answers(self) -> dict[str, Any]:
        """Ask. None stands for a key of others that is not what RQ makes of it."""
        answers = dict(zip(self._names, self._pipe.execute(raise_on_error=False), strict=True))
        for name, answer in answers.items():
            if isinstance(answer, Exception):
                if name in self._ours or not isinstance(answer, ResponseError):
                    raise answer
                answers[name] = None
        return answers


class _Reading:
    """Three round trips; each knows from those before what there is to ask."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._first = self._ask_first()
        seconds, micros = self._first["now"]
        self._now = from_ms(seconds * 1000 + micros // 1000)
        self._late = to_ms(self._now - ON_TIME)
        self._many = self._first["size"] > limit
        self._queues = sorted(map(text, self._first["queues"] or ()))[:QUEUES]
        self._second = self._ask_second()
        self._names = self._in_trouble() if self._many else sorted(map(text, self._second["names"]))
        self._paused = self._pausing()
        self._third = self._ask_third()

    # ---- asking -------------------------------------------------------------------------------

    def _ask_first(self) -> dict[str, Any]:
        asked = _Asked(self._store)
        asked.add("now", "time")
        asked.of_ours("lease", "hgetall", "lease")
        asked.of_ours("led", "hget", "meta", "led")
        asked.of_ours("size", "hlen", "definitions")
        asked.of_ours("due", "zcard", "due")
        asked.of_ours("soonest", "zrange", "due", 0, self._limit - 1, withscores=True)
        asked.of_ours("failing", "zrevrange", "failing", 0, self._limit - 1)
        asked.of_ours("failures", "zcard", "failing")
        asked.of_ours("pauses", "hlen", "pauses")
        asked.of_ours("pause", "hget", "pauses", "*")
        asked.of_ours("counters", "hgetall", "counters")
        asked.add("queues", "smembers", "rq:queues")
        asked.add("workers", "srandmember", "rq:workers", WORKERS)
        return asked.answers()

    def _ask_second(self) -> dict[str, Any]:
        asked = _Asked(self._store)
        if not self._many:
            asked.of_ours("names", "hkeys", "definitions")
        else:
            asked.of_ours("late", "zcount", "due", "-inf", f"({self._late}")
            if self._first["pauses"] <= PAUSES:
                asked.of_ours("pauses", "hgetall", "pauses")
        for queue in self._queues:
            asked.add(f"head {queue}", "lindex", queue, 0)
            for status, place in STATUSES.items():
                command = "llen" if status == "queued" else "zcard"
                asked.add(f"{status} {queue}", command, f"rq:{place}:{_name(queue)}")
        for worker in self._first["workers"] or ():
            asked.add(f"worker {text(worker)}", "hmget", text(worker), "state", "queues")
        return asked.answers()

    def _ask_third(self) -> dict[str, Any]:
        asked, names = _Asked(self._store), self._names
        for queue in self._queues:
            if head := self._second[f"head {queue}"]:
                asked.add(f"head {queue}", "hget", f"rq:job:{text(head)}", "enqueued_at")
        if self._paused:
            asked.of_ours("paused", "zmscore", "due", self._paused)
        if names:
            for key in ("definitions", "markers", "pauses", "outcomes"):
                asked.of_ours(key, "hmget", key, names)
            asked.of_ours("declared", "smismember", "declared", names)
            asked.of_ours("due", "zmscore", "due", names)
            asked.of_ours("failing", "zmscore", "failing", names)
            for name in names:
                asked.of_ours(f"counters {name}", "hgetall", f"counters:{name}")
        return asked.answers()

    def _in_trouble(self) -> list[str]:
        """The longest late and the newest failing, half of each if there are too many."""
        late = [text(name) for name, score in self._first["soonest"] if score < self._late]
        failing = [text(name) for name in self._first["failing"]]
        late = late[: max(self._limit - self._limit // 2, self._limit - len(failing))]
        others = [name for name in failing if name not in set(late)]
        return sorted([*late, *others[: self._limit - len(late)]])

    def _pausing(self) -> list[str]:
        """Where there are many schedules: those with a pause that holds, if they can be told."""
        found = self._second.get("pauses", {}).items()
        names = [text(name) for name, pause in found if self._holds(pause)]
        return [name for name in names if name != "*"]

    def _holds(self, pause: bytes | None) -> bool:
        return pause is not None and pause_from(pause).at(self._now)

    # ---- what it says -------------------------------------------------------------------------

    def figures(self) -> MetricsSnapshot:
        first = self._first
        singles = tuple(self._singles())
        served, workers = self._workers()
        return MetricsSnapshot(
            now=self._now.timestamp(),
            leader=text(first["lease"].get(b"instance", b"")),
            led=_seconds(first["led"]),
            counts=CounterSnapshot.read(first["counters"]),
            states=self._states(singles),
            failing=first["failures"],
            singles=singles,
            jobs={
                (_name(queue), status): self._second[f"{status} {queue}"] or 0
                for queue in self._queues
                for status in STATUSES
            },
            workers=workers,
            served=served,
            waiting={_name(queue): self._waited(queue) for queue in self._queues},
        )

    def _singles(self) -> Iterator[Single]:
        third, all_paused = self._third, self._holds(self._first["pause"])
        if not self._names:
            return
        columns = ("definitions", "markers", "pauses", "outcomes", "declared", "due", "failing")
        rows = zip(self._names, *(third[column] for column in columns), strict=True)
        for name, definition, marker, pause, outcome, declared, due, failing in rows:
            if definition is None:
                continue  # removed meanwhile
            *_, success, failure = outcome.split(b" ") if outcome else (b"-", b"-")
            yield Single(
                name=name,
                described=_described(name, definition),
                declared=bool(declared),
                paused=all_paused or self._holds(pause),
                failing=failing is not None,
                next_run=_seconds(due),
                last_slot=_seconds((marker or b"-").partition(b" ")[0]),
                last_success=_seconds(success),
                last_failure=_seconds(failure),
                counts=CounterSnapshot.read(third[f"counters {name}"]),
            )

    def _states(self, singles: Sequence[Single]) -> dict[str, int]:
        now, first = self._now.timestamp(), self._first
        told = Counter(single.state(now) for single in singles)
        if not self._many:
            return {state: told[state] for state in STATES}
        invalid = told["invalid"]  # of those in trouble: any other is so too when it is due
        if self._holds(first["pause"]):
            return dict.fromkeys(STATES, 0) | {
                "paused": first["size"] - invalid,
                "invalid": invalid,
            }
        scores = self._third.get("paused", ())
        paused = len(self._paused) if "pauses" in self._second else first["pauses"]
        late = self._second["late"] - sum(s is not None and s < self._late for s in scores)
        ended = first["size"] - first["due"] - sum(score is None for score in scores)
        late, ended = max(late - invalid, 0), max(ended, 0)
        rest = max(first["size"] - paused - late - ended - invalid, 0)
        counted = zip(STATES, (rest, late, paused, ended, invalid), strict=True)
        return dict(counted)

    def _workers(self) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        served: Counter[str] = Counter({_name(queue): 0 for queue in self._queues})
        workers: Counter[tuple[str, str]] = Counter()
        for key in self._first["workers"] or ():
            state, queues = self._second[f"worker {text(key)}"] or (None, None)
            if queues:  # else it has died, and nobody has tidied up yet
                workers[text(state or b"unknown"), text(queues)] += 1
                served.update(text(queues).split(","))
        return served, workers

    def _waited(self, queue: str) -> float:
        queued = self._third.get(f"head {queue}")
        if not queued:
            return 0.0
        with suppress(ValueError):
            since = datetime.fromisoformat(text(queued)).replace(tzinfo=UTC)
            return max((self._now - since).total_seconds(), 0.0)
        return 0.0


@lru_cache(maxsize=10_000)
def _described(name: str, definition: bytes) -> Described | None:
    try:
        schedule = from_definition(name, definition)
    except ScheduleError:
        return None
    trigger = schedule.trigger
    zone = trigger.tz if isinstance(trigger, Cron) else "UTC"
    return Described(type(trigger).__name__.lower(), schedule.queue, zone)


def _name(queue: str) -> str:
    return queue.removeprefix("rq:queue:")


def _seconds(ms: bytes | float | None) -> float | None:
    """Epoch milliseconds as Redis has them; "-" is none."""
    return None if ms is None or ms == b"-" else float(ms) / 1000
