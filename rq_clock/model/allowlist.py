"""The functions that a schedule may call if a token without the scope `commands` defined it. Pure.

Such a definition carries the patterns that held when it was written (`allowed_targets`), and so
does the meta of its jobs. They are checked twice: when it is written, by name, and by the worker on
the function that the name leads to. RQ resolves attributes of modules, so `tasks.feeds.subprocess`
has a harmless name.

A pattern is a dotted name with `*` for any text. It stands for everything below it, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any

from rq_clock.errors import Fault, ScheduleError
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import SHELLS, Target, Webhook
from rq_clock.redaction import masked_repr

_NEVER = sys.stdlib_module_names | {"rq_clock", "builtins", "__main__"}
_REMEDY = "add it to RQ_CLOCK_TARGETS, or use a token with the scope commands"


def is_allowed(name: str, patterns: Iterable[str]) -> bool:
    """Return whether patterns cover a dotted name. They never cover the standard library and
    rq-clock itself."""
    if name.partition(".")[0] in _NEVER:
        return False
    return any(fnmatchcase(name, p) or name.startswith(f"{p}.") for p in patterns)


def packages_of(targets: Iterable[Target]) -> list[str]:
    """Return the top-level packages of the functions among targets: the default patterns."""
    found = {target.partition(".")[0] for target in targets if isinstance(target, str)}
    return sorted(found - _NEVER)


def limited(schedule: Schedule, was: Schedule | None, allowed: Sequence[str] | None) -> Schedule:
    """Return a schedule with the limits of its author: those of the stored one (`was`) if the call
    stays the same, else `allowed`, None for no limits. Raises ScheduleError with every fault."""
    if was is not None and _call(schedule) == _call(was):
        return replace(schedule, allowed_targets=was.allowed_targets)
    if allowed is None:
        return schedule
    if faults := list(_faults(schedule, was, allowed)):
        raise ScheduleError(*(replace(fault, schedule=schedule.name) for fault in faults))
    return replace(schedule, allowed_targets=tuple(allowed))


def refusal(name: str, resolve: Callable[[], Any], allowed: Sequence[str]) -> str:
    """Return why a limited run must not call a function; "" when it may. `resolve` imports the
    function, and is not called for a name that is refused. Raises what `resolve` raises."""
    expected = f"expected a function of {_listed(allowed)}"
    if name == Webhook.func:
        return ""
    if name in [shell.func for shell in SHELLS]:
        return "a token without the scope commands defined this run; it may run no command"
    if not is_allowed(name, allowed):
        return f"{expected}, got {name}; {_REMEDY}"
    function = resolve()
    module = getattr(function, "__module__", None)
    own = getattr(function, "__qualname__", type(function).__qualname__)
    if not isinstance(module, str) or not is_allowed(f"{module}.{own}", allowed):
        return f"{expected}, got {name}, which is {own} of {module or 'no module'}; {_REMEDY}"
    if isinstance(function, type) and (foreign := _foreign_start(function, allowed)):
        return f"{expected}, got the class {name}, which begins with {foreign}; {_REMEDY}"
    return ""


def _foreign_start(kind: type, allowed: Sequence[str]) -> str:
    """Return where a class begins its objects with code of others; "" if nowhere."""
    for start in ("__new__", "__init__"):
        for base in kind.__mro__[:-1]:
            if start in vars(base):
                if not is_allowed(f"{base.__module__}.{base.__qualname__}", allowed):
                    return f"{base.__module__}.{base.__qualname__}"
                break
    return ""


def _call(schedule: Schedule) -> tuple[object, ...]:
    """Return what a run does, without its limits of time."""
    target = schedule.target
    if isinstance(target, SHELLS):
        target = replace(target, timeout=None)
    return target, schedule.args, schedule.kwargs


def _faults(schedule: Schedule, was: Schedule | None, allowed: Sequence[str]) -> Iterator[Fault]:
    target, before = schedule.target, was.target if was else None
    if isinstance(target, SHELLS):
        parts = [f.name for f in fields(target) if f.name != "timeout"]
        same_kind = type(before) is type(target)
        changed = (
            p for p in parts if not same_kind or getattr(target, p) != getattr(before, p, None)
        )
        field, place = f"{target.kind}.{next(changed)}", "on the workers"
        if target.kind == "dyno":
            place = "in the app"
        text = f"since a {target.kind} is a shell {place}; use such a token, or the command line"
        yield Fault(field, f"expected a token with the scope commands, {text}")
    elif isinstance(target, str) and not is_allowed(target, allowed):
        field = "func"
        if was is not None and target == before:
            field = "args" if schedule.args != was.args else "kwargs"
        text = f"expected a function of {_listed(allowed)}, got {masked_repr(target)}; {_REMEDY}"
        yield Fault(field, text)


def _listed(allowed: Sequence[str]) -> str:
    return ", ".join(allowed) or "RQ_CLOCK_TARGETS (not set, and no function is declared)"
