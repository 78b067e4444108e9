"""Clock processes to kill, and the account of what they left in Redis.

The account reads raw keys and does its own arithmetic of time: nothing of the code that is judged
here helps to judge it.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from redis import Redis

from tests.helpers import wait_until
from tests.process import Process

Client: TypeAlias = Any
"""A redis.Redis. Its own type leaves open whether it answers in bytes, which it does here."""
HEAD = "from rq_clock import Clock, cron, every\nclock = Clock()\n"
EVERY_FIRE_TIME = "catch_up='all', catch_up_limit=1_000_000"


def add(*names: str, when: str = "every(seconds=1)", options: str = EVERY_FIRE_TIME) -> str:
    """The lines that declare these schedules. No worker ever runs their target."""
    return "".join(f"clock.add({n!r}, {when}, 'tasks.nothing', {options})\n" for n in names)


@contextmanager
def client(url: str) -> Iterator[Client]:
    with Redis.from_url(url) as redis:
        yield redis


def chance() -> tuple[int, random.Random]:
    """A seed, and what is drawn from it."""
    seed = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(1_000_000))
    return seed, random.Random(seed)


TWENTY = tuple(f"s{i:02}" for i in range(20))


class ClockProcess(Process):
    """A clock in a process with nothing in its environment but `env`.

    `script` is the code of an app between `clock = Clock()` and `clock.run()`.
    """

    def __init__(
        self, path: Path, url: str | None, script: str, *switches: str, **env: str
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        number = len(list(path.glob("*.log")))
        source = path / f"{number}.py"
        source.write_text(HEAD + script + "clock.run()\n")
        settings = {"RQ_CLOCK_HISTORY": "1000000"} | ({"REDIS_URL": url} if url else {})
        super().__init__(path / f"{number}.log", str(source), *switches, env=settings | env)


@dataclass
class Account:
    """What Redis holds of some schedules, against what their rules of time demand."""

    expected: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Jobs on a queue for instants at which nothing was due."""
    bare: list[str] = field(default_factory=list)
    """Jobs on a queue without a hash, or the other way round."""
    unledgered: list[str] = field(default_factory=list)
    """Fire times with not exactly one entry in the ledger, and entries for no fire time."""
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"expected={self.expected} lost={len(self.lost)} doubled={len(self.doubled)} "
            f"strangers={len(self.strangers)} bare={len(self.bare)} "
            f"unledgered={len(self.unledgered)} skipped={len(self.skipped)}"
        )

    def check(self, note: str = "") -> str:
        """Fails unless every fire time became exactly one job; else the figures, after `note`."""
        faults = {k: v[:5] for k, v in vars(self).items() if isinstance(v, list) and v}
        assert not faults, f"{note} {self}: {faults}"
        assert self.expected, f"{note} nothing was due"
        return f"{note} {self}"


class Jobs:
    """Every job on a queue and every job's hash: how often there is one for which instant (ms), by
    the part of its id that comes before the instant."""

    def __init__(self, redis: Client) -> None:
        queues = redis.scan_iter("rq:queue:*", 10_000, "list")
        self.queued = _instants(job for queue in queues for job in redis.lrange(queue, 0, -1))
        hashes = redis.scan_iter("rq:job:*", 10_000, "hash")
        self.hashed = _instants(key.removeprefix(b"rq:job:") for key in hashes)


def _instants(ids: Iterable[bytes]) -> defaultdict[str, Counter[int]]:
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for job in ids:
        own, _, instant = job.decode().rpartition("-")
        if instant.isdigit():  # else it is by hand or a backfill's
            found[own][int(instant)] += 1
    return found


def account(
    redis: Client,
    names: Iterable[str],
    namespace: str = "default",
    *,
    formerly: Mapping[str, str] | None = None,
    also: Mapping[str, list[int]] | None = None,
    jobs: Jobs | None = None,
) -> Account:
    """Compare, for each schedule, known since … marker with queues, jobs and ledger.

    `formerly` names those that were renamed, `also` the fire times (ms) that an older rule of
    time demanded.
    """
    found = Account()
    jobs = jobs or Jobs(redis)
    prefix = f"rq-clock:{namespace}:"
    for name in names:
        definition = json.loads(redis.hget(f"{prefix}definitions", name) or b"null")
        marker, since = marker_of(redis, name, namespace)
        wanted = (also or {}).get(name, []) + fire_times(definition, since, marker)
        found.expected += len(wanted)
        own = f"{namespace}-{name}"
        old = f"{namespace}-{(formerly or {}).get(name)}"
        queued = jobs.queued[own] + jobs.queued[old]
        entries = [e.decode() for e in redis.lrange(f"{prefix}ledger:{name}", 0, -1)]
        noted = Counter(int(e.split(" ")[1]) for e in entries if e[0] in "sc")
        odd = [t for t in {*wanted, *noted} if noted[t] != 1 or t not in queued]
        hashed = jobs.hashed[own] + jobs.hashed[old]
        found.lost += [f"{own}-{t}" for t in wanted if not queued[t]]
        found.doubled += [f"{own}-{t}" for t, n in queued.items() if n > 1]
        found.strangers += [f"{own}-{t}" for t in sorted(set(queued) - set(wanted))]
        found.bare += [f"{own}-{t}" for t in sorted(set(hashed) ^ set(queued))]
        found.unledgered += [f"{own}-{t}" for t in sorted(odd)]
        found.skipped += [f"{name}: {e}" for e in entries if e[0] not in "sc"]
    return found


def ledger(redis: Client, names: Iterable[str], namespace: str = "default") -> dict[str, int]:
    """Job ids and by how many ms each was late, as the ledger has it."""
    found = {}
    for name in names:
        for entry in redis.lrange(f"rq-clock:{namespace}:ledger:{name}", 0, -1):
            mark, instant, *rest = entry.decode().split(" ")
            if mark in "sc":
                found[f"{namespace}-{name}-{instant}"] = int(rest[0])
    return found


def marker_of(redis: Client, name: str, namespace: str = "default") -> tuple[int, int]:
    """Marker (0 for none) and known since of a schedule, in ms."""
    state = redis.hget(f"rq-clock:{namespace}:markers", name)
    assert state, f"{name} has no marker"
    marker, since = state.decode().split(" ")[:2]
    return (0 if marker == "-" else int(marker)), int(since)


def fire_times(definition: dict[str, int], since: int, marker: int) -> list[int]:
    """The instants (ms) of an `every` in (since, marker], by a rule of its own."""
    period, anchor = definition["every"], definition.get("anchor", 0)
    first = since - (since - anchor) % period + period
    return list(range(first, marker + 1, period))


def decided(redis: Client, names: Iterable[str], until: float, namespace: str = "default") -> bool:
    """Whether the markers of these schedules have reached `until`, in seconds since the epoch."""
    states = redis.hmget(f"rq-clock:{namespace}:markers", list(names))
    return all(s and not s.startswith(b"-") and int(s.split()[0]) >= until * 1000 for s in states)


def catch_up(redis: Client, names: Iterable[str], until: float | None = None) -> None:
    """Wait until the markers of these schedules have come to `until`, by default to now."""
    names, goal = list(names), until or time.time()
    wait_until(lambda: decided(redis, names, goal), f"markers at {goal:.3f}")


def state(redis: Client, *without: str) -> dict[bytes, bytes | None]:
    """Every key as DUMP shows it, except the named ones."""
    keys = [k for k in redis.scan_iter("*", 10000) if k.decode() not in without]
    return {k: redis.dump(k) for k in sorted(keys)}
