"""Says to whoever listens which parts of the pages have changed; what they are now, they fetch.

GET /events is for pages, GET /api/v1/events for machines: the same text/event-stream.

    event: changed   data: names of regions, separated by a space
    event: store     data: "down" while Redis cannot be used, "up" when it can; comes first
    event: ping      data: seconds until the next one; a stream that misses two is dead

While anybody listens, the process looks once a second at a few keys that change with what a region
shows (its witnesses), in one round trip that is as small with a million schedules. However many
listen, and however much changes, that is all it costs Redis; a listener that is slow is told once.

A stream ends within the hour, when the process is to end, and, where somebody else runs the server
and so nobody tells us of that, after BRIEF seconds: browsers come back by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from random import randrange
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from redis.exceptions import RedisError, ResponseError

from rq_clock.jobs.executions import Slot
from rq_clock.model.decision import ON_TIME
from rq_clock.store.scripts import text
from rq_clock.store.store import Store
from rq_clock.web.context import Read

REGIONS = ("schedules", "runs", "queues", "clock", "audit", "output")
LOOK_SECONDS = 1.0
PING_SECONDS = 15
"""Routers cut a connection that is silent; Heroku's after 55 seconds."""
LONGEST_SECONDS = 3600
BRIEF_SECONDS = 10
"""A server that waits for its streams to end, and cannot tell them, waits no longer than this."""
RETRY_MS = 500, 1500
"""When a browser comes back; not all at the same instant."""
WATCHED = 100
"""Queues, and running jobs, that are looked at one by one."""

Seen = dict[str, tuple[str, Any]]
"""Witness → the regions that it speaks for, and what it was."""


class _Witnesses:
    """What tells that something has changed. Which queues and jobs there are to look at, a look
    knows from the one before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._late = "-inf"
        self._queues: list[str] = []
        self._jobs: list[str] = []

    def look(self) -> Seen:
        """One round trip. Raises redis-py's RedisError."""
        asked = list(self._asked())
        pipe: Any = self._store.redis.pipeline(transaction=False)
        for _, _, command in asked:
            pipe.execute_command(*command)
        answers = pipe.execute(raise_on_error=False)
        seen: Seen = {}
        for (name, regions, command), answer in zip(asked, answers, strict=True):
            fault = isinstance(answer, Exception)
            if fault and not (isinstance(answer, ResponseError) and command[1].startswith("rq:")):
                raise answer
            seen[name] = regions, None if fault else answer  # a key of others, of another type
        return self._prepare(seen)

    def _asked(self) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        """Name, regions, command."""
        key = self._store.key
        yield "now", "", ("TIME",)
        yield "edits", "schedules clock", ("GET", key("revision"))
        # Whatever is decided was the soonest, or close behind.
        yield "soonest", "schedules runs", ("ZRANGE", key("due"), 0, 9, "WITHSCORES")
        yield "late", "schedules clock", ("ZCOUNT", key("due"), "-inf", self._late)
        yield "failing", "schedules clock", ("ZCARD", key("failing"))
        yield "chores", "schedules", ("ZRANGE", key("chores"), 0, 9, "WITHSCORES")
        yield "lease", "clock", ("HGETALL", key("lease"))
        yield "alerts", "clock", ("HLEN", key("alerts"))
        for stream, regions in (
            ("handovers", "clock"),
            ("runs", "runs schedules queues output"),
            ("audit", "audit schedules"),
        ):
            yield stream, regions, ("XREVRANGE", key(stream), "+", "-", "COUNT", 1)
        yield "workers", "", ("HGETALL", key("workers"))
        yield "queues", "queues", ("SMEMBERS", "rq:queues")
        for queue in self._queues:
            yield f"{queue} waiting", "queues runs", ("LLEN", f"rq:queue:{queue}")
            for part in ("wip", "failed", "scheduled", "deferred"):
                yield f"{queue} {part}", "queues runs", ("ZCARD", f"rq:{part}:{queue}")
        for job in self._jobs:
            output = key(f"output:{job}")
            yield f"{job} length", "output", ("STRLEN", output)
            yield f"{job} start", "output", ("GETRANGE", output, 0, 40)  # how much came before

    def _prepare(self, seen: Seen) -> Seen:
        seconds, _ = seen.pop("now")[1]
        self._late = f"{(seconds - ON_TIME.total_seconds()) * 1000:.0f}"
        places = [Slot(text(n), text(v)) for n, v in seen.pop("workers")[1].items()]
        held = {place.worker: place.job for place in places}  # without the signs of life
        seen["held"] = ("runs schedules queues clock", held)
        queues = {text(name).removeprefix("rq:queue:") for name in seen["queues"][1] or ()}
        seen["queues"] = ("queues", queues)
        self._queues = sorted(queues)[:WATCHED]
        self._jobs = sorted(job[1] for job in held.values() if job)[:WATCHED]
        return seen


def changed(before: Seen, after: Seen) -> set[str]:
    """The regions for which a witness is another now than it was."""
    others = (after[name] for name in before.keys() & after.keys() if before[name] != after[name])
    return {region for regions, _ in others for region in regions.split()}


class _Stream:
    """What one listener has not been told yet."""

    def __init__(self) -> None:
        self.regions: set[str] = set()
        self.store = ""
        self.over = False
        self.wake = asyncio.Event()

    def events(self) -> str:
        """What there is to tell, which then is told."""
        self.wake.clear()
        store, self.store = self.store, ""
        regions, self.regions = sorted(self.regions, key=REGIONS.index), set()
        told = f"event: store\ndata: {store}\n\n" if store else ""
        return told + (f"event: changed\ndata: {' '.join(regions)}\n\n" if regions else "")


class Live:
    """The streams of a process, and the watch that they share while there are any. `closing` is
    set when the process is to end; None when nobody will tell."""

    def __init__(self, store: Store, closing: asyncio.Event | None) -> None:
        self._witnesses = _Witnesses(store)
        self._closing = closing
        self._seen: Seen | None = None
        """None while Redis cannot be used."""
        self._streams: set[_Stream] = set()
        self._watch: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def tell(self) -> AsyncIterator[str]:
        """A stream, as it is sent. What is read after its first event misses nothing: whatever
        changes from then on is told."""
        clock = asyncio.get_running_loop().time
        end = clock() + (LONGEST_SECONDS if self._closing else BRIEF_SECONDS)
        stream = _Stream()
        self._streams.add(stream)
        try:
            await self._watching()
            stream.store = "up" if self._seen else "down"
            yield f"retry: {randrange(*RETRY_MS)}\n\n" + stream.events()
            while not stream.over and clock() < end:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(PING_SECONDS, end - clock())):
                        await stream.wake.wait()
                yield stream.events() or f"event: ping\ndata: {PING_SECONDS}\n\n"
        finally:
            self._streams.discard(stream)
            if not self._streams and self._watch:
                watch, self._watch = self._watch, None
                watch.cancel()

    async def _watching(self) -> None:
        """Returns when there is a first look to compare later ones with."""
        async with self._starting:
            if self._watch is None:
                self._seen = None
                await self._look()
                self._watch = asyncio.create_task(self._run())
                self._watch.add_done_callback(self._ended)

    async def _run(self) -> None:
        closing = asyncio.create_task(self._close())
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                await self._look()
        finally:
            closing.cancel()

    async def _close(self) -> None:
        if self._closing:
            await self._closing.wait()
            self._end()

    def _ended(self, watch: asyncio.Task[None]) -> None:
        if watch is self._watch:  # by itself: a fault; whoever comes back starts another one
            self._watch = None
            self._end()

    def _end(self) -> None:
        for stream in self._streams:
            stream.over = True
            stream.wake.set()

    async def _look(self) -> None:
        before = self._seen
        try:
            # In a thread: the client blocks, for as long as Redis may take to answer.
            self._seen = await asyncio.to_thread(self._witnesses.look)
        except RedisError:
            self._seen = None
        for stream in self._streams:
            if (before is None) != (self._seen is None):
                stream.store = "up" if self._seen else "down"
                stream.wake.set()
            elif before and self._seen and (regions := changed(before, self._seen)):
                stream.regions |= regions
                stream.wake.set()


# ---- routes -----------------------------------------------------------------------------------

router = APIRouter()
_EXAMPLE = "event: changed\ndata: schedules runs\n\nevent: ping\ndata: 15\n\n"


class _EventStream(StreamingResponse):
    media_type = "text/event-stream"


@router.get("/events", include_in_schema=False, response_class=_EventStream)
@router.get(
    "/api/v1/events",
    tags=["clock"],
    summary="What changes, as it happens",
    response_class=_EventStream,
    responses={
        200: {
            "description": "Server-sent events. `changed` names regions: "
            f"{', '.join(REGIONS)}. `store` says `up`, or `down` while Redis cannot be used; it "
            "comes first, and what is read after it misses nothing that changes. `ping` comes "
            f"every {PING_SECONDS} seconds when nothing else does. A stream lasts an hour at most.",
            "content": {"text/event-stream": {"example": _EXAMPLE}},
        }
    },
)
async def events(request: Request, token: Read) -> StreamingResponse:
    """Which regions have changed; never what they hold, which is there to be read."""
    live: Live = request.app.state.live
    # X-Accel-Buffering: nginx would hold back what is to be told at once.
    return _EventStream(live.tell(), headers={"X-Accel-Buffering": "no"})
