"""The web process: pages for people, an API for machines, metrics and health.

    from rq_clock.web import create_app
    app.mount("/clock", create_app())        # in your own ASGI app; or run `rq-clock web`

It reads and writes Redis, as the command line does, and never talks to the clock. Without a clock
it works, and shows that none runs. It keeps no state: all web processes give the same answers.
Needs the extra: `pip install "rq-clock[web]"`.

An app's own web.py adds pages and API routes to it (sections.py):

    from rq_clock.web import run_web
    run_web(extra=[reports])
"""

from __future__ import annotations

from rq_clock.web.app import create_app
from rq_clock.web.context import Admin, Caller, Operate, Read
from rq_clock.web.pages.layout import Fields, done
from rq_clock.web.problems import Problem
from rq_clock.web.sections import Section, page
from rq_clock.web.server import run_web

__all__ = [
    "Admin",
    "Caller",
    "Fields",
    "Operate",
    "Problem",
    "Read",
    "Section",
    "create_app",
    "done",
    "page",
    "run_web",
]
