"""Callbacks: tasks and the actions on them, how calling goes, its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from rq_clock.callbacks.queue import QUEUE
from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.model.callbacks import MODES, Configuration, from_text
from rq_clock.model.task import STATES, TaskFilter
from rq_clock.model.view import camel, shallow
from rq_clock.serializers.tasks import (
    TaskView,
    callbacks_view,
    task_detail_view,
    task_view,
)
from rq_clock.timing.instants import iso, read_instant
from rq_clock.web.context import Admin, Caller, OperateTasks, Read
from rq_clock.web.pages.filters import path_with
from rq_clock.web.pages.layout import Fields, done, here, page
from rq_clock.web.pages.task_chart import chart_of, counts_text, hour_of
from rq_clock.web.problems import Problem

router = APIRouter()
ROWS, SAMPLE = 50, 12
VERBS = {"retry": "Retry", "cancel": "Cancel", "delete": "Delete"}
"""Action on a task → the word on its button."""
_ACTIONS = {
    "waiting": ("cancel", "delete"),
    "calling": (),
    "retrying": ("retry", "cancel", "delete"),
    "done": ("delete",),
    "stale": ("retry", "delete"),
    "canceled": ("retry", "delete"),
}
"""Status → the actions that are possible in it."""
_PARTS: tuple[tuple[str, str, str], ...] = (
    ("base_interval_ms", "Interval (ms)", "The time between two batches of calls."),
    ("select_size", "Calls in an interval", "At most."),
    ("mode", "Throttle", "after_answers: the next interval begins when the last answers are in. "
     "steady: an even rate. off: none."),
    ("http_callback_timeout_ms", "Timeout (ms)", "The time that a receiver has to answer."),
    ("max_retries", "Retries", "Then a task is stale."),
    ("retry_delays", "Delays between retries (s)", "Separated by commas; the last one counts on."),
    ("host_concurrency", "Calls to one host at a time", "Empty: no limit."),
    ("host_rate", "Calls to one host in a second", "Empty: no limit."),
    ("dispatchers", "Dispatchers", "Jobs that call at the same time."),
    ("keep_done", "Done tasks to keep", "As many canceled ones, too."),
    ("keep_done_hours", "Hours to keep done tasks", ""),
    ("keep_stale_days", "Days to keep stale tasks", ""),
)  # fmt: skip
"""Name, label and hint of each field of the configuration."""


@router.get("/callbacks")
def callbacks_page(  # noqa: PLR0913 - one a filter
    caller: Read, state: str = "", host: str = "", tag: str = "", q: str = "",
    cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Return how calling goes, and the tasks of a status."""
    status, found = caller.context.schedules.status(), caller.callbacks.status()
    served = caller.context.queues.look([QUEUE])
    report = callbacks_view(found, sum(QUEUE in worker.queues for worker in served.workers))
    counts = shallow(report.counts)
    state = state or next((name for name in ("stale", "retrying") if counts[name]), "waiting")
    match = _filter(state, host, tag, q)
    tasks = caller.callbacks.list(match, ROWS, cursor)
    bulk = [verb for verb in _ACTIONS[state] if tasks.tasks and _may(caller)]
    return page(
        caller, "callbacks.html", status, report=report, counts=counts, state=state, filter=match,
        states=STATES, at=at, rows=[_row(caller, task_view(task)) for task in tasks.tasks],
        total=tasks.total, cursor=tasks.cursor, bulk=[(verb, VERBS[verb]) for verb in bulk],
        chart=chart_of(found), chart_text=counts_text(hour_of(found)),
        unserved=not report.workers,
    )  # fmt: skip


def _filter(state: str, host: str, tag: str, q: str) -> TaskFilter:
    if state not in STATES:
        raise _unknown(state, STATES)
    return TaskFilter(status=state, host=host.strip(), tag=tag.strip(), text=q.strip())


def _may(caller: Caller) -> bool:
    """Return whether pages offer actions on tasks."""
    allowed = caller.token.scopes & {"operate", "tasks"}
    return bool(allowed) and not caller.context.read_only


def _row(caller: Caller, task: TaskView) -> tuple[TaskView, list[tuple[str, str]]]:
    """Return a task and the possible actions, with the words on their buttons."""
    verbs = _ACTIONS[task.status] if _may(caller) else ()
    return task, [(verb, VERBS[verb]) for verb in verbs]


# ---- configuration ----------------------------------------------------------------------------


@router.get("/callbacks/configuration")
def configuration_page(caller: Read) -> Response:
    """Return the configuration as a form."""
    return _form(caller, _texts(caller.callbacks.configuration()), {})


@router.post("/callbacks/configuration")
def configure(caller: Admin, form: Fields) -> Response:
    """Change the configuration, or show every fault above the form."""
    before = _texts(caller.callbacks.configuration())
    sent = {name: form[name] for name, *_ in _PARTS if form.get(name, before[name]) != before[name]}
    changes = {name: from_text(name, text) for name, text in sent.items()}
    try:
        caller.callbacks.configure(changes, form.get("reason", "").strip())
    except ScheduleError as error:
        names = {camel(name): name for name in before}
        faults: dict[str, list[str]] = {}
        for fault in error.faults:
            faults.setdefault(names.get(fault.field, fault.field), []).append(fault.text)
        return _form(caller, before | sent, faults)
    message = "Changed. It counts from the next interval on." if changes else "Nothing was changed."
    return done(caller, "/callbacks", message)


def _texts(configuration: Configuration) -> dict[str, str]:
    """Return the values as the form has them."""
    return {k: "" if v == "-" else v for k, v in configuration.stored().items()}


def _form(caller: Caller, form: Mapping[str, str], faults: Mapping[str, list[str]]) -> Response:
    status = caller.context.schedules.status()
    return page(
        caller, "callbacks_configuration.html", status, form=form, faults=faults, parts=_PARTS,
        modes=MODES, status_code=422 if faults else 200,
    )  # fmt: skip


# ---- many tasks -------------------------------------------------------------------------------


@router.get("/bulk-callbacks/{verb}")
def bulk_tasks_page(
    caller: OperateTasks, verb: str, state: str = "stale", host: str = "", tag: str = "",
    q: str = "",
) -> Response:  # fmt: skip
    """Confirm an action on all matching tasks."""
    status, match = caller.context.schedules.status(), _bulk_filter(verb, state, host, tag, q)
    found = caller.callbacks.list(match, SAMPLE)
    return page(
        caller, "bulk_tasks.html", status, verb=verb, word=VERBS[verb], state=state, filter=match,
        sample=[task_view(task) for task in found.tasks], more=bool(found.cursor),
        total=found.total, before=iso(status.now), back=_list(match),
    )  # fmt: skip


@router.post("/bulk-callbacks/{verb}")
def bulk_tasks(caller: OperateTasks, verb: str, form: Fields) -> Response:
    """Act on the tasks that matched when the confirmation was shown."""
    query = {name: form.get(name, "") for name in ("state", "host", "tag", "q")}
    match = _bulk_filter(verb, **query)
    before = read_instant(form.get("before", ""), field="before")
    result = caller.callbacks.sweep(
        verb, replace(match, before=before), form.get("reason", "").strip()
    )
    tasks = f"{result.done:,} task{'' if result.done == 1 else 's'}"
    message = {"retry": "Retries", "cancel": "Canceled", "delete": "Deleted"}[verb] + f" {tasks}."
    if result.refused:
        first = result.refused[0].detail
        message += f" {len(result.refused):,} were refused, such as: {first}."
    if result.more:
        message += " More tasks may match: repeat the action for them."
    return done(caller, _list(match), message)


def _bulk_filter(verb: str, state: str, host: str, tag: str, q: str) -> TaskFilter:
    match = _filter(state, host, tag, q)
    if verb not in _ACTIONS[state]:
        raise _unknown(verb, _ACTIONS[state])
    return match


def _list(match: TaskFilter) -> str:
    return path_with("/callbacks", state=match.status, host=match.host, tag=match.tag, q=match.text)


# ---- one task ---------------------------------------------------------------------------------


@router.get("/callbacks/{id}")
def task_page(caller: Read, id: str) -> Response:
    """Return a task, its request and its calls."""
    status, task = caller.context.schedules.status(), task_detail_view(caller.callbacks.get(id))
    payload = (
        None if task.payload is None else json.dumps(task.payload, indent=2, ensure_ascii=False)
    )
    _, verbs = _row(caller, task)
    return page(caller, "task.html", status, task=task, payload=payload, verbs=verbs)


@router.get("/callbacks/{id}/{verb}")
def task_action_page(caller: OperateTasks, id: str, verb: str, back: str = "") -> Response:
    """Confirm an action on a task."""
    return _confirm(caller, id, verb, {"back": back})


@router.post("/callbacks/{id}/{verb}")
def task_action(caller: OperateTasks, id: str, verb: str, form: Fields) -> Response:
    """Act and go back with a message, or show the refusal above the form."""
    reason, tasks = form.get("reason", "").strip(), caller.callbacks
    try:
        match verb:
            case "retry":
                tasks.retry(id, reason)
                message = f"{id} is called as soon as possible."
            case "cancel":
                tasks.cancel(id, reason)
                message = f"Canceled {id}."
            case "delete":
                tasks.delete(id, reason)
                message = f"Deleted {id}."
            case _:
                raise _unknown(verb, VERBS)
    except RqClockError as error:
        return _confirm(caller, id, verb, form, str(error))
    page_of_task = "/callbacks" if verb == "delete" else f"/callbacks/{id}"
    return done(caller, here(form.get("back") or page_of_task), message)


def _confirm(
    caller: Caller, id: str, verb: str, form: Mapping[str, str], error: str = ""
) -> Response:
    if verb not in VERBS:
        raise _unknown(verb, VERBS)
    status, task = caller.context.schedules.status(), task_view(caller.callbacks.get(id))
    back = here(form.get("back") or f"/callbacks/{id}")
    return page(
        caller, "task_action.html", status, task=task, verb=verb, word=VERBS[verb], back=back,
        form=form, error=error, status_code=409 if error else 200,
    )  # fmt: skip


def _unknown(word: str, known: Any) -> Problem:
    return Problem("not-found", f"expected one of {', '.join(known)}, got {word!r}")
