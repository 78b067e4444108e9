"""Ended attempts, newest first and filtered, for the API and the pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rq_clock.jobs.executions import Ended
from rq_clock.serializers.runs import RunView, run_view
from rq_clock.timing.instants import to_ms
from rq_clock.web.context import Context

SEARCHED = 2000
"""Ended attempts that one page searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """A filter for runs; empty is no condition. `since` and `until` limit the end of an attempt, or
    the fire time in the list of one schedule. `text` is lower case."""

    state: str = ""
    schedule: str = ""
    queue: str = ""
    reason: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def searches(self) -> bool:
        return bool(self.state or self.schedule or self.queue or self.reason or self.text)

    def matches(self, run: RunView, at: datetime, queue: str = "") -> bool:
        """Return whether a run matches; `at` is its instant, `queue` that of its schedule."""
        facts = (run.state, run.schedule, queue, run.reason)
        conditions = (self.state, self.schedule, self.queue, self.reason)
        if any(c not in ("", fact) for c, fact in zip(conditions, facts, strict=True)):
            return False
        if (self.since and at < self.since) or (self.until and at > self.until):
            return False
        return self.text in f"{run.schedule} {run.job or ''} {run.error or ''}".lower()


@dataclass(frozen=True, slots=True)
class EndedRuns:
    """A page of ended attempts. `following` is the cursor of the next page, empty at the end.
    `searched` is the number of attempts searched, when there may be more matches."""

    runs: list[tuple[Ended, RunView]]
    following: str
    searched: int | None


def is_cursor(text: str) -> bool:
    """Return whether a text is the id of an entry in a stream, or empty."""
    return re.fullmatch(r"(?:[0-9]{1,15}-[0-9]{1,15})?", text) is not None


def ended_runs(
    context: Context, match: RunFilter, limit: int, cursor: str, queues: Mapping[str, str]
) -> EndedRuns:
    """Return the first `limit` matches after a cursor; `queues` has the queue of each schedule, if
    the filter has one. One round trip."""
    read = SEARCHED if match.searches else limit + 1
    end = f"{max(to_ms(match.until) + 1, 0)}-0" if match.until else "+"
    found = context.executions.ended(read, cursor or end, match.since)
    runs: list[tuple[Ended, RunView]] = []
    last = ""
    for ended in found:
        if len(runs) == limit:
            return EndedRuns(runs, last, None)
        last = ended.id
        run = run_view(ended.schedule, ended.entry, context.settings.namespace, ended.job_id)
        if match.matches(run, run.ended or run.fire_time, queues.get(ended.schedule, "")):
            runs.append((ended, run))
    more = len(found) == read
    return EndedRuns(runs, last if more else "", len(found) if more else None)
