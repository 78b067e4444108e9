"""The page of the clock: leader, late schedules, alerts, server, and the doctor's findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from redis.exceptions import ResponseError

from rq_clock.alerts.rules import Alert
from rq_clock.doctor.facts import Code, gather
from rq_clock.doctor.schedule_checks import findings, healthy
from rq_clock.doctor.server_checks import Finding
from rq_clock.model.entry import LeaseGrant
from rq_clock.store.scripts import text
from rq_clock.store.status import Status
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import from_ms
from rq_clock.version import releases
from rq_clock.web.context import Context, Read, Web
from rq_clock.web.pages.layout import page

router = APIRouter()
HANDOVERS, LATE, ALERTS = 20, 20, 50
WHOLE = 2000
"""Schedules up to which the doctor looks at each: he takes several round trips for that, and the
page is to be there within two seconds."""
_MEGABYTE = 1024 * 1024
_NOT_READ = Code(problem="a web process does not load the app; `rq-clock doctor` does")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clockwork:
    """What the page shows of the clock, as read in one round trip beside the status."""

    handovers: Sequence[LeaseGrant]
    alerts: Sequence[Alert]
    alert_count: int
    late: Sequence[tuple[str, datetime]]
    server: Sequence[tuple[str, str]]


@router.get("/clock")
def clock_page(request: Request, site: Web, token: Read, checks: str = "") -> Response:
    """Return the page; with `checks`, also the doctor's findings."""
    status = site.schedules.status()
    found = _examined(site, status) if checks else None
    clockwork = _read(site, status)
    return page(
        request, "clock.html", token, status, leader=_leader(status, clockwork), work=clockwork,
        findings=found, healthy=healthy(found) if found is not None else None,
        whole=status.size <= WHOLE, limit=WHOLE, here=releases(),
    )  # fmt: skip


def _read(site: Context, status: Status) -> Clockwork:
    store = site.store
    pipe: Any = store.redis.pipeline(transaction=False)
    pipe.xrevrange(store.key("handovers"), count=HANDOVERS)
    pipe.hgetall(store.key("alerts"))
    pipe.info()
    handovers, alerts, info = pipe.execute(raise_on_error=False)
    for answer in (handovers, alerts):
        if isinstance(answer, Exception):
            raise answer
    read = (Alert.read(text(field), text(kept)) for field, kept in alerts.items())
    open_ = sorted(
        (a for a in read if a and a.reported), key=lambda a: (a.kind, a.since, a.subject)
    )
    return Clockwork(
        handovers=[LeaseGrant.read(text(id), fields) for id, fields in handovers],
        alerts=open_[:ALERTS],
        alert_count=len(open_),
        late=list(islice(status.late.items(), LATE)),
        server=_server({} if isinstance(info, ResponseError) else info),
    )


def _leader(status: Status, clockwork: Clockwork) -> dict[str, Any] | None:
    """Return the facts that the leader has stored."""
    fields = status.leader
    if not fields:
        return None
    newest = clockwork.handovers[0] if clockwork.handovers else None
    token = fields.get("token", "").partition(".")[0]
    return {
        "instance": fields.get("instance", ""),
        "owner": fields.get("owner", ""),
        "token": token,
        "since": newest.at if newest and str(newest.token) == token else None,
        "tick": from_ms(fields["tick"]) if fields.get("tick", "").isdecimal() else None,
        "lag": [_lag(fields, f"lag_p{percent}_ms") for percent in (50, 99)],
        "enqueued": fields.get("enqueued", ""),
        "release": "" if fields.get("release") == "0" else fields.get("release", ""),
        "versions": [(key, fields[key]) for key in releases() if fields.get(key)],
    }


def _lag(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name, "")
    return duration_text(timedelta(milliseconds=int(value))) if value.isdecimal() else "—"


def _server(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return facts about the server."""
    if not info:
        return []
    kind = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "unknown")
    limit = int(info.get("maxmemory", 0))
    used = f"{int(info.get('used_memory', 0)) / _MEGABYTE:,.0f} MB"
    return [
        ("Server", f"{kind} {version}"),
        ("Uptime", duration_text(timedelta(seconds=int(info.get("uptime_in_seconds", 0))))),
        (
            "Memory",
            f"{used} of {limit / _MEGABYTE:,.0f} MB" if limit else f"{used}, without a limit",
        ),
        ("Eviction policy", str(info.get("maxmemory_policy", "unknown"))),
        ("Append-only file", "yes" if info.get("aof_enabled") else "no"),
        ("Connections", f"{info.get('connected_clients', '?')} of {info.get('maxclients', '?')}"),
        ("Replicas", str(info.get("connected_slaves", 0))),
    ]


def _examined(site: Context, status: Status) -> list[Finding]:
    """Return the doctor's findings. Of very many schedules he checks none."""
    owner = site.settings.owner, site.settings.former_owner
    facts = gather(site.store, site.executions, owner, _NOT_READ, whole=status.size <= WHOLE)
    return findings(facts, facts.time)
