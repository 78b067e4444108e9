"""Job ids: the id of a run names its namespace, schedule and fire time. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rq_clock.timing.instants import from_ms, to_ms

_PATTERN = re.compile(r"([a-z0-9_]{1,40})-([A-Za-z0-9_-]{1,100})-(\d+)(?:-([mb])(\d+))?")


@dataclass(frozen=True, slots=True)
class JobId:
    """The id of a run: `<namespace>-<schedule>-<fire time, ms>`. A run by hand ends with
    `-m<number>`, a run of a backfill with `-b<number>`; `kind` is that letter, or empty for a run
    that the clock enqueued."""

    namespace: str
    schedule: str
    fire_time: datetime
    kind: str = ""
    number: str = ""

    @classmethod
    def parse(cls, text: str) -> JobId | None:
        """Return the parts of a run's id; None for any other id. People choose job ids, too: only
        the job's meta proves that it is a run."""
        match = _PATTERN.fullmatch(text)
        if not match:
            return None
        namespace, schedule, fire_time, kind, number = match.groups("")
        try:
            return cls(namespace, schedule, from_ms(fire_time), kind, number)
        except OverflowError:  # no instant that a schedule could have
            return None

    def __str__(self) -> str:
        end = f"-{self.kind}{self.number}" if self.kind else ""
        return f"{self.namespace}-{self.schedule}-{to_ms(self.fire_time)}{end}"

    @property
    def ledger_codes(self) -> str:
        """Lua pattern of the codes that the run's ledger entry may have."""
        return self.kind or "[sc]"

    def same_fire_time(self, other: JobId) -> bool:
        """Return whether both are runs of one fire time of one schedule."""
        mine = self.namespace, self.schedule, self.fire_time
        return mine == (other.namespace, other.schedule, other.fire_time)


def jobs_by_schedule(namespace: str, jobs: Iterable[str]) -> dict[str, str]:
    """Return the schedules that have a run among these jobs, with the last such job of each."""
    parsed = ((job, JobId.parse(job)) for job in jobs)
    return {id.schedule: job for job, id in parsed if id and id.namespace == namespace}
