"""Results and tracebacks of RQ's jobs, read without running any of their code. Pure.

RQ pickles the value that a job returns, and unpickling runs code that the pickle names. Workers do
that to each other's jobs anyway; the web process, which holds all tokens, must not. Nothing is
unpickled here. Plain data in a pickle are read: None, booleans, numbers, text, bytes, and lists,
tuples, sets and dicts of these. A pickle with anything else is not shown.
"""

from __future__ import annotations

import json
import pickletools
import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from rq_clock.redaction import MASK, is_secret, masked_text

TRACE_LIMIT = 256 * 1024
"""Bytes of a traceback to show: the last ones, which name the error."""
READ_LIMIT = 4 * 1024 * 1024
"""Bytes of a traceback to unpack: a few packed bytes can stand for a million."""
VALUES_LIMIT = 500
"""Values to show of a result."""
LONGEST = 2000
"""Characters to show of a text in a result."""
_DEEPEST = 6
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE",
    "SHORT_BINBYTES", "BINBYTES",
}  # fmt: skip
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list, "EMPTY_TUPLE": list, "EMPTY_SET": list, "EMPTY_DICT": dict,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def trace_of(packed: bytes) -> str:
    """Return a traceback of RQ's results, or the end of a long one; "" for any other value. Secrets
    are masked."""
    return masked_text(_unpacked(packed))


def end_of_trace(packed: bytes) -> str:
    """Return the last lines of a traceback, which name the error."""
    return masked_text("\n".join(_unpacked(packed).rstrip().split("\n")[-3:]))


def _unpacked(packed: bytes) -> str:
    unzip, tail, read = zlib.decompressobj(), b"", 0
    try:
        rest = b64decode(packed)
        while rest and read < READ_LIMIT:
            part = unzip.decompress(rest, TRACE_LIMIT)
            tail, read = (tail + part)[-TRACE_LIMIT:], read + len(part)
            rest = unzip.unconsumed_tail
    except (ValueError, zlib.error):
        return ""
    return tail.decode(errors="replace")


def value_of(packed: bytes) -> str | None:
    """Return a job's return value as JSON with secrets masked; None if it is not plain data."""
    try:
        value = _Plain().read(b64decode(packed))
        return json.dumps(_Shown().of(value), indent=1, ensure_ascii=False)
    except Exception:  # a pickle that someone else wrote can lead to any
        return None


class _Plain:
    """The part of the pickle machine that plain data need. It makes lists of tuples and sets, so
    that only plain keys of dicts are hashed."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """Return the value. Raises ValueError for other data, any exception for a broken pickle."""
        for op, arg, _ in pickletools.genops(data):
            if op.name in _VALUES:
                self._stack.append(arg)
            elif op.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[op.name])
            elif op.name in _EMPTY:
                self._stack.append(_EMPTY[op.name]())
            elif op.name in _TUPLES:
                self._stack.append(self._cut(len(self._stack) - _TUPLES[op.name]))
            else:
                self._do(op.name, arg)
        [value] = self._stack
        return value

    def _do(self, name: str, arg: Any) -> None:
        match name:
            case "MARK":
                self._marks.append(len(self._stack))
            case "TUPLE":
                self._stack.append(self._cut(self._marks.pop()))
            case "APPENDS" | "ADDITEMS":
                self._put(self._cut(self._marks.pop()))
            case "APPEND":
                self._put([self._stack.pop()])
            case "SETITEMS":
                self._put_pairs(self._cut(self._marks.pop()))
            case "SETITEM":
                self._put_pairs(self._cut(len(self._stack) - 2))
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                self._memo[len(self._memo) if arg is None else arg] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[arg])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise ValueError(f"{name} is not plain data")

    def _cut(self, start: int) -> list[Any]:
        cut = self._stack[start:]
        del self._stack[start:]
        return cut

    def _put(self, items: list[Any]) -> None:
        self._stack[-1].extend(items)

    def _put_pairs(self, flat: list[Any]) -> None:
        self._stack[-1].update(zip(flat[::2], flat[1::2], strict=True))


class _Shown:
    """A value cut to the limits: a small pickle can name one list a million times."""

    def __init__(self) -> None:
        self._left = VALUES_LIMIT

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            return "…"
        if isinstance(value, dict):
            return {str(k)[:LONGEST]: self._under(k, v, depth) for k, v in self._few(value.items())}
        if isinstance(value, list):
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
