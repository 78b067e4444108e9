"""The app's own functions around its jobs, and what runs once before the first of them."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from rq.job import Job

from rq_clock.callbacks.queue import DISPATCHER
from rq_clock.errors import RqClockError
from rq_clock.log import log_warning
from rq_clock.run import worker_code

FLUSH_SECONDS = 5.0
"""Seconds for the process of a job to end by itself, while libraries send what they collected."""
REPORTERS = ("sentry", "raven-sentry", "Otel")
"""Names of threads that libraries start to send what they have collected, and start again in each
forked process by themselves."""
_NAMED = re.compile(r"(?:(flask):)?([^\W\d][\w.]*):([^\W\d][\w.]*)(?:\(\))?")


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions of the app. An error of `setup` ends the worker, one of `after_fork` the process
    that has just been forked; one of `before_job` fails the job; one of `after_job` is logged."""

    setup: Callable[[], object] | None = None
    """Runs once in the worker, before it forks: what it imports, no job has to import."""
    after_fork: Callable[[], object] | None = None
    """Runs in each process of jobs, before it has one."""
    before_job: Callable[[Job], object] | None = None
    """Runs in the job's process, before the job and outside its timeout."""
    after_job: Callable[[Job], object] | None = None
    """Runs in the job's process once the job and its callbacks have ended, well or not."""

    def after(self, first: Hooks) -> Hooks:
        """Return these with `setup` and `after_fork` of `first` before their own."""
        return replace(
            self,
            setup=_in_turn(first.setup, self.setup),
            after_fork=_in_turn(first.after_fork, self.after_fork),
        )


def _in_turn(*functions: Callable[[], object] | None) -> Callable[[], object] | None:
    present = [function for function in functions if function]
    return (lambda: [function() for function in present]) if present else None


def named_hooks(name: str) -> Hooks:
    """Return the hooks that RQ_CLOCK_SETUP stands for. They import the app when they run.

    Raises RqClockError for a value of no known form; so does `setup`, when there is nothing of
    that name. Errors of the app itself are passed on.
    """
    if not name:
        return Hooks()
    if name == "django":
        return Hooks(setup=lambda: _named(name, "django", "setup")())
    match = _NAMED.fullmatch(name)
    if match is None:
        raise _wrong(name, "expected module:function, django or flask:module:app")
    flask, module, attribute = match.groups()
    if not flask:
        return Hooks(setup=lambda: _named(name, module, attribute)())
    app: Any = None

    def load() -> None:
        nonlocal app
        app = _named(name, module, attribute)
        if not hasattr(app, "app_context"):
            app = app()
        if not hasattr(app, "app_context"):
            raise _wrong(name, f"expected a Flask app, or a function that returns one, got {app!r}")

    return Hooks(setup=load, after_fork=lambda: app.app_context().push())


def _named(name: str, module: str, attribute: str) -> Any:
    """Return a function or an app of the module."""
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module itself cannot import another one
        text = f"no module {error.name!r} in this directory or environment"
        raise _wrong(name, text) from None
    try:
        value = attrgetter(attribute)(found)
    except AttributeError:
        raise _wrong(name, f"no {attribute!r} in module {module!r}") from None
    if not callable(value):
        raise _wrong(name, f"expected {attribute!r} to be a function, got {value!r}")
    return value


def _wrong(name: str, text: str) -> RqClockError:
    return RqClockError(
        f"RQ_CLOCK_SETUP={name!r}: {text}; set it to module:function, django or flask:module:app"
    )


def prepare(hooks: Hooks) -> None:
    """Run `setup`, and warn of what it leaves that a fork would break: a thread does not run in the
    forked process, and what two processes send through one connection is mixed up."""
    if hooks.setup is None:
        return
    before, threads = _sockets(), set(threading.enumerate())
    with worker_code():
        hooks.setup()
    database: Any = sys.modules.get("django.db")
    if database is not None:
        database.connections.close_all()
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith(REPORTERS):
            continue
        effect = "it runs in no process of a job; start it in after_fork"
        log_warning("setup.thread", thread=thread.name, effect=effect)
    for name in sorted(_sockets() - before):
        effect = "all processes of jobs share it; close it in setup, or open it in after_fork"
        log_warning("setup.socket", socket=name, effect=effect)


def import_dispatcher() -> None:
    """Import what calls tasks, for the processes that are forked from now on: 0.4 s of work that
    only the first of such jobs does itself, and 8 MB that all share."""
    with suppress(ImportError, RqClockError):  # the job fails with the remedy
        import_module(DISPATCHER)


def _sockets() -> set[str]:
    """Return the sockets that this process has open; none where the system does not list them."""
    found = set()
    with suppress(OSError):
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if descriptor.is_socket():
                    found.add(f"{descriptor.readlink()} (descriptor {descriptor.name})")
    return found


def flush_telemetry() -> None:
    """Let Sentry and OpenTelemetry, where they are loaded, send what they have collected. The
    process then ends without running the handlers of atexit, which are the worker's."""
    seconds = FLUSH_SECONDS - 1
    with suppress(Exception):
        if sentry := sys.modules.get("sentry_sdk"):
            sentry.flush(timeout=seconds)
    for name, kind in (("trace", "tracer"), ("metrics", "meter"), ("_logs", "logger")):
        with suppress(Exception):
            if module := sys.modules.get(f"opentelemetry.{name}"):
                provider = getattr(module, f"get_{kind}_provider")()
                if flush := getattr(provider, "force_flush", None):
                    flush(int(seconds * 1000))
