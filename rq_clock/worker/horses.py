"""The processes of a worker: those that were forked ahead, and those that are about to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from rq_clock.log import FaultLog, log_warning
from rq_clock.runtime import Runtime
from rq_clock.worker.hooks import FLUSH_SECONDS
from rq_clock.worker.work_horse import WorkHorse

CROWD = 4
"""Processes that may be ending while the next job begins. More wait for their number to fall, so
that libraries that are slow to send what they collected do not fill the memory."""
PAUSE = 1.0
"""Seconds until a process that ended before it had a job is forked again."""


class Horses:
    """Forks with `fork`; the process that runs a job is its caller's."""

    def __init__(self, fork: Callable[[int], list[WorkHorse]], runtime: Runtime) -> None:
        self._fork, self._runtime = fork, runtime
        self._ready: list[WorkHorse] = []
        self._leaving: list[tuple[WorkHorse, float]] = []
        """Each with the moment at which it is killed."""
        self._not_before = 0.0
        self._faults = FaultLog()

    def take(self) -> WorkHorse:
        """Return a process for a job. Raises OSError when none can be forked."""
        while self._ready:
            horse = self._ready.pop()
            if horse.exit_status() is None:
                return horse
            horse.end()
        return self._fork(1)[0]

    def fork_ahead(self, count: int) -> None:
        """Have processes ready for the next jobs, forked together: after a fork each page of memory
        that this process writes to is copied first, once for all of them."""
        if self._ready or self._runtime.monotonic() < self._not_before:
            return
        try:
            self._ready = self._fork(count)
        except OSError as error:
            self._not_before = self._runtime.monotonic() + PAUSE
            self._faults.report("horse.not_forked", error)

    def give_back(self, horse: WorkHorse) -> None:
        """Let a process have the next job too."""
        self._ready.append(horse)

    def let_go(self, horse: WorkHorse, seconds: float = FLUSH_SECONDS) -> None:
        """Let a process end by itself. It is killed after `seconds`."""
        horse.dismiss()
        self._leaving.append((horse, self._runtime.monotonic() + seconds))
        self.look()

    def look(self) -> None:
        """Notice which have ended, and kill those that should have."""
        now = self._runtime.monotonic()
        for horse, until in self._leaving:
            if horse.exit_status() is not None or now >= until:
                horse.end()  # and processes that its job has left
        self._leaving = [one for one in self._leaving if one[0].exit_status() is None]
        for horse in [horse for horse in self._ready if horse.exit_status() is not None]:
            effect = "it had no job; another one is forked"
            log_warning("horse.ended", status=horse.exit_status(), effect=effect)
            horse.end()
            self._ready.remove(horse)
            self._not_before = now + PAUSE

    @property
    def crowded(self) -> bool:
        """Whether the next job has to wait until fewer processes are ending."""
        return len(self._leaving) >= CROWD

    @property
    def pids(self) -> set[int]:
        """The ids of all these processes."""
        return {horse.pid for horse in [*self._ready, *(one for one, _ in self._leaving)]}

    @property
    def next_look(self) -> float:
        """When (monotonic seconds) `look` is due, even if no process ends before."""
        return min((until for _, until in self._leaving), default=float("inf"))

    def finish(self, seconds: float) -> None:
        """End all. Those that had jobs may end by themselves within `seconds`."""
        ready, self._ready = self._ready, []
        for horse in ready:
            self.let_go(horse, seconds if horse.jobs else 0)
        until = self._runtime.monotonic() + seconds
        while self._leaving and self._runtime.monotonic() < until:
            self._runtime.wait(min(until, self.next_look) - self._runtime.monotonic())
            self.look()
        for horse, _ in self._leaving:
            horse.end()
        self._leaving.clear()


def reap_orphans(ours: set[int]) -> None:
    """Collect the ended processes that this one has inherited as the first of a container, so that
    none stays a zombie. Those of `ours` are left for who waits for them."""
    if os.getpid() != 1:
        return
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in ours:
                return
            os.waitpid(ended.si_pid, 0)
