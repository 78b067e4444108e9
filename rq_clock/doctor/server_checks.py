"""Checks of `rq-clock doctor` around the schedules: the server, the clocks of the machines, the
leader, versions, and the workers of the queues. schedule_checks.py has the other checks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from rq_clock.doctor.facts import CALLBACKS, Facts
from rq_clock.model.view import doc
from rq_clock.store.access import is_cluster, too_old
from rq_clock.store.diagnosis import ACCESS
from rq_clock.store.memory import FULL, REMEDY, memory_text, memory_used
from rq_clock.store.server_time import SKEW, time_faults
from rq_clock.store.store import data_fault
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import from_ms, iso

ERROR, WARNING, INFO = "error", "warning", "info"
REPORT_LIMIT = timedelta(seconds=30)
"""A leader reports its last tick at least every 12 s."""
BEHIND = 1_000_000
"""Bytes that a replica may lack: what a failover to it would lose."""
FIGHT, FIGHT_SPAN = 5, timedelta(minutes=10)
"""More depositions than deploys make in such a span."""
TASKS_LATE, HOST_FAILURES = timedelta(minutes=5), 5
"""From when waiting tasks, and a host whose calls fail, are a finding."""
REPLICA = ("slave", "replica")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: `level` is error, warning or info; `schedules` are all that it concerns, of
    which `text` shows only a few."""

    level: str = field(metadata=doc(enum=(ERROR, WARNING, INFO)))
    code: str
    text: str
    remedy: str = ""
    schedules: tuple[str, ...] = ()


error, warning, info = (partial(Finding, level) for level in (ERROR, WARNING, INFO))


# ---- the server -------------------------------------------------------------------------------


def _server(facts: Facts, now: datetime) -> Iterator[Finding]:
    yield from _connection(facts)
    if not facts.info:
        yield info(
            "redis-unknown",
            "this server refuses INFO; its version, memory, persistence and connections are "
            "unknown",
            "allow the command, or look into the provider's console",
        )
        return
    if too_old(facts.info):
        yield error(
            "redis-too-old",
            f"expected Redis 6.2 or newer, got {facts.info.get('redis_version')}; no clock "
            "starts here, and the namespace was not looked into",
            "upgrade the server",
        )
    if is_cluster(facts.info):
        yield error(
            "cluster",
            "this server is a Redis Cluster, which neither rq-clock nor RQ can use: a job is in "
            "several keys",
            "use a server or plan with cluster mode off",
        )
    policy = facts.info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        what = "schedules, jobs and leases" if policy.startswith("allkeys") else "leases and locks"
        yield Finding(
            level=ERROR if policy.startswith("allkeys") else WARNING,
            code="evicting",
            text=f"maxmemory-policy is {policy}: a full Redis silently drops {what}",
            remedy="set it to noeviction (Heroku: `heroku redis:maxmemory --policy noeviction`)",
        )
    yield from _persistence(facts)
    yield from _room(facts)
    yield from _replication(facts)


def _connection(facts: Facts) -> Iterator[Finding]:
    if facts.unverified:
        yield info(
            "tls-unverified",
            "the certificate of Redis is not verified: an attacker who redirects the connection "
            "learns the password",
            "set RQ_CLOCK_REDIS_TLS_VERIFY=1, with the authority's file in SSL_CERT_FILE; "
            "Heroku's certificates are self-signed and cannot be verified",
        )
    if facts.refused:
        yield error(
            "permissions",
            f"the user of this connection may not call {few(facts.refused)}: no clock leads",
            f"give it what is enough: ACL SETUSER … {ACCESS}",
        )
    elif facts.unwritable and facts.info.get("role") not in REPLICA:
        yield error(
            "no-writes",
            f"the server takes no writes now: {facts.unwritable}",
            "look at its replicas (min-replicas-to-write), its disk and its permissions",
        )


def _persistence(facts: Facts) -> Iterator[Finding]:
    if facts.info.get("aof_enabled") or facts.config.get("save"):
        return
    remedy = "set `appendonly yes`, or choose a plan with persistence"
    if "save" in facts.config:
        yield warning(
            "persistence-off",
            "Redis keeps nothing on disk: when it restarts, queued jobs, markers and history "
            "are gone",
            remedy,
        )
    else:
        yield info(
            "persistence-unknown",
            "Redis keeps no append-only file, and whether it saves snapshots is unknown",
            remedy,
        )


def _room(facts: Facts) -> Iterator[Finding]:
    if (memory_used(facts.info) or 0) >= FULL:
        yield warning("memory", memory_text(facts.info, facts.failed), REMEDY)
    clients = int(facts.info.get("connected_clients", 1)) - 1  # without this one
    limit = int(facts.info.get("maxclients") or facts.config.get("maxclients") or 0)
    if not limit:
        yield info(
            "connections-unknown",
            f"{clients} connections are in use; the limit is unknown",
            "compare with the plan: a deploy needs twice as many for a while",
        )
    elif 2 * clients > limit:
        yield warning(
            "connections",
            f"{clients} of {limit} connections are in use; a deploy, where old and new "
            f"processes run side by side, needs {2 * clients}",
            "run fewer processes or a lower WORKER_CONCURRENCY, close what else is "
            "connected, or take a larger plan",
        )


def _replication(facts: Facts) -> Iterator[Finding]:
    if facts.info.get("role") in REPLICA:
        yield error(
            "replica",
            "this server is a replica: it refuses every write, and what it shows may be old",
            "let REDIS_URL name the primary, or the sentinels (redis+sentinel://)",
        )
    head = int(facts.info.get("master_repl_offset", 0))
    for name, state in sorted(facts.info.items()):
        if not (name.startswith("slave") and isinstance(state, dict)):
            continue
        lacking = head - int(state.get("offset", 0))
        if state.get("state") != "online" or lacking > BEHIND or int(state.get("lag", 0)) > 10:
            yield warning(
                "replica-behind",
                f"the replica {state.get('ip')}:{state.get('port')} is {state.get('state')}, "
                f"{lacking} bytes behind and silent for {state.get('lag', '?')} s: a failover to "
                "it would lose as much",
                "see what slows it down; min-replicas-to-write keeps the primary from "
                "running ahead",
            )


def _clocks(facts: Facts, now: datetime) -> Iterator[Finding]:
    faults = time_faults(facts.leader)
    skew = (now - facts.time).total_seconds()
    if abs(skew) > SKEW:
        side = "ahead of" if skew > 0 else "behind"
        faults.append(f"this machine's clock is {abs(skew):.1f} s {side} Redis's")
    for fault in faults:
        yield warning(
            "clock-skew",
            fault,
            "let NTP set the clocks of both; schedules follow that of Redis",
        )


# ---- the leader --------------------------------------------------------------------------------


def _ownership(facts: Facts, now: datetime) -> Iterator[Finding]:
    owner = facts.meta.get("owner")
    if owner and owner not in facts.owner:
        yield warning(
            "foreign-owner",
            f"namespace {facts.namespace!r} belongs to {owner!r}, these settings say "
            f"{facts.owner[0]!r}: a clock started with them would stand by",
            "set RQ_CLOCK_OWNER to the same value everywhere, choose another "
            "RQ_CLOCK_NAMESPACE, or start one clock with --take-over",
        )
    if pause := facts.status.pause:
        until = f" until {iso(pause.until)}" if pause.until else ""
        yield info(
            "all-paused",
            f"all schedules are paused since {iso(pause.since)}{until}, by {pause.by!r}: "
            f"{pause.reason!r}",
            "resume them when that is over",
        )


def _leadership(facts: Facts, now: datetime) -> Iterator[Finding]:
    if not facts.leader:
        yield error(
            "no-leader",
            "no clock leads: nothing is enqueued",
            "start one (`heroku ps:scale clock=1`, `python clock.py`)",
        )
        return
    instance = facts.leader.get("instance", "?")
    if facts.leader.get("proven") != "1":
        since = facts.time - from_ms(facts.leader.get("since", "0"))
        yield warning(
            "leader-unproven",
            f"{instance} leads for {duration_text(since)} and has not finished its first pass",
            "run doctor again in a moment; if it stays so, read the log of the clock",
        )
    elif "tick" in facts.leader and facts.time - from_ms(facts.leader["tick"]) > REPORT_LIMIT:
        silent = facts.time - from_ms(facts.leader["tick"])
        yield warning(
            "leader-silent",
            f"{instance} leads, and its last tick was {duration_text(silent)} ago",
            "read the log of the clock",
        )


def _handovers(facts: Facts, now: datetime) -> Iterator[Finding]:
    since = facts.time - FIGHT_SPAN
    deposed = [h for h in facts.handovers if h.how == "deposed" and h.at > since]
    if len(deposed) > FIGHT:
        yield warning(
            "clocks-fight",
            f"clocks deposed each other {len(deposed)} times within 10 minutes, last "
            f"{deposed[0].instance} {deposed[0].before} at {iso(deposed[0].at)}; either one "
            "restarts all the time, or two apps use this namespace under one owner",
            "stop one of them, or give each app its own RQ_CLOCK_NAMESPACE",
        )


def _versions(facts: Facts, now: datetime) -> Iterator[Finding]:
    differing = [
        f"{'rq-clock' if name == 'version' else name} {theirs} there, {ours} here"
        for name, ours in facts.here.items()
        if (theirs := facts.leader.get(name, ours)) != ours
    ]
    if differing:
        yield warning(
            "versions-differ",
            f"the leading clock runs other versions than this process: {'; '.join(differing)}",
            "deploy one release everywhere; with other zone data the two disagree about fire times",
        )
    fault = data_fault(facts.namespace, int(facts.meta.get("version", "0")))
    if fault:
        text, _, remedy = fault.rpartition("; ")
        yield error("data-version", text, remedy)


# ---- queues -----------------------------------------------------------------------------------


def _queues(facts: Facts, now: datetime) -> Iterator[Finding]:
    of: dict[str, list[str]] = defaultdict(list)
    for seen in facts.seen:
        if seen.entry.schedule:
            of[seen.entry.schedule.queue].append(seen.entry.name)
    idle = {queue: served.jobs for queue, served in facts.queues.items() if not served.workers}
    if idle:
        items = [
            f"{queue} ({count_of(jobs, 'job')} waiting)" for queue, jobs in sorted(idle.items())
        ]
        names = sorted(name for queue in idle for name in of[queue])
        yield Finding(
            level=ERROR if any(idle.values()) else WARNING,
            code="queue-without-worker",
            text=f"no worker serves {few(items)}",
            remedy="start one for it (`rq-clock worker QUEUE`, WORKER_QUEUES), or correct the "
            "schedule's queue",
            schedules=tuple(names),
        )
    if facts.foreign:
        items = [f"{name} ({', '.join(served)})" for name, served in sorted(facts.foreign.items())]
        yield warning(
            "foreign-workers",
            f"workers of another make, or of another namespace, serve the same queues: "
            f"{few(items)}; they keep no groups, and RQ's own lose jobs in restarts",
            "run `rq-clock worker` for these queues, and only that",
        )


def _callbacks(facts: Facts, now: datetime) -> Iterator[Finding]:
    """Find tasks that wait in vain. A queue without a worker is `_queues`'s finding."""
    status = facts.callbacks
    if status is None:
        return
    late = timedelta(seconds=status.oldest_due_seconds)
    served = facts.queues.get(CALLBACKS)
    if late > TASKS_LATE and served and served.workers:
        yield warning(
            "tasks-late",
            f"{count_of(status.due, 'task')} of callbacks are due, the first one for "
            f"{duration_text(late)}",
            "see whether the throttle (`rq-clock callbacks configure`) or too few workers hold "
            "them back, and whether a clock leads",
        )
    if status.stale:
        yield warning(
            "tasks-stale",
            f"{count_of(status.stale, 'task')} of callbacks failed for good and are called no more",
            "look at them (`rq-clock callbacks list --state stale`), then retry or delete them",
        )
    hosts = [host.host for host in status.failing_hosts if host.failures >= HOST_FAILURES]
    if hosts:
        yield warning(
            "hosts-failing",
            f"every call of {few(hosts)} fails",
            "see the attempts of their tasks (`rq-clock callbacks list --host HOST`)",
        )


CHECKS = (_server, _clocks, _ownership, _leadership, _handovers, _versions, _queues, _callbacks)


# ---- words ------------------------------------------------------------------------------------


def few(items: Collection[str]) -> str:
    """Return the first items as text, with the number of the others."""
    more = len(items) - _SHOWN
    return ", ".join(islice(items, _SHOWN)) + (f" and {more} more" if more > 0 else "")


def count_of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
