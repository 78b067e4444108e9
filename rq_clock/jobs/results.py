"""What RQ keeps of a job's end, read without running anything of it. Pure.

RQ pickles what a job returns, and unpickling runs whatever the pickle says. Workers do that to each
other's jobs anyway; a process that holds everybody's tokens does not. Nothing is unpickled here:
plain data in a pickle are read (None, booleans, numbers, text, bytes, and lists, tuples, sets and
dicts of these), and of one that has anything else in it only the size is told. Arguments are not
looked at at all: RQ's `description` of the call is there for people.
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
"""Bytes of a traceback that are shown, the last ones: there is the error."""
READ_LIMIT = 4 * 1024 * 1024
"""Bytes of a traceback that are unpacked: a few of a packed one can stand for a million."""
VALUES_LIMIT = 500
"""Values of a result, of those inside it."""
LONGEST = 2000
"""Characters of a text in a result."""
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
        while rest and read < READ_LIMIT:
            part = unzip.decompress(rest, TRACE_LIMIT)
            tail, read = (tail + part)[-TRACE_LIMIT:], read + len(part)
            rest = unzip.unconsumed_tail
    except (ValueError, zlib.error):
        return ""
    return tail.decode(errors="replace")


def value_of(packed: bytes) -> str | None:
    """A returned value as JSON for people, with secrets masked; None for what is not plain."""
    try:
        value = _Plain().read(b64decode(packed))
        return json.dumps(_Shown().of(value), indent=1, ensure_ascii=False)
    except Exception:  # whatever a pickle that nobody of ours wrote makes of it
        return None


class _Plain:
    """The part of a pickle's machine that plain data take. It makes lists of tuples and sets, so
    that nothing is hashed but the plain keys of dicts."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """The value. Raises ValueError, or whatever a broken pickle leads to, for any other."""
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
    """A value as far as it is shown: a small pickle can name one list a million times."""

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
