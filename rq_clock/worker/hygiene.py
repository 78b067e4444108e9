"""What is put back between two jobs that share a process (RQ_CLOCK_HORSE_JOBS).

Modules, global variables, caches and open connections stay: that is what sharing is for.
"""

from __future__ import annotations

import contextvars
import gc
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rq_clock.worker.hooks import REPORTERS

_LIMITS = (
    resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_CPU, resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_STACK,
)  # fmt: skip


class Surroundings:
    """The state of a process as it was when this was made."""

    def __init__(self) -> None:
        self._cwd = Path.cwd()
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        self._environ = dict(os.environ)
        self._handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._locale = locale.setlocale(locale.LC_ALL)
        self._timeout = socket.getdefaulttimeout()
        self._levels = {log: log.level for log in _loggers()}
        self._disabled = logging.root.manager.disable
        self._threads = set(threading.enumerate())
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._path = list(sys.path)
        self._depth, self._collects = sys.getrecursionlimit(), gc.isenabled()
        self._fixed, self._has_child = _fixed(), _has_child()

    def run(self, perform: Callable[[Any], None], job: Any) -> None:
        """Perform a job in a copy of the context variables, with Django's connections in order."""
        _tidy_django()
        contextvars.copy_context().run(perform, job)
        _tidy_django()

    def clean(self) -> bool:
        """Return whether a job has left no thread or process, and nothing that stays."""
        threads = (t for t in threading.enumerate() if t not in self._threads)
        return (
            all(thread.name.startswith(REPORTERS) for thread in threads)
            and not any(stream and _is_closed(stream) for stream in self._streams)
            and self._fixed == _fixed()
            and (self._has_child or not _has_child())
        )

    def restore(self) -> None:
        """Put back what a job has changed. Raises OSError when the directory is gone."""
        self._restore_signals()
        os.chdir(self._cwd)
        os.umask(self._umask)
        for name in os.environ.keys() - self._environ.keys():
            del os.environ[name]
        for name, value in self._environ.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        socket.setdefaulttimeout(self._timeout)
        for log, level in self._levels.items():
            if log.level != level:
                log.setLevel(level)
        logging.disable(self._disabled)
        random.seed()
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if sys.path != self._path:
            sys.path[:] = self._path
        sys.setrecursionlimit(self._depth)
        (gc.enable if self._collects else gc.disable)()

    def _restore_signals(self) -> None:
        for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)  # its handler is still there
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _fixed() -> list[object]:
    """Return what a process may change for good: its limits, priority, processors, user, group,
    session and time zone, and what watches its code."""
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return [
        *map(resource.getrlimit, _LIMITS), os.getpriority(os.PRIO_PROCESS, 0), processors,
        os.geteuid(), os.getegid(), os.getpgrp(), os.getsid(0),
        os.environ.get("TZ"), sys.gettrace(), sys.getprofile(),
    ]  # fmt: skip


def _is_closed(stream: TextIO) -> bool:
    with suppress(ValueError):  # its buffer is detached
        return stream.closed
    return True


def _has_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # AttributeError: macOS before Python 3.13
        return False
    return True


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(log for log in known if isinstance(log, logging.Logger))]


def _tidy_django() -> None:
    """Do what Django does around each request: its connections may be broken or too old."""
    database: Any = sys.modules.get("django.db")
    if database is not None and sys.modules["django.conf"].settings.configured:
        database.reset_queries()
        database.close_old_connections()
