"""The leading clock's eye on what goes wrong: it finds out, keeps, and tells.

Once every few seconds, when nothing is due this instant, `look` asks Redis in one command what is
overdue, what has ended, what holds up and what nobody serves; with what `witness` saw of the
commits since, the board (alerts.py) says what is news. That is kept in Redis under the fencing
token first and told (channels.py) afterwards. So a clock that was deposed tells nothing, a restart
tells nothing twice, and a clock that dies in between leaves an alert in Redis that nobody was told
of until it is called to mind a day later.

Runs are known from the attempts that rq-clock's workers record; of a stock RQ worker's nobody
hears. Queues are all that RQ knows of in this Redis, whoever fills them. A one-off job that was
added at run time has no alerts once it has been enqueued: it is over.

Not here: what says that no clock leads at all. Nothing inside can; RQ_CLOCK_PING_URL is for that.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

from rq_clock.alerts import channels
from rq_clock.alerts.channels import Channels
from rq_clock.alerts.rules import (
    DIGEST,
    LATE,
    STUCK,
    Edge,
    OpenAlerts,
    Rules,
    TickReport,
    report,
)
from rq_clock.jobs.executions import Ended, Executions, Snapshot
from rq_clock.jobs.outcomes import OK, STOPPED
from rq_clock.model.decision import Decision
from rq_clock.model.entry import Entry, Lease
from rq_clock.model.ledger import Attempt, Enqueued
from rq_clock.model.schedule import from_definition
from rq_clock.redaction import masked_text, printable
from rq_clock.settings import Settings
from rq_clock.store.commit import CommitResult, Planned
from rq_clock.store.store import Store

LOOK_SECONDS, LEAST_SECONDS = 5.0, 0.1
"""From one look to the next when nothing ends, and when more does than one look takes in."""
MANY = 200
"""Ended runs, or overdue fire times, in one look: about 2 ms."""
SEEN = 2000
"""Answers to commits that are remembered until the next look, of those that matter."""
TIDY_SECONDS, TIDIED = 60.0, 100
"""How often it is asked whether schedules with alerts still exist, and of how many at once."""
REPORTS = 10
"""Reports in a minute; what comes beyond is gathered into one."""
PASSED_OVER = ("window", "limit")
"""Reasons of skips that come from lateness."""
RUNS = "@runs"


class Monitor:
    """Watches one namespace for the clock that leads it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._executions = Executions(store.redis, settings.namespace)
        self._rules = Rules(
            grace=timedelta(seconds=settings.alert_grace),
            failures=settings.alert_failures,
            stuck=timedelta(seconds=settings.alert_stuck),
        )
        self._channels = Channels(settings)
        self._board: OpenAlerts | None = None
        self._attempt = ""
        """The newest ended attempt that the board knows of."""
        self._seen: deque[CommitResult] = deque(maxlen=SEEN)
        self._watched: set[str] = set()
        """Schedules of which also what goes well matters."""
        self._unsure: tuple[dict[str, str], list[Edge]] = {}, []
        """Sent to be kept, but the answer has not come: after a lost connection nobody knows."""
        self._untold: list[Edge] = []
        self._reported: deque[float] = deque([float("-inf")] * REPORTS, maxlen=REPORTS)
        self._to_tidy: list[str] = []
        self._tidy_at = float("-inf")
        self._now = datetime.min.replace(tzinfo=UTC)

    def witness(self, answer: CommitResult) -> None:
        """Remember what a commit did, if it may matter. Called in the midst of a tick."""
        entry = answer.planned.entry
        if (
            answer.kind == "overlap"
            or entry.name in self._watched
            or (entry.schedule is not None and entry.schedule.ping is not None)
            or _lateness(answer) > self._rules.grace
        ):
            self._seen.append(answer)

    def look(self, moment: float, now: datetime, tick: TickReport, lease: Lease) -> float:
        """Find out, keep and tell; `moment` is monotonic. Seconds until the next look.

        Raises LeaseLost, and redis-py's errors; what was seen of commits is looked at again then.
        """
        self._now = now
        board = self._board = self._board or self._load()
        for answer in self._seen:
            self._account(board, answer)
        before = now - self._rules.grace
        sight = self._executions.sight(before, self._attempt, board.jobs(), MANY)
        self._judge(board, sight, tick)
        if moment >= self._tidy_at and board.schedules():
            self._tidy_at = moment + TIDY_SECONDS
            self._tidy(board)
        self._keep(board, sight.attempt, lease)
        self._tell(moment)
        self._ping(sight, tick, moment)
        self._seen.clear()
        self._watched = board.schedules(LATE, STUCK)
        return max(LEAST_SECONDS, LOOK_SECONDS / (1 + len(sight.ended) / 20))

    def forget(self) -> None:
        """Another clock may have led, or the server been away: what Redis holds is true."""
        self._board = None

    def close(self) -> None:
        """Tell what can be told within a second."""
        self._tell(float("inf"))
        self._channels.close()

    # ---- finding out --------------------------------------------------------------------------

    def _load(self) -> OpenAlerts:
        kept = self._store.alerts()
        changes, edges = self._unsure
        if changes and all(kept.get(field, "") == text for field, text in changes.items()):
            self._say(edges)
        self._unsure = {}, []
        self._attempt = kept.pop(RUNS, "")
        return OpenAlerts(self._rules, kept)

    def _account(self, board: OpenAlerts, answer: CommitResult) -> None:
        """What a commit says about its schedule."""
        plan = answer.planned
        name, decision, late = plan.entry.name, plan.decision, _lateness(answer)
        if answer.kind == "overlap":
            board.blocked(name, decision.fire_times[-1], answer.detail)
            return
        if plan.job_ids:
            board.unblocked(name, self._now)
        first = _oldest(decision)
        if first and late > self._rules.grace and not _is_over(plan):
            how = "was enqueued" if plan.job_ids else "came too late to run,"
            board.late(name, first, f"{how} {late.total_seconds():.0f} s late", self._now)
        elif plan.job_ids:
            board.on_time(name, self._now)

    def _judge(self, board: OpenAlerts, sight: Snapshot, tick: TickReport) -> None:
        """What one look says."""
        for name, fire_time in sight.overdue.items():
            why = f": {tick.faulty[name]}" if name in tick.faulty else ""
            board.late(name, fire_time, _line(f"is undecided{why}"), self._now)
        for name, job_id in tick.lost:
            board.failed(name, self._now, f"its job {job_id} has vanished", self._now)
        for ended, _ in sight.ended:
            attempt = _final(ended)
            if attempt and attempt.state == OK:
                board.succeeded(ended.schedule, self._now)
            elif attempt and attempt.state != STOPPED:  # that is an operator's doing
                error = _line(attempt.error or attempt.state)
                board.failed(ended.schedule, attempt.ended, error, self._now)
        board.see(sight.live, sight.unserved, self._now)

    def _tidy(self, board: OpenAlerts) -> None:
        """Drop the alerts of schedules that have nothing to expect any more, some at a time."""
        names = self._to_tidy or sorted(board.schedules())
        names, self._to_tidy = names[:TIDIED], names[TIDIED:]
        entries, _ = self._store.load(names)
        board.drop({name for name in names if self._expects_nothing(entries.get(name))})

    def _expects_nothing(self, entry: Entry | None) -> bool:
        if entry is None or entry.pause(self._now):
            return True
        try:
            return entry.schedule is not None and entry.schedule.next_after(entry.decided) is None
        except Exception:  # its fault is in the log of the clock: `schedule.invalid`
            return False

    # ---- keeping and telling ------------------------------------------------------------------

    def _keep(self, board: OpenAlerts, attempt: str, lease: Lease) -> None:
        """Keep what changed; only then is it news."""
        edges, changes = board.take()
        if attempt != self._attempt:
            changes[RUNS] = attempt  # last: until then what ended counts as not seen
        if changes:
            self._unsure = changes, edges
            self._store.keep_alerts(lease, changes)
            self._unsure = {}, []
        self._attempt = attempt
        self._say(edges)

    def _say(self, edges: list[Edge]) -> None:
        if edges:
            channels.log(edges, many=len(edges) > DIGEST)
        self._untold += edges

    def _tell(self, moment: float) -> None:
        """Report what is untold: each edge by itself if there are few, and none if there were many
        reports in the last minute; then it is told with what comes until there is room."""
        room = sum(told <= moment - 60 for told in self._reported)
        edges = self._untold
        if not edges or not room:
            return
        parts = [[edge] for edge in edges] if len(edges) <= min(room, DIGEST) else [edges]
        for part in parts:
            self._reported.append(moment)
            self._channels.send(report(part, self._store.namespace, self._now))
        self._untold = []

    def _ping(self, sight: Snapshot, tick: TickReport, moment: float) -> None:
        """Tell the services that wait for runs, and the one that waits for this clock."""
        pings = self._channels.pings
        for answer in self._seen:
            schedule = answer.planned.entry.schedule
            if schedule and schedule.ping and answer.kind != "overlap":
                for job_id in answer.planned.job_ids:
                    pings.started(schedule.name, schedule.ping, job_id, moment)
        for ended, definition in sight.ended:
            attempt = _final(ended)
            if attempt and (url := _address(ended.schedule, definition)):
                pings.ended(ended.schedule, url, ended.job_id, moment, ok=attempt.state == OK)
        pings.flush(moment)
        late = any(_lateness(answer) > self._rules.grace for answer in self._seen)
        overdue = sight.overdue.keys() - tick.faulty.keys()
        if not (late or overdue or tick.refused):
            self._channels.alive(moment)


def _oldest(decision: Decision) -> datetime | None:
    """The first fire time that was to run, also if it was too late for that."""
    for skip in decision.skips:  # they come before what is enqueued
        if skip.reason in PASSED_OVER:
            return skip.first
    return decision.fire_times[0] if decision.fire_times else None


def _lateness(answer: CommitResult) -> timedelta:
    """How long after its fire time it was decided; if it was added later, how long after that."""
    first = _oldest(answer.planned.decision)
    if first is None:
        return timedelta(0)
    plan = answer.planned
    return plan.decided_at - max(first, plan.entry.known_since)


def _is_over(plan: Planned) -> bool:
    """Whether that was all there was of a one-off job."""
    return plan.decision.next is None and not plan.entry.declared


def _final(ended: Ended) -> Attempt | None:
    """The attempt, if it says how the run ended: neither interrupted nor to be retried."""
    attempt = ended.entry.attempt if isinstance(ended.entry, Enqueued) else None
    return attempt if attempt and (attempt.state == OK or not ended.again) else None


def _line(text: str) -> str:
    """A text that goes to other places than our log: one line, without what is plainly secret."""
    return printable(masked_text(text), 200)


def _address(name: str, definition: str) -> str | None:
    """Where a schedule, by its stored definition, wants to have its runs told."""
    try:
        return from_definition(name, definition).ping if definition else None
    except Exception:  # of a later release, or whatever others have written
        return None
