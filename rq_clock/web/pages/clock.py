"""The clock page: leader, late schedules, open alerts, server, and the doctor's findings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from redis.exceptions import ResponseError

from rq_clock.alerts.rules import Alert
from rq_clock.doctor.facts import Code, gather
from rq_clock.doctor.schedule_checks import findings, healthy
from rq_clock.doctor.server_checks import Finding
from rq_clock.model.entry import LeaseGrant
from rq_clock.store.scripts import readable, text
from rq_clock.store.status import Status
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import from_ms
from rq_clock.version import releases
from rq_clock.web.context import Context, Read
from rq_clock.web.pages.layout import page

router = APIRouter()
HANDOVERS, LATE, ALERTS = 20, 20, 50
WHOLE = 2000
"""Schedules up to which the doctor checks each: that takes several round trips, and the page must
answer within two seconds."""
_MEGABYTE = 1024 * 1024
_NOT_READ = Code(problem="a web process does not load the app; `rq-clock doctor` does")


@router.get("/clock")
def clock_page(caller: Read, checks: str = "") -> Response:
    """Return the page; with `checks`, also the doctor's findings."""
    site = caller.context
    status = site.schedules.status()
    found = _findings(site, status) if checks else None
    return page(
        caller, "clock.html", status, **_clock(site, status),
        findings=found, healthy=healthy(found) if found is not None else None,
        whole=status.size <= WHOLE, limit=WHOLE, here=releases(),
    )  # fmt: skip


def _clock(site: Context, status: Status) -> dict[str, Any]:
    """Return the facts about the clock and the server, read in one round trip."""
    store = site.store
    pipe: Any = store.redis.pipeline(transaction=False)
    pipe.xrevrange(store.key("handovers"), count=HANDOVERS)
    pipe.hgetall(store.key("alerts"))
    pipe.info()
    grants, stored, info = pipe.execute(raise_on_error=False)
    for answer in (grants, stored):
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    grants = [] if isinstance(grants, ResponseError) else grants  # keys of another type
    stored = {} if isinstance(stored, ResponseError) else stored
    handovers = readable(LeaseGrant.read, grants, "handovers")
    read = (Alert.read(text(field), text(kept)) for field, kept in stored.items())
    alerts = sorted(
        (a for a in read if a and a.reported), key=lambda a: (a.kind, a.since, a.subject)
    )
    return {
        "leader": _leader(status.leader, handovers[0] if handovers else None),
        "handovers": handovers,
        "alerts": alerts[:ALERTS],
        "alert_count": len(alerts),
        "late": list(islice(status.late.items(), LATE)),
        "server": _server({} if isinstance(info, ResponseError) else info),
    }


def _leader(fields: Mapping[str, str], newest: LeaseGrant | None) -> dict[str, Any] | None:
    """Return the facts that the leader has stored; None when no clock leads."""
    if not fields:
        return None
    token, tick = fields.get("token", "").partition(".")[0], fields.get("tick")
    return {
        **fields,
        "token": token,
        "since": newest.at if newest and str(newest.token) == token else None,
        "tick": from_ms(tick) if tick else None,
        "versions": [(key, fields[key]) for key in releases() if fields.get(key)],
    }


def _server(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return facts about the server; none when it does not allow INFO."""
    if not info:
        return []
    kind = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "unknown")
    limit = int(info.get("maxmemory", 0))
    used = f"{int(info.get('used_memory', 0)) / _MEGABYTE:,.0f} MB"
    memory = f"{used} of {limit / _MEGABYTE:,.0f} MB" if limit else f"{used}, without a limit"
    return [
        ("Server", f"{kind} {version}"),
        ("Uptime", duration_text(timedelta(seconds=int(info.get("uptime_in_seconds", 0))))),
        ("Memory", memory),
        ("Eviction policy", str(info.get("maxmemory_policy", "unknown"))),
        ("Append-only file", "yes" if info.get("aof_enabled") else "no"),
        ("Connections", f"{info.get('connected_clients', '?')} of {info.get('maxclients', '?')}"),
        ("Replicas", str(info.get("connected_slaves", 0))),
    ]


def _findings(site: Context, status: Status) -> list[Finding]:
    """Return the doctor's findings, about single schedules only up to WHOLE of them."""
    owner = site.settings.owner, site.settings.former_owner
    facts = gather(site.store, site.executions, owner, _NOT_READ, whole=status.size <= WHOLE)
    return findings(facts, facts.time)
