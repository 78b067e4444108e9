"""A queue of web calls: "call this URL at that time", throttled, retried, then stale.

from rq_clock import callbacks

callbacks.enqueue("https://example.com/jobs/7", auth="…", at=tomorrow)

service.py     what apps, the API, pages and the command line call
secrets.py     the auth of tasks, encrypted
"""

from __future__ import annotations

from rq_clock.callbacks.service import Callbacks, enqueue
from rq_clock.model.callbacks import Configuration
from rq_clock.model.new_task import NewTask
from rq_clock.model.task import Task, TaskFilter

__all__ = ["Callbacks", "Configuration", "NewTask", "Task", "TaskFilter", "enqueue"]
