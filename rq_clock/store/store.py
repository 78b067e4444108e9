"""All state of rq-clock in Redis. Nothing else reads or writes its keys, which keys.py lists.

The rules that give each fire time exactly one job are in lua/; the head of each script lists what
it reads, writes and returns. Two ideas carry them. A write of the clock names the fencing token
of its lease, so a clock that was deposed, frozen or cut off cannot write. And a commit names the
marker and the revision that its decision is based on, so a decision is applied once or not at all,
however often it is sent.

Not here: the lease (lease.py), changes by people and apps (operations.py), and RQ's jobs, which
only job_commands.py makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

from redis import Redis
from redis.client import PubSub

from rq_clock.errors import LeaseLost
from rq_clock.log import FaultLog
from rq_clock.model.decision import Skip
from rq_clock.model.entry import Entry, Lease, Pause, pause_from, skip_request_from
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import Enqueued, Lost, ledger_entry
from rq_clock.model.schedule import from_definition
from rq_clock.model.verdict import Thresholds
from rq_clock.settings import Settings
from rq_clock.store.counters import VANISHED
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, readable, text, texts
from rq_clock.timing.instants import from_ms, from_score, score_ms, to_ms

DATA_VERSION = 2
"""Raised when a release cannot use the keys that an older one wrote."""
KEEP_REMOVED_MS = 30 * 24 * 3600 * 1000
"""A removed schedule's ledger stays readable for 30 days."""
_SCRIPTS = ("alerts", "commit", "count", "due", "invalid", "lost", "reconcile")
HELD = float("inf")
"""Score in the due index of a schedule with fire times that the pause of all holds."""
_CHUNK = 500
PAGE = 2000
"""Schedules in one read of the due index."""
RECONCILED, RECONCILED_BYTES = 100, 1 << 20
"""Changes, or bytes of definitions, in one script of a reconcile: one to three ms of the server's
time."""
T = TypeVar("T")
_LOST = "its marker is lost; the leading clock restores it within a minute"
_faults = FaultLog()


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a reconcile. `since`: new, or with a changed trigger, whose fire times count from
    then on; its marker is forgotten if its base is still `forget`. `skip`: for the ledger, the
    instant of a `once` that had passed before it was first seen, or what a removed schedule leaves
    undecided."""

    verb: str
    name: str
    definition: str = ""
    next_fire: datetime | None = None
    since: datetime | None = None
    renamed_from: str = ""
    skip: Skip | None = None
    forget: str = ""

    def words(self) -> list[str | int]:
        """Return the change as lua/reconcile.lua reads it."""
        fire, since = (to_ms(t) if t else "" for t in (self.next_fire, self.since))
        base = f"{since} {self.forget}" if self.forget else since
        words = (self.verb, self.name, self.definition, fire, base, self.renamed_from)
        return [*words, skip_line(self.skip)]


class Store:
    """One namespace's state. Construction makes no connection. Methods raise redis-py's
    RedisError when the server cannot be used; each script is whole or nothing, and each may be
    sent again."""

    def __init__(
        self,
        redis: Redis,
        namespace: str,
        *,
        history: int = 100,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.redis = redis
        self.namespace = namespace
        self.history = history
        self.thresholds = thresholds or Thresholds()
        self._scripts = {name: load_script(redis, name) for name in _SCRIPTS}

    @classmethod
    def from_settings(cls, redis: Redis, settings: Settings) -> Store:
        """Return the state of the namespace that the settings name."""
        limits = thresholds_from(settings)
        return cls(redis, settings.namespace, history=settings.history, thresholds=limits)

    def key(self, name: str) -> str:
        return key_of(self.namespace, name)

    def keys(self, *names: str) -> list[str]:
        return [self.key(name) for name in names]

    def script(self, name: str) -> tuple[str, str]:
        """Return the hash and the text of a script, to send it without redis-py."""
        script = self._scripts[name]
        return str(script.sha), str(script.script)

    # ---- the server ---------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the server's time: a host whose clock is ahead must decide nothing early."""
        seconds, micros = self.redis.time()
        return from_ms(int(seconds) * 1000 + int(micros) // 1000)

    def keep_history(self) -> None:
        """Make the number of entries of a ledger that of this process, the leading clock, for all:
        whoever records a run cuts the ledger."""
        self.redis.hset(self.key("meta"), "history", self.history)

    def keep_packages(self, packages: Iterable[str]) -> None:
        """Write the packages of the declared functions: those that a token may call unless
        RQ_CLOCK_TARGETS is set."""
        self.redis.hset(self.key("meta"), "packages", " ".join(packages))

    def packages(self) -> tuple[str, ...]:
        """Return the packages of the declared functions, as the clock has written them."""
        return tuple(text(self.redis.hget(self.key("meta"), "packages") or b"").split())

    def listen(self) -> PubSub:
        news: PubSub = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py
        news.subscribe(self.key("news"))
        return news

    # ---- definitions --------------------------------------------------------------------------

    def declared_names(self) -> set[str]:
        """Return the names of all schedules that came from code."""
        return {text(name) for name in self.redis.sscan_iter(self.key("declared"), count=1000)}

    def declared(self) -> dict[str, str]:
        """Return the stored definitions of all schedules that came from code."""
        names = sorted(self.declared_names())
        return {n: d for n, d in zip(names, self.definitions(names), strict=True) if d is not None}

    def definitions(self, names: Sequence[str]) -> list[str | None]:
        """Return the stored definitions of `names`, declared or not; None for one without."""
        found: list[str | None] = []
        for chunk in portions(names):
            values = self.redis.hmget(self.key("definitions"), chunk)
            found += [None if value is None else text(value) for value in values]
        return found

    def released(self) -> int:
        """Return the highest release that has reconciled here; 0 when releases are not numbered."""
        stored = text(self.redis.hget(self.key("meta"), "release") or "0")
        return int(stored) if stored.isdecimal() else 0

    def reconcile(
        self, lease: Lease, release: int, now: datetime, changes: Iterable[Change]
    ) -> Iterator[bool]:
        """Apply changes in batches; yields after each, so that the caller can renew the lease.

        A batch is whole or untouched. Yields False, and stops, when a later release of the owner
        has written. Raises LeaseLost.
        """
        keys = self.keys("lease", "meta")
        head: list[str | int] = [lease.token, release, to_ms(now), KEEP_REMOVED_MS]
        for words in _batches(changes):
            answer = self._scripts["reconcile"](keys, head + words)
            if answer == 0:
                raise LeaseLost
            yield answer == 1
            if answer != 1:
                return

    # ---- what is due --------------------------------------------------------------------------

    def due(self, after: datetime | None, until: datetime) -> Iterator[tuple[str, int]]:
        """Yield the schedules whose next fire time (ms) lies in (after, until], soonest first. They
        are read in portions, so that a herd at one instant delays nobody else."""
        low = f"({to_ms(after)}" if after else "-inf"
        last: tuple[Any, Any] = "", ""
        while True:
            words = self._scripts["due"](self.keys("due"), [low, *last, to_ms(until), PAGE])
            found = list(zip(words[::2], words[1::2], strict=True))
            for name, score in found:
                yield text(name), score_ms(float(score))
            if len(found) < PAGE:
                return
            last = found[-1]

    def count_due(self, until: datetime) -> int:
        """Return how many schedules have their next fire time up to then."""
        return int(self.redis.zcount(self.key("due"), "-inf", to_ms(until)))

    def load(self, names: Sequence[str]) -> tuple[dict[str, Entry], str]:
        """Return the stored state of those of `names` that exist, and the revision of all
        schedules. One round trip."""
        pipe = self.redis.pipeline(transaction=False)
        read = self.load_on(pipe, names)
        return read(pipe.execute())

    def load_on(
        self, pipe: Any, names: Sequence[str]
    ) -> Callable[[Sequence[Any]], tuple[dict[str, Entry], str]]:
        """Queue the reads of `load` on a pipeline. Return the function that reads its answers."""
        start = len(pipe)
        for key in ("definitions", "markers", "revisions", "pauses", "skips"):
            pipe.hmget(self.key(key), [*names, "*"])
        pipe.smismember(self.key("declared"), [*names, "*"])
        pipe.zmscore(self.key("due"), [*names, "*"])
        end = len(pipe)
        return lambda answers: _entries(names, answers[start:end])

    def pauses(self, names: Sequence[str]) -> dict[str, Pause]:
        """Return the pauses of those of `names` that have one, also ended ones."""
        found: dict[str, Pause] = {}
        for chunk in portions(names):
            values = zip(chunk, self.redis.hmget(self.key("pauses"), chunk), strict=True)
            found |= {name: pause_from(value) for name, value in values if value is not None}
        return found

    def pause_of_all(self) -> Pause | None:
        """Return the pause of all schedules, also one that has ended; None without a readable
        one."""
        found: Any = self.redis.hget(self.key("pauses"), "*")
        return pause_from(found) if found is not None and _is_pause(found) else None

    def all_names(self) -> list[str]:
        """Return the names of all schedules, in alphabetical order."""
        pairs = self.redis.hscan_iter(self.key("definitions"), count=1000)
        return sorted({text(name) for name, _ in pairs})

    def size(self) -> int:
        return int(self.redis.hlen(self.key("definitions")))

    def soonest(self, limit: int) -> list[tuple[str, datetime]]:
        """Return the schedules whose next fire time comes first."""
        found: Any = self.redis.zrange(self.key("due"), 0, limit - 1, withscores=True)
        return [(text(name), from_score(score)) for name, score in found]

    def everything(self) -> Iterator[Entry]:
        """Yield every schedule, by name; read in portions."""
        for names in portions(self.all_names()):
            yield from self.load(names)[0].values()

    def some_names(self, limit: int) -> list[str]:
        """Return the names of about `limit` schedules, in no order."""
        found: Any = self.redis.hscan(self.key("definitions"), 0, count=limit)
        return [text(name) for name in found[1]]

    def fire_times(self, names: Sequence[str]) -> dict[str, int]:
        """Return the next fire times (ms) of those of `names` that have one."""
        scores = self.redis.zmscore(self.key("due"), list(names))
        return {n: score_ms(s) for n, s in zip(names, scores, strict=True) if s is not None}

    def free_held(self, now: datetime) -> int:
        """Make some of the schedules due that the pause of all has held. Return their number."""
        found: Any = self.redis.zrangebyscore(self.key("due"), HELD, HELD, start=0, num=_CHUNK)
        if found:
            self.redis.zadd(self.key("due"), dict.fromkeys(found, to_ms(now)), xx=True)
        return len(found)

    # ---- counters -----------------------------------------------------------------------------

    def count(self, lease: Lease, number: str, counts: Iterable[tuple[str, str, int]]) -> None:
        """Add counts: schedule ("" for all), field, amount. `number`, "<instance> <n>", grows with
        each portion: a portion is added once, however often it is sent. Raises LeaseLost."""
        keys = self.keys("lease", "meta")
        words = [word for count in counts for word in count]
        if not self._scripts["count"](keys, [lease.token, number, *words]):
            raise LeaseLost

    # ---- alerts -------------------------------------------------------------------------------

    def alerts(self) -> dict[str, str]:
        """Return the open alerts as they are stored, by field."""
        return texts(self.redis.hgetall(self.key("alerts")))

    def keep_alerts(self, lease: Lease, changes: Mapping[str, str]) -> None:
        """Write these fields; an empty value removes one. They are written in portions of a few
        hundred, in their order. Raises LeaseLost."""
        keys = self.keys("lease", "alerts")
        for chunk in portions(changes.items()):
            words = [word for pair in chunk for word in pair]
            if not self._scripts["alerts"](keys, [lease.token, *words]):
                raise LeaseLost

    # ---- the ledger ---------------------------------------------------------------------------

    def ledger(self, name: str) -> list[Enqueued | Skip | Lost]:
        """Return the outcomes of a schedule's fire times, oldest first."""
        lines = self.redis.lrange(self.key(f"ledger:{name}"), 0, -1)
        return readable(ledger_entry, ([text(line)] for line in lines), "ledger")

    def output(self, job_id: str) -> bytes | None:
        """Return the last 64 kB of a run's output; None when there is none, or it has expired."""
        found: Any = self.redis.get(self.key(f"output:{job_id}"))
        return None if found is None else bytes(found)

    def record_invalid(self, lease: Lease, faults: Sequence[tuple[str, int, str]]) -> None:
        """Enter in their ledgers that these schedules cannot be decided: name, fire time (ms) and
        error. Raises LeaseLost."""
        words = [word for fault in faults for word in fault]
        args = [lease.token, self.history, *words]
        if not self._scripts["invalid"](self.keys("lease"), args):
            raise LeaseLost

    def job_lost(self, lease: Lease, name: str, job_id: str, now: datetime) -> bool:
        """Record that a job which blocks `name` has vanished, and unblock the schedule. False when
        the job blocks no more, or the lease is gone."""
        run = JobId.parse(job_id)
        args = [
            lease.token,
            name,
            job_id,
            to_ms(now),
            VANISHED,
            to_ms(run.fire_time) if run else "",
            self.history,
        ]
        return bool(self._scripts["lost"](self.keys("lease"), args))

    def vanished(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of RQ's jobs whose status is waiting or running, but that are in no place of
        such a job: queue, intermediate queue, started, scheduled, deferred."""
        gone = []
        for job_id in job_ids:
            status, origin = self.redis.hmget(f"rq:job:{job_id}", "status", "origin")
            if status not in (b"queued", b"started", b"scheduled", b"deferred"):
                continue
            queue = text(origin or b"")
            pipe = self.redis.pipeline(transaction=False)
            pipe.lpos(f"rq:queue:{queue}", job_id)
            pipe.lpos(f"rq:queue:{queue}:intermediate", job_id)
            pipe.zscore(f"rq:scheduled:{queue}", job_id)
            pipe.zscore(f"rq:deferred:{queue}", job_id)
            pipe.zrange(f"rq:wip:{queue}", 0, -1)
            *places, running = pipe.execute()
            executed = any(text(member).partition(":")[0] == job_id for member in running)
            if not executed and all(place is None for place in places):
                gone.append(job_id)
        return gone


def skip_line(skip: Skip | None) -> str:
    """Return a skip as the ledger holds it, or ""."""
    if skip is None:
        return ""
    return f"- {to_ms(skip.first)} {to_ms(skip.last)} {skip.count} {skip.reason}"


def thresholds_from(settings: Settings) -> Thresholds:
    """Return when something counts as trouble, by the settings for alerts."""
    return Thresholds(
        grace=timedelta(seconds=settings.alert_grace),
        failures=settings.alert_failures,
        stuck=timedelta(seconds=settings.alert_stuck),
    )


def data_fault(namespace: str, version: int) -> str:
    """Return why this release cannot use the data of a namespace, with the remedy; empty when it
    can. Version 0 is that of no data."""
    if version in (0, DATA_VERSION):
        return ""
    remedy = "deploy the newer rq-clock again"
    if version < DATA_VERSION:
        remedy = f"export with the older rq-clock, delete the keys rq-clock:{namespace}:* and apply"
    return (
        f"namespace {namespace!r} holds data of version {version}, this release understands "
        f"{DATA_VERSION}; {remedy}, or choose another RQ_CLOCK_NAMESPACE"
    )


def _entries(names: Sequence[str], answers: Sequence[Any]) -> tuple[dict[str, Entry], str]:
    definitions, markers, revisions, pauses, skips, declared, due = answers
    found: dict[str, Entry] = {}
    if pauses[-1] is not None and not _is_pause(pauses[-1]):  # it must not block everything
        pauses[-1] = None
    rows = zip(names, definitions, markers, revisions, pauses, skips, declared, due, strict=False)
    for name, definition, state, revision, pause, skip, from_code, score in rows:
        if definition is None:
            continue
        common: dict[str, Any] = {
            "revision": _number(revision),
            "declared": bool(from_code),
            "next_fire": None if score in (None, HELD) else from_score(score),
        }
        schedule, fault = None, ""
        if state is None:
            found[name] = Entry.unreadable(name, f"{name}: {_LOST}", lost=True, **common)
            continue
        try:
            schedule = from_definition(name, definition)
        except Exception as error:  # others may have written anything
            fault = str(error)
        try:
            if revision is not None and text(revision) != common["revision"]:
                raise ValueError(f"expected a number as its revision, got {revision!r}")
            found[name] = Entry.read(
                name,
                text(state),
                schedule=schedule,
                fault=fault,
                own_pause=pause_from(pause) if pause is not None else None,
                pause_of_all=pause_from(pauses[-1]) if pauses[-1] is not None else None,
                skipping=skip_request_from(skip) if skip is not None else None,
                **common,
            )
        except Exception as error:
            fault = fault or f"{name}: its marker, revision, pause or skip cannot be read: {error}"
            found[name] = Entry.unreadable(name, fault, **common)
    return found, _number(revisions[-1])


def _number(revision: bytes | None) -> str:
    """Return a revision as the scripts compare it: what others have written there is none."""
    found = text(revision or "0")
    return found if found.isascii() and found.isdecimal() else "0"


def _is_pause(stored: bytes) -> bool:
    try:
        pause_from(stored)
    except Exception as error:
        _faults.report("pause.unreadable", error, schedule="*")
        return False
    return True


def _batches(changes: Iterable[Change]) -> Iterator[list[str | int]]:
    """Yield the words of changes, as many as one script takes."""
    words: list[str | int] = []
    count = size = 0
    for change in changes:
        words += change.words()
        count, size = count + 1, size + len(change.definition)
        if count >= RECONCILED or size >= RECONCILED_BYTES:
            yield words
            words, count, size = [], 0, 0
    if words:
        yield words


def portions(items: Iterable[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """Yield the items in lists of a size that delays no other client."""
    rest = iter(items)
    while portion := list(islice(rest, size)):
        yield portion
