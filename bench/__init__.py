"""Measures rq-clock beside RQ's own clock and workers, and Celery: `python -m bench`. See
__main__.py. What stands here is what the jobs do; it imports nothing that a worker does not have.
"""

import time
from pathlib import Path


def task() -> None:
    """A job that does nothing. What the schedules here enqueue; there no worker runs it."""


def hold(path: str) -> None:
    """Begin the file `path` with the instant; once `path`.go exists, or all is gone, end it with
    the instant."""
    mark = Path(path)
    mark.write_text(f"{time.time()}\n")
    while mark.exists() and not mark.with_suffix(".go").exists():
        time.sleep(0.005)
    with mark.open("a") as file:
        file.write(f"{time.time()}\n")


def stamp(path: str, sent: float) -> None:
    """Append a line with when the job was sent and when it began."""
    began = time.time()
    with Path(path).open("a") as file:
        file.write(f"{sent} {began}\n")
