"""Measures rq-clock beside RQ's own `rq cron`: `python -m bench`. See __main__.py."""


def task() -> None:
    """What all schedules here enqueue. No worker runs, so nothing ever calls it."""
