"""The messages that Redis sends a worker: RQ's commands, and that a queue has changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

from redis import Redis
from redis.client import PubSub
from redis.exceptions import ResponseError

from rq_clock.log import log_warning
from rq_clock.store.client import REPLY_SECONDS, socket_of

POLL = 0.1
"""Seconds between two looks at the queues of a server without client tracking."""


class News:
    """A connection of its own to the server of `redis`. Methods raise redis-py's RedisError."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis, self._channel = redis, channel
        self._pubsub: PubSub | None = None
        self._id = 0
        self.tracking = True
        """Whether the server can tell of changed queues."""

    @property
    def open(self) -> bool:
        """Whether there is a connection."""
        return self._pubsub is not None

    def subscribe(self) -> None:
        """Connect."""
        pubsub: Any = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        try:
            pubsub.execute_command("CLIENT", "ID")
            try:
                self._id = int(pubsub.connection.read_response())
            except ResponseError as error:
                self._poll(error)
            pubsub.subscribe(self._channel, *(["__redis__:invalidate"] if self.tracking else []))
            pubsub.get_message(timeout=REPLY_SECONDS)  # or the refusal
        except BaseException:
            pubsub.close()
            raise
        self._pubsub = pubsub

    def close(self) -> None:
        """Disconnect, if there is a connection."""
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None

    @property
    def socket(self) -> socket.socket | None:
        """The socket to wait on, while there is a connection."""
        return socket_of(self._pubsub.connection) if self._pubsub else None

    def watch(self, keys: Sequence[str]) -> bool:
        """Subscribe to the next change of these queues. Return whether one has a job already."""
        pipe: Any = self._redis.pipeline(transaction=False)
        if self.tracking:
            pipe.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", self._id, "OPTIN")
            pipe.execute_command("CLIENT", "CACHING", "YES")
        pipe.exists(*keys)
        *answers, waiting = pipe.execute(raise_on_error=False)
        for answer in [*answers, waiting]:
            if isinstance(answer, ResponseError) and self.tracking:
                self._poll(answer)
            elif isinstance(answer, Exception):
                raise answer
        return bool(self.tracking and waiting)

    def _poll(self, reason: ResponseError) -> None:
        """Look at the queues again and again: the server lacks or refuses client tracking."""
        if self.tracking:
            log_warning("worker.polling", reason=reason, seconds=POLL)
        self.tracking = False

    def commands(self) -> Iterator[Any]:
        """Return the messages of RQ's channel that have come. Those of changed queues only end the
        waiting."""
        assert self._pubsub
        connection: Any = self._pubsub.connection
        while True:
            message = self._pubsub.get_message(timeout=0)
            if message is not None and message["channel"] == self._channel.encode():
                yield message
            if message is None and not connection.can_read(timeout=0):
                return
