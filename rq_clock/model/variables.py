"""Variables of the workers' environment in web calls: stored as a name, resolved by the worker.

    webhook("https://api.example.com/x", headers={"Authorization": f"Bearer {env('API_KEY')}"})

In a text a variable is `${env:NAME}`. Pure.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"\$\{env:([^{}\s]{0,200})\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
_PRIVATE = ("REDIS_URL", "REDIS_TLS_URL")


def env(name: str) -> str:
    """Return a text that stands for a variable of the worker's environment, for the URL (behind the
    host), a header or the body of a `webhook`.

    Redis, pages and exports have only the name. A call of a variable that the worker lacks fails.
    Schedules declared in code may name any variable but RQ_CLOCK_… and the Redis URL; others only
    those that RQ_CLOCK_WEBHOOK_ENV lists.
    """
    return f"${{env:{name}}}"


def names_in(value: Any) -> Iterator[str]:
    """Yield the variables that a text, or the texts in a value, name. It may be any value, also one
    that contains itself."""
    waiting, seen = deque([value]), set()
    while waiting:
        part = waiting.popleft()
        if isinstance(part, str):
            yield from _VARIABLE.findall(part)
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values() if isinstance(part, dict) else part


def resolved(value: Any, lookup: Callable[[str], str]) -> Any:
    """Return a value with its variables in place. Raises what `lookup` raises."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: lookup(found[1]), value)
    if isinstance(value, dict):
        return {key: resolved(part, lookup) for key, part in value.items()}
    if isinstance(value, list):
        return [resolved(part, lookup) for part in value]
    return value


def plain(text: str) -> str:
    """Return a text with a word in place of each variable, to check the rest of it."""
    return _VARIABLE.sub("x", text)


def is_private(name: str) -> bool:
    """Return whether a variable is one of rq-clock's own, which no call may have."""
    return name.startswith("RQ_CLOCK_") or name in _PRIVATE


def name_faults(value: Any) -> Iterator[str]:
    """Yield a fault for each variable that cannot be named."""
    for name in dict.fromkeys(names_in(value)):
        if not _NAME.match(name):
            yield f"expected ${{env:NAME}} with the name of a variable, got {name[:50]!r}"
        elif is_private(name):
            yield f"expected a variable of the app, got {name}, which is rq-clock's own"


def in_host(url: str) -> bool:
    """Return whether a variable is in the host of a URL, which a name server would see."""
    try:
        netloc = urlsplit(_VARIABLE.sub("\x7f", url)).netloc
    except ValueError:
        return False
    return "\x7f" in netloc
