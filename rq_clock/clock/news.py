"""The leader's news: messages about changed schedules, on a connection of their own.

A proxy may forget an idle connection and say nothing. So `check` sends a PING with each renewal of
the lease, and a connection without an answer within ANSWER_SECONDS is replaced; what it may have
lost, the caller reads from Redis.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from redis.client import PubSub

from rq_clock.log import log_warning
from rq_clock.store.client import REPLY_SECONDS, socket_of
from rq_clock.store.scripts import text
from rq_clock.store.store import Store

ANSWER_SECONDS = 1.0
EVERYTHING = "*"
"""The message that any schedule may have changed."""


class News:
    """The news of one namespace. Methods raise redis-py's errors."""

    def __init__(self, store: Store, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._subscription: PubSub | None = None
        self.answer_by = float("inf")
        """When an answer to the PING is overdue (monotonic)."""

    def open(self) -> None:
        """Subscribe, and wait for the acknowledgement: no later message is missed."""
        self._subscription, self.answer_by = self._store.listen(), float("inf")
        self._subscription.get_message(timeout=REPLY_SECONDS)

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    @property
    def socket(self) -> socket.socket | None:
        """The socket to wait on, while there is a connection."""
        return socket_of(self._subscription.connection) if self._subscription else None

    def ping(self) -> None:
        """Ask for a sign of life, unless one is expected already."""
        if self._subscription is not None and self.answer_by == float("inf"):
            self._subscription.ping()
            self.answer_by = self._monotonic() + ANSWER_SECONDS

    def read(self) -> list[str]:
        """Return the messages that have come; EVERYTHING after a connection that was dead."""
        if self._subscription is None:
            return []
        messages: list[str] = []
        connection: Any = self._subscription.connection
        while True:
            message = self._subscription.get_message(timeout=0)
            if message is not None and message["type"] == "pong":
                self.answer_by = float("inf")
            elif message is not None:
                messages.append(text(message["data"]))
            elif not connection.can_read(timeout=0):  # None also stands for an acknowledgement, and
                break  # what came right behind it would make no socket readable
        if self._monotonic() >= self.answer_by:
            log_warning("news.dead", effect="connected anew; all that is due is read again")
            self.close()
            self.open()
            messages.append(EVERYTHING)
        return messages
