"""Tasks of callbacks: web calls that wait for their time, as they are stored. Pure.

    status     the task                                             is called again
    waiting    has not been called                                  at or after its instant
    calling    has been claimed by a dispatcher                     –
    retrying   has failed, or an operator retries it                after a delay
    done       was answered with 2xx                                never
    stale      failed for good, or was answered with 410            when an operator retries it
    canceled   was canceled                                         when an operator retries it

`attempt` counts the calls that have begun, `failures` those that failed since the last retry by
hand. A claim that runs out, because its worker died, raises only the attempt.

Not here: what a request may say (new_task.py), how it is stored (store/tasks.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rq_clock.redaction import masked_url

STATES = ("waiting", "calling", "retrying", "done", "stale", "canceled")
PRIORITIES = ("high", "normal", "low")
RESULTS = ("ok", "status", "gone", "timeout", "connection", "address", "auth", "lost")
"""Results of a call: a 2xx answer; another status; 410; no answer in time; no connection, or one
that broke off; an address that may not be called; auth that cannot be used; no result at all."""
ENDED = ("done", "stale", "canceled")
DELETED = "deleted"
"""Status of a task that is kept no more, in the answer to a repeated request. None is stored."""
PREFIX = "task_"
_ID = re.compile(r"task_([0-9A-HJKMNP-TV-Z]{26})\Z")


def key_of_id(id: object) -> str:
    """Return the part of a task's id that Redis has; empty for a text that is no such id."""
    match = _ID.match(id) if isinstance(id, str) else None
    return match[1] if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAttempt:
    """One call of a task. `ended` and `seconds` are when it ended and how long it took; `answer` is
    the beginning of the answer's body, at most 2 kB."""

    attempt: int
    result: str
    ended: datetime
    seconds: float | None = None
    status: int | None = None
    error: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Task:
    """A task as stored. `due_at` is the instant from which it may be called; `since` is when it
    was claimed or ended. Its auth is never part of it: `auth_set` says that there is one, and
    `auth_env` is the variable that it names, if it only names one.

    `headers`, `payload`, `dedup_key` and `attempts` are read with one task, not in lists.
    """

    id: str
    status: str
    url: str
    created_at: datetime
    execute_at: datetime
    due_at: datetime
    since: datetime | None = None
    method: str = "POST"
    priority: str = "normal"
    attempt: int = 0
    failures: int = 0
    max_retries: int | None = None
    timeout: float | None = None
    auth_set: bool = False
    auth_env: str = ""
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    payload: Any = None
    dedup_key: str = ""
    attempts: tuple[TaskAttempt, ...] = ()

    def __repr__(self) -> str:
        return f"Task({self.id}, {self.status}, {self.method} {self.shown_url})"

    @property
    def host(self) -> str:
        """The host that is called, with its port unless that is the scheme's own."""
        return urlsplit(self.url).netloc

    @property
    def shown_url(self) -> str:
        """The URL without its query and the long parts of its path, which may be secrets."""
        return masked_url(self.url)

    @property
    def next_call(self) -> datetime | None:
        """When it may be called next; None for a task that is being called or has ended."""
        return self.due_at if self.status in ("waiting", "retrying") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """The tasks of a list or a bulk operation. All that is set has to match; `text` is part of the
    id or of the URL as shown, or a whole part of its path: nobody can find out a masked part letter
    by letter. `before` leaves out those that ended, or were created, after an operator looked."""

    status: str = ""
    host: str = ""
    tag: str = ""
    text: str = ""
    before: datetime | None = None

    def fits(self, task: Task) -> bool:
        """Return whether a task is one of them."""
        if self.status and task.status != self.status:
            return False
        if self.host and task.host != self.host.lower():
            return False
        if self.tag and self.tag not in task.tags:
            return False
        if self.before and (task.since or task.created_at) > self.before:
            return False
        text = self.text.lower()
        if text not in f"{task.id}\n{task.url}".lower():  # as for nearly all
            return False
        shown = text in f"{task.id}\n{task.shown_url}".lower()
        return shown or self.text in urlsplit(task.url).path.split("/")

    @property
    def narrows(self) -> bool:
        """Whether more than the status is compared."""
        return bool(self.host or self.tag or self.text or self.before)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of tasks. `total` is the number of all that match, where that is known; `searched`,
    the number of tasks that were looked at."""

    tasks: tuple[Task, ...]
    cursor: str = ""
    total: int | None = None
    searched: int = 0
