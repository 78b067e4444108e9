"""Claims of tasks: what a dispatcher of callbacks does in Redis.

A dispatcher first gets one of the places (`Configuration.dispatchers`) and keeps it by signs of
life: `beat`, and each claim and result. It claims tasks for its free slots, makes the calls, and
writes their results.

    event                              effect
    the dispatcher dies                its claims run out 30 s after the calls' timeouts; the tasks
                                       go back to where they were, and the next call has the same id
                                       and a higher attempt; after the tenth in a row they are stale
    the reply to a claim is lost       as above: nobody has these claims
    the reply to results is lost       sent again: owner and attempt are compared
    a result comes too late            a success counts unless another attempt runs; a failure
                                       does not
    it was frozen, its place is gone   it claims nothing more; its results are compared as always

A claim is written before its call is sent, so no call is made without one. Each script does
PORTION tasks at most, which takes Redis about 1 ms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import uniform
from typing import Any

from rq_clock.log import log_warning
from rq_clock.model.task import PREFIX, key_of_id
from rq_clock.redaction import masked_url
from rq_clock.store.scripts import load_script, text
from rq_clock.store.store import Store, portions
from rq_clock.store.tasks import defaults, read_task, split_record
from rq_clock.timing.instants import from_ms

PLACE_MS = 15_000
"""A dispatcher that is silent for this long has lost its place."""
PORTION = 25
"""Tasks that one script claims or finishes: about 1 ms of Redis's time."""
_JITTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClaimedTask:
    """A task to call now, and what the call needs. `attempt` is that of this call; `auth` is as in
    the task's record; `timeout` is in seconds, `size` the bytes of payload and headers."""

    id: str
    attempt: int
    url: str
    method: str
    execute_at: datetime
    due_at: datetime
    claimed_at: datetime
    timeout: float
    failures: int
    priority: str
    auth: bytes = b""
    size: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    payload: Any = None

    def __repr__(self) -> str:
        return f"ClaimedTask({self.id}, attempt {self.attempt}, {masked_url(self.url)})"


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim. `next_at` is when to claim again: an instant, now when more may be
    due, or None when nothing will be due by itself. `lost`: the dispatcher has lost its place."""

    now: datetime
    tasks: tuple[ClaimedTask, ...] = ()
    next_at: datetime | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """The result of a call, one of model.task.RESULTS. `ago` is for how many seconds it has been
    known, `retry_after` the seconds that the receiver asks to wait. `error` and `answer` are shown
    to operators: without secrets, `answer` the first 2 kB."""

    id: str
    attempt: int
    result: str
    seconds: float
    ago: float = 0.0
    retry_after: int = 0
    status: int | None = None
    error: str = ""
    answer: str = ""

    def words(self) -> list[Any]:
        """Return the result as lua/task_finish.lua reads it."""
        line = {
            "attempt": self.attempt,
            "result": self.result,
            "seconds": round(self.seconds, 4),
            "status": self.status,
            "error": self.error,
            "answer": self.answer,
        }
        shown = {name: value for name, value in line.items() if value not in (None, "")}
        factor = f"{uniform(1 - _JITTER, 1 + _JITTER):.4f}"
        ago = round(max(self.ago, 0.0) * 1000)
        return [
            key_of_id(self.id), self.attempt, self.result, self.retry_after * 1000, ago, factor,
            json.dumps(shown, ensure_ascii=False).encode(errors="backslashreplace"),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """What became of a result: the status of the task, and when it is called again; "late" where
    the call counts no more, "missing" without the task."""

    id: str
    status: str
    next_call: datetime | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """The dispatchers: those alive, those there may be, and when one has something to do (a call,
    a claim that runs out); None for never."""

    alive: int
    limit: int
    now: datetime
    next_due: datetime | None


def places(store: Store) -> Places:
    """Return the dispatchers of a namespace. One round trip. Raises redis-py's RedisError."""
    script = load_script(store.redis, "task_dispatcher")
    return _places(script(store.keys("tasks"), ["look", "", PLACE_MS, defaults()]))


class Dispatch:
    """The claims of one dispatcher; `owner` is its name, without spaces. Methods raise redis-py's
    RedisError when the server cannot be used."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store = store
        self._keys = store.keys("tasks")
        self._owner = owner
        self._defaults = defaults()
        names = ("task_claim", "task_dispatcher", "task_finish")
        self._scripts = {name: load_script(store.redis, name) for name in names}

    # ---- its place ----------------------------------------------------------------------------

    def enter(self, predecessor: str = "") -> bool:
        """Get a place, that of the `predecessor` if it still has one, which claims nothing more
        then. False when there are as many dispatchers as there may be. A dispatcher that has a
        place keeps it."""
        return self._place("enter", predecessor)

    def beat(self) -> bool:
        """Keep the place for another PLACE_MS; False when it is gone."""
        return self._place("beat")

    def leave(self, *, successor: bool = False) -> None:
        """Give the place up. Unless a `successor` follows, the clock gets a message to look when
        the next task is due."""
        self._place("hand-over" if successor else "leave")

    def _place(self, verb: str, predecessor: str = "") -> bool:
        args = [verb, self._owner, PLACE_MS, self._defaults, predecessor]
        return bool(self._scripts["task_dispatcher"](self._keys, args)[0])

    # ---- claims -------------------------------------------------------------------------------

    def claim(self, limit: int) -> Claim:
        """Claim the next tasks that are due, at most `limit`, 25 in one round trip. Their calls
        have to begin at once. A task whose record cannot be read is left out, and its claim runs
        out."""
        found: list[ClaimedTask] = []
        while True:
            size = min(limit - len(found), PORTION)
            args = [self._owner, size, PLACE_MS, self._defaults]
            word, *answer = self._scripts["task_claim"](self._keys, args)
            if word == b"gone":
                return Claim(self._store.now(), tuple(found), None, lost=True)
            now, again, *rows = answer
            for i in range(0, len(rows), 4):
                found += _claimed(now, rows[i : i + 4])
            if len(rows) < 4 * size or len(found) >= limit:
                break
        return Claim(from_ms(now), tuple(found), from_ms(again) if again else None)

    def finish(self, results: Sequence[CallResult]) -> list[FinishedTask]:
        """Write results, 25 in one round trip. May be sent again: what counts is compared."""
        found = []
        for some in portions(results, PORTION):
            words = [word for result in some for word in result.words()]
            args = [self._owner, PLACE_MS, self._defaults, *words]
            answer = self._scripts["task_finish"](self._keys, args)
            for result, i in zip(some, range(0, len(answer), 2), strict=True):
                again = from_ms(answer[i + 1]) if answer[i + 1] else None
                found.append(FinishedTask(result.id, text(answer[i]), again))
        return found

    def give_back(self, tasks: Sequence[ClaimedTask]) -> None:
        """Give claims back whose calls were not sent; the next call has the same attempt."""
        self.finish(
            [CallResult(id=t.id, attempt=t.attempt, result="unsent", seconds=0) for t in tasks]
        )


def _claimed(now: bytes, row: Sequence[Any]) -> list[ClaimedTask]:
    id, record, details, timeout = row
    try:
        task = read_task(text(id), record, details, None)
        auth = split_record(record)[1]
    except (ValueError, ArithmeticError, AttributeError) as error:
        log_warning("task.unreadable", task=PREFIX + text(id)[:40], error=str(error)[:200])
        return []
    return [
        ClaimedTask(
            id=task.id,
            attempt=task.attempt,
            url=task.url,
            method=task.method,
            execute_at=task.execute_at,
            due_at=task.due_at,
            claimed_at=from_ms(now),
            timeout=int(timeout) / 1000,
            failures=task.failures,
            priority=task.priority,
            auth=auth,
            size=len(details),
            headers=task.headers,
            payload=task.payload,
        )
    ]


def _places(answer: Sequence[Any]) -> Places:
    _, alive, limit, now, due = answer
    return Places(int(alive), int(limit), from_ms(now), from_ms(due) if due else None)
