"""The fire times that are near, found in the due index and not decided yet.

The index is read on, page by page, up to a horizon, and from its start now and then, in case an
announcement was lost. The horizon is AHEAD_MS away, or further when a crowd comes that takes longer
to pack: so much that all of it can be ready at its instant. Reads no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice

from rq_clock.store.store import PAGE, Store
from rq_clock.timing.instants import from_ms, to_ms

AHEAD_MS, FAR_MS = 15_000, 300_000
"""How long before its instant a fire time is looked for and packed, at least and at most."""
SPARE = 1.5
"""How many times longer a crowd is given than it took others to be packed."""
SCAN_MS = 10_000
"""How often the due index is read on. Changes in between are announced."""
COMING_LIMIT = 20_000
"""Schedules that are found and not taken, beyond which the index is not read on."""
RESCAN_MS = 60_000
"""How often it is read from the start."""


class Upcoming:
    """The coming fire times of one namespace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._coming: dict[str, int] = {}
        """Schedule → the instant (ms) at which it is to be decided or is staged for."""
        self._heap: list[tuple[int, str]] = []
        self._pages: Iterator[tuple[str, int]] | None = None
        self._reach = AHEAD_MS
        self._rescan_at = 0
        self.read_at = 0
        """When the index is read on (ms)."""
        self.found_until = 0
        """Up to where it has been read, or is being read."""
        self.job_ms = 0.1
        """How long it took lately to pack one job."""

    def packed(self, jobs: int, ms: int) -> None:
        """Take note of how long it took to pack some jobs."""
        if jobs and 0 <= ms < SCAN_MS:
            self.job_ms += (ms / jobs - self.job_ms) / 50

    def look_again(self) -> None:
        """Read the index from its start."""
        self.read_at = self._rescan_at = 0
        self._pages = None

    def horizon(self, now_ms: int) -> int:
        """Return up to where fire times may be packed."""
        return now_ms + self._reach

    def read(self, now_ms: int) -> bool:
        """Read one page of the index, if it is time to. Return whether there are more."""
        if now_ms >= self.read_at:
            self.read_at = now_ms + SCAN_MS
            if self._pages is None:
                self._start(now_ms)
        if self._pages is None or len(self._heap) >= COMING_LIMIT:
            return False
        page = list(islice(self._pages, PAGE))
        for name, when in page:
            self.expect(name, when)
        if len(page) < PAGE:
            self._pages = None
        return self._pages is not None

    def _start(self, now_ms: int) -> None:
        """Begin to read the index, up to the horizon."""
        far = self._store.count_due(from_ms(now_ms + FAR_MS))
        self._reach = int(min(max(AHEAD_MS, far * self.job_ms * SPARE), FAR_MS))
        after = self.found_until
        if now_ms >= self._rescan_at:
            self._rescan_at, after = now_ms + RESCAN_MS, 0
            self._free_held(now_ms)
        # What is decided from now on is expected up to there by its own decision.
        self.found_until = self.horizon(now_ms)
        until = from_ms(self.found_until)
        self._pages = self._store.due(from_ms(after) if after else None, until)

    def _free_held(self, now_ms: int) -> None:
        """Make due what the pause of all has held, a portion at a time."""
        pause, again = self._store.pause_of_all(), None
        if pause and pause.at(from_ms(now_ms)):
            again = to_ms(pause.until) if pause.until else None
        elif self._store.free_held(from_ms(now_ms)):
            again = now_ms
        if again is not None:
            self.read_at = min(self.read_at, again)
            self._rescan_at = min(self._rescan_at, again)

    def find(self, names: list[str], now_ms: int) -> None:
        """Look up when these schedules are due. The cost follows their number, so that thousands of
        one-off jobs a second can be added while the due index is long."""
        horizon = max(self.horizon(now_ms), self.found_until)
        for name, when in self._store.fire_times(names).items():
            if when <= horizon:
                self.expect(name, when)

    def expect(self, name: str, when: int) -> None:
        if self._coming.get(name) != when:
            self._coming[name] = when
            heapq.heappush(self._heap, (when, name))

    def forget(self, name: str) -> int | None:
        """Expect nothing of a schedule. Return the instant (ms) at which it was expected."""
        return self._coming.pop(name, None)

    def next_at(self) -> int | None:
        """Return the instant (ms) of the first fire time that is not taken."""
        while self._heap and self._coming.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # moved since
        return self._heap[0][0] if self._heap else None

    def take(self, limit: int, until: int) -> dict[str, int]:
        """Return the first schedules that are expected by `until` (ms), with their instants. They
        stay expected then until they are forgotten."""
        found: dict[str, int] = {}
        while len(found) < limit and (when := self.next_at()) is not None and when <= until:
            found[heapq.heappop(self._heap)[1]] = when
        return found
