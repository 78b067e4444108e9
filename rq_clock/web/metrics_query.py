"""The values of /metrics, read from Redis in a few round trips, however many schedules there are.

Single schedules are included up to a limit. Where there are more, only those in trouble are (late,
stuck or failing), up to the limit, so that alert rules still see them. The totals are of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite

from rq_clock.errors import ScheduleError
from rq_clock.jobs.records import COUNTED, KINDS
from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.model.schedule import from_definition
from rq_clock.model.verdict import STATES, verdict
from rq_clock.store.counters import CounterSnapshot
from rq_clock.store.memory import memory_used
from rq_clock.store.pipeline import NamedPipeline
from rq_clock.store.scripts import text
from rq_clock.store.status import LastRun, Status, fails, pause_in_force, read_status
from rq_clock.store.store import Store
from rq_clock.store.tasks import Tasks

QUEUES, WORKERS = 500, 2000
"""Limits of queues and workers."""
PAUSES = 10_000
"""Limit of the pauses that are read where there are many schedules. Beyond it, ended pauses count
too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One schedule. Instants are epoch seconds; None where there is none."""

    name: str
    labels: dict[str, str] | None
    """None when the definition cannot be read."""
    states: tuple[str, ...]
    next_run: float | None
    last_slot: float | None
    last_success: float | None
    last_failure: float | None
    counts: CounterSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    """A namespace, and RQ's queues, at one instant of the server's clock."""

    status: Status
    counts: CounterSnapshot
    memory: float | None
    """The used part of the server's memory; None where that is unknown or has no limit."""
    states: Mapping[str, int]
    """Schedules by their worst state."""
    singles: tuple[Single, ...]
    jobs: Mapping[tuple[str, str], int]
    """By queue and status."""
    workers: Mapping[tuple[str, str], int]
    """By state and queues."""
    served: Mapping[str, int]
    """Queue → living workers that serve it."""
    waiting: Mapping[str, float]
    """Queue → seconds for which its first job has waited; 0 when it is empty."""
    callbacks: CallbacksStatus


def read(store: Store, limit: int) -> MetricsSnapshot:
    """Return the snapshot, with `limit` single schedules at most. Raises redis-py's RedisError."""
    return _Reading(store, limit).snapshot()


class _Reading:
    """Four round trips, and one more while something is in trouble."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        first = self._first = NamedPipeline(store)
        first.add("pauses", "hlen", "pauses")
        first.add("counters", "hgetall", "counters")
        first.foreign("queues", "smembers", "rq:queues")
        first.foreign("memory", "info", "memory")
        first.foreign("workers", "srandmember", "rq:workers", WORKERS)
        self._status = read_status(store, first)
        self._many = self._status.size > limit
        self._queues = sorted(map(text, first["queues"] or ()))[:QUEUES]
        self._second = self._read_second()
        self._names = self._in_trouble() if self._many else sorted(map(text, self._second["names"]))
        self._paused = self._paused_schedules()
        self._third = self._read_third()
        self._callbacks = Tasks(store).status()

    # ---- round trips --------------------------------------------------------------------------

    def _read_second(self) -> NamedPipeline:
        pipe = NamedPipeline(self._store)
        if not self._many:
            pipe.add("names", "hkeys", "definitions")
        elif self._first["pauses"] <= PAUSES:
            pipe.add("pauses", "hgetall", "pauses")
        for queue in self._queues:
            pipe.foreign(f"head {queue}", "lindex", queue, 0)
            for status in COUNTED:
                command = "llen" if status == "queued" else "zcard"
                pipe.foreign(f"{status} {queue}", command, f"rq:{KINDS[status][0]}:{_name(queue)}")
        for worker in self._first["workers"] or ():
            pipe.foreign(f"worker {text(worker)}", "hmget", text(worker), "state", "queues")
        pipe.run()
        return pipe

    def _read_third(self) -> NamedPipeline:
        pipe, names = NamedPipeline(self._store), self._names
        for queue in self._queues:
            if head := self._second[f"head {queue}"]:
                pipe.foreign(f"head {queue}", "hget", f"rq:job:{text(head)}", "enqueued_at")
        if self._paused:
            pipe.add("paused", "zmscore", "due", self._paused)
        if names:
            for key in ("definitions", "markers", "pauses", "outcomes"):
                pipe.add(key, "hmget", key, names)
            pipe.add("declared", "smismember", "declared", names)
            pipe.add("due", "zmscore", "due", names)
            pipe.add("failing", "zmscore", "failing", names)
            for name in names:
                counters = self._store.key(f"counters:{name}")
                pipe.foreign(f"counters {name}", "hgetall", counters)
        pipe.run()
        return pipe

    def _in_trouble(self) -> list[str]:
        """Return the longest late or stuck and the newest failing, half of each if there are too
        many."""
        blocked = [*self._status.late, *self._status.stuck]
        failing = list(self._status.failing)
        blocked = blocked[: max(self._limit - self._limit // 2, self._limit - len(failing))]
        found = dict.fromkeys([*blocked, *failing])
        return sorted(list(found)[: self._limit])

    def _paused_schedules(self) -> list[str]:
        """Return, where there are many schedules, those whose own pause is in force."""
        found = self._second.get("pauses", {}).items()
        names = [text(name) for name, pause in found if pause_in_force(pause, self._status.now)]
        return [name for name in names if name != "*"]

    # ---- results ------------------------------------------------------------------------------

    def snapshot(self) -> MetricsSnapshot:
        singles = tuple(self._singles())
        served, workers = self._workers()
        return MetricsSnapshot(
            status=self._status,
            counts=CounterSnapshot.read(self._first["counters"]),
            memory=memory_used(self._first["memory"] or {}),
            states=self._states(singles),
            singles=singles,
            jobs={
                (_name(queue), state): self._second[f"{state} {queue}"] or 0
                for queue in self._queues
                for state in COUNTED
            },
            workers=workers,
            served=served,
            waiting={_name(queue): self._waited(queue) for queue in self._queues},
            callbacks=self._callbacks,
        )

    def _singles(self) -> Iterator[Single]:
        third, status = self._third, self._status
        if not self._names:
            return
        columns = ("definitions", "markers", "pauses", "outcomes", "declared", "due", "failing")
        rows = zip(self._names, *(third[column] for column in columns), strict=True)
        for name, definition, marker, pause, outcome, declared, due, failing in rows:
            if definition is None:
                continue  # removed meanwhile
            last, labels = LastRun.read(outcome), _labels(name, definition, bool(declared))
            states = verdict(
                readable=labels is not None,
                paused=bool(status.pause or pause_in_force(pause, status.now)),
                ended=due is None,
                late=due is not None and due < status.overdue,
                stuck=name in status.stuck,
                failing=failing is not None and fails(self._store, outcome),
                running=name in status.running_jobs,
            )
            yield Single(
                name=name,
                labels=labels,
                states=states,
                next_run=_seconds(due),
                last_slot=_seconds((marker or b"-").partition(b" ")[0]),
                last_success=_seconds(last.succeeded) if last else None,
                last_failure=_seconds(last.failed) if last else None,
                counts=CounterSnapshot.read(third[f"counters {name}"] or {}),
            )

    def _states(self, singles: Sequence[Single]) -> dict[str, int]:
        """Return how many schedules are in each state: exact for few, and close for many."""
        counts = self._states_of_many() if self._many else Counter(s.states[0] for s in singles)
        return {state: counts[state] for state in STATES}

    def _states_of_many(self) -> Counter[str]:
        status = self._status
        counts = Counter(invalid=len(status.invalid))
        if status.pause:
            counts["paused"] = status.size - counts["invalid"]
            return counts
        paused = set(self._paused)
        counts["paused"] = len(paused) if "pauses" in self._second else self._first["pauses"]
        waiting = sum(score is None for score in self._third.get("paused", ()))
        counts["ended"] = max(status.size - status.due - waiting, 0)
        counts["late"] = status.late_count
        counts["stuck"] = len(status.stuck.keys() - status.late.keys())
        worse = status.late.keys() | status.stuck.keys()
        counts["failing"] = max(status.failing_count - len(status.failing.keys() & worse), 0)
        worse |= status.failing.keys() | paused | status.invalid
        counts["running"] = len(status.running_jobs.keys() - worse)
        counts["scheduled"] = max(status.size - counts.total(), 0)
        return counts

    def _workers(self) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        served: Counter[str] = Counter({_name(queue): 0 for queue in self._queues})
        workers: Counter[tuple[str, str]] = Counter()
        for key in self._first["workers"] or ():
            state, queues = self._second[f"worker {text(key)}"] or (None, None)
            if queues:  # otherwise it has died, and is still registered
                workers[text(state or b"unknown"), text(queues)] += 1
                served.update(text(queues).split(","))
        return served, workers

    def _waited(self, queue: str) -> float:
        queued = self._third.get(f"head {queue}")
        if not queued:
            return 0.0
        with suppress(ValueError):
            since = datetime.fromisoformat(text(queued)).replace(tzinfo=UTC)
            return max((self._status.now - since).total_seconds(), 0.0)
        return 0.0


@lru_cache(maxsize=10_000)
def _labels(name: str, definition: bytes, declared: bool) -> dict[str, str] | None:
    """Return the labels of a schedule; None when its definition cannot be read."""
    try:
        schedule = from_definition(name, definition)
    except ScheduleError:
        return None
    return {
        "schedule": name,
        "kind": schedule.trigger.kind,
        "queue": schedule.queue,
        "timezone": schedule.trigger.tz,
        "origin": "declared" if declared else "run-time",
    }


def _name(queue: str) -> str:
    return queue.removeprefix("rq:queue:")


def _seconds(ms: bytes | float | None) -> float | None:
    """Return stored epoch milliseconds in seconds; None for "-", and for what cannot be read."""
    with suppress(ValueError):
        found = float(ms if ms is not None else "-") / 1000
        return found if isfinite(found) else None
    return None
