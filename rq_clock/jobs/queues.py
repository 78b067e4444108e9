"""RQ's queues: reading them, and operations on jobs.

Each read is one round trip of bounded size; jobs come in pages. They include jobs of no schedule.

An operation is one script for each job (lua/operate.lua), with an entry in the audit. It leaves the
records as a worker would:

    operation   of a job that is             leaves
    requeue     failed, stopped, canceled    the same job, with its id and so its fire time, at the
                                             end of its queue; the count of interruptions starts
                                             again, remaining retries stay; overlap looks at it;
                                             a web call has another Idempotency-Key
    cancel      queued, scheduled, deferred  canceled; a run is `stopped` in its ledger
    delete      anything but running         nothing; a run that had not begun is `stopped` in its
                                             ledger
    stop        running                      the outcome of its worker: stopped, not retried

    operation       the caller dies     the reply is lost            another one acts meanwhile
    requeue         before: nothing;    repeated: refused, or it     one of the two is refused: it
                    after: done         has failed again             is not failed any more
    cancel, delete  likewise            repeated: refused, or        a worker was faster: refused,
                                        missing                      since it runs
    stop            likewise            repeated: refused, or a      it ended first: refused, or
                                        second order to stop         the worker does nothing
    sweep           portions of 200     repeated: the rest           each job is handled by one of
                    are done, or not                                 the two

No operation leaves two jobs of one fire time queued or running, among those that the clock
watches: the newest hundred of a schedule, and none of a backfill.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rq.utils import utcformat

from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.jobs.outcomes import STOPPED, one_line
from rq_clock.jobs.records import (
    KINDS,
    JobDetail,
    Jobs,
    JobView,
    QueueReport,
    decode_place,
    encode_place,
    job_detail,
    job_view,
    queue_view,
    server_time,
    worker_view,
)
from rq_clock.model.job_id import JobId
from rq_clock.model.view import View, doc
from rq_clock.redaction import NO_SECRETS, Secrets
from rq_clock.store.audit import AUDIT, FEW, Actor
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, text
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms

QUEUES, WORKERS = 500, 1000
"""Limits of the queues and workers of one read."""
SWEEP = 1000
"""Jobs that one bulk operation examines."""
PORTION = 200
ATTEMPTS = 2000
"""Ended attempts to search for those of one job, from its enqueueing on."""
_SCRIPTS = ("browse", "inspect", "operate", "queues")
_LONGEST = 500
_LARGEST = 64 * 1024
_REQUEUABLE = ("failed", "stopped", "canceled")
_VERBS = {"requeue": "requeue", "cancel": "cancel-job", "delete": "delete-job", "stop": "stop"}
_STATES = {
    "requeue": f"one that is {', '.join(_REQUEUABLE[:-1])} or {_REQUEUABLE[-1]}",
    "cancel": "one that waits: queued, scheduled or deferred",
    "delete": "one that is not running; stop it first",
    "stop": "one that is running",
}


class NoJob(RqClockError):
    """There is no such job, or none any more."""


class NotAllowed(RqClockError):
    """The operation is not possible in the job's state; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """The jobs of a bulk operation: of a queue, of a schedule, with a text in id, description or
    error. `before` leaves out those that ended after the operator looked."""

    queue: str = ""
    schedule: str = ""
    text: str = ""
    before: datetime | None = None

    def fits(self, job: JobView) -> bool:
        """Return whether a job is one of them."""
        if self.schedule and (job.run is None or job.run.schedule != self.schedule):
            return False
        if self.before and job.ended and job.ended > self.before:
            return False
        return self.text.lower() in f"{job.id}\n{job.description or ''}\n{job.error or ''}".lower()


@dataclass(frozen=True, slots=True)
class RefusedJob(View):
    """A job that was left as it was."""

    job: str
    detail: str


@dataclass(frozen=True, slots=True)
class BulkJobsResult(View):
    """The result of an operation on many jobs."""

    done: int
    refused: tuple[RefusedJob, ...] = ()
    more: bool = field(default=False, metadata=doc("Whether there may be more jobs that match."))


class Queues:
    """RQ's queues. Values of `secrets` are masked in results and errors. Methods raise redis-py's
    RedisError when the server cannot be used."""

    def __init__(self, store: Store, *, runs: int = 1000, secrets: Secrets = NO_SECRETS) -> None:
        self._store = store
        self._secrets = secrets
        self._runs = runs
        self._scripts = {n: load_script(store.redis, n) for n in _SCRIPTS}

    # ---- reading ------------------------------------------------------------------------------

    def look(self, used: Collection[str] = ()) -> QueueReport:
        """Return all queues and workers; `used` are the queues that schedules name."""
        keys = ["rq:queues", "rq:workers", self._store.key("workers")]
        answer = self._scripts["queues"](keys, [QUEUES, WORKERS, *sorted(used)])
        now = server_time(answer)
        workers = sorted(
            (worker_view([text(word) for word in row]) for row in answer[3]), key=lambda w: w.name
        )
        queues = (queue_view(row, now, workers, used) for row in answer[2])
        return QueueReport(now, tuple(queues), tuple(workers))

    def jobs(self, kind: str, queue: str = "", *, limit: int = 50, cursor: str = "") -> Jobs:
        """Return the next `limit` jobs of a kind, of one queue or of all. Raises ScheduleError for
        an unknown kind or cursor."""
        if kind not in KINDS:
            raise ScheduleError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        place, order = KINDS[kind]
        args = [place, queue, order, *decode_place(kind, cursor), limit, QUEUES, _LONGEST]
        answer = self._scripts["browse"](["rq:queues"], args)
        rows, following = answer[3], ""
        if len(rows) > limit and kind == "queued":  # from the place of the next one
            following = encode_place(kind, text(rows[limit][0]), text(rows[limit][2]))
        elif len(rows) > limit:  # from the one shown last
            following = encode_place(kind, text(rows[limit - 1][0]), text(rows[limit - 1][4]))
        found = tuple(job_view(kind, row, self._secrets) for row in rows[:limit])
        return Jobs(server_time(answer), found, answer[2], following)

    def job(self, id: str) -> JobDetail:
        """Return a job. A run that RQ has forgotten has its known attempts. Raises NoJob."""
        origin = JobId.parse(id)
        ours = origin is not None and origin.namespace == self._store.namespace
        since = to_ms(origin.fire_time) if origin and ours else ""
        args = [id, since, ATTEMPTS, _LARGEST, 4 * _LARGEST]
        answer = self._scripts["inspect"]([self._store.key("runs")], args)
        found = job_detail(id, answer, self._secrets)
        if found is None:
            raise NoJob(f"{id}: there is no such job, or none any more")
        return found

    # ---- operations ---------------------------------------------------------------------------

    def requeue(self, id: str, actor: Actor) -> str:
        """Requeue a job that failed, was stopped or was canceled. Return its queue. Raises NoJob
        and NotAllowed."""
        return self._one("requeue", id, actor)

    def cancel(self, id: str, actor: Actor) -> str:
        """Take a waiting job out of its queue and keep it. Return the queue. Raises NoJob and
        NotAllowed."""
        return self._one("cancel", id, actor)

    def delete(self, id: str, actor: Actor) -> str:
        """Delete a job and its results. Return its queue. Jobs that depend on it wait for ever, as
        in RQ. Raises NoJob and NotAllowed."""
        return self._one("delete", id, actor)

    def stop(self, id: str, actor: Actor) -> str:
        """Order the worker of a running job to end it. Return the worker. Raises NoJob and
        NotAllowed."""
        return self._one("stop", id, actor)

    def sweep(self, verb: str, match: JobFilter, actor: Actor) -> BulkJobsResult:
        """Requeue or delete the matching jobs of the newest SWEEP failed ones, newest first."""
        fits, more = self.matching(match)
        done, refused = 0, []
        for start in range(0, len(fits), PORTION):
            ids = [job.id for job in fits[start : start + PORTION]]
            detail = {"queue": match.queue, "schedule": match.schedule, "text": match.text}
            answers = self._operate(verb, ids, actor, detail)
            for id, (word, reason) in zip(ids, answers, strict=True):
                if word == "ok":
                    done += 1
                else:
                    refused.append(RefusedJob(id, str(_fault(verb, id, word, reason))))
        return BulkJobsResult(done, tuple(refused), more)

    def matching(self, match: JobFilter) -> tuple[list[JobView], bool]:
        """Return the matching jobs of the newest SWEEP failed ones, and whether there are more
        failed jobs. Two round trips: one would block the server for 10 ms."""
        found: list[JobView] = []
        cursor = ""
        for _ in range(2):
            page = self.jobs("failed", match.queue, limit=SWEEP // 2, cursor=cursor)
            found += [job for job in page.jobs if match.fits(job)]
            cursor = page.cursor
            if not cursor:
                break
        return found, bool(cursor)

    def _one(self, verb: str, id: str, actor: Actor) -> str:
        [(word, detail)] = self._operate(verb, [id], actor, {"job": id})
        if word != "ok":
            raise _fault(verb, id, word, detail)
        return detail

    def _operate(
        self, verb: str, ids: Sequence[str], actor: Actor, detail: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """Run the script. Return a word and a detail for each job."""
        now = server_time(self._store.redis.time())
        audited = json.dumps({name: value for name, value in detail.items() if value})
        reason = one_line(f"{'canceled' if verb == 'cancel' else 'deleted'} by {actor.by}")
        counted = f"run {STOPPED} -"  # see counters.py: its time is unknown
        head: list[Any] = [verb, to_ms(now), utcformat(now), actor.by, _VERBS[verb], actor.reason]
        head += [audited, AUDIT, self._runs, reason, counted, FEW]
        words = [word for id in ids for word in _job_words(id)]
        keys = self._store.keys("workers")
        answer = list(map(text, actor.call(self._scripts["operate"], keys, [*head, *words])))
        return list(zip(answer[::2], answer[1::2], strict=True))


def _job_words(id: str) -> list[str | int]:
    """Return the script's arguments for a job: its id, and the records of its schedule if any."""
    origin = JobId.parse(id)
    if origin is None:
        return [id, "", "", "", ""]
    prefix = key_of(origin.namespace, "")
    return [id, prefix, origin.schedule, to_ms(origin.fire_time), origin.ledger_codes]


def _fault(verb: str, id: str, word: str, detail: str) -> RqClockError:
    if word == "missing":
        return NoJob(f"{id}: there is no such job, or none any more")
    if word == "twin":
        return NotAllowed(
            f"{id}: expected no other run of its fire time in progress, got {detail}; wait for it"
        )
    if word == "state":
        return NotAllowed(
            f"{id}: expected {_STATES[verb]}, got one that is {detail or 'nothing known'}"
        )
    return NotAllowed(f"{id}: {detail}")
