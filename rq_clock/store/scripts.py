"""Lua scripts: how they are loaded, and how their answers are decoded."""

from __future__ import annotations

from collections.abc import Mapping
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
    """A word of Redis's answer, which comes as bytes or, from tests and scripts, as a number.
    What is not UTF-8, which others may have written, is shown with a mark for each such byte."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def texts(raw: Mapping[Any, Any]) -> dict[str, str]:
    """The fields of a hash, or of a stream's entry, likewise."""
    return {text(name): text(value) for name, value in raw.items()}
