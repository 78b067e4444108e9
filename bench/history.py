"""Fills a server with the past of a busy app: schedules, what became of their fire times, and the
jobs that RQ still has of it. No clock and no worker is needed for it.

Everything goes through the public API: schedules are added, paused, declared by a clock that leads,
and jobs are taken by workers. What only time makes, a hundred thousand ended runs, is written as
store.py, executions.py and counters.py have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from redis import Redis
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq.results import Result

from rq_clock import command, cron, every, webhook
from rq_clock.clock.reconcile import plan
from rq_clock.jobs.executions import Executions
from rq_clock.model.entry import Lease
from rq_clock.model.schedule import declare
from rq_clock.schedules.edits import ScheduleArgs
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.counters import ended
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import Trigger

OFTEN, SELDOM = 64, 4
"""Runs that the ledger has of every tenth schedule, and of each other one: ten on average."""
DECLARED, WORKERS, RUNNING = 300, 8, 4
JOBS = 3_000
"""Ended jobs of each kind, failed and finished, that RQ has kept; a third as many wait."""
QUEUES = ("default", "mail", "reports", "billing", "search", "media", "imports", "webhooks")
_KINDS = ("digest", "invoice", "report", "sync", "cleanup", "export", "reindex")
_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Sydney")
_TAGS = ("eu", "us", "gold", "trial")
_FAILURES = (
    ("failed", "ConnectionError: smtp.example.com:587 refused the connection"),
    ("failed", "ValueError: invoice 4711: expected a currency, got ''"),
    ("timed_out", "JobTimeoutException: Task exceeded maximum timeout value (180 seconds)"),
)
_TRACE = """Traceback (most recent call last):
{frames}  File "/app/tasks/mail.py", line 88, in send
    connection = smtp.connect(host, port, timeout=10)
                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
{error}
"""
_FRAME = '  File "/app/tasks/layer{n}.py", line {n}, in call_{n}\n    return step_{n}(*args)\n'

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One that has ended. Instants are epoch milliseconds."""

    schedule: str
    queue: str
    state: str
    fire: int
    started: int
    ended: int
    worker: str
    error: str

    @property
    def job(self) -> str:
        return f"default-{self.schedule}-{self.fire}"

    @property
    def entry(self) -> str:
        """As the ledger has it."""
        ending = f"{self.state} 1 {self.started} {self.ended} {self.worker} {self.error}"
        return f"s {self.fire} {self.fire % 40} {ending}".strip()


def fill(redis: Redis, size: int, past: int) -> None:
    """Add schedules, `past` of which have a past: ten runs each on average. One in 20 of
    these is failing, one in 100 late, one in 33 paused; those in trouble, which come first on a
    page, have most of the past. No other is due within 50 minutes."""
    settings, now = Settings.from_env({}), datetime.now(UTC)  # as for processes, which get none
    store, schedules = Store(redis, settings.namespace), Schedules(redis, settings=settings)
    _lead(store, now)
    schedules.add_many(_given(range(DECLARED, size), now))
    runs = sorted(_runs(past, now), key=lambda run: run.ended)
    _keep(store, runs)
    names = [name(i) for i in range(past)]
    for i in range(5, past, 33):
        until = now + timedelta(days=1 + i % 5) if i % 2 else None
        schedules.pause(names[i], reason="the upstream is being moved", until=until)
    late = {names[i]: to_ms(now) - i * 1000 for i in range(120, past, 100)}
    redis.zadd(store.key("due"), late)
    _keep_jobs(redis, runs)
    _work(redis, settings.namespace)


def name(i: int) -> str:
    """The name of a schedule."""
    return f"{_KINDS[i % len(_KINDS)]}-{i:06}"


# ---- schedules ----------------------------------------------------------------------------------


def _lead(store: Store, now: datetime) -> None:
    """A clock that leads until the server ends, and has declared the first schedules."""
    lease = Leases(store).acquire("clock.1.4711.0a1b", ("bench", ""), "starting", now)
    assert isinstance(lease, Lease), "nobody else leads here"
    declared = {
        given[0]: declare(given[0], given[1], given[2], given[3] if len(given) > 3 else {})
        for given in _given(range(DECLARED), now)
    }
    for _ in store.reconcile(lease, 0, now, plan(declared, {}, {}, now).changes):
        pass
    Leases(store).renew(lease, proven=1, lag_p50_ms=2, lag_p99_ms=7)
    store.redis.persist(store.key("lease"))


def _given(numbers: range, now: datetime) -> Iterator[ScheduleArgs]:
    for i in numbers:
        target: Any = f"tasks.{_KINDS[i % len(_KINDS)]}.run"
        if i % 20 == 11:
            target = command(f"bin/export --tenant {i} --since yesterday | gzip > /tmp/{i}.gz")
        elif i % 20 == 13:
            target = webhook(f"https://hooks.example.com/tenants/{i}", json={"tenant": i})
        options: dict[str, Any] = {"queue": _queue(i), "tags": [_TAGS[i % len(_TAGS)]]}
        if isinstance(target, str):
            options["kwargs"] = {"tenant": i, "full": i % 3 == 0, "region": "eu-central-1"}
        yield name(i), _trigger(i, now), target, options


def _trigger(i: int, now: datetime) -> Trigger:
    if i % 10 == 0:
        return every(hours=1, anchor=now - timedelta(seconds=i % 600))
    tz = _ZONES[i % len(_ZONES)]
    local = (now + timedelta(hours=2, minutes=i % 100 * 12)).astimezone(ZoneInfo(tz))
    return cron(f"{local.minute} {local.hour} * * {'mon-sun' if i % 2 else '*'}", tz=tz)


def _queue(i: int) -> str:
    return QUEUES[i % len(QUEUES)]


# ---- what became of them ------------------------------------------------------------------------


def _runs(past: int, now: datetime) -> Iterator[Run]:
    """Those of the first schedules, hourly or daily; two in a hundred have failed."""
    random, end = Random(1), to_ms(now)
    for i in range(past):
        count, apart = (OFTEN, 3_600_000) if i % 10 == 0 else (SELDOM, 86_400_000)
        for n in reversed(range(count)):
            fire = end - 60_000 - i % 3000 * 1000 - n * apart
            failed = i % 20 == 10 if n == 0 else random.random() < 0.02
            state, error = random.choice(_FAILURES) if failed else ("ok", "")
            started = fire + random.randrange(5, 2_000)
            yield Run(
                schedule=name(i),
                queue=_queue(i),
                state=state,
                fire=fire,
                started=started,
                ended=started + int(random.lognormvariate(7, 1.5)) % 50_000,
                worker=f"worker.{i % WORKERS}",
                error=error,
            )


def _keep(store: Store, runs: Sequence[Run]) -> None:
    """Write ledgers, the stream of runs, how the newest ended, markers and counts."""
    key, newest = store.key, dict[str, dict[bool, Run]]()
    counts = {"": Counter[str]()}
    for portion in _portions(list(enumerate(runs)), 2_000):
        pipe: Any = store.redis.pipeline(transaction=False)
        for n, run in portion:
            entry, name = run.entry, run.schedule
            pipe.rpush(key(f"ledger:{name}"), entry)
            said = {"schedule": name, "job": run.job, "entry": entry, "again": ""}
            pipe.xadd(key("runs"), said, id=f"{run.ended}-{n}")
            newest.setdefault(name, {})[run.state == "ok"] = run
            took, waited = run.ended - run.started, run.started - run.fire
            counted = ended(run.state, "", took / 1000, waited / 1000)
            for field, by in [*counted, ("fire enqueued schedule", 1)]:
                counts[""][field] += by
                counts.setdefault(name, Counter())[field] += by
        pipe.execute()
    _keep_newest(store, newest)
    for some in _portions(list(counts.items()), 1_000):
        pipe = store.redis.pipeline(transaction=False)
        for name, fields in some:
            pipe.hset(key(f"counters:{name}" if name else "counters"), mapping=fields)
        pipe.execute()


def _keep_newest(store: Store, newest: dict[str, dict[bool, Run]]) -> None:
    key, pipe = store.key, store.redis.pipeline(transaction=False)
    entries, _ = store.load(list(newest))
    for name, runs in newest.items():
        last = max(runs.values(), key=lambda run: run.ended)
        ends = (str(runs[ok].ended) if ok in runs else "-" for ok in (True, False))
        words = [last.state, last.fire, last.started, last.ended, *ends, int(last.state != "ok")]
        pipe.hset(key("outcomes"), name, " ".join(map(str, words)))
        if last.state != "ok":
            pipe.zadd(key("failing"), {name: last.ended})
        if True in runs:
            pipe.hset(key("succeeded"), name, runs[True].fire)
        known = to_ms(entries[name].known_since)
        pipe.hset(key("markers"), name, f"{last.fire} {known} {last.job}")
    pipe.execute()


# ---- RQ's ---------------------------------------------------------------------------------------


def _keep_jobs(redis: Redis, runs: Sequence[Run]) -> None:
    """Jobs that wait, and those of the newest runs: as many that failed as that went well."""
    for failed in (True, False):
        of_kind = (run for run in reversed(runs) if (run.state != "ok") == failed)
        for portion in _portions(list(islice(of_kind, JOBS)), 500):
            pipe = redis.pipeline(transaction=False)
            for run in portion:
                _keep_job(redis, pipe, run)
            pipe.execute()
    pipe, now = redis.pipeline(transaction=False), datetime.now(UTC)
    for i in range(JOBS // 3):
        Queue(_queue(i), connection=redis).enqueue(
            f"tasks.{_KINDS[i % len(_KINDS)]}.run",
            job_id=f"default-{name(i)}-{to_ms(now)}",
            meta=_meta(name(i), now),
            pipeline=pipe,
        )
    pipe.execute()


def _keep_job(redis: Redis, pipe: Any, run: Run) -> None:
    fire, started, end = (datetime.fromtimestamp(t / 1000, UTC) for t in
                          (run.fire, run.started, run.ended))  # fmt: skip
    kind, _, number = run.schedule.partition("-")
    job = Job.create(
        f"tasks.{kind}.run",
        kwargs={"tenant": int(number), "full": False, "region": "eu-central-1"},
        id=run.job,
        connection=redis,
        origin=run.queue,
        timeout=180,
        status=JobStatus.FINISHED if run.state == "ok" else JobStatus.FAILED,
        meta=_meta(run.schedule, fire),
    )
    job.created_at = job.enqueued_at = fire
    job.started_at, job.ended_at, job.worker_name = started, end, run.worker
    job.save(pipeline=pipe, include_result=False)
    keep = int(timedelta(days=7).total_seconds())
    kind = "finished" if run.state == "ok" else "failed"
    pipe.zadd(f"rq:{kind}:{run.queue}", {job.id: end.timestamp() + keep})
    pipe.sadd("rq:queues", f"rq:queue:{run.queue}")
    if run.state == "ok":
        Result.create(
            job, Result.Type.SUCCESSFUL, ttl=keep, return_value={"sent": 12}, pipeline=pipe
        )
    else:
        frames = "".join(_FRAME.format(n=n) for n in range(3, 15))
        trace = _TRACE.format(frames=frames, error=run.error)
        Result.create_failure(job, keep, trace, worker_name=run.worker, pipeline=pipe)


def _meta(schedule: str, fire: datetime) -> dict[str, Any]:
    said = {"schedule": schedule, "fire_time": fire.isoformat(), "reason": "schedule"}
    return {"rq_clock": said}


def _work(redis: Redis, namespace: str) -> None:
    """Workers, some of which have a job."""
    executions, now = Executions(redis, namespace), datetime.now(UTC)
    for n in range(WORKERS):
        worker, queues = f"worker.{n}", [QUEUES[n], "default"]
        theirs = Worker(queues, name=worker, connection=redis, worker_ttl=24 * 3600)
        theirs.register_birth()  # type: ignore[no-untyped-call]  # rq
        executions.register(worker, now)
        if n < RUNNING:
            assert executions.take(worker, queues, now), f"{queues} have jobs"


def _portions(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
