"""The web process: pages for people, an API for machines, metrics and health.

    from rq_clock.web import create_app
    app.mount("/clock", create_app())        # in your own ASGI app; or run `rq-clock web`

It reads and writes Redis, as the command line does, and never talks to the clock. Without a clock
it works, and shows that none runs. It keeps no state: all web processes give the same answers.
Needs the extra: `pip install "rq-clock[web]"`.
"""

from __future__ import annotations

from rq_clock.web.app import create_app

__all__ = ["create_app"]
