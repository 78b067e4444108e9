"""The coming fire times of the leading clock, and the work of turning them into commits.

Fire times are found in the due index some time before they come (upcoming.py), decided and packed
while there is time, and at their instant only sent. All of it is guess and cache: the commit
compares marker, revision and fencing token, so a `Planner` can be thrown away at any moment, and
is, after every doubt (a lost connection, a lost lease).

`turn(now)` does one small piece of work and returns how long to wait for the next. It reads no
clock and never sleeps, so a test drives it through any wall clock it likes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from rq_clock.alerts.rules import TickReport
from rq_clock.clock.commit_log import CommitLog
from rq_clock.clock.overlaps import Overlaps
from rq_clock.clock.upcoming import Upcoming
from rq_clock.log import FaultLog, explained, log_event, log_warning
from rq_clock.model.decision import ON_TIME
from rq_clock.model.entry import Entry, Lease
from rq_clock.redaction import masked_text, printable
from rq_clock.store.client import is_outage
from rq_clock.store.commit import (
    Batch,
    CommitChannel,
    CommitRefusal,
    CommitResult,
    Planned,
)
from rq_clock.store.counters import UNDECIDED, Counters
from rq_clock.store.job_commands import JobBuilder
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, to_ms

SLICE = 100
"""Schedules decided in one turn: about 5 ms."""
GUARD_MS = 10
"""No slice is begun this shortly before something has to be sent."""
CACHE_LIMIT = 4096
"""Schedules kept in memory between two fire times that are near each other."""
BACKOFF = 60.0
"""Longest pause, in seconds, between two attempts at a schedule that cannot be committed."""
BURST = 64
"""Messages sent before the loop looks around (signals, lease) again."""


class Planner:
    """The coming fire times of one namespace, under one lease."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        memory: int,
        witness: Callable[[CommitResult], None] | None = None,
        counters: Counters | None = None,
        faults: FaultLog | None = None,
    ) -> None:
        self._store = store
        self._lease = lease
        self._memory = memory
        self._witness = witness
        """Called with each commit, between two sends: it must be quick and never raise."""
        self._counters = Counters() if counters is None else counters
        self.log = CommitLog(store, self._counters)
        self._builder = JobBuilder(store)
        self._channel = CommitChannel(store)
        self._everything = "0"
        self._cache: dict[str, Entry] = {}
        self._upcoming = Upcoming(store)
        self._open: dict[int, Batch] = {}
        self._ready: list[tuple[int, int, Batch]] = []
        self._sequence = self._bytes = 0
        self._latest = self._staged = 0
        """When the turn before was (ms), and how many schedules it packed."""
        self._failing: dict[str, tuple[int, int]] = {}
        self._refused = self._retry_at = 0
        self.suspects: set[str] = set()
        """Schedules of the due index that are gone or have no marker, for the repairer."""
        self.early = False
        """Whether the server refused a commit as too early: its time has to be measured again."""
        self._invalid: dict[str, str] = {}
        self._unrecorded: list[tuple[str, int, str]] = []
        """Schedules that were set aside, fire times (ms) and errors, for their ledgers."""
        self._faults = FaultLog() if faults is None else faults
        self.overlaps = Overlaps(store, lease, self._faults)
        self._announced: set[str] = set()
        """Schedules that were announced as changed since the last turn."""
        self._answered: deque[tuple[Batch, list[CommitResult] | CommitRefusal]] = deque()
        self.in_flight: list[Planned] = []
        """Sent, and not answered: after a lost connection their outcome is unknown."""

    def finish(self, now: datetime) -> None:
        """Process the answers that have come, for the log, before the process ends."""
        while self._settle_one(to_ms(now)):
            pass
        self.log.sum_up(now, over=True)

    # ---- one turn -----------------------------------------------------------------------------

    def turn(self, now: datetime) -> float:
        """Do the most urgent piece of work. Return the seconds until the next one, 0 when there is
        more now.

        Raises LeaseLost, and redis-py's errors when the server is gone.
        """
        now_ms = to_ms(now)
        if now_ms < self._latest - 1000:  # the time went back: its plans are void
            self._retry_at = 0
            self._failing.clear()
            self.look_again("*")
        self._upcoming.packed(self._staged, now_ms - self._latest)
        self._latest, self._staged = now_ms, 0
        backing_off = now_ms < self._retry_at
        reading = False
        if not self._answered and not self._sends_soon(now_ms):  # answers plan the next fire time,
            if self._announced:  # but ignore later edits
                self._read_announced(now_ms)
            reading = self._upcoming.read(now_ms)
        if backing_off:
            return 0 if reading else (min(self._retry_at, self._upcoming.read_at) - now_ms) / 1000
        if self._send(now_ms) or self._settle_one(now_ms) or self._stage(now_ms) or reading:
            return 0
        if self._unrecorded:
            self._store.record_invalid(self._lease, self._unrecorded[:SLICE])
            del self._unrecorded[:SLICE]
            return 0
        for instant in list(self._open):
            self._pack(instant)
        self.log.sum_up(now, over=True)
        return max(0.0, self._wake_at(now_ms) - now.timestamp() * 1000) / 1000

    def _sends_soon(self, now_ms: int) -> bool:
        """Return whether something has to be sent so soon that nothing else may be begun."""
        return bool(self._ready) and self._ready[0][0] <= now_ms + GUARD_MS

    def _wake_at(self, now_ms: int) -> int:
        wake = self._upcoming.read_at
        if self._ready:
            wake = min(wake, self._ready[0][0])
        when = self._upcoming.next_at()
        if when is not None:
            ahead = when - self._upcoming.horizon(0)
            if ahead <= now_ms:  # stageable, but held back: for its turn or for memory
                ahead = self._ready[0][0] if self._ready else now_ms
            wake = min(wake, ahead)
        return wake

    # ---- finding ------------------------------------------------------------------------------

    def look_again(self, names: Iterable[str]) -> None:
        """Read these schedules again: they were changed ("*": all of them)."""
        for name in names:
            if name == "*":
                self._upcoming.look_again()
                self._cache.clear()
                self._invalid.clear()
            else:
                self._announced.add(name)
                self._cache.pop(name, None)
                self._invalid.pop(name, None)
                self._faults.clear("schedule.invalid", schedule=name)

    def _read_announced(self, now_ms: int) -> None:
        names = sorted(self._announced)
        for name in names:
            self._cache.pop(name, None)
        self._announced.clear()
        self._upcoming.find(names, now_ms)

    # ---- deciding and packing -----------------------------------------------------------------

    def _stage(self, now_ms: int) -> bool:
        """Decide and pack one slice. Return False when there is none to do now."""
        if self._sends_soon(now_ms):
            return False
        full = self._bytes >= self._memory
        names = self._upcoming.take(SLICE, now_ms if full else self._upcoming.horizon(now_ms))
        if not names:
            return False
        for name in [n for n in names if n in self._invalid or n in self._failing]:
            if name in self._invalid:
                self._upcoming.forget(name)
            elif names[name] < (retry_at := self._failing[name][1]):
                self._upcoming.expect(name, retry_at)
            else:
                continue
            del names[name]
        found = self._read(list(names))
        for name, when in names.items():
            entry = found.get(name)
            if entry is None or entry.lost:
                self._upcoming.forget(name)  # removed since, or else to be repaired
                self._failing.pop(name, None)
                self.suspects.add(name)
            elif entry.schedule is None:
                self._set_aside(name, entry.fault, when)
            else:
                with self._guard(name, when):
                    self._decide(entry, max(when, now_ms), staged=when > now_ms)
        self._staged = len(names)
        return True

    @contextmanager
    def _guard(self, name: str, when: int) -> Iterator[None]:
        """Treat an error that is not an outage as this schedule's fault; the others go on."""
        try:
            yield
        except Exception as error:
            if is_outage(error):
                raise
            self._set_aside(name, error, when)

    def _set_aside(self, name: str, error: Exception | str, when: int) -> None:
        """Leave a schedule undecided until it is changed, or the index is read from its start. The
        log and the ledger get a new error once."""
        self._upcoming.forget(name)
        self._cache.pop(name, None)
        self._invalid[name] = str(error)
        if self._faults.report("schedule.invalid", error, schedule=name):
            text = explained(error) if isinstance(error, Exception) else error
            self._unrecorded.append((name, when, printable(masked_text(text), 300)))

    def _read(self, names: list[str]) -> dict[str, Entry]:
        """Return these schedules from the cache, or else from Redis."""
        missing = [name for name in names if name not in self._cache]
        if missing:
            found, everything = self._store.load(missing)
            if everything != self._everything:  # the pause of all changed: the cache is stale
                self._cache.clear()
                found, everything = self._store.load(names)
            self._everything = everything
        else:
            found = {}
        return found | {name: self._cache.pop(name) for name in names if name in self._cache}

    def _decide(self, entry: Entry, instant: int, *, staged: bool) -> None:
        now = from_ms(instant)
        decision = entry.decide(now)
        batch = self._open.get(instant)
        if batch is None:
            batch = self._open[instant] = Batch(now, self._everything)
        batch.add(entry, decision, self._builder)
        batch.expire_by(now + ON_TIME, decision.next if staged else None)
        if batch.full:
            self._pack(instant)

    def _pack(self, instant: int) -> None:
        batch = self._open.pop(instant)
        batch.pack(self._store, self._lease, self._channel)
        self._bytes += batch.memory
        self._sequence += 1
        heapq.heappush(self._ready, (instant, self._sequence, batch))

    # ---- sending ------------------------------------------------------------------------------

    def _send(self, now_ms: int) -> bool:
        """Send the batches that are due. Return False when none is."""
        for instant in [i for i in self._open if i <= now_ms]:
            self._pack(instant)
        batches: list[Batch] = []
        while self._ready and self._ready[0][0] <= now_ms and len(batches) < BURST:
            batch = heapq.heappop(self._ready)[2]
            self._bytes -= batch.memory
            if batch.expired(from_ms(now_ms)):  # the process was stopped, or the clock jumped
                self._decide_again(batch.planned)
            else:
                batches.append(batch)
        if not batches:
            reads_next = bool(self._announced) and not self._answered
            return reads_next and not self._sends_soon(now_ms)
        self.in_flight = [planned for batch in batches for planned in batch.planned]
        results = self._channel.commit(batches)
        self.in_flight = []
        self._answered.extend(zip(batches, results, strict=True))
        return True

    def _settle_one(self, now_ms: int) -> bool:
        """Process the answers to one batch. Sending goes first, so that a crowd is not delayed by
        the log lines of the batches before."""
        if not self._answered:
            return False
        batch, result = self._answered.popleft()
        if isinstance(result, CommitRefusal):
            self._refuse(batch, result, now_ms)
        else:
            for answer in result:
                planned = answer.planned
                with self._guard(planned.entry.name, to_ms(planned.decided_at)):
                    self._settle(answer, now_ms)
        self.log.sum_up(from_ms(now_ms), over=False)
        return True

    def _decide_again(self, planned: Iterable[Planned]) -> None:
        """Drop these decisions and read again from Redis when they are due."""
        for plan in planned:
            self._upcoming.forget(plan.entry.name)
            self._announced.add(plan.entry.name)

    def _refuse(self, batch: Batch, refusal: CommitRefusal, now_ms: int) -> None:
        self._decide_again(batch.planned)
        self.early |= refusal.early
        if refusal.changed or refusal.early:
            self._cache.clear()
            return
        if now_ms >= self._retry_at:  # once for all batches of this attempt
            self._refused += 1
            pause, count = _backoff(self._refused), len(batch.planned)
            self._retry_at = now_ms + int(pause * 1000)
            log_warning("commit.refused", error=refusal, schedules=count, retry_in=f"{pause:g}s")

    def _settle(self, answer: CommitResult, now_ms: int) -> None:
        entry = answer.planned.entry
        name = entry.name
        if answer.kind == "error":
            self._fail(name, answer.detail, now_ms)
            return
        self._failing.pop(name, None)
        if self._refused:
            self._refused = 0
            log_event("commit.accepted")
        if answer.kind == "stale":
            if not answer.detail.partition(" ")[2]:  # it was removed, or its marker was lost
                self.suspects.add(name)
            self._decide_again([answer.planned])
            return
        self.log.record(answer)
        if self._witness:
            self._witness(answer)
        if answer.kind == "overlap":
            self.overlaps.block(name, answer.detail.split(), now_ms)
        elif answer.planned.job_ids:
            self.overlaps.free(name)
        self._expect_next(answer.planned, now_ms)

    def _expect_next(self, planned: Planned, now_ms: int) -> None:
        """Expect the next fire time of this schedule, whose marker moved."""
        entry, decision = planned.entry, planned.decision
        self._upcoming.forget(entry.name)
        horizon = max(self._upcoming.found_until, now_ms)
        if decision.next is None or to_ms(decision.next) > horizon:
            return
        if len(self._cache) >= CACHE_LIMIT:
            del self._cache[next(iter(self._cache))]
        self._cache[entry.name] = entry.after(decision)
        self._upcoming.expect(entry.name, to_ms(decision.next))

    def _fail(self, name: str, error: str, now_ms: int) -> None:
        """Leave one schedule undecided and try again later; the others go on."""
        count = self._failing.get(name, (0, 0))[0] + 1
        pause = _backoff(count)
        self._failing[name] = (count, now_ms + int(pause * 1000))
        self._counters.add(UNDECIDED, schedule=name)
        log_warning("run.undecided", schedule=name, error=error, retry_in=f"{pause:g}s")
        self._cache.pop(name, None)
        self._upcoming.expect(name, self._failing[name][1])

    # ---- beside the tick ----------------------------------------------------------------------

    def report(self) -> TickReport:
        """Return the problems of the ticks so far. Clear `overlaps.lost` once they are
        reported."""
        failing = dict.fromkeys(self._failing, "it cannot be written, see run.undecided")
        faulty, lost = failing | self._invalid, tuple(self.overlaps.lost)
        return TickReport(refused=self._refused > 0, faulty=faulty, lost=lost)


def _backoff(attempt: int) -> float:
    """Return 1, 2, 4 … BACKOFF seconds."""
    return min(float(2 ** min(attempt - 1, 10)), BACKOFF)
