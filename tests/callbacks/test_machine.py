"""Any order of adding, claiming, finishing, dying and operating, against a model of a few lines.

The model sorts what is due by class, instant and id, and leaves out hosts at their limit. After
each step each task has to be in one place, and the counts have to be right.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from rq_clock.callbacks import Callbacks, NewTask, TaskFilter
from rq_clock.errors import Conflict
from rq_clock.model.task import ENDED, PRIORITIES
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from rq_clock.timing.instants import to_ms

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PREFIX = "rq-clock:default:"
MAX_RETRIES = 2


@dataclass
class Model:
    """A task as the model has it. `before` is the status that it was claimed in."""

    id: str
    host: str
    priority: str
    due: int
    key: str
    status: str = "waiting"
    before: str = ""
    attempt: int = 0
    failures: int = 0
    returns: int = 0

    @property
    def place(self) -> tuple[int, bool, int, str]:
        return PRIORITIES.index(self.priority), self.status == "retrying", self.due, self.id


class Machine(RuleBasedStateMachine):
    redis: Any
    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.callbacks = Callbacks(self.redis, settings=self.settings)
        self.limit: int | None = None
        changes = {"mode": "off", "retryDelays": [0], "maxRetries": MAX_RETRIES}
        self.callbacks.configure(changes)
        self.dispatch = Dispatch(Store(self.redis, "default"), "one")
        self.tasks: dict[str, Model] = {}
        self.late: list[tuple[str, int]] = []
        assert self.dispatch.enter()

    def of(self, *statuses: str) -> list[Model]:
        return [task for task in self.tasks.values() if task.status in statuses]

    def refresh(self, task: Model) -> None:
        task.due = to_ms(self.callbacks.get(task.id).due_at)

    def living(self, key: str) -> list[Model]:
        return [t for t in self.tasks.values() if key == t.key and t.status not in ENDED]

    # ---- rules --------------------------------------------------------------------------------

    @rule(
        host=st.sampled_from(HOSTS),
        priority=st.sampled_from(PRIORITIES),
        key=st.sampled_from(["", "", "a", "b"]),
        count=st.integers(1, 5),
    )
    def add(self, host: str, priority: str, key: str, count: int) -> None:
        new = NewTask(url=f"http://{host}/x", priority=priority, dedup_key=key)
        for task, created in self.callbacks.enqueue_many([new] * count):
            twins = [twin.id for twin in self.living(key)] if key else []
            assert twins == ([] if created else [task.id])
            if created:
                due = to_ms(task.due_at)
                self.tasks[task.id] = Model(task.id, host, priority, due, key)

    @rule(limit=st.sampled_from([None, 1, 2, 3]))
    def configure(self, limit: int | None) -> None:
        self.callbacks.configure({"hostConcurrency": limit})
        self.limit = limit

    @rule(count=st.integers(1, 8))
    def claim(self, count: int) -> None:
        claimed = self.dispatch.claim(count).tasks
        calls = Counter(task.host for task in self.of("calling"))
        expected: list[Model] = []
        for task in sorted(self.of("waiting", "retrying"), key=lambda task: task.place):
            if len(expected) < count and (self.limit is None or calls[task.host] < self.limit):
                expected.append(task)
                calls[task.host] += 1
        assert [task.id for task in claimed] == [task.id for task in expected]
        for task, found in zip(expected, claimed, strict=True):
            task.attempt += 1
            assert (found.attempt, found.failures) == (task.attempt, task.failures)
            task.before, task.status = task.status, "calling"

    @precondition(lambda self: self.of("calling"))
    @rule(data=st.data(), word=st.sampled_from(["ok", "status", "timeout", "gone", "unsent"]))
    def finish(self, data: st.DataObject, word: str) -> None:
        task = data.draw(st.sampled_from(self.of("calling")))
        if word != "unsent":
            self.late.append((task.id, task.attempt))
        result = CallResult(id=task.id, attempt=task.attempt, result=word, seconds=0.1)
        [ended] = self.dispatch.finish([result])
        if word == "unsent":
            task.attempt, task.status = task.attempt - 1, task.before
        elif word == "ok":
            task.status = "done"
        else:
            task.failures, task.returns = task.failures + 1, 0
            stale = word == "gone" or task.failures > MAX_RETRIES
            task.status = "stale" if stale else "retrying"
            self.refresh(task)
        assert ended.status == task.status

    @precondition(lambda self: self.of("calling"))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """Let a claim run out."""
        task = data.draw(st.sampled_from(self.of("calling")))
        member = task.id.removeprefix("task_")
        self.redis.zadd(f"{PREFIX}task-claims", {member: 1}, xx=True)
        self.dispatch.claim(0)
        task.returns += 1
        task.status = "stale" if task.returns == 10 else task.before
        self.late.append((task.id, task.attempt))

    @precondition(lambda self: self.late)
    @rule(data=st.data(), word=st.sampled_from(["ok", "status"]))
    def finish_late(self, data: st.DataObject, word: str) -> None:
        """Send a result once more, or of a claim that ran out."""
        id, attempt = data.draw(st.sampled_from(self.late))
        task = self.tasks.get(id)
        result = CallResult(id=id, attempt=attempt, result=word, seconds=0.1)
        if task and task.status == "calling" and task.attempt == attempt:
            return  # it is not late
        self.dispatch.finish([result])
        lives = task and task.attempt == attempt and task.status in ("waiting", "retrying", "stale")
        if task and lives and word == "ok":
            task.status = "done"

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "retry", "delete"]))
    def operate(self, data: st.DataObject, verb: str) -> None:
        task = data.draw(st.sampled_from(list(self.tasks.values())))
        possible = {
            "cancel": ("waiting", "retrying"),
            "retry": ("stale", "canceled", "retrying"),
            "delete": ("waiting", "retrying", "done", "stale", "canceled"),
        }[verb]
        twin = verb == "retry" and task.key and [t for t in self.living(task.key) if t != task]
        try:
            getattr(self.callbacks, verb)(task.id)
        except Conflict:
            assert task.status not in possible or twin
            return
        assert task.status in possible
        assert not twin
        if verb == "delete":
            del self.tasks[task.id]
        elif verb == "cancel":
            task.status = "canceled"
        else:
            task.status = "retrying" if task.attempt else "waiting"
            task.failures = task.returns = 0
            self.refresh(task)

    # ---- invariants ---------------------------------------------------------------------------

    @invariant()
    def each_task_is_in_one_place(self) -> None:
        status = self.callbacks.status()
        counts = Counter(task.status for task in self.tasks.values())
        for name in ("waiting", "calling", "retrying", "done", "stale", "canceled"):
            assert getattr(status, name) == counts[name], name
        page = self.callbacks.list(TaskFilter(), 500)
        assert {t.id: (t.status, t.attempt) for t in page.tasks} == {
            t.id: (t.status, t.attempt) for t in self.tasks.values()
        }
        assert len(page.tasks) == self.redis.hlen(f"{PREFIX}tasks")

    @invariant()
    def hosts_have_their_calls_and_rooms(self) -> None:
        calls = Counter(task.host for task in self.of("calling"))
        stored = self.redis.hgetall(f"{PREFIX}task-hosts")
        assert {host.decode(): int(n) for host, n in stored.items()} == dict(calls)
        rooms = self.redis.zrange(f"{PREFIX}task-room:new", 0, -1)
        rooms += self.redis.zrange(f"{PREFIX}task-room:failed", 0, -1)
        firsts: dict[str, str] = {}
        for member in sorted(member.decode() for member in rooms):
            host, _, order = member.partition(" ")
            firsts[host] = min(order, firsts.get(host, order))
        limited = {host.decode() for host in self.redis.zrange(f"{PREFIX}task-limited", 0, -1)}
        opened = [member.decode() for member in self.redis.zrange(f"{PREFIX}task-open", 0, -1)]
        for member in opened:
            order, _, host = member.rpartition(" ")
            assert firsts.get(host) == order
            assert host not in limited
        assert set(firsts) <= limited | {member.rpartition(" ")[2] for member in opened}


def test_tasks_are_called_as_a_simple_model_says(connection: Redis, settings: Settings) -> None:
    machine = type("OnThisServer", (Machine,), {"redis": connection, "settings": settings})
    run_state_machine_as_test(machine, settings=hypothesis_settings(stateful_step_count=40))
