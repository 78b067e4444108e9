"""The REST API, version 1: JSON in camelCase, errors as problem details (RFC 9457).

    schedules.py    list, add, change, remove, next fire times
    operations.py   run, pause, resume, skip, backfill; on one schedule or many
    runs.py         outcomes of fire times, output, retry and stop
    queues.py       RQ's queues, workers and jobs
    tasks.py        tasks of callbacks, and callbacks as a whole
    system.py       explain, manifest, clock, audit, OpenAPI
    requests.py     the bodies of requests
    definitions.py  schedules and triggers in a body, with their faults
    schemas.py      errors and bulk results
    routing.py      authorization, bodies, idempotency keys, answers
    openapi.py      the OpenAPI document and its page

Answers are the views of serializers/, which the command line prints too.
"""

from __future__ import annotations

from fastapi import APIRouter

from rq_clock.web.api import operations, queues, runs, schedules, system, tasks
from rq_clock.web.api.openapi import docs, document
from rq_clock.web.api.routing import COMMON
from rq_clock.web.context import API

__all__ = ["COMMON", "docs", "document", "router"]

router = APIRouter(prefix=API, responses=COMMON)
for part in (schedules, operations, runs, queues, tasks, system):
    router.include_router(part.router)
