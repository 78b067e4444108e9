"""The connections of the web process: how long a client may take to ask, and how many there may be.

uvicorn waits without end for the head of a request. Here a connection has HEAD_SECONDS for one, and
above the limit the one that has waited longest is closed, so half-sent heads keep nobody out.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request, from the connection or the end of the response before."""
LIMIT, RESERVED = 1000, 100
"""Connections, and the file descriptors that are kept for the rest: Redis, files, threads."""


def connection_limit() -> int:
    """Return how many connections this process may have."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = files == resource.RLIM_INFINITY
    return LIMIT if unlimited else min(LIMIT, max(files - RESERVED, files // 4))


class Connection(H11Protocol):
    """A connection with these limits."""

    limit = LIMIT
    _deadline: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Return whether the server waits for a request."""
        cycle: Any = self.cycle
        return cycle is None or bool(cycle.response_complete)

    @property
    def stalled(self) -> bool:
        """Return whether it only waits for its client: to send the rest of a body, or to read."""
        cycle: Any = self.cycle
        half_sent = cycle is not None and bool(cycle.more_body)
        return half_sent or self.flow.write_paused or self.transport.is_closing()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.limit:
            self._make_room()

    def handle_events(self) -> None:
        super().handle_events()
        if not self.idle:
            self._cancel_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.idle and not self.transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        """Close the idle connection that has waited longest; else a stalled one; else this."""
        others: list[Any] = [one for one in self.connections if one is not self]
        idle = [one for one in others if one._deadline is not None]
        stalled = [one for one in others if one.stalled]
        if idle:
            min(idle, key=lambda one: one._deadline.when()).transport.abort()
        else:
            (stalled[0] if stalled else self).transport.abort()
