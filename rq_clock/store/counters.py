"""The counters in Redis and their names: one hash for all schedules, `counters`, and one for each,
`counters:<schedule>`, which goes with its schedule. Pure; workers and the leading clock write the
fields, and metrics read them.

    run <state> <le>        runs that ended for good in this state, by how long their last attempt
                            took: up to `le` seconds; "-" for one of which that is not known
    took                    ms that they took together
    wait <le>, waited       from when the attempt was queued until a worker took it, likewise
    again <state>           attempts that ended in this state, and whose job goes on
    fire <result> <reason>  fire times that were enqueued (schedule, catch_up, manual, backfill)
                            or skipped (overlap, paused …), as the ledger has them; or "error
                            write", a decision that could not be written, each time
    late <le>, lateness     from a fire time to its job in the queue, also of those caught up
    tick <le>, ticked       what a clock did between two waits; µs
    leader <how>            grants of the lease, see `handovers`

Only `counters` has the last three. A number of a bucket counts what is in this one and in none
below it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, islice

from rq_clock.model.decision import Decision, is_on_time

Count = tuple[str, int]
"""A field and the amount that is added."""
Bounds = tuple[float, ...]

TOOK: Bounds = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
WAITED: Bounds = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 3600)
LATE: Bounds = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300)
TICKED: Bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
VANISHED = "run lost -"
"""A job that was found nowhere: its duration is unknown."""
UNDECIDED = "fire error write"
ENQUEUED, SKIPPED = "enqueued", "skipped"
PORTION = 250
"""Counts written at once: less than a millisecond of the server's time."""
_MS, _US = 1000, 1_000_000
_COUNT = re.compile(rb"-?[0-9]{1,19}")


def _labels(bounds: Bounds) -> tuple[str, ...]:
    return (*(f"{bound:g}" for bound in bounds), "+Inf")


_BUCKETS = {bounds: _labels(bounds) for bounds in (TOOK, WAITED, LATE, TICKED)}


def bucket(seconds: float, bounds: Bounds) -> str:
    """Return the bucket of a duration, by its upper bound."""
    return _BUCKETS[bounds][bisect_left(bounds, seconds)]


class Counters:
    """Counts that go to Redis in portions. A process that dies loses its unwritten counts, never
    runs."""

    def __init__(self) -> None:
        self.number = 0
        """The number of the portion; it grows."""
        self.news = False
        """Whether anything but ticks was counted since the last portion."""
        self._counts: dict[tuple[str, str], int] = {}
        self._portion: list[tuple[str, str, int]] = []

    @property
    def waiting(self) -> bool:
        return bool(self._portion or self._counts)

    def portion(self) -> list[tuple[str, str, int]]:
        """Return the counts to write next: schedule ("" for all), field, amount. They stay the same
        until they are `written`."""
        if not self._portion and self._counts:
            self.number += 1
            self.news = False
            for key in list(islice(self._counts, PORTION)):
                self._portion.append((*key, self._counts.pop(key)))
        return self._portion

    def written(self) -> None:
        """Note that the portion is in Redis."""
        self._portion = []

    def add(self, field: str, by: int = 1, schedule: str = "") -> None:
        """Count for all schedules, and for one of them."""
        counts = self._counts
        key = "", field
        counts[key] = counts.get(key, 0) + by
        if schedule:
            key = schedule, field
            counts[key] = counts.get(key, 0) + by

    def tick(self, seconds: float) -> None:
        """Count a tick: the seconds that a clock worked between two waits."""
        self.add(f"tick {bucket(seconds, TICKED)}")
        self.add("ticked", round(seconds * _US))

    def decided(
        self, schedule: str, decision: Decision, decided_at: datetime, at: datetime | None,
        *, overlap: bool = False,
    ) -> None:  # fmt: skip
        """Count a committed decision, with its instant if known; `overlap`: another job blocked it.
        An empty name is that of a schedule which is over now."""
        self.news = True
        for skip in decision.skips:
            self.add(f"fire {SKIPPED} {skip.reason}", skip.count, schedule)
        for fire_time in decision.fire_times:
            if overlap:
                self.add(f"fire {SKIPPED} overlap", schedule=schedule)
                continue
            reason = "schedule" if is_on_time(fire_time, decided_at) else "catch_up"
            self.add(f"fire {ENQUEUED} {reason}", schedule=schedule)
            if at is not None:
                late = max((at - fire_time).total_seconds(), 0.0)
                self.add(f"late {bucket(late, LATE)}")
                self.add("lateness", round(late * _MS))


def ended(state: str, again: str, took: float, waited: float | None) -> list[Count]:
    """Return the counts of an ended attempt that took and had waited these seconds."""
    if again and state != "ok":
        return [(f"again {state}", 1)]
    counts = [(f"run {state} {bucket(took, TOOK)}", 1), ("took", round(took * _MS))]
    if waited is not None:
        counts += [(f"wait {bucket(waited, WAITED)}", 1), ("waited", round(waited * _MS))]
    return counts


# ---- read the counters ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of durations: the number in each bucket and those below it, the last being all;
    and the sum of the seconds."""

    cumulative: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSnapshot:
    """The counters of a hash."""

    runs: Mapping[str, int]
    again: Mapping[str, int]
    fires: Mapping[tuple[str, str], int]
    """By result and reason."""
    leaders: Mapping[str, int]
    took: Histogram
    waited: Histogram
    late: Histogram
    ticked: Histogram

    @classmethod
    def read(cls, raw: Mapping[bytes, bytes]) -> CounterSnapshot:
        """Return the counters in a hash, without unknown fields, such as a later release's."""
        runs: Counter[str] = Counter()
        took: Counter[str] = Counter()
        counted: dict[str, dict[str, int]] = {}
        for field, number in raw.items():
            kind, _, rest = field.decode(errors="replace").partition(" ")
            if not _COUNT.fullmatch(number):  # others may have written it
                continue
            if kind == "run":
                state, _, le = rest.partition(" ")
                runs[state] += int(number)
                took[le] += int(number)
            else:
                counted.setdefault(kind, {})[rest] = int(number)
        del took["-"]

        def histogram(kind: str, total: str, bounds: Bounds, unit: int = _MS) -> Histogram:
            found = took if kind == "run" else counted.get(kind, {})
            return _histogram(found, bounds, counted.get(total, {}).get("", 0) / unit)

        fires = {tuple(words.split(" ", 1)): n for words, n in counted.get("fire", {}).items()}
        return cls(
            runs=runs,
            again=counted.get("again", {}),
            fires={(key[0], key[1]): n for key, n in fires.items() if len(key) == 2},
            leaders=counted.get("leader", {}),
            took=histogram("run", "took", TOOK),
            waited=histogram("wait", "waited", WAITED),
            late=histogram("late", "lateness", LATE),
            ticked=histogram("tick", "ticked", TICKED, _US),
        )


def _histogram(found: Mapping[str, int], bounds: Bounds, seconds: float) -> Histogram:
    """Return a histogram; buckets of another release count in the next larger one of this."""
    buckets = [0] * (len(bounds) + 1)
    for le, number in found.items():
        with suppress(ValueError):  # no bucket: others may have written it
            buckets[bisect_left(bounds, float(le))] += number
    return Histogram(tuple(accumulate(buckets)), seconds)
