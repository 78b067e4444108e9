"""Lua scripts and keys: how they are loaded, named and their answers decoded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from redis import Redis

_LUA = Path(__file__).parent / "lua"


def key_of(namespace: str, name: str) -> str:
    """A key of a namespace; store.py, executions.py and lock.py say which there are."""
    return f"rq-clock:{namespace}:{name}"


def load_script(redis: Redis, *names: str) -> Any:
    """The script that the last name tells, behind those that it uses, from lua/."""
    return redis.register_script("".join(map(_lua, names)))


@cache
def _lua(name: str) -> str:
    return (_LUA / f"{name}.lua").read_text()


def text(value: Any) -> str:
    """A word of Redis's answer, which comes as bytes or, from tests and scripts, as a number.
    What is not UTF-8, which others may have written, is shown with a mark for each such byte."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def texts(raw: Mapping[Any, Any]) -> dict[str, str]:
    """The fields of a hash, or of a stream's entry, likewise."""
    return {text(name): text(value) for name, value in raw.items()}
