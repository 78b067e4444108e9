"""The web process: pages for people, an API for machines, metrics and health.

    from rq_clock.web import create_app
    app.mount("/clock", create_app())        # in an ASGI app of your own; or `rq-clock web`

It reads Redis and leaves requests there, as the command line does; it never talks to the clock, so
it works, and says so, while none runs. It keeps nothing that may not be lost; any number of them
give the same answers. Needs the extra: `pip install "rq-clock[web]"`.
"""

from __future__ import annotations

from rq_clock.web.app import create_app

__all__ = ["create_app"]
