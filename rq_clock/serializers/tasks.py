"""Views of tasks and of callbacks as a whole. Pure.

The auth of a task is never part of a view. Secrets in addresses, headers and payloads are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq_clock.model.callbacks import MODES, CallbacksStatus, Configuration, FailingHost
from rq_clock.model.task import DELETED, PRIORITIES, RESULTS, STATES, Task, TaskAttempt
from rq_clock.model.view import View, doc
from rq_clock.redaction import masked, masked_json

if TYPE_CHECKING:
    from rq_clock.store.tasks import BulkTasksResult

_NONE = "Null: as the configuration says."


# ---- tasks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthView(View):
    """Whether a task has an auth. Its value is never returned."""

    set: bool
    env: str | None = field(metadata=doc("The variable of the workers that it names, if any."))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView(View):
    """A task: a URL that is called at or after an instant."""

    id: str
    status: str = field(
        metadata=doc(
            "`deleted` only where a repeated request has added a task that is kept no more: the "
            "other fields are then those of the request.",
            enum=(*STATES, DELETED),
        )
    )
    execute_at: datetime = field(metadata=doc("The earliest instant of its first call."))
    created_at: datetime
    url: str = field(metadata=doc("Without secrets."))
    host: str
    method: str
    auth: AuthView
    priority: str = field(metadata=doc(enum=PRIORITIES))
    tags: Sequence[str]
    max_retries: int | None = field(metadata=doc(_NONE))
    timeout: float | None = field(metadata=doc(f"In seconds. {_NONE}"))
    attempt: int = field(metadata=doc("Calls that have begun."))
    failures: int = field(metadata=doc("Calls that failed since the last retry by hand."))
    next_call: datetime | None = field(metadata=doc("Null while it is called, and once it ended."))
    since: datetime | None = field(metadata=doc("When it was claimed for its call, or ended."))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAttemptView(View):
    """A call of a task."""

    attempt: int
    result: str = field(metadata=doc(enum=RESULTS))
    status: int | None = field(metadata=doc("Status of the answer."))
    ended: datetime
    took_ms: float | None
    error: str | None
    answer: str | None = field(metadata=doc("The beginning of the answer's body, at most 2 kB."))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetailView(TaskView):
    """A task with its request and its calls."""

    headers: dict[str, str]
    payload: Any
    dedup_key: str | None
    attempts: list[TaskAttemptView] = field(metadata=doc("The newest 50, oldest first."))


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedTaskView(TaskView):
    """A task of a batch."""

    created: bool | None = field(
        metadata=doc("False for a living task that has the `dedupKey`; null in a repeated answer.")
    )


def task_view(task: Task) -> TaskView:
    return TaskView(**_task(task))


def task_detail_view(task: Task) -> TaskDetailView:
    return TaskDetailView(
        **_task(task),
        headers=masked(task.headers),
        payload=masked_json(task.payload),
        dedup_key=task.dedup_key or None,
        attempts=[task_attempt_view(attempt) for attempt in task.attempts],
    )


def added_task_view(task: Task, created: bool | None) -> AddedTaskView:
    return AddedTaskView(**_task(task), created=created)


def task_attempt_view(attempt: TaskAttempt) -> TaskAttemptView:
    return TaskAttemptView(
        attempt=attempt.attempt,
        result=attempt.result,
        status=attempt.status,
        ended=attempt.ended,
        took_ms=None if attempt.seconds is None else round(attempt.seconds * 1000, 3),
        error=attempt.error or None,
        answer=attempt.answer or None,
    )


def _task(task: Task) -> dict[str, Any]:
    same = {
        f.name: getattr(task, f.name) for f in fields(TaskView) if f.name not in ("auth", "url")
    }
    auth = AuthView(set=task.auth_set, env=task.auth_env or None)
    return same | {"url": task.shown_url, "auth": auth}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedTaskView(View):
    """A task that was left as it was."""

    task: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkTasksView(View):
    """The result of an operation on many tasks."""

    done: int
    refused: list[RefusedTaskView]
    more: bool = field(metadata=doc("Whether there may be more tasks that match."))


def bulk_tasks_view(result: BulkTasksResult) -> BulkTasksView:
    refused = [RefusedTaskView(task=one.task, detail=one.detail) for one in result.refused]
    return BulkTasksView(done=result.done, refused=refused, more=result.more)


# ---- callbacks --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationView(View):
    """How tasks are called."""

    base_interval_ms: int
    http_callback_timeout_ms: int
    select_size: int = field(metadata=doc("Calls that begin in an interval, at most."))
    max_retries: int
    mode: str = field(metadata=doc(enum=MODES))
    host_concurrency: int | None = field(metadata=doc("Calls of one host at a time."))
    host_rate: float | None = field(metadata=doc("Calls of one host in a second."))
    dispatchers: int = field(metadata=doc("Jobs that call at a time."))
    retry_delays: Sequence[float] = field(metadata=doc("In seconds; the last one counts on."))
    keep_done: int = field(metadata=doc("Done, and canceled, tasks that are kept."))
    keep_done_hours: int
    keep_stale_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCountsView(View):
    """Tasks by status."""

    waiting: int
    calling: int
    retrying: int
    done: int
    stale: int
    canceled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingHostView(View):
    """A host of which every call fails."""

    host: str
    failures: int
    since: datetime
    last: datetime
    result: str = field(metadata=doc(enum=RESULTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteView(View):
    """The calls that ended in a minute."""

    start: datetime
    calls: dict[str, int] = field(metadata=doc("By result."))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbacksView(View):
    """How callbacks are, at the server's time."""

    now: datetime
    counts: TaskCountsView
    due: int = field(metadata=doc("Tasks that may be called now."))
    oldest_due: datetime | None
    oldest_due_seconds: float
    dispatchers: int = field(metadata=doc("Jobs that call now."))
    workers: int = field(metadata=doc("Workers that serve the queue `callbacks`."))
    calls: dict[str, int] = field(metadata=doc("Of the last full minute, by result."))
    minutes: list[MinuteView] = field(metadata=doc("The last hour, without idle minutes."))
    failing_hosts: list[FailingHostView] = field(metadata=doc("Hosts of which every call fails."))


def configuration_view(configuration: Configuration) -> ConfigurationView:
    return ConfigurationView(**_fields(configuration, ConfigurationView))


def callbacks_view(status: CallbacksStatus, workers: int) -> CallbacksView:
    return CallbacksView(
        now=status.now,
        counts=TaskCountsView(**_fields(status, TaskCountsView)),
        due=status.due,
        oldest_due=status.oldest_due,
        oldest_due_seconds=status.oldest_due_seconds,
        dispatchers=status.dispatchers,
        workers=workers,
        calls=dict(status.calls),
        minutes=[
            MinuteView(start=start, calls=dict(calls))
            for start, calls in sorted(status.minutes.items())
        ],
        failing_hosts=[_failing_host(host) for host in status.failing_hosts],
    )


def _failing_host(host: FailingHost) -> FailingHostView:
    return FailingHostView(**_fields(host, FailingHostView))


def _fields(found: object, view: type) -> dict[str, Any]:
    return {f.name: getattr(found, f.name) for f in fields(view)}
