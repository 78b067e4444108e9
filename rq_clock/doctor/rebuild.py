"""Rebuild the due index from definitions and markers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rq_clock.doctor.facts import SCAN, read_schedules
from rq_clock.errors import RqClockError
from rq_clock.store.lease import Leases
from rq_clock.store.scripts import load_script, text
from rq_clock.store.store import Store, portions
from rq_clock.timing.instants import to_ms
from rq_clock.version import releases


def rebuild(store: Store) -> Iterator[tuple[int, int]]:
    """Rebuild the due index, also while a clock works: lua/rebuild.lua compares each entry with the
    marker and revision that it was computed from. Yield for each portion how many schedules it had
    and how many were corrected. An interrupted rebuild can be started again.

    A definition that this release cannot read keeps its entry. Raises StoreUnavailable, and
    RqClockError when the leader would compute other fire times.
    """
    store.check_server()
    theirs, ours = Leases(store).leader().get("tzdata"), releases()["tzdata"]
    if theirs not in (None, ours):
        raise RqClockError(
            f"expected the leading clock's zone data, {theirs}, got {ours}; fire times differ "
            "between the two: run this from the release that the clock runs"
        )
    script = load_script(store.redis, "rebuild")
    keys = store.keys("due")
    for portion in portions(store.all_names()):
        words: list[str | int] = []
        for name, seen in read_schedules(store, portion)[0].items():
            if seen.misplaced:
                fire = to_ms(seen.next) if seen.next else ""
                words += (name, seen.entry.base, seen.entry.revision, fire)
        yield len(portion), script(keys, words) if words else 0
    scan: Any = store.redis.zscan_iter(store.key("due"), count=SCAN)
    members = [text(name) for name, _ in scan]
    for portion in portions(members):
        words = []
        for name, definition in zip(portion, store.definitions(portion), strict=True):
            if definition is None:
                words += (name, "", "", "")
        yield 0, script(keys, words) if words else 0
