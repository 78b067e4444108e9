"""One process's life as a clock: the lease, the loop, signals and outages.

Take the lease, reconcile once, then turn after turn let `Stage` enqueue what is due and sleep
until the next instant; step down when a newer clock comes, stand by, lead again when the lease is
free, give it back on SIGTERM and SIGINT. Redis may be away at any time, for any time.

All state is in Redis; what this process knows can be thrown away. This module holds the only
reading of the wall clock. What happens if the process dies at any step, a reply is lost or
another clock runs there is in ARCHITECTURE.md, as a table.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from redis.client import PubSub
from redis.exceptions import RedisError

from rq_clock.alerts.monitor import Monitor
from rq_clock.clock.backfiller import NEWS as CHORES
from rq_clock.clock.backfiller import Backfiller
from rq_clock.clock.planner import Planner
from rq_clock.clock.reconcile import Plan, differing, plan
from rq_clock.errors import LeaseLost
from rq_clock.jobs.executions import REAP, Executions
from rq_clock.jobs.reaper import Reaper
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.model.entry import Lease, LeaseRefused
from rq_clock.model.schedule import Schedule
from rq_clock.settings import Settings
from rq_clock.signals import Signals
from rq_clock.store.client import SHORTEST_PAUSE, Reconnect, connect, is_outage, socket_of
from rq_clock.store.commit import Planned
from rq_clock.store.counters import Counters
from rq_clock.store.scripts import text
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.version import __version__, releases

RENEW_SECONDS = 4.0
"""How often the lease is renewed; it outlasts two renewals that fail (store.LEASE_MS)."""
REPORT_EVERY = 3
"""Renewals from one report of the leader's facts (lag, last tick) to the next."""
EARLY_SECONDS, EARLY_PART = 0.0003, 1 / 500
"""How much before an instant a sleep ends: Linux lets a select sleep 0.1 % longer than it is told,
so a long sleep is followed by a short one, and the last fraction of a millisecond is spun away."""
QUIET_SECONDS, COLLECT_EVERY = 1.0, 25
"""A leader looks for garbage when nothing is due for this long, or at every so many reports: with
100,000 jobs staged that takes 0.15 s, and its turns leave next to none that counting references
does not free."""
NEWCOMER_SECONDS = 0.5
"""How long a clock that has not led yet lets others go first when a lease has run out: the holder
died, and if that was in a crash loop, the next of the loop must not win against one that works."""
CHORES_SECONDS = 60.0
"""How often the leader looks for chores, in case an announcement was lost."""
COUNT_SECONDS, COUNT_ROOM, COUNT_LATEST = 4.0, 0.05, 15.0
"""How often what was counted is written, when nothing is due for so long; and how much later when
that never is, or when there is nothing but ticks to tell."""
DUTIES = ("care", "chores", "watch", "counts")
"""What the leader does beside the tick, the most urgent first."""
FOREIGN_SECONDS = 10.0
"""How often a clock of another owner looks whether the namespace has become its own."""


class ClockProcess:
    """One process's life as a clock."""

    def __init__(
        self,
        declared: Mapping[str, Schedule],
        settings: Settings,
        signals: Signals,
        *,
        take_over: bool = False,
        remove_all: bool = False,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._declared = declared
        self._settings = settings
        self._signals = signals
        self._remove_all = remove_all
        self._wall = wall
        self._store = Store(
            connect(settings=settings), settings.namespace, history=settings.history
        )
        self._mode = "take-over" if take_over else "starting"
        self._care = Reaper(
            Executions(self._store.redis, settings.namespace, runs=settings.runs),
            settings.max_interruptions,
        )
        self._chores = Backfiller(self._store)
        self._watch = Monitor(self._store, settings)
        self._tally = Counters()
        self._faults = FaultLog()
        self._due = dict.fromkeys(DUTIES, 0.0)
        """Duty → when it is next to be done (monotonic)."""
        self._led = 0
        self._patience = Reconnect(settings.redis_url)
        self._warned = False
        self._unsure: list[Planned] = []
        self._condition = ""

    def run(self) -> None:
        """Serve until a signal, through any number of outages."""
        while not self._signals.stopping:
            try:
                self._serve()
            except (RedisError, OSError) as error:
                pause = self._patience.try_again(error)
                self._enter("outage")
                self._store.redis.connection_pool.disconnect()
                self._care.forget()
                self._signals.wait(pause)
        self._watch.close()
        log_event("clock.stopped")

    def _enter(self, condition: str) -> bool:
        """Whether this is news: each condition is said once, when it begins."""
        changed, self._condition = self._condition != condition, condition
        return changed

    def _serve(self) -> None:
        for warning in self._store.check_server():
            if not self._warned:
                log_warning("store.warning", text=warning)
        self._warned = True
        news = self._store.listen()
        try:
            while not self._signals.stopping:
                answer = self._store.acquire(
                    self._settings.instance,
                    (self._settings.owner, self._settings.former_owner),
                    self._mode,
                    self._wall(),
                )
                self._mode = "waiting"
                self._patience.answered()
                if isinstance(answer, LeaseRefused):
                    self._stand_by(answer, news)
                    continue
                try:
                    self._lead(answer, news)
                except LeaseLost as error:
                    self._enter("deposed")
                    log_event("clock.deposed", reason=error)
        finally:
            news.close()

    def _stand_by(self, refused: LeaseRefused, news: PubSub) -> None:
        """Wait until the lease may be free."""
        self._patience.succeeded()
        seconds = refused.wait + (0.005 if self._led else NEWCOMER_SECONDS)
        if refused.kind == "foreign":
            seconds = FOREIGN_SECONDS
            if self._enter("foreign"):
                log_warning(
                    "clock.foreign",
                    owner=refused.owner,
                    this=self._settings.owner,
                    leader=refused.holder or "none",
                    namespace=self._settings.namespace,
                    remedy="this clock schedules nothing here; if it should, set RQ_CLOCK_OWNER "
                    "to the same value for both, or start it once with --take-over",
                )
        elif self._enter("standby"):
            log_event("clock.standby", leader=refused.holder)
        self._wait(seconds, news)

    def _wait(self, seconds: float, news: PubSub) -> list[str]:
        """Sleep; what the news said meanwhile."""
        sock = socket_of(news.connection)
        heard = self._signals.wait(seconds, *([sock] if sock else []))
        return _read(news) if heard else []

    # ---- leading ------------------------------------------------------------------------------

    def _lead(self, lease: Lease, news: PubSub) -> None:
        """Lead until a signal; raises LeaseLost when a newer clock leads."""
        self._enter("leading")
        log_event(
            "clock.leading",
            token=lease.number,
            namespace=self._settings.namespace,
            instance=self._settings.instance,
            version=__version__,
        )
        if not self._led or lease.number <= self._led + 1:
            self._reconcile(lease)  # nobody led since: if Redis forgot something, it was ours
            gc.freeze()
        self._led = lease.number
        self._patience.succeeded()
        self._watch.forget()
        witness = self._watch.witness
        memory = self._settings.stage_bytes
        stage = Planner(
            self._store, lease, memory=memory, witness=witness, tally=self._tally,
            faults=self._faults,
        )  # fmt: skip
        gc.disable()  # see QUIET_SECONDS
        try:
            stage.recognise(self._unsure)
            self._unsure = []
            self._turn(stage, lease, news)
            stage.finish(self._wall())
            while self._tally.waiting:
                self._do("counts", lambda: self._write_counts(lease))
            self._store.release(lease)
        finally:
            gc.enable()
            self._unsure = stage.in_flight

    def _turn(self, stage: Planner, lease: Lease, news: PubSub) -> None:
        renewals, renewed, busy = 0, time.monotonic(), 0.0
        while not self._signals.stopping:
            began = time.monotonic()
            seconds = stage.turn(self._wall())
            busy += time.monotonic() - began
            if seconds > 0:
                self._tally.tick(busy)
                busy = 0.0
            first_pass_done = renewals == 0 and seconds > 0
            if first_pass_done or time.monotonic() - renewed >= RENEW_SECONDS:
                proven = renewals > 0 or first_pass_done
                tell = first_pass_done or renewals % REPORT_EVERY == 0
                self._store.renew(lease, **(self._facts(stage) if proven and tell else {}))
                renewals, renewed = renewals + proven, time.monotonic()
                self._hear(stage, _read(news))  # also lets redis-py notice a dead subscription
                if tell and (seconds >= QUIET_SECONDS or renewals % COLLECT_EVERY == 0):
                    gc.collect()
                continue
            if seconds > 0 and self._do_duty(seconds, stage, lease):
                continue
            duties = (at for duty, at in self._due.items() if duty != "counts")
            soonest = min(renewed + RENEW_SECONDS, *duties)
            until_renewal = soonest - time.monotonic()
            nap = seconds - max(EARLY_SECONDS, seconds * EARLY_PART)
            heard = self._wait(min(nap, until_renewal), news)
            if "lease" in heard:
                renewed = 0.0  # someone else may lead now: ask before the next commit does
            self._hear(stage, heard)
            stage.check_blocked(self._wall())

    def _do_duty(self, seconds: float, stage: Planner, lease: Lease) -> bool:
        """One thing beside the tick, if it is time for one; nothing is due for so long."""
        moment, room = time.monotonic(), seconds >= COUNT_ROOM
        duties: dict[str, Callable[[], float]] = {
            "care": self._take_care,
            "chores": lambda: self._do_chores(lease),
            "watch": lambda: self._look_for_alerts(moment, stage, lease),
            "counts": lambda: self._write_counts(lease),
        }
        pause = 0 if self._tally.news and room else COUNT_LATEST
        for name, duty in duties.items():
            if moment >= self._due[name] + (pause if name == "counts" else 0):
                self._do(name, duty)
                return True
        return False

    def _do(self, name: str, duty: Callable[[], float]) -> None:
        """Do a duty, which returns the seconds until it is to be done again. Whatever it raises
        ends no process: it is logged once, and the duty is done again later."""
        pause = RENEW_SECONDS
        try:
            pause = duty()
            self._faults.clear("duty.failed", duty=name)
        except Exception as error:
            if is_outage(error):
                raise
            self._faults.report("duty.failed", error, duty=name)
        self._due[name] = time.monotonic() + pause

    def _hear(self, stage: Planner, words: list[str]) -> None:
        if REAP in words:
            self._due["care"] = 0.0
        if CHORES in words:
            self._due["chores"] = 0.0
        stage.look_again(word for word in words if word not in ("lease", REAP, CHORES))

    def _take_care(self) -> float:
        """Look after workers that died and retries that wait."""
        now = self._wall()
        due = self._care.look(time.monotonic(), now)
        pause = (due - now).total_seconds() if due else RENEW_SECONDS
        return min(max(pause, SHORTEST_PAUSE), RENEW_SECONDS)

    def _look_for_alerts(self, moment: float, stage: Planner, lease: Lease) -> float:
        pause = self._watch.look(moment, self._wall(), stage.report(), lease)
        stage.lost.clear()
        return pause

    def _do_chores(self, lease: Lease) -> float:
        """What operators have asked for."""
        now = self._wall()
        due = self._chores.look(lease, now)
        pause = (due - now).total_seconds() if due else CHORES_SECONDS
        return min(max(pause, 0.0), CHORES_SECONDS)

    def _write_counts(self, lease: Lease) -> float:
        """Write a portion of what was counted; one that cannot be written is dropped."""
        if portion := self._tally.portion():
            number = f"{self._settings.instance} {self._tally.number}"
            try:
                self._store.count(lease, number, portion)
            except Exception as error:
                if is_outage(error):
                    raise
                self._tally.written()
                raise
            self._tally.written()
        return 0.0 if self._tally.waiting else COUNT_SECONDS

    def _facts(self, stage: Planner) -> dict[str, str | int]:
        """What the leader says of itself, for `status` and whoever looks."""
        return {
            "proven": 1,
            "tick": to_ms(self._wall()),
            **releases(),
            "release": self._settings.release,
            "enqueued": stage.enqueued,
            **stage.lag_summary(),
        }

    def _reconcile(self, lease: Lease) -> None:
        """Make Redis hold what the code declares. Interrupted, it is taken up by the next clock:
        each step is whole, and what is done already compares equal."""
        started, now = time.monotonic(), self._wall()
        stored = self._store.declared()
        if self._settings.release and self._store.released() > self._settings.release:
            self._leave_alone()
            return
        if stored and not self._declared and not self._remove_all:
            log_warning(
                "reconcile.refused",
                declared=0,
                stored=len(stored),
                remedy="start once with --remove-all to remove them all",
            )
            return
        entries, _ = self._store.load(differing(self._declared, stored))
        difference = plan(self._declared, stored, entries, now)
        for name, error in difference.invalid.items():
            self._faults.report("schedule.invalid", error, schedule=name)
        if difference.unsettled:
            memory = self._settings.stage_bytes
            closing = Planner(self._store, lease, memory=memory, tally=self._tally)
            closing.settle(difference.unsettled, now)
        steps = self._store.reconcile(lease, self._settings.release, now, difference.changes)
        for went_through in steps:
            if not went_through:
                self._leave_alone()
                return
            self._store.renew(lease)
        for change in difference.changes:
            if change.past:
                self._tally.add("fire skipped past", schedule=change.name)
        if difference or not self._led:
            _say_difference(difference, started, len(self._declared))

    def _leave_alone(self) -> None:
        log_event(
            "reconcile.older",
            release=self._settings.release,
            effect="keeps the schedules that a later release declared",
        )


def _say_difference(difference: Plan, started: float, total: int) -> None:
    few = len(difference.changes) <= 20
    for name in difference.added if few else ():
        log_event("schedule.added", schedule=name)
    for name in difference.changed if few else ():
        log_event("schedule.changed", schedule=name)
    for name in difference.removed if few else ():
        log_event("schedule.removed", schedule=name)
    for old, name in difference.renamed if few else ():
        log_event("schedule.renamed", schedule=name, was=old)
    for change in difference.changes:
        if change.past:
            log_event("run.skipped", schedule=change.name, reason="past", fire_time=change.past)
    log_event(
        "reconcile.done",
        schedules=total,
        **difference.counts(),
        ms=f"{(time.monotonic() - started) * 1000:.0f}",
    )


def _read(news: PubSub) -> list[str]:
    """All messages that have come."""
    words: list[str] = []
    connection: Any = news.connection
    while True:
        message = news.get_message(timeout=0)
        if message is not None:
            words.append(text(message["data"]))
        elif not connection.can_read(timeout=0):  # None also stands for an acknowledgement, and
            return words  # what came right behind it would make no socket readable
