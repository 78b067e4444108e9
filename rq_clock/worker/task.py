"""The job of a worker: taken, then handed to its process, then ended but not stored."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from rq_clock.jobs import outcomes
from rq_clock.jobs.outcomes import Execution, Outcome
from rq_clock.log import log_event
from rq_clock.worker.job_output import JobOutput
from rq_clock.worker.perform import Aftermath
from rq_clock.worker.work_horse import WorkHorse

NOT_BEGUN = "it did not begin"


class Task:
    """A job and its process, which has to begin it by a moment (monotonic seconds)."""

    def __init__(
        self, execution: Execution, horse: WorkHorse, output: JobOutput, begin_by: float
    ) -> None:
        self.execution, self.horse, self.output = execution, horse, output
        self._begin_by = begin_by
        self.outcome: Outcome | None = None
        self.aftermath: Aftermath | None = None
        """What its process does for a job whose own process was killed."""
        self.reusable = self.webhooks = False
        """Whether the process takes another job; whether it still calls RQ's webhooks, once the
        outcome is stored."""
        self.finish_by = float("inf")
        """Until when the process of a job that did not succeed may end by itself."""

    @property
    def finishing(self) -> bool:
        """Whether its end is stored only once its process has ended."""
        assert self.outcome
        waits = self.outcome.state == outcomes.OK or self.webhooks
        return not waits and self.horse.exit_status() is None

    @property
    def never_began(self) -> bool:
        """Return whether its process, which is gone, was lost to the job before: that job has left
        it busy, or has ended it late. Another process can run this one."""
        horse = self.horse
        begun = self.outcome or self.aftermath or horse.jobs == 1 or horse.deadline > 0
        return not begun and horse.kill_reason in ("", NOT_BEGUN)

    @property
    def limit(self) -> float:
        """When (monotonic seconds) its process is killed."""
        return self.horse.deadline or self._begin_by

    @property
    def job_id(self) -> str:
        return self.execution.job_id

    def death(
        self, now: datetime, *, stopped: bool, stopping: bool, limit: int, kept: bool
    ) -> Outcome:
        """Return the outcome of a job whose process has ended without one: `stopped` by a command
        of RQ, while the worker is `stopping`, or by itself. For `limit` and `kept` see outcomes."""
        execution, why = self.execution, self.horse.kill_reason
        status = self.horse.exit_status() or 0
        by = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        state = outcomes.FAILED
        if stopped:
            trace, state = "Job stopped by user, work-horse terminated.", outcomes.STOPPED
        elif why == outcomes.INTERRUPTED or (stopping and os.WIFSIGNALED(status)):
            error = f"the worker had to end ({by})"
            return outcomes.interrupted(execution, now, limit, error=error)
        elif why == outcomes.TIMED_OUT:
            trace = f"Task exceeded maximum timeout value ({execution.timeout} seconds)"
            state = outcomes.TIMED_OUT
        else:
            late = f": {why}" if why else ""
            trace = f"Work-horse terminated unexpectedly; waitpid returned {status} ({by}){late}"
        return outcomes.failed(execution, now, trace, state=state, kept=kept)


def log_end(execution: Execution, outcome: Outcome) -> None:
    """Log how a job ended."""
    origin = execution.origin
    fields: dict[str, Any] = {"job": execution.job_id, "queue": execution.queue}
    if origin:
        fields = {"schedule": origin.schedule, "fire_time": origin.fire_time, **fields}
    seconds = (outcome.ended - execution.started).total_seconds()
    fields |= {"state": outcome.state, "attempt": execution.attempt, "took": f"{seconds:.3f}s"}
    if outcome.error:
        fields["error"] = outcome.error
    if outcome.again:
        fields["again"] = outcome.again
    log_event("run.ended" if origin else "job.ended", **fields)
