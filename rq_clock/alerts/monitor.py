"""The leading clock's monitor: it finds problems, stores alerts, and reports them.

Every few seconds, when nothing is due this instant, `look` reads from Redis, in one command, the
overdue schedules, the ended runs, the blocking jobs and the queues without workers. Once a minute
it reads how full the server is. With these, and the commits that `witness` has seen, the rules
(rules.py) find the edges. They are stored in Redis under the fencing token first and reported
(channels.py) afterwards. So a deposed clock reports nothing and a restart never repeats a report. A
clock that dies in between leaves an alert in Redis that is reported a day later, when it still goes
on.

Runs are known from the attempts that rq-clock's workers record; a stock RQ worker records none.
Queues are all that RQ knows of in this Redis. A one-off job that was added at run time has no
alerts once it has been enqueued: it is over.

Not here: an alarm when no clock leads. Nothing inside can raise it; RQ_CLOCK_PING_URL is for that.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

from rq_clock.alerts import channels
from rq_clock.alerts.channels import Channels
from rq_clock.alerts.rules import DIGEST, LATE, STUCK, Edge, OpenAlerts, TickReport, report
from rq_clock.jobs.executions import Ended, Executions, Snapshot
from rq_clock.jobs.outcomes import OK, STOPPED
from rq_clock.model.decision import Decision
from rq_clock.model.entry import Lease
from rq_clock.model.ledger import Attempt, Enqueued
from rq_clock.model.schedule import from_definition
from rq_clock.redaction import masked_text, printable
from rq_clock.settings import Settings
from rq_clock.store.commit import CommitResult
from rq_clock.store.memory import FULL, REMEDY, failed_jobs, memory_info, memory_text, memory_used
from rq_clock.store.store import Store, thresholds_from

LOOK_SECONDS, LEAST_SECONDS = 5.0, 0.1
"""From one look to the next: when no run ends, and when more end than one look reads."""
LOOK_LIMIT = 200
"""Ended runs, or overdue fire times, in one look: about 2 ms."""
COMMITS_LIMIT = 2000
"""Commits that are remembered until the next look."""
TIDY_SECONDS, TIDY_LIMIT = 60.0, 100
"""How often to check that schedules with alerts still exist, and how many at once."""
MEMORY_SECONDS = 60.0
ADDRESSES_LIMIT, DEFINITIONS = 10_000, 20
"""Ping URLs that are remembered, and definitions that are read at once for them."""
REPORTS = 10
"""Reports in a minute; beyond, they are gathered into one."""
PASSED_OVER = ("window", "limit")
"""Reasons of skips that come from lateness."""
RUNS, STALE_TASKS = "@runs", "@stale"


class Monitor:
    """Watches one namespace for the clock that leads it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._executions = Executions(store.redis, settings.namespace)
        self._rules = thresholds_from(settings)
        self._channels = Channels(settings)
        self._open: OpenAlerts | None = None
        self._attempt = ""
        """The newest ended attempt that was read."""
        self._stale = 0
        """Tasks of callbacks that had failed for good, by the counter, at the last look."""
        self._commits: deque[CommitResult] = deque(maxlen=COMMITS_LIMIT)
        self._watched: set[str] = set()
        """Schedules whose successful commits matter too: they may end an alert."""
        self._unconfirmed: tuple[dict[str, str], list[Edge]] = {}, []
        """Sent to be stored, and not answered: after a lost connection the outcome is unknown."""
        self._pending: list[Edge] = []
        self._reported: deque[float] = deque([float("-inf")] * REPORTS, maxlen=REPORTS)
        self._addresses: dict[str, tuple[str, str | None]] = {}
        """Schedule → its revision, and its ping URL then."""
        self._memory_at = float("-inf")
        self._to_tidy: list[str] = []
        self._tidy_at = float("-inf")
        self._now = datetime.min.replace(tzinfo=UTC)

    def witness(self, answer: CommitResult) -> None:
        """Remember a commit, if it may matter. Called in the middle of a tick."""
        entry = answer.planned.entry
        if (
            answer.kind == "overlap"
            or entry.name in self._watched
            or (entry.schedule is not None and entry.schedule.ping is not None)
            or _lateness(answer) > self._rules.grace
        ):
            self._commits.append(answer)

    def look(self, moment: float, now: datetime, tick: TickReport, lease: Lease) -> float:
        """Find problems, store and report them; `moment` is monotonic. Return the seconds until the
        next look.

        Raises LeaseLost, and redis-py's errors; the next look reads the same commits again then.
        """
        self._now = now
        alerts = self._open = self._open or self._load()
        for answer in self._commits:
            self._check_commit(alerts, answer)
        before = now - self._rules.grace
        snapshot = self._executions.snapshot(before, self._attempt, alerts.jobs(), LOOK_LIMIT)
        self._check(alerts, snapshot, tick)
        alerts.time(tick.time, now)
        stale = self._check_callbacks(alerts, tick)
        if moment >= self._memory_at:
            self._memory_at = moment + MEMORY_SECONDS
            self._check_memory(alerts)
        if moment >= self._tidy_at and alerts.schedules():
            self._tidy_at = moment + TIDY_SECONDS
            self._tidy(alerts)
        self._keep(alerts, snapshot.attempt, stale, lease)
        self._report(moment)
        self._ping(snapshot, tick, moment)
        self._commits.clear()
        self._watched = alerts.schedules(LATE, STUCK)
        return max(LEAST_SECONDS, LOOK_SECONDS / (1 + len(snapshot.ended) / 20))

    def forget(self) -> None:
        """Read the alerts again: another clock may have led, or the server been away."""
        self._open = None

    def close(self) -> None:
        """Send what can be sent within a second."""
        self._report(float("inf"))
        self._channels.close()

    # ---- finding problems ---------------------------------------------------------------------

    def _load(self) -> OpenAlerts:
        kept = self._store.alerts()
        changes, edges = self._unconfirmed
        if changes and all(kept.get(field, "") == text for field, text in changes.items()):
            self._log(edges)
        self._unconfirmed = {}, []
        self._attempt = kept.pop(RUNS, "")
        known = kept.pop(STALE_TASKS, "")
        self._stale = int(known) if known.isdecimal() else 0
        return OpenAlerts(self._rules, kept)

    def _check_commit(self, alerts: OpenAlerts, answer: CommitResult) -> None:
        plan = answer.planned
        name, decision, late = plan.entry.name, plan.decision, _lateness(answer)
        if answer.kind == "overlap":
            alerts.blocked(name, decision.fire_times[-1], answer.detail)
            return
        if plan.job_ids:
            alerts.unblocked(name, self._now)
        first = _oldest(decision)
        over = decision.over and not plan.entry.declared  # the end of a one-off job
        if first and late > self._rules.grace and not over:
            how = "was enqueued" if plan.job_ids else "came too late to run,"
            alerts.late(name, first, f"{how} {late.total_seconds():.0f} s late", self._now)
        elif plan.job_ids:
            alerts.on_time(name, self._now)

    def _check(self, alerts: OpenAlerts, snapshot: Snapshot, tick: TickReport) -> None:
        for name, fire_time in snapshot.overdue.items():
            why = f": {tick.faulty[name]}" if name in tick.faulty else ""
            alerts.late(name, fire_time, _line(f"is undecided{why}"), self._now)
        for name, job_id in tick.lost:
            alerts.failed(name, self._now, f"its job {job_id} has vanished", self._now)
        for ended, _ in snapshot.ended:
            attempt = _final(ended)
            if attempt and attempt.state == OK:
                alerts.succeeded(ended.schedule, self._now)
            elif attempt and attempt.state != STOPPED:  # by an operator
                error = _line(attempt.error or attempt.state)
                alerts.failed(ended.schedule, attempt.ended, error, self._now)
        alerts.check(snapshot.live, snapshot.unserved, self._now)

    def _check_callbacks(self, alerts: OpenAlerts, tick: TickReport) -> int:
        """Return the tasks that have failed for good, by the counter."""
        if tick.callbacks is None:
            return self._stale
        count = tick.callbacks.counters.get("stale", 0)
        alerts.stale(count - self._stale, tick.callbacks)
        alerts.hosts(tick.callbacks)
        return count

    def _check_memory(self, alerts: OpenAlerts) -> None:
        """Compare the server's memory with its limit; nothing where it refuses to report it."""
        redis = self._store.redis
        if info := memory_info(redis):
            used = memory_used(info) or 0.0
            failed = failed_jobs(redis) if used >= FULL else {}
            text = f"{memory_text(info, failed)}; {REMEDY}" if used >= FULL else ""
            alerts.memory(used, text, self._now)

    def _tidy(self, alerts: OpenAlerts) -> None:
        """Drop the alerts of schedules that expect no fire time any more, some at a time."""
        names = self._to_tidy or sorted(alerts.schedules())
        names, self._to_tidy = names[:TIDY_LIMIT], names[TIDY_LIMIT:]
        entries, _ = self._store.load(names)
        expecting = {
            name
            for name, entry in entries.items()
            if entry.states(self._now)[0] not in ("paused", "ended")
        }
        alerts.drop(set(names) - expecting)

    # ---- storing and reporting ----------------------------------------------------------------

    def _keep(self, alerts: OpenAlerts, attempt: str, stale: int, lease: Lease) -> None:
        """Store the changes, then log the edges."""
        edges, changes = alerts.drain()
        if stale != self._stale:
            changes[STALE_TASKS] = str(stale)
        if attempt != self._attempt:
            changes[RUNS] = attempt  # last: until then these runs count as not read
        if changes:
            self._unconfirmed = changes, edges
            self._store.keep_alerts(lease, changes)
            self._unconfirmed = {}, []
        self._attempt, self._stale = attempt, stale
        self._log(edges)

    def _log(self, edges: list[Edge]) -> None:
        if edges:
            channels.log(edges, many=len(edges) > DIGEST)
        self._pending += edges

    def _report(self, moment: float) -> None:
        """Report the pending edges: each by itself if there are few. After many reports in the last
        minute they wait, and are reported together with later ones."""
        room = sum(moment_before <= moment - 60 for moment_before in self._reported)
        edges = self._pending
        if not edges or not room:
            return
        parts = [[edge] for edge in edges] if len(edges) <= min(room, DIGEST) else [edges]
        for part in parts:
            self._reported.append(moment)
            self._channels.send(report(part, self._store.namespace, self._now))
        self._pending = []

    def _ping(self, snapshot: Snapshot, tick: TickReport, moment: float) -> None:
        """Ping the services of schedules, and the one that watches this clock."""
        pings = self._channels.pings
        for answer in self._commits:
            schedule = answer.planned.entry.schedule
            if schedule and schedule.ping and answer.kind != "overlap":
                for job_id in answer.planned.job_ids:
                    pings.started(schedule.name, schedule.ping, job_id, moment)
        self._read_addresses(snapshot)
        for ended, _ in snapshot.ended:
            attempt, (_, url) = _final(ended), self._addresses[ended.schedule]
            if attempt and url:
                pings.ended(ended.schedule, url, ended.job_id, moment, ok=attempt.state == OK)
        pings.flush(moment)
        late = any(_lateness(answer) > self._rules.grace for answer in self._commits)
        overdue = snapshot.overdue.keys() - tick.faulty.keys()
        if not (late or overdue or tick.refused):
            self._channels.alive(moment)

    def _read_addresses(self, snapshot: Snapshot) -> None:
        """Read the ping URLs of schedules that are new or have changed, a few definitions at a
        time: they may be large."""
        if len(self._addresses) > ADDRESSES_LIMIT:
            self._addresses.clear()
        unknown = {
            ended.schedule: revision
            for ended, revision in snapshot.ended
            if self._addresses.get(ended.schedule, ("",))[0] != revision
        }
        names = list(unknown)
        while portion := names[:DEFINITIONS]:
            del names[:DEFINITIONS]
            for name, stored in zip(portion, self._store.definitions(portion), strict=True):
                self._addresses[name] = unknown[name], _address(name, stored)


def _oldest(decision: Decision) -> datetime | None:
    """Return the first fire time that was due, also if it was too late to run."""
    for skip in decision.skips:  # they come before what is enqueued
        if skip.reason in PASSED_OVER:
            return skip.first
    return decision.fire_times[0] if decision.fire_times else None


def _lateness(answer: CommitResult) -> timedelta:
    """Return how long after its fire time it was decided, or after its adding if that was later."""
    first = _oldest(answer.planned.decision)
    if first is None:
        return timedelta(0)
    plan = answer.planned
    return plan.decided_at - max(first, plan.entry.known_since)


def _final(ended: Ended) -> Attempt | None:
    """Return the attempt, if it ended the run: neither interrupted nor to be retried."""
    attempt = ended.entry.attempt if isinstance(ended.entry, Enqueued) else None
    return attempt if attempt and (attempt.state == OK or not ended.again) else None


def _line(text: str) -> str:
    """Return a text for other places than our log: one line, obvious secrets masked."""
    return printable(masked_text(text), 200)


def _address(name: str, definition: str | None) -> str | None:
    """Return the ping URL of a schedule's stored definition."""
    try:
        return from_definition(name, definition).ping if definition else None
    except Exception:  # of a later release, or whatever others have written
        return None
