"""RQ's queues, to look at and to operate on.

Looking takes one round trip each, of a bounded size, whatever there is; jobs come in pages. All
jobs of the Redis are here, also those that no schedule made.

An operation is one script for each job (lua/operate.lua), with an entry in the audit, and leaves
the books as a worker would:

    operation   of a job that is             leaves
    requeue     failed, stopped, canceled    the same job, with its id and so its fire time, at the
                                             end of its queue; interruptions are counted anew, the
                                             retries that are left stay; overlap minds it
    cancel      queued, scheduled, deferred  canceled; a run is `stopped` in its ledger
    delete      anything but running         nothing; a run that had not begun is `stopped` in its
                                             ledger
    stop        running                      what its worker makes of it: stopped, not retried

    operation       whoever asks dies   the reply is lost            another one acts meanwhile
    requeue         before: nothing;    asked again: refused, or it  one of the two is refused: it
                    after: done         has failed anew              is not failed any more
    cancel, delete  likewise            asked again: refused, or     a worker was faster: refused,
                                        missing                      since it runs
    stop            likewise            asked again: refused, or     it ended first: refused, or
                                        told a second time           the worker does nothing
    sweep           portions of 200     asked again: the rest        each job is one's of the two
                    are done, or not

Two jobs of one fire time are never both queued or running by an operation here, as far as the
clock still watches them (of one schedule the newest hundred); of backfills it does not.
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
    JobRow,
    Jobs,
    QueueReport,
    cursor_of,
    instant_of,
    listed,
    place_of,
    queue_of,
    result_view,
    worker_of,
)
from rq_clock.model.job_id import JobId
from rq_clock.store.audit import AUDIT, FEW, Actor
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, text
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms

QUEUES, WORKERS = 500, 1000
"""Queues and workers that are looked at, at most."""
SWEEP = 1000
"""Jobs that one operation on many looks at."""
PORTION = 200
ATTEMPTS = 2000
"""Ended attempts among which those of one job are looked for, from its enqueueing on."""
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
    """A job to which this cannot be done, now; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs an operation on many is for: of a queue, a schedule, with a text in id,
    description or error; and only those that ended before an instant, so that it is done to what
    somebody has seen."""

    queue: str = ""
    schedule: str = ""
    text: str = ""
    before: datetime | None = None

    def fits(self, job: JobRow) -> bool:
        """Whether it is one of them."""
        if self.schedule and (job.run is None or job.run.schedule != self.schedule):
            return False
        if self.before and job.ended and job.ended > self.before:
            return False
        return self.text.lower() in f"{job.id}\n{job.description}\n{job.error}".lower()


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What an operation on many has done: to how many jobs; why it was refused for others; whether
    there may be more that were not looked at."""

    done: int
    refused: Mapping[str, str] = field(default_factory=dict)
    more: bool = False


class Queues:
    """RQ's queues, as a namespace sees them. Methods raise redis-py's RedisError when the server
    cannot be used."""

    def __init__(self, store: Store, *, runs: int = 1000) -> None:
        self._store = store
        self._runs = runs
        self._scripts = {n: load_script(store.redis, n) for n in _SCRIPTS}

    # ---- looking ------------------------------------------------------------------------------

    def look(self, used: Collection[str] | None = None) -> QueueReport:
        """All queues and workers; `used` are those that schedules name, if that is known."""
        keys = ["rq:queues", "rq:workers", self._store.key("workers")]
        answer = self._scripts["queues"](keys, [QUEUES, WORKERS, *sorted(used or ())])
        now = instant_of(answer)
        workers = sorted(
            (worker_of([text(word) for word in row]) for row in answer[3]), key=lambda w: w.name
        )
        queues = (queue_of(row, now, workers, used) for row in answer[2])
        return QueueReport(now, tuple(queues), tuple(workers))

    def jobs(self, kind: str, queue: str = "", *, most: int = 50, cursor: str = "") -> Jobs:
        """The next `most` jobs of a kind, of one queue or of all. Raises ScheduleError for a kind
        or a cursor that is none."""
        if kind not in KINDS:
            raise ScheduleError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        place, order = KINDS[kind]
        args = [place, queue, order, *place_of(kind, cursor), most, QUEUES, _LONGEST]
        answer = self._scripts["browse"](["rq:queues"], args)
        rows, following = answer[3], ""
        if len(rows) > most and kind == "queued":  # from the place of the next one
            following = cursor_of(kind, text(rows[most][0]), text(rows[most][2]))
        elif len(rows) > most:  # from the one shown last
            following = cursor_of(kind, text(rows[most - 1][0]), text(rows[most - 1][4]))
        found = tuple(listed(kind, row) for row in rows[:most])
        return Jobs(instant_of(answer), found, answer[2], following)

    def job(self, id: str) -> JobDetail:
        """One job. Of a run that RQ has forgotten, what is known of its attempts. Raises NoJob."""
        origin = JobId.parse(id)
        ours = origin is not None and origin.namespace == self._store.namespace
        since = to_ms(origin.fire_time) if origin and ours else ""
        args = [id, since, ATTEMPTS, _LARGEST, 4 * _LARGEST]
        found = result_view(id, self._scripts["inspect"]([self._store.key("runs")], args))
        if found is None:
            raise NoJob(f"{id}: there is no such job, or none any more")
        return found

    # ---- operations ---------------------------------------------------------------------------

    def requeue(self, id: str, who: Actor) -> str:
        """Run a job that failed, was stopped or canceled once more; its queue. Raises NoJob and
        Unfit."""
        return self._one("requeue", id, who)

    def cancel(self, id: str, who: Actor) -> str:
        """Take a job that waits out of its queue and keep it; its queue. Raises NoJob and Unfit."""
        return self._one("cancel", id, who)

    def delete(self, id: str, who: Actor) -> str:
        """Forget a job with all that RQ has of it; its queue. Jobs that depend on it wait for ever,
        as in RQ. Raises NoJob and Unfit."""
        return self._one("delete", id, who)

    def stop(self, id: str, who: Actor) -> str:
        """Tell the worker of a running job to end it; the worker. Raises NoJob and Unfit."""
        return self._one("stop", id, who)

    def sweep(self, verb: str, match: JobFilter, who: Actor) -> BulkResult:
        """Requeue or delete the failed jobs that fit, the newest first, of SWEEP that are looked
        at."""
        fits, more = self.matching(match)
        done, refused = 0, {}
        for start in range(0, len(fits), PORTION):
            ids = [job.id for job in fits[start : start + PORTION]]
            detail = {"queue": match.queue, "schedule": match.schedule, "text": match.text}
            for id, (word, said) in zip(ids, self._operate(verb, ids, who, detail), strict=True):
                if word == "ok":
                    done += 1
                else:
                    refused[id] = str(_fault(verb, id, word, said))
        return BulkResult(done, refused, more)

    def matching(self, match: JobFilter) -> tuple[list[JobRow], bool]:
        """The failed jobs that fit, of the newest SWEEP; whether there are more to look at. Two
        round trips: one would hold up the server for 10 ms."""
        found: list[JobRow] = []
        cursor = ""
        for _ in range(2):
            page = self.jobs("failed", match.queue, most=SWEEP // 2, cursor=cursor)
            found += [job for job in page.jobs if match.fits(job)]
            cursor = page.cursor
            if not cursor:
                break
        return found, bool(cursor)

    def _one(self, verb: str, id: str, who: Actor) -> str:
        [(word, said)] = self._operate(verb, [id], who, {"job": id})
        if word != "ok":
            raise _fault(verb, id, word, said)
        return said

    def _operate(
        self, verb: str, ids: Sequence[str], who: Actor, detail: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        """Do it, and for each job what came of it."""
        now = instant_of(self._store.redis.time())
        told = json.dumps({name: value for name, value in detail.items() if value})
        given_up = one_line(f"{'canceled' if verb == 'cancel' else 'deleted'} by {who.by}")
        counted = f"run {STOPPED} -"  # see counters.py: it took no time that would be known
        head: list[Any] = [verb, to_ms(now), utcformat(now), who.by, _VERBS[verb], who.reason, told]
        head += [AUDIT, self._runs, given_up, counted, FEW]
        words = [word for id in ids for word in _books(id)]
        keys = self._store.keys("workers")
        answer = [text(word) for word in who.call(self._scripts["operate"], keys, [*head, *words])]
        return list(zip(answer[::2], answer[1::2], strict=True))


def _books(id: str) -> list[str | int]:
    """A job as the script takes it: where the books of its schedule are, if it is a run."""
    origin = JobId.parse(id)
    if origin is None:
        return [id, "", "", "", ""]
    prefix = key_of(origin.namespace, "")
    return [id, prefix, origin.schedule, to_ms(origin.fire_time), origin.ledger_codes]


def _fault(verb: str, id: str, word: str, said: str) -> RqClockError:
    if word == "missing":
        return NoJob(f"{id}: there is no such job, or none any more")
    if word == "twin":
        return NotAllowed(
            f"{id}: expected no other run of its fire time in progress, got {said}; wait for it"
        )
    if word == "state":
        return NotAllowed(
            f"{id}: expected {_STATES[verb]}, got one that is {said or 'nothing known'}"
        )
    return NotAllowed(f"{id}: {said}")
