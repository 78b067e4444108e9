"""The pipes through which a job's process prints: the worker reads what a job writes to standard
output and standard error, however it writes: `print`, a C library, a process that it started.

The process is captured while it runs a job. What it prints before and after, as in `after_fork`,
goes where the worker prints, and so do our own log lines and RQ's at any time.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Container, Iterator
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

from rq_clock.log import logger

STREAMS = {1: "stdout", 2: "stderr"}
CHUNK = 64 * 1024
"""Bytes that are read of a stream at once; a pipe holds as many, and then the job has to wait."""
_DRAIN = 16
"""Chunks that are read of a stream at a job's end: a process that the job has left may print on."""
_OURS = (logger, *map(logging.getLogger, ("rq", "rq.worker", "rq.job")))


class Pipes:
    """Both ends of them. Make it before the fork; then each process closes the other's ends."""

    def __init__(self) -> None:
        pairs = {number: os.pipe() for number in STREAMS}
        self.readable = {pairs[number][0]: stream for number, stream in STREAMS.items()}
        """Descriptor → stream, of those that may still bring something. Empty in the job's
        process."""
        self._written = {number: pair[1] for number, pair in pairs.items()}
        self._own: dict[int, int] = {}

    # ---- in the worker --------------------------------------------------------------------------

    def close_other(self) -> None:
        """Close the ends that the job's process writes to."""
        for descriptor in self._written.values():
            os.close(descriptor)
        self._written.clear()
        for descriptor in self.readable:
            os.set_blocking(descriptor, False)

    def read(self, descriptors: Container[Any]) -> Iterator[tuple[str, bytes]]:
        """Yield the streams of these descriptors, each with up to 64 kB that have come."""
        for descriptor in [d for d in self.readable if d in descriptors]:
            with suppress(BlockingIOError):
                if chunk := os.read(descriptor, CHUNK):
                    yield self.readable[descriptor], chunk
                else:  # the process and all that it started have closed it
                    del self.readable[descriptor]
                    os.close(descriptor)

    def drain(self) -> Iterator[tuple[str, bytes]]:
        """Yield all that has come."""
        for _ in range(_DRAIN):
            chunks = list(self.read(self.readable))
            yield from chunks
            if not chunks:
                return

    def close(self) -> None:
        """Close this process's ends, once or again."""
        for descriptor in (*self.readable, *self._written.values()):
            with suppress(OSError):  # the job has closed it
                os.close(descriptor)
        self.readable.clear()
        self._written.clear()

    # ---- in the job's process -------------------------------------------------------------------

    def become_other(self) -> None:
        """Close the ends that the worker reads from."""
        for descriptor in self.readable:
            os.close(descriptor)
        self.readable.clear()

    def prepare(self) -> None:
        """Let what a job logs be printed if nothing else is set up: in one line, to standard error.
        Our own lines and RQ's are not part of a job's output."""
        self._own = {number: os.dup(number) for number in STREAMS}
        _OUT.descriptor, _ERROR.descriptor = self._own.values()
        for log in _OURS:
            for handler in log.handlers:
                if isinstance(handler, logging.StreamHandler):
                    if handler.stream is sys.stdout:
                        handler.stream = _OUT
                    elif handler.stream is sys.stderr:
                        handler.stream = _ERROR
        if not logging.getLogger("rq.worker").hasHandlers():
            logging.getLogger("rq").addHandler(_RQS)
        # it counts only while there is no handler, so `logging.basicConfig` in a job has its effect
        _LAST.stream, logging.lastResort = sys.stderr, _LAST

    def capture(self) -> None:
        """Let everything that this process prints go to the worker, each line at once."""
        for number, descriptor in self._written.items():
            os.dup2(descriptor, number)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(line_buffering=True)

    def release(self) -> None:
        """Let it print where the worker does."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the job has closed or replaced it
                stream.flush()
        for number, descriptor in self._own.items():
            with suppress(OSError):
                os.dup2(descriptor, number)


def choose_level(level: int) -> None:
    """Let jobs log from this level on if nothing else is set up. Call it in the worker: it clears
    what each logger knows, and that is copied for each process that does so."""
    if logging.root.level == logging.WARNING and not logging.root.handlers:
        logging.root.setLevel(level)


class _Plain:
    """A text stream to a descriptor, without a buffer. Python's own takes longer to make than a
    small job to run."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self.descriptor, data) :]

    def flush(self) -> None:
        pass


# Made here and not in each process of a job, where each page that is written to is copied first.
_OUT, _ERROR = _Plain(1), _Plain(2)
_RQS = logging.StreamHandler(_ERROR)
_RQS.setLevel(logging.WARNING)
_LAST = logging.StreamHandler()
_LAST.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
