"""The status of a namespace: its leader, the schedules in trouble and the running jobs. All pages,
commands and probes read it here.

One round trip, and a second one while a schedule is in trouble: a pause, or a definition that
cannot be read, decides whether it counts (see model/verdict.py). At most TROUBLED schedules of each
kind are examined; beyond, the counts are upper bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from rq_clock.errors import ScheduleError
from rq_clock.model.decision import ON_TIME
from rq_clock.model.entry import Pause, pause_from
from rq_clock.model.job_id import jobs_by_schedule
from rq_clock.model.schedule import from_definition
from rq_clock.model.verdict import verdict
from rq_clock.store.lease import leader_facts, led_at
from rq_clock.store.pipeline import NamedPipeline
from rq_clock.store.scripts import text
from rq_clock.store.server_time import time_faults
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, from_score, to_ms

_NUMBER = re.compile(r"[0-9]{1,15}")
TROUBLED = 1000
"""Late and failing schedules, each, that are examined one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A namespace at one instant of the server's clock."""

    now: datetime
    leader: Mapping[str, str]
    """What the leading clock reports about itself; empty when none leads."""
    led: datetime | None
    """When a clock led last; None if none ever did."""
    size: int
    due: int
    """Schedules that have a fire time to come."""
    late: Mapping[str, datetime]
    """Schedule → the fire time that is undecided, longest first."""
    stuck: Mapping[str, datetime]
    """Schedule → since when its previous job blocks it."""
    failing: Mapping[str, datetime]
    """Schedule → end of its newest failure, newest first."""
    invalid: frozenset[str]
    """Schedules that would be in trouble but cannot be read."""
    late_count: int
    failing_count: int
    pause: Pause | None
    """The pause of all schedules, if it is in force."""
    running: Mapping[str, str]
    """Job that runs now → its worker."""
    running_jobs: Mapping[str, str]
    """Schedule → its job that runs now."""
    workers: int
    revision: str
    """Rises with every change of a schedule."""

    @property
    def time_faults(self) -> list[str]:
        """Return what is wrong with the time."""
        return time_faults(self.leader)

    @property
    def troubled(self) -> bool:
        """Return whether a schedule needs a person."""
        return bool(self.late_count or self.stuck or self.failing_count or self.invalid)

    @property
    def overdue(self) -> int:
        """Return the instant (ms) before which an undecided fire time is late."""
        return to_ms(self.now - ON_TIME)


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the newest run of a schedule ended for good. Instants are epoch milliseconds; None where
    there is none. `failures` is the number of failures in a row."""

    ended: int
    succeeded: int | None
    failed: int | None
    failures: int

    @classmethod
    def read(cls, stored: str | bytes | None) -> LastRun | None:
        """Return a value of `outcomes` (see jobs/executions.py); None for what cannot be read."""
        words = text(stored or "").split(" ")
        numbers = words[3:]
        if len(words) != 7 or not all(w == "-" or _NUMBER.fullmatch(w) for w in numbers):
            return None
        ended, succeeded, failed, failures = (None if w == "-" else int(w) for w in numbers)
        return cls(ended or 0, succeeded, failed, failures or 0)


def read_status(store: Store, pipe: NamedPipeline | None = None) -> Status:
    """Return the status. Commands that the caller has added to `pipe` are sent in the same round
    trip. Raises redis-py's RedisError."""
    pipe = pipe or NamedPipeline(store)
    pipe.foreign("status.now", "time")
    pipe.add("status.lease", "hgetall", "lease")
    pipe.add("status.led", "hget", "meta", "led")
    pipe.add("status.size", "hlen", "definitions")
    pipe.add("status.due", "zcard", "due")
    pipe.add("status.soonest", "zrange", "due", 0, TROUBLED - 1, withscores=True)
    pipe.add("status.failing", "zrevrange", "failing", 0, TROUBLED - 1, withscores=True)
    pipe.add("status.failures", "zcard", "failing")
    pipe.add("status.alerts", "hgetall", "alerts")
    pipe.add("status.pause", "hget", "pauses", "*")
    pipe.add("status.workers", "hgetall", "workers")
    pipe.add("status.revision", "get", "revision")
    pipe.run()
    seconds, micros = pipe["status.now"]
    now = from_ms(seconds * 1000 + micros // 1000)
    pause = pause_in_force(pipe["status.pause"], now)
    running = _running(pipe["status.workers"])
    trouble = _Trouble(store, pipe, now, pause)
    return Status(
        now=now,
        leader=leader_facts(pipe["status.lease"]),
        led=led_at(pipe["status.led"]),
        size=pipe["status.size"],
        due=pipe["status.due"],
        late=trouble.only("late", trouble.late),
        stuck=trouble.only("stuck", trouble.stuck),
        failing=trouble.only("failing", trouble.failing),
        invalid=frozenset(n for n, states in trouble.states.items() if states[0] == "invalid"),
        late_count=0 if pause else trouble.late_count,
        failing_count=0 if pause else trouble.failing_count,
        pause=pause,
        running=running,
        running_jobs=jobs_by_schedule(store.namespace, running),
        workers=len(pipe["status.workers"]),
        revision=text(pipe["status.revision"] or "0"),
    )


class _Trouble:
    """The schedules that look late, stuck or failing, and their states."""

    def __init__(
        self, store: Store, first: NamedPipeline, now: datetime, pause: Pause | None
    ) -> None:
        before = to_ms(now - ON_TIME)
        self.late = {text(n): from_score(at) for n, at in first["status.soonest"] if at < before}
        self.failing = {text(n): from_score(at) for n, at in first["status.failing"]}
        self.stuck = _stuck(first["status.alerts"], now - store.thresholds.stuck)
        self.states: dict[str, tuple[str, ...]] = {}
        names = list(dict.fromkeys([*self.late, *self.stuck, *self.failing]))
        overdue = self._examine(names, store, now, pause) if names else 0
        hidden = len(self.late) - len(self.only("late", self.late))
        self.late_count = max(overdue - hidden, 0)
        hidden = len(self.failing) - len(self.only("failing", self.failing))
        self.failing_count = max(first["status.failures"] - hidden, 0)

    def _examine(
        self, names: Sequence[str], store: Store, now: datetime, pause: Pause | None
    ) -> int:
        """Find the states of these schedules; return how many of all are overdue."""
        pipe = NamedPipeline(store)
        pipe.add("overdue", "zcount", "due", "-inf", f"({to_ms(now - ON_TIME)}")
        for key in ("definitions", "pauses", "outcomes"):
            pipe.add(key, "hmget", key, names)
        pipe.add("due", "zmscore", "due", names)
        pipe.run()
        columns = (pipe[key] for key in ("definitions", "pauses", "outcomes", "due"))
        for name, definition, own, outcome, due in zip(names, *columns, strict=True):
            if definition is not None:
                self.states[name] = verdict(
                    readable=is_readable(name, definition),
                    paused=bool(pause or pause_in_force(own, now)),
                    ended=due is None,
                    late=name in self.late,
                    stuck=name in self.stuck,
                    failing=name in self.failing and fails(store, outcome),
                )
        return int(pipe["overdue"])

    def only(self, state: str, found: Mapping[str, datetime]) -> dict[str, datetime]:
        """Return those of `found` that are in this state."""
        return {name: t for name, t in found.items() if state in self.states.get(name, ())}


def fails(store: Store, outcome: str | bytes | None) -> bool:
    """Return whether a schedule that failed last counts as failing, by its value in `outcomes`."""
    limit = store.thresholds.failures
    last = LastRun.read(outcome) if limit > 1 else None
    return limit <= 1 or (last is not None and last.failures >= limit)


def pause_in_force(stored: bytes | None, now: datetime) -> Pause | None:
    """Return a stored pause if it is in force; None for what cannot be read."""
    if stored is None:
        return None
    try:
        pause = pause_from(stored)
        return pause if pause.at(now) else None
    except Exception:  # whatever others have written
        return None


@lru_cache(maxsize=20_000)
def is_readable(name: str, definition: str | bytes) -> bool:
    """Return whether this release can read a definition."""
    try:
        from_definition(name, definition)
    except ScheduleError:
        return False
    return True


def _stuck(alerts: Mapping[bytes, bytes], before: datetime) -> dict[str, datetime]:
    """Return the schedules whose previous job has blocked them since before an instant."""
    found: dict[str, datetime] = {}
    for field, stored in alerts.items():
        kind, _, name = text(field).partition(":")
        if kind == "stuck":
            with suppress(Exception):  # whatever others have written
                since = from_ms(json.loads(stored)["since"])
                found |= {name: since} if since <= before else {}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _running(workers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the jobs that run now, each with its worker."""
    found = {}
    for worker, value in workers.items():
        words = text(value).split(" ", 3)
        if len(words) == 4:
            found[words[2]] = text(worker)
    return found
