"""The lease of a namespace: at most one clock holds it, and each grant has a higher fencing token.

A write of the clock names its token, so a clock that was deposed, frozen or cut off cannot write.
lua/acquire.lua has the rules for who may depose whom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rq_clock.errors import LeaseLost, StoreUnavailable
from rq_clock.model.entry import Lease, LeaseGrant, LeaseRefused
from rq_clock.store.scripts import load_script, newest, text, texts
from rq_clock.store.store import DATA_VERSION, Store, data_fault
from rq_clock.timing.instants import from_ms, to_ms

LEASE_MS = 12_000
"""A leader that is silent for this long has lost the lease."""
DEPOSE_PAUSE_MS = 30_000
"""After a clock died in its first pass, nobody deposes a working leader for this long."""
_NUMBER = "-?[0-9]{1,14}"  # in milliseconds it ends in the year 5138, which datetime can hold
_NUMBERS = (
    "since", "tick", "enqueued", "skew_ms", "ahead_s", "lag_p50_ms", "lag_p99_ms", "lag_max_ms",
)  # fmt: skip
_FORMS = {"token": r"[0-9]{1,14}(\..*)?", **dict.fromkeys(_NUMBERS, _NUMBER)}


def leader_facts(stored: Mapping[Any, Any]) -> dict[str, str]:
    """Return what the leading clock reports of itself, from the hash that has its lease. A number
    that is none, which others have written, is left out."""
    return {
        name: fact
        for name, fact in texts(stored).items()
        if name not in _FORMS or re.fullmatch(_FORMS[name], fact)
    }


def led_at(stored: Any) -> datetime | None:
    """Return when a clock last renewed its lease; None when it is not known."""
    return from_ms(stored) if stored and re.fullmatch(_NUMBER, text(stored)) else None


class Leases:
    """The lease of one namespace. Methods raise redis-py's RedisError when the server cannot be
    used."""

    def __init__(self, store: Store) -> None:
        self._store = store
        names = ("acquire", "release", "renew")
        self._scripts = {name: load_script(store.redis, name) for name in names}

    def acquire(
        self, instance: str, owner: tuple[str, str], mode: str, now: datetime
    ) -> Lease | LeaseRefused:
        """Request the lease. `mode` is starting (depose a leader of the same owner), waiting (take
        a free lease), foreign (the same, of a namespace that has an owner) or take-over (depose any
        leader). `owner` comes with its former name.

        Raises StoreUnavailable when the data has another version.
        """
        keys = self._store.keys(
            "lease", "fence", "meta", "unproven", "news", "handovers", "counters"
        )
        args = [*owner, instance, mode, LEASE_MS, DATA_VERSION, to_ms(now), DEPOSE_PAUSE_MS]
        kind, *rest = map(text, self._scripts["acquire"](keys, args))
        if kind == "granted":
            return Lease(rest[0])
        if kind == "held":
            return LeaseRefused("held", wait=max(int(rest[0]), 0) / 1000, holder=rest[1])
        if kind == "ownerless":
            return LeaseRefused("ownerless")
        if kind == "foreign":
            return LeaseRefused("foreign", owner=rest[0], holder=rest[1])
        raise StoreUnavailable(data_fault(self._store.namespace, int(rest[0])))

    def renew(self, lease: Lease, **facts: str | int) -> int:
        """Keep the lease and write `facts` on it. Return the server's time in epoch microseconds.
        Raises LeaseLost."""
        pairs = [word for pair in facts.items() for word in pair]
        keys = self._store.keys("lease", "unproven", "meta")
        micros = int(self._scripts["renew"](keys, [lease.token, LEASE_MS, *pairs]))
        if not micros:
            raise LeaseLost
        return micros

    def release(self, lease: Lease) -> None:
        """Give the lease back at once; a lease that is lost already stays with its new holder."""
        self._scripts["release"](self._store.keys("lease", "unproven", "news"), [lease.token])

    def leader(self) -> dict[str, str]:
        """Return what the leading clock reports of itself; empty when none leads."""
        return leader_facts(self._store.redis.hgetall(self._store.key("lease")))

    def handovers(self, limit: int) -> list[LeaseGrant]:
        """Return the newest grants of the lease, newest first; about the last hundred are kept."""
        return newest(self._store.redis, self._store.key("handovers"), LeaseGrant.read, limit)
