"""The pages: HTML from templates, readable and operable without a script.

Each page is a GET with its filters in the URL; each action is a POST of a form that answers with a
redirect and a message (`flash`). An open page asks for itself again: see changes.py.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends

from rq_clock.web.pages import audit, clock, queues, runs, timeline
from rq_clock.web.pages import login as entrance
from rq_clock.web.pages import schedule_actions as actions
from rq_clock.web.pages import schedule_detail as schedule
from rq_clock.web.pages import schedule_form as form
from rq_clock.web.pages import schedule_list as schedules
from rq_clock.web.pages.layout import failed, unless_same

__all__ = ["failed", "router"]

router = APIRouter(include_in_schema=False, dependencies=[Depends(unless_same)])
for part in (
    entrance, schedules, form, schedule, actions,
    timeline, runs, queues, clock, audit,
):  # fmt: skip
    router.include_router(part.router)
