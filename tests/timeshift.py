"""Machines whose time of day is wrong: a preloaded library shifts it for one process, at any time.

It shifts CLOCK_REALTIME alone, for Python as for Redis; the monotonic clock stays right, as on a
real machine whose clock is set. It is compiled here with `cc`.
"""

from __future__ import annotations

import shlex
import shutil
import struct
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from rq_clock.devserver import _valkey as embedded_server
from tests.server import BINARY

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;  /* nanoseconds */

__attribute__((constructor)) static void open_shift(void) {
    int file = open(getenv("TIMESHIFT"), O_RDONLY);
    void *page = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) shift = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    int error = syscall(SYS_clock_gettime, clock, t);
    if (!error && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = t->tv_nsec + *shift % 1000000000;
        t->tv_sec += *shift / 1000000000 + ns / 1000000000;
        t->tv_nsec = ns % 1000000000;
        if (t->tv_nsec < 0) { t->tv_nsec += 1000000000; t->tv_sec--; }
    }
    return error;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


class Shift:
    """The time of day of one machine: `by` true time, also while its processes run."""

    def __init__(self, path: Path, by: timedelta = timedelta(0)) -> None:
        if not shutil.which("cc"):
            pytest.fail("expected a C compiler for tests of wrong clocks; `apt install gcc`")
        path.mkdir(parents=True, exist_ok=True)
        self._file, library, source = path / "shift", path / "shift.so", path / "shift.c"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self._file.write_bytes(bytes(8))
        self.set(by)
        self.env = {"LD_PRELOAD": str(library), "TIMESHIFT": str(self._file)}
        """For the processes of this machine."""
        self._script = path / "server"

    def set(self, by: timedelta) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", by // timedelta(microseconds=1) * 1000))

    def server(self) -> str:
        """Return the binary of a Redis on this machine."""
        words = [f"{name}={value}" for name, value in self.env.items()]
        command = shlex.join(["env", *words, BINARY or embedded_server()])
        self._script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self._script.chmod(0o755)
        return str(self._script)
