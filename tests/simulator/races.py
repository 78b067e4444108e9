"""Races by hand: editors and clocks on one wall clock that a test moves, on lines that break when
told to, beside a real server.

Nothing of ours is replaced. What a line answers to TIME is the wall clock, so that `Schedules`,
whose time is the server's, lives on it as well; between any two commands of an editor the test can
let time pass, clocks turn, or another editor act. So a race is a list of steps that can be
repeated, and cut down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError
from redis.retry import Retry

from rq_clock.clock.backfiller import Backfiller
from rq_clock.clock.planner import GUARD_MS, Planner
from rq_clock.errors import LeaseLost
from rq_clock.model.entry import Lease
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.commit import Planned
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.instants import from_ms, to_ms

MIDNIGHT = to_ms(datetime(2026, 3, 1, tzinfo=UTC))
HISTORY = 1_000_000
"""Entries that a ledger may have: the books need all of them."""
NEWS = "rq-clock:default:news"
ENOUGH = 2000
"""Turns in a row after which a clock is never going to be through."""


class Wall:
    """The one clock of a race, in epoch milliseconds."""

    def __init__(self) -> None:
        self.ms = MIDNIGHT

    @property
    def now(self) -> datetime:
        return from_ms(self.ms)

    def at(self, ms: int) -> datetime:
        """An instant so many milliseconds from now."""
        return from_ms(self.ms + ms)


class Fault:
    """What happens to a line: at its n-th command from now on, once.

    request    it breaks before the command is sent
    reply      it breaks when the command has been carried out
    meanwhile  something else is done before the command is sent
    """

    def __init__(self) -> None:
        self._left = 0
        self._kind = ""
        self._meanwhile: Callable[[], None] | None = None

    def arm(self, kind: str, n: int, meanwhile: Callable[[], None] | None = None) -> None:
        self._kind, self._left, self._meanwhile = kind, n, meanwhile

    def disarm(self) -> None:
        self._left = 0

    def strike(self) -> str:
        """Whether it is this command's turn, and for what."""
        self._left -= 1
        if self._left != 0:
            return ""
        if self._kind == "meanwhile" and self._meanwhile:
            self._meanwhile()
        return self._kind


class Line(Connection):
    """A connection with a fault, on which it is as late as on the wall."""

    def __init__(self, *, wall: Wall, fault: Fault, **options: Any) -> None:
        self._wall = wall
        self._fault = fault
        self._unread = 0
        self._breaks = self._asks_time = self._greets = False
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        self._greets = True  # not the test's commands, and not always as many
        try:
            super().connect_check_health(*args, **kwargs)
        finally:
            self._greets = False

    def disconnect(self, *args: Any) -> None:
        self._unread, self._breaks = 0, False
        super().disconnect(*args)  # type: ignore[no-untyped-call]

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        if self._greets:
            return super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
        kind = self._fault.strike()
        if kind == "request":
            self.disconnect()
            raise ConnectionError("the request was lost")
        self._breaks = self._breaks or kind == "reply"
        packed = command if isinstance(command, bytes) else b"".join(command)
        self._asks_time = packed == b"*1\r\n$4\r\nTIME\r\n"
        self._unread += 1
        return super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if self._greets:
            return super().read_response(*args, **kwargs)
        if self._breaks:
            self._break(*args, **kwargs)
        self._unread -= 1
        reply = super().read_response(*args, **kwargs)
        if self._asks_time:
            return [self._wall.ms // 1000, self._wall.ms % 1000 * 1000]
        return reply

    def _break(self, *args: Any, **kwargs: Any) -> None:
        """Everything that was asked is carried out; nobody hears of it."""
        while self._unread > 0:
            self._unread -= 1
            try:
                super().read_response(*args, **kwargs)
            except ConnectionError:
                raise
            except Exception:
                continue
        self.disconnect()
        raise ConnectionError("the reply was lost")


def line_to(url: str, wall: Wall) -> tuple[Redis, Fault]:
    """A client that retries nothing, as ours, and its fault."""
    fault = Fault()
    place = urlsplit(url)
    lines = ConnectionPool(
        connection_class=Line,
        host=place.hostname,
        port=place.port,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        wall=wall,
        fault=fault,
    )
    return Redis(connection_pool=lines), fault


class Leader:
    """A clock that took the lease, as far as it is not a process: its stage, its chores, and what
    it has heard. It may have been deposed since."""

    def __init__(self, url: str, wall: Wall, number: int) -> None:
        self._wall = wall
        self.redis, self.fault = line_to(url, wall)
        self._store = Store(self.redis, "default", history=HISTORY)
        self._news = self._store.listen()
        self._instance = f"clock.{number}"
        self.deposed = False
        self._pause = 0
        """How long (ms) the planner has nothing to do."""
        self._lead("take-over", [])

    def _lead(self, mode: str, unsure: list[Planned]) -> None:
        """Take the lease, or be granted again what is its own, and begin with an empty stage."""
        lease = Leases(self._store).acquire(self._instance, ("test", ""), mode, self._wall.now)
        if not isinstance(lease, Lease):
            raise LeaseLost
        self.redis.persist(self._store.key("lease"))  # the wall decides how long it lasts
        self.lease = lease
        self.planner = Planner(self._store, lease, memory=1 << 24)
        self.backfiller = Backfiller(self._store)
        self.planner.log.confirm(unsure)

    def hear(self) -> None:
        """Take in all news until now, as the loop does between two turns."""
        self.redis.publish(NEWS, "that is all")
        words: list[str] = []
        while words[-1:] != ["that is all"]:
            message = self._news.get_message(timeout=5)
            words += [message["data"].decode()] if message else []
        self.planner.look_again(w for w in words[:-1] if w not in ("lease", ":duties"))

    def turn(self) -> bool:
        """One turn; whether there is more to do now."""

        def turn() -> bool:
            self._pause = math.ceil(self.planner.turn(self._wall.now) * 1000)
            return self._pause == 0

        return self._work(turn)

    def look(self) -> bool:
        """One look at the chores; whether there is more to do now."""

        def look() -> bool:
            following = self.backfiller.look(self.lease, self._wall.now)
            return following is not None and following <= self._wall.now

        return self._work(look)

    def finish(self) -> None:
        """Hear and do all there is to do now. What is sent within GUARD_MS goes first, and what
        waits for it follows."""
        for _ in range(ENOUGH):
            self.hear()
            if self.turn() or self.look():
                continue
            if self._pause > GUARD_MS or self.deposed:
                return
            self._wall.ms += self._pause
        raise AssertionError("a clock that is never through")

    def _work(self, piece: Callable[[], bool]) -> bool:
        """After a lost connection what was staged is forgotten, as the loop does."""
        try:
            return piece()
        except LeaseLost:
            self.deposed = True
            return False
        except ConnectionError:
            self.fault.disarm()
            try:
                self._lead("waiting", self.planner.in_flight)
            except LeaseLost:
                self.deposed = True
            return True

    def close(self) -> None:
        self._news.close()
        self.redis.close()


def editor(redis: Redis) -> Schedules:
    """An editor who has just come: nothing is remembered from before."""
    settings = Settings.from_env({"RQ_CLOCK_HISTORY": str(HISTORY)})
    return Schedules(redis, by="ana", settings=settings)
