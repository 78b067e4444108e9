"""Job ids: what the id of a run says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rq_clock.timing.instants import from_ms

_RUN_ID = re.compile(r"([a-z0-9_]{1,40})-([A-Za-z0-9_-]{1,100})-(\d+)(?:-([mb])\d+)?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from. `marks` matches the mark of its entry in the ledger."""

    namespace: str
    schedule: str
    fire_time: datetime
    marks: str


def origin_of(job_id: str) -> Origin | None:
    """What the id of a run tells; None for another one. Ids are for people to choose, too: only
    the job's meta says for sure that it is a run."""
    match = _RUN_ID.fullmatch(job_id)
    if not match:
        return None
    namespace, schedule, fire, manner = match.groups()
    try:
        return Origin(namespace, schedule, from_ms(fire), manner or "[sc]")
    except OverflowError:  # no instant that a schedule could have
        return None


def schedules_of(namespace: str, jobs: Iterable[str]) -> dict[str, str]:
    """The schedules whose jobs these are, and one job of each."""
    found = {}
    for job in jobs:
        if match := re.fullmatch(rf"{namespace}-(.+)-\d+(?:-[mb]\d+)?", job):
            found[match[1]] = job
    return found
