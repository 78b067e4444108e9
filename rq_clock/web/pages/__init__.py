"""The pages: HTML from templates, readable and operable without a script.

Each page is a GET with its filters in the URL; each action is a POST of a form that answers with a
redirect and a message (`flash`). live.py tells open pages what to fetch again.
"""

from __future__ import annotations

from fastapi import APIRouter

from rq_clock.web.pages import (
    actions,
    audit,
    clock,
    edit,
    entrance,
    queues,
    runs,
    schedule,
    schedules,
    timeline,
)
from rq_clock.web.pages.base import failed

__all__ = ["failed", "router"]

router = APIRouter(include_in_schema=False)
for part in (
    entrance, schedules, edit, schedule, actions,
    timeline, runs, queues, clock, audit,
):  # fmt: skip
    router.include_router(part.router)
