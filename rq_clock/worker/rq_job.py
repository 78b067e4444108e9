"""RQ's job object in the work horse. It is made of the fields that came with the execution, without
a request to Redis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from rq.job import Job
from rq.utils import now, utcformat, utcparse

from rq_clock.jobs.outcomes import Execution

utcparse(utcformat(now()))  # compiles what each process would compile for its first job
_OVERWRITTEN = {b"started_at", b"last_heartbeat", b"ended_at"}
"""Fields that RQ sets again when it runs a job, and parses slowly."""
_TIMES = (b"created_at", b"enqueued_at")
_CHANGED = {
    "result_ttl": "", "failure_ttl": "",
    "retries_left": "retry_intervals", "repeats_left": "repeat_intervals",
}  # fmt: skip
"""What a function may change of its own job → the pauses that belong to it."""


class KeptAlready:
    """The connection of a job that has been taken. RQ's job first asks Redis to keep it while it
    runs, which has been done with the taking; that request ends here, the rest goes on."""

    def __init__(self, job: Job) -> None:
        self._job, self._connection = job, job.connection
        job.connection = self  # type: ignore[assignment]

    def persist(self, key: str) -> int:
        self._job.connection = self._connection
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def restored(kind: type[Job], execution: Execution, connection: Any, serializer: Any) -> Job:
    """Return the job of an execution with the fields of its hash, as RQ reads them."""
    job = kind(execution.job_id, connection, serializer)
    parsed = _parsed(execution.fields)
    skipped = _OVERWRITTEN | parsed.keys()
    job.restore({name: value for name, value in execution.fields.items() if name not in skipped})
    for name, value in parsed.items():
        setattr(job, name.decode(), value)
    return job


def with_changes(execution: Execution, job: Job) -> Execution:
    """Return the execution with the retries, repetitions and times to live that the job's object
    has now: a function may change those of `get_current_job()`, as with RQ's worker."""
    changed: dict[bytes, bytes] = {}
    for name, pauses in _CHANGED.items():
        number = getattr(job, name)
        if number is None and name.encode() not in execution.fields:
            continue
        with suppress(TypeError, ValueError):  # not what RQ could store
            digits = _digits(number)
            if pauses:
                changed[pauses.encode()] = json.dumps(getattr(job, pauses) or [0]).encode()
            changed[name.encode()] = digits
    return replace(execution, fields={**execution.fields, **changed}) if changed else execution


def _digits(number: int | None) -> bytes:
    return b"" if number is None else str(int(number)).encode()


def _parsed(fields: Mapping[bytes, bytes]) -> dict[bytes, Any]:
    """Return the fields of a job that RQ parses slowly, or nothing when they are not written as RQ
    writes them."""
    try:
        times = {name: datetime.fromisoformat(fields[name].decode()) for name in _TIMES}
        timeout = int(fields[b"timeout"])
    except (ValueError, KeyError):
        return {}
    if None in [time.tzinfo for time in times.values()]:
        return {}
    return {**times, b"timeout": timeout}
