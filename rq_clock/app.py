"""Finds the app's clock: the declared schedules, loaded without running anything.

RQ_CLOCK_APP names it, `module:attribute`, by default `clock:clock` in the working directory.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from rq_clock.clock import Clock, collect_faults
from rq_clock.errors import RqClockError
from rq_clock.schedule import Schedule


def load(name: str) -> tuple[Clock, list[str]]:
    """The clock that `name` points at, and every fault of its declarations.

    Raises RqClockError when there is no such module or no clock in it.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with collect_faults() as faults:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise RqClockError(
                f"cannot load the app {name!r}: {error}; run this in the directory of your "
                "clock.py, or set RQ_CLOCK_APP=module:attribute"
            ) from None
    clock = getattr(module, attribute or "clock", None)
    if not isinstance(clock, Clock):
        raise RqClockError(
            f"expected {name!r} to be a rq_clock.Clock, got {clock!r}; "
            "set RQ_CLOCK_APP=module:attribute"
        )
    return clock, faults + clock.faults()


def target_faults(schedule: Schedule) -> list[str]:
    """Why a worker could not run the schedule's target; imports it to find out."""
    module_name, _, function = schedule.target.rpartition(".")
    try:
        target = getattr(_import_longest(module_name), function, None)
    except Exception as error:  # whatever a module does when it is imported, the worker would meet
        reason = f"{type(error).__name__}: {error}"
        return [f"{schedule.name}: cannot import target {schedule.target!r}: {reason}"]
    if target is None:
        return [f"{schedule.name}: {module_name!r} has no function {function!r}, the target"]
    if not callable(target):
        return [
            f"{schedule.name}: expected target {schedule.target!r} to be a function, got {target!r}"
        ]
    return []


def _import_longest(dotted: str) -> object:
    """A module, or a class in one: `tasks.mail` as well as `tasks.mail.Sender`."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        parent, _, attribute = dotted.rpartition(".")
        if error.name != dotted or not parent:
            raise
        found = getattr(_import_longest(parent), attribute, None)
        if found is None:
            raise
        return found
