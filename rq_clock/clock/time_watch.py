"""The leader's watch over Redis's time: what a step means, and what is reported of it."""

from __future__ import annotations

from math import inf

from rq_clock.log import log_event, log_warning
from rq_clock.runtime import Runtime
from rq_clock.store.server_time import DOUBT_SECONDS, time_faults

ALERT_SKEW = 60.0
"""Seconds by which this host's clock must be wrong for an alert: nothing depends on it."""


class TimeWatch:
    """Notices steps of the time of one process, and logs each once."""

    def __init__(self, runtime: Runtime) -> None:
        self._time = runtime.time
        self._monotonic = runtime.monotonic
        self._went_back = -inf, 0.0
        """When the server's time went back (monotonic), and by how many seconds."""
        self.doubtful = False
        """Whether nothing may be decided."""

    def look(self) -> bool:
        """Look at the measurements. Return whether the time went back since the last look."""
        back, ahead = self._time.take_step_back(), self._time.ahead
        if back:
            log_warning("time.back", seconds=f"{back:.1f}")
            self._went_back = self._monotonic(), back
        if ahead and not self.doubtful:
            log_warning(
                "time.doubtful",
                ahead=f"{ahead:.0f}s",
                effect=f"nothing is decided until this host agrees, at most {DOUBT_SECONDS:g} s",
                remedy="compare the clocks of the Redis servers and of this host",
            )
        elif self.doubtful and not ahead:
            log_event("time.accepted", now=self._time.now())
        self.doubtful = ahead > 0
        return back > 0

    def faults(self) -> str:
        """Return what is wrong with the time, for an alert; empty if nothing is."""
        faults = time_faults(self._time.facts(), ALERT_SKEW)
        moment, back = self._went_back
        if self._monotonic() < moment + DOUBT_SECONDS:
            faults.append(f"Redis's time went back by {back:.0f} s")
        return "; ".join(faults)
