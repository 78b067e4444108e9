"""Whether the server and its user can serve a clock: version, mode, data, eviction, permissions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from rq_clock.errors import StoreUnavailable
from rq_clock.store.scripts import commands, load_script, text
from rq_clock.store.store import Store, data_fault

OLDEST_REDIS = (6, 2)
NO_INFO = (
    "the server refuses INFO: its version, memory and eviction policy are not checked; allow the "
    "command (ACL SETUSER … +info), or look into the provider's console"
)


def check_server(store: Store) -> list[str]:
    """Return warnings about the server, each with its remedy.

    Raises StoreUnavailable when the server is too old, is a Cluster, or holds data of another
    version than this release uses.
    """
    info = server_info(store.redis)
    if too_old(info):
        got = info.get("redis_version")
        raise StoreUnavailable(f"expected Redis 6.2 or newer, got {got}; upgrade it")
    if is_cluster(info):
        raise StoreUnavailable(
            "expected a server with cluster mode off, got a Redis Cluster, which neither rq-clock "
            "nor RQ can use: a job is in several keys; use another server or plan"
        )
    stored = store.redis.hget(store.key("meta"), "version")
    if fault := data_fault(store.namespace, int(stored or 0)):
        raise StoreUnavailable(fault)
    if not info:
        return [NO_INFO]
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    return [
        f"maxmemory-policy is {policy}: a full Redis would silently drop schedules and jobs; "
        "set it to noeviction (Heroku: `heroku redis:maxmemory --policy noeviction`)"
    ]


def server_info(redis: Any) -> dict[str, Any]:
    """Return INFO; empty where the server lacks or refuses the command, which only checks need."""
    try:
        return dict(redis.info())
    except ResponseError:
        return {}


def too_old(info: Mapping[str, Any]) -> bool:
    """Return whether INFO names a version of Redis that lacks what is needed."""
    version = re.findall(r"\d+", str(info.get("redis_version", "")))
    return bool(version) and tuple(map(int, version[:2])) < OLDEST_REDIS


def is_cluster(info: Mapping[str, Any]) -> bool:
    """Return whether INFO is that of a Redis Cluster, or a Valkey's."""
    return "cluster" in (info.get("redis_mode"), info.get("server_mode"))


def refused_commands(store: Store) -> list[str]:
    """Return the commands of scripts that the user of this connection may not call, each with a key
    or channel; none on a server that cannot tell (before Redis 7)."""
    samples = (store.key("news"), "rq:queue:default")
    script = load_script(store.redis, "access")
    return [text(command) for command in script((), [len(samples), *samples, *commands()])]


def check_access(store: Store) -> None:
    """Raise NoPermissionError if a script would be refused a command and stop halfway."""
    if refused := refused_commands(store):
        only_channels = {command.split()[0] for command in refused} == {"PUBLISH"}
        kind = "access channels" if only_channels else "run"
        raise NoPermissionError(f"No permissions to {kind}: {', '.join(refused)}")
