"""The facts that `rq-clock doctor` checks: the server, the namespace, each schedule and the queues.

`gather` reads, and writes nothing. It reads in portions, so that no namespace delays other clients.
Portions are read at different instants, so whatever looks wrong is read once more, in an order that
a working clock cannot make look wrong.

Not here: the findings and their remedies (schedule_checks.py, server_checks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from rq_clock.jobs.executions import Executions
from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.model.entry import Entry, LeaseGrant
from rq_clock.model.ledger import decided_until, ledger_entry
from rq_clock.model.schedule import Schedule
from rq_clock.store.access import refused_commands, server_info, too_old
from rq_clock.store.lease import Leases
from rq_clock.store.memory import FULL, failed_jobs, memory_used
from rq_clock.store.scripts import text, texts
from rq_clock.store.status import Status, read_status
from rq_clock.store.store import Store, data_fault, portions
from rq_clock.store.tasks import Tasks
from rq_clock.version import releases

SCAN = 1000
CALLBACKS = "callbacks"
"""The queue of the jobs that call tasks."""
_HASHES = ("markers", "revisions", "pauses", "skips")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The schedules that the app declares; None when it could not be loaded, for the reason in
    `problem`. `faults` are the faults of its declarations."""

    schedules: Mapping[str, Schedule] | None = None
    faults: Sequence[str] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A schedule as found. Its `entry` has the next fire time of the due index."""

    entry: Entry
    next: datetime | None = None
    """The next fire time by definition and marker."""
    recorded: datetime | None = None
    """The newest decided fire time in its ledger."""
    trouble: str = ""
    """Why its ledger cannot be read."""

    @property
    def misplaced(self) -> bool:
        """Return whether the due index is wrong. It may differ where the definition cannot be
        read."""
        return self.entry.schedule is not None and self.entry.next_fire != self.next


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A queue: jobs that wait in it, and the workers that live and serve it."""

    jobs: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the checks look at."""

    status: Status
    info: Mapping[str, Any]
    config: Mapping[str, str]
    """Settings that INFO lacks. Empty, like `info`, where the server refuses the command."""
    namespace: str
    owner: tuple[str, str]
    here: Mapping[str, str] = field(default_factory=releases)
    meta: Mapping[str, str]
    handovers: Sequence[LeaseGrant]
    code: Code
    seen: Sequence[Seen] = ()
    unmarked: Mapping[str, datetime | None] = field(default_factory=dict)
    """Schedules without a marker, and the newest fire time in their ledger."""
    strays: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Key → names in it without a definition."""
    queues: Mapping[str, Served] = field(default_factory=dict)
    foreign: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Workers of another make, and the queues that they serve."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Queue → failed jobs that RQ keeps; only read when the server is nearly full."""
    callbacks: CallbacksStatus | None = None
    """How callbacks are; None where the namespace was not looked into."""
    refused: Sequence[str] = ()
    """Commands of scripts that the user of the connection may not call."""
    unwritable: str = ""
    """Why the server takes no writes now; "" when it does."""
    unverified: bool = False
    """Whether TLS is used without verifying the server's certificate."""

    @property
    def time(self) -> datetime:
        """Return the server's time when the status was read."""
        return self.status.now

    @property
    def leader(self) -> Mapping[str, str]:
        """Return what the leading clock reports about itself; empty when none leads."""
        return self.status.leader

    @property
    def readable(self) -> bool:
        """Return whether this release can read the namespace on this server."""
        known = not data_fault(self.namespace, int(self.meta.get("version", "0")))
        return known and not too_old(self.info)


def gather(
    store: Store, executions: Executions, owner: tuple[str, str], code: Code, *, whole: bool = True
) -> Facts:
    """Return all facts. `owner` is the owner in the settings and its former name. Unless `whole`,
    only the status and the server are read, in a few round trips. Raises RedisError."""
    redis: Any = store.redis
    status = read_status(store)
    info = server_info(redis)
    refused = _allowed(lambda: refused_commands(store))
    facts = Facts(
        status=status,
        info=info,
        config=_config(redis, info),
        namespace=store.namespace,
        owner=owner,
        meta=texts(redis.hgetall(store.key("meta"))),
        handovers=Leases(store).handovers(100),
        code=code,
        failed=failed_jobs(redis) if (memory_used(info) or 0) >= FULL else {},
        refused=("EVALSHA",) if refused is None else refused,
        unwritable=_unwritable(store),
        unverified=redis.connection_pool.connection_kwargs.get("ssl_cert_reqs") == "none",
    )
    return _look_into(store, executions, facts) if whole and facts.readable else facts


def _look_into(store: Store, executions: Executions, facts: Facts) -> Facts:
    names = store.all_names()
    seen: list[Seen] = []
    unmarked: dict[str, datetime | None] = {}
    for portion in portions(names):
        found, absent = read_schedules(store, portion)
        suspects = {name: seen for name, seen in found.items() if seen.misplaced}
        if suspects:
            again, more = read_schedules(store, list(suspects))
            absent |= more
            for name, before in suspects.items():
                del found[name]
                if name in again:
                    found[name] = _unless_moved(before, again[name])
        seen += found.values()
        unmarked |= absent
    callbacks = Tasks(store).status()
    served = {s.entry.schedule.queue for s in seen if s.entry.schedule}
    if callbacks.waiting or callbacks.retrying or callbacks.calling:
        served.add(CALLBACKS)
    queues, alive = _queues(store.redis, served)
    others = executions.foreign(queue for queue, served in queues.items() if served.workers)
    return replace(
        facts,
        seen=sorted(seen, key=lambda s: s.entry.name),
        unmarked={name: unmarked[name] for name in _lacking(store, "markers", unmarked)},
        strays=_strays(store, set(names)),
        queues=queues,
        callbacks=callbacks,
        foreign={worker: of for worker, of in others.items() if worker in alive},
    )


# ---- the server -------------------------------------------------------------------------------


def _allowed(read: Callable[[], T]) -> T | None:
    """Return the reply; None where the server lacks or refuses the command."""
    try:
        return read()
    except ResponseError:
        return None


def _unwritable(store: Store) -> str:
    """Return why a write is refused: this one changes nothing, and needs no memory."""
    try:
        store.redis.hdel(store.key("meta"), "")
    except ResponseError as error:
        return str(error)
    return ""


def _config(redis: Any, info: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    if "maxclients" not in info:
        found |= _allowed(lambda: redis.config_get("maxclients")) or {}
    if not info.get("aof_enabled"):
        found |= _allowed(lambda: redis.config_get("save")) or {}
    return texts(found)


# ---- schedules --------------------------------------------------------------------------------


def read_schedules(
    store: Store, names: Sequence[str]
) -> tuple[dict[str, Seen], dict[str, datetime | None]]:
    """Return these schedules, and those without a marker. Two round trips, ledgers first: a commit
    in between moves the marker ahead of the ledger that was read, never behind it."""
    pipe = store.redis.pipeline(transaction=False)
    for name in names:
        pipe.lindex(store.key(f"ledger:{name}"), -1)
    lines = pipe.execute(raise_on_error=False)
    entries, _ = store.load(names)
    found: dict[str, Seen] = {}
    unmarked: dict[str, datetime | None] = {}
    for name, line in zip(names, lines, strict=True):
        recorded, trouble = _recorded(line)
        entry = entries.get(name)
        if entry is None or entry.lost:
            unmarked[name] = recorded
            continue
        following = entry.schedule.next_after(entry.decided) if entry.schedule else None
        found[name] = Seen(entry=entry, next=following, recorded=recorded, trouble=trouble)
    return found, unmarked


def _recorded(line: Any) -> tuple[datetime | None, str]:
    """Return the fire time up to which all is decided by the last line of a ledger, if it names
    one, and why the line cannot be read."""
    if line is None:
        return None, ""
    try:
        if isinstance(line, Exception):
            raise line
        entry = ledger_entry(text(line))
    except (ResponseError, ValueError, KeyError, IndexError) as error:
        return None, str(error)
    return decided_until(entry), ""


def _unless_moved(before: Seen, again: Seen) -> Seen:
    """Return the first look if the marker did not move until the second: then the index was read
    beside that marker. Otherwise a clock is at work on the schedule, and is right."""
    still = (before.entry.base, before.entry.revision) == (again.entry.base, again.entry.revision)
    return before if still else replace(again, entry=replace(again.entry, next_fire=again.next))


def _lacking(store: Store, key: str, names: Collection[str]) -> list[str]:
    """Return the schedules that still exist and are not in a hash."""
    found = []
    for portion in portions(sorted(names)):
        pipe = store.redis.pipeline(transaction=True)
        for place in ("definitions", key):
            pipe.hmget(store.key(place), portion)
        rows = zip(portion, *pipe.execute(), strict=True)
        found += [name for name, definition, value in rows if definition and value is None]
    return found


def _strays(store: Store, known: Collection[str]) -> dict[str, list[str]]:
    """Return names without a definition, by the key that they are in."""
    redis: Any = store.redis
    scans: dict[str, Iterable[Any]] = {
        key: (name for name, _ in redis.hscan_iter(store.key(key), count=SCAN)) for key in _HASHES
    }
    scans["declared"] = redis.sscan_iter(store.key("declared"), count=SCAN)
    scans["due"] = (name for name, _ in redis.zscan_iter(store.key("due"), count=SCAN))
    strange: set[str] = set()
    for names in scans.values():
        strange.update(name for name in map(text, names) if name != "*" and name not in known)
    found: dict[str, list[str]] = {}
    for portion in portions(sorted(strange)):  # one may have come since, and may be gone again
        pipe: Any = redis.pipeline(transaction=True)
        for key in ("definitions", *_HASHES):
            pipe.hmget(store.key(key), portion)
        pipe.smismember(store.key("declared"), portion)
        pipe.zmscore(store.key("due"), portion)
        definitions, *rows, declared, scores = pipe.execute()
        rows += [[member or None for member in declared], scores]
        for key, values in zip(scans, rows, strict=True):
            for name, definition, value in zip(portion, definitions, values, strict=True):
                if definition is None and value is not None:
                    found.setdefault(key, []).append(name)
    return found


# ---- queues -----------------------------------------------------------------------------------


def _queues(redis: Any, of_schedules: Collection[str]) -> tuple[dict[str, Served], set[str]]:
    """Return the queues that schedules name or that hold jobs, and the living workers."""
    keys = redis.sscan_iter("rq:queues", count=1000)
    registered = {text(key).removeprefix("rq:queue:") for key in keys}
    jobs: dict[str, int] = {}
    serving: dict[str, set[str]] = {}
    for portion in portions(sorted(registered.union(of_schedules))):
        pipe = redis.pipeline(transaction=False)
        for queue in portion:
            pipe.llen(f"rq:queue:{queue}")
            pipe.smembers(f"rq:workers:{queue}")
        answers = pipe.execute(raise_on_error=False)
        for queue, count, workers in zip(portion, answers[::2], answers[1::2], strict=True):
            jobs[queue] = count if isinstance(count, int) else 0  # a key that is no list
            serving[queue] = {text(key) for key in workers} if isinstance(workers, set) else set()
    alive: set[str] = set()
    for portion in portions(sorted(set[str]().union(*serving.values()))):
        pipe = redis.pipeline(transaction=False)
        for key in portion:
            pipe.exists(key)
        alive.update(key for key, there in zip(portion, pipe.execute(), strict=True) if there)
    queues = {
        queue: Served(jobs=jobs[queue], workers=len(serving[queue] & alive))
        for queue in jobs
        if jobs[queue] or queue in of_schedules
    }
    return queues, {key.removeprefix("rq:worker:") for key in alive}
