"""The job that calls tasks: claim what is due, call it, write the results, hand over.

One asyncio loop holds hundreds of calls at once; Redis is spoken to from one thread beside it, so
that neither a slow answer of Redis nor an outage delays the calls that run. All state is in Redis:

    this process dies             what it had claimed runs out and is called again, with the same
                                  id and a higher attempt; the clock enqueues another job
    a reply of claim is lost      likewise
    a reply of finish is lost     it is sent again, and compared: nothing is counted twice
    Redis is away                 calls go on, and their results are kept until it is back
    the worker has to end         no more claims; calls that run have until shortly before the end
                                  of its grace; those that still run then are called again

A job claims for SLICE_SECONDS. Then it enqueues its successor at the back of the queue and goes on
until that takes its place over, for OVERLAP_SECONDS at most. It waits for its last calls and ends:
other jobs of a worker that serves several queues get their turn. It ends early when nothing is due
for a while.

Not here: what a call is (calls.py); order, limits and what follows a result (store/task_claims.py).
"""

from __future__ import annotations

import asyncio
import gc
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.exceptions import RedisError
from rq import get_current_job

from rq_clock import log as logs
from rq_clock.callbacks.calls import Caller, EndedCall
from rq_clock.callbacks.queue import QUEUE, enqueue_dispatcher
from rq_clock.errors import RqClockError
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.outbound.async_client import AsyncClient
from rq_clock.run import stopping
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings
from rq_clock.store.client import is_outage
from rq_clock.store.store import Store
from rq_clock.store.task_claims import PORTION, ClaimedTask, Dispatch, FinishedTask, places

T = TypeVar("T")

SLICE_SECONDS, OVERLAP_SECONDS = 28.0, 2.0
"""How long a job claims tasks before it has a successor, and how much longer until that has taken
its place over: with several workers no moment is without a dispatcher."""
FLUSH_SECONDS = 0.05
"""How long the result of a call waits for others that are written with it."""
POLL_SECONDS = 0.1
"""How often to look for new tasks while none is due, and whether the worker has to end."""
LEAST_PAUSE = 0.01
"""Between two claims: what a rate allows meanwhile is claimed together."""
LINGER_SECONDS = 1.0
"""How long a job without a call waits for the next task that is due."""
CALLS = 500
"""Calls at the same time."""
BYTES = 32_000_000
"""Payloads of the calls that run, beyond which no more are claimed: a dyno has 512 MB, and each is
in memory twice or three times."""
COLLECT_AT = 50_000
"""New objects, about those of 500 calls, at which garbage is collected."""
GRACE_MARGIN = 3.0
"""Seconds before the end of the worker's grace at which calls that still run are given up."""
OUTAGE_PAUSE = 0.5
"""Seconds between two attempts to reach Redis."""
LONGEST_JOB = SLICE_SECONDS + 300 + 30
"""Seconds after which a job that cannot reach Redis gives up: the slice, the longest call, and
some."""
FILES = 64
"""File descriptors that are left to others."""
SUMMARY_SECONDS = 1.0
"""The shortest time from one summary in the log to the next."""


def dispatch(namespace: str, predecessor: str = "") -> None:
    """Call the tasks of a namespace that are due; the function of the job. `predecessor` is the
    dispatcher whose place it takes over.

    Raises RqClockError in a worker of another namespace, whose keys and settings are not those of
    the tasks.
    """
    settings = Settings.from_env()
    if settings.namespace != namespace:
        raise RqClockError(
            f"expected a worker of the namespace {namespace!r}, got one of {settings.namespace!r}; "
            f"let only workers of one namespace serve the queue {QUEUE!r} of a Redis"
        )
    if not logs.logger.hasHandlers():
        logs.set_up(stamp=settings.stamped_logs)
    job, runtime = get_current_job(), Runtime()
    redis = runtime.connect(settings, measured=True)
    store = Store.from_settings(redis, settings)
    try:
        owner = job.id if job else settings.instance
        with _rare_collections():
            asyncio.run(Dispatcher(store, settings, runtime, owner).run(predecessor))
    finally:
        redis.close()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage less often: with hundreds of calls in memory, a quarter of the work would be
    looking at objects that live as long as a call."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AT, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Dispatcher:
    """One job's life as a dispatcher. `owner` is its name among the dispatchers. Instants are
    monotonic seconds."""

    def __init__(self, store: Store, settings: Settings, runtime: Runtime, owner: str) -> None:
        self._store = store
        self._settings = settings
        self._runtime = runtime
        self._owner = owner
        self._claims = Dispatch(store, owner)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rq-clock-redis")
        self._wake = asyncio.Event()
        self._slots = _slots()
        self._calls: dict[asyncio.Task[EndedCall], tuple[ClaimedTask, float]] = {}
        """Those that run, with their task and when they began."""
        self._bytes = 0
        self._results: list[EndedCall] = []
        """Those that are not written yet."""
        self._claim_at = self._opens_at = self._busy_at = self._summary_at = 0.0
        self._flush_at = self._cut_at = float("inf")
        self._slice_end = self._give_up_at = float("inf")
        self._entered = self._retired = False
        """Whether it got a place, and whether it has given it up: then it claims no more."""
        self._successor = False
        """Whether the job that follows is in the queue."""
        self._search: asyncio.Task[None] | None = None
        self._faults = FaultLog()
        self._counts: Counter[str] = Counter()
        """Results since the last summary."""

    async def run(self, predecessor: str = "") -> None:
        """Call until the slice is over, nothing is due or the worker has to end. Raises redis-py's
        errors when Redis is away until long after the slice."""
        try:
            self._predecessor = predecessor
            now = self._busy_at = self._summary_at = self._runtime.monotonic()
            self._slice_end, self._give_up_at = now + SLICE_SECONDS, now + LONGEST_JOB
            async with AsyncClient(self._settings.webhook_allow) as client:
                caller = Caller(client, self._settings, self._runtime)
                while self._calls or self._results or not self._retired:
                    await self._attempt(caller)
                    await self._sleep()
            self._summarize(self._runtime.monotonic())
        finally:
            self._thread.shutdown(wait=False)

    async def _attempt(self, caller: Caller) -> None:
        """Do what is to be done now. An outage ends nothing: it is done later."""
        now = self._runtime.monotonic()
        try:
            await self._turn(caller, now)
            self._faults.clear("dispatcher.outage")
        except (RedisError, OSError, RqClockError) as error:
            if not is_outage(error) or now >= self._give_up_at:
                raise
            self._faults.report("dispatcher.outage", error)
            self._claim_at = self._flush_at = now + OUTAGE_PAUSE
            if now >= self._slice_end or self._cut_at < float("inf"):
                self._retired = True  # its place runs out by itself

    async def _turn(self, caller: Caller, now: float) -> None:
        if stopping() and self._cut_at == float("inf"):
            grace = self._settings.grace_seconds - GRACE_MARGIN
            self._cut_at = now + max(grace, POLL_SECONDS)
            log_event("dispatcher.stopping", calls=len(self._calls))
        if now >= self._cut_at:
            for call in self._calls:
                call.cancel()
        if self._results and (now >= self._flush_at or not self._calls):
            await self._flush()
        if self._retired:
            return
        if not self._entered:
            self._entered = await self._redis(self._claims.enter, self._predecessor)
            self._retired = not self._entered  # another one has the place
        elif self._must_retire(now):
            await self._retire()
        elif now >= self._slice_end and self._search is None:
            self._search = asyncio.create_task(self._find_successor())
        elif now >= self._claim_at and self._has_room:
            await self._claim(caller)

    @property
    def _has_room(self) -> bool:
        return len(self._calls) < self._slots and self._bytes < BYTES

    def _must_retire(self, now: float) -> bool:
        if now >= self._slice_end + OVERLAP_SECONDS or self._cut_at < float("inf"):
            return True
        idle = not (self._calls or self._results) and now >= self._busy_at + LINGER_SECONDS
        return idle and self._opens_at > now + LINGER_SECONDS

    async def _sleep(self) -> None:
        """Wait until there is something to do."""
        now = self._runtime.monotonic()
        until = now + POLL_SECONDS
        if self._results:
            until = min(until, self._flush_at)
        if not self._retired and self._has_room:
            until = min(until, self._claim_at)
        if self._calls or self._results or not self._retired:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(until - now, 0.0)):
                    await self._wake.wait()

    async def _redis(self, function: Callable[..., T], *args: Any) -> T:
        """Return the result of a function that speaks to Redis, while the calls go on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *args))

    # ---- claims and calls -----------------------------------------------------------------------

    async def _claim(self, caller: Caller) -> None:
        limit = min(self._slots - len(self._calls), PORTION)
        claim = await self._redis(self._claims.claim, limit)
        now = self._runtime.monotonic()
        if claim.lost:
            if not self._successor:  # it was silent for too long
                log_warning("dispatcher.gone", effect="another one may have its place")
            self._retired = True
            return
        wait = float("inf")
        if claim.next_at:
            wait = (claim.next_at - claim.now).total_seconds()
        self._opens_at = now + wait
        self._claim_at = now + min(max(wait, LEAST_PAUSE), POLL_SECONDS)
        if stopping():  # meanwhile
            await self._redis(self._claims.give_back, claim.tasks)
            return
        for task in claim.tasks:
            call = asyncio.create_task(caller.call(task))
            self._calls[call] = (task, now)
            self._bytes += task.size
            call.add_done_callback(partial(self._ended, caller))

    def _ended(self, caller: Caller, call: asyncio.Task[EndedCall]) -> None:
        task, began = self._calls.pop(call)
        self._bytes -= task.size
        now = self._busy_at = self._runtime.monotonic()
        if call.cancelled():
            ended = caller.lost(task, began, "its worker had to end before the answer came")
        elif error := call.exception():  # a fault of ours, or of one task
            self._faults.report("task.broken", type(error).__name__, id=task.id)
            ended = caller.lost(task, began, f"the call could not be made: {type(error).__name__}")
        else:
            ended = call.result()
        if not self._results:
            self._flush_at = now + FLUSH_SECONDS
        if not (self._results and self._calls):
            self._wake.set()
        self._results.append(ended)

    async def _flush(self) -> None:
        """Write the results of calls, oldest first, and log the tasks that ended with them."""
        portion, now = self._results[:PORTION], self._runtime.monotonic()
        results = [replace(call.result, ago=now - call.at) for call in portion]
        finished = await self._redis(self._claims.finish, results)
        del self._results[: len(portion)]
        now = self._runtime.monotonic()
        self._flush_at = now if self._results else float("inf")
        self._claim_at = min(self._claim_at, now)  # a limit may be open again
        for call, end in zip(portion, finished, strict=True):
            _log_end(call, end)
        self._counts.update(result.result for result in results)
        if now >= self._summary_at + SUMMARY_SECONDS:
            self._summarize(now)

    def _summarize(self, now: float) -> None:
        """Log one line about the calls since the last one."""
        if counts := dict(sorted(self._counts.items())):
            seconds = f"{now - self._summary_at:.3f}"
            log_event("tasks.called", **counts, running=len(self._calls), seconds=seconds)
        self._counts.clear()
        self._summary_at = now

    async def _find_successor(self) -> None:
        """Enqueue another job if something is due soon; beside the claims, which go on."""
        loop, store = asyncio.get_running_loop(), self._store
        found = await loop.run_in_executor(None, places, store)
        soon = found.now + timedelta(seconds=LINGER_SECONDS)
        if found.next_due is not None and found.next_due <= soon:
            enqueue = partial(enqueue_dispatcher, store.redis, store.namespace, self._owner)
            await loop.run_in_executor(None, enqueue)
            self._successor = True

    async def _retire(self) -> None:
        """Give up the place. Without a successor, the clock learns when the next task is due."""
        if not self._successor:
            search = self._search or asyncio.create_task(self._find_successor())
            self._search = None  # after an outage it is made again
            await search
        await self._redis(partial(self._claims.leave, successor=self._successor))
        self._retired = True


def _slots() -> int:
    """Return how many calls there may be at the same time: each needs a file descriptor."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CALLS if soft == resource.RLIM_INFINITY else max(min(CALLS, soft - FILES), 1)


def _log_end(call: EndedCall, end: FinishedTask) -> None:
    """Log that a task has ended, or that its call counts no more."""
    if end.status in ("waiting", "retrying"):
        return
    result = call.result
    facts: dict[str, Any] = {"id": end.id, "status": end.status, "attempt": result.attempt}
    facts |= {"host": urlsplit(call.task.url).netloc, "result": result.result}
    if result.status:
        facts["answer"] = result.status
    facts["took"] = f"{result.seconds:.3f}s"
    if result.error:
        facts["error"] = result.error
    log_event("task.ended", **facts)
