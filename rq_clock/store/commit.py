"""Decisions packed into messages, so that at the instant only bytes have to be sent.

A `Batch` takes decisions until it is full. The commands of their jobs (see job_commands.py) become,
together with marker, revision and next fire time, the arguments of one call of lua/commit.lua,
packed ahead of time. A `CommitChannel` sends packed batches and returns one result a schedule.

A batch is provisional until the script has compared it. Dropping one loses nothing.

RQ calls that must not make a job here, because they bypass the pipeline:
`unique=True`, `enqueue_at`, `enqueue_in`, `depends_on`, `Repeat` (seen with MONITOR, RQ 2.12).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from redis import Connection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from rq_clock.errors import LeaseLost
from rq_clock.model.decision import Decision, Span
from rq_clock.model.entry import Entry, Lease
from rq_clock.store.backfills import Backfill
from rq_clock.store.job_commands import JobBuilder, JobTemplate, PackedJob
from rq_clock.store.scripts import text
from rq_clock.store.store import HELD, Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import Once

FULL = 100
"""Jobs, or schedules, in one message: about a millisecond of the server's time."""
EARLY_MS = 2000
"""How far ahead of the server's time a fire time may be committed."""
LARGE = 1 << 20
"""Bytes of jobs in one message; it takes no more then."""
PLANNED_BYTES = 750
"""Memory of a decision beside its part of the message."""
WINDOW = 4
"""Messages on their way at once: enough that the server never waits for the next."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Planned:
    """One schedule's part of a batch: what happens if the commit accepts it."""

    entry: Entry
    decision: Decision
    decided_at: datetime
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The result of the commit for one schedule: ok, overlap, stale or error, with the details."""

    planned: Planned
    kind: str
    detail: str
    at: datetime


class CommitRefusal(Exception):
    """The whole batch was refused and nothing was written. `changed`: the only reason was a newer
    revision for all schedules. `early`: by the server's time it is not due yet."""

    def __init__(self, reason: str, *, changed: bool = False, early: bool = False) -> None:
        super().__init__(reason)
        self.changed = changed
        self.early = early


@dataclass(slots=True)
class _Group:
    """The jobs of a batch that have one template. What is equal in all of them is sent once: that
    saves two thirds of the bytes and of the server's parsing."""

    number: int
    template: JobTemplate
    own: list[tuple[bytes, ...]] = field(default_factory=list)
    """The own words of each job."""
    differing: list[int] = field(default_factory=list)
    """Which of the own words differ."""

    def words(self) -> list[Any]:
        """Return the template as lua/commit.lua reads it. All jobs must be there."""
        template, words = self.template, list(self.template.words)
        for i, column in enumerate(zip(*self.own, strict=True)):
            if column.count(column[0]) == len(column):
                words[template.places[i]] = column[0]
            else:
                self.differing.append(i)
        keys = [place + 1 for place in template.keys]
        places = [template.places[i] + 1 for i in self.differing]
        lengths = template.lengths
        return [len(lengths), *lengths, *words, len(keys), *keys, len(places), *places]


class Batch:
    """Decisions for one instant that become one message."""

    def __init__(self, instant: datetime, everything: str) -> None:
        self.instant = instant
        self.everything = everything
        self.planned: list[Planned] = []
        self.message: list[bytes] = []
        self._words: list[str | int] = []
        self._queues: dict[str, int] = {}
        self._groups: dict[JobTemplate, _Group] = {}
        self._jobs: list[tuple[_Group, tuple[bytes, ...]]] = []
        self._backfills: dict[str, list[Any]] = {}
        self._bytes = self._latest = 0
        self._good_until: datetime | None = None

    @property
    def full(self) -> bool:
        return len(self._jobs) >= FULL or len(self.planned) >= FULL or self._bytes >= LARGE

    @property
    def memory(self) -> int:
        """Return about how many bytes of memory the packed batch takes."""
        return sum(map(len, self.message)) + PLANNED_BYTES * len(self.planned)

    def add(self, entry: Entry, decision: Decision, builder: JobBuilder) -> None:
        """Add one schedule's decision, made at the batch's instant. An error leaves the batch as it
        was."""
        schedule = entry.schedule
        assert schedule is not None, "only what can be read is decided"
        packed = [builder.build(schedule, t, self.instant) for t in decision.fire_times]
        queue_key = builder.queue(schedule.queue).key  # nothing raises from here on
        queue = self._queues.setdefault(queue_key, len(self._queues) + 1)
        base = after = entry.base
        if decision.decides:
            marker = to_ms(decision.marker)
            after = f"{marker} {base.partition(' ')[2]}"
            self._latest = max(self._latest, marker)
        words: list[str | int] = [entry.name, base, entry.revision, after]
        words += [_next(entry, decision), schedule.overlap, queue, len(decision.skips)]
        for skip in decision.skips:
            words += [str(to_ms(skip.first)), str(to_ms(skip.last)), skip.count, skip.reason]
        words.append(len(packed))
        for fire_time, job in zip(decision.fire_times, packed, strict=True):
            words += [job.id, str(to_ms(fire_time)), job.code, self._group(job).number]
            self._bytes += sum(map(len, job.own))
        self._words += words
        if decision.backfill:
            number = str(len(self.planned) + 1)
            self._backfills[number] = _backfill(entry, decision.backfill, self.instant)
        ids = tuple(job.id for job in packed)
        self.planned.append(Planned(entry, decision, self.instant, ids))

    def _group(self, job: PackedJob) -> _Group:
        """Add a job to the group of its template."""
        group = self._groups.get(job.template)
        if group is None:
            group = _Group(len(self._groups) + 1, job.template)
            self._groups[job.template] = group
            self._bytes += sum(map(len, job.template.words))
        group.own.append(job.own)
        self._jobs.append((group, job.own))
        return group

    def expire_by(self, limit: datetime, following: datetime | None) -> None:
        """Set when a decision expires: at `limit` or, made ahead, at the schedule's following fire
        time, from which its policy for missed fire times applies."""
        until = min(limit, following) if following else limit
        self._good_until = min(self._good_until or until, until)

    def expired(self, now: datetime) -> bool:
        """Return whether a decision of the batch no longer holds."""
        return self._good_until is not None and now >= self._good_until

    def pack(self, store: Store, lease: Lease, channel: CommitChannel) -> None:
        """Turn the batch into the bytes of one command. Nothing can be added afterwards."""
        groups = self._groups.values()
        words = [word for group in groups for word in group.words()]
        own = [row[i] for group, row in self._jobs for i in group.differing]
        keys = store.keys("lease", "markers", "due")
        head = [lease.token, store.history, self.everything, self._latest - EARLY_MS]
        self.message = channel.pack(
            "EVALSHA", store.script("commit")[0], len(keys), *keys, *head,
            len(groups), *words, len(self._queues), *self._queues,
            _encode([len(self.planned), *self._words, self._backfills]), *own,
        )  # fmt: skip
        self._words, self._queues, self._groups, self._jobs = [], {}, {}, []


def _next(entry: Entry, decision: Decision) -> str:
    """Return when the schedule is to be decided again; "" for never, "end" for a fired run-time
    `once`."""
    if decision.next is not None:
        return str(to_ms(decision.next))
    if decision.held_by_all:
        return str(HELD)
    one_off = isinstance(entry.schedule and entry.schedule.trigger, Once) and not entry.declared
    return "end" if one_off and decision.over else ""


def _backfill(entry: Entry, span: Span, now: datetime) -> list[Any]:
    """Return the backfill of a pause's fire times as lua/commit.lua reads it. Its id follows from
    the last of them, so that every process makes the same one."""
    assert entry.schedule is not None
    pause = entry.own_pause or entry.pause_of_all
    backfill = Backfill(
        id=f"{entry.name}-0{to_ms(span.last)}",
        schedule=entry.name,
        start=span.first,
        end=span.last,
        at_once=1,
        total=span.count,
        by=pause.by if pause else "clock",
        reason="missed in a pause",
        since=now,
        rule=entry.schedule.rule(),
    )
    fields = [str(word) for pair in backfill.fields().items() for word in pair]
    return [backfill.id, str(to_ms(now)), *fields]


class CommitChannel:
    """Sends packed batches to the server without redis-py's commands. A batch may be sent again
    after a lost reply, because the commit compares before it writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool: Any = store.redis.connection_pool
        self._packer: Any = Connection()  # type: ignore[no-untyped-call]  # only packs
        store.redis.script_load(store.script("commit")[1])

    def pack(self, *words: Any) -> list[bytes]:
        """Return the bytes of one command."""
        packed: list[bytes] = self._packer.pack_command(*words)
        return packed

    def commit(self, batches: Sequence[Batch]) -> list[list[CommitResult] | CommitRefusal]:
        """Send batches in order; for each its answers, or why it was refused whole.

        Raises LeaseLost when any was refused for its fencing token. On a lost connection raises
        redis-py's error; some may have been committed, and all may be sent again.
        """
        replies = self._exchange(batches)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # the server was restarted: it forgets scripts
            self._store.redis.script_load(self._store.script("commit")[1])
            again = self._exchange([batches[i] for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        return [_result(batch, reply) for batch, reply in zip(batches, replies, strict=True)]

    def _exchange(self, batches: Sequence[Batch]) -> list[Any]:
        replies: list[Any] = []
        sent = 0
        connection = self._pool.get_connection()  # one that the server closed is opened again
        try:
            while len(replies) < len(batches):
                while sent < len(batches) and sent - len(replies) < WINDOW:
                    connection.send_packed_command(batches[sent].message, check_health=False)
                    sent += 1
                try:
                    replies.append(connection.read_response())
                except ResponseError as error:  # an answer like others, in its place
                    replies.append(error)
        except BaseException:
            connection.disconnect()  # what still comes would answer something else
            raise
        finally:
            self._pool.release(connection)
        return replies


def _result(batch: Batch, reply: Any) -> list[CommitResult] | CommitRefusal:
    if isinstance(reply, RedisError):
        return CommitRefusal(str(reply))
    status = reply[0]
    if status == b"lost":
        raise LeaseLost
    if status == b"changed":
        return CommitRefusal("all schedules were changed at once", changed=True)
    if status == b"early":
        return CommitRefusal("by the server's time it is not due yet", early=True)
    if status == b"error":
        return CommitRefusal(text(reply[1]))
    at = datetime.fromtimestamp(reply[1] / 1000, UTC)
    answers = []
    for planned, words in zip(batch.planned, reply[2:], strict=True):
        kind, _, detail = text(words).partition(" ")
        answers.append(CommitResult(planned, kind, detail, at))
    return answers
