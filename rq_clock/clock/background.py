"""A clock in a thread of an app's own process, for small apps: `clock.start()`.

It is a guest there. It handles no signals, leaves the garbage collector alone, sets up no logging,
and never takes the lease from a clock that leads: it waits until the lease is free. So any number
of web processes can start one, and one of them leads.

It ends with its process: by `stop`, at the latest by atexit. A process that is killed loses the
lease after LEASE_MS, and another one's clock leads. What happens to fire times meanwhile is what
happens to those of any clock; see docs/internals/crashes.md.

It is off where it would be one too many: in a worker and its jobs, under tests (RQ_CLOCK_DISABLED,
set by the plugin for pytest), while `rq-clock check` loads the app, and in a reloader, which
watches the files while a process of its own serves.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping
from typing import Self

from rq_clock.clock.process import ClockProcess
from rq_clock.log import FaultLog, log_event
from rq_clock.model.schedule import Schedule
from rq_clock.run import in_worker
from rq_clock.runtime import HasFileno, Runtime
from rq_clock.settings import Settings

FIRST_SECONDS = 0.5
"""A wait before the first request for the lease: the process may turn out to be a reloader."""
STOP_SECONDS = 5.0
"""How long `stop` waits for the thread: a Redis that hangs must not keep the app from ending."""
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts after a fault; they double from the one to the other."""
RELOADERS = frozenset(
    {
        ("django.utils.autoreload", "restart_with_reloader"),
        ("uvicorn.supervisors.basereload", "run"),
        ("watchfiles.run", "run_process"),
        ("werkzeug._reloader", "restart_with_reloader"),
    }
)
"""Module and function in which the main thread of a reloader waits for changed files."""


class BackgroundClock:
    """The handle of `Clock.start`; as a context manager it stops the clock at the end."""

    def __init__(self, declared: Mapping[str, Schedule], settings: Settings) -> None:
        self._declared = dict(declared)
        self._settings = settings
        self._runtime = _GuestRuntime()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="rq-clock", daemon=True)
        self._off = reason_to_stay_off(settings)

    @property
    def running(self) -> bool:
        """Whether the clock leads, or waits until it can: false after `stop`, in a forked child,
        and where the clock is off."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def begin(self) -> None:
        """Start the thread, unless the clock is off here."""
        if self._off:
            log_event("clock.off", reason=self._off)
            return
        self._runtime.__enter__()
        self._thread.start()
        atexit.register(self.stop)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Give the lease back and end the thread. Returns after `timeout` seconds at the latest;
        a thread that hangs in a call of Redis then ends with the process. Does nothing in a forked
        child, whose parent still runs the clock."""
        if self.running:
            atexit.unregister(self.stop)
            self._runtime.signals.stop()
            self._thread.join(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        """Be a clock until `stop`. No fault ends the thread: nobody would start it again."""
        signals, faults, pause = self._runtime.signals, FaultLog(), SHORTEST_PAUSE
        try:
            self._runtime.wait(FIRST_SECONDS)
            while not signals.stopping:
                try:
                    ClockProcess(
                        self._declared, self._settings, self._runtime, mode="waiting"
                    ).run()
                except Exception as error:
                    faults.report("clock.failed", error)
                    self._runtime.wait(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._runtime.__exit__()


class _GuestRuntime(Runtime):
    """Ends the clock when its process turns out to be a reloader."""

    def __init__(self) -> None:
        super().__init__(in_thread=True)

    def wait(self, seconds: float | None, *others: HasFileno) -> set[HasFileno]:
        if not self.signals.stopping and is_reloader():
            log_event("clock.off", reason=_RELOADER)
            self.signals.stop()
        return super().wait(seconds, *others)


_RELOADER = "this process only waits for changed files; the one that it starts has the clock"


def reason_to_stay_off(settings: Settings) -> str:
    """Return why no clock starts in this process; empty when one does."""
    if settings.disabled:
        return "RQ_CLOCK_DISABLED is set; unset it to schedule again"
    if in_worker():
        return "this is a worker; start the clock beside the web app, or as a process of its own"
    return _RELOADER if is_reloader() else ""


def is_reloader() -> bool:
    """Return whether the main thread waits for changed files, as reloaders do: no variable of the
    environment tells such a process from one that serves."""
    main = threading.main_thread().ident
    frame = sys._current_frames().get(main) if main is not None else None
    while frame:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in RELOADERS:
            return True
        frame = frame.f_back
    return False
