"""Lua scripts: how they are loaded, and how their answers are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from redis import Redis

_LUA = Path(__file__).parent / "lua"


def load_script(redis: Redis, name: str) -> Any:
    """Return a script of lua/, ready to be called."""
    return redis.register_script(_source(name))


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


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """Return the fields of a hash that a script returned: field, value, field, value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
