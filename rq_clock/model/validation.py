"""Checks of a declaration. Each fault has its field and a text: expected, got, remedy.

Checks yield every fault and never stop at the first. Values come from users, so their annotated
types cannot be relied on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from rq_clock.errors import Fault
from rq_clock.model.targets import Command, Webhook, webhook
from rq_clock.model.view import camel
from rq_clock.redaction import masked_text, masked_url
from rq_clock.timing.triggers import Cron, Every, Once

_GROUP = re.compile("[^\\s\ud800-\udfff]{1,100}\\Z")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+\Z")
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: no text of Redis can hold it."""
_MS = timedelta(milliseconds=1)
_YEARS = timedelta(days=50 * 366)
"""The longest duration of an option; no instant plus one leaves the calendar."""
_DEEPEST = 64
_LONGEST_INT = 14_000
"""Bits. Python writes no integer of more than 4,300 digits (14,284 bits) as text."""
_LARGEST = 512 * 1024
"""Bytes of arguments as JSON."""
_TOO_LARGE = f"expected arguments of at most {_LARGEST // 1024} kB as JSON"


def faults(s: Any) -> Iterator[Fault]:
    """Yield the faults of a Schedule."""
    if not isinstance(s.name, str) or not NAME.match(s.name):
        text = f"expected a name of 1-100 letters, digits, '_' or '-', got {_shown(s.name)}"
        yield Fault("name", text)
    if isinstance(s.trigger, Cron | Every | Once):
        yield from s.trigger.faults()
    else:
        text = f"expected a trigger, cron(…), every(…) or once(…), got {s.trigger!r}"
        yield Fault("", text)
    if isinstance(s.target, Command | Webhook):
        yield from s.target.faults()
        yield from _foreign_options(s)
    else:
        yield from (Fault("func", text) for text in _target_faults(s.target))
    yield from _argument_faults(s)
    yield from _number_faults(s)
    yield from _policy_faults(s)
    if s.ping is not None:
        for fault in webhook(s.ping, method="GET").faults():
            yield Fault("ping", f"ping: {fault.text}")
    if s.renamed_from is not None and not NAME.match(str(s.renamed_from)):
        text = f"expected renamed_from to be the schedule's old name, got {s.renamed_from!r}"
        yield Fault("renamedFrom", text)
    if s.renamed_from == s.name:
        text = "expected renamed_from to differ from the name; leave it out when nothing is renamed"
        yield Fault("renamedFrom", text)


def _foreign_options(s: Any) -> Iterator[Fault]:
    """Yield a fault for each option that only a function accepts."""
    kind, place = s.target.kind, "its env or its text" if s.target.kind == "command" else "its json"
    for option in ("args", "kwargs"):
        if getattr(s, option):
            text = f"{option} are for a function, not for a {kind}; put them into {place}"
            yield Fault(option, text)


def _target_faults(target: object) -> Iterator[str]:
    if not isinstance(target, str):
        text = "expected a function or its dotted name, a command(…) or a webhook(…)"
        yield f"{text}, got {target!r}"
    elif target.startswith(("http://", "https://")):
        yield f"expected a dotted name, got the URL {masked_url(target)}; wrap it in webhook(…)"
    elif " " in target and "<" not in target:
        shown = masked_text(target)
        yield f"expected a dotted name, got {shown!r}; a command line is wrapped in command(…)"
    elif "<" in target:
        text = f"expected a function that a worker can import by name, got {target!r}"
        yield f"{text}; define it at the top of a module"
    elif target.startswith("__main__."):
        text = f"{target!r} lives in the script that is run, which workers cannot import"
        yield f"{text}; move it to a module, such as tasks/"
    elif not _DOTTED.match(target):
        yield f"expected a dotted name, such as 'tasks.feeds.refresh', got {target!r}"


def _argument_faults(s: Any) -> Iterator[Fault]:
    faults = list(_call_faults(s))
    yield from faults
    if not faults:
        parts = {"args": s.args, "kwargs": s.kwargs, "webhook.json": _body(s)}
        sizes = {
            field: len(json.dumps(value, ensure_ascii=False).encode())
            for field, value in parts.items()
        }
        if (size := sum(sizes.values())) > _LARGEST:
            text = f"{_TOO_LARGE}, got {size // 1024} kB; store the data elsewhere and pass its key"
            yield Fault(max(sizes, key=lambda field: sizes[field]), text)
    if not isinstance(s.queue, str) or not s.queue or _HALF.search(s.queue):
        yield Fault("queue", f"expected queue to be the name of a queue, got {s.queue!r}")
    if not isinstance(s.tags, tuple) or not all(isinstance(t, str) and t for t in s.tags):
        yield Fault("tags", f"expected tags to be a list of words, got {s.tags!r}")
    elif any(map(_HALF.search, s.tags)):
        text = f"expected tags of text that UTF-8 can hold, got {s.tags!r}; encode it first"
        yield Fault("tags", text)


def _call_faults(s: Any) -> Iterator[Fault]:
    """Yield the faults of the values that the target is called with."""
    if not isinstance(s.args, tuple):
        got = masked_text(_shown(s.args))
        yield Fault("args", f"expected args to be a list of JSON values, got {got}")
    else:
        yield from (Fault("args", text) for text in _json_faults(list(s.args), "args"))
    if not isinstance(s.kwargs, dict):
        got = masked_text(_shown(s.kwargs))
        yield Fault("kwargs", f"expected kwargs to be a dict with text keys, got {got}")
    else:
        yield from (Fault("kwargs", text) for text in _json_faults(s.kwargs, "kwargs"))
    yield from (Fault("webhook.json", text) for text in _json_faults(_body(s), "json"))


def _body(s: Any) -> object:
    return s.target.json if isinstance(s.target, Webhook) else None


def _json_faults(value: object, path: str) -> Iterator[str]:
    """Yield the faults of a value that is stored as JSON, so that it survives every deploy and can
    be shown. Nested values are counted, because lists that contain each other have no end."""
    todo, count = [(value, path, 1)], 0
    while todo:
        value, path, depth = todo.pop()
        count += 1
        if count > _LARGEST:
            yield f"{_TOO_LARGE}, got more in {path}"
            return
        if not isinstance(value, list | dict):
            yield from _value_faults(value, path)
        elif depth > _DEEPEST:
            text = (
                f"expected lists and dicts nested at most {_DEEPEST} deep, got more in {path[:40]}…"
            )
            yield f"{text}; pass the value as JSON text"
            return
        elif isinstance(value, list):
            items = [(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
            todo += reversed(items)
        else:
            for key in value:
                if not isinstance(key, str) or _HALF.search(key):
                    yield f"expected text that UTF-8 can hold as a key in {path}, got {_shown(key)}"
            items = [(item, f"{path}[{_shown(key)}]", depth + 1) for key, item in value.items()]
            todo += reversed(items)


def _value_faults(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if _HALF.search(value):
            got = masked_text(_shown(value))
            yield f"expected text that UTF-8 can hold in {path}, got {got}; encode it first"
    elif isinstance(value, float) and not -1e308 <= value <= 1e308:
        yield f"expected a JSON number in {path}, got {value!r}"
    elif isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        got = f"one of {value.bit_length():,} bits"
        yield f"expected an integer of at most 4,200 digits in {path}, got {got}; pass it as text"
    elif value is not None and not isinstance(value, int | float | bool):
        got = f"{_shown(value)} ({type(value).__name__})"
        yield f"expected a JSON value in {path}, got {got}; pass text or a number and convert it"


def _shown(value: object) -> str:
    """Return a value's repr, cut to one short line; its type where it has none."""
    try:
        text = repr(value)
    except Exception:  # too many digits, too deep, or the user's own
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= 200 else text[:199] + "…"


def _number_faults(s: Any) -> Iterator[Fault]:
    longest = _YEARS // timedelta(seconds=1)
    for option in ("timeout", "result_ttl", "failure_ttl"):
        value = getattr(s, option)
        least = 1 if option == "timeout" else 0
        if value is None or value == -1:  # RQ's word for "without end"
            continue
        if not _is_whole(value) or not least <= value <= longest:
            text = f"expected {option} in whole seconds, {least} to at most 50 years, or -1 for no"
            yield Fault(camel(option), f"{text} limit, got {_shown(value)}")
    delays = s.retries if isinstance(s.retries, tuple) else (s.retries,)
    if not all(_is_whole(n) and 0 <= n <= longest for n in delays) or not delays:
        text = "expected retries to be a count, 0 or more, or a list of delays in whole seconds"
        yield Fault("retries", f"{text}, got {_shown(s.retries)}")
    for option in ("catch_up_window", "jitter"):
        value = getattr(s, option)
        if value is not None and not (isinstance(value, timedelta) and _MS <= value <= _YEARS):
            text = f"expected {option} as timedelta or seconds, 0.001 s to at most 50 years"
            yield Fault(camel(option), f"{text}, got {_shown(value)}")
    for option in ("catch_up_limit", "group_limit"):
        value = getattr(s, option)
        if value is None and option == "catch_up_limit":
            continue
        if not _is_whole(value) or value < 1:
            yield Fault(
                camel(option), f"expected {option} to be a count, at least 1, got {_shown(value)}"
            )


def _policy_faults(s: Any) -> Iterator[Fault]:
    if s.catch_up not in ("latest", "all", "none"):
        text = f"expected catch_up 'latest', 'all' or 'none', got {s.catch_up!r}"
        yield Fault("catchUp", text)
    if s.overlap not in ("skip", "allow"):
        yield Fault("overlap", f"expected overlap 'skip' or 'allow', got {s.overlap!r}")
    if s.catch_up == "all" and s.overlap == "skip":
        text = "expected overlap='allow' where every fire time matters (catch_up='all'), got 'skip'"
        yield Fault("overlap", f"{text}; use that or catch_up='latest'")
    if s.catch_up != "all" and s.catch_up_limit is not None:
        text = f"catch_up_limit goes with catch_up='all', got it beside catch_up={s.catch_up!r}"
        yield Fault("catchUpLimit", text)
    if s.group is not None and not (isinstance(s.group, str) and _GROUP.match(s.group)):
        text = f"expected group as 1-100 characters without spaces, got {_shown(s.group)}"
        yield Fault("group", text)
    if _is_whole(s.group_limit) and s.group_limit > 1 and s.group is None:
        text = f"group_limit goes with group, got {s.group_limit} without one"
        yield Fault("groupLimit", text)
    if s.catch_up == "none" and s.catch_up_window is not None:
        text = "catch_up_window has nothing to bound beside catch_up='none'; leave one of them out"
        yield Fault("catchUpWindow", text)


def _is_whole(value: object) -> bool:
    """Return whether it is an integer that Redis's scripts can count with."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
