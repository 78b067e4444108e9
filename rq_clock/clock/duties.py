"""The leader's duties beside the tick. They take turns: a backlog of one starves no other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rq_clock.clock.planner import Planner
from rq_clock.model.entry import Lease


@dataclass(slots=True)
class Duty:
    """Work of the leader beside the tick. Instants are monotonic seconds."""

    name: str
    look: Callable[[Planner, Lease], float]
    """Do it; return the seconds until it is due again."""
    next_at: float = 0.0
    """When it is due."""
    done_at: float = 0.0
    """When it was done last."""


def next_duty(duties: Iterable[Duty], now: float) -> Duty | None:
    """Return the duty that is due and was done the longest ago; None when none is due."""
    due = (duty for duty in duties if now >= duty.next_at)
    return min(due, key=lambda duty: duty.done_at, default=None)
