"""Meets the app as a worker would: sets it up, imports the functions of its schedules, compares
their arguments. Runs none of them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rq_clock.clock.app import fault_of, import_from_here, load
from rq_clock.errors import Fault, RqClockError, ScheduleError
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import Command, Dyno, Webhook
from rq_clock.outbound.addresses import literal, refusal
from rq_clock.run import worker_code
from rq_clock.settings import Settings
from rq_clock.similar import similar


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An app's schedules, and what is wrong in them. The faults have the place of `clock.add`."""

    declared: Mapping[str, Schedule]
    faults: list[Fault]
    warnings: list[Fault]


def check(settings: Settings) -> Checked:
    """Load the app's clock as the clock process does, then what RQ_CLOCK_SETUP names and every
    target as a worker does. Raises RqClockError when there is no app."""
    try:
        clock, faults = load(settings.app)
    except ScheduleError as error:
        faults = [*error.faults, *set_up(settings.setup)]
        return Checked(declared={}, faults=faults, warnings=[])
    unprepared = set_up(settings.setup)
    schedules = clock.declared.values()
    targets = [
        clock.located(fault)
        for schedule in schedules
        if not (unprepared and isinstance(schedule.target, str))  # each would fail for that reason
        for fault in target_faults(schedule)
    ]
    warnings = [
        clock.located(Fault("cron", text, schedule=s.name))
        for s in schedules
        for text in s.trigger.warnings()
    ]
    faults = [*faults, *unprepared, *targets]
    return Checked(declared=clock.declared, faults=faults, warnings=warnings)


def set_up(name: str) -> list[Fault]:
    """Run what RQ_CLOCK_SETUP names, in this process. Return why a worker could not."""
    if not name:
        return []
    from rq_clock.worker.hooks import named_hooks  # brings all of RQ

    import_from_here()
    try:
        with redirect_stdout(sys.stderr), worker_code():
            hooks = named_hooks(name)
            for function in filter(None, (hooks.setup, hooks.after_fork)):
                function()
    except RqClockError as error:
        return [Fault("", str(error))]
    except (Exception, SystemExit) as error:
        fault = fault_of(error)
        return [replace(fault, text=f"RQ_CLOCK_SETUP={name!r}: {fault.text}")]
    return []


def function_warnings(schedule: Schedule, setup: str) -> list[Fault]:
    """Return why the function of a schedule would not run, as far as it can be known here: nothing
    where the app is not."""
    if not isinstance(schedule.target, str):
        return []
    import_from_here()
    if find_spec(schedule.target.partition(".")[0]) is None or set_up(setup):
        return []
    return target_faults(schedule)


def target_faults(schedule: Schedule) -> list[Fault]:
    """Return why a worker could not run the schedule's target.

    It imports a function and compares the arguments. Of a command it checks the directory, of a
    webhook an IP address in the URL: programs and host names may exist only on the worker's
    machine.
    """
    target = schedule.target
    if isinstance(target, Command):
        field, text = "command.cwd", _command_fault(target)
    elif isinstance(target, Webhook):
        field, text = "webhook.url", _webhook_fault(target)
    elif isinstance(target, Dyno):
        return []  # only the platform knows what runs there
    else:
        field, text = _function_fault(target, schedule.args, schedule.kwargs)
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


def _function_fault(
    dotted: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, str]:
    module_name, _, function = dotted.rpartition(".")
    try:
        with redirect_stdout(sys.stderr):
            module = _import_longest(module_name)
            target = getattr(module, function, None)
    except (Exception, SystemExit) as error:  # a worker would get the same from this module
        return "func", f"cannot import target {dotted!r}: {fault_of(error)}"
    if target is None:
        known = [name for name in dir(module) if callable(getattr(module, name, None))]
        near = similar(function, known)
        hint = f"; did you mean {near!r}?" if near else ""
        return "func", f"no function {function!r} in {module_name!r}{hint}"
    if not callable(target):
        return "func", f"expected target {dotted!r} to be a function, got {target!r}"
    return "kwargs" if kwargs else "args", _argument_fault(dotted, target, args, kwargs)


def _argument_fault(
    dotted: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """Return why the function cannot be called so; nothing when it cannot be known. A decorator may
    add arguments, so what it wraps does not count."""
    try:
        signature = inspect.signature(target, follow_wrapped=False)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        shown = ", ".join([*("…" for _ in args), *(f"{name}=…" for name in kwargs)])
        return f"expected arguments of {dotted}{inspect.Signature(bare)}, got ({shown}): {error}"
    return ""


def _import_longest(dotted: str) -> object:
    """Return a module (`tasks.mail`) or a class in one (`tasks.mail.Sender`)."""
    try:
        return import_module(dotted)
    except ModuleNotFoundError as error:
        parent, _, attribute = dotted.rpartition(".")
        if error.name != dotted or not parent:
            raise
        found = getattr(_import_longest(parent), attribute, None)
        if found is None:
            raise
        return found
