"""The REST API, version 1: JSON in camelCase, errors as problem details (RFC 9457).

    schedules.py    list, add, change, remove, next fire times
    operations.py   run, pause, resume, skip, backfill; of one, and of many
    runs.py         what became of fire times, outputs
    queues.py       RQ's side: queues, workers, jobs
    system.py       explain, manifest, clock, audit, the document of all this
    given.py       what is taken and given
    base.py         what all routes share

It uses what the command line uses (Schedules, Overview, views.py): the same words, the same laws.
"""

from __future__ import annotations

from fastapi import APIRouter

from rq_clock.web.api import operations, queues, runs, schedules, system
from rq_clock.web.api.openapi import described, docs
from rq_clock.web.api.routing import API

__all__ = ["described", "docs", "router"]

router = APIRouter(prefix=API)
for part in (schedules, operations, runs, queues, system):
    router.include_router(part.router)
