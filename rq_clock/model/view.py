"""Views and their JSON. Pure.

A view is a frozen dataclass. Its keys are camelCase, instants are ISO 8601 (in UTC with a Z unless
a field is about another zone), and a duration has its unit in its name. The options of a schedule
have the names and units of a manifest. A field without a value is null, never absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeVar

from rq_clock.timing.instants import iso

T = TypeVar("T")


def camel(name: str) -> str:
    """Return the key of JSON and manifests for a name of Python."""
    return re.sub("_(.)", lambda match: match[1].upper(), name)


class View:
    """The base of views. Pydantic reads the configuration for OpenAPI."""

    __slots__ = ()
    __pydantic_config__: ClassVar = {"alias_generator": camel, "extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(View, Generic[T]):
    """A page of a list."""

    data: Sequence[T]
    next_cursor: str | None
    total: int | None = None
    searched: int | None = None


def doc(text: str = "", *, alias: str = "", enum: Sequence[str] = ()) -> dict[str, Any]:
    """Return the metadata of a field: its description, another key, its values."""
    metadata: dict[str, Any] = {"description": text} if text else {}
    metadata |= {"alias": alias} if alias else {}
    return metadata | ({"json_schema_extra": {"enum": [*enum]}} if enum else {})


def encode(view: Any, *, indent: int | None = None) -> str:
    """Return a view, or anything made of views, as JSON."""
    separators = None if indent else (",", ":")
    return json.dumps(
        view, default=_plain, indent=indent, separators=separators, ensure_ascii=False
    )


def shallow(view: Any) -> dict[str, Any]:
    """Return the fields of a view by their JSON keys; the values stay as they are."""
    kind = type(view)
    if kind not in _KEYS:
        found = fields(kind)
        keys = [f.metadata.get("alias") or camel(f.name) for f in found]
        _KEYS[kind] = keys, attrgetter(*(f.name for f in found))
    keys, values = _KEYS[kind]
    return dict(zip(keys, values(view), strict=True))


_KEYS: dict[type, tuple[list[str], Callable[[Any], tuple[Any, ...]]]] = {}
"""View → its JSON keys and the getter of its fields; attrgetter needs two fields at least."""


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat() if value.utcoffset() else iso(value)
    return shallow(value)
