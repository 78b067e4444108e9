"""What RQ keeps of a job's end, read without running anything of it. Pure.

RQ pickles what a job returns, and unpickling runs whatever the pickle says. Workers do that to each
other's jobs anyway; a process that holds everybody's tokens does not have to. So a value is looked
at only if its pickle consists of plain data: None, booleans, numbers, text, bytes, and lists,
tuples, sets and dicts of these. Of anything else its size is told. Arguments are not looked at at
all: RQ's `description` of the call is there for people.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import zlib
from base64 import b64decode
from typing import Any

from rq_clock.masks import MASK, is_secret, masked_text

MOST_TRACE = 256 * 1024
"""Bytes of a traceback that are shown, the last ones: there is the error."""
MOST_READ = 4 * 1024 * 1024
"""Bytes of a traceback that are unpacked: a few of a packed one can stand for a million."""
MOST_VALUES = 500
"""Values of a result, of those inside it."""
LONGEST = 2000
"""Characters of a text in a result."""
_DEEPEST = 6
_PLAIN = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE",
    "SHORT_BINBYTES", "BINBYTES", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
}  # fmt: skip
"""Operations that make plain data: none of them names a class, calls anything or asks for memory
that the pickle has not."""


def trace_of(packed: bytes) -> str:
    """A traceback as RQ's results have it, the end of it if it is very long; "" for what is none.
    What is plainly a secret in it is masked."""
    return masked_text(_unpacked(packed))


def end_of_trace(packed: bytes) -> str:
    """Its last lines: a list of jobs has many traces, and of each shows what the error was."""
    return masked_text("\n".join(_unpacked(packed).rstrip().split("\n")[-3:]))


def _unpacked(packed: bytes) -> str:
    unzip, tail, read = zlib.decompressobj(), b"", 0
    try:
        rest = b64decode(packed)
        while rest and read < MOST_READ:
            part = unzip.decompress(rest, MOST_TRACE)
            tail, read = (tail + part)[-MOST_TRACE:], read + len(part)
            rest = unzip.unconsumed_tail
    except (ValueError, zlib.error):
        return ""
    return tail.decode(errors="replace")


def value_of(packed: bytes) -> str | None:
    """A returned value as JSON for people, with secrets masked; None for what is not plain."""
    try:
        data = b64decode(packed)
        if any(op.name not in _PLAIN for op, _, _ in pickletools.genops(data)):
            return None
        return json.dumps(_Shown().of(pickle.loads(data)), indent=1, ensure_ascii=False)
    except Exception:  # whatever a pickle that nobody of ours wrote makes of it
        return None


class _Shown:
    """A value as far as it is shown: a small pickle can name one list a million times."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            return "…"
        if isinstance(value, dict):
            return {str(k)[:LONGEST]: self._under(k, v, depth) for k, v in self._few(value.items())}
        if isinstance(value, list | tuple | set):
            return [self.of(item, depth + 1) for item in self._few(value)]
        if isinstance(value, bytes):
            return masked_text(repr(value[:LONGEST]))
        if isinstance(value, str):
            return masked_text(value[:LONGEST] + ("…" if len(value) > LONGEST else ""))
        return value

    def _under(self, name: Any, value: Any, depth: int) -> Any:
        return MASK if is_secret(str(name)) else self.of(value, depth + 1)

    def _few(self, items: Any) -> list[Any]:
        return [item for item, _ in zip(items, range(max(self._left, 0)), strict=False)]
