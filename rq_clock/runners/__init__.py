"""What workers run for `command(…)`, `dyno(…)` and `webhook(…)`."""

from __future__ import annotations

from rq_clock.runners.dyno import run_dyno
from rq_clock.runners.tasks import call_webhook, run_command

__all__ = ["call_webhook", "run_command", "run_dyno"]
