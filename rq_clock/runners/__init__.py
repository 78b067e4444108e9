"""What workers run for `command(…)` and `webhook(…)`."""

from __future__ import annotations

from rq_clock.runners.tasks import call_webhook, run_command

__all__ = ["call_webhook", "run_command"]
