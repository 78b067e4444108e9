"""Errors of the API as problem details (RFC 9457), one kind for each way to act on it. A page shows
the same text."""

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
from rq_clock.store.diagnosis import diagnose

KINDS = {
    "unauthorized": (401, "No valid token"),
    "forbidden": (403, "Not allowed"),  # a scope is missing, or another site sent the request
    "read-only": (403, "This process is read-only"),
    "not-found": (404, "Not found"),
    "exists": (409, "Already exists"),
    "declared-in-code": (409, "Declared in code"),  # which would undo the change
    "overlap": (409, "Previous run is still going"),
    "conflict": (409, "Conflict with the current state"),
    "stale-revision": (412, "Changed meanwhile"),
    "too-large": (413, "Body too large"),
    "media-type": (415, "Unsupported media type"),
    "range": (416, "Range not satisfiable"),
    "validation": (422, "Invalid request"),
    "idempotency-conflict": (422, "Idempotency key used for another request"),
    "slow-down": (429, "Too many requests"),
    "internal": (500, "Something went wrong"),  # a fault of this process, or of an app's section
    "store-unavailable": (503, "Redis cannot be used"),
    "unavailable": (503, "Not available now"),  # what an app's section needs, such as a database
}
"""Kind → status and title."""
MEDIA_TYPE = "application/problem+json"
FAULTS, LONGEST = 20, 4000
"""Limits of the faults in a response, and of the characters of a text."""
_OF_CONFLICT = {
    ConflictKind.EXISTS: "exists",
    ConflictKind.MISSING: "not-found",
    ConflictKind.DECLARED: "declared-in-code",
    ConflictKind.STALE: "stale-revision",
    ConflictKind.RUNNING: "overlap",
    ConflictKind.NO_TASK: "not-found",
    ConflictKind.TASK_STATUS: "conflict",
}


class Problem(Exception):
    """An error response. The field of each of its `errors` is a JSON pointer into the body or the
    name of a parameter. Only the first FAULTS errors are kept."""

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
        """Return the body of the response; `instance` identifies the request."""
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
        document = self.document(f"urn:rq-clock:request:{request_id}")
        return JSONResponse(document, self.status, self.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception, redis_url: str | None) -> Problem:
    """Return an exception of the project, or of redis-py, as a problem."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RedisError | StoreUnavailable):
        text = diagnose(error, redis_url) if isinstance(error, RedisError) else str(error)
        return Problem("store-unavailable", text, headers={"Retry-After": "2"})
    if isinstance(error, Conflict):
        return Problem(_OF_CONFLICT[error.kind], str(error))
    if isinstance(error, NoJob):
        return Problem("not-found", str(error))
    if isinstance(error, ScheduleError):
        return Problem("validation", str(error))
    assert isinstance(error, RqClockError)
    return Problem("conflict", str(error))


def escaped(key: str) -> str:
    """Return a key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _error(fault: Fault) -> dict[str, Any]:
    """Return a fault as one of the `errors`, with its column in a cron expression, if any."""
    kind = "pointer" if fault.field[:1] in ("", "/") else "parameter"
    error: dict[str, Any] = {kind: fault.field, "message": _short(fault.text)}
    return error | ({"column": fault.column} if fault.column else {})
