"""The audit page: each change with its actor, time and reason."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from fastapi import APIRouter
from fastapi.responses import Response

from rq_clock.redaction import masked_json
from rq_clock.store.audit import AUDIT, Audit, AuditEntry
from rq_clock.timing.zones import zone
from rq_clock.web.context import Read
from rq_clock.web.ended_runs import is_cursor
from rq_clock.web.pages.filters import local_text
from rq_clock.web.pages.layout import page
from rq_clock.web.problems import Problem

router = APIRouter()
ROWS = 50
_LONGEST = 200


@router.get("/audit")
def audit_page(
    caller: Read, by: str = "", verb: str = "", schedule: str = "", cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Return the matching entries, newest first."""
    query = {"by": by.strip(), "verb": verb.strip(), "schedule": schedule.strip()}
    if not is_cursor(cursor):
        raise Problem("validation", f"cursor: expected the one of a page, got {cursor!r}")
    status = caller.context.schedules.status()
    limit = 2 * AUDIT if any(query.values()) else ROWS + 1  # Redis caps it only roughly
    found = [
        entry
        for entry in Audit(caller.context.store).newest(limit, cursor or "+")
        if _matches(entry, **query)
    ]
    following = found[ROWS - 1].id if len(found) > ROWS else ""
    rows = [(entry, details(entry)) for entry in found[:ROWS]]
    return page(
        caller, "audit.html", status, rows=rows, query=query, following=following, at=at,
        filtered=any(query.values()), kept=AUDIT,
    )  # fmt: skip


def _matches(entry: AuditEntry, by: str, verb: str, schedule: str) -> bool:
    """Return whether an entry matches. Of many schedules an entry names only the first few."""
    if by and entry.by.lower() != by.lower():
        return False
    return (not verb or entry.verb == verb) and (not schedule or schedule in entry.schedules)


def details(entry: AuditEntry, tz: str = "UTC") -> list[tuple[str, str]]:
    """Return the other facts of an entry as texts, with secrets masked and instants in a zone."""
    found = []
    for name, value in masked_json(dict(entry.detail)).items():
        if value in (None, "", False):
            continue
        with suppress(TypeError, ValueError):
            value = local_text(datetime.fromisoformat(value).astimezone(zone(tz).info), None)
        text = "yes" if value is True else str(value)
        found.append((name, text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"))
    return found
