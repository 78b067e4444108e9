"""The bodies of answers. views.py and the routes make them; that they fit is held by tests, not by
reading each of them again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rq_clock.web.api.schemas import Instant, Missed, Model, Problem, RunState

State = Literal["invalid", "late", "stuck", "failing", "paused", "running", "ended", "scheduled"]


class Pause(Model):
    """An operator's pause, of the schedule or of all."""

    reason: str
    by: str
    since: Instant
    until: Instant | None
    missed: Missed


class Skipping(Model):
    """An operator's word to skip the next fire times."""

    reason: str
    by: str
    since: Instant
    until: Instant
    count: int


class Run(Model):
    """What became of a fire time."""

    schedule: str
    fire_time: Instant
    state: RunState
    reason: str | None = Field(description="Why it was enqueued, or why it was not.")
    count: int | None = Field(description="Neighbouring fire times that this entry stands for.")
    lag_ms: float | None
    attempt: int | None
    started: Instant | None
    ended: Instant | None
    took_ms: float | None
    worker: str | None
    error: str | None
    job: str | None = Field(description="Its job's id, where that is known.")


class Schedule(Model):
    """A schedule as it is now."""

    name: str
    state: State = Field(description="The worst of its states.")
    states: list[State] = Field(description="All that hold, worst first.")
    origin: Literal["declared", "run-time"]
    revision: str
    words: str | None
    trigger: dict[str, Any] | None = Field(description="cron and tz; every (ms); or once (ms).")
    zone: str | None
    func: str | None
    runs: str | None = Field(description="What runs, in one line.")
    command: dict[str, Any] | None = None
    webhook: dict[str, Any] | None = None
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    queue: str | None
    timeout: int | None
    retries: int | list[int] | None
    result_ttl: int | None
    failure_ttl: int | None
    catch_up: str | None
    catch_up_window: float | None
    catch_up_limit: int | None
    overlap: str | None
    group: str | None
    group_limit: int | None
    jitter: float | None
    jitter_offset_ms: int | None = None
    tags: list[str] | None
    ping: str | None
    next_fire_time: Instant | None
    next_local: Instant | None = Field(description="The same on the clock of `zone`.")
    marker: Instant | None = Field(description="The newest fire time that is decided.")
    known_since: Instant
    pause: Pause | None
    skipping: Skipping | None
    fault: str | None = Field(description="Why it cannot run, when it is invalid.")
    last: Run | None = Field(description="Its newest fire time that was not skipped.")
    failing_since: Instant | None = Field(description="Its newest failure, until it succeeds.")
    running: str | None = Field(description="Its job that runs now.")


class FullSchedule(Schedule):
    """A schedule with its definition, which can be changed and sent back."""

    definition: dict[str, Any] | None = Field(
        description="As PUT takes it. A value that is masked stands for the stored one."
    )


class ScheduleList(Model):
    """A page of schedules."""

    data: list[Schedule]
    next_cursor: str | None
    total: int | None = Field(description="How many fit in all; null when nobody has counted.")
    order: str = Field(description="The order they are in.")
    searched: int | None = Field(description="How many were looked at, when not all were.")


class FireTime(Model):
    """A fire time to come."""

    fire_time: Instant
    local: Instant
    zone: str
    notes: list[str] = Field(description="What a change of the clocks does to it.")
    skipped: str | None = Field(description="Why it will not be enqueued: paused, requested.")
    jitter_offset_ms: int | None = None


class FireTimes(Model):
    """Fire times, soonest first."""

    data: list[FireTime]


class Explained(Model):
    """A rule of time in words."""

    words: str = Field(examples=["at 06:00 every day, Asia/Tokyo time"])
    warnings: list[str]
    next: list[FireTime]
    clock_changes: list[str] = Field(description="What those of the coming year do to it.")


class RunMade(Model):
    """A run that was asked for."""

    job: str = Field(examples=["default-report-42-1774746000000-m7"])
    schedule: str | None


class Skipped(Model):
    """The fire times that will be skipped, the first hundred of them."""

    skipping: list[Instant]
    count: int
    until: Instant | None


class Preview(Model):
    """What a backfill would enqueue."""

    schedule: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    first: Instant | None
    last: Instant | None
    count: int
    at_least: bool = Field(description="Whether there are more than were counted.")
    left_out: int = Field(description="Fire times that ran already.")


class Backfill(Model):
    """Fire times of the past that the leading clock enqueues."""

    id: str
    schedule: str
    state: Literal["running", "done", "canceled"]
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    at_once: int
    total: int
    enqueued: int
    skipped: int
    cursor: Instant | None
    jobs: list[str]
    by: str
    reason: str
    since: Instant


class BackfillList(Model):
    """The newest backfills, newest first."""

    data: list[Backfill]
    next_cursor: str | None


class Done(Model):
    """What became of one of many."""

    name: str
    ok: bool
    job: str | None = None
    problem: Problem | None = None


class DoneMany(Model):
    """What became of each; 200 also when some did not fit."""

    data: list[Done]
    done: int
    failed: int


class Planned(Model):
    """What applying a manifest changes."""

    namespace: str
    equal: bool = Field(description="Whether nothing changes.")
    added: list[dict[str, Any]]
    changed: list[dict[str, Any]]
    removed: list[dict[str, Any]]
    renamed: list[dict[str, Any]]
    past: list[str] = Field(description="Left out: their only instant has passed.")
    caught_up: list[dict[str, Any]]
    notes: list[str]
    unchanged: int
    dry_run: bool


class RunList(Model):
    """A page of runs, newest first."""

    data: list[Run]
    next_cursor: str | None
    searched: int | None = Field(description="How many were looked at, when not all were.")


class Attempt(Model):
    """An execution that has ended; `again` says where its job went on."""

    number: int | None
    state: str
    started: Instant | None
    ended: Instant | None
    took_ms: float | None
    worker: str | None
    error: str | None
    again: str | None


class OneRun(Model):
    """A run, or another job, with all that is known of it."""

    id: str
    schedule: str | None
    fire_time: Instant | None
    reason: str | None
    description: str | None = Field(description="The call, as RQ describes it.")
    queue: str | None
    status: str | None = Field(description="RQ's word; null when RQ has forgotten it.")
    created: Instant | None
    enqueued: Instant | None
    started: Instant | None
    ended: Instant | None
    due: Instant | None = Field(description="When it will be queued, if it is scheduled.")
    lag_ms: float | None
    worker: str | None
    attempt: int
    retries_left: int
    attempts: list[Attempt]
    error: str | None
    traceback: str | None
    result: str | None
    dependents: list[str]
    forgotten_in: float | None = Field(description="Seconds; null when it is kept.")


class Queue(Model):
    """A queue of RQ."""

    name: str
    jobs: dict[str, int] = Field(description="How many, by kind.")
    waiting_seconds: float | None = Field(description="How long its first job has waited.")
    workers: int = Field(description="Living ones that serve it.")
    unserved: bool = Field(description="Whether jobs wait and nobody serves it.")


class OneQueue(Queue):
    """A queue and who serves it."""

    served_by: list[str]


class QueueList(Model):
    """All queues."""

    data: list[Queue]
    next_cursor: str | None


class Worker(Model):
    """A living worker."""

    name: str
    state: str
    queues: list[str]
    job: str | None
    job_since: Instant | None
    last_sign: Instant | None
    since: Instant | None
    host: str | None
    version: str | None
    origin: Literal["rq-clock", "rq"]


class WorkerList(Model):
    """All workers."""

    data: list[Worker]
    next_cursor: str | None


class Job(Model):
    """A job as a list has it."""

    id: str
    queue: str
    status: str | None
    description: str | None
    schedule: str | None
    fire_time: Instant | None
    created: Instant | None
    enqueued: Instant | None
    started: Instant | None
    ended: Instant | None
    due: Instant | None
    worker: str | None
    attempt: int
    retries_left: int
    error: str | None


class JobList(Model):
    """A page of jobs."""

    data: list[Job]
    next_cursor: str | None
    total: int


class Refused(Model):
    """A job that was left as it was, and why."""

    job: str
    detail: str


class Swept(Model):
    """What was done to many jobs."""

    done: int
    refused: list[Refused]
    more: bool = Field(description="Whether there may be more that were not looked at.")


class Leader(Model):
    """The clock that leads, as it says itself."""

    instance: str | None
    owner: str | None
    since: Instant | None
    token: int | None
    last_tick: Instant | None
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    lag_max_ms: float | None
    version: str | None


class Finding(Model):
    """What the doctor has to say."""

    level: Literal["error", "warning", "info"]
    code: str
    text: str
    remedy: str
    schedules: list[str]


class Clock(Model):
    """How the whole is."""

    namespace: str
    now: Instant
    leader: Leader | None = Field(description="Null when no clock leads.")
    led: Instant | None = Field(description="When a clock was last heard of.")
    schedules: int
    late: int
    stuck: int
    failing: int
    running: int
    workers: int
    pause: Pause | None = Field(description="That of all schedules.")
    healthy: bool | None = Field(description="Null unless asked for with checks=true.")
    checks: list[Finding] | None


class Audited(Model):
    """Who changed what, when and why."""

    id: str
    at: Instant
    by: str
    verb: str
    schedules: list[str] = Field(description="The first few of `count`.")
    count: int
    reason: str
    detail: dict[str, Any]


class AuditList(Model):
    """A page of the audit, newest first."""

    data: list[Audited]
    next_cursor: str | None
