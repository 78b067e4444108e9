"""How a test lets a run end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from rq_clock.jobs import outcomes
from rq_clock.jobs.outcomes import Execution, Outcome

Ending = Callable[[Execution, datetime], Outcome]


def ok(execution: Execution, now: datetime) -> Outcome:
    return outcomes.succeeded(execution, now, None)


def fails(execution: Execution, now: datetime) -> Outcome:
    return outcomes.failed(execution, now, "Traceback\nValueError: password=hunter22")


def stopped(execution: Execution, now: datetime) -> Outcome:
    return outcomes.failed(execution, now, "stopped", state=outcomes.STOPPED)


def interrupted(execution: Execution, now: datetime) -> Outcome:
    return outcomes.interrupted(execution, now, 1)
