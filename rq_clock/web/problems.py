"""What goes wrong, as the API says it: problem details (RFC 9457), one kind for each thing that a
caller can do something about.

    unauthorized            no token, or one that is not known            401
    forbidden               the token lacks a scope, or the request comes from another site   403
    read-only               this process changes nothing                  403
    not-found               there is no such thing                        404
    exists                  a schedule of this name is there already      409
    declared-in-code        its code would undo the change                409
    overlap                 its previous run goes on                      409
    conflict                it does not fit what there is                 409
    stale-revision          someone else has changed it since             412
    too-large               the body is larger than it may be             413
    media-type              the body is of another kind than is read      415
    range                   there are no such bytes                       416
    validation              the request is wrong; `errors` say where      422
    idempotency-conflict    the key was used for another request          422
    slow-down               too many failed attempts                      429
    store-unavailable       Redis cannot be used                          503

A page shows the same text. Not here: which code raises what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError
from starlette.responses import JSONResponse

from rq_clock.errors import (
    Conflict,
    ConflictKind,
    Fault,
    RqClockError,
    ScheduleError,
    StoreUnavailable,
)
from rq_clock.jobs.queues import NoJob
from rq_clock.store.client import diagnose

KINDS = {
    "unauthorized": (401, "No valid token"),
    "forbidden": (403, "Not allowed"),
    "read-only": (403, "This process changes nothing"),
    "not-found": (404, "Not found"),
    "exists": (409, "It exists already"),
    "declared-in-code": (409, "It is declared in code"),
    "overlap": (409, "Its previous run goes on"),
    "conflict": (409, "It does not fit what there is"),
    "stale-revision": (412, "It was changed meanwhile"),
    "too-large": (413, "The body is too large"),
    "media-type": (415, "The body is of another kind"),
    "range": (416, "There is nothing in that range"),
    "validation": (422, "The request is wrong"),
    "idempotency-conflict": (422, "The key was used for another request"),
    "slow-down": (429, "Too many failed attempts"),
    "store-unavailable": (503, "Redis cannot be used"),
}
"""Kind → status and title."""
MEDIA_TYPE = "application/problem+json"
FAULTS, LONGEST = 20, 4000
"""Faults of a request, and characters of the text about them, that are told."""
_OF_CONFLICT = {
    ConflictKind.EXISTS: "exists",
    ConflictKind.MISSING: "not-found",
    ConflictKind.DECLARED: "declared-in-code",
    ConflictKind.STALE: "stale-revision",
    ConflictKind.RUNNING: "overlap",
}


class Problem(Exception):
    """An answer that is an error. The field of each of its `errors` is a JSON pointer into the body
    or the name of a parameter; of very many only the first are kept."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = _short(detail)
        self.errors = tuple(errors[:FAULTS])
        self.headers = dict(headers or {})

    def document(self, instance: str | None = None) -> dict[str, Any]:
        """The body of the answer; `instance` says which one."""
        document: dict[str, Any] = {
            "type": f"urn:rq-clock:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance:
            document["instance"] = instance
        if self.errors:
            document["errors"] = [_error(fault) for fault in self.errors]
        return document

    def answer(self, request_id: str) -> JSONResponse:
        """The whole answer."""
        document = self.document(f"urn:rq-clock:request:{request_id}")
        return JSONResponse(document, self.status, self.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception, redis_url: str | None) -> Problem:
    """An exception of the project, or of redis-py, as a problem."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RedisError):
        return Problem("store-unavailable", diagnose(error, redis_url), headers=_LATER)
    if isinstance(error, StoreUnavailable):
        return Problem("store-unavailable", str(error), headers=_LATER)
    if isinstance(error, Conflict):
        return Problem(_OF_CONFLICT[error.kind], str(error))
    if isinstance(error, NoJob):
        return Problem("not-found", str(error))
    if isinstance(error, ScheduleError):
        return Problem("validation", str(error))
    assert isinstance(error, RqClockError)
    return Problem("conflict", str(error))


_LATER = {"Retry-After": "2"}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _error(fault: Fault) -> dict[str, Any]:
    """Return a fault as one of the `errors`; of an item of a cron expression also the column."""
    kind = "pointer" if fault.field[:1] in ("", "/") else "parameter"
    error: dict[str, Any] = {kind: fault.field, "message": _short(fault.text)}
    return error | ({"column": fault.column} if fault.column else {})
