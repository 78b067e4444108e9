"""Rebuild the due index, and what else can be derived, by order of an operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rq_clock.doctor.facts import SCAN
from rq_clock.errors import RqClockError
from rq_clock.store.access import check_server
from rq_clock.store.lease import Leases
from rq_clock.store.repair import Repairs
from rq_clock.store.scripts import text
from rq_clock.store.store import Store, portions
from rq_clock.version import releases


def rebuild(store: Store) -> Iterator[tuple[int, int]]:
    """Repair every schedule, also while a clock works; see store/repair.py. Yield for each portion
    how many schedules it had and how many were corrected. An interrupted rebuild can be started
    again.

    A definition that this release cannot read keeps its entry. Raises StoreUnavailable, and
    RqClockError when the leader would compute other fire times.
    """
    check_server(store)
    theirs, ours = Leases(store).leader().get("tzdata"), releases()["tzdata"]
    if theirs not in (None, ours):
        raise RqClockError(
            f"expected the leading clock's zone data, {theirs}, got {ours}; fire times differ "
            "between the two: run this from the release that the clock runs"
        )
    repairs, now = Repairs(store), store.now()
    for portion in portions(store.all_names()):
        yield len(portion), len(repairs.repair(portion, now))
    scan: Any = store.redis.zscan_iter(store.key("due"), count=SCAN)
    for portion in portions([text(name) for name, _ in scan]):
        pairs = zip(portion, store.definitions(portion), strict=True)
        strays = [name for name, definition in pairs if definition is None]
        yield 0, len(repairs.repair(strays, now)) if strays else 0
