"""One process's life as a clock: the lease, the loop, signals and outages.

Take the lease, reconcile once, then turn after turn let the `Planner` enqueue what is due and sleep
until the next instant. Step down when a newer clock comes, stand by, lead again when the lease is
free, give it back on SIGTERM and SIGINT. Redis may be away at any time, for any time.

All state is in Redis; nothing in this process has to be saved. Time and signals come from its
`Runtime`. What happens if the process dies at any step, a reply is lost or another clock runs there
is in docs/internals/crashes.md, as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from redis.exceptions import RedisError

from rq_clock.alerts.monitor import Monitor
from rq_clock.clock.backfiller import BACKFILLS_CHANGED, Backfiller
from rq_clock.clock.candidate import Candidate
from rq_clock.clock.dispatching import CALLBACKS_CHANGED, Dispatching
from rq_clock.clock.duties import Duty, next_duty
from rq_clock.clock.news import EVERYTHING, News
from rq_clock.clock.packages import own_packages
from rq_clock.clock.planner import Planner
from rq_clock.clock.reconcile import log_difference
from rq_clock.clock.reconciler import Reconciler
from rq_clock.clock.repairer import Repairer
from rq_clock.clock.time_watch import TimeWatch
from rq_clock.errors import LeaseLost
from rq_clock.jobs.executions import REAP, Executions
from rq_clock.jobs.reaper import Reaper
from rq_clock.log import FaultLog, log_event, log_warning
from rq_clock.model.allowlist import packages_of
from rq_clock.model.entry import Lease, LeaseRefused
from rq_clock.model.schedule import Schedule
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings
from rq_clock.store.access import check_access, check_server
from rq_clock.store.client import is_full, is_outage
from rq_clock.store.commit import Planned
from rq_clock.store.counters import Counters
from rq_clock.store.diagnosis import SHORTEST_PAUSE, Reconnect
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.version import __version__, releases

RENEW_SECONDS = 4.0
"""How often the lease is renewed; it outlasts two renewals that fail (store.LEASE_MS)."""
REPORT_EVERY = 3
"""Renewals from one report of the leader's facts (lag, last tick) to the next."""
EARLY_SECONDS, EARLY_PART = 0.0003, 1 / 500
"""How much before an instant a sleep ends: Linux lets a select sleep 0.1 % too long, so a long
sleep is followed by a short one, and the last fraction of a millisecond is spun away."""
QUIET_SECONDS, COLLECT_EVERY = 1.0, 25
"""A leader collects garbage when nothing is due for this long, or at every 25th report: with
100,000 jobs staged that takes 0.15 s, and its turns leave next to none that counting references
does not free."""
BACKFILL_SECONDS = 60.0
"""How often the leader looks for backfills, in case an announcement was lost."""
COUNT_SECONDS, COUNT_ROOM, COUNT_LATEST = 4.0, 0.05, 15.0
"""How often counts are written, when nothing is due for COUNT_ROOM; and how much later when that
never happens, or when only ticks were counted."""
REPAIR_SECONDS, SUSPECT_SECONDS = 60.0, 1.0
"""How soon the leader looks for schedules to repair, once it has seen all; and how soon when one is
suspicious."""
RECONCILE_SECONDS, MEANWHILE_SECONDS = 1.0, 0.1
"""How long a reconcile goes on before the lease is renewed and what is due is decided between its
portions; and the longest time that takes."""
BUSY_SECONDS = 1.0
"""How often a duty is done while there is always something to decide."""


class ClockProcess:
    """One process's life as a clock. `mode` is that of its first request for the lease; see
    `store.lease`."""

    def __init__(
        self,
        declared: Mapping[str, Schedule],
        settings: Settings,
        runtime: Runtime,
        *,
        mode: str = "starting",
        remove_all: bool = False,
    ) -> None:
        self._declared = declared
        self._settings = settings
        self._runtime = runtime
        self._signals = runtime.signals
        self._remove_all = remove_all
        self._time = runtime.time
        self._watch = TimeWatch(runtime)
        self._store = Store.from_settings(runtime.connect(settings, measured=True), settings)
        self._leases = Leases(self._store)
        self._news = News(self._store, runtime.monotonic)
        self._candidate = Candidate(settings, runtime.monotonic, mode)
        self._reaper = Reaper(
            Executions.from_settings(self._store.redis, settings),
            settings.worker_silence,
            settings.max_deaths,
        )
        self._backfiller = Backfiller(self._store)
        self._monitor = Monitor(self._store, settings)
        self._counters = Counters()
        self._faults = FaultLog()
        self._reaping = Duty("reaper", self._reap)
        self._backfilling = Duty("backfills", self._backfill)
        self._repairer = Repairer(self._store)
        self._repairing = Duty("repair", self._repair)
        self._dispatchers = Dispatching(self._store)
        self._dispatching = Duty("callbacks", lambda *_: self._dispatchers.look())
        self._duties = [
            self._reaping, self._backfilling, Duty("alerts", self._check_alerts), self._repairing,
            self._dispatching,
        ]  # fmt: skip
        self._counting = Duty("counts", self._write_counts)
        self._duty_at = 0.0
        """When a duty was done last (monotonic)."""
        self._last_token = 0
        """The fencing token of the lease under which this process led last."""
        self._reconnect = Reconnect(settings.redis_url)
        self._warned = False
        self._unconfirmed: list[Planned] = []
        self._condition = ""

    def run(self) -> None:
        """Serve until a signal, through any number of outages."""
        while not self._signals.stopping:
            try:
                self._serve()
            except (RedisError, OSError) as error:
                pause = self._reconnect.try_again(error)
                self._enter("outage")
                self._store.redis.connection_pool.disconnect()
                self._reaper.forget()
                self._runtime.wait(pause)
        self._monitor.close()
        log_event("clock.stopped")

    def _enter(self, condition: str) -> bool:
        """Enter a condition. Return whether it has just begun: each is logged once."""
        changed, self._condition = self._condition != condition, condition
        return changed

    def _serve(self) -> None:
        for warning in check_server(self._store):
            if not self._warned:
                log_warning("store.warning", text=warning)
        self._warned = True
        check_access(self._store)
        self._news.open()
        try:
            while not self._signals.stopping:
                self._time.measure(self._store.redis)
                answer = self._leases.acquire(
                    self._settings.instance,
                    (self._settings.owner, self._settings.former_owner),
                    self._candidate.mode,
                    self._runtime.now(),
                )
                self._candidate.answered(answer)
                self._reconnect.answered()
                if isinstance(answer, LeaseRefused):
                    self._stand_by(answer)
                    continue
                try:
                    self._lead(answer)
                except LeaseLost as error:
                    self._enter("deposed")
                    log_event("clock.deposed", reason=error)
        finally:
            self._news.close()

    def _stand_by(self, refused: LeaseRefused) -> None:
        """Wait until the lease may be free."""
        self._reconnect.succeeded()
        if self._enter(refused.kind):
            self._candidate.log(refused)
        until = self._runtime.monotonic() + self._candidate.pause(
            refused, has_led=self._last_token > 0
        )
        while not self._signals.stopping and (left := until - self._runtime.monotonic()) > 0:
            if "lease" in self._wait(left):  # edits and other news are for the leader
                break

    def _wait(self, seconds: float) -> list[str]:
        """Sleep. Return the messages that came meanwhile."""
        sock = self._news.socket
        late = self._news.answer_by - self._runtime.monotonic()
        readable = self._runtime.wait(min(seconds, late), *([sock] if sock else []))
        return self._news.read() if readable or seconds >= late else []

    # ---- leading ------------------------------------------------------------------------------

    def _lead(self, lease: Lease) -> None:
        """Lead until a signal; raises LeaseLost when a newer clock leads."""
        self._enter("leading")
        log_event(
            "clock.leading",
            token=lease.number,
            namespace=self._settings.namespace,
            instance=self._settings.instance,
            version=__version__,
        )
        self._store.keep_history()
        planner = Planner(
            self._store, lease, memory=self._settings.stage_bytes, witness=self._monitor.witness,
            counters=self._counters, faults=self._faults,
        )  # fmt: skip
        if not self._last_token or lease.number <= self._last_token + 1:
            # Nobody led since: if Redis forgot something, it was ours.
            self._reconcile(planner, lease)
            self._runtime.collector.freeze()
            self._walk()
        self._last_token = lease.number
        self._dispatching.next_at = 0.0  # messages may have been missed
        self._reconnect.succeeded()
        self._monitor.forget()
        self._runtime.collector.suspend()  # see QUIET_SECONDS
        try:
            planner.log.confirm(self._unconfirmed)
            self._unconfirmed = []
            self._turn(planner, lease)
            planner.finish(self._runtime.now())
            while self._counters.waiting:
                self._do(self._counting, planner, lease)
            self._leases.release(lease)
        finally:
            self._runtime.collector.resume()
            self._unconfirmed = planner.in_flight

    def _turn(self, planner: Planner, lease: Lease) -> None:
        monotonic = self._runtime.monotonic
        renewals, renewed, busy = 0, monotonic(), 0.0
        while not self._signals.stopping:
            began = monotonic()
            seconds = self._decide(planner)
            busy += monotonic() - began
            if seconds > 0:
                self._counters.tick(busy)
                busy = 0.0
            first_pass_done = renewals == 0 and seconds > 0
            if first_pass_done or monotonic() - renewed >= RENEW_SECONDS:
                proven = renewals > 0 or first_pass_done
                report = first_pass_done or renewals % REPORT_EVERY == 0 or self._watch.doubtful
                self._renew(lease, self._facts(planner) if proven and report else {})
                self._reconnect.succeeded()
                renewals, renewed = renewals + proven, monotonic()
                self._handle(planner, self._news.read())
                self._news.ping()
                if report and (seconds >= QUIET_SECONDS or renewals % COLLECT_EVERY == 0):
                    self._runtime.collector.collect()
                continue
            if duty := self._due_duty(seconds):
                self._do(duty, planner, lease)
                continue
            wake_at = min(renewed + RENEW_SECONDS, *(duty.next_at for duty in self._duties))
            nap = seconds - max(EARLY_SECONDS, seconds * EARLY_PART)
            messages = self._wait(min(nap, wake_at - monotonic()))
            if "lease" in messages:
                renewed = 0.0  # someone else may lead now: renew before the next commit fails
            self._handle(planner, messages)
            planner.overlaps.check(self._runtime.now())

    def _decide(self, planner: Planner) -> float:
        """Let the planner do one piece of work, unless the time is in doubt. Return the seconds
        until the next one."""
        if planner.early:
            planner.early = False
            self._time.measure(self._store.redis)
        if self._watch.look():
            self._walk()
        if planner.suspects:
            soon = self._runtime.monotonic() + SUSPECT_SECONDS
            self._repairing.next_at = min(self._repairing.next_at, soon)
        return RENEW_SECONDS if self._watch.doubtful else planner.turn(self._runtime.now())

    def _walk(self) -> None:
        """Have all schedules checked and repaired."""
        self._repairer.start()
        self._repairing.next_at = 0.0

    def _renew(self, lease: Lease, facts: Mapping[str, str | int]) -> None:
        sent = self._runtime.monotonic()
        self._time.sample(sent, self._leases.renew(lease, **facts))

    def _handle(self, planner: Planner, messages: list[str]) -> None:
        announced = {
            REAP: self._reaping,
            BACKFILLS_CHANGED: self._backfilling,
            CALLBACKS_CHANGED: self._dispatching,
        }
        for message, duty in announced.items():
            if message in messages or EVERYTHING in messages:
                duty.next_at = 0.0
        others = ("lease", *announced)
        planner.look_again(message for message in messages if message not in others)

    # ---- duties -------------------------------------------------------------------------------

    def _due_duty(self, seconds: float) -> Duty | None:
        """Return the duty whose turn it is, if any is due. No schedule is due for `seconds`; with
        0 there is always something to decide, and one duty a while is done all the same."""
        now = self._runtime.monotonic()
        if seconds <= 0 and now < self._duty_at + BUSY_SECONDS:
            return None
        pause = 0 if self._counters.news and seconds >= COUNT_ROOM else COUNT_LATEST
        counting = [self._counting] if now >= self._counting.next_at + pause else []
        return next_duty([*self._duties, *counting], now)

    def _do(self, duty: Duty, planner: Planner, lease: Lease) -> None:
        """Do a duty. An error that is not an outage ends no process, and a full server does not end
        the lead: it is logged once, and the duty is done again later."""
        pause = RENEW_SECONDS
        try:
            pause = duty.look(planner, lease)
            self._faults.clear("duty.failed", duty=duty.name)
        except Exception as error:
            if is_outage(error) and not is_full(error):
                raise
            self._faults.report("duty.failed", error, duty=duty.name)
        duty.done_at = self._duty_at = self._runtime.monotonic()
        duty.next_at = duty.done_at + pause

    def _reap(self, planner: Planner, lease: Lease) -> float:
        """Look after workers that died and retries that wait."""
        now = self._runtime.now()
        due = self._reaper.look(self._runtime.monotonic(), now)
        pause = (due - now).total_seconds() if due else RENEW_SECONDS
        return min(max(pause, SHORTEST_PAUSE), RENEW_SECONDS)

    def _backfill(self, planner: Planner, lease: Lease) -> float:
        """Go on with the backfills that operators have started."""
        now = self._runtime.now()
        due = self._backfiller.look(lease, now)
        pause = (due - now).total_seconds() if due else BACKFILL_SECONDS
        return min(max(pause, 0.0), BACKFILL_SECONDS)

    def _check_alerts(self, planner: Planner, lease: Lease) -> float:
        moment, now = self._runtime.monotonic(), self._runtime.now()
        callbacks = self._dispatchers.take_status()
        report = replace(planner.report(), time=self._watch.faults(), callbacks=callbacks)
        pause = self._monitor.look(moment, now, report, lease)
        planner.overlaps.lost.clear()
        return pause

    def _repair(self, planner: Planner, lease: Lease) -> float:
        """Repair some schedules, in a fifth of the time unless many are wrong."""
        began = self._runtime.monotonic()
        found = self._repairer.look(lease, self._runtime.now(), planner.suspects)
        took = self._runtime.monotonic() - began
        return REPAIR_SECONDS if found is None else 0.0 if found else 4 * took

    def _write_counts(self, planner: Planner, lease: Lease) -> float:
        """Write a portion of the counts. One that cannot be written is dropped."""
        if portion := self._counters.portion():
            number = f"{self._settings.instance} {self._counters.number}"
            try:
                self._store.count(lease, number, portion)
            except Exception as error:
                if is_outage(error):
                    raise
                self._counters.written()
                raise
            self._counters.written()
        return 0.0 if self._counters.waiting else COUNT_SECONDS

    def _facts(self, planner: Planner) -> dict[str, str | int]:
        """Return the leader's facts, for `status` and the pages."""
        return {
            "proven": 1,
            "tick": to_ms(self._runtime.now()),
            **self._time.facts(),
            **releases(),
            "release": self._settings.release,
            **planner.log.facts(),
        }

    def _reconcile(self, planner: Planner, lease: Lease) -> None:
        """Make Redis hold what the code declares. If interrupted, the next clock goes on: each step
        is whole, and finished ones compare equal. One that takes long delays nothing that is
        due."""
        monotonic = self._runtime.monotonic
        started = renewed = monotonic()
        stored = self._store.declared_names()
        reconciler = Reconciler(
            self._store, lease, self._settings, self._declared, self._counters, self._faults
        )
        if reconciler.is_refused(stored, remove_all=self._remove_all):
            return
        for changed in reconciler.steps(stored, self._runtime.now):
            planner.look_again(changed)
            if monotonic() - renewed >= RECONCILE_SECONDS:
                self._renew(lease, {})
                renewed = monotonic()
            if monotonic() - started >= RECONCILE_SECONDS:
                self._decide_meanwhile(planner)
            if self._signals.stopping:
                return
        if reconciler.older:
            return
        packages = packages_of(s.target for s in self._declared.values())
        self._store.keep_packages(own_packages(packages))
        if reconciler.done or not self._last_token:
            log_difference(reconciler.done, len(self._declared), monotonic() - started)

    def _decide_meanwhile(self, planner: Planner) -> None:
        """Enqueue what is due, between two portions of a long reconcile."""
        until = self._runtime.monotonic() + MEANWHILE_SECONDS
        while self._decide(planner) == 0 and self._runtime.monotonic() < until:
            pass
