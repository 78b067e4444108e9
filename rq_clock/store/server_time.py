"""The server's time, which clock, workers and scripts share: no decision depends on a host's clock.

Between measurements it is reckoned with a monotonic clock, by the offset of the sample of the last
minute that has the least error: half its round trip, and 0.5 ms for each second of its age. A
sample that contradicts it (the server's clock was set, or this is another server) replaces it at
once.

TIME that steps ahead by more than STEP is in doubt while this host's own clock disagrees, for at
most DOUBT_SECONDS: a replica with a wrong clock must not make everything due. A suspended host sees
both clocks step alike, and goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

SAMPLE_SECONDS = 60.0
"""The age at which a sample is dropped, if there is a newer one."""
DRIFT = 0.0005
"""Seconds of error for each second of a sample's age: more than any clock drifts."""
STEP = 300.0
"""Seconds that TIME may step ahead without this host's clock."""
DOUBT_SECONDS = 600.0
"""How long TIME is in doubt at most."""
SKEW = 1.0
"""Seconds by which a host's clock may differ without a word."""
BACK = 1.0
"""Seconds from which a step back is reported: less is noise of the measurement."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Sample:
    """An offset, TIME - monotonic, measured at a monotonic second."""

    offset: float
    error: float
    at: float

    def error_at(self, moment: float) -> float:
        return self.error + (moment - self.at) * DRIFT


class ServerTime:
    """Redis's TIME in one process. `monotonic` and `wall` return seconds, `wall` since the epoch.
    Before the first measurement it is the host's time."""

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._samples: deque[_Sample] = deque()
        self._best: _Sample | None = None
        self._accepted: tuple[float, float] | None = None
        """The offsets of TIME and of the host's clock when they were last not in doubt."""
        self._doubtful_since: float | None = None
        self.ahead = 0.0
        """Seconds by which TIME stepped ahead while it is in doubt; 0 when it is not."""
        self._back = 0.0

    @property
    def offset(self) -> float:
        """Return TIME - monotonic, in seconds; while TIME is in doubt, as it was before."""
        if self.ahead and self._accepted:
            return self._accepted[0]
        return self._best.offset if self._best else self._wall() - self._monotonic()

    def now(self) -> datetime:
        """Return TIME; while it is in doubt, as if it had not stepped."""
        return instant(self._monotonic() + self.offset)

    @property
    def skew(self) -> float:
        """Return the seconds by which this host's clock is ahead of TIME (negative: behind), as far
        as the error of the measurement leaves no doubt; else 0."""
        if self._best is None:
            return 0.0
        moment = self._monotonic()
        skew = self._wall() - moment - self._best.offset
        return skew if abs(skew) > self._best.error_at(moment) else 0.0

    def facts(self) -> dict[str, int]:
        """Return what the leader reports of its time; `time_faults` reads it."""
        return {"skew_ms": round(self.skew * 1000), "ahead_s": round(self.ahead)}

    def take_step_back(self) -> float:
        """Return the seconds that TIME has gone back since this was called last; 0 if it has
        not."""
        back, self._back = self._back, 0.0
        return back

    # ---- measuring ----------------------------------------------------------------------------

    def measure(self, redis: Redis) -> None:
        """Read TIME: one round trip."""
        sent = self._monotonic()
        seconds, micros = redis.time()
        self.sample(sent, seconds * 1_000_000 + micros)

    def measure_connection(self, connection: Any) -> None:
        """Read TIME on a new connection, before its first command. It may lead to another server,
        so earlier samples are void."""
        sent = self._monotonic()
        connection.send_command("TIME", check_health=False)
        seconds, micros = connection.read_response()
        self._samples.clear()
        self.sample(sent, int(seconds) * 1_000_000 + int(micros))

    def sample(self, sent: float, micros: int) -> None:
        """Take in a reply that has just come, of TIME in epoch microseconds, to a request that was
        sent at the monotonic second `sent`."""
        moment = self._monotonic()
        new = _Sample(micros / 1e6 - (sent + moment) / 2, (moment - sent) / 2, moment)
        if self._best and abs(new.offset - self._best.offset) > new.error + self._best.error_at(
            moment
        ):
            self._samples.clear()
        while self._samples and moment - self._samples[0].at > SAMPLE_SECONDS:
            self._samples.popleft()
        self._samples.append(new)
        self._best = min(self._samples, key=lambda sample: sample.error_at(moment))
        self._judge(new, moment)

    def _judge(self, new: _Sample, moment: float) -> None:
        """Notice a step, and decide whether TIME is in doubt."""
        host = self._wall() - moment
        if self._accepted is not None:
            step, of_host = new.offset - self._accepted[0], host - self._accepted[1]
            agree = abs(step - of_host) <= STEP or abs(new.offset - host) <= STEP
            if step > STEP and not agree:
                if self._doubtful_since is None:
                    self._doubtful_since = moment
                if moment - self._doubtful_since < DOUBT_SECONDS:
                    self.ahead = step
                    return
            if step < -max(BACK, 2 * new.error):
                self._back -= step
        self._accepted, self._doubtful_since, self.ahead = (new.offset, host), None, 0.0


def time_faults(facts: Mapping[str, str | int], limit: float = SKEW) -> list[str]:
    """Return what is wrong with the time, by the leader's facts: that TIME is in doubt, and that
    the leader's host is off by more than `limit` seconds."""
    skew, ahead = (int(facts.get(name, 0)) for name in ("skew_ms", "ahead_s"))
    faults = []
    if ahead:
        faults.append(
            f"Redis's time stepped {ahead} s ahead, and the leader's host does not agree: nothing "
            f"is decided for at most {DOUBT_SECONDS / 60:.0f} minutes"
        )
    if abs(skew) > limit * 1000:
        side = "ahead of" if skew > 0 else "behind"
        faults.append(f"the clock of the leader's host is {abs(skew) / 1000:.1f} s {side} Redis's")
    return faults


def instant(seconds: float) -> datetime:
    """Return the instant (UTC) of epoch seconds."""
    return _EPOCH + timedelta(seconds=seconds)
