"""A pipeline whose replies have names."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from rq_clock.store.store import Store

_EMPTY: dict[str, type] = {"LRANGE": list, "HGETALL": dict}


def execute(pipe: Any) -> list[Any]:
    """Send a pipeline. Of a list and a whole hash of another type, which are one schedule's ledger
    and days, the reply is empty. Raises redis-py's errors for all else."""
    commands = [args[0] for args, _ in pipe.command_stack]
    replies: list[Any] = pipe.execute(raise_on_error=False)
    for i, (command, reply) in enumerate(zip(commands, replies, strict=True)):
        if isinstance(reply, ResponseError) and command in _EMPTY:
            replies[i] = _EMPTY[command]()
        elif isinstance(reply, Exception):
            raise reply
    return replies


class NamedPipeline:
    """Commands of one round trip. `pipe[name]` is a reply after `run`. Raises redis-py's
    RedisError."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pipe: Any = store.redis.pipeline(transaction=False)
        self._names: list[str] = []
        self._foreign: set[str] = set()
        self._replies: dict[str, Any] = {}

    def add(self, name: str, command: str, key: str, *args: Any, **options: Any) -> None:
        """Add a command about a key of the namespace."""
        self._names.append(name)
        getattr(self._pipe, command)(self.store.key(key), *args, **options)

    def foreign(self, name: str, command: str, *args: Any, **options: Any) -> None:
        """Add a command about a key that is not ours. Its reply is None when the key has another
        type than RQ gives it."""
        self._foreign.add(name)
        self._names.append(name)
        getattr(self._pipe, command)(*args, **options)

    def run(self) -> None:
        """Send all of it; nothing when nothing was added."""
        if not self._names:
            return
        replies = zip(self._names, self._pipe.execute(raise_on_error=False), strict=True)
        for name, reply in replies:
            if isinstance(reply, Exception):
                if name not in self._foreign or not isinstance(reply, ResponseError):
                    raise reply
                reply = None
            self._replies[name] = reply

    def __getitem__(self, name: str) -> Any:
        return self._replies[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a reply, or the default when the command was not part of it."""
        return self._replies.get(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self._replies
