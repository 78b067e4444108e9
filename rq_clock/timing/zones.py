"""The clock of a time zone: its wall times and its jumps.

An instant is an integer of epoch seconds. A *wall* time is the one that the clock shows at an
instant, counted in seconds as if it were UTC.

The data comes from the `tzdata` package and never from the machine, whose files may be years older:
two processes with the same requirements agree about every instant.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from rq_clock.redaction import masked_repr
from rq_clock.timing.zone_hints import suggestion

_DAY = 86_400
_SECOND = timedelta(seconds=1)
_STRIDE = 6 * _DAY  # since 1970 no zone has jumped twice within it; the closest two are 6.96 days
_BLOCK = 60 * _STRIDE


class Zone:
    """The clock of a time zone."""

    def __init__(self, info: ZoneInfo) -> None:
        self.info = info

    def offset(self, t: int) -> int:
        """Return the offset at an instant: seconds east of UTC."""
        offset = datetime.fromtimestamp(t, self.info).utcoffset()
        assert offset is not None
        return offset // _SECOND

    def jumps(self, low: int, high: int) -> Iterator[int]:
        """Yield the instants in (`low`, `high`] at which the offset changes. Each year that nobody
        has looked at yet costs about 50 µs."""
        if self.info.utcoffset(None) is not None:  # it is the same all the time
            return
        for block in range(low // _BLOCK, high // _BLOCK + 1):
            yield from (jump for jump in _jumps(self, block) if low < jump <= high)

    def reached(self, t: int) -> int:
        """Return the greatest wall time shown up to an instant: in an overlap, that before it."""
        before = (jump - 1 for jump in self.jumps(t - _DAY, t))
        return max(instant + self.offset(instant) for instant in (*before, t))


@lru_cache(maxsize=4096)
def _jumps(zone: Zone, block: int) -> tuple[int, ...]:
    """Return the jumps in a stretch of _BLOCK seconds, by bisection, since zoneinfo hides them."""
    found = []
    for low in range(block * _BLOCK, (block + 1) * _BLOCK, _STRIDE):
        before = zone.offset(low)
        if zone.offset(low + _STRIDE) != before:
            instants = range(low + 1, low + _STRIDE + 1)
            index = bisect_left(instants, True, key=lambda t: zone.offset(t) != before)
            found.append(instants[index])
    return tuple(found)


@cache
def zone_names() -> frozenset[str]:
    """Return the names of all zones that can be used."""
    return frozenset((resources.files("tzdata") / "zones").read_text(encoding="ascii").split())


def zone_faults(key: str) -> list[str]:
    """Return the fault of a zone's name: at most one line."""
    if key in zone_names():
        return []
    hint = suggestion(key, sorted(zone_names()))
    return [f"expected a time zone such as 'Europe/Berlin', got {masked_repr(key)}: {hint}"]


@cache
def zone(key: str) -> Zone:
    """Return the zone of a name, one object for all callers.

    Raises ValueError for any other name, so that no text leads to any other file.
    """
    if faults := zone_faults(key):
        raise ValueError(faults[0])
    with (resources.files("tzdata") / "zoneinfo" / key).open("rb") as file:
        return Zone(ZoneInfo.from_file(file, key=key))
