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


ODD = "\x1b[31mred\x1b[0m\r\a\x9b2J\u2028next\u202edrow\ud800 \t\n"


def test_no_line_of_the_log_has_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = log.logger.handlers[:]
    try:
        log.set_up(stamp=False)
        log.log_event("run.output", line=ODD, job=ODD.replace(" ", ""))
        log.logger.warning("of another\x1b[2J library")
    finally:
        log.logger.handlers[:] = handlers
        log.logger.propagate = True
    ours, other = capsys.readouterr().out.splitlines()
    assert ours.isprintable()
    assert r"\x1b[31mred\x1b[0m\r\x07\x9b2J\u2028next\u202edrow\ud800 \t\n" in ours
    assert other == r"of another\x1b[2J library"
