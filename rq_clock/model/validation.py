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
from rq_clock.model.targets import SHELLS, Webhook, webhook
from rq_clock.model.view import camel
from rq_clock.redaction import masked_repr, masked_url
from rq_clock.timing.triggers import CalendarInterval, Cron, Every, Faulty, Once

_GROUP = re.compile("[^\\s\ud800-\udfff]{1,100}\\Z")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_DOTTED = re.compile(r"(?=.{1,500}\Z)[^\W\d]\w*(\.[^\W\d]\w*)+\Z")
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
_LONGEST_WORD, _TAG_LIMIT = 200, 50
"""Characters of a queue or tag, and the number of tags."""
_COUNT_LIMIT = 1_000_000
"""Runs that may be caught up, and limit of a group."""
_DELAY_LIMIT = 100
REASON_LIMIT = 500
"""Characters of a reason, and of the name of who gives it."""
_TOO_LARGE = f"expected arguments of at most {_LARGEST // 1024} kB as JSON"


def faults(s: Any) -> Iterator[Fault]:
    """Yield the faults of a Schedule."""
    if not isinstance(s.name, str) or not NAME.match(s.name):
        text = f"expected a name of 1-100 letters, digits, '_' or '-', got {masked_repr(s.name)}"
        yield Fault("name", text)
    if isinstance(s.trigger, Faulty):
        yield from s.trigger.faults
    elif not isinstance(s.trigger, Cron | CalendarInterval | Every | Once):
        text = f"expected a trigger, cron(…), every(…) or once(…), got {masked_repr(s.trigger)}"
        yield Fault("", text)
    if isinstance(s.target, (*SHELLS, Webhook)):
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
    allowed = s.allowed_targets
    if allowed is not None and not (isinstance(allowed, tuple) and all(map(_is_word, allowed))):
        text = f"expected allowed_targets to be a list of names, got {masked_repr(allowed)}"
        yield Fault("allowedTargets", text)
    renamed = s.renamed_from
    if renamed is not None and not (isinstance(renamed, str) and NAME.match(renamed)):
        text = "expected renamed_from to be the schedule's old name"
        yield Fault("renamedFrom", f"{text}, got {masked_repr(renamed)}")
    if s.renamed_from == s.name:
        text = "expected renamed_from to differ from the name; leave it out when nothing is renamed"
        yield Fault("renamedFrom", text)


def _foreign_options(s: Any) -> Iterator[Fault]:
    """Yield a fault for each option that only a function accepts."""
    kind, place = s.target.kind, "its json"
    if isinstance(s.target, SHELLS):
        place = "its env or its text"
    for option in ("args", "kwargs"):
        if getattr(s, option):
            text = f"{option} are for a function, not for a {kind}; put them into {place}"
            yield Fault(option, text)


def _target_faults(target: object) -> Iterator[str]:
    if not isinstance(target, str):
        text = "expected a function or its dotted name, a command(…), dyno(…) or webhook(…)"
        yield f"{text}, got {masked_repr(target)}"
    elif target.startswith(("http://", "https://")):
        yield f"expected a dotted name, got the URL {masked_url(target)}; wrap it in webhook(…)"
    elif " " in target and "<" not in target:
        got = masked_repr(target)
        yield f"expected a dotted name, got {got}; a command line is wrapped in command(…)"
    elif "<" in target:
        text = f"expected a function that a worker can import by name, got {masked_repr(target)}"
        yield f"{text}; define it at the top of a module"
    elif target.startswith("__main__."):
        text = f"{masked_repr(target)} lives in the script that is run, which workers cannot import"
        yield f"{text}; move it to a module, such as tasks/"
    elif not _DOTTED.match(target):
        yield f"expected a dotted name, such as 'tasks.feeds.refresh', got {masked_repr(target)}"


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
    if not _is_word(s.queue):
        text = f"expected queue to be a name of 1-{_LONGEST_WORD} characters"
        yield Fault("queue", f"{text}, got {masked_repr(s.queue)}")
    yield from tag_faults(s.tags)


def tag_faults(tags: object) -> Iterator[Fault]:
    """Yield the fault of tags, if there is one."""
    right = isinstance(tags, tuple) and len(tags) <= _TAG_LIMIT and all(map(_is_word, tags))
    if not right:
        text = f"expected tags to be a list of words, at most {_TAG_LIMIT} of 1-{_LONGEST_WORD}"
        yield Fault("tags", f"{text} characters, got {masked_repr(tags)}")


def payload_faults(value: object, field: str) -> Iterator[Fault]:
    """Yield the faults of a value that is sent as JSON."""
    faults = [Fault(field, text) for text in json_faults(value, field)]
    yield from faults
    if not faults and (size := len(json.dumps(value, ensure_ascii=False).encode())) > _LARGEST:
        text = f"expected {field} of at most {_LARGEST // 1024} kB as JSON, got {size // 1024} kB"
        yield Fault(field, f"{text}; store the data elsewhere and pass its key")


def is_text(value: object, longest: int) -> bool:
    """Return whether it is a text of at most `longest` characters that UTF-8 can hold."""
    return isinstance(value, str) and len(value) <= longest and not _HALF.search(value)


def _is_word(value: object) -> bool:
    """Return whether it is a short text that UTF-8 can hold."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_WORD and not _HALF.search(value)


def reason_faults(value: object, field: str = "reason") -> Iterator[Fault]:
    """Yield the faults of a reason, or of the name of who gives it."""
    if not isinstance(value, str) or _HALF.search(value):
        got = masked_repr(value)
        yield Fault(field, f"expected {field} to be text that UTF-8 can hold, got {got}")
    elif len(value) > REASON_LIMIT:
        text = f"expected {field} of at most {REASON_LIMIT} characters, got {len(value):,}"
        yield Fault(field, f"{text}; shorten it, or refer to a longer text")


def _call_faults(s: Any) -> Iterator[Fault]:
    """Yield the faults of the values that the target is called with."""
    if not isinstance(s.args, tuple):
        got = masked_repr(s.args)
        yield Fault("args", f"expected args to be a list of JSON values, got {got}")
    else:
        yield from (Fault("args", text) for text in json_faults(list(s.args), "args"))
    if not isinstance(s.kwargs, dict):
        got = masked_repr(s.kwargs)
        yield Fault("kwargs", f"expected kwargs to be a dict with text keys, got {got}")
    else:
        yield from (Fault("kwargs", text) for text in json_faults(s.kwargs, "kwargs"))
    yield from (Fault("webhook.json", text) for text in json_faults(_body(s), "json"))


def _body(s: Any) -> object:
    return s.target.json if isinstance(s.target, Webhook) else None


def json_faults(value: object, path: str) -> Iterator[str]:
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
                    text = f"expected text that UTF-8 can hold as a key in {path}"
                    yield f"{text}, got {masked_repr(key)}"
            items = [
                (item, f"{path}[{masked_repr(key)}]", depth + 1) for key, item in value.items()
            ]
            todo += reversed(items)


def _value_faults(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if _HALF.search(value):
            got = masked_repr(value)
            yield f"expected text that UTF-8 can hold in {path}, got {got}; encode it first"
    elif isinstance(value, float) and not -1e308 <= value <= 1e308:
        yield f"expected a JSON number in {path}, got {masked_repr(value)}"
    elif isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        got = f"one of {value.bit_length():,} bits"
        yield f"expected an integer of at most 4,200 digits in {path}, got {got}; pass it as text"
    elif value is not None and not isinstance(value, int | float | bool):
        got = f"{masked_repr(value)} ({type(value).__name__})"
        yield f"expected a JSON value in {path}, got {got}; pass text or a number and convert it"


def _number_faults(s: Any) -> Iterator[Fault]:
    longest = _YEARS // timedelta(seconds=1)
    for option in ("timeout", "result_ttl", "failure_ttl"):
        value = getattr(s, option)
        least = 1 if option == "timeout" else 0
        if value is None or value == -1:  # RQ's word for "without end"
            continue
        if not _is_whole(value) or not least <= value <= longest:
            text = f"expected {option} in whole seconds, {least} to at most 50 years, or -1 for no"
            yield Fault(camel(option), f"{text} limit, got {masked_repr(value)}")
    delays = s.retries if isinstance(s.retries, tuple) else (s.retries,)
    few = 0 < len(delays) <= _DELAY_LIMIT
    if not few or not all(_is_whole(n) and 0 <= n <= longest for n in delays):
        text = "expected retries to be a count, 0 or more, or a list of delays in whole seconds"
        yield Fault("retries", f"{text}, got {masked_repr(s.retries)}")
    for option in ("catch_up_window", "jitter"):
        value = getattr(s, option)
        if value is not None and not (isinstance(value, timedelta) and _MS <= value <= _YEARS):
            text = f"expected {option} as timedelta or seconds, 0.001 s to at most 50 years"
            yield Fault(camel(option), f"{text}, got {masked_repr(value)}")
    if s.catch_up_limit is not None:
        yield from _count_faults("catch_up_limit", s.catch_up_limit)
    yield from _count_faults("group_limit", s.group_limit)


def _count_faults(option: str, value: object) -> Iterator[Fault]:
    if not isinstance(value, int) or not _is_whole(value) or not 1 <= value <= _COUNT_LIMIT:
        text = f"expected {option} to be a count, 1 to {_COUNT_LIMIT:,}"
        yield Fault(camel(option), f"{text}, got {masked_repr(value)}")


def group_faults(group: Any, limit: Any) -> Iterator[Fault]:
    """Yield the faults of the group of a job that no schedule makes."""
    yield from _group_faults(group)
    yield from _count_faults("group_limit", limit)


def _group_faults(group: Any) -> Iterator[Fault]:
    if not (isinstance(group, str) and _GROUP.match(group)):
        text = f"expected group as 1-100 characters without spaces, got {masked_repr(group)}"
        yield Fault("group", text)


def _policy_faults(s: Any) -> Iterator[Fault]:
    if s.catch_up not in ("latest", "all", "none"):
        text = f"expected catch_up 'latest', 'all' or 'none', got {masked_repr(s.catch_up)}"
        yield Fault("catchUp", text)
    if s.overlap not in ("skip", "allow"):
        yield Fault("overlap", f"expected overlap 'skip' or 'allow', got {masked_repr(s.overlap)}")
    if s.catch_up == "all" and s.overlap == "skip":
        text = "expected overlap='allow' where every fire time matters (catch_up='all'), got 'skip'"
        yield Fault("overlap", f"{text}; use that or catch_up='latest'")
    if s.catch_up != "all" and s.catch_up_limit is not None:
        text = "catch_up_limit goes with catch_up='all', got it beside catch_up="
        yield Fault("catchUpLimit", text + masked_repr(s.catch_up))
    if s.group is not None:
        yield from _group_faults(s.group)
    if _is_whole(s.group_limit) and s.group_limit > 1 and s.group is None:
        text = f"group_limit goes with group, got {masked_repr(s.group_limit)} without one"
        yield Fault("groupLimit", text)
    if s.catch_up == "none" and s.catch_up_window is not None:
        text = "catch_up_window has nothing to bound beside catch_up='none'; leave one of them out"
        yield Fault("catchUpWindow", text)


def _is_whole(value: object) -> bool:
    """Return whether it is an integer that Redis's scripts can count with."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
