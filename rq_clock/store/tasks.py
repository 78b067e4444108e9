"""Tasks of callbacks in Redis: adding, reading and changing them. Also read by alerts and metrics.

A task's record, the value of its field in `tasks`, is one text of 15 words and its auth:

    state attempt failures returns from since owner batch created execute priority retries timeout
    method url auth

`state` is its status; while it is called "calling-waiting" or "calling-retrying". `returns` are the
claims in a row that ran out; `from` is the instant (ms) from which it may be called, `since` when
it was claimed or ended, `batch` the throttle's (lua/task_claim.lua). "-" is no value. The auth is
"" for none, "e" and what callbacks/secrets.py encrypted, or "v" and a text that only names a
variable of the workers. One text costs a third of a hash with these fields.

    counters                    counts
    added                       tasks
    called <result>             calls, by model.task.RESULTS
    stale                       tasks that failed for good
    late <ms>, late +Inf        first calls that began so late at most
    late ms                     the sum of how late they began

Not here: what a dispatcher does (task_claims.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.model.callbacks import CallbacksStatus, Configuration, FailingHost
from rq_clock.model.new_task import NewTask, named_variable
from rq_clock.model.task import PREFIX, STATES, Task, TaskAttempt, TaskFilter, TaskPage, key_of_id
from rq_clock.store.audit import AUDIT, Actor, audit_words
from rq_clock.store.cursors import decode, encode
from rq_clock.store.scripts import load_script, pairs, readable, text, texts
from rq_clock.store.store import Store, portions
from rq_clock.timing.instants import from_ms, from_score, to_ms, to_ms_up

ADD_LIMIT, ADD_PORTION = 1000, 100
"""Tasks that are added at once, and by one script: 1-2 ms of Redis's time."""
SEARCH_LIMIT = 5000
"""Tasks that one page of a list looks at: 0.2 s of this process's time. A page has to be there
within 1.5 s, also on a busy machine."""
SWEEP_LIMIT, PORTION = 1000, 100
"""Tasks that a bulk operation changes, and that one script does."""
SWEEP_SEARCHED = 100_000
"""Tasks that a bulk operation looks at: 4 s. The web process gives a change 25 s."""
LATE_MS = (100, 500, 1000, 5000, 30_000, 60_000, 300_000, 3_600_000)
"""Bounds of the counters `late <ms>`, as lua/task_claim.lua has them."""
_PAGE = 500
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?")
_HOSTS = 100
_SCRIPTS = ("task_add", "task_configure", "task_edit", "task_list", "task_status")
_AUDITED = {"cancel": "cancel-task", "retry": "retry-task", "delete": "delete-task"}
_POSSIBLE = {
    "cancel": ("waiting", "retrying"),
    "retry": ("stale", "canceled", "retrying"),
    "delete": ("waiting", "retrying", "done", "stale", "canceled"),
}
_PLACES = {
    "calling": (("task-claims", "first"),),
    "retrying": (
        ("task-room:failed", "first"), ("task-queue:2", "first"), ("task-queue:4", "first"),
        ("task-queue:6", "first"),
    ),
    "waiting": (
        ("task-room:new", "first"), ("task-queue:1", "first"), ("task-queue:3", "first"),
        ("task-queue:5", "first"),
    ),
    "stale": (("task-stale", "last"),),
    "done": (("task-done", "last"),),
    "canceled": (("task-canceled", "last"),),
}  # fmt: skip
"""Status → the sorted sets that hold its tasks, in the order of a list, and which end comes
first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task to write: its id and its auth as the record has it."""

    id: str
    task: NewTask
    auth: bytes = field(default=b"", repr=False)

    def words(self) -> list[Any]:
        """Return the task as lua/task_add.lua reads it."""
        task, dash = self.task, "-"
        record = [
            dash if task.execute_at is None else to_ms_up(task.execute_at),
            task.priority,
            dash if task.max_retries is None else task.max_retries,
            dash if task.timeout is None else max(round(task.timeout * 1000), 1),
            task.method,
            task.full_url,
        ]
        details = {"headers": dict(task.headers), "payload": task.payload}
        details["dedupKey"] = task.dedup_key
        details = {name: value for name, value in details.items() if value not in ({}, None, "")}
        return [
            key_of_id(self.id),
            task.dedup_key,
            " ".join(map(str, record)).encode() + b" " + self.auth,
            _json(details) if details else "",
            _json(task.tags) if task.tags else "",
        ]


@dataclass(frozen=True, slots=True)
class RefusedTask:
    """A task that a bulk operation left as it was."""

    task: str
    detail: str


@dataclass(frozen=True, slots=True)
class BulkTasksResult:
    """The result of an operation on many tasks; `more` tells that there may be more that match."""

    done: int
    refused: tuple[RefusedTask, ...] = ()
    more: bool = False


class Tasks:
    """The tasks of one namespace. Methods raise redis-py's RedisError when the server cannot be
    used; nothing is half-written then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redis = store.redis
        self._scripts = {name: load_script(store.redis, name) for name in _SCRIPTS}

    # ---- adding -------------------------------------------------------------------------------

    def add(self, drafts: Sequence[Draft], actor: Actor) -> list[tuple[Task, bool]]:
        """Add tasks, all or none. Return each, and whether it was created: not where another one
        with its dedup key lives, which is returned then. The same ids are the same tasks, so after
        a lost reply this may be sent again. Raises Repeated."""
        words = [word for draft in drafts for word in draft.words()]
        made = " ".join(draft.id for draft in drafts)
        answer = actor.call(self._scripts["task_add"], self._store.keys("tasks"), words, made)
        found = []
        for i in range(0, len(answer), 5):
            id, created, record, details, tags = answer[i : i + 5]
            found.append((read_task(text(id), record, details, tags), bool(created)))
        return found

    # ---- reading ------------------------------------------------------------------------------

    def get(self, id: str) -> Task:
        """Return a task with its details and attempts. Raises Conflict: NO_TASK, and TASK_STATUS
        for one that cannot be read."""
        key = key_of_id(id)
        pipe: Any = self._redis.pipeline(transaction=False)
        for name in ("tasks", "task-details", "task-tags"):
            pipe.hget(self._store.key(name), key)
        pipe.lrange(self._store.key(f"task-attempts:{key}"), 0, -1)
        record, details, tags, lines = pipe.execute() if key else (None, None, None, ())
        if record is None:
            raise Conflict(ConflictKind.NO_TASK, id[:100])
        attempts = readable(_attempt, ([text(line)] for line in lines), "task-attempts")
        return replace(_readable(id, record, details, tags), attempts=tuple(attempts))

    def kept(self, ids: Sequence[str]) -> dict[str, Task]:
        """Return those of these tasks that are kept, by id; without headers, payloads and attempts.
        One round trip. Raises Conflict, TASK_STATUS, for one that cannot be read."""
        keys = [key_of_id(id) for id in ids]
        pipe: Any = self._redis.pipeline(transaction=False)
        for name in ("tasks", "task-tags"):
            pipe.hmget(self._store.key(name), keys)
        rows = zip(ids, *pipe.execute(), strict=True)
        return {id: _readable(id, record, None, tags) for id, record, tags in rows if record}

    def page(self, match: TaskFilter, limit: int = 50, cursor: str = "") -> TaskPage:
        """Return the next tasks that match: those that are called, retrying and waiting in the
        order in which their calls are due, then ended ones, the newest first.

        A page of more than SEARCH_LIMIT tasks that do not match may be short before the end.
        Raises ScheduleError for a wrong cursor.
        """
        place, member, score = decode(cursor, int, str, str) or (0, "", "0")
        places = _places(match.status)
        if not 0 <= place <= len(places) or not _NUMBER.fullmatch(score):
            raise ScheduleError("cursor: expected the cursor of the previous page; start again")
        found: list[Task] = []
        searched = 0
        while 0 <= place < len(places) and searched < SEARCH_LIMIT:
            set, end = places[place]
            size = _PAGE if match.narrows else min(limit - len(found) + 1, _PAGE)
            rows = self._rows(set, end, (member, score), size)
            for at, when, task in rows:
                if len(found) == limit:
                    cursor = encode(place, member, score)
                    return TaskPage(tuple(found), cursor, self._total(match), searched)
                member, score, searched = at, when, searched + 1
                if task and match.fits(task):
                    found.append(task)
            if len(rows) < size:
                place, member, score = place + 1, "", "0"
        ended = place >= len(places)
        cursor = "" if ended else encode(place, member, score)
        return TaskPage(tuple(found), cursor, self._total(match), searched)

    def _rows(
        self, set: str, end: str, after: tuple[str, str], size: int
    ) -> list[tuple[str, str, Task | None]]:
        """Return the next members of a set, with score and task; None for one that cannot be
        read."""
        answer = self._scripts["task_list"](self._store.keys(set), [end, *after, size])
        rows: list[tuple[str, str, Task | None]] = []
        for i in range(0, len(answer), 4):
            member, score, record, tags = answer[i : i + 4]
            row = [text(member).rpartition(" ")[2], record, b"", tags]
            tasks = readable(read_task, [row], "tasks") if record else []
            rows.append((text(member), text(score), tasks[0] if tasks else None))
        return rows

    def _total(self, match: TaskFilter) -> int | None:
        if match.narrows:
            return None
        pipe: Any = self._redis.pipeline(transaction=False)
        for set, _ in _places(match.status):
            pipe.zcard(self._store.key(set))
        return sum(map(int, pipe.execute()))

    def status(self) -> CallbacksStatus:
        """Return how callbacks are; one round trip, whatever the number of tasks."""
        answer = self._scripts["task_status"](self._store.keys("tasks"), [_HOSTS])
        now = from_ms(answer[0])
        counts = dict(zip(STATES, map(int, answer[1:7]), strict=True))
        hosts = texts(pairs(answer[10]))
        failing = readable(_failing_host, hosts.items(), "task-failing")
        minutes: dict[datetime, dict[str, int]] = {}
        rows = [row for row in texts(pairs(answer[11])).items() if " " in row[0]]
        for start, result, count in readable(_minute, rows, "task-minutes"):
            minutes.setdefault(start, {})[result] = count
        last = from_ms((to_ms(now) // 60_000 - 1) * 60_000)
        return CallbacksStatus(
            now=now,
            **counts,
            due=int(answer[7]),
            oldest_due=from_ms(answer[8]) if answer[8] else None,
            dispatchers=int(answer[9]),
            failing_hosts=tuple(sorted(failing, key=lambda host: (-host.failures, host.host))),
            calls=minutes.get(last, {}),
            minutes=dict(sorted(minutes.items())),
            counters=dict(readable(_counter, texts(pairs(answer[12])).items(), "task-counters")),
        )

    # ---- changing -----------------------------------------------------------------------------

    def edit(
        self, verb: str, ids: Sequence[str], actor: Actor, detail: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Cancel, retry or delete tasks; each whole or not at all. Return a word and a detail for
        each, as lua/task_edit.lua has them. Raises Repeated."""
        shown = {name: value for name, value in detail.items() if value not in (None, "")}
        head = [verb, AUDIT, actor.by, _AUDITED[verb], actor.reason, _json(shown), defaults()]
        args = [*head, *(key_of_id(id) for id in ids)]
        answer = actor.call(self._scripts["task_edit"], self._store.keys("tasks"), args)
        words = list(map(text, answer))
        return list(zip(words[::2], words[1::2], strict=True))

    def edit_one(self, verb: str, id: str, actor: Actor) -> None:
        """Cancel, retry or delete a task. Raises Conflict."""
        [(word, detail)] = self.edit(verb, [id], actor, {"task": id})
        if word != "ok":
            raise _conflict(verb, id, word, detail)

    def sweep(self, verb: str, match: TaskFilter, actor: Actor) -> BulkTasksResult:
        """Cancel, retry or delete the tasks that match, SWEEP_LIMIT at most. Without a status,
        cancel and delete mean each status in which this is possible, and retry stale tasks. It
        looks at SWEEP_SEARCHED tasks. If the process dies, what it has done stays done."""
        if match.status:
            statuses: tuple[str, ...] = (match.status,)
        else:
            statuses = ("stale",) if verb == "retry" else _POSSIBLE[verb]
        ids, more = self._matching(statuses, match)
        done, refused = 0, []
        shown = {"status": match.status, "host": match.host, "tag": match.tag, "text": match.text}
        once = replace(actor, request_key=None)  # one record cannot stand for many portions
        for some in portions(ids, PORTION):
            answers = self.edit(verb, some, once, shown)
            for id, (word, detail) in zip(some, answers, strict=True):
                done += word == "ok"
                if word != "ok":
                    refused.append(RefusedTask(id, str(_conflict(verb, id, word, detail))))
        return BulkTasksResult(done, tuple(refused), more)

    def _matching(self, statuses: Sequence[str], match: TaskFilter) -> tuple[list[str], bool]:
        """Return the ids of the first SWEEP_LIMIT tasks that match, of the first SWEEP_SEARCHED,
        and whether there may be more."""
        ids: list[str] = []
        searched = 0
        for status in statuses:
            cursor, left = "", True
            while left:
                if len(ids) >= SWEEP_LIMIT or searched >= SWEEP_SEARCHED:
                    return ids, True
                page = self.page(replace(match, status=status), SWEEP_LIMIT - len(ids), cursor)
                cursor, left = page.cursor, bool(page.cursor)
                searched += page.searched
                ids += [task.id for task in page.tasks]
        return ids, False

    # ---- configuration ------------------------------------------------------------------------

    def configuration(self) -> Configuration:
        found: Any = self._redis.hgetall(self._store.key("task-configuration"))
        return Configuration.from_stored(texts(found))

    def configure(self, before: Configuration, after: Configuration, actor: Actor) -> None:
        """Write the fields that differ, with an entry in the audit. Raises Repeated."""
        old, new = before.stored(), after.stored()
        changed = {name: value for name, value in new.items() if value != old[name]}
        detail = {name: f"{old[name]} → {value}" for name, value in changed.items()}
        words = audit_words("configure-callbacks", (), actor, detail)
        fields = [word for pair in changed.items() for word in pair]
        keys = self._store.keys("task-configuration")
        actor.call(self._scripts["task_configure"], keys, [AUDIT, len(words), *words, *fields])


def defaults() -> str:
    """Return the default configuration as the scripts read it."""
    return " ".join(word for pair in Configuration().stored().items() for word in pair)


def split_record(record: bytes) -> tuple[list[str], bytes]:
    """Return the words of a record, and its auth. Raises ValueError."""
    *words, auth = record.split(b" ", 15)
    if len(words) != 15:
        raise ValueError(f"expected 15 words and an auth, got {len(words)} words")
    return [text(word) for word in words], auth


def read_task(id: str, record: bytes, details: bytes | None, tags: bytes | None) -> Task:
    """Return a task from what is stored, without its attempts. Raises ValueError."""
    words, auth = split_record(record)
    state, attempt, failures, _, due, since, _, _, created, execute, *call = words
    priority, retries, timeout, method, url = call
    status = state.partition("-")[0]
    if status not in STATES:
        raise ValueError(f"expected the state of a task, got {status[:40]!r}")
    urlsplit(url)  # raises ValueError
    more = json.loads(details) if details else {}
    return Task(
        id=PREFIX + id,
        status=status,
        url=url,
        created_at=from_ms(created),
        execute_at=from_ms(created if execute == "-" else execute),
        due_at=from_ms(due),
        since=None if since == "-" else from_ms(since),
        method=method,
        priority=priority,
        attempt=int(attempt),
        failures=int(failures),
        max_retries=None if retries == "-" else int(retries),
        timeout=None if timeout == "-" else int(timeout) / 1000,
        auth_set=bool(auth),
        auth_env=named_variable(text(auth[1:])) if auth[:1] == b"v" else "",
        tags=tuple(map(str, json.loads(tags))) if tags else (),
        headers={str(name): str(value) for name, value in more.get("headers", {}).items()},
        payload=more.get("payload"),
        dedup_key=more.get("dedupKey", ""),
    )


def _readable(id: str, record: bytes, details: bytes | None, tags: bytes | None) -> Task:
    """Return a task from what is stored. Raises Conflict, TASK_STATUS."""
    found = readable(read_task, [(key_of_id(id), record, details, tags)], "tasks")
    if not found:
        expected = "a record that this release can read, got another; its log has the reason"
        raise Conflict(ConflictKind.TASK_STATUS, id, expected)
    return found[0]


def _minute(name: str, count: str) -> tuple[datetime, str, int]:
    minute, _, result = name.partition(" ")
    return from_score(int(minute) * 60_000), result, int(count)


def _counter(name: str, count: str) -> tuple[str, int]:
    return name, int(count)


def _attempt(line: str) -> TaskAttempt:
    ended, _, document = line.partition(" ")
    found = json.loads(document)
    return TaskAttempt(
        attempt=int(found["attempt"]),
        result=found["result"],
        ended=from_ms(ended),
        seconds=found.get("seconds"),
        status=found.get("status"),
        error=found.get("error", ""),
        answer=found.get("answer", ""),
    )


def _failing_host(host: str, stored: str) -> FailingHost:
    failures, since, last, result = stored.split()
    return FailingHost(
        host=host, failures=int(failures), since=from_ms(since), last=from_ms(last), result=result
    )


def _places(status: str) -> list[tuple[str, str]]:
    """Return the places of the tasks of a status; of all when it is empty, of none when it is
    unknown."""
    return [place for name, some in _PLACES.items() if status in ("", name) for place in some]


def _conflict(verb: str, id: str, word: str, detail: str) -> Conflict:
    if word == "missing":
        return Conflict(ConflictKind.NO_TASK, id[:100])
    if word == "twin":
        text = f"no other task with its dedupKey, got {detail}; cancel that one first"
        return Conflict(ConflictKind.TASK_STATUS, id, text)
    possible = _POSSIBLE[verb]
    expected = f"one that is {', '.join(possible[:-1])} or {possible[-1]}"
    remedy = "; wait for the end of the call" if detail == "calling" else ""
    return Conflict(ConflictKind.TASK_STATUS, id, f"{expected} to {verb} it, got {detail}{remedy}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
