"""The clock process: declares schedules, leads or stands by, and never runs user code.

`Clock` is what an app sees: `add` schedules, then `run`. `run` holds the loop: take the lease,
reconcile once, then turn after turn let `Stage` enqueue what is due and sleep until the next
instant. It lives through outages of Redis, steps down when a newer clock comes, stands by and
leads again when the lease is free, and gives the lease back on SIGTERM and SIGINT.

All state is in Redis; what this process knows can be thrown away at any time. This module holds
the only reading of the wall clock. What happens if the process dies at any step, a reply is lost
or another clock runs there is in ARCHITECTURE.md, as a table.
"""

from __future__ import annotations

import argparse
import gc
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from redis.client import PubSub
from redis.exceptions import RedisError

from rq_clock import logs
from rq_clock.batch import Planned
from rq_clock.connection import (
    LONGEST_PAUSE,
    PATIENCE,
    SHORTEST_PAUSE,
    connect,
    diagnose,
    is_refusal,
    socket_of,
)
from rq_clock.errors import LeaseLost, RqClockError, ScheduleError, StoreUnavailable
from rq_clock.logs import say, warn
from rq_clock.reconcile import differing, plan
from rq_clock.schedule import Schedule, declare
from rq_clock.settings import Settings
from rq_clock.stage import Stage
from rq_clock.state import Lease, Refused, to_ms
from rq_clock.store import Store
from rq_clock.triggers import Trigger
from rq_clock.version import __version__

RENEW_SECONDS = 4.0
"""How often the lease is renewed; it outlasts two renewals that fail (store.LEASE_MS)."""
TELL_EVERY = 3
"""Renewals from one report of the leader's facts (lag, last tick) to the next."""
NEWCOMER_SECONDS = 0.5
"""How long a clock that has not led yet lets others go first when a lease has run out: the holder
died, and if that was in a crash loop, the next of the loop must not win against one that works."""
FOREIGN_SECONDS = 10.0
"""How often a clock of another owner looks whether the namespace has become its own."""

_collected: ContextVar[list[str] | None] = ContextVar("faults", default=None)


@contextmanager
def collect_faults() -> Iterator[list[str]]:
    """Within this block `Clock.add` notes faults in the list instead of raising, so that a check
    can report those of all schedules at once."""
    faults: list[str] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)


class Clock:
    """The schedules of an app, and the process that keeps them."""

    def __init__(self) -> None:
        self._schedules: dict[str, Schedule] = {}

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The declared schedules by name, in the order of their declaration."""
        return MappingProxyType(self._schedules)

    def add(
        self, name: str, trigger: Trigger, target: str | Callable[..., object], **options: Any
    ) -> None:
        """Declare a schedule: when `trigger` fires, `target` is enqueued.

        `target` is a function or its dotted name; the clock never imports it. Options: args,
        kwargs (JSON), queue, timeout, result_ttl, failure_ttl (seconds), retries (a count),
        catch_up ("latest", "all", "none"), catch_up_window (timedelta or seconds),
        catch_up_limit, overlap ("skip", "allow"), jitter (timedelta or seconds), tags,
        renamed_from.

        Raises ScheduleError with every fault of this declaration; nothing is declared then.
        """
        try:
            if name in self._schedules:
                raise ScheduleError(f"{name}: declared twice; names are unique within a clock")
            self._schedules[name] = declare(name, trigger, target, options)
        except ScheduleError as error:
            faults = _collected.get()
            if faults is None:
                raise
            faults.extend(str(error).splitlines())

    def faults(self) -> list[str]:
        """What is wrong between schedules; each of them alone was checked by `add`."""
        return [
            f"{s.name}: renamed_from {s.renamed_from!r} is still declared; remove one of the two"
            for s in self._schedules.values()
            if s.renamed_from in self._schedules
        ]

    def run(self) -> None:
        """Be the clock until SIGTERM or SIGINT; then give the lease back and return.

        Command-line switches of the script: --take-over, --remove-all (see --help). Exits with 1
        when a declaration or setting is wrong, with 4 when Redis refuses this client. A Redis
        that is not there is waited for. Whatever kills this process, no fire time is lost or
        doubled: what was not committed is due for the next clock.
        """
        options = _arguments()
        try:
            settings = Settings.from_env()
            logs.set_up(stamp=settings.stamped_logs)
            faults = self.faults()
            if faults:
                raise ScheduleError("\n".join(faults))
            with Signals() as signals:
                if settings.disabled:
                    say("clock.disabled", remedy="unset RQ_CLOCK_DISABLED to schedule again")
                    signals.wait(None)
                    return
                _Session(self._schedules, settings, signals, **vars(options)).run()
        except StoreUnavailable as error:
            sys.exit(_fail(error, 4))
        except RqClockError as error:
            sys.exit(_fail(error, 1))


class Signals:
    """SIGTERM and SIGINT as something to wait for.

    The handlers do nothing: Python's C-level handler writes the signal's number to a pipe, and
    the loop reads it. A handler that raised, or set a threading.Event, could strike in the middle
    of anything, also inside the very wait for it.
    """

    def __init__(self) -> None:
        self.stopping = False

    def __enter__(self) -> Signals:
        self._pipe, self._end = socket.socketpair()
        self._pipe.setblocking(False)
        self._end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._end.fileno(), warn_on_full_buffer=False)
        self._before = {
            s: signal.signal(s, lambda *_: None) for s in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._pipe.close()
        self._end.close()

    def wait(self, seconds: float | None, *others: socket.socket) -> bool:
        """Sleep until a signal, until one of `others` can be read, or for `seconds`; precise to a
        fraction of a millisecond. Whether one of `others` can be read."""
        if seconds is not None:
            seconds = max(seconds, 0.0)
        readable, _, _ = select.select([self._pipe, *others], [], [], seconds)
        if self._pipe in readable:
            self._pipe.recv(4096)
            self.stopping = True
        return any(other in readable for other in others)


class _Session:
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
        self._led = 0
        self._met = False
        self._pause = SHORTEST_PAUSE
        self._unsure: list[Planned] = []
        self._condition = ""

    def run(self) -> None:
        """Serve until a signal, through any number of outages."""
        while not self._signals.stopping:
            try:
                self._serve()
            except (RedisError, OSError) as error:
                reason = diagnose(error, self._settings.redis_url)
                if isinstance(error, RedisError) and is_refusal(error) and not self._met:
                    raise StoreUnavailable(reason) from None
                if (self._met or self._pause >= PATIENCE) and self._enter("outage"):
                    warn("store.waiting", reason=reason)
                self._store.redis.connection_pool.disconnect()
                self._signals.wait(self._pause)
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
        say("clock.stopped")

    def _enter(self, condition: str) -> bool:
        """Whether this is news: each condition is said once, when it begins."""
        changed, self._condition = self._condition != condition, condition
        return changed

    def _serve(self) -> None:
        for warning in self._store.check_server():
            if not self._met:
                warn("store.warning", text=warning)
        self._met = True
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
                self._pause = SHORTEST_PAUSE  # it takes writes too: the outage is over
                if self._condition == "outage":
                    say("store.back")
                if isinstance(answer, Refused):
                    self._stand_by(answer, news)
                    continue
                try:
                    self._lead(answer, news)
                except LeaseLost as error:
                    self._enter("deposed")
                    say("clock.deposed", reason=error)
        finally:
            news.close()

    def _stand_by(self, refused: Refused, news: PubSub) -> None:
        """Wait until the lease may be free."""
        seconds = refused.wait + (0.005 if self._led else NEWCOMER_SECONDS)
        if refused.kind == "foreign":
            seconds = FOREIGN_SECONDS
            if self._enter("foreign"):
                warn(
                    "clock.foreign",
                    owner=refused.owner,
                    this=self._settings.owner,
                    leader=refused.holder or "none",
                    namespace=self._settings.namespace,
                    remedy="this clock schedules nothing here; if it should, set RQ_CLOCK_OWNER "
                    "to the same value for both, or start it once with --take-over",
                )
        elif self._enter("standby"):
            say("clock.standby", leader=refused.holder)
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
        say(
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
        stage = Stage(self._store, lease, memory=self._settings.stage_bytes)
        try:
            stage.recognise(self._unsure)
            self._unsure = []
            self._turn(stage, lease, news)
            stage.finish(self._wall())
            self._store.release(lease)
        finally:
            self._unsure = stage.in_flight

    def _turn(self, stage: Stage, lease: Lease, news: PubSub) -> None:
        renewals, renewed = 0, time.monotonic()
        while not self._signals.stopping:
            seconds = stage.turn(self._wall())
            first_pass_done = renewals == 0 and seconds > 0
            if first_pass_done or time.monotonic() - renewed >= RENEW_SECONDS:
                proven = renewals > 0 or first_pass_done
                tell = first_pass_done or renewals % TELL_EVERY == 0
                self._store.renew(lease, **(self._facts(stage) if proven and tell else {}))
                renewals, renewed = renewals + proven, time.monotonic()
                stage.look_again(_read(news))  # also lets redis-py notice a dead subscription
                continue
            heard = self._wait(min(seconds, renewed + RENEW_SECONDS - time.monotonic()), news)
            if "lease" in heard:
                renewed = 0.0  # someone else may lead now: ask before the next commit does
            stage.look_again(word for word in heard if word != "lease")
            stage.check_blocked(self._wall())

    def _facts(self, stage: Stage) -> dict[str, str | int]:
        """What the leader says of itself, for `status` and whoever looks."""
        return {
            "proven": 1,
            "tick": to_ms(self._wall()),
            "version": __version__,
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
            warn(
                "reconcile.refused",
                declared=0,
                stored=len(stored),
                remedy="start once with --remove-all to remove them all",
            )
            return
        entries, _ = self._store.load(differing(self._declared, stored))
        difference = plan(self._declared, stored, entries, now)
        if difference.unsettled:
            closing = Stage(self._store, lease, memory=self._settings.stage_bytes)
            closing.settle(difference.unsettled, now)
        steps = self._store.reconcile(lease, self._settings.release, now, difference.changes)
        for went_through in steps:
            if not went_through:
                self._leave_alone()
                return
            self._store.renew(lease)
        if difference or not self._led:
            _say_difference(difference, started, len(self._declared))

    def _leave_alone(self) -> None:
        say(
            "reconcile.older",
            release=self._settings.release,
            effect="keeps the schedules that a later release declared",
        )


def _say_difference(difference: Any, started: float, total: int) -> None:
    few = len(difference.changes) <= 20
    for name in difference.added if few else ():
        say("schedule.added", schedule=name)
    for name in difference.changed if few else ():
        say("schedule.changed", schedule=name)
    for name in difference.removed if few else ():
        say("schedule.removed", schedule=name)
    for old, name in difference.renamed if few else ():
        say("schedule.renamed", schedule=name, was=old)
    for change in difference.changes:
        if change.past:
            say("run.skipped", schedule=change.name, reason="past", fire_time=change.past)
    say(
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
            words.append(message["data"].decode())
        elif not connection.can_read(timeout=0):  # None also stands for an acknowledgement, and
            return words  # what came right behind it would make no socket readable


def _fail(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        print(f"rq-clock: {line}", file=sys.stderr)
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the clock: enqueue what is due.")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="lead although the namespace belongs to another owner, and make it this one's",
    )
    parser.add_argument(
        "--remove-all",
        action="store_true",
        help="remove all declared schedules when this clock declares none",
    )
    return parser.parse_known_args()[0]  # the script may have switches of its own
