"""The jobs of schedules, as the commands with which RQ enqueues them; nothing is run.

RQ itself makes the first job of each set of options (queue, timeout, retries …), and its commands
are recorded. They become a `JobTemplate`: the words that all such jobs have in common, and the
places of those that are a job's own. Later jobs only fill the places, in a fifth of the time. If
what a template yields differs from what RQ records, as after a change in RQ, RQ makes each job.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rq import Queue, Retry
from rq.job import Job
from rq.serializers import DefaultSerializer
from rq.utils import get_call_string, utcformat

from rq_clock.model.decision import is_on_time
from rq_clock.model.job_id import JobId
from rq_clock.model.ledger import LEDGER_CODES
from rq_clock.model.schedule import Schedule
from rq_clock.store.store import Store
from rq_clock.timing.instants import iso

DESCRIPTION_LENGTH = 75
"""Characters of each argument in the description of a job, as RQ has it."""
CACHE_LIMIT = 1000
"""Templates, or calls without arguments, that are kept."""
_OWN = (b"created_at", b"data", b"description", b"enqueued_at", b"meta")
"""Fields of a job's hash that differ from job to job."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class JobTemplate:
    """Commands that write the hashes of jobs with the same options."""

    lengths: tuple[int, ...]
    """Number of words of each command."""
    words: tuple[bytes, ...]
    """The words of all commands, those of the job that they were recorded of among them."""
    keys: tuple[int, ...]
    """Which words are the job's key."""
    places: tuple[int, ...]
    """Which words are a job's own besides."""


@dataclass(slots=True)
class PackedJob:
    """A job's id, its code in the ledger, and its words in the places of its template."""

    id: str
    code: str
    template: JobTemplate
    own: tuple[bytes, ...]

    def commands(self, queue_key: str) -> list[list[bytes]]:
        """Return the commands that enqueue the job."""
        template, key = self.template, f"rq:job:{self.id}".encode()
        words = list(template.words)
        for place in template.keys:
            words[place] = key
        for place, word in zip(template.places, self.own, strict=True):
            words[place] = word
        commands, start = [], 0
        for length in template.lengths:
            commands.append(words[start : start + length])
            start += length
        return commands + _queueing(self.id, queue_key)


class JobBuilder:
    """Makes the jobs of schedules."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pipeline = store.redis.pipeline(transaction=False)
        self._queues: dict[str, _Queue] = {}
        self._templates: dict[tuple[Any, ...], JobTemplate | None] = {}
        """Options → their template; None when RQ has to make each job."""
        self._calls: dict[str, tuple[bytes, bytes]] = {}
        """Function → data and description of a call without arguments."""
        self._instant, self._stamp = _EPOCH, b""
        self._fire_time = _EPOCH, ""

    def queue(self, name: str) -> _Queue:
        """Return a queue, one object for all jobs."""
        if name not in self._queues:
            queue = self._queues[name] = _Queue(name, connection=self._store.redis)
            # RQ checks a serializer against a Protocol for each job, a tenth of the time that a job
            # takes. Without one, RQ uses its default.
            queue.serializer = None  # type: ignore[assignment]
        return self._queues[name]

    def build(
        self,
        schedule: Schedule,
        fire_time: datetime,
        now: datetime,
        kind: str = "",
        number: str = "",
    ) -> PackedJob:
        """Return the job for one fire time. `kind` and `number` are those of the JobId, for a run
        by hand or of a backfill. Raises UnicodeEncodeError for text that Redis cannot hold."""
        code = kind or ("s" if is_on_time(fire_time, now) else "c")
        id = str(JobId(self._store.namespace, schedule.name, fire_time, kind, number))
        if fire_time != self._fire_time[0]:  # most of a batch have the same
            self._fire_time = fire_time, iso(fire_time)
        time = self._fire_time[1]
        run = {"schedule": schedule.name, "fire_time": time, "reason": LEDGER_CODES[code]}
        facts: dict[str, Any] = run | ({"group": schedule.group} if schedule.group else {})
        if schedule.allowed_targets is not None:
            facts["allowed_targets"] = list(schedule.allowed_targets)
        meta = {"rq_clock": facts}
        call = schedule.call()
        options = (
            schedule.queue, call["timeout"], schedule.retries, schedule.result_ttl,
            schedule.failure_ttl, schedule.group, schedule.group_limit,
        )  # fmt: skip
        if options not in self._templates:
            self._templates[options] = self._new_template(schedule, call, meta)
        template = self._templates[options]
        if template is None:
            recorded = self._record(schedule, call, meta, id, now)
            queueing = _queueing(id, self.queue(schedule.queue).key)
            return PackedJob(id, code, _whole([c for c in recorded if c not in queueing]), ())
        return PackedJob(id, code, template, self._own(call, meta, now))

    def _new_template(
        self, schedule: Schedule, call: Mapping[str, Any], meta: dict[str, Any]
    ) -> JobTemplate | None:
        """Return the template of a schedule's options; None when it yields something else than RQ
        makes."""
        if len(self._templates) >= CACHE_LIMIT:
            self._templates.clear()
        key, later = self.queue(schedule.queue).key, _EPOCH + timedelta(days=1)
        try:
            template = _template("a", key, self._record(schedule, call, meta, "a", _EPOCH))
        except KeyError:  # a field that is no longer there
            return None
        copy = PackedJob("b", "s", template, self._own(call, meta, later)).commands(key)
        same = sorted(copy) == sorted(self._record(schedule, call, meta, "b", later))
        return template if same else None

    def _own(
        self, call: Mapping[str, Any], meta: Mapping[str, Any], now: datetime
    ) -> tuple[bytes, ...]:
        """Return a job's own words, in the order of _OWN."""
        if self._instant != now:
            self._instant, self._stamp = now, utcformat(now).encode()
        func, args, kwargs = call["func"], call.get("args", ()), call.get("kwargs", {})
        found = None if args or kwargs else self._calls.get(func)
        if found is None:
            data = zlib.compress(DefaultSerializer.dumps((func, None, args, kwargs)))
            text = call.get("description") or get_call_string(
                func, args, kwargs, DESCRIPTION_LENGTH
            )
            found = data, str(text).encode()
            if not args and not kwargs:
                if len(self._calls) >= CACHE_LIMIT:
                    self._calls.clear()
                self._calls[func] = found
        return self._stamp, *found, self._stamp, DefaultSerializer.dumps(meta)

    def _record(
        self, schedule: Schedule, call: Mapping[str, Any], meta: dict[str, Any], id: str,
        now: datetime,
    ) -> list[list[bytes]]:  # fmt: skip
        """Let RQ make a job. Return its commands, the two that put it in its queue at the end."""
        queue = self.queue(schedule.queue)
        job = queue.create_job(
            **call,
            job_id=id,
            result_ttl=schedule.result_ttl,
            failure_ttl=schedule.failure_ttl,
            retry=_retry(schedule.retries),
            meta=meta,
        )
        job.created_at = queue.decided_at = now
        try:
            queue.enqueue_job(job, pipeline=self._pipeline)
            commands = _needed([args for args, _options in self._pipeline.command_stack])
        finally:
            self._pipeline.command_stack.clear()
        if schedule.group is not None:  # where lua/take.lua reads it
            group = "rq_clock_group", schedule.group, "rq_clock_group_limit", schedule.group_limit
            commands = [(*c, *group) if c[:2] == ("HSET", job.key) else c for c in commands]
        return [[_encoded(word) for word in command] for command in commands]


class _Queue(Queue):
    """RQ's queue, with the instant of the decision as the time of enqueueing: a job that was
    built ahead must not show an earlier time than its fire time."""

    decided_at: datetime

    def _prepare_for_queue(self, job: Job) -> None:
        super()._prepare_for_queue(job)
        job.enqueued_at = self.decided_at


def command_words(commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Return commands as scripts take them: how many, then each with the number of its words."""
    return [len(commands), *(word for command in commands for word in (len(command), *command))]


def _template(id: str, queue_key: str, recorded: list[list[bytes]]) -> JobTemplate:
    """Return the template of a recorded job, without the commands that put it in its queue."""
    queueing = _queueing(id, queue_key)
    whole = _whole([command for command in recorded if command not in queueing])
    key, words = f"rq:job:{id}".encode(), whole.words
    fields = {field: place + 1 for place, field in enumerate(words) if field in _OWN}
    keys = tuple(place for place, word in enumerate(words) if word == key)
    return replace(whole, keys=keys, places=tuple(fields[field] for field in _OWN))


def _whole(commands: list[list[bytes]]) -> JobTemplate:
    """Return commands as a template of one job."""
    words = tuple(word for command in commands for word in command)
    return JobTemplate(tuple(map(len, commands)), words, keys=(), places=())


def _queueing(id: str, queue_key: str) -> list[list[bytes]]:
    """Return the commands with which RQ puts a job in its queue."""
    queue = queue_key.encode()
    return [[b"SADD", b"rq:queues", queue], [b"RPUSH", queue, id.encode()]]


def _encoded(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word
    return word.encode() if isinstance(word, str) else str(word).encode()  # RQ's status is an enum


def _retry(retries: int | tuple[int, ...]) -> Retry | None:
    """Return RQ's form of a count, or of a list of delays in seconds."""
    if isinstance(retries, tuple):
        return Retry(max=len(retries), interval=list(retries))
    return Retry(max=retries) if retries else None


def _needed(commands: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the commands without an HSET whose fields the next one sets again: RQ writes a new
    job's status first, and then the whole hash."""
    needed = []
    for command, following in zip(commands, [*commands[1:], ("",)], strict=True):
        same_hash = command[0] == "HSET" and command[:2] == following[:2]
        if not (same_hash and set(command[2::2]) <= set(following[2::2])):
            needed.append(command)
    return needed
