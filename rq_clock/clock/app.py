"""Loads the app's clock, and reports what is wrong in it: alike in `rq-clock check` and in
`python clock.py`.

RQ_CLOCK_APP names it as `module:attribute`; the default is `clock:clock` in the working directory.
Loading starts no clock, also when the app calls `clock.run()` outside of `__main__`.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

from rq_clock.clock.clock import Clock, collect_faults, source
from rq_clock.errors import Fault, RqClockError, ScheduleError
from rq_clock.redaction import escaped, masked_text, printable
from rq_clock.settings import Settings

_ELSEWHERE = ("<", *sysconfig.get_paths().values(), str(Path(__file__).parents[1]))
"""Beginnings of the names of files that are not the app's."""


def load(name: str) -> tuple[Clock, list[Fault]]:
    """Return the clock at `name`, and every fault of its declarations.

    Raises RqClockError if there is no such module, or no clock in it; ScheduleError with every
    fault found so far if the module breaks on import. What it prints goes to standard error.
    """
    module_name, _, attribute = name.partition(":")
    import_from_here()
    with collect_faults() as faults:
        try:
            with redirect_stdout(sys.stderr):
                module = import_module(module_name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and f"{module_name}.".startswith(f"{missing}."):
                raise RqClockError(
                    f"cannot load the app {name!r}: {error}; run this in the directory of your "
                    "clock.py, or set RQ_CLOCK_APP=module:attribute"
                ) from None
            raise ScheduleError(*faults, fault_of(error)) from None
    clock = getattr(module, attribute or "clock", None)
    if not isinstance(clock, Clock):
        raise RqClockError(
            f"expected {name!r} to be a rq_clock.Clock, got {clock!r}; "
            "set RQ_CLOCK_APP=module:attribute"
        )
    return clock, faults + clock.faults()


def import_from_here() -> None:
    """Let modules of the working directory be found, as `python clock.py` finds them."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def fault_of(error: BaseException) -> Fault:
    """Return an error of the app's code as a fault, at the last line of the app that it passed."""
    if isinstance(error, SyntaxError) and error.filename:
        text = f"{type(error).__name__}: {error.msg}"
        return Fault("", text, file=source(error.filename), line=error.lineno)
    try:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    except Exception:  # of an error that has no text to give
        text = type(error).__name__
    fault = Fault("", printable(masked_text(text), 400))
    for frame, line in walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(_ELSEWHERE):
            fault = replace(fault, file=source(file), line=line)
    return fault


# ---- reports ------------------------------------------------------------------------------------


def fault_lines(faults: Sequence[Fault], app: str) -> list[str]:
    """Return a line for each fault, and their number."""
    number = f"{len(faults):,} fault{'s' if len(faults) > 1 else ''}"
    return [*(f"error: {escaped(str(fault))}" for fault in faults), f"{number} in {app}"]


def report(faults: Sequence[Fault]) -> None:
    """Print the faults of the running script."""
    running, app = _running(), ""
    with suppress(RqClockError):  # a wrong setting is not what this is about
        app = Settings.from_env().app
    is_app = app.partition(":")[0] == running
    print(*fault_lines(faults, app if is_app else running), sep="\n", file=sys.stderr)


def report_uncaught(
    previous: Callable[..., Any], kind: type[BaseException], error: BaseException,
    trace: TracebackType | None,
) -> None:  # fmt: skip
    """Be an excepthook: when a wrong declaration ends the app's script, print the faults of all
    its declarations. For those after the wrong one the app is loaded, as `check` loads it."""
    raised_in = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(trace)][-1:]
    of_trigger = any(module.startswith("rq_clock.timing.") for module in raised_in)
    declared = isinstance(error, ScheduleError) and any(fault.file for fault in error.faults)
    if not isinstance(error, ScheduleError) or not (declared or of_trigger):
        previous(kind, error, trace)
        return
    place = fault_of(error)
    faults: Sequence[Fault] = ()
    with suppress(RqClockError):
        app = Settings.from_env().app
        if app.partition(":")[0] == _running():
            try:
                _, faults = load(app)
            except ScheduleError as found:
                faults = found.faults
    report(faults or [f if f.file else replace(place, text=f.text) for f in error.faults])


def _running() -> str:
    """Return the module that runs as the script: "clock" for `python clock.py`."""
    main: Any = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else Path(getattr(main, "__file__", None) or "script").stem
