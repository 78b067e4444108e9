"""A shell command and all its processes: started, watched, ended together. Unix only.

A command gets a session of its own, so that it can be ended whole: the groups of a session are
what `timeout`, job control and the like make of it. Only what takes a session of its own
(`setsid`, a daemon) is not the command's any more.

- A command never outlives who runs it, however that dies. A guard, a second shell, reads from a
  pipe that only this process can write to; its end of file means that the process is gone, and the
  guard ends the session. The command in turn waits at a gate until its guard stands: there is no
  instant at which it runs unguarded. Costs 1 ms and 0.1 MB a command; the same in Python would be
  8 ms and 3 MB, and the kernel's PR_SET_PDEATHSIG reaches the shell alone, not what it started.
- Ending is SIGTERM, GRACE_SECONDS, SIGKILL, while output is still read. A worker that ends leaves
  its job a second, so then it is INTERRUPTED_SECONDS.
- Nobody else's process is signalled: a session's number is not given away while it has members.

Not here: what becomes of the output (output.py), logs and results (tasks.py).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rq_clock.errors import CommandFailed, Interrupted

SHUTDOWN = "its worker's shutdown"
GRACE_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""
INTERRUPTED_SECONDS = 0.5
"""The same after Interrupted: 1 s after it the worker kills this process."""
LINGER_SECONDS = 0.2
"""What the command started and did not wait for may end by itself this long after it."""
GIVE_UP_SECONDS = 2.0
"""After SIGKILL a process that the kernel cannot end (it waits for a disk) is left to it."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.1
"""Seconds between two looks at a command that prints nothing; they double from one to the other."""
CHUNK = 64 * 1024

GATE = 'read -r _ && exec /bin/sh -c "$1" sh </dev/null'
GUARD = """
trap '' HUP INT TERM
read -r _ && exit
groups() {
    [ -r "/proc/$$/stat" ] || echo "$1"
    for stat in /proc/[0-9]*/stat; do
        read -r line <"$stat" || continue
        set -- "$1" ${line##*) }
        [ "$5" = "$1" ] && [ "$2" != Z ] && echo "$4"
    done
}
for group in $(groups "$1" | sort -u); do kill -s TERM -- "-$group"; done
sleep "$2"
for group in $(groups "$1" | sort -u); do kill -s KILL -- "-$group"; done
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. `code` is the shell's exit code, or minus the signal that ended it;
    `why` is empty when it ended by itself, "timeout", SHUTDOWN, or what `leave` returned."""

    code: int
    why: str
    seconds: float
    survivors: bool

    @property
    def signal_name(self) -> str:
        """The name of the signal that ended it, if one did."""
        return _name(-self.code) if self.code < 0 else ""

    @property
    def words(self) -> str:
        """The exit code or the name of the signal."""
        if self.code < 0:
            return self.signal_name
        child = f" (128 + {_name(self.code - 128)})" if self.code > 128 else ""
        return f"exit code {self.code}{child}"


class Shell:
    """One command. Within its block it runs; leaving the block ends it.

    Entering raises CommandFailed when it cannot be started: no such directory, no more processes.
    """

    def __init__(self, shell: str, *, cwd: str | None, env: Mapping[str, str]) -> None:
        self._shell, self._cwd, self._env = shell, cwd, env
        self._pause = SHORTEST_PAUSE
        self._grace = GRACE_SECONDS
        self._over = False

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        try:
            self._process = _start(GATE, self._shell, cwd=self._cwd, env=self._env)
        except OSError as error:
            raise CommandFailed(f"cannot be started: {error}") from None
        try:
            self._guard = _start(GUARD, str(self.pid), str(GRACE_SECONDS), quiet=True)
        except BaseException as error:
            _settle(self._process)  # the gate stays shut: nothing was run
            if isinstance(error, OSError):
                raise CommandFailed(f"cannot be guarded: {error}") from None
            raise
        self._selector = selectors.DefaultSelector()
        for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert stream
            self._selector.register(stream, selectors.EVENT_READ, name)
        _answer(self._process)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Interrupted):
            self._grace = INTERRUPTED_SECONDS
        try:
            if not self._over:
                self._end(lambda _stream, _chunk: None, 0)
        finally:
            if self._over:
                _answer(self._guard)  # else it takes over
            for process in (self._process, self._guard):
                _settle(process)
            self._selector.close()

    @property
    def pid(self) -> int:
        """Return the id of the shell, its group and its session."""
        return self._process.pid

    def watch(
        self, timeout: float, output: Callable[[str, bytes], None], leave: Callable[[], str]
    ) -> Ended:
        """Wait for the end of the command and of all that it started, and pass their output to
        `output`. End them after `timeout` seconds, when `leave` returns a reason, or when the
        worker raises Interrupted here because its own grace is over."""
        deadline, why = self._started + timeout, ""
        try:
            while self._process.poll() is None and not why:
                self._read(output)
                why = leave() or ("timeout" if time.monotonic() >= deadline else "")
        except Interrupted:
            why, self._grace = SHUTDOWN, INTERRUPTED_SECONDS
        if self._process.poll() == 0:  # it ended just then
            why = ""
        survivors = self._end(output, 0 if why else LINGER_SECONDS)
        seconds = time.monotonic() - self._started
        self._drain(output)
        code = self._process.poll()
        return Ended(-signal.SIGKILL if code is None else code, why, seconds, survivors)

    def _end(self, output: Callable[[str, bytes], None], patience: float) -> bool:
        """Wait for `patience` seconds until no process is left, else end the rest. Return whether
        one is left even so."""
        steps = (
            (0, patience),
            (signal.SIGTERM, self._grace),
            (signal.SIGKILL, GIVE_UP_SECONDS),
        )
        for number, seconds in steps:
            until, signaled = time.monotonic() + seconds, set[int]()
            while groups := self._groups():
                for group in groups - signaled:
                    _send(group, number)
                signaled |= groups
                if time.monotonic() >= until:
                    break
                self._read(output)
            else:
                break
        self._over = True
        return bool(groups)

    def _read(self, output: Callable[[str, bytes], None]) -> None:
        """Pass on the output that has come. Wait for it, longer and longer while none comes."""
        if not self._selector.get_map():
            time.sleep(self._pause)
        ready = self._selector.select(self._pause) if self._selector.get_map() else []
        for key, _ in ready:
            chunk = os.read(key.fd, CHUNK)
            if chunk:
                output(key.data, chunk)
            else:
                self._selector.unregister(key.fileobj)
        self._pause = SHORTEST_PAUSE if ready else min(self._pause * 2, LONGEST_PAUSE)

    def _drain(self, output: Callable[[str, bytes], None]) -> None:
        """Pass on the rest in the pipes, but not all of a daemon that inherited them and prints
        on."""
        for key in list(self._selector.get_map().values()):
            os.set_blocking(key.fd, False)
            left = 16
            with suppress(BlockingIOError):
                while left and (chunk := os.read(key.fd, CHUNK)):
                    output(key.data, chunk)
                    left -= 1

    def _groups(self) -> set[int]:
        """Return the process groups of the session that have living processes."""
        self._process.poll()
        try:
            stats = [entry / "stat" for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        except OSError:
            stats = []
        if not stats:  # not Linux
            return _group(self.pid)
        found = set()
        for stat in stats:
            with suppress(OSError):
                state, _, group, session = stat.read_bytes().rpartition(b")")[2].split()[:4]
                if int(session) == self.pid and state != b"Z":
                    found.add(int(group))
        return found


def _start(
    script: str, *words: str, cwd: str | None = None, env: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a shell in a session of its own that waits for a line on its standard input."""
    output = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *words], cwd=cwd, env=env, bufsize=0,
        stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
    )  # fmt: skip


def _answer(process: subprocess.Popen[bytes]) -> None:
    """Send the line that it waits for."""
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.write(b"\n")
    process.stdin.close()


def _settle(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes, and reap the process."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GIVE_UP_SECONDS)


def _group(pid: int) -> set[int]:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return set()
    except PermissionError:  # there are some, of another user
        pass
    return {pid}


def _send(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
