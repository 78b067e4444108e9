"""Tasks: URLs that are called at or after an instant. And callbacks as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from rq_clock.callbacks.queue import QUEUE
from rq_clock.errors import Conflict, Fault, ScheduleError
from rq_clock.manifest.fields import kind_of
from rq_clock.model.new_task import NewTask
from rq_clock.model.task import Task, TaskFilter
from rq_clock.model.validation import REASON_LIMIT
from rq_clock.model.view import Page
from rq_clock.serializers.tasks import (
    AddedTaskView,
    BulkTasksView,
    CallbacksView,
    ConfigurationView,
    TaskAttemptView,
    TaskDetailView,
    TaskView,
    added_task_view,
    bulk_tasks_view,
    callbacks_view,
    configuration_view,
    task_attempt_view,
    task_detail_view,
    task_view,
)
from rq_clock.store.tasks import ADD_LIMIT, ADD_PORTION, Draft
from rq_clock.web.api import requests
from rq_clock.web.api.routing import (
    CONFLICT,
    JSON,
    MERGE_PATCH,
    NOT_FOUND,
    PAGED,
    TAGGED,
    Cursor,
    Limit,
    Responses,
    Route,
    answer,
    located,
    optional,
    read_json,
    tagged,
    text_of,
    with_headers,
    wrong,
)
from rq_clock.web.context import AddTasks, Admin, Caller, OperateTasks, ReadTasks
from rq_clock.web.idempotency import first_arrival, made
from rq_clock.web.problems import FAULTS, Problem, escaped

router = APIRouter(route_class=Route, tags=["tasks"])
TEXT = "text/plain"
"""What a browser's fetch calls a body that is a text. It has to be JSON all the same."""
TaskId = Annotated[str, Path(pattern=r"^task_[0-9A-Z]{26}$", description="Id of a task.")]
Word = Annotated[str, Query(max_length=200)]
Reason = Annotated[requests.ReasonOptions, optional(requests.ReasonOptions)]


# ---- bodies -----------------------------------------------------------------------------------


async def _document(request: Request) -> Mapping[str, Any]:
    """Return the body. Raises Problem unless it is a JSON object."""
    document = read_json(text_of(await request.body()))
    if not isinstance(document, dict):
        raise Problem("validation", f"expected a JSON object, got {kind_of(document)}")
    return document


Document = Annotated[Mapping[str, Any], Depends(_document)]


def _body(model: str, *more: str) -> dict[str, Any]:
    """Return the documentation of a body that `_document` reads."""
    schema = {"schema": {"$ref": f"#/components/schemas/{model}"}}
    return {
        "requestBody": {"required": True, "content": {JSON: schema} | dict.fromkeys(more, schema)}
    }


def _new_tasks(documents: list[Any], at: str) -> list[NewTask]:
    """Return the tasks of a request; `at` is the JSON pointer of each, with its place. Raises
    Problem with the faults of all."""
    found, faults = [], []
    for place, document in enumerate(documents):
        try:
            found.append(NewTask.from_request(document))
        except ScheduleError as error:
            faults += [_at(at.format(place), fault) for fault in error.faults]
    if faults:
        raise _invalid(faults)
    return found


@contextmanager
def _pointed(at: str = "") -> Iterator[None]:
    """Report a ScheduleError at the JSON pointers of its faults, below `at`."""
    try:
        yield
    except Conflict:
        raise
    except ScheduleError as error:
        raise _invalid([_at(at, fault) for fault in error.faults]) from None


def _at(pointer: str, fault: Fault) -> Fault:
    """Return a fault with a JSON pointer as its field. One of several tasks has its place."""
    name = fault.field if fault.field.startswith("tasks/") else escaped(fault.field)
    return replace(fault, field=f"{pointer}/{name}" if name else pointer)


def _invalid(faults: Sequence[Fault]) -> Problem:
    detail = "; ".join(f"{f.field.lstrip('/') or 'body'}: {f.text}" for f in faults[:FAULTS])
    return Problem("validation", detail, errors=faults)


# ---- add --------------------------------------------------------------------------------------

_CREATED: Responses = with_headers("Location", status=201)
_LIVING: Responses = {
    200: {"model": TaskView, "description": "The living task that has the `dedupKey`."}
}


@router.post(
    "/tasks",
    status_code=201,
    response_model=TaskView,
    responses=_CREATED | _LIVING,
    openapi_extra=_body("NewTask", TEXT),
)
def add_task(caller: AddTasks, body: Document) -> Response:
    """Call a URL at or after an instant.

    Without `executeAt`, or with a past one, it is called as soon as possible. The body of the call
    is `{"id", "attempt", "executeAt", "payload"}`. A receiver may see an id twice.
    """
    [new] = _new_tasks([body], "")
    added: list[tuple[Task, bool]] = []

    def act(once: Caller) -> str:
        added.append(once.callbacks.enqueue(new))
        return added[0][0].id

    with _pointed():
        id = made(caller, act)
    task, created = added[0] if added else (caller.callbacks.added([id], [new])[0], True)
    headers = located(caller, f"/tasks/{id}")
    return answer(task_view(task), 201 if created else 200, headers)


@router.post(
    "/tasks/batch",
    status_code=201,
    response_model=Page[AddedTaskView],
    openapi_extra=_body("TaskBatch", TEXT),
)
def add_tasks(caller: AddTasks, body: Document) -> Response:
    """Add up to 1,000 tasks. A fault in one adds none.

    They are added in portions of 100. After a 503 or a lost response, the same request with its
    `Idempotency-Key` adds those that are missing.
    """
    documents = body.get("tasks")
    if not isinstance(documents, list) or body.keys() != {"tasks"}:
        raise wrong("/tasks", "expected an object with tasks, a list of 1-1,000 tasks, alone")
    if not 0 < len(documents) <= ADD_LIMIT:
        raise wrong("/tasks", f"expected 1-{ADD_LIMIT:,} tasks, got {len(documents):,}")
    new = _new_tasks(documents, "/tasks/{}")
    drafts: list[Draft] = []
    added: list[tuple[Task, bool | None]] = []
    with _pointed("/tasks/0" if len(new) == 1 else ""):
        while len(added) < len(new):
            added += _add_portion(caller, new, len(added), drafts)
    data = [added_task_view(task, created) for task, created in added]
    return answer(Page(data=data, next_cursor=None), 201)


def _add_portion(
    caller: Caller, new: Sequence[NewTask], start: int, drafts: list[Draft]
) -> list[tuple[Task, bool | None]]:
    """Add the portion that begins with the task at `start`. Return its tasks, and whether each was
    created: None for all that the same request added before. Each portion has its own record, so a
    repeated request adds what is missing. `drafts` is filled once for all portions."""
    added: list[tuple[Task, bool | None]] = []

    def act(once: Caller) -> str:
        if not drafts:
            drafts.extend(once.callbacks.drafts(new))
        added.extend(once.callbacks.add(drafts[start : start + ADD_PORTION]))
        return " ".join(task.id for task, _ in added)

    ids = made(caller, act, part=str(start) if start else "").split()
    if not added:
        before = caller.callbacks.added(ids, new[start : start + len(ids)])
        added += [(task, None) for task in before]
    return added


# ---- read -------------------------------------------------------------------------------------


@router.get("/tasks", response_model=Page[TaskView], responses=PAGED)
def list_tasks(  # noqa: PLR0913 - one a filter
    caller: ReadTasks,
    status: requests.TaskStatus | None = None,
    host: Word = "",
    tag: Word = "",
    q: Annotated[str, Query(max_length=200, description="Part of the id or URL.")] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """List tasks: those that are called, retrying and waiting in the order of their calls, then
    ended ones, newest first.

    A search may return short pages before the last one.
    """
    match = TaskFilter(status=status or "", host=host, tag=tag, text=q)
    try:
        found = caller.callbacks.list(match, limit, cursor)
    except ScheduleError:  # only the cursor can be wrong here
        raise wrong("cursor", "expected the one of a page with the same status") from None
    page = Page(
        data=[task_view(task) for task in found.tasks], next_cursor=found.cursor or None,
        total=found.total, searched=found.searched if match.narrows else None,
    )  # fmt: skip
    return tagged(caller, page)


@router.get("/tasks/{id}", response_model=TaskDetailView, responses=TAGGED | NOT_FOUND | CONFLICT)
def get_task(caller: ReadTasks, id: TaskId) -> Response:
    """Get a task with its request and its calls."""
    return tagged(caller, task_detail_view(caller.callbacks.get(id)))


@router.get(
    "/tasks/{id}/attempts",
    response_model=Page[TaskAttemptView],
    responses=TAGGED | NOT_FOUND | CONFLICT,
)
def list_attempts(caller: ReadTasks, id: TaskId) -> Response:
    """List the newest 50 calls of a task, oldest first."""
    attempts = caller.callbacks.get(id).attempts
    return tagged(caller, Page(data=[task_attempt_view(a) for a in attempts], next_cursor=None))


# ---- operate ----------------------------------------------------------------------------------


@router.post("/tasks/{id}/cancel", response_model=TaskView, responses=NOT_FOUND)
def cancel_task(caller: OperateTasks, id: TaskId, body: Reason) -> Response:
    """Cancel a task that is not called yet. 409 while it is being called."""
    made(caller, lambda once: once.callbacks.cancel(id, body.reason))
    return answer(task_view(caller.callbacks.get(id)))


@router.post("/tasks/{id}/retry", response_model=TaskView, responses=NOT_FOUND)
def retry_task(caller: OperateTasks, id: TaskId, body: Reason) -> Response:
    """Call a stale, canceled or retrying task again, as soon as possible.

    Its retries start again.
    """
    made(caller, lambda once: once.callbacks.retry(id, body.reason))
    return answer(task_view(caller.callbacks.get(id)))


@router.delete("/tasks/{id}", status_code=204, responses=NOT_FOUND | CONFLICT)
def delete_task(caller: OperateTasks, id: TaskId) -> Response:
    """Forget a task. 409 while it is being called."""
    caller.callbacks.delete(id)
    return Response(status_code=204)


@router.post("/tasks:retry", response_model=BulkTasksView)
def retry_tasks(caller: OperateTasks, body: requests.BulkTasksRequest) -> Response:
    """Retry up to 1,000 tasks: the stale ones, unless the filter has another status."""
    return _sweep(caller, "retry", body)


@router.post("/tasks:cancel", response_model=BulkTasksView)
def cancel_tasks(caller: OperateTasks, body: requests.BulkTasksRequest) -> Response:
    """Cancel up to 1,000 waiting or retrying tasks."""
    return _sweep(caller, "cancel", body)


@router.post("/tasks:delete", response_model=BulkTasksView)
def delete_tasks(caller: OperateTasks, body: requests.BulkTasksRequest) -> Response:
    """Delete up to 1,000 tasks that are not being called."""
    return _sweep(caller, "delete", body)


def _sweep(caller: Caller, verb: str, body: requests.BulkTasksRequest) -> Response:
    arrived, only = first_arrival(caller), body.filter
    match = TaskFilter(
        status=only.status or "", host=only.host or "", tag=only.tag or "", text=only.q or "",
        before=arrived,
    )  # fmt: skip
    return answer(bulk_tasks_view(caller.callbacks.sweep(verb, match, body.reason)))


# ---- callbacks --------------------------------------------------------------------------------


@router.get("/callbacks", response_model=CallbacksView)
def get_callbacks(caller: ReadTasks) -> Response:
    """Get how callbacks are: tasks by status, the calls of the last hour, hosts that only fail."""
    workers = caller.context.queues.look([QUEUE]).workers
    serving = [worker for worker in workers if QUEUE in worker.queues]
    return answer(callbacks_view(caller.callbacks.status(), len(serving)))


@router.get("/callbacks/configuration", response_model=ConfigurationView, responses=TAGGED)
def get_configuration(caller: ReadTasks) -> Response:
    """Get how tasks are called."""
    return tagged(caller, configuration_view(caller.callbacks.configuration()))


@router.patch(
    "/callbacks/configuration",
    response_model=ConfigurationView,
    openapi_extra=_body("ConfigurationPatch", MERGE_PATCH),
)
def patch_configuration(caller: Admin, body: Document) -> Response:
    """Change how tasks are called, from the next interval on.

    All changes are made, or none. The names with underscores work, too.
    """
    changes = dict(body)
    reason = changes.pop("reason", "")
    if not isinstance(reason, str) or len(reason) > REASON_LIMIT:
        raise wrong("/reason", f"expected a text of at most {REASON_LIMIT} characters")
    with _pointed():
        after = caller.callbacks.configure(changes, reason)
    return answer(configuration_view(after))
