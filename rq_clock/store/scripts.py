"""Lua scripts: how they are loaded, and how their answers are decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from redis import Redis

from rq_clock.log import FaultLog

_LUA = Path(__file__).parent / "lua"
T = TypeVar("T")
_faults = FaultLog()


def load_script(redis: Redis, name: str) -> Any:
    """Return a script of lua/, ready to be called."""
    return redis.register_script(_source(name))


@cache
def commands() -> tuple[str, ...]:
    """Return the names of the commands that the scripts call."""
    called = re.compile(r"redis\.p?call\(\s*'(\w+)'")
    return tuple(sorted({n for p in _LUA.glob("*.lua") for n in called.findall(p.read_text())}))


@cache
def _source(name: str) -> str:
    """Return a script behind the parts that its first line names: `--! keys outcomes`."""
    script = (_LUA / f"{name}.lua").read_text()
    first = script.partition("\n")[0]
    parts = first.removeprefix("--!").split() if first.startswith("--!") else []
    return "".join([*map(_source, parts), script])


def text(value: Any) -> str:
    """Return a word of Redis's answer, which is bytes or, from tests and scripts, a number. A byte
    that is not UTF-8, which others may have written, becomes a replacement character."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def texts(raw: Mapping[Any, Any]) -> dict[str, str]:
    """Return the fields of a hash, or of a stream's entry, as texts."""
    return {text(name): text(value) for name, value in raw.items()}


def readable(read: Callable[..., T], rows: Iterable[Sequence[Any]], kind: str) -> list[T]:
    """Return what `read` makes of each row, of which the first word is the name. One that cannot be
    read, whatever others have written there, is left out and logged once."""
    found = []
    for row in rows:
        try:
            found.append(read(*row))
        except Exception as error:
            _faults.report("row.unreadable", error, kind=kind, row=text(row[0])[:100])
    return found


def newest(
    redis: Redis, key: str, read: Callable[[Any, Any], T], limit: int, before: str = "+",
    first: str = "-",
) -> list[T]:  # fmt: skip
    """Return the newest entries of a stream that can be read, newest first, from the one before the
    id `before` back to `first`. One round trip, unless some cannot be read."""
    found: list[T] = []
    # Redis refuses to look before 0-0, however it is written, and nothing is there.
    while (missing := limit - len(found)) > 0 and before.strip("0-"):
        last = before if before == "+" else f"({before}"
        rows: Any = redis.xrevrange(key, last, first, count=missing)
        found += readable(read, rows, key.rpartition(":")[2])
        if len(rows) < missing:
            break
        before = text(rows[-1][0])
    return found


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """Return the fields of a hash that a script returned: field, value, field, value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
