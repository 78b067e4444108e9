"""The face for apps: declare schedules, then run the clock process.

`Clock` holds the declared schedules and never runs user code; the clock process is process.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rq_clock import log as logs
from rq_clock.errors import Fault, RqClockError, ScheduleError, StoreUnavailable
from rq_clock.log import log_event
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Target
from rq_clock.redaction import escaped
from rq_clock.runtime import Runtime
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import Trigger, deferred_faults

if TYPE_CHECKING:
    from rq_clock.clock.background import BackgroundClock

_collected: ContextVar[list[Fault] | None] = ContextVar("faults", default=None)


@contextmanager
def collect_faults() -> Iterator[list[Fault]]:
    """Within this block `Clock.add` adds faults to the list instead of raising, those of triggers
    too, so that a check can report those of all schedules at once; and `Clock.run` does nothing."""
    faults: list[Fault] = []
    token = _collected.set(faults)
    try:
        with deferred_faults():
            yield faults
    finally:
        _collected.reset(token)


class Clock:
    """The schedules of an app, and the process that keeps them."""

    def __init__(self) -> None:
        self._schedules: dict[str, Schedule] = {}
        self._places: dict[str, tuple[str, int]] = {}
        """Name of a schedule → file and line of its declaration."""
        self._client: Schedules | None = None
        self._background: BackgroundClock | None = None
        self._starting = Lock()
        if sys._getframe(1).f_globals.get("__name__") == "__main__":
            _report_if_uncaught()

    @property
    def declared(self) -> Mapping[str, Schedule]:
        """The declared schedules by name, in the order of their declaration."""
        return MappingProxyType(self._schedules)

    @property
    def schedules(self) -> Schedules:
        """All schedules that run, to see and change: those declared here and those added at run
        time, by the environment's REDIS_URL."""
        if self._client is None:
            self._client = Schedules()
        return self._client

    def once(
        self, at: datetime | str, target: Target | Callable[..., object], **options: Any
    ) -> str:
        """Enqueue `target` once, at or after an instant, from anywhere in the app; see
        `Schedules.once`."""
        return self.schedules.once(at, target, **options)

    def add(
        self, name: str, trigger: Trigger, target: Target | Callable[..., object], **options: Any
    ) -> None:
        """Declare a schedule: when `trigger` fires, `target` is enqueued.

        `target` is a function or its dotted name; the clock never imports it. Or it is a
        `command(…)` or a `webhook(…)`, with a timeout of its own; `timeout`, that of RQ's job, is
        then made at least 10 s longer.

        Options: args, kwargs (JSON), queue, timeout, result_ttl, failure_ttl (seconds), retries (a
        count or a list of delays in seconds), catch_up ("latest", "all", "none"), catch_up_window
        (timedelta or seconds), catch_up_limit, overlap ("skip", "allow"), group, group_limit,
        jitter (timedelta or seconds), tags, ping (a URL called for each of its runs), renamed_from.

        Raises ScheduleError with every fault of this declaration; nothing is declared then. When
        nothing catches it, the script ends with the faults of all declarations and no traceback.
        """
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        try:
            schedule = declare(name, trigger, target, options)
            if name in self._schedules:
                text = "declared twice; names are unique within a clock"
                raise ScheduleError(Fault("name", text, schedule=name))
            self._schedules[name] = schedule
            self._places[name] = place
        except ScheduleError as error:
            found = [replace(f, file=source(place[0]), line=place[1]) for f in error.faults]
            faults = _collected.get()
            if faults is None:
                _report_if_uncaught()
                raise ScheduleError(*found) from None
            faults.extend(found)

    def faults(self) -> list[Fault]:
        """Return what is wrong between schedules; `add` has checked each of them alone."""
        text = "renamed_from {!r} is still declared; remove one of the two"
        return [
            self.located(Fault("renamedFrom", text.format(s.renamed_from), schedule=s.name))
            for s in self._schedules.values()
            if s.renamed_from in self._schedules
        ]

    def located(self, fault: Fault) -> Fault:
        """Return the fault of a declared schedule with the place of its declaration."""
        file, line = self._places[fault.schedule]
        return replace(fault, file=source(file), line=line)

    def run(self) -> None:
        """Be the clock until SIGTERM or SIGINT; then give the lease back and return.

        Command-line switches of the script: --take-over, --remove-all (see --help). Exits with 1
        when a declaration or setting is wrong, with 4 when Redis refuses this client. A Redis
        that is not there is waited for. Whatever kills this process, no fire time is lost or
        doubled: what was not committed is due for the next clock.
        """
        if _collected.get() is not None:
            return
        # An app that only declares schedules pays for none of this.
        from rq_clock.clock.app import report
        from rq_clock.clock.process import ClockProcess

        options = _arguments()
        try:
            settings = Settings.from_env()
            logs.set_up(stamp=settings.stamped_logs)
            if faults := self.faults():
                report(faults)
                sys.exit(1)
            with Runtime() as runtime:
                if settings.disabled:
                    log_event("clock.disabled", remedy="unset RQ_CLOCK_DISABLED to schedule again")
                    runtime.wait(None)
                    return
                mode = "take-over" if options.take_over else "starting"
                ClockProcess(
                    self._schedules, settings, runtime, mode=mode, remove_all=options.remove_all
                ).run()
        except StoreUnavailable as error:
            sys.exit(_fail(error, 4))
        except RqClockError as error:
            sys.exit(_fail(error, 1))

    def start(self) -> BackgroundClock:
        """Run the clock in a thread of this process, for small apps without a clock process, and
        return its handle: `stop()`, `running`, or a `with` block around the life of the app.

        It waits for the lease instead of taking it, so of several web processes one leads; when
        that one ends, another leads at once, when it is killed, within 12 s. A second call while it
        runs returns the same handle. Threads do not survive a fork: call it where a process that
        serves begins (a lifespan, gunicorn's post_worker_init).

        Off, with a log line (clock.off): under RQ_CLOCK_DISABLED and the plugin for pytest, in
        workers and their jobs, in the watching process of a reloader. Logs go to the logger
        rq_clock. A Redis that is away is waited for; it never raises for that. It stops at exit, at
        the latest, and keeps no process from ending.

        Raises RqClockError when a declaration or setting is wrong.
        """
        from rq_clock.clock.background import BackgroundClock

        with self._starting:
            if self._background and self._background.running:
                return self._background
            if faults := self.faults():
                raise ScheduleError(*faults)
            background = BackgroundClock(self._schedules, Settings.from_env())
            if _collected.get() is None:
                background.begin()
                self._background = background
            return background


def source(file: str) -> str:
    """Return the path of a file of code, relative to the working directory where it is below."""
    here = str(Path.cwd()) + "/"
    return file.removeprefix(here)


def _report_if_uncaught() -> None:
    """Let an error of a declaration that nothing catches be reported without a traceback."""
    if getattr(sys.excepthook, "func", None) is not _report_uncaught:
        sys.excepthook = partial(_report_uncaught, sys.excepthook)


def _report_uncaught(*error: Any) -> None:
    from rq_clock.clock.app import report_uncaught

    report_uncaught(*error)


def _fail(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        print(f"rq-clock: {escaped(line)}", file=sys.stderr)
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the clock: enqueue what is due.")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="lead although the namespace belongs to another owner, and make it this one's",
    )
    parser.add_argument(
        "--remove-all",
        action="store_true",
        help="remove all stored schedules also when this clock declares none of them",
    )
    return parser.parse_known_args()[0]  # the script may have switches of its own
