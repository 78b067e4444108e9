"""The audit page: each change with its actor, time and reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from rq_clock.redaction import masked_json
from rq_clock.store.audit import AUDIT, Audit, AuditEntry
from rq_clock.web.context import Read, Web
from rq_clock.web.pages.layout import page
from rq_clock.web.problems import Problem

router = APIRouter()
ROWS = 50
_LONGEST = 200


@router.get("/audit")
def audit_page(  # noqa: PLR0913 - one a filter
    request: Request, site: Web, token: Read, by: str = "", verb: str = "", schedule: str = "",
    cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Return the matching entries, newest first."""
    query = {"by": by.strip(), "verb": verb.strip(), "schedule": schedule.strip()}
    if not re.fullmatch(r"(?:[0-9]{1,15}-[0-9]{1,15})?", cursor):
        raise Problem("validation", f"cursor: expected the one of a page, got {cursor!r}")
    status = site.schedules.status()
    limit = 2 * AUDIT if any(query.values()) else ROWS + 1  # it is capped about, not exactly
    found = Audit(site.store).newest(limit, cursor or "+")
    fits = [entry for entry in found if _fits(entry, **query)]
    following = fits[ROWS - 1].id if len(fits) > ROWS else ""
    rows = [(entry, _details(entry.detail)) for entry in fits[:ROWS]]
    return page(
        request, "audit.html", token, status, rows=rows, query=query, following=following, at=at,
        filtered=any(query.values()), kept=AUDIT,
    )  # fmt: skip


def _fits(entry: AuditEntry, by: str, verb: str, schedule: str) -> bool:
    """Whether an entry fits. `schedule` is one of the first few, which an entry names."""
    if by and entry.by.lower() != by.lower():
        return False
    return (not verb or entry.verb == verb) and (not schedule or schedule in entry.schedules)


def _details(detail: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the other facts of an entry as texts."""
    shown = masked_json(dict(detail)).items()
    return [(name, _word(value)) for name, value in shown if value not in (None, "", False)]


def _word(value: Any) -> str:
    word = "yes" if value is True else str(value)
    return word if len(word) <= _LONGEST else word[: _LONGEST - 1] + "…"
