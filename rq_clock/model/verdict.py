"""The states of a schedule, decided in one place for everything that shows them. Pure.

    state      holds while                                               hides
    invalid    its definition, marker, pause or skip cannot be read      all below but running
    paused     its own pause or the pause of all schedules is in force   late, stuck, failing, ended
    ended      it has no fire time to come                               stuck, failing
    late       its fire time passed more than ON_TIME ago, undecided
    stuck      its previous job has blocked it (overlap) for longer
               than RQ_CLOCK_ALERT_STUCK_SECONDS
    failing    its last RQ_CLOCK_ALERT_FAILURES runs failed
    running    a worker runs a job of it now
    scheduled  nothing of the above

Several can hold at once: late and failing, paused and running. The first one, worst first, is the
state of the schedule. A filter by state matches any of them. A pause hides trouble because an
operator has taken the schedule in hand; one that has ended cannot recover. Alerts follow the same
rule: both are dropped. A run that an operator stopped is neither a success nor a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

State = Literal["invalid", "late", "stuck", "failing", "paused", "running", "ended", "scheduled"]
STATES: tuple[str, ...] = get_args(State)
"""Worst first; the order of a list that is sorted by state."""
TROUBLE = STATES[:4]
"""States that need a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When something counts as trouble. `grace` is for alerts only: how late a fire time may be
    before the alert."""

    grace: timedelta = timedelta(seconds=60)
    failures: int = 1
    stuck: timedelta = timedelta(hours=1)


def verdict(  # noqa: PLR0913 - one keyword a fact
    *,
    readable: bool = True,
    paused: bool = False,
    ended: bool = False,
    late: bool = False,
    stuck: bool = False,
    failing: bool = False,
    running: bool = False,
) -> tuple[str, ...]:
    """Return the states of a schedule, worst first, at least one."""
    if not readable:
        found = ["invalid"]
    elif paused:
        found = ["paused"]
    elif ended:
        found = [] if running else ["ended"]
    else:
        found = ["late"] * late + ["stuck"] * stuck + ["failing"] * failing
    return (*found, *(["running"] * running)) or ("scheduled",)
