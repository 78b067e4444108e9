"""Which alerts are open, and which of their changes to report. Pure.

An alert is one problem, from its beginning to its end:

    late        a fire time was decided, or is undecided, more than `grace` after it came; over when
                the schedule is enqueued on time again
    failing     `failures` runs of a schedule in a row ended for good without success; over with
                the next success
    stuck       a job has blocked its schedule (overlap) for longer than `stuck` since the first
                fire time that was skipped for it; over when the job has ended
    no-worker   jobs have waited in a queue for UNSERVED and no living worker serves it; over when
                one does or none waits
    memory      the server uses FULL of its memory, whose end stops every schedule; over below ROOM
    time        the server's time is in doubt or went back, or the leader's host is far off
    stale       tasks of callbacks have failed for good; over when none has for QUIET
    host        HOST_FAILURES calls of a host in a row have failed, over UNSERVED or longer; over
                with its next success. Dropped when its last call is FORGOTTEN ago

Reported are its edges: it began, it goes on (once a day), it is over. Alerts that have not lasted
long enough to be reported are stored too, so that a restart counts on. A schedule that is paused,
removed or has no fire time left has no alerts: they are dropped without a report.

Not here: how alerts are sent (channels.py), how they are found and stored (monitor.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from rq_clock.model.callbacks import CallbacksStatus
from rq_clock.model.verdict import Thresholds
from rq_clock.store.memory import FULL, ROOM
from rq_clock.timing.instants import from_ms, iso, to_ms

LATE, FAILING, STUCK, NO_WORKER = "late", "failing", "stuck", "no-worker"
MEMORY, TIME, SERVER = "memory", "time", "redis"
STALE, HOST, CALLBACKS = "stale", "host", "callbacks"
OF_SCHEDULES = (LATE, FAILING, STUCK)
"""Kinds of alerts whose subject is a schedule."""
_FIELDS = {NO_WORKER: "queue", MEMORY: "server", TIME: "server", STALE: "queue", HOST: "host"}
BEGAN, GOES_ON, RECOVERED = "began", "goes_on", "recovered"
UNSERVED = timedelta(seconds=60)
REMIND = timedelta(hours=24)
QUIET, FORGOTTEN = timedelta(hours=1), timedelta(hours=24)
HOST_FAILURES = 5
ALERT_LIMIT = 1000
"""Open alerts of one kind. After an outage a hundred thousand late schedules are one report; to
store and report each would delay the tick."""
DIGEST = 10
"""Edges up to which a message lists each; beyond, it sums them up."""
LISTED = 100
"""Edges that a summary names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """Problems that the planner met since the last look."""

    refused: bool
    """Whether the server accepts no commits at present."""
    faulty: Mapping[str, str]
    """Schedules that stay undecided for a reason of their own, and the reason."""
    lost: tuple[tuple[str, str], ...]
    """Schedules and those of their jobs that were found nowhere."""
    time: str = ""
    """What is wrong with the time."""
    callbacks: CallbacksStatus | None = None
    """How callbacks are, if they were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """`subject` is a schedule, of no-worker a queue, of memory and time SERVER, of stale CALLBACKS,
    of host a host. `last` is the newest fire time, or end of a run or call, that counted;
    `reported` when an edge was reported last, None if none was yet. `detail` is one line about the
    newest, of stuck the ids of the jobs."""

    kind: str
    subject: str
    since: datetime
    last: datetime
    count: int = 1
    reported: datetime | None = None
    detail: str = ""

    @property
    def field(self) -> str:
        return f"{self.kind}:{self.subject}"

    def to_json(self) -> str:
        reported = self.reported and to_ms(self.reported)
        instants = {"since": to_ms(self.since), "last": to_ms(self.last), "reported": reported}
        return json.dumps({**instants, "count": self.count, "detail": self.detail})

    @classmethod
    def read(cls, field: str, text: str) -> Alert | None:
        """Read the stored form. Return None if it cannot be read, as one of a later release."""
        kind, _, subject = field.partition(":")
        try:
            values = json.loads(text)
            return cls(
                kind=kind,
                subject=subject,
                since=from_ms(values["since"]),
                last=from_ms(values["last"]),
                count=int(values["count"]),
                reported=None if values["reported"] is None else from_ms(values["reported"]),
                detail=str(values["detail"]),
            )
        except Exception:  # whatever others have written
            return None


@dataclass(frozen=True, slots=True)
class Edge:
    """A change of an alert, at an instant: it began, goes_on or recovered."""

    state: str
    alert: Alert
    at: datetime

    @property
    def text(self) -> str:
        """Return one line for people."""
        a, since = self.alert, iso(self.alert.since)
        subject = f"queue {a.subject}" if a.kind == NO_WORKER else a.subject
        if self.state == RECOVERED:
            times = f", {a.count} times" if a.count > 1 else ""
            return f"recovered: {subject}, {a.kind} since {since}{times}"
        texts = {
            LATE: f"its fire time {iso(a.last)} {a.detail}",
            FAILING: f"failed {_times(a.count)} since {since}: {a.detail}",
            STUCK: f"blocked since {since} by {a.detail}",
            NO_WORKER: f"jobs wait since {since} and no worker serves them",
        }
        still = "still " if self.state == GOES_ON else ""
        if a.kind in (MEMORY, TIME, STALE):
            return f"{still}{a.kind}: {a.detail}"
        return f"{still}{a.kind}: {subject}, {texts.get(a.kind, a.detail)}"

    @property
    def facts(self) -> dict[str, Any]:
        """Return the same as fields."""
        a = self.alert
        return {
            "kind": a.kind,
            "state": self.state,
            _FIELDS.get(a.kind, "schedule"): a.subject,
            "since": iso(a.since),
            "last": iso(a.last),
            "count": a.count,
            "detail": a.detail,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One message about one edge or many. `id` is the same whenever the same is reported."""

    id: str
    at: datetime
    title: str
    lines: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.lines]) if len(self.lines) > 1 else self.title


def report(edges: Collection[Edge], namespace: str, now: datetime) -> Report:
    """Return the report of these edges, at least one. More than DIGEST are summed up: how many
    there are of each kind, and the names of the first."""
    lines = tuple(edge.text for edge in list(edges)[:LISTED])
    content = " ".join(f"{edge.state} {edge.alert.field} {to_ms(edge.at)}" for edge in edges)
    about = {"namespace": namespace, "at": iso(now)}
    if len(edges) == 1:
        [edge] = edges
        title, facts = edge.text, {**edge.facts, **about}
    else:
        listed = [edge.facts for edge in list(edges)[:LISTED]]
        title = ", ".join(f"{count} {what}" for what, count in summary(edges).items())
        facts = {"kind": "digest", "count": len(edges), **about, "alerts": listed}
        if len(edges) > LISTED:
            lines += (f"… and {len(edges) - LISTED} more",)
    id = f"alert_{uuid5(NAMESPACE_URL, f'{namespace} {content}').hex}"
    return Report(id=id, at=now, title=f"[{namespace}] {title}", lines=lines, facts=facts)


def summary(edges: Iterable[Edge]) -> dict[str, int]:
    """Return how many there are of each kind that began or goes on, and how many recovered."""
    return dict(Counter(e.state if e.state == RECOVERED else e.alert.kind for e in edges))


class OpenAlerts:
    """The open alerts of a namespace. Methods such as `late` and `failed` record events; `drain`
    returns the edges that follow from them, and the alerts to store."""

    def __init__(self, rules: Thresholds, kept: Mapping[str, str]) -> None:
        self._rules = rules
        self._kept = dict(kept)
        read = (Alert.read(field, text) for field, text in kept.items())
        self._open = {alert.field: alert for alert in read if alert}
        self._counts = Counter(alert.kind for alert in self._open.values())
        self._changed: set[str] = set()
        self._edges: list[Edge] = []

    @property
    def open(self) -> list[Alert]:
        """Return all of them, also those not reported yet."""
        return list(self._open.values())

    def schedules(self, *kinds: str) -> set[str]:
        """Return the schedules that have an open alert, of these kinds or of any."""
        of = kinds or OF_SCHEDULES
        return {alert.subject for alert in self._open.values() if alert.kind in of}

    def jobs(self) -> list[str]:
        """Return the jobs that block a schedule."""
        stuck = [alert for alert in self._open.values() if alert.kind == STUCK]
        return sorted({job for alert in stuck for job in alert.detail.split()})

    # ---- events --------------------------------------------------------------------------------

    def late(self, name: str, fire_time: datetime, detail: str, now: datetime) -> None:
        """A fire time is or was decided too late. One that is recorded again counts once."""
        alert = self._add(LATE, name, fire_time, detail)
        if alert:
            self._report(alert, now)

    def on_time(self, name: str, now: datetime) -> None:
        self._end(f"{LATE}:{name}", now)

    def failed(self, name: str, ended: datetime, error: str, now: datetime) -> None:
        """A run ended for good without success."""
        alert = self._add(FAILING, name, ended, error, again=True)
        if alert and alert.count >= self._rules.failures:
            self._report(alert, now)

    def succeeded(self, name: str, now: datetime) -> None:
        self._end(f"{FAILING}:{name}", now)

    def blocked(self, name: str, fire_time: datetime, jobs: str) -> None:
        """A fire time was skipped because these jobs (ids, with spaces) still wait or run."""
        self._add(STUCK, name, fire_time, jobs)

    def unblocked(self, name: str, now: datetime) -> None:
        """A fire time was enqueued: nothing is in its way."""
        self._end(f"{STUCK}:{name}", now)

    def memory(self, used: float, text: str, now: datetime) -> None:
        """This part of the server's memory is used."""
        alert = self._open.get(f"{MEMORY}:{SERVER}")
        if alert and used < ROOM:
            self._end(alert.field, now)
        elif used >= FULL and not (alert and _is_reported(alert, now)):
            alert = self._add(MEMORY, SERVER, now, text)
            if alert:
                self._report(alert, now)

    def time(self, text: str, now: datetime) -> None:
        """This is wrong with the time; nothing if it is empty."""
        alert = self._open.get(f"{TIME}:{SERVER}")
        if not text:
            self._end(f"{TIME}:{SERVER}", now)
        elif not (alert and _is_reported(alert, now)):
            alert = self._add(TIME, SERVER, now, text)
            if alert:
                self._report(alert, now)

    def stale(self, new: int, status: CallbacksStatus) -> None:
        """So many tasks of callbacks have failed for good since the last look."""
        if new > 0:
            tasks = "a task has" if new == 1 else f"{new:,} tasks have"
            text = f"{tasks} failed for good, {status.stale:,} are stale; retry or delete them"
            if alert := self._add(STALE, CALLBACKS, status.now, text):
                self._report(alert, status.now)

    def hosts(self, status: CallbacksStatus) -> None:
        """Callbacks are in this state: of some hosts every call fails."""
        failing = {host.host: host for host in status.failing_hosts}
        for host in failing.values():
            lasts = host.failures >= HOST_FAILURES and host.last - host.since >= UNSERVED
            if lasts and status.now - host.last < FORGOTTEN:
                text = f"{host.failures:,} calls in a row failed since {iso(host.since)}"
                alert = self._add(HOST, host.host, host.last, f"{text}, last: {host.result}")
                if alert and not alert.reported:
                    self._report(alert, status.now)
        for alert in [a for a in self._open.values() if a.kind == HOST]:
            if alert.subject not in failing:
                self._end(alert.field, status.now)

    def check(self, live: Collection[str], unserved: Collection[str] | None, now: datetime) -> None:
        """End the alerts that are over, and report those that have lasted long enough. `live` are
        those of `jobs` that still wait or run, `unserved` the queues without a worker, if these are
        known."""
        for queue in sorted(unserved or ()):
            if f"{NO_WORKER}:{queue}" not in self._open:
                self._add(NO_WORKER, queue, now, "")
        for field, alert in list(self._open.items()):
            over = alert.kind == NO_WORKER and unserved is not None
            over = over and alert.subject not in (unserved or ())
            if alert.kind == STUCK:
                over = not any(job in live for job in alert.detail.split())
            over = over or (alert.kind == STALE and now - alert.last >= QUIET)
            if alert.kind == HOST and now - alert.last >= FORGOTTEN:
                self._close(field)
            elif over:
                self._end(field, now)
            elif self._needs_report(alert, now):
                self._report(alert, now)

    def drop(self, names: Collection[str]) -> None:
        """Drop the alerts of these schedules without a report."""
        for field, alert in list(self._open.items()):
            if alert.kind in OF_SCHEDULES and alert.subject in names:
                self._close(field)

    def drain(self) -> tuple[list[Edge], dict[str, str]]:
        """Return the edges since the last time, in order, and the fields to store ("": to remove)
        before any edge is reported. Clear both."""
        changes = {}
        for field in sorted(self._changed):
            alert = self._open.get(field)
            text = alert.to_json() if alert else ""
            if self._kept.get(field, "") != text:
                changes[field] = self._kept[field] = text
        edges, self._edges = self._edges, []
        self._changed.clear()
        return edges, changes

    # ---- within -----------------------------------------------------------------------------

    def _add(
        self, kind: str, subject: str, at: datetime, detail: str, *, again: bool = False
    ) -> Alert | None:
        """Return the alert, with one more count if `at` is newer than `last` (or `again`); None
        when there are too many of its kind."""
        alert = self._open.get(f"{kind}:{subject}")
        if alert is None:
            if self._counts[kind] >= ALERT_LIMIT:
                return None
            self._counts[kind] += 1
            alert = Alert(kind=kind, subject=subject, since=at, last=at, detail=detail)
        else:
            newer = again or at > alert.last
            last, count = max(at, alert.last), alert.count + newer
            alert = replace(alert, last=last, count=count, detail=detail)
        self._open[alert.field] = alert
        self._changed.add(alert.field)
        return alert

    def _end(self, field: str, now: datetime) -> None:
        alert = self._close(field)
        if alert and alert.reported:
            self._edges.append(Edge(RECOVERED, alert, now))

    def _close(self, field: str) -> Alert | None:
        alert = self._open.pop(field, None)
        if alert:
            self._counts[alert.kind] -= 1
            self._changed.add(field)
        return alert

    def _needs_report(self, alert: Alert, now: datetime) -> bool:
        """Return whether it has lasted long enough for a report."""
        if alert.reported:  # the events of these two report that they go on
            return alert.kind not in (LATE, MEMORY, TIME) and not _is_reported(alert, now)
        lasts = {STUCK: self._rules.stuck, NO_WORKER: UNSERVED}.get(alert.kind)
        return lasts is not None and now - alert.since >= lasts

    def _report(self, alert: Alert, now: datetime) -> None:
        """Report it, unless it was within a day."""
        if _is_reported(alert, now):
            return
        self._edges.append(Edge(GOES_ON if alert.reported else BEGAN, alert, now))
        self._open[alert.field] = replace(alert, reported=now)
        self._changed.add(alert.field)


def _is_reported(alert: Alert, now: datetime) -> bool:
    """Return whether an edge was reported within a day."""
    return alert.reported is not None and now - alert.reported < REMIND


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times in a row"
