"""The log of a process."""

from __future__ import annotations

import sys
from io import RawIOBase, TextIOWrapper

import pytest

from rq_clock import log


class Writes(RawIOBase):
    """A standard output that keeps each write."""

    def __init__(self) -> None:
        self.found: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.found.append(bytes(data))
        return len(data)


def test_a_printed_line_is_one_write_also_when_output_is_unbuffered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = Writes()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(writes, write_through=True))  # type: ignore[type-var]
    handlers = log.logger.handlers[:]
    try:
        log.set_up(stamp=False)
    finally:
        log.logger.handlers[:] = handlers
        log.logger.propagate = True
    print("heartbeat of 12:00:00")
    assert writes.found == [b"heartbeat of 12:00:00\n"]
