"""Loads the app's clock with its declared schedules. Runs nothing.

RQ_CLOCK_APP names it as `module:attribute`; the default is `clock:clock` in the working directory.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from urllib.parse import urlsplit

from rq_clock.clock.clock import Clock, collect_faults
from rq_clock.errors import Fault, RqClockError
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import Command, Webhook
from rq_clock.outbound.addresses import literal, refusal
from rq_clock.settings import Settings


def load(name: str) -> tuple[Clock, list[Fault]]:
    """Return the clock at `name`, and every fault of its declarations.

    Raises RqClockError if there is no such module, or no clock in it.
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


def target_faults(schedule: Schedule) -> list[Fault]:
    """Return why a worker could not run the schedule's target.

    It imports a function, and checks the directory of a command and an IP address in the URL of a
    webhook. Programs and host names may exist only on the worker's machine.
    """
    target = schedule.target
    if isinstance(target, Command):
        field, text = "command.cwd", _command_fault(target)
    elif isinstance(target, Webhook):
        field, text = "webhook.url", _webhook_fault(target)
    else:
        field, text = "func", _function_fault(target)
    return [Fault(field, text, schedule=schedule.name)] if text else []


def _command_fault(target: Command) -> str:
    if target.cwd is None or Path(target.cwd).is_dir():
        return ""
    return f"expected cwd to be a directory, got {target.cwd!r}"


def _webhook_fault(target: Webhook) -> str:
    parts = urlsplit(target.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    allowed = Settings.from_env().webhook_allow
    return refusal(host, port, host, allowed) if literal(host) else ""


def _function_fault(dotted: str) -> str:
    module_name, _, function = dotted.rpartition(".")
    try:
        target = getattr(_import_longest(module_name), function, None)
    except Exception as error:  # a worker would get the same error from this module
        return f"cannot import target {dotted!r}: {type(error).__name__}: {error}"
    if target is None:
        return f"{module_name!r} has no function {function!r}, the target"
    if callable(target):
        return ""
    return f"expected target {dotted!r} to be a function, got {target!r}"


def _import_longest(dotted: str) -> object:
    """Return a module (`tasks.mail`) or a class in one (`tasks.mail.Sender`)."""
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
