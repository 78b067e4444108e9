"""The commands of `rq-clock callbacks`.

An auth comes from a file or standard input, never from an option: a shell keeps its history, and
everybody on the machine sees a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import (
    complain,
    confirm,
    echo,
    json_option,
    now,
    open_store,
    plural,
    print_json,
    print_rows,
    reason_option,
    sign,
    yes_option,
)
from rq_clock.cli.params import Duration, Zone, instant, shown
from rq_clock.errors import ScheduleError
from rq_clock.manifest.fields import json_value
from rq_clock.model.callbacks import from_text
from rq_clock.model.new_task import NewTask
from rq_clock.model.task import PRIORITIES, STATES, TaskFilter
from rq_clock.serializers.tasks import (
    BulkTasksView,
    TaskView,
    bulk_tasks_view,
    callbacks_view,
    configuration_view,
    task_detail_view,
    task_view,
)
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.callbacks import Callbacks
    from rq_clock.store.store import Store
    from rq_clock.store.tasks import RefusedTask

HEAD = ("TASK", "STATE", "EXECUTE AT (UTC)", "NEXT CALL (UTC)", "CALLS", "URL")
_PAGE = 200
_FILTER = (
    click.option("--state", type=click.Choice(STATES), help="Only tasks in this state."),
    click.option("--host", default="", help="Only tasks of this host."),
    click.option("--tag", default="", help="Only tasks with this tag."),
    click.option("--text", default="", help="Only tasks with this in their id or URL."),
)


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a filter to a command."""
    for option in reversed(_FILTER):
        command = option(command)
    return command


def _callbacks(store: Store) -> Callbacks:
    """Return the callbacks of the namespace, with the operator as the actor."""
    from rq_clock.callbacks import Callbacks
    from rq_clock.settings import Settings

    settings = Settings.from_env()
    return Callbacks(store.redis, by=settings.operator, settings=settings)


# ---- add --------------------------------------------------------------------------------------


@click.command()
@click.argument("url")
@click.option("--at", metavar="INSTANT", help="Earliest instant (default: as soon as possible).")
@click.option("--tz", type=Zone(), default="UTC", help="Zone of --at, if it has none.")
@click.option(
    "--auth-file", type=click.File(), metavar="FILE|-",
    help="File with the Authorization header, or with its bearer token.",
)  # fmt: skip
@click.option("--auth-env", metavar="NAME", help="Variable of the workers with the same.")
@click.option("--method", default="POST", show_default=True, help="HTTP method.")
@click.option("--header", "headers", metavar="NAME:TEXT", multiple=True, help="Header; repeatable.")
@click.option("--payload", metavar="JSON", help="JSON that the receiver gets.")
@click.option("--dedup-key", default="", help="Add nothing while a task with this key lives.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@click.option("--max-retries", type=int, help="Retries until it is stale (default: as configured).")
@click.option("--timeout", type=Duration(), help="Time to answer, such as 10s.")
@click.option("--tag", "tags", multiple=True, help="Label to filter by; repeatable.")
@json_option
def add(url: str, at: str | None, tz: str, as_json: bool, **options: Any) -> None:
    """Call a URL at or after an instant.

    Prints the id of the task. Without a scheme the URL is one of https. The body of the call is a
    JSON object with id, attempt, executeAt and payload. A receiver may see an id twice.
    """
    store = open_store()
    payload, timeout = options["payload"], options["timeout"]
    task = NewTask(
        url=url,
        auth=_auth(options["auth_file"], options["auth_env"]),
        execute_at=instant(at, "--at", now(), tz=tz) if at else None,
        method=options["method"].upper(),
        headers=_headers(options["headers"]),
        payload=None if payload is None else json_value(payload),
        dedup_key=options["dedup_key"],
        priority=options["priority"],
        max_retries=options["max_retries"],
        timeout=timeout / timedelta(seconds=1) if timeout else None,
        tags=options["tags"],
    )
    found, created = _callbacks(store).enqueue(task)
    if as_json:
        return print_json(task_view(found))
    if not created:
        complain(f"a task with this dedup key lives already, and is {found.status}")
    return echo(found.id)


def _auth(file: Any, variable: str | None) -> str:
    if file and variable:
        raise click.UsageError("expected --auth-file or --auth-env, got both")
    if variable:
        return f"${{env:{variable}}}"
    return file.read().strip() if file else ""


def _headers(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise click.BadParameter("expected NAME:TEXT", param_hint="--header")
        found[name.strip()] = value.strip()
    return found


# ---- read -------------------------------------------------------------------------------------


@click.command("list")
@_filtered
@click.option(
    "-n", "--count", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows."
)
@json_option
def list_(count: int, as_json: bool, **options: Any) -> None:
    """List tasks, the next calls first.

    Tasks that are called come first, then retrying and waiting ones in the order of their calls,
    then ended ones, newest first.
    """
    callbacks, match = _callbacks(open_store()), _match(options)
    rows: list[TaskView] = []
    cursor = ""
    while len(rows) < count:
        found = callbacks.list(match, min(_PAGE, count - len(rows)), cursor)
        rows += map(task_view, found.tasks)
        cursor = found.cursor
        if not cursor:
            break
    print_rows(rows, HEAD, _cells, empty="no matching tasks", as_json=as_json)


def _match(options: Mapping[str, Any]) -> TaskFilter:
    return TaskFilter(
        status=options["state"] or "", host=options["host"], tag=options["tag"],
        text=options["text"],
    )  # fmt: skip


def _cells(task: TaskView) -> tuple[str, ...]:
    calls = f"{task.attempt:,}" + (f", {task.failures:,} failed" if task.failures else "")
    following = iso(task.next_call) if task.next_call else "-"
    return task.id, sign(task.status), iso(task.execute_at), following, calls, task.url


@click.command()
@click.argument("id")
@json_option
def show(id: str, as_json: bool) -> None:
    """Show a task with its request and its calls.

    An auth is never shown.
    """
    task = task_detail_view(_callbacks(open_store()).get(id))
    if as_json:
        return print_json(task)
    auth = f"variable {task.auth.env}" if task.auth.env else "set" if task.auth.set else "none"
    facts = [
        ("url", f"{task.method} {task.url}"), ("state", sign(task.status)),
        ("execute at", shown(task.execute_at)), ("created", shown(task.created_at)),
        ("next call", shown(task.next_call) if task.next_call else ""),
        ("since", shown(task.since) if task.since else ""), ("auth", auth),
        ("priority", task.priority), ("dedup key", task.dedup_key or ""),
        ("tags", ", ".join(task.tags)), ("calls", f"{task.attempt}, {task.failures} failed"),
    ]  # fmt: skip
    for word, value in facts:
        if value:
            echo(f"{word:<12}{value}")
    for name, value in task.headers.items():
        echo(f"{'header':<12}{name}: {value}")
    for one in task.attempts:
        took = duration_text(timedelta(milliseconds=one.took_ms)) if one.took_ms else "-"
        outcome = " ".join(str(part) for part in (one.result, one.status, one.error) if part)
        echo(f"{'attempt ' + str(one.attempt):<12}{iso(one.ended)}  {took}  {outcome}")
    return None


# ---- operate ----------------------------------------------------------------------------------


def _operation(verb: str, done: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes the command of an operation on tasks, by id or by filter."""

    def decorate(documented: Callable[..., None]) -> click.Command:
        @click.command(verb, help=documented.__doc__)
        @click.argument("ids", nargs=-1)
        @click.option("--all", "everything", is_flag=True, help="All that match the filter.")
        @_filtered
        @reason_option
        @yes_option
        @json_option
        def command(ids: tuple[str, ...], everything: bool, **options: Any) -> None:
            if bool(ids) == everything:
                raise click.UsageError("expected ids of tasks, or --all with a filter")
            callbacks = _callbacks(open_store())
            if everything:
                return _sweep(callbacks, verb, done, options)
            if any(options[name] for name in ("state", "host", "tag", "text")):
                raise click.UsageError("expected --all beside a filter, or ids alone")
            for id in ids:
                getattr(callbacks, verb)(id, options["reason"])
                if not options["as_json"]:
                    echo(f"{id}: {done}")
            if options["as_json"]:
                print_json(BulkTasksView(done=len(ids), refused=[], more=False))
            return None

        return command

    return decorate


def _sweep(callbacks: Callbacks, verb: str, done: str, options: Mapping[str, Any]) -> None:
    """Change all tasks that match, a portion at a time."""
    match = _match(options)
    narrowed = {name: options[name] for name in ("state", "host", "tag", "text") if options[name]}
    which = ", ".join(f"{name} {value}" for name, value in narrowed.items()) or "no filter"
    confirm(f"{verb.capitalize()} all tasks that match ({which})?", yes=options["yes"])
    total = 0
    refused: list[RefusedTask] = []
    while True:
        result = callbacks.sweep(verb, match, options["reason"])
        total += result.done
        refused += result.refused
        if not result.more or not result.done:
            break
    if options["as_json"]:
        return print_json(bulk_tasks_view(type(result)(total, tuple(refused), result.more)))
    for one in refused[:10]:
        complain(f"{one.task}: {one.detail}")
    if result.more:
        complain("there may be more among many tasks; narrow the search with --state")
    return echo(f"{plural(total, 'task')}: {done}")


@_operation("cancel", "canceled")
def cancel() -> None:
    """Cancel tasks that are not called yet.

    They are kept for a while, and can be retried.
    """


@_operation("retry", "called as soon as possible")
def retry() -> None:
    """Call stale or canceled tasks again.

    As soon as possible, with the same id and all their retries. --all means the stale ones, unless
    --state names others.
    """


@_operation("delete", "deleted")
def delete() -> None:
    """Forget tasks.

    Tasks that are being called are refused.
    """


# ---- calling ----------------------------------------------------------------------------------


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show how calling goes."""
    from rq_clock.callbacks.queue import QUEUE
    from rq_clock.jobs.queues import Queues

    store = open_store()
    workers = [w for w in Queues(store).look([QUEUE]).workers if QUEUE in w.queues]
    view = callbacks_view(_callbacks(store).status(), len(workers))
    if as_json:
        return print_json(view)
    counts = view.counts
    echo(", ".join(f"{getattr(counts, name):,} {name}" for name in STATES))
    oldest = f", the oldest for {duration_text(timedelta(seconds=view.oldest_due_seconds))}"
    echo(f"due         {view.due:,}{oldest if view.oldest_due else ''}")
    calls = ", ".join(f"{n:,} {result}" for result, n in view.calls.items()) or "none"
    echo(f"last minute {calls}")
    echo(f"dispatchers {view.dispatchers:,}")
    echo(f"workers     {view.workers:,}")
    for host in view.failing_hosts:
        echo(f"only fails  {host.host}: {plural(host.failures, 'call')}, the last: {host.result}")
    if not workers:
        complain(f"no worker serves {QUEUE!r}; start one: WORKER_QUEUES=default,{QUEUE}")
    return None


@click.command()
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@reason_option
@json_option
def configure(changes: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Show or change the configuration.

    All changes are made, or none; they count from the next interval on. "none" is no limit:
    rq-clock callbacks configure base_interval_ms=500 host_rate=none.
    """
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise click.UsageError(f"expected NAME=VALUE, got {change!r}")
        if name in values:
            raise ScheduleError(f"expected {name} once, got it twice")
        values[name] = from_text(name, text)
    callbacks = _callbacks(open_store())
    found = callbacks.configure(values, reason) if values else callbacks.configuration()
    if as_json:
        return print_json(configuration_view(found))
    for name, text in found.stored().items():
        echo(f"{name}={'none' if text == '-' else text}")
    return None
