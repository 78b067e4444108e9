"""Clock processes to kill, and the account of what they left in Redis.

The account reads raw keys and does its own arithmetic of time: nothing of the code that is judged
here helps to judge it.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

from redis import Redis

from rq_clock.devserver import LEASH
from tests.helpers import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
Client: TypeAlias = Any
"""A redis.Redis. Its own type leaves open whether it answers in bytes, which it does here."""
HEAD = "from rq_clock import Clock, cron, every\nclock = Clock()\n"
EVERY_FIRE_TIME = "catch_up='all', catch_up_limit=1_000_000"
LEASHED = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid())]
"""Before a command: the process dies with the thread that started it, however that ends."""
_LINE = re.compile(
    r"(?:\d\d:\d\d:\d\d\.\d{3} )?([a-z]+\.[a-z]+)((?: \w+=(?:\"(?:[^\"\\]|\\.)*\"|\S*))*)$"
)
_PAIR = re.compile(r" (\w+)=(?:\"((?:[^\"\\]|\\.)*)\"|(\S*))")


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


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a clock's log."""

    word: str
    fields: dict[str, str]


class ClockProcess:
    """A clock in a process of its own, with nothing in its environment but what is given.

    `script` is what an app would write between `clock = Clock()` and `clock.run()`.
    """

    def __init__(
        self, path: Path, url: str | None, script: str, *switches: str, **env: str
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        number = len(list(path.glob("*.log")))
        source, self.log = path / f"{number}.py", path / f"{number}.log"
        source.write_text(HEAD + script + "clock.run()\n")
        kept = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        settings = {"RQ_CLOCK_HISTORY": "1000000"} | ({"REDIS_URL": url} if url else {})
        command = [sys.executable, str(source), *switches]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                LEASHED + command if sys.platform == "linux" else command,
                cwd=path,
                env={**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started = time.time()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def live(self, seconds: float) -> None:
        """Let it be for so long. Fails when it ends by itself."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(seconds)
            raise AssertionError(f"the clock ended by itself with {code}:\n{self.text()}")

    def lived(self, seconds: float) -> bool:
        """Whether it has lived so long, or ended before."""
        return self.process.poll() is not None or time.time() - self.started >= seconds

    def terminate(self, seconds: float = 10.0) -> int:
        """SIGTERM, as soon as it is through its imports, and the exit code."""
        wait_until(self.events, PATIENCE, "its first word")
        self.process.terminate()
        return self.ended(seconds)

    def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code, awaited."""
        return self.process.wait(seconds)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self, word: str | None = None) -> list[Event]:
        """What it has logged, or only the events called `word`."""
        found = []
        for line in self.text().splitlines():
            if match := _LINE.match(line):
                pairs = {k: quoted or bare for k, quoted, bare in _PAIR.findall(match[2])}
                found.append(Event(match[1], pairs))
        return [event for event in found if word in (None, event.word)]

    def words(self, *only: str) -> list[str]:
        """The sequence of its events, or of those named."""
        return [event.word for event in self.events() if not only or event.word in only]

    def said(self, word: str, *, times: int = 1, seconds: float = PATIENCE, **fields: str) -> Event:
        """The `times`-th event called `word` with these fields, awaited."""

        def found() -> Event | None:
            events = [e for e in self.events(word) if fields.items() <= e.fields.items()]
            return events[times - 1] if len(events) >= times else None

        try:
            event = wait_until(found, seconds, f"{word} {fields or ''}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the log says\n{self.text()[-4000:]}") from None
        assert event
        return event


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
    wait_until(lambda: decided(redis, names, goal), PATIENCE, f"markers at {goal:.3f}")


def state(redis: Client, *without: str) -> dict[bytes, bytes | None]:
    """Every key as DUMP shows it, except the named ones."""
    keys = [k for k in redis.scan_iter("*", 10000) if k.decode() not in without]
    return {k: redis.dump(k) for k in sorted(keys)}
