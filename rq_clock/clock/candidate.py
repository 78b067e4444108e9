"""A clock that does not lead: its requests for the lease, and the pauses between them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from rq_clock.log import log_event, log_warning
from rq_clock.model.entry import Lease, LeaseRefused
from rq_clock.settings import Settings

NEWCOMER_SECONDS = 0.5
"""How long a clock that has not led yet lets others go first when a lease has run out: the holder
died, and if that was in a crash loop, the next of the loop must not win against one that works."""
FOREIGN_SECONDS = 10.0
"""How often a clock of another owner looks whether the namespace has become its own."""
OWNERLESS_SECONDS = 60.0
"""How long such a clock leaves a namespace alone that has lost its owner: Redis may have come back
empty, and then it belongs to the one who had it."""


class Candidate:
    """The requests of one clock for the lease of its namespace."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float], mode: str) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._ownerless_since = inf
        """Since when (monotonic) a namespace that was another owner's has none."""
        self.mode = mode
        """Of the next request; see store.lease."""

    def answered(self, answer: Lease | LeaseRefused) -> None:
        """Choose the mode of the next request by the answer to the last one."""
        kind = answer.kind if isinstance(answer, LeaseRefused) else "granted"
        now = self._monotonic()
        self._ownerless_since = min(self._ownerless_since, now) if kind == "ownerless" else inf
        waits = now < self._ownerless_since + OWNERLESS_SECONDS < inf
        self.mode = "foreign" if kind == "foreign" or waits else "waiting"

    def pause(self, refused: LeaseRefused, *, has_led: bool) -> float:
        """Return the seconds until the lease may be free."""
        if refused.kind in ("foreign", "ownerless"):
            return FOREIGN_SECONDS
        return refused.wait + (0.005 if has_led else NEWCOMER_SECONDS)

    def log(self, refused: LeaseRefused) -> None:
        if refused.kind == "ownerless":
            log_event("clock.ownerless", wait=f"{OWNERLESS_SECONDS:g}s")
        elif refused.kind == "foreign":
            log_warning(
                "clock.foreign",
                owner=refused.owner,
                this=self._settings.owner,
                leader=refused.holder or "none",
                namespace=self._settings.namespace,
                remedy="this clock schedules nothing here; if it should, set RQ_CLOCK_OWNER to the "
                "same value for both, or start it once with --take-over; another app needs its "
                "own RQ_CLOCK_NAMESPACE",
            )
        else:
            log_event("clock.standby", leader=refused.holder)
