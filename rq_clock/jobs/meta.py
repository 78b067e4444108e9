"""Reading a job's meta without running code. Pure."""

from __future__ import annotations

import json
import pickle
from io import BytesIO
from typing import Any

_ALL = 1_000_000
"""More jobs than any group has running: a larger limit means no other."""


class _Unpickler(pickle.Unpickler):
    """Reads data only: every class and function of a pickle is an _Opaque, so reading runs no
    foreign code."""

    def find_class(self, module: str, name: str) -> Any:
        return _Opaque


class _Opaque:
    def __new__(cls, *_args: Any, **_options: Any) -> _Opaque:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_options: Any) -> _Opaque:
        return self

    def __setstate__(self, _state: Any) -> None:
        pass


def group_of(meta: bytes) -> tuple[bytes, int]:
    """Return the group that a job's meta names, and how many jobs of it may run at a time; an empty
    name when it names none or cannot be read."""
    try:
        loaded = json.loads(meta) if meta[:1] == b"{" else _Unpickler(BytesIO(meta)).load()
        group, limit = loaded["rq_clock"].get("group"), loaded["rq_clock"].get("group_limit")
    except Exception:  # whatever a broken pickle leads to
        return b"", 1
    name = group.encode(errors="backslashreplace") if isinstance(group, str) else b""
    return name, min(limit, _ALL) if isinstance(limit, int) else 1
