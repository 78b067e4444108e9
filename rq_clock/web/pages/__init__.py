"""The pages: HTML from templates, readable and operable without a script.

Each page is a GET with its filters in the URL. Each action is a POST of a form, which answers with
a redirect and a message (`flash`). An open page asks for itself again: see changes.py.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends

from rq_clock.web.pages import (
    audit,
    callbacks,
    clock,
    login,
    queues,
    runs,
    schedule_actions,
    schedule_detail,
    schedule_form,
    schedule_list,
    timeline,
)
from rq_clock.web.pages.layout import failed, unless_same

__all__ = ["failed", "router", "unless_same"]

router = APIRouter(include_in_schema=False, dependencies=[Depends(unless_same)])
for part in (
    login, schedule_list, schedule_form, schedule_detail, schedule_actions,
    timeline, runs, queues, callbacks, clock, audit,
):  # fmt: skip
    router.include_router(part.router)
