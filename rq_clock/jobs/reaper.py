"""The reaper: recovers the jobs of dead workers, and moves retries that are due to their queues.

The leading clock runs it; a worker does when no clock leads. Several may run at once: every step
compares the state it is based on, and the second one finds it done.

A worker is dead when it gave no sign of life for some seconds of this process's clock, while the
server answered at each look. After an outage, or a freeze or pause of this process, the count
starts again, because then every worker seems silent.
"""

from __future__ import annotations

from datetime import datetime

from rq_clock.jobs.executions import Executions, Slot
from rq_clock.jobs.outcomes import LOST, interrupted
from rq_clock.log import FaultLog, log_warning
from rq_clock.store.client import is_outage

SILENCE = 10.0
"""Seconds, unless RQ_CLOCK_WORKER_SILENCE says otherwise."""
LONGEST_GAP = 6.0
"""Seconds between two looks beyond which the count starts again; longer when silence is longer."""
BURST = 5
"""Rounds of 100 jobs promoted in one look: about 10 ms."""


class Reaper:
    """Watches one namespace's workers and RQ's scheduled jobs."""

    def __init__(
        self, executions: Executions, silence: float = SILENCE, max_deaths: int = 3
    ) -> None:
        """After `silence` seconds without a sign a worker is dead. The death of a worker that runs
        a job puts the job back, but the job has failed with the death number `max_deaths`."""
        self._executions = executions
        self._silence, self._limit = silence, max_deaths - 1
        self._longest_gap = max(LONGEST_GAP, silence * 0.6)
        self._silent: dict[str, tuple[str, float]] = {}
        """Worker → its last sign of life, and since when (monotonic) it is the last."""
        self._looked = float("-inf")
        self._faults = FaultLog()

    def look(self, moment: float, now: datetime) -> datetime | None:
        """Look once; `moment` is monotonic. Return when the next scheduled job is due. Raises
        redis-py's errors; call `forget` then."""
        if moment - self._looked > self._longest_gap:
            self._silent.clear()
        self._looked = moment
        slots, due, moved = self._executions.scan(now)
        self._silent = {slot.worker: self._last_sign(slot, moment) for slot in slots}
        for slot in slots:
            silent = moment - self._silent[slot.worker][1]
            if silent >= self._silence:
                try:
                    self._reap(slot, silent, now)
                except Exception as error:
                    if is_outage(error):
                        raise
                    self._faults.report("duty.failed", error, duty="reaper", worker=slot.worker)
        for _ in range(BURST if moved else 0):
            _, due, moved = self._executions.scan(now)
            if not moved:
                break
        return due

    def forget(self) -> None:
        """Start the count again: the server did not answer."""
        self._silent.clear()

    def _last_sign(self, slot: Slot, moment: float) -> tuple[str, float]:
        before = self._silent.get(slot.worker)
        return before if before and before[0] == slot.value else (slot.value, moment)

    def _reap(self, slot: Slot, silent: float, now: datetime) -> None:
        execution = self._executions.execution_of(slot)
        outcome, fields = None, {}
        if execution is not None:
            error = f"worker {slot.worker} gave no sign of life for {silent:.0f} s"
            outcome = interrupted(execution, now, self._limit, state=LOST, error=error)
            fields = {"job": execution.job_id, "again": outcome.again or "no"}
        if self._executions.reap(slot, execution, outcome):
            log_warning("worker.dead", worker=slot.worker, silent=f"{silent:.0f}s", **fields)
            del self._silent[slot.worker]
