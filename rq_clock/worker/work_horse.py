"""The work horse: the process in which a job runs, so that a job can harm only itself.

It is forked ahead of its job, so no job waits for the fork. By default it runs one job and ends:
nothing of a job outlives it but what other processes and servers have. With RQ_CLOCK_HORSE_JOBS it
runs more (hygiene.py).

Not here: what runs in it (perform.py).
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from rq.timeouts import BaseDeathPenalty

from rq_clock.redaction import escaped
from rq_clock.settings import environment, known_secrets
from rq_clock.worker.channel import JOB, NO_MORE, STORED, Channel, Message
from rq_clock.worker.pipes import Pipes

SIGNALS = {signal.SIGTERM, signal.SIGINT}
LEAVE = signal.SIGVTALRM
"""Raises Interrupted in the job. A signal that nothing else uses: SIGALRM is the job's timeout,
SIGTERM may come from the platform at any time and only announces the end."""
received: set[int] = set()
"""Signals that have come to this process: of the worker, the platform or the job itself."""
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # found here, not in each process
_PR_SET_PDEATHSIG = 1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class WorkHorse:
    """The process, as its worker sees it."""

    def __init__(self) -> None:
        """Prepare it; see `fork`."""
        self.jobs = 0
        self.kill_reason = ""
        """Why the worker killed it, if it did."""
        self.disconnected = False
        """Nothing can come from it any more: it is gone, or a job has closed its channel."""
        self.rusage: Any = None
        """What it used, once it has ended."""
        self._status: int | None = None
        self._channel = Channel()
        self._size = self.pid = 0

    @classmethod
    def fork(
        cls, count: int, serve: Callable[[Channel], None], inherited: Iterable[Callable[[], None]]
    ) -> list[WorkHorse]:
        """Fork `count` processes. In each child the calls of `inherited` close what is the worker's
        alone, then `serve` runs the jobs. Call it where no other thread runs. Raises OSError when
        the system has no room for a process; then there is none.

        Nothing happens between the forks: each page of memory that is written to after a fork is
        copied first, here and in the child.
        """
        horses = [cls() for _ in range(count)]
        channels = [horse._channel for horse in horses]
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        parent, pids = os.getpid(), []
        try:
            for channel in channels:
                pids.append(os.fork())
                if pids[-1] == 0:
                    channel.become_other()
                    _live(serve, channel, inherited, parent, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for horse, pid in zip(horses, pids, strict=False):
                horse.pid = pid
                horse._channel.close_other()
                with suppress(PermissionError, ProcessLookupError):
                    os.setpgid(pid, pid)  # the child does so too: one of them is first
            for horse in horses if len(pids) < count else ():
                if horse.pid:
                    horse.end()
                else:
                    horse._channel.close()
        return horses

    def fileno(self) -> int:
        return self._channel.fileno()

    @property
    def pipes(self) -> Pipes:
        """What its job prints."""
        return self._channel.pipes

    @property
    def recorded(self) -> bool:
        """Whether the output of its job is kept also where that of functions is not."""
        return self._channel.recorded

    def begin(self, job: Any) -> bool:
        """Hand over a job. Return False when the process is gone."""
        self.jobs += 1
        self._channel.deadline = 0.0
        try:
            self._channel.send(JOB, job)
        except OSError:
            return False
        return True

    @property
    def deadline(self) -> float:
        """Until when (monotonic seconds) its job may go on; 0 before the job has begun."""
        return self._channel.deadline

    def message(self) -> Message | None:
        """Return what it has sent, if anything."""
        try:
            return self._channel.poll()
        except (OSError, EOFError):
            self.disconnected = True
            return None

    def stored(self) -> None:
        """Let it go on: the end of its job is stored."""
        with suppress(OSError):
            self._channel.send(STORED)

    def request_stop(self) -> None:
        """Announce that the worker has to end. Most platforms have sent SIGTERM already."""
        self._channel.announce_stop()
        self._signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Raise Interrupted in the job, so that it can release its resources."""
        self._signal(LEAVE)

    def kill(self, why: str = "") -> None:
        """End it and every process that its job started in its group, also after the job has moved
        it to another group."""
        self.kill_reason = self.kill_reason or why
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._status is None:  # else the number may be another process's
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def dismiss(self) -> None:
        """Let it end by itself, after its job."""
        with suppress(OSError):
            self._channel.send(NO_MORE)
        self._channel.close()

    def exit_status(self, *, wait: bool = False) -> int | None:
        """Return the status of waitpid; None while it lives."""
        if self._status is None:
            try:
                pid, status, self.rusage = os.wait4(self.pid, 0 if wait else os.WNOHANG)
            except ChildProcessError:  # somebody else in this process has collected it
                pid, status = self.pid, 255 << 8
            self._status = status if pid else None
        return self._status

    def end(self) -> None:
        """Kill it, and wait for that."""
        self.kill()
        self.exit_status(wait=True)
        self.dismiss()

    def grown(self) -> int:
        """Return the bytes by which its memory has grown since the first time it was measured."""
        self._size = self._size or self._resident()
        return self._resident() - self._size

    def _resident(self) -> int:
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_bytes().split()[1]) * _PAGE
        except OSError:  # gone, or not Linux
            return 0


def _live(
    serve: Callable[[Channel], None],
    channel: Channel,
    inherited: Iterable[Callable[[], None]],
    parent: int,
    mask: set[signal.Signals | int],
) -> NoReturn:
    """The child, to its end. Never returns into the worker's stack."""
    status = 1
    try:
        gc.freeze()  # a collection would touch, and so copy, every page of the worker
        os.setpgid(0, 0)
        die_with(parent, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in SIGNALS:
            signal.signal(number, _note)
        signal.signal(LEAVE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for close in inherited:
            close()
        serve(channel)
        status = 0
    except BaseException:
        text = known_secrets(environment()).hide_text(traceback.format_exc())
        sys.stderr.write(escaped(text, kept="\n"))
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _note(number: int, _: object) -> None:
    """The handler of SIGTERM and SIGINT: only the worker decides that there is an end."""
    received.add(number)


def reset_signals_in_forks() -> None:
    """Let every process that a job forks start with Python's own signal handlers. With those of
    the work horse, `Process.terminate()` and the end of a `Pool` would have no effect.

    SIGTERM and SIGINT are blocked during the fork. Else one that comes early would be lost.
    A handler that the job has set itself stays.
    """
    ours = {number: signal.getsignal(number) for number in (*SIGNALS, LEAVE)}
    thread = threading.local()

    def before() -> None:
        thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def after_in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, thread.mask)

    def after_in_child() -> None:
        reset = [number for number, handler in ours.items() if signal.getsignal(number) is handler]
        if isinstance(getattr(signal.getsignal(signal.SIGALRM), "__self__", 0), BaseDeathPenalty):
            reset.append(signal.SIGALRM)
        for number in reset:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, thread.mask)
        if signal.SIGINT in reset:  # not before: it raises, which is ignored in here
            signal.signal(signal.SIGINT, signal.default_int_handler)

    os.register_at_fork(
        before=before, after_in_parent=after_in_parent, after_in_child=after_in_child
    )


def end_fork() -> None:
    """End a process that a job has forked and that comes out of the job: the process that forked
    it is the work horse, and reports how the job ended."""
    error = sys.exc_info()[1]
    status = int(error is not None)
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exc()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def die_with(parent: int, number: signal.Signals) -> None:
    """Get a signal when the parent dies. Linux only; elsewhere a horse goes on until its job has
    ended, beside the worker that runs it again."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)
