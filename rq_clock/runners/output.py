"""The output of a run: line by line to the log, and its last 64 kB.

However much it prints, memory, Redis and log stay small: of a line the first 2,000 characters are
logged, of a run the first 1,000 lines and the number of the others. Secret values are masked in
both. Bytes that are not UTF-8 are shown as \\xNN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rq_clock.log import log_event
from rq_clock.redaction import Secrets, printable

KEPT = 64 * 1024
"""Bytes of a run's output that are kept."""
LINE_LIMIT, LONGEST_LINE = 1_000, 2_000
"""Lines of a run, and characters of a line, that are logged."""

_LINE_BYTES = 16 * 1024  # more than 2,000 characters of any kind
_NOTE = 64  # more than the line that counts the bytes before
_CAME_BEFORE = re.compile(rb"\[(\d+) bytes came before\]\n")
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def shown(kept: bytes) -> tuple[int, str]:
    """Return the kept output of a run as text: how many bytes came before it, and the rest without
    colours, the overwritten parts of progress bars and other control characters."""
    cut = _CAME_BEFORE.match(kept)
    text = kept[cut.end() if cut else 0 :].decode(errors="backslashreplace")
    lines = (
        line.removesuffix("\r").rpartition("\r")[2] for line in _COLOURS.sub("", text).split("\n")
    )
    clean = "\n".join(line if line.isprintable() else _plain(line) for line in lines)
    return int(cut[1]) if cut else 0, clean


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else printable(c, 10) for c in line)


class Tail:
    """The last bytes of a stream, at most `limit`."""

    def __init__(self, limit: int = KEPT) -> None:
        self.passed = 0
        self._limit = limit
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        self.passed += len(chunk)
        self._bytes += chunk
        del self._bytes[: -self._limit]

    def value(self, secrets: Secrets) -> bytes:
        """Return the kept bytes, with secrets masked. If bytes came before them, it begins with a
        line that counts these, then a whole line: a cut one might begin with half a secret."""
        data, before = secrets.hide(bytes(self._bytes)), self.passed - len(self._bytes)
        if not before:
            return data
        half = data.find(b"\n", _NOTE, self._limit // 8) + 1 or max(_NOTE, secrets.longest)
        return f"[{before + half} bytes came before]\n".encode() + data[half:]


class _Lines:
    """Cuts a stream into lines, and holds no more of a line than is logged."""

    def __init__(self) -> None:
        self._start, self._length = b"", 0

    def cut(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        """Return the lines that end in this chunk: the beginning of each, and its number of
        bytes."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._hold(part)
            yield self._start, self._length
            self._start, self._length = b"", 0
        self._hold(rest)

    def skim(self, chunk: bytes) -> int:
        """Return how many lines end in this chunk."""
        ended, newline, rest = chunk.rpartition(b"\n")
        if newline:
            self._start, self._length = b"", 0
        self._hold(rest)
        return ended.count(b"\n") + 1 if newline else 0

    def _hold(self, part: bytes) -> None:
        self._start += part[: _LINE_BYTES - len(self._start)]
        self._length += len(part)


class Output:
    """Collects and logs the output of a run. Every log line has the fields `facts`."""

    def __init__(self, facts: dict[str, Any], secrets: Secrets) -> None:
        self._facts = facts
        self._secrets = secrets
        self._tail = Tail()
        self._lines = {"stdout": _Lines(), "stderr": _Lines()}
        self._logged = self._unlogged = 0

    def add(self, stream: str, chunk: bytes) -> None:
        self._tail.add(chunk)
        if self._logged >= LINE_LIMIT:
            self._unlogged += self._lines[stream].skim(chunk)
            return
        for line, length in self._lines[stream].cut(chunk):
            self._log(stream, line, length)

    def finish(self) -> None:
        """Log the last lines, and how many were not logged. Again, it does nothing."""
        for stream, lines in self._lines.items():
            for line, length in lines.cut(b"\n"):
                if length:
                    self._log(stream, line, length)
        if self._unlogged:
            log_event("run.output_cut", **self._facts, logged=LINE_LIMIT, more_lines=self._unlogged)
            self._unlogged = 0

    def kept(self) -> bytes:
        """Return the record: the last 64 kB of both streams, as they came."""
        return self._tail.value(self._secrets)

    def _log(self, stream: str, line: bytes, length: int) -> None:
        if self._logged >= LINE_LIMIT:
            self._unlogged += 1
            return
        self._logged += 1
        text = _text(self._secrets.hide(line)).removesuffix("\r").rpartition("\r")[2]
        shown = printable(text, LONGEST_LINE)
        cut = {"cut_of_bytes": length} if length > len(line) or len(text) > LONGEST_LINE else {}
        log_event("run.output", **self._facts, stream=stream, line=shown, **cut)


def last_line(text: bytes) -> str:
    """Return the last line that is not blank, for the text of an error; "" without one."""
    texts = [line.strip() for line in _text(text).splitlines() if line.strip()]
    return printable(texts[-1], 200) if texts else ""


def _text(line: bytes) -> str:
    return _COLOURS.sub("", line.decode(errors="backslashreplace"))
